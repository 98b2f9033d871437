package iser

import (
	"testing"
	"time"

	"spindle/reactor/clock"
)

// Polls that bring several messages are a period apart; those that bring none
// hold nobody up.
func TestPace(t *testing.T) {
	const start = clock.Time(5 * time.Second)
	for _, c := range []struct {
		name     string
		messages int
		pause    time.Duration
	}{
		{"several", 9, period},
		{"two", 2, period},
		{"the first of single ones", 1, period},
		{"completions of sends only", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p pace
			if !p.due(start) {
				t.Fatal("it waits before there was a message")
			}
			p.had(start, c.messages)
			if c.pause > 0 && p.due(start.Add(c.pause-1)) {
				t.Error("the pause is too short")
			}
			if !p.due(start.Add(c.pause)) {
				t.Errorf("the pause is longer than %v", c.pause)
			}
		})
	}
}

// pauses counts those after polls that bring so many messages each.
func pauses(p *pace, now *clock.Time, polls, messages int) (n int) {
	for range polls {
		p.had(*now, messages)
		if !p.due(now.Add(1)) {
			n++
		}
		*now = now.Add(period)
	}
	return n
}

// Where commands come one by one there is hardly a pause; once several come
// together there is one after each poll.
func TestPacePays(t *testing.T) {
	var p pace
	now := clock.Time(time.Second)
	if n := pauses(&p, &now, 2000, 1); n < 10 || n > 20 {
		t.Errorf("%d pauses in 2000 polls of one message", n)
	}
	if n := pauses(&p, &now, 100, 2); n != 100 {
		t.Errorf("%d pauses in 100 polls of two messages", n)
	}
	if n := pauses(&p, &now, 2, 1); n != 1 {
		t.Errorf("%d pauses in the next two polls of one message", n)
	}
}
