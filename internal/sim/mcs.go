package sim

import (
	"slices"
	"time"

	"spindle/iscsi/pdu"
)

// Sessions of several connections (RFC 7143 §4.2.2, §6.3.4, §11.14): the command
// window is one, what else there is belongs to each. A connection joins, is
// logged out by itself or by another, is taken the place of, or is lost, and the
// session with it.

// sentSN is a CmdSN that the target may not have received.
type sentSN struct {
	sn uint32
	by *conn
}

// closeLimit is how long the target may keep a connection open that has no
// session any more: its last words are 5 s, and the network may stall before
// and behind them.
const closeLimit = 30 * time.Second

// joining tells whether a login is on its way.
func (in *initiator) joining() bool {
	return slices.ContainsFunc(in.conns, func(c *conn) bool { return c.phase == loggingIn })
}

// other is another connection in full feature phase, nil when there is none.
func (in *initiator) other(c *conn) *conn {
	for _, k := range in.conns {
		if k != c && k.phase == full {
			return k
		}
	}
	return nil
}

// connects does something about the session's connections now and then, and
// tells whether it has.
func (in *initiator) connects() bool {
	r := in.rng
	if in.overRDMA() || in.joining() || in.failing || in.sess.level > 0 {
		return false
	}
	if len(in.adrift) > 0 {
		v := in.adrift[0]
		in.adrift = in.adrift[1:]
		switch r.IntN(5) {
		case 0:
			in.abandon()
		case 1, 2:
			in.logoutOf(v)
		default:
			in.join(v)
		}
		return true
	}
	n := len(in.conns)
	switch {
	case n < int(in.sess.connections) && r.IntN(8) == 0, r.IntN(400) == 0:
		in.join(nil)
	case n > 1 && r.IntN(60) == 0:
		in.join(in.other(in.conn))
	default:
		return false
	}
	return true
}

// join opens another connection, or one that takes the place of v.
func (in *initiator) join(v *conn) {
	s, was := in.s, in.conn
	cid := uint16(in.id)
	for in.hasCID(cid) {
		cid += maxInitiators
	}
	if v != nil {
		cid = v.cid
		if v.done = true; in.sess.level < 2 { // or its tasks go on
			in.part(v, "another takes its place")
		}
	}
	c := newConn(cid)
	c.joins, c.replaces = true, v
	in.conn = c
	in.roll()
	p := s.portals[in.portal]
	if err := in.dialTCP(p); err != nil {
		in.refusals(s, p)
		if in.conn = was; v != nil {
			in.giveIn()
		}
		return
	}
	in.phase, in.dialled, in.failures = loggingIn, in.began, s.arenaFailures()
	if v != nil && v.excused != "" && v.excused != "another takes its place" {
		c.excuse(v.excused)
	}
	for _, k := range in.conns {
		if !k.done && k.excused != "" { // the session may end
			c.excuse(k.excused)
		}
	}
	in.prm = in.sess
	in.prm.headerDigest, in.prm.dataDigest = false, false
	in.prm.maxRecv, in.prm.maxSend = defaults.maxRecv, defaults.maxSend
	in.login = login{ours: in.drawKeys(), offered: map[string]bool{}, stage: pdu.StageOperational, itt: in.nextITT}
	if in.dice.IntN(3) == 0 {
		in.login.stage = pdu.StageSecurity
	}
	in.drawProof()
	in.nextITT++
	in.sendLogin()
}

func (in *initiator) hasCID(cid uint16) bool {
	is := func(c *conn) bool { return c.cid == cid }
	return slices.ContainsFunc(in.conns, is) || slices.ContainsFunc(in.adrift, is) ||
		slices.ContainsFunc(in.tasks, func(t *task) bool { return t.victim != nil && is(t.victim) })
}

// joined opens full feature phase on a connection that joins.
func (in *initiator) joined(b pdu.BHS) {
	s, c := in.s, in.conn
	in.phase = full
	in.lastExpCmd, in.lastMaxCmd = b.ExpCmdSN(), b.MaxCmdSN()
	in.window(b)
	if b.TSIH() != in.tsih {
		in.bad("login", "TSIH %d for a connection of session %d", b.TSIH(), in.tsih)
	}
	if u := in.loginUser(); u != in.user {
		in.bad("authentication", "user %q joined the session of user %q", u, in.user)
	}
	s.count(ConnectionsJoined)
	if v := c.replaces; v != nil {
		s.count(ConnectionsReplaced)
		if in.sess.level < 2 {
			in.forget(v, "another connection took its place")
		} else {
			c.joins = false // it is all that the session has, and may be lost as well
			in.takesOver(v)
		}
	}
	n := 0
	for _, k := range in.conns {
		if k.phase == full && k.excused == "" {
			n++
		}
	}
	if n > int(in.sess.connections) {
		in.bad("session", "%d connections, MaxConnections is %d", n, in.sess.connections)
	}
	if in.failing {
		in.doom(c, "its session was failing")
	}
}

