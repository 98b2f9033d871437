package reactor

// Flusher has output to send at the end of the turn.
type Flusher interface{ Flush() }

// FlushNode links a Flusher into the turn's flush list; embed it in the owner
// and set To when the owner is made.
type FlushNode struct {
	To     Flusher
	next   *FlushNode
	queued bool
}

// Queued tells whether n waits for the end of a turn.
func (n *FlushNode) Queued() bool { return n.queued }

type flushList struct{ head, tail *FlushNode }

// NeedFlush has n.To flushed once at the end of this turn, in order of request.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (r *Reactor) NeedFlush(n *FlushNode) {
	if n.queued {
		return
	}
	n.queued = true
	if r.flush.tail == nil {
		r.flush.head = n
	} else {
		r.flush.tail.next = n
	}
	r.flush.tail = n
}

// run flushes what was queued when it was called: a Flusher that asks again is
// flushed next turn.
//
//spindle:hot
func (l *flushList) run() int {
	n := l.head
	l.head, l.tail = nil, nil
	done := 0
	for n != nil {
		next := n.next
		n.next, n.queued = nil, false
		n.To.Flush()
		n = next
		done++
	}
	return done
}
