package scsi

import (
	"slices"
	"time"

	"spindle/internal/plant"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// Task management functions, with iSCSI's values (RFC 7143 §11.5.1).
const (
	FnAbortTask       = 1
	FnAbortTaskSet    = 2
	FnClearACA        = 3
	FnClearTaskSet    = 4
	FnLUNReset        = 5
	FnTargetWarmReset = 6
	FnTargetColdReset = 7
)

// Responses, with iSCSI's values (RFC 7143 §11.6.1).
const (
	RespComplete     = 0
	RespNoTask       = 1
	RespNoLUN        = 2
	RespUnsupported  = 5
	RespRejected     = 255
	managementBudget = 10 * time.Second
)

// maxResets bounds the functions of a nexus that have not ended, those with a closed
// time box among them: more are rejected at once.
const maxResets = 64

// Management is a task management function. Done is called once, never inside
// Manage: after the affected tasks have ended on every reactor, or with
// RespRejected when they have not within the time box; then the nexus stays
// fenced for the unit until they have.
//
// Spares, when not nil, tells of a task of the nexus itself whether it is behind the
// function: such a task may come while that is at work, and is left alone.
type Management struct {
	Fn     uint8
	LUN    uint64
	Ref    *Task // ABORT TASK: the task
	Spares func(*Task) bool
	Done   func(resp uint8)
}

// reset is a task management function at work. It outlives its Management when
// the time box closes.
type reset struct {
	n     *Nexus
	m     *Management // nil once answered
	fn    uint8
	spare func(*Task) bool // Management.Spares
	units []unitReset
	left  int          // units that are not done
	one   [1]unitReset // units of a function for one
	code  Code         // unit attention of a reset
	timer reactor.Timer
}

// unitReset is the part of a reset that one unit has.
type unitReset struct {
	x    *reset
	v    *View
	done bool
	shut *ITL // fenced, since the time box has closed
	call homeCall
}

// Manage runs a task management function.
// Preconditions: runs on the nexus's reactor; m is not running.
func (n *Nexus) Manage(m *Management) {
	x := &reset{n: n, m: m, fn: m.Fn, spare: m.Spares}
	x.timer.Fire = x.expired
	n.managing++
	n.resets++
	if n.resets > maxResets {
		x.finish(RespRejected)
		return
	}
	var itl *ITL // of the one unit that it is for, but for ABORT TASK
	switch {
	case m.Fn == FnTargetWarmReset || m.Fn == FnTargetColdReset:
		n.absent.abortTasks(nil, nil, false, x) // they wait for nothing but a buffer
	case m.Fn == FnAbortTask && m.Ref != nil:
	default:
		if itl = n.find(decodeLUN(m.LUN)); itl == nil {
			x.finish(RespNoLUN)
			return
		}
	}
	n.side.r.Arm(&x.timer, n.side.r.Now().Add(managementBudget))
	switch m.Fn {
	case FnAbortTask:
		x.abortTask(m.Ref)
	case FnAbortTaskSet:
		v, u := itl.view, x.single(itl.view)
		v.abortTasks(itl, nil, false, x)
		v.watch(watch{seq: v.seq, itl: itl, reset: x, done: u.end})
	case FnClearTaskSet:
		x.start(itl.view.lu)
	case FnLUNReset:
		x.code = DeviceReset
		x.start(itl.view.lu)
	case FnTargetWarmReset:
		x.code = BusReset
		x.start(n.seen()...)
	case FnTargetColdReset:
		x.code = PowerOn
		x.start(n.seen()...)
	default:
		// CLEAR ACA is for units that have an auto contingent allegiance (SAM-5 §7.4);
		// INQUIRY says by NORMACA 0 that this has none, and REPORT SUPPORTED TASK
		// MANAGEMENT FUNCTIONS by CACAS 0 that response 5 comes (RFC 7143 §11.6.1).
		x.finish(RespUnsupported)
	}
}

func (x *reset) abortTask(ref *Task) {
	if ref == nil || ref.state == taskOut {
		x.finish(RespNoTask)
		return
	}
	v, seq := ref.View, ref.seq
	u := x.single(v)
	ref.abort(false)
	v.watch(watch{seq: v.seq, ref: ref, refSeq: seq, done: u.end})
}

// single has x concern the one unit of v.
func (x *reset) single(v *View) *unitReset {
	x.one[0] = unitReset{x: x, v: v}
	x.units, x.left = x.one[:], 1
	return &x.one[0]
}

// spares tells whether t is behind x, which leaves it alone; nil spares none.
func (x *reset) spares(t *Task) bool {
	return x != nil && t.Nexus == x.n && x.spare != nil && x.spare(t)
}

// everything is what a target reset resets (SAM-5 §7.8, RFC 7143 §11.5.1): a
// task that was begun before its unit was unpublished is one of the target's
// tasks until it has ended.
func (inv *inventory) everything() []*LogicalUnit {
	if plant.On(plant.LeavingForgotten) {
		return slices.Clone(inv.all)
	}
	return append(slices.Clone(inv.all), inv.leaving...)
}

// seen is what a reset by this nexus resets: units that are masked from it are
// not its to reset (RFC 7143 §11.5.1).
func (n *Nexus) seen() []*LogicalUnit {
	return slices.DeleteFunc(n.dev.inventory.Load().everything(), func(lu *LogicalUnit) bool { return !n.sees(lu) })
}

// SeesAll tells whether no unit of the target is masked from the nexus.
// Preconditions: runs on the nexus's reactor.
func (n *Nexus) SeesAll() bool {
	return !slices.ContainsFunc(n.dev.inventory.Load().everything(), func(lu *LogicalUnit) bool { return !n.sees(lu) })
}

// sees tells whether the nexus uses a unit or would be let use it.
func (n *Nexus) sees(lu *LogicalUnit) bool {
	if i := n.existing(int(lu.lun)); i != nil && i.view.lu == lu {
		return true
	}
	return n.visible == nil || n.visible(lu.lun)
}

// start resets units, all at once: one with a task that hangs keeps none of the
// others, and what the nexus sends next comes behind the reset of its unit.
func (x *reset) start(units ...*LogicalUnit) {
	x.units = x.one[:]
	if len(units) != 1 {
		x.units = make([]unitReset, len(units))
	}
	x.left = len(units) + 1 // one of our own, since units may be done in here
	for k, lu := range units {
		u := &x.units[k]
		u.x, u.v, u.call.reset = x, lu.views[x.n.side.index], u
		lu.claimHome(u.v.index)
		u.v.call(&u.call, callReset)
	}
	x.ended()
}

// end is home's answer for a unit.
func (u *unitReset) end() {
	u.done = true
	u.unfence()
	u.x.ended()
}

func (x *reset) ended() {
	if x.left--; x.left == 0 {
		x.finish(RespComplete)
	}
}

// applyReset is the reset at home: all tasks end; what a reset clears is
// cleared. Persistent reservations survive it (SPC-5 §5.14.1).
func (lu *LogicalUnit) applyReset(x *reset, r *round) {
	r.abort, r.from, r.reset = abortAll, x.n.ID, x
	r.tas = lu.current.mode.tas && !plant.On(plant.AbortedUntold)
	if x.fn == FnClearTaskSet {
		r.cleared = !r.tas
		return
	}
	lu.prevent = nil
	if p := lu.current.pr; p.reserved {
		n := *p
		n.reserved, n.owner = false, NexusID{}
		lu.change(r).pr = &n
	}
	if d := lu.current.savedMode(); d != lu.current.mode {
		lu.setMode(lu.change(r), d)
	}
	r.attention(x.code)
}

// expired closes the time box. The answer is a failure: an affected write may
// still reach the medium. The nexus is fenced, at the units that have not ended
// their tasks, until it cannot.
func (x *reset) expired(clock.Time) {
	for k := range x.units {
		if u := &x.units[k]; !u.done {
			u.fence()
		}
	}
	x.conclude(RespRejected)
}

func (u *unitReset) fence() {
	if u.v.lu == nil {
		return // of units that are not there: nothing of theirs can hang
	}
	i := u.x.n.existing(int(u.v.lu.lun))
	if i == nil || i.view != u.v { // of the unit that took the place of one that is leaving
		return
	}
	u.shut = i
	i.fences++
	i.gate |= gateFence
}

func (u *unitReset) unfence() {
	i := u.shut
	if i == nil {
		return
	}
	u.shut = nil
	if i.fences--; i.fences == 0 {
		i.gate &^= gateFence
	}
}

// finish ends the function, now or after its time box.
func (x *reset) finish(resp uint8) {
	x.n.resets--
	if x.m != nil {
		x.conclude(resp)
	}
}

// conclude has the side answer, outside the engine's call.
func (x *reset) conclude(resp uint8) {
	x.n.side.r.Disarm(&x.timer)
	x.n.side.answers = append(x.n.side.answers, response{x.n, x.m, resp})
	x.m = nil
	x.n.side.kick()
}

type response struct {
	n    *Nexus
	m    *Management
	resp uint8
}
