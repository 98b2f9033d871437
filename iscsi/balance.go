package iscsi

import (
	"time"

	"spindle/reactor/clock"
)

// Order has a session go from a reactor to another. Choose is handed what each of
// those that can move does of the reactor's work, at most 1 together, and tells
// which; -1 is none. Without Choose there is no order.
type Order struct {
	From, To int
	Choose   func(shares []float64) int
}

// A Balancer decides which sessions move. Owner: the registry's reactor, but for
// Order.Choose, which runs on From.
type Balancer interface {
	// Balance is told for how long each reactor has been busy since it was made, and
	// tells what to do and when to ask again. An order is not heeded while another is
	// carried out.
	Balance(now clock.Time, busy []time.Duration) (o Order, next time.Duration)
	// Moved tells how an order ended: with moved false the session stayed.
	Moved(now clock.Time, from, to int, moved bool)
}

// When sessions move. A reactor's load is the share of a window in which it was busy.
const (
	// balanceWindow is how often loads are looked at: long enough for a few hundred
	// commands, and for the tick to cost nothing.
	balanceWindow = 100 * time.Millisecond
	// crowded is the load from which on a reactor has sessions leave: what comes
	// waits for what is there longer than it takes (by Pollaczek and Khinchine
	// nearly three times as long).
	crowded = 0.85
	// roomy is the load that two reactors may have together for the sessions of one
	// to join the other's. Together they take less, since they wake up less often:
	// what comes then waits about half as long as it takes, which is less than it takes
	// to wake another reactor. What lies between roomy and crowded keeps sessions from
	// going back and forth.
	roomy = 0.6
	// alike is how many times the load of the other a reactor may have and be the one
	// that gives its sessions away: of two with as much to do, the one that takes
	// longer shares its CPU with others.
	alike = 1.5
	// awake is the load below which a reactor has nothing worth moving.
	awake = 0.005
	// worthwhile is by how much a move has to lower the load of the busier of two
	// reactors: a session that would only make the other the busy one stays.
	worthwhile = 0.15
	// spreadAfter and packAfter are for how many windows in a row it has to be so. To
	// spread is urgent; to pack saves power only, and must not follow each pause. Once
	// either has begun, one window is enough for the next session.
	spreadAfter = 3
	packAfter   = 5
	// unspread is for how long nothing is packed after sessions were spread.
	unspread = 10 * time.Second
	// futile is for how long a reactor is left alone when an order to it was in vain.
	futile = 5 * time.Second
)

// Packer has sessions share as few reactors as their load asks for: with little to
// do, each reactor goes to sleep and wakes for its own commands, where one that
// serves all finds the next at work. One session moves at a time.
type Packer struct {
	// SpreadOnly is for reactors that never sleep: nothing is saved by packing.
	SpreadOnly bool

	last    clock.Time
	busy    []time.Duration // at last
	load    []float64       // in the last window
	mean    []float64       // a moving average
	failed  []clock.Time    // when an order to leave it was in vain
	full    int             // windows in a row in which there was something to spread
	loose   int             // ... to pack
	spread  clock.Time      // when something was spread last; 0 is never
	ordered bool            // an order is being carried out
	pack    bool            // ... and it is to pack
	source  int             // the reactor that is being emptied, counted from 1; 0 is none
}

// Balance implements Balancer.
func (p *Packer) Balance(now clock.Time, busy []time.Duration) (Order, time.Duration) {
	if p.busy == nil {
		n := len(busy)
		p.load, p.mean, p.failed = make([]float64, n), make([]float64, n), make([]clock.Time, n)
	} else if d := now.Sub(p.last); d > 0 {
		for i := range busy {
			p.load[i] = min(float64(busy[i]-p.busy[i])/float64(d), 1)
			p.mean[i] += (p.load[i] - p.mean[i]) / packAfter
		}
	}
	p.last, p.busy = now, append(p.busy[:0], busy...)
	return p.decide(now), balanceWindow
}

// Moved implements Balancer.
func (p *Packer) Moved(now clock.Time, from, _ int, moved bool) {
	p.ordered, p.full, p.loose = false, 0, 0
	switch {
	case !moved:
		p.failed[from], p.source = max(now, 1), 0
	case p.pack:
		p.loose, p.source = packAfter-1, from+1
	default:
		p.full, p.spread, p.source = spreadAfter-1, max(now, 1), 0
	}
}

// decide looks at the loads of a window.
func (p *Packer) decide(now clock.Time) Order {
	if p.ordered {
		return Order{}
	}
	if o := p.spreading(now); o.Choose != nil {
		p.loose = 0
		if p.full++; p.full < spreadAfter {
			return Order{}
		}
		p.ordered, p.pack = true, false
		return o
	}
	p.full = 0
	o := p.packing(now)
	if o.Choose == nil {
		p.loose = 0
		return o
	}
	if p.loose++; p.loose < packAfter {
		return Order{}
	}
	p.ordered, p.pack = true, true
	return o
}

// tried tells whether a reactor was ordered to give a session away in vain, of late.
func (p *Packer) tried(i int, now clock.Time) bool {
	return p.failed[i] != 0 && now.Sub(p.failed[i]) < futile
}

// spreading finds the reactor with the most to do, if that is too much, and the one
// with the least.
func (p *Packer) spreading(now clock.Time) Order {
	from, to := -1, 0
	for i, l := range p.load {
		if l >= crowded && !p.tried(i, now) && (from < 0 || l > p.load[from]) {
			from = i
		}
		if l < p.load[to] {
			to = i
		}
	}
	if from < 0 {
		return Order{}
	}
	a, b := p.load[from], p.load[to]
	if a-b < 2*worthwhile {
		return Order{}
	}
	return Order{From: from, To: to, Choose: func(shares []float64) int { return nearest(shares, (a-b)/2/a, (a-b-worthwhile)/a) }}
}

// packing finds the reactor with the least to do, and the busiest that can do that,
// too. What is being emptied is so to the end, lest sessions that are alike go in
// circles.
func (p *Packer) packing(now clock.Time) Order {
	if p.SpreadOnly || p.spread != 0 && now.Sub(p.spread) < unspread {
		return Order{}
	}
	from, to := -1, -1
	for i, l := range p.load {
		if l >= awake && !p.tried(i, now) && (from < 0 || l < p.load[from]) {
			from = i
		}
	}
	if s := p.source - 1; s >= 0 && p.load[s] >= awake {
		from = s
	} else {
		p.source = 0
	}
	for i, l := range p.load {
		if from >= 0 && i != from && l >= awake && l+p.load[from] <= roomy && (to < 0 || l > p.load[to]) {
			to = i
		}
	}
	if to < 0 {
		return Order{}
	}
	if p.source == 0 && p.load[to] < alike*p.load[from] && p.mean[to] > p.mean[from] && !p.tried(to, now) {
		from, to = to, from
	}
	return Order{From: from, To: to, Choose: func(shares []float64) int { return nearest(shares, 1, 2) }}
}

// nearest is the place of the share that is nearest to want, of those that are
// something and less than most; -1 when there is none.
func nearest(shares []float64, want, most float64) int {
	best := -1
	for i, x := range shares {
		if x > 0 && x < most && (best < 0 || max(x-want, want-x) < max(shares[best]-want, want-shares[best])) {
			best = i
		}
	}
	return best
}
