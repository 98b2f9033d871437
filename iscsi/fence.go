package iscsi

import (
	"slices"
	"time"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// fenceLimit is how long an answer waits for the initiator to acknowledge what
// went before it on other connections, and others for it. An initiator that is
// silent for so long on one of them has no order left to be kept.
const fenceLimit = 5 * time.Second

// fence is the Response Fence of RFC 7143 §4.2.2.3.3 around one response. Its
// first half holds the response back until all that was answered before it on the
// session's other connections is acknowledged; without it the initiator might see
// the response to a reset before that of a task which ended ahead of the reset.
// Its second half, of a fence that is both, holds back what is answered later on
// other connections until the response is acknowledged, lest it be seen first. On
// the response's own connection StatSN keeps the order.
type fence struct {
	c     *Connection // the response's
	lun   uint64      // whose later responses wait
	every bool        // those of all LUNs do
	both  bool
	send  func()
	task  *Task // whose response it is; nil for that of a function

	waits int    // connections
	sent  bool   // the first half is over
	left  bool   // the response has left
	sn    uint32 // its StatSN, then
	asked bool
	timer reactor.Timer
}

// fenceWait is a fence that waits for one connection.
type fenceWait struct {
	f    *fence
	left bool   // the NOP-In that asks has left: all before it, too
	sn   uint32 // what has to be acknowledged then
}

// behind is what waits for a fence: a response, or another fence.
type behind struct {
	t *Task
	f *fence
}

// fence sends a response by way of f.
func (s *Session) fence(f *fence) {
	switch {
	case !s.shared, plant.On(plant.FenceForgotten):
		f.send()
	case s.fenced != nil:
		s.behind = append(s.behind, behind{f: f})
		s.hurry()
	default:
		s.raise(f)
	}
}

// raise begins the first half of f.
func (s *Session) raise(f *fence) {
	f.waits = 1
	for _, k := range s.conns {
		if k == f.c || k.phase != phaseFull {
			continue
		}
		if f.both {
			s.fenced = f
		}
		if k.unacknowledged() {
			f.waits++
			k.askFor(f)
		}
	}
	if f.waits > 1 {
		s.limit(f)
	}
	f.pass()
}

// limit bounds the half of f that begins.
func (s *Session) limit(f *fence) {
	f.timer.Fire = func(clock.Time) {
		f.waits = 0
		f.over()
	}
	s.sh.r.Arm(&f.timer, s.sh.r.Now().Add(fenceLimit))
}

// pass counts one connection less.
func (f *fence) pass() {
	if f.waits == 0 {
		return // its time was over
	}
	if f.waits--; f.waits == 0 {
		f.over()
	}
}

// over ends a half of f.
func (f *fence) over() {
	s := f.c.sess
	if f.sent {
		s.lower()
		return
	}
	s.sh.r.Disarm(&f.timer)
	f.sent = true
	f.send()
	switch {
	case s.fenced != f:
	case f.c.phase == phaseDead, f.c.closing != nil:
		s.lower()
	case len(s.behind) > 0:
		s.hurry()
	}
}

// hurry asks the initiator to acknowledge the response whose fence others wait
// for. Until there are any it may take its time.
func (s *Session) hurry() {
	f := s.fenced
	if f.sent && !f.asked {
		f.asked = true
		s.limit(f)
		f.c.nopIn(0)
	}
}

// leaves takes the StatSN of the response that f is about.
func (f *fence) leaves(sn uint32) {
	f.left, f.sn = true, sn
	f.c.passFence()
}

// passFence ends the fence around a response of c that is acknowledged.
func (c *Connection) passFence() {
	if f := c.sess.fenced; f != nil && f.c == c && f.left && pdu.SNLess(f.sn, c.acked) {
		c.sess.lower()
	}
}

// lower ends the fence that is up, and lets go of what waited for it.
func (s *Session) lower() {
	s.sh.r.Disarm(&s.fenced.timer)
	s.fenced = nil
	for s.fenced == nil && len(s.behind) > 0 {
		b := s.behind[0]
		s.behind = s.behind[1:]
		if b.f != nil {
			s.raise(b.f)
		} else {
			b.t.send()
		}
	}
	if s.fenced != nil && len(s.behind) > 0 {
		s.hurry()
	}
}

// fenced takes the response of t where a fence concerns it, its own or one before it.
func (t *Task) fenced() bool {
	s := t.sess
	if t.SCSI.Fences() {
		s.fence(&fence{c: t.conn, lun: t.lun, both: true, send: t.send, task: t})
		return true
	}
	if s.fenced == nil || !s.fenced.holds(t) && !slices.ContainsFunc(s.behind, func(b behind) bool { return b.f != nil && b.f.holds(t) }) {
		return false
	}
	s.behind = append(s.behind, behind{t: t})
	s.hurry()
	return true
}

// holds tells whether the response of t has to wait for f.
func (f *fence) holds(t *Task) bool {
	return f.both && (f.every || f.lun == t.lun) && (!f.sent || f.c != t.conn)
}

// send hands the response of t to its connection.
func (t *Task) send() {
	if t.conn.phase != phaseFull {
		t.unsent()
		return
	}
	t.conn.tp.Respond(&t.reply)
}

// unsent ends the response of a task whose connection has ended before it left.
func (t *Task) unsent() {
	t.reply.Unsent = true
	t.OutSent(&t.reply.Out)
	t.reply.Unsent = false
}

// unfenceTasks ends the responses of c's tasks that wait for or in a fence; of all
// connections, with c nil.
func (s *Session) unfenceTasks(c *Connection) {
	list := s.behind
	if s.fenced != nil && !s.fenced.sent {
		list = append([]behind{{f: s.fenced}}, list...)
	}
	s.behind = nil
	for _, b := range list {
		t := b.t
		if b.f != nil {
			t = b.f.task
		}
		mine := t != nil && (c == nil || t.conn == c)
		if mine {
			t.unsent()
		}
		if b.f != nil && mine {
			b.f.task, b.f.send = nil, func() {}
		}
		if b.f != s.fenced && (b.f != nil || !mine) {
			s.behind = append(s.behind, b)
		}
	}
}

// askFor has f wait for c: a NOP-In that wants an answer leaves after all that is
// queued, and its StatSN is what has to be acknowledged.
func (c *Connection) askFor(f *fence) {
	w := &fenceWait{f: f}
	c.fences = append(c.fences, w)
	c.withOut(func(o *Out) {
		c.fillNopIn(o, 0)
		c.misc(o).then = func() {
			w.left, w.sn = true, o.BHS.StatSN()
			c.passFences()
		}
		c.tp.Queue(o)
	})
}

// passFences lets pass what waited for nothing more than is acknowledged.
func (c *Connection) passFences() {
	list := c.fences
	c.fences = nil
	for _, w := range list {
		switch {
		case w.f.waits == 0: // its time was over
		case w.left && !pdu.SNLess(c.acked, w.sn):
			w.f.pass()
		default:
			c.fences = append(c.fences, w)
		}
	}
}

// unacknowledged tells whether a response of c has been handed over and may not
// have been acknowledged.
func (c *Connection) unacknowledged() bool {
	if c.acked != c.seq.StatSN || c.outCount != ConnectionOuts {
		return true
	}
	for t := range c.sess.claimed() {
		if t.conn == c && t.state == taskResponding && !slices.Contains(c.sess.behind, behind{t: t}) {
			return true
		}
	}
	return false
}

// acknowledge takes the ExpStatSN of a PDU. What was never sent cannot be
// acknowledged, and nothing twice.
func (c *Connection) acknowledge(sn uint32) {
	if !pdu.SNLess(c.acked, sn) || pdu.SNLess(c.seq.StatSN, sn) {
		return
	}
	c.acked = sn
	if c.rec != nil {
		c.releaseAcked()
	}
	if len(c.fences) > 0 {
		c.passFences()
	}
	c.passFence()
}

// unfence lets pass all that waited for c, which is no more.
func (c *Connection) unfence() {
	list := c.fences
	c.fences = nil
	for _, w := range list {
		w.f.pass()
	}
	if s := c.sess; s != nil && s.fenced != nil && s.fenced.c == c && s.fenced.sent {
		s.lower()
	}
}

// awaitCommands keeps a task set function that overtook commands: it affects all
// before it in the order of CmdSN, and those that other connections still bring
// must have come first (RFC 7143 §4.2.3.3, b). A target reset does not wait.
func (c *Connection) awaitCommands(b pdu.BHS) bool {
	s := c.sess
	switch b.TMF() {
	case pdu.TMFAbortTaskSet, pdu.TMFClearTaskSet, pdu.TMFLUNReset:
	default:
		return false
	}
	w := &s.window
	if !s.shared && len(s.joining) == 0 || !b.Immediate() || !pdu.SNLess(w.ExpCmdSN, b.CmdSN()) || pdu.SNLess(w.MaxCmdSN+1, b.CmdSN()) ||
		uint32(len(s.places)) <= s.reserved() || s.lookup(b.ITT()) != nil {
		return false
	}
	t := s.claim(c, b.ITT(), b.CmdSN())
	t.raw = true
	t.SCSI.Lend = false
	copy(t.bhs[:], b)
	s.hold(t)
	return true
}

// uncounted tells whether a held task is such a function, which has no place of
// its own in the order.
func (t *Task) uncounted() bool { return t.raw && pdu.BHS(t.bhs[:]).Immediate() }
