package simring_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/simring"
)

// rig is a ring on a disk, without a reactor.
type rig struct {
	t    testing.TB
	w    *simring.World
	rg   *simring.Ring
	disk *simring.Disk
	a    *mem.Arena
	file ring.File
	held []mem.Ref
}

// newRig makes a rig with the shared arena a; close gives its memory back.
func newRig(t testing.TB, a *mem.Arena, c simring.Config, opt simring.DiskOptions, fl ring.OpenFlags) *rig {
	g := &rig{t: t, w: simring.New(c), a: a}
	g.rg = g.w.NewRing(g.a)
	g.disk = g.w.AddDisk("/disk", opt)
	fd, info, err := g.w.Open("/disk", fl)
	if err != nil || info.Size != opt.Size {
		t.Fatalf("open: %v, %+v", err, info)
	}
	g.file, _ = g.rg.Install(fd)
	return g
}

func (g *rig) block(n uint32) mem.Ref {
	b, ok := g.a.Alloc(n)
	if !ok {
		g.t.Fatal("arena exhausted")
	}
	g.held = append(g.held, b)
	clear(b.Bytes())
	return b
}

func (g *rig) close() {
	g.rg.Close()
	for _, b := range g.held {
		g.a.Free(b)
	}
	if !g.a.AllHome() {
		g.t.Fatalf("arena holds %d bytes at the end", g.a.InUse())
	}
}

// wait enters until tag's last completion came and returns its result.
func (g *rig) wait(tag ring.Tag) int32 {
	g.t.Helper()
	var out [16]ring.CQE
	for range 10000 {
		n, err := g.rg.Enter(out[:], 0)
		if err != nil {
			g.t.Fatal(err)
		}
		for _, c := range out[:n] {
			if c.Tag == tag && c.Flags&ring.FlagMore == 0 {
				return c.Res
			}
		}
		g.w.Advance(100 * time.Microsecond)
	}
	g.t.Fatalf("tag %d did not complete", tag)
	return 0
}

