package counters

import (
	"testing"
	"time"
)

func TestCollections(t *testing.T) {
	const text = `something else
gc 1 @0.013s 2%: 0.026+0.39+0.002 ms clock, 0.10+0.1/0.3/0.2+0.01 ms cpu, 3->4->1 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 4 P
level=INFO gc 7 @ not a line
gc 2 @0.100s 2%: 0.1+0.39+1.5 ms clock, 0.10+0.1/0.3/0.2+0.01 ms cpu, 241->241->2 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 4 P
gc 3 @2.100s 2%: 0.2+0.39+0.1 ms clock, 0.10+0.1/0.3/0.2+0.01 ms cpu, 242->243->2 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 4 P (forced)
`
	for _, c := range []struct {
		name  string
		text  string
		after int
		want  GC
		last  int
	}{
		{"nothing", "", 4, GC{}, 4},
		{"all", text, 0, GC{Cycles: 3, Pauses: 1928 * time.Microsecond, Longest: 1500 * time.Microsecond, Garbage: 480 << 20}, 3},
		{"what came since", text, 2, GC{Cycles: 1, Pauses: 300 * time.Microsecond, Longest: 200 * time.Microsecond, Garbage: 240 << 20}, 3},
		{"nothing since", text, 3, GC{}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			if g, last := Collections(c.text, c.after); g != c.want || last != c.last {
				t.Errorf("%+v, %d; want %+v, %d", g, last, c.want, c.last)
			}
		})
	}
}
