package sim

import (
	"slices"
	"time"

	"spindle/iscsi/pdu"
)

// act makes the next action of the script. Whatever it draws comes from a
// generator of its own, so that leaving others out does not change it.
func (in *initiator) act() {
	s := in.s
	n := in.next
	in.next++
	id := ActionID{in.id, n}
	if s.cfg.Drop[id] || s.cfg.Keep != nil && !s.cfg.Keep[id] {
		return
	}
	in.draw(n)
	r := in.rng
	s.rep.Actions = append(s.rep.Actions, id)
	s.acted()
	if r.IntN(3) == 0 {
		in.wake = s.clk.T.Add(time.Duration(r.IntN(300)) * time.Microsecond)
	}
	if in.asked && r.IntN(4) == 0 {
		in.logout()
		return
	}
	if in.connects() {
		return
	}
	// Without room in the window only immediate requests may go.
	shut := pdu.SNLess(in.maxCmdSN, in.cmdSN) || !in.link.room()
	k := r.IntN(1000)
	if s.plan.abortive && r.IntN(4) == 0 {
		k = 870 + r.IntN(56)
	}
	if s.leaving && r.IntN(6) == 0 {
		k = warmReset // which has to wait for the LUN that leaves, too
	}
	switch {
	case k < 850 && !shut:
		in.command()
	case k < 870:
		in.ping()
	case k < 910:
		in.abortTask()
	case k < 918:
		in.manage(pdu.TMFAbortTaskSet, in.someLUN())
	case k < 926:
		in.manage(pdu.TMFLUNReset, in.someLUN())
	case k < 930:
		in.manage(pdu.TMFClearTaskSet, in.someLUN())
	case k <= warmReset:
		in.manage(pdu.TMFWarmReset, -1)
	case k < 933:
		in.manage(pdu.TMFColdReset, -1)
	case k < 942 && !shut:
		in.swapped()
	case k < 954:
		in.breakWindow()
	case k < 962:
		s.count(Stalls)
		in.deaf = s.clk.T.Add(time.Duration(1+r.IntN(2000)) * time.Microsecond)
	case k < 966:
		in.wake = s.clk.T.Add(time.Duration(1+r.IntN(40)) * time.Second)
	case k < 974:
		in.logout()
	case k < 978:
		in.corrupt()
	case k < 982 && !shut:
		in.sendTargets()
	default:
		in.quit(k)
	}
}

// warmReset is the draw that makes a TARGET WARM RESET.
const warmReset = 931

func (in *initiator) someLUN() int {
	if c := in.s.plan.contended; c >= 0 && in.rng.IntN(2) == 0 {
		return c
	}
	return in.rng.IntN(len(in.s.luns))
}

// ping sends a NOP-Out that wants its data back.
func (in *initiator) ping() {
	r := in.rng
	in.s.count(Pings)
	t := in.newTask(kindPing)
	t.data = grow(t.data, pick(r, 0, 4, 100, 3000))
	for i := range t.data {
		t.data[i] = byte(r.Uint32())
	}
	b := in.request(t, pdu.NopOut, pdu.FlagFinal, pdu.SNLess(in.maxCmdSN, in.cmdSN) || r.IntN(2) == 0)
	b.SetTTT(pdu.ReservedTag)
	in.tasks = append(in.tasks, t)
	in.send(b, t.data[:min(len(t.data), int(in.prm.maxSend))])
}

// swapped sends two commands in the wrong order: the target has to execute them
// in that of their CmdSNs.
func (in *initiator) swapped() {
	if pdu.SNLess(in.maxCmdSN, in.cmdSN+1) {
		in.command()
		return
	}
	in.s.count(OutOfOrder)
	first := in.cmdSN
	in.plain = true
	in.cmdSN = first + 1
	in.command()
	in.cmdSN = first
	in.command()
	in.cmdSN = first + 2
	in.plain = false
}

// breakWindow sends a command that is outside the window for certain: it must
// vanish (RFC 7143 §4.2.2.1).
func (in *initiator) breakWindow() {
	in.s.count(WindowBroken)
	t := in.newTask(kindPing)
	b := in.request(t, pdu.SCSICommand, pdu.FlagFinal|pdu.AttrSimple, true)
	b[0] &^= pdu.FlagImmed
	sn := in.expCmdSN - 1 - uint32(in.rng.IntN(3))
	if in.rng.IntN(2) == 0 {
		sn = in.cmdSN + in.s.depth + uint32(in.rng.IntN(1000))
		if len(in.conns) > 1 {
			sn += 1000 // the others may move the window while it is on its way
		}
	}
	b.SetCmdSN(sn)
	in.send(b, nil) // TEST UNIT READY
	in.recycle(t)
}

