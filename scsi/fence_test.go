package scsi

import (
	"bytes"
	"testing"
	"time"

	"spindle/bdev"
)

// tasOn makes TAS 1 by session s; the other sessions take their unit attention.
func tasOn(s [3]*session) {
	s[0].g.T.Helper()
	list := append(fill(0, 4), 0x0a, 0x0a, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0)
	if got := s[0].do(0, cdb("15 10 00 00 10"), list, 0).outcome(); got != "good" {
		s[0].g.T.Fatal(got)
	}
	for _, o := range s[1:] {
		o.do(0, cdb("00"), nil, 0)
	}
}

// TestHeldWritesAreDurable: FUA of the commands that run under a hold is a flush
// on a device that has no FUA of its own, and with the cache off always.
func TestHeldWritesAreDurable(t *testing.T) {
	for _, tc := range []struct {
		name, cdb string
		out       []byte
		wce       bool
		flushes   int
	}{
		{"compare and write", caw5, fill(0, 1024), true, 0},
		{"compare and write, FUA", "89 08 00 00 00 00 00 00 00 05 00 00 00 01", fill(0, 1024), true, 1},
		{"compare and write, cache off", caw5, fill(0, 1024), false, 1},
		{"orwrite", "8b 00 00 00 00 00 00 00 00 05 00 00 00 01", fill(1, 512), true, 0},
		{"orwrite, FUA", "8b 08 00 00 00 00 00 00 00 05 00 00 00 01", fill(1, 512), true, 1},
		{"write same, cache off", "93 00 00 00 00 00 00 00 00 05 00 00 00 01", fill(1, 512), false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 1)
			d := newDisk(512, 100, bdev.CapFlush)
			g.add(0, d, LUNOptions{})
			s := g.ready("a", 0)
			if !tc.wce {
				if got := s.do(0, cdb("15 10 00 00 18"), append(append(fill(0, 4), 0x08, 18), fill(0, 18)...), 0).outcome(); got != "good" {
					t.Fatal(got)
				}
			}
			d.log = nil
			if got := s.do(0, cdb(tc.cdb), tc.out, 0).outcome(); got != "good" {
				t.Fatal(got)
			}
			flushes := 0
			for i, io := range d.log {
				if io.Op == bdev.Flush {
					flushes++
					if i != len(d.log)-1 || d.log[i-1].Op != bdev.Write {
						t.Errorf("a flush before the write: %v", d.log)
					}
				}
			}
			if flushes != tc.flushes {
				t.Errorf("%d flushes, want %d", flushes, tc.flushes)
			}
		})
	}
}

// TestWholeUnitCommands: UNMAP names its ranges in data, so a hold on any block
// waits for an older one, and a newer one waits for the hold.
func TestWholeUnitCommands(t *testing.T) {
	g, d, s := trio(t)
	d.data[5*512] = 7
	d.stuck = true
	old := s[1].start(0, cdb("42 00 00 00 00 00 00 00 18"), unmapList(5, 1), 0, AttrSimple)
	g.turns(3)
	caw := s[0].issue(caw5, append(fill(0, 512), fill(2, 512)...))
	g.turns(5)
	if len(d.fly) != 1 || d.fly[0].Op != bdev.Unmap || caw.done {
		t.Fatalf("%d in the backend beside the UNMAP", len(d.fly))
	}
	d.finish()
	g.turns(5)
	young := s[2].start(0, cdb("42 00 00 00 00 00 00 00 18"), unmapList(5, 1), 0, AttrSimple)
	g.turns(5)
	if !old.done || len(d.fly) != 1 || d.fly[0].Op != bdev.Read {
		t.Fatalf("UNMAP %v, %d in the backend", old.done, len(d.fly))
	}
	d.stuck = false
	d.finish()
	g.turns(10)
	if caw.outcome() != "good" || young.outcome() != "good" || d.data[5*512] != 0 {
		t.Errorf("compare and write %s, UNMAP %s, block %d", caw.outcome(), young.outcome(), d.data[5*512])
	}
}

