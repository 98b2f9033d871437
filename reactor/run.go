package reactor

import (
	"fmt"
	"runtime"

	"spindle/internal/sys"
)

// Start runs the reactor on a thread of its own and returns once it turns, or
// why it cannot: the core is not to be had, the ring not to be made.
// Preconditions: Config had NewRing; Start is called once.
func (r *Reactor) Start() error {
	started := make(chan error)
	go r.run(started) //spindle:edge the reactor's own thread
	return <-started
}

// Stop ends the loop after the turn that runs. Whoever stops a reactor has
// drained it: what is in flight is cancelled. Safe from any thread.
func (r *Reactor) Stop() {
	r.stop.Store(true)
	r.wakeSleeper()
}

// Wait returns when the loop has ended, with the error of closing its ring.
// Preconditions: Start has returned without error. Safe from any thread.
func (r *Reactor) Wait() error {
	<-r.done
	return r.err
}

// run is the life of the reactor's thread. The goroutine stays locked to it, so
// that it ends with it: a pinned thread must not serve other goroutines.
func (r *Reactor) run(started chan<- error) {
	defer close(r.done)
	runtime.LockOSThread()
	if err := r.prepare(); err != nil {
		started <- err
		return
	}
	started <- nil
	work := 1 // the first turn polls
	for !r.stop.Load() {
		work = r.Turn(r.Until(work))
		if work == 0 && r.polite > 0 {
			r.stats.yields.Add(1)
			sys.Yield()
		}
	}
	if err := r.Ring.Close(); err != nil {
		r.err = fmt.Errorf("reactor %d: %w", r.ID, err)
	}
}

// prepare pins the thread before anything is made on it, so that memory touched
// and kernel threads made from here on are the core's. (Threads that the
// runtime starts later come from an unpinned one.)
func (r *Reactor) prepare() error {
	if r.Core >= 0 {
		if err := sys.PinThread(r.Core); err != nil {
			return fmt.Errorf("reactor %d: %w", r.ID, err)
		}
	}
	ring, err := r.newRing(r.Arena)
	if err != nil {
		return fmt.Errorf("reactor %d: %w", r.ID, err)
	}
	r.Ring = ring
	return nil
}
