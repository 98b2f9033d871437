package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"

	"spindle/bench/wire"
	"spindle/internal/sys"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

const (
	// The receive buffers are few, so that they stay in the cache.
	buffers    = 64
	bufferSize = 32 << 10

	sampleTime  = 500 * time.Millisecond // of the IOPS samples, as fio's
	publishTime = 100 * time.Millisecond
	drainTime   = 10 * time.Second
	goodbyeTime = time.Second
	sharedSize  = MaxBlock // what is written when nothing is verified
	unlimited   = math.MaxInt32
)

// generator is a run.
type generator struct {
	o       *Options
	pattern Pattern
	loop    *wire.Loop
	net     network
	conns   []*conn
	dirty   []*conn // to be looked at this turn; capacity: every connection
	shift   uint    // log2 of the LUN's block size
	blocks  uint64  // of the LUN to touch
	largest uint32
	rng     random
	mix     [100]uint8 // size index by percentile
	fixed   *Size      // the only size, if there is one

	op       *opcode // instead of READ(16) and WRITE(16)
	transfer uint32  // of op, in bytes

	verifier *verifier
	checking bool // the pass at the end of a verified run

	issuing   bool
	through   bool // once through the span, as was asked for
	allowed   int  // commands that may start this turn
	interval  float64
	started   float64 // time the last command was due at, with a rate
	inflight  int
	everyone  bool // the next turn looks at every connection
	rotation  int  // where it begins
	measuring bool
	retries   uint64
	progress  *Progress
	stop      atomic.Bool
	now       clock.Time
	publish   clock.Time
	sample    clock.Time
	sampled   uint64 // I/Os at the last sample
	busy      clock.Time
	worked    bool
	result    *Result
}

// Run loads the target and returns what was measured. When ctx ends early, so
// does the run, with what it has.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	g := &generator{o: &o, pattern: o.Pattern, rng: random(o.Seed), progress: o.Progress, result: newResult(), largest: o.largest()}
	if g.progress == nil {
		g.progress = &Progress{}
	}
	g.net = newTCP(g)
	if o.Address.ISER {
		g.net = newFabric(g)
	}
	defer wire.QuietCollector()()
	defer context.AfterFunc(ctx, func() { g.stop.Store(true) })()
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread and its affinity end with the goroutine
		ended <- g.main(ctx)
	}()
	if err := <-ended; err != nil {
		return nil, err
	}
	return g.result, nil
}

func (g *generator) main(ctx context.Context) error {
	defer g.net.close()
	if err := g.prepare(ctx); err != nil {
		return err
	}
	return g.run()
}

// prepare takes all memory and logs every connection in.
func (g *generator) prepare(ctx context.Context) error {
	o := g.o
	need := g.net.memory() + sharedSize
	if o.Verify {
		need += uint64(o.Connections*o.Depth) * uint64(max(g.largest, mem.MinBlock)) * 2
	}
	if need > g.net.most() {
		return badOption("%d connections of depth %d want %d MiB of memory", o.Connections, o.Depth, need>>20)
	}
	var err error
	g.loop, err = wire.New(wire.Options{CPU: o.CPU, Memory: need, Files: o.Connections, Buffers: buffers, Buffer: bufferSize})
	if err != nil {
		return err
	}
	if err := g.net.open(g.loop); err != nil {
		return fmt.Errorf("%v: %w", o.Address, err)
	}
	first, err := g.dial(ctx, 0)
	if err != nil {
		return err
	}
	shared, err := g.loop.Alloc(sharedSize)
	if err == nil {
		err = g.geometry(first)
	}
	if err != nil {
		first.path.close()
		return err
	}
	g.fillShared(shared.Bytes(), first.block)
	g.dirty = make([]*conn, 0, o.Connections)
	for id := range o.Connections {
		s := first
		if id > 0 {
			if s, err = g.dial(ctx, id); err != nil {
				return err
			}
		}
		if err := g.adopt(s, id, shared); err != nil {
			s.path.close()
			return err
		}
	}
	return nil
}

// fillShared writes what is written when nothing is verified: the same in every
// block, so that a disk written through holds it everywhere.
func (g *generator) fillShared(b []byte, block uint32) {
	for i := uint32(0); i < block; i += 8 {
		be.PutUint64(b[i:], g.rng.next())
	}
	for n := block; n < uint32(len(b)); n *= 2 {
		copy(b[n:], b[:n])
	}
	if g.op != nil && g.op.data == list {
		putUnmapList(b, g.fixed.Bytes>>g.shift)
	}
}

