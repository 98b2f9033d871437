package bdev_test

import (
	"math"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/errinj"
	"spindle/reactor"
	"spindle/reactor/mem"
)

// step is how far the rig's clock moves a turn.
const step = 10 * time.Microsecond

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

// TestQoSInline: where there are limits a Write may have to wait. One that was
// told before the limits were set that it would not does not, and pays later.
func TestQoSInline(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(g, 1024))
	ch, buf := g.Open(b, 0), g.Buffer(512)
	may := ch.(bdev.Inliner).Inline
	write := func(fl bdev.Flags) (*bdevtest.Call, bdev.Status) {
		c := bdevtest.NewCall(bdev.Write, 0, 1, buf, fl)
		return c, c.Start(ch)
	}
	if !may() {
		t.Fatal("without limits")
	}
	b.SetLimits(bdev.Limits{RWIOsPerSec: 1000})
	write(0)
	if _, s := write(bdev.Inline); may() || s != bdev.OK {
		t.Fatalf("just before the limits: %v", s)
	}
	late, s := write(0)
	g.Advance(1500 * time.Microsecond)
	if s != bdev.Pending || late.Done() {
		t.Fatalf("%v: the write before it did not pay", s)
	}
	b.SetLimits(bdev.Limits{})
	if may() {
		t.Fatal("while another write waits")
	}
	g.Advance(2 * time.Millisecond)
	if !late.Done() || !may() {
		t.Fatal("the limits are lifted")
	}
}

// inOrder is a Completer that notes the order of completion by LBA.
type inOrder struct{ lbas []uint64 }

func (o *inOrder) IODone(io *bdev.IO) {
	io.Pop()
	o.lbas = append(o.lbas, io.LBA)
}

func (o *inOrder) start(ch bdev.Channel, io *bdev.IO) {
	io.Push(o, 0)
	if ch.Submit(io) != bdev.Pending {
		io.Pop()
		o.lbas = append(o.lbas, io.LBA)
	}
}

// TestQoSOrder: what waits goes on in the order it came, whatever the module
// refuses meanwhile, and what is submitted just when there are tokens again
// does not overtake it.
func TestQoSOrder(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	inj, err := errinj.New(nullDevice(g, 1024))
	if err != nil {
		t.Fatal(err)
	}
	b := bdev.New("EE0", bdev.UUID{}, inj)
	b.SetLimits(bdev.Limits{RWIOsPerSec: 4000})
	ch, buf := g.Open(b, 0), g.Buffer(512)
	const n = 20
	order, ios := &inOrder{}, [n + 1]bdev.IO{}
	for i := range ios {
		ios[i] = bdev.IO{Op: bdev.Read, LBA: uint64(i), Blocks: 1, Data: buf}
	}
	for i := range n {
		order.start(ch, &ios[i])
	}
	if len(order.lbas) != 4 {
		t.Fatalf("%d passed, a timeslice has 4", len(order.lbas))
	}
	_ = inj.Inject(errinj.Injection{Op: bdev.Read, Type: errinj.OutOfMemory, Num: 2})
	// A message runs in the turn that begins the slice, before the timer does.
	g.Tick(time.Millisecond - step)
	late := &reactor.Msg{Run: func(*reactor.Reactor) { order.start(ch, &ios[n]) }}
	g.Reactors[0].Post(late)
	g.Until("all", func() bool { return len(order.lbas) == n+1 })
	for i, lba := range order.lbas {
		if lba != uint64(i) {
			t.Fatalf("ended in the order %v", order.lbas)
		}
	}
	if at := g.Clock.Now(); at < 5_000_000 || at > 6_000_000 {
		t.Fatalf("17 that had to wait took %v at 4 a millisecond", time.Duration(at))
	}
	if inj.Left(bdev.Read) != 0 {
		t.Fatal("nothing was refused")
	}
}

// TestQoSEndOfWait: an abort, and lifting the limit, end the wait.
func TestQoSEndOfWait(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(g, 1024))
	b.SetLimits(bdev.Limits{RWIOsPerSec: 1})
	ch, buf := g.Open(b, 0), g.Buffer(512)
	g.MustDo(ch, bdev.Read, 0, 1, buf, 0)
	var calls [3]*bdevtest.Call
	for i := range calls {
		calls[i] = bdevtest.NewCall(bdev.Read, 0, 1, buf, 0)
		if s := calls[i].Start(ch); s != bdev.Pending {
			t.Fatal(s)
		}
	}
	ch.Abort(&calls[1].IO)
	if calls[1].Done() {
		t.Fatal("ended inside Abort")
	}
	ch.Abort(&calls[1].IO)
	g.Turn()
	if calls[1].Final != bdev.Aborted || calls[1].Calls != 1 || calls[0].Done() {
		t.Fatalf("aborted: %v, the one before: %v", calls[1].Final, calls[0].Final)
	}
	b.SetLimits(bdev.Limits{})
	g.Advance(2 * time.Millisecond)
	if calls[0].Final != bdev.OK || calls[2].Final != bdev.OK {
		t.Fatalf("after the limit was lifted: %v, %v", calls[0].Final, calls[2].Final)
	}
}

