package memverbs

import (
	"spindle/internal/sys"
	"spindle/verbs"
)

// takeInline copies the data out of the buffers; false when it is too long.
func (s *send) takeInline() bool {
	for _, e := range s.sges {
		if len(s.inline)+int(e.Len) > cap(s.inline) {
			return false
		}
		s.inline = append(s.inline, sys.Bytes(uintptr(e.Addr), e.Len)...)
	}
	s.total = uint64(len(s.inline))
	return true
}

// transmit sends the next request to the peer.
func (q *queuePair) transmit() {
	w, s := q.w, q.at(q.next)
	if w.chance(w.Faults.Fatal, &w.Counts.Fatal, "fatal", q.number) {
		q.fatal()
		return
	}
	if q.remote.closed || q.remote.state == verbs.QPError {
		q.noAnswer()
		return
	}
	q.silent = false
	if s.wr.Flags&verbs.FlagInline == 0 {
		total, ok := q.pd.local(s.sges)
		if !ok {
			q.sendError(q.next, verbs.StatusLocalProtection)
			return
		}
		s.total = total
	}
	if s.total > uint64(q.dev().info.Ports[0].MaxMsg) {
		q.sendError(q.next, verbs.StatusLocalLength)
		return
	}
	switch s.wr.Op {
	case verbs.OpSend, verbs.OpSendInv:
		q.deliver(s)
	case verbs.OpRDMAWrite:
		q.write(s)
	case verbs.OpRDMARead:
		q.read(s)
	}
}

// noAnswer lets the transport's timer run once, then gives up.
func (q *queuePair) noAnswer() {
	if q.silent {
		q.sendError(q.next, verbs.StatusRetryExceeded)
		return
	}
	q.silent = true
	q.w.post(&q.tx, q.w.cfg.RetryTimer)
}

// sent moves on to the next request.
func (q *queuePair) sent(s *send) {
	if s.wr.Op != verbs.OpRDMARead {
		s.state = arrived
		if q.ack.slot == 0 {
			q.w.post(&q.ack, q.w.upTo(q.w.cfg.Latency))
		}
	}
	q.next++
	q.kick()
}

// acknowledge tells this side what has arrived.
func (q *queuePair) acknowledge() {
	for k := q.done; k < q.next; k++ {
		if s := q.at(k); s.state == arrived {
			s.state = acked
		}
	}
	q.sweep()
}

// sweep completes requests in the order posted; behind a failed one all that
// arrived is flushed nevertheless.
func (q *queuePair) sweep() {
	for q.state != verbs.QPError && q.done < q.next && q.at(q.done).state == acked {
		q.complete(verbs.StatusOK)
	}
}

// deliver puts a message into the peer's oldest receive.
func (q *queuePair) deliver(s *send) {
	p, w := q.remote, q.w
	if p.recvHead == p.recvTail {
		w.Counts.NoReceive++
		q.notReady()
		return
	}
	if w.chance(w.Faults.RNR, &w.Counts.RNR, "RNR", q.number) {
		q.notReady()
		return
	}
	q.rnrLeft = q.rnrRetry
	wc := verbs.WC{ByteLen: uint32(s.total)}
	room, ok := p.pd.local(p.rqAt(p.recvHead).sges)
	switch {
	case !ok:
		q.sendError(q.next, verbs.StatusRemoteOp)
		p.recvError(verbs.StatusLocalProtection)
		return
	case s.total > room:
		q.sendError(q.next, verbs.StatusRemoteInvalid)
		p.recvError(verbs.StatusLocalLength)
		return
	}
	if s.wr.Op == verbs.OpSendInv {
		r := p.pd.region(s.wr.RKey)
		if r == nil || !r.valid || r.access == 0 {
			w.Counts.AccessDenied++
			q.sendError(q.next, verbs.StatusRemoteAccess)
			p.recvError(verbs.StatusLocalQPOp)
			return
		}
		r.valid = false
		wc.Flags, wc.InvKey = verbs.WCInvalidated, s.wr.RKey
	}
	s.move(q, p.rqAt(p.recvHead).sges)
	p.touch(p.rqAt(p.recvHead).sges)
	if p.id.establishing && !p.id.early {
		p.id.early = true
		w.Counts.EarlyMessages++
		p.dev().raise(verbs.AsyncEvent{Type: verbs.AsyncCommEst, QP: p.handle})
	}
	p.completeRecv(wc)
	q.sent(s)
}

// touch tells who watches that the device uses memory of its own side.
func (q *queuePair) touch(sges []verbs.SGE) {
	if touch := q.dev().node.Touch; touch != nil {
		for _, e := range sges {
			touch(e)
		}
	}
}

