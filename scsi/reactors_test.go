package scsi

import (
	"bytes"
	"testing"

	"spindle/bdev"
	"spindle/reactor"
)

const (
	read5  = "28 00 00 00 00 05 00 00 01"
	write5 = "2a 00 00 00 00 05 00 00 01"
	read50 = "28 00 00 00 00 32 00 00 01"
	caw5   = "89 00 00 00 00 00 00 00 00 05 00 00 00 01"
)

// trio is a unit viewed by three reactors, one session on each.
func trio(t *testing.T) (*bench, *disk, [3]*session) { return trioOf(t, allCaps) }

func trioOf(t *testing.T, caps bdev.Caps) (*bench, *disk, [3]*session) {
	g := newBench(t, 3)
	d := newDisk(512, 100, caps)
	g.add(0, d, LUNOptions{})
	var s [3]*session
	for i := range s {
		s[i] = g.ready(string(rune('a'+i)), i)
		if got := s[i].do(0, cdb(read5), nil, 512).outcome(); got != "good" {
			t.Fatal(got)
		}
	}
	return g, d, s
}

func (s *session) issue(c string, out []byte) *request {
	return s.start(0, cdb(c), out, 512, AttrSimple)
}

// TestOneViewPostsNothing: a unit that one reactor views runs COMPARE AND WRITE,
// reservations and mode changes inside the call.
func TestOneViewPostsNothing(t *testing.T) {
	g := newBench(t, 3)
	d := newDisk(512, 100, allCaps)
	g.add(0, d, LUNOptions{})
	s := g.session("a", 2)
	list := append(fill(0, 4), 0x0a, 0x0a, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0)
	s.issue("00", nil)
	s.issue(read5, nil)
	idle := [3]int{}
	for i, r := range g.Reactors { // the block layer has work of its own after an I/O
		idle[i] = r.Turn(0)
	}
	for _, c := range []struct {
		cdb string
		out []byte
	}{
		{caw5, fill(0, 1024)}, {"16", nil}, {"17", nil}, {"15 10 00 00 10", list},
		{"5f 00 00 00 00 00 00 00 18", prOutList(0, 1, 0)}, {"42 00 00 00 00 00 00 00 18", unmapList(0, 1)},
	} {
		if q := s.start(0, cdb(c.cdb), c.out, 0, AttrOrdered); !q.done {
			t.Errorf("%s waits", c.cdb)
		}
	}
	for i, r := range g.Reactors {
		if n := r.Turn(0); n != idle[i] {
			t.Errorf("reactor %d has %d things to do, after a READ %d", i, n, idle[i])
		}
	}
}

// TestHoldParks: while COMPARE AND WRITE waits for an older write on another
// reactor, and while it runs, newer overlapping commands park everywhere;
// others run.
func TestHoldParks(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	w := s[1].issue(write5, fill(1, 512))
	c := s[0].issue(caw5, append(fill(1, 512), fill(2, 512)...))
	g.turns(5)
	r := s[2].issue(read5, nil)
	far := s[2].issue(read50, nil)
	g.turns(5)
	if len(d.fly) != 2 || d.fly[0].Op != bdev.Write || d.fly[1].LBA != 50 {
		t.Fatalf("in the backend: %d", len(d.fly))
	}
	d.finish() // the write and the far read
	g.turns(5)
	if !w.done || !far.done || c.done || r.done || len(d.fly) != 1 || d.fly[0].Op != bdev.Read {
		t.Fatalf("write %v far %v caw %v read %v, backend %d", w.done, far.done, c.done, r.done, len(d.fly))
	}
	d.finish() // the read of COMPARE AND WRITE
	g.turns(5)
	if r.done || len(d.fly) != 1 || d.fly[0].Op != bdev.Write {
		t.Fatalf("read %v, backend %d", r.done, len(d.fly))
	}
	d.stuck = false
	d.finish()
	g.turns(8)
	if !c.done || c.outcome() != "good" || !r.done || !bytes.Equal(r.data, fill(2, 512)) {
		t.Errorf("caw %s, read %s", c.outcome(), r.outcome())
	}
	if v := s[2].n.near[0].view; v.guarded || len(v.holds) != 0 {
		t.Error("the hold is still there")
	}
}

