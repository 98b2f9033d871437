package bdev

import (
	"errors"
	"math"
	"math/bits"
	"sync/atomic"

	"spindle/internal/invariants"
)

// AllOps as a histogram's operation counts every kind of I/O.
const AllOps Op = NumOps

// DefaultGranularity gives 128 buckets each time the latency doubles.
const DefaultGranularity = 7

// Bounds of a histogram's granularity: two buckets a range are useless, and
// beyond 4096 the memory of a channel would no longer be small.
const (
	minGranularity = 1
	maxGranularity = 12
)

// ErrHistogram is returned for histogram options that make no sense.
var ErrHistogram = errors.New("bdev: bad histogram options")

// HistogramOptions selects what a histogram counts and how finely.
type HistogramOptions struct {
	Op          Op     // the one operation to count, or AllOps
	Granularity uint8  // log2 of the buckets a range; 0 means DefaultGranularity
	MinNS       uint64 // latencies outside [MinNS, MaxNS]'s ranges go to the first or last bucket
	MaxNS       uint64 // 0 means no upper bound
}

// Histogram is a snapshot of latency counts in the layout that SPDK's clients
// decode: ranges of 2^Granularity buckets, the first two ranges with one value
// a bucket, each later one with buckets twice as wide as the one before.
// Buckets holds ranges MinRange to MaxRange, inclusive.
type Histogram struct {
	HistogramOptions
	MinRange uint32
	MaxRange uint32
	Buckets  []uint64
}

// layout maps a value to its bucket.
type layout struct {
	shift    uint32
	min, max uint32 // ranges, inclusive
}

func newLayout(o HistogramOptions) layout {
	l := layout{shift: uint32(o.Granularity)}
	hi := o.MaxNS
	if hi == 0 {
		hi = math.MaxUint64
	}
	l.min, l.max = l.rangeOf(o.MinNS), l.rangeOf(hi)
	return l
}

func (l layout) buckets() int { return int(l.max-l.min+1) << l.shift }

// rangeOf is the range v falls in: the number of bits it has beyond shift.
//
//spindle:hot
func (l layout) rangeOf(v uint64) uint32 {
	if n := uint32(bits.Len64(v)); n > l.shift {
		return n - l.shift
	}
	return 0
}

// index is the bucket that counts v.
//
//spindle:hot
func (l layout) index(v uint64) int {
	r := l.rangeOf(v)
	switch {
	case r < l.min:
		return 0
	case r > l.max:
		return l.buckets() - 1
	}
	i := v
	if r > 0 {
		i >>= r - 1
	}
	return int(r-l.min)<<l.shift + int(i&(1<<l.shift-1))
}

// start is the smallest value bucket i counts.
func (l layout) start(i int) uint64 {
	r := uint32(i>>l.shift) + l.min
	in := uint64(i) & (1<<l.shift - 1)
	if r == 0 {
		return in
	}
	return (1<<l.shift + in) << (r - 1)
}

// BucketStart is the smallest latency, in nanoseconds, that bucket i counts.
func (h *Histogram) BucketStart(i int) uint64 {
	return h.layout().start(i)
}

// Count is the number of I/Os whose bucket starts in [from, to).
func (h *Histogram) Count(from, to uint64) uint64 {
	var n uint64
	for i, c := range h.Buckets {
		if s := h.BucketStart(i); s >= from && s < to {
			n += c
		}
	}
	return n
}

// NewHistogram makes a histogram that its owner counts in, zero from the start.
func NewHistogram(o HistogramOptions) (*Histogram, error) {
	if o.Granularity == 0 {
		o.Granularity = DefaultGranularity
	}
	if o.Granularity < minGranularity || o.Granularity > maxGranularity || o.Op > AllOps || (o.MaxNS != 0 && o.MaxNS < o.MinNS) {
		return nil, ErrHistogram
	}
	l := newLayout(o)
	return &Histogram{HistogramOptions: o, MinRange: l.min, MaxRange: l.max, Buckets: make([]uint64, l.buckets())}, nil
}

func (h *Histogram) layout() layout { return layout{uint32(h.Granularity), h.MinRange, h.MaxRange} }

// Add counts a latency.
//
//spindle:hot
func (h *Histogram) Add(ns uint64) { h.Buckets[h.layout().index(ns)]++ }

// Merge adds the counts of o. Preconditions: it has the same options.
func (h *Histogram) Merge(o *Histogram) {
	invariants.Check(h.HistogramOptions == o.HistogramOptions, "bdev: histograms differ")
	for i, n := range o.Buckets {
		h.Buckets[i] += n
	}
}

// tally is one channel's histogram. The channel's reactor is its only writer.
type tally struct {
	layout
	op      Op
	buckets []atomic.Uint64
}

func newTally(o HistogramOptions) *tally {
	l := newLayout(o)
	return &tally{layout: l, op: o.Op, buckets: make([]atomic.Uint64, l.buckets())}
}

// add counts one I/O.
//
//spindle:hot
func (t *tally) add(op Op, ns uint64) {
	if t.op != AllOps && t.op != op {
		return
	}
	b := &t.buckets[t.index(ns)]
	b.Store(b.Load() + 1)
}

// EnableHistogram starts counting latencies, from zero, on every channel.
func (b *Bdev) EnableHistogram(o HistogramOptions) error {
	h, err := NewHistogram(o)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hist = h
	for _, c := range b.channels {
		c.hist.Store(newTally(h.HistogramOptions))
	}
	return nil
}

// DisableHistogram stops counting and forgets the counts.
func (b *Bdev) DisableHistogram() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hist = nil
	for _, c := range b.channels {
		c.hist.Store(nil)
	}
}

// Histogram sums the channels' counts, or returns nil when it is not enabled.
func (b *Bdev) Histogram() *Histogram {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hist == nil {
		return nil
	}
	sum := *b.hist
	sum.Buckets = append([]uint64(nil), b.hist.Buckets...)
	for _, c := range b.channels {
		c.hist.Load().addTo(sum.Buckets)
	}
	return &sum
}

// addTo adds the counts to sum, which has the same layout.
func (t *tally) addTo(sum []uint64) {
	if t == nil {
		return
	}
	invariants.Check(len(t.buckets) == len(sum), "bdev: histogram layouts differ")
	for i := range t.buckets {
		sum[i] += t.buckets[i].Load()
	}
}
