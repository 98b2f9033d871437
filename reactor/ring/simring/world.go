package simring

import (
	"math/rand/v2"
	"time"

	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// Config makes a World. Zero fields take the defaults named.
type Config struct {
	Rand         *rand.Rand    // every choice is drawn from it; nil is seed 0
	Clock        *clock.Manual // nil makes one
	Immediate    bool          // run events as they are made, without latency
	NetLatency   time.Duration // bound of one delivery, 100 µs
	DiskLatency  time.Duration // bound of one disk operation, 200 µs
	Stall        time.Duration // bound of Faults.Stall, 2 s
	SocketBuffer int           // bytes of each send and receive buffer, 64 KiB
	QueueSize    int           // submission queue entries, 256; the completion queue has four times as many
	Faults       Faults
}

// World is the simulated kernel; it implements ring.Kernel.
type World struct {
	Faults Faults
	Counts Counts
	// Trace, when set, sees every Event as it happens.
	Trace func(Event)

	cfg       Config
	rng       *rand.Rand
	clock     *clock.Manual
	pending   eventHeap
	seq       uint64
	print     fingerprint
	steps     uint64
	conns     int
	port      uint16
	rings     []*Ring
	ringCount int
	fds       []*desc // by descriptor, nil is free
	disks     []*Disk
	listeners []*listener
}

var _ ring.Kernel = (*World)(nil)

// New makes a World without disks, descriptors or rings.
func New(c Config) *World {
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(0, 0))
	}
	if c.Clock == nil {
		c.Clock = new(clock.Manual)
	}
	defaultTo(&c.NetLatency, 100*time.Microsecond)
	defaultTo(&c.DiskLatency, 200*time.Microsecond)
	defaultTo(&c.Stall, 2*time.Second)
	defaultTo(&c.SocketBuffer, 64<<10)
	defaultTo(&c.QueueSize, 256)
	return &World{cfg: c, rng: c.Rand, clock: c.Clock, Faults: c.Faults, port: 32768}
}

func defaultTo[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Clock is the clock that events run on.
func (w *World) Clock() *clock.Manual { return w.clock }

// NewRing makes the ring of one reactor; provided buffers come from arena.
func (w *World) NewRing(arena *mem.Arena) *Ring {
	r := &Ring{w: w, id: w.ringCount, arena: arena, size: w.cfg.QueueSize}
	r.sq = make([]*op, 0, r.size)
	w.ringCount++
	w.rings = append(w.rings, r)
	return r
}

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

// Kill ends the process under test as SIGKILL does: rings vanish with their
// operations and every descriptor is closed, so that peers see FIN or RST.
// Disks keep what was written; an operation in flight happens or not by coin
// flip. The World goes on and a new process may make new rings.
func (w *World) Kill() { w.die(false) }

// PowerFail ends the process and the machine: connections are reset and every
// disk crashes (Disk.Crash), with writes in flight among the un-synced ones.
func (w *World) PowerFail() {
	w.die(true)
	for _, d := range w.disks {
		d.Crash(w.rng)
	}
}

func (w *World) die(power bool) {
	w.note(&Event{Kind: Kill})
	for _, r := range w.rings {
		r.vanish(power)
	}
	for _, r := range w.rings {
		r.releaseFiles(power)
	}
	w.rings = w.rings[:0]
	for fd, d := range w.fds {
		w.fds[fd] = nil
		d.drop(power)
	}
	w.settle()
}

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
	switch {
	case e.st != nil:
		e.st.fire()
	case e.c != nil:
		e.c.acceptable()
	default:
		e.op.execute()
	}
}

// settle runs everything when events are immediate. Those in the future
// (a TCP user timeout) stay.
func (w *World) settle() {
	if !w.cfg.Immediate {
		return
	}
	for len(w.pending) > 0 && w.pending[0].at <= w.clock.T {
		w.fire(w.pending[0])
	}
}

func (e *event) describe() Event {
	ev := Event{At: e.at, Kind: e.kind}
	switch {
	case e.st != nil:
		ev.ID, ev.Op, ev.N = e.st.c.id, e.st.name(), int64(e.st.flight.n)
	case e.c != nil:
		ev.ID = e.c.id
	default:
		ev.Op, ev.Tag, ev.ID = e.op.kind.String(), e.op.tag, e.op.target()
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

// coin is a fair draw; immediate Worlds always see false.
func (w *World) coin() bool { return !w.cfg.Immediate && w.rng.Uint64()&1 == 0 }

// upTo draws a duration in (0, d]; immediate Worlds have none.
func (w *World) upTo(d time.Duration) time.Duration {
	if w.cfg.Immediate {
		return 0
	}
	return 1 + time.Duration(w.rng.Int64N(int64(d)))
}

func (w *World) ephemeral() uint16 {
	w.port++
	if w.port < 32768 {
		w.port = 32768
	}
	return w.port
}