// TestOrderedBeforeItsHold: what the reactor of an ORDERED command takes after it
// stays behind it although home has not yet granted the hold.
func TestOrderedBeforeItsHold(t *testing.T) {
	g, _, s := trio(t)
	ord := s[1].start(0, cdb(write5), fill(3, 512), 0, AttrOrdered)
	young := s[1].issue(read5, nil) // no turn between
	if ord.done || young.done {
		t.Fatalf("ordered %v, newer %v before home knows", ord.done, young.done)
	}
	g.turns(10)
	if ord.outcome() != "good" || !bytes.Equal(young.data, fill(3, 512)) {
		t.Errorf("ordered %s, newer read %s: % x", ord.outcome(), young.outcome(), young.data[:4])
	}
}

// TestOrderedFlush: an ORDERED SYNCHRONIZE CACHE covers the writes that came before it
// on whichever reactor, and one behind an ORDERED write covers that.
func TestOrderedFlush(t *testing.T) {
	g, d, s := trioOf(t, allCaps|bdev.CapFlush)
	d.stuck = true
	first := func() string {
		ops := ""
		for _, io := range d.fly {
			ops += io.Op.String() + " "
		}
		return ops
	}
	s[0].issue(write5, fill(1, 512))
	s[1].issue(read50, nil)
	flush := s[0].start(0, cdb("35"), nil, 0, AttrOrdered)
	g.turns(5)
	young := s[2].issue(write5, fill(2, 512))
	g.turns(6)
	if len(d.fly) != 2 || flush.done || young.done {
		t.Fatalf("with older commands in the backend: %s", first())
	}
	d.finish()
	g.turns(6)
	if len(d.fly) != 1 || d.fly[0].Op != bdev.Flush {
		t.Fatalf("after the older commands: %s", first())
	}
	d.finish()
	g.turns(8)
	d.finish() // the newer write
	g.turns(6)
	if flush.outcome() != "good" || young.outcome() != "good" {
		t.Fatalf("flush %s, newer write %s", flush.outcome(), young.outcome())
	}
	w := s[1].start(0, cdb(write5), fill(3, 512), 0, AttrOrdered)
	flush = s[1].issue("35", nil)
	g.turns(6)
	if len(d.fly) != 1 || d.fly[0].Op != bdev.Write {
		t.Fatalf("beside an ORDERED write: %s", first())
	}
	d.finish()
	g.turns(6)
	d.finish()
	g.turns(6)
	if w.outcome() != "good" || flush.outcome() != "good" {
		t.Errorf("ORDERED write %s, flush %s", w.outcome(), flush.outcome())
	}
}

// TestAbortOfManyParked: the commands behind a hold are aborted from the middle of
// what is parked, from its end and from its front, and nothing stays there.
func TestAbortOfManyParked(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	s[0].start(0, cdb(write5), fill(3, 512), 0, AttrOrdered)
	g.turns(5)
	list := make([]*request, 100)
	for k := range list {
		list[k] = s[0].start(0, cdb("28 00 00 00 00 05 00 00 00"), nil, 0, AttrSimple)
	}
	list[50].Abort()
	list[99].Abort()
	s[0].n.Manage(&Management{Fn: FnAbortTaskSet, Done: func(uint8) {}})
	g.turns(5)
	for k, q := range list {
		if q.outcome() != "aborted" {
			t.Errorf("%d: %s", k, q.outcome())
		}
	}
	if v := s[0].n.existing(0).view; v.parked != (taskQueue{}) {
		t.Error("something is still parked")
	}
	d.finish()
	g.turns(5)
}

// TestPreemptAbortTellsTAS: with TAS, tasks that PREEMPT AND ABORT ends have the
// status TASK ABORTED.
func TestPreemptAbortTellsTAS(t *testing.T) {
	g, d, s := trio(t)
	tasOn(s)
	s[0].pr(prRegister, 0, 0, 1)
	s[1].pr(prRegister, 0, 0, 2)
	d.stuck = true
	w := s[1].issue(write5, fill(1, 512))
	p := s[0].start(0, cdb("5f 05 01 00 00 00 00 00 18"), prOutList(1, 2, 0), 0, AttrSimple)
	g.turns(5)
	d.stuck = false
	d.finish()
	g.turns(10)
	if p.outcome() != "good" || w.outcome() != "task aborted" {
		t.Errorf("preempt %s, write %s", p.outcome(), w.outcome())
	}
}

