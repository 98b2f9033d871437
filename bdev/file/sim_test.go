package file_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/file"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/simring"
)

const path = "/disk"

// sim is a rig over a simulated kernel with one disk.
type sim struct {
	*bdevtest.Rig
	world *simring.World
	disk  *simring.Disk
}

// simulated makes a rig over world, which may have been in use before.
func simulated(t testing.TB, reactors int, world func(g *bdevtest.Rig) *simring.World) *sim {
	s := &sim{}
	s.Rig = bdevtest.NewRig(t, reactors, func(g *bdevtest.Rig) ring.Ring {
		if s.world == nil {
			s.world = world(g)
			g.Tick = func(d time.Duration) { s.world.Advance(d) }
		}
		return s.world.NewRing(g.Arena())
	})
	s.disk = s.world.Disk(path)
	return s
}

func newWorld(seed uint64, f simring.Faults, o simring.DiskOptions) func(*bdevtest.Rig) *simring.World {
	return func(g *bdevtest.Rig) *simring.World {
		w := simring.New(simring.Config{Rand: rand.New(rand.NewPCG(seed, 9)), Clock: g.Clock, DiskLatency: 50 * time.Microsecond, Faults: f})
		w.AddDisk(path, o)
		return w
	}
}

func (s *sim) device(c file.Config) *file.Device {
	s.T.Helper()
	c.Kernel, c.Path, c.Space, c.Reactors = s.world, path, s.Space, 2
	d, err := file.New(c)
	if err != nil {
		s.T.Fatal(err)
	}
	return d
}

func TestConformanceSimulated(t *testing.T) {
	const size = 512
	for _, tt := range []struct {
		name   string
		faults simring.Faults
		disk   simring.DiskOptions
		config file.Config
	}{
		{name: "plain"},
		{name: "faults", faults: simring.AllFaults().Lossless()},
		{name: "cached", config: file.Config{Buffered: true}, faults: simring.AllFaults().Lossless()},
		{name: "no direct", disk: simring.DiskOptions{NoDirect: true}},
		{name: "coarse", disk: simring.DiskOptions{Align: 4096}},
		{name: "no discard", disk: simring.DiskOptions{NoDiscard: true}, faults: simring.AllFaults().Lossless()},
		{name: "no unmap", config: file.Config{NoUnmap: true}},
		{name: "block device", disk: simring.DiskOptions{BlockDevice: true}},
		{name: "block device of larger blocks", disk: simring.DiskOptions{BlockDevice: true, Align: 4096}, config: file.Config{BlockSize: size}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s *sim
			worlds := map[*bdevtest.Rig]*sim{}
			f := bdevtest.Factory{
				Ring: func(g *bdevtest.Rig) ring.Ring {
					if worlds[g] == nil {
						s = &sim{Rig: g}
						s.world = newWorld(1, tt.faults, tt.disk)(g)
						g.Tick = func(d time.Duration) { s.world.Advance(d) }
						worlds[g] = s
					}
					return worlds[g].world.NewRing(g.Arena())
				},
				New: func(g *bdevtest.Rig, n uint64) bdev.Device {
					tt.disk.Size = int64(n) * size
					tt.disk.MaxSize = 8 * tt.disk.Size
					o := tt.disk
					worlds[g].disk = worlds[g].world.AddDisk(fmt.Sprintf("%s-%d", path, n), o)
					c := tt.config
					c.Kernel, c.Path, c.Space, c.Reactors = worlds[g].world, fmt.Sprintf("%s-%d", path, n), g.Space, 2
					d, err := file.New(c)
					if err != nil {
						g.T.Fatal(err)
					}
					return d
				},
			}
			if !tt.disk.BlockDevice {
				f.Resize = func(d bdev.Device, n uint64) error {
					s.disk.Resize(int64(n) * size)
					return d.(*file.Device).Rescan()
				}
			}
			bdevtest.Run(t, f)
		})
	}
}

func (s *sim) filled(n uint32, v byte) mem.Ref {
	buf := s.Buffer(n)
	for i := range buf.Bytes() {
		buf.Bytes()[i] = v
	}
	return buf
}

