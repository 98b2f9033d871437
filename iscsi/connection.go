package iscsi

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"spindle/internal/plant"
	"spindle/iscsi/login"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/scsi"
)

// Reasons for which the engine ends a connection.
var (
	errLoginTimeout = errors.New("login timed out")
	errLoginEvicted = errors.New("too many logins in progress")
	errLimit        = errors.New("beyond a limit of its address")
	errUnread       = errors.New("peer does not read")
	errNopTimeout   = errors.New("no answer to NOP-In")
	errProtocol     = errors.New("protocol error")
	errReinstated   = errors.New("session reinstated")
	errConnReplaced = errors.New("connection reinstated")
	errConnFailed   = errors.New("another connection of the session failed")
	errOrdered      = errors.New("ended by order")
	errShutdown     = errors.New("target is shutting down")
	errLoggedOut    = errors.New("logged out")
	errColdReset    = errors.New("target cold reset")
	errNoMemory     = errors.New("no memory for the session")
)

// phase is a connection's state.
type phase uint8

const (
	phaseLogin phase = iota
	phaseMoving
	phaseFull
	phaseLogout // no more PDUs are taken
	phaseDead
)

// Connection is the engine's side of a transport connection. It implements Handler.
type Connection struct {
	e     *Engine
	sh    *shard
	tp    Conn
	seq   Sequence
	sess  *Session
	login *loginState
	asks  *registration // for its session; nil when there is none under way
	phase phase
	index int // in the shard's list
	id    uint64
	cid   uint16

	// What is negotiated for each connection.
	headerDigest, dataDigest bool
	maxSendData              uint32 // the initiator's MaxRecvDataSegmentLength, at login
	maxRecvData              uint32 // ours, or what was negotiated in its place

	joins    bool          // a session that was there before it
	attached bool          // on its session's list
	leaving  bool          // logged out: its end is not the session's
	recover  bool          // its tasks are kept for another connection to take over
	rec      *connRecovery // nil at ErrorRecoveryLevel 0
	told     []toldEnd     // by event 5, in this turn
	onQuiet  func()        // told when no task of it is with the device server
	onClosed []func()      // told when it has closed

	local, peer netip.AddrPort
	portalTag   uint16
	portal      *portalGroup

	// Outs for everything that is not a command's response.
	outs     [ConnectionOuts]miscOut
	freeOuts *miscOut
	outCount int
	outWait  []func(*Out) // answers that wait for one
	blocked  bool         // a PDU was refused for want of one
	reads    bool         // Traits.Reads
	prompt   Prompter     // tp, nil when it is none
	r2tHead  *Task        // tasks whose R2Ts wait for one
	slots    mem.Ref

	gatePeer           *peer // what the gate knows of its address
	inPending          bool  // counted there as a login in progress
	waitHead, waitTail *Task // commands without a data buffer

	verdict verdict
	data    mem.Ref // of a PDU other than a command's: text, NOP-Out
	text    *login.TextExchange

	acks   bool         // ExpStatSN matters: others wait for what it acknowledges
	acked  uint32       // ExpStatSN as the initiator said it last
	fences []*fenceWait // that wait for it

	lastRx  clock.Time
	nop     reactor.Timer
	pinged  bool
	pingAt  clock.Time
	n       ConnCounts
	tally   *tally // of its node; nil before full feature phase
	marked  uint64 // its work when shard.mark looked
	refused bool   // its login was
	closing error
}

// miscOut is one of a connection's own Outs.
type miscOut struct {
	Out
	c      *Connection
	buf    mem.Ref // arena memory of its data segment, freed with it
	next   *miscOut
	then   func()
	replay bool // sent again: it is kept already
}

// OutSent implements Sent.
func (m *miscOut) OutSent(*Out) {
	c, then := m.c, m.then
	if c.rec != nil && m.Stamp == StampNext && !m.replay && c.phase == phaseFull {
		c.retainStatus(m)
	}
	m.replay = false
	if !m.buf.Empty() {
		c.sh.free(m.buf)
		m.buf = mem.Ref{}
	}
	m.then = nil
	m.Data = mem.Ref{}
	m.next, c.freeOuts = c.freeOuts, m
	c.outCount++
	if then != nil {
		then()
	}
	c.outFreed()
}

// outFreed serves those who wait for an Out.
func (c *Connection) outFreed() {
	if c.phase == phaseDead {
		return
	}
	for len(c.outWait) > 0 && c.freeOuts != nil {
		fn := c.outWait[0]
		c.outWait = c.outWait[1:]
		fn(c.takeOut())
	}
	c.sendWaitingR2Ts()
	if c.rec != nil {
		c.serveSNACKs()
	}
	if c.phase == phaseFull {
		c.sess.openWindow()
	}
	if c.blocked && c.outCount >= outReserve {
		c.blocked = false
		c.tp.Resume()
	}
}

