package simring_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"spindle/internal/invariants"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/simring"
)

func newArena(t testing.TB) *mem.Arena {
	t.Helper()
	a, err := mem.NewSpace().NewArena(8<<20, -1)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// echo is a server that sends back what it receives, out of the provided
// buffers it came in: what a transport does, in its smallest form.
type echo struct {
	t      testing.TB
	w      *simring.World
	r      *reactor.Reactor
	group  ring.Group
	src    reactor.Source
	fd     int
	lis    ring.File
	addr   netip.AddrPort
	armed  bool
	conns  []*echoConn
	ended  int
	direct int // connections that start with a RecvInto of this many bytes
}

const (
	argRecv = iota
	argSend
	argShutdown
	argCancel
)

type echoBuf struct {
	id  uint16
	own bool // conn's own memory, not a provided buffer
	ref mem.Ref
}

type echoConn struct {
	e         *echo
	src       reactor.Source
	fd        int
	file      ring.File
	msg       ring.Msg
	block     mem.Ref
	into      mem.Ref
	queue     []echoBuf
	receiving bool
	sending   int // bytes asked for
	first     bool
	eof       bool
	failed    bool
	shut      uint8 // 0 no, 1 in flight, 2 done
	closed    bool
}

func newEcho(t testing.TB, w *simring.World, r *reactor.Reactor, direct int) *echo {
	e := &echo{t: t, w: w, r: r, direct: direct}
	var err error
	if e.group, err = r.Ring.NewGroup(16, 512); err != nil {
		t.Fatal(err)
	}
	e.fd, e.addr, err = w.Listen(netip.MustParseAddrPort("127.0.0.1:0"), ring.ListenOptions{SendBuffer: 3000, RecvBuffer: 5000})
	if err != nil {
		t.Fatal(err)
	}
	if e.lis, err = r.Ring.Install(e.fd); err != nil {
		t.Fatal(err)
	}
	e.src = r.Register(e)
	r.AddPoller(e)
	return e
}

func (e *echo) Complete(_ uint32, c ring.CQE) {
	if c.Flags&ring.FlagMore == 0 {
		e.armed = false
	}
	if c.Res == -int32(syscall.EMFILE) {
		return
	}
	if c.Res < 0 {
		e.t.Fatalf("accept: %v", syscall.Errno(-c.Res))
	}
	conn := &echoConn{e: e, fd: int(c.Res), first: e.direct > 0}
	conn.file, _ = e.r.Ring.Install(conn.fd)
	conn.src = e.r.Register(conn)
	block, ok := e.r.Arena.Alloc(mem.MinBlock)
	if !ok {
		e.t.Fatal("arena exhausted")
	}
	conn.block = block
	conn.msg = ring.Msg{Ref: block.Slice(0, 1024)}
	conn.into = block.Slice(1024, uint32(e.direct))
	e.conns = append(e.conns, conn)
}

func (e *echo) Poll() int {
	if !e.armed {
		e.armed = e.r.Ring.Accept(e.src.Tag(0), e.lis)
	}
	for _, c := range e.conns {
		c.poll()
	}
	return 0
}

func (c *echoConn) Complete(arg uint32, q ring.CQE) {
	rg := c.e.r.Ring
	switch arg {
	case argRecv:
		if q.Flags&ring.FlagMore == 0 {
			c.receiving = false
		}
		switch {
		case q.Res == -int32(syscall.ENOBUFS):
		case q.Res < 0:
			c.failed = true
		case q.Flags&ring.FlagBuffer != 0:
			c.queue = append(c.queue, echoBuf{id: q.BufferID(), ref: rg.Buffer(c.e.group, q.BufferID()).Slice(0, uint32(q.Res))})
		case q.Res == 0:
			c.eof = true
		default:
			c.first = false
			c.queue = append(c.queue, echoBuf{own: true, ref: c.into.Slice(0, uint32(q.Res))})
		}
	case argSend:
		c.sending = 0
		if q.Res < 0 {
			c.failed = true
			return
		}
		for n := uint32(q.Res); n > 0; {
			b := &c.queue[0]
			k := min(n, b.ref.Len)
			b.ref = b.ref.Slice(k, b.ref.Len-k)
			n -= k
			if b.ref.Empty() {
				c.pop()
			}
		}
	case argShutdown:
		c.shut = 2
	}
}

func (c *echoConn) pop() {
	if !c.queue[0].own {
		c.e.r.Ring.Recycle(c.e.group, c.queue[0].id)
	}
	c.queue = c.queue[1:]
}

func (c *echoConn) poll() {
	rg := c.e.r.Ring
	if c.closed {
		return
	}
	if c.failed || c.eof && len(c.queue) == 0 {
		if c.shut == 0 && rg.Shutdown(c.src.Tag(argShutdown), c.file) {
			c.shut = 1
		}
		if c.shut == 2 && !c.receiving && c.sending == 0 {
			c.close()
		}
		return
	}
	if !c.receiving && !c.eof && c.first {
		c.receiving = rg.RecvInto(c.src.Tag(argRecv), c.file, c.into)
	} else if !c.receiving && !c.eof {
		c.receiving = rg.Recv(c.src.Tag(argRecv), c.file, c.e.group)
	}
	if c.sending == 0 && len(c.queue) > 0 {
		n := min(len(c.queue), 4)
		total := 0
		for i, b := range c.queue[:n] {
			c.msg.SetVec(i, b.ref.Addr, b.ref.Len)
			total += int(b.ref.Len)
		}
		if rg.Send(c.src.Tag(argSend), c.file, c.msg, n) {
			c.sending = total
		}
	}
}

func (c *echoConn) close() {
	for len(c.queue) > 0 {
		c.pop()
	}
	c.e.r.Ring.Remove(c.file)
	if err := c.e.w.CloseFD(c.fd); err != nil {
		c.e.t.Fatal(err)
	}
	c.e.r.Unregister(c.src)
	c.e.r.Arena.Free(c.block)
	c.closed = true
	c.e.ended++
}

// client sends a random stream and checks what comes back.
type client struct {
	p        *simring.Peer
	sent     []byte
	off      int
	received []byte
	done     bool
}

func (c *client) step(rng *rand.Rand) (progress bool) {
	buf := make([]byte, 1+rng.IntN(900))
	switch {
	case c.done:
		return false
	case c.off < len(c.sent):
		n := c.p.Write(c.sent[c.off:min(len(c.sent), c.off+1+rng.IntN(700))])
		c.off += n
		progress = n > 0
	case !c.p.WriteClosed():
		c.p.CloseWrite()
		progress = true
	}
	n := c.p.Read(buf)
	c.received = append(c.received, buf[:n]...)
	if n == 0 && (c.p.EOF() || c.p.Err() != nil) {
		c.p.Close()
		c.done, progress = true, true
	}
	return progress || n > 0
}

// echoRun is one seeded run of an echo server and three clients.
func echoRun(t *testing.T, seed uint64, arena *mem.Arena, faults simring.Faults, lossless bool) (uint64, simring.Counts) {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := simring.New(simring.Config{Rand: rng, Faults: faults})
	rg := w.NewRing(arena)
	r := reactor.New(reactor.Config{Ring: rg, Clock: w.Clock(), Arena: arena})
	e := newEcho(t, w, r, 100*int(seed&1))
	var clients []*client
	for i := 0; i < 3; i++ {
		p, err := w.Dial(e.addr)
		if err != nil {
			t.Fatal(err)
		}
		c := &client{p: p, sent: make([]byte, 200+rng.IntN(6000))}
		for j := range c.sent {
			c.sent[j] = byte(rng.Uint32())
		}
		clients = append(clients, c)
	}
	finished := func() bool {
		for _, c := range clients {
			if !c.done {
				return false
			}
		}
		return e.ended == len(clients)
	}
	thread := simring.NewThread(rg, func() {
		until := clock.Time(0)
		if rng.IntN(2) == 0 {
			until = r.Now().Add(50 * time.Millisecond)
		}
		r.Turn(until)
	})
	idle := 0
	for step := 0; !finished(); step++ {
		if step > 200000 {
			t.Fatalf("seed %d: no end after %d steps", seed, step)
		}
		moved := false
		switch rng.IntN(3) {
		case 0:
			if thread.Runnable() {
				thread.Run()
				w.Clock().Advance(time.Microsecond) // a turn takes time, or one that always has work would stop the world
				_, asleep := rg.Asleep()
				moved = !asleep
			}
		case 1:
			moved = clients[rng.IntN(len(clients))].step(rng)
		case 2:
			moved = w.Step()
		}
		if moved {
			idle = 0
		} else if idle++; idle > 20 {
			next := w.Next()
			if until, asleep := rg.Asleep(); asleep {
				next = min(next, until)
			}
			if next != clock.Never {
				w.Clock().T = max(next, w.Clock().T)
			} else if !thread.Runnable() {
				t.Fatalf("seed %d: nothing will ever happen again", seed)
			}
			idle = 0
		}
	}
	for i, c := range clients {
		if lossless && !bytes.Equal(c.received, c.sent) || !bytes.HasPrefix(c.sent, c.received) {
			t.Fatalf("seed %d: client %d sent %d bytes, got %d that differ", seed, i, len(c.sent), len(c.received))
		}
	}
	if n := rg.BuffersOut(); n != 0 {
		t.Fatalf("seed %d: %d provided buffers not home", seed, n)
	}
	hash := w.TraceHash()
	thread.Stop()
	w.Kill()
	if err := rg.Close(); err != nil || w.OpenFDs() != 0 || !arena.AllHome() {
		t.Fatalf("seed %d: close %v, %d descriptors, arena holds %d", seed, err, w.OpenFDs(), arena.InUse())
	}
	return hash, w.Counts
}

// echoSeeds is less where the race detector makes everything slow and finds
// nothing: there is one goroutine.
func echoSeeds() uint64 {
	if invariants.Enabled {
		return 100
	}
	return 400
}

func TestEchoKeepsStreamsWhole(t *testing.T) {
	arena := newArena(t)
	for seed := uint64(0); seed < echoSeeds(); seed++ {
		echoRun(t, seed, arena, simring.AllFaults().Lossless(), true)
	}
}

func TestEchoUnderLossDeliversPrefixes(t *testing.T) {
	arena := newArena(t)
	f := simring.AllFaults()
	f.Reset, f.HalfClose = 0.01, 0.01
	for seed := uint64(0); seed < echoSeeds(); seed++ {
		echoRun(t, seed, arena, f, false)
	}
}

func TestEchoRunRepeats(t *testing.T) {
	arena := newArena(t)
	var last uint64
	for seed := uint64(0); seed < 20; seed++ {
		a, _ := echoRun(t, seed, arena, simring.AllFaults(), false)
		b, _ := echoRun(t, seed, arena, simring.AllFaults(), false)
		if a != b {
			t.Fatalf("seed %d: traces %x and %x", seed, a, b)
		}
		if a == last {
			t.Fatalf("seeds %d and %d have one trace", seed-1, seed)
		}
		last = a
	}
}
