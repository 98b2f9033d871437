package scsi

import (
	"fmt"
	"testing"
	"time"
)

// manage runs a task management function to its answer.
func (s *session) manage(fn uint8, lun uint16, ref *Task) int {
	s.g.T.Helper()
	m := s.managing(fn, lun, ref)
	s.g.Until("task management", func() bool { return *m >= 0 })
	return *m
}

// managing starts one; -1 until it is answered.
func (s *session) managing(fn uint8, lun uint16, ref *Task) *int {
	resp := -1
	s.n.Manage(&Management{Fn: fn, LUN: EncodeLUN(lun), Ref: ref, Done: func(r uint8) {
		if resp != -1 {
			s.g.T.Error("answered twice")
		}
		resp = int(r)
	}})
	if resp != -1 {
		s.g.T.Error("answered inside Manage")
	}
	return &resp
}

// TestResetWaits: LUN RESET is answered only after the affected tasks have left
// the backend on every reactor; then every nexus has the unit attention.
func TestResetWaits(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	w := s[1].issue(write5, fill(1, 512))
	waiting := s[2].begin(0, cdb(write5), nil, 512, AttrSimple) // for its data-out
	if waiting.Prepare() != Ready {
		t.Fatal(waiting.outcome())
	}
	m := s[0].managing(FnLUNReset, 0, nil)
	g.turns(20)
	if *m != -1 {
		t.Fatalf("answered %d with a write in the backend", *m)
	}
	if waiting.told != 1 {
		t.Errorf("TaskAbort called %d times", waiting.told)
	}
	if w.done {
		t.Error("the write ended in the backend")
	}
	d.stuck = false
	d.finish()
	g.turns(8)
	if *m != RespComplete || w.outcome() != "aborted" {
		t.Errorf("answer %d, write %s", *m, w.outcome())
	}
	for i := range s {
		if got := s[i].do(0, cdb("00"), nil, 0).outcome(); got != "06/2903" {
			t.Errorf("nexus %d: %s", i, got)
		}
	}
}

