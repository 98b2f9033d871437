package reactor

// Offload runs blocking work off the reactors: opens, memory registration,
// listens. It is an edge: the simulator runs the work as a step of its own.
type Offload interface {
	// Go runs work on a thread that may block, then posts done to r.
	Go(work func(), r *Reactor, done *Msg)
}

// Caller is how control code, written in blocking style, waits for a reactor.
// In production the caller's goroutine blocks; in the simulator it is a coroutine.
type Caller interface {
	// Await runs start on r and returns once done has been called, from any
	// reactor and exactly once.
	Await(r *Reactor, start func(done func()))
	// Block runs work that may block in the kernel, off every reactor, and
	// returns when it has ended.
	Block(work func())
}
