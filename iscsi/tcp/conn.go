package tcp

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"

	"spindle/internal/plant"
	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// Arguments of a connection's operations.
const (
	opRecv = iota
	opSend
	opShutdown
	opCancel
	opLoan // and the number of the loan
)

// The connection's arena block: headers of Data-In PDUs, then the message.
const (
	ownSlots  = 16
	slotSize  = 64 // BHS at 0, header digest behind it, padding and data digest at slotTrail
	slotTrail = 56
	blockSize = 16 << 10
)

var errNoMemory = errors.New("no arena memory for the connection")

// Conn is one TCP connection. It implements iscsi.Conn.
type Conn struct {
	t           *Transport
	r           *reactor.Reactor
	h           iscsi.Handler
	seq         *iscsi.Sequence
	fd          int
	file        ring.File
	src         reactor.Source
	local, peer netip.AddrPort
	p           iscsi.Params
	block       mem.Ref
	flush       reactor.FlushNode

	inflight int // operations with a completion to come
	stream   bool
	careful  bool // see plain
	closing  bool
	shut     bool // the shutdown has been submitted
	dead     bool
	draining bool
	why      error

	rx receiver
	tx sender
	zc ring.ZeroCopier // nil: what is sent is copied

	starving bool
	moved    func(error)
	moveMsg  reactor.Msg
	next     berth // reserved on the reactor that it may move to
	resting  func(quiet bool) (gone bool)
}

func newConn(t *Transport, r *reactor.Reactor, fd int) *Conn {
	c := &Conn{t: t, r: r, fd: fd, file: ring.NoFile}
	c.local, c.peer, _ = t.kernel.Addrs(fd)
	c.flush.To = c
	c.rx.again.To = &c.rx
	c.rx.c = c
	c.moveMsg.Run = c.arrive
	return c
}

// Traits implements iscsi.Conn.
func (c *Conn) Traits() iscsi.Traits { return c.t.Traits() }

// Addrs implements iscsi.Conn.
func (c *Conn) Addrs() (local, peer netip.AddrPort) { return c.local, c.peer }

// Start implements iscsi.Conn.
func (c *Conn) Start(h iscsi.Handler, seq *iscsi.Sequence) error {
	c.h, c.seq = h, seq
	if err := c.settle(); err != nil {
		c.dead = true
		_ = c.t.kernel.CloseFD(c.fd)
		return err
	}
	c.NextLogin()
	return nil
}

// settle gives the connection its place on its reactor.
func (c *Conn) settle() error {
	b := c.next
	if c.next = (berth{}); b.block.Empty() {
		var err error
		if b, err = c.berth(c.r); err != nil {
			return err
		}
	}
	c.block, c.file = b.block, b.file
	c.src = c.r.Register(c)
	c.tx.msg = ring.Msg{Ref: c.block.Slice(ownSlots*slotSize, blockSize-ownSlots*slotSize)}
	if c.stream {
		c.zc = c.t.zeroCopier(c.r, &c.p)
	}
	return nil
}

// leave undoes settle.
func (c *Conn) leave() {
	c.r.Unregister(c.src)
	c.r.Ring.Remove(c.file)
	c.r.Arena.Free(c.block)
	c.file, c.block = ring.NoFile, mem.Ref{}
}

// Move implements iscsi.Conn.
func (c *Conn) Move(r *reactor.Reactor, moved func(error)) {
	c.leave()
	c.r, c.moved = r, moved
	r.Post(&c.moveMsg)
}

// arrive is the second half of Move, on the new reactor.
func (c *Conn) arrive(*reactor.Reactor) {
	err := c.settle()
	if err != nil {
		c.dead = true
		_ = c.t.kernel.CloseFD(c.fd)
	}
	moved := c.moved
	c.moved = nil
	moved(err)
}

// Provision implements iscsi.Conn: provided buffers serve all connections.
func (c *Conn) Provision(iscsi.Params) error { return nil }

// FullFeature implements iscsi.Conn.
func (c *Conn) FullFeature(p iscsi.Params) {
	c.p = p
	c.careful = p.HeaderDigest || p.DataDigest || p.AskAcks
	if p.HeaderDigest {
		c.rx.hdrTail = pdu.DigestLen
	}
	c.stream = true
	c.zc = c.t.zeroCopier(c.r, &p)
	c.armRecv()
}

// Complete implements reactor.Completer.
//
//spindle:hot
func (c *Conn) Complete(arg uint32, e ring.CQE) {
	if e.Flags&ring.FlagMore == 0 {
		c.inflight--
	}
	switch arg {
	case opRecv:
		if c.stream {
			c.rx.streamed(e)
		} else {
			c.rx.logged(e)
		}
	case opSend:
		c.sent(e.Res)
	case opCancel:
		c.rx.cancelled = false
		c.wakeRest()
		c.rx.limit() // the receive it found may have been one that had ended
	case opShutdown:
	default:
		c.returned(arg-opLoan, e)
	}
	if c.closing {
		c.teardown()
	}
}

// Close implements iscsi.Conn.
func (c *Conn) Close(why error) {
	if c.closing || c.dead {
		return
	}
	c.closing, c.why = true, why
	c.r.NeedFlush(&c.flush) // teardown goes on outside the caller's frame
}

// teardown drives a closing connection: shutdown, every completion, the queue
// handed back, memory, Closed. It runs at each step until it is through;
// inflight decides, never time.
func (c *Conn) teardown() {
	if c.dead {
		return
	}
	if !c.shut {
		if c.inflight > 0 && !c.r.Ring.Shutdown(c.src.Tag(opShutdown), c.file) {
			c.r.NeedFlush(&c.flush)
			return
		}
		if c.inflight > 0 {
			c.inflight++
		}
		c.shut = true
	}
	if c.inflight > 0 {
		return
	}
	c.dead = true
	c.rx.drop()
	c.tx.drop(c)
	c.leave()
	if !plant.On(plant.LeakedDescriptor) {
		_ = c.t.kernel.CloseFD(c.fd)
	}
	c.h.Closed(c.why)
}

// failure turns a completion's result into the reason of a close.
func failure(op string, res int32) error {
	if res == 0 {
		return io.EOF
	}
	return fmt.Errorf("%s: %w", op, syscall.Errno(-res))
}
