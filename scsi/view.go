package scsi

import "spindle/reactor"

// View is one reactor's side of a logical unit: its channel, the snapshot
// installed there and the tasks that run there.
type View struct {
	lu    *LogicalUnit // nil: the view of units that are not there
	r     *reactor.Reactor
	index int
	ch    channel
	snap  *snapshot

	guarded  bool // admit has to look: inactive, or holds
	closing  bool
	watchers int // who waits for tasks to end
	tasks    taskList
	seq      uint64
	retry    taskQueue
	itls     []*ITL
}

func newView(lu *LogicalUnit, r *reactor.Reactor, i int, s *snapshot) *View {
	return &View{lu: lu, r: r, index: i, snap: s}
}

func (v *View) descriptorSense() bool { return v.snap != nil && v.snap.mode.dsense }

// taskList is the tasks between Begin and End, oldest first.
type taskList struct{ head, tail *Task }

//spindle:hot
func (v *View) link(t *Task) {
	v.seq++
	t.seq = v.seq
	t.prev, t.next = v.tasks.tail, nil
	if t.prev == nil {
		v.tasks.head = t
	} else {
		t.prev.next = t
	}
	v.tasks.tail = t
}

//spindle:hot
func (v *View) unlink(t *Task) {
	if t.prev == nil {
		v.tasks.head = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		v.tasks.tail = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
}

// taskQueue is a FIFO of waiting tasks, linked by parkNext.
type taskQueue struct{ head, tail *Task }

func (q *taskQueue) push(t *Task) {
	t.parkNext = nil
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.parkNext = t
	}
	q.tail = t
}

func (q *taskQueue) pop() *Task {
	t := q.head
	if t != nil {
		q.head = t.parkNext
		if q.head == nil {
			q.tail = nil
		}
		t.parkNext = nil
	}
	return t
}

func (v *View) addITL(i *ITL)  { v.itls = append(v.itls, i) }
func (v *View) dropITL(i *ITL) { v.itls = without(v.itls, i) }