// mayRefuseJoin tells whether a connection may be refused the session.
func (in *initiator) mayRefuseJoin(st pdu.LoginStatus) bool {
	if !in.joins {
		return false
	}
	others := 0
	shaky := in.failing || in.s.coldOpen > 0 || in.began < in.s.coldOver || in.excused != "" || len(in.adrift) > 0
	for _, k := range in.conns {
		if k != in.conn && k != in.replaces {
			others++
			shaky = shaky || k.excused != "" || k.failures != in.s.arenaFailures()
		}
	}
	switch st {
	case pdu.LoginNoSession:
		return shaky
	case pdu.LoginTooManyConns:
		in.s.count(ConnectionsTooMany)
		return shaky || others >= int(in.sess.connections) || in.s.clk.T.Sub(in.parted) < closeLimit
	}
	return false
}

// joinFailed is the end of a connection that did not come to join.
func (in *initiator) joinFailed(c *conn) {
	switch {
	case c.replaces != nil:
		in.giveIn() // whether the other one has ended nobody knows
	case !c.denial:
		in.excuse("a connection may have joined its session, and is lost")
	}
}

// part is the end of v by our will: its end ends nothing else, and its tasks
// need not be answered any more.
func (in *initiator) part(v *conn, why string) {
	v.done = true
	v.bursts = v.bursts[:0]
	if v.link != nil {
		v.excuse(why)
		v.phase, v.parting = loggingOut, in.s.clk.T
	}
	in.parted = in.s.clk.T
	in.excuseTasksOf(v)
}

func (in *initiator) excuseTasksOf(v *conn) {
	for _, t := range in.tasks {
		if t.conn == v {
			t.maybe = true
			t.excuses++
		}
	}
}

// forget is the certain end of v and its tasks: none of them may reach the medium
// any more.
func (in *initiator) forget(v *conn, why string) {
	if v.link != nil {
		was := in.conn
		in.conn = v
		in.drop()
		in.conn = was
	}
	in.endTasks(v, why)
	in.plug(v)
}

// endTasks is the end of v's tasks.
func (in *initiator) endTasks(v *conn, why string) {
	in.parted = in.s.clk.T
	for _, t := range slices.Clone(in.tasks) {
		if t.conn != v {
			continue
		}
		if t.victim != nil { // nobody has told of its end
			t.victim.again = true
			in.adrift = append(in.adrift, t.victim)
		}
		if t.kind == kindManage {
			in.mended = true
			if in.maybeAll(t); t.forSet() {
				in.overtakes(t)
				in.overAll(t, false)
			}
		}
		if t.kind == kindCommand {
			in.unanswered(t, in.s.now()) // its answer may have told of what has come since
		}
		in.s.over(t, unsure, why)
		in.remove(t)
	}
}

// plug fills the gaps that v may have left in the command window: what the
// target has not acknowledged of it, it will never receive (RFC 7143 §4.2.2.1).
func (in *initiator) plug(v *conn) {
	k := in.other(v)
	if k == nil {
		return
	}
	was := in.conn
	in.conn = k
	for i := range in.unacked {
		u := &in.unacked[i]
		if u.by != v || pdu.SNLess(u.sn, in.expCmdSN) {
			continue
		}
		in.s.count(GapsPlugged)
		t := in.newTask(kindPing)
		b := in.request(t, pdu.NopOut, pdu.FlagFinal, true)
		b[0] &^= pdu.FlagImmed
		b.SetCmdSN(u.sn)
		b.SetTTT(pdu.ReservedTag)
		t.cmdSN, t.imm, t.maybe, u.by = u.sn, false, true, k
		in.tasks = append(in.tasks, t)
		in.send(b, nil)
	}
	in.conn = was
}

