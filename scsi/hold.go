package scsi

import "spindle/reactor"

// MaxHolds bounds the holds of a unit that stand at once; further requests wait.
const MaxHolds = 8

// maxForsaken bounds the claims of a view that wait at home although their tasks were
// aborted: behind a device that hangs, an initiator could ask and abort for ever.
const maxForsaken = 256

type holdState uint8

const (
	holdIdle      holdState = iota
	holdQueued              // behind an older hold that overlaps
	holdStarting            // views see older tasks out
	holdGranted             // its task runs, on its own channel
	holdReleasing           // views forget it
)

// hold keeps a range of LBAs for one task: every active view parks newer
// commands that overlap it, and acknowledges when the older ones have left the
// backend. Owner: the home reactor; views read the range until they have
// acknowledged the release.
type hold struct {
	lu      *LogicalUnit
	call    *homeCall // the request; nil once granted
	task    *Task
	lba     uint64
	blocks  uint64
	state   holdState
	pending int // legs that have to acknowledge
	legs    []leg
	rel     reactor.Msg
}

// leg is a hold's part on one view.
type leg struct {
	h       *hold
	v       *View
	on      bool // owner home: the view was told
	sent    bool // owner home: an order is under way
	off     bool // what the order says: forget
	order   reactor.Msg
	ackNode reactor.Msg
	clear   func() // acknowledges; made once
}

func (lu *LogicalUnit) newHold() *hold {
	h := &hold{lu: lu, legs: make([]leg, len(lu.views))}
	h.rel.Run = func(*reactor.Reactor) { h.release() }
	for i := range h.legs {
		l := &h.legs[i]
		l.h, l.v = h, lu.views[i]
		l.order.Run = func(*reactor.Reactor) { l.v.onHold(l) }
		l.clear = func() { l.v.ackHold(l) }
		l.ackNode.Run = func(*reactor.Reactor) { l.acked() }
	}
	return h
}

func (h *hold) overlaps(lba, n uint64) bool {
	if lba < h.lba {
		return h.lba-lba < n
	}
	return lba-h.lba < h.blocks
}

// requestHold takes a request at home. Overlapping holds are granted first
// come, first served.
func (lu *LogicalUnit) requestHold(c *homeCall) {
	var h *hold
	if n := len(lu.idle); n != 0 {
		h, lu.idle = lu.idle[n-1], lu.idle[:n-1]
	} else if len(lu.holds) < MaxHolds {
		h = lu.newHold()
	} else {
		lu.holdWait.push(c)
		return
	}
	h.call, h.task, h.state = c, c.task, holdQueued
	h.lba, h.blocks = c.claim.lba, c.claim.blocks
	lu.holds = append(lu.holds, h)
	lu.startHolds()
}

// startHolds starts each queued hold that no older one overlaps.
func (lu *LogicalUnit) startHolds() {
	for k := 0; k < len(lu.holds); k++ {
		h := lu.holds[k]
		if h.state != holdQueued || lu.heldBefore(k) {
			continue
		}
		h.state = holdStarting
		h.pending = 1
		for _, v := range lu.active {
			h.tell(v)
		}
		h.settled()
	}
}

// heldBefore tells whether an older hold overlaps the one at k. One that is
// being released does not count: its order to forget reaches each view before
// the new one's.
func (lu *LogicalUnit) heldBefore(k int) bool {
	for _, o := range lu.holds[:k] {
		if o.state != holdReleasing && o.overlaps(lu.holds[k].lba, lu.holds[k].blocks) {
			return true
		}
	}
	return false
}

// tell sends the hold to a view.
func (h *hold) tell(v *View) {
	l := &h.legs[v.index]
	if l.on {
		return
	}
	l.on, l.off = true, false
	h.send(l)
}

func (h *hold) send(l *leg) {
	h.pending++
	l.sent = true
	if l.v.index == int(h.lu.homeIndex.Load()) {
		l.v.onHold(l)
		return
	}
	l.v.r.Post(&l.order)
}

// acked takes a view's acknowledgement at home.
func (l *leg) acked() {
	h := l.h
	l.sent = false
	if l.off {
		l.on = false
	} else if h.state == holdReleasing {
		// The view joined late and the release could not be sent while the order
		// was under way.
		l.off = true
		h.send(l)
	}
	h.settled()
}