func TestDiskErrnos(t *testing.T) {
	opt := simring.DiskOptions{Size: 1 << 20, BlockDevice: true, NoDiscard: true}
	file := simring.DiskOptions{Size: 1 << 20, MaxSize: 1<<20 + 4096}
	for _, c := range []struct {
		name string
		opt  simring.DiskOptions
		open ring.OpenFlags
		prep func(g *rig, b mem.Ref) bool
		want int32
	}{
		{"read", opt, 0, func(g *rig, b mem.Ref) bool { return g.rg.Read(1, g.file, b, 4096) }, 4096},
		{"read at the end", file, 0, func(g *rig, b mem.Ref) bool { return g.rg.Read(1, g.file, b, 1<<20) }, 0},
		{"read across the end", file, 0, func(g *rig, b mem.Ref) bool { return g.rg.Read(1, g.file, b, 1<<20-100) }, 100},
		{"write past a device", opt, 0, func(g *rig, b mem.Ref) bool { return g.rg.Write(1, g.file, b, 1<<20, 0) }, -int32(syscall.ENOSPC)},
		{"write across its end", opt, 0, func(g *rig, b mem.Ref) bool { return g.rg.Write(1, g.file, b, 1<<20-512, 0) }, 512},
		{"write grows a file", file, 0, func(g *rig, b mem.Ref) bool { return g.rg.Write(1, g.file, b, 1<<20, 0) }, 4096},
		{"write past the limit", file, 0, func(g *rig, b mem.Ref) bool { return g.rg.Write(1, g.file, b, 2<<20, 0) }, -int32(syscall.ENOSPC)},
		{"write read-only", opt, ring.OpenReadOnly, func(g *rig, b mem.Ref) bool { return g.rg.Write(1, g.file, b, 0, 0) }, -int32(syscall.EBADF)},
		{"direct offset", opt, ring.OpenDirect, func(g *rig, b mem.Ref) bool { return g.rg.Read(1, g.file, b, 100) }, -int32(syscall.EINVAL)},
		{"direct length", opt, ring.OpenDirect, func(g *rig, b mem.Ref) bool { return g.rg.Read(1, g.file, b.Slice(0, 100), 0) }, -int32(syscall.EINVAL)},
		{"direct memory", opt, ring.OpenDirect, func(g *rig, b mem.Ref) bool { return g.rg.Write(1, g.file, b.Slice(8, 512), 0, 0) }, -int32(syscall.EINVAL)},
		{"punch refused", opt, 0, func(g *rig, _ mem.Ref) bool { return g.rg.Allocate(1, g.file, ring.PunchHole, 0, 4096) }, -int32(syscall.EOPNOTSUPP)},
		{"zero range", opt, 0, func(g *rig, _ mem.Ref) bool { return g.rg.Allocate(1, g.file, ring.ZeroRange, 0, 4096) }, 0},
		{"accept on a disk", opt, 0, func(g *rig, _ mem.Ref) bool { return g.rg.Accept(1, g.file) }, -int32(syscall.EINVAL)},
		{"receive on a disk", opt, 0, func(g *rig, b mem.Ref) bool { return g.rg.RecvInto(1, g.file, b) }, -int32(syscall.ENOTSOCK)},
		{"poll of no event", opt, 0, func(g *rig, _ mem.Ref) bool { return g.rg.PollFD(1, 77) }, -int32(syscall.EBADF)},
		{"cancel of nothing", opt, 0, func(g *rig, _ mem.Ref) bool { return g.rg.Cancel(1, 99) }, -int32(syscall.ENOENT)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, newArena(t), simring.Config{}, c.opt, c.open)
			defer g.close()
			if !c.prep(g, g.block(4096)) {
				t.Fatal("prep refused")
			}
			if got := g.wait(1); got != c.want {
				t.Fatalf("result %d, want %d", got, c.want)
			}
			if g.rg.Inflight() != 0 {
				t.Fatalf("%d in flight", g.rg.Inflight())
			}
		})
	}
}

func TestWriteReadsMemoryWhenItExecutes(t *testing.T) {
	g := newRig(t, newArena(t), simring.Config{}, simring.DiskOptions{Size: 1 << 20}, 0)
	defer g.close()
	b := g.block(4096)
	copy(b.Bytes(), "early")
	g.rg.Write(1, g.file, b, 0, 0)
	if n, _ := g.rg.Enter(nil, 0); n != 0 {
		t.Fatal("completed without an event")
	}
	copy(b.Bytes(), "later")
	g.wait(1)
	got := make([]byte, 5)
	if g.disk.ReadAt(got, 0); string(got) != "later" {
		t.Fatalf("disk has %q", got)
	}
}

func TestSyncErrorForgetsWrites(t *testing.T) {
	lost := false
	a := newArena(t)
	for seed := uint64(0); seed < 20; seed++ {
		g := newRig(t, a, simring.Config{Rand: rand.New(rand.NewPCG(seed, 0))}, simring.DiskOptions{Size: 1 << 20}, 0)
		b := g.block(512)
		copy(b.Bytes(), "data")
		g.rg.Write(1, g.file, b, 0, 0)
		g.wait(1)
		g.disk.FailSync()
		g.rg.Sync(2, g.file)
		if res := g.wait(2); res != -int32(syscall.EIO) {
			t.Fatalf("sync: %d", res)
		}
		g.rg.Sync(3, g.file)
		if res := g.wait(3); res != 0 {
			t.Fatalf("second sync: %d", res)
		}
		g.disk.Crash(rand.New(rand.NewPCG(seed, 1)))
		got := make([]byte, 4)
		g.disk.ReadAt(got, 0)
		lost = lost || string(got) != "data"
		g.close()
	}
	if !lost {
		t.Fatal("a failed sync never lost a write")
	}
}

