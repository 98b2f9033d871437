package iscsi

import (
	"iter"
	"math/bits"
	"net/netip"
	"slices"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/scsi"
)

// Session is an I_T nexus in full feature phase, or a discovery session. It is
// made on the reactor that accepted the login and lives on the one its leading
// connection moved to; connections that join it later move there, too.
type Session struct {
	e      *Engine
	sh     *shard
	node   *Node // nil for discovery
	nexus  *scsi.Nexus
	entry  *regEntry
	conn   *Connection   // the oldest of conns; nil before the first and when none is left
	conns  []*Connection // in full feature phase
	window Window

	initiator string
	alias     string
	isid      [6]byte
	tsih      uint16
	user      string         // who has authenticated, "" when nobody did
	transport string         // its leading connection's, as is local
	local     netip.AddrPort // where it came to
	params    sessionParams

	tasks     []*Task  // by place; nil where none is
	places    []uint16 // that are free; the last is taken next
	tags      []*Task
	tagMask   uint32
	gen       uint32 // of the last command that claimed a task
	active    uint32 // tasks that have no response yet
	depth     uint32 // commands the session may have outstanding
	slots     mem.Ref
	held      *Task // early commands, by CmdSN
	skipped   []uint32
	managing  int            // task management functions outstanding
	fastAbort bool           // TaskReporting=FastAbort
	sets      []*setFunction // outstanding
	ending    bool
	ended     bool
	arrived   bool          // its leading connection has come
	killed    bool          // ended before that
	fenced    *fence        // around a response that has left, or is about to
	behind    []behind      // what waits for it, oldest first
	shared    bool          // has had a second connection: their PDUs may overtake each other
	joining   []*Connection // that may join it and have not come
	onCome    []onCome      // what waits for one of them
	rec       *recovery     // nil at ErrorRecoveryLevel 0
	gone      ConnCounts    // of connections that have closed
	why       error         // the first of them went, but for those that logged out by themselves
	nexusGone bool
	onNexus   []func()      // told when the nexus has closed
	proof     reactor.Timer // armed for as long as its peer has to prove that it lives
}

// sessionParams are the negotiated keys the session obeys.
type sessionParams struct {
	initialR2T, immediateData  bool
	firstBurst, maxBurst       uint32
	maxOutstandingR2T          uint32
	time2Wait, time2Retain     uint16
	errorRecoveryLevel         uint8
	maxConnections             uint16
	dataPDUInOrder, dataSeqInO bool
	wholeBuffer                bool // Params.WholeBuffer
}

// populate gives the session places for its tasks: twice the depth, because
// responses that still leave hold theirs while the window has moved on, and the
// immediate ones.
// Preconditions: runs on the session's reactor.
func (s *Session) populate(sh *shard, depth uint32) error {
	s.sh, s.depth = sh, depth
	n := 2*depth + ImmediateTasks
	slots, ok := sh.r.Arena.Alloc(n * OutSlot)
	if !ok {
		return ErrLimit
	}
	s.slots = slots
	s.tasks, s.places = make([]*Task, n), make([]uint16, n)
	for i := range s.places {
		s.places[i] = uint16(i)
	}
	s.tags = make([]*Task, 1<<bits.Len32(n-1))
	s.tagMask = uint32(len(s.tags)) - 1
	sh.enlarge(n)
	return nil
}

// claimed are the tasks in use.
func (s *Session) claimed() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for _, t := range s.tasks {
			if t != nil && !yield(t) {
				return
			}
		}
	}
}

// openWindow advertises what the depth leaves and the free tasks allow. A
// window that the initiator knows as closed is reopened by a NOP-In when nothing
// is on its way that could tell it: no response, and none of the connection's
// own PDUs, each of which comes here again when it has left.
//
//spindle:hot
func (s *Session) openWindow() {
	free := uint32(len(s.places))
	if free <= ImmediateTasks || s.active >= s.depth {
		return
	}
	s.window.advertise(min(free-ImmediateTasks, s.depth-s.active))
	if s.window.closedToPeer() {
		s.reopen()
	}
}

// reopen tells of a window that the initiator knows as closed, unless something
// that is on its way does.
func (s *Session) reopen() {
	n := uint32(len(s.places)) + s.active
	if s.rec != nil {
		n += s.rec.count
	}
	if s.conn == nil || n != uint32(len(s.tasks)) {
		return
	}
	for _, c := range s.conns {
		if c.outCount != ConnectionOuts {
			return
		}
	}
	s.conn.tellWindow()
}

