package sim

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/tcp"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring/simring"
)

// run is one run of a target and its initiators.
type run struct {
	cfg  Config
	m    *Machine
	rep  *Report
	rng  *rand.Rand // of the world and the scheduler
	clk  clock.Manual
	w    *simring.World
	book *book

	// The target, until it is killed.
	epoch    int // of the target: one more each time it is started
	arenas   []*mem.Arena
	hogs     [][]mem.Ref // by reactor
	rings    []*simring.Ring
	cores    []*core
	reactors []*reactor.Reactor
	tcp      *tcp.Transport
	fab      fabric
	engine   *iscsi.Engine
	portals  []portal
	luns     []*lun
	plan     plan

	inits    []*initiator
	control  *coroutine
	tick     int64
	hash     uint64
	submits  int // to the block layer in the turn that runs
	depth    uint32
	ready    []int // scratch of the scheduler
	nodeUp   bool
	conns    map[int]*initiator // by number of the World's connection
	nexuses  []nexusName        // by the number that the model gives them
	store    *store
	relisted bool   // the list of units has changed
	mover    *mover // nil: sessions stay on their reactors
	auth     authState
	notices
	seen    []value        // scratch: what a READ saw
	merged  [][]value      // by number, what blocks were merged from
	blobs   [][]byte       // by number, what was copied
	blobOf  map[string]int // the numbers of these
	boxed   bool           // the time box of a function has closed: its nexus may be fenced
	started int64          // instant at which the target started last
	jobs    []job          // blocking work that waits
	deedState
}

// portal is an address and its portal group.
type portal struct {
	tag  uint16
	addr netip.AddrPort
	up   bool
	iser bool // served over iSER too
}

const (
	nodeName      = "iqn.2026-11.dev.spindle:sim"
	initiatorName = "iqn.2026-11.dev.spindle:model"
)

// Run makes one run on m.
func Run(m *Machine, cfg Config) (rep *Report) {
	rep = &Report{Seed: cfg.Seed}
	s := &run{cfg: cfg, m: m, rep: rep, rng: rand.New(rand.NewPCG(cfg.Seed, 0x5eed)), book: &m.book, conns: map[int]*initiator{}}
	s.blobOf = map[string]int{}
	s.store = &store{s: s, files: map[string][]byte{}}
	s.book.reset(s)
	m.linear.Or = func(a, b uint64) uint64 { return uint64(s.or(value(a), value(b))) }
	defer s.stop()
	s.draw()
	s.start()
	s.play()
	s.finish()
	rep.Hash, rep.Faults = s.hash^s.w.TraceHash(), s.w.Counts
	rep.Steps += s.w.Steps()
	if f := s.fab.w; f != nil {
		rep.Hash ^= f.TraceHash()
		rep.Fabric = f.Counts
		rep.Steps += f.Steps()
	}
	return rep
}

// now is the next instant: no two are equal.
func (s *run) now() int64 {
	s.tick++
	return s.tick
}

// fail notes the first violation.
func (s *run) fail(rule, format string, args ...any) {
	if s.rep.Failure == nil {
		s.rep.Failure = &Failure{Rule: rule, Text: fmt.Sprintf(format, args...)}
		s.line("FAILURE %s: %s", rule, s.rep.Failure.Text)
	}
}

func (s *run) failed() bool { return s.rep.Failure != nil }

// line adds to the trace, when it is kept. Callers in the way of every PDU ask
// cfg.Trace first.
func (s *run) line(format string, args ...any) {
	if s.cfg.Trace {
		s.rep.Lines = append(s.rep.Lines, fmt.Sprintf("%10.3fms ", float64(s.clk.T)/1e6)+fmt.Sprintf(format, args...))
	}
}

// mix folds what happened into the trace's hash.
func (s *run) mix(v uint64) {
	s.hash = bits.RotateLeft64((s.hash^v)*0x9E3779B97F4A7C15, 29)
}

func (s *run) count(st State) { s.rep.States[st]++ }

// chance is true with probability 1/n.
func (s *run) chance(n int) bool { return s.rng.IntN(n) == 0 }

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// play runs the initiators until each has made its actions, with the world's
// own deeds in between.
func (s *run) play() {
	for !s.failed() {
		if s.idle() {
			break
		}
		if !s.step(clock.Never) {
			s.stuck("initiators wait")
			return
		}
	}
}

// idle tells whether every initiator is through.
func (s *run) idle() bool {
	for _, in := range s.inits {
		if !in.through() {
			return false
		}
	}
	return s.control == nil
}

// stuck is the end of a run in which nothing will ever happen again.
func (s *run) stuck(what string) {
	text := what
	for _, in := range s.inits {
		text += "; " + in.describe()
	}
	for i, c := range s.cores {
		until, asleep := s.rings[i].Asleep()
		text += fmt.Sprintf("; reactor %d asleep %v until %d, %d operations in flight, did %d, free blocks %v",
			i, asleep, until, s.rings[i].Inflight(), c.work, s.arenas[i].Stats().Free)
	}
	s.fail("progress", "%s", text)
}

// finish ends the sessions and the target and looks whether all is home.
func (s *run) finish() {
	if s.failed() {
		return
	}
	s.settle(60 * time.Second)
	if s.failed() {
		return
	}
	for _, in := range s.inits {
		in.answered("at the end")
	}
	if s.failed() {
		return
	}
	for _, in := range s.inits {
		in.hangUp()
	}
	s.shutdown()
	if s.failed() {
		return
	}
	s.book.close(false)
	s.rep.States[LiveSends] += s.tcp.Stats.LiveSends.Load()
	s.rep.States[LiveCopies] += s.tcp.Stats.LiveCopies.Load()
	s.rep.States[Searches] += s.m.linear.Searches
	s.m.linear.Searches = 0
}

// settle runs until nothing happens any more within d: what the target then
// still owes, it will never give.
func (s *run) settle(d time.Duration) {
	limit := s.clk.T.Add(d)
	for !s.failed() && s.step(limit) {
	}
}
