package reactor

import "spindle/reactor/clock"

// Timer fires once at its deadline on its reactor. Embed it in its owner and
// set Fire when the owner is made. A Timer may be armed again from Fire.
type Timer struct {
	Fire  func(now clock.Time)
	at    clock.Time
	index int // 1-based place in the heap; 0 is disarmed
}

// Armed tells whether the timer will fire.
func (t *Timer) Armed() bool { return t.index != 0 }

// Due is when an armed timer fires.
func (t *Timer) Due() clock.Time { return t.at }

// Arm sets t to fire at the first turn at or after at; an armed timer is moved.
// Preconditions: runs on the owning reactor.
func (r *Reactor) Arm(t *Timer, at clock.Time) {
	t.at = at
	if t.index == 0 {
		r.timers = append(r.timers, t)
		t.index = len(r.timers)
		r.timers.up(t.index - 1)
		return
	}
	r.timers.fix(t.index - 1)
}

// Disarm stops t; a disarmed timer stays so.
// Preconditions: runs on the owning reactor.
func (r *Reactor) Disarm(t *Timer) {
	if t.index != 0 {
		r.timers.remove(t.index - 1)
	}
}

// timerHeap is a binary heap by deadline; ties fire in heap order, which is a
// function of the calls made, so runs repeat.
type timerHeap []*Timer

func (h timerHeap) next() clock.Time {
	if len(h) == 0 {
		return clock.Never
	}
	return h[0].at
}

func (h *timerHeap) expire(now clock.Time, budget int) int {
	done := 0
	for done < budget && len(*h) > 0 && (*h)[0].at <= now {
		t := (*h)[0]
		h.remove(0)
		t.Fire(now)
		done++
	}
	return done
}

func (h *timerHeap) remove(i int) {
	old := *h
	n := len(old) - 1
	old[i].index = 0
	if i != n {
		old[i] = old[n]
		old[i].index = i + 1
	}
	old[n] = nil
	*h = old[:n]
	if i < n {
		h.fix(i)
	}
}

func (h timerHeap) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

func (h timerHeap) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if h[p].at <= h[i].at {
			return
		}
		h.swap(i, p)
		i = p
	}
}

func (h timerHeap) down(i int) bool {
	start := i
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1].at < h[c].at {
			c++
		}
		if h[i].at <= h[c].at {
			break
		}
		h.swap(i, c)
		i = c
	}
	return i != start
}

func (h timerHeap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}
