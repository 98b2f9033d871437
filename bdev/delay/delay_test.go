package delay_test

import (
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/crashable"
	"spindle/bdev/delay"
	"spindle/bdev/malloc"
	"spindle/bdev/null"
	"spindle/reactor/mem"
)

func ram(g *bdevtest.Rig, n uint64) bdev.Device {
	d, err := malloc.New(malloc.Config{BlockSize: 512, Blocks: n, Space: g.Space, Node: -1})
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

func lender(g *bdevtest.Rig, n uint64) bdev.Device {
	d, err := null.New(null.Config{BlockSize: 512, Blocks: n, Space: g.Space})
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

func slow(g *bdevtest.Rig, n uint64) bdev.Device {
	d, err := crashable.New(crashable.Config{BlockSize: 512, Blocks: n, MaxDelay: 100 * time.Microsecond})
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

func newDevice(g *bdevtest.Rig, base bdev.Device, l [delay.NumKinds]time.Duration) *delay.Device {
	d, err := delay.New(delay.Config{Base: base, Latency: l})
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) {
	for _, tt := range []struct {
		name    string
		base    func(*bdevtest.Rig, uint64) bdev.Device
		forgets bool
		latency [delay.NumKinds]time.Duration
	}{
		{name: "none", base: ram},
		{name: "sync base", base: ram, latency: [...]time.Duration{50e3, 200e3, 30e3, 100e3}},
		{name: "lending base", base: lender, forgets: true, latency: [...]time.Duration{50e3, 200e3, 30e3, 100e3}},
		{name: "slow base", base: slow, latency: [...]time.Duration{50e3, 200e3, 30e3, 100e3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bdevtest.Run(t, bdevtest.Factory{
				Forgets: tt.forgets,
				New: func(g *bdevtest.Rig, n uint64) bdev.Device {
					return newDevice(g, tt.base(g, n), tt.latency)
				},
			})
		})
	}
}

// TestLatency measures each I/O on the manual clock: 99 average ones, then one
// of the 99th percentile; a change applies to the next.
func TestLatency(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	d := newDevice(g, ram(g, 64), [...]time.Duration{
		delay.AvgRead: time.Millisecond, delay.P99Read: 5 * time.Millisecond,
		delay.AvgWrite: 2 * time.Millisecond, delay.P99Write: 7 * time.Millisecond,
	})
	ch, buf := g.Open(d, 0), g.Buffer(512)
	measure := func(op bdev.Op) time.Duration {
		start := g.Clock.Now()
		g.MustDo(ch, op, 0, 1, buf, 0)
		return g.Clock.Now().Sub(start)
	}
	near := func(op bdev.Op, want time.Duration) {
		t.Helper()
		if got := measure(op); got < want || got > want+30*time.Microsecond {
			t.Fatalf("%v took %v, want %v", op, got, want)
		}
	}
	for i := 1; i <= 200; i++ {
		read, write := time.Millisecond, 2*time.Millisecond
		if i%100 == 0 {
			read, write = 5*time.Millisecond, 7*time.Millisecond
		}
		near(bdev.Read, read)
		near(bdev.Write, write)
	}
	near(bdev.Flush, 0)
	d.SetLatency(delay.AvgRead, 3*time.Millisecond)
	near(bdev.Read, 3*time.Millisecond)
	d.SetLatency(delay.AvgRead, 0)
	near(bdev.Read, 0)
}

// TestAbortHeld: aborting what is only held back does not wait for its time.
func TestAbortHeld(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	d := newDevice(g, ram(g, 64), [...]time.Duration{time.Hour, 0, 0, 0})
	ch := g.Open(d, 0)
	first, second := bdevtest.NewCall(bdev.Read, 0, 1, g.Buffer(512), 0), bdevtest.NewCall(bdev.Read, 1, 1, g.Buffer(512), 0)
	first.Start(ch)
	second.Start(ch)
	ch.Abort(&second.IO)
	if second.Done() {
		t.Fatal("ended inside Abort")
	}
	g.Turn()
	if !second.Done() || first.Done() {
		t.Fatalf("aborted: %v, other: %v", second.Final, first.Final)
	}
	ch.Abort(&first.IO)
	g.Until("first", first.Done)
	if s := g.Do(ch, bdevtest.NewCall(bdev.Unmap, 0, 1, mem.Ref{}, 0)); s != bdev.OK {
		t.Fatal(s)
	}
}
