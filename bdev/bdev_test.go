package bdev_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/crashable"
	"spindle/bdev/delay"
	"spindle/bdev/errinj"
	"spindle/bdev/null"
	"spindle/reactor/mem"
)

func nullDevice(g *bdevtest.Rig, n uint64) *null.Device {
	g.T.Helper()
	d, err := null.New(null.Config{BlockSize: 512, Blocks: n, Space: g.Space})
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

func slowDevice(g *bdevtest.Rig, least, most time.Duration) *crashable.Device {
	g.T.Helper()
	d, err := crashable.New(crashable.Config{BlockSize: 512, Blocks: 1024, MinDelay: least, MaxDelay: most})
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

func TestClaims(t *testing.T) {
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(bdevtest.NewRig(t, 1, nil), 8))
	steps := []struct {
		name string
		do   func() error
		want error
	}{
		{"share", b.Share, nil},
		{"share again", b.Share, nil},
		{"claim a shared one", func() error { return b.Claim("delay") }, bdev.ErrClaimed},
		{"unshare", func() error { b.Unshare(); b.Unshare(); return nil }, nil},
		{"claim", func() error { return b.Claim("delay") }, nil},
		{"claim again", func() error { return b.Claim("error") }, bdev.ErrClaimed},
		{"share a claimed one", b.Share, bdev.ErrClaimed},
		{"a stranger's unclaim", func() error { b.Unclaim("error"); return b.Share() }, bdev.ErrClaimed},
		{"unclaim", func() error { b.Unclaim("delay"); return b.Share() }, nil},
	}
	for _, s := range steps {
		if err := s.do(); !errors.Is(err, s.want) {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	if by, shares := b.Claimed(); by != "" || shares != 1 {
		t.Fatalf("claimed by %q, %d shares", by, shares)
	}
}

// TestEnter: a LUN has reservations only as long as there is no other.
func TestEnter(t *testing.T) {
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(bdevtest.NewRig(t, 1, nil), 8))
	enter := func(reserved bool, want error) {
		t.Helper()
		if err := b.Enter(reserved); !errors.Is(err, want) {
			t.Fatalf("enter: %v, want %v", err, want)
		}
	}
	reserve := func(on, want bool) {
		t.Helper()
		if got := b.Reserve(on); got != want {
			t.Fatalf("reserve: %v", got)
		}
	}
	enter(false, nil)
	reserve(true, true)
	enter(false, bdev.ErrClaimed)
	reserve(false, true)
	enter(true, bdev.ErrClaimed)
	enter(false, nil)
	reserve(true, false)
	b.Leave()
	b.Leave()
	enter(true, nil)
	enter(false, bdev.ErrClaimed)
	b.Leave()
	enter(false, nil)
}

// TestAlone: what begins alone is seen out before another LUN is served, and none
// begins once there is one. The LUNs hear of each other.
func TestAlone(t *testing.T) {
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(bdevtest.NewRig(t, 1, nil), 8))
	told, quiet := 0, 0
	stop := b.OnAlone(func() { told++ })
	expect := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(b.Enter(false))
	b.WhenQuiet(func() { quiet++ })
	expect("nothing begun", quiet, 1)
	expect("first", b.BeginAlone(), true)
	expect("second", b.BeginAlone(), true)
	must(b.Enter(false))
	expect("told", told, 1)
	b.WhenQuiet(func() { quiet++ })
	expect("with two LUNs", b.BeginAlone(), false)
	b.EndAlone()
	expect("one left", quiet, 1)
	b.EndAlone()
	expect("none left", quiet, 2)
	must(b.Enter(false))
	expect("a third", told, 1)
	b.Leave()
	expect("two left", b.BeginAlone(), false)
	b.Leave()
	expect("alone again", told, 2)
	expect("alone", b.BeginAlone(), true)
	stop()
	must(b.Enter(false))
	expect("stopped", told, 2)
}

func TestRemove(t *testing.T) {
	g := bdevtest.NewRig(t, 2, nil)
	b := bdev.New("Slow0", bdev.UUID{}, slowDevice(g, time.Millisecond, time.Millisecond))
	b.SetLimits(bdev.Limits{RWIOsPerSec: 1})
	one, err := b.Open(g.Reactors[0])
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.Open(g.Reactors[1])
	if err != nil {
		t.Fatal(err)
	}
	flight, waiting := bdevtest.NewCall(bdev.Read, 0, 1, g.Buffer(512), 0), bdevtest.NewCall(bdev.Read, 1, 1, g.Buffer(512), 0)
	flight.Start(one)
	waiting.Start(one)
	var told, drained int
	b.OnRemove(func() { told++ })
	b.Remove(func() { drained++ })
	b.Remove(func() { t.Error("drained twice") })
	if told != 1 || drained != 0 {
		t.Fatalf("told %d times, drained %d times", told, drained)
	}
	for op := bdev.Read; op < bdev.NumOps; op++ {
		if s := bdevtest.NewCall(op, 0, 1, g.Buffer(512), 0).Start(two); s != bdev.Gone {
			t.Fatalf("%v: %v", op, s)
		}
	}
	g.Until("what was in flight", flight.Done)
	g.Until("what waited", waiting.Done)
	if flight.Final != bdev.OK || waiting.Final != bdev.Gone {
		t.Fatalf("in flight: %v, waiting: %v", flight.Final, waiting.Final)
	}
	if err := b.Close(); !errors.Is(err, bdev.ErrBusy) {
		t.Fatalf("close with open channels: %v", err)
	}
	one.Close()
	if drained != 0 {
		t.Fatal("drained with a channel open")
	}
	two.Close()
	if drained != 1 {
		t.Fatal("not drained")
	}
	if _, err := b.Open(g.Reactors[0]); !errors.Is(err, bdev.ErrGone) {
		t.Fatalf("open: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRemoveUnopened(t *testing.T) {
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(bdevtest.NewRig(t, 1, nil), 8))
	drained := false
	if b.Remove(func() { drained = true }); !drained {
		t.Fatal("not drained at once")
	}
}

// TestResizeClimbs: a change of the lowest device reaches the top of a stack.
func TestResizeClimbs(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	low := nullDevice(g, 100)
	mid, err := delay.New(delay.Config{Base: bdev.New("Null0", bdev.UUID{}, low)})
	if err != nil {
		t.Fatal(err)
	}
	top, err := errinj.New(bdev.New("Delay0", bdev.UUID{}, mid))
	if err != nil {
		t.Fatal(err)
	}
	b := bdev.New("EE0", bdev.UUID{}, top)
	var sizes []uint64
	stop := b.OnChange(func() { sizes = append(sizes, b.Info().Blocks) })
	ch := g.Open(b, 0)
	for _, n := range []uint64{200, 50} {
		if err := low.Resize(n); err != nil {
			t.Fatal(err)
		}
		g.MustDo(ch, bdev.Write, n-1, 1, g.Buffer(512), 0)
		if s := g.Do(ch, bdevtest.NewCall(bdev.Write, n, 1, g.Buffer(512), 0)); s != bdev.OutRange {
			t.Fatalf("beyond the end: %v", s)
		}
	}
	if err := low.Resize(0); !errors.Is(err, bdev.ErrGeometry) {
		t.Fatalf("resize to nothing: %v", err)
	}
	stop()
	_ = low.Resize(300)
	if len(sizes) != 2 || sizes[0] != 200 || sizes[1] != 50 {
		t.Fatalf("told of sizes %v", sizes)
	}
	if i := b.Info(); i.Product != "Error Injection Disk" || i.Caps&bdev.CapLend != 0 || i.Blocks != 300 {
		t.Fatalf("info %+v", *i)
	}
}

// meteredDevice tells how much it uses.
type meteredDevice struct{ bdev.Device }

func (meteredDevice) Info() *bdev.Info {
	return &bdev.Info{BlockSize: 512, Blocks: 8, Metered: true}
}

func (meteredDevice) Usage() (bdev.Usage, error) { return bdev.Usage{Used: 3, Available: 4}, nil }

// TestUsageClimbs: what a device uses is told by those on top of it.
func TestUsageClimbs(t *testing.T) {
	low := nullDevice(bdevtest.NewRig(t, 1, nil), 8)
	for _, tc := range []struct {
		name string
		base bdev.Device
		want bdev.Usage
		err  error
	}{{"metered", meteredDevice{low}, bdev.Usage{Used: 3, Available: 4}, nil}, {"unmetered", low, bdev.Usage{}, bdev.ErrUnmetered}} {
		t.Run(tc.name, func(t *testing.T) {
			mid, err := delay.New(delay.Config{Base: bdev.New("Base", bdev.UUID{}, tc.base)})
			if err != nil {
				t.Fatal(err)
			}
			top, err := errinj.New(bdev.New("Mid", bdev.UUID{}, mid))
			if err != nil {
				t.Fatal(err)
			}
			b := bdev.New("Top", bdev.UUID{}, top)
			if u, err := b.Usage(); u != tc.want || !errors.Is(err, tc.err) || b.Info().Metered != (tc.err == nil) {
				t.Errorf("usage %+v, %v; metered %v", u, err, b.Info().Metered)
			}
		})
	}
}

func TestStats(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	inj, err := errinj.New(slowDevice(g, 95*time.Microsecond, 95*time.Microsecond))
	if err != nil {
		t.Fatal(err)
	}
	b := bdev.New("Slow0", bdev.UUID{}, inj)
	ch, buf := g.Open(b, 0), g.Buffer(8192)
	run := func() {
		g.MustDo(ch, bdev.Read, 0, 8, buf.Slice(0, 4096), 0)
		g.MustDo(ch, bdev.Read, 0, 16, buf, 0)
		g.MustDo(ch, bdev.Write, 0, 1, buf.Slice(0, 512), 0)
		g.MustDo(ch, bdev.Unmap, 0, 100, mem.Ref{}, 0)
		g.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
		_ = inj.Inject(errinj.Injection{Op: bdev.Write, Type: errinj.Failure, Num: 1})
		g.Do(ch, bdevtest.NewCall(bdev.Write, 0, 1, buf.Slice(0, 512), 0))
		g.Do(ch, bdevtest.NewCall(bdev.Read, 1<<40, 1, buf.Slice(0, 512), 0))
		g.Turn()
	}
	check := func(when string, k uint64, failed uint64) {
		t.Helper()
		s := b.Stats(bdev.ResetNone)
		for _, w := range []struct {
			op         bdev.Op
			ops, bytes uint64
		}{{bdev.Read, 2 * k, 12288 * k}, {bdev.Write, k, 512 * k}, {bdev.Unmap, k, 51200 * k}, {bdev.Flush, k, 0}, {bdev.WriteZeroes, 0, 0}} {
			c := s.Ops[w.op]
			if c.Ops != w.ops || c.Bytes != w.bytes {
				t.Fatalf("%s: %v: %d ops, %d bytes", when, w.op, c.Ops, c.Bytes)
			}
			// The rig turns every 10 µs, so 95 µs take 100.
			if w.ops != 0 && (c.LatencyMin != 100_000 || c.LatencyMax != 100_000 || c.LatencySum != w.ops*100_000) {
				t.Fatalf("%s: %v: latency %+v", when, w.op, c)
			}
		}
		if s.Errors[bdev.Failed] != failed || s.Errors[bdev.OutRange] != failed {
			t.Fatalf("%s: errors %v", when, s.Errors)
		}
	}
	run()
	check("first", 1, 1)
	run()
	check("second", 2, 2)
	b.Stats(bdev.ResetError)
	check("errors reset", 2, 0)
	b.Stats(bdev.ResetMaxMin)
	if c := b.Stats(bdev.ResetNone).Ops[bdev.Read]; c.Ops != 4 || c.LatencyMin != 0 || c.LatencyMax != 0 || c.LatencySum == 0 {
		t.Fatalf("maxmin reset: %+v", c)
	}
	if s := b.Stats(bdev.ResetAll); s.Ops[bdev.Read].Ops != 4 {
		t.Fatalf("a reset returns what it resets: %+v", s.Ops[bdev.Read])
	}
	check("all reset", 0, 0)
	run()
	check("after it", 1, 1)
}

// TestStatsFromOtherThreads reads and resets while the reactor counts; the race
// detector is the judge.
func TestStatsFromOtherThreads(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(g, 1024))
	ch := g.Open(b, 0)
	stop := make(chan struct{})
	var reader sync.WaitGroup
	var seen uint64
	reader.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			seen += b.Stats(bdev.ResetAll).Ops[bdev.Read].Ops
			b.PerChannel()
			switch i % 3 {
			case 0:
				_ = b.EnableHistogram(bdev.HistogramOptions{Op: bdev.AllOps})
			case 1:
				b.Histogram()
			case 2:
				b.DisableHistogram()
			}
		}
	})
	c := bdevtest.NewCall(bdev.Read, 0, 8, g.Buffer(4096), 0)
	const n = 20_000
	for i := range n {
		c.Start(ch)
		if i%7 == 0 {
			g.Turn()
		}
	}
	g.Turn()
	close(stop)
	reader.Wait()
	if seen += b.Stats(bdev.ResetAll).Ops[bdev.Read].Ops; seen != n {
		t.Fatalf("%d of %d reads were counted", seen, n)
	}
}