// TestQoSBurst: a bdev that was idle has saved up one timeslice, not more.
func TestQoSBurst(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(g, 1024))
	b.SetLimits(bdev.Limits{RWIOsPerSec: 10_000})
	ch, buf := g.Open(b, 0), g.Buffer(512)
	g.Advance(100 * time.Millisecond)
	at, passed := g.Clock.Now(), 0
	var calls []*bdevtest.Call
	for range 50 {
		c := bdevtest.NewCall(bdev.Read, 0, 1, buf, 0)
		if c.Start(ch) == bdev.OK {
			passed++
		}
		calls = append(calls, c)
	}
	if passed != 10 {
		t.Fatalf("%d passed at once, a timeslice has 10", passed)
	}
	for _, c := range calls {
		g.Until("read", c.Done)
	}
	if took := g.Clock.Now().Sub(at); took < 3*time.Millisecond || took > 5*time.Millisecond {
		t.Fatalf("40 more took %v", took)
	}
}

// TestQoSAbortLast: an I/O that comes after the last one that waited was aborted
// has its turn.
func TestQoSAbortLast(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(g, 1024))
	b.SetLimits(bdev.Limits{RWIOsPerSec: 1000})
	ch, buf := g.Open(b, 0), g.Buffer(512)
	g.MustDo(ch, bdev.Read, 0, 1, buf, 0)
	var calls [3]*bdevtest.Call
	for i := range calls {
		calls[i] = bdevtest.NewCall(bdev.Read, uint64(i), 1, buf, 0)
	}
	calls[0].Start(ch)
	calls[1].Start(ch)
	ch.Abort(&calls[1].IO)
	calls[2].Start(ch)
	g.Advance(10 * time.Millisecond)
	if calls[0].Final != bdev.OK || calls[1].Final != bdev.Aborted || calls[2].Final != bdev.OK {
		t.Fatalf("%v, %v, %v", calls[0].Final, calls[1].Final, calls[2].Final)
	}
}

// TestRangeWraps: no sum of place and length wraps to a place on the device.
func TestRangeWraps(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(g, 1024))
	ch, buf := g.Open(b, 0), g.Buffer(1024)
	for _, lba := range []uint64{1<<64 - 1, 1<<64 - 2, 1 << 63, 1023, 1024, 1025} {
		for op := bdev.Read; op < bdev.NumOps; op++ {
			if op == bdev.Flush {
				continue
			}
			if s := bdevtest.NewCall(op, lba, 2, buf, 0).Start(ch); s != bdev.OutRange {
				t.Errorf("%v of two blocks at %#x: %v", op, lba, s)
			}
		}
	}
}

// TestQoSNotBegun: what the module refused for want of memory, or was aborted
// before it took it, has used nothing of the limit.
func TestQoSNotBegun(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	inj, err := errinj.New(nullDevice(g, 1024))
	if err != nil {
		t.Fatal(err)
	}
	b := bdev.New("EE0", bdev.UUID{}, inj)
	b.SetLimits(bdev.Limits{RWIOsPerSec: 1000, RWMBPerSec: 1, RMBPerSec: 1, WMBPerSec: 1})
	ch, buf := g.Open(b, 0), g.Buffer(512)
	refuse := func(op bdev.Op, n uint32) {
		if err := inj.Inject(errinj.Injection{Op: op, Type: errinj.OutOfMemory, Num: n}); err != nil {
			t.Fatal(err)
		}
	}
	for _, op := range []bdev.Op{bdev.Read, bdev.Write} {
		refuse(op, 5)
		c := bdevtest.NewCall(op, 0, 1, buf, 0)
		for k := range 5 {
			if s := c.Start(ch); s != bdev.NoMem {
				t.Fatalf("%v %d: %v", op, k, s)
			}
		}
		if s := c.Start(ch); s != bdev.OK {
			t.Errorf("%v: %v after it was refused", op, s)
		}
		g.Advance(5 * time.Millisecond)
	}
	// The first has the slice's token, the second waits for the next one's and is
	// refused then, and aborted.
	g.MustDo(ch, bdev.Read, 0, 1, buf, 0)
	second, third := bdevtest.NewCall(bdev.Read, 0, 1, buf, 0), bdevtest.NewCall(bdev.Read, 0, 1, buf, 0)
	refuse(bdev.Read, 1)
	second.Start(ch)
	g.Until("refusal", func() bool { return inj.Left(bdev.Read) == 0 })
	ch.Abort(&second.IO)
	g.Turn()
	if s := third.Start(ch); s != bdev.OK || second.Final != bdev.Aborted {
		t.Errorf("after the abort: %v, %v", s, second.Final)
	}
	g.Until("third", third.Done)
}
