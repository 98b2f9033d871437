package scsi

// taskList is the tasks between Begin and End, oldest first.
type taskList struct{ head, tail *Task }

// enlist puts t at the end of the view's list.
//
//spindle:hot
func (v *View) enlist(t *Task) {
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
func (v *View) delist(t *Task) {
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

func (q *taskQueue) remove(t *Task) {
	var prev *Task
	at := &q.head
	for *at != nil && *at != t {
		prev = *at
		at = &prev.parkNext
	}
	if *at == nil {
		return
	}
	*at, t.parkNext = t.parkNext, nil
	if q.tail == t {
		q.tail = prev
	}
}

// older tells whether a task of the queue is older than t.
func (q *taskQueue) older(t *Task) bool {
	for o := q.head; o != nil; o = o.parkNext {
		if o.seq < t.seq {
			return true
		}
	}
	return false
}

func (q *taskQueue) firstOrdered() *Task {
	t := q.head
	for t != nil && (t.Attr != AttrOrdered || t.flags&taskAborted != 0) {
		t = t.parkNext
	}
	return t
}
