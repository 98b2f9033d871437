package scsi

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"spindle/bdev"
)

// prOutList is a PERSISTENT RESERVE OUT parameter list.
func prOutList(key, key2 uint64, flags byte) []byte {
	b := make([]byte, 24)
	be.PutUint64(b, key)
	be.PutUint64(b[8:], key2)
	b[20] = flags
	return b
}

// pr runs PERSISTENT RESERVE OUT.
func (s *session) pr(sa uint16, kind prType, key, key2 uint64) string {
	s.g.T.Helper()
	c := []byte{opPersistentOut, byte(sa), byte(kind), 0, 0, 0, 0, 0, 24, 0}
	q := s.do(0, c, prOutList(key, key2, 0), 0)
	return q.outcome()
}

// keys runs READ KEYS.
func (s *session) keys() (generation uint32, keys []uint64) {
	s.g.T.Helper()
	b := s.in(0, cdb("5e 00 00 00 00 00 00 ff ff"), 0xffff)
	for d := b[8:]; len(d) != 0; d = d[8:] {
		keys = append(keys, be.Uint64(d))
	}
	return be.Uint32(b), keys
}

// TestReservationAccess is who may do what under each type (SPC-5 table 66).
func TestReservationAccess(t *testing.T) {
	const read, write, tur, inq, test = "28 00 00 00 00 00 00 00 01", "2a 00 00 00 00 00 00 00 01", "00", "12 00 00 00 24", "1d 04"
	tests := []struct {
		name                 string
		kind                 prType
		regRead, regWrite    bool
		otherRead, otherWrit bool
	}{
		{"write exclusive", writeExclusive, true, false, true, false},
		{"exclusive access", exclusiveAccess, false, false, false, false},
		{"write exclusive, registrants only", writeExclusiveRegs, true, true, true, false},
		{"exclusive access, registrants only", exclusiveAccessRegs, true, true, false, false},
		{"write exclusive, all registrants", writeExclusiveAll, true, true, true, false},
		{"exclusive access, all registrants", exclusiveAccessAll, true, true, false, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 3)
			g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
			holder, reg, other := g.ready("holder", 0), g.ready("reg", 1), g.ready("other", 2)
			for _, step := range []string{
				holder.pr(prRegister, 0, 0, 1), reg.pr(prRegister, 0, 0, 2), holder.pr(prReserve, tc.kind, 1, 0),
			} {
				if step != "good" {
					t.Fatal(step)
				}
			}
			check := func(s *session, c string, may bool) {
				t.Helper()
				want := "good"
				if !may {
					want = "conflict"
				}
				if got := s.do(0, cdb(c), fill(0, 512), 512).outcome(); got != want {
					t.Errorf("%s: %s: %s, want %s", s.n.ID.InitiatorName, c, got, want)
				}
			}
			check(holder, read, true)
			check(holder, write, true)
			check(reg, read, tc.regRead)
			check(reg, write, tc.regWrite)
			check(other, read, tc.otherRead)
			check(other, write, tc.otherWrit)
			check(holder, test, true)
			check(reg, test, tc.regWrite)
			check(other, test, false)
			check(other, tur, true)
			check(other, inq, true)
			key := uint64(1)
			if tc.kind.all() {
				key = 0
			}
			rr := other.in(0, cdb("5e 01 00 00 00 00 00 00 ff"), 255)
			if be.Uint32(rr[4:]) != 16 || be.Uint64(rr[8:]) != key || rr[21] != byte(tc.kind) {
				t.Errorf("read reservation: % x", rr)
			}
			if got := holder.pr(prRelease, tc.kind, 1, 0); got != "good" {
				t.Errorf("release: %s", got)
			}
			if tc.kind.open() {
				if got := reg.do(0, cdb(tur), nil, 0).outcome(); got != "06/2A04" {
					t.Errorf("registrant after release: %s", got)
				}
			}
			check(other, write, true)
		})
	}
}

