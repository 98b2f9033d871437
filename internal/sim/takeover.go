package sim

import (
	"slices"

	"spindle/iscsi/pdu"
)

// At ErrorRecoveryLevel 2 a session outlives its connection for a while: another
// takes its place and, by TASK REASSIGN, its tasks (RFC 7143 §7.2.2), each of
// which is answered once as if nothing had happened.

// lives tells whether the session may go on without c, which is lost.
func (in *initiator) lives(c *conn) bool {
	return in.sess.level == 2 && c.phase == full && c.excused == "" && !c.joins && !in.failing && in.s.stable() &&
		in.s.coldOpen == 0 && in.next < in.total
}

// breakOff loses the connection at hand with its session alive.
func (in *initiator) breakOff() {
	c := in.conn
	in.s.count(ConnectionsBroken)
	c.bursts = c.bursts[:0]
	for _, t := range slices.Clone(in.tasks) {
		if t.kind != kindCommand {
			in.giveUp(t)
		}
	}
	in.replicas = in.replicas[:0]
	in.broken = c
	in.drop()
	in.wake = in.s.clk.T
}

// giveUp is a request other than a command that is lost with its connection. A
// function for a set of tasks is at work until the session ends, for all we hear.
func (in *initiator) giveUp(t *task) {
	if t.kind == kindManage {
		in.maybeAll(t)
	}
	if !t.forSet() {
		in.remove(t)
		return
	}
	in.overtakes(t)
	in.unlist(t)
	t.refs = t.refs[:0]
	in.old = append(in.old, t)
}

// forSet tells whether t is a function for a set of tasks.
func (t *task) forSet() bool {
	return t.kind == kindManage && t.fn != pdu.TMFAbortTask && t.fn != pdu.TMFReassign
}

// mend dials the connection that takes the broken one's place.
func (in *initiator) mend() {
	v := in.broken
	in.broken = nil
	in.join(v)
}

// takesOver asks for the tasks of v, which the connection at hand has replaced.
func (in *initiator) takesOver(v *conn) {
	in.mended = true
	in.plug(v)
	for _, t := range slices.Clone(in.tasks) {
		if t.conn != v || t.kind != kindCommand {
			continue
		}
		m, b := in.newManagement(pdu.TMFReassign, t.lun)
		b.SetRefTag(t.itt)
		b.SetExpDataSN(t.dataSN)
		m.refs = append(m.refs, t)
		m.maybe = false
		t.received = !t.imm && pdu.SNLess(t.cmdSN, in.expCmdSN)
		in.send(b, nil)
	}
}

// reassigned takes the answer to TASK REASSIGN.
func (in *initiator) reassigned(m *task, resp uint8) {
	s := in.s
	t := (*task)(nil)
	if len(m.refs) > 0 {
		t = m.refs[0]
	}
	switch {
	case t == nil: // something else has ended it
	case resp == pdu.TMFComplete:
		s.count(TasksReassigned)
		t.conn, t.r2ts, t.moved = in.conn, 0, true
	case resp == pdu.TMFNoTask && (!t.received || t.maybe || s.depth < 32 || s.arenaFailures() > 0):
		s.count(TasksNotFound)
		in.unanswered(t, t.call)
		s.over(t, unsure, "it was lost with its connection")
		in.remove(t)
	case resp == pdu.TMFRejected: // functions of the lost connection may be under way
		in.maybeAll(m)
	default:
		in.bad("reassign", "task %#x (CmdSN %d, received %v) answered with %d", t.itt, t.cmdSN, t.received, resp)
	}
	in.remove(m)
}