// hold keeps an early command until the gap before it is filled.
func (s *Session) hold(t *Task) {
	t.state = taskHeld
	p := &s.held
	for *p != nil && (pdu.SNLess((*p).cmdSN, t.cmdSN) || (*p).cmdSN == t.cmdSN && (*p).uncounted()) {
		p = &(*p).heldNext
	}
	t.heldNext = *p
	*p = t
}

// unhold takes an aborted task out; its CmdSN counts as received. One whose data still
// comes is not there yet: its CmdSN may have come by another connection meanwhile.
func (s *Session) unhold(t *Task) {
	for p := &s.held; *p != nil; p = &(*p).heldNext {
		if *p == t {
			*p = t.heldNext
			t.heldNext = nil
			break
		}
	}
	if sn := t.cmdSN; !t.uncounted() && !pdu.SNLess(sn, s.window.ExpCmdSN) && !s.isHeld(sn) {
		s.skip(sn)
	}
}

// isHeld tells whether sn has been received already.
func (s *Session) isHeld(sn uint32) bool {
	for t := s.held; t != nil; t = t.heldNext {
		if t.cmdSN == sn && !t.uncounted() {
			return true
		}
	}
	for _, k := range s.skipped {
		if k == sn {
			return true
		}
	}
	return false
}

// skip counts sn as received although its command never will be: it was aborted
// before it came (RFC 7143 §11.6.1).
func (s *Session) skip(sn uint32) {
	if sn == s.window.ExpCmdSN {
		s.window.ExpCmdSN++
		s.runHeld()
		return
	}
	s.skipped = append(s.skipped, sn)
}

// runHeld starts the early commands whose turn has come.
func (s *Session) runHeld() {
	for again := true; again; {
		again = false
		for i, sn := range s.skipped {
			if sn == s.window.ExpCmdSN {
				s.skipped = append(s.skipped[:i], s.skipped[i+1:]...)
				s.window.ExpCmdSN++
				again = true
				break
			}
		}
		if t := s.held; t != nil && !pdu.SNLess(s.window.ExpCmdSN, t.cmdSN) {
			s.held, t.heldNext = t.heldNext, nil
			if !t.uncounted() {
				s.window.ExpCmdSN++
			}
			t.conn.resumeHeld(t)
			again = true
		}
	}
}

// end closes the session's connections; what is left happens in closed.
// Preconditions: runs on the session's reactor.
func (s *Session) end(why error) {
	s.ending = true
	if len(s.conns) == 0 && len(s.joining) == 0 {
		s.closed()
		return
	}
	for _, c := range slices.Clone(s.conns) {
		if why == errColdReset && c.phase == phaseFull {
			c.phase = phaseLogout // the answer to the reset leaves first
			c.closeAfterSend(why)
		} else {
			c.tp.Close(why)
		}
	}
}

// closed ends the nexus once the last connection is gone: its tasks end, then
// the registry hears of it. Preconditions: runs on the session's reactor.
func (s *Session) closed() {
	if s.rec != nil {
		s.forgetAll()
	}
	for s.held != nil { // never seen by the device server
		t := s.held
		s.held, t.heldNext = t.heldNext, nil
		s.unfile(t)
		t.release()
	}
	finish := func() {
		if s.ended {
			return
		}
		s.ended = true
		if s.arrived {
			s.sh.r.Disarm(&s.proof)
			s.sh.tally(s.node).ends[sessionEnd(s.why)]++
		}
		if !s.slots.Empty() {
			s.sh.free(s.slots)
			s.slots = mem.Ref{}
			s.tasks, s.places, s.tags = nil, nil, nil
		}
		s.e.registry.leave(s)
	}
	if s.nexus == nil {
		finish()
		return
	}
	if plant.On(plant.StaleWrite) {
		s.e.registry.leave(s)
	}
	s.closeNexus(finish)
}

// closeNexus ends the I_T nexus once and tells each caller when it has ended.
func (s *Session) closeNexus(done func()) {
	if s.nexusGone {
		done()
		return
	}
	s.onNexus = append(s.onNexus, done)
	if len(s.onNexus) > 1 {
		return
	}
	s.unfenceTasks(nil) // they may hold memory of the device
	s.nexus.Close(func() {
		s.nexusGone = true
		for _, fn := range s.onNexus {
			fn()
		}
		s.onNexus = nil
	})
}

// reactor is where the registry wants the session.
func (s *Session) reactor() *reactor.Reactor { return s.entry.r }
