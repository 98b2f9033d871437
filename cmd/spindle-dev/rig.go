package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"spindle/internal/rig"
)

const rigDir = "scripts/rig/"

// networkScript is the job that has network cards.
const networkScript = "network.sh"

var rigFailed = regexp.MustCompile(`\bFAIL `)

var rigTotals = regexp.MustCompile(`^(\d+) passed, (\d+) failed$`)

// rigStage runs the guest's jobs against our target. Where QEMU is not to be
// had the stage is skipped.
func rigStage(ctx context.Context) (tally, error) {
	if out, err := exec.CommandContext(ctx, "scripts/setup.sh", "rig").CombinedOutput(); err != nil {
		return tally{}, skip("QEMU cannot be installed: " + string(out))
	}
	if err := build(ctx, "./cmd/spindle"); err != nil {
		return tally{}, err
	}
	var sum tally
	scripts := []string{"tcp.sh", networkScript, "iser.sh", "storm.sh", "scsi.sh"}
	if os.Getenv(rigMoments) != "" {
		scripts = append(scripts, "crash.sh")
	}
	if os.Getenv(rigSuites) != "" {
		scripts = append(scripts, suitesScript)
	}
	if os.Getenv(rigMinutes) != "" {
		scripts = append(scripts, "torture.sh")
	}
	for _, script := range scripts {
		fmt.Println(" ", script)
		t, err := rigJob(ctx, script, "spindle")
		sum.add(t)
		if err != nil {
			return sum, fmt.Errorf("%s: %w", script, err)
		}
	}
	return sum, nil
}

// Variables that ask for more of the jobs than `make test` has time for.
const (
	rigMinutes = "RIG_MINUTES" // so long runs the long job
	rigMoments = "RIG_MOMENTS" // so many moments of a crash are looked at
	rigSuites  = "RIG_SUITES"  // FORM@TRANSPORT, those of libiscsi's suite; or all
)

// guest builds the guest's image, or takes it from the cache.
func guest(ctx context.Context) (*rig.Image, error) {
	dir, err := rig.CacheDir()
	if err != nil {
		return nil, err
	}
	return rig.Build(ctx, dir, rigDir+"init", os.Stdout)
}

// rigJob runs a job against target, and again when QEMU itself crashed in it.
func rigJob(ctx context.Context, script, target string) (tally, error) {
	t, err := bootJob(ctx, script, target)
	if errors.Is(err, rig.ErrEmulator) {
		fmt.Printf("  %s: %v; once more\n", script, err)
		t, err = bootJob(ctx, script, target)
	}
	return t, err
}

// bootJob boots the guest for a job, and believes its totals.
func bootJob(ctx context.Context, script, target string) (tally, error) {
	img, err := guest(ctx)
	if err != nil {
		return tally{}, err
	}
	job := rig.Job{
		Script: rigDir + script, Files: []string{rigDir + "lib.sh"},
		Env: map[string]string{"TARGET": target}, Limit: 20 * time.Minute, Cards: script == networkScript,
	}
	for _, v := range []string{rigMinutes, rigMoments} {
		if text := os.Getenv(v); text != "" {
			job.Env[v] = text
		}
	}
	if script == suitesScript {
		if job.Results, err = os.MkdirTemp("", "spindle-suites-"); err != nil {
			return tally{}, err
		}
		runs := wantedRuns()
		job.Env[rigSuites] = runs
		job.Limit += time.Duration(len(strings.Fields(runs))) * 10 * time.Minute
	}
	if text := os.Getenv(rigMinutes); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return tally{}, fmt.Errorf("%s: %w", rigMinutes, err)
		}
		job.Limit += 2 * time.Duration(n) * time.Minute // the last round, and a slow machine
	}
	if target == "spindle" {
		configs, err := filepath.Glob(rigDir + "*.json")
		if err != nil {
			return tally{}, err
		}
		programs, err := buildPrograms(ctx, script)
		if err != nil {
			return tally{}, err
		}
		job.Files = append(append(append(job.Files, "bin/spindle"), programs...), configs...)
	}
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := img.Run(ctx, job, w)
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	t, found := readTotals(os.Stdout, r)
	err = <-ended
	switch {
	case err != nil && t.failed == 0:
		return t, err
	case !found:
		return t, fmt.Errorf("%s ended without totals", script)
	case script == suitesScript:
		judged, err := judgeSuites(job.Results)
		t.add(judged)
		return t, err
	}
	return t, nil
}

// rigPrograms are what the jobs run beside the target, by their arguments of go:
// the tests of file disks, for this kernel, the bench's initiator, the raw one, what looks at a crash, and a target to plant bugs in.
var rigPrograms = map[string]map[string][]string{
	"tcp.sh":   {"bin/file.test": {"test", "-c", "./bdev/file"}},
	"iser.sh":  {"bin/spindle-bench": {"build", "./cmd/spindle-bench"}},
	"storm.sh": {"bin/hostile.test": {"test", "-c", "./internal/rig/hostile"}},
	"crash.sh": {
		"bin/crash":           {"build", "./internal/rig/crash/cmd"},
		"bin/spindle-planted": {"build", "-tags", "simbugs", "./cmd/spindle"},
	},
}

func buildPrograms(ctx context.Context, script string) (names []string, err error) {
	for name, args := range rigPrograms[script] {
		args = slices.Insert(slices.Clone(args), len(args)-1, "-o", name)
		if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		names = append(names, name)
	}
	return names, nil
}

func runRig(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("rig", flag.ContinueOnError)
	target := flags.String("target", "spindle", "spindle or tgt")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return fmt.Errorf("rig: name one script of %s", rigDir)
	}
	t, err := rigJob(ctx, flags.Arg(0), *target)
	if err == nil && t.failed > 0 {
		err = fmt.Errorf("%d failed", t.failed)
	}
	return err
}

// readTotals copies r to w, indented, and sums its lines of totals.
func readTotals(w io.Writer, r io.Reader) (t tally, found bool) {
	in := bufio.NewScanner(r)
	for in.Scan() {
		fmt.Fprintln(w, " ", in.Text())
		if rigFailed.MatchString(in.Text()) {
			t.late += "failed: rig: " + in.Text() + "\n"
		}
		if m := rigTotals.FindStringSubmatch(in.Text()); m != nil {
			passed, _ := strconv.Atoi(m[1])
			failed, _ := strconv.Atoi(m[2])
			t.add(tally{passed: passed, failed: failed})
			found = true
		}
	}
	return t, found
}
