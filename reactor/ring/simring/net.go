package simring

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"spindle/reactor/ring"
)

// listener is a bound socket and the connections that wait in its backlog.
type listener struct {
	w       *World
	addr    netip.AddrPort
	opt     ring.ListenOptions
	waiting []*conn // not acceptable yet
	ready   []*conn
	accepts opQueue
	shut    bool
}

// conn is a connection: two directions, the target's socket and the
// initiator's Peer.
type conn struct {
	w      *World
	id     int
	local  netip.AddrPort // the target's end
	remote netip.AddrPort
	lis    *listener
	ev     event // becomes acceptable
	in     stream
	out    stream
	sock   sock
	peer   Peer
}

// stream is one direction of a connection: what the sender's kernel took is in
// flight until an event delivers it, a part at a time.
type stream struct {
	c        *conn
	ev       event
	flight   queue
	rcv      queue
	fin      bool // ends after what is in flight
	ended    bool // FIN delivered
	rst      bool // a reset follows
	deferred bool // was overtaken once: not again
}

// sock is the target's end of a connection.
type sock struct {
	recvs  opQueue
	sends  opQueue
	err    syscall.Errno // reported once, as SO_ERROR is
	shut   bool          // shutdown in both directions
	dead   bool          // reset
	closed bool
}

func (c *conn) inward(s *stream) bool { return s == &c.in }

func (s *stream) name() string {
	if s.c.inward(s) {
		return "to-target"
	}
	return "to-peer"
}

// Dial connects to the listener bound to addr and returns the initiator's end.
func (w *World) Dial(addr netip.AddrPort) (*Peer, error) {
	from := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if addr.Addr().Is6() {
		from = netip.IPv6Loopback()
	}
	return w.DialFrom(from, addr)
}

// DialFrom is Dial with the initiator's address, for access lists.
func (w *World) DialFrom(from netip.Addr, addr netip.AddrPort) (*Peer, error) {
	l := w.listenerAt(addr)
	if l == nil || l.shut || len(l.waiting)+len(l.ready) >= l.opt.Backlog {
		return nil, fmt.Errorf("simring: dial %v: %w", addr, syscall.ECONNREFUSED)
	}
	c := &conn{w: w, id: w.conns, lis: l, local: addr, remote: netip.AddrPortFrom(from, w.ephemeral())}
	w.conns++
	c.peer.c = c
	c.in.init(c, w.cfg.SocketBuffer, l.opt.RecvBuffer)
	c.out.init(c, l.opt.SendBuffer, w.cfg.SocketBuffer)
	c.ev = event{kind: Accept, c: c}
	l.waiting = append(l.waiting, c)
	w.note(&Event{Kind: Dial, ID: c.id})
	d := w.upTo(w.cfg.NetLatency)
	if w.chance(w.Faults.LateAccept, &w.Counts.LateAccept, "late-accept", c.id) {
		d += w.upTo(16 * w.cfg.NetLatency)
	}
	w.post(&c.ev, d)
	w.settle()
	return &c.peer, nil
}

func (s *stream) init(c *conn, flight, rcv int) {
	s.c = c
	s.flight.max, s.rcv.max = flight, rcv
	s.ev = event{kind: Deliver, st: s}
}

func (w *World) listenerAt(addr netip.AddrPort) *listener {
	for _, l := range w.listeners {
		if l.covers(addr) {
			return l
		}
	}
	return nil
}

// covers tells whether a connection to addr is for l. A listener on :: does
// not take IPv4 (IPV6_V6ONLY).
func (l *listener) covers(addr netip.AddrPort) bool {
	a, b := l.addr.Addr(), addr.Addr()
	return l.addr.Port() == addr.Port() && (a == b || a.IsUnspecified() && a.Is4() == b.Is4())
}

func (c *conn) acceptable() {
	l := c.lis
	for i, x := range l.waiting {
		if x == c {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			break
		}
	}
	l.ready = append(l.ready, c)
	c.w.note(&Event{Kind: Accept, ID: c.id})
	l.pump()
}

