package iscsi

import (
	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/scsi"
)

// taskState is where a task is. What may touch its buffer follows from it.
type taskState uint8

const (
	taskFree       taskState = iota
	taskHeld                 // early CmdSN: waits for the gap before it
	taskBuffer               // waits for a data buffer
	taskData                 // gathers write data
	taskExecuting            // with the device server; TaskDone comes
	taskResponding           // its response is queued; OutSent comes
	taskDraining             // aborted while a data segment streams, or is read, into its buffer

	// At ErrorRecoveryLevel 1 and 2.
	taskRetained  // its response has left and is not acknowledged
	taskSuspended // waits for a buffer, and its connection is lost
	taskParked    // has its status, and its connection is lost
)

// gathered is how far the write data of a command has come (RFC 7143 §11.7, §11.8).
type gathered struct {
	need     uint32 // bytes of write data the command takes
	got      uint32 // contiguous bytes received
	burstEnd uint32 // end of the sequence being received
	dataSN   uint32 // expected in that sequence
	r2tSN    uint32
	asked    uint32 // bytes solicited so far, or covered by unsolicited data
	r2ts     uint32 // R2Ts outstanding
}

// Task is one command of a session. A reactor's tasks serve all of its sessions:
// those that were in use last are used next, and are in the CPU's cache.
type Task struct {
	// What every command touches comes first, so that it shares cache lines.
	sess     *Session
	conn     *Connection
	hashNext *Task // bucket of the session's tag table
	freeNext *Task

	itt      uint32
	cmdSN    uint32
	lun      uint64
	edtl     uint32
	index    uint16 // the session's place that it fills
	gen      uint32 // of the session's commands; with index, the target transfer tag
	state    taskState
	raw      bool // a held PDU other than a SCSI command: bhs and SCSI.Data keep it
	write    bool // W bit
	read     bool // R bit
	final    bool // no unsolicited Data-Out PDUs follow (the F bit came)
	stream   bool // a data segment is being received into its buffer
	fetching bool // a Fetch reads into its buffer (Traits.Reads)
	counts   bool // has yet to be counted
	badAHS   bool // its additional header segments are malformed
	r2tWait  bool // waits for a free Out
	unkept   bool // held, its immediate data not: there was no memory
	missed   bool // unsolicited Data-Out came while it was held, and is not kept

	gathered
	order uint32 // its connection's PDUs up to its command

	began clock.Time // its header came
	reply Reply
	SCSI  scsi.Task

	// What few commands touch.
	fetch     Fetch
	bhs       [pdu.HeaderLen]byte // of a held PDU, or of a command that is rejected
	r2tNext   *Task
	waitNext  *Task      // shard's buffer queue
	waitSince clock.Time // when it began to wait for a buffer
	heldNext  *Task      // session's early commands, by CmdSN
}

// ttt is the target transfer tag of the task's R2Ts: index and generation, so
// that what comes back from the wire is checked before it names anything.
func (t *Task) ttt() uint32 { return t.gen&0x7fff<<16 | uint32(t.index) }

// bufferSize is the arena memory the command needs.
func (t *Task) bufferSize() uint32 { return t.SCSI.Want + t.SCSI.Scratch }

// lookup finds the task of an initiator task tag, nil when there is none whose
// response is not on its way.
//
//spindle:hot
func (s *Session) lookup(itt uint32) *Task {
	t := s.tags[itt&s.tagMask]
	for t != nil && t.itt != itt {
		t = t.hashNext
	}
	return t
}

// byTTT finds the task a target transfer tag names.
//
//spindle:hot
func (s *Session) byTTT(ttt, itt uint32) *Task {
	i := ttt & 0xffff
	if i >= uint32(len(s.tasks)) {
		return nil
	}
	t := s.tasks[i]
	if t == nil || t.ttt() != ttt || t.itt != itt || t.state != taskData {
		return nil
	}
	return t
}

// claim has a task fill a free place and files it under itt.
// Preconditions: a place is free.
//
//spindle:hot
func (s *Session) claim(c *Connection, itt, cmdSN uint32) *Task {
	t := s.sh.takeTask()
	last := len(s.places) - 1
	i := s.places[last]
	s.places = s.places[:last]
	s.tasks[i] = t
	s.active++
	s.gen++
	t.gen = s.gen
	if t.sess != s || t.index != i { // a session alone finds the one that it had there
		t.sess, t.index = s, i
		t.reply.Out.Bind(s.slots.Slice(uint32(i)*OutSlot, OutSlot))
		t.reply.Segment = 0
	}
	t.conn, t.itt, t.cmdSN, t.order = c, itt, cmdSN, uint32(c.n.PDUsIn)
	b := &s.tags[itt&s.tagMask]
	t.hashNext = *b
	*b = t
	return t
}

