package scsi

import (
	"bytes"
	"testing"

	"spindle/bdev"
)

// long32 is a 32-byte CDB.
func long32(sa uint16, flags byte, lba uint64, n uint32) []byte {
	c := make([]byte, 32)
	c[0], c[7], c[10] = opVariable, 24, flags
	be.PutUint16(c[8:], sa)
	be.PutUint64(c[12:], lba)
	be.PutUint32(c[28:], n)
	return c
}

// TestLongCDB: the 32-byte commands do what the 16-byte ones do, and errors
// point at the fields they have.
func TestLongCDB(t *testing.T) {
	at := func(k int, v byte, c []byte) []byte {
		c[k] = v
		return c
	}
	tests := []struct {
		name string
		cdb  []byte
		out  []byte
		want string
		ptr  byte // of INVALID FIELD IN CDB
	}{
		{"read", long32(9, 0, 5, 1), nil, "good", 0},
		{"read beyond", long32(9, 0, 1000, 1), nil, "05/2100", 0},
		{"read rdprotect", long32(9, 0x20, 5, 1), nil, "05/2400", 10},
		{"read too much", long32(9, 0, 5, 1<<31), nil, "05/2100", 0},
		{"read past everything", long32(9, 0, ^uint64(0), 1), nil, "05/2100", 0},
		{"verify", long32(10, 0, 5, 1), nil, "good", 0},
		{"verify equal", long32(10, 2, 5, 1), fill(5, 512), "good", 0},
		{"verify differs", long32(10, 2, 5, 1), fill(6, 512), "0E/1D00", 0},
		{"verify bytchk 2", long32(10, 4, 5, 1), fill(5, 512), "05/2400", 10},
		{"write", long32(11, 8, 4, 4), fill(1, 2048), "good", 0},
		{"write and verify", long32(12, 2, 5, 1), fill(1, 512), "good", 0},
		{"write same", long32(13, 0, 5, 10), fill(1, 512), "good", 0},
		{"write same, too many", long32(13, 0, 0, 0x20000), fill(1, 512), "05/2100", 0},
		{"four is no NACA", long32(9, 0, 4, 4), nil, "good", 0},
		{"NACA", at(1, 4, long32(9, 0, 5, 1)), nil, "05/2400", 1},
		{"additional length", at(7, 20, long32(9, 0, 5, 1)), nil, "05/2400", 7},
		{"unknown service action", long32(7, 0, 5, 1), nil, "05/2400", 8},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 1)
			d := newDisk(512, 1000, allCaps)
			for k := range d.data {
				d.data[k] = byte(k / 512)
			}
			g.add(0, d, LUNOptions{})
			s := g.ready("a", 0)
			q := s.do(0, tc.cdb, tc.out, 4096)
			if q.outcome() != tc.want || tc.ptr != 0 && q.Sense[17] != tc.ptr {
				t.Errorf("%s, want %s; pointer % x", q.outcome(), tc.want, q.Sense[15:18])
			}
			if tc.name == "read" && !bytes.Equal(q.data, fill(5, 512)) {
				t.Errorf("data % x", q.data[:8])
			}
			if tc.name == "write same" && d.data[14*512] != 1 {
				t.Error("not written")
			}
		})
	}
	g := newBench(t, 1)
	g.add(0, newDisk(512, 10, 0), LUNOptions{})
	s := g.ready("a", 0)
	q := s.begin(0, long32(9, 0, 5, 1), nil, 512, AttrSimple)
	q.End()
	q.CDBLen = 16 // what a BHS without an AHS carries
	s.n.Begin(&q.Task, 0)
	q.run(nil)
	if q.outcome() != "05/2400" {
		t.Errorf("cut: %s", q.outcome())
	}
}

