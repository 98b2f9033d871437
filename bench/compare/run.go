package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"spindle/bench/counters"
	"spindle/bench/load"
	"spindle/bench/peer"
)

// syscallRun is how long system calls are counted, in a run of its own: counting
// slows them, and those that make many would pay for it in the figures.
const syscallRun = 300 * time.Millisecond

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
	Method    Method
	Tool      string
	Log       func(format string, args ...any) // progress; may be nil
}

// contestant is a peer that runs.
type contestant struct {
	name   string
	run    *peer.Running
	dead   error
	filled bool // its RAM LUN was written through
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
			if e := c.run.Stop(); e != nil {
				p.Log("%v", e)
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	r.Method.Subject = subject(list)
	for _, w := range p.Workloads {
		cell, err := p.cell(ctx, w, list, r)
		if ctx.Err() != nil && len(r.Cells) > 0 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("interrupted after %d of %d workloads", len(r.Cells), len(p.Workloads)))
			break
		}
		if err != nil {
			return nil, err
		}
		r.Cells = append(r.Cells, *cell)
	}
	total2, steal2 := ticks()
	if total2 > total {
		r.Machine.Steal = (steal2 - steal) / (total2 - total)
	}
	r.Took = time.Since(r.Started)
	return r, nil
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
	connections := 0
	for _, w := range p.Workloads {
		connections = max(connections, w.Connections)
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
		run, err := d.Start(ctx, peer.Setup{CPU: p.Method.TargetCPU, Size: p.Method.LUNSize, Dir: dir, Args: p.Args[d.Name()], Connections: connections})
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
func (p *Plan) cell(ctx context.Context, w Workload, list []*contestant, r *Result) (*Cell, error) {
	cell := &Cell{Workload: w, Name: w.Name(), Title: w.Title()}
	histograms := make([]*hdrhistogram.Histogram, len(list))
	for _, c := range list {
		cell.Figures = append(cell.Figures, Figure{Peer: c.name, Wakeups: counters.Unknown, Syscalls: counters.Unknown})
	}
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	if w.LUN == peer.RAM {
		for _, c := range list {
			if err := p.fill(ctx, c); err != nil {
				return nil, fmt.Errorf("%s: filling the LUN in memory: %w", c.name, err)
			}
		}
	}
	for round := range p.Method.Rounds {
		for _, i := range order {
			f, c := &cell.Figures[i], list[i]
			if f.Error != "" || c.dead != nil {
				continue
			}
			s, h, err := p.measure(ctx, w, c, about(r, c.name))
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				f.Error = err.Error()
				c.dead = c.run.Alive()
				p.Log("%s, %s: %v", w.Name(), c.name, err)
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
			p.Log("%s, round %d of %d, %s: %s IOPS", w.Name(), round+1, p.Method.Rounds, c.name, load.SI(s.IOPS))
		}
		slices.Reverse(order)
	}
	for i, c := range list {
		f := &cell.Figures[i]
		if c.dead != nil && f.Error == "" {
			f.Error = c.dead.Error()
		}
		if len(f.Samples) == 0 {
			continue
		}
		f.Syscalls = p.syscalls(ctx, w, c)
		f.summarise(histograms[i])
	}
	p.ratios(cell, r.Method.Subject)
	return cell, nil
}

func about(r *Result, name string) *Peer {
	i := slices.IndexFunc(r.Peers, func(p Peer) bool { return p.Name == name })
	return &r.Peers[i]
}

// options of a run against c.
func (p *Plan) options(w Workload, c *contestant) (load.Options, error) {
	o := load.Options{
		Sizes: []load.Size{{Bytes: w.Size, Percent: 100}}, Depth: w.Depth, Connections: w.Connections,
		Runtime: p.Method.Runtime, Ramp: p.Method.Ramp, CPU: p.Method.InitiatorCPU, Congestion: p.Method.Congestion,
		Header: w.Digests, Data: w.Digests, Span: p.Method.LUNSize,
	}
	var err error
	if o.Address, err = load.ParseURL(c.run.URLs[w.LUN]); err != nil {
		return o, err
	}
	o.Pattern, err = load.ParsePattern(w.RW, w.Mix)
	return o, err
}

// fill writes a LUN in memory through once: the first touch of a page costs the
// kernel's clearing of it, which would be measured instead of the target.
func (p *Plan) fill(ctx context.Context, c *contestant) error {
	if c.filled || c.dead != nil {
		return nil
	}
	w := Workload{LUN: peer.RAM, RW: "write", Size: 256 << 10, Depth: 4, Connections: 1}
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
func (p *Plan) measure(ctx context.Context, w Workload, c *contestant, about *Peer) (*Sample, *hdrhistogram.Histogram, error) {
	o, err := p.options(w, c)
	if err != nil {
		return nil, nil, err
	}
	c.run.Resume()
	defer c.run.Pause()
	if p.Method.Initiator == Perf {
		s, err := p.perf(ctx, w, c)
		return s, nil, err
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
	var from, to counters.Counts
	var busyFrom, busyTo float64
	var failed error
	o.Window = func(begins bool) {
		var busy *float64
		var counts *counters.Counts
		if begins {
			busy, counts = &busyFrom, &from
			*busy = busyTime(c.run.Control)
		} else {
			busy, counts = &busyTo, &to
		}
		if meter != nil {
			var err error
			*counts, err = meter.Read()
			failed = errors.Join(failed, err)
		}
		if !begins {
			*busy = busyTime(c.run.Control)
		}
	}
	res, err := load.Run(ctx, o)
	if err = errors.Join(err, failed); err != nil {
		return nil, nil, err
	}
	if res.IOs() == 0 {
		return nil, nil, fmt.Errorf("no I/O ended within %v", p.Method.Runtime)
	}
	h := res.Both()
	us := func(ns int64) float64 { return float64(ns) / 1e3 }
	return &Sample{
		IOPS: res.IOPS(), MBps: float64(res.Read.Bytes+res.Write.Bytes) / 1e6 / res.Elapsed.Seconds(), Mean: h.Mean() / 1e3,
		P50: us(h.ValueAtPercentile(50)), P99: us(h.ValueAtPercentile(99)), P999: us(h.ValueAtPercentile(99.9)), Max: us(h.Max()),
		IOs: res.IOs(), Counts: to.Sub(from), Busy: busyTo - busyFrom, Own: float64(res.Busy) / float64(res.IOs()),
		Idle: 1 - res.Busy.Seconds()/res.Elapsed.Seconds(),
	}, h, nil
}

// syscalls is the target's system calls per I/O, from a short run of their own.
func (p *Plan) syscalls(ctx context.Context, w Workload, c *contestant) float64 {
	if c.run.PID == 0 || c.dead != nil {
		return counters.Unknown
	}
	n, err := p.countSyscalls(ctx, w, c)
	if err != nil {
		p.Log("%s, %s: system calls: %v", w.Name(), c.name, err)
		return counters.Unknown
	}
	return n
}

func (p *Plan) countSyscalls(ctx context.Context, w Workload, c *contestant) (float64, error) {
	o, err := p.options(w, c)
	if err != nil {
		return 0, err
	}
	c.run.Resume()
	defer c.run.Pause()
	meter, err := counters.Open(counters.Target{PID: c.run.PID}, true)
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
func (f *Figure) summarise(h *hdrhistogram.Histogram) {
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
	f.Busy = of(func(s Sample) float64 { return s.Busy / float64(s.IOs) }).Median
	f.Initiator = of(func(s Sample) float64 { return s.Own }).Median
	for _, p := range curve {
		if h == nil {
			break // the initiator tells no latencies
		}
		f.Curve = append(f.Curve, Point{p, float64(h.ValueAtPercentile(p)) / 1e3})
	}
}

// ratios compares the subject's rounds with the others'.
func (p *Plan) ratios(cell *Cell, subject string) {
	own := cell.Figure(subject)
	for i := range cell.Figures {
		other := &cell.Figures[i]
		if other.Peer == subject {
			continue
		}
		for _, what := range []string{"iops", "p50"} {
			if what == "p50" && p.Method.Initiator == Perf {
				continue
			}
			r := Ratio{Of: subject, To: other.Peer, What: what}
			for _, a := range own.Samples {
				for _, b := range other.Samples {
					if a.Round != b.Round {
						continue
					}
					if what == "iops" {
						r.Rounds = append(r.Rounds, a.IOPS/b.IOPS)
					} else {
						r.Rounds = append(r.Rounds, a.P50/b.P50)
					}
				}
			}
			if len(r.Rounds) == 0 {
				continue
			}
			r.Interval = Summarise(r.Rounds)
			r.Refused = r.Interval.Spread() > p.Method.MaxSpread || len(r.Rounds) < 3
			cell.Ratios = append(cell.Ratios, r)
		}
	}
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
