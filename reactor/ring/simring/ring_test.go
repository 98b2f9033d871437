package simring_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"spindle/internal/invariants"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/simring"
)

// wire is an accepted connection on a ring without a reactor.
type wire struct {
	t    testing.TB
	w    *simring.World
	rg   *simring.Ring
	a    *mem.Arena
	addr netip.AddrPort
	lis  ring.File
	peer *simring.Peer
	fd   int
	file ring.File
	msg  ring.Msg
	buf  mem.Ref
	mem  mem.Ref
	out  [64]ring.CQE
}

func newWire(t testing.TB, c simring.Config, opt ring.ListenOptions) *wire {
	return newWireIn(t, newArena(t), c, opt)
}

// newWireIn makes a wire with the shared arena a; close gives its memory back.
func newWireIn(t testing.TB, a *mem.Arena, c simring.Config, opt ring.ListenOptions) *wire {
	t.Helper()
	x := &wire{t: t, w: simring.New(c), a: a}
	x.rg = x.w.NewRing(x.a)
	fd, addr, err := x.w.Listen(netip.MustParseAddrPort("127.0.0.1:3260"), opt)
	if err != nil {
		t.Fatal(err)
	}
	x.addr = addr
	x.lis, _ = x.rg.Install(fd)
	if x.peer, err = x.w.Dial(addr); err != nil {
		t.Fatal(err)
	}
	x.rg.Accept(1, x.lis)
	got := x.enter()
	if len(got) != 1 || got[0].Tag != 1 || got[0].Flags != ring.FlagMore || got[0].Res < 3 {
		t.Fatalf("accept: %+v", got)
	}
	x.fd = int(got[0].Res)
	x.file, _ = x.rg.Install(x.fd)
	x.mem, _ = x.a.Alloc(4096)
	x.msg = ring.Msg{Ref: x.mem.Slice(0, 1024)}
	x.buf = x.mem.Slice(1024, 1024)
	return x
}

func (x *wire) close() {
	x.rg.Close()
	x.a.Free(x.mem)
}

// enter submits, lets a second pass and reaps.
func (x *wire) enter() []ring.CQE {
	x.t.Helper()
	x.rg.Enter(nil, 0)
	x.w.Advance(time.Second)
	n, err := x.rg.Enter(x.out[:], 0)
	if err != nil {
		x.t.Fatal(err)
	}
	return x.out[:n]
}

func (x *wire) send(tag ring.Tag, s string) {
	x.t.Helper()
	copy(x.buf.Bytes(), s)
	x.msg.SetVec(0, x.buf.Addr, uint32(len(s)))
	if !x.rg.Send(tag, x.file, x.msg, 1) {
		x.t.Fatal("send refused")
	}
}

func (x *wire) want(got []ring.CQE, want ...ring.CQE) {
	x.t.Helper()
	if len(got) != len(want) {
		x.t.Fatalf("completions %+v, want %+v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			x.t.Fatalf("completions %+v, want %+v", got, want)
		}
	}
}

func errno(e syscall.Errno) int32 { return -int32(e) }

func TestEndOfStream(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(x *wire)
		recv []int32 // results of one-shot receives of 8 bytes, "tail" sent before
		send int32
	}{
		{"close-write", func(x *wire) { x.peer.CloseWrite() }, []int32{4, 0, 0}, 2},
		{"close", func(x *wire) { x.peer.Close() }, []int32{4, 0, 0}, 2},
		{"reset", func(x *wire) { x.w.Advance(time.Second); x.peer.Reset() }, []int32{4, errno(syscall.ECONNRESET), 0}, errno(syscall.EPIPE)},
		{"shutdown", func(x *wire) {
			x.w.Advance(time.Second)
			x.rg.Shutdown(9, x.file)
			x.want(x.enter(), ring.CQE{Tag: 9})
		}, []int32{4, 0, 0}, errno(syscall.EPIPE)},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newWire(t, simring.Config{}, ring.ListenOptions{})
			x.peer.Write([]byte("tail"))
			c.end(x)
			for i, want := range c.recv {
				x.rg.RecvInto(2, x.file, x.buf.Slice(0, 8))
				got := x.enter()
				if len(got) != 1 || got[0].Res != want {
					t.Fatalf("receive %d: %+v, want %d", i, got, want)
				}
			}
			x.send(3, "ok")
			x.want(x.enter(), ring.CQE{Tag: 3, Res: c.send})
		})
	}
}

