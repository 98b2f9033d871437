package reactor

import "slices"

// Poller is called once a turn and tells how much work it found.
type Poller interface{ Poll() int }

// Sleeper is a Poller with a source of work that the ring does not see (an RDMA
// completion queue, say). Without it, a Poller's work waits while its reactor
// sleeps.
type Sleeper interface {
	Poller
	// Pending is called when the reactor is about to sleep. It asks the source
	// for a wake-up (a completion of the ring, or Post), and tells whether work
	// is there already.
	Pending() bool
}

// AddPoller adds p to the turn.
// Preconditions: runs on the owning reactor.
func (r *Reactor) AddPoller(p Poller) {
	r.pollers = append(r.pollers, p)
	if s, ok := p.(Sleeper); ok {
		r.sleepers = append(r.sleepers, s)
	}
}

// RemovePoller takes p out of the turn; it is not called again, not even later
// in the turn that runs.
// Preconditions: runs on the owning reactor.
func (r *Reactor) RemovePoller(p Poller) {
	if i := slices.Index(r.pollers, p); i >= 0 {
		r.pollers[i] = nil // the loop may be on its way over the list
		r.pollersGone = true
	}
	r.sleepers = slices.DeleteFunc(r.sleepers, func(s Sleeper) bool { return s == p })
}

// poll runs the pollers; one added on the way has its turn at once.
//
//spindle:hot
func (r *Reactor) poll() int {
	work := 0
	for i := 0; i < len(r.pollers); i++ {
		if p := r.pollers[i]; p != nil {
			work += p.Poll()
		}
	}
	if r.pollersGone {
		r.sweepPollers()
	}
	return work
}

func (r *Reactor) sweepPollers() {
	r.pollersGone = false
	r.pollers = slices.DeleteFunc(r.pollers, func(p Poller) bool { return p == nil })
}