// unacknowledged notes a CmdSN that goes by the connection at hand.
func (in *initiator) unacknowledged(sn uint32) {
	in.unacked = slices.DeleteFunc(in.unacked, func(u sentSN) bool { return pdu.SNLess(u.sn, in.expCmdSN) })
	in.unacked = append(in.unacked, sentSN{sn, in.conn})
}

// driftOff is a connection that vanishes from a session with others: the target
// does not hear of it.
func (in *initiator) driftOff() {
	c := in.conn
	in.s.count(ConnectionsAdrift)
	in.adrift = append(in.adrift, c)
	c.done = true
	in.excuse("a connection of its session vanished")
	in.excuseTasksOf(c)
	if in.drop(); in.stranded() {
		in.abandon()
	}
}

// loggingOut tells whether c has asked for its own end, and of nothing else, and
// has no answer: whether its session ends with it only the target knows.
func (in *initiator) loggingOut(c *conn) bool {
	return slices.ContainsFunc(in.tasks, func(t *task) bool {
		return t.kind == kindLogout && t.conn == c && t.victim == nil && !t.session
	})
}

// starved tells whether a connection that joined may have found no memory on the
// session's reactor: its loss ends the others, which may hear of it first.
func (in *initiator) starved() bool {
	return slices.ContainsFunc(in.conns, func(c *conn) bool { return c.joins && c.failures != in.s.arenaFailures() })
}

// stranded tells whether no connection is left that may do anything.
func (in *initiator) stranded() bool {
	return !in.failing && !slices.ContainsFunc(in.conns, func(c *conn) bool { return c.phase == full || c.phase == loggingIn })
}

// overtook tells whether a function for a set of tasks that is not answered yet may
// have found t although it does not cover it: then it ends with TASK ABORTED.
func (in *initiator) overtook(t *task) bool {
	return t.overtaken || slices.ContainsFunc(in.tasks, func(o *task) bool { return o.forSet() && t.overtakes(o) })
}

// overtakes tells whether t may be executed before the function m although it is
// not before it: by another connection, or because it waits for no turn and m does.
func (t *task) overtakes(m *task) bool {
	return t.kind == kindCommand && (m.lun < 0 || m.lun == t.lun) && !pdu.SNLess(t.cmdSN, m.cmdSN) &&
		(t.conn != m.conn || t.imm && m.call < t.call)
}

// overtakes is the success of m: the tasks that it does not cover may have come
// before it.
func (in *initiator) overtakes(m *task) {
	for _, t := range in.tasks {
		t.overtaken = t.overtaken || t.overtakes(m)
	}
}

// giveIn gives up a session whose connection could not be replaced.
func (in *initiator) giveIn() {
	if len(in.conns) == 0 {
		in.endSession()
		return
	}
	in.abandon()
}

// abandon gives the session up.
func (in *initiator) abandon() {
	in.excuse("we gave the session up")
	in.dropAll()
}

// failSession is the loss of one connection: at ErrorRecoveryLevel 0 the others
// end with it (RFC 7143 §7.1.4.4).
func (in *initiator) failSession(why string) {
	if in.failing {
		return
	}
	in.failing = true
	in.s.count(SessionsFailed)
	in.letGoAll()
	for _, c := range in.conns {
		in.doom(c, why)
	}
}

// doom says that the target has to close c.
func (in *initiator) doom(c *conn, why string) {
	c.excuse(why)
	c.bursts = c.bursts[:0]
	c.doomed = in.s.clk.T.Add(closeLimit)
	if len(in.adrift) > 0 { // what is being sent to that one ends when it is given up
		c.doomed = c.doomed.Add(time.Duration(in.s.plan.options.SendTimeout) * time.Second)
	}
	if c.phase == full {
		c.phase, c.parting = loggingOut, in.s.clk.T
	}
}

// closedInTime fails when the target has not closed a connection that it had to.
func (in *initiator) closedInTime() {
	if c := in.conn; c.doomed != 0 && c.doomed <= in.s.clk.T && !in.s.plan.slow {
		in.bad("session", "connection %d is open %v after its end was due (%s)", c.cid, closeLimit, c.excused)
	}
}

// logoutOf logs another connection out.
func (in *initiator) logoutOf(v *conn) {
	t := in.newTask(kindLogout)
	t.victim = v
	b := in.request(t, pdu.LogoutReq, pdu.FlagFinal|pdu.LogoutCloseConnection, true)
	b.SetCID(v.cid)
	in.part(v, "another connection logged it out")
	in.tasks = append(in.tasks, t)
	in.send(b, nil)
}