func TestCloseOfSocket(t *testing.T) {
	for _, c := range []struct {
		name   string
		unread bool
		reset  bool
	}{
		{"clean close is FIN after the data", false, false},
		{"close with unread bytes is RST", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newWire(t, simring.Config{}, ring.ListenOptions{})
			if c.unread {
				x.peer.Write([]byte("unread"))
				x.w.Advance(time.Second)
			}
			x.send(3, "bye")
			x.want(x.enter(), ring.CQE{Tag: 3, Res: 3})
			x.rg.Remove(x.file)
			x.w.CloseFD(x.fd)
			x.w.Advance(time.Second)
			b := make([]byte, 8)
			n := x.peer.Read(b)
			if string(b[:n]) != "bye" || x.peer.EOF() == c.reset || (x.peer.Err() != nil) != c.reset {
				t.Fatalf("read %q, EOF %v, error %v", b[:n], x.peer.EOF(), x.peer.Err())
			}
			if !errors.Is(x.w.CloseFD(x.fd), syscall.EBADF) {
				t.Fatal("descriptor closed twice")
			}
		})
	}
}

func TestSendReadsMemoryWhenItExecutes(t *testing.T) {
	x := newWire(t, simring.Config{}, ring.ListenOptions{})
	x.send(3, "early")
	x.rg.Enter(nil, 0)
	copy(x.buf.Bytes(), "later")
	x.enter()
	b := make([]byte, 8)
	x.w.Advance(time.Second)
	if n := x.peer.Read(b); string(b[:n]) != "later" {
		t.Fatalf("sent %q", b[:n])
	}
}

func TestBackPressure(t *testing.T) {
	x := newWire(t, simring.Config{SocketBuffer: 4}, ring.ListenOptions{SendBuffer: 4, RecvBuffer: 4})
	x.send(3, "0123456789")
	x.want(x.enter()) // the sender's and the receiver's buffer are full, two bytes wait
	copy(x.buf.Bytes()[8:], "XY")
	b := make([]byte, 16)
	got := string(b[:x.peer.Read(b[:3])])
	x.want(x.enter(), ring.CQE{Tag: 3, Res: 10})
	for range 3 {
		got += string(b[:x.peer.Read(b)])
		x.w.Advance(time.Second)
	}
	if got != "01234567XY" {
		t.Fatalf("received %q: bytes that wait are read when they are sent", got)
	}
	if n := x.peer.Write([]byte("abcdefghij")); n != 4 || x.peer.Writable() != 0 {
		t.Fatalf("took %d bytes into a buffer of 4", n)
	}
}

func TestSendInterruptedByResetReportsItsPart(t *testing.T) {
	x := newWire(t, simring.Config{SocketBuffer: 4}, ring.ListenOptions{SendBuffer: 4})
	x.send(3, "0123456789")
	x.want(x.enter())
	x.peer.Reset()
	x.want(x.enter(), ring.CQE{Tag: 3, Res: 8})
	x.send(3, "89")
	x.want(x.enter(), ring.CQE{Tag: 3, Res: errno(syscall.ECONNRESET)})
	x.send(3, "89")
	x.want(x.enter(), ring.CQE{Tag: 3, Res: errno(syscall.EPIPE)})
}