// TestResetTimeBox: past its time box a reset is answered 255 and the nexus is
// fenced for the unit until the backend has let go.
func TestResetTimeBox(t *testing.T) {
	g, d, s := trio(t)
	g.add(1, newDisk(512, 10, 0), LUNOptions{})
	for i := range s {
		s[i].do(0, cdb("00"), nil, 0)
		s[i].do(1, cdb("00"), nil, 0)
	}
	d.stuck = true
	s[1].issue(write5, fill(1, 512))
	m := s[0].managing(FnLUNReset, 0, nil)
	g.Clock.Advance(managementBudget - time.Second)
	g.turns(3)
	if *m != -1 {
		t.Fatalf("answered %d early", *m)
	}
	g.Clock.Advance(time.Second)
	g.turns(3)
	if *m != RespRejected {
		t.Fatalf("answer %d, want 255", *m)
	}
	if got := s[0].issue(read5, nil).outcome(); got != "busy" {
		t.Errorf("fenced nexus: %s", got)
	}
	if got := s[0].do(1, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "good" {
		t.Errorf("other unit: %s", got)
	}
	d.stuck = false
	d.finish()
	g.turns(8)
	if *m != RespRejected {
		t.Errorf("answered again: %d", *m)
	}
	if got := s[0].do(0, cdb("00"), nil, 0).outcome(); got != "06/2903" {
		t.Errorf("after the reset: %s", got)
	}
	if got := s[0].do(0, cdb(read5), nil, 512).outcome(); got != "good" {
		t.Errorf("after the backend let go: %s", got)
	}
}

// TestTargetResetPastHungUnit: a unit whose device hangs keeps a target reset from
// none of the others, and what comes behind the reset finds it done. The fence of the
// time box is for the unit that hangs alone.
func TestTargetResetPastHungUnit(t *testing.T) {
	for _, fn := range []uint8{FnTargetWarmReset, FnTargetColdReset} {
		g, d, s := trio(t)
		for lun := uint16(1); lun < 3; lun++ {
			g.add(lun, newDisk(512, 10, 0), LUNOptions{})
		}
		for lun := range uint16(3) {
			for i := range s {
				s[i].do(lun, cdb("00"), nil, 0)
			}
		}
		if got := s[1].do(2, cdb("16"), nil, 0).outcome(); got != "good" { // RESERVE
			t.Fatal(got)
		}
		d.stuck = true
		s[1].issue(write5, fill(1, 512))
		m := s[0].managing(fn, 0, nil)
		g.turns(8)
		if got := s[2].do(2, cdb("00"), nil, 0).outcome(); got[:5] != "06/29" {
			t.Errorf("function %d: unit behind the one that hangs: %s", fn, got)
		}
		if got := s[2].do(2, cdb("00"), nil, 0).outcome(); got != "good" {
			t.Errorf("function %d: the reservation stands: %s", fn, got)
		}
		g.Clock.Advance(managementBudget)
		g.turns(3)
		if *m != RespRejected {
			t.Fatalf("function %d: answer %d, want 255", fn, *m)
		}
		s[0].do(2, cdb("00"), nil, 0) // unit attention
		if got := s[0].do(2, cdb("00"), nil, 0).outcome(); got != "good" {
			t.Errorf("function %d: unit that is done: %s", fn, got)
		}
		if got := s[0].issue("00", nil).outcome(); got != "busy" {
			t.Errorf("function %d: unit that hangs: %s", fn, got)
		}
		d.stuck = false
		d.finish()
		g.turns(8)
		s[0].issue("00", nil)
		if got := s[0].issue("00", nil).outcome(); got != "good" {
			t.Errorf("function %d: after the backend let go: %s", fn, got)
		}
	}
}

// TestResetsOfHungUnit: functions that a hung device holds up are bounded, and the
// fence stands until the last of them has ended.
func TestResetsOfHungUnit(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	s[1].issue(write5, fill(1, 512))
	for k := range 4 * maxResets {
		m := s[0].managing(FnLUNReset, 0, nil)
		g.Clock.Advance(managementBudget)
		g.turns(3)
		if *m != RespRejected {
			t.Fatalf("function %d: answer %d, want 255", k, *m)
		}
		if got := s[0].issue("00", nil).outcome(); got != "busy" {
			t.Fatalf("after function %d: %s", k, got)
		}
	}
	if n := s[0].n.resets; n != maxResets {
		t.Errorf("%d functions are under way, want %d", n, maxResets)
	}
	d.stuck = false
	d.finish()
	g.turns(400)
	m := s[0].managing(FnLUNReset, 0, nil)
	g.turns(8)
	if *m != RespComplete {
		t.Errorf("afterwards: answer %d", *m)
	}
}

// TestResetAndHome: a command that waits at home for a stuck round does not
// keep a reset from ending, nor the reset it.
func TestResetAndHome(t *testing.T) {
	g, d, s := trio(t)
	d.stuck = true
	w := s[1].issue(write5, fill(1, 512))
	m := s[0].managing(FnLUNReset, 0, nil)
	g.turns(5)
	if got := s[2].issue("00", nil).outcome(); got != "06/2903" {
		t.Errorf("newer command: %s", got)
	}
	late := s[2].start(0, cdb("16"), nil, 0, AttrSimple) // newer than the reset
	g.turns(5)
	if late.done || *m != -1 {
		t.Fatalf("late %v, answer %d", late.outcome(), *m)
	}
	d.finish()
	g.turns(100)
	if *m != RespComplete || w.outcome() != "aborted" || !late.done {
		t.Errorf("answer %d, write %s, late %v", *m, w.outcome(), late.done)
	}
}

func TestManage(t *testing.T) {
	tests := []struct {
		name     string
		fn       uint8
		own, all bool // tasks of the nexus, of the others, are aborted
		ua       string
		other    string
	}{
		{"abort task set", FnAbortTaskSet, true, false, "good", "good"},
		{"clear task set", FnClearTaskSet, true, true, "good", "06/2F00"},
		{"lun reset", FnLUNReset, true, true, "06/2903", "06/2903"},
		{"target warm reset", FnTargetWarmReset, true, true, "06/2902", "06/2902"},
		{"target cold reset", FnTargetColdReset, true, true, "06/2901", "06/2901"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g, d, s := trio(t)
			d.stuck = true
			own, other := s[0].issue(write5, fill(1, 512)), s[1].issue(read50, nil)
			m := s[0].managing(tc.fn, 0, nil)
			g.turns(5)
			if *m != -1 {
				t.Fatalf("answered %d at once", *m)
			}
			d.stuck = false
			d.finish()
			g.turns(8)
			if *m != RespComplete || own.Aborted() != tc.own || other.Aborted() != tc.all {
				t.Errorf("answer %d, own %s, other %s", *m, own.outcome(), other.outcome())
			}
			if got := s[0].do(0, cdb("00"), nil, 0).outcome(); got != tc.ua {
				t.Errorf("own nexus: %s, want %s", got, tc.ua)
			}
			if got := s[1].do(0, cdb("00"), nil, 0).outcome(); got != tc.other {
				t.Errorf("other nexus: %s, want %s", got, tc.other)
			}
		})
	}
	g, d, s := trio(t)
	if r := s[0].manage(FnLUNReset, 9, nil); r != RespNoLUN {
		t.Errorf("no such unit: %d", r)
	}
	if r := s[0].manage(FnClearACA, 0, nil); r != RespUnsupported {
		t.Errorf("clear ACA: %d", r)
	}
	if normACA, cacas := s[0].in(0, cdb("12 00 00 00 24"), 36)[3]>>5&1, s[0].in(0, cdb("a3 0d 00 00 00 00 00 00 00 04"), 4)[0]>>5&1; normACA|cacas != 0 {
		t.Errorf("clear ACA is not supported, yet NORMACA is %d and CACAS is %d", normACA, cacas)
	}
	if r := s[0].manage(FnAbortTask, 0, nil); r != RespNoTask {
		t.Errorf("no task: %d", r)
	}
	d.stuck = true
	q, o := s[0].issue(write5, fill(1, 512)), s[0].issue(read50, nil)
	m := s[0].managing(FnAbortTask, 0, &q.Task)
	g.turns(3)
	if *m != -1 {
		t.Fatalf("abort task answered %d at once", *m)
	}
	d.finish()
	g.turns(3)
	if *m != RespComplete || q.outcome() != "aborted" || o.outcome() != "good" {
		t.Errorf("abort task: %d, %s, other %s", *m, q.outcome(), o.outcome())
	}
}

