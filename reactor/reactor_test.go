package reactor

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"spindle/reactor/clock"
	"spindle/reactor/ring"
)

// fakeRing hands out the completions it was given and notes how it was entered.
type fakeRing struct {
	ring.Ring
	cqes   []ring.CQE
	untils []clock.Time
	enter  func(until clock.Time)
	wakes  int
}

func (f *fakeRing) Enter(out []ring.CQE, until clock.Time) (int, error) {
	f.untils = append(f.untils, until)
	if f.enter != nil {
		f.enter(until)
	}
	n := copy(out, f.cqes)
	f.cqes = f.cqes[n:]
	return n, nil
}

func (f *fakeRing) Wake() { f.wakes++ }

func newFake(policy IdlePolicy) (*Reactor, *fakeRing, *clock.Manual) {
	f, c := &fakeRing{}, &clock.Manual{T: 1000}
	return New(Config{Core: -1, Ring: f, Clock: c, Idle: policy}), f, c
}

type completerFunc func(arg uint32, c ring.CQE)

func (f completerFunc) Complete(arg uint32, c ring.CQE) { f(arg, c) }

type flusherFunc func()

func (f flusherFunc) Flush() { f() }

type pollFunc struct{ f func() int }

func (p *pollFunc) Poll() int { return p.f() }

type sleeperFunc struct {
	pollFunc
	pending func() bool
}

func (s *sleeperFunc) Pending() bool { return s.pending() }

