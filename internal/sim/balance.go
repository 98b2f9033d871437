package sim

import (
	"math/rand/v2"
	"time"

	"spindle/iscsi"
	"spindle/reactor/clock"
)

// mover has sessions go from reactor to reactor at random, whatever the load. It
// implements iscsi.Balancer.
type mover struct {
	s        *run
	rng      *rand.Rand // its own: the rest of the run is drawn as without it
	every    time.Duration
	wait     time.Duration
	commands uint64 // sent when it was asked last
}

// mostWait is how long a mover waits while nobody sends commands.
const mostWait = 5 * time.Second

// drawMover has sessions move in half of the runs in which there is where to.
func (s *run) drawMover() {
	r := rand.New(rand.NewPCG(s.cfg.Seed, 0x30e5))
	if s.plan.reactors > 1 && r.IntN(2) == 0 {
		s.mover = &mover{s: s, rng: r, every: pick(r, 200*time.Microsecond, time.Millisecond, 5*time.Millisecond)}
	}
}

// balancer is the target's, nil when sessions stay.
func (s *run) balancer() iscsi.Balancer {
	if s.mover == nil {
		return nil
	}
	return s.mover
}

// Balance implements iscsi.Balancer.
func (m *mover) Balance(_ clock.Time, busy []time.Duration) (o iscsi.Order, next time.Duration) {
	if m.s.rep.Commands == m.commands {
		m.wait = min(2*m.wait+m.every, mostWait)
	} else {
		m.wait = m.every
	}
	m.commands = m.s.rep.Commands
	from := m.rng.IntN(len(busy))
	o = iscsi.Order{From: from, To: (from + 1 + m.rng.IntN(len(busy)-1)) % len(busy), Choose: m.choose}
	return o, m.wait/2 + time.Duration(m.rng.Int64N(int64(m.wait)))
}

func (m *mover) choose(shares []float64) int {
	if len(shares) == 0 {
		return -1
	}
	return m.rng.IntN(len(shares))
}

// Moved implements iscsi.Balancer.
func (m *mover) Moved(_ clock.Time, from, to int, moved bool) {
	if moved {
		m.s.count(SessionsMoved)
		m.s.line("a session moved from reactor %d to %d", from, to)
	} else {
		m.s.count(SessionsStayed)
	}
}
