package tcp

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"spindle/iscsi"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/ring"
)

// Limits of the transport.
const (
	// MaxRecvData is the MaxRecvDataSegmentLength we declare, in bytes.
	MaxRecvData = 256 << 10
	// RecvBuffers provided buffers of RecvBufferSize bytes serve all connections of a reactor.
	RecvBuffers    = 64
	RecvBufferSize = 64 << 10
	// MaxHeldBuffers is how many receive buffers one connection may hold unread
	// before its receive stops.
	MaxHeldBuffers = 4
	// MaxPDUsPerTurn bounds what one connection may do in a turn. It is less than a
	// deep queue: the initiator works on the first answers while the rest is made.
	MaxPDUsPerTurn = 64
	// MaxSendBytes bounds one sendmsg: a raw syscall holds its P meanwhile.
	MaxSendBytes = 512 << 10
	// MaxLiveBytes bounds how much one connection sends from media in a turn, and
	// with it the turn; what is beyond is copied.
	MaxLiveBytes = 2 << 20
	// LiveCost is how many bytes of media pay a turn's system call: twelve blocks of
	// 4 KiB, so that with the one more that sending them from media takes there is
	// still a call for twelve I/Os at most.
	LiveCost = 48 << 10
)

// Options of the listening sockets.
type Options struct {
	Listen ring.ListenOptions
	// ZeroCopy is the size of a message from which on the kernel sends it from
	// where it lies; 0 always copies. It pays on real network cards and for large
	// reads; loopback copies all the same, and later.
	ZeroCopy uint32
	// LiveCost is how many bytes of media have to come for each system call, in the
	// mean of the last turns, for a turn to send them from there; 0 is none.
	LiveCost uint32
	// Incoming, if set, places connections by the device queue they come by.
	Incoming Incoming
}

// Transport is iSCSI over TCP. It implements iscsi.Transport.
type Transport struct {
	kernel ring.Kernel
	opt    Options
	shards []*shard
	queues map[int]*reactor.Reactor // by device queue; owner: the registry's reactor
	Stats  Stats
}

// Stats counts what happened to connections. Any thread may read.
type Stats struct {
	Accepted      atomic.Uint64
	AcceptErrors  atomic.Uint64
	ParsePanics   atomic.Uint64
	HeaderDigests atomic.Uint64 // header digest errors
	DataDigests   atomic.Uint64 // data digest errors
	Starved       atomic.Uint64 // receives that found no provided buffer
	ShortSends    atomic.Uint64
	Stopped       atomic.Uint64 // receives stopped because the engine had no room
	Loans         atomic.Uint64 // messages sent without a copy
	LoansRefused  atomic.Uint64 // and those that the kernel had no memory to lock for
	LiveSends     atomic.Uint64 // messages sent with data that lay on the medium
	LiveCopies    atomic.Uint64 // of those, that the socket did not take whole
	Placed        atomic.Uint64 // connections placed by their device queue
}

// Counters returns Stats by name. Any goroutine may call it.
func (t *Transport) Counters() []iscsi.Counter {
	s := &t.Stats
	return []iscsi.Counter{
		{Name: "tcp_accepted", Value: s.Accepted.Load()},
		{Name: "tcp_accept_errors", Value: s.AcceptErrors.Load()},
		{Name: "tcp_parse_panics", Value: s.ParsePanics.Load()},
		{Name: "tcp_header_digest_errors", Value: s.HeaderDigests.Load()},
		{Name: "tcp_data_digest_errors", Value: s.DataDigests.Load()},
		{Name: "tcp_receives_starved", Value: s.Starved.Load()},
		{Name: "tcp_receives_stopped", Value: s.Stopped.Load()},
		{Name: "tcp_short_sends", Value: s.ShortSends.Load()},
		{Name: "tcp_loans", Value: s.Loans.Load()},
		{Name: "tcp_loans_refused", Value: s.LoansRefused.Load()},
		{Name: "tcp_live_sends", Value: s.LiveSends.Load()},
		{Name: "tcp_live_copies", Value: s.LiveCopies.Load()},
		{Name: "tcp_placed", Value: s.Placed.Load()},
	}
}

// shard is a reactor's part of the transport. Owner: its reactor.
type shard struct {
	r       *reactor.Reactor
	group   ring.Group
	ready   bool
	out     int     // provided buffers that have come and are not back
	starved []*Conn // wait for one to come back, first come first
	rearm   reactor.FlushNode
}

// New makes the transport for these reactors.
func New(k ring.Kernel, reactors []*reactor.Reactor, opt Options) *Transport {
	t := &Transport{kernel: k, opt: opt, shards: make([]*shard, len(reactors)), queues: map[int]*reactor.Reactor{}}
	for i, r := range reactors {
		t.shards[i] = &shard{r: r}
		t.shards[i].rearm.To = t.shards[i]
	}
	return t
}

// Traits implements iscsi.Transport.
func (t *Transport) Traits() iscsi.Traits {
	return iscsi.Traits{Name: "tcp", Digests: true, MaxRecvData: MaxRecvData, MaxSendData: MaxSendBytes}
}

