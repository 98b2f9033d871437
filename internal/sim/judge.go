package sim

import (
	"time"

	"spindle/internal/sim/linear"
	"spindle/scsi"
)

// nexusName is what makes an I_T nexus: initiator port and target port.
type nexusName struct {
	initiator int
	isid      [6]byte
	portal    uint16
}

// maxNexuses bounds the nexuses of a run; the last one stands for all beyond.
const maxNexuses = 255

// intern gives a nexus its number.
func (s *run) intern(n nexusName) uint8 {
	for i := range s.nexuses {
		if s.nexuses[i] == n {
			return uint8(i)
		}
	}
	if len(s.nexuses) < maxNexuses {
		s.nexuses = append(s.nexuses, n)
	}
	return uint8(len(s.nexuses) - 1)
}

// common is what is known of the shared state of a logical unit.
type common struct {
	object   linear.Object[shared]
	losing   [maxNexuses]bool // these nexuses may be lost, and their RESERVE with them
	fenced   [maxNexuses]bool // were preempted: no write of theirs may reach the medium
	fences   int
	made     int64    // when the unit was made anew last
	byOthers nexusSet // have been registered by a command of another nexus
	wipes    []wipe
	wiping   bool // one may be at work, for all that the object knows
}

// beginShared makes the state of a unit known.
func (s *run) beginShared(lu *lun) {
	lu.object.Drift = func(st shared, add func(shared)) {
		if st.reserved && lu.losing[st.owner] {
			n := st
			n.reserved, n.owner = false, 0
			add(n)
		}
		lu.drift(st, add)
		if lu.failed {
			st.look(nil)
			add(st)
		}
	}
	lu.object.Reset(s.now(), lu.fresh())
	lu.restart()
	lu.forgetUsage()
	lu.unfence()
}

// revived is a unit that was made anew: of its shared state it has what it kept.
// Of a target that died nothing is under way.
func (s *run) revived(lu *lun, died bool) {
	lu.forgetUsage()
	lu.restart()
	if died {
		states := make([]shared, 0, 4)
		lu.object.Any(s.now(), func(st *shared) bool {
			if st.aptpl {
				s.count(ReservationsKept)
			}
			states = append(states, lu.kept(*st))
			return false
		})
		lost := lu.object.Lost
		lu.object.Reset(s.now(), states...)
		lu.object.Lost = lost // the store may hold anything
	} else {
		lu.object.Map(s.now(), lu.kept)
	}
	lu.made = s.now()
	lu.unfence()
	if s.unwipe(lu); died {
		lu.wipes = lu.wipes[:0]
	}
}

// doubtful tells whether a command sent at call may have met another unit than
// the one that is there now.
func (lu *lun) doubtful(call int64) bool { return lu.unsteady || lu.changed >= call }

// lose says that a nexus may be lost from now on: what it has reserved goes.
func (s *run) lose(lu *lun, nexus uint8) {
	if lu.losing[nexus] {
		return
	}
	lu.losing[nexus] = true
	if !lu.object.Quiet() || lu.object.Any(s.now(), func(st *shared) bool { return st.reserved || st.prevent != nexusSet{} }) {
		lu.object.Refresh(s.now())
	}
}

// found is a nexus that has logged in again: whatever it had reserved before is
// free (SPC-2 §5.5.1), and nothing it sent before is under way.
func (s *run) found(nexus uint8) {
	for _, lu := range s.luns {
		if !lu.losing[nexus] {
			continue
		}
		lu.losing[nexus] = false
		if !lu.object.Keep(s.now(), func(st shared) bool { return (!st.reserved || st.owner != nexus) && !st.prevent.has(nexus) }) {
			s.fail("reservation", "LUN %d: no order of the commands lets RESERVE and PREVENT end with their session", lu.id)
		}
	}
}

// call begins the change that task t asks for.
func (in *initiator) call(t *task, lu *lun) {
	c := &t.change
	c.nexus, c.needs, c.access = in.nexus, t.needs, t.access
	c.port, c.locked = in.port(), lu.readOnly
	t.changing = lu.object.Call(t.call, func(st shared) (shared, uint8) {
		r := c.apply(&st, func(notice) {})
		if r >= resTooMany {
			lu.object.Lost = true
		}
		return st, r
	})
	lu.refence()
}