// TestPreemptWaitsForRefused: a write that the device had no memory for will be
// submitted again, so PREEMPT waits for it too.
func TestPreemptWaitsForRefused(t *testing.T) {
	g, d, s := trio(t)
	s[0].pr(prRegister, 0, 0, 1)
	s[1].pr(prRegister, 0, 0, 2)
	s[1].pr(prReserve, writeExclusive, 2, 0)
	d.noMem = 1 << 30
	w := s[1].issue(write5, fill(1, 512))
	p := s[0].start(0, cdb("5f 04 01 00 00 00 00 00 18"), prOutList(1, 2, 0), 0, AttrSimple)
	g.turns(10)
	if w.done || p.done {
		t.Fatalf("write %v, preempt %v: one is ahead of the other", w.done, p.done)
	}
	d.noMem = 0
	g.Until("preempt", func() bool { return p.done })
	if !w.done || p.outcome() != "good" {
		t.Errorf("preempt %s, write done %v", p.outcome(), w.done)
	}
}

// TestPreemptOwnKey: who preempts the key it shares with others stays registered,
// and is told nothing.
func TestPreemptOwnKey(t *testing.T) {
	_, _, s := trio(t)
	for i := range s {
		s[i].pr(prRegister, 0, 0, 5)
	}
	if got := s[0].pr(prPreempt, writeExclusive, 5, 5); got != "good" {
		t.Fatal(got)
	}
	if got := s[0].do(0, cdb("00"), nil, 0).outcome(); got != "good" {
		t.Errorf("who preempts: %s", got)
	}
	for _, o := range s[1:] {
		if got := o.do(0, cdb("00"), nil, 0).outcome(); got != "06/2A05" {
			t.Errorf("who was preempted: %s", got)
		}
	}
	if _, keys := s[0].keys(); len(keys) != 1 || keys[0] != 5 {
		t.Errorf("keys %x", keys)
	}
}

// TestManagementLetsNewerGo: a function waits for the tasks before it, not for
// those that come while it waits.
func TestManagementLetsNewerGo(t *testing.T) {
	for _, fn := range []uint8{FnAbortTaskSet, FnClearTaskSet, FnLUNReset} {
		g, d, s := trio(t)
		d.stuck = true
		old := s[0].issue(write5, fill(1, 512))
		m := s[0].managing(fn, 0, nil)
		g.turns(5)
		older := d.fly
		d.fly = nil
		young := s[0].issue(read50, nil) // on the reactor of the old one
		if !young.done {                 // it may have met a unit attention
			g.turns(5)
		} else {
			young = s[0].issue(read50, nil)
			g.turns(5)
		}
		for _, io := range older {
			io.Complete(d.run(io))
		}
		g.turns(10)
		if *m != RespComplete || !old.done || young.done || young.Aborted() {
			t.Errorf("function %d: answer %d, older %v, newer %v", fn, *m, old.done, young.done)
		}
		d.stuck = false
		d.finish()
		g.turns(3)
		if young.outcome() != "good" {
			t.Errorf("function %d: newer %s", fn, young.outcome())
		}
	}
}

// TestCallsDuringReset: a command whose call reaches home while a reset waits is
// sent back to end, or the two would wait for each other.
func TestCallsDuringReset(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	s[2].issue(write5, fill(1, 512))
	r := s[1].start(0, cdb("16"), nil, 0, AttrSimple) // its call is on the way home
	m := s[0].managing(FnLUNReset, 0, nil)
	g.Until("RESERVE to end", func() bool { return r.done })
	if *m != -1 {
		t.Errorf("answer %d with a write in the backend", *m)
	}
	d.stuck = false
	d.finish()
	g.turns(10)
	if *m != RespComplete || r.outcome() != "aborted" {
		t.Errorf("answer %d, RESERVE %s", *m, r.outcome())
	}
	s[1].do(0, cdb("00"), nil, 0)
	if got := s[1].do(0, cdb(read5), nil, 512).outcome(); got != "good" {
		t.Errorf("afterwards: %s", got)
	}
}

