package reactor

import (
	"sync/atomic"

	"spindle/internal/plant"
)

// Msg is a message to a reactor: an intrusive node embedded in its owner, so
// that posting cannot fail and two reactors can never fill each other. A Msg
// may be posted again once it has started to run.
type Msg struct {
	// Run is called on the receiving reactor. It is set once, when the owner is made.
	Run  func(r *Reactor)
	next *Msg
	busy atomic.Bool
}

// Post queues m on r and wakes it if it sleeps. Safe from any thread.
// Messages from one thread run in the order posted.
// Preconditions: m is not queued.
func (r *Reactor) Post(m *Msg) {
	if !m.busy.CompareAndSwap(false, true) {
		panic("reactor: message posted twice")
	}
	r.inbox.push(m)
	if plant.On(plant.LostWake) && r.ID > 0 {
		return
	}
	r.wakeSleeper()
}

// wakeSleeper wakes the reactor if it sleeps or is about to; see idleState.
func (r *Reactor) wakeSleeper() {
	if r.idle.sleeping.Load() {
		r.Ring.Wake()
	}
}

// inbox is a multi-producer single-consumer queue: producers push on a lock-free
// stack, the consumer takes all of it at once and reverses it. Its length is
// bounded by the number of messages that exist.
//
// head has a cache line to itself: producers must not slow the fields that the
// reactor reads every turn.
type inbox struct {
	_     [64]byte
	head  atomic.Pointer[Msg]
	_     [64]byte
	ready *Msg // taken, in order; owner: reactor
}

func (q *inbox) push(m *Msg) {
	for {
		h := q.head.Load()
		m.next = h
		if q.head.CompareAndSwap(h, m) {
			return
		}
	}
}

// empty tells whether nothing waits. Owner only.
func (q *inbox) empty() bool { return q.ready == nil && q.head.Load() == nil }

// run runs up to budget messages and returns how many.
//
//spindle:hot
func (q *inbox) run(r *Reactor, budget int) int {
	done := 0
	for done < budget {
		if q.ready == nil {
			if q.head.Load() == nil {
				break
			}
			for m := q.head.Swap(nil); m != nil; {
				m.next, q.ready, m = q.ready, m, m.next
			}
		}
		m := q.ready
		q.ready, m.next = m.next, nil
		m.busy.Store(false)
		m.Run(r)
		done++
	}
	return done
}