// TestHoldsTakeTurns: many overlapping COMPARE AND WRITEs from every reactor
// each see a whole older one: a counter loses nothing.
func TestHoldsTakeTurns(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	var qs []*request
	for i := range 30 {
		qs = append(qs, s[i%3].issue(caw5, append(fill(byte(i), 512), fill(byte(i+1), 512)...)))
	}
	g.Until("all to end", func() bool {
		d.finish()
		for _, q := range qs {
			if !q.done {
				return false
			}
		}
		return true
	})
	swaps := 0
	for _, q := range qs {
		switch q.outcome() {
		case "good":
			swaps++
		case "0E/1D00":
		default:
			t.Errorf("outcome %s", q.outcome())
		}
	}
	if swaps == 0 || d.data[5*512] != byte(swaps) {
		t.Errorf("%d swaps, block is %d", swaps, d.data[5*512])
	}
	g.turns(5)
	if lu := s[0].n.near[0].view.lu; len(lu.holds) != 0 || len(lu.idle) == 0 || len(lu.idle) > MaxHolds {
		t.Errorf("%d holds stand, %d idle", len(lu.holds), len(lu.idle))
	}
}

// TestLateView: a view that becomes active while a hold stands learns of it.
func TestLateView(t *testing.T) {
	g := newBench(t, 3)
	d := newDisk(512, 100, allCaps)
	g.add(0, d, LUNOptions{})
	a := g.ready("a", 0)
	d.stuck = true
	c := a.issue(caw5, append(fill(0, 512), fill(2, 512)...))
	b := g.session("b", 1)
	b.start(0, cdb("00"), nil, 0, AttrSimple)
	r := b.issue(read5, nil)
	g.turns(5)
	if r.done || len(d.fly) != 1 {
		t.Fatalf("read %v, backend %d", r.done, len(d.fly))
	}
	d.stuck = false
	d.finish()
	g.turns(8)
	if c.outcome() != "good" || !r.done || !bytes.Equal(r.data, fill(2, 512)) {
		t.Errorf("caw %s, read %v %s", c.outcome(), r.done, r.outcome())
	}
}

// TestViewComesBack: a nexus that comes to a view which home has forgotten waits
// for it to be active again, although the answer that says so has not come yet.
func TestViewComesBack(t *testing.T) {
	g := newBench(t, 2)
	d := newDisk(512, 100, allCaps)
	g.add(0, d, LUNOptions{})
	home, last := g.ready("a", 0), g.ready("b", 1)
	closed := false
	last.n.Close(func() { closed = true })
	for !closed {
		g.Reactors[1].Turn(0)
	}
	g.Reactors[0].Turn(0) // forgets the view; the answer is on its way
	next := g.session("c", 1)
	next.start(0, cdb("00"), nil, 0, AttrSimple)
	d.stuck = true
	c := home.issue(caw5, append(fill(0, 512), fill(2, 512)...))
	w := next.issue(write5, fill(1, 512))
	if len(d.fly) != 1 {
		t.Fatalf("%d in the backend while COMPARE AND WRITE runs", len(d.fly))
	}
	d.stuck = false
	d.finish()
	g.turns(8)
	if c.outcome() != "good" || !w.done || w.outcome() != "good" || d.data[5*512] != 1 {
		t.Errorf("caw %s, write %v %s, block %d", c.outcome(), w.done, w.outcome(), d.data[5*512])
	}
}

// TestOrderedInPlace: an ORDERED command keeps its place among those of its nexus that
// wait for another's hold (SAM-5 §8.3).
func TestOrderedInPlace(t *testing.T) {
	for _, tc := range []struct {
		name           string
		before, behind string // what block 8 is written by first, and then
		attr           [2]Attr
	}{
		{"newer waits", "2a 00 00 00 00 05 00 00 04", "2a 00 00 00 00 08 00 00 01", [2]Attr{AttrOrdered, AttrSimple}},
		{"older goes", "2a 00 00 00 00 05 00 00 04", "2a 00 00 00 00 08 00 00 01", [2]Attr{AttrSimple, AttrOrdered}},
		{"both", "2a 00 00 00 00 05 00 00 04", "2a 00 00 00 00 08 00 00 01", [2]Attr{AttrOrdered, AttrOrdered}},
	} {
		for holder := range 2 { // on the same reactor, and on another
			g, d, s := trio(t)
			d.stuck = true
			caw := s[holder].issue(caw5, append(fill(0, 512), fill(2, 512)...))
			g.turns(5)
			first := s[0].start(0, cdb(tc.before), fill(1, 2048), 2048, tc.attr[0])
			second := s[0].start(0, cdb(tc.behind), fill(2, 512), 512, tc.attr[1])
			for range 30 {
				g.turns(3)
				d.finish()
			}
			if !caw.done || !first.done || !second.done {
				t.Fatalf("%s: %v, %v, %v", tc.name, caw.done, first.done, second.done)
			}
			d.stuck = false
			if got := s[0].do(0, cdb("28 00 00 00 00 08 00 00 01"), nil, 512).data[0]; got != 2 {
				t.Errorf("%s, holder on reactor %d: the medium has the data of write %d, want that of the second", tc.name, holder, got)
			}
		}
	}
}