// corrupt sends a request with a broken digest.
func (in *initiator) corrupt() {
	r := in.rng
	switch {
	case in.prm.headerDigest && r.IntN(2) == 0:
		in.s.count(BadHeaderDigests)
		at := len(in.tcp.tx)
		in.ping()
		in.tcp.corrupt(at+pdu.HeaderLen, 1<<r.IntN(8))
		in.excuse("header digest error") // RFC 7143 §7.7
	case in.prm.dataDigest:
		in.ping()
		t := in.tasks[len(in.tasks)-1]
		if len(t.data) == 0 {
			return
		}
		in.s.count(BadDataDigests)
		t.broken, t.maybe = true, true // a Reject answers it
		in.tcp.corrupt(-1, 1)
	default:
		in.ping()
	}
}

// sendTargets asks for the targets within a normal session.
func (in *initiator) sendTargets() {
	t := in.newTask(kindText)
	b := in.request(t, pdu.TextRequest, pdu.FlagFinal, false)
	b.SetTTT(pdu.ReservedTag)
	in.tasks = append(in.tasks, t)
	in.send(b, []byte("SendTargets=\x00"))
}

// logout ends the session in order, or one of its connections.
func (in *initiator) logout() {
	r := in.rng
	k := in.other(in.conn)
	if slices.ContainsFunc(in.tasks, func(t *task) bool { return t.kind == kindLogout }) {
		in.ping()
		return
	}
	several := len(in.conns) > 1 || len(in.adrift) > 0
	if several && k != nil && !in.joining() && r.IntN(3) == 0 {
		in.logoutOf(k)
		return
	}
	reason := pick(r, byte(pdu.LogoutCloseSession), pdu.LogoutCloseConnection)
	if several && (k == nil || in.joining() || len(in.adrift) > 0) {
		reason = pdu.LogoutCloseSession
	}
	t := in.newTask(kindLogout)
	t.session = reason == pdu.LogoutCloseSession || !several
	b := in.request(t, pdu.LogoutReq, pdu.FlagFinal|reason, true)
	b.SetCID(in.cid)
	in.tasks = append(in.tasks, t)
	in.send(b, nil)
	for _, c := range in.conns {
		if c == in.conn || t.session && c.phase == full {
			c.phase, c.parting, c.bursts = loggingOut, in.s.clk.T, c.bursts[:0]
		}
		if t.session && c != in.conn {
			c.excuse("its session is logged out")
			c.done = true
		}
	}
	if t.session {
		in.failing = true
		in.letGoAll()
	}
}

func (in *initiator) letGoAll() {
	for i := range in.units {
		in.letGo(i)
	}
}

// quit ends the connection without asking.
func (in *initiator) quit(k int) {
	s := in.s
	if in.dropping && len(in.conns) > 1 { // of two ends, one ends the session with it
		in.abandon()
		return
	}
	in.link.flush()
	broken := (k < 987 || k >= 991) && in.lives(in.conn)
	switch {
	case k < 987:
		s.count(Vanished)
		if in.link.vanish(); len(in.conns) > 1 && !in.failing {
			in.driftOff()
			return
		}
		in.leave(broken)
	case k < 991:
		s.count(HalfClosed)
		in.excuse("we closed our direction")
		in.link.halfClose()
		in.letGoAll()
		in.phase, in.parting = loggingOut, s.clk.T
		in.leaveOthers()
	case k < 995:
		s.count(ResetByPeer)
		in.link.reset()
		in.leave(broken)
		in.leaveOthers()
	default:
		s.count(ClosedByPeer)
		in.leave(broken)
		in.leaveOthers()
	}
}

// leave drops the connection, and its session unless that lives on.
func (in *initiator) leave(lives bool) {
	if lives {
		in.breakOff()
		return
	}
	in.drop()
}