// pump accepts what is ready for as long as an accept is armed.
func (l *listener) pump() {
	for l.accepts.head != nil {
		o := l.accepts.head
		if l.shut {
			l.accepts.remove(o)
			o.complete(-int32(syscall.EINVAL), 0)
			continue
		}
		if len(l.ready) == 0 {
			return
		}
		if l.w.chance(l.w.Faults.AcceptError, &l.w.Counts.AcceptError, "accept-error", l.ready[0].id) {
			l.accepts.remove(o)
			o.complete(-int32(syscall.EMFILE), 0)
			continue
		}
		c := l.ready[0]
		l.ready = append(l.ready[:0], l.ready[1:]...)
		fd := l.w.installFD(&desc{conn: c})
		flags := ring.FlagMore
		if l.w.chance(l.w.Faults.LostMore, &l.w.Counts.LostMore, "lost-more", c.id) {
			flags = 0
			l.accepts.remove(o)
		}
		o.complete(int32(fd), flags)
	}
}

func (l *listener) close() {
	l.shut = true
	for i, x := range l.w.listeners {
		if x == l {
			l.w.listeners = append(l.w.listeners[:i], l.w.listeners[i+1:]...)
			break
		}
	}
	for _, c := range l.waiting {
		l.w.unpost(&c.ev)
		c.kill()
	}
	for _, c := range l.ready {
		c.kill()
	}
	l.waiting, l.ready = nil, nil
}

// receiverGone tells that bytes of this direction meet no reader any more, so
// that their arrival is answered by a reset (RFC 9293 §3.10.7.1; Linux does
// the same after SHUT_RD).
func (s *stream) receiverGone() bool {
	if s.c.inward(s) {
		return s.c.sock.closed || s.c.sock.shut
	}
	return s.c.peer.closed || s.c.peer.reset
}

// due tells whether there is something to deliver.
func (s *stream) due() bool {
	switch {
	case s.rst:
		return true
	case s.ended:
		return false
	case s.flight.n > 0:
		return s.rcv.room() > 0 || s.receiverGone()
	}
	return s.fin
}

// schedule makes the next delivery pending.
func (s *stream) schedule() {
	w := s.c.w
	if s.ev.slot != 0 {
		return
	}
	if s.c.peer.vanished {
		// Nothing is acknowledged any more: only the user timeout ends it.
		ms := s.c.lis.opt.UserTimeoutMS
		if !s.c.inward(s) && ms > 0 && !s.c.sock.dead && (s.flight.n > 0 || s.fin) {
			w.post(&s.ev, time.Duration(ms)*time.Millisecond)
		}
		return
	}
	if !s.due() {
		return
	}
	f, n, id := &w.Faults, &w.Counts, s.c.id
	d := w.upTo(w.cfg.NetLatency)
	if !w.cfg.Immediate {
		switch {
		case w.chance(f.Stall, &n.Stall, "stall", id):
			d += w.upTo(w.cfg.Stall)
		case w.chance(f.Delay, &n.Delay, "delay", id):
			d += w.upTo(16 * w.cfg.NetLatency)
		case w.chance(f.Coalesce, &n.Coalesce, "coalesce", id):
			d += 4 * w.cfg.NetLatency
		}
	}
	w.post(&s.ev, d)
}

// fire runs one delivery.
func (s *stream) fire() {
	c, w := s.c, s.c.w
	if c.peer.vanished {
		c.sockReset(syscall.ETIMEDOUT)
		return
	}
	if s.overtaken() {
		return
	}
	if s.rst {
		// What was sent before the reset may have arrived, up to any byte.
		n := s.move(w.rng.IntN(min(s.flight.n, s.rcv.room()) + 1))
		w.note(&Event{Kind: Deliver, Op: "reset", ID: c.id, N: int64(n)})
		s.reset()
		return
	}
	if s.flight.n > 0 && s.receiverGone() {
		w.note(&Event{Kind: Deliver, Op: "refused", ID: c.id})
		if c.inward(s) {
			c.sockAbort()
		} else {
			c.peer.abort()
		}
		return
	}
	s.deliver()
	if c.inward(s) {
		c.pumpRecv()
	} else {
		c.pumpSend()
	}
	s.schedule()
}

// deliver moves bytes and FIN, as far as the faults let it.
func (s *stream) deliver() {
	c, w := s.c, s.c.w
	f, cnt := &w.Faults, &w.Counts
	avail := min(s.flight.n, s.rcv.room())
	n := avail
	switch {
	case avail > 1 && w.chance(f.Split, &cnt.Split, "split", c.id):
		n = 1 + w.rng.IntN(avail-1)
	case avail > 0 && w.chance(f.Reset, &cnt.Reset, "reset", c.id):
		s.move(w.rng.IntN(avail + 1))
		c.kill()
		return
	case avail > 0 && c.inward(s) && w.chance(f.HalfClose, &cnt.HalfClose, "half-close", c.id):
		n = w.rng.IntN(avail + 1)
		s.move(n)
		s.flight.clear()
		s.fin, s.ended = true, true
		w.note(&Event{Kind: Deliver, Op: s.name(), ID: c.id, N: int64(n)})
		return
	}
	s.move(n)
	// FIN comes with the last bytes or on its own.
	if s.fin && s.flight.n == 0 && (avail == 0 || !w.coin()) {
		s.ended = true
	}
	w.note(&Event{Kind: Deliver, Op: s.name(), ID: c.id, N: int64(n)})
}

