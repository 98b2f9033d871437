package bdevtest

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"spindle/bdev"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// blocks is the size of the devices under test.
const blocks = 1 << 14

// Factory makes the devices that Run tests.
type Factory struct {
	// New makes a device of n blocks that read as zeroes, closed by the test.
	New func(g *Rig, n uint64) bdev.Device
	// Ring makes the ring of each reactor; nil for modules that need none.
	Ring func(g *Rig) ring.Ring
	// Forgets is set for devices that keep no data.
	Forgets bool
	// Resize changes the number of blocks; nil for devices that cannot.
	Resize func(d bdev.Device, n uint64) error
	// Crash returns what a power failure now would leave of d; nil for devices
	// that cannot tell.
	Crash func(d bdev.Device, seed uint64) bdev.Device
}

// bench is one test's device, wrapped as users open it.
type bench struct {
	*Rig
	f    Factory
	dev  *bdev.Bdev
	size uint32
	caps bdev.Caps
}

// Run runs the suite.
func Run(t *testing.T, f Factory) {
	for _, tt := range []struct {
		name string
		test func(b *bench)
	}{
		{"Info", testInfo},
		{"Edges", testEdges},
		{"Range", testRange},
		{"Empty", testEmpty},
		{"Zeroing", testZeroing},
		{"Durable", testDurable},
		{"FlushCoversOtherChannels", testFlushOther},
		{"CrashKeepsFlushed", testCrash},
		{"Flood", testFlood},
		{"Abort", testAbort},
		{"Lend", testLend},
		{"Inline", testInline},
		{"Reopen", testReopen},
		{"TwoReactors", testTwoReactors},
		{"Resize", testResize},
		{"Model", testModel},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := NewRig(t, 2, f.Ring)
			t.Cleanup(func() {
				if !g.arena.AllHome() {
					t.Errorf("%d bytes of buffers are not home", g.arena.InUse())
				}
			})
			d := f.New(g, blocks)
			b := &bench{Rig: g, f: f, dev: bdev.New("Disk0", bdev.UUID{}, d), size: d.Info().BlockSize, caps: d.Info().Caps}
			t.Cleanup(func() {
				if err := b.dev.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			tt.test(b)
		})
	}
}

func (b *bench) fill(m mem.Ref, seed byte) {
	p := m.Bytes()
	for i := range p {
		p[i] = byte(i) ^ byte(i>>8) ^ seed
	}
}

// expect reads and compares with a filled buffer; seed 0 expects zeroes.
func (b *bench) expect(ch bdev.Channel, lba uint64, n uint32, seed byte) {
	b.T.Helper()
	got, want := b.Buffer(n*b.size), b.Buffer(n*b.size)
	b.fill(got, 0xa5)
	clear(want.Bytes())
	if seed != 0 && !b.f.Forgets {
		b.fill(want, seed)
	}
	b.MustDo(ch, bdev.Read, lba, n, got, 0)
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		b.T.Fatalf("blocks %d..%d do not read as written", lba, lba+uint64(n)-1)
	}
}

func (b *bench) write(ch bdev.Channel, lba uint64, n uint32, seed byte, fl bdev.Flags) {
	b.T.Helper()
	buf := b.Buffer(n * b.size)
	b.fill(buf, seed)
	b.MustDo(ch, bdev.Write, lba, n, buf, fl)
}

func testInfo(b *bench) {
	i := b.dev.Info()
	if err := i.Validate(); err != nil {
		b.T.Fatal(err)
	}
	if i.Blocks != blocks || i.Product == "" {
		b.T.Fatalf("info: %+v", *i)
	}
}

func testEdges(b *bench) {
	ch := b.Open(b.dev, 0)
	b.expect(ch, 0, 8, 0)
	for _, tt := range []struct {
		lba uint64
		n   uint32
	}{{0, 1}, {1, 1}, {7, 9}, {blocks - 1, 1}, {blocks - 8, 8}, {100, mem.MaxBlock / b.size / 4}} {
		b.write(ch, tt.lba, tt.n, byte(tt.n)|1, 0)
		b.expect(ch, tt.lba, tt.n, byte(tt.n)|1)
	}
}

