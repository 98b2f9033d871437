package reactor

import (
	"sync/atomic"

	"spindle/reactor/clock"
)

// Stats is what a reactor has done since it was made.
type Stats struct {
	Turns       uint64
	BusyNS      uint64 // time in turns that found work
	IdleNS      uint64 // time in turns that found none, and asleep
	Sleeps      uint64
	Messages    uint64
	Completions uint64
	Stale       uint64 // completions of a source that was gone
	Yields      uint64 // turns without work after which it made way; see MakeWay
}

// counters: the reactor writes, any thread reads.
type counters struct {
	turns, busyNS, idleNS, sleeps, messages, completions, stale, yields atomic.Uint64
}

// Stats returns the account. Safe from any thread; the figures are each right,
// but not of one instant.
func (r *Reactor) Stats() Stats {
	c := &r.stats
	return Stats{
		Turns: c.turns.Load(), BusyNS: c.busyNS.Load(), IdleNS: c.idleNS.Load(), Sleeps: c.sleeps.Load(),
		Messages: c.messages.Load(), Completions: c.completions.Load(), Stale: c.stale.Load(), Yields: c.yields.Load(),
	}
}

// advance moves the turn's time to now and books the time since the last.
//
//spindle:hot
func (r *Reactor) advance(now clock.Time, busy bool) {
	d := uint64(max(now-r.now, 0))
	r.now = now
	if busy {
		r.stats.busyNS.Add(d)
	} else {
		r.stats.idleNS.Add(d)
	}
}
