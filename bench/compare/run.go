package compare

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"spindle/bench/counters"
	"spindle/bench/load"
	"spindle/bench/peer"
	"spindle/verbs"
)

// syscallRun is how long system calls are counted, in a run of its own: counting
// slows them, and those that make many would pay for it in the figures.
const (
	syscallRun  = 300 * time.Millisecond
	syscallRuns = 2
)

// maxFailed is how many runs of a figure may fail before it is given up.
const maxFailed = 3

// traceLag is how long the report of a collection may take to reach us.
const traceLag = 3 * time.Millisecond

// fewIOs are too few to divide by.
const fewIOs = 100

// fillTime and maxFill bound the filling of a LUN.
const (
	fillTime = time.Minute
	maxFill  = 16 << 30
)

// busyLoad is the load average above which a machine is not at rest.
const busyLoad = 0.5

// Plan is what to compare and how.
type Plan struct {
	Peers     []peer.Driver
	Args      map[string][]string // more arguments for a peer's program
	Workloads []Workload
	Tests     []Test // instead of one for each workload with every peer
	Method    Method
	Tool      string
	RDMA      func() (verbs.Provider, error)   // for our own initiator over iSER
	Budget    time.Duration                    // beyond which no more rounds than asked for are made; 0 is none
	Log       func(format string, args ...any) // progress; may be nil

	begun   time.Time
	at      int             // the test that runs
	workers *counters.Meter // of the kernel's, with the kernel's initiator
}

// contestant is a peer that runs.
type contestant struct {
	name      string
	run       *peer.Running
	dead      error
	filled    bool    // its RAM LUN was written through
	collected int     // the last collection of its garbage that was seen
	perCall   float64 // bytes of garbage that an RPC makes; 0 until it was measured

	kernel // with the kernel's initiator
}

// Test is what becomes a cell.
type Test struct {
	Name, Title string
	Workload    Workload // of entries without their own
	Entries     []Entry
	Subject     string        // the entry that ratios are of
	Initiator   string        // "" is the method's
	Runtime     time.Duration // 0 is the method's
	Ramp        time.Duration // as Runtime
	Decides     string        // the ratio that must not spread; "" is IOPS, "-" none
	NoRatios    bool
	Rounds      int // 0 is the method's
}

// Entry is what becomes a figure: who is loaded, and with what.
type Entry struct {
	Name     string // "" is the peer's
	Peer     string
	Workload *Workload
	Garbage  string // the peer that is asked to make garbage meanwhile; "" none
}

// entry is one with what it takes to run it.
type entry struct {
	Entry
	w         Workload
	c, litter *contestant
}

