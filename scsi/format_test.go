package scsi

import (
	"bytes"
	"testing"
	"time"

	"spindle/bdev"
)

func TestFormat(t *testing.T) {
	for _, tc := range []struct {
		name, cdb, list string
		caps            bdev.Caps
		want            string
		op              bdev.Op
	}{
		{"no list", "04", "", allCaps, "good", bdev.Unmap},
		{"short header", "04 10", "00 00 00 00", allCaps, "good", bdev.Unmap},
		{"long header", "04 38", "00 00 00 00 00 00 00 00", allCaps, "good", bdev.Unmap},
		{"immediate", "04 10", "00 02 00 00", allCaps, "good", bdev.Unmap},
		{"no certification", "04 10", "00 a0 00 00", allCaps, "good", bdev.Unmap},
		{"zeroes where nothing is unmapped", "04", "", bdev.CapWriteZeroes, "good", bdev.WriteZeroes},
		{"writes where the device can do nothing else", "04", "", 0, "good", bdev.Write},
		{"protection that is not there", "04 80", "", allCaps, "05/2400", 0},
		{"protection of another type", "04 10", "01 00 00 00", allCaps, "05/2600", 0},
		{"defect list format", "04 14", "00 00 00 00", allCaps, "05/2400", 0},
		{"long list without a list", "04 20", "", allCaps, "05/2400", 0},
		{"complete list without a list", "04 08", "", allCaps, "05/2400", 0},
		{"fast format", "04 00 00 00 01", "", allCaps, "05/2400", 0},
		{"options that are not valid", "04 10", "00 20 00 00", allCaps, "05/2600", 0},
		{"initialization pattern", "04 10", "00 88 00 00", allCaps, "05/2600", 0},
		{"defects, short", "04 10", "00 00 00 04", allCaps, "05/2600", 0},
		{"defects, long", "04 30", "00 00 00 00 00 00 00 04", allCaps, "05/2600", 0},
		{"interval exponent", "04 30", "00 00 00 01 00 00 00 00", allCaps, "05/2600", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 2)
			d := newDisk(512, 1000, tc.caps)
			copy(d.data, fill(9, len(d.data)))
			g.add(0, d, LUNOptions{})
			a, b := g.ready("a", 1), g.ready("b", 0)
			d.log = nil
			if got := a.do(0, cdb(tc.cdb), cdb(tc.list)[:(len(tc.list)+1)/3], 0).outcome(); got != tc.want {
				t.Fatalf("%s, want %s", got, tc.want)
			}
			g.Advance(200 * time.Millisecond)
			want := fill(9, len(d.data))
			if tc.op != 0 {
				clear(want)
				if len(d.log) == 0 || d.log[0].Op != tc.op {
					t.Errorf("submitted %v", d.log)
				}
			}
			if !bytes.Equal(d.data, want) {
				t.Errorf("medium begins with % x, ends with % x", d.data[:8], d.data[len(d.data)-8:])
			}
			if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "good" {
				t.Errorf("afterwards: %s", got)
			}
		})
	}
}

// TestFormatProtected: the format that a unit with protection information has,
// and that nothing checks what a formatted block says (SBC-4 §4.21.2).
func TestFormatProtected(t *testing.T) {
	_, s := shieldBench(t, 512)
	written := fill(9, 2*512)
	if got := s.do(0, rw(opWrite10, 1, 254, 2), woven(written, 254, 512), 0).outcome(); got != "good" {
		t.Fatalf("write: %s", got)
	}
	for _, tc := range []struct{ cdb, want string }{{"04", "05/2400"}, {"04 c0", "05/2400"}, {"04 80", "good"}} {
		if got := s.do(0, cdb(tc.cdb), nil, 0).outcome(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.cdb, got, tc.want)
		}
	}
	blank := append(make([]byte, 512), bytes.Repeat([]byte{0xff}, bdev.TupleLen)...)
	if got := s.in(0, rw(opRead10, 1, 254, 2), 1040); !bytes.Equal(got, bytes.Repeat(blank, 2)) {
		t.Errorf("the last block reads % x", got[len(got)-16:])
	}
}