// TestLargeCapacity: a unit of more blocks than 32 bits count says so in READ
// CAPACITY (10), and in the block descriptor of MODE SENSE (SBC-4 §5.20.2).
func TestLargeCapacity(t *testing.T) {
	g := newBench(t, 1)
	for lun, blocks := range []uint64{1 << 32, 1<<32 + 7, 1<<32 - 1} {
		d := &disk{info: bdev.Info{Product: "Test disk", BlockSize: 512, Blocks: blocks}}
		g.add(uint16(lun), d, LUNOptions{})
	}
	s := g.session("a", 0)
	for lun, want := range []uint32{0xffffffff, 0xffffffff, 0xfffffffe} {
		s.do(uint16(lun), cdb("00"), nil, 0)
		if got := be.Uint32(s.in(uint16(lun), cdb("25"), 8)); got != want {
			t.Errorf("unit %d: last block %#x, want %#x", lun, got, want)
		}
		if got := be.Uint32(s.in(uint16(lun), cdb("1a 00 3f 00 ff"), 255)[4:]); got != 0xffffffff {
			t.Errorf("unit %d: %#x blocks in the descriptor", lun, got)
		}
	}
}

// TestHoldsThatOverlap: of two holds asked for at once, the second is granted
// when the first is over; a longer command that begins before a held range waits
// for it, and is waited for.
func TestHoldsThatOverlap(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	before := s[2].start(0, cdb("2a 00 00 00 00 03 00 00 04"), fill(0, 4*512), 0, AttrSimple) // blocks 3 to 6
	a := s[0].issue(caw5, append(fill(0, 512), fill(2, 512)...))
	b := s[1].issue(caw5, append(fill(2, 512), fill(3, 512)...))
	g.turns(5)
	if len(d.fly) != 1 || d.fly[0].Op != bdev.Write {
		t.Fatalf("%d in the backend beside the write", len(d.fly))
	}
	d.finish()
	g.turns(5)
	if !before.done || len(d.fly) != 1 || d.fly[0].Op != bdev.Read {
		t.Fatalf("write %v, %d in the backend: two holds on one block", before.done, len(d.fly))
	}
	after := s[2].start(0, cdb("28 00 00 00 00 03 00 00 04"), nil, 4*512, AttrSimple)
	g.turns(3)
	if len(d.fly) != 1 || after.done {
		t.Fatal("a read over the held block goes on")
	}
	d.stuck = false
	d.finish()
	g.turns(20)
	if a.outcome() != "good" || b.outcome() != "good" || !bytes.Equal(after.data[2*512:3*512], fill(d.data[5*512], 512)) {
		t.Errorf("first %s, second %s, read %s", a.outcome(), b.outcome(), after.outcome())
	}
}

// TestManyHolds: more holds than a unit grants at once come one after the other.
func TestManyHolds(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	var qs []*request
	for i := range 3 * MaxHolds {
		c := cdb(caw5)
		c[9] = byte(10 + i)
		qs = append(qs, s[i%3].start(0, c, append(fill(0, 512), fill(1, 512)...), 0, AttrSimple))
	}
	g.turns(5)
	if len(d.fly) != MaxHolds {
		t.Errorf("%d in the backend, want %d", len(d.fly), MaxHolds)
	}
	d.stuck = false
	d.finish()
	g.Until("all to end", func() bool {
		for _, q := range qs {
			if !q.done {
				return false
			}
		}
		return true
	})
}

// TestConflictAfterClaim: a COMPARE AND WRITE that asked for its hold before it
// could see another's meets the reservation that was made while it waited.
func TestConflictAfterClaim(t *testing.T) {
	g, d, s := trio(t)
	s[0].pr(prRegister, 0, 0, 1)
	d.stuck = true
	first := s[0].issue(caw5, append(fill(0, 512), fill(2, 512)...))
	second := s[1].issue(caw5, append(fill(2, 512), fill(3, 512)...))
	if second.claim == nil {
		t.Fatal("the second has not asked for its hold")
	}
	g.turns(5)
	if got := s[0].pr(prReserve, writeExclusiveRegs, 1, 0); got != "good" {
		t.Fatal(got)
	}
	d.stuck = false
	d.finish()
	g.turns(20)
	if first.outcome() != "good" || second.outcome() != "conflict" || d.data[5*512] != 2 {
		t.Errorf("first %s, second %s, block %d", first.outcome(), second.outcome(), d.data[5*512])
	}
}