// leaveOthers is the end of a connection by us without a word: the others end, too.
func (in *initiator) leaveOthers() {
	if n := len(in.conns); n > 1 || n == 1 && in.link == nil {
		in.failSession("we ended a connection of its session")
	}
}

// text takes a Text Response.
func (in *initiator) text(b pdu.BHS, data []byte) {
	t := in.expectTask(b, kindText)
	if t == nil {
		return
	}
	if b.Final() {
		in.remove(t)
		if in.login.discovery {
			in.logout()
		}
		return
	}
	// More follows: RFC 7143 §11.11.1.
	q := in.header(pdu.TextRequest)
	q.SetFlags(pdu.FlagFinal)
	q.SetImmediate()
	q.SetITT(t.itt)
	q.SetTTT(b.TTT())
	q.SetCmdSN(in.cmdSN)
	q.SetExpStatSN(in.acknowledged())
	in.send(q, nil)
}

// loggedOut takes a Logout Response: the tasks have ended.
func (in *initiator) loggedOut(b pdu.BHS) {
	t := in.expectTask(b, kindLogout)
	if t == nil {
		return
	}
	in.s.count(Logouts)
	gone := t.victim != nil && (in.failing || (t.victim.again || t.victim.dropping) && b.Response() == pdu.LogoutCIDNotFound)
	if b.Response() != pdu.LogoutSuccess && !gone {
		in.bad("logout", "response %d", b.Response())
	}
	in.remove(t)
	switch {
	case t.victim != nil:
		in.s.count(ConnectionsLoggedOutByOthers)
		in.forget(t.victim, "another connection logged it out")
	case t.session:
		for _, o := range in.tasks {
			in.s.over(o, unsure, "the session logged out")
		}
		in.tasks = in.tasks[:0]
		in.excuse("logged out")
		for _, c := range in.conns {
			c.done, c.mute = true, c != in.conn
			in.doom(c, "logged out")
		}
	default:
		in.s.count(ConnectionsLoggedOut)
		in.part(in.conn, "logged out")
		in.endTasks(in.conn, "its connection logged out")
		in.plug(in.conn)
		in.doom(in.conn, "logged out")
	}
}

// async takes an Asynchronous Message.
func (in *initiator) async(b pdu.BHS, data []byte) {
	if b.AsyncEvent() == pdu.AsyncLogoutRequest {
		in.s.count(LogoutsAsked)
		in.asked = true
		return
	}
	if b.AsyncEvent() == pdu.AsyncDropSession && (in.excused != "" || in.starved()) {
		in.s.count(SessionsDropped)
		in.failSession("the target drops the session")
		return
	}
	if b.AsyncEvent() == pdu.AsyncTasksTerminated {
		in.terminated(b)
		return
	}
	in.informed(b, data)
}

// rejected takes a Reject: it answers the request whose header it carries.
func (in *initiator) rejected(b pdu.BHS, data []byte) {
	in.s.count(Rejects)
	if len(data) < pdu.HeaderLen {
		in.bad("protocol", "Reject of nothing: % x", data)
		return
	}
	if about := pdu.BHS(data[:pdu.HeaderLen]); about.Opcode() == pdu.SNACK {
		in.snackRejected(b, about)
		return
	}
	t := in.find(pdu.BHS(data).ITT())
	ok := t != nil
	if ok {
		switch b.Response() {
		case pdu.RejectImmediate:
			ok = t.imm
		case pdu.RejectDataDigest:
			ok = t.broken || t.spoiled
		case pdu.RejectResources:
			ok = in.s.arenaFailures() > 0
		default:
			ok = false
		}
	}
	if !ok {
		in.bad("protocol", "Reject, reason %#x, of % x", b.Response(), data[:pdu.HeaderLen])
		return
	}
	if t.kind == kindLogout {
		in.phase, in.failing = full, false
		if t.victim != nil || len(in.conns) > 1 {
			in.abandon()
			return
		}
	}
	if in.sess.level > 0 && t.kind == kindPing && b.Response() == pdu.RejectDataDigest {
		in.retry(t)
		return
	}
	if t.kind == kindCommand && b.Response() == pdu.RejectDataDigest {
		return // its SCSI Response follows (RFC 7143 §7.8)
	}
	discovering := in.login.discovery
	in.s.over(t, without, "rejected")
	in.remove(t)
	if discovering {
		in.logout()
	}
}
