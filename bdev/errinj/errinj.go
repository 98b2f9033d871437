// Package errinj is a stacked device that injects errors: the "error" bdev. A
// number of the next I/Os of a kind fail, are held, are corrupted or are
// refused, as it was told while I/O runs.
//
// Threading: a Device is safe from any thread: how many errors are left is
// counted by atomics. I/O that is held belongs to its channel's reactor.
// Memory: none of its own. Corrupting a write changes one byte of the
// submitter's buffer and puts it back before the write completes.
package errinj

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"spindle/bdev"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// Type is what happens to an I/O.
type Type uint8

const (
	None        Type = iota
	Failure          // it ends with Failed and does not reach the base
	Stuck            // it is held until ResumePending or Abort: SPDK's "pending"
	CorruptData      // one byte of a read or a write is changed
	OutOfMemory      // Submit returns NoMem: SPDK's "nomem"
)

// ErrType is returned for an injection that is not known.
var ErrType = errors.New("errinj: unknown error type")

// Injection is an order for errors.
type Injection struct {
	Op   bdev.Op // the kind of I/O, or bdev.AllOps
	Type Type
	Num  uint32 // how many I/Os of each kind
	// QueueDepth, if not 0, spares I/O while fewer are in flight on the channel.
	QueueDepth uint64
	// CorruptData XORs the byte at Offset of an I/O's data with Value.
	Offset uint64
	Value  byte
}

// order is an Injection at work for one kind of I/O.
type order struct {
	Injection
	left atomic.Int64
}

// Device injects errors into the I/O of its base.
type Device struct {
	bdev.Stacked
	orders [bdev.NumOps]atomic.Pointer[order]

	mu       sync.Mutex
	channels []*channel
}

// New stacks a device on base. It does not lend: what is lent cannot be corrupted.
func New(base bdev.Device) (*Device, error) {
	d := &Device{}
	err := d.Stack(base, func(i *bdev.Info) {
		i.Product = "Error Injection Disk"
		i.Caps &^= bdev.CapLend | bdev.CapLive
	})
	if err != nil {
		return nil, fmt.Errorf("errinj: %w", err)
	}
	return d, nil
}

// Inject orders errors; they replace those ordered before for the same kind of
// I/O. Type None orders no errors.
func (d *Device) Inject(in Injection) error {
	if in.Type > OutOfMemory || in.Op > bdev.AllOps {
		return ErrType
	}
	for op := range d.orders {
		if in.Op != bdev.AllOps && in.Op != bdev.Op(op) {
			continue
		}
		if in.Type == None || in.Num == 0 {
			d.orders[op].Store(nil)
			continue
		}
		o := &order{Injection: in}
		o.left.Store(int64(in.Num))
		d.orders[op].Store(o)
	}
	return nil
}

// Left is the number of errors still to come for a kind of I/O.
func (d *Device) Left(op bdev.Op) int64 {
	if o := d.orders[op].Load(); o != nil {
		return max(o.left.Load(), 0)
	}
	return 0
}

// ResumePending has the I/O that is held go on to the base.
func (d *Device) ResumePending() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.channels {
		// A message that is still under way will find what is held by then.
		if c.resuming.CompareAndSwap(false, true) {
			c.r.Post(&c.msg)
		}
	}
}

// Open implements bdev.Device.
func (d *Device) Open(r *reactor.Reactor) (bdev.Channel, error) {
	base, err := d.Base().Open(r)
	if err != nil {
		return nil, fmt.Errorf("errinj: %w", err)
	}
	c := &channel{d: d, r: r, base: base}
	c.msg.Run, c.timer.Fire = c.resume, c.expire
	d.mu.Lock()
	defer d.mu.Unlock()
	d.channels = append(d.channels, c)
	return c, nil
}

type channel struct {
	d        *Device
	r        *reactor.Reactor
	base     bdev.Channel
	inflight uint64
	held     []*bdev.IO // until ResumePending
	refused  []*bdev.IO // were resumed when the base had no memory, and try again
	aborted  []*bdev.IO // end in the next turn
	timer    reactor.Timer
	msg      reactor.Msg
	resuming atomic.Bool // msg is under way
	closed   bool
}

