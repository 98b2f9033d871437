package sim

import (
	"slices"
	"time"

	"spindle/iscsi/pdu"
)

// abortTask aborts an outstanding command: one that may never be answered
// rather than another.
func (in *initiator) abortTask() {
	var list []*task
	for _, t := range in.tasks {
		if t.kind == kindCommand && t.conn == in.conn { // RFC 7143 §11.5.1
			if t.maybe && in.rng.IntN(2) == 0 {
				list = append(list[:0], t)
				break
			}
			list = append(list, t)
		}
	}
	if len(list) == 0 {
		in.ping()
		return
	}
	ref := list[in.rng.IntN(len(list))]
	t, b := in.newManagement(pdu.TMFAbortTask, ref.lun)
	b.SetRefTag(ref.itt)
	b.SetRefCmdSN(ref.cmdSN)
	if ref.imm {
		b.SetRefCmdSN(t.cmdSN) // RFC 7143 §11.5.5: its own is that of a command to come
	}
	t.refs = append(t.refs, ref)
	in.send(b, nil)
}

func (in *initiator) newManagement(fn uint8, lun int) (*task, pdu.BHS) {
	t := in.newTask(kindManage)
	t.crowd = in.managing()
	t.fn, t.lun, t.expCmdSN = fn, lun, in.expCmdSN
	b := in.request(t, pdu.TMFRequest, pdu.FlagFinal|fn, true)
	if lun >= 0 {
		lu := in.s.luns[lun]
		if u := &in.units[lun]; !u.used {
			u.begin(in.s, lu)
		}
		b.SetLUN(lunField(lu.id))
		t.maybe = lu.unsteady
	}
	b.SetRefTag(pdu.ReservedTag)
	in.tasks = append(in.tasks, t)
	return t, b
}

// manage sends a task management function for a set of tasks.
func (in *initiator) manage(fn uint8, lun int) {
	s := in.s
	t, b := in.newManagement(fn, lun)
	for _, o := range in.tasks {
		if o.kind == kindCommand && (lun < 0 || o.lun == lun) {
			t.refs = append(t.refs, o)
			o.hushed = o.hushed || o.conn == in.conn
		}
	}
	for i, lu := range s.luns {
		if lun >= 0 && i != lun {
			continue
		}
		switch fn {
		case pdu.TMFLUNReset:
			s.cause(lu, causeLUN)
		case pdu.TMFWarmReset:
			s.cause(lu, causeWarm)
		case pdu.TMFColdReset:
			s.cause(lu, causeCold)
		case pdu.TMFClearTaskSet:
			s.cause(lu, causeClear)
		}
		if in.excuseCopies(lu); fn != pdu.TMFAbortTaskSet {
			s.excuseTasks(lu, t.stamp(in.id), nil)
			lu.resetting++
			for _, o := range s.inits {
				if o != in {
					o.strike(i, t.stamp(in.id))
				}
			}
			if fn != pdu.TMFClearTaskSet {
				s.beginReset(t, i)
			}
		}
	}
	if fn == pdu.TMFColdReset {
		s.coldOpen++
		for _, o := range s.inits {
			o.excuse("cold reset")
		}
	}
	in.send(b, nil)
}

// excuseTasks lets every initiator's tasks of lu end without an answer, because
// of the function that by is the stamp of; 0 is another reason. Those of one may be
// left out: what its function is not about has an answer of its own, were it that it
// was found (RFC 7143 §11.5).
func (s *run) excuseTasks(lu *lun, by uint64, but *initiator) {
	place := s.placeOf(lu)
	for _, in := range s.inits {
		in.excuseCopies(lu)
		for _, t := range in.tasks {
			if t.lun != place || in == but {
				continue
			}
			if t.maybe = true; by == 0 || t.excuser != by {
				t.excuser = by
				t.excuses++
			}
		}
	}
}

// managed takes a Task Management Function Response.
func (in *initiator) managed(t *task, resp uint8) {
	s := in.s
	in.paid(t)
	switch t.fn {
	case pdu.TMFReassign:
		in.reassigned(t, resp)
		return
	case pdu.TMFAbortTask:
		s.count(AbortTask)
		in.aborted(t, resp)
		return
	case pdu.TMFAbortTaskSet:
		s.count(AbortTaskSet)
	case pdu.TMFClearTaskSet:
		s.count(ClearTaskSet)
	case pdu.TMFLUNReset:
		s.count(LUNReset)
	case pdu.TMFWarmReset:
		s.count(WarmReset)
	case pdu.TMFColdReset:
		s.count(ColdReset)
		s.coldOpen--
		s.coldOver = s.now()
	}
	lu := (*lun)(nil)
	if t.lun >= 0 {
		lu = s.luns[t.lun]
	}
	switch {
	case resp == pdu.TMFComplete:
		in.setEnded(t)
	case resp == pdu.TMFNoLUN && lu != nil && (!lu.present || lu.unsteady || lu.changed > t.call):
	case resp == pdu.TMFNotAuthorized && t.fn == pdu.TMFColdReset && s.remapped(t.call): // what is not mapped is not its to reset
		in.maybeAll(t)
	case resp == pdu.TMFRejected && s.mayReject(in, t):
		s.boxed = true
		// Whoever was to be aborted may be or not.
		in.maybeAll(t)
	default:
		in.bad("task management", "function %d answered with %d", t.fn, resp)
	}
	in.overtakes(t)
	in.overAll(t, resp == pdu.TMFComplete)
	in.remove(t)
}

