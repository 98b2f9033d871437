package scsi

import (
	"sync/atomic"

	"spindle/internal/plant"
	"spindle/reactor"
)

// The state that reactors share has one writer: the unit's home reactor. Home
// is the reactor whose view was used first, so a unit that one reactor views
// never posts a message: calls to and from a view beside home are plain calls.
//
// A view asks home with a homeCall and gets it back as the answer. A change
// (a round) makes a new snapshot, goes to every active view, and is answered
// once each has installed it, queued its unit attentions, and seen the tasks
// out that the change fences. Rounds run one at a time; holds beside them.

type callKind uint8

const (
	callCommand callKind = iota // a command whose effect is at home: t.op.home runs there
	callHold                    // hold a range for t
	callLink                    // the view becomes active, or inactive
	callReset                   // a task management function
	callLost                    // the nexus of an I_T_L ended
	callResize                  // the bdev may have another size
	callWiped                   // SANITIZE has ended
	callPorts                   // control changed the target ports
	callSoil                    // an erased unit is about to be written
	callPass                    // answered at once: rounds before it have been posted
)

// homeCall is a request of a view to home, and its answer. It is embedded in
// its owner and used by one side at a time.
type homeCall struct {
	msg  reactor.Msg
	lu   *LogicalUnit
	from *View
	next *homeCall
	kind callKind
	back bool // on its way back

	task    *Task      // callCommand, callHold
	itl     *ITL       // callLost, callPass
	reset   *unitReset // callReset
	want    bool       // callLink
	bounced bool       // answer: not done, ask again
	claim   *claim     // callHold
	hold    *hold      // answer to callHold
	snap    *snapshot
	done    func() // of control: in place of an answer
}

func (c *homeCall) run(*reactor.Reactor) {
	if c.back {
		c.from.answered(c)
		return
	}
	c.lu.receive(c)
}

// call sends c home.
// Preconditions: runs on v's reactor; c is not under way.
func (v *View) call(c *homeCall, k callKind) {
	if c.msg.Run == nil {
		c.msg.Run = c.run
	}
	c.lu, c.from, c.kind, c.back, c.bounced = v.lu, v, k, false, false
	h := v.lu.views[v.lu.homeIndex.Load()]
	if h == v {
		v.lu.receive(c)
		return
	}
	h.r.Post(&c.msg)
}

// answer sends c back to the view that asked.
// Preconditions: runs on the home reactor.
func (lu *LogicalUnit) answer(c *homeCall) {
	c.back = true
	if c.from.index == int(lu.homeIndex.Load()) {
		c.from.answered(c)
		return
	}
	c.from.r.Post(&c.msg)
}

// callQueue is a FIFO of calls that wait at home.
type callQueue struct{ head, tail *homeCall }

func (q *callQueue) push(c *homeCall) {
	c.next = nil
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
}

func (q *callQueue) pop() *homeCall {
	c := q.head
	if c != nil {
		q.head = c.next
		if q.head == nil {
			q.tail = nil
		}
		c.next = nil
	}
	return c
}

// home is a unit's shared state. Owner: the home reactor, but for the atomics.
type home struct {
	homeIndex atomic.Int32             // of the home view; -1 until the first use
	latest    atomic.Pointer[snapshot] // for a view that becomes active
	resizing  atomic.Bool              // resize is posted

	current *snapshot
	active  []*View
	calls   callQueue
	running bool // next is working through calls
	round   *round
	rounds  round // the one that runs
	resize  homeCall
	queued  bool // resize waits in calls

	holds    []*hold // queued, starting, granted: first come first
	idle     []*hold
	holdWait callQueue // no hold is idle

	saving  saving
	prevent []NexusID // those that prevent the removal of the medium
	wipe    wipe
	usage   atomic.Pointer[usage] // of a metered unit; nil until it is asked
	reached bool                  // the provisioning threshold is
	shared  bool                  // the bdev is another LUN's too, as was told last
}

func (lu *LogicalUnit) initHome(s *snapshot) {
	h := &lu.home
	h.homeIndex.Store(-1)
	h.current = s
	h.latest.Store(s)
	h.resize.lu, h.resize.kind = lu, callResize
	h.resize.msg.Run = func(*reactor.Reactor) {
		h.resizing.Store(false)
		if !h.queued {
			h.queued = true
			lu.receive(&h.resize)
		}
	}
}

// claimHome makes view i the home if there is none yet, and returns the home.
func (lu *LogicalUnit) claimHome(i int) *View {
	lu.homeIndex.CompareAndSwap(-1, int32(i))
	return lu.views[lu.homeIndex.Load()]
}