func testRange(b *bench) {
	ch := b.Open(b.dev, 0)
	for _, tt := range []struct {
		lba uint64
		n   uint32
	}{
		{blocks, 1},
		{blocks - 1, 2},
		{math.MaxUint64, 1},
		{math.MaxUint64 - 6, 8},
		{1 << 63, 1},
		{math.MaxUint64/uint64(b.size) + 1, 1}, // wraps to 0 as bytes
	} {
		for op := bdev.Read; op < bdev.NumOps; op++ {
			if op == bdev.Flush {
				continue
			}
			c := NewCall(op, tt.lba, tt.n, b.Buffer(tt.n*b.size), 0)
			if s := b.Do(ch, c); s != bdev.OutRange {
				b.T.Errorf("%v of %d blocks at %d: %v", op, tt.n, tt.lba, s)
			}
		}
	}
}

func testEmpty(b *bench) {
	ch := b.Open(b.dev, 0)
	for op := bdev.Read; op < bdev.NumOps; op++ {
		for _, lba := range []uint64{0, blocks} {
			if s := b.Do(ch, NewCall(op, lba, 0, mem.Ref{}, 0)); s != bdev.OK {
				b.T.Errorf("empty %v at %d: %v", op, lba, s)
			}
		}
	}
	if s := b.Do(ch, NewCall(bdev.NumOps, 0, 1, mem.Ref{}, 0)); s != bdev.NotSup {
		b.T.Errorf("unknown operation: %v", s)
	}
}

func testZeroing(b *bench) {
	ch := b.Open(b.dev, 0)
	for _, tt := range []struct {
		op   bdev.Op
		need bdev.Caps
		fl   bdev.Flags
	}{{bdev.Unmap, bdev.CapUnmap, 0}, {bdev.WriteZeroes, bdev.CapWriteZeroes, 0}, {bdev.WriteZeroes, bdev.CapWriteZeroes, bdev.FUA}} {
		for _, r := range []struct {
			lba uint64
			n   uint32
		}{{16, 1}, {64, 64}, {9, 13}, {8, blocks / 2}} {
			if b.caps&tt.need == 0 {
				if s := b.Do(ch, NewCall(tt.op, r.lba, r.n, mem.Ref{}, tt.fl)); s != bdev.NotSup {
					b.T.Errorf("%v without its capability: %v", tt.op, s)
				}
				continue
			}
			end := r.lba + uint64(r.n)
			b.write(ch, r.lba-1, 3, 0x11, 0)
			b.write(ch, end-1, 3, 0x22, 0)
			b.MustDo(ch, tt.op, r.lba, r.n, mem.Ref{}, tt.fl)
			if tt.op == bdev.WriteZeroes || b.dev.Info().UnmapZeroes {
				b.expect(ch, r.lba, 1, 0)
				b.expect(ch, end-1, 1, 0)
			}
			b.expectPart(ch, r.lba-1, 0x11, 0)
			b.expectPart(ch, end, 0x22, 1)
		}
	}
}

// expectPart compares one block with block k of a filled buffer.
func (b *bench) expectPart(ch bdev.Channel, lba uint64, seed byte, k uint32) {
	b.T.Helper()
	got, want := b.Buffer(b.size), b.Buffer((k+1)*b.size)
	b.fill(want, seed)
	if b.f.Forgets {
		clear(want.Bytes())
	}
	b.MustDo(ch, bdev.Read, lba, 1, got, 0)
	if !bytes.Equal(got.Bytes(), want.Bytes()[k*b.size:]) {
		b.T.Fatalf("block %d changed beside a zeroed range", lba)
	}
}

func testDurable(b *bench) {
	ch := b.Open(b.dev, 0)
	b.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
	b.write(ch, 0, 8, 1, 0)
	b.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
	b.write(ch, 4, 8, 2, bdev.FUA)
	if b.caps&bdev.CapFUA == 0 && b.caps&bdev.CapFlush != 0 {
		return // FUA is then the submitter's to make, by a Flush
	}
	if b.f.Crash == nil {
		return
	}
	for seed := range uint64(20) {
		after := &bench{Rig: b.Rig, f: b.f, size: b.size}
		ach := b.Open(b.f.Crash(b.dev.Module(), seed), 0)
		after.expectPart(ach, 0, 1, 0)
		after.expectPart(ach, 3, 1, 3)
		after.expect(ach, 4, 8, 2)
	}
}

func testFlushOther(b *bench) {
	if b.f.Crash == nil {
		b.T.Skip("cannot crash")
	}
	one, two := b.Open(b.dev, 0), b.Open(b.dev, 1)
	b.write(one, 40, 4, 9, 0)
	b.MustDo(two, bdev.Flush, 0, 0, mem.Ref{}, 0)
	for seed := range uint64(20) {
		after := &bench{Rig: b.Rig, f: b.f, size: b.size}
		after.expect(b.Open(b.f.Crash(b.dev.Module(), seed), 0), 40, 4, 9)
	}
}

