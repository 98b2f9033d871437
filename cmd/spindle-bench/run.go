package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"spindle/bench/compare"
	"spindle/bench/counters"
	"spindle/bench/load"
	"spindle/bench/peer"
	"spindle/internal/sys"
	"spindle/verbs/ibverbs"
)

func runCommand() command {
	return command{
		name: "run", args: "iscsi|iser://HOST[:PORT]/TARGET/LUN", short: "load a target and report latency and throughput",
		long: `Load one LUN of a target from a polling initiator of its own: one thread, any
number of connections, each a session. It spins while it runs: give it a CPU that
the target does not use (--cpu), or they measure each other.

iscsi:// is TCP. iser:// is RDMA (InfiniBand or RoCE): login, commands and answers
are SENDs, the target itself moves the data. It wants an RDMA device here and a
portal with iSER there; "spindle rdma" tells what is missing. Digests,
--congestion and --limit are for TCP.

Writing destroys what is on the LUN.`,
		flags: func(fs *flag.FlagSet) func(context.Context, streams, []string) error {
			f := declareLoad(fs)
			fs.BoolVar(&f.json, "json", false, "print JSON with fio's field names instead of text")
			fs.BoolVar(&f.quiet, "quiet", false, "print no progress line")
			fs.BoolVar(&f.limit, "limit", false, "run the same against the built-in canned responder, and print\nboth in one table: that is what the machine allows")
			fs.IntVar(&f.limitCPU, "limit-cpu", -1, "`CPU` of that responder (default the last)")
			fs.IntVar(&f.pid, "pid", 0, "`PID` of the target, to count its context switches, CPU time and,\nin a short run of their own, system calls (default whoever listens\nthere, on this machine)")
			fs.StringVar(&f.socket, "rpc-socket", "", "`PATH` of the target's RPC socket, to count what it allocates")
			return func(ctx context.Context, s streams, args []string) error {
				o, err := f.options(args)
				if err != nil {
					return err
				}
				return run(ctx, s, o, f)
			}
		},
	}
}

// seconds is a flag value: 10s, 1m30s, or seconds as fio takes them.
type seconds time.Duration

func (d *seconds) String() string { return time.Duration(*d).String() }

func (d *seconds) Set(text string) error {
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		*d = seconds(n * float64(time.Second))
		return nil
	}
	t, err := time.ParseDuration(text)
	*d = seconds(t)
	return err
}

// loadFlags are the flags of a load, as text.
type loadFlags struct {
	o                           load.Options
	rw, bs, split, size, verify string
	mix                         int
	runtime, ramp               seconds
	json, quiet, limit          bool
	pid, limitCPU               int
	socket                      string // of the target's RPC
}

func declareLoad(fs *flag.FlagSet) *loadFlags {
	f := &loadFlags{runtime: seconds(10 * time.Second), ramp: seconds(time.Second)}
	fs.StringVar(&f.rw, "rw", "randread", "`PATTERN`: read, write, randread, randwrite, rw or randrw")
	fs.StringVar(&f.o.Opcode, "opcode", "", "`NAME` of a command to send instead of what --rw says, such as\nverify16, compare-and-write or unmap; a wrong one lists all")
	fs.IntVar(&f.mix, "rwmixread", 50, "`PERCENT` of reads in rw and randrw")
	fs.StringVar(&f.bs, "bs", "4k", "`SIZE` of an I/O")
	fs.StringVar(&f.split, "bssplit", "", "`SIZES` and their shares instead of --bs: 4k/70:64k/30")
	fs.IntVar(&f.o.Depth, "iodepth", 1, "`N` I/Os in flight on each connection")
	fs.IntVar(&f.o.Connections, "connections", 1, "`N` connections, each its own session")
	fs.Var(&f.runtime, "runtime", "`TIME` that is measured: 10, 10s, 1m")
	fs.Var(&f.ramp, "ramp", "`TIME` of load before that, not measured")
	fs.IntVar(&f.o.Rate, "rate", 0, "`IOPS` of all connections together; latency then counts from\nwhen an I/O was due (default as many as possible)")
	fs.BoolVar(&f.o.Sleep, "sleep", false, "sleep until the rate has something due, instead of spinning")
	fs.StringVar(&f.size, "size", "", "`SIZE` from the start of the LUN to touch (default all of it)")
	fs.StringVar(&f.verify, "verify", "", "`crc32c`: stamp what is written and compare what is read;\na write pattern is read back at the end")
	fs.IntVar(&f.o.CPU, "cpu", -1, "`CPU` to pin the initiator to")
	fs.BoolVar(&f.o.Header, "header-digest", false, "CRC32C over headers")
	fs.BoolVar(&f.o.Data, "data-digest", false, "CRC32C over data")
	fs.StringVar(&f.o.Congestion, "congestion", "cubic", "`NAME` of the TCP congestion control; \"\" is the system's")
	return f
}

