package simring_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/reactor/clock"
	"spindle/reactor/ring"
	"spindle/reactor/ring/simring"
)

// TestSchedulerPicksTheOrder runs pending events by hand, against their times.
func TestSchedulerPicksTheOrder(t *testing.T) {
	x := newWire(t, simring.Config{}, ring.ListenOptions{})
	x.w.AddDisk("/d", simring.DiskOptions{Size: 4096})
	fd, _, _ := x.w.Open("/d", 0)
	disk, _ := x.rg.Install(fd)
	var trace []simring.Event
	x.w.Trace = func(e simring.Event) { trace = append(trace, e) }
	x.rg.RecvInto(2, x.file, x.buf.Slice(0, 2))
	x.rg.Read(3, disk, x.buf, 0)
	x.rg.Enter(nil, 0)
	x.peer.Write([]byte("hi"))
	if x.w.Pending() != 2 || x.w.Next() == clock.Never || x.w.Step() {
		t.Fatalf("%d events pending, next at %d; a step ran before its time", x.w.Pending(), x.w.Next())
	}
	for _, want := range []simring.Kind{simring.Deliver, simring.Storage} {
		for i := range x.w.Pending() {
			if e := x.w.Event(i); e.Kind == want {
				if got := x.w.Run(i); got != e || x.w.Clock().T < e.At {
					t.Fatalf("ran %v for %v at %d", got, e, x.w.Clock().T)
				}
				break
			}
		}
	}
	n, _ := x.rg.Enter(x.out[:], 0)
	x.want(x.out[:n], ring.CQE{Tag: 2, Res: 2}, ring.CQE{Tag: 3, Res: int32(x.buf.Len)})
	var text strings.Builder
	for _, e := range trace {
		text.WriteString(strings.Join(strings.Fields(e.String())[1:4], " ") + "\n")
	}
	want := "deliver to-target id=0\ncomplete recv-into id=0\nstorage read id=0\ncomplete read id=0\n"
	if text.String() != want {
		t.Fatalf("trace:\n%swant:\n%s", text.String(), want)
	}
	if x.w.Pending() != 0 || x.w.Next() != clock.Never || x.w.Steps() == 0 {
		t.Fatalf("%d events left", x.w.Pending())
	}
}

func TestAdvanceRunsInOrderOfTime(t *testing.T) {
	w := simring.New(simring.Config{Rand: rand.New(rand.NewPCG(7, 7)), NetLatency: time.Millisecond})
	_, addr, err := w.Listen(netip.MustParseAddrPort("[::1]:3260"), ring.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := w.Dial(addr); err != nil {
			t.Fatal(err)
		}
	}
	last, accepted := clock.Time(0), 0
	w.Trace = func(e simring.Event) {
		if e.Kind == simring.Accept {
			accepted++
		}
		if e.At < last {
			t.Errorf("event at %d after one at %d", e.At, last)
		}
		last = e.At
	}
	if n := w.Advance(time.Millisecond); n != 20 || accepted != 20 || w.Clock().T != clock.Time(time.Millisecond) {
		t.Fatalf("%d events ran, %d accepted, clock at %d", n, accepted, w.Clock().T)
	}
}

func TestKernel(t *testing.T) {
	w := simring.New(simring.Config{})
	d := w.AddDisk("/d", simring.DiskOptions{Size: 1 << 20, Align: 4096})
	w.AddDisk("/ro", simring.DiskOptions{Size: 512, ReadOnly: true, NoDirect: true})
	for _, c := range []struct {
		name string
		path string
		fl   ring.OpenFlags
		want error
	}{
		{"no such file", "/x", 0, syscall.ENOENT},
		{"read-only for writing", "/ro", 0, syscall.EROFS},
		{"no direct I/O", "/ro", ring.OpenReadOnly | ring.OpenDirect, syscall.EINVAL},
		{"read-only", "/ro", ring.OpenReadOnly, nil},
		{"direct", "/d", ring.OpenDirect, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := w.Open(c.path, c.fl); !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
		})
	}
	fd, info, _ := w.Open("/d", 0)
	if info != (ring.FileInfo{Size: 1 << 20, Align: 4096, Discard: true}) {
		t.Fatalf("info %+v", info)
	}
	d.Resize(2 << 20)
	d.SetUsage(5, 7)
	if info, err := w.Stat(fd); err != nil || info.Size != 2<<20 || d.Size() != 2<<20 || info.Used != 5 || info.Free != 7 {
		t.Fatalf("grown: %+v, %v", info, err)
	}
	if _, _, err := w.Addrs(fd); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("addresses of a file: %v", err)
	}
	w.CloseFD(fd)
	if again, _, _ := w.Open("/d", 0); again != fd {
		t.Fatalf("descriptor %d after closing %d: the lowest free one is given", again, fd)
	}
	x := newWire(t, simring.Config{}, ring.ListenOptions{})
	local, peer, err := x.w.Addrs(x.fd)
	if pl, pr := x.peer.Addrs(); err != nil || local != pr || peer != pl {
		t.Fatalf("addresses %v, %v, %v", local, peer, err)
	}
	if _, err := x.w.Stat(x.fd); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("stat of a socket: %v", err)
	}
	if _, err := x.rg.Install(99); !errors.Is(err, syscall.EBADF) {
		t.Fatalf("install of nothing: %v", err)
	}
}

