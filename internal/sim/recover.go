package sim

import (
	"bytes"
	"slices"

	"spindle/iscsi"
	"spindle/iscsi/pdu"
)

// ErrorRecoveryLevel 1 and 2 (RFC 7143 §7.8, §11.16): data that arrives broken is
// asked for again by R2T, a request of which nothing counted is sent again, and
// what an initiator says it has lost comes once more, the same. The model has
// what it asks for by SNACK: so it knows what the copy must be.

// replica is a PDU that was asked for again.
type replica struct {
	conn  *conn
	bhs   [pdu.HeaderLen]byte
	data  []byte
	held  bool   // its task's status, statSN, may not be acknowledged before
	stat  uint32 // ...
	snack uint8
}

// acknowledged is the ExpStatSN to send: nothing is acknowledged that is to come
// once more.
func (in *initiator) acknowledged() uint32 {
	sn := in.expStatSN
	for i := range in.replicas {
		if c := &in.replicas[i]; c.conn == in.conn && c.held && pdu.SNLess(c.stat, sn) {
			sn = c.stat
		}
	}
	return sn
}

// loses decides whether a PDU counts as lost.
func (in *initiator) loses(one int) bool {
	return in.sess.level > 0 && in.phase == full && len(in.replicas) < 4 && in.s.chance(one)
}

// loseData asks for a Data-In PDU again.
func (in *initiator) loseData(b pdu.BHS, data []byte) {
	if b.Flags()&(pdu.FlagStatus|pdu.FlagAck) != 0 || !in.loses(60) {
		return
	}
	in.s.count(DataSNACKs)
	in.again(pdu.SNACKData, b, data, b.ITT(), b.DataSN())
}

// loseStatus asks for a response again.
func (in *initiator) loseStatus(b pdu.BHS, data []byte) {
	if in.link == nil || in.s.failed() || !in.loses(30) {
		return
	}
	in.s.count(StatusSNACKs)
	in.again(pdu.SNACKStatus, b, data, pdu.ReservedTag, b.StatSN())
}

func (in *initiator) again(kind uint8, b pdu.BHS, data []byte, itt, from uint32) {
	c := replica{conn: in.conn, data: bytes.Clone(data), snack: kind}
	copy(c.bhs[:], b)
	if kind == pdu.SNACKStatus {
		c.held, c.stat = true, b.StatSN()
	}
	in.replicas = append(in.replicas, c)
	in.snack(kind, itt, pdu.ReservedTag, 0, from, 1)
}

// snack sends a SNACK Request.
func (in *initiator) snack(kind uint8, itt, ttt uint32, lun uint64, from, n uint32) {
	b := in.header(pdu.SNACK)
	b.SetFlags(pdu.FlagFinal | kind)
	b.SetLUN(lun)
	b.SetITT(itt)
	b.SetTTT(ttt)
	b.SetExpStatSN(in.acknowledged())
	b.SetBegRun(from)
	b.SetRunLength(n)
	in.send(b, nil)
}

// acks answers the A bit: what came so far needs not be kept (RFC 7143 §11.7.2).
func (in *initiator) acks(b pdu.BHS) {
	lost := func(c replica) bool { return c.snack == pdu.SNACKData && pdu.BHS(c.bhs[:]).ITT() == b.ITT() }
	if b.Flags()&pdu.FlagAck == 0 || in.phase != full || slices.ContainsFunc(in.replicas, lost) {
		return
	}
	in.s.count(DataACKs)
	in.snack(pdu.SNACKDataAck, pdu.ReservedTag, b.TTT(), b.LUN(), b.DataSN()+1, 0)
}

// cameAgain takes a PDU that was asked for again, false when it is none.
func (in *initiator) cameAgain(b pdu.BHS, data []byte) bool {
	is := func(c replica) bool {
		o := pdu.BHS(c.bhs[:])
		if c.conn != in.conn || o.Opcode() != b.Opcode() || o.ITT() != b.ITT() {
			return false
		}
		if c.snack == pdu.SNACKStatus {
			return o.StatSN() == b.StatSN()
		}
		return o.DataSN() == b.DataSN() && b.Flags()&pdu.FlagStatus == 0
	}
	i := slices.IndexFunc(in.replicas, is)
	if i < 0 {
		return false
	}
	want := &in.replicas[i]
	got := bytes.Clone(b)
	copy(got[28:36], want.bhs[28:36]) // ExpCmdSN, MaxCmdSN
	if !bytes.Equal(got, want.bhs[:]) || !bytes.Equal(data, want.data) {
		in.bad("SNACK", "sent again % x with %d bytes, was % x with %d", []byte(b), len(data), want.bhs, len(want.data))
	}
	in.s.count(CopiesReceived)
	in.replicas = slices.Delete(in.replicas, i, i+1)
	return true
}

