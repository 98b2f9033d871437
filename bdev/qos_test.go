package bdev_test

import (
	"math"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/errinj"
	"spindle/reactor/mem"
)

// load keeps depth I/Os of each channel in flight for d and counts what ended.
func load(g *bdevtest.Rig, chs []bdev.Channel, depth int, n uint32, d time.Duration, op func(i int) bdev.Op) (ops [bdev.NumOps]int) {
	g.T.Helper()
	type job struct {
		*bdevtest.Call
		ch bdev.Channel
	}
	var jobs []job
	for _, ch := range chs {
		for i := range depth {
			jobs = append(jobs, job{bdevtest.NewCall(op(i), uint64(i), n, g.Buffer(n*512), 0), ch})
		}
	}
	for _, j := range jobs {
		j.Start(j.ch)
	}
	for end := g.Clock.Now().Add(d); g.Clock.Now() < end; {
		g.Turn()
		for _, j := range jobs {
			if !j.Done() {
				continue
			}
			if j.Final != bdev.OK || j.Inside {
				g.T.Fatalf("%v: %v", j.Op, j.Final)
			}
			ops[j.Op]++
			j.Start(j.ch)
		}
	}
	return ops
}

func TestQoSRate(t *testing.T) {
	read := func(int) bdev.Op { return bdev.Read }
	mixed := func(i int) bdev.Op { return bdev.Op(i % 2) }
	for _, tt := range []struct {
		name   string
		limits bdev.Limits
		n      uint32 // blocks an I/O
		op     func(int) bdev.Op
		// want an I/O count of each kind in 1 s; negative is not checked
		reads, writes float64
	}{
		{"IOPS", bdev.Limits{RWIOsPerSec: 1000}, 1, read, 1000, 0},
		{"odd IOPS", bdev.Limits{RWIOsPerSec: 1537}, 8, read, 1537, 0},
		{"few IOPS", bdev.Limits{RWIOsPerSec: 10}, 1, read, 10, 0},
		{"bandwidth", bdev.Limits{RWMBPerSec: 10}, 8, read, 10 << 20 / 4096, 0},
		{"large I/O", bdev.Limits{RWMBPerSec: 1}, 1000, read, 2, 0},
		{"write bandwidth", bdev.Limits{WMBPerSec: 2}, 8, mixed, -1, 2 << 20 / 4096},
		{"both", bdev.Limits{RMBPerSec: 1, WMBPerSec: 1}, 8, mixed, 256, 256},
		{"the lower of two", bdev.Limits{RWIOsPerSec: 100, RWMBPerSec: 100}, 1, read, 100, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := bdevtest.NewRig(t, 2, nil)
			b := bdev.New("Slow0", bdev.UUID{}, slowDevice(g, time.Microsecond, 20*time.Microsecond))
			b.SetLimits(tt.limits)
			ops := load(g, []bdev.Channel{g.Open(b, 0), g.Open(b, 1)}, 4, tt.n, time.Second, tt.op)
			for op, want := range map[bdev.Op]float64{bdev.Read: tt.reads, bdev.Write: tt.writes} {
				// One timeslice's burst, and what is still in flight.
				if slack := want*0.02 + 9; want >= 0 && math.Abs(float64(ops[op])-want) > slack {
					t.Errorf("%d %vs in 1 s, want %v", ops[op], op, want)
				}
			}
			list := b.PerChannel()
			for op := bdev.Read; op <= bdev.Write; op++ {
				x, y := float64(list[0].Ops[op].Ops), float64(list[1].Ops[op].Ops)
				if math.Abs(x-y) > 0.1*(x+y)+4 {
					t.Errorf("%v %vs on one reactor, %v on the other", x, op, y)
				}
			}
			b.SetLimits(bdev.Limits{})
			g.Advance(5 * time.Millisecond)
		})
	}
}

// TestQoSReadsPassWrites: a limit on writes alone leaves reads as fast as they were.
func TestQoSReadsPassWrites(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(g, 1024))
	b.SetLimits(bdev.Limits{WMBPerSec: 1})
	ch, buf := g.Open(b, 0), g.Buffer(1<<19)
	first, second := bdevtest.NewCall(bdev.Write, 0, 1000, buf.Slice(0, 512000), 0), bdevtest.NewCall(bdev.Write, 0, 1000, buf.Slice(0, 512000), 0)
	if s := first.Start(ch); s != bdev.OK {
		t.Fatalf("on credit: %v", s)
	}
	if s := second.Start(ch); s != bdev.Pending {
		t.Fatalf("beyond the limit: %v", s)
	}
	if s := bdevtest.NewCall(bdev.Read, 0, 1, buf.Slice(0, 512), 0).Start(ch); s != bdev.OK {
		t.Fatalf("read: %v", s)
	}
	if s := bdevtest.NewCall(bdev.Flush, 0, 0, mem.Ref{}, 0).Start(ch); s != bdev.OK {
		t.Fatalf("flush: %v", s)
	}
	g.Advance(400 * time.Millisecond)
	if second.Done() {
		t.Fatal("the credit was not paid back")
	}
	g.Advance(100 * time.Millisecond)
	if !second.Done() {
		t.Fatal("still waiting")
	}
}

// TestQoSOrder: what waits goes on in the order it came, whatever the module
// refuses meanwhile, and abort and lifting the limit end the wait.
func TestQoSOrder(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	inj, err := errinj.New(nullDevice(g, 1024))
	if err != nil {
		t.Fatal(err)
	}
	b := bdev.New("EE0", bdev.UUID{}, inj)
	b.SetLimits(bdev.Limits{RWIOsPerSec: 1000})
	ch, buf := g.Open(b, 0), g.Buffer(512)
	const n = 10
	calls := make([]*bdevtest.Call, n)
	for i := range calls {
		calls[i] = bdevtest.NewCall(bdev.Read, uint64(i), 1, buf, 0)
		calls[i].Start(ch)
	}
	_ = inj.Inject(errinj.Injection{Op: bdev.Read, Type: errinj.OutOfMemory, Num: 3})
	ch.Abort(&calls[5].IO)
	if calls[5].Done() {
		t.Fatal("ended inside Abort")
	}
	for turns := 0; !calls[n-2].Done(); turns++ {
		g.Turn()
		ended := true
		for i, c := range calls {
			if i == 5 {
				continue
			}
			if c.Done() && !ended {
				t.Fatalf("I/O %d ended before an earlier one", i)
			}
			ended = c.Done()
		}
		if turns == 10_000 {
			t.Fatal("stuck")
		}
	}
	if calls[5].Final != bdev.Aborted || calls[5].Calls != 1 {
		t.Fatalf("aborted: %v", calls[5].Final)
	}
	if at := g.Clock.Now(); at < 7_000_000 || at > 8_000_000 {
		t.Fatalf("7 that had to wait took %v at 1000 a second", time.Duration(at))
	}
	if inj.Left(bdev.Read) != 0 {
		t.Fatal("nothing was refused")
	}
	b.SetLimits(bdev.Limits{RWIOsPerSec: 1})
	g.MustDo(ch, bdev.Read, 0, 1, buf, 0)
	last := bdevtest.NewCall(bdev.Read, 0, 1, buf, 0)
	if s := last.Start(ch); s != bdev.Pending {
		t.Fatal(s)
	}
	b.SetLimits(bdev.Limits{})
	g.Advance(2 * time.Millisecond)
	if last.Final != bdev.OK {
		t.Fatalf("after the limit was lifted: %v", last.Final)
	}
}