// TestOrderedParkedAborted: what waits for an ORDERED command goes on when that is
// aborted, or kept out.
func TestOrderedParkedAborted(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	data := append(fill(0, 512), fill(2, 512)...)
	caw := s[1].issue(caw5, data)
	g.turns(5)
	parked := s[0].issue(write5, fill(1, 512))
	first := s[0].start(0, cdb("2a 00 00 00 00 32 00 00 01"), fill(1, 512), 512, AttrOrdered)
	second := s[0].start(0, cdb("2a 00 00 00 00 32 00 00 01"), fill(2, 512), 512, AttrOrdered)
	third := s[0].issue(read50, nil)
	g.turns(5)
	d.stuck = false // but what is in flight stays
	for _, r := range []*request{parked, first, second, third} {
		if r.done {
			t.Fatal("a command went past the hold, or past an ORDERED one")
		}
	}
	for _, r := range []*request{first, second} {
		if got := s[0].manage(FnAbortTask, 0, &r.Task); got != RespComplete || !r.Aborted() {
			t.Fatalf("abort: %d, %s", got, r.outcome())
		}
	}
	g.turns(5)
	if !third.done || third.outcome() != "good" {
		t.Errorf("behind ORDERED commands that were aborted: %s", third.outcome())
	}
	if v := s[0].n.near[0].view; v.ordered != 0 {
		t.Errorf("still ordered by %d", v.ordered)
	}
	d.finish()
	g.turns(50)
	if !caw.done || !parked.done {
		t.Errorf("%v, %v", caw.done, parked.done)
	}
}

// TestOrdered: an ORDERED command waits for older ones and newer ones wait for it.
func TestOrdered(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	old := s[1].issue(read50, nil)
	ord := s[0].start(0, cdb(write5), fill(3, 512), 0, AttrOrdered)
	g.turns(5)
	young := s[2].issue(read5, nil)
	same := s[0].issue(read50, nil)
	g.turns(5)
	if len(d.fly) != 1 || ord.done || young.done || same.done {
		t.Fatalf("backend %d", len(d.fly))
	}
	d.finish()
	g.turns(5)
	if !old.done || len(d.fly) != 1 || d.fly[0].Op != bdev.Write {
		t.Fatalf("old %v, backend %d", old.done, len(d.fly))
	}
	d.stuck = false
	d.finish()
	g.turns(8)
	if !ord.done || !same.done || !bytes.Equal(young.data, fill(3, 512)) {
		t.Errorf("ordered %v same %v young %s", ord.done, same.done, young.outcome())
	}
}

// TestPreemptFences: PREEMPT has its status only when no write of the preempted
// nexus can reach the medium any more; what it starts afterwards conflicts.
func TestPreemptFences(t *testing.T) {
	for _, abort := range []bool{false, true} {
		g, d, s := trio(t)
		s[0].pr(prRegister, 0, 0, 1)
		s[1].pr(prRegister, 0, 0, 2)
		s[1].pr(prReserve, writeExclusiveRegs, 2, 0)
		d.stuck = true
		w, other := s[1].issue(write5, fill(1, 512)), s[2].issue(read50, nil)
		late := s[1].begin(0, cdb(write5), nil, 512, AttrSimple) // waits for its data-out
		late.Prepare()
		sa := byte(prPreempt)
		if abort {
			sa = prPreemptAbort
		}
		p := s[0].start(0, []byte{opPersistentOut, sa, byte(writeExclusiveRegs), 0, 0, 0, 0, 0, 24, 0}, prOutList(1, 2, 0), 0, AttrSimple)
		g.turns(10)
		if p.done {
			t.Fatalf("abort %v: status with a write in the backend", abort)
		}
		if (late.told == 1) != abort {
			t.Errorf("abort %v: TaskAbort called %d times", abort, late.told)
		}
		if !abort {
			buf := g.Buffer(512)
			late.Data = buf
			if late.Execute() != Done || late.Status != ReservationConflict {
				t.Errorf("write that got its data after PREEMPT: %s", late.outcome())
			}
			late.finish()
		}
		fly := d.fly
		d.fly = nil
		fly[0].Complete(d.run(fly[0])) // the write; the other nexus's read stays
		g.turns(10)
		if p.outcome() != "good" || w.Aborted() != abort || other.done {
			t.Errorf("abort %v: preempt %v %s, write %s, other %v", abort, p.done, p.outcome(), w.outcome(), other.done)
		}
		fly[1].Complete(d.run(fly[1]))
		g.turns(3)
		if other.outcome() != "good" {
			t.Errorf("abort %v: other nexus's read: %s", abort, other.outcome())
		}
	}
}