func TestFailedSyncSparesFUA(t *testing.T) {
	a := newArena(t)
	for seed := uint64(0); seed < 20; seed++ {
		g := newRig(t, a, simring.Config{Rand: rand.New(rand.NewPCG(seed, 0))}, simring.DiskOptions{Size: 1 << 20}, 0)
		old, fua := g.block(512), g.block(512)
		copy(old.Bytes(), "old")
		copy(fua.Bytes(), "fua")
		g.rg.Write(1, g.file, old, 0, 0)
		g.wait(1)
		g.rg.Write(2, g.file, fua, 0, ring.FUA)
		g.wait(2)
		g.disk.FailSync()
		g.rg.Sync(3, g.file)
		g.wait(3)
		g.disk.Crash(rand.New(rand.NewPCG(seed, 1)))
		got := make([]byte, 3)
		if g.disk.ReadAt(got, 0); string(got) != "fua" {
			t.Fatalf("seed %d: disk has %q", seed, got)
		}
		g.close()
	}
}

func TestFailedWriteLeavesAnything(t *testing.T) {
	a := newArena(t)
	written := 0
	for seed := uint64(0); seed < 20; seed++ {
		f := simring.Faults{WriteError: 1}
		g := newRig(t, a, simring.Config{Rand: rand.New(rand.NewPCG(seed, 0)), Faults: f}, simring.DiskOptions{Size: 1 << 20}, 0)
		b := g.block(1024)
		stamp(b.Bytes(), 1)
		g.rg.Write(1, g.file, b, 0, 0)
		if res := g.wait(1); res != -int32(syscall.EIO) {
			t.Fatalf("result %d", res)
		}
		got := make([]byte, 1024)
		g.disk.ReadAt(got, 0)
		for i := 0; i < len(got); i += 512 {
			if !bytes.Equal(got[i:i+512], make([]byte, 512)) {
				written++
			}
		}
		g.close()
	}
	if written == 0 || written == 40 {
		t.Fatalf("%d of 40 sectors of failed writes were written", written)
	}
}

// crashModel knows, for every sector, the versions that may be there.
type crashModel struct {
	versions [][]uint64 // by sector, oldest first: [0] is durable, the last is current
}

const (
	crashSectors = 64
	crashOps     = 60
)

// stamp fills sectors of b with version v.
func stamp(b []byte, v uint64) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], v)
	}
}

// TestCrashKeepsWhatItMust writes, syncs and crashes at random and checks every
// sector after the crash. Writes are serial here, so that what may survive is
// known; overlap in time is the business of checkers above.
func TestCrashKeepsWhatItMust(t *testing.T) {
	var lost, kept, torn int
	a := newArena(t)
	for seed := uint64(0); seed < 200; seed++ {
		rng := rand.New(rand.NewPCG(seed, 0))
		f := simring.Faults{TornWrite: 0.5, ShortWrite: 0.1, DiskDelay: 0.1, WriteError: 0.02}
		g := newRig(t, a, simring.Config{Rand: rng, Faults: f}, simring.DiskOptions{Size: crashSectors * 512, BlockDevice: true}, 0)
		m := crashModel{versions: make([][]uint64, crashSectors)}
		for i := range m.versions {
			m.versions[i] = []uint64{0}
		}
		b := g.block(8 * 512)
		for v := uint64(1); v <= crashOps; v++ {
			m.op(g, rng, b, v)
		}
		m.inFlight(g, rng, b)
		g.w.PowerFail()
		k, l, tr := m.check(t, seed, g.disk)
		kept, lost, torn = kept+k, lost+l, torn+tr
		g.close()
	}
	if lost == 0 || kept == 0 || torn == 0 {
		t.Fatalf("crashes kept %d, lost %d un-synced sectors, %d torn: the model does nothing", kept, lost, torn)
	}
}

