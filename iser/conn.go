package iser

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/verbs"
)

// Reasons of a connection's end that the transport finds.
var (
	errNoMemory     = errors.New("no arena memory for the connection")
	errDisconnected = errors.New("disconnected by the peer")
	errRemoved      = errors.New("RDMA device removed")
	errAddress      = errors.New("address of the RDMA device changed")
	errHandshake    = errors.New("connection not established")
	errFatal        = errors.New("queue pair failed")
	errRefused      = errors.New("request refused by the device")
)

// What the control thread tells a connection; bits of Conn.signals.
const (
	sigAdmit uint32 = 1 << iota // new: hand it to the engine
	sigDone                     // the call it asked for has returned
	sigEstablished
	sigDisconnected
	sigRemoved
	sigAddrChange
	sigRefused // by the peer
	sigFatal
	sigKeys // memory was registered
)

// step is how far a connection's end has come. Each step waits for the one
// before it; what it waits for decides, never time, but for drainLimit.
type step uint8

const (
	stepOpen step = iota
	stepClosing
	stepDisconnect // the queue pair goes to the error state, the peer is told
	stepDrain      // every request completes
	stepDestroy    // queue pair and identifier
	stepDead
)

// Conn is one iSER connection. It implements iscsi.Conn. Owner: its reactor,
// from sigAdmit on.
type Conn struct {
	t           *Transport
	r           *reactor.Reactor
	s           *shard
	h           iscsi.Handler
	seq         *iscsi.Sequence
	local, peer netip.AddrPort
	accept      func(*reactor.Reactor, iscsi.Conn)

	// Made by the control thread, constant afterwards.
	id         verbs.ID
	qp         verbs.QP
	qph        verbs.QPHandle
	caps       verbs.QPConfig
	dev        *device
	q          *queue
	promised   int // entries of q
	depth      int // RDMA READs we may have outstanding
	maxMessage uint32
	invalidate bool // Send with Invalidate was negotiated

	signals atomic.Uint32
	told    reactor.Msg

	// One call of the control thread at a time.
	ctl     reactor.Msg
	call    func() error
	calling bool
	callErr error

	slot        uint32
	gen         uint16
	placed      bool // Start gave it its slot
	started     bool // Start succeeded: Closed is owed
	accepted    bool // the control thread has accepted
	established bool
	discovery   bool
	provisioned bool // what the next Out ends is the login
	quiet       bool // the login is over and the initiator has not spoken yet
	stream      bool // full feature phase
	removed     bool // the device was
	connected   bool // accepted or established, as the control thread may read it
	step        step
	why         error
	timer       reactor.Timer
	zombie      bool

	params iscsi.Params
	rx     receiver
	tx     sender

	dirty bool  // on the shard's list of connections to flush
	next  *Conn // of that list
}

func newConn(t *Transport, s *shard, l *listener, d *device, q *queue, ev *verbs.Event) *Conn {
	info := d.v.Info()
	c := &Conn{t: t, r: s.r, s: s, accept: l.accept, id: ev.ID, dev: d, q: q}
	c.local, c.peer = ev.ID.Addrs()
	c.depth = min(int(ev.Param.InitiatorDepth), info.MaxInitReadAtoms, MaxReads)
	c.maxMessage = maxMessageOf(info, ev.ID.Port())
	if n := t.opt.maxMessage; n != 0 {
		c.maxMessage = min(c.maxMessage, n)
	}
	c.invalidate = wantsInvalidate(ev.Private()) && info.MemMgtExtensions
	c.told.Run = c.signalled
	c.ctl.Run = c.called
	c.timer.Fire = c.expired
	c.rx.c, c.tx.c = c, c
	return c
}

// maxMessageOf is the longest message of a device's port.
func maxMessageOf(info *verbs.DeviceInfo, port int) uint32 {
	for _, p := range info.Ports {
		if p.Number == port && p.MaxMsg > 0 {
			return p.MaxMsg
		}
	}
	return 1 << 20
}

// wantsInvalidate reads a request's private data. It comes padded with zeroes,
// so that only the other bit, which every initiator sets, tells that there was
// any.
func wantsInvalidate(private []byte) bool {
	return len(private) > 0 && private[0]&pdu.ISERNoZBVA != 0 && private[0]&pdu.ISERNoInvalidate == 0
}

// setQP gives the connection its queue pair. A device may grant longer queues than
// it was asked for: the completion queue has no room for what more they hold, nor
// a WRID for its index.
func (c *Conn) setQP(qp verbs.QP, asked *verbs.QPConfig) {
	c.qp, c.qph, c.caps = qp, qp.Handle(), qp.Caps()
	c.caps.MaxSend, c.caps.MaxRecv = min(c.caps.MaxSend, asked.MaxSend), min(c.caps.MaxRecv, asked.MaxRecv)
}

