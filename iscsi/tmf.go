package iscsi

import (
	"slices"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/scsi"
)

// manage takes a Task Management Function Request (RFC 7143 §11.5). The answer
// goes out once the affected tasks have ended.
func (c *Connection) manage(b pdu.BHS, order uint32) {
	s := c.sess
	itt, fn, lun := b.ITT(), b.TMF(), b.LUN()
	answer := func(resp uint8) {
		if plant.On(plant.DoubleAnswer) {
			c.tmfResponse(itt, resp)
		}
		f := &fence{
			c: c, lun: lun, every: fn == pdu.TMFWarmReset || fn == pdu.TMFColdReset,
			both: fn != pdu.TMFAbortTask && resp == pdu.TMFComplete,
		}
		s.managing++ // until it is told
		f.send = func() {
			if s.managing--; c.closing != nil {
				return // nothing follows a Logout Response (RFC 7143 §11.14)
			}
			c.withOut(func(o *Out) {
				fillTMFResponse(o, itt, resp)
				c.misc(o).then = func() { f.leaves(o.BHS.StatSN()) }
				c.tp.Queue(o)
			})
		}
		s.fence(f)
	}
	switch {
	case s.nexus != nil && c.awaitCommands(b):
		return
	case s.nexus == nil:
		c.reject(b, pdu.RejectProtocol)
		return
	case s.managing >= MaxManagement:
		// No fence: what that holds back leaves its connection room for more of it.
		c.e.reached(limitTasks, c.sh.r.Now(), "peer", c.peer)
		c.tmfResponse(itt, pdu.TMFRejected)
		return
	}
	if int(fn) < len(functionNames) {
		c.tally.functions[fn]++
	} else {
		c.tally.functions[0]++
	}
	var ref *scsi.Task
	switch fn {
	case pdu.TMFAbortTask:
		t := s.lookup(b.RefTag())
		switch {
		case t == nil:
			answer(s.abortUnseen(b))
			return
		case t.state == taskHeld, t.state == taskParked && t.SCSI.View == nil:
			if t.state == taskHeld {
				t.TaskAbort(&t.SCSI)
			} else {
				t.vanish()
			}
			answer(pdu.TMFComplete)
			return
		case t.state == taskDraining && t.SCSI.View == nil:
			t.SCSI.Status = scsi.Good // what TAS promised it is not told any more
			answer(pdu.TMFComplete)
			return
		}
		ref = &t.SCSI
	case pdu.TMFColdReset:
		if !s.nexus.SeesAll() {
			// It ends every session, and with them tasks of units that are masked
			// from this one (RFC 7143 §11.5.1).
			answer(pdu.TMFNotAuthorized)
			return
		}
	case pdu.TMFAbortTaskSet, pdu.TMFClearTaskSet, pdu.TMFLUNReset, pdu.TMFWarmReset:
	case pdu.TMFReassign:
		c.reassign(b)
		return
	default:
		answer(pdu.TMFNotSupported)
		return
	}
	set := &setFunction{c: c, fn: fn, lun: lun, cmdSN: b.CmdSN(), order: order}
	if fn != pdu.TMFAbortTask {
		s.sets = append(s.sets, set)
		s.abortHeld(b)
		s.tellOvertaking(set)
	}
	s.managing++
	s.nexus.Manage(&scsi.Management{
		Fn: fn, LUN: lun, Ref: ref, Spares: set.spares,
		Done: func(resp uint8) {
			s.managing--
			s.sets = slices.DeleteFunc(s.sets, func(f *setFunction) bool { return f == set })
			if resp == pdu.TMFComplete {
				s.silence(set)
			}
			answer(resp)
			if fn == pdu.TMFColdReset && resp == pdu.TMFComplete {
				s.e.coldReset(s.node)
			}
		},
	})
}

