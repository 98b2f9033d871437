package iscsi

import (
	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
)

// MaxSNACKs is how many SNACK Requests of a connection may wait to be served.
const MaxSNACKs = 8

// snack is a SNACK Request that is being served: from up to end, one PDU after
// the other as the connection has room for them.
type snack struct {
	kind      uint8
	task      *Task // nil for a Status SNACK
	gen       uint32
	from, end uint32
	tag       uint32 // R-Data: for the response
	renewed   bool   // R-Data: its data has been cut anew
}

// snackRequest takes a SNACK Request (RFC 7143 §11.16). What was never sent, or
// has been acknowledged, is a protocol error of the initiator; what is kept no
// longer, or has been sent again too often, is refused.
func (c *Connection) snackRequest(b pdu.BHS) {
	if c.rec == nil {
		c.reject(b, pdu.RejectSNACK) // ErrorRecoveryLevel 0 recovers nothing
		return
	}
	if len(c.rec.asked) >= MaxSNACKs {
		c.e.reached(limitSNACK, c.sh.r.Now(), "peer", c.peer)
		c.reject(b, pdu.RejectSNACK)
		return
	}
	c.e.Stats.SNACKs.Add(1)
	var reason uint8
	switch b.SNACKType() {
	case pdu.SNACKData:
		reason = c.snackData(b)
	case pdu.SNACKStatus:
		reason = c.snackStatus(b)
	case pdu.SNACKDataAck:
		reason = c.snackAck(b)
	case pdu.SNACKRData:
		reason = c.snackRenew(b)
	default:
		reason = pdu.RejectInvalidField
	}
	if reason != 0 {
		c.reject(b, reason)
		return
	}
	c.serveSNACKs()
}

// run is the range a SNACK asks for among the numbers from first up to next.
func run(b pdu.BHS, first, next uint32) (from, end uint32, ok bool) {
	from, end = b.BegRun(), next
	n := b.RunLength()
	if n == 0 && from == 0 {
		return first, next, true // all that is not acknowledged
	}
	if n != 0 {
		end = from + n
	}
	// Serial arithmetic: neither the start nor the length may wrap around.
	ok = from-first < next-first && (n == 0 || n <= next-from)
	return from, end, ok
}

// snackStatus is a Status SNACK.
func (c *Connection) snackStatus(b pdu.BHS) uint8 {
	from, end, ok := run(b, c.acked, c.seq.StatSN)
	switch {
	case !ok:
		return pdu.RejectProtocol
	case pdu.SNLess(from, c.rec.forgotten):
		return pdu.RejectSNACK
	}
	c.rec.asked = append(c.rec.asked, snack{kind: pdu.SNACKStatus, from: from, end: end})
	return 0
}

// find returns the command of c that a SNACK is about: one in progress before
// one that has been answered.
func (c *Connection) find(itt uint32) *Task {
	s := c.sess
	if t := s.lookup(itt); t != nil && t.conn == c {
		return t
	}
	var found *Task
	for t := range s.claimed() {
		if t.conn == c && t.itt == itt && (t.state == taskResponding || t.state == taskRetained && t.record().held) {
			if found == nil || t.state == taskResponding || pdu.SNLess(found.record().statSN, t.record().statSN) {
				found = t
			}
		}
	}
	return found
}

// snackData is a Data or R2T SNACK.
func (c *Connection) snackData(b pdu.BHS) uint8 {
	t := c.find(b.ITT())
	if t == nil {
		return pdu.RejectProtocol
	}
	k := t.record()
	if t.state == taskData {
		return c.snackR2T(b, t, k)
	}
	if t.state != taskResponding && t.state != taskRetained {
		return pdu.RejectProtocol // nothing has been sent yet
	}
	from, end, ok := run(b, k.ackedSN, t.sentPDUs(k))
	if !ok || pdu.SNLess(from, k.baseSN) {
		return pdu.RejectProtocol
	}
	if t.reply.Data.Empty() || from == end {
		return 0
	}
	last := k.offset(end-1) + k.length(end-1, t.reply.Data.Len)
	return c.again(t, k, uint64(last-k.offset(from)), snack{kind: pdu.SNACKData, from: from, end: end})
}