func (m *crashModel) op(g *rig, rng *rand.Rand, b mem.Ref, v uint64) {
	at := rng.IntN(crashSectors - 8)
	n := 1 + rng.IntN(8)
	tag := ring.Tag(v)
	switch k := rng.IntN(10); {
	case k == 0:
		g.rg.Sync(tag, g.file)
		if g.wait(tag) != 0 {
			g.t.Fatal("sync failed")
		}
		for i, s := range m.versions {
			m.versions[i] = s[len(s)-1:]
		}
	case k == 1:
		g.rg.Allocate(tag, g.file, ring.PunchHole, int64(at)*512, int64(n)*512)
		if g.wait(tag) == 0 {
			m.wrote(at, n, 0)
		}
	default:
		stamp(b.Bytes(), v)
		fl := ring.WriteFlags(0)
		if k == 2 {
			fl = ring.FUA
		}
		g.rg.Write(tag, g.file, b.Slice(0, uint32(n)*512), int64(at)*512, fl)
		res := g.wait(tag)
		if res < 0 { // any of it may be written
			for i := at; i < at+n; i++ {
				old := m.versions[i]
				m.versions[i] = append(append(old[:len(old):len(old)], v), old[len(old)-1])
			}
			m.pin(g, at, n)
			return
		}
		m.wrote(at, int(res)/512, v)
		if fl == ring.FUA {
			for i := at; i < at+int(res)/512; i++ {
				m.versions[i] = []uint64{v}
			}
		}
	}
}

// pin makes the current version of sectors what the disk reads after an error.
func (m *crashModel) pin(g *rig, at, n int) {
	var b [512]byte
	for i := at; i < at+n; i++ {
		g.disk.ReadAt(b[:], int64(i)*512)
		m.versions[i] = append(m.versions[i], binary.LittleEndian.Uint64(b[:]))
	}
}

func (m *crashModel) wrote(at, n int, v uint64) {
	for i := at; i < at+n; i++ {
		m.versions[i] = append(m.versions[i][:len(m.versions[i]):len(m.versions[i])], v)
	}
}

// inFlight leaves a write un-completed at the crash, and a sync that promises nothing.
func (m *crashModel) inFlight(g *rig, rng *rand.Rand, b mem.Ref) {
	at := rng.IntN(crashSectors - 8)
	stamp(b.Bytes(), crashOps+1)
	g.rg.Write(crashOps+1, g.file, b, int64(at)*512, ring.FUA)
	g.rg.Sync(crashOps+2, g.file)
	if _, err := g.rg.Enter(nil, 0); err != nil {
		g.t.Fatal(err)
	}
	m.wrote(at, 8, crashOps+1)
}

func (m *crashModel) check(t *testing.T, seed uint64, d *simring.Disk) (kept, lost, torn int) {
	t.Helper()
	was := uint64(0)
	for i, allowed := range m.versions {
		var b [512]byte
		d.ReadAt(b[:], int64(i)*512)
		v := binary.LittleEndian.Uint64(b[:])
		want := make([]byte, 512)
		stamp(want, v)
		if !bytes.Equal(b[:], want) {
			t.Fatalf("seed %d: sector %d is a mix of versions", seed, i)
		}
		found := false
		for _, a := range allowed {
			found = found || a == v
		}
		if !found {
			t.Fatalf("seed %d: sector %d has version %d, allowed are %v", seed, i, v, allowed)
		}
		if last := allowed[len(allowed)-1]; len(allowed) > 1 {
			if v == last {
				kept++
			} else {
				lost++
				if last == was && last != 0 {
					torn++
				}
			}
		}
		was = v
	}
	return kept, lost, torn
}

func TestKillKeepsCompletedWrites(t *testing.T) {
	g := newRig(t, newArena(t), simring.Config{}, simring.DiskOptions{Size: 1 << 20}, 0)
	defer g.close()
	b := g.block(512)
	copy(b.Bytes(), "kept")
	g.rg.Write(1, g.file, b, 0, 0)
	g.wait(1)
	g.w.Kill()
	got := make([]byte, 4)
	if g.disk.ReadAt(got, 0); string(got) != "kept" || g.disk.Unsynced() != 1 || g.w.OpenFDs() != 0 {
		t.Fatalf("disk has %q, %d un-synced, %d descriptors", got, g.disk.Unsynced(), g.w.OpenFDs())
	}
}

