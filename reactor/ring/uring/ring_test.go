package uring

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"spindle/internal/sys"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// rig is a ring on the test's locked thread.
type rig struct {
	*Ring
	t     testing.TB
	arena *mem.Arena
	clock *clock.Monotonic
	out   [64]ring.CQE
	kept  []ring.CQE // reaped, not asked for yet
}

func newRig(t testing.TB, c Config) *rig {
	t.Helper()
	runtime.LockOSThread()
	arena, err := mem.NewSpace().NewArena(16<<20, -1)
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, arena: arena, clock: clock.NewMonotonic()}
	c.Arena, c.Clock = arena, g.clock
	if g.Ring, err = New(c); errors.Is(err, sys.ErrUringRefused) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		runtime.UnlockOSThread()
	})
	return g
}

// both runs f with all the kernel has and with the floor only.
func both(t *testing.T, f func(t *testing.T, legacy bool)) {
	t.Run("newest", func(t *testing.T) { f(t, false) })
	t.Run("floor", func(t *testing.T) { f(t, true) })
}

// await returns the next completion of tag, keeping the others.
func (g *rig) await(tag ring.Tag) ring.CQE {
	g.t.Helper()
	deadline := g.clock.Now().Add(10 * time.Second)
	for {
		for i, c := range g.kept {
			if c.Tag == tag {
				g.kept = slices.Delete(g.kept, i, i+1)
				return c
			}
		}
		n, err := g.Enter(g.out[:], deadline)
		if err != nil {
			g.t.Fatal(err)
		}
		g.kept = append(g.kept, g.out[:n]...)
		if n == 0 && g.clock.Now() >= deadline {
			g.t.Fatalf("no completion of %#x", uint64(tag))
		}
	}
}

func (g *rig) must(ok bool) {
	g.t.Helper()
	if !ok {
		g.t.Fatal("the submission queue is full")
	}
}

func (g *rig) buf(n uint32) mem.Ref {
	g.t.Helper()
	r, ok := g.arena.Alloc(n)
	if !ok {
		g.t.Fatal("no arena memory")
	}
	return r
}

func (g *rig) install(fd int) ring.File {
	g.t.Helper()
	f, err := g.Install(fd)
	if err != nil {
		g.t.Fatal(err)
	}
	return f
}

// pair accepts one loopback connection: the ring's end and the peer's.
func (g *rig) pair() (ring.File, *net.TCPConn) {
	g.t.Helper()
	fd, addr, err := Kernel{}.Listen(netip.MustParseAddrPort("127.0.0.1:0"), ring.ListenOptions{})
	if err != nil {
		g.t.Fatal(err)
	}
	l := g.install(fd)
	const tag = 0x100
	g.must(g.Accept(tag, l))
	peer, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		g.t.Fatal(err)
	}
	c := g.await(tag)
	if c.Res < 0 || c.Flags&ring.FlagMore == 0 {
		g.t.Fatalf("accept: %+v", c)
	}
	g.must(g.Cancel(tag+1, tag))
	if c := g.await(tag + 1); c.Res != 0 {
		g.t.Fatalf("cancel: %+v", c)
	}
	if c := g.await(tag); syscall.Errno(-c.Res) != syscall.ECANCELED || c.Flags&ring.FlagMore != 0 {
		g.t.Fatalf("cancelled accept: %+v", c)
	}
	g.Remove(l)
	if err := sys.Close(fd); err != nil {
		g.t.Fatal(err)
	}
	f := g.install(int(c.Res))
	g.t.Cleanup(func() {
		peer.Close()
		_ = sys.Close(int(c.Res))
	})
	return f, peer
}