// outReserve is how many free Outs a connection wants before it takes a PDU:
// one for its answer, one for a Reject.
const outReserve = 2

// takeOut takes a free Out. Preconditions: there is one.
func (c *Connection) takeOut() *Out {
	m := c.freeOuts
	c.freeOuts, m.next = m.next, nil
	c.outCount--
	return &m.Out
}

// misc is the miscOut that o is part of.
func (c *Connection) misc(o *Out) *miscOut { return o.Done.(*miscOut) }

// withOut calls fn with a free Out, now or when one comes back. Callers are
// bounded: by outReserve for answers, by MaxManagement for functions.
func (c *Connection) withOut(fn func(*Out)) {
	if c.phase == phaseDead {
		return
	}
	if c.freeOuts != nil && len(c.outWait) == 0 {
		fn(c.takeOut())
		return
	}
	c.outWait = append(c.outWait, fn)
}

// accept takes a new connection of a portal; runs on the connection's reactor.
func (e *Engine) accept(sh *shard, pg *portalGroup, tp Conn) {
	opt := e.inventory.Load().opt
	crowded := sh.held && len(sh.early) >= int(opt.MaxPendingLogins)
	if sh.held && !crowded {
		sh.early = append(sh.early, func() { e.accept(sh, pg, tp) })
		return
	}
	c := &Connection{e: e, tp: tp, portal: pg, portalTag: pg.cfg.Tag, reads: tp.Traits().Reads}
	c.prompt, _ = tp.(Prompter)
	c.local, c.peer = tp.Addrs()
	beyond, full := limitPendingLogins, false
	var p *peer
	if !crowded {
		p, beyond, full = e.gate.enter(c.peer.Addr(), sh.r.Now(), &opt)
	}
	c.gatePeer, c.inPending = p, p != nil
	sh.add(c)
	c.id = sh.nextID<<8 | uint64(sh.r.ID)
	sh.pending = append(sh.pending, c)
	c.seq.Window = &Window{}
	c.nop.Fire = c.timer
	if p == nil {
		e.reached(beyond, sh.r.Now(), "peer", c.peer)
		c.abandon(tp, errLimit)
		return
	}
	if !c.bindOuts() {
		c.abandon(tp, errNoMemory)
		return
	}
	c.startLogin()
	if full {
		sh.evict(limitPendingAddress, func(k *Connection) bool { return k.gatePeer == p && k != c }, c)
	}
	if len(sh.pending) > int(opt.MaxPendingLogins) {
		sh.evict(limitPendingLogins, func(*Connection) bool { return true }, c)
	}
	sh.r.Arm(&c.nop, sh.r.Now().Add(seconds(opt.LoginTimeout)))
	if err := tp.Start(c, &c.seq); err != nil {
		c.Closed(err)
	}
}

// abandon drops a connection that gets no login.
func (c *Connection) abandon(tp Conn, why error) {
	if err := tp.Start(c, &c.seq); err != nil {
		c.Closed(err)
		return
	}
	tp.Close(why)
}

// evict ends the oldest of the logins in progress that match picks, the newest
// connection when there is none: one that has not authenticated before one that
// has.
func (s *shard) evict(l limit, match func(*Connection) bool, newest *Connection) {
	victim := newest
	for _, k := range s.pending {
		if !match(k) || k.login != nil && k.login.done {
			continue // whose last response is on its way is in
		}
		if proven := k.login != nil && k.login.m.Authenticated(); victim == newest || !proven {
			victim = k
			if !proven {
				break
			}
		}
	}
	s.e.reached(l, s.r.Now(), "peer", victim.peer)
	s.e.Stats.LoginsEvicted.Add(1)
	s.unpend(victim) // so that the next one evicts another
	victim.settle()
	victim.tp.Close(errLoginEvicted)
}

// settle tells the gate that the login is over.
func (c *Connection) settle() {
	if c.inPending {
		c.inPending = false
		c.e.gate.settled(c.gatePeer)
	}
}

// bindOuts gives the connection's Outs their memory on its reactor.
func (c *Connection) bindOuts() bool {
	b, ok := c.sh.r.Arena.Alloc(ConnectionOuts * OutSlot)
	if !ok {
		return false
	}
	c.bind(b)
	return true
}

// bind has the connection's Outs lie in b.
func (c *Connection) bind(b mem.Ref) {
	c.slots, c.freeOuts, c.outCount = b, nil, 0
	for i := range c.outs {
		m := &c.outs[i]
		m.c = c
		m.Bind(b.Slice(uint32(i)*OutSlot, OutSlot))
		m.Done = m
		m.next, c.freeOuts = c.freeOuts, m
		c.outCount++
	}
}