// holdCopies is the status of a command: while a copy of its data is to come it
// is not acknowledged.
func (in *initiator) holdCopies(itt, stat uint32) {
	for i := range in.replicas {
		if c := &in.replicas[i]; c.conn == in.conn && c.snack == pdu.SNACKData && pdu.BHS(c.bhs[:]).ITT() == itt && !c.held {
			c.held, c.stat = true, stat
		}
	}
}

// snackRejected takes a Reject of a SNACK Request: only what the target keeps no
// longer may be refused.
func (in *initiator) snackRejected(b pdu.BHS, about pdu.BHS) {
	i := slices.IndexFunc(in.replicas, func(c replica) bool {
		o := pdu.BHS(c.bhs[:])
		return c.conn == in.conn && c.snack == about.SNACKType() &&
			(c.snack == pdu.SNACKStatus && o.StatSN() == about.BegRun() || c.snack == pdu.SNACKData && o.ITT() == about.ITT() && o.DataSN() == about.BegRun())
	})
	if in.keeps() || i < 0 && about.SNACKType() != pdu.SNACKDataAck {
		in.bad("SNACK", "Reject, reason %#x, of % x", b.Response(), []byte(about))
		return
	}
	in.s.count(SNACKsRefused)
	if i >= 0 {
		in.replicas = slices.Delete(in.replicas, i, i+1)
	}
}

// keeps tells whether the target keeps whatever it has answered, for certain: it
// keeps as many commands as its window is wide, and gives them up when memory is
// short. On several connections, or with immediate commands, more can be answered
// before we acknowledge one; it counts what it gave up for that.
func (in *initiator) keeps() bool {
	gaveUp := func(c iscsi.Counter) bool { return c.Name == "limit_retained_data" && c.Value != 0 }
	return in.s.depth >= 32 && in.s.arenaFailures() == 0 && !(in.crowds && slices.ContainsFunc(in.s.engine.Counters(), gaveUp))
}

// uncopied fails when something that was asked for has not come again.
func (in *initiator) uncopied() {
	for i := range in.replicas {
		if c := &in.replicas[i]; in.keeps() && c.conn.link != nil && c.conn.excused == "" && c.conn.phase == full {
			in.bad("SNACK", "not sent again: % x", c.bhs)
		}
	}
}

// spoil sends a Data-Out PDU that is broken once, at ErrorRecoveryLevel 1 and 2:
// it is asked for again, and the command suffers nothing.
func (in *initiator) spoil(t *task, b pdu.BHS, data []byte) {
	others := 0
	for i := range in.bursts {
		if in.bursts[i].t == t {
			others++
		}
	}
	last := t.asked >= min(t.want, t.edtl) || t.r2ts == 0 || in.prm.outstanding == 1
	if t.spoiled || others > 1 || !last {
		in.send(b, data)
		return
	}
	in.s.count(DataSpoiled)
	t.spoiled, t.spoiledAt = true, b.Offset()
	if !in.prm.dataDigest {
		b.SetDataSN(b.DataSN() + 1)
		in.send(b, data)
		return
	}
	in.send(b, data)
	in.tcp.corrupt(-1, 1)
}

// retry sends a ping again whose data was broken: it did not count.
func (in *initiator) retry(t *task) {
	in.s.count(RequestsSentAgain)
	t.broken, t.maybe = false, false
	b := in.header(pdu.NopOut)
	b.SetFlags(pdu.FlagFinal)
	if t.imm {
		b.SetImmediate()
	}
	b.SetITT(t.itt)
	b.SetTTT(pdu.ReservedTag)
	b.SetCmdSN(t.cmdSN)
	b.SetExpStatSN(in.acknowledged())
	in.send(b, t.data[:min(len(t.data), int(in.prm.maxSend))])
}