func TestMultishotRecvAndRecovery(t *testing.T) {
	both(t, func(t *testing.T, legacy bool) {
		g := newRig(t, Config{Legacy: legacy})
		f, peer := g.pair()
		const tag, count, size = 0x200, 4, 512
		grp, err := g.NewGroup(count, size)
		if err != nil {
			t.Fatal(err)
		}
		g.must(g.Recv(tag, f, grp))
		sent := make([]byte, 8*size)
		for i := range sent {
			sent[i] = byte(i / 7)
		}
		if _, err := peer.Write(sent); err != nil {
			t.Fatal(err)
		}
		var got []byte
		var used []uint16
		for starved := 0; len(got) < len(sent); {
			c := g.await(tag)
			if c.Res < 0 {
				if syscall.Errno(-c.Res) != syscall.ENOBUFS || c.Flags&ring.FlagMore != 0 {
					t.Fatalf("receive: %+v", c)
				}
				if len(used) != count {
					t.Fatalf("out of buffers with %d of %d in use", len(used), count)
				}
				if starved++; starved > 2 {
					t.Fatal("starved with buffers recycled")
				}
				for _, id := range used {
					g.Recycle(grp, id)
				}
				used = used[:0]
				g.must(g.Recv(tag, f, grp))
				continue
			}
			if c.Flags&ring.FlagBuffer == 0 || slices.Contains(used, c.BufferID()) {
				t.Fatalf("buffer of %+v, in use %v", c, used)
			}
			b := g.Buffer(grp, c.BufferID())
			if b.Len != size {
				t.Fatalf("buffer of %d bytes", b.Len)
			}
			got = append(got, b.Bytes()[:c.Res]...)
			used = append(used, c.BufferID())
		}
		if !bytes.Equal(got, sent) {
			t.Error("bytes differ")
		}
		for _, id := range used {
			g.Recycle(grp, id)
		}
		peer.Close()
		for {
			c := g.await(tag)
			if c.Flags&ring.FlagMore == 0 {
				if c.Res != 0 && syscall.Errno(-c.Res) != syscall.ENOBUFS {
					t.Errorf("end of stream: %+v", c)
				}
				break
			}
		}
	})
}

func TestGroupBuffersDoNotOverlap(t *testing.T) {
	for _, tc := range []struct {
		name  string
		count int
		size  uint32
		ok    bool
	}{
		{"one", 1, 100, true},
		{"in one block", 64, 16 << 10, true},
		{"in several blocks", 512, 16 << 10, true},
		{"odd size", 128, 33000, true},
		{"largest", 2, mem.MaxBlock, true},
		{"count not a power of two", 3, 4096, false},
		{"none", 0, 4096, false},
		{"no size", 4, 0, false},
		{"more than the arena", 8, mem.MaxBlock, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newRig(t, Config{})
			before := g.arena.InUse()
			grp, err := g.NewGroup(tc.count, tc.size)
			if (err == nil) != tc.ok {
				t.Fatalf("NewGroup: %v", err)
			}
			if err != nil {
				if g.arena.InUse() != before {
					t.Errorf("a refused group keeps %d bytes", g.arena.InUse()-before)
				}
				return
			}
			var at []uintptr
			for i := range tc.count {
				b := g.Buffer(grp, uint16(i))
				if b.Len != tc.size || !g.arena.Region().Contains(b) {
					t.Fatalf("buffer %d is %+v", i, b)
				}
				at = append(at, b.Addr)
			}
			slices.Sort(at)
			for i := 1; i < len(at); i++ {
				if at[i]-at[i-1] < uintptr(tc.size) {
					t.Fatalf("buffers at %#x and %#x overlap", at[i-1], at[i])
				}
			}
			if err := g.Close(); err != nil {
				t.Error(err)
			}
			if !g.arena.AllHome() {
				t.Errorf("%d bytes not home after Close", g.arena.InUse())
			}
		})
	}
}

