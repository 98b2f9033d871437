// Command sim runs seeds of the simulator:
//
//	go run ./internal/sim/cmd -n 20000 -j 2        many seeds, and what they saw
//	go run ./internal/sim/cmd -seed 17 -trace      one seed, and all that happened
//	go run ./internal/sim/cmd -seed 17 -keep 0:3,1 ... with some of its actions only
//
// After a failure it prints the actions that are enough for it, the command
// line that repeats them, and the end of their trace.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"spindle/internal/invariants"
	"spindle/internal/plant"
	"spindle/internal/sim"
)

type options struct {
	seed    uint64
	n, jobs int
	trace   bool
	tail    int
	keep    string
	tries   int
	iser    bool
	most    int
}

func main() {
	var o options
	flag.Uint64Var(&o.seed, "seed", 1, "the first seed")
	flag.IntVar(&o.n, "n", 1, "how many seeds")
	flag.IntVar(&o.jobs, "j", runtime.GOMAXPROCS(0), "machines side by side")
	flag.BoolVar(&o.trace, "trace", false, "print the trace of the seed")
	flag.IntVar(&o.tail, "tail", 60, "lines of the trace to print after a failure")
	flag.BoolVar(&o.iser, "iser", false, "run every seed over iSER too, not a third of them")
	flag.StringVar(&o.keep, "keep", "", "make these actions only: initiator:index, separated by commas")
	flag.IntVar(&o.tries, "minimise", 400, "runs to spend on leaving actions out")
	flag.IntVar(&o.most, "failures", 20, "give up after so many")
	bug := flag.String("plant", "", "plant this bug (build tag simbugs)")
	profile := flag.String("cpuprofile", "", "write a CPU profile")
	flag.Parse()
	if err := plantBug(*bug); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(2)
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "sim:", err)
			os.Exit(2)
		}
	}
	debug.SetGCPercent(400)
	run := o.many
	if o.n == 1 {
		run = o.one
	}
	ok, err := run()
	pprof.StopCPUProfile()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func plantBug(name string) error {
	if name == "" {
		return nil
	}
	if !plant.Enabled {
		return fmt.Errorf("built without the tag simbugs: there is nothing to plant")
	}
	b, ok := plant.Find(name)
	if !ok {
		return fmt.Errorf("no bug %q", name)
	}
	plant.Set(b)
	return nil
}

// config is the run of a seed, with the actions to keep.
func (o *options) config(seed uint64) (sim.Config, error) {
	c := sim.Config{Seed: seed, ISER: o.iser}
	if o.keep == "" {
		return c, nil
	}
	var list []sim.ActionID
	for _, f := range strings.Split(o.keep, ",") {
		var a sim.ActionID
		if _, err := fmt.Sscanf(f, "%d:%d", &a.Initiator, &a.Index); err != nil {
			return c, fmt.Errorf("action %q: %w", f, err)
		}
		list = append(list, a)
	}
	return sim.Keep(c, list), nil
}

// one runs a single seed.
func (o *options) one() (bool, error) {
	m, err := sim.NewMachine()
	if err != nil {
		return false, err
	}
	c, err := o.config(o.seed)
	if err != nil {
		return false, err
	}
	c.Trace = o.trace
	rep := sim.Run(m, c)
	for _, l := range rep.Lines {
		fmt.Println(l)
	}
	fmt.Printf("seed %d: trace %016x, %d steps, %d commands, %d actions, %d faults\n",
		rep.Seed, rep.Hash, rep.Steps, rep.Commands, len(rep.Actions), rep.Injected())
	if rep.Failure == nil {
		return true, nil
	}
	o.explain(m, c, rep)
	return false, nil
}

