package sim

import (
	"slices"

	"spindle/iscsi/pdu"
)

// TaskReporting=FastAbort (RFC 7143 §4.2.3.4): tasks that another connection or
// another session ends have no answer, and an Asynchronous Message tells of them.

// reports are the lists of TaskReporting that initiators offer.
var reports = [...]string{"FastAbort,ResponseFence,RFC3720", "FastAbort", "ResponseFence,FastAbort", "RFC3720,FastAbort"}

// reporting takes the answer to TaskReporting: the first of the list (§13.23).
func (in *initiator) reporting(v string) {
	list := in.login.reports
	if n := min(len(v), len(list)); v != list[:n] || n < len(list) && list[n] != ',' {
		in.s.fail("login", "initiator %d: TaskReporting=%s of %s", in.id, v, list)
	}
	in.prm.fastAbort = v == "FastAbort"
}

// terminated takes the message that tasks of a unit have ended, which is for those
// who asked for it, and about tasks that somebody may have ended.
func (in *initiator) terminated(b pdu.BHS) {
	in.s.count(FastAborts)
	if !in.sess.fastAbort {
		in.bad("FastAbort", "an end of tasks is told in a session with another TaskReporting")
	}
	place := slices.IndexFunc(in.s.luns, func(lu *lun) bool { return lunField(lu.id) == b.LUN() })
	if place < 0 {
		in.bad("FastAbort", "tasks of LUN %x have ended", b.LUN())
		return
	}
	c := in.conn
	if len(c.ends) == 0 {
		c.ends = make([]int64, len(in.s.luns))
	}
	c.ends[place] = in.s.now()
	due := len(c.owed)
	c.owed = slices.DeleteFunc(c.owed, func(o owed) bool { return o.lun == place })
	if len(c.owed) < due || len(c.late) > 0 && c.late[place] {
		return
	}
	ended := func(t *task) bool {
		return t.conn == c && t.lun == place && t.kind == kindCommand && (t.maybe || t.excuses > 0)
	}
	own := func(t *task) bool { return t.forSet() && t.conn != c && (t.lun < 0 || t.lun == place) }
	buried := func(g grave) bool { return g.late }
	if !slices.ContainsFunc(in.tasks, ended) && !slices.ContainsFunc(in.tasks, own) && !slices.ContainsFunc(in.graves, buried) {
		in.bad("FastAbort", "LUN %d: the end of tasks is told, and nobody can have ended one", in.s.luns[place].id)
	}
}

// strike notes the tasks that a function of another session, of which by is the
// stamp, is going to find.
func (in *initiator) strike(place int, by uint64) {
	for _, t := range in.tasks {
		if t.lun == place && t.kind == kindCommand && !t.imm && pdu.SNLess(t.cmdSN, in.expCmdSN) {
			t.struck, t.silent = by, 0
		}
	}
}

// silence is the success of that function: those it has found have been answered, or
// never will be.
func (in *initiator) silence(place int, by uint64) {
	for _, t := range in.tasks {
		if t.lun == place && t.struck == by {
			t.silent = in.s.now()
		}
	}
}

// heardOf takes an answer to t: whatever came before t on its connection has been
// received. A function that was answered before t was sent has told of the tasks that
// it ended by then, whatever TAS says of their own answers (RFC 7143 §4.2.3.4, d). Of several connections
// a response fence may hold an answer (§4.2.2.3.3), and later ones pass it.
func (in *initiator) heardOf(t *task) {
	if len(in.conns) > 1 {
		return
	}
	for _, o := range in.tasks {
		if o.silent != 0 && o.silent <= t.call && o.conn == in.conn && in.unannounced(o) {
			in.conn.owe(o, in.s.now())
		}
	}
}

// owed is a message that another session has ended a task. It waits its turn among
// what is not the response of a command, of which a connection keeps room for so many,
// and those responses may pass it.
type owed struct {
	lun   int
	itt   uint32
	since int64
}

// owe notes that c has to be told of the end of t.
func (c *conn) owe(t *task, now int64) {
	if !slices.ContainsFunc(c.owed, func(o owed) bool { return o.itt == t.itt }) {
		c.owed = append(c.owed, owed{t.lun, t.itt, now})
	}
}

// endsLate notes that TASK ABORTED has told of the end of t: what tells of it may still
// come, though that of an earlier function has.
func (c *conn) endsLate(t *task, units int) {
	if len(c.late) == 0 {
		c.late = make([]bool, units)
	}
	c.late[t.lun] = true
}

// paid takes the answer to t, which is no command: what was owed before t was sent has
// come by now.
func (in *initiator) paid(t *task) {
	for _, o := range in.conn.owed {
		if o.since < t.call && !in.failing && in.phase == full {
			in.bad("FastAbort", "LUN %d: another session has ended task %#x, of which nothing was told", in.s.luns[o.lun].id, o.itt)
			return
		}
	}
}

// fanned is the success of m, which has ended t. On another connection than its own it
// was told of, and that was acknowledged first (RFC 7143 §4.2.2.3.3 and §4.2.3.4, d).
func (in *initiator) fanned(m, t *task) {
	k := t.conn
	if k != m.conn && k.phase == full && k.link != nil && k.excused == "" && !t.imm && pdu.SNLess(t.cmdSN, m.expCmdSN) && in.s.clk.T.Sub(m.at) < farewell && in.unannounced(t) {
		in.bad("FastAbort", "LUN %d: its session has ended task %#x, of which nothing was told", in.s.luns[t.lun].id, t.itt)
	}
}

// unannounced tells whether t was ended and nothing told of it on its connection. What a
// function of its own session may have ended that tells of itself: by its response, on
// its own connection, or by TASK ABORTED.
func (in *initiator) unannounced(t *task) bool {
	lu, ends := in.s.luns[t.lun], t.conn.ends
	alone := func(o *task) bool { return o.fn == pdu.TMFAbortTask && slices.Contains(o.refs, t) }
	if !in.sess.fastAbort || in.phase != full || in.sess.level > 0 || in.failing || len(in.adrift) > 0 ||
		t.hushed || in.overtook(t) || slices.ContainsFunc(in.tasks, alone) || lu.doubtful(t.call) {
		return false
	}
	in.s.count(FastAbortsDue)
	return len(ends) == 0 || ends[t.lun] < t.call
}