func TestSendManyVectors(t *testing.T) {
	both(t, func(t *testing.T, legacy bool) {
		g := newRig(t, Config{Legacy: legacy})
		f, peer := g.pair()
		const vecs, size = 600, 3001
		m := ring.Msg{Ref: g.buf(ring.MsgHeader + vecs*ring.VecSize)}
		data := g.buf(vecs * size)
		for i := range data.Bytes() {
			data.Bytes()[i] = byte(i * 31 >> 3)
		}
		for i := range vecs {
			m.SetVec(i, data.Slice(uint32(vecs-1-i)*size, size).Addr, size)
		}
		g.must(g.Send(1, f, m, vecs))
		done := make(chan []byte)
		go func() {
			b := make([]byte, vecs*size)
			n, _ := io.ReadFull(peer, b)
			done <- b[:n]
		}()
		// More than the socket takes at once: the kernel waits and goes on (MSG_WAITALL).
		if c := g.await(1); c.Res != vecs*size {
			t.Fatalf("send: %+v", c)
		}
		got := <-done
		for i := range vecs {
			if !bytes.Equal(got[i*size:(i+1)*size], data.Slice(uint32(vecs-1-i)*size, size).Bytes()) {
				t.Fatalf("vector %d differs", i)
			}
		}
		peer.SetLinger(0)
		peer.Close()
		g.must(g.RecvInto(2, f, data.Slice(0, 16)))
		g.await(2) // the reset
		g.must(g.Send(3, f, m, 1))
		if c := g.await(3); syscall.Errno(-c.Res) != syscall.EPIPE { // and no SIGPIPE
			t.Errorf("send after reset: %+v", c)
		}
	})
}

func TestRecvIntoWaitsForAll(t *testing.T) {
	g := newRig(t, Config{})
	f, peer := g.pair()
	b := g.buf(8192)
	g.must(g.RecvInto(1, f, b))
	go func() {
		for _, n := range []int{1, 5000, 3191} {
			peer.Write(bytes.Repeat([]byte{byte(n)}, n))
		}
	}()
	if c := g.await(1); c.Res != 8192 {
		t.Fatalf("receive: %+v", c)
	}
	if p := b.Bytes(); p[0] != 1 || p[1] != 5000&0xff || p[8191] != 3191&0xff {
		t.Errorf("bytes %x %x %x", p[0], p[1], p[8191])
	}
	g.must(g.RecvInto(2, f, b))
	peer.Write(make([]byte, 100))
	peer.Close()
	if c := g.await(2); c.Res != 100 {
		t.Errorf("receive cut by the peer's end: %+v", c)
	}
}

func TestShutdownEndsReceive(t *testing.T) {
	g := newRig(t, Config{})
	f, peer := g.pair()
	grp, err := g.NewGroup(2, 4096)
	if err != nil {
		t.Fatal(err)
	}
	g.must(g.Recv(1, f, grp))
	g.must(g.Shutdown(2, f))
	if c := g.await(2); c.Res != 0 {
		t.Fatalf("shutdown: %+v", c)
	}
	if c := g.await(1); c.Res != 0 || c.Flags&ring.FlagMore != 0 {
		t.Errorf("receive after shutdown: %+v", c)
	}
	if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("peer reads %d, %v", n, err)
	}
}

func TestCancel(t *testing.T) {
	g := newRig(t, Config{})
	f, _ := g.pair()
	g.must(g.RecvInto(1, f, g.buf(64)))
	g.must(g.Cancel(2, 1))
	if c := g.await(2); c.Res != 0 {
		t.Errorf("cancel: %+v", c)
	}
	if c := g.await(1); syscall.Errno(-c.Res) != syscall.ECANCELED {
		t.Errorf("cancelled: %+v", c)
	}
	g.must(g.Cancel(3, 1))
	if c := g.await(3); syscall.Errno(-c.Res) != syscall.ENOENT {
		t.Errorf("cancel of nothing: %+v", c)
	}
}

