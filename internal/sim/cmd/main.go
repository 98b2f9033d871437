// Command sim runs seeds of the simulator.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"spindle/internal/invariants"
	"spindle/internal/sim"
)

func main() {
	seed := flag.Uint64("seed", 1, "the first seed")
	n := flag.Int("n", 1, "how many seeds")
	jobs := flag.Int("j", runtime.GOMAXPROCS(0), "machines side by side")
	trace := flag.Bool("trace", false, "print the trace of the seed")
	tail := flag.Int("tail", 120, "lines of a trace that are printed after a failure")
	profile := flag.String("cpuprofile", "", "write a CPU profile")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		_ = pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	debug.SetGCPercent(400)
	if *n == 1 {
		os.Exit(one(*seed, *trace, *tail))
	}
	code := many(*seed, *n, *jobs)
	pprof.StopCPUProfile()
	os.Exit(code)
}

func one(seed uint64, trace bool, tail int) int {
	m, err := sim.NewMachine()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	rep := sim.Run(m, sim.Config{Seed: seed, Trace: true})
	lines := rep.Lines
	if !trace {
		lines = lines[max(0, len(lines)-tail):]
	}
	if trace || rep.Failure != nil {
		for _, l := range lines {
			fmt.Println(l)
		}
	}
	fmt.Printf("seed %d: hash %016x, %d steps, %d commands, %d actions, %d faults\n", seed, rep.Hash, rep.Steps, rep.Commands, len(rep.Actions), rep.Faults.Total())
	if rep.Failure != nil {
		fmt.Println(rep.Failure.Error())
		fmt.Println(rep.Failure.Stack)
		return 1
	}
	return 0
}

func many(first uint64, n, jobs int) int {
	var mu sync.Mutex
	var sum sim.Report
	var failures []*sim.Report
	var next atomic.Uint64
	start := time.Now()
	var wg sync.WaitGroup
	for range jobs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			m, err := sim.NewMachine()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
			for {
				k := next.Add(1) - 1
				if k >= uint64(n) {
					return
				}
				rep := sim.Run(m, sim.Config{Seed: first + k})
				mu.Lock()
				sum.Steps += rep.Steps
				sum.Commands += rep.Commands
				sum.Faults.Add(&rep.Faults)
				sum.States.Add(&rep.States)
				if rep.Failure != nil {
					failures = append(failures, rep)
					if len(failures) <= 20 {
						fmt.Printf("seed %d: %v\n", rep.Seed, rep.Failure)
					}
				}
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	took := time.Since(start)
	fmt.Print(sum.States.String())
	sum.Faults.Each(func(name string, n uint64) { fmt.Printf("%-18s %10d\n", "fault "+name, n) })
	fmt.Printf("%d seeds, %d failed; %.1f commands, %.1f faults, %.0f steps a seed; invariants %v\n", n, len(failures),
		float64(sum.Commands)/float64(n), float64(sum.Faults.Total())/float64(n), float64(sum.Steps)/float64(n), invariants.Enabled)
	fmt.Printf("never seen: %v\n", sum.States.Missing())
	fmt.Printf("%.1f s, %.2f ms a seed and core\n", took.Seconds(), took.Seconds()*1000*float64(jobs)/float64(n))
	if len(failures) > 0 {
		return 1
	}
	return 0
}