// changed takes the result of the change that t asked for.
func (in *initiator) changed(t *task, lu *lun, r result) {
	s, id := in.s, t.changing
	t.changing = 0
	defer in.s.endChange(t, lu)
	if lu.doubtful(t.call) {
		lu.object.Forget(s.now(), id)
		return
	}
	before, ok := lu.object.Return(s.now(), id, r)
	lu.counted.endReset(t.call, s.now(), r == resGood)
	if !ok {
		in.bad("reservation", "LUN %d: task %#x, %v of nexus %d: no order of the commands explains result %d", lu.id, t.itt, t.change, in.nexus, r)
		return
	}
	if r == resGood {
		in.consequences(t, lu, before)
	}
}

// undone ends the change that t asked for: it was not made, or it may have been.
func (s *run) undone(t *task, st outcome) {
	if t.changing == 0 {
		return
	}
	lu := s.luns[t.lun]
	if st == without && !lu.doubtful(t.call) {
		lu.counted.endReset(t.call, s.now(), false)
		if !lu.object.Cancel(s.now(), t.changing) {
			s.fail("reservation", "LUN %d: task %#x was refused, and others have seen its effect", lu.id, t.itt)
		}
	} else {
		lu.object.Forget(s.now(), t.changing)
	}
	t.changing = 0
	s.endChange(t, lu)
}

// consequences are what follows from a change for certain, when before are the
// states it may have met: whose unit attentions are due, and whose writes must
// not reach the medium any more.
func (in *initiator) consequences(t *task, lu *lun, before []shared) {
	s := in.s
	var due []notice
	first := true
	for i := range before {
		st := before[i]
		var list []notice
		if t.change.apply(&st, func(n notice) { list = append(list, n) }) != resGood {
			continue
		}
		if first {
			due, first = list, false
		}
		due = intersect(due, list)
	}
	for _, n := range due {
		s.owe(lu, n, in, t.call)
		if n.c == causeRegistration {
			in.fence(t, lu, n.to)
		}
	}
}

func intersect(a, b []notice) []notice {
	out := a[:0]
	for _, n := range a {
		for _, m := range b {
			if n == m {
				out = append(out, n)
				break
			}
		}
	}
	return out
}

// fence is the end of a nexus's registration by preemption, which was answered:
// while the reservation keeps the nexus out, none of its writes, whenever it was
// sent, may reach the medium, and none is there still.
func (in *initiator) fence(t *task, lu *lun, nexus uint8) {
	s := in.s
	if !lu.object.All(func(st *shared) bool { return st.refuses(nexus, accessWrite) }) {
		return
	}
	s.count(Fences)
	if !lu.fenced[nexus] {
		lu.fenced[nexus] = true
		lu.fences++
	}
	for i := range s.book.ops {
		if o := &s.book.ops[i]; o.inside > 0 && o.lu == lu && o.nexus == nexus && !o.wipe {
			in.bad("fence", "LUN %d: task %#x has preempted nexus %d, whose write %d (task %#x) is still in the block layer", lu.id, t.itt, nexus, i, o.itt)
		}
	}
}

// refence ends the fences of nexuses that may be let in again.
func (lu *lun) refence() {
	if lu.fences == 0 {
		return
	}
	for n := range lu.fenced {
		if lu.fenced[n] && !lu.object.All(func(st *shared) bool { return st.refuses(uint8(n), accessWrite) }) {
			lu.fenced[n] = false
			lu.fences--
		}
	}
}

func (lu *lun) unfence() { lu.fenced, lu.fences = [maxNexuses]bool{}, 0 }

// conflicts takes RESERVATION CONFLICT.
func (in *initiator) conflicts(t *task, lu *lun) {
	in.s.count(Conflicts)
	if lu.fences != 0 && lu.fenced[in.nexus] && t.access == accessWrite {
		in.s.count(FencedWrites)
	}
	if t.changing != 0 {
		in.changed(t, lu, resConflict)
		return
	}
	if t.class == classBadList {
		return // its key may be wrong, too
	}
	if lu.doubtful(t.call) || lu.object.Any(t.call, func(st *shared) bool { return st.refuses(in.nexus, t.access) }) {
		return
	}
	in.bad("reservation", "conflict on LUN %d for task %#x of nexus %d, which nothing keeps out", lu.id, t.itt, in.nexus)
}