func TestRegister(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a, b := g.ready("a", 0), g.ready("b", 0)
	steps := []struct {
		name string
		got  string
		want string
	}{
		{"wrong key", a.pr(prRegister, 0, 5, 1), "conflict"},
		{"register", a.pr(prRegister, 0, 0, 1), "good"},
		{"again without the key", a.pr(prRegister, 0, 0, 2), "conflict"},
		{"new key", a.pr(prRegister, 0, 1, 2), "good"},
		{"ignore existing", a.pr(prRegisterIgnore, 0, 99, 3), "good"},
		{"reserve with a wrong key", a.pr(prReserve, writeExclusive, 1, 0), "conflict"},
		{"reserve", a.pr(prReserve, writeExclusive, 3, 0), "good"},
		{"reserve again", a.pr(prReserve, writeExclusive, 3, 0), "good"},
		{"reserve another type", a.pr(prReserve, exclusiveAccess, 3, 0), "conflict"},
		{"release another type", a.pr(prRelease, exclusiveAccess, 3, 0), "05/2604"},
		{"other registers", b.pr(prRegisterIgnore, 0, 0, 7), "good"},
		{"other reserves", b.pr(prReserve, writeExclusive, 7, 0), "conflict"},
		{"other releases nothing", b.pr(prRelease, writeExclusive, 7, 0), "good"},
		{"holder leaves", a.pr(prRegister, 0, 3, 0), "good"},
		{"other reserves now", b.pr(prReserve, exclusiveAccess, 7, 0), "good"},
		{"clear", b.pr(prClear, 0, 7, 0), "good"},
		{"reserve 6 with a registration gone", a.do(0, cdb("16"), nil, 0).outcome(), "good"},
		{"register under reserve 6", b.pr(prRegister, 0, 0, 7), "conflict"},
		{"other under reserve 6", b.do(0, cdb("00"), nil, 0).outcome(), "conflict"},
		{"release of another's reserve 6", b.do(0, cdb("17"), nil, 0).outcome(), "good"},
		{"still reserved", b.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(), "conflict"},
	}
	for _, s := range steps {
		if s.got != s.want {
			t.Errorf("%s: %s, want %s", s.name, s.got, s.want)
		}
	}
	if gen, keys := a.keys(); gen != 6 || len(keys) != 0 {
		t.Errorf("generation %d, keys %x", gen, keys)
	}
	a.do(0, cdb("17"), nil, 0)
	q := a.do(0, cdb("5f 00 00 00 00 00 00 00 18"), prOutList(0, 1, prAPTPL), 0)
	if q.outcome() != "05/2600" || q.Sense[15] != 0x88 || be.Uint16(q.Sense[16:]) != 20 {
		t.Errorf("APTPL without a store: %s, % x", q.outcome(), q.Sense[15:18])
	}
}

// TestReserveEnds: RESERVE ends with its nexus and with a reset.
func TestReserveEnds(t *testing.T) {
	for _, reset := range []bool{false, true} {
		g := newBench(t, 3)
		g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
		a, b := g.ready("a", 1), g.ready("b", 2)
		if got := a.do(0, cdb("16"), nil, 0).outcome(); got != "good" {
			t.Fatal(got)
		}
		if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "conflict" {
			t.Fatal(got)
		}
		if reset {
			if r := b.manage(FnLUNReset, 0, nil); r != RespComplete {
				t.Fatalf("reset: %d", r)
			}
			if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "06/2903" {
				t.Errorf("after reset: %s", got)
			}
		} else {
			closed := false
			a.n.Close(func() { closed = true })
			g.Until("close", func() bool { return closed })
		}
		if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "good" {
			t.Errorf("reset %v: %s", reset, got)
		}
	}
}

func TestPreempt(t *testing.T) {
	g := newBench(t, 3)
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a, b, c := g.ready("a", 0), g.ready("b", 1), g.ready("c", 2)
	a.pr(prRegister, 0, 0, 1)
	b.pr(prRegister, 0, 0, 2)
	c.pr(prRegister, 0, 0, 3)
	a.pr(prReserve, writeExclusive, 1, 0)
	if got := b.pr(prPreempt, exclusiveAccessRegs, 2, 9); got != "conflict" {
		t.Errorf("no such key: %s", got)
	}
	if got := b.pr(prPreempt, exclusiveAccessRegs, 2, 0); got != "05/2600" {
		t.Errorf("key 0: %s", got)
	}
	if got := b.pr(prPreempt, exclusiveAccessRegs, 2, 1); got != "good" {
		t.Errorf("preempt: %s", got)
	}
	if got := a.do(0, cdb("00"), nil, 0).outcome(); got != "06/2A05" {
		t.Errorf("preempted: %s", got)
	}
	if got := c.do(0, cdb("00"), nil, 0).outcome(); got != "06/2A04" {
		t.Errorf("registrant, type changed: %s", got)
	}
	if got := a.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "conflict" {
		t.Errorf("preempted reads: %s", got)
	}
	if _, keys := c.keys(); len(keys) != 2 || keys[0] != 2 || keys[1] != 3 {
		t.Errorf("keys %x", keys)
	}
	full := c.in(0, cdb("5e 03 00 00 00 00 00 ff ff"), 0xffff)
	if int(be.Uint32(full[4:])) != len(full)-8 || be.Uint64(full[8:]) != 2 || full[8+12] != 1 || full[8+13] != byte(exclusiveAccessRegs) || full[8+24] != 0x45 {
		t.Errorf("full status: % x", full)
	}
	if got := c.pr(prClear, 0, 3, 0); got != "good" {
		t.Errorf("clear: %s", got)
	}
	if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "06/2A03" {
		t.Errorf("cleared: %s", got)
	}
	if got := a.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "good" {
		t.Errorf("reads after clear: %s", got)
	}
}

