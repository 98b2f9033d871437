package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"spindle/internal/rig"
)

// benchFlags are those of a whole comparison in the guest.
const benchFlags = "--peers spindle,stgt,lio,spindle-poll --transport iser,tcp --workloads rig --rounds 9 --max-rounds 9 --runtime 0.4 --ramp 0.1"

// Without KVM the guest now and then stands still for good, timers and all, when
// eBPF programs are attached or taken off, which rewrites the kernel's text: it is
// booted again. While it lives its script says something every minute.
const (
	benchSilence = 150 * time.Second
	benchBoots   = 3
	aroundBench  = 2 * time.Minute // of the limit: the boot, and the results
)

// runBenchRig measures the targets side by side in the QEMU guest.
func runBenchRig(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench-rig", flag.ContinueOnError)
	out := flags.String("out", "docs/performance/rig", "folder of the results")
	limit := flags.Duration("limit", 22*time.Minute, "time of the whole boot; what is not measured by then is left out")
	more := flags.String("flags", benchFlags, "of spindle-bench compare")
	into := flags.String("into", "", "page whose section \"rig\" takes the result")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", "bin/", "./cmd/spindle", "./cmd/spindle-bench").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	img, err := guest(ctx)
	if err != nil {
		return err
	}
	commit, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty=, modified").Output()
	if err != nil {
		return fmt.Errorf("git describe: %w", err)
	}
	job := rig.Job{
		Script: rigDir + "bench.sh", Files: []string{rigDir + "lib.sh", "bin/spindle", "bin/spindle-bench"},
		Env: map[string]string{
			"BENCH": *more, "SPINDLE_COMMIT": strings.TrimSpace(string(commit)),
			"TIME": strconv.Itoa(int((*limit - aroundBench).Seconds())),
		},
		Limit: *limit, MemMiB: 3072, Results: *out, Silence: benchSilence,
	}
	err = img.Run(ctx, job, os.Stdout)
	for n := 1; n < benchBoots && errors.Is(err, rig.ErrGuest) && ctx.Err() == nil; n++ {
		fmt.Printf("%v\nonce more\n", err)
		err = img.Run(ctx, job, os.Stdout)
	}
	if err != nil || *into == "" {
		return err
	}
	cmd := exec.CommandContext(ctx, "bin/spindle-bench", "report", filepath.Join(*out, "result.json"), "--out", *out, "--into", *into, "--section", "rig")
	cmd.Stderr = os.Stderr
	return cmd.Run()
}
