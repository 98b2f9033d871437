package scsi

import (
	"spindle/bdev"
	"spindle/internal/invariants"
	"spindle/internal/plant"
	"spindle/reactor/mem"
)

// taskState says who holds a task between Begin and End.
type taskState uint8

const (
	taskOut     taskState = iota // not on a list
	taskEngine                   // with the engine: before Execute, or its result is being sent
	taskParked                   // in Execute, waiting for the view to become active or for a hold to end
	taskHold                     // in Execute, waiting for its own hold
	taskHome                     // in Execute, its request is at the home reactor, or a child task is at work
	taskReady                    // in Execute, in the view's queue to go on
	taskBackend                  // in Execute, in the block layer
	taskLive                     // with the engine, its data still on the medium
)

type taskFlags uint16

const (
	taskAborted  taskFlags = 1 << iota
	taskTAS                // aborted by another nexus with TAS set: ends with TASK ABORTED
	taskLent               // IO holds lent memory
	taskAsked              // the answer from home is here
	taskOrdered            // holds the whole unit because of its attribute
	taskAdmitted           // was let past the holds of others
	taskRecheck            // waited for a hold: a reservation may keep it out by now
	taskSole               // no other LUN of the bdev may come in between, while it has its hold
	taskReask              // home sent its call back undone
)

// action is what a command's step wants next.
type action uint8

const (
	actDone  action = iota // the task has its status
	actIO                  // submit t.IO, come back with its final status
	actHold                // hold the task's range, come back
	actHome                // have the home reactor run the command's part there, come back
	actYield               // let others run, come back
	actChild               // a child task was started, come back when it has ended
	actPark                // wait until the unit's state changes, come back
)

// Prepare decodes the CDB. Ready: Dir, Want, Scratch and Lend are set, the
// engine gets the buffer and the data-out and calls Execute. Done: the task has
// its status.
// Preconditions: runs on the task's reactor, after Begin.
//
//spindle:hot
func (t *Task) Prepare() Result {
	c := t.op
	if t.itl == nil {
		return t.prepareAbsent()
	}
	if c == nil {
		return t.prepareUnknown()
	}
	if g := t.itl.gate & c.gate; g != 0 && t.stopped(g) {
		return Done
	}
	if t.CDB[c.control]&0x04 != 0 { // NACA: there is no ACA here (SAM-5 §5.2)
		return t.badByte(uint16(c.control), 2)
	}
	r := c.prepare(t)
	if c.flags&cmdWrites != 0 && t.View.snap.protect != 0 && (r == Ready || t.Want > t.EDTL) {
		return t.protected(t.View.snap)
	}
	return r
}

func (t *Task) prepareUnknown() Result {
	if g := t.itl.gate & gateCommand; g != 0 && t.stopped(g) {
		return Done
	}
	// The opcode is known but not its service action (SPC-5 §4.3.2).
	if t.Nexus.dev.table.service[t.CDB[0]] != nil {
		if t.CDB[0] == opVariable {
			return t.badCDB(longAction, wholeByte)
		}
		return t.badCDB(1, 4)
	}
	return t.fail(IllegalRequest, InvalidOpcode)
}

// protected ends a medium write on a unit that refuses writes. A CDB that is
// wrong has been told so before; how much the initiator sends for it has not,
// because nobody wants that any more. One that asks for no block at all changes
// nothing that is protected (SBC-4 §5.36: zero blocks are not an error).
func (t *Task) protected(s *snapshot) Result {
	if t.op.flags&cmdMedium != 0 && t.Want == 0 && t.blocks == 0 {
		return Ready
	}
	if s.protect&protectSoftware != 0 {
		return t.fail(DataProtect, SoftwareWriteProtected)
	}
	return t.fail(DataProtect, WriteProtected)
}