// TestReservationSurvives: registrations belong to the nexus's name, so they
// survive its session, and resets.
func TestReservationSurvives(t *testing.T) {
	g := newBench(t, 2)
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a, b := g.ready("a", 1), g.ready("b", 0)
	a.pr(prRegister, 0, 0, 1)
	a.pr(prReserve, exclusiveAccess, 1, 0)
	id := a.n.ID
	closed := false
	a.n.Close(func() { closed = true })
	g.Until("close", func() bool { return closed })
	if r := b.manage(FnLUNReset, 0, nil); r != RespComplete {
		t.Fatal(r)
	}
	b.do(0, cdb("00"), nil, 0)
	if got := b.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "conflict" {
		t.Errorf("other reads: %s", got)
	}
	again := &session{g: g, n: g.dev.NewNexus(g.Reactors[0], id, nil)}
	again.do(0, cdb("00"), nil, 0)
	if got := again.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "good" {
		t.Errorf("holder reads: %s", got)
	}
}

// TestSharedTakesNoReservations: a bdev that is two LUNs takes no reservation, since
// the other LUN's initiators would not heed it; one with a reservation becomes no
// second LUN.
func TestSharedTakesNoReservations(t *testing.T) {
	g := newBench(t, 2)
	b := g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a, other := g.ready("a", 0), g.ready("other", 1)
	second := func() error {
		_, err := g.dev.AddLUN(g, 1, b, LUNOptions{})
		return err
	}
	a.do(0, cdb("00"), nil, 0)
	register := func(key, next uint64) string { return a.pr(prRegister, 0, key, next) }
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	expect("alone", register(0, 1), "good")
	if err := second(); !errors.Is(err, bdev.ErrClaimed) {
		t.Fatalf("a second LUN of one with registrations: %v", err)
	}
	expect("unregister", register(1, 0), "good")
	expect("RESERVE", a.do(0, cdb("16"), nil, 0).outcome(), "good")
	if err := second(); !errors.Is(err, bdev.ErrClaimed) {
		t.Fatalf("a second LUN of a reserved one: %v", err)
	}
	expect("RELEASE", a.do(0, cdb("17"), nil, 0).outcome(), "good")
	if err := second(); err != nil {
		t.Fatal(err)
	}
	a.do(0, cdb("00"), nil, 0) // REPORTED LUNS DATA HAS CHANGED
	expect("shared", register(0, 1), "05/2000")
	expect("shared, RESERVE", a.do(0, cdb("16"), nil, 0).outcome(), "05/2000")
	if one := a.in(0, cdb("a3 0c 02 5f 00 00 00 00 00 ff"), 255); one[1] != 1 {
		t.Errorf("PERSISTENT RESERVE OUT is reported as supported: % x", one)
	}
	expect("nobody is kept out", other.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(), "06/3F0E")
	if err := g.dev.RemoveLUN(g, 1); err != nil {
		t.Fatal(err)
	}
	a.do(0, cdb("00"), nil, 0)
	expect("alone again", register(0, 1), "good")
}