func TestTurnOrder(t *testing.T) {
	r, f, c := newFake(Adaptive)
	var order []string
	note := func(s string) { order = append(order, s) }
	f.enter = func(clock.Time) { note("enter"); c.Advance(time.Microsecond) }
	src := r.Register(completerFunc(func(arg uint32, _ ring.CQE) {
		note(fmt.Sprintf("complete %d at %d", arg, r.Now()))
	}))
	f.cqes = []ring.CQE{{Tag: src.Tag(1<<24 - 1)}, {Tag: src.Tag(0)}}
	r.Post(&Msg{Run: func(*Reactor) { note("message") }})
	tm := &Timer{Fire: func(clock.Time) { note("timer") }}
	r.Arm(tm, 1500)
	node := &FlushNode{}
	again := true
	node.To = flusherFunc(func() {
		note("flush")
		if again {
			again = false
			r.NeedFlush(node) // a full submission queue: once more, next turn
		}
	})
	r.AddPoller(&pollFunc{func() int { note("poll"); return 0 }})
	r.NeedFlush(node)
	r.NeedFlush(node)
	if work := r.Turn(0); work != 5 {
		t.Errorf("work %d", work)
	}
	want := []string{"enter", "complete 16777215 at 2000", "complete 0 at 2000", "message", "timer", "poll", "flush"}
	if !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
	if r.Turn(clock.Never) != 1 {
		t.Error("the second request to flush was lost")
	}
	if f.untils[1] != 0 {
		t.Error("the ring was let sleep with a flush waiting")
	}
	if s := r.Stats(); s.Turns != 2 || s.Completions != 2 || s.Messages != 1 || s.Sleeps != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestStaleCompletions(t *testing.T) {
	r, f, _ := newFake(Adaptive)
	var got []string
	source := func(name string) Source {
		return r.Register(completerFunc(func(uint32, ring.CQE) { got = append(got, name) }))
	}
	a := source("a")
	stale := a.Tag(7)
	r.Unregister(a)
	b := source("b") // in a's slot, a generation later
	f.cqes = []ring.CQE{{Tag: stale}, {Tag: b.Tag(7)}, {Tag: ring.Tag(1<<24 - 2)}, {Tag: ^ring.Tag(0)}}
	r.Turn(0)
	r.Unregister(b)
	f.cqes = []ring.CQE{{Tag: b.Tag(7)}}
	r.Turn(0)
	if !slices.Equal(got, []string{"b"}) || r.Stats().Stale != 4 {
		t.Errorf("completed %v, %d stale", got, r.Stats().Stale)
	}
	defer func() {
		if recover() == nil {
			t.Error("a second Unregister passed")
		}
	}()
	r.Unregister(b)
}

func TestBudgets(t *testing.T) {
	r, _, c := newFake(Interrupt)
	ran, fired := 0, 0
	for range MaxMessagesPerTurn + 3 {
		r.Post(&Msg{Run: func(*Reactor) { ran++ }})
	}
	for range MaxTimersPerTurn + 2 {
		r.Arm(&Timer{Fire: func(clock.Time) { fired++ }}, c.T)
	}
	r.Turn(0)
	if ran != MaxMessagesPerTurn || fired != MaxTimersPerTurn {
		t.Errorf("first turn: %d messages, %d timers", ran, fired)
	}
	r.Turn(0)
	if ran != MaxMessagesPerTurn+3 || fired != MaxTimersPerTurn+2 {
		t.Errorf("second turn: %d messages, %d timers", ran, fired)
	}
}

func TestPollersComeAndGo(t *testing.T) {
	r, _, _ := newFake(Poll)
	var order []string
	named := func(name string, more func()) *pollFunc {
		return &pollFunc{func() int {
			order = append(order, name)
			if more != nil {
				more()
			}
			return 1
		}}
	}
	c := named("c", nil)
	d := named("d", nil)
	var b *pollFunc
	b = named("b", func() { r.RemovePoller(b); r.RemovePoller(c); r.AddPoller(d) })
	for _, p := range []*pollFunc{named("a", nil), b, c} {
		r.AddPoller(p)
	}
	if n := r.Turn(0); n != 3 {
		t.Errorf("work %d", n)
	}
	r.Turn(0)
	if want := []string{"a", "b", "d", "a", "d"}; !slices.Equal(order, want) {
		t.Errorf("polled %v, want %v", order, want)
	}
	r.RemovePoller(c) // not there any more: nothing happens
}

// busy/idle accounting: a turn's time is busy when it or the one before found work.
func TestAccounting(t *testing.T) {
	r, f, c := newFake(Adaptive)
	step := func(d time.Duration, cqes int, until clock.Time) {
		f.enter = func(clock.Time) { c.Advance(d) }
		f.cqes = make([]ring.CQE, cqes)
		r.Turn(until)
	}
	step(10, 0, 0)             // idle
	step(100, 1, 0)            // busy: found a completion
	step(1000, 0, 0)           // busy: submits what the last turn prepared
	step(20, 0, 0)             // idle
	step(5000, 1, clock.Never) // asleep
	if s := r.Stats(); s.BusyNS != 1100 || s.IdleNS != 5030 || s.Sleeps != 1 || s.Turns != 5 {
		t.Errorf("stats %+v", s)
	}
}

func TestTurnAllocatesNothing(t *testing.T) {
	r, f, c := newFake(Adaptive)
	src := r.Register(completerFunc(func(uint32, ring.CQE) { r.NoteIO() }))
	msg := &Msg{Run: func(*Reactor) {}}
	tm := &Timer{Fire: func(clock.Time) {}}
	node := &FlushNode{To: flusherFunc(func() {})}
	cqes := make([]ring.CQE, 32)
	for i := range cqes {
		cqes[i].Tag = src.Tag(uint32(i))
	}
	f.enter = func(clock.Time) { f.untils = f.untils[:0] }
	turn := func() {
		c.Advance(time.Microsecond)
		f.cqes = cqes
		r.Post(msg)
		r.Arm(tm, c.T)
		r.NeedFlush(node)
		if n := r.Turn(r.Until(0)); n != 35 {
			t.Fatalf("work %d", n)
		}
	}
	if n := testing.AllocsPerRun(1000, turn); n != 0 {
		t.Errorf("%v allocations a turn", n)
	}
}
