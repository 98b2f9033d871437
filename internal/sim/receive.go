package sim

import (
	"slices"

	"spindle/iscsi/pdu"
	"spindle/scsi"
)

// message takes a PDU from the target.
func (in *initiator) message(b pdu.BHS, data []byte) {
	s := in.s
	if b.AHSLen() != 0 {
		in.bad("framing", "additional headers: % x", b)
	}
	s.mix(uint64(in.id)<<32 | uint64(b[0])<<24 | uint64(len(data)))
	if s.cfg.Trace {
		s.line("initiator %d.%d < %s", in.id, in.cid, brief(b, true))
	}
	if in.mute {
		return
	}
	if in.phase == loggingIn {
		in.loginResponse(b, data)
		return
	}
	in.pdu(b, data)
}

// bad is a violation of the protocol by the target.
func (in *initiator) bad(rule, format string, args ...any) {
	in.s.fail(rule, "initiator %d: "+format, append([]any{in.id}, args...)...)
}

// pdu takes a PDU in full feature phase.
func (in *initiator) pdu(b pdu.BHS, data []byte) {
	in.heard = true
	in.window(b)
	if len(in.replicas) > 0 && in.cameAgain(b, data) {
		return
	}
	in.answer(b, data)
	if op := b.Opcode(); op == pdu.SCSIResponse || op == pdu.TMFResponse || op == pdu.NopIn && b.ITT() != pdu.ReservedTag {
		in.loseStatus(b, data)
	}
}

// answer takes a PDU that came for the first time.
func (in *initiator) answer(b pdu.BHS, data []byte) {
	switch b.Opcode() {
	case pdu.DataIn:
		in.dataIn(b, data)
	case pdu.SCSIResponse:
		if in.penance.passed {
			in.penance = penance{}
		}
		in.statSN(b, true)
		in.response(b, data)
	case pdu.R2T:
		in.statSN(b, false)
		in.r2t(b)
	case pdu.NopIn:
		in.nopIn(b, data)
	case pdu.TMFResponse:
		in.statSN(b, true)
		if t := in.expectTask(b, kindManage); t != nil {
			in.managed(t, b.Response())
		}
	case pdu.TextResponse:
		in.statSN(b, true)
		in.text(b, data)
	case pdu.LogoutResp:
		in.statSN(b, true)
		in.loggedOut(b)
	case pdu.AsyncMessage:
		in.statSN(b, true)
		in.async(b, data)
	case pdu.Reject:
		in.statSN(b, true)
		in.rejected(b, data)
	default:
		in.bad("protocol", "opcode %#x: % x", b.Opcode(), b)
	}
}

// window checks ExpCmdSN and MaxCmdSN: they never retreat, the target does not
// acknowledge what was not sent, and does not promise more than it has tasks.
func (in *initiator) window(b pdu.BHS) {
	exp, most := b.ExpCmdSN(), b.MaxCmdSN()
	if pdu.SNLess(exp, in.lastExpCmd) || pdu.SNLess(in.cmdSN, exp) {
		in.bad("CmdSN window", "ExpCmdSN %d after %d, next is %d", exp, in.lastExpCmd, in.cmdSN)
	}
	if pdu.SNLess(most, in.lastMaxCmd) {
		in.bad("CmdSN window", "MaxCmdSN retreats from %d to %d", in.lastMaxCmd, most)
	}
	if n := int32(most - exp + 1); n < 0 || n > int32(in.s.depth) && !in.login.discovery {
		in.bad("CmdSN window", "window of %d commands (%d to %d), at most %d", n, exp, most, in.s.depth)
	} else if n == 0 {
		in.s.count(WindowShut)
	}
	in.lastExpCmd, in.lastMaxCmd = exp, most
	// One connection may tell less than another has told already (RFC 7143 §4.2.2.1).
	if pdu.SNLess(in.expCmdSN, exp) {
		in.expCmdSN = exp
	}
	if pdu.SNLess(in.maxCmdSN, most) {
		in.maxCmdSN = most
	}
}

// statSN checks StatSN, which a status consumes and others show (RFC 7143 §4.2.2.2).
func (in *initiator) statSN(b pdu.BHS, status bool) {
	if b.StatSN() != in.expStatSN {
		in.bad("StatSN", "%d, want %d: % x", b.StatSN(), in.expStatSN, b)
	}
	if status {
		in.expStatSN++
	}
}

// expectTask finds the task that b answers.
func (in *initiator) expectTask(b pdu.BHS, k taskKind) *task {
	t := in.find(b.ITT())
	switch {
	case t == nil && (b.Opcode() == pdu.R2T || b.Opcode() == pdu.DataIn && b.Flags()&pdu.FlagStatus == 0) &&
		slices.Contains(in.graves, grave{b.ITT(), true}):
	case t == nil && in.failing: // its function may have been answered because this connection was given up
	case t == nil && slices.ContainsFunc(in.graves, func(g grave) bool { return g.itt == b.ITT() }):
		in.bad("task management", "after the function that ended its task was answered: %s", brief(b, true))
	case t == nil:
		in.bad("one answer", "answer to a task that is none: %s", brief(b, true))
	case t.kind != k:
		in.bad("protocol", "wrong kind of answer to a %v: %s", t.kind, brief(b, true))
		return nil
	case t.conn != in.conn:
		in.bad("allegiance", "answer on connection %d to a task of connection %d: %s", in.cid, t.conn.cid, brief(b, true))
		return nil
	}
	return t
}