// slowOwner is an engine whose response takes its time to leave.
type slowOwner struct{ done, told int }

func (o *slowOwner) TaskDone(*Task)  { o.done++ }
func (o *slowOwner) TaskAbort(*Task) { o.told++ }

// TestManagementWaitsForResponses: lent memory that a response is being sent from
// keeps its task on the list, and a function is answered when that has left.
func TestManagementWaitsForResponses(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 100, allCaps|bdev.CapLend)
	g.add(0, d, LUNOptions{})
	s := g.ready("a", 0)
	q := s.begin(0, cdb(read5), nil, 512, AttrSimple)
	o := &slowOwner{}
	q.Owner = o
	if q.Prepare() != Ready || !q.Lend || q.Execute() != Done || d.lent != 1 {
		t.Fatalf("%s, %d lent", q.outcome(), d.lent)
	}
	m := s.managing(FnLUNReset, 0, nil)
	g.turns(10)
	if *m != -1 || o.told != 1 {
		t.Fatalf("answer %d, told %d times, before the response has left", *m, o.told)
	}
	q.End()
	g.turns(3)
	if *m != RespComplete || d.lent != 0 {
		t.Errorf("answer %d, %d lent", *m, d.lent)
	}
}

// TestReserveWithRegistrations: RESERVE and RELEASE conflict where somebody has
// registered, and persistent reservations where somebody has reserved.
func TestReserveWithRegistrations(t *testing.T) {
	_, _, s := trio(t)
	s[0].pr(prRegister, 0, 0, 1)
	for i := range s {
		for _, c := range []string{"16", "56", "17", "57"} {
			if got := s[i].do(0, cdb(c), nil, 0).outcome(); got != "conflict" {
				t.Errorf("nexus %d, %s: %s", i, c, got)
			}
		}
	}
	s[0].pr(prRegister, 0, 1, 0)
	if got := s[1].do(0, cdb("16"), nil, 0).outcome(); got != "good" {
		t.Fatalf("RESERVE: %s", got)
	}
	for i := range s {
		if got := s[i].pr(prRegister, 0, 0, 1); got != "conflict" {
			t.Errorf("nexus %d registers: %s", i, got)
		}
	}
}

// TestAllRegistrantsUnregister: an all-registrants reservation ends with its last
// registrant, not with the one that made it.
func TestAllRegistrantsUnregister(t *testing.T) {
	_, _, s := trio(t)
	s[0].pr(prRegister, 0, 0, 1)
	s[1].pr(prRegister, 0, 0, 2)
	s[0].pr(prReserve, writeExclusiveAll, 1, 0)
	held := func() bool { return be.Uint32(s[2].in(0, cdb("5e 01 00 00 00 00 00 00 18"), 24)[4:]) != 0 }
	for _, step := range []struct {
		who  int
		key  uint64
		held bool
	}{{0, 1, true}, {1, 2, false}} {
		if got := s[step.who].pr(prRegister, 0, step.key, 0); got != "good" || held() != step.held {
			t.Errorf("nexus %d unregisters: %s, held %v", step.who, got, !step.held)
		}
	}
}

// TestRegistrantUnregisters: a reservation stays when another registrant goes.
func TestRegistrantUnregisters(t *testing.T) {
	for _, kind := range []prType{writeExclusive, exclusiveAccessRegs} {
		_, _, s := trio(t)
		s[0].pr(prRegister, 0, 0, 1)
		s[1].pr(prRegister, 0, 0, 2)
		s[0].pr(prReserve, kind, 1, 0)
		if got := s[1].pr(prRegister, 0, 2, 0); got != "good" {
			t.Fatal(got)
		}
		if got := s[1].issue(write5, fill(1, 512)).outcome(); got != "conflict" {
			t.Errorf("type %d: a write by who has unregistered: %s", kind, got)
		}
		if be.Uint32(s[2].in(0, cdb("5e 01 00 00 00 00 00 00 18"), 24)[4:]) == 0 {
			t.Errorf("type %d: the reservation is gone", kind)
		}
	}
}