// TestRemoveDrains: removing a unit aborts and waits for its tasks; other units
// go on; the channels are closed.
func TestRemoveDrains(t *testing.T) {
	g, d, s := trio(t)
	g.add(1, newDisk(512, 10, 0), LUNOptions{})
	for i := range s {
		s[i].do(0, cdb("00"), nil, 0)
		s[i].do(1, cdb("00"), nil, 0)
	}
	d.stuck = true
	w := s[2].issue(write5, fill(1, 512))
	c := s[0].issue(caw5, append(fill(0, 512), fill(2, 512)...)) // waits for w
	turns, b := 0, g.dev.LUNs()[0].Bdev
	stepper := &stepCaller{g: g, turn: func() {
		if turns++; turns == 10 {
			if got := s[1].do(1, cdb("00"), nil, 0).outcome(); got != "good" {
				t.Errorf("other unit while removing: %s", got)
			}
			if got := s[2].start(0, cdb("00"), nil, 0, AttrSimple).outcome(); got != "05/2500" {
				t.Errorf("removed unit: %s", got)
			}
			d.stuck = false
			d.finish()
		}
	}}
	if err := g.dev.RemoveLUN(stepper, 0); err != nil {
		t.Fatal(err)
	}
	if turns < 10 || w.outcome() != "aborted" || !c.done {
		t.Errorf("%d turns, write %s, caw %v", turns, w.outcome(), c.done)
	}
	if n := b.OpenChannels(); n != 0 {
		t.Errorf("%d channels are open", n)
	}
	if _, shares := b.Claimed(); shares != 0 {
		t.Errorf("%d shares", shares)
	}
}

// TestTargetResetWaitsForRemoval: a task of a unit that is being removed is one
// of the target's until it has ended (SAM-5 §7.8), so a target reset waits.
func TestTargetResetWaitsForRemoval(t *testing.T) {
	for _, fn := range []uint8{FnTargetWarmReset, FnTargetColdReset} {
		g, d, s := trio(t)
		g.add(1, newDisk(512, 10, 0), LUNOptions{})
		for i := range s {
			s[i].do(0, cdb("00"), nil, 0)
		}
		d.stuck = true
		w := s[2].issue(write5, fill(1, 512))
		turns := 0
		var resp *int
		stepper := &stepCaller{g: g, turn: func() {
			switch turns++; turns {
			case 10:
				resp = s[0].managing(fn, 0, nil)
			case 40:
				if *resp >= 0 {
					t.Errorf("function %d: answered with %d while the write was in the backend", fn, *resp)
				}
				d.stuck = false
				d.finish()
			}
		}}
		if err := g.dev.RemoveLUN(stepper, 0); err != nil {
			t.Fatal(err)
		}
		g.turns(20)
		if resp == nil || *resp != RespComplete || w.outcome() != "aborted" {
			t.Errorf("function %d: response %v, write %s", fn, resp, w.outcome())
		}
	}
}

// stepCaller awaits by turning, with something to do each turn.
type stepCaller struct {
	*bench
	g    *bench
	turn func()
}

func (c *stepCaller) Await(_ *reactor.Reactor, start func(done func())) {
	ended := false
	start(func() { ended = true })
	for !ended {
		c.turn()
		c.g.Turn()
	}
}

// TestCloseNexus: a session's tasks are aborted and waited for, whatever they do.
func TestCloseNexus(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	w := s[1].issue(write5, fill(1, 512))
	c := s[1].issue(caw5, append(fill(0, 512), fill(2, 512)...))
	parked := s[1].issue(read5, nil)
	g.turns(5)
	closed := 0
	s[1].n.Close(func() { closed++ })
	g.turns(10)
	if closed != 0 {
		t.Fatal("closed with a write in the backend")
	}
	d.stuck = false
	d.finish()
	g.turns(10)
	if closed != 1 || !w.Aborted() || !c.Aborted() || !parked.Aborted() {
		t.Errorf("closed %d, write %s, caw %s, parked %s", closed, w.outcome(), c.outcome(), parked.outcome())
	}
	if lu := s[0].n.near[0].view.lu; len(lu.active) != 2 {
		t.Errorf("%d views are active", len(lu.active))
	}
}