// move copies the data of a request to dst, which has room for it.
func (s *send) move(q *queuePair, dst []verbs.SGE) {
	if s.wr.Flags&verbs.FlagInline == 0 {
		q.touch(s.sges)
		copySGEs(dst, s.sges, s.total)
		return
	}
	from := s.inline
	for _, d := range dst {
		from = from[copy(sys.Bytes(uintptr(d.Addr), d.Len), from):]
	}
}

// notReady waits for the peer to post a receive, as often as it allows.
func (q *queuePair) notReady() {
	if q.rnrLeft == 0 {
		q.sendError(q.next, verbs.StatusRNRRetryExceeded)
		return
	}
	if q.rnrRetry != 7 {
		q.rnrLeft--
	}
	q.w.post(&q.tx, q.w.cfg.RNRTimer)
}

// write puts data into the peer's memory.
func (q *queuePair) write(s *send) {
	if !q.allowed(s, verbs.AccessRemoteWrite) {
		q.denied(s)
		return
	}
	if s.total > 0 {
		s.move(q, []verbs.SGE{{Addr: s.wr.RemoteAddr, Len: uint32(s.total)}})
	}
	q.sent(s)
}

// allowed tells whether the peer lets the request have its way.
func (q *queuePair) allowed(s *send, access verbs.Access) bool {
	w := q.w
	if !q.remote.pd.remote(s.wr.RKey, s.wr.RemoteAddr, s.total, access) {
		w.Counts.AccessDenied++
		return false
	}
	return !w.chance(w.Faults.RemoteAccess, &w.Counts.RemoteAccess, "remote access", q.number)
}

// denied fails both sides, what went before on this one first.
func (q *queuePair) denied(s *send) {
	p := q.remote
	q.sendError(s.index, verbs.StatusRemoteAccess)
	p.dev().raise(verbs.AsyncEvent{Type: verbs.AsyncQPAccessError, QP: p.handle})
	p.fail()
}

// read starts an RDMA READ; what is behind it goes on.
func (q *queuePair) read(s *send) {
	p, w := q.remote, q.w
	if p.serving >= p.resources {
		q.sendError(q.next, verbs.StatusRemoteInvalid)
		p.fatal() // it was asked for more than it has resources for
		return
	}
	p.serving++
	q.reads++
	s.state = reading
	d := w.upTo(4 * w.cfg.Latency)
	if w.chance(w.Faults.LateRead, &w.Counts.LateRead, "late read", q.number) {
		d = w.late(64 * w.cfg.Latency)
	}
	w.post(&s.transfer, d)
	q.sent(s)
}

// readDone moves the data of an RDMA READ, now: the peer's memory is read as
// late as the rules allow.
func (q *queuePair) readDone(s *send) {
	q.finishRead(s)
	q.sweep()
	q.kick()
}

// finishRead moves the data and tells whether that went well.
func (q *queuePair) finishRead(s *send) bool {
	q.endRead(s)
	switch p := q.remote; {
	case p.closed || p.state == verbs.QPError:
		q.sendError(s.index, verbs.StatusRetryExceeded)
		return false
	case !q.allowed(s, verbs.AccessRemoteRead):
		q.denied(s)
		return false
	}
	if total, ok := q.pd.local(s.sges); !ok || total != s.total {
		q.sendError(s.index, verbs.StatusLocalProtection)
		return false
	}
	if s.total > 0 {
		q.touch(s.sges)
		copySGEs(s.sges, []verbs.SGE{{Addr: s.wr.RemoteAddr, Len: uint32(s.total)}}, s.total)
	}
	s.state = acked
	return true
}

// sendError fails request k: those before it complete, those behind it flush.
func (q *queuePair) sendError(k uint64, st verbs.Status) {
	if q.state == verbs.QPError {
		return
	}
	for i := q.done; i < k; i++ {
		s := q.at(i)
		if s.state == reading && !q.finishRead(s) {
			return // that one failed first
		}
		s.state = acked
	}
	q.next = max(q.next, k)
	for q.done < k {
		q.complete(verbs.StatusOK)
	}
	q.endRead(q.at(k))
	q.complete(st)
	q.next = max(q.next, q.done)
	q.fail()
}

// recvError fails the oldest receive and the queue pair.
func (q *queuePair) recvError(st verbs.Status) {
	if q.state != verbs.QPError {
		q.completeRecv(verbs.WC{Status: st})
		q.dev().raise(verbs.AsyncEvent{Type: verbs.AsyncQPFatal, QP: q.handle})
		q.fail()
	}
}
