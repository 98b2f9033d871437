package memverbs

import (
	"fmt"
	"slices"
	"syscall"

	"spindle/verbs"
)

// FirstQPNum is the number on the wire of queue pair 0 of Events.
const FirstQPNum = 17

// queuePair is a reliable connected queue pair. A queue's indexes count from
// the first request: free <= done <= next <= tail.
type queuePair struct {
	w              *World
	pd             *domain
	id             *id
	number         int
	handle         verbs.QPHandle
	caps           verbs.QPConfig
	sendCQ, recvCQ *queue
	state          verbs.QPState
	remote         *queuePair // when connected
	closed         bool

	sends []send
	free  uint64 // slots below are free
	done  uint64 // completed below, polled or not
	next  uint64 // to be transmitted
	tail  uint64 // to be posted

	recvs    []recv
	recvFree uint64
	recvHead uint64 // consumed below
	recvTail uint64

	reads     int // outstanding, bounded by depth
	depth     int // RDMA READs we may have outstanding
	serving   int // of the peer's, bounded by resources
	resources int
	rnrRetry  uint8 // the peer's word; 7 is without end
	rnrLeft   uint8
	silent    bool // the peer did not answer; the timer runs

	tx, ack, flush event
}

// send is a slot of the send queue.
type send struct {
	wr       verbs.SendWR
	index    uint64
	sges     []verbs.SGE
	total    uint64
	inline   []byte
	state    sendState
	transfer event // of an RDMA READ
}

type sendState uint8

const (
	queued sendState = iota
	reading
	arrived // at the peer; we have not heard yet
	acked
)

// recv is a slot of the receive queue.
type recv struct {
	wr   verbs.RecvWR
	sges []verbs.SGE
}

func newQueuePair(i *id, pd *domain, c verbs.QPConfig) (*queuePair, error) {
	d := pd.dev
	if err := d.usable(); err != nil {
		return nil, err
	}
	scq, ok1 := c.SendCQ.(*queue)
	rcq, ok2 := c.RecvCQ.(*queue)
	if !ok1 || !ok2 || c.MaxSend < 1 || c.MaxSend > d.info.MaxQPWR || c.MaxRecv < 1 || c.MaxRecv > d.info.MaxQPWR ||
		max(c.MaxSendSGE, c.MaxRecvSGE) > d.info.MaxSGE || min(c.MaxSendSGE, c.MaxRecvSGE) < 1 || c.MaxInline > maxInline ||
		scq.dev != d || rcq.dev != d || i.dev != d {
		return nil, fmt.Errorf("queue pair: %w", verbs.ErrInvalid)
	}
	n := d.node
	c.MaxSend, c.MaxRecv = c.MaxSend+n.Extra, c.MaxRecv+n.Extra
	q := &queuePair{w: d.w, pd: pd, id: i, number: d.w.qps, caps: c, sendCQ: scq, recvCQ: rcq, state: verbs.QPInit}
	d.w.qps++
	q.sends, q.recvs = make([]send, c.MaxSend), make([]recv, c.MaxRecv)
	sges := make([]verbs.SGE, c.MaxSend*c.MaxSendSGE+c.MaxRecv*c.MaxRecvSGE)
	inline := make([]byte, c.MaxSend*c.MaxInline)
	for k := range q.sends {
		s := &q.sends[k]
		s.sges, sges = carve(sges, c.MaxSendSGE)
		s.inline, inline = carve(inline, c.MaxInline)
		s.transfer = event{kind: Read, qp: q, send: s}
	}
	for k := range q.recvs {
		q.recvs[k].sges, sges = carve(sges, c.MaxRecvSGE)
	}
	q.tx, q.ack, q.flush = event{kind: Transmit, qp: q}, event{kind: Ack, qp: q}, event{kind: Flush, qp: q}
	n.qps = append(n.qps, q)
	q.handle = verbs.QPHandle(len(n.qps))
	n.live.QPs++
	pd.users++
	scq.users++
	rcq.users++
	return q, nil
}

// carve takes an empty slice of capacity n off the front of from.
func carve[T any](from []T, n int) (part, rest []T) { return from[0:0:n], from[n:] }

// Credit tells how many messages the peer of a queue pair has receives for, and
// how many of this side's are still on their way to it: a check for those who
// promise that there is always a receive. ok is false when there is no peer.
func Credit(qp verbs.QP) (receives, onTheWay int, ok bool) {
	q, is := qp.(*queuePair)
	if !is || q.remote == nil || q.closed || q.remote.closed || q.remote.state == verbs.QPError || q.state == verbs.QPError {
		return 0, 0, false
	}
	return int(q.remote.recvTail - q.remote.recvHead), int(q.tail - q.next), true
}

