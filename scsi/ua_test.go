package scsi

import "testing"

// TestFreshNexus: a fresh nexus sees exactly one unit attention, 29/00, and
// INQUIRY, REPORT LUNS do not take it.
func TestFreshNexus(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 10, 0), LUNOptions{})
	s := g.session("a", 0)
	s.in(0, cdb("12 00 00 00 ff"), 255)
	s.in(0, cdb("a0 00 00 00 00 00 00 00 01 00"), 256)
	for i, want := range []string{"06/2900", "good"} {
		if q := s.do(0, cdb("00"), nil, 0); q.outcome() != want {
			t.Errorf("command %d: %s, want %s", i, q.outcome(), want)
		}
	}
	o := g.session("b", 0)
	if sense := o.in(0, cdb("03 00 00 00 ff"), 255); sense[2] != 6 || be.Uint16(sense[12:]) != 0x2900 {
		t.Errorf("request sense: % x", sense)
	}
	if q := o.do(0, cdb("00"), nil, 0); q.outcome() != "good" {
		t.Errorf("after request sense: %s", q.outcome())
	}
	if sense := o.in(0, cdb("03 01 00 00 ff"), 255); sense[0] != 0x72 || len(sense) != 8 {
		t.Errorf("no sense in descriptor format: % x", sense)
	}
}

func TestUnitAttentionQueue(t *testing.T) {
	tests := []struct {
		name  string
		queue []Code
		want  []Code
	}{
		{"in order", []Code{ModeParametersChanged, CapacityChanged}, []Code{ModeParametersChanged, CapacityChanged}},
		{"told once", []Code{NexusLoss, NexusLoss}, []Code{NexusLoss}},
		{"power on covers", []Code{PowerOnReset, NexusLoss, ReportedLUNsChanged}, []Code{PowerOnReset}},
		{"overflow", []Code{1, 2, 3, 4, 5, 6, 7, 8, 9}, []Code{PowerOnReset}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			i := &ITL{}
			for _, c := range tc.queue {
				i.queueUA(c)
			}
			for _, want := range tc.want {
				if i.gate&gateUA == 0 {
					t.Fatal("gate is open")
				}
				if got := i.takeUA(); got != want {
					t.Errorf("got %04x, want %04x", got, want)
				}
			}
			if i.gate&gateUA != 0 || i.takeUA() != 0 {
				t.Error("more than expected")
			}
		})
	}
}

// TestInventoryChange: adding and removing a unit tells every nexus, on its own
// reactor; REPORT LUNS clears it.
func TestInventoryChange(t *testing.T) {
	g := newBench(t, 3)
	g.add(0, newDisk(512, 10, 0), LUNOptions{})
	a, b := g.ready("a", 1), g.ready("b", 2)
	g.add(1, newDisk(512, 10, 0), LUNOptions{})
	if q := a.do(0, cdb("00"), nil, 0); q.outcome() != "06/3F0E" {
		t.Errorf("after add: %s", q.outcome())
	}
	b.in(0, cdb("a0 00 00 00 00 00 00 00 01 00"), 256)
	if q := b.do(0, cdb("00"), nil, 0); q.outcome() != "good" {
		t.Errorf("after REPORT LUNS: %s", q.outcome())
	}
	if err := g.dev.RemoveLUN(g, 1); err != nil {
		t.Fatal(err)
	}
	if q := b.do(0, cdb("00"), nil, 0); q.outcome() != "06/3F0E" {
		t.Errorf("after remove: %s", q.outcome())
	}
	if q := b.do(1, cdb("00"), nil, 0); q.outcome() != "05/2500" {
		t.Errorf("removed unit: %s", q.outcome())
	}
}

// TestAttentionBeforeLink: a nexus that has been told of its beginning, on a view
// whose call home is still under way, is told of the reset that comes next.
func TestAttentionBeforeLink(t *testing.T) {
	g := newBench(t, 2)
	g.add(0, newDisk(512, 10, 0), LUNOptions{})
	a, b := g.ready("a", 0), g.session("b", 1)
	q := b.begin(0, cdb("00"), nil, 0, AttrSimple)
	if q.Prepare() != Done || q.outcome() != "06/2900" {
		t.Fatal(q.outcome())
	}
	q.finish()
	if r := a.manage(FnLUNReset, 0, nil); r != RespComplete {
		t.Fatal(r)
	}
	for i, want := range []string{"06/2903", "good"} {
		if got := b.do(0, cdb("00"), nil, 0).outcome(); got != want {
			t.Errorf("command %d: %s, want %s", i, got, want)
		}
	}
}

// TestResize: a bdev that grows is followed, with CAPACITY DATA HAS CHANGED.
func TestResize(t *testing.T) {
	g := newBench(t, 3)
	d := newDisk(512, 10, 0)
	g.add(0, d, LUNOptions{})
	a, o := g.ready("a", 1), g.ready("b", 2)
	if q := a.do(0, cdb("28 00 00 00 00 0a 00 00 01"), nil, 512); q.outcome() != "05/2100" {
		t.Fatal(q.outcome())
	}
	d.info.Blocks, d.data = 20, make([]byte, 20*512)
	d.Changed()
	g.turns(4)
	for _, s := range []*session{a, o} {
		if q := s.do(0, cdb("00"), nil, 0); q.outcome() != "06/2A09" {
			t.Errorf("got %s", q.outcome())
		}
		if rc := s.in(0, cdb("25"), 8); be.Uint32(rc) != 19 {
			t.Errorf("read capacity: % x", rc)
		}
	}
}

// TestUntoldAttention: a command that was to report a unit attention, and is
// aborted while its data still comes in, leaves it to the next, in both formats
// of sense data.
func TestUntoldAttention(t *testing.T) {
	for _, format := range []string{"fixed", "descriptor"} {
		t.Run(format, func(t *testing.T) {
			g := newBench(t, 1)
			g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
			if format == "descriptor" {
				list := append(fill(0, 4), 0x0a, 0x0a, 0x04, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0)
				if got := g.ready("b", 0).do(0, cdb("15 10 00 00 10"), list, 0).outcome(); got != "good" {
					t.Fatal(got)
				}
			}
			s := g.session("a", 0)
			w := s.begin(0, cdb(write5), nil, 512, AttrSimple)
			if w.Prepare() != Done || w.Status != CheckCondition {
				t.Fatalf("prepared: %s", w.outcome())
			}
			if r := s.manage(FnAbortTask, 0, &w.Task); r != RespComplete || w.told != 1 {
				t.Fatalf("abort answered %d, told %d times", r, w.told)
			}
			for i, want := range []string{"06/2900", "good"} {
				if got := s.do(0, cdb("00"), nil, 0).outcome(); got != want {
					t.Errorf("command %d: %s, want %s", i, got, want)
				}
			}
		})
	}
}
