package bdev

import (
	"sync/atomic"

	"spindle/internal/invariants"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// channel is a Bdev's Channel around its module's.
type channel struct {
	b         *Bdev
	r         *reactor.Reactor
	ch        Channel
	blockSize uint64
	hist      atomic.Pointer[tally]
	counters  counters

	waiting ioQueue // for QoS tokens or, among those, memory of the module
	aborted ioQueue // taken from waiting by Abort
	timer   reactor.Timer
}

func newChannel(b *Bdev, r *reactor.Reactor, ch Channel) *channel {
	c := &channel{b: b, r: r, ch: ch, blockSize: uint64(b.dev.Info().BlockSize)}
	c.counters.init(&b.epoch)
	c.timer.Fire = c.resume
	return c
}

// Submit implements Channel. It ends I/O outside the device with OutRange
// (without arithmetic that could wrap) and empty I/O with OK.
//
//spindle:hot
func (c *channel) Submit(io *IO) Status {
	if io.Op != Flush {
		n := c.b.blocks.Load()
		if io.Op >= NumOps {
			return c.refuse(NotSup)
		}
		if io.LBA > n || uint64(io.Blocks) > n-io.LBA {
			return c.refuse(OutRange)
		}
		if io.Blocks == 0 {
			return OK
		}
		invariants.Check(io.Op > Write || io.Flags&Lend != 0 || uint64(io.Data.Len) == uint64(io.Blocks)*c.blockSize, "bdev: data and blocks differ")
	}
	io.Start = c.r.Now()
	if c.b.state.Load() != 0 || c.waiting.head != nil {
		return c.submitSlow(io)
	}
	s := c.forward(io)
	if s == Pending {
		c.counters.live++
		c.r.NeedFlush(&c.counters.node)
	}
	return s
}

// forward hands io to the module, and counts it if it ended there.
//
//spindle:hot
func (c *channel) forward(io *IO) Status {
	io.Push(c, 0)
	s := c.ch.Submit(io)
	if s == Pending {
		return s
	}
	io.Pop()
	c.count(io, s)
	return s
}

// IODone implements Completer for the module's completions.
//
//spindle:hot
func (c *channel) IODone(io *IO) {
	io.Pop()
	c.counters.live--
	s := io.Status
	c.count(io, s)
	io.Complete(s)
}

//spindle:hot
func (c *channel) count(io *IO, s Status) {
	if s != OK {
		c.refuse(s)
		return
	}
	bytes := uint64(io.Blocks) * c.blockSize
	if io.Op == Flush {
		bytes = 0
	}
	ns := uint64(c.r.Now().Sub(io.Start))
	c.counters.count(io.Op, bytes, ns)
	if h := c.hist.Load(); h != nil {
		h.add(io.Op, ns)
	}
	c.r.NeedFlush(&c.counters.node)
}

// refuse counts an I/O that ended with s.
func (c *channel) refuse(s Status) Status {
	e := &c.counters.errors[s]
	e.Store(e.Load() + 1)
	c.r.NeedFlush(&c.counters.node)
	return s
}

// submitSlow is Submit of a bdev that is gone or limited, or behind I/O that
// already waits: order is kept.
func (c *channel) submitSlow(io *IO) Status {
	if c.b.Removed() {
		return c.refuse(Gone)
	}
	c.b.qos.refill(c.r.Now())
	if io.Op > Write || (c.waiting.head == nil && c.admit(io)) {
		s := c.forward(io)
		if s == Pending {
			c.counters.live++
		}
		return s
	}
	c.waiting.push(io)
	c.counters.live++
	c.r.NeedFlush(&c.counters.node)
	c.wake()
	return Pending
}

func (c *channel) admit(io *IO) bool {
	if c.b.state.Load()&stateQoS == 0 {
		return true
	}
	return c.b.qos.admit(io, int64(io.Blocks)*int64(c.blockSize))
}

// wake arms the timer for the next timeslice.
func (c *channel) wake() {
	if !c.timer.Armed() {
		next := (c.r.Now()/clock.Time(timeslice) + 1) * clock.Time(timeslice)
		c.r.Arm(&c.timer, next)
	}
}

// resume submits what waits, in order, as far as the new timeslice's tokens go.
func (c *channel) resume(now clock.Time) {
	for c.aborted.head != nil {
		c.end(c.aborted.pop(), Aborted)
	}
	c.b.qos.refill(now)
	for c.waiting.head != nil {
		io := c.waiting.head
		if c.b.Removed() {
			c.end(c.waiting.pop(), Gone)
			continue
		}
		if !c.admit(io) {
			break
		}
		c.waiting.pop()
		s := c.forward(io)
		switch {
		case s == NoMem:
			// Back to the head; its tokens are lost, which errs on the safe side.
			io.Next = c.waiting.head
			c.waiting.head = io
			if c.waiting.tail == nil {
				c.waiting.tail = io
			}
			c.wake()
			return
		case s.Final():
			c.counters.live--
			io.Complete(s)
		}
	}
	if c.waiting.head != nil {
		c.wake()
	}
}

// end completes an I/O that never reached the module.
func (c *channel) end(io *IO, s Status) {
	c.counters.live--
	c.refuse(s)
	io.Complete(s)
}

// Abort implements Channel. An I/O that waits for QoS ends in the next turn;
// others are the module's business.
func (c *channel) Abort(io *IO) {
	if c.waiting.remove(io) {
		c.aborted.push(io)
		c.r.Arm(&c.timer, c.r.Now())
		return
	}
	for e := c.aborted.head; e != nil; e = e.Next {
		if e == io {
			return
		}
	}
	c.ch.Abort(io)
}

// Release implements Channel.
//
//spindle:hot
func (c *channel) Release(io *IO) { c.ch.Release(io) }

// Close implements Channel.
func (c *channel) Close() {
	invariants.Check(c.counters.live == 0, "bdev: channel closed with I/O in flight")
	c.r.Disarm(&c.timer)
	c.ch.Close()
	c.counters.Flush()
	c.b.closing(c)
}