func TestPerChannel(t *testing.T) {
	g := bdevtest.NewRig(t, 2, nil)
	b := bdev.New("Slow0", bdev.UUID{}, slowDevice(g, time.Millisecond, time.Millisecond))
	one, two := g.Open(b, 0), g.Open(b, 1)
	g.MustDo(one, bdev.Read, 0, 1, g.Buffer(512), 0)
	c := bdevtest.NewCall(bdev.Write, 0, 1, g.Buffer(512), 0)
	c.Start(two)
	g.Turn()
	list := b.PerChannel()
	if len(list) != 2 || list[0].Reactor != 0 || list[0].Ops[bdev.Read].Ops != 1 || list[0].InFlight != 0 ||
		list[1].Reactor != 1 || list[1].Ops[bdev.Write].Ops != 0 || list[1].InFlight != 1 || b.InFlight() != 1 {
		t.Fatalf("%+v", list)
	}
	g.Until("write", c.Done)
	if g.Turn(); b.InFlight() != 0 {
		t.Fatal("still in flight")
	}
}

// TestNoAllocations holds the data path of a Bdev to zero allocations, with and
// without a histogram and limits.
func TestNoAllocations(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*bdev.Bdev)
	}{
		{"plain", func(*bdev.Bdev) {}},
		{"histogram", func(b *bdev.Bdev) { _ = b.EnableHistogram(bdev.HistogramOptions{Op: bdev.AllOps}) }},
		{"limits", func(b *bdev.Bdev) { b.SetLimits(bdev.Limits{RWMBPerSec: 1 << 30}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := bdevtest.NewRig(t, 1, nil)
			b := bdev.New("Null0", bdev.UUID{}, nullDevice(g, 1024))
			ch := g.Open(b, 0)
			tt.set(b)
			c := bdevtest.NewCall(bdev.Read, 0, 8, g.Buffer(4096), 0)
			if n := testing.AllocsPerRun(1000, func() {
				if s := c.Start(ch); s != bdev.OK {
					t.Fatal(s)
				}
				g.Turn()
			}); n != 0 {
				t.Fatalf("%v allocations an I/O", n)
			}
		})
	}
}