// dataIn checks a Data-In PDU (RFC 7143 §11.7).
func (in *initiator) dataIn(b pdu.BHS, data []byte) {
	t := in.expectTask(b, kindCommand)
	if t == nil {
		if b.Flags()&pdu.FlagStatus != 0 {
			in.statSN(b, true)
		}
		return
	}
	if in.overRDMA() {
		in.bad("protocol", "Data-In over iSER: %s", brief(b, true))
		return
	}
	fl := b.Flags()
	off := uint32(len(t.got))
	end := off + uint32(len(data))
	status := fl&pdu.FlagStatus != 0
	switch {
	case b.DataSN() != t.dataSN:
		in.bad("DataSN", "%d, want %d: %s", b.DataSN(), t.dataSN, brief(b, true))
	case b.Offset() != off || end > t.edtl || !t.read:
		in.bad("Data-In", "offset %d after %d bytes, %d expected: %s", b.Offset(), off, t.edtl, brief(b, true))
	case off/in.prm.maxBurst != (end-1)/in.prm.maxBurst:
		in.bad("Data-In", "a sequence goes beyond MaxBurstLength %d: %s", in.prm.maxBurst, brief(b, true))
	case status && fl&pdu.FlagFinal == 0:
		in.bad("Data-In", "status without F: %s", brief(b, true))
	case end%in.prm.maxBurst == 0 && fl&pdu.FlagFinal == 0:
		in.bad("Data-In", "a sequence of MaxBurstLength %d does not end: %s", in.prm.maxBurst, brief(b, true))
	case fl&pdu.FlagFinal != 0 && !status && end%in.prm.maxBurst != 0 && end < min(t.want, t.edtl) && t.class == classRead:
		in.bad("Data-In", "a sequence ends early: %s", brief(b, true))
	case b.TTT() != pdu.ReservedTag != (fl&pdu.FlagAck != 0) || fl&pdu.FlagAck != 0 && in.sess.level == 0:
		in.bad("Data-In", "tag without A bit, or A bit: %s", brief(b, true))
	}
	t.dataSN++
	t.got = append(t.got, data...)
	if end > in.prm.maxBurst {
		in.s.count(ReadsBursts)
	}
	if in.acks(b); !status {
		in.loseData(b, data)
		return
	}
	in.holdCopies(t.itt, b.StatSN())
	in.statSN(b, true)
	in.residual(t, b, b.Status())
	in.ended(t, b.Status(), nil)
}

// response takes a SCSI Response (RFC 7143 §11.4).
func (in *initiator) response(b pdu.BHS, data []byte) {
	t := in.expectTask(b, kindCommand)
	if t == nil {
		return
	}
	in.holdCopies(t.itt, b.StatSN())
	in.link.answered(t, b)
	switch {
	case b.Response() != pdu.RespCompleted:
		in.bad("protocol", "response code %d: %s", b.Response(), brief(b, true))
	case b.ExpDataSN() != t.dataSN+t.r2tSN && b.ExpDataSN() != t.dataSN && t.read:
		in.bad("DataSN", "ExpDataSN %d after %d Data-In PDUs", b.ExpDataSN(), t.dataSN)
	case len(data) == 1 || len(data) > 1 && int(be.Uint16(data)) > len(data)-2:
		in.bad("sense", "length %d in %d bytes", be.Uint16(append(data, 0)), len(data))
		return
	}
	var sense []byte
	if len(data) > 2 {
		sense = data[2 : 2+be.Uint16(data)]
	}
	if (b.Status() == byte(scsi.CheckCondition)) != (len(sense) > 0) {
		in.bad("sense", "%d bytes of sense with status %#x", len(sense), b.Status())
	}
	in.residual(t, b, b.Status())
	in.ended(t, b.Status(), sense)
}

// residual checks the residual count (RFC 7143 §11.4.5).
func (in *initiator) residual(t *task, b pdu.BHS, status uint8) {
	moved := uint32(0)
	switch {
	case status == byte(scsi.Good) && t.read && t.repliesAtLength():
		moved = in.replied(t, b)
	case status == byte(scsi.Good) && (t.read || t.write):
		moved = t.want
	case t.write && t.want > t.edtl && status == byte(scsi.CheckCondition):
		moved = t.want // at the latest then it is told that the length was short
		if b.Flags()&6 == pdu.FlagUnderfl {
			moved = 0
		}
	}
	exp := t.edtl
	if !t.read && !t.write {
		exp = 0
	}
	flags, res := byte(0), uint32(0)
	switch {
	case moved > exp:
		flags, res = pdu.FlagOverflow, moved-exp
	case moved < exp:
		flags, res = pdu.FlagUnderfl, exp-moved
	}
	if got := b.Flags() & (pdu.FlagOverflow | pdu.FlagUnderfl | pdu.FlagBidiOver | pdu.FlagBidiUnd); got != flags || b.Residual() != res {
		in.bad("residual", "%d with flags %#x, want %d with %#x: %d bytes moved of %d: %s", b.Residual(), got, res, flags, moved, exp, brief(b, true))
	}
	if res != 0 && status == byte(scsi.Good) {
		in.s.count(Residuals)
	}
	if t.read && status == byte(scsi.Good) && uint32(len(t.got)) != min(moved, exp) {
		in.bad("Data-In", "%d bytes came, %d are due: %s", len(t.got), min(moved, exp), brief(b, true))
	}
}