// abortHeld ends the commands before a task set function that wait for a gap in
// CmdSN: it affects them although the device server has not seen them (RFC 7143
// §4.2.2.3.3).
func (s *Session) abortHeld(b pdu.BHS) {
	for t := s.held; t != nil; {
		next := t.heldNext
		every := b.TMF() == pdu.TMFWarmReset || b.TMF() == pdu.TMFColdReset
		if !t.raw && pdu.SNLess(t.cmdSN, b.CmdSN()) && (every || pdu.BHS(t.bhs[:]).LUN() == b.LUN()) {
			t.conn.terminated(t)
			t.TaskAbort(&t.SCSI)
		}
		t = next
	}
}

// setFunction is a function for a set of tasks: where it came, and which it covers.
type setFunction struct {
	c            *Connection
	fn           byte
	lun          uint64
	cmdSN, order uint32
}

// concerns tells whether t is a task of the units that f is about.
func (f *setFunction) concerns(t *Task) bool {
	return t.state != taskFree && (t.lun == f.lun || f.fn == pdu.TMFWarmReset || f.fn == pdu.TMFColdReset)
}

// covers tells whether t came before f: in the order of CmdSN, or without a place in
// that by the same connection.
func (f *setFunction) covers(t *Task) bool {
	return pdu.SNLess(t.cmdSN, f.cmdSN) || t.conn == f.c && int32(t.order-f.order) < 0
}

// spares tells whether a task of its session, or what it is a part of, is behind f and
// none of its business: it may come while f is at work (RFC 7143 §11.5).
func (f *setFunction) spares(q *scsi.Task) bool {
	return !f.covers(q.Arg.(*Task)) && !plant.On(plant.LaterEnded)
}

// tellOvertaking ends the commands that f does not cover, and yet finds: those that
// came by other connections, and those behind it that did not wait for their turn as
// it did. Its response says nothing of them (RFC 7143 §11.5): each has its own.
func (s *Session) tellOvertaking(f *setFunction) {
	for t := range s.claimed() {
		live := t.state == taskBuffer || t.state == taskData || t.state == taskExecuting
		if live && t.SCSI.View != nil && f.concerns(t) && !f.covers(t) {
			t.SCSI.AbortTold()
		}
	}
}

// silence is the success of f: what it covers has no response any more, were it that
// another nexus has aborted it and TASK ABORTED waits for the end of its data.
func (s *Session) silence(f *setFunction) {
	if f.fn == pdu.TMFAbortTask {
		return
	}
	for t := range s.claimed() {
		switch {
		case t.SCSI.View != nil || t.SCSI.Status != scsi.TaskAborted || !f.concerns(t) || !f.covers(t):
		case t.state == taskDraining:
			t.SCSI.Status = scsi.Good
		case t.state == taskParked:
			t.vanish()
		}
	}
}

// abortUnseen answers ABORT TASK for a task that is not there: one still on its
// way counts as received and is aborted with that, any other does not exist
// (RFC 7143 §11.6.1).
func (s *Session) abortUnseen(b pdu.BHS) uint8 {
	sn := b.RefCmdSN()
	w := &s.window
	if pdu.SNLess(sn, w.ExpCmdSN) || pdu.SNLess(w.MaxCmdSN, sn) || !pdu.SNLess(sn, b.CmdSN()) || s.isHeld(sn) {
		return pdu.TMFNoTask
	}
	s.skip(sn)
	return pdu.TMFComplete
}

func (c *Connection) tmfResponse(itt uint32, resp uint8) {
	c.withOut(func(o *Out) {
		fillTMFResponse(o, itt, resp)
		c.tp.Queue(o)
	})
}

func fillTMFResponse(o *Out, itt uint32, resp uint8) {
	o.BHS.Clear(pdu.TMFResponse)
	o.BHS.SetFlags(pdu.FlagFinal)
	o.BHS.SetResponse(resp)
	o.BHS.SetITT(itt)
	o.Stamp = StampNext
}
