package iscsi

import (
	"slices"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
)

// attach opens full feature phase on the session for c.
func (s *Session) attach(c *Connection) {
	if c.joins {
		s.joining = without(s.joining, c)
		s.shared = true
		c.seq.Window = &s.window
		s.entry.r.AddLoad(1)
	}
	c.attached, s.arrived = true, true
	s.conns = append(s.conns, c)
	s.conn = s.conns[0]
	c.acked = c.seq.StatSN
	if s.rec != nil {
		c.rec = &connRecovery{forgotten: c.acked}
	}
	for _, k := range s.conns {
		k.acks = s.shared || s.rec != nil
	}
}

// join decides whether a connection may join the session, and lets one that has
// the CID of another take its place: connection reinstatement (RFC 7143 §6.3.4).
// Preconditions: runs on the session's reactor.
func (s *Session) join(q *registration) {
	c := q.c
	old := s.byCID(c.cid)
	n := len(s.conns) + len(s.joining)
	if old != nil {
		n--
	}
	switch {
	case !s.arrived || s.ending || s.ended:
		q.answer(pdu.LoginNoSession, "the session is ending")
		return
	case s.node == nil || c.tp.Traits().Name != s.transport:
		q.answer(pdu.LoginCannotInclude, "a session of another kind")
		return
	case q.s.user != s.user && !plant.On(plant.StrangerJoins):
		// Whoever began the session has proven to be somebody: its connections are
		// for nobody else.
		q.answer(pdu.LoginAuthFailed, "not who began the session")
		return
	case n >= int(s.params.maxConnections):
		s.e.reached(limitSessionConns, s.sh.r.Now(), "peer", c.peer, "initiator", s.initiator)
		q.answer(pdu.LoginTooManyConns, "MaxConnections")
		return
	}
	if l := s.lostCID(c.cid); l != nil {
		l.ready = true // an implicit logout
	}
	q.s = s
	s.joining = append(s.joining, c)
	admit := func() {
		if q.over {
			return
		}
		s.sh.r.Disarm(&q.timer)
		if s.ending || s.ended { // while it waited
			s.stays(c)
			q.answer(pdu.LoginNoSession, "the session is ending")
			s.maybeClosed()
			return
		}
		q.window = s.window
		q.answer(pdu.LoginSuccess, "")
	}
	if old == nil || plant.On(plant.EarlyReplacement) {
		admit()
		return
	}
	s.e.Stats.Reinstatements.Add(1)
	q.timer.Fire = func(clock.Time) {
		if !q.over {
			s.stays(c)
			q.answer(pdu.LoginUnavailable, "the connection it replaces did not end in time")
			s.maybeClosed() // it may have waited for this one alone
		}
	}
	s.sh.r.Arm(&q.timer, s.sh.r.Now().Add(reinstateLimit))
	old.onClosed = append(old.onClosed, admit)
	old.retire(errConnReplaced)
}

// without takes c off a list.
func without(list []*Connection, c *Connection) []*Connection {
	return slices.DeleteFunc(list, func(k *Connection) bool { return k == c })
}

// onCome waits for a connection to have joined, or not.
type onCome struct {
	c    *Connection
	then func()
}

// stays is the end of the place that join gave c, which does not come.
func (s *Session) stays(c *Connection) {
	s.joining = without(s.joining, c)
	s.came(c)
}

// came tells those who wait for c that it has come, or never will.
func (s *Session) came(c *Connection) {
	for i := 0; i < len(s.onCome); {
		if w := s.onCome[i]; w.c == c {
			s.onCome = slices.Delete(s.onCome, i, i+1)
			w.then()
		} else {
			i++
		}
	}
}

// unjoin gives up a place that join gave c; from any reactor. A connection that
// has sent its last Login Response is in LOGGED_IN state (RFC 7143 §8.1.3, T5):
// commands may have gone by it, and its loss is that of any other.
func (s *Session) unjoin(c *Connection, loggedIn bool) {
	post(s.entry.r, func() {
		s.stays(c)
		if loggedIn && !s.ending && s.rec == nil && len(s.conns)+len(s.joining) > 0 {
			s.fail()
		}
		s.maybeClosed()
	})
}

// maybeClosed ends the session if no connection is left nor about to come.
func (s *Session) maybeClosed() {
	if len(s.conns) == 0 && len(s.joining) == 0 && s.arrived && !s.waits() {
		s.ending = true
		s.closed()
	}
}

// byCID finds a connection of the session.
func (s *Session) byCID(cid uint16) *Connection {
	for _, c := range s.conns {
		if c.cid == cid {
			return c
		}
	}
	return nil
}

