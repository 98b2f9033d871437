package clock

import (
	"testing"
	"time"
)

func TestAddSaturates(t *testing.T) {
	for _, tc := range []struct {
		name string
		t    Time
		d    time.Duration
		want Time
	}{
		{"forward", 5, 7, 12},
		{"back", 5, -7, -2},
		{"just below the end", Never - 2, 1, Never - 1},
		{"beyond the end", Never - 2, 3, Never},
		{"never is never", Never, time.Hour, Never},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.t.Add(tc.d); got != tc.want {
				t.Errorf("%d.Add(%d) = %d, want %d", tc.t, tc.d, got, tc.want)
			}
		})
	}
}

func TestClocks(t *testing.T) {
	m := &Manual{T: 10}
	m.Advance(5)
	if m.Now() != 15 || m.Now().Sub(10) != 5 {
		t.Errorf("manual clock at %d", m.Now())
	}
	c := NewMonotonic()
	for a, i := c.Now(), 0; i < 1000; i++ {
		b := c.Now()
		if b < a {
			t.Fatalf("the monotonic clock went back from %d to %d", a, b)
		}
		a = b
	}
}

func BenchmarkMonotonic(b *testing.B) {
	c := NewMonotonic()
	for b.Loop() {
		c.Now()
	}
}
