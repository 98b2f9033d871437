package errinj_test

import (
	"errors"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/crashable"
	"spindle/bdev/errinj"
	"spindle/bdev/malloc"
)

func ram(g *bdevtest.Rig, n uint64) bdev.Device {
	d, err := malloc.New(malloc.Config{BlockSize: 512, Blocks: n, Space: g.Space, Node: -1})
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

func newDevice(g *bdevtest.Rig, base bdev.Device) *errinj.Device {
	d, err := errinj.New(base)
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) {
	for _, tt := range []struct {
		name string
		base func(*bdevtest.Rig, uint64) bdev.Device
		in   errinj.Injection
	}{
		{name: "idle", base: ram},
		{name: "slow base", base: slow},
		{name: "refusing", base: slow, in: errinj.Injection{Op: bdev.AllOps, Type: errinj.OutOfMemory, Num: 300}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bdevtest.Run(t, bdevtest.Factory{New: func(g *bdevtest.Rig, n uint64) bdev.Device {
				d := newDevice(g, tt.base(g, n))
				if err := d.Inject(tt.in); err != nil {
					g.T.Fatal(err)
				}
				return d
			}})
		})
	}
}

func TestInject(t *testing.T) {
	const n = 3
	for _, tt := range []struct {
		name   string
		base   func(*bdevtest.Rig, uint64) bdev.Device
		order  bdev.Op
		typ    errinj.Type
		victim bdev.Op
		want   bdev.Status
		other  bdev.Op // not befallen
	}{
		{"failing reads", ram, bdev.Read, errinj.Failure, bdev.Read, bdev.Failed, bdev.Write},
		{"failing writes", slow, bdev.Write, errinj.Failure, bdev.Write, bdev.Failed, bdev.Read},
		{"failing flushes", ram, bdev.Flush, errinj.Failure, bdev.Flush, bdev.Failed, bdev.Unmap},
		{"failing unmaps", ram, bdev.Unmap, errinj.Failure, bdev.Unmap, bdev.Failed, bdev.WriteZeroes},
		{"everything", ram, bdev.AllOps, errinj.Failure, bdev.WriteZeroes, bdev.Failed, bdev.NumOps},
		{"no memory", slow, bdev.Write, errinj.OutOfMemory, bdev.Write, bdev.NoMem, bdev.Read},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := bdevtest.NewRig(t, 1, nil)
			d := newDevice(g, tt.base(g, 64))
			ch, buf := g.Open(d, 0), g.Buffer(512)
			if err := d.Inject(errinj.Injection{Op: tt.order, Type: tt.typ, Num: n}); err != nil {
				t.Fatal(err)
			}
			if tt.other != bdev.NumOps {
				g.MustDo(ch, tt.other, 0, 1, buf, 0)
			}
			for i := range n {
				if s := bdevtest.NewCall(tt.victim, 0, 1, buf, 0).Start(ch); s != tt.want {
					t.Fatalf("%v %d: %v", tt.victim, i, s)
				}
			}
			if left := d.Left(tt.victim); left != 0 {
				t.Fatalf("%d errors left", left)
			}
			g.MustDo(ch, tt.victim, 0, 1, buf, 0)
		})
	}
	d := newDevice(bdevtest.NewRig(t, 1, nil), ram(bdevtest.NewRig(t, 1, nil), 8))
	if err := d.Inject(errinj.Injection{Type: errinj.OutOfMemory + 1}); !errors.Is(err, errinj.ErrType) {
		t.Fatal(err)
	}
}

func TestClear(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	d := newDevice(g, ram(g, 64))
	ch := g.Open(d, 0)
	_ = d.Inject(errinj.Injection{Op: bdev.AllOps, Type: errinj.Failure, Num: 100})
	_ = d.Inject(errinj.Injection{Op: bdev.AllOps, Type: errinj.None})
	g.MustDo(ch, bdev.Read, 0, 1, g.Buffer(512), 0)
}