// testFlood submits far more than a device can hold, without a turn between.
func testFlood(b *bench) {
	const n = 2500
	ch := b.Open(b.dev, 0)
	b.write(ch, 0, 2, 3, 0)
	want := b.Buffer(2 * b.size)
	b.fill(want, 3)
	if b.f.Forgets {
		clear(want.Bytes())
	}
	calls := make([]*Call, n)
	var refused []*Call
	for i := range calls {
		calls[i] = NewCall(bdev.Read, 0, 2, b.Buffer(2*b.size), 0)
		switch s := calls[i].Start(ch); {
		case s == bdev.NoMem:
			refused = append(refused, calls[i])
		case s != bdev.Pending && s != bdev.OK:
			b.T.Fatalf("read %d: %v", i, s)
		}
	}
	for _, c := range refused {
		if c.Calls != 0 {
			b.T.Fatal("IODone for a refused I/O")
		}
		b.Until("retry", func() bool { return c.Start(ch) != bdev.NoMem })
	}
	b.Until("flood", func() bool {
		for _, c := range calls {
			if !c.Done() {
				return false
			}
		}
		return true
	})
	b.Advance(100 * step) // a second completion would come now
	for i, c := range calls {
		if c.Final != bdev.OK || c.Inside || c.Calls > 1 {
			b.T.Fatalf("read %d: %v, IODone called %d times, inside Submit %v", i, c.Final, c.Calls, c.Inside)
		}
		if !bytes.Equal(c.Data.Bytes(), want.Bytes()) {
			b.T.Fatalf("read %d: wrong data", i)
		}
	}
}

func testAbort(b *bench) {
	ch := b.Open(b.dev, 0)
	var calls []*Call
	ops := []bdev.Op{bdev.Write, bdev.Read, bdev.Flush, bdev.WriteZeroes, bdev.Write}
	for i := range 100 {
		c := NewCall(ops[i%len(ops)], uint64(i)*16, 16, b.Buffer(16*b.size), 0)
		if c.Start(ch) == bdev.Pending {
			calls = append(calls, c)
		}
	}
	for i, c := range calls {
		if i%10 == 9 {
			b.Turn()
		}
		if !c.Done() {
			ch.Abort(&c.IO)
		}
		if !c.Done() {
			ch.Abort(&c.IO) // twice is as good as once
		}
	}
	for i, c := range calls {
		b.Until("aborted "+c.Op.String(), c.Done)
		if c.Calls != 1 || c.Final != bdev.OK && c.Final != bdev.Aborted {
			b.T.Fatalf("%v %d: %v, %d calls", c.Op, i, c.Final, c.Calls)
		}
	}
	b.write(ch, 0, 16, 7, 0)
	b.expect(ch, 0, 16, 7)
}

func testLend(b *bench) {
	if b.caps&(bdev.CapLend|bdev.CapLive) == 0 {
		b.T.Skip("does not lend")
	}
	ch := b.Open(b.dev, 0)
	plain, lent := b.Buffer(16*b.size), NewCall(bdev.Read, 5, 16, mem.Ref{}, bdev.Lend)
	b.MustDo(ch, bdev.Read, 5, 16, plain, 0)
	if s := b.Do(ch, lent); s != bdev.OK {
		b.T.Fatal(s)
	}
	if !bytes.Equal(lent.Data.Bytes(), plain.Bytes()) {
		b.T.Fatal("lent data differs from what a plain read returns")
	}
	ch.Release(&lent.IO)
}

// testInline: a device that says that writes end inside Submit has no use for their
// data afterwards.
func testInline(b *bench) {
	ch := b.Open(b.dev, 0)
	if !ch.(bdev.Inliner).Inline() {
		b.T.Skip("writes end later")
	}
	for _, n := range []uint32{1, 16, mem.MaxBlock / b.size / 4} {
		buf := b.Buffer(n * b.size)
		b.fill(buf, 9)
		if s := NewCall(bdev.Write, 7, n, buf, bdev.Inline).Start(ch); s != bdev.OK {
			b.T.Fatalf("%d blocks: %v", n, s)
		}
		b.fill(buf, 0x77)
		if s := NewCall(bdev.Read, 7, n, buf, 0).Start(ch); s != bdev.OK {
			b.T.Fatalf("%d blocks: read %v", n, s)
		}
		b.expect(ch, 7, n, 9)
	}
}