// overtaken puts the delivery behind a pending one of another connection.
func (s *stream) overtaken() bool {
	w := s.c.w
	if s.deferred || w.cfg.Immediate || w.Faults.Reorder <= 0 || len(w.pending) == 0 {
		s.deferred = false
		return false
	}
	e := w.pending[w.rng.IntN(len(w.pending))]
	if e.st == nil || e.st.c == s.c || !w.chance(w.Faults.Reorder, &w.Counts.Reorder, "reorder", s.c.id) {
		return false
	}
	s.deferred = true
	w.post(&s.ev, max(e.at.Sub(w.clock.T), 0)+1)
	return true
}

// move takes n bytes to the receiver's buffer.
func (s *stream) move(n int) int {
	s.flight.moveTo(&s.rcv, n)
	return n
}

// stop drops what is in flight for good.
func (s *stream) stop() {
	s.flight.clear()
	s.rst = false
	s.c.w.unpost(&s.ev)
}

// reset is the arrival of a RST at the receiver of s.
func (s *stream) reset() {
	s.stop()
	s.ended = true
	if s.c.inward(s) {
		s.c.sockReset(syscall.ECONNRESET)
		return
	}
	s.c.peer.reset = true
	s.c.in.stop()
}

// kill resets both ends at once: the network or the machine did it.
func (c *conn) kill() {
	c.peer.reset = true
	c.sockReset(syscall.ECONNRESET)
}

// sockReset ends the target's socket with err; bytes that arrived before can
// still be read.
func (c *conn) sockReset(err syscall.Errno) {
	c.in.stop()
	c.out.stop()
	if c.sock.dead {
		return
	}
	c.sock.dead, c.sock.err = true, err
	c.pumpRecv()
	c.pumpSend()
}

// sockAbort makes the target's kernel send a RST.
func (c *conn) sockAbort() {
	c.in.stop()
	c.in.rcv.clear()
	c.sock.dead = true
	c.pumpRecv()
	c.pumpSend()
	c.out.rst = true
	c.out.schedule()
}

// closeSocket is the last close of the target's end: with unread bytes it is a
// reset (RFC 2525 §2.17), else a FIN after what is still to be sent.
func (c *conn) closeSocket() {
	c.sock.closed = true
	if c.sock.dead {
		return
	}
	if c.in.rcv.n > 0 {
		c.sockAbort()
		return
	}
	c.out.fin = true
	c.out.schedule()
	c.in.schedule()
}

// shutdown executes Shutdown in both directions.
func (c *conn) shutdown() int32 {
	if c.sock.dead {
		return -int32(syscall.ENOTCONN)
	}
	c.sock.shut = true
	c.out.fin = true
	c.pumpRecv()
	c.pumpSend()
	c.out.schedule()
	c.in.schedule()
	return 0
}

// pumpRecv serves the armed receives from what has arrived.
func (c *conn) pumpRecv() {
	for o := c.sock.recvs.head; o != nil; o = c.sock.recvs.head {
		if c.in.rcv.n == 0 {
			if !c.endOfRecv(o) {
				break
			}
			continue
		}
		if o.kind == opRecvInto {
			o.done += uint32(c.in.rcv.pop(o.ref.Bytes()[o.done:]))
			if o.done == o.ref.Len {
				c.sock.recvs.remove(o)
				o.complete(int32(o.done), 0)
			}
			continue
		}
		c.recvOnce(o)
	}
	if c.in.flight.n > 0 || c.in.fin {
		c.in.schedule()
	}
}

