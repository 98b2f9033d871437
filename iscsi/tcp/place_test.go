package tcp

import (
	"errors"
	"testing"

	"spindle/reactor"
	"spindle/reactor/clock"
)

// TestPlace: connections of a device queue share a reactor, that of its CPU if
// there is one.
func TestPlace(t *testing.T) {
	var rs []*reactor.Reactor
	for i, core := range []int{4, 5} {
		rs = append(rs, reactor.New(reactor.Config{ID: i, Core: core, Clock: clock.NewMonotonic()}))
	}
	type socket struct {
		cpu, queue int
		err        error
	}
	var now socket
	in := New(nil, rs, Options{Incoming: func(int) (int, int, error) { return now.cpu, now.queue, now.err }})
	for _, tc := range []struct {
		name  string
		s     socket
		least *reactor.Reactor
		want  *reactor.Reactor
	}{
		{"loopback has no queue", socket{4, 0, nil}, rs[1], nil},
		{"the kernel does not tell", socket{4, 9, errors.New("no")}, rs[1], nil},
		{"a queue of the second CPU", socket{5, 71, nil}, rs[0], rs[1]},
		{"a queue of no reactor's CPU", socket{1, 72, nil}, rs[1], rs[1]},
		{"the same again", socket{1, 72, nil}, rs[0], rs[1]},
		{"a queue stays where it was", socket{4, 71, nil}, rs[0], rs[1]},
	} {
		now = tc.s
		if got := (&Conn{t: in}).Place(tc.least); got != tc.want {
			t.Errorf("%s: reactor %v", tc.name, got)
		}
	}
	if in.Stats.Placed.Load() != 4 {
		t.Errorf("%d were placed", in.Stats.Placed.Load())
	}
	if off := New(nil, rs, Options{}); (&Conn{t: off}).Place(rs[0]) != nil {
		t.Error("placed though nobody asked")
	}
}