// TestTaskAbortedStatus: with TAS, others' tasks end with TASK ABORTED.
func TestTaskAbortedStatus(t *testing.T) {
	g, d, s := trio(t)
	list := append(fill(0, 4), 0x0a, 0x0a, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0)
	if got := s[0].do(0, cdb("15 10 00 00 10"), list, 0).outcome(); got != "good" {
		t.Fatal(got)
	}
	s[1].do(0, cdb("00"), nil, 0)
	d.stuck = true
	own, other := s[0].issue(write5, fill(1, 512)), s[1].issue(read50, nil)
	m := s[0].managing(FnClearTaskSet, 0, nil)
	g.turns(5)
	d.stuck = false
	d.finish()
	g.turns(8)
	if *m != RespComplete || own.outcome() != "aborted" || other.outcome() != "task aborted" {
		t.Errorf("answer %d, own %s, other %s", *m, own.outcome(), other.outcome())
	}
	if got := s[1].do(0, cdb("00"), nil, 0).outcome(); got != "good" {
		t.Errorf("with TAS there is no unit attention: %s", got)
	}
}

// TestTASByDefault: a unit may have TAS 1 from the start; it is then the default
// that MODE SENSE shows, and what a reset returns to.
func TestTASByDefault(t *testing.T) {
	for _, tas := range []bool{false, true} {
		g := newBench(t, 1)
		d := newDisk(512, 100, 0)
		g.add(0, d, LUNOptions{TAS: tas})
		a, b := g.session("a", 0), g.session("b", 0)
		a.do(0, cdb("00"), nil, 0)
		b.do(0, cdb("00"), nil, 0)
		for _, pc := range []string{"0a", "8a"} { // current, default
			if in := a.in(0, cdb("1a 08 "+pc+" 00 40"), 0x40); len(in) < 10 || in[9]&0x40 != 0 != tas {
				t.Errorf("TAS %v: page control %s: % x", tas, pc, in)
			}
		}
		d.stuck = true
		other := b.issue(read50, nil)
		m := a.managing(FnLUNReset, 0, nil)
		g.turns(5)
		d.stuck = false
		d.finish()
		g.turns(8)
		want := map[bool]string{false: "aborted", true: "task aborted"}[tas]
		if *m != RespComplete || other.outcome() != want {
			t.Errorf("TAS %v: answer %d, the other's task %s, want %s", tas, *m, other.outcome(), want)
		}
	}
}

