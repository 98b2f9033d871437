package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

var rigTotals = regexp.MustCompile(`^(\d+) passed, (\d+) failed$`)

// rigStage runs the guest's jobs and believes their last line. Where QEMU is
// not to be had the stage is skipped.
func rigStage(ctx context.Context) (tally, error) {
	if out, err := exec.CommandContext(ctx, "scripts/setup.sh", "rig").CombinedOutput(); err != nil {
		return tally{}, skip("QEMU cannot be installed: " + string(out))
	}
	if err := build(ctx); err != nil {
		return tally{}, err
	}
	cmd := exec.CommandContext(ctx, "scripts/rig/test.sh")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return tally{}, err
	}
	if err := cmd.Start(); err != nil {
		return tally{}, err
	}
	t, found := readTotals(os.Stdout, out)
	if err := cmd.Wait(); err != nil && t.failed == 0 {
		return t, fmt.Errorf("scripts/rig/test.sh: %w", err)
	}
	if !found {
		return t, fmt.Errorf("scripts/rig/test.sh ended without totals")
	}
	return t, nil
}

// readTotals copies r to w, indented, and sums its lines of totals.
func readTotals(w io.Writer, r io.Reader) (t tally, found bool) {
	in := bufio.NewScanner(r)
	for in.Scan() {
		fmt.Fprintln(w, " ", in.Text())
		if m := rigTotals.FindStringSubmatch(in.Text()); m != nil {
			passed, _ := strconv.Atoi(m[1])
			failed, _ := strconv.Atoi(m[2])
			t.add(tally{passed: passed, failed: failed})
			found = true
		}
	}
	return t, found
}