// admitted is a command that was let at the medium.
func (in *initiator) admitted(t *task, lu *lun) {
	if t.changing != 0 || t.access == accessFree || lu.doubtful(t.call) {
		return
	}
	port := in.port()
	if !lu.object.Any(t.call, func(st *shared) bool { return !st.refuses(in.nexus, t.access) }) {
		in.bad("reservation", "LUN %d: task %#x of nexus %d ended well although a reservation keeps it out", lu.id, t.itt, in.nexus)
	}
	fits := func(st *shared) bool { return !st.unready(t.needs) && !st.cutOff(t.needs, port) }
	if !lu.object.Any(t.call, fits) {
		in.bad("not ready", "LUN %d: task %#x ended well although the unit is not ready, or its path is shut", lu.id, t.itt)
	}
	if t.needs&needQuiet != 0 && lu.wiping {
		in.s.quiet(lu, t.call)
		if lu.object.Quiet() && lu.object.Unchanged(t.call) {
			lu.object.Keep(in.s.now(), func(st shared) bool { return fits(&st) })
			lu.wiping = len(lu.wipes) != 0
		}
	}
}

// refused takes CHECK CONDITION of a command that changes shared state.
func (in *initiator) refused(t *task, lu *lun, key scsi.Key, code scsi.Code) {
	if t.changing == 0 {
		return
	}
	switch {
	case key == scsi.IllegalRequest && (code == scsi.InvalidRelease || code == scsi.InvalidFieldInParam):
		if t.change.spec {
			in.s.count(ListsRefused)
		}
		in.changed(t, lu, resIllegal)
	case key == scsi.IllegalRequest && code == scsi.RemovalPrevented:
		in.changed(t, lu, resPrevented)
	case key == scsi.DataProtect && t.change.kind >= doSanitize:
		in.changed(t, lu, resProtected)
	}
}

// over ends what t does to the medium and to what nexuses share.
func (s *run) over(t *task, st outcome, why string) {
	s.book.over(t.op, st, why)
	s.book.over(t.also, st, why)
	for _, n := range t.copies {
		s.book.over(n, st, why)
	}
	s.undone(t, st)
	s.wiping(t, st)
	s.endHeld(t, st)
}

// mayCause are the unit attentions that a change may establish.
func (c *change) mayCause() (list []cause) {
	switch c.kind {
	case doPreempt, doPreemptAbort:
		return []cause{causeRegistration, causeReleased}
	case doRelease, doRegister, doRegisterIgnore:
		return []cause{causeReleased}
	case doSelect:
		return []cause{causeModes}
	case doClear:
		return []cause{causePreempted}
	case doLoad:
		return []cause{causeMedium}
	case doSetPorts:
		return []cause{causeAccess}
	case doIdentify:
		return []cause{causeIdentity}
	case doSelectLog:
		return []cause{causeLog}
	}
	return nil
}

// beginChange sends a command that changes what nexuses share.
func (in *initiator) beginChange(t *task, lu *lun) {
	s := in.s
	in.call(t, lu)
	lu.counted.beginReset(&t.change, t.call)
	for _, k := range t.change.mayCause() {
		s.cause(lu, k)
	}
	if t.change.kind == doPreemptAbort {
		s.excuseTasks(lu, t.stamp(in.id), nil)
		lu.resetting++
	}
}

// endChange is the end of such a command, whatever came of it.
func (s *run) endChange(t *task, lu *lun) {
	if t.call < lu.since {
		return
	}
	for _, k := range t.change.mayCause() {
		lu.over[k]++
	}
	if t.change.kind == doPreemptAbort {
		lu.resetting = max(lu.resetting-1, 0)
		s.excuseTasks(lu, 0, nil)
	}
	lu.refence()
}

// beginReset and endReset are a task management function that resets the unit
// at a place: RESERVE and PREVENT end and modes are the saved ones, registrations stay (SPC-5 §5.14.1).
func (s *run) beginReset(t *task, place int) {
	lu := s.luns[place]
	for len(t.resets) <= place {
		t.resets = append(t.resets, 0)
	}
	c := change{kind: doReset}
	t.resets[place] = lu.object.Call(t.call, func(st shared) (shared, uint8) {
		res := c.apply(&st, nil)
		return st, res
	})
}

func (in *initiator) endReset(t *task, place int, done bool) {
	s := in.s
	lu := s.luns[place]
	if place >= len(t.resets) {
		return
	}
	switch {
	case done && !lu.doubtful(t.call):
		before, ok := lu.object.Return(s.now(), t.resets[place], resGood)
		if !ok {
			s.fail("reservation", "LUN %d: no order of the commands explains the success of a reset", lu.id)
		}
		if before != nil && lu.tellsAborted(t.call, before) {
			in.awaitAborted(t, place)
		}
	case done || s.clk.T.Sub(t.at) < 10*time.Second: // beyond its time box it goes on unseen
		lu.object.Forget(s.now(), t.resets[place])
	}
}