// TestNoMem: a device without memory makes commands wait, in order.
func TestNoMem(t *testing.T) {
	g, d, s := trio(t)
	d.noMem = 3
	a, b := s[0].issue(write5, fill(1, 512)), s[0].issue(write5, fill(2, 512))
	if a.done || b.done {
		t.Fatal("a refused command ended")
	}
	g.Until("retries", func() bool { return a.done && b.done })
	if a.outcome() != "good" || b.outcome() != "good" || d.data[5*512] != 2 {
		t.Errorf("%s, %s, block %d", a.outcome(), b.outcome(), d.data[5*512])
	}
	d.noMem = 1
	x := s[0].issue(write5, fill(3, 512))
	x.Abort()
	g.turns(100)
	if x.outcome() != "aborted" || d.data[5*512] != 2 {
		t.Errorf("aborted while refused: %s, block %d", x.outcome(), d.data[5*512])
	}
}

// TestLend: a plain READ of a device that lends takes no buffer, and gives the
// memory back with End, aborted or not.
func TestLend(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 100, allCaps|bdev.CapLend)
	d.data[5*512] = 7
	g.add(0, d, LUNOptions{})
	s := g.ready("a", 0)
	q := s.begin(0, cdb(read5), nil, 512, AttrSimple)
	if q.Prepare() != Ready || !q.Lend || q.Execute() != Done {
		t.Fatal("not lent")
	}
	if d.lent != 1 || q.Data.Bytes()[0] != 7 || q.DataLen != 512 {
		t.Errorf("lent %d, data %x", d.lent, q.Data.Bytes()[:1])
	}
	q.End()
	if d.lent != 0 {
		t.Errorf("lent %d after End", d.lent)
	}
	d.stuck = true
	q = s.issue(read5, nil)
	q.Abort()
	d.finish()
	if q.outcome() != "aborted" || d.lent != 0 {
		t.Errorf("aborted: %s, lent %d", q.outcome(), d.lent)
	}
}

// TestConflictAfterHold: a write that was parked, and a COMPARE AND WRITE that
// waited for its hold, meet the reservation that was made meanwhile.
func TestConflictAfterHold(t *testing.T) {
	g, d, s := trio(t)
	s[0].pr(prRegister, 0, 0, 1)
	d.stuck = true
	first := s[2].issue(caw5, append(fill(0, 512), fill(2, 512)...))
	g.turns(5)
	second := s[1].issue(caw5, append(fill(2, 512), fill(3, 512)...))
	parked := s[1].issue(write5, fill(4, 512))
	g.turns(5)
	if got := s[0].pr(prReserve, writeExclusiveRegs, 1, 0); got != "good" {
		t.Fatal(got)
	}
	if first.done || second.done || parked.done {
		t.Fatal("nothing waits")
	}
	d.stuck = false
	d.finish()
	g.turns(20)
	if first.outcome() != "good" || second.outcome() != "conflict" || parked.outcome() != "conflict" {
		t.Errorf("first %s, second %s, parked %s", first.outcome(), second.outcome(), parked.outcome())
	}
	if d.data[5*512] != 2 {
		t.Errorf("block is %d", d.data[5*512])
	}
}

// TestAbortWaitingForHold: a task that waits for a hold others keep from it is
// aborted at once; its claim leaves nothing behind.
func TestAbortWaitingForHold(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	first := s[0].issue(caw5, append(fill(0, 512), fill(2, 512)...))
	g.turns(5)
	second := s[1].issue(caw5, append(fill(2, 512), fill(3, 512)...))
	g.turns(5)
	if m := s[1].manage(FnAbortTask, 0, &second.Task); m != RespComplete || second.outcome() != "aborted" || first.done {
		t.Fatalf("answer %d, second %s, first %v", m, second.outcome(), first.done)
	}
	d.stuck = false
	d.finish()
	g.turns(10)
	if first.outcome() != "good" || d.data[5*512] != 2 {
		t.Errorf("first %s, block %d", first.outcome(), d.data[5*512])
	}
	for i := range s {
		v := s[i].n.near[0].view
		if v.guarded || len(v.claims) != 0 || len(v.lu.holds) != 0 {
			t.Errorf("view %d: %d claims, %d holds", i, len(v.claims), len(v.lu.holds))
		}
	}
	if got := s[1].do(0, cdb(caw5), append(fill(2, 512), fill(9, 512)...), 0).outcome(); got != "good" {
		t.Errorf("afterwards: %s", got)
	}
}