func TestFilesAreReused(t *testing.T) {
	both(t, func(t *testing.T, legacy bool) {
		g := newRig(t, Config{Legacy: legacy, Files: 2})
		dir := t.TempDir()
		open := func(name, content string) int {
			p := filepath.Join(dir, name)
			if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			fd, _, err := Kernel{}.Open(p, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = sys.Close(fd) })
			return fd
		}
		a, b := open("a", "aaaa"), open("b", "bbbb")
		buf := g.buf(4096)
		read := func(f ring.File) string {
			g.must(g.Read(9, f, buf.Slice(0, 4), 0))
			c := g.await(9)
			if c.Res < 0 {
				return syscall.Errno(-c.Res).Error()
			}
			return string(buf.Bytes()[:c.Res])
		}
		fa, fb := g.install(a), g.install(b)
		if _, err := g.Install(a); !errors.Is(err, ErrFilesFull) {
			t.Errorf("a third file in a table of two: %v", err)
		}
		if read(fa) != "aaaa" || read(fb) != "bbbb" {
			t.Error("files are mixed up")
		}
		g.Remove(fa)
		if got := read(fa); got != syscall.EBADF.Error() {
			t.Errorf("a removed file reads %q", got)
		}
		if f := g.install(b); f != fa || read(f) != "bbbb" {
			t.Errorf("the place %d was not reused: %d", fa, f)
		}
		for range 100 {
			g.Remove(fb)
			fb = g.install(a)
		}
		if read(fb) != "aaaa" {
			t.Error("after reuse the wrong file is read")
		}
	})
}

func TestFileOperations(t *testing.T) {
	both(t, func(t *testing.T, legacy bool) {
		g := newRig(t, Config{Legacy: legacy})
		const size = 64 << 10
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, bytes.Repeat([]byte{7}, size), 0o600); err != nil {
			t.Fatal(err)
		}
		fd, info, err := Kernel{}.Open(path, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer sys.Close(fd)
		if info.Size != size || info.BlockDevice {
			t.Errorf("info %+v", info)
		}
		f := g.install(fd)
		outside, err := mem.NewSpace().Map(1, -1) // not registered: plain addresses
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := g.fixed(outside.Ref(0, 4096)); ok {
			t.Error("a foreign region is taken for a registered buffer")
		}
		for _, b := range []mem.Ref{g.buf(8192), outside.Ref(4096, 8192)} {
			for i := range b.Bytes() {
				b.Bytes()[i] = byte(i)
			}
			g.must(g.Write(1, f, b, 4096, 0))
			if c := g.await(1); c.Res != 8192 {
				t.Fatalf("write: %+v", c)
			}
			g.must(g.Write(1, f, b.Slice(0, 512), 0, ring.FUA))
			if c := g.await(1); c.Res != 512 {
				t.Fatalf("write with FUA: %+v", c)
			}
			g.must(g.Sync(2, f))
			if c := g.await(2); c.Res != 0 {
				t.Fatalf("sync: %+v", c)
			}
			clear(b.Bytes())
			g.must(g.Read(3, f, b, size-4096))
			if c := g.await(3); c.Res != 4096 || b.Bytes()[0] != 7 {
				t.Fatalf("short read at the end: %+v", c)
			}
			g.must(g.Read(3, f, b, 4096))
			if c := g.await(3); c.Res != 8192 || b.Bytes()[8191] != 8191&0xff {
				t.Fatalf("read: %+v", c)
			}
		}
		if !info.Discard {
			t.Skip("the file system does not punch holes")
		}
		b := g.buf(4096)
		g.must(g.Allocate(4, f, ring.PunchHole, 4096, 4096))
		if c := g.await(4); c.Res != 0 {
			t.Fatalf("punch: %+v", c)
		}
		g.must(g.Read(5, f, b, 4096))
		if c := g.await(5); c.Res != 4096 || !bytes.Equal(b.Bytes(), make([]byte, 4096)) {
			t.Fatalf("read of a hole: %+v", c)
		}
		if now, err := (Kernel{}).Stat(fd); err != nil || now.Size != size {
			t.Errorf("a punch changed the size: %+v, %v", now, err)
		}
	})
}

func TestPollFD(t *testing.T) {
	g := newRig(t, Config{})
	fd, err := sys.Eventfd()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	g.must(g.PollFD(1, fd))
	if n, err := g.Enter(g.out[:], 0); n != 0 || err != nil {
		t.Fatalf("an event counter at zero is readable: %d, %v", n, err)
	}
	if err := sys.Signal(fd); err != nil {
		t.Fatal(err)
	}
	if c := g.await(1); c.Res&sys.PollIn == 0 || c.Flags&ring.FlagMore != 0 {
		t.Errorf("poll: %+v", c)
	}
}