// TestSharedIsNotAtomic: a hold keeps out the commands of its own unit only, so a
// bdev that is two LUNs has none of the commands that are atomic by one. A second
// LUN waits for one that runs, and the initiators hear of what changes.
func TestSharedIsNotAtomic(t *testing.T) {
	g := newBench(t, 2)
	d := newDisk(512, 1000, allCaps&^bdev.CapFlush)
	b := g.add(0, d, LUNOptions{})
	a, other := g.ready("a", 0), g.ready("other", 1)
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	limits := func(compare, atomic bool) {
		t.Helper()
		p := a.in(0, cdb("12 01 b0 00 ff"), 255)
		if (p[5] != 0) != compare || (be.Uint32(p[44:]) != 0) != atomic {
			t.Errorf("MAXIMUM COMPARE AND WRITE LENGTH %d, MAXIMUM ATOMIC TRANSFER LENGTH %d", p[5], be.Uint32(p[44:]))
		}
		for _, op := range []byte{opCompareAndWrite, opORWrite16, opWriteAtomic16} {
			if one := a.in(0, []byte{opMaintenanceIn, saReportOpcodes, reportOpcode, op, 0, 0, 0, 0, 0, 255, 0, 0}, 255); (one[1] == 3) != compare {
				t.Errorf("%02x is reported as % x", op, one)
			}
		}
	}
	atomics := func(lun uint16, want string) {
		t.Helper()
		expect("COMPARE AND WRITE", a.do(lun, cdb(caw5), append(bytes.Clone(d.data[5*512:6*512]), fill(1, 512)...), 0).outcome(), want)
		expect("ORWRITE", a.do(lun, cdb("8b 00 00 00 00 00 00 00 00 05 00 00 00 01"), fill(2, 512), 0).outcome(), want)
		expect("WRITE ATOMIC", a.do(lun, cdb("9c 00 00 00 00 00 00 00 00 05 00 00 00 01"), fill(3, 512), 0).outcome(), want)
	}
	changed := func(s *session) { // of the unit and of the target, in any order
		t.Helper()
		got := []string{s.do(0, cdb("00"), nil, 0).outcome(), s.do(0, cdb("00"), nil, 0).outcome()}
		slices.Sort(got)
		if !slices.Equal(got, []string{"06/3F03", "06/3F0E"}) {
			t.Errorf("unit attentions %q", got)
		}
	}
	limits(true, true)
	atomics(0, "good")

	d.stuck = true
	q := a.start(0, cdb(caw5), append(fill(3, 512), fill(4, 512)...), 0, AttrSimple)
	g.turns(4)
	if q.done || len(d.fly) != 1 {
		t.Fatalf("%d I/Os in flight", len(d.fly))
	}
	tick := g.Tick
	g.Tick = func(time.Duration) { // the second LUN is being added
		if g.Tick = tick; q.done || len(g.dev.LUNs()) != 1 {
			t.Errorf("a second LUN beside a COMPARE AND WRITE")
		}
		expect("COMPARE AND WRITE that comes meanwhile", a.start(0, cdb(caw5), fill(0, 1024), 0, AttrSimple).outcome(), "05/2000")
		d.stuck = false
		d.finish()
	}
	if _, err := g.dev.AddLUN(g, 1, b, LUNOptions{}); err != nil {
		t.Fatal(err)
	}
	g.turns(4)
	expect("the COMPARE AND WRITE", q.outcome(), "good")
	for _, s := range []*session{a, other} {
		changed(s)
	}
	a.do(1, cdb("00"), nil, 0)
	limits(false, false)
	atomics(0, "05/2000")
	atomics(1, "05/2000")

	if err := g.dev.RemoveLUN(g, 1); err != nil {
		t.Fatal(err)
	}
	g.turns(4)
	changed(a)
	limits(true, true)
	atomics(0, "good")
}

// TestSharedWhileHeld: a COMPARE AND WRITE that waits for its hold as a second LUN
// comes is refused when it has it.
func TestSharedWhileHeld(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 1000, allCaps)
	b := g.add(0, d, LUNOptions{})
	a := g.ready("a", 0)
	d.stuck = true
	w := a.start(0, cdb("2a 00 00 00 00 05 00 00 01"), fill(0, 512), 0, AttrSimple)
	q := a.start(0, cdb(caw5), append(fill(0, 512), fill(4, 512)...), 0, AttrSimple)
	if w.done || q.done || len(d.fly) != 1 {
		t.Fatalf("%d I/Os in flight", len(d.fly))
	}
	if _, err := g.dev.AddLUN(g, 1, b, LUNOptions{}); err != nil {
		t.Fatal(err)
	}
	d.stuck = false
	d.finish()
	g.turns(4)
	if w.outcome() != "good" || !q.done || q.outcome() != "05/2000" || d.data[5*512] != 0 {
		t.Errorf("WRITE %s, COMPARE AND WRITE %s", w.outcome(), q.outcome())
	}
}