// resized has home look at what may have changed around it: the bdev's size,
// use and other LUNs, the ports. Safe from any thread.
func (lu *LogicalUnit) resized() {
	h := lu.claimHome(0)
	if lu.resizing.CompareAndSwap(false, true) {
		h.r.Post(&lu.home.resize.msg)
	}
}

// receive takes a call at home.
// Preconditions: runs on the home reactor.
func (lu *LogicalUnit) receive(c *homeCall) {
	switch c.kind {
	case callLink:
		lu.linkView(c)
		return
	case callPass:
		lu.answer(c)
		return
	case callHold:
		lu.requestHold(c)
		return
	case callCommand:
		if lu.round != nil && lu.round.abort != abortNone {
			lu.bounce(c)
			return
		}
	}
	lu.calls.push(c)
	lu.next()
}

// bounce sends a command's call back undone. A reset waits for the tasks it
// aborted, and those must not wait for it: an aborted one ends now, a newer one
// asks again.
func (lu *LogicalUnit) bounce(c *homeCall) {
	c.bounced = true
	lu.answer(c)
}

// next runs calls until one has a round to wait for.
func (lu *LogicalUnit) next() {
	if lu.running {
		return
	}
	lu.running = true
	for lu.round == nil {
		c := lu.calls.pop()
		if c == nil {
			break
		}
		r := &lu.rounds
		*r = round{call: c, uas: r.uas[:0], fence: r.fence[:0]}
		lu.apply(c, r)
		if lu.claims(r) && r.keeps {
			lu.save(r)
			break
		}
		lu.start(r)
	}
	lu.running = false
}

// apply makes the change that c asks for.
func (lu *LogicalUnit) apply(c *homeCall, r *round) {
	switch c.kind {
	case callCommand:
		r.except = c.task
		if t := c.task; !t.overtaken(lu.current) {
			t.op.home(lu, t, r)
		}
	case callReset:
		lu.applyReset(c.reset.x, r)
	case callLost:
		lu.applyRelease(c.itl.nexus.ID, r)
		lu.prevent = remove(lu.prevent, c.itl.nexus.ID)
	case callResize:
		lu.queued = false
		lu.applyResize(r)
		lu.applyPorts(r)
		lu.applyUsage(r)
		lu.applyShared(r)
	case callPorts:
		lu.applyPorts(r)
	case callWiped:
		lu.applyWiped(r)
	case callSoil:
		if lu.current.erased {
			lu.change(r).erased = false
		}
	}
}

// overtaken ends a task that may not run any more because another has come home
// before it. False: it may.
func (t *Task) overtaken(s *snapshot) bool {
	if g := s.gates(t.Nexus.ID) & t.op.gate; g != 0 && t.barred(g, s) {
		return true
	}
	return t.op.flags&cmdWrites != 0 && s.protect != 0 && t.protected(s) == Done
}

// change starts a new snapshot for r, a copy of the current one.
func (lu *LogicalUnit) change(r *round) *snapshot {
	if r.snap == nil {
		s := *lu.current
		s.gen++
		r.snap = &s
	}
	return r.snap
}

// applyResize follows the bdev's size.
func (lu *LogicalUnit) applyResize(r *round) {
	if n := lu.bdev.Info().Blocks; n != lu.current.blocks && n != 0 {
		lu.change(r).blocks = n
		if !plant.On(plant.CapacityUntold) {
			r.attention(CapacityChanged)
		}
	}
}

// applyShared tells that the bdev has become another LUN's too, or is no more: what
// the unit can do changes with that, and VPD page B0h says so.
func (lu *LogicalUnit) applyShared(r *round) {
	if shared := !lu.bdev.Alone(); shared != lu.shared {
		lu.shared = shared
		r.attention(InquiryDataChanged)
	}
}

// applyRelease ends what a nexus held by RESERVE (SPC-2 §5.5.1).
func (lu *LogicalUnit) applyRelease(id NexusID, r *round) {
	if p := lu.current.pr; p.reserved && p.owner == id {
		n := *p
		n.reserved, n.owner = false, NexusID{}
		lu.change(r).pr = &n
	}
}

// linkView answers a view that becomes active or inactive. An active one learns
// of the holds that stand, before its answer.
func (lu *LogicalUnit) linkView(c *homeCall) {
	v := c.from
	if c.want {
		lu.active = append(lu.active, v)
		for _, h := range lu.holds {
			if h.state == holdStarting || h.state == holdGranted {
				h.tell(v)
			}
		}
	} else {
		lu.active = remove(lu.active, v)
	}
	c.snap = lu.current
	lu.answer(c)
}