func testReopen(b *bench) {
	for i := range 5 {
		ch, err := b.dev.Open(b.Reactors[i%2])
		if err != nil {
			b.T.Fatal(err)
		}
		if i > 0 {
			b.expect(ch, 3, 1, byte(i))
		}
		b.write(ch, 3, 1, byte(i+1), 0)
		ch.Close()
	}
	if n := b.dev.OpenChannels(); n != 0 {
		b.T.Fatalf("%d channels are open", n)
	}
	if s := b.dev.Stats(bdev.ResetNone); s.Ops[bdev.Write].Ops != 5 || s.Ops[bdev.Read].Ops != 4 {
		b.T.Fatalf("closed channels' statistics: %+v", s.Ops)
	}
}

func testTwoReactors(b *bench) {
	chs := []bdev.Channel{b.Open(b.dev, 0), b.Open(b.dev, 1)}
	for i := range 10 {
		b.write(chs[i%2], uint64(i), 1, byte(i+1), 0)
		b.expect(chs[1-i%2], uint64(i), 1, byte(i+1))
	}
}

func testResize(b *bench) {
	if b.f.Resize == nil {
		b.T.Skip("cannot be resized")
	}
	told := 0
	defer b.dev.OnChange(func() { told++ })()
	ch := b.Open(b.dev, 0)
	if s := b.Do(ch, NewCall(bdev.Read, blocks, 1, b.Buffer(b.size), 0)); s != bdev.OutRange {
		b.T.Fatalf("before: %v", s)
	}
	if err := b.f.Resize(b.dev.Module(), 2*blocks); err != nil {
		b.T.Fatal(err)
	}
	if told != 1 || b.dev.Info().Blocks != 2*blocks {
		b.T.Fatalf("told %d times, %d blocks", told, b.dev.Info().Blocks)
	}
	b.expect(ch, 2*blocks-1, 1, 0)
	b.write(ch, blocks-1, 2, 5, 0)
	b.expect(ch, blocks-1, 2, 5)
}

// testModel runs random I/O, several at a time over disjoint stripes, against
// an array of bytes.
func testModel(b *bench) {
	const rounds, depth, stripe = 150, 8, 64
	rng := rand.New(rand.NewPCG(1, 2))
	chs := []bdev.Channel{b.Open(b.dev, 0), b.Open(b.dev, 1)}
	model := make([]byte, depth*stripe*int(b.size))
	bufs := make([]mem.Ref, depth)
	for i := range bufs {
		bufs[i] = b.Buffer(stripe * b.size)
	}
	for round := range rounds {
		calls := make([]*Call, depth)
		for i := range calls {
			off := rng.Uint32N(stripe)
			n := 1 + rng.Uint32N(stripe-off)
			c := NewCall(bdev.Read, uint64(i)*stripe+uint64(off), n, bufs[i].Slice(0, n*b.size), 0)
			calls[i] = c
			c.Op = b.randomOp(rng)
			if c.Op == bdev.Write {
				b.fill(c.Data, byte(round+1))
			}
			if rng.IntN(4) == 0 {
				c.Flags = bdev.FUA
			}
			ch := chs[rng.IntN(2)]
			b.Until("submit", func() bool { return c.Start(ch) != bdev.NoMem })
		}
		for i, c := range calls {
			b.Until(c.Op.String(), c.Done)
			if err := b.check(c, model); err != nil {
				b.T.Fatalf("round %d, I/O %d: %v", round, i, err)
			}
		}
	}
}

func (b *bench) randomOp(rng *rand.Rand) bdev.Op {
	for {
		switch op := bdev.Op(rng.IntN(int(bdev.NumOps))); {
		case op == bdev.Unmap && (b.caps&bdev.CapUnmap == 0 || !b.dev.Info().UnmapZeroes):
		case op == bdev.WriteZeroes && b.caps&bdev.CapWriteZeroes == 0:
		default:
			return op
		}
	}
}

// check compares a read with the model, or changes the model as the I/O did.
func (b *bench) check(c *Call, model []byte) error {
	if c.Final != bdev.OK || c.Inside {
		return fmt.Errorf("%v: %v, inside Submit %v", c.Op, c.Final, c.Inside)
	}
	span := model[c.LBA*uint64(b.size):][:c.Blocks*b.size]
	switch c.Op {
	case bdev.Read:
		if !b.f.Forgets && !bytes.Equal(c.Data.Bytes(), span) {
			return fmt.Errorf("read of %d blocks at %d: wrong data", c.Blocks, c.LBA)
		}
	case bdev.Write:
		copy(span, c.Data.Bytes())
	case bdev.Unmap, bdev.WriteZeroes:
		clear(span)
	}
	return nil
}
