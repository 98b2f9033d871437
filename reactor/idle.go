package reactor

import (
	"sync/atomic"

	"spindle/reactor/clock"
)

// IdlePolicy is what a reactor does when a turn found no work.
type IdlePolicy uint8

const (
	Adaptive  IdlePolicy = iota // spin for a bounded time, then sleep in the ring
	Poll                        // spin for ever
	Interrupt                   // sleep at once
)

type idleState struct {
	policy   IdlePolicy
	sleeping atomic.Bool
	lastWork clock.Time
}