// Closed implements Handler: the transport is done with the connection.
func (c *Connection) Closed(why error) {
	was := c.phase
	if c.attached {
		c.sess.unfenceTasks(c)
	}
	c.phase = phaseDead
	c.closedCounts(was, why)
	sh := c.sh
	if !plant.On(plant.LeakedTimer) {
		sh.r.Disarm(&c.nop)
	}
	sh.unpend(c)
	sh.remove(c)
	c.settle()
	if c.gatePeer != nil {
		c.e.gate.leave(c.gatePeer)
	}
	c.outWait, c.r2tHead = nil, nil
	c.unfence()
	if c.login != nil {
		c.login.drop(c)
	}
	if c.asks != nil {
		c.e.registry.forsake(c.asks)
	}
	c.dropData()
	if s := c.sess; s != nil {
		s.connClosed(c)
	} else if was == phaseLogin {
		c.e.Stats.LoginFailures.Add(1)
	}
	if !c.slots.Empty() {
		sh.free(c.slots)
		c.slots = mem.Ref{}
	}
	c.logClosed(was, why)
	over := func() {
		for _, fn := range c.onClosed {
			fn()
		}
	}
	if quiet := c.onQuiet; quiet != nil { // it failed while its tasks were ending
		c.onQuiet = func() {
			quiet()
			over()
		}
		return
	}
	over()
}

// settleTasks frees what only this connection kept: tasks that were aborted, while
// their data streamed in or to be told to whoever takes them over, unless there
// may still be somebody, and an early command whose data was streaming in; and marks
// that nothing streams any more.
func (c *Connection) settleTasks() {
	kept := !c.sess.ending && !c.leaving && c.sess.recovers()
	for t := range c.sess.claimed() {
		if t.conn != c {
			continue
		}
		streamed := t.stream
		t.stream, t.fetching = false, false
		switch {
		case streamed && c.sess.rec != nil && t.got == 0 && !pdu.SNLess(t.cmdSN, c.sess.window.ExpCmdSN) &&
			(t.state == taskData || t.state == taskExecuting):
			t.SCSI.Abort() // its command has not come whole
		case t.state == taskDraining && t.SCSI.View == nil && t.SCSI.Status == scsi.TaskAborted && kept:
			t.state = taskParked
		case t.state == taskHeld && streamed, // not on the session's list yet
			t.state == taskParked && t.SCSI.View == nil && !kept,
			t.state == taskDraining:
			c.sess.unfile(t)
			t.release()
		}
	}
}

func (c *Connection) logClosed(was phase, why error) {
	log := c.e.log.Debug
	if was == phaseFull {
		log = func(msg string, args ...any) { c.e.chat(c.sh.r.Now(), msg, args...) }
	}
	who, node := "", ""
	if c.sess != nil {
		who = c.sess.initiator
		if c.sess.node != nil {
			node = c.sess.node.cfg.Name
		}
	}
	log("connection closed", "id", c.id, "peer", c.peer, "initiator", who, "node", node, "why", fmt.Sprint(why))
}

// Drained implements Handler.
func (c *Connection) Drained() {
	switch {
	case c.closing != nil:
		c.tp.Close(c.closing)
	case c.login != nil:
		c.loginSent()
	}
}

// farewellLimit is how long the last PDUs of a connection may take to leave.
const farewellLimit = 5 * time.Second

// closeAfterSend ends the connection once all that is queued has left, or has
// had its time.
func (c *Connection) closeAfterSend(why error) {
	c.closing = why
	c.sh.r.Arm(&c.nop, c.sh.r.Now().Add(farewellLimit))
	c.tp.Drain()
}

// Header implements Handler.
//
//spindle:hot
func (c *Connection) Header(p *PDU) {
	c.n.PDUsIn++
	switch {
	case c.phase == phaseLogin:
		c.loginHeader(p)
		return
	case c.phase != phaseFull:
		return
	}
	switch p.BHS.Opcode() {
	case pdu.SCSICommand:
		c.commandHeader(p)
	case pdu.DataOut:
		c.dataOutHeader(p)
	default:
		c.otherHeader(p)
	}
}

// Received implements Handler.
//
//spindle:hot
func (c *Connection) Received(p *PDU) bool {
	if c.phase == phaseLogin {
		c.loginReceived(p)
		return true
	}
	if c.phase != phaseFull {
		return true // after logout nothing is taken, and nothing answered
	}
	c.lastRx = c.sh.r.Now()
	if c.outCount < outReserve {
		c.blocked = true
		return false
	}
	if c.acks { // no sooner: what that lets go takes Outs, and commandHeader has looked at those
		c.acknowledge(p.BHS.ExpStatSN())
	}
	switch p.BHS.Opcode() {
	case pdu.SCSICommand:
		c.commandReceived(p)
	case pdu.DataOut:
		c.dataOutReceived(p)
	default:
		c.otherReceived(p)
	}
	return true
}
