package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"spindle/bench/load"
)

func runCommand() command {
	return command{
		name: "run", args: "iscsi://HOST[:PORT]/TARGET/LUN", short: "load a target and report latency and throughput",
		long: `Load one LUN of a target from a polling initiator of its own: one thread, any
number of connections, each a session. It spins while it runs: give it a CPU that
the target does not use (--cpu), or they measure each other.

Writing destroys what is on the LUN.`,
		flags: func(fs *flag.FlagSet) func(context.Context, streams, []string) error {
			f := declareLoad(fs)
			fs.BoolVar(&f.json, "json", false, "print JSON with fio's field names instead of text")
			fs.BoolVar(&f.quiet, "quiet", false, "print no progress line")
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
}

func declareLoad(fs *flag.FlagSet) *loadFlags {
	f := &loadFlags{runtime: seconds(10 * time.Second), ramp: seconds(time.Second)}
	fs.StringVar(&f.rw, "rw", "randread", "`PATTERN`: read, write, randread, randwrite, rw or randrw")
	fs.IntVar(&f.mix, "rwmixread", 50, "`PERCENT` of reads in rw and randrw")
	fs.StringVar(&f.bs, "bs", "4k", "`SIZE` of an I/O")
	fs.StringVar(&f.split, "bssplit", "", "`SIZES` and their shares instead of --bs: 4k/70:64k/30")
	fs.IntVar(&f.o.Depth, "iodepth", 1, "`N` I/Os in flight on each connection")
	fs.IntVar(&f.o.Connections, "connections", 1, "`N` connections, each its own session")
	fs.Var(&f.runtime, "runtime", "`TIME` that is measured: 10, 10s, 1m")
	fs.Var(&f.ramp, "ramp", "`TIME` of load before that, not measured")
	fs.IntVar(&f.o.Rate, "rate", 0, "`IOPS` of all connections together; latency then counts from\nwhen an I/O was due (default as many as possible)")
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
		return o, usagef("run: name one LUN: iscsi://host[:port]/target/lun")
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
	o.Runtime, o.Ramp = time.Duration(f.runtime), time.Duration(f.ramp)
	return o, o.Check()
}

func run(ctx context.Context, s streams, o load.Options, f *loadFlags) error {
	if !f.quiet && !f.json {
		stop := showProgress(s.err, &o)
		defer stop()
	}
	r, err := load.Run(ctx, o)
	if err != nil {
		return err
	}
	if f.json {
		e := json.NewEncoder(s.out)
		e.SetIndent("", "  ")
		return e.Encode(r.FIO(&o, version))
	}
	_, err = io.WriteString(s.out, r.Human(&o))
	return err
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