// stopped ends a task that a condition of its I_T_L nexus stops. False: none
// of them means this command. Unit attentions go before reservation conflicts
// (SAM-5 §5.14.4).
func (t *Task) stopped(g uint8) bool {
	switch {
	case g&gateFence != 0:
		// A task management function on this nexus timed out with tasks still in
		// the backend: nothing new may run beside them.
		t.Status = Busy
	case g&gateUA != 0:
		t.check(sense{key: UnitAttention, code: t.itl.takeUA()})
	default:
		return t.barred(g, t.View.snap)
	}
	return true
}

// barred ends a task that the shared state of its unit keeps out. False: it does not.
func (t *Task) barred(g uint8, s *snapshot) bool {
	switch {
	case g&gatePath != 0 && t.unreachable(s):
	case g&gateReserved != 0:
		t.Status = ReservationConflict
	case g&gateState != 0 && t.unready(s):
	default:
		return false
	}
	return true
}

// keptOut ends a task that may not run any more, though it might when it was
// prepared: another nexus has reserved or write-protected the unit meanwhile, or
// the view was not active then and has only now heard of it.
//
//spindle:hot
func (t *Task) keptOut() bool {
	if g := t.itl.gate & t.op.gate & gateShared; g != 0 && t.stopped(g) {
		return true
	}
	return t.op.flags&cmdWrites != 0 && t.View.snap.protect != 0 && t.protected(t.View.snap) == Done
}

// MayInline tells of a task that Prepare has said Ready of whether Execute would be
// Done with it, if nothing else runs before: its Data is needed no longer.
//
//spindle:hot
func (t *Task) MayInline() bool {
	v := t.View
	return t.op.flags&cmdInline != 0 && (plant.On(plant.StaleReceive) || !v.guarded && t.Attr != AttrOrdered && v.inline.Inline())
}

// Execute runs a prepared task. Done: it has its status. Waiting: TaskDone
// tells later.
// Preconditions: runs on the task's reactor; Prepare said Ready.
//
//spindle:hot
func (t *Task) Execute() Result {
	v := t.View
	invariants.Check(t.state == taskEngine, "scsi: Execute of a task that runs")
	if t.flags&taskAborted != 0 {
		t.settle()
		return Done
	}
	if t.itl == nil {
		t.op.next(t)
		return Done
	}
	if t.keptOut() {
		return Done
	}
	if t.op.flags&(cmdMedium|cmdOrdered) != 0 && (v.guarded || t.Attr == AttrOrdered) {
		if !v.admit(t) {
			return Waiting
		}
	}
	t.flags |= taskAdmitted
	t.state = taskBackend
	return v.drive(t)
}

// drive runs a task's steps until it ends or has to wait. It loops on final
// statuses, so a device that ends everything inside Submit costs no stack.
//
//spindle:hot
func (v *View) drive(t *Task) Result {
	for t.flags&taskAborted == 0 {
		switch t.op.next(t) {
		case actDone:
			if !t.Medium.Empty() {
				t.state = taskLive
				return Done
			}
			v.left(t)
			return Done
		case actIO:
			if v.submit(t) == Waiting {
				return Waiting
			}
		case actHold:
			if t.hold == nil && !v.acquire(t) {
				return Waiting
			}
		case actHome:
			if !v.ask(t) {
				return Waiting
			}
		case actYield:
			v.later(t)
			return Waiting
		case actChild:
			t.state = taskHome
			v.moved()
			return Waiting
		case actPark:
			v.park(t)
			return Waiting
		}
	}
	v.left(t)
	t.settle()
	return Done
}

// submit gives t.IO to the device. Done: IO.Status is final.
//
//spindle:hot
func (v *View) submit(t *Task) Result {
	t.state = taskBackend
	t.IO.Push(t, 0)
	switch s := v.ch.Submit(&t.IO); s {
	case bdev.Pending:
		return Waiting
	case bdev.NoMem:
		t.IO.Pop()
		v.starved(t)
		return Waiting
	default:
		t.IO.Pop()
		t.IO.Status = s
		t.ioEnded()
		return Done
	}
}

// IODone takes the task's next step when the device has ended its I/O.
//
//spindle:hot
func (t *Task) IODone(io *bdev.IO) {
	io.Pop()
	t.ioEnded()
	v := t.View
	if v.retry.head != nil {
		v.kick() // what it used may be what others wait for
	}
	if v.drive(t) == Done {
		t.Owner.TaskDone(t)
	}
}