func (q *queuePair) dev() *device            { return q.pd.dev }
func (q *queuePair) Handle() verbs.QPHandle  { return q.handle }
func (q *queuePair) Num() uint32             { return uint32(q.number) + FirstQPNum }
func (q *queuePair) Caps() verbs.QPConfig    { return q.caps }
func (q *queuePair) at(index uint64) *send   { return &q.sends[index%uint64(len(q.sends))] }
func (q *queuePair) rqAt(index uint64) *recv { return &q.recvs[index%uint64(len(q.recvs))] }

func (q *queuePair) State() (verbs.QPState, error) { return q.state, q.dev().usable() }

func (q *queuePair) Fail() error {
	if q.state == verbs.QPError && !q.closed {
		q.flushLater()
	}
	q.fail()
	q.w.settle()
	return nil
}

func (q *queuePair) Close() error {
	if q.closed {
		return nil
	}
	n := q.dev().node
	if n.Stuck {
		return fmt.Errorf("queue pair: %w", verbs.ErrBusy)
	}
	q.discard()
	n.qps[q.handle-1] = nil
	n.live.QPs--
	q.pd.users--
	q.sendCQ.users--
	q.recvCQ.users--
	q.id.qp = nil
	return nil
}

// discard stops everything the queue pair has under way.
func (q *queuePair) discard() {
	q.closed, q.state = true, verbs.QPReset
	for _, e := range [...]*event{&q.tx, &q.ack, &q.flush} {
		q.w.unpost(e)
	}
	for k := q.done; k < q.tail; k++ {
		q.endRead(q.at(k))
	}
}

// connect takes the queue pair to ready-to-send.
func (q *queuePair) connect(remote *queuePair, depth, resources int, rnr uint8) {
	q.remote, q.depth, q.resources = remote, depth, resources
	q.rnrRetry, q.rnrLeft = rnr, rnr
	if q.state == verbs.QPInit {
		q.state = verbs.QPReadyToSend
	}
	if remote.remote == q {
		remote.kick()
	}
}

// Post takes requests.
func (n *Node) Post(b *verbs.Batch) (refused int) {
	for i := range b.Recvs {
		wr := &b.Recvs[i]
		if refused > 0 && slices.ContainsFunc(b.Recvs[:i], func(o verbs.RecvWR) bool { return o.QP == wr.QP && o.Err != 0 }) {
			wr.Err = int32(syscall.ECANCELED)
		} else {
			wr.Err = n.postRecv(b, wr)
		}
		if wr.Err != 0 {
			refused++
		}
	}
	refusedSends := 0
	for i := range b.Sends {
		wr := &b.Sends[i]
		if refusedSends > 0 && slices.ContainsFunc(b.Sends[:i], func(o verbs.SendWR) bool { return o.QP == wr.QP && o.Err != 0 }) {
			wr.Err = int32(syscall.ECANCELED)
		} else {
			wr.Err = n.postSend(b, wr)
		}
		if wr.Err != 0 {
			refusedSends++
		}
	}
	n.w.settle()
	return refused + refusedSends
}

func (n *Node) qp(h verbs.QPHandle) *queuePair {
	if h == 0 || int(h) > len(n.qps) {
		return nil
	}
	return n.qps[h-1]
}

func (n *Node) postRecv(b *verbs.Batch, wr *verbs.RecvWR) int32 {
	q := n.qp(wr.QP)
	switch {
	case q == nil || int(wr.NumSGE) > cap(q.recvs[0].sges):
		return int32(syscall.EINVAL)
	case q.recvTail-q.recvFree == uint64(len(q.recvs)):
		return int32(syscall.ENOMEM)
	}
	r := q.rqAt(q.recvTail)
	r.wr = *wr
	r.sges = append(r.sges[:0], b.SGEsOf(wr.First, wr.NumSGE)...)
	q.recvTail++
	if w := n.w; q.state == verbs.QPError && !w.chance(w.Faults.LateReceive, &w.Counts.LateReceive, "late receive", q.number) {
		q.flushLater()
	}
	return 0
}