// TestFormatGoesOn: commands are refused meanwhile, REQUEST SENSE tells how far
// it is, and a reset does not end it.
func TestFormatGoesOn(t *testing.T) {
	g := newBench(t, 3)
	g.add(0, newDisk(512, 8192, 0), LUNOptions{}) // 4 MiB: a quarter of a second
	a, b := g.ready("a", 1), g.ready("b", 2)
	waits := a.start(0, cdb("04"), nil, 0, AttrSimple)
	g.Advance(100 * time.Millisecond)
	if waits.done {
		t.Fatal("done within a tenth of a second")
	}
	for _, tc := range []struct{ name, cdb, want string }{
		{"test unit ready", "00", "02/0404"},
		{"read", "28 00 00 00 00 00 00 00 01", "02/0404"},
		{"another", "04", "02/0404"},
		{"exit failure mode", "48 1f", "02/0404"},
		{"inquiry", "12 00 00 00 24", "good"},
	} {
		if got := b.do(0, cdb(tc.cdb), nil, 512).outcome(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	c, list := overwrite(0, 1, fill(1, 4))
	if got := b.do(0, c, list, 0).outcome(); got != "02/0404" {
		t.Errorf("sanitize: %s", got)
	}
	rs := b.in(0, cdb("03 00 00 00 ff"), 255)
	if p := be.Uint16(rs[16:]); rs[2] != byte(NotReady) || be.Uint16(rs[12:]) != 0x0404 || rs[15] != 0x80 || p < 20000 || p > 40000 {
		t.Errorf("request sense: % x", rs)
	}
	if r := b.manage(FnLUNReset, 0, nil); r != RespComplete || !waits.Aborted() {
		t.Errorf("reset: %d, command gone: %v", r, waits.Aborted())
	}
	b.do(0, cdb("00"), nil, 0)
	if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "02/0404" {
		t.Errorf("after the reset: %s", got)
	}
	g.Advance(300 * time.Millisecond)
	if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "good" {
		t.Errorf("in the end: %s", got)
	}
}

// TestFormatFails: nothing of the medium is usable until it is formatted.
func TestFormatFails(t *testing.T) {
	g := newBench(t, 2)
	d := newDisk(512, 100, allCaps)
	g.add(0, d, LUNOptions{})
	a, b := g.ready("a", 0), g.ready("b", 1)
	d.fail = bdev.Failed
	if got := b.do(0, cdb("04"), nil, 0).outcome(); got != "03/3101" {
		t.Errorf("format: %s", got)
	}
	d.fail = bdev.Pending
	for _, s := range []*session{a, b} {
		if got := s.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "03/3100" {
			t.Errorf("read: %s", got)
		}
	}
	if got := a.do(0, cdb("04"), nil, 0).outcome(); got != "good" {
		t.Errorf("again: %s", got)
	}
	if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "good" {
		t.Errorf("ready: %s", got)
	}
}

// TestFormatRefused: by a unit that takes no writes, and to who is kept out.
func TestFormatRefused(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 100, allCaps|bdev.CapReadOnly), LUNOptions{})
	g.add(1, newDisk(512, 100, allCaps), LUNOptions{})
	a, b := g.ready("a", 0), g.session("b", 0)
	if got := a.do(0, cdb("04"), nil, 0).outcome(); got != "07/2700" {
		t.Errorf("write protected: %s", got)
	}
	for _, s := range []*session{a, b} {
		s.do(1, cdb("00"), nil, 0)
	}
	if got := a.do(1, cdb("16"), nil, 0).outcome(); got != "good" {
		t.Fatalf("reserve: %s", got)
	}
	if q := b.do(1, cdb("04"), nil, 0); q.Status != ReservationConflict {
		t.Errorf("reserved: %s", q.outcome())
	}
	r := a.in(1, cdb("a3 0c 81 04 00 00 00 00 00 ff"), 255)
	if r[1]&7 != 3 || be.Uint32(r[len(r)-4:]) != whole {
		t.Errorf("REPORT SUPPORTED OPERATION CODES: % x", r)
	}
}
