package load

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"spindle/internal/sys"
)

// The histogram's range and precision. Latencies beyond it count as its end.
const (
	shortest = 16
	longest  = int64(time.Minute)
	digits   = 3
	maxTaken = 1 << 14 // IOPS samples: more than two hours
)

// Side is what was measured of the reads, or of the writes.
type Side struct {
	IOs, Bytes uint64
	Latency    *hdrhistogram.Histogram // nanoseconds

	sum, squares float64
	min, max     int64
}

// Mean and Deviation are exact, unlike the histogram's own.
func (s *Side) Mean() float64 {
	if s.IOs == 0 {
		return 0
	}
	return s.sum / float64(s.IOs)
}

// Deviation is the standard deviation.
func (s *Side) Deviation() float64 {
	if s.IOs == 0 {
		return 0
	}
	m := s.Mean()
	return math.Sqrt(max(0, s.squares/float64(s.IOs)-m*m))
}

// Min and Max are exact.
func (s *Side) Min() int64 { return s.min }

// Max is the longest latency.
func (s *Side) Max() int64 { return s.max }

// Result is what a run measured.
type Result struct {
	Read, Write Side
	Elapsed     time.Duration
	Capacity    uint64 // of the LUN, in bytes
	Block       uint32 // of the LUN
	Retries     uint64 // commands answered BUSY or TASK SET FULL, and sent again
	Samples     []float64

	// What the loading thread used, so that one sees that it was not the limit.
	Syscalls uint64
	CPU      sys.Usage
	Busy     time.Duration // in turns that found something to do

	Verified, Unverified uint64 // reads compared, and those of what this run had not written
}

func newResult() *Result {
	r := &Result{Samples: make([]float64, 0, maxTaken)}
	for _, s := range []*Side{&r.Read, &r.Write} {
		s.Latency = hdrhistogram.New(shortest, longest, digits)
	}
	return r
}

// IOs is the number of I/Os in the measured time.
func (r *Result) IOs() uint64 { return r.Read.IOs + r.Write.IOs }

// IOPS is I/Os a second.
func (r *Result) IOPS() float64 { return float64(r.IOs()) / r.Elapsed.Seconds() }

// Both is the latency of reads and writes together.
func (r *Result) Both() *hdrhistogram.Histogram {
	h := hdrhistogram.New(shortest, longest, digits)
	h.Merge(r.Read.Latency)
	h.Merge(r.Write.Latency)
	return h
}

// account counts a finished I/O.
//
//spindle:hot
func (g *generator) account(s *slot) {
	g.inflight--
	if !g.measuring {
		return
	}
	side := &g.result.Read
	if s.write {
		side = &g.result.Write
	}
	side.add(int64(g.now-s.start), s.size)
}

//spindle:hot
func (s *Side) add(ns int64, bytes uint32) {
	if s.IOs == 0 || ns < s.min {
		s.min = ns
	}
	s.max = max(s.max, ns)
	s.IOs++
	s.Bytes += uint64(bytes)
	f := float64(ns)
	s.sum += f
	s.squares += f * f
	_ = s.Latency.RecordValue(min(max(ns, shortest), longest)) // within its range
}

// takeSample notes the IOPS since the sample before.
func (g *generator) takeSample() {
	n := g.result.IOs()
	if len(g.result.Samples) < cap(g.result.Samples) {
		span := g.now.Sub(g.sample.Add(-sampleTime))
		// within capacity: just looked
		g.result.Samples = append(g.result.Samples, float64(n-g.sampled)/span.Seconds())
	}
	g.sampled = n
	g.sample = g.now.Add(sampleTime)
}

// Progress is a run seen from outside.
type Progress struct{ ios, bytes atomic.Uint64 }

// Load is what was done in the measured time so far.
func (p *Progress) Load() (ios, bytes uint64) { return p.ios.Load(), p.bytes.Load() }

func (p *Progress) set(r *Result) {
	p.ios.Store(r.IOs())
	p.bytes.Store(r.Read.Bytes + r.Write.Bytes)
}
