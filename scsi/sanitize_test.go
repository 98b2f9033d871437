package scsi

import (
	"bytes"
	"testing"
	"time"

	"spindle/bdev"
)

// overwrite is a SANITIZE OVERWRITE CDB with its parameter list.
func overwrite(flags, head byte, pattern []byte) (c, list []byte) {
	n := len(pattern) + 4
	list = append([]byte{head, 0, byte(len(pattern) >> 8), byte(len(pattern))}, pattern...)
	return []byte{opSanitize, flags | saSanitizeOverwrite, 0, 0, 0, 0, 0, byte(n >> 8), byte(n), 0, 0, 0, 0, 0, 0, 0}, list
}

func TestSanitizeOverwrite(t *testing.T) {
	tests := []struct {
		name    string
		flags   byte
		head    byte
		pattern []byte
		want    string
		first   byte
	}{
		{"a block", 0, 1, fill(0xaa, 512), "good", 0xaa},
		{"half a block", 0, 1, fill(0xbb, 256), "good", 0xbb},
		{"a byte", 0, 1, fill(0xcc, 1), "good", 0xcc},
		{"twice, inverted", 0, 0x82, fill(0xf0, 4), "good", 0x0f},
		{"immediate", sanitizeImmed, 1, fill(0xaa, 4), "good", 0xaa},
		{"no passes", 0, 0, fill(0xaa, 4), "05/2600", 9},
		{"test", 0, 0x21, fill(0xaa, 4), "05/2600", 9},
		{"no pattern", 0, 1, nil, "05/2400", 9},
		{"more than a block", 0, 1, fill(0xaa, 513), "05/2400", 9},
		{"zones", sanitizeZNR, 1, fill(0xaa, 4), "05/2400", 9},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 2)
			d := newDisk(512, 1000, allCaps)
			copy(d.data, fill(9, len(d.data)))
			g.add(0, d, LUNOptions{})
			s := g.ready("a", 1)
			c, list := overwrite(tc.flags, tc.head, tc.pattern)
			if got := s.do(0, c, list, 0).outcome(); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			g.Advance(200 * time.Millisecond)
			if !bytes.Equal(d.data, fill(tc.first, len(d.data))) {
				t.Errorf("medium begins with % x, ends with % x", d.data[:8], d.data[len(d.data)-8:])
			}
			if got := s.do(0, cdb("00"), nil, 0).outcome(); got != "good" {
				t.Errorf("afterwards: %s", got)
			}
		})
	}
	g := newBench(t, 1)
	g.add(0, newDisk(512, 1000, allCaps), LUNOptions{})
	s := g.ready("a", 0)
	c, list := overwrite(0, 1, fill(1, 8))
	list[3] = 7 // not what the list holds
	if got := s.do(0, c, list, 0).outcome(); got != "05/2600" {
		t.Errorf("pattern length: %s", got)
	}
	for at := 2; at < 7; at++ {
		c, list := overwrite(0, 1, fill(1, 8))
		c[at] = 1
		if q := s.do(0, c, list, 0); q.outcome() != "05/2400" || q.Sense[17] != byte(at) {
			t.Errorf("reserved byte %d: %s", at, q.outcome())
		}
	}
}

func TestSanitizeErase(t *testing.T) {
	tests := []struct {
		name, cdb string
		caps      bdev.Caps
		op        bdev.Op
		want      string
		mapped    byte
		home      bool // the first write comes from the home reactor
	}{
		{"block erase", "48 02", allCaps, bdev.Unmap, "good", 1, false},
		{"block erase, written at home", "48 02", allCaps, bdev.Unmap, "good", 1, true},
		{"block erase on a thick device", "48 02", bdev.CapFlush, 0, "05/2400", 0, false},
		{"block erase with a list", "48 02 00 00 00 00 00 00 08", allCaps, 0, "05/2400", 0, false},
		{"crypto erase", "48 03", allCaps, bdev.WriteZeroes, "good", 0, false},
		{"crypto erase with a list", "48 03 00 00 00 00 00 00 08", allCaps, 0, "05/2400", 0, false},
		{"service action 4", "48 04", allCaps, 0, "05/2400", 0, false},
		{"exit without a failure", "48 1f", allCaps, 0, "good", 0, false},
		{"exit with a list", "48 1f 00 00 00 00 00 00 08", allCaps, 0, "05/2400", 0, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 2)
			d := newDisk(512, 1000, tc.caps)
			g.add(0, d, LUNOptions{})
			a, b := g.ready("a", 0), g.ready("b", 1)
			d.log = nil
			if got := a.do(0, cdb(tc.cdb), fill(0, 8), 0).outcome(); got != tc.want {
				t.Fatalf("%s, want %s", got, tc.want)
			}
			if tc.op != 0 && (d.log[0].Op != tc.op || d.log[0].Blocks != 1000 || d.log[1].Op != bdev.Flush) {
				t.Errorf("submitted %v", d.log)
			}
			status := func(want byte) {
				t.Helper()
				if st := b.in(0, cdb("9e 12 00 00 00 00 00 00 00 00 00 00 00 ff"), 255); st[20] != want || be.Uint32(st[16:]) != 1000 {
					t.Errorf("LBA status % x", st)
				}
			}
			status(tc.mapped)
			w := b
			if tc.home {
				w = a
			}
			if got := w.do(0, cdb("2a 00 00 00 00 07 00 00 01"), fill(1, 512), 0).outcome(); got != "good" || d.data[7*512] != 1 {
				t.Errorf("write: %s", got)
			}
			status(0)
		})
	}
}