func TestLogSense(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 100, allCaps)
	g.add(0, d, LUNOptions{})
	s := g.ready("a", 0)
	for range 3 {
		s.in(0, cdb("28 00 00 00 00 05 00 00 02"), 1024)
	}
	s.do(0, cdb("2a 00 00 00 00 05 00 00 01"), fill(1, 512), 0)
	d.fail = bdev.Failed
	s.do(0, cdb("28 00 00 00 00 05 00 00 01"), nil, 512)
	d.fail = bdev.Pending
	g.turns(2) // statistics are published once a turn
	param := func(page []byte, code uint16) []byte {
		for p := page[4:]; len(p) != 0; p = p[4+p[3]:] {
			if be.Uint16(p) == code {
				return p[4 : 4+p[3]]
			}
		}
		t.Fatalf("page %02x has no parameter %d: % x", page[0], code, page)
		return nil
	}
	list := s.in(0, cdb("4d 00 40 00 00 00 00 00 ff"), 255)
	has := []byte{logSupported, logWriteErrors, logReadErrors, logTemperature, logBackground, logStatistics}
	if !bytes.Equal(list, append([]byte{0, 0, 0, 6}, has...)) {
		t.Errorf("pages % x", list)
	}
	all := s.in(0, cdb("4d 00 40 ff 00 00 00 00 ff"), 255)
	if all[0] != 0x40 || all[1] != 0xff || len(all) != 4+2*len(has)+2 {
		t.Errorf("pages and subpages % x", all)
	}
	for _, n := range has {
		p := s.in(0, []byte{opLogSense, 0, 0x40 | n, 0, 0, 0, 0, 0, 255, 0}, 255)
		if p[0] != n || int(be.Uint16(p[2:])) != len(p)-4 {
			t.Errorf("page %02x: % x", n, p)
		}
	}
	read := s.in(0, cdb("4d 00 43 00 00 00 00 00 ff"), 255)
	if got, bad := be.Uint64(param(read, 5)), be.Uint64(param(read, 6)); got != 3*1024 || bad != 1 {
		t.Errorf("%d bytes read, %d errors", got, bad)
	}
	stats := param(s.in(0, cdb("4d 00 59 00 00 00 00 00 ff"), 255), 1)
	if be.Uint64(stats) != 3 || be.Uint64(stats[8:]) != 1 || be.Uint64(stats[16:]) != 6 || be.Uint64(stats[24:]) != 1 {
		t.Errorf("statistics % x", stats)
	}
	if thr := param(s.in(0, cdb("4d 00 03 00 00 00 00 00 ff"), 255), 5); be.Uint64(thr) != 0 {
		t.Errorf("threshold % x", thr)
	}
	if some := s.in(0, cdb("4d 00 43 00 00 00 05 00 ff"), 255); len(some) != 4+2*12 || some[5] != 5 {
		t.Errorf("from parameter 5: % x", some)
	}
	for c, want := range map[string]string{
		"4d 01 40 00 00 00 00 00 ff": "05/2400", "4d 02 40 00 00 00 00 00 ff": "05/2400", "4d 00 7e 00 00 00 00 00 ff": "05/2400",
		"4d 00 43 01 00 00 00 00 ff": "05/2400", "4d 00 43 00 00 00 07 00 ff": "05/2400", "4d 00 43 00 00 00 00 00 00": "good",
	} {
		if got := s.do(0, cdb(c), nil, 255).outcome(); got != want {
			t.Errorf("%s: %s, want %s", c, got, want)
		}
	}
}