// sentPDUs is the DataSN after the last Data-In PDU of t that has been sent; data
// that was cut anew has other numbers than it had.
func (t *Task) sentPDUs(k *record) uint32 {
	if k.apart {
		return k.pdus(t.reply.Data.Len)
	}
	return t.reply.DataSN
}

// again queues a SNACK for n bytes of t's data unless they have been sent often
// enough: a request of 48 bytes may not have megabytes sent for ever.
func (c *Connection) again(t *Task, k *record, n uint64, a snack) uint8 {
	limit := c.e.inventory.Load().opt.MaxSNACKReplays
	if limit > 0 && (k.resent+n > uint64(limit)*uint64(t.reply.Data.Len) || k.answers >= limit) {
		c.e.reached(limitSNACK, c.sh.r.Now(), "peer", c.peer)
		return pdu.RejectSNACK
	}
	k.resent += n
	a.task, a.gen = t, t.gen
	c.rec.asked = append(c.rec.asked, a)
	return 0
}

// snackR2T sends the outstanding R2T again.
func (c *Connection) snackR2T(b pdu.BHS, t *Task, k *record) uint8 {
	next := t.r2tSN
	first := next
	if k.r2tLen > 0 {
		first = k.r2tSN
	}
	from, end, ok := run(b, first, next)
	if !ok {
		return pdu.RejectProtocol
	}
	if from == end {
		return 0 // nothing outstanding
	}
	limit := c.e.inventory.Load().opt.MaxSNACKReplays
	if k.answers++; limit > 0 && k.answers > limit {
		c.e.reached(limitSNACK, c.sh.r.Now(), "peer", c.peer)
		return pdu.RejectSNACK
	}
	c.withOut(func(o *Out) {
		if t.gen != k.gen || t.conn != c || t.state != taskData || k.r2tLen == 0 {
			o.Stamp = StampNone
			c.misc(o).OutSent(o)
			return
		}
		f := Fetch{Out: o, LUN: t.lun, ITT: t.itt, TTT: t.ttt(), R2TSN: k.r2tSN,
			Offset: k.r2tOff, Data: t.SCSI.Data.Slice(k.r2tOff, k.r2tLen), task: t}
		c.tp.Fetch(&f)
	})
	return 0
}

// snackAck is a DataACK SNACK: the initiator has the data before BegRun (RFC 7143
// §11.16.2).
func (c *Connection) snackAck(b pdu.BHS) uint8 {
	ttt, s := b.TTT(), c.sess
	i := ttt & 0xffff
	if i >= uint32(len(s.tasks)) || b.RunLength() != 0 || b.ITT() != pdu.ReservedTag {
		return pdu.RejectInvalidDataAck
	}
	t := s.tasks[i]
	if t == nil || t.ttt() != ttt || t.conn != c || t.lun != b.LUN() || t.state != taskResponding && t.state != taskRetained {
		return pdu.RejectInvalidDataAck
	}
	k := t.record()
	if n := b.BegRun(); pdu.SNLess(n, k.ackedSN) || pdu.SNLess(t.sentPDUs(k), n) {
		return pdu.RejectInvalidDataAck
	}
	k.ackedSN = b.BegRun()
	return 0
}

// snackRenew is an R-Data SNACK: all data that is not acknowledged, cut into
// segments of today's size, and a response with the SNACK's tag (RFC 7143
// §11.16.3).
func (c *Connection) snackRenew(b pdu.BHS) uint8 {
	t := c.find(b.ITT())
	if t == nil || t.state != taskResponding && t.state != taskRetained {
		return pdu.RejectProtocol
	}
	if b.BegRun() != 0 || b.RunLength() != 0 || b.TTT() == 0 || b.TTT() == pdu.ReservedTag {
		return pdu.RejectInvalidField
	}
	k := t.record()
	n := t.reply.Data.Len
	if k.ackedSN != 0 {
		n -= min(n, k.offset(k.ackedSN))
	}
	return c.again(t, k, uint64(n), snack{kind: pdu.SNACKRData, tag: b.TTT()})
}

