package memverbs

import (
	"fmt"

	"spindle/verbs"
)

// compChannel announces completions.
type compChannel struct {
	source
	dev    *device
	events int
	users  int
	closed bool
}

func (d *device) NewCompChannel() (verbs.CompChannel, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	d.users++
	d.node.live.CompChannels++
	return &compChannel{source: source{w: d.w}, dev: d}, nil
}

func (c *compChannel) Drain() int {
	n := c.events
	c.events = 0
	return n
}

func (c *compChannel) Close() error {
	if c.users > 0 {
		return fmt.Errorf("completion channel: %w", verbs.ErrBusy)
	}
	if !c.closed {
		c.closed = true
		c.dev.users--
		c.dev.node.live.CompChannels--
	}
	return nil
}

// queue is a completion queue.
type queue struct {
	dev    *device
	ch     *compChannel
	handle verbs.CQHandle
	ring   []completion
	head   uint64 // polled
	tail   uint64 // arrived
	armed  bool
	bad    bool // it overran
	users  int
}

// completion is a WC and what polling it frees: every slot of the queue pair's
// send or receive queue up to index.
type completion struct {
	wc    verbs.WC
	qp    *queuePair
	index uint64
	recv  bool
}

func (d *device) NewCQ(n int, ch verbs.CompChannel) (verbs.CQ, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	if n < 1 || n > d.info.MaxCQE {
		return nil, fmt.Errorf("completion queue of %d entries: %w", n, verbs.ErrInvalid)
	}
	q := &queue{dev: d, ring: make([]completion, n)}
	if ch != nil {
		q.ch = ch.(*compChannel)
		q.ch.users++
	}
	d.users++
	d.node.cqs = append(d.node.cqs, q)
	d.node.live.CQs++
	q.handle = verbs.CQHandle(len(d.node.cqs))
	return q, nil
}

func (q *queue) Handle() verbs.CQHandle { return q.handle }
func (q *queue) Size() int              { return len(q.ring) }

func (q *queue) Close() error {
	if q.users > 0 {
		return fmt.Errorf("completion queue: %w", verbs.ErrBusy)
	}
	if n := q.dev.node; n.cqs[q.handle-1] == q {
		n.cqs[q.handle-1] = nil
		n.live.CQs--
		q.dev.users--
		if q.ch != nil {
			q.ch.users--
		}
	}
	return nil
}

// push adds a completion; the queue overruns when there is no room.
func (q *queue) push(c completion) {
	w := q.dev.w
	w.note(&Event{Kind: Complete, Op: c.wc.Op.String(), ID: c.qp.number, N: int64(c.wc.Status)})
	if q.bad {
		return
	}
	if q.tail-q.head == uint64(len(q.ring)) {
		q.overrun()
		return
	}
	q.ring[q.tail%uint64(len(q.ring))] = c
	q.tail++
	q.announce()
}

// overrun ends the queue, and the queue pairs that use it.
func (q *queue) overrun() {
	q.bad = true
	q.dev.raise(verbs.AsyncEvent{Type: verbs.AsyncCQError, CQ: q.handle})
	for _, p := range q.dev.node.qps {
		if p != nil && (p.sendCQ == q || p.recvCQ == q) {
			p.fatal()
		}
	}
}

// BreakQueues ends every completion queue that the node has, as an overrun does.
func (n *Node) BreakQueues() {
	for _, q := range n.cqs {
		if q != nil && !q.bad {
			q.overrun()
		}
	}
	n.w.settle()
}

func (q *queue) announce() {
	if q.armed && q.ch != nil {
		q.armed = false
		q.ch.events++
		q.ch.ready("completion")
	}
}

// poll takes completions and frees the slots they stand for.
func (q *queue) poll(out []verbs.WC) int {
	n := 0
	for n < len(out) && q.head < q.tail {
		c := &q.ring[q.head%uint64(len(q.ring))]
		q.head++
		out[n] = c.wc
		n++
		if c.recv {
			c.qp.recvFree = c.index + 1
		} else {
			c.qp.free = c.index + 1
		}
	}
	return n
}

func (n *Node) cq(h verbs.CQHandle) *queue {
	if h == 0 || int(h) > len(n.cqs) {
		return nil
	}
	return n.cqs[h-1]
}

// Poll takes completions.
func (n *Node) Poll(cqs []verbs.CQHandle, out []verbs.WC) (int, int) {
	if len(out) > 1 && n.w.chance(n.w.Faults.ShortPoll, &n.w.Counts.ShortPoll, "short poll", n.number) {
		out = out[:1+n.w.rng.IntN(len(out)-1)]
	}
	got, bad := 0, -1
	for i, h := range cqs {
		q := n.cq(h)
		if (q == nil || q.bad && q.head == q.tail) && bad < 0 {
			bad = i
		}
		if q != nil {
			got += q.poll(out[got:])
		}
	}
	return got, bad
}

// Arm asks for announcements.
func (n *Node) Arm(cqs []verbs.CQHandle) bool {
	ok := true
	for _, h := range cqs {
		q := n.cq(h)
		if q == nil || q.bad {
			ok = false
			continue
		}
		q.armed = true
		if n.w.chance(n.w.Faults.Spurious, &n.w.Counts.Spurious, "spurious", n.number) {
			q.announce()
		}
	}
	return ok
}
