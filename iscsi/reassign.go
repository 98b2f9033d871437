package iscsi

import (
	"slices"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/scsi"
)

// lostConn is a connection that has failed, or was logged out to be recovered.
// At ErrorRecoveryLevel 2 its tasks wait for another to take them over.
type lostConn struct {
	conn  *Connection
	ready bool // logged out: its tasks may be reassigned (RFC 7143 §7.2.2)
	timer reactor.Timer
}

// MaxLost is how many connections that were lost a session keeps for the initiator to
// log out or recover, beyond MaxConnections; the oldest goes first.
const MaxLost = 8

// A Resender is a Conn that can send the rest of a Reply: from Reply.Off on, with
// Reply.DataSN as its first number.
type Resender interface{ Resend(p *Reply) }

// lose keeps what a connection that has failed leaves behind. At level 1 that is
// its CID, for the initiator to log out; its tasks are over. At level 2 its tasks
// stay until DefaultTime2Wait and DefaultTime2Retain have passed.
func (s *Session) lose(c *Connection) {
	q := &s.params
	told := c.recover // by the initiator, which knows
	s.forgetHeld(c)
	if c.recover = s.recovers(); c.recover {
		c.suspend()
	} else {
		c.quiesce(func() {})
	}
	l := &lostConn{conn: c, ready: told}
	s.rec.lost = append(s.rec.lost, l)
	l.timer.Fire = func(clock.Time) {
		s.forget(l, func() {})
		s.maybeClosed()
	}
	s.sh.r.Arm(&l.timer, s.sh.r.Now().Add(seconds(uint32(q.time2Wait)+uint32(q.time2Retain))))
	if len(s.rec.lost) > int(s.params.maxConnections)+MaxLost {
		s.e.reached(limitSessionConns, s.sh.r.Now(), "initiator", s.initiator)
		s.forget(s.rec.lost[0], func() {})
	}
	if k := s.serving(c); k != nil && !told {
		// It tells of the window, too: what did last may have died with the connection.
		k.async(pdu.AsyncDropConnection, c.cid, q.time2Wait, q.time2Retain)
	}
}

// recovers tells whether what a lost connection leaves may be taken over.
func (s *Session) recovers() bool {
	return s.params.errorRecoveryLevel == 2 && s.params.time2Retain > 0
}

// waits tells whether the session goes on without a connection.
func (s *Session) waits() bool {
	return !s.ending && s.rec != nil && slices.ContainsFunc(s.rec.lost, func(l *lostConn) bool { return l.conn.recover })
}

// lostCID finds the connection of a CID that was lost last.
func (s *Session) lostCID(cid uint16) (last *lostConn) {
	if s.rec == nil {
		return nil
	}
	for _, l := range s.rec.lost {
		if l.conn.cid == cid {
			last = l
		}
	}
	return last
}

// lostOf finds a connection among those that were lost: several may have had its
// CID, one after the other.
func (s *Session) lostOf(c *Connection) *lostConn {
	for _, l := range s.rec.lost {
		if l.conn == c {
			return l
		}
	}
	return nil
}

// forget gives up the tasks of a lost connection and calls done once none can
// reach the medium any more.
func (s *Session) forget(l *lostConn, done func()) {
	s.sh.r.Disarm(&l.timer)
	s.rec.lost = slices.DeleteFunc(s.rec.lost, func(k *lostConn) bool { return k == l })
	l.conn.recover = false
	l.conn.dropRetained()
	l.conn.quiesce(done)
}

// forgetAll ends what a session that ends keeps for lost connections.
func (s *Session) forgetAll() {
	for _, l := range slices.Clone(s.rec.lost) {
		s.forget(l, func() {})
	}
}

// suspend has the tasks of a dead connection wait where they are.
func (c *Connection) suspend() {
	s := c.sess
	for t := range s.claimed() {
		if t.conn != c {
			continue
		}
		t.r2tWait, t.r2tNext = false, nil
		if t.state == taskBuffer {
			s.sh.unwait(t)
			t.state = taskSuspended
		}
	}
}

// orphaned takes the result of a task that was aborted, or whose connection is not
// in full feature phase any more: kept for another to send, or nobody's.
func (t *Task) orphaned() {
	if t.conn.recover && !t.sess.ending && (!t.SCSI.Aborted() || t.SCSI.Status == scsi.TaskAborted) {
		t.park()
		return
	}
	t.vanish()
}

