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
	ended := func(t *task) bool {
		return t.conn == c && t.lun == place && t.kind == kindCommand && (t.maybe || t.excuses > 0)
	}
	own := func(t *task) bool { return t.forSet() && t.conn != c && (t.lun < 0 || t.lun == place) }
	late := func(g grave) bool { return g.late }
	if !slices.ContainsFunc(in.tasks, ended) && !slices.ContainsFunc(in.tasks, own) && !slices.ContainsFunc(in.graves, late) {
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
		if o.silent != 0 && o.silent <= t.call && o.conn == in.conn {
			in.toldOf(o, "another session has")
		}
	}
}

// fanned is the success of m, which has ended t. On another connection than its own it
// was told of, and that was acknowledged first (RFC 7143 §4.2.2.3.3 and §4.2.3.4, d).
func (in *initiator) fanned(m, t *task) {
	k := t.conn
	if k != m.conn && k.phase == full && k.link != nil && k.excused == "" && !t.imm && pdu.SNLess(t.cmdSN, m.expCmdSN) && in.s.clk.T.Sub(m.at) < farewell {
		in.toldOf(t, "its session has")
	}
}

// toldOf fails when t was ended and nothing told of it on its connection. What a
// function of its own session may have ended that tells of itself: by its response, on
// its own connection, or by TASK ABORTED.
func (in *initiator) toldOf(t *task, who string) {
	lu, ends := in.s.luns[t.lun], t.conn.ends
	alone := func(o *task) bool { return o.fn == pdu.TMFAbortTask && slices.Contains(o.refs, t) }
	if !in.sess.fastAbort || in.phase != full || in.sess.level > 0 || in.failing || len(in.adrift) > 0 ||
		t.hushed || in.overtook(t) || slices.ContainsFunc(in.tasks, alone) || lu.doubtful(t.call) {
		return
	}
	if in.s.count(FastAbortsDue); len(ends) == 0 || ends[t.lun] < t.call {
		in.bad("FastAbort", "LUN %d: %s ended task %#x, of which nothing was told", lu.id, who, t.itt)
	}
}
