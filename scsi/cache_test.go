package scsi

import (
	"bytes"
	"testing"

	"spindle/bdev"
)

// TestCacheImmediate: with IMMED the answer does not wait for the flush, which
// goes on, once more for what was written meanwhile; without it, it waits.
func TestCacheImmediate(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 100, allCaps|bdev.CapFlush)
	g.add(0, d, LUNOptions{})
	s := g.ready("a", 0)
	flushes := func() (n int) {
		for _, io := range d.log {
			if io.Op == bdev.Flush {
				n++
			}
		}
		return n
	}
	d.stuck = true
	for _, c := range []string{"35 02", "91 02", "35 02"} {
		if q := s.start(0, cdb(c), nil, 0, AttrSimple); !q.done || q.outcome() != "good" {
			t.Errorf("%s: done %v, %s", c, q.done, q.outcome())
		}
	}
	q := s.start(0, cdb("35"), nil, 0, AttrSimple)
	if q.done || flushes() != 2 || s.n.existing(0).view.busy != 1 {
		t.Errorf("without IMMED: done %v; %d flushes", q.done, flushes())
	}
	d.finish()
	g.turns(4)
	if !q.done || flushes() != 3 {
		t.Errorf("done %v; %d flushes, want another for those that came during the first", q.done, flushes())
	}
	d.finish()
	g.turns(4)
	if s.n.existing(0).view.busy != 0 || flushes() != 3 {
		t.Errorf("%d at work, %d flushes", s.n.existing(0).view.busy, flushes())
	}
	// A device that has no memory for it now makes the task wait for its own.
	d.stuck, d.noMem = false, 1
	if q := s.do(0, cdb("35 02"), nil, 0); q.outcome() != "good" || flushes() != 4 {
		t.Errorf("no memory: %s, %d flushes", q.outcome(), flushes())
	}
}

// TestCacheImmediateAgain: the flush that was answered during another one is made,
// though the device has no memory for it when that ends.
func TestCacheImmediateAgain(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 100, allCaps|bdev.CapFlush)
	g.add(0, d, LUNOptions{})
	s := g.ready("a", 0)
	d.stuck = true
	s.start(0, cdb("35 02"), nil, 0, AttrSimple)
	s.issue(write5, fill(1, 512))
	if q := s.start(0, cdb("35 02"), nil, 0, AttrSimple); q.outcome() != "good" {
		t.Fatal(q.outcome())
	}
	d.noMem = 2
	d.finish()
	g.Until("the second flush", func() bool { return len(d.fly) == 1 })
	d.finish()
	g.turns(4)
	if s.n.existing(0).view.busy != 0 || len(d.fly) != 0 || d.log[len(d.log)-1].Op != bdev.Flush {
		t.Errorf("%d at work, %d in flight, the last was %v", s.n.existing(0).view.busy, len(d.fly), d.log[len(d.log)-1].Op)
	}
}

// TestReferrals: the page, and one segment with every port group.
func TestReferrals(t *testing.T) {
	g := newBench(t, 1)
	g.dev.SetPorts([]uint16{1, 2})
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	s := g.via("a", 0, 1)
	if err := g.dev.SetPortGroupState(g, 2, PortStandby); err != nil {
		t.Fatal(err)
	}
	s.do(0, cdb("00"), nil, 0)
	if page := s.in(0, cdb("12 01 b3 00 ff"), 255); !bytes.Equal(page, append([]byte{0, 0xb3, 0, 12}, make([]byte, 12)...)) {
		t.Errorf("VPD B3: % x", page)
	}
	if ext := s.in(0, cdb("12 01 86 00 ff"), 255); ext[8]&0x10 == 0 {
		t.Errorf("R_SUP: %02x", ext[8])
	}
	want := []byte{0, 0, 0, 28, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 1, 2, 0, 0, 2}
	if got := s.in(0, cdb("9e 13 00 00 00 00 00 00 00 00 00 00 00 ff"), 255); !bytes.Equal(got, want) {
		t.Errorf("REPORT REFERRALS: % x", got)
	}
	if got := s.do(0, cdb("9e 13 00 00 00 00 00 00 00 64 00 00 00 ff"), nil, 255).outcome(); got != "05/2100" {
		t.Errorf("beyond the end: %s", got)
	}
}
