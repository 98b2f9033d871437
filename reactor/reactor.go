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
	ID    int // index among the process's reactors
	Core  int // CPU to pin to; -1 leaves the thread unpinned
	Ring  ring.Ring
	Clock clock.Clock
	Arena *mem.Arena
	Idle  IdlePolicy
}

// Reactor is one core's poll loop. See the package comment for its rules.
type Reactor struct {
	ID    int
	Core  int
	Ring  ring.Ring
	Arena *mem.Arena

	clock   clock.Clock
	now     clock.Time
	inbox   inbox
	ops     opTable
	timers  timerHeap
	pollers []Poller
	flush   flushList
	cqes    [MaxCompletionsPerTurn]ring.CQE
	idle    idleState
	stats   Stats
	stop    atomic.Bool
	load    atomic.Int64
}

// New makes a reactor; it does nothing until Turn or Run is called.
func New(c Config) *Reactor {
	r := &Reactor{ID: c.ID, Core: c.Core, Ring: c.Ring, Arena: c.Arena, clock: c.Clock}
	r.idle.policy = c.Idle
	r.now = c.Clock.Now()
	return r
}

// Now is the time at the start of this turn.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (r *Reactor) Now() clock.Time { return r.now }

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

// Poller is called once a turn and tells how much work it found.
type Poller interface{ Poll() int }

// AddPoller adds p to the turn.
// Preconditions: runs on the owning reactor.
func (r *Reactor) AddPoller(p Poller) { r.pollers = append(r.pollers, p) }

// RemovePoller takes p out of the turn.
// Preconditions: runs on the owning reactor.
func (r *Reactor) RemovePoller(p Poller) {
	for i, q := range r.pollers {
		if q == p {
			r.pollers = append(r.pollers[:i:i], r.pollers[i+1:]...)
			return
		}
	}
}

// Turn runs the loop once: clock, messages, timers, completions, pollers,
// flush, submit. It returns the number of things it did; 0 is an idle turn.
// until is handed to the ring: 0 polls, later lets an idle ring sleep.
// The simulator calls Turn; production calls Run.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (r *Reactor) Turn(until clock.Time) int {
	n, err := r.Ring.Enter(r.cqes[:], until)
	if err != nil {
		panic(err) // the ring is broken: crash-only, nothing can be served without it
	}
	r.now = r.clock.Now()
	work := n
	for i := 0; i < n; i++ {
		r.ops.dispatch(r.cqes[i])
	}
	work += r.inbox.run(r, MaxMessagesPerTurn)
	work += r.timers.expire(r.now, MaxTimersPerTurn)
	for _, p := range r.pollers {
		work += p.Poll()
	}
	work += r.flush.run()
	r.stats.turns.Add(1)
	return work
}
