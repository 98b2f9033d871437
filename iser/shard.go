package iser

import (
	"fmt"
	"slices"

	"spindle/internal/plant"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/verbs"
)

// What a request is: the upper bits of WRID.Op. The lower ones are the index of
// a receive buffer, or of a slot of the send queue.
const (
	opRecv = iota + 1
	opSend
	opMark // the end of a send queue

	indexBits = 12
	indexMask = 1<<indexBits - 1
)

// A shard's batch and completions. A turn that needs more posts, or polls, again.
const (
	batchSends = 256
	batchRecvs = 512
	batchSGEs  = batchSends*sendSGEs + batchRecvs
	pollSize   = 128
	pollRounds = 4 // of one turn
)

// shard is a reactor's part of the transport: it posts what the turn's
// connections have to send in one crossing, and polls all completion queues in
// another. Owner: its reactor.
type shard struct {
	t *Transport
	r *reactor.Reactor

	block mem.Ref // of batch and wcs; held while there are queues
	batch *verbs.Batch
	wcs   []verbs.WC
	n, i  int // completions in wcs, and those dispatched

	soft    int // connections on software devices
	pace    pace
	arrived int // messages of this poll
	queues  []*queue
	cqs     []verbs.CQHandle

	slots []slot
	freed []uint32

	head, tail *Conn // to be flushed
	node       reactor.FlushNode
	decoding   *Conn // whose header is being decoded; see guard
}

// slot is a connection's place in the WRIDs of its requests.
type slot struct {
	c   *Conn
	gen uint16
}

func newShard(t *Transport, r *reactor.Reactor) *shard {
	s := &shard{t: t, r: r}
	s.node.To = s
	return s
}

// addQueue begins to poll a completion queue.
func (s *shard) addQueue(q *queue) {
	if len(s.queues) == 0 {
		s.r.AddPoller(s)
		s.open()
	}
	s.queues = append(s.queues, q)
	s.cqs = append(s.cqs, q.cq.Handle())
	q.watch.start()
}

// dropQueue stops polling it and then calls done.
// Preconditions: no queue pair uses it.
func (s *shard) dropQueue(q *queue, done func()) {
	i := slices.Index(s.queues, q)
	s.queues = slices.Delete(s.queues, i, i+1)
	s.cqs = slices.Delete(s.cqs, i, i+1)
	if len(s.queues) == 0 {
		s.r.RemovePoller(s)
		s.close()
	}
	q.watch.stop(done)
}

// open lays out the batch; without memory for it connections are refused.
func (s *shard) open() bool {
	if s.batch != nil {
		return true
	}
	n, m := verbs.BatchSize(batchSends, batchRecvs, batchSGEs), verbs.CompletionsSize(pollSize)
	b, ok := s.r.Arena.Alloc(n + m)
	if !ok {
		return false
	}
	s.block = b
	s.batch = verbs.NewBatch(b.Slice(0, n), batchSends, batchRecvs, batchSGEs)
	s.wcs = verbs.NewCompletions(b.Slice(n, m), pollSize)
	return true
}

func (s *shard) close() {
	if s.batch != nil {
		s.r.Arena.Free(s.block)
	}
	s.block, s.batch, s.wcs, s.n, s.i = mem.Ref{}, nil, nil, 0, 0
}

// addConn gives a connection its slot. On a software device the kernel works for
// it on this very CPU.
func (s *shard) addConn(c *Conn) (i uint32, gen uint16) {
	if c.dev.v.Info().Software() {
		s.r.MakeWay(true)
		s.soft++
	}
	if n := len(s.freed); n > 0 {
		i, s.freed = s.freed[n-1], s.freed[:n-1]
	} else {
		i = uint32(len(s.slots))
		s.slots = append(s.slots, slot{})
	}
	s.slots[i].c = c
	return i, s.slots[i].gen
}

// dropConn takes the slot back: its queue pair is gone, and completions of it
// that were not polled yet are stale.
func (s *shard) dropConn(c *Conn) {
	if c.dev.v.Info().Software() {
		s.r.MakeWay(false)
		s.soft--
	}
	s.slots[c.slot].c = nil
	s.slots[c.slot].gen++
	s.freed = append(s.freed, c.slot)
}

// later has c flushed at the end of the turn; from a flush, of the next.
//
//spindle:hot
func (s *shard) later(c *Conn) {
	if c.dirty {
		return
	}
	c.dirty = true
	if s.tail == nil {
		s.head = c
	} else {
		s.tail.next = c
	}
	s.tail = c
	s.r.NeedFlush(&s.node)
}

// Flush implements reactor.Flusher: every connection that has something to send
// adds to the batch, which is posted once.
//
//spindle:hot
func (s *shard) Flush() {
	c := s.head
	s.head, s.tail = nil, nil
	for c != nil {
		next := c.next
		c.next, c.dirty = nil, false
		c.flush()
		c = next
	}
	s.post()
}