// twice tells whether another function that is not answered yet is about ref.
func (in *initiator) twice(t, ref *task) bool {
	for _, o := range in.tasks {
		if o != t && slices.Contains(o.refs, ref) {
			return true
		}
	}
	return false
}

// resetting counts the functions of the initiator that end tasks of a unit.
func (in *initiator) resetting(place int) (n int) {
	for _, t := range in.tasks {
		if t.forSet() && t.fn != pdu.TMFAbortTaskSet && (t.lun < 0 || t.lun == place) && t.call >= in.s.luns[place].since {
			n++
		}
	}
	return n
}

func (in *initiator) managing() (n int) {
	for _, t := range in.tasks {
		if t.kind == kindManage {
			n++
		}
	}
	return n
}

// mayReject tells whether a function may be rejected: there are many at once, or
// were when it was sent, or its time box has closed over the answers of a peer that does not read.
func (s *run) mayReject(in *initiator, t *task) bool {
	return max(in.managing(), t.crowd) > 15 || in.mended || s.clk.T.Sub(t.at) >= 10*time.Second && (s.plan.slow || s.rep.States[Vanished] > 0 || s.w.Counts.Stall > 0)
}

// remapped tells whether some unit may not have been mapped since call.
func (s *run) remapped(call int64) bool {
	return slices.ContainsFunc(s.luns, func(lu *lun) bool { return lu.unsteady || lu.changed > call })
}

func (in *initiator) maybeAll(t *task) {
	for _, o := range t.refs {
		o.maybe = true
		o.excuses++
	}
}

// setEnded is the success of a function for a set of tasks: those that were
// sent before it and have no answer will never have one.
func (in *initiator) setEnded(t *task) {
	refs := append([]*task(nil), t.refs...)
	for _, o := range refs {
		in.fanned(t, o)
		if o.conn != t.conn && (o.imm || t.fn == pdu.TMFWarmReset || t.fn == pdu.TMFColdReset || o.conn.phase != full) {
			o.maybe = true // it may come after the function, or its answer when nothing acknowledges it any more
			o.excuses++
			continue
		}
		in.kill(o)
	}
}

// strayLimit is how long a function may find tasks after its session was lost: it
// may have been on its way, or wait behind another that has its time box.
const strayLimit = 20 * time.Second

// overAll ends the causes that t had begun; done tells that it was answered
// with success, and not lost with its session.
func (in *initiator) overAll(t *task, done bool) {
	s := in.s
	if t.fn == pdu.TMFAbortTaskSet {
		in.excuseCopies(s.luns[t.lun])
		return
	}
	for i, lu := range s.luns {
		if t.lun >= 0 && i != t.lun || t.call < lu.since {
			continue
		}
		if done || s.clk.T.Sub(t.at) < 10*time.Second { // beyond its time box it goes on unseen
			lu.resetting = max(lu.resetting-1, 0)
		}
		if !done {
			lu.stray = s.clk.T.Add(strayLimit)
		}
		s.excuseTasks(lu, t.stamp(in.id), in)
		for _, o := range s.inits {
			if done && o != in {
				o.silence(i, t.stamp(in.id))
			}
		}
		if t.fn != pdu.TMFClearTaskSet {
			in.endReset(t, i, done)
		} else if done && lu.tellsAborted(t.call, nil) {
			in.awaitAborted(t, i)
		}
		switch t.fn {
		case pdu.TMFLUNReset:
			s.caused(lu, causeLUN, t.call, in, done)
		case pdu.TMFWarmReset:
			s.caused(lu, causeWarm, t.call, in, done)
		case pdu.TMFColdReset:
			s.caused(lu, causeCold, t.call, in, done)
		case pdu.TMFClearTaskSet:
			s.caused(lu, causeClear, t.call, in, done)
		}
	}
}

// aborted takes the answer to ABORT TASK.
func (in *initiator) aborted(t *task, resp uint8) {
	s := in.s
	var ref *task
	if len(t.refs) > 0 {
		ref = t.refs[0] // it has no answer yet
	}
	switch resp {
	case pdu.TMFComplete:
		if ref != nil {
			in.kill(ref)
		}
	case pdu.TMFNoTask:
		s.count(NoSuchTask)
		ends := in.failing || ref != nil && ref.conn.phase != full // a logout that came behind ends it
		if ref != nil && !ref.maybe && !ends && !in.twice(t, ref) {
			in.bad("task management", "task %#x does not exist, says ABORT TASK, and has no answer", ref.itt)
		}
		if ref != nil && ref.maybe {
			in.kill(ref)
		}
	case pdu.TMFNoLUN:
	case pdu.TMFRejected:
		if !s.mayReject(in, t) {
			in.bad("task management", "ABORT TASK answered with %d", resp)
		}
		s.boxed = true
		in.maybeAll(t)
	default:
		in.bad("task management", "ABORT TASK answered with %d", resp)
	}
	in.remove(t)
}

// kill ends a command that a task management function has ended: it will have
// no answer and no effect any more.
func (in *initiator) kill(t *task) {
	in.s.count(TasksAborted)
	in.unanswered(t, t.call)
	in.s.over(t, unsure, "task management")
	in.graves = append(in.graves, grave{t.itt, t.conn != in.conn})
	in.remove(t)
}

// answered fails when a task that must have an answer by now has none.
func (in *initiator) answered(when string) {
	in.uncopied()
	for _, t := range in.tasks {
		if !t.maybe && t.conn.link != nil && t.conn.excused == "" {
			in.bad("no answer", "%s: %v %#x (CmdSN %d, sent at instant %d) has no answer", when, t.kind, t.itt, t.cmdSN, t.call)
		}
	}
}