func TestMultishotReceive(t *testing.T) {
	x := newWire(t, simring.Config{}, ring.ListenOptions{})
	g, err := x.rg.NewGroup(2, 4)
	if err != nil {
		t.Fatal(err)
	}
	x.rg.Recv(2, x.file, g)
	x.peer.Write([]byte("abcdefghij"))
	got := x.enter()
	more := ring.FlagBuffer | ring.FlagMore
	x.want(got,
		ring.CQE{Tag: 2, Res: 4, Flags: more}, ring.CQE{Tag: 2, Res: 4, Flags: more | 1<<16},
		ring.CQE{Tag: 2, Res: errno(syscall.ENOBUFS)})
	if s := string(x.rg.Buffer(g, 0).Bytes()) + string(x.rg.Buffer(g, 1).Bytes()); s != "abcdefgh" {
		t.Fatalf("received %q", s)
	}
	x.rg.Recycle(g, 1)
	x.peer.Write([]byte("-")) // goes into the buffer once the next Enter has published it
	x.w.Advance(time.Second)
	x.rg.Recv(2, x.file, g)
	x.want(x.enter(), ring.CQE{Tag: 2, Res: 3, Flags: more | 1<<16})
	x.peer.CloseWrite()
	x.want(x.enter(), ring.CQE{Tag: 2})
	if x.rg.BuffersOut() != 2 {
		t.Fatalf("%d buffers out", x.rg.BuffersOut())
	}
}

func mustPanic(t *testing.T, name string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s did not panic", name)
		}
	}()
	f()
}

func TestAccounting(t *testing.T) {
	x := newWire(t, simring.Config{}, ring.ListenOptions{})
	g, _ := x.rg.NewGroup(2, 64)
	mustPanic(t, "recycle of a buffer in the kernel", func() { x.rg.Recycle(g, 0) })
	mustPanic(t, "look at a buffer in the kernel", func() { x.rg.Buffer(g, 0) })
	x.rg.Recv(2, x.file, g)
	mustPanic(t, "remove with an operation prepared", func() { x.rg.Remove(x.file) })
	x.peer.Write([]byte("x"))
	x.enter()
	b := x.rg.Buffer(g, 0).Bytes()
	x.rg.Recycle(g, 0)
	if invariants.Enabled && b[0] != 0xCC {
		t.Error("a recycled buffer was not mangled")
	}
	mustPanic(t, "second recycle", func() { x.rg.Recycle(g, 0) })
	mustPanic(t, "remove with an operation armed", func() { x.rg.Remove(x.file) })
	x.rg.Cancel(3, 2)
	x.rg.Enter(nil, 0)
	mustPanic(t, "remove with a completion not reaped", func() { x.rg.Remove(x.file) })
	x.enter()
	x.rg.Remove(x.file)
	mustPanic(t, "operation on a removed file", func() { x.rg.Recv(2, x.file, g) })
	before := x.a.InUse()
	if x.rg.Close(); x.a.InUse() >= before {
		t.Error("close kept the provided buffers")
	}
	for _, bad := range []struct{ count, size int }{{3, 64}, {0, 64}, {2, 0}, {2, 8 << 20}} {
		if _, err := x.w.NewRing(x.a).NewGroup(bad.count, uint32(bad.size)); err == nil {
			t.Errorf("group of %d buffers of %d bytes was made", bad.count, bad.size)
		}
	}
}

// TestCancel races cancels with every kind of victim over many seeds and checks
// that both operations end, with results that agree.
func TestCancel(t *testing.T) {
	seen := map[[2]int32]int{}
	a := newArena(t)
	for seed := uint64(0); seed < 300; seed++ {
		x := newWireIn(t, a, simring.Config{Rand: rand.New(rand.NewPCG(seed, 3))}, ring.ListenOptions{})
		x.w.AddDisk("/d", simring.DiskOptions{Size: 4096})
		fd, _, _ := x.w.Open("/d", 0)
		disk, _ := x.rg.Install(fd)
		x.w.Faults.CancelRace = 0.5
		switch seed % 4 {
		case 0:
			x.rg.RecvInto(2, x.file, x.buf.Slice(0, 4))
			x.peer.Write([]byte("abcd")[:1+seed/4%4])
		case 1:
			x.send(2, "abcd")
		case 2:
			x.rg.Write(2, disk, x.buf, 0, 0)
		case 3:
			x.rg.PollFD(2, x.w.NewEvent())
		}
		if seed%3 == 0 {
			x.rg.Enter(nil, 0)
			x.w.Advance(30 * time.Microsecond)
		}
		x.rg.Cancel(3, 2)
		res := map[ring.Tag]int32{}
		for _, c := range x.enter() {
			res[c.Tag] = c.Res
		}
		cancel, ok := res[3]
		victim, ended := res[2]
		if !ok || cancel != errno(syscall.ENOENT) && !ended {
			t.Fatalf("seed %d: results %v", seed, res)
		}
		if cancel == 0 != (victim == errno(syscall.ECANCELED) || seed%4 == 0 && cancel == 0 && victim > 0) {
			t.Fatalf("seed %d: cancel %d, victim %d", seed, cancel, victim)
		}
		seen[[2]int32{cancel, min(victim, 1)}]++
		x.close()
	}
	for _, want := range [][2]int32{
		{0, errno(syscall.ECANCELED)}, {0, 1}, {errno(syscall.EALREADY), 1}, {errno(syscall.ENOENT), 1},
	} {
		if seen[want] == 0 {
			t.Errorf("never saw cancel %d with victim %d: %v", want[0], want[1], seen)
		}
	}
}