// TestCorrupt: a byte of what is read, or of what reaches the medium, changes;
// the submitter's own data does not.
func TestCorrupt(t *testing.T) {
	for _, tt := range []struct {
		name string
		base func(*bdevtest.Rig, uint64) bdev.Device
	}{{"sync", ram}, {"async", slow}} {
		t.Run(tt.name, func(t *testing.T) {
			g := bdevtest.NewRig(t, 1, nil)
			d := newDevice(g, tt.base(g, 64))
			ch, buf := g.Open(d, 0), g.Buffer(512)
			at := func(i int) byte { return buf.Bytes()[i] }
			read := func() {
				clear(buf.Bytes())
				g.MustDo(ch, bdev.Read, 0, 1, buf, 0)
			}
			order := errinj.Injection{Op: bdev.Write, Type: errinj.CorruptData, Num: 1, Offset: 100, Value: 0xee}
			_ = d.Inject(order)
			clear(buf.Bytes())
			buf.Bytes()[100] = 0x33
			g.MustDo(ch, bdev.Write, 0, 1, buf, 0)
			if at(100) != 0x33 {
				t.Fatalf("the submitter's data changed: %#x", at(100))
			}
			if read(); at(100) != 0x33^0xee || at(99) != 0 {
				t.Fatalf("written: %#x", at(100))
			}
			order.Op, order.Value = bdev.Read, 0xdd
			_ = d.Inject(order)
			if read(); at(100) != 0x33^0xee^0xdd {
				t.Fatalf("corrupted read: %#x", at(100))
			}
			if read(); at(100) != 0x33^0xee {
				t.Fatalf("read after it: %#x", at(100))
			}
		})
	}
}

func TestStuck(t *testing.T) {
	for _, tt := range []struct {
		name string
		base func(*bdevtest.Rig, uint64) bdev.Device
	}{{"sync", ram}, {"async", slow}} {
		t.Run(tt.name, func(t *testing.T) {
			g := bdevtest.NewRig(t, 2, nil)
			d := newDevice(g, tt.base(g, 64))
			ch, other := g.Open(d, 0), g.Open(d, 1)
			_ = d.Inject(errinj.Injection{Op: bdev.Write, Type: errinj.Stuck, Num: 3})
			var calls []*bdevtest.Call
			for i, c := range []bdev.Channel{ch, other, ch} {
				calls = append(calls, bdevtest.NewCall(bdev.Write, uint64(i), 1, g.Buffer(512), 0))
				if s := calls[i].Start(c); s != bdev.Pending {
					t.Fatal(s)
				}
			}
			g.Advance(time.Second)
			for _, c := range calls {
				if c.Done() {
					t.Fatal("a held I/O ended")
				}
			}
			ch.Abort(&calls[2].IO)
			g.Turn()
			if calls[2].Final != bdev.Aborted || calls[2].Calls != 1 {
				t.Fatalf("aborted: %v", calls[2].Final)
			}
			d.ResumePending()
			d.ResumePending()
			for _, c := range calls[:2] {
				g.Until("resumed", c.Done)
				if c.Final != bdev.OK || c.Calls != 1 {
					t.Fatalf("resumed: %v, %d calls", c.Final, c.Calls)
				}
			}
		})
	}
}

func TestQueueDepth(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	d := newDevice(g, slow(g, 64))
	ch, a, b := g.Open(d, 0), g.Buffer(512), g.Buffer(512)
	_ = d.Inject(errinj.Injection{Op: bdev.Read, Type: errinj.Failure, Num: 9, QueueDepth: 1})
	g.MustDo(ch, bdev.Read, 0, 1, a, 0)
	first := bdevtest.NewCall(bdev.Read, 0, 1, a, 0)
	first.Start(ch)
	if s := bdevtest.NewCall(bdev.Read, 0, 1, b, 0).Start(ch); s != bdev.Failed {
		t.Fatalf("at depth 1: %v", s)
	}
	g.Until("first", first.Done)
	if first.Final != bdev.OK {
		t.Fatal(first.Final)
	}
}

// TestResumedRefused: what is told to go on when the base has no memory for it goes
// on as soon as there is some, and can be aborted until then.
func TestResumedRefused(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	base := newDevice(g, ram(g, 64))
	d := newDevice(g, base)
	ch := g.Open(d, 0)
	_ = d.Inject(errinj.Injection{Op: bdev.Write, Type: errinj.Stuck, Num: 2})
	_ = base.Inject(errinj.Injection{Op: bdev.Write, Type: errinj.OutOfMemory, Num: 5})
	var calls []*bdevtest.Call
	for i := range 2 {
		calls = append(calls, bdevtest.NewCall(bdev.Write, uint64(i), 1, g.Buffer(512), 0))
		calls[i].Start(ch)
	}
	d.ResumePending()
	g.Until("refusal", func() bool { return base.Left(bdev.Write) < 5 })
	ch.Abort(&calls[1].IO)
	g.Turn()
	if calls[1].Final != bdev.Aborted || calls[0].Done() {
		t.Fatalf("%v and %v", calls[1].Final, calls[0].Final)
	}
	g.Advance(time.Second)
	if calls[0].Final != bdev.OK || calls[0].Calls+calls[1].Calls != 2 || base.Left(bdev.Write) != 0 {
		t.Errorf("%v after %d calls of IODone, %d refusals left", calls[0].Final, calls[0].Calls+calls[1].Calls, base.Left(bdev.Write))
	}
}