// signal tells the connection something, from any thread.
func (c *Conn) signal(bit uint32) {
	if c.signals.Or(bit) == 0 {
		c.r.Post(&c.told)
	}
}

// signalled takes what was told.
func (c *Conn) signalled(*reactor.Reactor) {
	bits := c.signals.Swap(0)
	if bits&sigDone != 0 {
		c.callReturned()
	}
	if bits&sigAdmit != 0 {
		c.t.Stats.Accepted.Add(1)
		c.accept(c.r, c)
	}
	if bits&sigEstablished != 0 {
		c.established = true
	}
	if bits&(sigEstablished|sigKeys) != 0 {
		c.s.later(c)
	}
	if bits&sigRemoved != 0 {
		c.removed = true
		if c.step == stepDrain || c.step == stepDestroy && !c.calling {
			c.armLimit(removedLimit)
		}
	}
	for _, e := range [...]struct {
		bit uint32
		why error
	}{
		{sigRemoved, errRemoved}, {sigDisconnected, errDisconnected}, {sigAddrChange, errAddress},
		{sigRefused, errHandshake}, {sigFatal, errFatal},
	} {
		if bits&e.bit != 0 {
			c.end(e.why)
		}
	}
}

// ask has the control thread make a call; callReturned follows.
func (c *Conn) ask(call func() error) {
	c.call, c.calling = call, true
	c.armLimit(controlLimit)
	c.t.m.home.Post(&c.ctl)
}

// called hands the call to the control thread; runs on the home reactor.
func (c *Conn) called(*reactor.Reactor) {
	c.t.m.submit(func() {
		c.callErr = c.call()
		c.signal(sigDone)
	}, nil)
}

// callReturned goes on after a call of the control thread.
func (c *Conn) callReturned() {
	c.calling = false
	c.r.Disarm(&c.timer)
	switch {
	case c.step == stepOpen && c.callErr != nil:
		c.end(fmt.Errorf("accept: %w", c.callErr))
	case c.step <= stepClosing && c.callErr == nil:
		c.accepted = true
	}
	if c.step != stepOpen {
		c.advance()
	}
}

func (c *Conn) armLimit(d time.Duration) { c.r.Arm(&c.timer, c.r.Now().Add(d)) }

// expired is the connection's one timer: a step takes too long.
func (c *Conn) expired(clock.Time) {
	switch {
	case c.calling:
		if !c.zombie {
			c.zombie = true
			c.t.Stats.Zombies.Add(1)
			c.t.log.Error("RDMA control call hangs", "peer", c.peer, "device", c.dev.name, "step", c.step)
		}
	case c.step == stepDrain:
		c.t.Stats.DrainTimeout.Add(1)
		c.destroy()
	case c.step == stepDestroy:
		c.destroy()
	}
}

// Traits implements iscsi.Conn.
func (c *Conn) Traits() iscsi.Traits {
	tr := c.t.Traits()
	if c.discovery {
		tr.MaxSendData = MaxLoginData
	}
	return tr
}

// Addrs implements iscsi.Conn.
func (c *Conn) Addrs() (local, peer netip.AddrPort) { return c.local, c.peer }

// Start implements iscsi.Conn. The login's receive is posted before the request
// is accepted: the peer may send at once. The engine may have kept the connection
// waiting, for its configuration say: one that ended meanwhile is not started.
func (c *Conn) Start(h iscsi.Handler, seq *iscsi.Sequence) error {
	if c.step != stepOpen {
		return c.why
	}
	c.h, c.seq = h, seq
	c.slot, c.gen = c.s.addConn(c)
	c.placed = true
	c.tx.open()
	if !c.s.open() || !c.rx.open() {
		c.end(errNoMemory)
		return errNoMemory
	}
	c.started = true
	c.s.post()
	if c.step == stepOpen {
		c.ask(c.doAccept)
	}
	return nil
}

// Move implements iscsi.Conn; never called, since connections are pinned.
func (c *Conn) Move(_ *reactor.Reactor, moved func(error)) {
	moved(errors.New("an iSER connection stays on its reactor"))
}

