// Package clock is the time edge: reactors read time only through a Clock, so
// that the simulator can own it.
//
// Threading: a Clock may be read from any thread. Memory: none.
package clock

import "time"

// Time is monotonic time in nanoseconds since an arbitrary start.
type Time int64

// Never is a deadline that does not come.
const Never Time = 1<<63 - 1

// Add returns t+d, saturating at Never.
func (t Time) Add(d time.Duration) Time {
	if s := t + Time(d); s >= t || d < 0 {
		return s
	}
	return Never
}

// Sub returns the duration t-u.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// Clock reads monotonic time.
type Clock interface{ Now() Time }

// Monotonic is the machine's monotonic clock.
type Monotonic struct{ start time.Time }

// NewMonotonic starts a clock at zero.
func NewMonotonic() *Monotonic { return &Monotonic{start: time.Now()} }

// Now returns the time since the clock was made.
func (m *Monotonic) Now() Time { return Time(time.Since(m.start)) }

// Manual is a clock that stands still until it is told to move: the clock of
// tests and of the simulator. One goroutine only.
type Manual struct{ T Time }

// Now returns the time set last.
func (m *Manual) Now() Time { return m.T }

// Advance moves the clock forward by d.
func (m *Manual) Advance(d time.Duration) { m.T = m.T.Add(d) }