func TestCancelledSendLetsTheNextGo(t *testing.T) {
	x := newWire(t, simring.Config{}, ring.ListenOptions{})
	x.send(2, "lost")
	x.send(3, "sent")
	x.rg.Cancel(4, 2)
	got := map[ring.Tag]int32{}
	for _, c := range x.enter() {
		got[c.Tag] = c.Res
	}
	if len(got) != 3 || got[2] != errno(syscall.ECANCELED) || got[3] != 4 || got[4] != 0 {
		t.Fatalf("completions %v", got)
	}
}

func TestSleepAndWake(t *testing.T) {
	for _, c := range []struct {
		name string
		wake func(x *wire)
		want bool
	}{
		{"nothing", func(*wire) {}, false},
		{"early", func(x *wire) { x.w.AdvanceTo(999 * clock.Time(time.Millisecond)) }, false},
		{"deadline", func(x *wire) { x.w.AdvanceTo(clock.Time(time.Second)) }, true},
		{"wake", func(x *wire) { x.rg.Wake() }, true},
		{"bytes in flight", func(x *wire) { x.peer.Write([]byte("x")) }, false},
		{"completion", func(x *wire) { x.peer.Write([]byte("x")); x.w.Advance(time.Millisecond) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newWire(t, simring.Config{Clock: new(clock.Manual)}, ring.ListenOptions{})
			x.w.Clock().T = 0
			x.rg.RecvInto(2, x.file, x.buf.Slice(0, 1))
			if n, _ := x.rg.Enter(x.out[:], clock.Time(time.Second)); n != 0 {
				t.Fatalf("%d completions", n)
			}
			if until, asleep := x.rg.Asleep(); !asleep || until != clock.Time(time.Second) {
				t.Fatalf("asleep %v until %v", asleep, until)
			}
			if c.wake(x); x.rg.Runnable() != c.want {
				t.Fatalf("runnable %v", !c.want)
			}
		})
	}
	t.Run("wake before sleep", func(t *testing.T) {
		x := newWire(t, simring.Config{}, ring.ListenOptions{})
		x.rg.Wake()
		x.rg.Enter(nil, clock.Never)
		if _, asleep := x.rg.Asleep(); asleep {
			t.Fatal("slept over a wake")
		}
		x.rg.Enter(nil, clock.Never)
		if _, asleep := x.rg.Asleep(); !asleep {
			t.Fatal("one wake ended two sleeps")
		}
	})
	t.Run("wake of a sleep", func(t *testing.T) {
		x := newWire(t, simring.Config{Immediate: true}, ring.ListenOptions{})
		x.rg.Enter(nil, clock.Never)
		x.rg.Wake()
		x.rg.Enter(nil, clock.Never)
		if _, asleep := x.rg.Asleep(); !asleep {
			t.Fatal("the wake that ended one sleep ended the next too")
		}
	})
}