// unfile takes t out of the tag table: from here on its tag may be used again.
//
//spindle:hot
func (s *Session) unfile(t *Task) {
	if t.r2tWait {
		t.conn.unwaitR2T(t)
	}
	for p := &s.tags[t.itt&s.tagMask]; *p != nil; p = &(*p).hashNext {
		if *p == t {
			*p = t.hashNext
			t.hashNext = nil
			s.active--
			return
		}
	}
}

// release ends t: its buffer goes back, the task is free, the window moves.
// Preconditions: t is unfiled and nothing refers to its memory.
func (t *Task) release() {
	s := t.sess
	t.vacate()
	s.openWindow()
}

// vacate is release but for the window.
//
//spindle:hot
func (t *Task) vacate() {
	s := t.sess
	if t.SCSI.View != nil {
		t.SCSI.End()
		t.SCSI.View = nil
	}
	t.dropBuffer()
	t.state = taskFree
	t.raw, t.stream, t.fetching, t.unkept = false, false, false, false
	s.tasks[t.index] = nil
	s.places = append(s.places, t.index) // within capacity: the place was its own
	s.sh.keepTask(t)
}

// dropBuffer gives the data buffer back; lent memory is the device's.
//
//spindle:hot
func (t *Task) dropBuffer() {
	if !t.SCSI.Data.Empty() && !t.SCSI.Lend && !(plant.On(plant.LeakedBuffer) && t.itt%64 == 3) {
		t.sess.sh.free(t.SCSI.Data)
	}
	t.SCSI.Data = mem.Ref{}
	t.SCSI.Lend = false
}

// OutSent implements Sent: the response has left, or died with the connection.
//
//spindle:hot
func (t *Task) OutSent(o *Out) {
	t.account()
	s := t.sess
	if f := s.fenced; f != nil && f.task == t && !t.reply.Unsent {
		f.leaves(o.BHS.StatSN())
	}
	if s.rec != nil && (s.retain(t) || t.copying()) {
		return
	}
	t.vacate()
	// The response has moved the window as far as it goes, unless places are short.
	if uint32(len(s.places))+s.active <= s.depth+ImmediateTasks || s.window.closedToPeer() {
		s.openWindow()
	}
}

// AckTag implements DataAcker.
func (t *Task) AckTag() (lun uint64, ttt uint32) { return t.lun, t.ttt() }

// TaskDone implements scsi.Owner.
//
//spindle:hot
func (t *Task) TaskDone(*scsi.Task) { t.executed() }

// TaskAbort implements scsi.Owner: the task is not with the device server, so it
// ends here. Its medium is safe from it at once; only its buffer may have to
// wait for a data segment that streams into it.
func (t *Task) TaskAbort(*scsi.Task) {
	switch t.state {
	case taskBuffer:
		t.sess.sh.unwait(t)
	case taskHeld:
		t.SCSI.Status = scsi.Good // what the last one in its place was told is not told of it
		t.sess.unhold(t)
	case taskResponding, taskDraining, taskFree:
		return // its end is under way
	}
	if t.fetching {
		u, ok := t.conn.tp.(Unfetcher)
		t.fetching = !ok || !u.Unfetch(&t.fetch)
	}
	if t.SCSI.Status == scsi.TaskAborted && !t.stream && !t.fetching {
		switch {
		case t.conn.phase == phaseFull:
			t.respond()
			return
		case t.conn.recover && !t.sess.ending: // told to whoever takes it over
			t.park()
			return
		}
	}
	t.vanish()
}

// drained ends a task that was aborted while data came into its buffer. With TAS
// set, whom another nexus has aborted it is told now (SPC-5 §7.5.8).
func (t *Task) drained() {
	if t.SCSI.Status == scsi.TaskAborted && t.conn.phase == phaseFull {
		t.respond()
		return
	}
	t.sess.unfile(t)
	t.release()
}

// vanish ends a task without a response.
func (t *Task) vanish() {
	c := t.conn
	c.aborted()
	reading := t.fetching && !plant.On(plant.ReadingFreed)
	told := t.SCSI.Status == scsi.TaskAborted // when its segment has come
	if !reading && !(t.stream && told) {
		t.sess.unfile(t)
	}
	switch {
	case reading:
		// It stays on its view's list, and its tag is its own: a management function
		// that is answered while the initiator's memory is being read, were it that
		// there is no such task, would let the initiator take that memory back, and
		// the read fail with the connection.
		t.state = taskDraining
	case t.stream:
		if t.r2tWait {
			c.unwaitR2T(t)
		}
		t.state = taskDraining
		if t.SCSI.View != nil { // nil: its turn had not come
			t.SCSI.End()
			t.SCSI.View = nil
		}
	default:
		t.release()
	}
	c.checkQuiet()
}