func (n *Node) postSend(b *verbs.Batch, wr *verbs.SendWR) int32 {
	q := n.qp(wr.QP)
	switch {
	case q == nil || q.state < verbs.QPReadyToSend || int(wr.NumSGE) > cap(q.sends[0].sges) || wr.Op > verbs.OpRDMARead:
		return int32(syscall.EINVAL)
	case q.tail-q.free == uint64(len(q.sends)):
		return int32(syscall.ENOMEM)
	}
	s := q.at(q.tail)
	s.wr, s.index, s.state, s.total = *wr, q.tail, queued, 0
	s.sges, s.inline = append(s.sges[:0], b.SGEsOf(wr.First, wr.NumSGE)...), s.inline[:0]
	if wr.Flags&verbs.FlagInline != 0 {
		if wr.Op == verbs.OpRDMARead || !s.takeInline() {
			return int32(syscall.EINVAL)
		}
	}
	q.tail++
	if q.state == verbs.QPError {
		q.flushLater()
	} else {
		q.kick()
	}
	return 0
}

// kick has the next request sent, if it may be.
func (q *queuePair) kick() {
	if q.state != verbs.QPReadyToSend || q.tx.slot != 0 || q.next == q.tail || q.remote == nil || q.remote.state == verbs.QPInit {
		return
	}
	wr := &q.at(q.next).wr
	if wr.Flags&verbs.FlagFence != 0 && q.reads > 0 {
		return
	}
	if wr.Op == verbs.OpRDMARead && q.reads >= q.depth {
		q.w.Counts.ReadStalls++
		return
	}
	w := q.w
	d := w.upTo(w.cfg.Latency)
	if w.chance(w.Faults.Delay, &w.Counts.Delay, "delay", q.number) {
		d = w.late(16 * w.cfg.Latency)
	}
	w.post(&q.tx, d)
}

// complete pushes the completion of the oldest request.
func (q *queuePair) complete(st verbs.Status) {
	s := q.at(q.done)
	wc := verbs.WC{ID: s.wr.ID, QPNum: q.Num(), Status: st}
	if st == verbs.StatusOK {
		wc.Op, wc.ByteLen = sendOps[s.wr.Op], uint32(s.total)
	} else {
		wc.Op, wc.ByteLen, wc.VendorErr = verbs.WCOther, 0xdeadbeef, uint32(st)
	}
	q.done++
	if st != verbs.StatusOK || s.wr.Flags&verbs.FlagSignaled != 0 {
		q.sendCQ.push(completion{wc: wc, qp: q, index: q.done - 1})
	}
}

var sendOps = [...]verbs.WCOp{verbs.WCSend, verbs.WCSend, verbs.WCRDMAWrite, verbs.WCRDMARead}

// completeRecv pushes the completion of the oldest receive.
func (q *queuePair) completeRecv(wc verbs.WC) {
	wc.ID, wc.QPNum, wc.Op = q.rqAt(q.recvHead).wr.ID, q.Num(), verbs.WCRecv
	if wc.Status != verbs.StatusOK {
		wc.Op, wc.ByteLen, wc.InvKey, wc.VendorErr = verbs.WCOther, 0xdeadbeef, 0, uint32(wc.Status)
	}
	q.recvHead++
	q.recvCQ.push(completion{wc: wc, qp: q, index: q.recvHead - 1, recv: true})
}

// fail takes the queue pair to the error state.
func (q *queuePair) fail() {
	if q.state == verbs.QPError || q.closed {
		return
	}
	q.state = verbs.QPError
	q.w.unpost(&q.tx)
	q.w.unpost(&q.ack)
	q.flushLater()
}

// fatal is fail with the device's word for it.
func (q *queuePair) fatal() {
	if q.state != verbs.QPError && !q.closed {
		q.dev().raise(verbs.AsyncEvent{Type: verbs.AsyncQPFatal, QP: q.handle})
		q.fail()
	}
}

func (q *queuePair) flushLater() {
	if q.flush.slot == 0 {
		q.w.post(&q.flush, q.w.upTo(4*q.w.cfg.Latency))
	}
}

// flushAll ends every request. What the peer had seen already is flushed too:
// nobody can tell any more.
func (q *queuePair) flushAll() {
	for k := q.done; k < q.tail; k++ {
		q.endRead(q.at(k))
	}
	for q.done < q.tail {
		q.w.Counts.Flushed++
		q.complete(verbs.StatusFlushed)
	}
	q.next = q.tail
	for q.recvHead < q.recvTail {
		q.w.Counts.Flushed++
		q.completeRecv(verbs.WC{Status: verbs.StatusFlushed})
	}
}

// endRead takes back an RDMA READ that is under way.
func (q *queuePair) endRead(s *send) {
	if s.state == reading {
		q.w.unpost(&s.transfer)
		s.state = queued
		q.reads--
		q.remote.serving--
	}
}
