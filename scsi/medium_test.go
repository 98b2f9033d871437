package scsi

import (
	"bytes"
	"testing"
	"time"

	"spindle/bdev"
)

// TestWriteAtomic: the range is held and the data goes to the device in one I/O.
func TestWriteAtomic(t *testing.T) {
	const one = "9c 00 00 00 00 00 00 00 00 05 00 00 00 01"
	tests := []struct {
		name string
		caps bdev.Caps
		cdb  string
		n    int
		want string
	}{
		{"one block", 0, one, 1, "good"},
		{"fua", 0, "9c 08 00 00 00 00 00 00 00 05 00 00 00 01", 1, "good"},
		{"no blocks", 0, "9c", 0, "good"},
		{"no blocks past the end", 0, "9c 00 00 00 00 00 00 00 00 65", 0, "05/2100"},
		{"past the end", 0, "9c 00 00 00 00 00 00 00 00 63 00 00 00 02", 2, "05/2100"},
		{"wrprotect", 0, "9c 20 00 00 00 00 00 00 00 05 00 00 00 01", 1, "05/2400"},
		{"boundary", 0, "9c 00 00 00 00 00 00 00 00 05 00 01 00 01", 1, "05/2400"},
		{"half the data", 0, "9c 00 00 00 00 00 00 00 00 05 00 00 00 02", 1, "05/0E03"},
		{"a cache that power failure tears", bdev.CapFlush, one, 1, "05/2000"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 2)
			d := newDisk(512, 100, tc.caps)
			g.add(0, d, LUNOptions{})
			s := g.ready("a", 1)
			d.log = nil
			if q := s.do(0, cdb(tc.cdb), fill(7, 512*tc.n), 0); q.outcome() != tc.want {
				t.Errorf("%s, want %s", q.outcome(), tc.want)
			}
			if wrote := len(d.log) == 1 && d.data[5*512] == 7; wrote != (tc.want == "good" && tc.n != 0) {
				t.Errorf("submitted %v", d.log)
			}
			b0 := s.in(0, cdb("12 01 b0 00 ff"), 255)
			if limit := be.Uint32(b0[44:]); (limit == 0) != (tc.caps != 0) || limit > be.Uint32(b0[8:]) {
				t.Errorf("maximum atomic transfer length %d", limit)
			}
		})
	}
}

// TestWriteAtomicHolds: a read that overlaps waits until the atomic write is done.
func TestWriteAtomicHolds(t *testing.T) {
	g := newBench(t, 2)
	d := newDisk(512, 100, 0)
	g.add(0, d, LUNOptions{})
	a, b := g.ready("a", 0), g.ready("b", 1)
	d.stuck = true
	w := a.start(0, cdb("9c 00 00 00 00 00 00 00 00 05 00 00 00 02"), fill(7, 1024), 0, AttrSimple)
	g.turns(6)
	r := b.start(0, cdb("28 00 00 00 00 06 00 00 01"), nil, 512, AttrSimple)
	g.turns(6)
	if len(d.fly) != 1 || w.done || r.done {
		t.Fatalf("%d in flight, write done %v, read done %v", len(d.fly), w.done, r.done)
	}
	for range 2 {
		d.finish()
		g.turns(6)
	}
	if !w.done || !r.done || !bytes.Equal(r.data, fill(7, 512)) {
		t.Errorf("write done %v, read done %v, data % x", w.done, r.done, r.data[:4])
	}
}

func TestReadDefectData(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 100, 0), LUNOptions{})
	s := g.ready("a", 0)
	for _, tc := range []struct {
		name, cdb string
		want      []byte
	}{
		{"10", "37 00 1d 00 00 00 00 00 20", []byte{0, 0x1d, 0, 0}},
		{"10, cut", "37 00 18 00 00 00 00 00 02", []byte{0, 0x18}},
		{"12", "b7 08 00 00 00 00 00 00 00 20", []byte{0, 8, 0, 0, 0, 0, 0, 0}},
	} {
		if got := s.in(0, cdb(tc.cdb), 255); !bytes.Equal(got, tc.want) {
			t.Errorf("%s: % x", tc.name, got)
		}
	}
}

