package iscsi

import (
	"time"

	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// fenceLimit is how long an answer waits for the initiator to acknowledge what
// went before it on other connections. An initiator that is silent for so long
// on one of them has no order left to be kept.
const fenceLimit = 5 * time.Second

// fence holds back a response until all that was answered before it on the
// session's other connections is acknowledged: the Response Fence of RFC 7143
// §4.2.2.3.3. Without it the initiator might see the response to a reset before
// that of a task which ended ahead of the reset.
type fence struct {
	waits int // connections
	done  func()
	timer reactor.Timer
}

// fenceWait is a fence that waits for one connection.
type fenceWait struct {
	f    *fence
	left bool   // the NOP-In that asks has left: all before it, too
	sn   uint32 // what has to be acknowledged then
}

// fence calls done when what c has to say may leave.
func (s *Session) fence(c *Connection, done func()) {
	if !s.shared {
		done()
		return
	}
	f := &fence{waits: 1, done: done}
	for _, k := range s.conns {
		if k != c && k.phase == phaseFull && k.unacknowledged() {
			f.waits++
			k.askFor(f)
		}
	}
	if f.waits > 1 {
		f.timer.Fire = func(clock.Time) {
			f.waits = 0
			f.done()
		}
		s.sh.r.Arm(&f.timer, s.sh.r.Now().Add(fenceLimit))
	}
	f.pass(s.sh.r)
}

// pass counts one connection less.
func (f *fence) pass(r *reactor.Reactor) {
	if f.waits == 0 {
		return // its time was over
	}
	if f.waits--; f.waits == 0 {
		r.Disarm(&f.timer)
		f.done()
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
		if w.left && !pdu.SNLess(c.acked, w.sn) {
			w.f.pass(c.sh.r)
		} else {
			c.fences = append(c.fences, w)
		}
	}
}

// unacknowledged tells whether a response of c may not have been acknowledged.
func (c *Connection) unacknowledged() bool {
	if c.acked != c.seq.StatSN || c.outCount != ConnectionOuts {
		return true
	}
	for i := range c.sess.tasks {
		if t := &c.sess.tasks[i]; t.conn == c && t.state == taskResponding {
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
}

// unfence lets pass all that waited for c, which is no more.
func (c *Connection) unfence() {
	list := c.fences
	c.fences = nil
	for _, w := range list {
		w.f.pass(c.sh.r)
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
	if !s.shared || !b.Immediate() || !pdu.SNLess(w.ExpCmdSN, b.CmdSN()) || pdu.SNLess(w.MaxCmdSN+1, b.CmdSN()) ||
		s.freeCount <= s.reserved() || s.lookup(b.ITT()) != nil {
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
