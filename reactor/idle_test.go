package reactor

import (
	"math/rand/v2"
	"testing"
	"time"

	"spindle/reactor/clock"
	"spindle/reactor/ring"
)

func TestUntil(t *testing.T) {
	for _, tc := range []struct {
		name   string
		policy IdlePolicy
		work   int
		timer  clock.Time // 0 is none
		sinceN time.Duration
		noted  bool
		want   clock.Time
	}{
		{"poll never sleeps", Poll, 0, 0, time.Hour, true, 0},
		{"interrupt after work", Interrupt, 1, 0, 0, true, 0},
		{"interrupt without work", Interrupt, 0, 0, 0, true, clock.Never},
		{"interrupt with a timer", Interrupt, 0, 1 << 50, 0, false, 1 << 50},
		{"adaptive after work", Adaptive, 1, 0, time.Hour, true, 0},
		{"adaptive right after I/O", Adaptive, 0, 0, MinSpin - 1, true, 0},
		{"adaptive long after I/O", Adaptive, 0, 0, MaxSpin, true, clock.Never},
		{"adaptive with a timer", Adaptive, 0, 1 << 50, MaxSpin, true, 1 << 50},
		{"adaptive without any I/O", Adaptive, 0, 0, 0, false, clock.Never},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _, c := newFake(tc.policy)
			if tc.timer != 0 {
				r.Arm(&Timer{Fire: func(clock.Time) {}}, tc.timer)
			}
			if tc.noted {
				r.NoteIO()
			}
			c.Advance(tc.sinceN)
			r.Turn(0)
			if got := r.Until(tc.work); got != tc.want {
				t.Errorf("Until(%d) = %d, want %d", tc.work, got, tc.want)
			}
		})
	}
}

// A stream of commands with one rhythm: does the reactor still spin when the
// next one comes, and how long does it spin when none comes?
func TestSpinFollowsTheStream(t *testing.T) {
	for _, tc := range []struct {
		name     string
		gap      time.Duration
		polite   bool
		meets    bool
		min, max time.Duration // of the spin after the last command
	}{
		{"queue depth 32", 2 * time.Microsecond, false, true, MinSpin, MinSpin},
		{"queue depth 1 on loopback", 15 * time.Microsecond, false, true, MinSpin, MinSpin},
		{"queue depth 1 over a network", 120 * time.Microsecond, false, true, 235 * time.Microsecond, 260 * time.Microsecond},
		{"queue depth 1 on a slow disk", 2 * time.Millisecond, false, true, 3900 * time.Microsecond, MaxSpin},
		{"at the bound", 4 * time.Millisecond, false, true, MaxSpin, MaxSpin},
		{"software device", 8 * time.Millisecond, true, true, PoliteSpin, PoliteSpin},
		{"software device at the bound", 16 * time.Millisecond, true, true, PoliteSpin, PoliteSpin},
		{"too slow to meet", 100 * time.Millisecond, false, false, MinSpin, MinSpin},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _, c := newFake(Adaptive)
			if tc.polite {
				r.MakeWay(true)
			}
			for i := range 200 {
				c.Advance(tc.gap)
				r.Turn(0)
				if met := r.Until(0) == 0; i > 100 && met != tc.meets {
					t.Fatalf("command %d meets a spinning reactor: %v", i, met)
				}
				r.NoteIO()
				r.NoteIO() // the turn's second batch changes nothing
			}
			if d := r.idle.spinUntil.Sub(r.now); d < tc.min || d > tc.max {
				t.Errorf("spins %v after the last command, want %v..%v", d, tc.min, tc.max)
			}
		})
	}
}

// On a busy machine the gaps of a stream scatter: few of them outlast the spin.
func TestSpinCoversAnIrregularStream(t *testing.T) {
	r, _, c := newFake(Adaptive)
	rng := rand.New(rand.NewPCG(3, 4))
	missed := 0
	for range 2000 {
		c.Advance(time.Duration(30e3 * rng.ExpFloat64()))
		if rng.IntN(20) == 0 { // the initiator lost its core
			c.Advance(time.Duration(rng.IntN(300)) * time.Microsecond)
		}
		r.Turn(0)
		if r.Until(0) != 0 {
			missed++
		}
		r.NoteIO()
	}
	if missed > 100 {
		t.Errorf("%d of 2000 commands met a sleeping reactor", missed)
	}
}

// Timers and NOPs do not keep an adaptive reactor awake.
func TestOtherWorkDoesNotExtendTheSpin(t *testing.T) {
	r, f, c := newFake(Adaptive)
	src := r.Register(completerFunc(func(uint32, ring.CQE) {}))
	r.NoteIO()
	c.Advance(MaxSpin)
	f.cqes = []ring.CQE{{Tag: src.Tag(0)}}
	if work := r.Turn(0); work != 1 || r.Until(work) != 0 {
		t.Fatalf("a turn with work is followed by a sleep: work %d", work)
	}
	if work := r.Turn(0); r.Until(work) != clock.Never {
		t.Error("a NOP made the reactor spin")
	}
}

func TestNoSleepWithWorkAtHand(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(r *Reactor)
		want clock.Time
	}{
		{"nothing", func(*Reactor) {}, clock.Never},
		{"message", func(r *Reactor) { r.Post(&Msg{Run: func(*Reactor) {}}) }, 0},
		{"flush", func(r *Reactor) { r.NeedFlush(&FlushNode{To: flusherFunc(func() {})}) }, 0},
		{"stop", func(r *Reactor) { r.Stop() }, 0},
		{"poller without Pending", func(r *Reactor) { r.AddPoller(&pollFunc{func() int { return 0 }}) }, clock.Never},
		{"poller with work", func(r *Reactor) { r.AddPoller(newSleeper(true)) }, 0},
		{"poller without work", func(r *Reactor) { r.AddPoller(newSleeper(false)) }, clock.Never},
		{"removed poller", func(r *Reactor) { s := newSleeper(true); r.AddPoller(s); r.RemovePoller(s) }, clock.Never},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, f, _ := newFake(Interrupt)
			tc.set(r)
			r.Turn(clock.Never)
			if f.untils[0] != tc.want {
				t.Errorf("entered until %d, want %d", f.untils[0], tc.want)
			}
			if r.idle.sleeping.Load() {
				t.Error("still marked asleep after the turn")
			}
		})
	}
}

func newSleeper(pending bool) *sleeperFunc {
	return &sleeperFunc{pollFunc{func() int { return 0 }}, func() bool { return pending }}
}

// A poster wakes a reactor only while it sleeps.
func TestPostWakesTheSleeping(t *testing.T) {
	r, f, _ := newFake(Interrupt)
	r.Post(&Msg{Run: func(*Reactor) {}})
	r.Turn(0)
	if f.wakes != 0 {
		t.Fatalf("%d wakes of a reactor that is awake", f.wakes)
	}
	ran := false
	f.enter = func(until clock.Time) {
		if until != 0 {
			r.Post(&Msg{Run: func(*Reactor) { ran = true }})
		}
	}
	r.Turn(clock.Never)
	if f.wakes != 1 || !ran {
		t.Errorf("%d wakes of a sleeping reactor, message ran %v", f.wakes, ran)
	}
}