// TestRemovable walks a medium through eject, prevention and load.
func TestRemovable(t *testing.T) {
	const eject, load, prevent, allow, tur = "1b 00 00 00 02", "1b 00 00 00 03", "1e 00 00 00 01", "1e", "00"
	const read, write = "28 00 00 00 00 00 00 00 01", "2a 00 00 00 00 00 00 00 01"
	g := newBench(t, 3)
	d := newDisk(512, 100, allCaps)
	g.add(0, d, LUNOptions{Removable: true})
	a, b := g.ready("a", 1), g.ready("b", 2)
	if inq := a.in(0, cdb("12 00 00 00 24"), 36); inq[1] != 0x80 {
		t.Errorf("RMB: %02x", inq[1])
	}
	steps := []struct {
		name string
		s    *session
		cdb  string
		want string
	}{
		{"stop", a, "1b", "good"},
		{"power conditions leave the medium", a, "1b 00 00 00 32", "good"},
		{"still there", a, tur, "good"},
		{"prevent", a, prevent, "good"},
		{"obsolete prevent", a, "1e 00 00 00 02", "05/2400"},
		{"own eject", a, eject, "05/5302"},
		{"other's eject", b, eject, "05/5302"},
		{"other allows nothing", b, allow, "good"},
		{"still prevented", b, eject, "05/5302"},
		{"allow", a, allow, "good"},
		{"eject", a, eject, "good"},
		{"eject again", a, eject, "good"},
		{"not ready", a, tur, "02/3A00"},
		{"reads", b, read, "02/3A00"},
		{"writes", b, write, "02/3A00"},
		{"sanitize", b, "48 03", "02/3A00"},
		{"inquiry", b, "12 00 00 00 24", "good"},
		{"mode sense", b, "1a 00 3f 00 ff", "good"},
		{"self-test", b, "1d 04", "good"},
		{"read keys", b, "5e 00 00 00 00 00 00 00 08", "good"},
		{"prevent without a medium", a, prevent, "good"},
		{"load prevented", a, load, "05/5302"},
		{"allow again", a, allow, "good"},
		{"load", a, load, "good"},
		{"ready at once", a, tur, "good"},
		{"the other is told", b, tur, "06/2800"},
		{"and reads", b, read, "good"},
	}
	for _, st := range steps {
		if got := st.s.do(0, cdb(st.cdb), fill(0, 512), 512).outcome(); got != st.want {
			t.Errorf("%s: %s, want %s", st.name, got, st.want)
		}
	}
	if b := a.in(0, cdb("03 00 00 00 ff"), 255); b[2] != 0 {
		t.Errorf("request sense: % x", b)
	}
}

// TestPreventEnds: prevention ends with its nexus and with a reset.
func TestPreventEnds(t *testing.T) {
	for _, reset := range []bool{false, true} {
		g := newBench(t, 3)
		g.add(0, newDisk(512, 100, allCaps), LUNOptions{Removable: true})
		a, b := g.ready("a", 1), g.ready("b", 2)
		a.do(0, cdb("1e 00 00 00 01"), nil, 0)
		if reset {
			if r := b.manage(FnLUNReset, 0, nil); r != RespComplete {
				t.Fatal(r)
			}
			b.do(0, cdb("00"), nil, 0)
		} else {
			closed := false
			a.n.Close(func() { closed = true })
			g.Until("close", func() bool { return closed })
		}
		if got := b.do(0, cdb("1b 00 00 00 02"), nil, 0).outcome(); got != "good" {
			t.Errorf("reset %v: eject: %s", reset, got)
		}
	}
}

// TestAllowFlushes: removal is allowed when the cache is durable, and not before.
func TestAllowFlushes(t *testing.T) {
	for _, tc := range []struct {
		name    string
		cdb     string
		fail    bdev.Status
		ejected bool
		flushes int
		want    string // of the command
		eject   string // of an eject behind it
	}{
		{"allow", "1e", bdev.Pending, false, 1, "good", "good"},
		{"allow, which fails", "1e", bdev.Failed, false, 1, "03/0C00", "05/5302"},
		{"allow without a medium", "1e", bdev.Failed, true, 0, "good", "good"},
		{"prevent", "1e 00 00 00 01", bdev.Failed, false, 0, "good", "05/5302"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 2)
			d := newDisk(512, 100, allCaps)
			g.add(0, d, LUNOptions{Removable: true})
			s := g.ready("a", 1)
			if tc.ejected {
				s.do(0, cdb("1b 00 00 00 02"), nil, 0)
			}
			s.do(0, cdb("1e 00 00 00 01"), nil, 0)
			d.log, d.fail = nil, tc.fail
			if got := s.do(0, cdb(tc.cdb), nil, 0).outcome(); got != tc.want || len(d.log) != tc.flushes {
				t.Errorf("%s, want %s; submitted %v", got, tc.want, d.log)
			}
			d.fail = bdev.Pending
			if got := s.do(0, cdb("1b 00 00 00 02"), nil, 0).outcome(); got != tc.eject {
				t.Errorf("eject: %s, want %s", got, tc.eject)
			}
		})
	}
}

