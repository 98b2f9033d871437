package simring_test

import (
	"runtime"
	"testing"

	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/ring/simring"
)

// sleeper is a reactor on a thread that sleeps in every turn.
func sleeper(t *testing.T, w *simring.World) (*reactor.Reactor, *simring.Thread) {
	a := newArena(t)
	rg := w.NewRing(a)
	r := reactor.New(reactor.Config{Ring: rg, Clock: w.Clock(), Arena: a})
	th := simring.NewThread(rg, func() { r.Turn(clock.Never) })
	t.Cleanup(th.Stop)
	return r, th
}

func TestThreadSleepsInsideEnter(t *testing.T) {
	w := simring.New(simring.Config{})
	r, th := sleeper(t, w)
	th.Run()
	if th.Runnable() {
		t.Fatal("runnable with nothing to do")
	}
	ran := 0
	m := &reactor.Msg{Run: func(*reactor.Reactor) { ran++ }}
	r.Post(m) // finds the reactor asleep and wakes it
	if !th.Runnable() || ran != 0 {
		t.Fatalf("runnable %v, message ran %d times before its turn", th.Runnable(), ran)
	}
	th.Run()
	if ran != 1 {
		t.Fatalf("message ran %d times", ran)
	}
	th.Run()
	if th.Runnable() {
		t.Fatal("one wake ended two sleeps")
	}
}

// A poster that forgets to wake leaves a thread that never becomes runnable:
// that is how the simulator sees a lost wake-up.
func TestThreadShowsLostWake(t *testing.T) {
	w := simring.New(simring.Config{})
	rg := w.NewRing(newArena(t))
	inbox, ran := 0, 0
	th := simring.NewThread(rg, func() {
		if _, err := rg.Enter(nil, clock.Never); err != nil {
			t.Error(err)
		}
		ran, inbox = ran+inbox, 0
	})
	defer th.Stop()
	th.Run()
	inbox++
	if th.Runnable() || w.Pending() != 0 || ran != 0 {
		t.Fatalf("runnable %v with %d events: the lost wake is hidden", th.Runnable(), w.Pending())
	}
}

func TestThreadsPingPong(t *testing.T) {
	w := simring.New(simring.Config{})
	a, ta := sleeper(t, w)
	b, tb := sleeper(t, w)
	const rounds = 100
	hops := 0
	var ping, pong *reactor.Msg
	ping = &reactor.Msg{Run: func(*reactor.Reactor) {
		hops++
		a.Post(pong)
	}}
	pong = &reactor.Msg{Run: func(*reactor.Reactor) {
		if hops++; hops < rounds {
			b.Post(ping)
		}
	}}
	ta.Run()
	tb.Run()
	b.Post(ping)
	for ta.Runnable() || tb.Runnable() {
		for _, th := range []*simring.Thread{ta, tb} {
			if th.Runnable() {
				th.Run()
			}
		}
	}
	if hops != rounds {
		t.Fatalf("%d hops, want %d: a wake was lost", hops, rounds)
	}
}

func TestStoppedThreadsAreFreed(t *testing.T) {
	w := simring.New(simring.Config{})
	before := runtime.NumGoroutine()
	for range 50 {
		rg := w.NewRing(nil)
		th := simring.NewThread(rg, func() { rg.Enter(nil, clock.Never) })
		th.Run()
		th.Stop()
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Fatalf("%d coroutines left", n-before)
	}
}

func TestThreadPanicsReachTheScheduler(t *testing.T) {
	th := simring.NewThread(simring.New(simring.Config{}).NewRing(nil), func() { panic("bug") })
	mustPanic(t, "a turn that panics", th.Run)
	th.Stop()
}