// recvOnce fills one provided buffer of the multishot receive o.
func (c *conn) recvOnce(o *op) {
	w, g := c.w, o.ring.groups[o.group]
	if g.ready == 0 || w.chance(w.Faults.NoBufs, &w.Counts.NoBufs, "no-buffers", c.id) {
		c.sock.recvs.remove(o)
		o.complete(-int32(syscall.ENOBUFS), 0)
		return
	}
	id := g.take()
	n := c.in.rcv.pop(g.bufs[id].Bytes())
	g.filled[id] = uint32(n)
	flags := ring.FlagBuffer | uint32(id)<<16
	if w.chance(w.Faults.LostMore, &w.Counts.LostMore, "lost-more", c.id) {
		c.sock.recvs.remove(o)
	} else {
		flags |= ring.FlagMore
	}
	o.complete(int32(n), flags)
}

// endOfRecv completes o when nothing more will arrive, and tells whether.
func (c *conn) endOfRecv(o *op) bool {
	if !c.in.ended && !c.sock.dead && !c.sock.shut {
		return false
	}
	c.sock.recvs.remove(o)
	switch {
	case o.done > 0:
		o.complete(int32(o.done), 0)
	case c.sock.err != 0:
		e := c.sock.err
		c.sock.err = 0
		o.complete(-int32(e), 0)
	default:
		o.complete(0, 0)
	}
	return true
}

// pumpSend makes the first waiting send pending when it can do something.
func (c *conn) pumpSend() {
	o := c.sock.sends.head
	if o == nil || o.ev.slot != 0 {
		return
	}
	if c.out.flight.room() == 0 && !c.sock.dead && !c.sock.shut {
		return
	}
	d := c.w.upTo(c.w.cfg.NetLatency)
	if !c.w.cfg.Immediate && c.w.chance(c.w.Faults.Delay, &c.w.Counts.Delay, "delay", c.id) {
		d += c.w.upTo(16 * c.w.cfg.NetLatency)
	}
	c.w.post(&o.ev, d)
}

// send executes a part of sendmsg: what there is room for, whose bytes are read
// now. It waits for room until all was taken (MSG_WAITALL).
func (c *conn) send(o *op) {
	w := c.w
	if c.sock.dead || c.sock.shut {
		res := -int32(syscall.EPIPE)
		switch {
		case o.done > 0: // the error stays for the next operation
			res = int32(o.done)
		case c.sock.err != 0:
			res, c.sock.err = -int32(c.sock.err), 0
		}
		c.endSend(o, res)
		return
	}
	left := int(o.msg.Total(o.vecs) - o.done)
	n := min(left, c.out.flight.room())
	short := n > 1 && w.chance(w.Faults.ShortSend, &w.Counts.ShortSend, "short-send", c.id)
	if short {
		n = 1 + w.rng.IntN(n-1)
	}
	c.gather(o.msg, o.done, uint32(n))
	o.done += uint32(n)
	w.note(&Event{Kind: Socket, Op: "send", ID: c.id, N: int64(n)})
	if short || n == left {
		c.endSend(o, int32(o.done))
	}
	c.out.schedule()
}

// sendNow is a sendmsg that does not wait (MSG_DONTWAIT).
func (c *conn) sendNow(m ring.Msg, vecs int) int32 {
	w := c.w
	switch {
	case c.sock.err != 0:
		res := -int32(c.sock.err)
		c.sock.err = 0
		return res
	case c.sock.dead || c.sock.shut:
		return -int32(syscall.EPIPE)
	case c.sock.sends.head != nil:
		return -int32(syscall.EAGAIN)
	case w.chance(w.Faults.Interrupted, &w.Counts.Interrupted, "eintr", c.id):
		return -int32(syscall.EINTR)
	}
	n := min(int(m.Total(vecs)), c.out.flight.room())
	if n == 0 {
		return -int32(syscall.EAGAIN)
	}
	if n > 1 && w.chance(w.Faults.ShortSend, &w.Counts.ShortSend, "short-send", c.id) {
		n = 1 + w.rng.IntN(n-1)
	}
	c.gather(m, 0, uint32(n))
	w.note(&Event{Kind: Socket, Op: "send-now", ID: c.id, N: int64(n)})
	c.out.schedule()
	return int32(n)
}

// gather takes n bytes of a message, behind the first skip.
func (c *conn) gather(m ring.Msg, skip, n uint32) {
	for i := 0; n > 0; i++ {
		addr, l := m.Vec(i)
		if skip >= l {
			skip -= l
			continue
		}
		k := min(l-skip, n)
		c.out.flight.push(memory(addr+uintptr(skip), k))
		skip, n = 0, n-k
	}
}

func (c *conn) endSend(o *op, res int32) {
	c.sock.sends.remove(o)
	o.complete(res, 0)
	c.pumpSend()
}