// TestSyncErrorIsSticky: after a failed fdatasync the kernel reports success
// for pages it has lost; the device must not.
func TestSyncErrorIsSticky(t *testing.T) {
	s := simulated(t, 2, newWorld(1, simring.Faults{}, simring.DiskOptions{Size: 1 << 20}))
	dev := bdev.New("File0", bdev.UUID{}, s.device(file.Config{Buffered: true}))
	told := 0
	dev.OnChange(func() { told++ })
	ch, other := s.Open(dev, 0), s.Open(dev, 1)
	buf := s.filled(4096, 1)
	s.MustDo(ch, bdev.Write, 0, 8, buf, 0)
	s.disk.FailSync()
	// One flush fails, one waits behind it, one was already under way elsewhere.
	first, second := bdevtest.NewCall(bdev.Flush, 0, 0, mem.Ref{}, 0), bdevtest.NewCall(bdev.Flush, 0, 0, mem.Ref{}, 0)
	first.Start(ch)
	second.Start(ch)
	s.Until("first", first.Done)
	s.Until("second", second.Done)
	if first.Final != bdev.Failed || second.Final != bdev.Failed {
		t.Fatalf("flushes: %v, %v", first.Final, second.Final)
	}
	if told != 1 || dev.Info().Failure != "fdatasync: input/output error" {
		t.Fatalf("told %d times, Info.Failure %q", told, dev.Info().Failure)
	}
	late := s.Open(dev, 0)
	for _, c := range []bdev.Channel{ch, other, late} {
		for _, op := range []bdev.Op{bdev.Write, bdev.Flush, bdev.Unmap, bdev.WriteZeroes} {
			if st := s.Do(c, bdevtest.NewCall(op, 0, 8, buf, 0)); st != bdev.Failed {
				t.Fatalf("%v after the failure: %v", op, st)
			}
		}
		s.MustDo(c, bdev.Read, 0, 8, buf, 0)
	}
	if err := dev.Module().(*file.Device).Rescan(); err != nil || dev.Info().Failure == "" {
		t.Fatalf("rescan: %v, Info.Failure %q", err, dev.Info().Failure)
	}
	if n := dev.Stats(bdev.ResetNone).Errors[bdev.Failed]; n != 14 {
		t.Fatalf("%d failures counted", n)
	}
}

// TestErrors: an error of the disk is the status of its I/O and of no other,
// and the device goes on.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults simring.Faults
		op     bdev.Op
		want   bdev.Status
	}{
		{"read", simring.Faults{ReadError: 1}, bdev.Read, bdev.Failed},
		{"write", simring.Faults{WriteError: 1}, bdev.Write, bdev.Failed},
		{"no space", simring.Faults{NoSpace: 1}, bdev.Write, bdev.NoSpace},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := simulated(t, 1, newWorld(1, tt.faults, simring.DiskOptions{Size: 1 << 20}))
			ch, buf := s.Open(s.device(file.Config{}), 0), s.filled(4096, 1)
			if st := s.Do(ch, bdevtest.NewCall(tt.op, 0, 8, buf, 0)); st != tt.want {
				t.Fatalf("%v: %v", tt.op, st)
			}
			s.world.Faults = simring.Faults{}
			s.MustDo(ch, tt.op, 0, 8, buf, 0)
			s.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
		})
	}
}

// TestNoThread: what the kernel had no thread for is asked for again, and a sync
// that never began does not fail the device. It is not asked for for ever.
func TestNoThread(t *testing.T) {
	s := simulated(t, 1, newWorld(1, simring.Faults{NoThread: 0.5}, simring.DiskOptions{Size: 1 << 20}))
	d := s.device(file.Config{})
	ch, buf := s.Open(d, 0), s.filled(4096, 1)
	for range 20 {
		s.MustDo(ch, bdev.Write, 0, 8, buf, 0)
		s.MustDo(ch, bdev.Read, 0, 8, buf, 0)
		s.MustDo(ch, bdev.WriteZeroes, 8, 8, mem.Ref{}, bdev.FUA)
		s.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
	}
	if n := d.Counts().Retried; n < 20 {
		t.Errorf("only %d were tried again", n)
	}
	s.world.Faults.NoThread = 1
	if st := s.Do(ch, bdevtest.NewCall(bdev.Write, 0, 8, buf, 0)); st != bdev.Failed {
		t.Errorf("without any thread: %v", st)
	}
}

