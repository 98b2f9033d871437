package reactor

import (
	"sync/atomic"
	"time"

	"spindle/reactor/clock"
)

// IdlePolicy is what a reactor does when a turn found no work.
type IdlePolicy uint8

const (
	Adaptive  IdlePolicy = iota // spin for a bounded time after I/O, then sleep in the ring
	Poll                        // spin for ever
	Interrupt                   // sleep at once
)

func (p IdlePolicy) String() string {
	switch p {
	case Poll:
		return "poll"
	case Interrupt:
		return "interrupt"
	}
	return "adaptive"
}

// Bounds of the time an adaptive reactor spins after I/O.
const (
	MinSpin = 50 * time.Microsecond
	MaxSpin = 5 * time.Millisecond
	// PoliteSpin is that of a reactor that makes way: what works in software on its
	// CPU takes as much longer, and has the CPU meanwhile.
	PoliteSpin = 4 * MaxSpin
)

// MakeWay has a turn that found nothing give the CPU to whoever waits for it,
// until as many calls took it back as asked for it. It is for work that the
// kernel does in threads of its own on the very CPU that the reactor spins on
// (soft interrupts of a software RDMA device, say): what the reactor waits for
// would wait for the reactor.
// Preconditions: runs on the owning reactor.
func (r *Reactor) MakeWay(on bool) {
	if on {
		r.polite++
	} else {
		r.polite--
	}
}

// idleState is the idle policy at work.
//
// A sleeping reactor must not miss work that another thread hands it. The
// reactor sets sleeping and then looks once more at everything that others
// write (inbox, stop, completion queues); a poster writes first and then looks
// at sleeping. Whichever comes second sees the other's write: either the
// reactor stays awake or the poster wakes it, and the ring keeps a Wake that
// comes before the sleep has begun.
type idleState struct {
	policy   IdlePolicy
	sleeping atomic.Bool

	// All below is the reactor's own.
	lastIO    clock.Time    // the last turn with SCSI commands
	meanGap   time.Duration // between such turns, a moving average
	meanDev   time.Duration // of the gaps from meanGap, likewise
	spinUntil clock.Time
}

// NoteIO tells the idle policy that SCSI commands arrived in this turn: an
// adaptive reactor spins for about twice the mean time between such turns,
// longer when they are irregular, before it sleeps. What does not call it (a NOP, a timer) lets the reactor
// sleep at once. Calls after a turn's first cost nothing.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (r *Reactor) NoteIO() {
	i := &r.idle
	if i.lastIO == r.now {
		return
	}
	shortest, longest := MinSpin, MaxSpin
	if r.polite > 0 {
		shortest, longest = PoliteSpin, PoliteSpin
	}
	// The bound is what one pause weighs in the mean: after a quiet night the
	// rhythm of the next burst is learnt within a few commands.
	gap := min(r.now.Sub(i.lastIO), 2*longest)
	i.lastIO = r.now
	i.meanDev += ((gap - i.meanGap).Abs() - i.meanDev) / 8
	i.meanGap += (gap - i.meanGap) / 8
	i.spinUntil = r.now.Add(spinTime(i.meanGap, i.meanDev, shortest, longest))
}

// spinTime is how long to spin when commands come gap apart, give or take dev:
// long enough to meet the next (the estimate is that of TCP's retransmission
// timer, RFC 6298 §2), unless even the longest spin would hardly meet it.
func spinTime(gap, dev, shortest, longest time.Duration) time.Duration {
	if gap > longest {
		return MinSpin
	}
	return min(max(2*gap, gap+4*dev, shortest), longest)
}

// Until is the idle policy's answer to a turn that did work things: what to
// hand to the next Turn.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (r *Reactor) Until(work int) clock.Time {
	if work > 0 || r.idle.policy == Poll || r.idle.policy == Adaptive && r.now < r.idle.spinUntil {
		return 0
	}
	return r.timers.next()
}

// mayBlock announces sleep and looks once more for work; see idleState. When it
// returns false, sleep is off.
//
//spindle:hot
func (r *Reactor) mayBlock() bool {
	r.idle.sleeping.Store(true)
	if r.inbox.empty() && r.flush.head == nil && !r.stop.Load() && !r.pending() {
		return true
	}
	r.idle.sleeping.Store(false)
	return false
}

// pending tells whether a poller has work that no completion announces.
//
//spindle:hot
func (r *Reactor) pending() bool {
	for _, s := range r.sleepers {
		if s.Pending() {
			return true
		}
	}
	return false
}
