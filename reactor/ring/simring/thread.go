package simring

import "iter"

// Thread runs the loop of one reactor as a coroutine, so that an Enter that
// sleeps stays inside its call until the scheduler resumes it: flags that the
// reactor raises around its sleep are up for as long as it sleeps, as they are
// with real threads. Everything still runs on one goroutine at a time and in
// an order that only the scheduler decides.
type Thread struct {
	ring     *Ring
	next     func() (struct{}, bool)
	stop     func()
	stopping bool
}

// ended unwinds a turn that sleeps when its thread is stopped.
type ended struct{}

// NewThread makes a thread that calls turn over and over; turn makes at most
// one Enter of r. It takes r.Park.
func NewThread(r *Ring, turn func()) *Thread {
	t := &Thread{ring: r}
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if t.stopping {
				_ = recover()
			}
		}()
		r.park = func() {
			if !yield(struct{}{}) {
				panic(ended{})
			}
		}
		for {
			turn()
			if !yield(struct{}{}) {
				return
			}
		}
	})
	return t
}

// Runnable tells whether Run may be called; see Ring.Runnable.
func (t *Thread) Runnable() bool { return t.ring.Runnable() }

// Run runs the thread up to the end of its turn or until its Enter sleeps.
func (t *Thread) Run() { t.next() }

// Stop ends the thread where it stands, as World.Kill ends its ring. The
// thread must be stopped in the end for its memory to be freed.
func (t *Thread) Stop() {
	t.stopping = true
	t.stop()
}