func TestSubmissionQueueFull(t *testing.T) {
	g := newRig(t, Config{Entries: 4})
	if _, err := g.Enter(g.out[:], 0); err != nil { // the wake read takes its place
		t.Fatal(err)
	}
	for range 4 {
		g.must(g.Cancel(1, 2))
	}
	if g.Cancel(1, 2) {
		t.Fatal("a fifth submission in a queue of four")
	}
	for range 4 {
		g.await(1)
	}
	if g.Inflight() != 0 {
		t.Errorf("%d in flight", g.Inflight())
	}
}

// Who was refused waits for the next turn: the ring must not sleep over it,
// even with nothing in flight that would complete.
func TestNoSleepAfterARefusal(t *testing.T) {
	g := newRig(t, Config{Entries: 4})
	f, peer := g.pair()
	for i := range 4 {
		g.must(g.RecvInto(ring.Tag(1+i), f, g.buf(64)))
	}
	if g.PollFD(9, g.event) {
		t.Fatal("a fifth submission in a queue of four")
	}
	start := g.clock.Now()
	if n, err := g.Enter(g.out[:], start.Add(5*time.Second)); n != 0 || err != nil {
		t.Fatalf("Enter = %d, %v", n, err)
	}
	if d := g.clock.Now().Sub(start); d > 4*time.Second {
		t.Errorf("slept %v over a refused operation", d)
	}
	peer.Close()
	for i := range 4 {
		g.await(ring.Tag(1 + i))
	}
}

