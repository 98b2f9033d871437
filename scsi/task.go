package scsi

import (
	"spindle/bdev"
	"spindle/reactor/mem"
)

// MaxCDB is the longest CDB kept, in bytes (variable-length CDBs included).
const MaxCDB = 64

// MaxSense is the longest sense data, in bytes. iSER peers receive at most 128
// bytes of data in a SEND, two of which are the sense length.
const MaxSense = 96

// Direction is the way a command moves data.
type Direction uint8

const (
	NoData  Direction = iota
	DataIn            // device to initiator
	DataOut           // initiator to device
)

// Attr is the task attribute (SAM-5 §8.3), with iSCSI's values.
type Attr uint8

const (
	AttrUntagged    Attr = 0
	AttrSimple      Attr = 1
	AttrOrdered     Attr = 2
	AttrHeadOfQueue Attr = 3
	AttrACA         Attr = 4
)

// Result of a step of a task.
type Result uint8

const (
	Done    Result = iota // the task has its Status; TaskDone is not called
	Waiting               // TaskDone is called later, never inside the call
	Ready                 // Prepare only: get the buffer and the data-out, then Execute
)

// Owner is the engine's side of a task. Its methods run on the task's reactor.
type Owner interface {
	// TaskDone tells that a Waiting task has its status.
	TaskDone(t *Task)
	// TaskAbort asks the engine to end a task that is not in Execute: it still
	// waits for its buffer or its data, or its response waits. The engine frees
	// it without a response (or with TASK ABORTED when t.Status says so) and
	// calls t.End, at once or when the transport has let go of its buffer. It is
	// called from inside Abort, Manage and Close.
	TaskAbort(t *Task)
}

// decoded is what the device server has found out about a task. Begin resets all
// of it, at once.
type decoded struct {
	Want    uint32 // bytes the CDB asks to move; for DataIn an upper bound of DataLen
	Scratch uint32 // bytes of working memory behind Want in Data
	DataLen uint32 // bytes of data-in made

	// Owned by the view. The range is what holds and ORDERED tasks look at.
	cursor uint32 // blocks (or descriptors) done
	lba    uint64
	blocks uint32
	arg    uint32 // a word of the command's own
	flags  taskFlags
	step   uint8

	Dir      Direction
	Lend     bool // DataIn only: no buffer is needed, Execute points Data at lent memory until End
	MayLive  bool // DataIn only: the engine may set Live
	Inline   bool // DataOut only: Data is there during Execute only, which does not wait; see MayInline
	Live     bool // Execute points Medium at memory that others write to, and leaves Data for Settle
	Status   Status
	SenseLen uint8
}

// Task is one SCSI command from decode to status. The engine embeds it in its
// own task, fills the request part, and drives it:
//
//	Begin    the nexus looks up the LUN and puts the task on its view's list
//	Prepare  decodes: Ready (Dir, Want, Scratch are set) or Done (status set)
//	         engine: Data of Want+Scratch bytes, data-out gathered in Data[:min(EDTL,Want)]
//	Execute  Done, or Waiting and TaskDone later; just after MayInline, Done
//	         engine: sends Data[:DataLen] and Status, with Sense
//	End      takes it off the view's list; the engine frees it
type Task struct {
	// What every command touches comes first, so that it shares cache lines.
	Owner      Owner    // set once when the task is allocated
	Nexus      *Nexus   // set by Begin
	View       *View    // set by Begin
	itl        *ITL     // set by Begin
	op         *command // the dispatch table's row; nil for an unknown opcode
	prev, next *Task    // the view's list

	// Request, filled in by the engine: EDTL, CDBLen, Attr, ExpDir, CDB.
	// Set by Prepare: Want, Scratch, Dir, Lend, MayLive. Result: DataLen, Status, Sense.
	EDTL   uint32 // expected data transfer length, bytes
	CDBLen uint8
	Attr   Attr
	ExpDir Direction
	state  taskState

	decoded
	Data   mem.Ref // the buffer, set by the engine before Execute
	Medium mem.Ref // a Live task's data where it lies, from Execute to Settle or End
	seq    uint64  // order of Begin on this view
	CDB    [MaxCDB]byte
	IO     bdev.IO

	// What few commands touch.
	Arg      any     // the engine's own task, set once when it is allocated; of a part, the whole's
	parkNext *Task   // the queue it waits in
	hold     *hold   // granted to it
	claim    *claim  // waits for one
	copy     *copier // EXTENDED COPY at work
	call     homeCall
	Sense    [MaxSense]byte
}