// settled counts one acknowledgement and moves the hold on.
func (h *hold) settled() {
	if h.pending--; h.pending != 0 {
		return
	}
	switch h.state {
	case holdStarting:
		h.state = holdGranted
		c := h.call
		h.call, c.hold = nil, h
		h.lu.answer(c)
	case holdReleasing:
		h.free()
	}
}

// release takes the hold back from its task.
// Preconditions: runs on the home reactor.
func (h *hold) release() {
	h.state = holdReleasing
	h.pending++
	for i := range h.legs {
		if l := &h.legs[i]; l.on && !l.sent {
			l.off = true
			h.send(l)
		}
	}
	lu := h.lu
	h.settled()
	lu.startHolds()
}

// free makes the hold available to the next request.
func (h *hold) free() {
	lu := h.lu
	h.state = holdIdle
	lu.holds = remove(lu.holds, h)
	lu.idle = append(lu.idle, h)
	if c := lu.holdWait.pop(); c != nil {
		lu.requestHold(c)
	}
}

// onHold takes a hold, or its end, on a view.
// Preconditions: runs on v's reactor.
func (v *View) onHold(l *leg) {
	if l.off {
		v.holds = remove(v.holds, l.h)
		v.regard()
		v.reconsider()
		v.ackHold(l)
		return
	}
	v.holds = append(v.holds, l.h)
	v.regard()
	v.watch(watch{seq: v.seq, except: l.h.task, backend: true, over: l.h, done: l.clear})
}

func (v *View) ackHold(l *leg) {
	if v.index == int(v.lu.homeIndex.Load()) {
		l.acked()
		return
	}
	v.lu.views[v.lu.homeIndex.Load()].r.Post(&l.ackNode)
}

// claim is a task's wait for a hold, on its view. It is apart from the task so
// that an aborted one need not wait for a grant that others keep from it.
type claim struct {
	call        homeCall
	task        *Task // nil: aborted, the grant goes straight back
	lba, blocks uint64
}

// acquire asks for a hold on t's range. True: it has it already. Newer commands
// of this view that overlap stay behind the claim.
func (v *View) acquire(t *Task) bool {
	var c *claim
	if n := len(v.spare); n != 0 {
		c, v.spare = v.spare[n-1], v.spare[:n-1]
	} else {
		c = &claim{}
		c.call.claim = c
	}
	c.task, t.claim = t, c
	c.lba, c.blocks = t.span()
	c.call.task = t
	v.claims = append(v.claims, c)
	v.regard()
	t.state = taskHold
	v.moved()
	return v.request(t, &c.call, callHold)
}

// granted takes the answer to a claim; nil when its task no longer waits.
func (v *View) granted(c *claim) *Task {
	t, h := c.task, c.call.hold
	v.disclaim(c)
	c.task, c.call.hold, c.call.task = nil, nil, nil
	v.spare = append(v.spare, c)
	if t == nil {
		v.forsaken--
		v.giveBack(h)
		return nil
	}
	t.claim, t.hold = nil, h
	t.flags |= taskRecheck
	return t
}

// disclaim lets newer commands past a claim.
func (v *View) disclaim(c *claim) {
	v.claims = remove(v.claims, c)
	v.regard()
	v.reconsider()
}

// forsake takes an aborted task out of its claim.
func (v *View) forsake(t *Task) {
	c := t.claim
	c.task, t.claim = nil, nil
	v.forsaken++
	v.disclaim(c)
}

// release gives t's hold back.
func (v *View) release(t *Task) {
	h := t.hold
	t.hold = nil
	if t.flags&taskSole != 0 {
		t.flags &^= taskSole
		v.lu.bdev.EndAlone()
	}
	v.giveBack(h)
}

func (v *View) giveBack(h *hold) {
	if v.index == int(v.lu.homeIndex.Load()) {
		h.release()
		return
	}
	v.lu.views[v.lu.homeIndex.Load()].r.Post(&h.rel)
}

// span is the range a task's hold keeps: all of the unit for ORDERED, and for
// commands whose parameter list names several ranges.
func (t *Task) span() (lba, blocks uint64) {
	if t.flags&taskOrdered != 0 || t.op.flags&cmdWhole != 0 {
		return 0, ^uint64(0)
	}
	return t.lba, max(uint64(t.blocks), 1)
}