// Provision implements iscsi.Conn: it posts every receive of full feature phase.
func (c *Conn) Provision(p iscsi.Params) error {
	n := int(p.Window) + ReserveReceives
	if !p.InitialR2T {
		segment := max(min(p.MaxRecvData, MaxRecvData), 1)
		n += int(p.Window) * int((p.FirstBurst+segment-1)/segment)
	}
	if n > c.caps.MaxRecv {
		return fmt.Errorf("a window of %d commands needs %d receives: the queue pair has %d", p.Window, n, c.caps.MaxRecv)
	}
	if !c.rx.grow(n) {
		return errNoMemory
	}
	c.discovery, c.provisioned = p.Discovery, true
	return nil
}

// FullFeature implements iscsi.Conn.
func (c *Conn) FullFeature(p iscsi.Params) {
	c.params, c.stream = p, true
	c.s.later(c)
}

// Holding implements iscsi.Holder. Until the initiator has spoken in full
// feature phase it may have no receive for a message; an RDMA WRITE of no bytes
// needs none, nor a key (IBA 1.4 §9.7.4.2.2), and fails when nobody answers.
func (c *Conn) Holding() bool {
	if c.quiet && c.step == stepOpen {
		c.tx.probe = true
		c.s.later(c)
	}
	return c.quiet
}

// Resume implements iscsi.Conn.
func (c *Conn) Resume() {
	if c.rx.blocked {
		c.rx.blocked = false
		c.s.later(c)
	}
}

// Close implements iscsi.Conn.
func (c *Conn) Close(why error) { c.end(why) }

// end begins the connection's end; it goes on outside the caller's frame.
func (c *Conn) end(why error) {
	if c.step != stepOpen {
		return
	}
	c.step, c.why = stepClosing, why
	c.s.later(c)
}

// flush is the connection's part of the turn's end.
//
//spindle:hot
func (c *Conn) flush() {
	switch {
	case c.step == stepOpen:
		if c.rx.ready() {
			c.s.pump(c)
		}
		if c.step == stepOpen {
			c.tx.flush()
		}
		if c.step == stepClosing {
			c.advance()
		}
	case c.step == stepClosing, c.step == stepDrain:
		c.advance()
	}
}

// advance drives a closing connection: the queue pair to the error state, every
// completion, queue pair and identifier destroyed, then the memory and the
// engine's Outs given back.
func (c *Conn) advance() {
	if c.calling {
		return
	}
	switch c.step {
	case stepClosing:
		c.step, c.connected = stepDisconnect, c.accepted || c.established
		// Of a failed queue pair receives that come later may not flush by themselves.
		c.s.post()
		c.ask(c.doDisconnect)
	case stepDisconnect:
		c.step = stepDrain
		if c.removed {
			c.armLimit(removedLimit)
		} else {
			c.armLimit(drainLimit)
		}
		c.tx.mark()
		fallthrough
	case stepDrain:
		if c.rx.posted == 0 && c.tx.drained {
			c.destroy()
		}
	case stepDestroy:
		if c.callErr != nil {
			c.undestroyed()
			return
		}
		c.finish()
	}
}

func (c *Conn) destroy() {
	c.step = stepDestroy
	c.ask(c.doDestroy)
}

// undestroyed keeps everything while the queue pair exists, and tries again: what
// it had not completed may still use the memory.
func (c *Conn) undestroyed() {
	if !c.zombie {
		c.zombie = true
		c.t.Stats.Zombies.Add(1)
		c.t.log.Error("destroy queue pair", "peer", c.peer, "device", c.dev.name, "err", c.callErr)
	}
	c.armLimit(drainLimit)
}

// finish is the last step: nothing of the connection is in flight.
func (c *Conn) finish() {
	c.step = stepDead
	c.r.Disarm(&c.timer)
	if c.placed {
		c.s.dropConn(c)
	}
	c.rx.drop()
	c.tx.drop()
	c.r.AddLoad(-1)
	if c.started {
		c.h.Closed(c.why)
	}
}

// Describe implements iscsi.Describer. The counts of errors are the device's:
// one ends its connection.
func (c *Conn) Describe() []iscsi.Fact {
	state := verbs.QPReadyToSend
	switch {
	case c.step >= stepDisconnect:
		state = verbs.QPError
	case !c.established:
		state = verbs.QPReadyToReceive
	}
	return []iscsi.Fact{
		{Name: "device", Value: c.dev.name},
		{Name: "qp_num", Value: c.qp.Num()},
		{Name: "qp_state", Value: state.String()},
		{Name: "reads_outstanding", Value: c.tx.reads},
		{Name: "reads_max", Value: c.depth},
		{Name: "sends_outstanding", Value: c.tx.used()},
		{Name: "receives_posted", Value: c.rx.posted},
		{Name: "device_rnr_errors", Value: c.dev.rnr.Load()},
		{Name: "device_errors", Value: c.dev.errors.Load()},
	}
}