// TestLogSelect: it has the counts of a page, or of all, start anew, for the unit
// and for every nexus; others are told.
func TestLogSelect(t *testing.T) {
	g := newBench(t, 2)
	b := g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a, other := g.ready("a", 0), g.ready("other", 1)
	// count moves data both ways and tells what the pages say of it since.
	count := func() (read, write, reads uint64) {
		a.in(0, cdb("28 00 00 00 00 05 00 00 02"), 1024)
		a.do(0, cdb("2a 00 00 00 00 05 00 00 01"), fill(1, 512), 0)
		g.turns(2) // statistics are published once a turn
		value := func(page byte, at int) uint64 {
			return be.Uint64(other.in(0, []byte{opLogSense, 0, 0x40 | page, 0, 0, 0, 0, 0, 255, 0}, 255)[at:])
		}
		total := 4 + 5*12 + 4
		return value(logReadErrors, total), value(logWriteErrors, total), value(logStatistics, 8)
	}
	for _, tc := range []struct {
		name, cdb, want string
		told            bool
		read, write     uint64
		reads           uint64
	}{
		{"nothing", "4c 00 40 00 00 00 00 00 00", "good", false, 1024, 512, 1},
		{"read errors", "4c 02 43 00 00 00 00 00 00", "good", true, 1024, 1024, 2},
		{"statistics", "4c 02 59 ff 00 00 00 00 00", "good", true, 2048, 1536, 1},
		{"a page without counts", "4c 02 4d 00 00 00 00 00 00", "good", false, 3072, 2048, 2},
		{"all", "4c 02 40 00 00 00 00 00 00", "good", true, 1024, 512, 1},
		{"default values of all", "4c 00 c0 00 00 00 00 00 00", "good", true, 1024, 512, 1},
		{"all, and PC says thresholds", "4c 02 00 00 00 00 00 00 00", "good", true, 1024, 512, 1},
		{"page 00h and its subpages", "4c 02 40 ff 00 00 00 00 00", "good", false, 2048, 1024, 2},
		{"SP", "4c 03 40 00 00 00 00 00 00", "05/2400", false, 3072, 1536, 3},
		{"unknown page", "4c 02 7e 00 00 00 00 00 00", "05/2400", false, 4096, 2048, 4},
		{"unknown subpage", "4c 02 43 01 00 00 00 00 00", "05/2400", false, 5120, 2560, 5},
		{"a list", "4c 00 43 00 00 00 00 00 0c", "05/2400", false, 6144, 3072, 6},
	} {
		if got := a.do(0, cdb(tc.cdb), fill(0, 12), 0).outcome(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		if got := other.do(0, cdb("00"), nil, 0).outcome(); (got == "06/2A02") != tc.told {
			t.Errorf("%s: the other initiator is told %s", tc.name, got)
		}
		if read, write, reads := count(); read != tc.read || write != tc.write || reads != tc.reads {
			t.Errorf("%s: then %d bytes read, %d written, %d reads", tc.name, read, write, reads)
		}
	}
	if s := b.Stats(bdev.ResetAll); s.Ops[bdev.Read].Ops != 12 {
		t.Errorf("the bdev counts %d reads", s.Ops[bdev.Read].Ops)
	}
	if read, _, _ := count(); read != 7168 {
		t.Errorf("%d bytes read after a reset of the bdev's statistics", read)
	}
	a.pr(prRegister, 0, 0, 1)
	a.pr(prReserve, 1, 1, 0)
	if got := other.do(0, cdb("4c 02 40"), nil, 0).outcome(); got != "conflict" {
		t.Errorf("while another has reserved: %s", got)
	}
}

func TestReportIdentity(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 100, 0), LUNOptions{})
	s := g.ready("a", 0)
	for _, tc := range []struct {
		name, cdb string
		want      []byte
	}{
		{"number", "a3 05 00 00 00 00 00 00 00 ff 00", []byte{0, 0, 0, 0}},
		{"text", "a3 05 00 00 00 00 00 00 00 ff 04", []byte{0, 0, 0, 0}},
		{"supported", "a3 05 00 00 00 00 00 00 00 ff fe", []byte{0, 0, 0, 8, 0, 0, 0, 0, 4, 0, 0, 0}},
	} {
		if got := s.in(0, cdb(tc.cdb), 255); !bytes.Equal(got, tc.want) {
			t.Errorf("%s: % x", tc.name, got)
		}
	}
	if got := s.do(0, cdb("a3 05 00 00 00 00 00 00 00 ff 02"), nil, 255).outcome(); got != "05/2400" {
		t.Errorf("another type: %s", got)
	}
}