// Run compares.
func Run(ctx context.Context, p Plan) (*Result, error) {
	if p.Method.Initiator == "" {
		p.Method.Initiator = Own
	}
	if p.Log == nil {
		p.Log = func(string, ...any) {}
	}
	dir, err := os.MkdirTemp("", "spindle-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	r := &Result{Tool: p.Tool, Started: time.Now().UTC(), Machine: describe(), Method: p.Method}
	if r.Machine.LoadStart > busyLoad {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the machine was not at rest: load average %.2f before the start", r.Machine.LoadStart))
	}
	total, steal := ticks()
	list, err := p.start(ctx, dir, r)
	defer func() {
		for _, c := range list {
			c.run.Resume() // to say farewell
			if e := errors.Join(c.disconnect(), c.run.Stop()); e != nil {
				p.Log("%v", e)
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	r.Method.Subject = subject(list)
	if p.Method.Initiator == FIO {
		if err := p.settle(ctx, list, r); err != nil {
			return nil, err
		}
		defer p.workers.Close()
	}
	if p.Tests == nil {
		p.Tests = p.everyone(list, r.Method.Subject)
	}
	log := p.Log
	p.begun = time.Now()
	for i, t := range p.Tests {
		p.at = i
		p.Log = func(format string, args ...any) {
			log("[%d/%d %s] "+format, append([]any{i + 1, len(p.Tests), elapsed(r.Started)}, args...)...)
		}
		cell, err := p.cell(ctx, t, list, r)
		if ctx.Err() != nil && len(r.Cells) > 0 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("interrupted after %d of %d workloads", len(r.Cells), len(p.Tests)))
			break
		}
		if err != nil {
			return nil, err
		}
		r.Cells = append(r.Cells, *cell)
	}
	p.Log = log
	total2, steal2 := ticks()
	if total2 > total {
		r.Machine.Steal = (steal2 - steal) / (total2 - total)
	}
	r.Took = time.Since(r.Started)
	return r, nil
}

// elapsed is the time since a start, in minutes and seconds.
func elapsed(start time.Time) string {
	d := time.Since(start).Round(time.Second)
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// everyone makes a test of each workload, with every peer in it.
func (p *Plan) everyone(list []*contestant, subject string) (tests []Test) {
	for _, w := range p.Workloads {
		t := Test{Name: w.Name(), Title: w.Title(), Workload: w, Subject: subject}
		for _, c := range list {
			t.Entries = append(t.Entries, Entry{Peer: c.name})
		}
		tests = append(tests, t)
	}
	return tests
}

// entries are a test's, less those whose peer is not here.
func (t *Test) entries(list []*contestant) (all []entry) {
	find := func(name string) *contestant {
		i := slices.IndexFunc(list, func(c *contestant) bool { return c.name == name })
		if i < 0 {
			return nil
		}
		return list[i]
	}
	for _, e := range t.Entries {
		x := entry{Entry: e, w: t.Workload, c: find(e.Peer), litter: find(e.Garbage)}
		if x.Name == "" {
			x.Name = e.Peer
		}
		if e.Workload != nil {
			x.w = *e.Workload
		}
		if x.c != nil && (x.litter != nil || e.Garbage == "") {
			all = append(all, x)
		}
	}
	return all
}

// subject is whose ratios are made: ours, or the first.
func subject(list []*contestant) string {
	for _, c := range list {
		if c.name == "spindle" {
			return c.name
		}
	}
	return list[0].name
}

// start starts every peer that is here, and stops them where they stand.
func (p *Plan) start(ctx context.Context, dir string, r *Result) (list []*contestant, err error) {
	connections, iser := 0, false
	for _, w := range p.Workloads {
		connections = max(connections, w.Connections)
		iser = iser || w.transport() == ISER
	}
	for _, t := range p.Tests {
		connections = max(connections, t.Workload.Connections)
		for _, e := range t.Entries {
			if e.Workload != nil {
				connections = max(connections, e.Workload.Connections)
			}
		}
	}
	for _, d := range p.Peers {
		about := Peer{Name: d.Name(), Title: d.Title()}
		about.Version, err = d.Version(ctx)
		if errors.Is(err, peer.ErrAbsent) {
			about.Absent = err.Error()
			p.Log("%s is %v", d.Title(), err)
			r.Peers = append(r.Peers, about)
			continue
		}
		if err != nil {
			return list, fmt.Errorf("%s: %w", d.Title(), err)
		}
		run, err := d.Start(ctx, peer.Setup{
			CPU: p.Method.TargetCPU, Size: p.Method.LUNSize, Dir: dir, Host: p.Method.Host, ISER: iser,
			Args: p.Args[d.Name()], Env: []string{counters.GCTrace}, Connections: connections,
		})
		if err != nil {
			return list, fmt.Errorf("%s: %w", d.Title(), err)
		}
		list = append(list, &contestant{name: d.Name(), run: run})
		run.Pause()
		p.Log("%s runs: %s", d.Title(), about.Version)
		r.Peers = append(r.Peers, about)
	}
	if len(list) == 0 {
		return nil, errors.New("none of the peers is here")
	}
	return list, nil
}

// cell measures one workload.
func (p *Plan) cell(ctx context.Context, t Test, list []*contestant, r *Result) (*Cell, error) {
	cell := &Cell{Workload: t.Workload, Name: t.Name, Title: t.Title, Subject: t.Subject}
	entries := t.entries(list)
	if t.Initiator == "" {
		t.Initiator = p.Method.Initiator
	}
	histograms := make([]*hdrhistogram.Histogram, len(entries))
	order, failures := make([]int, len(entries)), make([]error, len(entries))
	for i, e := range entries {
		order[i] = i
		cell.Figures = append(cell.Figures, Figure{Peer: e.Name, Wakeups: counters.Unknown, Syscalls: counters.Unknown})
		if e.w.LUN == peer.RAM {
			if err := p.fill(ctx, e.w, e.c); err != nil {
				return nil, fmt.Errorf("%s: filling the LUN in memory: %w", e.c.name, err)
			}
		}
	}
	for round := 0; p.another(cell, &t, round); round++ {
		for _, i := range order {
			f, e := &cell.Figures[i], &entries[i]
			if f.Error != "" || e.c.dead != nil || t.Initiator == FIO && e.c.name == peer.Spinning && round >= spinRounds {
				continue
			}
			s, h, err := p.measure(ctx, &t, e, about(r, e.c.name))
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				p.Log("%s, %s: %v", t.Title, e.Name, err)
				e.c.dead = e.c.run.Alive()
				failures[i] = err
				if f.Failed++; f.Failed >= maxFailed || e.c.dead != nil {
					f.Error = err.Error()
				}
				continue
			}
			s.Round = round
			f.Samples = append(f.Samples, *s)
			switch {
			case histograms[i] == nil:
				histograms[i] = h
			case h != nil:
				histograms[i].Merge(h)
			}
			p.Log("%s, round %d of %d, %s: %s IOPS", t.Title, round+1, max(p.Method.Rounds, round+1), e.Name, load.SI(s.IOPS))
		}
		slices.Reverse(order)
	}
	for i := range entries {
		f, e := &cell.Figures[i], &entries[i]
		if e.c.dead != nil && f.Error == "" {
			f.Error = e.c.dead.Error()
		}
		if len(f.Samples) == 0 {
			if f.Error == "" && failures[i] != nil {
				f.Error = failures[i].Error()
			}
			continue
		}
		f.Syscalls = p.syscalls(ctx, e)
		f.goTarget = e.c.collected > 0
		f.summarise(histograms[i], idleSwitches(e.c.name, r))
	}
	if !t.NoRatios {
		cell.Ratios = p.ratios(cell)
	}
	return cell, nil
}

// another tells whether one more round is wanted: the number asked for, and
// beyond that more as long as a ratio spreads too wide to mean anything.
func (p *Plan) another(cell *Cell, t *Test, rounds int) bool {
	least := p.Method.Rounds
	if t.Rounds > 0 {
		least = t.Rounds
	}
	if rounds < least || rounds >= p.Method.MaxRounds || t.NoRatios {
		return rounds < least
	}
	decides := t.Decides
	if decides == "" {
		decides = "iops"
	}
	if p.Budget > 0 && time.Since(p.begun) > p.Budget*time.Duration(p.at+1)/time.Duration(len(p.Tests)) {
		return false
	}
	return slices.ContainsFunc(p.ratios(cell), func(q Ratio) bool { return q.What == decides && q.Refused })
}

// collections reads what the collector of a target in Go has done since it was
// looked at before.
func (c *contestant) collections() counters.GC {
	g, last := counters.Collections(c.run.Said(), c.collected)
	c.collected = last
	return g
}

func about(r *Result, name string) *Peer {
	i := slices.IndexFunc(r.Peers, func(p Peer) bool { return p.Name == name })
	return &r.Peers[i]
}

// urls of its LUNs over a transport.
func (c *contestant) urls(transport string) (map[string]string, error) {
	urls := c.run.URLs
	if transport == ISER {
		urls = c.run.ISER
	}
	if urls == nil {
		return nil, fmt.Errorf("%s has no %s", c.name, strings.ToUpper(transport))
	}
	return urls, nil
}

// options of a run against c.
func (p *Plan) options(w Workload, c *contestant) (load.Options, error) {
	o := load.Options{
		Sizes: []load.Size{{Bytes: w.Size, Percent: 100}}, Depth: w.Depth, Connections: w.Connections,
		Runtime: p.Method.Runtime, Ramp: p.Method.Ramp, CPU: p.Method.InitiatorCPU, Congestion: p.Method.Congestion,
		Header: w.Digests, Data: w.Digests, Span: p.Method.LUNSize, Rate: w.Rate, Sleep: w.Sleep, Opcode: w.Opcode, Idle: w.Idle, RDMA: p.RDMA,
	}
	urls, err := c.urls(w.transport())
	if err != nil {
		return o, err
	}
	if o.Address, err = load.ParseURL(urls[w.LUN]); err != nil {
		return o, err
	}
	if w.Opcode == "" {
		o.Pattern, err = load.ParsePattern(w.RW, w.Mix)
	}
	return o, err
}

// fill writes a LUN in memory through once: the first touch of a page costs the
// kernel's clearing of it, which would be measured instead of the target.
func (p *Plan) fill(ctx context.Context, w Workload, c *contestant) error {
	if c.sessions != nil {
		c.run.Resume()
		defer c.pause()
		return p.fillDisk(ctx, w, c)
	}
	if c.filled || c.dead != nil {
		return nil
	}
	w = Workload{LUN: peer.RAM, RW: "write", Size: 256 << 10, Depth: 4, Connections: 1}
	o, err := p.options(w, c)
	if err != nil {
		return err
	}
	o.Once, o.Ramp, o.Runtime = true, 0, fillTime
	o.Span = min(o.Span, maxFill)
	c.run.Resume()
	defer c.run.Pause()
	_, err = load.Run(ctx, o)
	c.filled = true
	return err
}

// measure is one run with its counters.
func (p *Plan) measure(ctx context.Context, t *Test, e *entry, about *Peer) (*Sample, *hdrhistogram.Histogram, error) {
	c := e.c
	c.run.Resume()
	defer c.pause()
	if t.Initiator == FIO {
		s, err := p.fio(ctx, e.w, c)
		return s, nil, err
	}
	o, err := p.options(e.w, c)
	if err != nil {
		return nil, nil, err
	}
	o.Runtime, o.Ramp = cmp.Or(t.Runtime, o.Runtime), cmp.Or(t.Ramp, o.Ramp)
	if t.Initiator == Perf {
		s, err := p.perf(ctx, e.w, c)
		return s, nil, err
	}
	made := func() float64 { return 0 }
	if e.litter != nil {
		l, stop, err := makeGarbage(e.litter)
		if err != nil {
			return nil, nil, err
		}
		defer stop()
		made = l.made
	}
	var meter *counters.Meter
	if c.run.PID != 0 {
		if meter, err = counters.Open(counters.Target{PID: c.run.PID}, false); err != nil {
			return nil, nil, err
		}
		defer meter.Close()
		about.Counted = meter.Source
		if meter.Note != "" {
			about.Counted += ", " + meter.Note
		}
	}
	heap, err := counters.OpenHeap(c.run.Control)
	if err != nil {
		return nil, nil, err
	}
	defer heap.Close()
	var from, to counters.Counts
	var busyFrom, busyTo, garbage float64
	var failed error
	var collector counters.GC
	var allocated *counters.Heap
	o.Window = func(begins bool) {
		var busy *float64
		var counts *counters.Counts
		if begins {
			busy, counts = &busyFrom, &from
			*busy = busyTime(c.run.Control)
			c.collections()
			garbage = -made()
			_, err := heap.Read()
			failed = errors.Join(failed, err)
		} else {
			garbage += made()
			busy, counts = &busyTo, &to
		}
		if meter != nil {
			var err error
			*counts, err = meter.Read()
			failed = errors.Join(failed, err)
		}
		if !begins {
			var err error
			allocated, err = heap.Read()
			failed = errors.Join(failed, err)
			*busy = busyTime(c.run.Control)
			time.Sleep(traceLag)
			collector = c.collections()
		}
	}
	res, err := load.Run(ctx, o)
	if err = errors.Join(err, failed); err != nil {
		return nil, nil, err
	}
	if res.IOs() == 0 && !o.Idle {
		return nil, nil, fmt.Errorf("no I/O ended within %v", o.Runtime)
	}
	garbage /= res.Elapsed.Seconds()
	if e.litter != nil && garbage < enoughRate {
		return nil, nil, fmt.Errorf("%s made %.0f MB/s of garbage where %.0f were asked for", e.litter.name, garbage/1e6, garbageRate/1e6)
	}
	n := max(1, res.IOs())
	h := res.Both()
	us := func(ns int64) float64 { return float64(ns) / 1e3 }
	return &Sample{
		IOPS: res.IOPS(), MBps: float64(res.Read.Bytes+res.Write.Bytes) / 1e6 / res.Elapsed.Seconds(), Mean: h.Mean() / 1e3,
		P50: us(h.ValueAtPercentile(50)), P99: us(h.ValueAtPercentile(99)), P999: us(h.ValueAtPercentile(99.9)), Max: us(h.Max()),
		IOs: n, Elapsed: res.Elapsed, Counts: to.Sub(from), Busy: busyTo - busyFrom, Own: float64(res.Busy) / float64(n),
		Collector: collector, Heap: allocated, Garbage: garbage,
		Idle: 1 - res.Busy.Seconds()/res.Elapsed.Seconds(),
	}, h, nil
}

// syscalls is the target's system calls per I/O, from a short run of their own.
func (p *Plan) syscalls(ctx context.Context, e *entry) float64 {
	if e.c.run.PID == 0 || e.c.dead != nil || e.w.Idle || e.w.Rate > 0 || e.litter != nil || e.c.sessions != nil {
		return counters.Unknown
	}
	o, err := p.options(e.w, e.c)
	if err == nil {
		e.c.run.Resume()
		defer e.c.run.Pause()
		var n float64
		if n, err = Syscalls(ctx, o, e.c.run.PID); err == nil {
			return n
		}
	}
	p.Log("%s: system calls: %v", e.Name, err)
	return counters.Unknown
}

// Syscalls is how many system calls process pid makes for an I/O of the load: the
// least of a few short runs, because what interferes only adds.
func Syscalls(ctx context.Context, o load.Options, pid int) (float64, error) {
	least, failed := math.Inf(1), error(nil)
	for range syscallRuns {
		n, err := countSyscalls(ctx, o, pid)
		failed = errors.Join(failed, err)
		if err == nil {
			least = min(least, n)
		}
	}
	if math.IsInf(least, 1) {
		return counters.Unknown, failed
	}
	return least, nil
}

func countSyscalls(ctx context.Context, o load.Options, pid int) (float64, error) {
	meter, err := counters.Open(counters.Target{PID: pid}, true)
	if err != nil {
		return 0, err
	}
	defer meter.Close()
	if meter.Source != "eBPF" {
		return 0, errors.New(meter.Note)
	}
	var from, to counters.Counts
	var failed error
	o.Runtime, o.Ramp = syscallRun, syscallRun/3
	o.Window = func(begins bool) {
		counts, err := meter.Read()
		failed = errors.Join(failed, err)
		if begins {
			from = counts
		} else {
			to = counts
		}
	}
	r, err := load.Run(ctx, o)
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	if r.IOs() < fewIOs {
		return 0, fmt.Errorf("only %d I/Os in %v", r.IOs(), r.Elapsed)
	}
	return float64(to.Sub(from).Syscalls) / float64(r.IOs()), nil
}

// curve are the percentiles of a latency curve.
var curve = []float64{0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 99.999, 100}

// summarise makes a figure of its samples: medians of rounds, so that one
// disturbed round does not count.
func (f *Figure) summarise(h *hdrhistogram.Histogram, idle float64) {
	of := func(get func(Sample) float64) Interval {
		var v []float64
		for _, s := range f.Samples {
			v = append(v, get(s))
		}
		return Summarise(v)
	}
	perIO := func(get func(Sample) int64) float64 {
		return of(func(s Sample) float64 {
			if get(s) == counters.Unknown {
				return counters.Unknown
			}
			return float64(get(s)) / float64(s.IOs)
		}).Median
	}
	f.IOPS = of(func(s Sample) float64 { return s.IOPS })
	f.P50 = of(func(s Sample) float64 { return s.P50 })
	f.P99 = of(func(s Sample) float64 { return s.P99 })
	f.P999 = of(func(s Sample) float64 { return s.P999 })
	f.CPU = perIO(func(s Sample) int64 { return s.Counts.Run })
	f.Voluntary = perIO(func(s Sample) int64 { return s.Counts.Voluntary })
	f.Involuntary = perIO(func(s Sample) int64 { return s.Counts.Involuntary })
	f.Wakeups = perIO(func(s Sample) int64 { return s.Counts.Wakeups })
	f.Net = of(func(s Sample) float64 {
		if s.IOPS == 0 {
			return 0 // a row without load: there is nothing to divide by
		}
		return max(0, float64(s.Counts.Voluntary)/float64(s.IOs)-idle/s.IOPS)
	}).Median
	f.Workers = perIO(func(s Sample) int64 { return s.Workers.Voluntary + s.Workers.Involuntary })
	f.System = perIO(func(s Sample) int64 { return s.System })
	f.Busy = of(func(s Sample) float64 { return s.Busy / float64(s.IOs) }).Median
	f.Initiator = of(func(s Sample) float64 { return s.Own }).Median
	var gc counters.GC
	for _, s := range f.Samples {
		gc.Cycles += s.Collector.Cycles
		gc.Pauses += s.Collector.Pauses
		gc.Longest = max(gc.Longest, s.Collector.Longest)
		gc.Garbage += s.Collector.Garbage
	}
	if f.goTarget {
		f.Collector = &gc
	}
	f.Heap = heapOf(f.Samples)
	for _, p := range curve {
		if h == nil {
			break // the initiator tells no latencies
		}
		f.Curve = append(f.Curve, Point{p, float64(h.ValueAtPercentile(p)) / 1e3})
	}
}

// heapOf sums what a target told of its heap; nil unless it did in each run.
func heapOf(samples []Sample) *Heap {
	var h Heap
	var objects, bytes []float64
	for _, s := range samples {
		if s.Heap == nil {
			return nil
		}
		objects = append(objects, float64(s.Heap.Objects)/float64(s.IOs))
		bytes = append(bytes, float64(s.Heap.Bytes)/float64(s.IOs))
		h.Collections += s.Heap.Collections
		h.Pauses += s.Heap.Pauses
	}
	h.Objects, h.Bytes = Summarise(objects).Median, Summarise(bytes).Median
	return &h
}

// whats are the figures that ratios are made of.
var whats = []struct {
	name string
	of   func(*Sample) float64
}{
	{"iops", func(s *Sample) float64 { return s.IOPS }},
	{"p50", func(s *Sample) float64 { return s.P50 }},
	{"p999", func(s *Sample) float64 { return s.P999 }},
	{"cpu", func(s *Sample) float64 { return float64(s.Counts.Run) / float64(s.IOs) }},
}

// ratios compares the subject's rounds with the others'.
func (p *Plan) ratios(cell *Cell) (list []Ratio) {
	own := cell.Figure(cell.Subject)
	if own == nil {
		return nil
	}
	for i := range cell.Figures {
		other := &cell.Figures[i]
		if other == own {
			continue
		}
		for _, what := range whats {
			r := Ratio{Of: cell.Subject, To: other.Peer, What: what.name, Rounds: quotients(own, other, what.of)}
			if len(r.Rounds) == 0 {
				continue
			}
			r.Interval = Summarise(r.Rounds)
			r.Refused = r.Interval.Spread() > p.Method.MaxSpread || len(r.Rounds) < 3
			list = append(list, r)
		}
	}
	return list
}

// quotients divide round by round; a figure that is not known has none.
func quotients(a, b *Figure, of func(*Sample) float64) (list []float64) {
	for i := range a.Samples {
		for j := range b.Samples {
			x, y := &a.Samples[i], &b.Samples[j]
			if x.Round == y.Round && of(x) > 0 && of(y) > 0 {
				list = append(list, of(x)/of(y))
			}
		}
	}
	return list
}

// busyTime asks a target that has SPDK's RPC for how long its reactors were
// busy, in nanoseconds; 0 when it does not tell.
func busyTime(socket string) float64 {
	if socket == "" {
		return 0
	}
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return 0
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte(`{"jsonrpc":"2.0","method":"framework_get_reactors","id":1}`)); err != nil {
		return 0
	}
	var answer struct {
		Result struct {
			TickRate float64 `json:"tick_rate"`
			Reactors []struct{ Busy float64 }
		}
	}
	if json.NewDecoder(c).Decode(&answer) != nil || answer.Result.TickRate == 0 {
		return 0
	}
	sum := 0.0
	for _, r := range answer.Result.Reactors {
		sum += r.Busy
	}
	return sum * 1e9 / answer.Result.TickRate
}