// TestPreventEndsByPreemption: PREEMPT AND ABORT and CLEAR end the prevention of
// those whose registrations they remove, PREEMPT does not.
func TestPreventEndsByPreemption(t *testing.T) {
	for sa, want := range map[uint16]string{prPreempt: "05/5302", prPreemptAbort: "good", prClear: "good"} {
		g := newBench(t, 3)
		g.add(0, newDisk(512, 100, allCaps), LUNOptions{Removable: true})
		a, b, c := g.ready("a", 1), g.ready("b", 2), g.ready("c", 1)
		for k, s := range []*session{a, b, c} {
			if got := s.pr(prRegister, 0, 0, uint64(k+1)); got != "good" {
				t.Fatal(got)
			}
		}
		a.do(0, cdb("1e 00 00 00 01"), nil, 0)
		if sa != prClear {
			if got := b.pr(sa, writeExclusive, 2, 3); got != "good" { // that of c
				t.Fatal(got)
			}
			if got := b.do(0, cdb("1b 00 00 00 02"), nil, 0).outcome(); got != "05/5302" {
				t.Errorf("service action %d of another's key: eject: %s", sa, got)
			}
		}
		if got := b.pr(sa, writeExclusive, 2, 1); got != "good" {
			t.Fatal(got)
		}
		if got := b.do(0, cdb("1b 00 00 00 02"), nil, 0).outcome(); got != want {
			t.Errorf("service action %d: eject: %s, want %s", sa, got, want)
		}
	}
}

// TestEjectWaits: a write in the backend ends before the medium is gone.
func TestEjectWaits(t *testing.T) {
	g := newBench(t, 2)
	d := newDisk(512, 100, 0)
	g.add(0, d, LUNOptions{Removable: true})
	a, b := g.ready("a", 0), g.ready("b", 1)
	d.stuck = true
	w := a.start(0, cdb("2a 00 00 00 00 05 00 00 01"), fill(7, 512), 0, AttrSimple)
	e := b.start(0, cdb("1b 00 00 00 02"), nil, 0, AttrSimple)
	g.turns(10)
	if e.done {
		t.Fatal("ejected under a write")
	}
	d.finish()
	g.turns(10)
	if w.outcome() != "good" || !e.done || e.outcome() != "good" {
		t.Errorf("write %s, eject done %v", w.outcome(), e.done)
	}
	if got := b.do(0, cdb("1e 00 00 00 01"), nil, 0).outcome(); got != "good" {
		t.Error(got)
	}
}

// TestEjectMeetsSanitize: an eject whose flush lasted until SANITIZE had begun
// does not claim to have ejected anything.
func TestEjectMeetsSanitize(t *testing.T) {
	g := newBench(t, 2)
	d := newDisk(512, 100, allCaps)
	g.add(0, d, LUNOptions{Removable: true})
	a, b := g.ready("a", 0), g.ready("b", 1)
	d.stuck = true
	e := a.start(0, cdb("1b 00 00 00 02"), nil, 0, AttrSimple)
	g.turns(10)
	c, list := overwrite(sanitizeImmed, 1, fill(0xaa, 4))
	s := b.start(0, c, list, 0, AttrSimple)
	g.turns(10)
	if e.done {
		t.Fatalf("ejected without a flush: %s", e.outcome())
	}
	for range 8 { // the flush and the passes
		d.finish()
		g.turns(10)
		g.Advance(50 * time.Millisecond)
	}
	if e.outcome() != "02/041B" || s.outcome() != "good" {
		t.Errorf("eject %s, sanitize %s", e.outcome(), s.outcome())
	}
}

// TestFixedMedium: a unit whose medium is fixed has neither LOEJ nor PREVENT.
func TestFixedMedium(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 100, 0), LUNOptions{})
	s := g.ready("a", 0)
	for c, want := range map[string]string{"1b 00 00 00 02": "05/2400", "1e 00 00 00 01": "05/2000"} {
		if got := s.do(0, cdb(c), nil, 0).outcome(); got != want {
			t.Errorf("%s: %s, want %s", c, got, want)
		}
	}
}
