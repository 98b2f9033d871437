package memverbs

import (
	"math/rand/v2"
	"time"

	"spindle/reactor/clock"
)

// Config makes a World. Zero fields take the defaults named.
type Config struct {
	Rand       *rand.Rand    // every choice is drawn from it; nil is seed 0
	Clock      *clock.Manual // nil makes one
	Immediate  bool          // run events as they are made, without latency
	Latency    time.Duration // bound of one message of a queue pair, 10 µs
	CMLatency  time.Duration // bound of one message of the connection manager, 100 µs
	RNRTimer   time.Duration // wait after an RNR NAK, 655 ms: what rdma_cm sets up
	RetryTimer time.Duration // until a silent peer is given up, 2 s
	Timewait   time.Duration // from DISCONNECTED to TIMEWAIT_EXIT, 1 s
	Faults     Faults
}

// World is the fabric and everything on it.
type World struct {
	Faults Faults
	Counts Counts
	// Trace, when set, sees every Event as it happens.
	Trace func(Event)

	cfg      Config
	rng      *rand.Rand
	clock    *clock.Manual
	pending  eventHeap
	seq      uint64
	print    fingerprint
	steps    uint64
	nodes    []*Node
	qps, ids int
	devices  uint32
	settling bool
}

// New makes a World without nodes.
func New(c Config) *World {
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(0, 0))
	}
	if c.Clock == nil {
		c.Clock = new(clock.Manual)
	}
	defaultTo(&c.Latency, 10*time.Microsecond)
	defaultTo(&c.CMLatency, 100*time.Microsecond)
	defaultTo(&c.RNRTimer, 655360*time.Microsecond)
	defaultTo(&c.RetryTimer, 2*time.Second)
	defaultTo(&c.Timewait, time.Second)
	return &World{cfg: c, rng: c.Rand, clock: c.Clock, Faults: c.Faults}
}

func defaultTo(v *time.Duration, d time.Duration) {
	if *v == 0 {
		*v = d
	}
}

// Clock is the clock that events run on.
func (w *World) Clock() *clock.Manual { return w.clock }

// Pending is the number of events that wait to run.
func (w *World) Pending() int { return len(w.pending) }

// Event describes pending event i, 0 <= i < Pending, in no particular order;
// the numbers hold until the World is next touched.
func (w *World) Event(i int) Event { return w.pending[i].describe() }

// Run runs pending event i, moving the clock to its time when that is later.
func (w *World) Run(i int) Event {
	e := w.pending[i]
	if e.at > w.clock.T {
		w.clock.T = e.at
	}
	ev := e.describe()
	w.fire(e)
	w.settle()
	return ev
}

// Next is the time of the earliest pending event, or clock.Never.
func (w *World) Next() clock.Time {
	if len(w.pending) == 0 {
		return clock.Never
	}
	return w.pending[0].at
}

// Step runs one of the events that are due now, chosen by the seed, and tells
// whether there was one.
func (w *World) Step() bool {
	due := 0
	for _, e := range w.pending {
		if e.at <= w.clock.T {
			due++
		}
	}
	if due == 0 {
		return false
	}
	k := w.rng.IntN(due)
	for i, e := range w.pending {
		if e.at <= w.clock.T {
			if k == 0 {
				w.Run(i)
				return true
			}
			k--
		}
	}
	return false
}

// Advance runs every event of the next d in order of time, then leaves the
// clock at the end of it. It returns how many ran.
func (w *World) Advance(d time.Duration) int { return w.AdvanceTo(w.clock.T.Add(d)) }

// AdvanceTo is Advance up to and including time t.
func (w *World) AdvanceTo(t clock.Time) int {
	n := 0
	for w.Next() <= t && len(w.pending) > 0 {
		w.Run(0)
		n++
	}
	if t > w.clock.T {
		w.clock.T = t
	}
	return n
}

// Steps is the number of events that ran so far.
func (w *World) Steps() uint64 { return w.steps }

// TraceHash is the fingerprint of everything that happened so far.
func (w *World) TraceHash() uint64 { return uint64(w.print) }

// post makes e pending after d.
func (w *World) post(e *event, d time.Duration) {
	e.at, e.seq = w.clock.T.Add(d), w.seq
	w.seq++
	w.pending.push(e)
}

func (w *World) unpost(e *event) {
	if e.slot != 0 {
		w.pending.remove(e)
	}
}

func (w *World) fire(e *event) {
	w.pending.remove(e)
	w.steps++
	ev := e.describe()
	w.note(&ev)
	switch e.kind {
	case Transmit:
		e.qp.transmit()
	case Ack:
		e.qp.acknowledge()
	case Read:
		e.qp.readDone(e.send)
	case Flush:
		e.qp.flushAll()
	case Manage:
		e.id.manage()
	}
}

// settle runs everything when events are immediate. Those in the future (a
// timer) stay.
func (w *World) settle() {
	if !w.cfg.Immediate || w.settling {
		return
	}
	w.settling = true
	for len(w.pending) > 0 && w.pending[0].at <= w.clock.T {
		w.fire(w.pending[0])
	}
	w.settling = false
}

func (e *event) describe() Event {
	ev := Event{At: e.at, Kind: e.kind}
	switch e.kind {
	case Manage:
		ev.ID, ev.Op = e.id.number, e.id.inbox[0].kind.String()
	case Transmit:
		ev.ID, ev.Op = e.qp.number, e.qp.at(e.qp.next).wr.Op.String()
	default:
		ev.ID = e.qp.number
	}
	return ev
}

// note records what happened.
func (w *World) note(e *Event) {
	e.At = w.clock.T
	w.print.add(e)
	if w.Trace != nil {
		w.Trace(*e)
	}
}

// chance draws a fault and counts it.
func (w *World) chance(p float64, count *uint64, name string, id int) bool {
	if p <= 0 || w.rng.Float64() >= p {
		return false
	}
	*count++
	w.note(&Event{Kind: Injected, Op: name, ID: id})
	return true
}

// upTo draws a duration in (0, d]; immediate Worlds have none.
func (w *World) upTo(d time.Duration) time.Duration {
	if w.cfg.Immediate {
		return 0
	}
	return 1 + time.Duration(w.rng.Int64N(int64(d)))
}

// late draws a duration in (0, d], in immediate Worlds too: for faults.
func (w *World) late(d time.Duration) time.Duration { return 1 + time.Duration(w.rng.Int64N(int64(d))) }

// source is the ready side of something that events come out of.
type source struct {
	w    *World
	wake func()
}

func (s *source) FD() int             { return -1 }
func (s *source) OnReady(wake func()) { s.wake = wake }

func (s *source) ready(op string) {
	s.w.note(&Event{Kind: Announce, Op: op})
	if s.wake != nil {
		s.wake()
	}
}
