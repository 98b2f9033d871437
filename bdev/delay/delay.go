// Package delay is a stacked device that makes reads and writes slower: each
// takes at least the average latency set for its kind, every hundredth at least
// the 99th percentile. Latencies may be changed while I/O runs.
//
// Threading: a Device is safe from any thread; I/O that is held back belongs to
// its channel's reactor. Memory: none but a list of what is held back.
package delay

import (
	"fmt"
	"sync/atomic"
	"time"

	"spindle/bdev"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// Kind names one of the latencies.
type Kind uint8

// The latencies of a device.
const (
	AvgRead Kind = iota
	P99Read
	AvgWrite
	P99Write
	NumKinds
)

// rare is how often an I/O takes the 99th percentile.
const rare = 100

// Config makes a Device.
type Config struct {
	Base    bdev.Device
	Latency [NumKinds]time.Duration
}

// Device delays the I/O of its base.
type Device struct {
	bdev.Stacked
	latency [NumKinds]atomic.Int64 // ns
}

// New stacks a device on c.Base.
func New(c Config) (*Device, error) {
	d := &Device{}
	for k, l := range c.Latency {
		d.SetLatency(Kind(k), l)
	}
	if err := d.Stack(c.Base, func(i *bdev.Info) { i.Product = "delay" }); err != nil {
		return nil, fmt.Errorf("delay: %w", err)
	}
	return d, nil
}

// SetLatency changes one latency, for I/O submitted from now on.
func (d *Device) SetLatency(k Kind, l time.Duration) { d.latency[k].Store(int64(max(l, 0))) }

// Latency returns one latency.
func (d *Device) Latency(k Kind) time.Duration { return time.Duration(d.latency[k].Load()) }

// Open implements bdev.Device.
func (d *Device) Open(r *reactor.Reactor) (bdev.Channel, error) {
	base, err := d.Base().Open(r)
	if err != nil {
		return nil, fmt.Errorf("delay: %w", err)
	}
	c := &channel{d: d, r: r, base: base}
	c.timer.Fire = c.expire
	return c, nil
}

type channel struct {
	d     *Device
	r     *reactor.Reactor
	base  bdev.Channel
	held  heldHeap
	seq   uint64
	count [2]uint32 // reads, writes since the last rare one
	timer reactor.Timer
}

// due is when an I/O submitted now may end.
func (c *channel) due(op bdev.Op) clock.Time {
	var avg Kind
	switch op {
	case bdev.Read:
		avg = AvgRead
	case bdev.Write:
		avg = AvgWrite
	default:
		return 0
	}
	kind, n := avg, &c.count[avg/2]
	if *n++; *n == rare {
		*n, kind = 0, avg+1
	}
	return c.r.Now().Add(c.d.Latency(kind))
}

// Submit implements bdev.Channel.
func (c *channel) Submit(io *bdev.IO) bdev.Status {
	due := c.due(io.Op)
	io.Push(c, uint64(due))
	s := c.base.Submit(io)
	if s == bdev.Pending {
		return s
	}
	io.Pop()
	if s == bdev.NoMem || due <= c.r.Now() {
		return s
	}
	io.Status = s
	c.hold(io, due)
	return bdev.Pending
}

// IODone implements bdev.Completer: the base has done its part.
func (c *channel) IODone(io *bdev.IO) {
	due := clock.Time(io.Pop())
	if due <= c.r.Now() {
		io.Complete(io.Status)
		return
	}
	c.hold(io, due)
}

func (c *channel) hold(io *bdev.IO, due clock.Time) {
	c.seq++
	c.held.push(held{due, c.seq, io})
	c.r.Arm(&c.timer, c.held[0].due)
}

// expire ends the I/O whose time has come.
func (c *channel) expire(now clock.Time) {
	for len(c.held) > 0 && c.held[0].due <= now {
		io := c.held.remove(0).io
		io.Complete(io.Status)
	}
	if len(c.held) > 0 {
		c.r.Arm(&c.timer, c.held[0].due)
	}
}

// Abort implements bdev.Channel: I/O that is only being held back ends in the
// next turn, with the base's status, because the base has already done it.
func (c *channel) Abort(io *bdev.IO) {
	for i := range c.held {
		if c.held[i].io == io {
			h := c.held.remove(i)
			h.due = c.r.Now()
			c.held.push(h)
			c.r.Arm(&c.timer, h.due.Add(1))
			return
		}
	}
	c.base.Abort(io)
}

// Release implements bdev.Channel.
func (c *channel) Release(io *bdev.IO) { c.base.Release(io) }

// Close implements bdev.Channel.
func (c *channel) Close() {
	c.r.Disarm(&c.timer)
	c.base.Close()
}

// held is an I/O that the base has done.
type held struct {
	due clock.Time
	seq uint64 // orders those due together
	io  *bdev.IO
}

func (h held) before(o held) bool {
	return h.due < o.due || h.due == o.due && h.seq < o.seq
}

// heldHeap is a binary heap; the one due first is at 0.
type heldHeap []held

func (q *heldHeap) push(h held) {
	*q = append(*q, h)
	q.up(len(*q) - 1)
}

func (q *heldHeap) remove(i int) held {
	s := *q
	h, last := s[i], len(s)-1
	s[i] = s[last]
	s[last] = held{}
	*q = s[:last]
	if i < last {
		q.down(i)
		q.up(i)
	}
	return h
}

func (q heldHeap) up(i int) {
	for p := (i - 1) / 2; i > 0 && q[i].before(q[p]); p = (i - 1) / 2 {
		q[i], q[p] = q[p], q[i]
		i = p
	}
}

func (q heldHeap) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(q) {
			return
		}
		if c+1 < len(q) && q[c+1].before(q[c]) {
			c++
		}
		if !q[c].before(q[i]) {
			return
		}
		q[i], q[c] = q[c], q[i]
		i = c
	}
}
