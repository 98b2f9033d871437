package sim

import (
	"encoding/binary"

	"spindle/bdev"
	"spindle/reactor"
)

// probe is a device between the device server and the modules. It sees when
// each write enters the block layer and leaves it, which the initiators'
// checks are held against, and that the block layer's own rules are kept.
type probe struct {
	bdev.Stacked
	s       *run
	lu      *lun
	flushes int64 // when the last flush that ended well began; 0 is never
	others  int   // I/Os under way, but for flushes and wipe
	ordered int   // the last ORDERED write that has entered
	wipe    *bdev.IO
}

func newProbe(s *run, lu *lun, base bdev.Device) (*probe, error) {
	p := &probe{s: s, lu: lu}
	return p, p.Stack(base, func(*bdev.Info) {})
}

// Open implements bdev.Device.
func (p *probe) Open(r *reactor.Reactor) (bdev.Channel, error) {
	ch, err := p.Base().Open(r)
	if err != nil {
		return nil, err
	}
	return &probeChannel{p: p, r: r, ch: ch, epoch: p.s.epoch}, nil
}

type probeChannel struct {
	p      *probe
	r      *reactor.Reactor
	ch     bdev.Channel
	live   int
	writes []entered
	inside bool // a Submit runs
	closed bool
	epoch  int
}

// Inline implements bdev.Inliner: the modules know.
func (c *probeChannel) Inline() bool {
	base, ok := c.ch.(bdev.Inliner)
	return ok && base.Inline()
}

// entered is a write of an operation that is in the block layer since at.
type entered struct {
	at int64
	n  int
}

// left is the end of the write that was submitted at at, if it is anybody's.
func (c *probeChannel) left(at int64) {
	for i, w := range c.writes {
		if w.at == at {
			c.p.s.book.leave(w.n)
			c.writes = append(c.writes[:i], c.writes[i+1:]...)
			return
		}
	}
}

// writer is the operation that a write belongs to, 0 when that cannot be told.
func (p *probe) writer(io *bdev.IO) int {
	if io.Op != bdev.Write || io.Data.Len < 8 {
		return 0
	}
	v, b := value(binary.LittleEndian.Uint64(io.Data.Bytes())), p.s.book
	foreign := v.ours() && v.number() < len(b.ops) && b.ops[v.number()].lu != p.lu
	switch {
	case v.ours() && !foreign:
		return v.number()
	case v>>48&orMark == orMark:
		if n, open := b.merging(p.lu, io); open > 1 {
			return 0
		} else if n != 0 {
			return n
		}
	}
	n := b.copying(p.lu, io, foreign)
	if n != 0 {
		b.wrote(n, io)
	}
	return n
}

// begins judges an I/O beside a wipe that leaves zeroes, which has the unit for
// itself from its beginning to its end, or as such a wipe.
func (p *probe) begins(io *bdev.IO) {
	switch {
	case io.Op == bdev.Flush:
	case p.s.book.wipes(p.lu, io):
		if p.wipe = io; p.others > 0 {
			p.s.fail("wipe", "LUN %d is wiped with %d I/Os under way", p.lu.id, p.others)
		}
		p.wanted()
	default:
		if p.others++; p.wipe != nil {
			p.s.fail("wipe", "LUN %d: blocks %d+%d are accessed while it is wiped", p.lu.id, io.LBA, io.Blocks)
		}
	}
}

// orderly judges an I/O that begins has seen, of write n, beside ORDERED writes: such
// a one has the unit to itself at the medium (SAM-5 §8.6.3).
func (p *probe) orderly(io *bdev.IO, n int) {
	ops := p.s.book.ops
	switch {
	case io.Op == bdev.Flush || io == p.wipe:
	case n != 0 && n < len(ops) && ops[n].ordered:
		if p.ordered = n; p.others > ops[n].inside {
			p.s.fail("ordered", "LUN %d: ORDERED write %d begins with %d I/Os of others under way", p.lu.id, n, p.others-ops[n].inside)
		}
	case p.ordered != 0 && ops[p.ordered].inside > 0:
		p.s.fail("ordered", "LUN %d: blocks %d+%d are accessed beside ORDERED write %d", p.lu.id, io.LBA, io.Blocks, p.ordered)
	}
}

// ends is the end of an I/O that begins has seen.
func (p *probe) ends(io *bdev.IO) {
	switch {
	case io.Op == bdev.Flush:
	case io == p.wipe:
		p.wipe = nil
		p.wanted()
	default:
		p.others--
	}
}

// wanted fails when every command that asked for a wipe is over, and so is the wipe.
func (p *probe) wanted() {
	if len(p.lu.wipes) == 0 {
		p.s.fail("wipe", "LUN %d is wiped although that is over", p.lu.id)
	}
}

// Submit implements bdev.Channel.
func (c *probeChannel) Submit(io *bdev.IO) bdev.Status {
	s := c.p.s
	if c.closed {
		s.fail("block layer", "submission to a closed channel of LUN %d", c.p.lu.id)
	}
	s.submits++
	c.p.begins(io)
	c.p.lockHolds(io)
	n, at := c.p.writer(io), s.now()
	if n != 0 {
		s.book.enter(n)
		c.writes = append(c.writes, entered{at, n})
	}
	c.p.orderly(io, n)
	io.Push(c, uint64(at))
	c.inside = true
	st := c.ch.Submit(io)
	c.inside = false
	switch {
	case st == bdev.Pending:
		c.live++
		return st
	case st == bdev.NoMem:
		io.Pop()
		c.left(at)
		c.p.ends(io)
		return st
	}
	io.Pop()
	c.ended(io, st, at)
	return st
}

// IODone implements bdev.Completer.
func (c *probeChannel) IODone(io *bdev.IO) {
	at := int64(io.Pop())
	s := c.p.s
	if c.inside {
		s.fail("block layer", "completion inside Submit on LUN %d", c.p.lu.id)
	}
	if c.live--; c.live < 0 {
		s.fail("block layer", "LUN %d completed an I/O twice", c.p.lu.id)
	}
	c.ended(io, io.Status, at)
	io.Complete(io.Status)
}

// ended notes the end of an I/O that was submitted at at.
func (c *probeChannel) ended(io *bdev.IO, st bdev.Status, at int64) {
	s := c.p.s
	c.left(at)
	c.p.ends(io)
	c.p.lu.done.add(io, st, c.p.lu.blockSize)
	if io.Op == bdev.Flush && st == bdev.OK {
		c.p.flushes = max(c.p.flushes, at)
	}
	if st == bdev.Failed || st == bdev.NoSpace {
		c.p.lu.faults++
		s.failedForGood(c.p.lu)
		if c.p.lu.wiping {
			c.p.lu.object.Refresh(s.now())
		}
	}
}

// Abort implements bdev.Channel.
func (c *probeChannel) Abort(io *bdev.IO) { c.ch.Abort(io) }

// Release implements bdev.Channel.
func (c *probeChannel) Release(io *bdev.IO) { c.ch.Release(io) }

// Close implements bdev.Channel.
func (c *probeChannel) Close() {
	if c.live != 0 || c.closed {
		c.p.s.fail("block layer", "LUN %d: channel closed with %d I/Os in flight", c.p.lu.id, c.live)
	}
	c.closed = true
	c.ch.Close()
}