// explain prints what is left of a failure after its run was made smaller.
func (o *options) explain(m *sim.Machine, c sim.Config, rep *sim.Report) {
	fmt.Printf("seed %d: %v\n%s", rep.Seed, rep.Failure, rep.Failure.Stack)
	c.Trace = false
	c, small := sim.Minimise(m, c, o.tries)
	if len(small.Actions) < len(rep.Actions) {
		keep := sim.Keep(c, small.Actions)
		if again := sim.Run(m, keep); again.Failure != nil {
			c, small = keep, again
		}
	}
	var list []string
	for _, a := range small.Actions {
		list = append(list, a.String())
	}
	c.Trace = true
	small = sim.Run(m, c)
	for _, l := range small.Lines[max(0, len(small.Lines)-o.tail):] {
		fmt.Println(l)
	}
	fmt.Printf("with %d of %d actions: %v\n", len(small.Actions), len(rep.Actions), small.Failure)
	tags := ""
	if invariants.Enabled {
		tags = "-tags invariants "
	}
	fmt.Printf("repeat: go run %s./internal/sim/cmd -seed %d -trace", tags, rep.Seed)
	if c.ISER {
		fmt.Print(" -iser")
	}
	if c.Keep != nil {
		fmt.Printf(" -keep %s", strings.Join(list, ","))
	}
	fmt.Println()
}

// total is what many runs did together.
type total struct {
	mu       sync.Mutex
	done     int
	rep      sim.Report
	failures []*sim.Report
}

func (t *total) add(rep *sim.Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done++
	t.rep.Steps += rep.Steps
	t.rep.Commands += rep.Commands
	t.rep.Faults.Add(&rep.Faults)
	t.rep.Fabric.Add(&rep.Fabric)
	t.rep.States.Add(&rep.States)
	if rep.Failure != nil {
		t.failures = append(t.failures, rep)
		fmt.Printf("seed %d: %v\n", rep.Seed, rep.Failure)
	}
}

// many runs o.n seeds on o.jobs machines.
func (o *options) many() (bool, error) {
	var t total
	var next atomic.Uint64
	var wg sync.WaitGroup
	errs := make(chan error, o.jobs)
	start := time.Now()
	for range o.jobs {
		wg.Go(func() {
			m, err := sim.NewMachine()
			if err != nil {
				errs <- err
				return
			}
			for k := next.Add(1) - 1; k < uint64(o.n); k = next.Add(1) - 1 {
				c, _ := o.config(o.seed + k)
				t.add(sim.Run(m, c))
				if k%1000 == 999 {
					fmt.Fprintf(os.Stderr, "%d of %d seeds, %d failed, %.0f s\n", k+1, o.n, len(t.failures), time.Since(start).Seconds())
				}
				if len(t.failures) >= o.most {
					next.Store(uint64(o.n))
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	if err := <-errs; err != nil {
		return false, err
	}
	t.print(time.Since(start), o)
	if len(t.failures) > 0 {
		m, err := sim.NewMachine()
		if err != nil {
			return false, err
		}
		c, _ := o.config(t.failures[0].Seed)
		o.explain(m, c, t.failures[0])
	}
	return len(t.failures) == 0, nil
}

func (t *total) print(took time.Duration, o *options) {
	n := float64(t.done)
	fmt.Print(t.rep.States.String())
	missing := t.rep.States.Missing()
	each := func(kind string) func(string, uint64) {
		return func(name string, n uint64) {
			fmt.Printf("%-20s %10d\n", kind+name, n)
			if n == 0 && !slices.Contains(t.rep.Fabric.Never(), name) {
				missing = append(missing, kind+name)
			}
		}
	}
	t.rep.Faults.Each(each("fault "))
	t.rep.Fabric.Each(each("fabric "))
	fmt.Printf("%d seeds in %.1f s (%.2f ms a seed and machine); a seed had %.1f commands, %.1f faults, %.0f steps; invariants %v\n",
		t.done, took.Seconds(), took.Seconds()*1000*float64(o.jobs)/n,
		float64(t.rep.Commands)/n, float64(t.rep.Injected())/n, float64(t.rep.Steps)/n, invariants.Enabled)
	if len(missing) > 0 {
		fmt.Printf("never seen: %s\n", strings.Join(missing, ", "))
	}
	fmt.Printf("%d failed\n", len(t.failures))
}