// TestSanitizeGoesOn: while it is at work commands are refused and REQUEST SENSE
// tells how far it is; aborts and resets do not end it.
func TestSanitizeGoesOn(t *testing.T) {
	g := newBench(t, 3)
	d := newDisk(512, 8192, allCaps) // 4 MiB: a quarter of a second
	d.keep = false
	g.add(0, d, LUNOptions{})
	a, b := g.ready("a", 1), g.ready("b", 2)
	c, list := overwrite(0, 1, fill(0xaa, 512))
	q := a.start(0, c, list, 0, AttrSimple)
	g.Advance(100 * time.Millisecond)
	if q.done {
		t.Fatal("done within a tenth of a second")
	}
	for _, tc := range []struct{ name, cdb, want string }{
		{"test unit ready", "00", "02/041B"},
		{"read", "28 00 00 00 00 00 00 00 01", "02/041B"},
		{"start", "1b 00 00 00 01", "02/041B"},
		{"another", "48 03", "02/041B"},
		{"exit failure mode", "48 1f", "02/041B"},
		{"inquiry", "12 00 00 00 24", "good"},
		{"mode sense", "1a 00 3f 00 ff", "good"},
		{"report opcodes", "a3 0c 00 00 00 00 00 00 ff ff", "good"},
	} {
		if got := b.do(0, cdb(tc.cdb), nil, 512).outcome(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	rs := b.in(0, cdb("03 00 00 00 ff"), 255)
	if p := be.Uint16(rs[16:]); rs[2] != byte(NotReady) || rs[15] != 0x80 || p < 20000 || p > 40000 {
		t.Errorf("request sense: % x", rs)
	}
	if r := b.manage(FnLUNReset, 0, nil); r != RespComplete {
		t.Fatal(r)
	}
	if !q.Aborted() {
		t.Error("the command outlived the reset")
	}
	b.do(0, cdb("00"), nil, 0)
	if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "02/041B" {
		t.Errorf("after the reset: %s", got)
	}
	g.Advance(300 * time.Millisecond)
	if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "good" || d.data[len(d.data)-1] != 0xaa {
		t.Errorf("in the end: %s", got)
	}
}

// TestSanitizeFails: the unit is unusable until another SANITIZE succeeds, or
// EXIT FAILURE MODE if AUSE was set.
func TestSanitizeFails(t *testing.T) {
	for _, ause := range []bool{false, true} {
		g := newBench(t, 2)
		d := newDisk(512, 100, allCaps)
		g.add(0, d, LUNOptions{})
		a, b := g.ready("a", 0), g.ready("b", 1)
		var flags byte
		exit, again := "05/2400", "05/2400"
		if ause {
			flags, exit, again = sanitizeAUSE, "good", "good"
		}
		c, list := overwrite(flags, 1, fill(0xaa, 4))
		d.fail = bdev.Failed
		if got := b.do(0, c, list, 0).outcome(); got != "03/3103" {
			t.Errorf("ause %v: %s", ause, got)
		}
		d.fail = bdev.Pending
		for _, s := range []*session{a, b} {
			if got := s.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "03/3103" {
				t.Errorf("ause %v: read: %s", ause, got)
			}
		}
		if got := a.do(0, cdb("48 1f"), nil, 0).outcome(); got != exit {
			t.Errorf("ause %v: exit: %s", ause, got)
		}
		if got := a.do(0, cdb("48 23"), nil, 0).outcome(); got != again {
			t.Errorf("ause %v: unrestricted: %s", ause, got)
		}
		if got := a.do(0, cdb("48 03"), nil, 0).outcome(); got != "good" {
			t.Errorf("ause %v: again: %s", ause, got)
		}
		if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "good" {
			t.Errorf("ause %v: ready: %s", ause, got)
		}
	}
}

// TestSanitizeRemoved: the unit goes away while SANITIZE is at work.
func TestSanitizeRemoved(t *testing.T) {
	g := newBench(t, 2)
	d := newDisk(512, 8192, allCaps)
	g.add(0, d, LUNOptions{})
	a := g.ready("a", 1)
	used := g.Arena().InUse()
	c, list := overwrite(0, 1, fill(0xaa, 512))
	q := a.start(0, c, list, 0, AttrSimple)
	g.Advance(20 * time.Millisecond)
	if err := g.dev.RemoveLUN(g, 0); err != nil {
		t.Fatal(err)
	}
	if !q.done || g.Arena().InUse() != used {
		t.Errorf("done %v, %d bytes not returned", q.done, g.Arena().InUse()-used)
	}
}

// TestSanitizeReserved: reservations and write protection keep it out.
func TestSanitizeReserved(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	g.add(1, newDisk(512, 100, allCaps), LUNOptions{ReadOnly: true})
	a, b := g.ready("a", 0), g.ready("b", 0)
	b.do(1, cdb("00"), nil, 0)
	b.do(0, cdb("00"), nil, 0)
	a.do(0, cdb("00"), nil, 0)
	a.do(0, cdb("16"), nil, 0)
	for _, c := range []string{"48 02", "48 03", "48 01 00 00 00 00 00 00 08", "48 1f"} {
		if got := b.do(0, cdb(c), fill(1, 8), 0).outcome(); got != "conflict" {
			t.Errorf("%s: %s", c, got)
		}
		if got := b.do(1, cdb(c), fill(1, 8), 0).outcome(); got != "07/2700" {
			t.Errorf("%s: %s", c, got)
		}
	}
}
