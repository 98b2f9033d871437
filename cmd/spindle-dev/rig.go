package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"spindle/internal/rig"
)

const rigDir = "scripts/rig/"

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
	scripts := []string{"tcp.sh", "iser.sh", "storm.sh", "scsi.sh"}
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

// rigMinutes names the variable that asks for the long job, and says how long.
const rigMinutes = "RIG_MINUTES"

// rigJob boots the guest for a job against target, and believes its totals.
func rigJob(ctx context.Context, script, target string) (tally, error) {
	dir, err := rig.CacheDir()
	if err != nil {
		return tally{}, err
	}
	img, err := rig.Build(ctx, dir, rigDir+"init", os.Stdout)
	if err != nil {
		return tally{}, err
	}
	job := rig.Job{
		Script: rigDir + script, Files: []string{rigDir + "lib.sh"},
		Env: map[string]string{"TARGET": target}, Limit: 20 * time.Minute,
	}
	if text := os.Getenv(rigMinutes); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return tally{}, fmt.Errorf("%s: %w", rigMinutes, err)
		}
		job.Env[rigMinutes] = text
		job.Limit += 2 * time.Duration(n) * time.Minute // the last round, and a slow machine
	}
	if target == "spindle" {
		configs, err := filepath.Glob(rigDir + "*.json")
		if err != nil {
			return tally{}, err
		}
		if err := buildHostile(ctx); err != nil {
			return tally{}, err
		}
		job.Files = append(append(job.Files, "bin/spindle", hostileTest), configs...)
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
	}
	return t, nil
}

// hostileTest is the raw initiator of internal/rig/hostile, for the guest.
const hostileTest = "bin/hostile.test"

func buildHostile(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", hostileTest, "./internal/rig/hostile").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test -c ./internal/rig/hostile: %w\n%s", err, out)
	}
	return nil
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