func TestDial(t *testing.T) {
	w := simring.New(simring.Config{})
	any4 := netip.MustParseAddrPort("0.0.0.0:3260")
	fd, _, err := w.Listen(any4, ring.ListenOptions{Backlog: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Listen(netip.MustParseAddrPort("127.0.0.1:3260"), ring.ListenOptions{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("second listen: %v", err)
	}
	to := netip.MustParseAddrPort("10.0.0.1:3260")
	p, err := w.DialFrom(netip.MustParseAddr("10.0.0.7"), to)
	if err != nil {
		t.Fatal(err)
	}
	if l, r := p.Addrs(); l.Addr().String() != "10.0.0.7" || r != to {
		t.Fatalf("addresses %v, %v", l, r)
	}
	w.Dial(to)
	if _, err := w.Dial(to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("dial over the backlog: %v", err)
	}
	w.CloseFD(fd)
	if !errors.Is(p.Err(), syscall.ECONNRESET) {
		t.Fatalf("unaccepted connection after close: %v", p.Err())
	}
	if _, err := w.Dial(to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("dial of nobody: %v", err)
	}
}

func TestVanishedPeer(t *testing.T) {
	x := newWire(t, simring.Config{}, ring.ListenOptions{UserTimeoutMS: 5000})
	x.rg.RecvInto(2, x.file, x.buf.Slice(0, 1))
	x.peer.Vanish()
	if x.peer.Write([]byte("x")) != 0 {
		t.Fatal("wrote from beyond")
	}
	x.send(3, "hello?")
	x.want(x.enter(), ring.CQE{Tag: 3, Res: 6})
	x.w.Advance(5 * time.Second)
	x.want(x.enter(), ring.CQE{Tag: 2, Res: errno(syscall.ETIMEDOUT)})
}

func TestRingsAfterKill(t *testing.T) {
	w := simring.New(simring.Config{})
	a, b := w.NewRing(newArena(t)), w.NewRing(newArena(t))
	if a.ID() != 0 || b.ID() != 1 {
		t.Fatalf("rings %d and %d", a.ID(), b.ID())
	}
	w.Kill()
	mustPanic(t, "operation after kill", func() { a.Cancel(1, 2) })
	if c := w.NewRing(newArena(t)); c.ID() != 2 {
		t.Fatalf("ring after restart has number %d", c.ID())
	}
}

// TestImmediateAllocatesNothing holds the fast mode to its word over both
// paths, 10,000 requests each after warm-up.
func TestImmediateAllocatesNothing(t *testing.T) {
	x := newWire(t, simring.Config{Immediate: true}, ring.ListenOptions{})
	x.w.AddDisk("/d", simring.DiskOptions{Size: 1 << 20})
	fd, _, _ := x.w.Open("/d", 0)
	disk, _ := x.rg.Install(fd)
	g, _ := x.rg.NewGroup(8, 4096)
	x.rg.Recv(2, x.file, g)
	block, _ := x.a.Alloc(4096)
	request, reply := make([]byte, 48), make([]byte, 8192)
	i := 0
	round := func() {
		i++
		x.peer.Write(request)
		n, _ := x.rg.Enter(x.out[:], 0)
		if n != 1 || x.out[0].Res != 48 {
			t.Fatalf("request: %+v", x.out[:n])
		}
		off := int64(i%256) * 4096
		x.rg.Write(3, disk, block, off, 0)
		x.rg.Read(4, disk, block, off)
		if n, _ := x.rg.Enter(x.out[1:], 0); n != 2 || x.out[2].Res != 4096 {
			t.Fatalf("disk: %+v", x.out[1:1+n])
		}
		x.rg.Recycle(g, x.out[0].BufferID())
		x.msg.SetVec(0, block.Addr, 4096)
		x.rg.Send(5, x.file, x.msg, 1)
		if n, _ := x.rg.Enter(x.out[:], 0); n != 1 || x.out[0].Res != 4096 {
			t.Fatalf("send: %+v", x.out[:n])
		}
		if n := x.peer.Read(reply); n != 4096 {
			t.Fatalf("reply of %d bytes", n)
		}
	}
	for range 600 {
		round()
	}
	if n := testing.AllocsPerRun(10000, round); n != 0 {
		t.Fatalf("%v allocations a round", n)
	}
}