func TestDescriptorOutlivesItsClose(t *testing.T) {
	x := newWire(t, simring.Config{}, ring.ListenOptions{})
	x.w.CloseFD(x.fd)
	x.w.Advance(time.Second)
	if x.peer.EOF() {
		t.Fatal("closed while the ring has it installed")
	}
	x.send(3, "still")
	x.want(x.enter(), ring.CQE{Tag: 3, Res: 5})
	x.rg.Remove(x.file)
	x.w.Advance(time.Second)
	b := make([]byte, 8)
	if n := x.peer.Read(b); n != 5 || !x.peer.EOF() || x.peer.Readable() != 0 {
		t.Fatalf("read %d bytes, EOF %v", n, x.peer.EOF())
	}
}

func TestListenerShutdownEndsAccept(t *testing.T) {
	x := newWire(t, simring.Config{}, ring.ListenOptions{})
	x.rg.Shutdown(4, x.lis)
	got := x.enter()
	x.want(got, ring.CQE{Tag: 1, Res: errno(syscall.EINVAL)}, ring.CQE{Tag: 4})
	if _, err := x.w.Dial(x.addr); err == nil {
		t.Fatal("dialled a shut listener")
	}
}

func TestEventFD(t *testing.T) {
	x := newWire(t, simring.Config{}, ring.ListenOptions{})
	fd := x.w.NewEvent()
	x.rg.PollFD(2, fd)
	x.want(x.enter())
	x.w.Signal(fd)
	x.want(x.enter(), ring.CQE{Tag: 2, Res: 1})
	x.rg.PollFD(2, fd)
	x.want(x.enter(), ring.CQE{Tag: 2, Res: 1})
	if !x.w.Drain(fd) || x.w.Drain(fd) {
		t.Fatal("one signal is drained once")
	}
	x.rg.PollFD(2, fd)
	x.want(x.enter())
}

func TestQueueAndOverflowLimits(t *testing.T) {
	x := newWire(t, simring.Config{Immediate: true, QueueSize: 4}, ring.ListenOptions{})
	prepared := 0
	for x.rg.Cancel(ring.Tag(10+prepared), 99) {
		prepared++
	}
	if prepared != 4 {
		t.Fatalf("queue of 4 took %d", prepared)
	}
	before := x.rg.Syscalls()
	for range 6 { // 28 completions for a queue of 16: the rest overflow, in order
		x.rg.Enter(nil, 0)
		for x.rg.Cancel(ring.Tag(10+prepared), 99) {
			prepared++
		}
	}
	want := ring.Tag(10)
	for range 20 {
		n, _ := x.rg.Enter(x.out[:5], 0)
		for _, c := range x.out[:n] {
			if c.Tag != want {
				t.Fatalf("completion of %d, want %d", c.Tag, want)
			}
			want++
		}
	}
	if int(want) != 10+prepared || x.rg.Inflight() != 1 || x.rg.Syscalls() == before {
		t.Fatalf("reaped up to %d of %d, %d in flight, %d entries", want, 10+prepared, x.rg.Inflight(), x.rg.Syscalls()-before)
	}
	idle := x.rg.Syscalls()
	for range 10 {
		x.rg.Enter(nil, 0)
	}
	if x.rg.Syscalls() != idle {
		t.Fatal("an idle poll entered the kernel")
	}
}

func TestDiskImages(t *testing.T) {
	g := newRig(t, newArena(t), simring.Config{}, simring.DiskOptions{Size: 1 << 20}, 0)
	defer g.close()
	g.disk.WriteAt([]byte("durable"), 4090)
	b := g.block(512)
	copy(b.Bytes(), "cached")
	g.rg.Write(1, g.file, b.Slice(0, 6), 4090, 0)
	g.wait(1)
	now, safe := make([]byte, 7), make([]byte, 7)
	g.disk.ReadAt(now, 4090)
	g.disk.DurableAt(safe, 4090)
	if string(now) != "cachede" || string(safe) != "durable" {
		t.Fatalf("disk reads %q, durable is %q", now, safe)
	}
	g.rg.Sync(2, g.file)
	g.wait(2)
	if g.disk.DurableAt(safe, 4090); string(safe) != "cachede" || g.disk.Unsynced() != 0 {
		t.Fatalf("after a sync %q is durable, %d writes are not", safe, g.disk.Unsynced())
	}
	g.rg.Allocate(3, g.file, ring.PunchHole, 4092, 2)
	g.wait(3)
	if g.disk.ReadAt(now, 4090); string(now) != "ca\x00\x00ede" {
		t.Fatalf("punched %q", now)
	}
}

// TestSyncCoversWhatCompletedBeforeIt: a write that completes between a Sync's
// submission and its completion stays un-synced.
func TestSyncCoversWhatCompletedBeforeIt(t *testing.T) {
	a := newArena(t)
	for seed := uint64(0); seed < 20; seed++ {
		g := newRig(t, a, simring.Config{Rand: rand.New(rand.NewPCG(seed, 5))}, simring.DiskOptions{Size: 1 << 20}, 0)
		b := g.block(512)
		g.rg.Write(1, g.file, b, 0, 0)
		g.wait(1)
		g.rg.Sync(2, g.file)
		g.rg.Write(3, g.file, b, 512, 0)
		g.wait(2)
		g.w.Advance(time.Second)
		if n := g.disk.Unsynced(); n != 1 {
			t.Fatalf("seed %d: %d writes un-synced, want the later one", seed, n)
		}
		g.close()
	}
}