// connClosed takes a connection that has closed out of the session.
// Preconditions: runs on the connection's reactor, the session's if it was attached.
func (s *Session) connClosed(c *Connection) {
	switch {
	case !c.attached && c.joins:
		s.unjoin(c, c.login.sent)
		return
	case !c.attached:
		s.closed()
		return
	}
	s.conns = without(s.conns, c)
	s.conn = nil
	if len(s.conns) > 0 {
		s.conn = s.conns[0]
	}
	if c.joins {
		s.entry.r.AddLoad(-1)
	}
	c.settleTasks()
	c.checkQuiet() // tasks that streamed have gone with it
	switch {
	case s.ending:
		c.recover = false // nobody will take over what it keeps
	case c.leaving:
		s.forgetHeld(c)
	case s.rec != nil:
		s.lose(c)
	case len(s.conns)+len(s.joining) > 0 && !plant.On(plant.SessionSurvives):
		s.fail()
	}
	if s.conn != nil && !s.ending {
		s.openWindow() // what was on its way there may have kept another from telling of it
	}
	switch {
	case c.rec == nil:
	case c.recover:
		c.dropStatuses()
	default:
		c.dropRetained()
	}
	s.maybeClosed()
}

// fail ends the session because one of its connections has failed: at
// ErrorRecoveryLevel 0 there is session recovery only (RFC 7143 §7.1.4.4), and
// the initiator is told on the others (§11.9.1, event 3).
func (s *Session) fail() {
	s.ending = true
	for _, c := range slices.Clone(s.conns) {
		if c.phase != phaseFull {
			c.tp.Close(errConnFailed)
			continue
		}
		c.async(pdu.AsyncDropSession, 0, s.params.time2Wait, s.params.time2Retain)
		c.phase = phaseLogout
		c.closeAfterSend(errConnFailed)
	}
	if s.nexus != nil {
		s.closeNexus(func() {})
	}
}

// retire ends a connection, and nothing else of its session. Its tasks end, too,
// unless another connection may take them over.
func (c *Connection) retire(why error) {
	if c.leaving || c.recover {
		return // under way
	}
	c.phase = phaseLogout
	if c.sess.params.errorRecoveryLevel == 2 { // its tasks may be taken over
		c.recover = true
		c.tp.Close(why)
		return
	}
	c.leave(why)
}

// leave ends a connection and its tasks, whatever the level.
func (c *Connection) leave(why error) {
	if c.leaving {
		return // under way
	}
	c.phase, c.leaving, c.recover = phaseLogout, true, false
	c.quiesce(func() { c.tp.Close(why) })
}

// quiesce ends the tasks of a connection and calls done once none of them is
// with the device server, behind what waits for that already. Preconditions:
// phaseLogout, so that none comes.
func (c *Connection) quiesce(done func()) {
	s := c.sess
	if first := c.onQuiet; first != nil {
		c.onQuiet = func() {
			first()
			done()
		}
	} else {
		c.onQuiet = done
	}
	if plant.On(plant.EarlyLogout) {
		c.onQuiet = nil
		done()
	}
	s.forgetHeld(c)
	for t := range s.claimed() {
		switch {
		case t.conn != c:
		case t.state == taskParked && t.SCSI.View == nil:
			t.vanish() // it has ended, with TASK ABORTED for a connection that never came
		case t.SCSI.View != nil && t.state != taskResponding:
			t.SCSI.Abort()
		}
	}
	c.checkQuiet()
}

// checkQuiet tells quiesce when its time has come.
func (c *Connection) checkQuiet() {
	if c.onQuiet == nil {
		return
	}
	for t := range c.sess.claimed() {
		if t.conn == c && (t.state == taskBuffer || t.state == taskData || t.state == taskExecuting) {
			return
		}
	}
	done := c.onQuiet
	c.onQuiet = nil
	done()
}

// forgetHeld drops the early commands of a connection that is no more. They do
// not count as received: the initiator sends what ExpCmdSN does not acknowledge
// again, by another connection (RFC 7143 §7.2.1).
func (s *Session) forgetHeld(c *Connection) {
	for p := &s.held; *p != nil; {
		t := *p
		if t.conn != c {
			p = &t.heldNext
			continue
		}
		*p, t.heldNext = t.heldNext, nil
		s.unfile(t)
		t.release()
	}
}

// rejudge judges a whole PDU of a session with several connections again: while
// its data came, another connection may have moved the window. False: drop it.
func (c *Connection) rejudge(b pdu.BHS) bool {
	switch v := c.sess.window.judge(b.CmdSN(), b.Immediate()); c.verdict {
	case inOrder:
		return v == inOrder
	case early: // held in any case; when its turn has come, it is taken from there
		return v == inOrder || v == early && !c.sess.isHeld(b.CmdSN())
	}
	return true
}

// unclaim drops a command that came by two connections, the second time.
func (c *Connection) unclaim(t *Task) {
	c.dropped()
	c.sess.unfile(t)
	t.release()
}
