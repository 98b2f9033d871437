package simring

import (
	"fmt"
	"syscall"

	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// Ring is a reactor's ring over a World; it implements ring.Ring. On a Thread a
// sleeping Enter waits to be resumed. Without one it returns at once, asleep,
// and the scheduler makes no further Enter until Runnable.
type Ring struct {
	w          *World
	id         int
	arena      *mem.Arena
	size       int // of the submission queue
	sq         []*op
	cq         []entry // visible completions from cqHead on
	cqHead     int
	over       []entry // overflowed
	overHold   int     // Enters until the overflow is flushed
	head       *op     // in flight, oldest first
	tail       *op
	free       *op
	inflight   int
	files      []fileSlot
	groups     []*group
	asleep     bool
	until      clock.Time
	token      bool // a Wake that no Enter has taken
	fresh      bool // completions came that no kernel entry has seen
	submitting bool
	syscalls   uint64
	closed     bool
	park       func() // suspends the Thread; nil without one
}

var _ ring.Ring = (*Ring)(nil)

// entry is a completion and what it does to the books when it is reaped.
type entry struct {
	cqe  ring.CQE
	file ring.File
	last bool
}

type fileSlot struct {
	d        *desc
	inflight int
}

// ID is the ring's number in events.
func (r *Ring) ID() int { return r.id }

// prep takes a record for an operation on f, or nil when the queue is full.
func (r *Ring) prep(k opKind, t ring.Tag, f ring.File) *op {
	if r.closed {
		panic("simring: operation on a closed ring")
	}
	w := r.w
	if len(r.sq) == r.size || w.chance(w.Faults.QueueFull, &w.Counts.QueueFull, "queue-full", r.id) {
		return nil
	}
	var on *desc
	if f != ring.NoFile {
		if int(f) >= len(r.files) || r.files[f].d == nil {
			panic(fmt.Sprintf("simring: %v on file %d, which is not installed", k, f))
		}
		on = r.files[f].d
		r.files[f].inflight++
	}
	o := r.free
	if o == nil {
		o = new(op)
	} else {
		r.free = o.next
	}
	*o = op{ring: r, kind: k, tag: t, file: f, on: on}
	r.inflight++
	r.sq = append(r.sq, o)
	return o
}

// Accept implements ring.Ring.
func (r *Ring) Accept(t ring.Tag, f ring.File) bool { return r.prep(opAccept, t, f) != nil }

// Recv implements ring.Ring.
func (r *Ring) Recv(t ring.Tag, f ring.File, g ring.Group) bool {
	o := r.prep(opRecv, t, f)
	if o == nil {
		return false
	}
	o.group = g
	return true
}

// RecvInto implements ring.Ring.
func (r *Ring) RecvInto(t ring.Tag, f ring.File, b mem.Ref) bool {
	o := r.prep(opRecvInto, t, f)
	if o == nil {
		return false
	}
	o.ref = b
	return true
}

// Send implements ring.Ring.
func (r *Ring) Send(t ring.Tag, f ring.File, m ring.Msg, n int) bool {
	if n > m.Cap() {
		panic("simring: send of more vectors than the message holds")
	}
	o := r.prep(opSend, t, f)
	if o == nil {
		return false
	}
	o.msg, o.vecs = m, n
	return true
}

// SendNow implements ring.Ring.
func (r *Ring) SendNow(f ring.File, m ring.Msg, n int) int32 {
	if n > m.Cap() {
		panic("simring: send of more vectors than the message holds")
	}
	c := r.files[f].d.conn
	if c == nil {
		return -int32(syscall.ENOTSOCK)
	}
	r.syscalls++
	res := c.sendNow(m, n)
	r.w.settle()
	return res
}

// Read implements ring.Ring.
func (r *Ring) Read(t ring.Tag, f ring.File, b mem.Ref, off int64) bool {
	o := r.prep(opRead, t, f)
	if o == nil {
		return false
	}
	o.ref, o.off, o.n = b, off, int64(b.Len)
	return true
}

// Write implements ring.Ring.
func (r *Ring) Write(t ring.Tag, f ring.File, b mem.Ref, off int64, fl ring.WriteFlags) bool {
	o := r.prep(opWrite, t, f)
	if o == nil {
		return false
	}
	o.ref, o.off, o.n, o.fua = b, off, int64(b.Len), fl&ring.FUA != 0
	return true
}

// Sync implements ring.Ring.
func (r *Ring) Sync(t ring.Tag, f ring.File) bool { return r.prep(opSync, t, f) != nil }

// Allocate implements ring.Ring.
func (r *Ring) Allocate(t ring.Tag, f ring.File, mode uint32, off, n int64) bool {
	o := r.prep(opAllocate, t, f)
	if o == nil {
		return false
	}
	o.mode, o.off, o.n = mode, off, n
	return true
}

// PollFD implements ring.Ring, for descriptors made by World.NewEvent.
func (r *Ring) PollFD(t ring.Tag, fd int) bool {
	o := r.prep(opPoll, t, ring.NoFile)
	if o == nil {
		return false
	}
	o.fd = fd
	return true
}

// Shutdown implements ring.Ring.
func (r *Ring) Shutdown(t ring.Tag, f ring.File) bool { return r.prep(opShutdown, t, f) != nil }

// Cancel implements ring.Ring.
func (r *Ring) Cancel(t ring.Tag, victim ring.Tag) bool {
	o := r.prep(opCancel, t, ring.NoFile)
	if o == nil {
		return false
	}
	o.victim = victim
	return true
}

// Install implements ring.Ring.
func (r *Ring) Install(fd int) (ring.File, error) {
	d, err := r.w.desc(fd)
	if err != nil {
		return ring.NoFile, err
	}
	d.refs++
	for i := range r.files {
		if r.files[i].d == nil {
			r.files[i].d = d
			return ring.File(i), nil
		}
	}
	r.files = append(r.files, fileSlot{d: d})
	return ring.File(len(r.files) - 1), nil
}

// Remove implements ring.Ring. It panics while an operation on f has not had
// its last completion reaped.
func (r *Ring) Remove(f ring.File) {
	s := &r.files[f]
	if s.d == nil || s.inflight != 0 {
		panic(fmt.Sprintf("simring: remove of file %d: installed %v, %d operations in flight", f, s.d != nil, s.inflight))
	}
	d := s.d
	s.d = nil
	d.release()
	r.w.settle()
}

// Enter implements ring.Ring. EINTR and EBUSY, which a real ring absorbs, show
// as an Enter that submitted nothing.
func (r *Ring) Enter(out []ring.CQE, until clock.Time) (int, error) {
	if r.closed {
		return 0, fmt.Errorf("simring: enter of a closed ring: %w", syscall.EBADF)
	}
	w := r.w
	if r.asleep { // that sleep is over, and with it the Wake that may have ended it
		r.asleep, r.token = false, false
	}
	for _, g := range r.groups {
		g.ready = g.count
	}
	empty := len(r.cq) == r.cqHead
	sleeps := until > w.clock.T
	if len(r.sq) > 0 || r.fresh || len(r.over) > 0 || sleeps && empty {
		r.syscalls++
	}
	r.fresh = false
	if w.chance(w.Faults.Interrupted, &w.Counts.Interrupted, "eintr", r.id) {
		return 0, nil
	}
	if !w.chance(w.Faults.Busy, &w.Counts.Busy, "ebusy", r.id) {
		r.submit()
	} else {
		sleeps = false
	}
	r.flushOverflow(sleeps)
	if n := r.reap(out); n > 0 || !sleeps || len(r.cq) > r.cqHead {
		// A Wake is a completion too: a poll may see it, and then no later
		// sleep ends by it.
		r.token = r.token && !w.coin()
		return n, nil
	}
	if r.token {
		r.token = false
		return 0, nil
	}
	if w.chance(w.Faults.Spurious, &w.Counts.Spurious, "spurious-wake", r.id) {
		return 0, nil
	}
	w.note(&Event{Kind: Sleep, ID: r.id, N: int64(until)})
	r.asleep, r.until = true, until
	if r.park == nil {
		return 0, nil
	}
	r.park()
	r.asleep, r.token = false, false
	r.flushOverflow(true)
	return r.reap(out), nil
}

func (r *Ring) submit() {
	r.submitting = true
	for _, o := range r.sq {
		r.link(o)
		o.start()
	}
	clear(r.sq)
	r.sq = r.sq[:0]
	r.w.settle()
	r.submitting = false
}

func (r *Ring) reap(out []ring.CQE) int {
	n := 0
	for n < len(out) && r.cqHead < len(r.cq) {
		e := &r.cq[r.cqHead]
		r.cqHead++
		out[n] = e.cqe
		n++
		if e.last {
			r.inflight--
			if e.file != ring.NoFile {
				r.files[e.file].inflight--
			}
		}
	}
	if r.cqHead == len(r.cq) {
		r.cq, r.cqHead = r.cq[:0], 0
	} else if r.cqHead >= 4*r.size {
		r.cq = append(r.cq[:0], r.cq[r.cqHead:]...)
		r.cqHead = 0
	}
	return n
}

// postCQE makes a completion visible, or overflows: then all that follow
// overflow too until a flush, so that order is kept.
func (r *Ring) postCQE(e entry) {
	w := r.w
	full := len(r.cq)-r.cqHead >= 4*r.size
	if len(r.over) > 0 || full || w.chance(w.Faults.Overflow, &w.Counts.Overflow, "cq-overflow", r.id) {
		if len(r.over) == 0 {
			r.overHold = 1 + w.rng.IntN(3)
		}
		r.over = append(r.over, e)
		return
	}
	r.cq = append(r.cq, e)
	r.fresh = !r.submitting
}

// flushOverflow moves overflowed completions into the queue. An Enter that
// would sleep always does, as the kernel does before it waits.
func (r *Ring) flushOverflow(now bool) {
	if len(r.over) == 0 {
		return
	}
	if r.overHold--; r.overHold > 0 && !now {
		return
	}
	n := min(len(r.over), 4*r.size-(len(r.cq)-r.cqHead))
	r.cq = append(r.cq, r.over[:n]...)
	r.over = append(r.over[:0], r.over[n:]...)
}

// Wake implements ring.Ring.
func (r *Ring) Wake() {
	r.token = true
	r.w.note(&Event{Kind: Wake, ID: r.id})
}

// Asleep tells whether the last Enter went to sleep, and until when.
func (r *Ring) Asleep() (until clock.Time, ok bool) { return r.until, r.asleep }

// Runnable tells whether the reactor may be given a turn: its last Enter did
// not sleep, or a completion, a Wake or its deadline has come since. A reactor
// with work that is not Runnable, with nothing pending, has lost a wake-up.
func (r *Ring) Runnable() bool {
	return !r.asleep || r.token || len(r.cq) > r.cqHead || len(r.over) > 0 || r.until <= r.w.clock.T
}

// Inflight is the number of operations whose last completion was not reaped.
func (r *Ring) Inflight() int { return r.inflight }

// Syscalls implements ring.Ring.
func (r *Ring) Syscalls() uint64 { return r.syscalls }

// Close implements ring.Ring: operations in flight end without completions and
// provided buffers go back to the arena, also after World.Kill.
func (r *Ring) Close() error {
	if !r.closed {
		r.vanish(false)
		r.releaseFiles(false)
		for i, x := range r.w.rings {
			if x == r {
				r.w.rings = append(r.w.rings[:i], r.w.rings[i+1:]...)
				break
			}
		}
		r.w.settle()
	}
	for _, g := range r.groups {
		g.free(r.arena)
	}
	return nil
}

// vanish drops everything in flight. A disk operation may have reached the
// disk; with power lost it is one more un-synced write.
func (r *Ring) vanish(power bool) {
	r.closed, r.asleep = true, false
	for o := r.head; o != nil; o = r.head {
		r.w.unpost(&o.ev)
		if o.waits != nil {
			o.waits.remove(o)
		}
		if o.on != nil && o.on.disk != nil {
			o.on.disk.orphan(o, power)
		}
		r.retire(o)
	}
	r.cq, r.cqHead, r.over, r.inflight = nil, 0, nil, 0
}

// releaseFiles empties the file table.
func (r *Ring) releaseFiles(power bool) {
	for i := range r.files {
		d := r.files[i].d
		r.files[i] = fileSlot{}
		d.drop(power)
	}
}

// link puts o at the end of the operations in flight.
func (r *Ring) link(o *op) {
	o.prev, o.next = r.tail, nil
	if r.tail == nil {
		r.head = o
	} else {
		r.tail.next = o
	}
	r.tail = o
}

// retire takes o off that list and makes its record free.
func (r *Ring) retire(o *op) {
	if o.prev == nil {
		r.head = o.next
	} else {
		o.prev.next = o.next
	}
	if o.next == nil {
		r.tail = o.prev
	} else {
		o.next.prev = o.prev
	}
	o.prev, o.on = nil, nil
	o.next, r.free = r.free, o
}

// find returns the oldest operation in flight with tag t.
func (r *Ring) find(t ring.Tag) *op {
	for o := r.head; o != nil; o = o.next {
		if o.tag == t && o.kind != opCancel {
			return o
		}
	}
	return nil
}