// TestShortOverlap: two writes of a block at once, both cut short inside it, leave
// it as one of them has it.
func TestShortOverlap(t *testing.T) {
	s := simulated(t, 1, newWorld(1, simring.Faults{ShortWrite: 0.7}, simring.DiskOptions{Size: 1 << 20}))
	d := s.device(file.Config{Buffered: true, BlockSize: 4096})
	ch, got := s.Open(d, 0), s.Buffer(4096)
	a := bdevtest.NewCall(bdev.Write, 0, 1, s.filled(4096, 1), 0)
	b := bdevtest.NewCall(bdev.Write, 0, 1, s.filled(4096, 2), 0)
	for range 50 {
		a.Start(ch)
		b.Start(ch)
		s.Until("two writes", func() bool { return a.Done() && b.Done() })
		s.MustDo(ch, bdev.Read, 0, 1, got, 0)
		if !bytes.Equal(got.Bytes(), a.Data.Bytes()) && !bytes.Equal(got.Bytes(), b.Data.Bytes()) {
			t.Fatal("the block is of both writes")
		}
	}
	if d.Counts().Short < 50 {
		t.Errorf("only %d were short", d.Counts().Short)
	}
}

// TestFailedFUAIsSticky: the error of a durable write is one of write-back too.
func TestFailedFUAIsSticky(t *testing.T) {
	s := simulated(t, 1, newWorld(1, simring.Faults{WriteError: 1}, simring.DiskOptions{Size: 1 << 20}))
	d := s.device(file.Config{})
	ch, buf := s.Open(d, 0), s.filled(4096, 1)
	if st := s.Do(ch, bdevtest.NewCall(bdev.Write, 0, 8, buf, bdev.FUA)); st != bdev.Failed || d.Info().Failure == "" {
		t.Fatalf("FUA write: %v, Info.Failed %v", st, d.Info().Failure)
	}
}

func TestTruncatedBelow(t *testing.T) {
	s := simulated(t, 1, newWorld(1, simring.Faults{}, simring.DiskOptions{Size: 1 << 20}))
	d := s.device(file.Config{})
	ch, buf := s.Open(d, 0), s.filled(8192, 1)
	s.disk.Resize(4096 + 512)
	if st := s.Do(ch, bdevtest.NewCall(bdev.Read, 0, 16, buf, 0)); st != bdev.Failed {
		t.Fatalf("read across the end: %v", st)
	}
	s.MustDo(ch, bdev.Read, 0, 9, buf.Slice(0, 9*512), 0)
	if err := d.Rescan(); err != nil || d.Info().Blocks != 9 {
		t.Fatalf("rescan: %v, %d blocks", err, d.Info().Blocks)
	}
}

func TestMisaligned(t *testing.T) {
	s := simulated(t, 1, newWorld(1, simring.Faults{}, simring.DiskOptions{Size: 1 << 20}))
	d := s.device(file.Config{})
	if !d.Direct() {
		t.Fatal("not direct")
	}
	ch, buf := s.Open(d, 0), s.filled(8192, 7)
	odd := buf.Slice(100, 4096)
	for _, fl := range []bdev.Flags{0, bdev.FUA} {
		s.MustDo(ch, bdev.Write, 0, 8, odd, fl)
	}
	got := make([]byte, 4096)
	s.disk.DurableAt(got, 0)
	if !bytes.Equal(got, odd.Bytes()) {
		t.Fatal("a FUA write from a misaligned buffer is not durable")
	}
	if n := d.Counts().Buffered; n != 2 {
		t.Fatalf("%d transfers through the page cache", n)
	}
}