// serveSNACKs sends again what is asked for, as far as there are Outs. One that
// a dead transport hands back at once comes here again: it is served already.
func (c *Connection) serveSNACKs() {
	if rec := c.rec; !rec.serving {
		rec.serving = true
		c.serveAsked()
		rec.serving = false
	}
}

func (c *Connection) serveAsked() {
	for len(c.rec.asked) > 0 && c.outCount > outReserve && c.phase == phaseFull {
		a := &c.rec.asked[0]
		if a.kind == pdu.SNACKStatus {
			if pdu.SNLess(a.from, c.acked) {
				a.from = c.acked
			}
			if a.from != a.end && !pdu.SNLess(a.end, a.from) && !c.statusAgain(a.from) {
				return // it is being sent: the end of that comes here
			}
		} else if t := a.task; t.gen != a.gen || t.conn != c || t.state == taskRetained && !t.record().held {
			a.from = a.end // acknowledged meanwhile
		} else if a.kind == pdu.SNACKRData && !a.renewed {
			if t.state == taskResponding {
				return
			}
			a.from, a.end = t.record().renew(t, c.sendLimit(), a.tag)
			a.renewed = true
			continue
		} else if k := t.record(); a.kind == pdu.SNACKData && (pdu.SNLess(a.from, k.baseSN) || !pdu.SNLess(a.from, t.sentPDUs(k))) {
			a.from = a.end // cut anew meanwhile: there is no such PDU any more
		} else {
			c.dataAgain(t, k, a)
		}
		if a.from != a.end && !pdu.SNLess(a.end, a.from) {
			a.from++
		}
		if a.from == a.end || pdu.SNLess(a.end, a.from) {
			c.rec.asked = append(c.rec.asked[:0], c.rec.asked[1:]...)
		}
	}
}

// statusAgain sends the response with a StatSN once more: as it was, but for
// ExpCmdSN and MaxCmdSN. False: it has not left yet.
func (c *Connection) statusAgain(sn uint32) bool {
	for t := c.rec.head; t != nil; t = t.record().next {
		if k := t.record(); k.statSN == sn {
			c.answerAgain(t, k)
			return true
		}
	}
	limit := c.e.inventory.Load().opt.MaxSNACKReplays
	for _, k := range c.rec.statuses {
		if k.statSN() != sn {
			continue
		}
		if k.resent++; limit > 0 && k.resent > limit {
			c.e.reached(limitSNACK, c.sh.r.Now(), "peer", c.peer)
			return true
		}
		o := c.takeOut()
		m := c.misc(o)
		copy(o.BHS, k.bhs[:])
		o.Stamp, o.Data, m.replay = StampNone, mem.Ref{}, true
		switch {
		case k.n > 0 && !k.buf.Empty():
			o.Data = k.buf.Slice(0, k.n)
		case k.n > 0:
			o.Small(k.small[:k.n])
		}
		k.busy++
		m.then = func() {
			if k.busy--; k.busy == 0 && k.acked {
				k.drop(c)
			}
		}
		c.tp.Queue(o)
		return true
	}
	return pdu.SNLess(sn, c.rec.forgotten)
}

// answerAgain sends t's status once more, in the PDU that carried it.
func (c *Connection) answerAgain(t *Task, k *record) {
	if limit := c.e.inventory.Load().opt.MaxSNACKReplays; limit > 0 && k.answers >= limit {
		c.e.reached(limitSNACK, c.sh.r.Now(), "peer", c.peer)
		return
	}
	k.answers++
	o := c.copyOf(t, k)
	copy(o.BHS, t.reply.Out.BHS)
	if b := o.BHS; b.Opcode() == pdu.DataIn {
		if n := b.DataLen(); n > 0 {
			o.Data = t.reply.Data.Slice(b.Offset(), n)
		}
	} else if t.reply.Sense.Len > 0 {
		o.Small(t.reply.Sense.Bytes())
	}
	c.tp.Queue(o)
}

