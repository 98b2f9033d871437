package bdev

import (
	"sync/atomic"

	"spindle/internal/invariants"
	"spindle/internal/plant"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// channel is a Bdev's Channel around its module's.
type channel struct {
	b         *Bdev
	r         *reactor.Reactor
	ch        Channel
	inline    Inliner // ch; nil when it is none
	blockSize uint64
	hist      atomic.Pointer[tally]
	counters  counters

	// I/O that QoS holds back: without tokens, with them but refused by the
	// module for want of memory, and taken from either by Abort. Each kind of
	// I/O, read or write, goes on in the order it came.
	waiting ioQueue
	ready   ioQueue
	aborted ioQueue
	queued  [2]int       // in waiting and ready, by Op
	place   atomic.Int32 // among the bdev's channels
	timer   reactor.Timer
}

func newChannel(b *Bdev, r *reactor.Reactor, ch Channel) *channel {
	c := &channel{b: b, r: r, ch: ch, blockSize: uint64(b.dev.Info().BlockSize)}
	c.inline, _ = ch.(Inliner)
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
	if c.b.state.Load() != 0 || c.queued != [2]int{} {
		return c.submitSlow(io)
	}
	io.Push(c, 0)
	s := c.ch.Submit(io)
	if s == Pending {
		c.counters.live++
		c.r.NeedFlush(&c.counters.node)
		return s
	}
	io.Pop()
	c.count(io, s)
	return s
}

// Inline implements Inliner.
//
//spindle:hot
func (c *channel) Inline() bool {
	return c.inline != nil && c.b.state.Load() == 0 && c.queued == [2]int{} && c.inline.Inline()
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
	if !plant.On(plant.CountMissed) {
		c.count(io, s)
	}
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

// submitSlow is Submit of a bdev that is gone or limited, or that still has I/O
// waiting from when it was.
func (c *channel) submitSlow(io *IO) Status {
	if c.b.Removed() {
		return c.refuse(Gone)
	}
	c.b.qos.refill(c.r.Now())
	if io.Op > Write || c.queued[io.Op] == 0 && c.admit(io) {
		s := c.forward(io)
		switch s {
		case Pending:
			c.counters.live++
			c.r.NeedFlush(&c.counters.node)
		case NoMem: // it comes again, and is charged then
			c.b.qos.giveBack(io, c.bytes(io))
		}
		return s
	}
	c.waiting.push(io)
	c.queued[io.Op]++
	c.counters.live++
	c.r.NeedFlush(&c.counters.node)
	c.wake()
	return Pending
}

func (c *channel) admit(io *IO) bool {
	if c.b.state.Load()&stateQoS == 0 {
		return true
	}
	return c.b.qos.admit(io, c.bytes(io))
}

func (c *channel) bytes(io *IO) int64 { return int64(io.Blocks) * int64(c.blockSize) }

// wake arms the timer for the next timeslice. The channels take their turns
// spread over the slice, the one after the last that got tokens first: if all
// came at its start, the one whose reactor is always a little earlier would
// take them all.
func (c *channel) wake() {
	if c.timer.Armed() {
		return
	}
	slice := int64(c.r.Now())/int64(timeslice) + 1
	n := int64(max(c.b.qos.sharers.Load(), 1))
	turn := (int64(c.place.Load()) - int64(c.b.qos.served.Load()) - 1 + 2*n) % n
	c.r.Arm(&c.timer, clock.Time(slice*int64(timeslice)+turn*int64(timeslice)/n))
}

// resume submits what waits as far as the new timeslice's tokens go.
func (c *channel) resume(now clock.Time) {
	for c.aborted.head != nil {
		c.end(c.aborted.pop(), Aborted)
	}
	if c.b.Removed() {
		c.endQueue(&c.ready)
		c.endQueue(&c.waiting)
		return
	}
	c.b.qos.refill(now)
	c.pick()
	for c.ready.head != nil {
		io := c.ready.pop()
		s := c.forward(io)
		if s == NoMem {
			c.ready.unpop(io)
			break
		}
		c.queued[io.Op]--
		if s.Final() {
			c.counters.live--
			c.r.NeedFlush(&c.counters.node)
			io.Complete(s)
		}
	}
	if c.queued != [2]int{} {
		c.wake()
	}
}

// pick makes ready what the tokens allow. A write that has to wait does not
// hold up the reads behind it, nor the other way round: they may have limits of
// their own.
func (c *channel) pick() {
	var kept ioQueue
	var stop [2]bool
	for c.waiting.head != nil {
		io := c.waiting.pop()
		if stop[io.Op] || !c.admit(io) {
			stop[io.Op] = true
			kept.push(io)
			continue
		}
		c.ready.push(io)
		c.b.qos.served.Store(c.place.Load())
	}
	c.waiting = kept
}

func (c *channel) endQueue(q *ioQueue) {
	for q.head != nil {
		io := q.pop()
		c.queued[io.Op]--
		c.end(io, Gone)
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
	admitted := c.ready.remove(io)
	if admitted {
		c.b.qos.giveBack(io, c.bytes(io))
	}
	if admitted || c.waiting.remove(io) {
		c.queued[io.Op]--
		c.aborted.push(io)
		c.r.Arm(&c.timer, c.r.Now().Add(1))
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