func TestCacheIsBounded(t *testing.T) {
	g := newRig(t, newArena(t), simring.Config{Immediate: true}, simring.DiskOptions{Size: 1 << 20}, 0)
	defer g.close()
	b := g.block(512)
	for i := range 1000 {
		g.rg.Write(1, g.file, b, int64(i)*512, 0)
		g.wait(1)
	}
	if n := g.disk.Unsynced(); n == 0 || n > 256 {
		t.Fatalf("%d un-synced writes", n)
	}
}

// diskRun mixes operations on a disk under faults: reads must return what the
// disk holds, and orders must differ from those of submission.
func diskRun(t *testing.T, a *mem.Arena, seed uint64) (simring.Counts, uint64, int) {
	rng := rand.New(rand.NewPCG(seed, 2))
	g := newRig(t, a, simring.Config{Rand: rng, Faults: simring.AllFaults()}, simring.DiskOptions{Size: 1 << 20, Align: 512}, 0)
	event := g.w.NewEvent()
	b := g.block(1 << 20)
	b.Bytes()[0] = 1
	var out [16]ring.CQE
	next, done, swaps := ring.Tag(1), 0, 0
	high := ring.Tag(0)
	for done < 200 {
		if next <= 200 {
			part := b.Slice(uint32(next)*4096, 4096)
			ok := false
			off := int64(rng.IntN(200)) * 4096
			switch rng.IntN(6) {
			case 0, 1:
				ok = g.rg.Write(next, g.file, part, off, 0)
			case 2:
				ok = g.rg.Sync(next, g.file)
			case 3:
				ok = g.rg.PollFD(next, event)
			case 4:
				ok = g.rg.Cancel(next, next-1-ring.Tag(rng.IntN(4)))
			default:
				ok = g.rg.Read(next, g.file, part, off)
			}
			if ok {
				next++
			}
		} else if err := g.w.Signal(event); err != nil {
			t.Fatal(err)
		}
		until := clock.Time(0)
		if rng.IntN(2) == 0 {
			until = clock.Never
		}
		n, err := g.rg.Enter(out[:], until)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range out[:n] {
			done++
			if c.Tag < high {
				swaps++
			}
			high = max(high, c.Tag)
		}
		g.w.Advance(time.Duration(rng.IntN(200)) * time.Microsecond)
	}
	if g.rg.Inflight() != 0 {
		t.Fatalf("seed %d: %d in flight after the last completion", seed, g.rg.Inflight())
	}
	if seed%2 == 0 {
		g.w.PowerFail()
	}
	g.close()
	return g.w.Counts, g.w.TraceHash(), swaps
}

func TestEveryFaultHappens(t *testing.T) {
	var total simring.Counts
	arena := newArena(t)
	swaps := 0
	for seed := uint64(0); seed < 60; seed++ {
		f := simring.AllFaults()
		f.Reset, f.HalfClose = 0.002, 0.002
		_, c := echoRun(t, seed, arena, f, false)
		total.Add(&c)
		c, _, n := diskRun(t, arena, seed)
		total.Add(&c)
		swaps += n
	}
	total.Each(func(name string, n uint64) {
		if n == 0 {
			t.Errorf("fault %s was never injected", name)
		}
	})
	if swaps == 0 {
		t.Error("disk operations never completed out of order")
	}
}

func TestDiskRunRepeats(t *testing.T) {
	arena := newArena(t)
	for seed := uint64(0); seed < 10; seed++ {
		_, one, _ := diskRun(t, arena, seed)
		_, two, _ := diskRun(t, arena, seed)
		if one != two {
			t.Fatalf("seed %d: traces %x and %x", seed, one, two)
		}
	}
}