// A frame's word says which byte of the data its end XORs with what:
// value (bits 32..39) | offset (bits 0..31). To a read that is the corruption,
// to a write the repair of what was corrupted on the way. 0 does nothing.
const nothing uint64 = 0

func flip(io *bdev.IO, w uint64) {
	if v := byte(w >> 32); v != 0 {
		io.Data.Bytes()[uint32(w)] ^= v
	}
}

// take is the order that befalls io, if any.
func (c *channel) take(io *bdev.IO) *order {
	o := c.d.orders[io.Op].Load()
	if o == nil || c.inflight < o.QueueDepth || o.left.Load() <= 0 || o.left.Add(-1) < 0 {
		return nil
	}
	return o
}

// Submit implements bdev.Channel.
func (c *channel) Submit(io *bdev.IO) bdev.Status {
	o := c.take(io)
	if o == nil {
		return c.forward(io, nothing)
	}
	switch o.Type {
	case Failure:
		return bdev.Failed
	case OutOfMemory:
		return bdev.NoMem
	case Stuck:
		c.held = append(c.held, io)
		c.inflight++
		return bdev.Pending
	}
	return c.forward(io, change(io, o))
}

// change is the word of an I/O to corrupt; a write is corrupted on the way.
func change(io *bdev.IO, o *order) uint64 {
	if o.Offset >= uint64(io.Data.Len) {
		return nothing
	}
	w := uint64(o.Value)<<32 | o.Offset
	if io.Op == bdev.Write {
		flip(io, w)
	}
	return w
}

// forward hands io to the base.
func (c *channel) forward(io *bdev.IO, w uint64) bdev.Status {
	io.Push(c, w)
	s := c.base.Submit(io)
	if s == bdev.Pending {
		c.inflight++
		return s
	}
	finish(io, io.Pop(), s)
	return s
}

// IODone implements bdev.Completer.
func (c *channel) IODone(io *bdev.IO) {
	c.inflight--
	finish(io, io.Pop(), io.Status)
	io.Complete(io.Status)
}

// finish corrupts what was read, or repairs the submitter's data.
func finish(io *bdev.IO, w uint64, s bdev.Status) {
	if io.Op == bdev.Write || s == bdev.OK {
		flip(io, w)
	}
}

// resume lets go what is held.
func (c *channel) resume(*reactor.Reactor) {
	c.resuming.Store(false)
	if c.closed {
		return
	}
	list := c.held
	c.held = nil
	c.proceed(list)
}

// retryAfter is when I/O that the base had no memory for tries again.
const retryAfter = 100 * time.Microsecond

// proceed hands what was held to the base.
func (c *channel) proceed(list []*bdev.IO) {
	for _, io := range list {
		c.inflight--
		s := c.forward(io, nothing)
		switch {
		case s == bdev.NoMem:
			c.refused = append(c.refused, io)
			c.inflight++
		case s.Final():
			io.Complete(s)
		}
	}
	if len(c.refused) > 0 && !c.timer.Armed() {
		c.r.Arm(&c.timer, c.r.Now().Add(retryAfter))
	}
}

// Abort implements bdev.Channel: held I/O ends in the next turn.
func (c *channel) Abort(io *bdev.IO) {
	for _, list := range []*[]*bdev.IO{&c.held, &c.refused} {
		if i := slices.Index(*list, io); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
			c.aborted = append(c.aborted, io)
			c.r.Arm(&c.timer, c.r.Now().Add(1))
			return
		}
	}
	if !slices.Contains(c.aborted, io) {
		c.base.Abort(io)
	}
}

// expire ends what was aborted, and tries again with what was refused.
func (c *channel) expire(clock.Time) {
	list := c.aborted
	c.aborted = nil
	for _, io := range list {
		c.inflight--
		io.Complete(bdev.Aborted)
	}
	list = c.refused
	c.refused = nil
	c.proceed(list)
}

// Release implements bdev.Channel.
func (c *channel) Release(io *bdev.IO) { c.base.Release(io) }

// Close implements bdev.Channel.
func (c *channel) Close() {
	c.closed = true
	c.r.Disarm(&c.timer)
	c.base.Close()
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.d.channels = slices.DeleteFunc(c.d.channels, func(o *channel) bool { return o == c })
}