// More completions than the queue holds: the kernel keeps the surplus.
func TestCompletionOverflow(t *testing.T) {
	g := newRig(t, Config{Entries: 8, Completions: 16})
	var sent int
	for range 20 {
		for g.Cancel(1, 2) {
			sent++
		}
		if _, err := g.Enter(nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if sent <= 16 {
		t.Fatalf("only %d submissions: nothing overflows", sent)
	}
	for range sent {
		g.await(1)
	}
	if g.Inflight() != 0 {
		t.Errorf("%d in flight", g.Inflight())
	}
}

func TestEnterSleepsUntil(t *testing.T) {
	g := newRig(t, Config{})
	if _, err := g.Enter(g.out[:], 0); err != nil {
		t.Fatal(err)
	}
	until := g.clock.Now().Add(20 * time.Millisecond)
	for g.clock.Now() < until { // a signal may end a sleep early
		if n, err := g.Enter(g.out[:], until); n != 0 || err != nil {
			t.Fatalf("Enter = %d, %v", n, err)
		}
	}
	if n := g.Syscalls(); n > 5 {
		t.Errorf("%d system calls for one sleep", n)
	}
	if n, err := g.Enter(g.out[:], 1); n != 0 || err != nil { // long past
		t.Fatalf("Enter = %d, %v", n, err)
	}
}

func TestWake(t *testing.T) {
	g := newRig(t, Config{})
	g.Wake() // before the first Enter: it must not sleep
	g.Wake()
	start := g.clock.Now()
	if n, err := g.Enter(g.out[:], start.Add(5*time.Second)); n != 0 || err != nil {
		t.Fatalf("Enter = %d, %v", n, err)
	}
	if d := g.clock.Now().Sub(start); d > 4*time.Second {
		t.Fatalf("slept %v though woken before", d)
	}
	if g.Inflight() != 0 {
		t.Errorf("the ring's own read is counted: %d", g.Inflight())
	}
	// Each wake follows the end of the sleep before it.
	const rounds = 2000
	ask := make(chan struct{})
	go func() {
		for range ask {
			g.Wake()
		}
	}()
	defer close(ask)
	for i := range rounds {
		ask <- struct{}{}
		start := g.clock.Now()
		if _, err := g.Enter(g.out[:], start.Add(5*time.Second)); err != nil {
			t.Fatal(err)
		}
		if d := g.clock.Now().Sub(start); d > 4*time.Second {
			t.Fatalf("wake %d was lost: slept %v", i, d)
		}
		for g.signalled.Load() { // a wake that came after a signal of the runtime ended the sleep
			if _, err := g.Enter(g.out[:], 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCloseEndsWhatIsInFlight(t *testing.T) {
	g := newRig(t, Config{})
	f, _ := g.pair()
	grp, err := g.NewGroup(2, 4096)
	if err != nil {
		t.Fatal(err)
	}
	g.must(g.Recv(1, f, grp))
	if _, err := g.Enter(g.out[:], 0); err != nil {
		t.Fatal(err)
	}
	g.must(g.RecvInto(2, f, g.buf(64))) // prepared, never submitted by Enter
	if g.Inflight() != 2 {
		t.Fatalf("%d in flight", g.Inflight())
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if g.inflight != 0 {
		t.Errorf("%d in flight after Close", g.inflight)
	}
	g.Wake() // a late one is harmless
}

func TestIdlePollMakesNoSystemCall(t *testing.T) {
	g := newRig(t, Config{})
	if _, err := g.Enter(g.out[:], 0); err != nil {
		t.Fatal(err)
	}
	before := g.Syscalls()
	for range 1000 {
		if n, err := g.Enter(g.out[:], 0); n != 0 || err != nil {
			t.Fatalf("Enter = %d, %v", n, err)
		}
	}
	if n := g.Syscalls() - before; n != 0 {
		t.Errorf("%d system calls by 1000 idle polls", n)
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	g := newRig(t, Config{})
	f, peer := g.pair()
	grp, err := g.NewGroup(8, 4096)
	if err != nil {
		t.Fatal(err)
	}
	m := ring.Msg{Ref: g.buf(4096)}
	data := g.buf(512)
	m.SetVec(0, data.Addr, 256)
	m.SetVec(1, data.Addr+256, 256)
	go io.Copy(peer, peer)
	g.must(g.Recv(1, f, grp))
	echo := func() {
		g.must(g.Send(2, f, m, 2))
		sent := false
		for got := int32(0); got < 512 || !sent; {
			n, err := g.Enter(g.out[:], clock.Never)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range g.out[:n] {
				switch {
				case c.Tag == 2 && c.Res == 512:
					sent = true
				case c.Tag == 1 && c.Res > 0 && c.Flags&ring.FlagMore != 0:
					got += c.Res
					g.Recycle(grp, c.BufferID())
				default:
					t.Fatalf("completion %+v", c)
				}
			}
		}
	}
	if n := testing.AllocsPerRun(500, echo); n != 0 {
		t.Errorf("%v allocations a round trip", n)
	}
}

func BenchmarkEnterIdle(b *testing.B) {
	g := newRig(b, Config{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Enter(g.out[:], 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnterSubmit(b *testing.B) {
	g := newRig(b, Config{})
	b.ReportAllocs()
	for b.Loop() {
		g.Cancel(1, 2)
		if n, err := g.Enter(g.out[:], 0); n > 1 || err != nil {
			b.Fatal(n, err)
		}
	}
}

func TestNewRefusesNonsense(t *testing.T) {
	arena, err := mem.NewSpace().NewArena(mem.MaxBlock, -1)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		c    Config
	}{
		{"files below zero", Config{Files: -1}},
		{"files beyond the bound", Config{Files: MaxFiles + 1}},
		{"submissions beyond the kernel's bound", Config{Entries: 1 << 20}},
		{"completions fewer than submissions", Config{Entries: 64, Completions: 8}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tc.c.Arena, tc.c.Clock = arena, clock.NewMonotonic()
			r, err := New(tc.c)
			if err == nil {
				r.Close()
				t.Error("accepted")
			}
		})
	}
	if !arena.AllHome() {
		t.Error("a refused ring keeps arena memory")
	}
}

func TestWorkerCPUs(t *testing.T) {
	all, err := sys.Affinity()
	if err != nil {
		t.Fatal(err)
	}
	g := newRig(t, Config{WorkerCPUs: sys.CPUs(all)[:1]})
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, _, err := Kernel{}.Open(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	g.must(g.Sync(1, g.install(fd))) // always done by a worker
	if c := g.await(1); c.Res != 0 {
		t.Errorf("sync: %+v", c)
	}
}
