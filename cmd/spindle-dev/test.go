package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// stage is one part of the tests. A stage that cannot run here returns a
// reason, which counts as one skip and is printed.
type stage struct {
	name, what string
	run        func(context.Context) (tally, error)
}

// skip is the error of a stage that has nothing to run on this machine.
type skip string

func (s skip) Error() string { return string(s) }

func stages() []stage {
	return []stage{
		{"lint", "the house rules", lintStage},
		{"unit", "unit tests", unitStage},
		{"race", "the concurrent packages under the race detector, invariants on", raceStage},
		{"planted", "the simulator finds the bugs planted for it", plantedStage},
		{"fuzz", "each fuzz target for FUZZTIME, three seconds by default", fuzzStage},
		{"conformance", "iscsi-test-cu on LUNs of several forms", conformanceStage},
		{"clients", "real initiators, churn, noise and abuse", clientsStage},
		{"rig", "the kernel's initiator in a QEMU guest", rigStage},
	}
}

func runTest(ctx context.Context, names []string) error {
	for _, n := range names {
		if !slices.ContainsFunc(stages(), func(s stage) bool { return s.name == n }) {
			return fmt.Errorf("no stage %q", n)
		}
	}
	var sum tally
	start := time.Now()
	for _, s := range stages() {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		fmt.Printf("== %s: %s\n", s.name, s.what)
		at := time.Now()
		t, err := s.run(ctx)
		if why, ok := err.(skip); ok {
			fmt.Println("  skipped:", why)
			t.skipped++
		} else if err != nil {
			fmt.Println("  failed:", err)
			t.late += fmt.Sprintf("failed: %s: %v\n", s.name, err)
			t.failed++
		}
		sum.add(t)
		fmt.Printf("== %s: %v (%.0f s)\n\n", s.name, t, time.Since(at).Seconds())
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	fmt.Printf("%s%.0f s in all\n%v\n", sum.late, time.Since(start).Seconds(), sum)
	if sum.failed > 0 {
		return fmt.Errorf("%d failed", sum.failed)
	}
	return nil
}

func lintStage(ctx context.Context) (tally, error) {
	return goTest(ctx, os.Stdout, "-p", "1", "./internal/lint")
}

// Packages that need a built target, or are a stage of their own.
var ownStage = []string{"spindle/internal/lint", "spindle/internal/clients", "spindle/internal/rig/hostile"}

func unitStage(ctx context.Context) (tally, error) {
	pkgs, err := packages(func(path string) bool { return !slices.Contains(ownStage, path) })
	if err != nil {
		return tally{}, err
	}
	return goTest(ctx, os.Stdout, append([]string{"-p", "1", "-timeout", "3m"}, pkgs...)...)
}

// Rooms whose code runs on more than one thread.
var concurrent = []string{"reactor", "bdev", "scsi", "iscsi", "iser", "verbs", "control", "internal/sim"}

func raceStage(ctx context.Context) (tally, error) {
	pkgs, err := packages(func(path string) bool {
		room := strings.TrimPrefix(path, "spindle/")
		return slices.ContainsFunc(concurrent, func(c string) bool { return room == c || strings.HasPrefix(room, c+"/") })
	})
	if err != nil {
		return tally{}, err
	}
	return goTest(ctx, os.Stdout, append([]string{"-race", "-p", "1", "-timeout", "5m"}, pkgs...)...)
}

func clientsStage(ctx context.Context) (tally, error) {
	return clientsTest(ctx, "-timeout", "10m")
}

// clientsTest runs tests of the built target.
func clientsTest(ctx context.Context, args ...string) (tally, error) {
	if err := build(ctx, "./cmd/spindle", "./cmd/spindle-bench"); err != nil {
		return tally{}, err
	}
	bin, err := filepath.Abs("bin/spindle")
	if err != nil {
		return tally{}, err
	}
	if err := os.Setenv("SPINDLE_BIN", bin); err != nil {
		return tally{}, err
	}
	return goTest(ctx, os.Stdout, append(append([]string{"-count", "1"}, args...), "./internal/clients")...)
}

// runAbuse misuses a target for a time, beside a verified stream.
func runAbuse(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("abuse", flag.ContinueOnError)
	d := flags.Duration("time", 10*time.Minute, "how long, a minute at least")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := os.Setenv("ABUSE", d.String()); err != nil {
		return err
	}
	t, err := clientsTest(ctx, "-run", "^TestAbuse$", "-timeout", (*d + 5*time.Minute).String())
	if err == nil && t.failed > 0 {
		err = fmt.Errorf("%d failed", t.failed)
	}
	return err
}

// packages lists the packages with tests whose import path is wanted.
func packages(wanted func(path string) bool) ([]string, error) {
	out, err := exec.Command("go", "list", "-e", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}", "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(p string) bool { return !wanted(p) }), nil
}

// build builds commands into bin: with cgo, which RDMA needs, where there is a C compiler.
func build(ctx context.Context, commands ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", "bin/"}, commands...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// plantedStage shows that the simulator's checkers bite.
func plantedStage(ctx context.Context) (tally, error) {
	return goTest(ctx, os.Stdout, "-count", "1", "-tags", "simbugs invariants", "-run", "Planted", "./internal/sim")
}

// runSim runs the simulator's seeds, 20,000 of them unless args say otherwise,
// and then looks whether it finds the bugs that are planted for it.
func runSim(ctx context.Context, args []string) error {
	if len(args) == 0 {
		args = []string{"-n", "20000", "-j", "2"}
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "-tags", "invariants", "./internal/sim/cmd"}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	t, err := plantedStage(ctx)
	fmt.Println("planted bugs:", t)
	if err == nil && t.failed > 0 {
		err = fmt.Errorf("%d failed", t.failed)
	}
	return err
}