// options reads the flags.
func (f *loadFlags) options(args []string) (load.Options, error) {
	o := f.o
	if len(args) != 1 {
		return o, usagef("run: name one LUN: iscsi://host[:port]/target/lun, or iser:// for RDMA")
	}
	var err error
	if o.Address, err = load.ParseURL(args[0]); err != nil {
		return o, err
	}
	if o.Pattern, err = load.ParsePattern(f.rw, f.mix); err != nil {
		return o, err
	}
	text := f.bs
	if f.split != "" {
		text = f.split
	}
	if o.Sizes, err = load.ParseSizes(text); err != nil {
		return o, err
	}
	if f.size != "" {
		if o.Span, err = load.ParseBytes(f.size); err != nil {
			return o, err
		}
	}
	switch f.verify {
	case "", "crc32c":
		o.Verify = f.verify != ""
	default:
		return o, usagef("--verify %q: only crc32c is known", f.verify)
	}
	o.RDMA = ibverbs.Open
	o.Runtime, o.Ramp = time.Duration(f.runtime), time.Duration(f.ramp)
	return o, o.Check()
}

// outcome is a run with what it cost the target.
type outcome struct {
	name   string
	r      *load.Result
	counts *counters.Counts // nil: not counted
	calls  float64          // system calls for an I/O, or counters.Unknown
	heap   *counters.Heap   // nil: not told
	note   string
}

func run(ctx context.Context, s streams, o load.Options, f *loadFlags) error {
	if f.limit && o.Address.ISER {
		return usagef("--limit: the canned responder speaks TCP only")
	}
	if f.limit && (o.Header || o.Data || o.Verify) {
		return usagef("--limit: the canned responder has no digests and stores nothing to verify")
	}
	if f.pid == 0 {
		if addr, err := netip.ParseAddrPort(o.Address.Host); err == nil {
			f.pid = counters.Listener(addr)
		}
	}
	target, err := measure(ctx, s, o, f, "target", f.pid, f.socket)
	if err != nil {
		return err
	}
	var limit *outcome
	if f.limit {
		if limit, err = againstLimit(ctx, s, o, f); err != nil {
			return fmt.Errorf("limit: %w", err)
		}
	}
	if f.json {
		return printJSON(s.out, &o, target, limit)
	}
	text := target.r.Human(&o) + target.text()
	if limit != nil {
		text += table(target, limit)
	}
	_, err = io.WriteString(s.out, text)
	return err
}

// measure loads once and counts what process pid does meanwhile, and what it
// tells of itself on its socket.
func measure(ctx context.Context, s streams, o load.Options, f *loadFlags, name string, pid int, socket string) (*outcome, error) {
	out := &outcome{name: name, calls: counters.Unknown}
	heap, err := counters.OpenHeap(socket)
	if err != nil {
		return nil, err
	}
	defer heap.Close()
	var m *counters.Meter
	if pid != 0 {
		if m, err = counters.Open(counters.Target{PID: pid}, false); err != nil {
			return nil, err
		}
		defer m.Close()
		out.note = m.Source
		if m.Note != "" {
			out.note += ", " + m.Note
		}
	}
	counted := o // again, without what belongs to this run alone
	counted.Verify = false
	var from counters.Counts
	var failed error
	// What asking costs the target is outside of what is counted.
	o.Window = func(begins bool) {
		var err error
		if begins {
			_, err = heap.Read()
			failed = errors.Join(failed, err)
		}
		if m != nil {
			var c counters.Counts
			c, err = m.Read()
			failed = errors.Join(failed, err)
			if begins {
				from = c
			} else {
				c = c.Sub(from)
				out.counts = &c
			}
		}
		if !begins {
			out.heap, err = heap.Read()
			failed = errors.Join(failed, err)
		}
	}
	if !f.quiet && !f.json {
		defer showProgress(s.err, &o)()
	}
	out.r, err = load.Run(ctx, o)
	if err = errors.Join(err, failed); err == nil && out.r.IOs() == 0 {
		err = fmt.Errorf("no I/O ended within %v", o.Runtime)
	}
	if err != nil || m == nil || m.Source != "eBPF" {
		return out, err
	}
	if out.calls, err = compare.Syscalls(ctx, counted, pid); err != nil {
		out.note += ", no system calls: " + err.Error()
	}
	return out, ctx.Err()
}

// againstLimit repeats the load against the canned responder on a CPU of its own.
func againstLimit(ctx context.Context, s streams, o load.Options, f *loadFlags) (*outcome, error) {
	cpu := f.limitCPU
	if cpu < 0 {
		set, err := sys.Affinity()
		if err != nil {
			return nil, err
		}
		cpus := sys.CPUs(set)
		cpu = cpus[len(cpus)-1]
	}
	if cpu == o.CPU {
		return nil, usagef("--limit-cpu %d is the initiator's", cpu)
	}
	drivers, err := peer.Find(peer.Drivers(peer.Paths{}), "limit")
	if err != nil {
		return nil, err
	}
	l, err := drivers[0].Start(ctx, peer.Setup{CPU: cpu, Size: limitSize, NullOnly: true, Connections: o.Connections})
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	if o.Address, err = load.ParseURL(l.URLs[peer.Null]); err != nil {
		return nil, err
	}
	return measure(ctx, s, o, f, "limit", l.PID, l.Control)
}

