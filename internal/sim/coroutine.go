package sim

import (
	"iter"

	"spindle/reactor"
)

// coroutine runs control code in the scheduler's goroutine. It implements
// reactor.Caller: what blocks in production lets the scheduler go on here.
type coroutine struct {
	s        *run
	name     string
	next     func() (struct{}, bool)
	end      func()
	yield    func(struct{}) bool
	ready    func() bool // nil: at once
	over     bool
	stopping bool
}

// gone unwinds control code whose process has died.
type gone struct{}

// spawn makes the coroutine that runs fn.
func (s *run) spawn(name string, fn func(c reactor.Caller)) *coroutine {
	c := &coroutine{s: s, name: name}
	c.next, c.end = iter.Pull(func(yield func(struct{}) bool) {
		c.yield = yield
		defer func() {
			if c.stopping {
				_ = recover()
			}
		}()
		fn(c)
	})
	return c
}

// runnable tells whether step may be called.
func (c *coroutine) runnable() bool { return c.ready == nil || c.ready() }

// step goes on to where the code waits next, or to its end.
func (c *coroutine) step() {
	if _, more := c.next(); !more {
		c.over = true
	}
}

// stop ends the coroutine where it is.
func (c *coroutine) stop() {
	c.stopping = true
	c.end()
	c.over = true
}

func (c *coroutine) wait(ready func() bool) {
	c.ready = ready
	if !c.yield(struct{}{}) {
		panic(gone{})
	}
	c.ready = nil
}

// Await implements reactor.Caller.
func (c *coroutine) Await(r *reactor.Reactor, start func(done func())) {
	calls := 0
	r.Post(&reactor.Msg{Run: func(*reactor.Reactor) {
		start(func() {
			if calls++; calls > 1 {
				c.s.fail("control", "%s: told twice that it is done", c.name)
			}
		})
	}})
	c.wait(func() bool { return calls > 0 })
}

// Block implements reactor.Caller: the work is a step of its own.
func (c *coroutine) Block(work func()) {
	c.wait(nil)
	work()
}
