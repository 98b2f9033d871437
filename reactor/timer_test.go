package reactor

import (
	"math/rand/v2"
	"slices"
	"testing"

	"spindle/reactor/clock"
)

func TestTimers(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(r *Reactor, a, b *Timer)
		next clock.Time // deadline of the first armed timer after run
		want []clock.Time
	}{
		{"in order of deadline", func(r *Reactor, a, b *Timer) { r.Arm(a, 3000); r.Arm(b, 2000) }, 2000, []clock.Time{2000, 3000}},
		{"moved earlier", func(r *Reactor, a, b *Timer) { r.Arm(a, 3000); r.Arm(b, 2500); r.Arm(a, 2000) }, 2000, []clock.Time{2000, 2500}},
		{"moved later", func(r *Reactor, a, b *Timer) { r.Arm(a, 2000); r.Arm(b, 2500); r.Arm(a, 3000) }, 2500, []clock.Time{2500, 3000}},
		{"disarmed", func(r *Reactor, a, b *Timer) { r.Arm(a, 2000); r.Arm(b, 2500); r.Disarm(a); r.Disarm(a) }, 2500, []clock.Time{2500}},
		{"none", func(r *Reactor, a, b *Timer) { r.Disarm(a) }, clock.Never, nil},
		{"never", func(r *Reactor, a, b *Timer) { r.Arm(a, clock.Never) }, clock.Never, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _, c := newFake(Interrupt)
			var fired []clock.Time
			a := &Timer{Fire: func(now clock.Time) { fired = append(fired, now) }}
			b := &Timer{Fire: func(now clock.Time) { fired = append(fired, now) }}
			tc.run(r, a, b)
			if got := r.Until(0); got != tc.next {
				t.Errorf("next deadline %d, want %d", got, tc.next)
			}
			for c.T < 4000 {
				c.T += 500
				r.Turn(0)
			}
			if !slices.Equal(fired, tc.want) {
				t.Errorf("fired at %v, want %v", fired, tc.want)
			}
		})
	}
}

func TestTimerArmsItself(t *testing.T) {
	r, _, c := newFake(Interrupt)
	fired := 0
	tm := &Timer{}
	tm.Fire = func(now clock.Time) {
		if tm.Armed() {
			t.Error("armed while it fires")
		}
		fired++
		r.Arm(tm, now.Add(10))
	}
	r.Arm(tm, c.T)
	for range 5 {
		r.Turn(0)
		c.T += 10
	}
	if fired != 5 || !tm.Armed() {
		t.Errorf("fired %d times, armed %v", fired, tm.Armed())
	}
}

// Against a sorted list, with random arming, moving and disarming.
func TestTimersAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	r, _, c := newFake(Interrupt)
	const n = 200
	model := map[int]clock.Time{}
	var timers [n]Timer
	for i := range timers {
		timers[i].Fire = func(now clock.Time) {
			at, ok := model[i]
			if !ok || at > now {
				t.Fatalf("timer %d fired at %d, armed for %d, %v", i, now, at, ok)
			}
			for j, other := range model {
				if other < at {
					t.Fatalf("timer %d for %d fired before %d for %d", i, at, j, other)
				}
			}
			delete(model, i)
		}
	}
	for range 5000 {
		switch i := rng.IntN(n); rng.IntN(4) {
		case 0, 1:
			at := c.T + clock.Time(rng.IntN(300))
			r.Arm(&timers[i], at)
			model[i] = at
		case 2:
			r.Disarm(&timers[i])
			delete(model, i)
		case 3:
			c.T += clock.Time(rng.IntN(60))
			for r.timers.next() <= c.T {
				r.Turn(0)
			}
			for i, at := range model {
				if at <= c.T {
					t.Fatalf("timer %d for %d has not fired at %d", i, at, c.T)
				}
			}
		}
	}
}
