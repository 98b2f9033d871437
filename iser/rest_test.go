package iser

import (
	"testing"
	"time"

	"spindle/reactor/clock"
)

// A rest is twice as long as the turn before it, at most a millisecond, and
// there is none without work.
func TestRest(t *testing.T) {
	const start = clock.Time(5 * time.Second)
	for _, c := range []struct {
		name       string
		messages   int
		turn, rest time.Duration
	}{
		{"a short turn", 2, 3 * time.Microsecond, 6 * time.Microsecond},
		{"a long one", 9, 200 * time.Microsecond, 400 * time.Microsecond},
		{"one that was held up", 2, time.Second, time.Millisecond},
		{"the first of one message", 1, time.Microsecond, 2 * time.Microsecond},
		{"completions of sends only", 0, time.Microsecond, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r rest
			if !r.over(start) {
				t.Fatal("it rests before it has worked")
			}
			r.worked(start, c.messages)
			end := start.Add(c.turn)
			if c.rest > 0 && (r.over(end) || r.over(end.Add(c.rest-1))) {
				t.Error("the rest is too short")
			}
			if !r.over(end.Add(c.rest)) || !r.over(end.Add(c.rest+1)) {
				t.Errorf("the rest is longer than %v", c.rest)
			}
		})
	}
}

// rests counts those of turns that have so many messages each.
func rests(r *rest, now *clock.Time, turns, messages int) (n int) {
	for range turns {
		r.worked(*now, messages)
		if *now = now.Add(time.Microsecond); !r.over(*now) {
			n++
		}
		*now = now.Add(maxRest)
	}
	return n
}

// Where commands come one by one there is hardly a rest; once several come
// together there is one after each turn.
func TestRestPays(t *testing.T) {
	var r rest
	now := clock.Time(time.Second)
	if n := rests(&r, &now, 1000, 1); n < 10 || n > 25 {
		t.Errorf("%d rests in 1000 turns of one command", n)
	}
	if n := rests(&r, &now, 100, 2); n != 100 {
		t.Errorf("%d rests in 100 turns of two commands", n)
	}
	if n := rests(&r, &now, 2, 1); n != 1 {
		t.Errorf("%d rests in the next two turns of one command", n)
	}
}
