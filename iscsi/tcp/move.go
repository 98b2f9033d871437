package tcp

import (
	"fmt"

	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// berth is what a connection has on its reactor.
type berth struct {
	block mem.Ref
	file  ring.File
}

// berth makes room for the connection on r.
// Preconditions: runs on r.
func (c *Conn) berth(r *reactor.Reactor) (berth, error) {
	b, ok := r.Arena.Alloc(blockSize)
	if !ok {
		return berth{}, errNoMemory
	}
	f, err := r.Ring.Install(c.fd)
	if err != nil {
		r.Arena.Free(b)
		return berth{}, fmt.Errorf("install connection: %w", err)
	}
	return berth{b, f}, nil
}

// Reserve implements iscsi.Mover.
func (c *Conn) Reserve(r *reactor.Reactor) (err error) {
	if _, err = c.t.shards[r.ID].receiveGroup(); err == nil {
		c.next, err = c.berth(r)
	}
	return err
}

// Unreserve implements iscsi.Mover.
func (c *Conn) Unreserve(r *reactor.Reactor) {
	r.Ring.Remove(c.next.file)
	r.Arena.Free(c.next.block)
	c.next = berth{}
}

// Rest implements iscsi.Mover. The receive is cancelled, not waited for; what
// comes before its last completion is read as ever.
func (c *Conn) Rest(done func(quiet bool) (gone bool)) {
	c.resting = done
	if x := &c.rx; x.armed && !x.cancelled && c.r.Ring.Cancel(c.src.Tag(opCancel), c.src.Tag(opRecv)) {
		x.cancelled = true
		c.inflight++
	}
	c.r.NeedFlush(&c.flush)
}

// Rise implements iscsi.Mover.
func (c *Conn) Rise() {
	c.resting = nil
	c.r.NeedFlush(&c.flush) // Flush arms the receive
}

// wakeRest has rested look, at the end of the turn, at a completion it may wait for.
func (c *Conn) wakeRest() {
	if c.resting != nil {
		c.r.NeedFlush(&c.flush)
	}
}

// rested tells whoever asked that nothing is received any more. True: the
// connection has gone to another reactor, and may not be touched.
func (c *Conn) rested() (gone bool) {
	x := &c.rx
	if x.armed || x.cancelled {
		return false
	}
	quiet := c.inflight == 0 && x.bufN == 0 && x.stage == inHeader && x.hdrGot == 0 && !x.blocked && !c.starving &&
		!x.again.Queued() && !c.flush.Queued() && c.tx.idle() && !c.draining
	return c.resting(quiet)
}

// idle tells whether nothing is to be sent, nor lent.
func (x *sender) idle() bool {
	return x.head == nil && x.fly == nil && !x.sending && x.vecs == 0 && x.live == 0 && x.pack.mem.Empty() && x.ownLent == 0
}