// park keeps a task that has its status. For the device server one that was
// aborted is over: the function that has ended it waits for no other connection.
func (t *Task) park() {
	if t.state = taskParked; t.SCSI.Aborted() {
		t.SCSI.End()
		t.SCSI.View = nil
	}
}

// reassign is TASK REASSIGN: the connection takes over a task of one that was
// logged out (RFC 7143 §7.2.2, §11.5.1).
func (c *Connection) reassign(b pdu.BHS) {
	s, itt := c.sess, b.ITT()
	t := s.lookup(b.RefTag())
	if t == nil && s.rec != nil {
		t = s.findRetained(b.RefTag())
	}
	var l *lostConn
	if t != nil && t.conn != c {
		l = s.lostOf(t.conn)
	}
	switch {
	case s.params.errorRecoveryLevel < 2:
		c.tmfResponse(itt, pdu.TMFNoReassign)
	case t == nil || t.raw || t.lun != b.LUN() || t.state == taskDraining:
		c.tmfResponse(itt, pdu.TMFNoTask)
	case l == nil || l.conn != t.conn || !l.ready:
		c.tmfResponse(itt, pdu.TMFTaskAllegiant)
	default:
		// The answer goes first; only then is the task this connection's. It may have
		// been given up by the time that there is room for that.
		exp, gen := b.ExpDataSN(), t.gen
		c.withOut(func(o *Out) {
			resp := uint8(pdu.TMFNoTask)
			if t.gen == gen && t.conn == l.conn && slices.Contains(s.rec.lost, l) {
				resp = pdu.TMFComplete
			}
			fillTMFResponse(o, itt, resp)
			c.tp.Queue(o)
			if resp == pdu.TMFComplete {
				s.e.Stats.Reassigned.Add(1)
				t.takeOver(c, exp)
			}
		})
	}
}

// findRetained finds an answered command, the latest of its tag.
func (s *Session) findRetained(itt uint32) *Task {
	var found *Task
	for t := range s.claimed() {
		if t.itt == itt && t.state == taskRetained && (found == nil || pdu.SNLess(found.cmdSN, t.cmdSN)) {
			found = t
		}
	}
	return found
}

// takeOver goes on with a task of a lost connection on c: what was asked of the
// initiator there is asked again, what was answered is answered again from the
// Data-In PDU exp on.
func (t *Task) takeOver(c *Connection, exp uint32) {
	old := t.conn
	t.order = uint32(c.n.PDUsIn)
	if plant.On(plant.TakenForgotten) {
		t.conn = c
		return
	}
	switch t.state {
	case taskExecuting:
		t.conn = c
	case taskParked:
		t.conn = c
		t.respond()
	case taskSuspended, taskData:
		t.conn = c
		t.dataSN, t.r2ts = 0, 0
		t.final = true // whatever was to come unasked has gone with the connection
		t.got = min(t.got, t.need)
		t.asked = t.got
		if t.SCSI.Data.Empty() && !t.getBuffer() {
			t.starve()
			return
		}
		t.buffered()
	case taskRetained:
		old.unlink(t)
		t.conn = c
		t.state = taskResponding
		k, p := t.record(), &t.reply
		p.Off, p.DataSN = 0, 0
		if last := k.pdus(p.Data.Len); exp != 0 && !plant.On(plant.ResumedAnew) && !pdu.SNLess(last, exp) && !pdu.SNLess(exp, k.baseSN) {
			p.Off, p.DataSN = min(k.offset(exp), p.Data.Len), exp
		}
		*k = record{gen: t.gen, segment: c.sendLimit(), maxBurst: k.maxBurst, baseOff: p.Off, baseSN: p.DataSN, ackedSN: p.DataSN}
		p.Segment = k.segment
		if p.Off == p.Data.Len {
			p.Data = mem.Ref{} // the initiator has it: the status alone is left
		}
		if r, ok := c.tp.(Resender); ok {
			r.Resend(p)
		} else {
			c.tp.Respond(p)
		}
	}
}

// unlink takes an answered command off its connection's list without letting go
// of it.
func (c *Connection) unlink(t *Task) {
	s, k := c.sess, t.record()
	var prev *Task
	for q := c.rec.head; q != nil; prev, q = q, q.record().next {
		if q != t {
			continue
		}
		if prev == nil {
			c.rec.head = k.next
		} else {
			prev.record().next = k.next
		}
		if c.rec.tail == t {
			c.rec.tail = prev
		}
		break
	}
	k.held, k.next = false, nil
	s.rec.bytes -= uint64(t.SCSI.Data.Len)
	s.rec.count--
}