// TestResetRestoresModes: a reset brings mode parameters back to their defaults
// (SPC-5 §5.13.2), CLEAR TASK SET does not.
func TestResetRestoresModes(t *testing.T) {
	for _, tc := range []struct {
		fn  uint8
		tas byte
	}{{FnClearTaskSet, 0x40}, {FnLUNReset, 0}} {
		_, _, s := trio(t)
		tasOn(s)
		if m := s[0].manage(tc.fn, 0, nil); m != RespComplete {
			t.Fatalf("answer %d", m)
		}
		for i := range s {
			if tc.fn == FnLUNReset {
				s[i].do(0, cdb("00"), nil, 0)
			}
			if b := s[i].in(0, cdb("1a 08 0a 00 ff"), 255); b[4+5]&0x40 != tc.tas {
				t.Errorf("function %d, nexus %d: control mode page % x", tc.fn, i, b[4:])
			}
		}
	}
}

// TestSenseInformation: a place that fixed format has no room for is not told as
// another (SPC-5 §4.5.3); descriptor format tells it.
func TestSenseInformation(t *testing.T) {
	for _, tc := range []struct {
		info  uint64
		valid bool
	}{{0, true}, {0xffffffff, true}, {1 << 32, false}, {1<<63 + 5, false}} {
		s := sense{key: MediumError, code: UnrecoveredReadError, info: tc.info, has: hasInfo}
		var b [MaxSense]byte
		if n := s.encode(b[:], false); n != fixedSenseLen || (b[0]&0x80 != 0) != tc.valid || tc.valid != (be.Uint32(b[3:]) == uint32(tc.info) && b[0]&0x80 != 0) {
			t.Errorf("%#x in fixed format: % x", tc.info, b[:n])
		}
		if !tc.valid && be.Uint32(b[3:]) != 0 {
			t.Errorf("%#x in fixed format: % x", tc.info, b[:fixedSenseLen])
		}
		if n := s.encode(b[:], true); b[n-infoDescriptor+2] != 0x80 || be.Uint64(b[n-8:]) != tc.info {
			t.Errorf("%#x in descriptor format: % x", tc.info, b[:n])
		}
	}
}

// TestOvertaken: a command on its way home from another reactor finds there what
// the one that came before it has changed.
func TestOvertaken(t *testing.T) {
	wipe, pattern := overwrite(sanitizeImmed, 1, fill(0xaa, 4))
	for _, tc := range []struct {
		name   string
		first  []byte
		list   []byte
		second string
		want   string
	}{
		{"by nothing", cdb("00"), nil, "15 10", "good"},
		{"by SET TARGET PORT GROUPS", cdb("a4 0a 00 00 00 00 00 00 00 08"), []byte{0, 0, 0, 0, 3, 0, 0, 2}, "15 10", "02/040C"},
		{"by RESERVE", cdb("16"), nil, "15 10", "conflict"},
		{"by an eject", cdb("1b 00 00 00 02"), nil, "48 1f", "02/3A00"},
		{"by SANITIZE", wipe, pattern, "15 10", "02/041B"},
		{"by write protection", cdb("15 10 00 00 10"), append(fill(0, 4), 0x0a, 10, 0, 0x10, 8, 0, 0, 0, 0xff, 0xff, 0, 0), "48 1f", "07/2702"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 2)
			g.dev.SetPorts([]uint16{1, 2})
			g.add(0, newDisk(512, 100, bdev.CapWriteZeroes), LUNOptions{Removable: true})
			a, b := g.via("a", 0, 1), g.via("b", 1, 2)
			second := b.start(0, cdb(tc.second), nil, 0, AttrSimple)
			first := a.start(0, tc.first, tc.list, 0, AttrSimple)
			g.turns(20)
			g.Advance(time.Second)
			if first.outcome() != "good" || second.outcome() != tc.want {
				t.Errorf("%s, and the second %s, want %s", first.outcome(), second.outcome(), tc.want)
			}
		})
	}
}