// receiveGroup returns the shard's provided buffers, made at first need.
func (s *shard) receiveGroup() (ring.Group, error) {
	if !s.ready {
		g, err := s.r.Ring.NewGroup(RecvBuffers, RecvBufferSize)
		if err != nil {
			return 0, fmt.Errorf("receive buffers: %w", err)
		}
		s.group, s.ready = g, true
	}
	return s.group, nil
}

// recycle gives a receive buffer back and wakes receives that starved for one.
//
//spindle:hot
func (s *shard) recycle(id uint16) {
	s.out--
	s.r.Ring.Recycle(s.group, id)
	if len(s.starved) > 0 {
		s.r.NeedFlush(&s.rearm)
	}
}

// Flush re-arms starved receives, as many as there are buffers for: the others
// would find none and starve again. Implements reactor.Flusher.
func (s *shard) Flush() {
	n := min(len(s.starved), RecvBuffers-s.out)
	for _, c := range s.starved[:n] {
		c.starving = false
		c.armRecv()
	}
	s.starved = slices.Delete(s.starved, 0, n)
	if n > 0 && len(s.starved) > 0 {
		s.r.NeedFlush(&s.rearm) // those may leave buffers, and then none comes back
	}
}

// listener accepts on one reactor.
type listener struct {
	t      *Transport
	r      *reactor.Reactor
	fd     int
	addr   netip.AddrPort
	accept func(*reactor.Reactor, iscsi.Conn)

	src     reactor.Source
	file    ring.File
	armed   bool // the accept has completions to come
	closing bool
	cancels int // cancellations not yet answered
	closed  func()
	retry   reactor.Timer
}

// retryAcceptAfter is how long a listener waits after an accept failed, for
// want of descriptors say, before it accepts again.
const retryAcceptAfter = 100e6

// Listen implements iscsi.Transport.
func (t *Transport) Listen(c reactor.Caller, r *reactor.Reactor, addr netip.AddrPort, accept func(*reactor.Reactor, iscsi.Conn)) (iscsi.Listener, error) {
	l := &listener{t: t, r: r, accept: accept, fd: -1}
	l.retry.Fire = l.fire
	var err error
	c.Block(func() { l.fd, l.addr, err = t.kernel.Listen(addr, t.opt.Listen) })
	if err != nil {
		return nil, err // it names the address
	}
	c.Await(r, func(done func()) {
		defer done()
		if l.file, err = r.Ring.Install(l.fd); err != nil {
			return
		}
		l.src = r.Register(l)
		l.arm()
	})
	if err != nil {
		_ = t.kernel.CloseFD(l.fd)
		return nil, fmt.Errorf("listen on %v: %w", addr, err)
	}
	return l, nil
}

// Addr implements iscsi.Listener.
func (l *listener) Addr() netip.AddrPort { return l.addr }

// Waiting implements iscsi.Listener.
func (l *listener) Waiting() error { return nil }

// arm starts the multishot accept, or has the timer try again.
func (l *listener) arm() {
	if l.r.Ring.Accept(l.src.Tag(0), l.file) {
		l.armed = true
		return
	}
	l.r.Arm(&l.retry, l.r.Now().Add(1e6))
}

// Complete implements reactor.Completer: argument 0 is the accept, 1 its cancellation.
func (l *listener) Complete(arg uint32, c ring.CQE) {
	if arg == 1 {
		l.cancels--
		l.finish()
		return
	}
	if c.Flags&ring.FlagMore == 0 {
		l.armed = false
	}
	switch {
	case c.Res >= 0 && l.closing:
		_ = l.t.kernel.CloseFD(int(c.Res))
	case c.Res >= 0:
		l.t.Stats.Accepted.Add(1)
		l.accept(l.r, newConn(l.t, l.r, int(c.Res)))
	case !l.closing:
		l.t.Stats.AcceptErrors.Add(1)
	}
	if l.armed {
		return
	}
	if l.closing {
		l.finish()
		return
	}
	if c.Res < 0 {
		l.r.Arm(&l.retry, l.r.Now().Add(retryAcceptAfter))
		return
	}
	l.arm()
}

// fire is the retry timer: a failed accept, or a cancellation that found the
// submission queue full.
func (l *listener) fire(clock.Time) {
	switch {
	case !l.closing:
		l.arm()
	case l.armed && l.r.Ring.Cancel(l.src.Tag(1), l.src.Tag(0)):
		l.cancels++
	case l.armed:
		l.r.Arm(&l.retry, l.r.Now().Add(1e6))
	}
}

// finish ends a closing listener once nothing of it is in flight.
func (l *listener) finish() {
	if l.armed || l.cancels > 0 || l.closed == nil {
		return
	}
	l.r.Disarm(&l.retry)
	l.r.Unregister(l.src)
	l.r.Ring.Remove(l.file)
	done := l.closed
	l.closed = nil
	done()
}

// Close implements iscsi.Listener.
func (l *listener) Close(c reactor.Caller) {
	c.Await(l.r, func(done func()) {
		l.closing, l.closed = true, done
		l.r.Disarm(&l.retry)
		l.finish()
		l.fire(0)
	})
	c.Block(func() { _ = l.t.kernel.CloseFD(l.fd) })
}