// geometry fits the options to the LUN.
func (g *generator) geometry(s *session) error {
	o := g.o
	g.shift = uint(bits.TrailingZeros32(s.block))
	g.blocks = s.blocks
	if o.Span != 0 {
		g.blocks = min(g.blocks, o.Span>>g.shift)
	}
	percentile := 0
	for i, size := range o.Sizes {
		if size.Bytes%s.block != 0 {
			return badOption("block size %d on a LUN with blocks of %d", size.Bytes, s.block)
		}
		if uint64(size.Bytes>>g.shift) > g.blocks {
			return badOption("block size %d on %d bytes", size.Bytes, g.blocks<<g.shift)
		}
		for range size.Percent {
			g.mix[percentile] = uint8(i)
			percentile++
		}
	}
	if len(o.Sizes) == 1 {
		g.fixed = &o.Sizes[0]
	}
	g.result.Capacity, g.result.Block = s.blocks*uint64(s.block), s.block
	if o.Opcode != "" {
		var err error
		if g.op, err = findOpcode(o.Opcode); err != nil {
			return err
		}
		g.transfer = g.op.transfer(g.fixed.Bytes, s.block)
		g.largest = max(g.largest, g.transfer)
	}
	if o.Idle {
		g.interval = math.Inf(1)
	} else if o.Rate > 0 {
		g.interval = float64(time.Second) / float64(o.Rate)
	}
	if o.Verify {
		var err error
		g.verifier, err = newVerifier(g.blocks/uint64(g.largest>>g.shift), g.largest)
		return err
	}
	return nil
}

// adopt makes a logged-in session a connection.
func (g *generator) adopt(s *session, id int, shared mem.Ref) error {
	depth := g.o.Depth
	c := &conn{
		g: g, id: id, p: s.p, done: -1,
		cmdSN: s.cmdSN, maxCmd: s.maxCmd, expStat: s.expStat,
		slots: make([]slot, depth), free: make([]uint16, 0, depth), again: make([]uint16, 0, depth),
	}
	unit := uint64(g.largest >> g.shift)
	c.seq = g.blocks / uint64(g.o.Connections) * uint64(id) / unit * unit
	c.template[0] = 1 // SCSI command
	be.PutUint64(c.template[8:], encodeLUN(g.o.Address.LUN))
	for i := range c.slots {
		c.slots[i].data = shared
		if g.verifier != nil {
			var err error
			if c.slots[i].data, err = g.loop.Alloc(g.largest); err != nil {
				return err
			}
		}
		c.free = append(c.free, uint16(depth-1-i))
	}
	g.conns = append(g.conns, c)
	return g.net.adopt(s.path, c)
}

// run goes through the phases: ramp, measured time, the rest in flight, for
// verification what was written, and the farewell.
func (g *generator) run() error {
	g.issuing, g.everyone, g.allowed = true, true, unlimited
	g.now = g.loop.Clock.Now()
	g.started = float64(g.now)
	if err := g.until(g.now.Add(g.o.Ramp), false); err != nil {
		return err
	}
	if err := g.measure(); err != nil {
		return err
	}
	g.issuing = false
	if err := g.drain(); err != nil {
		return err
	}
	if g.verifier != nil && g.pattern.Reads < 100 && !g.stop.Load() {
		if err := g.readBack(); err != nil {
			return err
		}
	}
	if g.verifier != nil {
		g.result.Verified, g.result.Unverified = g.verifier.checked, g.verifier.skipped
	}
	for _, c := range g.conns {
		c.logout()
		g.mark(c)
	}
	err := g.wait(goodbyeTime, func() bool { return g.allEnded() })
	if err != nil && !errors.Is(err, errDeadline) {
		return err
	}
	return g.net.leave()
}

func (g *generator) measure() error {
	r := g.result
	if g.o.Window != nil {
		if err := g.begin(); err != nil {
			return err
		}
	}
	before, err := sys.ThreadUsage()
	if err != nil {
		return err
	}
	calls := g.loop.Ring.Syscalls()
	g.now = g.loop.Clock.Now()
	from := g.now
	g.sample, g.sampled, g.busy = from.Add(sampleTime), 0, 0
	g.measuring = true
	if err := g.until(from.Add(g.o.Runtime), true); err != nil {
		return err
	}
	g.measuring = false
	r.Elapsed = g.loop.Clock.Now().Sub(from)
	after, err := sys.ThreadUsage()
	if err != nil {
		return err
	}
	r.Syscalls = g.loop.Ring.Syscalls() - calls
	r.CPU = sys.Usage{
		User: after.User - before.User, System: after.System - before.System,
		Voluntary: after.Voluntary - before.Voluntary, Involuntary: after.Involuntary - before.Involuntary,
	}
	r.Busy = time.Duration(g.busy)
	r.Retries = g.retries
	if g.o.Window != nil {
		g.o.Window(false)
	}
	return nil
}

// begin tells that the measured time begins. While that is heard nothing is sent, due
// or looked at, so it counts in no latency; what has ended meanwhile is not measured.
func (g *generator) begin() error {
	from := g.loop.Clock.Now()
	g.o.Window(true)
	pause := g.loop.Clock.Now() - from
	g.started += float64(pause)
	for _, c := range g.conns {
		for i := range c.slots {
			c.slots[i].start += pause
		}
	}
	return g.turn()
}

// drain waits for what is in flight.
func (g *generator) drain() error {
	err := g.wait(drainTime, func() bool { return g.inflight == 0 })
	if errors.Is(err, errDeadline) {
		return fmt.Errorf("%w: %d commands without an answer after %v", ErrTarget, g.inflight, drainTime)
	}
	return err
}