func TestReadOnly(t *testing.T) {
	s := simulated(t, 1, newWorld(1, simring.Faults{}, simring.DiskOptions{Size: 1 << 20, ReadOnly: true}))
	d := s.device(file.Config{ReadOnly: true})
	if d.Info().Caps&bdev.CapReadOnly == 0 {
		t.Fatal("not advertised")
	}
	ch, buf := s.Open(d, 0), s.filled(512, 1)
	for _, op := range []bdev.Op{bdev.Write, bdev.Unmap, bdev.WriteZeroes} {
		if st := s.Do(ch, bdevtest.NewCall(op, 0, 1, buf, 0)); st != bdev.NotSup {
			t.Fatalf("%v: %v", op, st)
		}
	}
	s.MustDo(ch, bdev.Read, 0, 1, buf, 0)
	s.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
}

func TestDescriptorsComeHome(t *testing.T) {
	s := simulated(t, 2, newWorld(1, simring.Faults{}, simring.DiskOptions{Size: 1 << 20}))
	before := s.world.OpenFDs()
	d := s.device(file.Config{})
	var chs []bdev.Channel
	for i := range 5 { // more than were announced
		ch, err := d.Open(s.Reactors[i%2])
		if err != nil {
			t.Fatal(err)
		}
		chs = append(chs, ch)
	}
	for _, ch := range chs {
		ch.Close()
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if n := s.world.OpenFDs(); n != before {
		t.Fatalf("%d descriptors, %d before", n, before)
	}
	if _, err := file.New(file.Config{Kernel: s.world, Path: "/none", Space: s.Space}); err == nil {
		t.Fatal("a missing file was opened")
	}
}

// TestPowerFail runs writes, FUA writes and flushes over a faulty disk, pulls
// the plug at a random moment, and starts again: each block holds the last
// version that was reported durable or a later one, whole.
func TestPowerFail(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { powerFail(t, seed) })
	}
}