// limitSize of the canned LUN: it takes no memory.
const limitSize = 1 << 40

// cost is what the target spent, or did, for an I/O.
type cost struct {
	format, key string // of the text, and in JSON
	value       float64
}

// costs are those that are known.
func (o *outcome) costs() (list []cost) {
	n := float64(max(1, o.r.IOs()))
	if c := o.counts; c != nil {
		list = append(list, cost{"CPU %.0f ns", "cpu_ns", float64(c.Run) / n},
			cost{"voluntary context switches %.4f", "voluntary", float64(c.Voluntary) / n},
			cost{"involuntary %.4f", "involuntary", float64(c.Involuntary) / n})
	}
	if o.calls != counters.Unknown {
		list = append(list, cost{"system calls %.4f", "syscalls", o.calls})
	}
	if h := o.heap; h != nil {
		list = append(list, cost{"allocations %.4f", "allocations", float64(h.Objects) / n},
			cost{"allocated bytes %.2f", "allocated_bytes", float64(h.Bytes) / n})
	}
	return list
}

// text says what the target spent on an I/O.
func (o *outcome) text() string {
	var parts []string
	for _, c := range o.costs() {
		parts = append(parts, fmt.Sprintf(c.format, c.value))
	}
	if parts == nil {
		return "  target: not counted; name its process with --pid if it is on this machine\n"
	}
	text := "  target, for an I/O: " + strings.Join(parts, ", ")
	if o.counts != nil {
		text += " (" + o.note + ")"
	}
	if h := o.heap; h != nil {
		text += fmt.Sprintf("\n  target: %d garbage collections stopped it for %v altogether", h.Collections, h.Pauses)
	}
	return text + "\n"
}

// table is the target beside the limit.
func table(rows ...*outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-8s %10s %10s %10s %10s %10s %12s\n", "", "IOPS", "p50 us", "p99 us", "p99.9 us", "CPU ns/IO", "switches/IO")
	for _, o := range rows {
		h := o.r.Both()
		us := func(p float64) float64 { return float64(h.ValueAtPercentile(p)) / 1e3 }
		fmt.Fprintf(&b, "%-8s %10s %10.1f %10.1f %10.1f", o.name, load.SI(o.r.IOPS()), us(50), us(99), us(99.9))
		if o.counts != nil {
			n := float64(max(1, o.r.IOs()))
			fmt.Fprintf(&b, " %10.0f %12.4f", float64(o.counts.Run)/n, float64(o.counts.Voluntary+o.counts.Involuntary)/n)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "target / limit: %.2f of its IOPS, in one run each; \"spindle-bench compare\" gives intervals\n", rows[0].r.IOPS()/rows[1].r.IOPS())
	return b.String()
}

// printJSON prints fio's document, with one job for each run.
func printJSON(w io.Writer, o *load.Options, target, limit *outcome) error {
	doc := target.r.FIO(o, version)
	jobs := doc["jobs"].([]map[string]any)
	if limit != nil {
		more := limit.r.FIO(o, version)["jobs"].([]map[string]any)
		more[0]["jobname"] = limit.name
		jobs = append(jobs, more...)
	}
	for i, x := range []*outcome{target, limit} {
		if x == nil {
			continue
		}
		if x.counts != nil {
			jobs[i]["target"] = x.counts
		}
		if x.heap != nil {
			jobs[i]["target_heap"] = x.heap
		}
		each := map[string]float64{}
		for _, c := range x.costs() {
			each[c.key] = c.value
		}
		jobs[i]["target_per_io"] = each
	}
	doc["jobs"] = jobs
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}

// showProgress writes a line a second over itself, on a terminal only.
func showProgress(w io.Writer, o *load.Options) (stop func()) {
	file, ok := w.(*os.File)
	if !ok {
		return func() {}
	}
	if st, err := file.Stat(); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	o.Progress = &load.Progress{}
	tick, end, ended := time.NewTicker(time.Second), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer tick.Stop()
		var lastIOs, lastBytes uint64
		begin := time.Now()
		for {
			select {
			case <-end:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-tick.C:
			}
			ios, bytes := o.Progress.Load()
			left := max(0, o.Ramp+o.Runtime-time.Since(begin)).Round(time.Second)
			phase := fmt.Sprintf("%s IOPS, %.1f MiB/s", load.SI(float64(ios-lastIOs)), float64(bytes-lastBytes)/(1<<20))
			if ios == 0 {
				phase = "ramp"
			}
			fmt.Fprintf(w, "\r\x1b[K%s, %v left", phase, left)
			lastIOs, lastBytes = ios, bytes
		}
	}()
	return func() { close(end); <-ended }
}
