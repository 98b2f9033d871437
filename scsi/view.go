package scsi

import (
	"sync/atomic"
	"time"

	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// View is one reactor's side of a logical unit: its channel, the snapshot
// installed there and the tasks that run there. It belongs to its reactor.
//
// A view is inactive until a nexus on its reactor uses the unit, and home has
// answered that it is active; commands for the medium park until then. Rounds go
// to every view that has nexuses all the same: a unit attention can be told
// before home's answer is there, and one that follows must not be missed.
type View struct {
	lu     *LogicalUnit // nil: the view of units that are not there
	r      *reactor.Reactor
	index  int
	ch     bdev.Channel
	inline bdev.Inliner // ch
	snap   *snapshot

	used    atomic.Bool // has nexuses; home reads it when a round starts
	guarded bool        // admit has to look: not active, or holds or claims stand
	active  bool
	closing bool
	linking bool // link is under way

	tasks    taskList
	seq      uint64
	itls     []*ITL
	holds    []*hold
	claims   []*claim // of tasks that wait for a hold of their own
	spare    []*claim
	forsaken int // claims whose task was aborted, and that home has not answered
	parked   taskQueue
	ready    taskQueue // go on at the next process
	retry    taskQueue // the device had no memory, or home sent the call back
	calling  *Task     // its call home is being made: an answer now is not told
	rescan   bool      // parked tasks may go on
	scanned  taskQueue // those that are being looked at
	ordered  uint64    // seq of an ORDERED task that is parked, the oldest; 0: none
	watches  []watch
	watchers int

	wake  reactor.Msg // has process run, outside whatever runs now
	woken bool
	timer reactor.Timer // for retry
	order reactor.Msg   // from home: a round
	ack   reactor.Msg   // to home: done with it
	link  homeCall

	busy    int // I/Os on this channel that belong to no task: home's, the flusher's
	flusher flusher
	soiler  homeCall // the unit is no longer erased
	soiling bool
}

// retryDelay is how long a task waits before it asks again for what nobody told
// it has become free.
const retryDelay = 100 * time.Microsecond

func newView(lu *LogicalUnit, r *reactor.Reactor, i int, s *snapshot) *View {
	v := &View{lu: lu, index: i, snap: s, guarded: true}
	v.init(r)
	v.order.Run = func(*reactor.Reactor) { v.install(&v.lu.rounds) }
	v.ack.Run = func(*reactor.Reactor) { v.lu.acknowledged() }
	return v
}

func (v *View) init(r *reactor.Reactor) {
	v.r = r
	v.wake.Run = func(*reactor.Reactor) {
		v.woken = false
		v.process()
	}
	v.timer.Fire = func(clock.Time) { v.process() }
}

func (v *View) descriptorSense() bool { return v.snap != nil && v.snap.mode.dsense }

// addITL gives the view a user: it becomes active, or asks to.
func (v *View) addITL(i *ITL) {
	v.lu.claimHome(v.index)
	v.itls = append(v.itls, i)
	v.used.Store(true) // first: home tells of what comes later those that are used
	if !v.active {
		v.snap = v.lu.latest.Load()
	}
	i.regate()
	v.relink()
}

func (v *View) dropITL(i *ITL) {
	v.itls = remove(v.itls, i)
	v.used.Store(len(v.itls) != 0)
	v.relink()
}

// relink tells home whether the view has users, one telling at a time.
func (v *View) relink() {
	want := len(v.itls) != 0
	if v.linking || want == v.active {
		return
	}
	v.linking = true
	v.link.want = want
	if !want { // who comes before the answer does finds a view that home does not tell of holds
		v.active = false
		v.regard()
	}
	v.call(&v.link, callLink)
}

// linked takes home's answer.
func (v *View) linked() {
	v.linking = false
	v.active = v.link.want
	if v.link.snap.gen > v.snap.gen {
		v.snap = v.link.snap
	}
	v.link.snap = nil
	for _, i := range v.itls {
		i.regate()
	}
	v.regard()
	v.reconsider()
	v.relink()
}

// regard says whether Execute has to look at holds.
func (v *View) regard() {
	v.guarded = !v.active || len(v.holds) != 0 || len(v.claims) != 0 || v.snap.erased || v.soiling || v.ordered != 0
}

// soil has home note that the unit is about to be written.
func (v *View) soil() {
	if !v.soiling {
		v.soiling = true
		v.call(&v.soiler, callSoil)
	}
}

// admit lets a task at the medium past the holds of others, or parks it. A HEAD
// OF QUEUE task is treated as a SIMPLE one, because nothing is queued that it
// could go before but what waits for a hold, and holds keep their promise. An
// ORDERED task waits for older ones that are parked, and then for a hold on the whole
// unit; newer ones wait for it (SAM-5 §8.3).
func (v *View) admit(t *Task) bool {
	ordered := t.Attr == AttrOrdered && t.hold == nil && !plant.On(plant.OrderedIgnored)
	if v.mustWait(t, ordered) {
		v.park(t)
		if ordered && (v.ordered == 0 || t.seq < v.ordered) {
			v.ordered = t.seq
			v.regard()
		}
		return false
	}
	t.flags |= taskAdmitted
	if ordered {
		t.flags |= taskOrdered
		return v.acquire(t)
	}
	return true
}

// park has a task wait until reconsider.
func (v *View) park(t *Task) {
	t.state = taskParked
	v.parked.push(t)
	v.moved()
}

func (v *View) mustWait(t *Task, ordered bool) bool {
	switch {
	case plant.On(plant.BrokenHold):
		return !v.active
	case v.shut(t),
		v.ordered != 0 && t.seq > v.ordered,
		v.forsaken >= maxForsaken && (ordered || t.op.flags&cmdHolds != 0):
		return true
	case ordered: // its hold comes when those before it have gone
		return v.parked.older(t)
	}
	return v.held(t)
}

// shut tells whether the view lets nothing like t in.
func (v *View) shut(t *Task) bool {
	if !v.active {
		return true
	}
	if (v.snap.erased || v.soiling) && t.op.flags&cmdWrites != 0 {
		v.soil()
	}
	return v.soiling && t.op.flags&cmdWrites != 0
}

// held tells whether others hold or claim any of t's range.
func (v *View) held(t *Task) bool {
	lba, n := t.span()
	for _, h := range v.holds {
		if h.task != t && h.overlaps(lba, n) {
			return true
		}
	}
	for _, c := range v.claims {
		if overlap(lba, n, c.lba, c.blocks) {
			return true
		}
	}
	return false
}

func overlap(a, n, b, m uint64) bool {
	if a < b {
		return b-a < n
	}
	return a-b < m
}

// unpark takes t out of the parked queue. Who aborts all begins with the oldest,
// which is in front.
func (v *View) unpark(t *Task) {
	v.parked.remove(t)
	if t.seq == v.ordered {
		v.nextOrdered()
		v.regard()
		v.reconsider()
	}
}

// nextOrdered has the next ORDERED task keep newer ones back.
func (v *View) nextOrdered() {
	t := v.scanned.firstOrdered()
	if t == nil {
		t = v.parked.firstOrdered()
	}
	if v.ordered = 0; t != nil {
		v.ordered = t.seq
	}
}

// scan has the parked tasks try again, in their order.
func (v *View) scan() {
	v.scanned = v.takeAll(&v.parked)
	for t := v.scanned.pop(); t != nil; t = v.scanned.pop() {
		if t.seq == v.ordered {
			v.nextOrdered()
		}
		v.resume(t)
	}
	v.regard()
}

// reconsider has parked tasks try again.
func (v *View) reconsider() {
	if v.parked.head != nil {
		v.rescan = true
		v.kick()
	}
}

// later has a task go on outside whatever runs now.
func (v *View) later(t *Task) {
	t.state = taskReady
	v.ready.push(t)
	v.kick()
}

// starved queues a task for which the device had no memory: submitting it again
// later is the answer to NoMem, not BUSY.
func (v *View) starved(t *Task) {
	t.state = taskReady
	v.retry.push(t)
	v.retrySoon()
}

// retrySoon has process run after retryDelay.
func (v *View) retrySoon() {
	if !v.timer.Armed() {
		v.r.Arm(&v.timer, v.r.Now().Add(retryDelay))
	}
}

// kick has process run soon. The engine is never called back from inside its
// own call.
func (v *View) kick() {
	if !v.woken {
		v.woken = true
		v.r.Post(&v.wake)
	}
}

// moved looks after those who wait for tasks to leave, after one did.
//
//spindle:hot
func (v *View) moved() {
	if v.watchers != 0 {
		v.kick()
	}
}

// process continues what waits: parked tasks a hold has left, ready ones, those
// the device had no memory for, and who waits for tasks to end.
func (v *View) process() {
	if plant.On(plant.EndlessWork) {
		v.kick()
	}
	if v.rescan {
		v.rescan = false
		v.scan()
	}
	v.continueAll(v.takeAll(&v.ready))
	q := v.takeAll(&v.retry)
	for t := q.pop(); t != nil; t = q.pop() {
		if v.again(t) {
			continue
		}
		// Still no memory: the others keep their places behind it.
		for o := q.pop(); o != nil; o = q.pop() {
			v.retry.push(o)
		}
	}
	v.flusher.resume()
	v.checkWatches()
}

// takeAll empties a queue; its tasks count as ready from now on.
func (v *View) takeAll(from *taskQueue) taskQueue {
	q := *from
	*from = taskQueue{}
	for t := q.head; t != nil; t = t.parkNext {
		t.state = taskReady
	}
	return q
}

func (v *View) continueAll(q taskQueue) {
	for t := q.pop(); t != nil; t = q.pop() {
		v.resume(t)
	}
}

// resume continues a task that waited for a hold, an answer or its turn.
func (v *View) resume(t *Task) {
	switch {
	case t.flags&taskAborted != 0:
		v.finish(t)
		return
	case t.flags&taskRecheck != 0:
		t.flags &^= taskRecheck
		if t.keptOut() {
			v.finish(t)
			return
		}
	case t.flags&taskAdmitted == 0:
		if t.keptOut() {
			v.finish(t)
			return
		}
		if !v.admit(t) {
			return
		}
	}
	t.state = taskBackend
	if v.drive(t) == Done {
		t.Owner.TaskDone(t)
	}
}

// again repeats what a task of the retry queue was refused. False: it was
// refused once more.
func (v *View) again(t *Task) bool {
	switch {
	case t.flags&taskAborted != 0:
		v.finish(t)
		return true
	case t.flags&taskReask != 0:
		t.flags &^= taskReask
		t.state = taskHome
		if !v.request(t, &t.call, callCommand) {
			return true
		}
	case v.submit(t) == Waiting:
		return t.state != taskReady
	}
	if v.drive(t) == Done {
		t.Owner.TaskDone(t)
	}
	return true
}

// finish ends a task that waited, with its status or as aborted.
func (v *View) finish(t *Task) {
	v.left(t)
	if t.flags&taskAborted != 0 {
		t.settle()
	}
	t.Owner.TaskDone(t)
}

// ask has home run t's part there. True: it has, already.
func (v *View) ask(t *Task) bool {
	t.state = taskHome
	v.moved()
	t.call.task = t
	return v.request(t, &t.call, callCommand)
}

// request calls home for a task. True: the answer is here.
func (v *View) request(t *Task, c *homeCall, k callKind) bool {
	t.flags &^= taskAsked
	v.calling = t
	v.call(c, k)
	v.calling = nil
	if t.flags&taskAsked == 0 {
		return false
	}
	t.state = taskBackend
	return true
}

// answered takes home's answer to a call.
// Preconditions: runs on v's reactor.
func (v *View) answered(c *homeCall) {
	switch c.kind {
	case callLink:
		v.linked()
		return
	case callSoil:
		v.soiling = false
		v.regard()
		v.reconsider()
		return
	case callReset:
		c.reset.end()
		return
	case callPass:
		c.itl.move.passed()
		return
	case callLost:
		c.itl.nexus.losing--
		c.itl.nexus.side.kick()
		return
	}
	t := c.task
	if c.bounced {
		t.flags |= taskReask
		v.starved(t)
		return
	}
	if c.kind == callHold {
		if t = v.granted(c.claim); t == nil {
			return
		}
	}
	t.flags |= taskAsked
	if v.calling == t {
		t.flags &^= taskRecheck
		return
	}
	v.later(t)
}

// retire begins the end of the view of a unit that is being removed: its
// nexuses forget the unit and its tasks are aborted.
// Preconditions: runs on v's reactor; the unit is unpublished.
func (v *View) retire(done func()) {
	v.closing = true
	for _, i := range v.itls {
		i.nexus.detach(i)
	}
	v.abortTasks(nil, nil, false, nil)
	done()
}

// drain calls done when the tasks of a retired view have ended.
// Preconditions: runs on v's reactor.
func (v *View) drain(done func()) {
	v.watch(watch{seq: v.seq, idle: true, done: func() {
		v.itls = nil
		v.used.Store(false)
		v.relink()
		done()
	}})
}

// abortTasks aborts the tasks of one I_T_L nexus, or of all when i is nil, but for those
// that x spares.
func (v *View) abortTasks(i *ITL, except *Task, tas bool, x *reset) {
	for t := v.tasks.head; t != nil; {
		next := t.next
		switch {
		case i != nil && t.itl != i, t == except, t.flags&taskAborted != 0, x.spares(t):
		default:
			if told := t.Nexus.OnAbort; told != nil && t.state != taskLive {
				told(t)
			}
			t.abort(tas)
		}
		t = next
	}
}