// TestQueuedBehindReset: a command that waits at home when a reset starts ends
// aborted, and the reset does not wait for it for ever.
func TestQueuedBehindReset(t *testing.T) {
	g, d, s := trio(t)
	s[0].pr(prRegister, 0, 0, 1)
	s[1].pr(prRegister, 0, 0, 2)
	d.stuck = true
	w := s[1].issue(write5, fill(1, 512))
	preempt := s[0].start(0, cdb("5f 04 01 00 00 00 00 00 18"), prOutList(1, 2, 0), 0, AttrSimple)
	g.turns(5)
	m := s[2].managing(FnLUNReset, 0, nil)
	g.turns(5)
	register := s[2].start(0, cdb("5f 06 00 00 00 00 00 00 18"), prOutList(0, 3, 0), 0, AttrSimple)
	g.turns(5)
	if preempt.done || register.done || *m != -1 {
		t.Fatalf("preempt %v, register %v, answer %d", preempt.done, register.done, *m)
	}
	d.stuck = false
	d.finish()
	g.turns(100)
	if !w.done || !preempt.done || *m != RespComplete || register.outcome() != "aborted" {
		t.Errorf("write %v, preempt %v, answer %d, register %s", w.done, preempt.done, *m, register.outcome())
	}
	s[0].do(0, cdb("00"), nil, 0)
	if _, keys := s[0].keys(); len(keys) != 1 || keys[0] != 1 {
		t.Errorf("keys %x", keys)
	}
}

// TestForsakenHolds: commands that ask for a hold while a device hangs that all holds
// are for, and are aborted, leave a bounded number of requests behind.
func TestForsakenHolds(t *testing.T) {
	g, d, s := trio(t)
	data := append(fill(0, 512), fill(2, 512)...)
	caw := func(from *session, lba int) *request {
		return from.issue(fmt.Sprintf("89 00 00 00 00 00 00 00 00 %02x 00 00 00 01", lba), data)
	}
	d.stuck = true
	var held [MaxHolds]*request
	for k := range held {
		held[k] = caw(s[1], k)
	}
	g.turns(5)
	v := s[0].n.near[0].view
	if len(v.lu.holds) != MaxHolds {
		t.Fatalf("%d holds", len(v.lu.holds))
	}
	for k := range 2 * maxForsaken {
		c := caw(s[0], 50)
		if got := s[0].manage(FnAbortTask, 0, &c.Task); got != RespComplete || !c.Aborted() {
			t.Fatalf("abort %d: %d, %s", k, got, c.outcome())
		}
	}
	waiting := 0
	for c := v.lu.holdWait.head; c != nil; c = c.next {
		waiting++
	}
	if waiting != maxForsaken {
		t.Errorf("%d requests are kept, want %d", waiting, maxForsaken)
	}
	late := caw(s[0], 50)
	d.stuck = false
	d.finish()
	g.turns(8 * maxForsaken)
	if !held[0].done || !late.done || v.forsaken != 0 || len(v.lu.holds) != 0 {
		t.Errorf("first %v, late %v, %d forsaken, %d holds", held[0].done, late.done, v.forsaken, len(v.lu.holds))
	}
}

// TestAbortAtAbsentUnit: a command to a unit that is not there, which waits for a
// buffer, can be aborted like any other.
func TestAbortAtAbsentUnit(t *testing.T) {
	_, _, s := trio(t)
	q := s[0].begin(77, cdb("12 00 00 00 24"), nil, 36, AttrSimple)
	if got := q.Prepare(); got != Ready {
		t.Fatalf("INQUIRY is not waited for: %v", got)
	}
	if got := s[0].manage(FnAbortTask, 77, &q.Task); got != RespComplete || !q.Aborted() {
		t.Errorf("ABORT TASK: %d, %s", got, q.outcome())
	}
}
