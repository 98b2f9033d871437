package simring

import (
	"syscall"

	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

type opKind uint8

const (
	opAccept opKind = iota
	opRecv
	opRecvInto
	opSend
	opRead
	opWrite
	opSync
	opAllocate
	opPoll
	opShutdown
	opCancel
)

var opNames = [...]string{"accept", "recv", "recv-into", "send", "read", "write", "sync",
	"allocate", "poll", "shutdown", "cancel"}

func (k opKind) String() string { return opNames[k] }

// pollIn is POLLIN, the result of a poll.
const pollIn = 1

// op is one operation from Prep to its last completion. Records are reused.
type op struct {
	ev     event
	ring   *Ring
	kind   opKind
	tag    ring.Tag
	file   ring.File
	on     *desc
	ref    mem.Ref
	off, n int64
	msg    ring.Msg
	vecs   int
	group  ring.Group
	mode   uint32
	fua    bool
	fd     int
	victim ring.Tag
	done   uint32 // of ref, by RecvInto
	mark   uint64 // Sync: the first write it does not cover

	waits        *opQueue // where the operation is queued, if it is
	qprev, qnext *op
	prev, next   *op // of the ring's operations in flight
}

// opQueue is a list of operations that wait for something, oldest first.
type opQueue struct{ head, tail *op }

func (q *opQueue) push(o *op) {
	o.waits, o.qprev, o.qnext = q, q.tail, nil
	if q.tail == nil {
		q.head = o
	} else {
		q.tail.qnext = o
	}
	q.tail = o
}

func (q *opQueue) remove(o *op) {
	if o.qprev == nil {
		q.head = o.qnext
	} else {
		o.qprev.qnext = o.qnext
	}
	if o.qnext == nil {
		q.tail = o.qprev
	} else {
		o.qnext.qprev = o.qprev
	}
	o.waits, o.qprev, o.qnext = nil, nil, nil
}

func memory(addr uintptr, n uint32) []byte { return mem.Ref{Addr: addr, Len: n}.Bytes() }

// target is the number of what the operation works on, for events.
func (o *op) target() int {
	switch {
	case o.on == nil:
		return o.ring.id
	case o.on.conn != nil:
		return o.on.conn.id
	case o.on.disk != nil:
		return o.on.disk.id
	}
	return 0
}

// start is the submission of o.
func (o *op) start() {
	w := o.ring.w
	o.ev = event{op: o, kind: Control}
	switch o.kind {
	case opCancel:
		if !w.chance(w.Faults.CancelRace, &w.Counts.CancelRace, "late-cancel", o.ring.id) || w.cfg.Immediate {
			o.cancel()
			return
		}
		w.post(&o.ev, w.upTo(4*w.cfg.DiskLatency))
	case opPoll:
		o.startPoll()
	case opAccept:
		if o.on.lis == nil {
			o.complete(-int32(syscall.EINVAL), 0)
			return
		}
		o.on.lis.accepts.push(o)
		o.on.lis.pump()
	case opRecv, opRecvInto, opSend, opShutdown:
		o.startSocket()
	default:
		if o.on.disk == nil {
			o.complete(-int32(syscall.EINVAL), 0)
			return
		}
		o.on.disk.start(o)
	}
}

func (o *op) startSocket() {
	c, w := o.on.conn, o.ring.w
	switch {
	case o.kind == opShutdown && (c != nil || o.on.lis != nil):
		o.ev.kind = Socket
		w.post(&o.ev, w.upTo(w.cfg.NetLatency))
	case c == nil:
		o.complete(-int32(syscall.ENOTSOCK), 0)
	case o.kind == opSend:
		o.ev.kind = Socket
		c.sock.sends.push(o)
		c.pumpSend()
	default:
		c.sock.recvs.push(o)
		c.pumpRecv()
	}
}

func (o *op) startPoll() {
	w := o.ring.w
	d, err := w.desc(o.fd)
	switch {
	case err != nil || d.event == nil:
		o.complete(-int32(syscall.EBADF), 0)
	case d.event.raised:
		o.complete(pollIn, 0)
	default:
		o.on = d
		d.event.waits.push(o)
		if w.chance(w.Faults.Spurious, &w.Counts.Spurious, "spurious-poll", o.ring.id) {
			w.post(&o.ev, w.upTo(w.cfg.NetLatency))
		}
	}
}

// execute runs the pending event of o.
func (o *op) execute() {
	switch o.kind {
	case opCancel:
		o.cancel()
	case opPoll:
		o.waits.remove(o)
		o.complete(pollIn, 0)
	case opSend:
		o.on.conn.send(o)
	case opShutdown:
		if o.on.lis != nil {
			o.on.lis.shut = true
			o.on.lis.pump()
			o.complete(0, 0)
			return
		}
		o.complete(o.on.conn.shutdown(), 0)
	default:
		o.on.disk.execute(o)
	}
}

// complete posts a completion; without FlagMore it is the last one and the
// record is reused once it was reaped.
func (o *op) complete(res int32, flags uint32) {
	r := o.ring
	r.w.note(&Event{Kind: Complete, Op: o.kind.String(), ID: r.id, Tag: o.tag, N: int64(res), Flags: flags})
	r.postCQE(entry{ring.CQE{Tag: o.tag, Res: res, Flags: flags}, o.file, flags&ring.FlagMore == 0})
	if flags&ring.FlagMore == 0 {
		r.w.unpost(&o.ev)
		r.retire(o)
	}
}

// cancel executes a Cancel. The victim's own completion may come first or last.
func (o *op) cancel() {
	r, w := o.ring, o.ring.w
	v := r.find(o.victim)
	if v == nil {
		o.complete(-int32(syscall.ENOENT), 0)
		return
	}
	// A send or a disk operation that is about to execute is beyond recall
	// when it has been handed to a kernel worker.
	running := v.waits == nil
	if v.kind == opSend && v.ev.slot != 0 {
		running = w.chance(w.Faults.CancelRace, &w.Counts.CancelRace, "cancel-running", r.id)
	}
	if v.kind >= opRead && v.kind <= opAllocate && w.chance(w.Faults.CancelRace, &w.Counts.CancelRace, "cancel-idle", r.id) {
		running = false
	}
	if running {
		o.complete(-int32(syscall.EALREADY), 0)
		return
	}
	first := w.coin()
	if first {
		o.complete(0, 0)
	}
	v.abandon()
	if !first {
		o.complete(0, 0)
	}
}

// abandon ends o unexecuted.
func (o *op) abandon() {
	var after *conn
	if o.waits != nil {
		o.waits.remove(o)
		if o.kind == opSend {
			after = o.on.conn
		}
	}
	if o.on != nil && o.on.disk != nil {
		o.on.disk.inflight--
	}
	res := -int32(syscall.ECANCELED)
	if o.done > 0 {
		res = int32(o.done) // bytes were taken off the stream: they are reported
	}
	o.complete(res, 0)
	if after != nil {
		after.pumpSend()
	}
}
