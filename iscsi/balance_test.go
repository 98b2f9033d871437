package iscsi

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"spindle/reactor/clock"
)

// machine is reactors with sessions of given loads, which a Packer moves.
type machine struct {
	p     *Packer
	now   clock.Time
	busy  []time.Duration
	at    []int // reactor of each session
	load  []float64
	stuck []bool // sessions that do not move
	noise *rand.Rand
	moves int
}

func newMachine(reactors int, load ...float64) *machine {
	m := &machine{p: &Packer{}, busy: make([]time.Duration, reactors), load: load, stuck: make([]bool, len(load)), noise: rand.New(rand.NewPCG(1, 2))}
	for i := range load {
		m.at = append(m.at, i%reactors)
	}
	return m
}

// run lets d pass. What a session asks for is off by a tenth from window to window.
func (m *machine) run(d time.Duration) {
	for end := m.now.Add(d); m.now < end; {
		o, next := m.p.Balance(m.now, slices.Clone(m.busy))
		if o.Choose != nil {
			m.carryOut(o)
		}
		m.now = m.now.Add(next)
		for r := range m.busy {
			sum := 0.0
			for i, l := range m.load {
				if m.at[i] == r {
					sum += l * (0.9 + 0.2*m.noise.Float64())
				}
			}
			m.busy[r] += time.Duration(min(sum, 1) * float64(next))
		}
	}
}

func (m *machine) carryOut(o Order) {
	var list []int
	var shares []float64
	total := 0.0
	for i, l := range m.load {
		if m.at[i] != o.From {
			continue
		}
		total += l
		if !m.stuck[i] {
			list, shares = append(list, i), append(shares, l)
		}
	}
	for i := range shares {
		shares[i] /= total
	}
	k := o.Choose(shares)
	if k >= 0 {
		m.at[list[k]] = o.To
		m.moves++
	}
	m.p.Moved(m.now, o.From, o.To, k >= 0)
}

// used are the reactors that have anything to do.
func (m *machine) used() int {
	n := 0
	for r := range m.busy {
		if slices.ContainsFunc(m.at, func(at int) bool { return at == r }) {
			n++
		}
	}
	return n
}

func TestPacker(t *testing.T) {
	for _, tt := range []struct {
		name     string
		reactors int
		load     []float64
		used     int // reactors, in the end
		moves    int // at most
	}{
		{"little", 2, []float64{.1, .1}, 1, 1},
		{"little, many sessions", 4, []float64{.02, .02, .02, .02, .02, .02, .02, .02}, 1, 7},
		{"all alike", 2, []float64{.04, .05, .04, .05, .04, .05, .04, .05, .04, .05}, 1, 5},
		{"too much for one", 2, []float64{.35, .35}, 2, 0},
		{"enough for two", 3, []float64{.25, .25, .25}, 2, 1},
		{"all they have", 2, []float64{.9, .9}, 2, 0},
		{"one busy session", 2, []float64{2, 0, .1, 0}, 2, 1},
		{"crowded", 2, []float64{.5, 0, .5, 0, .5, 0}, 2, 1},
		{"idle", 2, []float64{0, 0}, 2, 0},
		{"between packing and spreading", 2, []float64{.35, 0, .35, 0}, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(tt.reactors, tt.load...)
			m.run(20 * time.Second)
			first := m.moves
			if m.used() != tt.used || first > tt.moves {
				t.Errorf("%d reactors are used after %d moves: %v", m.used(), first, m.at)
			}
			if m.run(10 * time.Minute); m.moves != first {
				t.Errorf("%d moves more under the same load", m.moves-first)
			}
		})
	}
}

// TestPackerFollowsLoad: what was packed is spread when it has more to do, at once,
// and packed again only when that has been over for a while.
func TestPackerFollowsLoad(t *testing.T) {
	m := newMachine(2, .1, .1, .1, .1)
	if m.run(5 * time.Second); m.used() != 1 {
		t.Fatalf("not packed: %v", m.at)
	}
	for i := range m.load {
		m.load[i] = .4
	}
	if m.run(time.Second); m.used() != 2 {
		t.Fatalf("not spread: %v", m.at)
	}
	m.load = []float64{.1, .1, .1, .1}
	before := m.moves
	if m.run(unspread / 2); m.moves != before {
		t.Errorf("packed at once: %v", m.at)
	}
	if m.run(2 * unspread); m.used() != 1 {
		t.Errorf("not packed again: %v", m.at)
	}
}

// TestPackerWavers: a load that comes and goes within a second moves nothing back
// and forth.
func TestPackerWavers(t *testing.T) {
	m := newMachine(2, .1, .1)
	for range 100 {
		m.load = []float64{.6, .6}
		m.run(500 * time.Millisecond)
		m.load = []float64{.1, .1}
		m.run(400 * time.Millisecond)
	}
	if m.moves > 0 {
		t.Errorf("%d moves in 90 seconds", m.moves)
	}
}

// TestPackerGivesUp: a reactor whose sessions do not move is not asked all the time.
func TestPackerGivesUp(t *testing.T) {
	m := newMachine(2, .1, .1)
	m.stuck = []bool{true, true}
	asked := 0
	for range 600 {
		if o, _ := m.p.Balance(m.now, slices.Clone(m.busy)); o.Choose != nil {
			asked++
			m.p.Moved(m.now, o.From, o.To, false)
		}
		m.now = m.now.Add(balanceWindow)
		for r := range m.busy {
			m.busy[r] += balanceWindow / 10
		}
	}
	if asked == 0 || asked > 30 {
		t.Errorf("asked %d times in a minute", asked)
	}
}

// TestPackerLeavesSlowCPU: of two reactors with as much to do, what takes longer is
// left.
func TestPackerLeavesSlowCPU(t *testing.T) {
	for slow := range 2 {
		m := newMachine(2, .1, .1)
		m.load[slow] = .13
		if m.run(5 * time.Second); m.at[0] != 1-slow || m.at[1] != 1-slow {
			t.Errorf("the sessions are on %v, and %d is slow", m.at, slow)
		}
	}
}

func TestPackerSpreadOnly(t *testing.T) {
	m := newMachine(2, .1, .1)
	m.p.SpreadOnly = true
	if m.run(time.Minute); m.moves != 0 {
		t.Errorf("packed: %v", m.at)
	}
	m.at, m.load = []int{0, 0}, []float64{.6, .6}
	if m.run(time.Minute); m.moves != 1 {
		t.Errorf("not spread: %v", m.at)
	}
}
