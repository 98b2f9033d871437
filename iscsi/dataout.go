package iscsi

import (
	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/scsi"
)

// dataOutHeader finds the task of a Data-Out PDU and the place of its data. A
// tag that names nothing is data of a task that has ended: it is discarded.
//
//spindle:hot
func (c *Connection) dataOutHeader(p *PDU) {
	s, b := c.sess, p.BHS
	var t *Task
	if ttt := b.TTT(); ttt != pdu.ReservedTag {
		t = s.byTTT(ttt, b.ITT())
	} else if t = s.lookup(b.ITT()); t != nil && t.final {
		t = nil // nothing unsolicited is expected of it
	}
	if t != nil && t.state == taskHeld && t.conn == c && !plant.On(plant.UnaskedForgotten) {
		t.missed = true
	}
	if t == nil || t.state != taskData || t.conn != c || t.SCSI.Data.Empty() || t.fetching {
		return
	}
	p.Ctx = t
	t.stream = true
	off, n := b.Offset(), b.DataLen()
	if off != t.got || off >= t.need {
		return // wrong, or beyond what the command takes: judged when whole
	}
	p.Data = t.SCSI.Data.Slice(off, min(n, t.need-off))
}

// dataOutReceived accounts for a whole Data-Out PDU (RFC 7143 §11.7).
//
//spindle:hot
func (c *Connection) dataOutReceived(p *PDU) {
	if p.Ctx == nil {
		return
	}
	t, b := p.Ctx, p.BHS
	t.stream = false
	if t.state == taskDraining {
		t.drained()
		return
	}
	n := b.DataLen()
	switch {
	case p.BadData:
		c.reject(b, pdu.RejectDataDigest)
		if t.sess.rec != nil {
			t.dropPDU(b)
			return
		}
		t.abortWith(scsi.ProtocolCRC)
		return
	case b.DataSN() != t.dataSN || b.Offset() != t.got:
		if t.sess.rec != nil {
			t.dropPDU(b)
			return
		}
		t.abortWith(scsi.ProtocolCRC) // a PDU is missing: nothing is recovered at ERL 0
		return
	case t.got+n > t.burstEnd, t.final && t.got+n > t.asked: // the R2T may still wait for its turn
		t.abortWith(scsi.IncorrectDataAmount)
		return
	case t.final && b.Final() && t.got+n != t.burstEnd:
		t.abortWith(scsi.IncorrectDataAmount) // less than the R2T asked for
		return
	}
	t.dataSN++
	t.got += n
	if !b.Final() {
		return
	}
	t.endBurst()
}

// endBurst goes on after the last Data-Out PDU of a sequence.
//
//spindle:hot
func (t *Task) endBurst() {
	t.dataSN = 0
	if t.sess.rec != nil {
		t.record().r2tLen = 0
	}
	if t.final {
		t.r2ts--
	} else {
		t.final = true
		t.asked = min(t.got, t.need)
	}
	t.got = min(t.got, t.need)
	if t.got == t.need {
		t.execute()
		return
	}
	t.burstEnd = min(t.burstEnd+t.burst(t.burstEnd), t.need)
	t.solicit()
}

// burst is the length of the sequence that starts at off.
func (t *Task) burst(off uint32) uint32 { return min(t.sess.params.maxBurst, t.need-off) }

// solicit asks for the write data that is still missing, up to
// MaxOutstandingR2T at a time.
//
//spindle:hot
func (t *Task) solicit() {
	s, c := t.sess, t.conn
	if c.reads {
		t.fetching = true
		t.fetch = Fetch{
			LUN: t.lun, ITT: t.itt, TTT: t.ttt(), Offset: t.asked,
			Data: t.SCSI.Data.Slice(t.asked, t.need-t.asked), Cookie: t.reply.Cookie, task: t,
		}
		c.tp.Fetch(&t.fetch)
		return
	}
	if t.r2ts == 0 {
		t.burstEnd = t.asked + t.burst(t.asked)
	}
	for t.asked < t.need && t.r2ts < s.params.maxOutstandingR2T {
		if c.outCount <= outReserve {
			c.waitR2T(t)
			return
		}
		n := t.burst(t.asked)
		t.fetch = Fetch{
			Out: c.takeOut(), LUN: t.lun, ITT: t.itt, TTT: t.ttt(), R2TSN: t.r2tSN,
			Offset: t.asked, Data: t.SCSI.Data.Slice(t.asked, n), Cookie: t.reply.Cookie, task: t,
		}
		c.tp.Fetch(&t.fetch)
		if s.rec != nil {
			k := t.record()
			k.r2tSN, k.r2tOff, k.r2tLen = t.r2tSN, t.asked, n
		}
		if !plant.On(plant.WrongR2TSN) {
			t.r2tSN++
		}
		t.r2ts++
		t.asked += n
	}
}

// Fetched implements Handler: the write data that was missing is there.
//
//spindle:hot
func (c *Connection) Fetched(f *Fetch) {
	t := f.task
	t.fetching = false
	if t.state == taskDraining {
		t.drained()
		return
	}
	t.got = t.need
	t.execute()
}

// waitR2T queues t for an Out.
func (c *Connection) waitR2T(t *Task) {
	if t.r2tWait {
		return
	}
	t.r2tWait = true
	p := &c.r2tHead
	for *p != nil {
		p = &(*p).r2tNext
	}
	*p = t
}

// unwaitR2T takes an ending task out of the queue.
func (c *Connection) unwaitR2T(t *Task) {
	for p := &c.r2tHead; *p != nil; p = &(*p).r2tNext {
		if *p == t {
			*p, t.r2tNext = t.r2tNext, nil
			break
		}
	}
	t.r2tWait = false
}

// sendWaitingR2Ts serves the tasks that wait for an Out.
func (c *Connection) sendWaitingR2Ts() {
	for c.r2tHead != nil && c.outCount > outReserve {
		t := c.r2tHead
		c.r2tHead, t.r2tNext = t.r2tNext, nil
		t.r2tWait = false
		t.solicit()
	}
}