// copyOf takes an Out for something of t that is sent again.
func (c *Connection) copyOf(t *Task, k *record) *Out {
	o := c.takeOut()
	m := c.misc(o)
	o.Stamp, o.Data, m.replay = StampNone, mem.Ref{}, true
	k.busy++
	m.then = t.sentAgain
	return o
}

// dataAgain sends one Data-In PDU of t once more. The last one carried the
// status, unless that is a PDU of its own.
func (c *Connection) dataAgain(t *Task, k *record, a *snack) {
	p := &t.reply
	if a.from == k.pdus(p.Data.Len) { // after renewed data
		c.answerAgain(t, k)
		return
	}
	off, n := k.offset(a.from), k.length(a.from, p.Data.Len)
	end := off+n == p.Data.Len
	o := c.copyOf(t, k)
	h := pdu.DataInHeader{ITT: t.itt, DataLen: n, DataSN: a.from, Offset: off}
	if plant.On(plant.WrongCopy) {
		h.Offset++
	}
	if b := t.sess.params.maxBurst; end || b > 0 && (off+n)%b == 0 {
		h.Flags = pdu.FlagFinal
	}
	if end && p.Sense.Empty() && !k.apart {
		h.Flags |= pdu.FlagStatus | p.Flags
		h.Status, h.Residual, h.StatSN = p.Status, p.Residual, p.Out.BHS.StatSN()
	}
	h.Put(o.BHS)
	o.Data = p.Data.Slice(off, n)
	c.tp.Queue(o)
}

// renew cuts the data that is not acknowledged anew and makes the status a SCSI
// Response of its own. It returns the numbers of the PDUs, the response's last.
func (k *record) renew(t *Task, segment, tag uint32) (from, end uint32) {
	p := &t.reply
	k.baseOff = min(k.offset(k.ackedSN), p.Data.Len)
	k.baseSN, k.segment, k.apart = k.ackedSN, segment, true
	last := k.pdus(p.Data.Len)
	sn := p.Out.BHS.StatSN()
	p.SCSIResponse(last)
	p.Out.BHS.SetStatSN(sn)
	p.Out.BHS.SetTTT(tag) // RFC 7143 §11.4.4: the SNACK tag is where TTTs are
	return k.baseSN, last + 1
}

// offset is where the Data-In PDU of a DataSN starts. Sequences end at multiples
// of MaxBurstLength, whatever the first PDU starts at.
func (k *record) offset(sn uint32) uint32 {
	i := sn - k.baseSN
	first := (k.maxBurst - k.baseOff%k.maxBurst + k.segment - 1) / k.segment
	if i < first {
		return k.baseOff + i*k.segment
	}
	i -= first
	each := (k.maxBurst + k.segment - 1) / k.segment
	return k.baseOff - k.baseOff%k.maxBurst + k.maxBurst + i/each*k.maxBurst + i%each*k.segment
}

// length is how long that PDU's data segment is, of total bytes in all.
func (k *record) length(sn, total uint32) uint32 {
	off := k.offset(sn)
	return min(total-off, k.segment, k.maxBurst-off%k.maxBurst)
}

// pdus is the DataSN after the last Data-In PDU of total bytes.
func (k *record) pdus(total uint32) uint32 {
	if total <= k.baseOff {
		return k.baseSN
	}
	pieces := func(n uint32) uint32 { return (n + k.segment - 1) / k.segment }
	first := k.maxBurst - k.baseOff%k.maxBurst
	left := total - k.baseOff
	if left <= first {
		return k.baseSN + pieces(left)
	}
	left -= first
	return k.baseSN + pieces(first) + left/k.maxBurst*pieces(k.maxBurst) + pieces(left%k.maxBurst)
}
