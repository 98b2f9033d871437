package bdev

import (
	"math"
	"sync/atomic"

	"spindle/reactor"
)

// Counters are one operation's totals. Latencies are in nanoseconds, from
// Submit to the end, time queued by QoS included, at the resolution of a turn.
type Counters struct {
	Ops        uint64
	Bytes      uint64
	LatencySum uint64
	LatencyMin uint64 // 0 when Ops is 0
	LatencyMax uint64
}

// Stats is a snapshot of a bdev's, or a channel's, counters. Ops counts I/Os
// that ended OK, Errors the others by their status (NoMem: refused submissions).
type Stats struct {
	Ops    [NumOps]Counters
	Errors [NumStatus]uint64
}

// ResetMode says which statistics a reset clears; the names are SPDK's.
type ResetMode uint8

const (
	ResetNone   ResetMode = iota
	ResetMaxMin           // the latency minima and maxima
	ResetError            // the error counts
	ResetAll
)

// turn is what one operation did since the last publication. Owner: reactor.
type turn struct{ ops, bytes, sum, min, max uint64 }

// total is the published sum of turns; its reactor writes, any thread reads.
type total struct{ ops, bytes, sum, min, max atomic.Uint64 }

// counters are one channel's statistics. Counting an I/O touches plain memory
// only; the totals are published once a turn, because an atomic store costs as
// much as everything else that a wrapped I/O does.
type counters struct {
	acc    [8]turn // indexed by Op without a bounds check
	dirty  bool
	totals [NumOps]total
	errors [NumStatus]atomic.Uint64
	// inflight is written once a turn too, from live.
	live     int32
	inflight atomic.Int32
	// Minima and maxima belong to the epoch they were taken in; a reset starts
	// a new one without writing to what the reactor owns.
	epoch   *atomic.Uint32
	atEpoch atomic.Uint32
	node    reactor.FlushNode
}

func (c *counters) init(epoch *atomic.Uint32) {
	c.epoch = epoch
	c.node.To = c
	c.atEpoch.Store(epoch.Load())
	for i := range c.acc {
		c.acc[i].min = math.MaxUint64
	}
	for i := range c.totals {
		c.totals[i].min.Store(math.MaxUint64)
	}
}

// count adds one I/O that ended OK.
//
//spindle:hot
func (c *counters) count(op Op, bytes, ns uint64) {
	a := &c.acc[op&7]
	a.ops++
	a.bytes += bytes
	a.sum += ns
	a.min = min(a.min, ns)
	a.max = max(a.max, ns)
}

// Flush publishes the turn's counts: reactor.Flusher.
//
//spindle:hot
func (c *counters) Flush() {
	epoch := c.epoch.Load()
	fresh := epoch != c.atEpoch.Load()
	for i := range c.totals {
		a, t := &c.acc[i], &c.totals[i]
		if fresh {
			t.min.Store(math.MaxUint64)
			t.max.Store(0)
		}
		if a.ops == 0 {
			continue
		}
		t.ops.Store(t.ops.Load() + a.ops)
		t.bytes.Store(t.bytes.Load() + a.bytes)
		t.sum.Store(t.sum.Load() + a.sum)
		if a.min < t.min.Load() {
			t.min.Store(a.min)
		}
		if a.max > t.max.Load() {
			t.max.Store(a.max)
		}
		*a = turn{min: math.MaxUint64}
	}
	if fresh {
		c.atEpoch.Store(epoch)
	}
	if c.inflight.Load() != c.live {
		c.inflight.Store(c.live)
	}
}

// addTo adds the published totals to s. Latency minima use MaxUint64 for none.
func (c *counters) addTo(s *Stats) {
	current := c.atEpoch.Load() == c.epoch.Load()
	for i := range c.totals {
		t, d := &c.totals[i], &s.Ops[i]
		d.Ops += t.ops.Load()
		d.Bytes += t.bytes.Load()
		d.LatencySum += t.sum.Load()
		if current {
			d.LatencyMin = min(d.LatencyMin, t.min.Load())
			d.LatencyMax = max(d.LatencyMax, t.max.Load())
		}
	}
	for i := range c.errors {
		s.Errors[i] += c.errors[i].Load()
	}
}

func emptyStats() Stats {
	var s Stats
	for i := range s.Ops {
		s.Ops[i].LatencyMin = math.MaxUint64
	}
	return s
}

// finish turns the internal "no minimum yet" into 0 for readers.
func (s *Stats) finish() {
	for i := range s.Ops {
		if s.Ops[i].LatencyMin == math.MaxUint64 {
			s.Ops[i].LatencyMin = 0
		}
	}
}

// since subtracts what was counted when the statistics were last reset.
func (s *Stats) since(base *Stats) {
	for i := range s.Ops {
		s.Ops[i].Ops -= base.Ops[i].Ops
		s.Ops[i].Bytes -= base.Ops[i].Bytes
		s.Ops[i].LatencySum -= base.Ops[i].LatencySum
	}
	for i := range s.Errors {
		s.Errors[i] -= base.Errors[i]
	}
}

// sum is everything counted since the bdev was made. Preconditions: mu is held.
func (b *Bdev) sum() Stats {
	s := b.closed
	for _, c := range b.channels {
		c.counters.addTo(&s)
	}
	return s
}

// Stats sums the channels, then resets as mode says, in one step. Counts lag
// the I/O by at most one turn of its reactor. Safe from any thread.
func (b *Bdev) Stats(mode ResetMode) Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	raw := b.sum()
	s := raw
	s.since(&b.base)
	s.finish()
	switch mode {
	case ResetAll:
		b.base = raw
		b.newEpoch()
	case ResetMaxMin:
		b.newEpoch()
	case ResetError:
		b.base.Errors = raw.Errors
	}
	return s
}

// Since is what was counted since the bdev was made, less base; resets do not
// affect it. Safe from any thread.
func (b *Bdev) Since(base Stats) Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sum()
	s.since(&base)
	s.finish()
	return s
}

// newEpoch forgets latency minima and maxima. Preconditions: mu is held.
func (b *Bdev) newEpoch() {
	b.epoch.Add(1)
	for i := range b.closed.Ops {
		b.closed.Ops[i].LatencyMin = math.MaxUint64
		b.closed.Ops[i].LatencyMax = 0
	}
}

// ChannelStats is one open channel's view: resets do not affect its counts.
type ChannelStats struct {
	Reactor  int
	InFlight int
	Stats
}

// PerChannel lists the open channels' statistics, in the order they were opened.
func (b *Bdev) PerChannel() []ChannelStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]ChannelStats, 0, len(b.channels))
	for _, c := range b.channels {
		s := ChannelStats{Reactor: c.r.ID, InFlight: int(c.counters.inflight.Load()), Stats: emptyStats()}
		c.counters.addTo(&s.Stats)
		s.finish()
		list = append(list, s)
	}
	return list
}

// InFlight is the number of I/Os pending on all channels, as of their last turn.
func (b *Bdev) InFlight() int {
	n := 0
	for _, c := range b.PerChannel() {
		n += c.InFlight
	}
	return n
}
