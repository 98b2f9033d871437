package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"spindle/bench/compare"
	"spindle/bench/flame"
	"spindle/bench/load"
	"spindle/bench/peer"
	"spindle/internal/sys"
)

const (
	profileFile = "cpu.pprof" // what spindle serve --profile cpu writes where it runs
	reactorLoop = "reactor.(*Reactor).Turn"
	topShares   = 12
)

func profileCommand() command {
	return command{
		name: "profile", short: "draw where Spindle's time goes under a load",
		long: `Start Spindle with a CPU profile, load it, and draw the profile as a flame graph:
one SVG that needs nothing beside it. Let the machine be at rest: on a busy one
Spindle waits for the initiator, and its polling is what is drawn.`,
		flags: func(fs *flag.FlagSet) func(context.Context, streams, []string) error {
			f := &profileFlags{runtime: seconds(5 * time.Second)}
			fs.StringVar(&f.workload, "workload", "null:randread:512:128", "`WORKLOAD` as for compare")
			fs.Var(&f.runtime, "runtime", "`TIME` of load")
			fs.StringVar(&f.out, "out", "flame.svg", "`FILE.svg` to write; the profile itself is put beside it")
			fs.StringVar(&f.within, "within", reactorLoop, "`FUNCTION` to begin with; \"\" shows all threads")
			fs.StringVar(&f.spindle, "spindle", "", "`PATH` of spindle")
			fs.IntVar(&f.cpu, "cpu", -1, "`CPU` of the initiator (default the first)")
			fs.IntVar(&f.target, "target-cpu", -1, "`CPU` of the target (default the last)")
			return func(ctx context.Context, s streams, args []string) error {
				if len(args) > 0 {
					return usagef("profile takes flags only, not %q", args[0])
				}
				return f.run(ctx, s)
			}
		},
	}
}

type profileFlags struct {
	workload, out, within, spindle string
	runtime                        seconds
	cpu, target                    int
}

func (f *profileFlags) run(ctx context.Context, s streams) error {
	list, err := compare.ParseWorkloads(f.workload)
	if err != nil {
		return usageError{err}
	}
	if len(list) != 1 {
		return usagef("profile: name one workload, not %d", len(list))
	}
	if f.out, err = filepath.Abs(f.out); err != nil {
		return err
	}
	raw, r, err := f.profile(ctx, list[0])
	if err != nil {
		return err
	}
	stacks, err := flame.Parse(raw)
	if err != nil {
		return err
	}
	title := "CPU profile of Spindle's reactor: " + list[0].Title()
	if f.within == "" {
		title = "CPU profile of Spindle: " + list[0].Title()
	}
	err = errors.Join(os.WriteFile(f.out, []byte(flame.SVG(stacks, title, f.within)), 0o644),
		os.WriteFile(strings.TrimSuffix(f.out, ".svg")+".pprof", raw, 0o644))
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s: %s IOPS\n%7s %7s  function\n", list[0].Title(), load.SI(r.IOPS()), "self", "total")
	for _, x := range flame.Top(stacks, topShares) {
		fmt.Fprintf(s.out, "%6.1f%% %6.1f%%  %s\n", 100*x.Self, 100*x.Total, x.Name)
	}
	_, err = fmt.Fprintf(s.out, "written: %s\n", f.out)
	return err
}

// profile loads a Spindle that profiles itself, and returns what it wrote.
func (f *profileFlags) profile(ctx context.Context, w compare.Workload) ([]byte, *load.Result, error) {
	set, err := sys.Affinity()
	if err != nil {
		return nil, nil, err
	}
	cpus := sys.CPUs(set)
	if f.cpu < 0 {
		f.cpu = cpus[0]
	}
	if f.target < 0 {
		f.target = cpus[len(cpus)-1]
	}
	if f.spindle != "" {
		if f.spindle, err = filepath.Abs(f.spindle); err != nil {
			return nil, nil, err
		}
	}
	drivers, err := peer.Find(peer.Drivers(peer.Paths{Spindle: f.spindle}), "spindle")
	if err != nil {
		return nil, nil, err
	}
	if _, err := drivers[0].Version(ctx); err != nil {
		return nil, nil, fmt.Errorf("Spindle is %w", err)
	}
	dir, err := os.MkdirTemp("", "spindle-bench-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	// It writes its profile where it runs.
	args := []string{"--profile", "cpu"}
	back, err := os.Getwd()
	if err != nil {
		return nil, nil, err
	}
	if err := os.Chdir(dir); err != nil {
		return nil, nil, err
	}
	running, err := drivers[0].Start(ctx, peer.Setup{CPU: f.target, Size: profileLUN, Dir: dir, Args: args, Connections: w.Connections})
	if err = errors.Join(err, os.Chdir(back)); err != nil {
		return nil, nil, err
	}
	r, err := f.load(ctx, w, running.URLs[w.LUN])
	if err = errors.Join(err, running.Stop()); err != nil {
		return nil, nil, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, profileFile))
	return raw, r, err
}

// profileLUN is the size of the LUNs, in bytes: as much as compare's, which no
// cache holds.
const profileLUN = 256 << 20

func (f *profileFlags) load(ctx context.Context, w compare.Workload, url string) (*load.Result, error) {
	o := load.Options{
		Sizes: []load.Size{{Bytes: w.Size, Percent: 100}}, Depth: w.Depth, Connections: w.Connections,
		Runtime: time.Duration(f.runtime), CPU: f.cpu, Congestion: "cubic", Header: w.Digests, Data: w.Digests,
	}
	var err error
	if o.Address, err = load.ParseURL(url); err != nil {
		return nil, err
	}
	if w.LUN == peer.RAM {
		// Memory that was never written to is one page of zeros, which is read from
		// a cache, and clearing a page is the kernel's work and not the target's.
		fill := o
		fill.Sizes = []load.Size{{Bytes: fillSize, Percent: 100}}
		fill.Depth, fill.Connections, fill.Once, fill.Runtime = 4, 1, true, time.Minute
		if fill.Pattern, err = load.ParsePattern("write", 0); err != nil {
			return nil, err
		}
		if _, err = load.Run(ctx, fill); err != nil {
			return nil, err
		}
	}
	if o.Pattern, err = load.ParsePattern(w.RW, w.Mix); err != nil {
		return nil, err
	}
	return load.Run(ctx, o)
}

const fillSize = 256 << 10