// readBack reads all that was written.
func (g *generator) readBack() error {
	g.checking, g.issuing, g.everyone, g.interval, g.allowed = true, true, true, 0, unlimited
	units := g.verifier
	err := g.wait(time.Hour, func() bool {
		return units.cursor >= uint64(len(units.writes)) && g.inflight == 0 || g.stop.Load()
	})
	g.checking, g.issuing = false, false
	return errors.Join(err, g.drain())
}

func (g *generator) allEnded() bool {
	for _, c := range g.conns {
		if !c.ended {
			return false
		}
	}
	return true
}

var errDeadline = errors.New("deadline")

// wait turns until done or limit has passed.
func (g *generator) wait(limit time.Duration, done func() bool) error {
	deadline := g.loop.Clock.Now().Add(limit)
	for !done() {
		if g.now > deadline {
			return errDeadline
		}
		if err := g.turn(); err != nil {
			return err
		}
	}
	return nil
}

// until turns until t, or until it is told to stop.
//
//spindle:hot
func (g *generator) until(t clock.Time, measured bool) error {
	for g.now < t && !g.stop.Load() && (!g.through || g.inflight > 0) {
		before, worked := g.now, g.worked
		if err := g.turn(); err != nil {
			return err
		}
		// From one clock reading to the next: what the turn before prepared, its
		// submission, and the reaping that this turn began with.
		if worked || g.worked {
			g.busy += g.now - before
		}
		if measured && g.now >= g.sample {
			g.takeSample()
		}
	}
	return nil
}

// turn takes completions, then lets connections send.
//
//spindle:hot
func (g *generator) turn() error {
	if err := g.net.turn(g.rest()); err != nil {
		return err
	}
	if g.now >= g.publish {
		g.publish = g.now.Add(publishTime)
		g.progress.set(g.result)
		if err := g.net.look(); err != nil {
			return err
		}
	}
	if g.everyone || g.interval > 0 {
		g.all()
		return nil
	}
	again := 0
	for _, c := range g.dirty {
		if c.dirty = c.work(g.now); c.dirty {
			g.dirty[again] = c
			again++
		}
	}
	g.dirty = g.dirty[:again]
	return nil
}

// longestRest bounds a sleep, for all that is looked at between turns.
const longestRest = time.Millisecond

// rest is until when the next turn may sleep: the next command is due, or an
// answer comes. 0: it spins.
//
//spindle:hot
func (g *generator) rest() clock.Time {
	if !g.o.Sleep || g.worked || len(g.dirty) > 0 || g.interval == 0 {
		return 0
	}
	until := g.now.Add(longestRest)
	if next := clock.Time(g.started + g.interval); next > g.now {
		return min(next, until)
	}
	return until
}

// all lets every connection send, beginning with another one each time: at the
// start of a phase, and whenever the rate allows more.
//
//spindle:hot
func (g *generator) all() {
	if g.interval > 0 {
		g.allowed = int((float64(g.now) - g.started) / g.interval)
	}
	g.dirty = g.dirty[:0]
	n := len(g.conns)
	for i := range n {
		c := g.conns[(g.rotation+i)%n]
		c.dirty = false
		if c.work(g.now) {
			g.mark(c)
		}
	}
	g.rotation++
	g.everyone = false
}

// mark has the next turn look at c.
//
//spindle:hot
func (g *generator) mark(c *conn) {
	if !c.dirty {
		c.dirty = true
		g.dirty = append(g.dirty, c) // within capacity: once a connection
	}
}

// due is when a command started: with a rate, when it was to start, so that a
// slow target's delay is not left out of its latency.
//
//spindle:hot
func (g *generator) due(now clock.Time) clock.Time {
	if g.interval == 0 {
		return now
	}
	g.started += g.interval
	g.allowed--
	return clock.Time(g.started)
}

// choose fills a slot with what to do next; false when nothing can be done now.
//
//spindle:hot
func (g *generator) choose(c *conn, s *slot) bool {
	if g.checking {
		s.write, s.size = false, g.largest
		if !g.verifier.next(s) {
			return false
		}
		s.lba = uint64(s.unit) * uint64(s.size>>g.shift)
		return true
	}
	s.write = g.pattern.Reads == 0 || g.pattern.Reads < 100 && int(g.rng.below(100)) >= g.pattern.Reads
	if g.fixed != nil {
		s.size = g.fixed.Bytes
	} else {
		s.size = g.o.Sizes[g.mix[g.rng.below(100)]].Bytes
	}
	per := uint64(s.size >> g.shift)
	if g.pattern.Random {
		s.lba = g.rng.below(g.blocks/per) * per
	} else {
		if c.seq+per > g.blocks {
			if g.o.Once {
				g.through = true
				return false
			}
			c.seq = 0
		}
		s.lba = c.seq
		c.seq += per
	}
	if v := g.verifier; v != nil {
		if !v.take(s, s.lba/per) {
			return false
		}
		s.lba = uint64(s.unit) * per
		if s.write {
			v.stamp(s)
		}
	}
	if g.op != nil {
		s.size = g.transfer
	}
	return true
}