// replied is how much a command with a reply of its own length moved: that is
// told by the residual, and what is told must fit what came.
func (in *initiator) replied(t *task, b pdu.BHS) uint32 {
	n := uint32(len(t.got))
	if b.Flags()&pdu.FlagOverflow != 0 {
		n += b.Residual()
	}
	if n > t.want {
		in.bad("residual", "a reply of %d bytes, %d allocated: %s", n, t.want, brief(b, true))
	}
	return n
}

// r2t checks an R2T and plans its answer (RFC 7143 §11.8).
func (in *initiator) r2t(b pdu.BHS) {
	t := in.expectTask(b, kindCommand)
	if t == nil {
		return
	}
	n, p := b.Desired(), &in.prm
	if t.r2tSN == 0 && t.write && b.Offset() == t.immediate {
		// A command that waits for others to come first need not keep what follows
		// it unasked (RFC 7143 §11.8: every R2T within the command is honoured).
		t.asked = t.immediate
	}
	if t.moved && b.Offset() <= t.asked && !pdu.SNLess(b.DataSN(), t.r2tSN) {
		t.asked, t.r2tSN = b.Offset(), b.DataSN()
	}
	t.moved = false
	if t.spoiled && !t.recovered && b.Offset() == t.spoiledAt {
		in.s.count(R2TsRecovering)
		t.recovered, t.asked = true, t.spoiledAt
	}
	switch {
	case in.overRDMA():
		in.bad("R2T", "over iSER: %s", brief(b, true))
	case !t.write:
		in.bad("R2T", "for a task that moves no data: %s", brief(b, true))
	case b.DataSN() != t.r2tSN:
		in.bad("R2TSN", "%d, want %d: %s", b.DataSN(), t.r2tSN, brief(b, true))
	case b.Offset() != t.asked:
		in.bad("R2T", "asks from %d on, want %d: %s", b.Offset(), t.asked, brief(b, true))
	case n == 0 || n > p.maxBurst || b.Offset()+n > t.edtl:
		in.bad("R2T", "for %d bytes, MaxBurstLength is %d, the command has %d: %s", n, p.maxBurst, t.edtl, brief(b, true))
	case t.r2ts >= p.outstanding:
		in.bad("R2T", "more than MaxOutstandingR2T %d: %s", p.outstanding, brief(b, true))
	case b.TTT() == pdu.ReservedTag:
		in.bad("R2T", "without a tag: %s", brief(b, true))
	}
	if in.s.failed() {
		return
	}
	if in.s.count(WritesR2T); t.r2tSN > 0 {
		in.s.count(WritesBursts)
	}
	t.r2tSN++
	t.r2ts++
	t.asked += n
	if in.phase != full { // what was sent last is on its way, and no more
		return
	}
	in.bursts = append(in.bursts, burst{t: t, ttt: b.TTT(), off: b.Offset(), to: b.Offset() + n})
}

// nopIn takes the answer to a ping, a ping, or news of the window.
func (in *initiator) nopIn(b pdu.BHS, data []byte) {
	switch {
	case b.ITT() != pdu.ReservedTag:
		in.statSN(b, true)
		t := in.expectTask(b, kindPing)
		if t == nil {
			return
		}
		if n := min(len(t.data), int(in.prm.maxRecv)); len(data) != n && len(data) != 0 || string(data) != string(t.data[:len(data)]) {
			in.bad("ping", "%d bytes came back of %d, or others", len(data), len(t.data))
		} else if len(data) == 0 && n > 0 && in.s.arenaFailures() == 0 {
			in.bad("ping", "nothing came back of %d bytes", n)
		}
		in.paid(t)
		in.informedBy(t)
		in.remove(t)
	case b.TTT() != pdu.ReservedTag:
		in.statSN(b, false)
		in.s.count(PingsOfTarget)
		p := in.header(pdu.NopOut)
		p.SetImmediate()
		p.SetFlags(pdu.FlagFinal)
		p.SetLUN(b.LUN())
		p.SetITT(pdu.ReservedTag)
		p.SetTTT(b.TTT())
		p.SetCmdSN(in.cmdSN)
		p.SetExpStatSN(in.acknowledged())
		in.send(p, nil)
	default:
		in.statSN(b, false)
		in.s.count(WindowTold)
	}
}