// ioEnded notes lent memory, which has to go back even if the task was aborted.
//
//spindle:hot
func (t *Task) ioEnded() {
	if t.IO.Flags&bdev.Lend != 0 && t.IO.Status == bdev.OK {
		t.flags |= taskLent
	}
}

// left takes a task out of the backend.
//
//spindle:hot
func (v *View) left(t *Task) {
	t.state = taskEngine
	if t.hold != nil {
		v.release(t)
	}
	v.moved()
}

// settle gives an aborted task its status: none, or TASK ABORTED when another
// nexus ended it and TAS says to tell (SPC-5 §7.5.8).
func (t *Task) settle() {
	if t.copy != nil {
		t.copy.end(true)
	}
	t.untold()
	t.Status = Good
	if t.flags&taskTAS != 0 {
		t.Status = TaskAborted
	}
	t.DataLen, t.SenseLen = 0, 0
	t.IO.Meta = mem.Ref{} // a shielded command does it itself when it goes on
}

// End takes the task off its view's list: its response has left, or it was
// dropped. Lent memory goes back to the device.
// Preconditions: runs on the task's reactor; the task is not in Execute.
//
//spindle:hot
func (t *Task) End() {
	v := t.View
	if t.state == taskLive {
		t.landed()
	}
	invariants.Check(t.state == taskEngine, "scsi: End of a task that runs")
	if t.flags&taskLent != 0 {
		t.flags &^= taskLent
		v.ch.Release(&t.IO)
		if t.Lend {
			t.Data = mem.Ref{}
		}
	}
	t.state = taskOut
	v.delist(t)
	t.Nexus.tasks--
	if v.watchers != 0 {
		v.kick()
	}
	if t.Nexus.closed != nil {
		t.Nexus.side.kick()
	}
}

// Settle copies a Live task's data, from a byte on, to Data: it is not sent in
// this turn.
// Preconditions: runs on the task's reactor, after Execute and before End.
func (t *Task) Settle(from uint32) {
	n := t.DataLen - from
	copy(t.Data.Slice(from, n).Bytes(), t.Medium.Slice(from, n).Bytes())
	t.landed()
}

// landed ends a Live task's use of the medium: until here it was in the backend
// for whoever waits for tasks to leave that, so that what holds, ORDERED tasks
// and rounds keep apart stays apart from the data as well.
//
//spindle:hot
func (t *Task) landed() {
	t.Medium = mem.Ref{}
	t.View.left(t)
}

// Abort marks the task. One in the backend still ends with TaskDone; one that
// the engine has gets Owner.TaskAbort at once.
// Preconditions: runs on the task's reactor, between Begin and End.
func (t *Task) Abort() { t.abort(false) }

// AbortTold is Abort of a task that ends with TASK ABORTED.
// Preconditions: those of Abort.
func (t *Task) AbortTold() { t.abort(true) }

func (t *Task) abort(tas bool) {
	if t.flags&taskAborted != 0 || t.state == taskOut {
		return
	}
	t.flags |= taskAborted
	if tas {
		t.flags |= taskTAS
	}
	switch t.state {
	case taskEngine:
		t.settle()
		t.Owner.TaskAbort(t)
	case taskBackend:
		t.View.ch.Abort(&t.IO)
	case taskLive:
		// Its response leaves in this turn.
	case taskParked:
		// Waits for nothing that belongs to it: it can end now.
		t.View.unpark(t)
		t.View.later(t)
	case taskHold:
		t.View.forsake(t)
		t.View.later(t)
	case taskReady, taskHome:
		// Its turn or its answer comes, and finds the mark.
		if t.copy != nil {
			t.copy.child.abort(false)
		}
	}
}

// Aborted tells whether the task was aborted; its Status is then Good (send no
// response) or TaskAborted (send that).
func (t *Task) Aborted() bool { return t.flags&taskAborted != 0 }