func powerFail(t *testing.T, seed uint64) {
	const span, size = 24, 512
	f := simring.AllFaults()
	if seed%4 < 2 {
		f = f.Lossless()
	}
	s := simulated(t, 2, newWorld(seed, f, simring.DiskOptions{Size: 1 << 20}))
	d := s.device(file.Config{Buffered: seed%2 == 1})
	var chs []bdev.Channel
	for _, r := range s.Reactors {
		ch, err := d.Open(r)
		if err != nil {
			t.Fatal(err)
		}
		chs = append(chs, ch)
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	possible := make([][]uint64, span) // versions a crash may leave, oldest first
	busy := make([]*bdevtest.Call, span)
	var flush *bdevtest.Call
	var good [span]uint64    // newest version that was written without an error
	var covered [span]uint64 // good, when the flush was submitted
	for i := range possible {
		possible[i] = []uint64{0}
	}
	settle := func() {
		for i, c := range busy {
			if c == nil || !c.Done() {
				continue
			}
			if busy[i] = nil; c.Final == bdev.OK {
				good[i] = binary.LittleEndian.Uint64(c.Data.Bytes())
				if c.Flags&bdev.FUA != 0 {
					possible[i] = []uint64{good[i]}
				}
			}
		}
		if flush == nil || !flush.Done() {
			return
		}
		for i := range possible {
			for flush.Final == bdev.OK && possible[i][0] < covered[i] {
				possible[i] = possible[i][1:]
			}
		}
		flush = nil
	}
	for version := range uint64(200 + rng.IntN(300)) {
		i := rng.IntN(span)
		settle()
		switch {
		case rng.IntN(8) == 0 && flush == nil:
			covered = good
			flush = bdevtest.NewCall(bdev.Flush, 0, 0, mem.Ref{}, 0)
			flush.Start(chs[rng.IntN(2)])
		case busy[i] == nil:
			buf := s.Buffer(size)
			for p := buf.Bytes(); len(p) > 0; p = p[8:] {
				binary.LittleEndian.PutUint64(p, version+1)
			}
			busy[i] = bdevtest.NewCall(bdev.Write, uint64(i), 1, buf, 0)
			if rng.IntN(6) == 0 {
				busy[i].Flags = bdev.FUA
			}
			possible[i] = append(possible[i], version+1)
			busy[i].Start(chs[rng.IntN(2)])
		}
		if rng.IntN(2) == 0 {
			s.Turn()
		}
	}
	settle()
	s.world.PowerFail()

	s.world.Faults = simring.Faults{}
	after := simulated(t, 1, func(*bdevtest.Rig) *simring.World { return s.world })
	ch := after.Open(after.device(file.Config{}), 0)
	buf := after.Buffer(size)
	for i, list := range possible {
		after.MustDo(ch, bdev.Read, uint64(i), 1, buf, 0)
		got := binary.LittleEndian.Uint64(buf.Bytes())
		if !slices.Contains(list, got) {
			t.Fatalf("block %d holds version %d, possible are %v", i, got, list)
		}
	}
}

// TestNoAllocations holds reads, writes, FUA writes and flushes in steady state
// to zero allocations.
func TestNoAllocations(t *testing.T) {
	s := simulated(t, 1, func(g *bdevtest.Rig) *simring.World {
		w := simring.New(simring.Config{Clock: g.Clock, Immediate: true})
		w.AddDisk(path, simring.DiskOptions{Size: 1 << 20})
		return w
	})
	ch := s.Open(bdev.New("File0", bdev.UUID{}, s.device(file.Config{})), 0)
	buf := s.filled(4096, 1)
	calls := []*bdevtest.Call{
		bdevtest.NewCall(bdev.Write, 0, 8, buf, 0),
		bdevtest.NewCall(bdev.Read, 0, 8, buf, 0),
		bdevtest.NewCall(bdev.Write, 8, 8, buf, bdev.FUA),
		bdevtest.NewCall(bdev.Flush, 0, 0, mem.Ref{}, 0),
	}
	round := func() {
		for _, c := range calls {
			c.Start(ch)
		}
		for range 4 {
			s.Turn()
		}
		for _, c := range calls {
			if c.Final != bdev.OK {
				t.Fatalf("%v: %v", c.Op, c.Final)
			}
		}
	}
	for range 10 {
		round()
	}
	if n := testing.AllocsPerRun(500, round); n != 0 {
		t.Fatalf("%v allocations a round", n)
	}
}

// TestFlushIsShared: flushes that wait while one is under way end with one
// fdatasync, which begins after all of them came.
func TestFlushIsShared(t *testing.T) {
	s := simulated(t, 1, newWorld(1, simring.Faults{}, simring.DiskOptions{Size: 1 << 20}))
	syncs := 0
	s.world.Trace = func(e simring.Event) {
		if e.Kind == simring.Complete && e.Op == "sync" {
			syncs++
		}
	}
	ch := s.Open(s.device(file.Config{}), 0)
	var calls []*bdevtest.Call
	for range 20 {
		c := bdevtest.NewCall(bdev.Flush, 0, 0, mem.Ref{}, 0)
		c.Start(ch)
		calls = append(calls, c)
	}
	for _, c := range calls {
		s.Until("flush", c.Done)
	}
	if syncs != 2 {
		t.Fatalf("%d syncs for 20 flushes", syncs)
	}
	for range 5 {
		s.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
	}
	if syncs != 7 {
		t.Fatalf("%d syncs, 5 flushes one after the other asked for one each", syncs-2)
	}
}

// TestLateCancel: a cancellation that comes after its I/O has ended does not
// hit the next one in the same slot.
func TestLateCancel(t *testing.T) {
	s := simulated(t, 1, newWorld(1, simring.Faults{CancelRace: 1}, simring.DiskOptions{Size: 1 << 20}))
	ch, buf := s.Open(s.device(file.Config{}), 0), s.filled(512, 1)
	late := 0
	for range 100 {
		victim := bdevtest.NewCall(bdev.Read, 0, 1, buf, 0)
		victim.Start(ch)
		s.Turn()
		if victim.Done() {
			continue
		}
		ch.Abort(&victim.IO)
		s.Until("victim", victim.Done)
		if victim.Final == bdev.OK {
			late++
		}
		for range 8 {
			s.MustDo(ch, bdev.Read, 0, 1, buf, 0)
		}
	}
	if late == 0 {
		t.Fatal("no cancellation was late")
	}
}