// recv adds a receive to the batch.
//
//spindle:hot
func (s *shard) recv(qp verbs.QPHandle, id verbs.WRID, sge verbs.SGE) {
	if !s.batch.Room(0, 1, 1) {
		s.post()
	}
	s.batch.Recv(qp, id, sge)
	s.r.NeedFlush(&s.node)
}

// post hands the batch over.
//
//spindle:hot
func (s *shard) post() {
	if s.batch == nil || s.batch.Empty() {
		return
	}
	if s.t.opt.Provider.Post(s.batch) > 0 {
		s.refused()
	}
	s.batch.Reset()
}

// refused ends the connections whose requests the device did not take.
func (s *shard) refused() {
	for i := range s.batch.Recvs {
		if w := &s.batch.Recvs[i]; w.Err != 0 {
			if c := s.conn(w.ID); c != nil {
				c.rx.posted--
				s.refuse(c, w.Err)
			}
		}
	}
	for i := range s.batch.Sends {
		if w := &s.batch.Sends[i]; w.Err != 0 {
			if c := s.conn(w.ID); c != nil {
				// Nothing of the send queue is used once the queue pair is destroyed.
				c.tx.drained = c.tx.drained || w.ID.Op()>>indexBits == opMark
				s.refuse(c, w.Err)
			}
		}
	}
}

func (s *shard) refuse(c *Conn, errno int32) {
	s.t.Stats.Refused.Add(1)
	c.end(fmt.Errorf("%w: errno %d", errRefused, errno))
}

// conn is whose request it is; nil when it is gone.
//
//spindle:hot
func (s *shard) conn(id verbs.WRID) *Conn {
	i := id.Slot()
	if int(i) >= len(s.slots) || s.slots[i].gen != id.Gen() {
		return nil
	}
	return s.slots[i].c
}

// Poll implements reactor.Poller.
//
//spindle:hot
func (s *shard) Poll() int {
	if s.soft > 0 && !s.pace.due(s.r.Now()) {
		return 0
	}
	work := 0
	for range pollRounds {
		if s.i == s.n {
			s.i = 0
			s.n, _ = s.t.opt.Provider.Poll(s.cqs, s.wcs) // a queue that failed says so in an event of the device
		}
		work += s.n - s.i
		full := s.n == len(s.wcs)
		for s.i < s.n {
			s.dispatch()
		}
		if !full {
			break
		}
	}
	if work > 0 {
		s.pace.had(s.r.Now(), s.arrived)
		s.arrived = 0
	}
	return work
}

// Pending implements reactor.Sleeper: it asks every queue for an announcement,
// and looks once more for what came before that.
//
//spindle:hot
func (s *shard) Pending() bool {
	if s.i < s.n {
		return true
	}
	if len(s.cqs) == 0 {
		return false
	}
	if !plant.On(plant.LostArm) {
		s.t.opt.Provider.Arm(s.cqs)
	}
	s.i = 0
	s.n, _ = s.t.opt.Provider.Poll(s.cqs, s.wcs)
	return s.n > 0
}

// dispatch takes completions inside the recover frame: a panic while a header is
// decoded is a hostile PDU and ends its connection only; any other is a bug and
// goes on.
func (s *shard) dispatch() {
	defer s.guard()
	for s.i < s.n {
		w := &s.wcs[s.i]
		s.i++
		s.completed(w)
	}
}

// pump is dispatch for what a connection could not take when it arrived.
func (s *shard) pump(c *Conn) {
	defer s.guard()
	c.rx.pump()
}

func (s *shard) guard() {
	c := s.decoding
	if c == nil {
		return
	}
	if p := recover(); p != nil {
		s.decoding = nil
		s.t.Stats.ParsePanics.Add(1)
		c.end(errPanic)
	}
}

// completed takes one completion.
//
//spindle:hot
func (s *shard) completed(w *verbs.WC) {
	c := s.conn(w.ID)
	if c == nil {
		s.t.Stats.Stale.Add(1)
		return
	}
	op, i := w.ID.Op()>>indexBits, w.ID.Op()&indexMask
	switch {
	case op == opMark:
		c.tx.drained = true
	case op == opRecv && w.Status == verbs.StatusOK:
		s.arrived++
		c.rx.arrived(i, w.ByteLen)
	case op == opSend && w.Status == verbs.StatusOK:
		c.tx.sent(i)
	default:
		if op == opRecv {
			c.rx.posted--
		}
		s.failed(c, w)
	}
	if c.step == stepDrain {
		s.later(c)
	}
}

// failed ends the connection of a request that failed. Those behind it flush.
func (s *shard) failed(c *Conn, w *verbs.WC) {
	if c.step != stepOpen {
		return
	}
	st := &s.t.Stats
	switch w.Status {
	case verbs.StatusFlushed:
		c.end(errDisconnected) // the event that says so is on its way
		return
	case verbs.StatusRNRRetryExceeded:
		st.RNR.Add(1)
		c.dev.rnr.Add(1)
	case verbs.StatusRemoteAccess:
		st.RemoteAccess.Add(1)
	}
	st.Failed.Add(1)
	c.dev.errors.Add(1)
	c.end(fmt.Errorf("%s (vendor error %#x)", w.Status, w.VendorErr))
}
