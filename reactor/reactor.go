package reactor

import (
	"sync/atomic"

	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// Budgets of one turn: they bound the time between two reads of the clock.
const (
	MaxMessagesPerTurn    = 64
	MaxCompletionsPerTurn = 256
	MaxTimersPerTurn      = 64
)

// Config makes a Reactor.
type Config struct {
	ID   int // index among the process's reactors
	Core int // CPU that Start pins to; -1 leaves the thread unpinned

	// Ring is given when the caller runs the turns (the simulator, a test).
	// NewRing is given when Start does: it is called on the reactor's own locked
	// thread, which a real ring is bound to.
	Ring    ring.Ring
	NewRing func(*mem.Arena) (ring.Ring, error)

	Clock clock.Clock
	Arena *mem.Arena
	Idle  IdlePolicy
}

// Reactor is one core's poll loop. See the package comment for its rules.
type Reactor struct {
	ID    int
	Core  int
	Ring  ring.Ring // with NewRing: from Start on
	Arena *mem.Arena

	clock    clock.Clock
	now      clock.Time
	worked   bool // the last turn did something
	flushing bool
	ops      opTable
	timers   timerHeap
	pollers  []Poller // nil entries were removed in this turn
	sleepers []Sleeper
	flush    flushList
	idle     idleState
	newRing  func(*mem.Arena) (ring.Ring, error)

	pollersGone bool
	polite      int // calls that asked it to make way

	cqes [MaxCompletionsPerTurn]ring.CQE

	// What other threads write or read: apart from the fields of every turn.
	inbox inbox
	stats counters
	load  atomic.Int64
	stop  atomic.Bool
	done  chan struct{} // closed when the thread that Start made has ended
	err   error         // why; read after done
}

// New makes a reactor; it does nothing until Turn or Start is called.
func New(c Config) *Reactor {
	r := &Reactor{
		ID: c.ID, Core: c.Core, Ring: c.Ring, Arena: c.Arena,
		clock: c.Clock, newRing: c.NewRing, done: make(chan struct{}),
	}
	r.idle.policy = c.Idle
	r.now = c.Clock.Now()
	return r
}

// Now is the time at the start of this turn.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (r *Reactor) Now() clock.Time { return r.now }

// Flushing tells whether the flushes of this turn have begun: what asks for one
// now is flushed in the next.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (r *Reactor) Flushing() bool { return r.flushing }

// Load is the number of connections placed here, for the choice of the least
// loaded reactor. Safe from any thread.
func (r *Reactor) Load() int64 { return r.load.Load() }

// AddLoad changes Load by d. Safe from any thread.
func (r *Reactor) AddLoad(d int64) { r.load.Add(d) }

// Completer receives the completions of the operations whose tags it made.
type Completer interface {
	// Complete is called once for each completion, on the owning reactor.
	Complete(arg uint32, c ring.CQE)
}

// Turn runs the loop once: submit what the last turn prepared and reap, read
// the clock, dispatch completions, run messages, timers and pollers, flush. It
// returns the number of things it did; 0 is an idle turn.
//
// What the flush prepares is submitted at the start of the next turn, which
// follows at once, and one entry into the kernel does both for it: it sends the
// responses of this turn and takes in the commands of the next.
//
// until is handed to the ring: 0 polls, later lets a turn without work sleep.
// The simulator calls Turn; production calls Start.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (r *Reactor) Turn(until clock.Time) int {
	asleep := false
	if until != 0 {
		if asleep = r.mayBlock(); asleep {
			r.advance(r.clock.Now(), r.worked) // what follows is idle
			r.stats.sleeps.Add(1)
		} else {
			until = 0
		}
	}
	n, err := r.Ring.Enter(r.cqes[:], until)
	if asleep {
		r.idle.sleeping.Store(false)
	}
	if err != nil {
		panic(err) // the ring is broken: crash-only, nothing can be served without it
	}
	r.advance(r.clock.Now(), !asleep && (r.worked || n > 0))
	for i := range n {
		r.dispatch(r.cqes[i])
	}
	work := n
	if n > 0 {
		r.stats.completions.Add(uint64(n))
	}
	if m := r.inbox.run(r, MaxMessagesPerTurn); m > 0 {
		r.stats.messages.Add(uint64(m))
		work += m
	}
	work += r.timers.expire(r.now, MaxTimersPerTurn)
	work += r.poll()
	r.flushing = true
	work += r.flush.run()
	r.flushing = false
	r.stats.turns.Add(1)
	r.worked = work > 0
	return work
}
