package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// fuzzTarget is one FuzzXxx function.
type fuzzTarget struct{ dir, name string }

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz[A-Z]\w*)\(`)

// fuzzTargets finds the fuzz targets under root by their declarations: asking
// each test binary would build them all first.
func fuzzTargets(root string) ([]fuzzTarget, error) {
	var found []fuzzTarget
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		src, err := os.ReadFile(path)
		for _, m := range fuzzFunc.FindAllSubmatch(src, -1) {
			found = append(found, fuzzTarget{filepath.Dir(path), string(m[1])})
		}
		return err
	})
	return found, err
}

// run fuzzes the target with one worker and returns the fuzzer's last line of progress.
func (t fuzzTarget) run(ctx context.Context, d time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Minute) // building and the corpus take their share, a large one on a busy machine
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", d.String(),
		"-parallel", "1", "-fuzzminimizetime", "2s", "./"+t.dir) // minimizing takes a minute each by default, in which nothing else is tried
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil && !onlyOutOfTime(string(text)) {
		return "", fmt.Errorf("%s in %s: %w\n%s", t.name, t.dir, err, text)
	}
	progress := ""
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "fuzz: elapsed") {
			progress = strings.TrimSpace(strings.TrimPrefix(line, "fuzz: "))
		}
	}
	return progress, nil
}

// onlyOutOfTime tells a run that -fuzztime ended from a finding: when the time
// is up while a worker is busy, the fuzzer may call that a failure (as of Go 1.26),
// but a finding always leaves its input behind or names its panic.
func onlyOutOfTime(text string) bool {
	return strings.Contains(text, "context deadline exceeded") &&
		!strings.Contains(text, "Failing input") && !strings.Contains(text, "panic:") &&
		!strings.Contains(text, "failure while testing seed corpus")
}

// fuzzAll fuzzes the targets that match for d each, as many at a time as there
// are CPUs with a worker each, and prints each as it ends.
func fuzzAll(ctx context.Context, d time.Duration, match *regexp.Regexp) (t tally, err error) {
	targets, err := fuzzTargets(".")
	if err != nil {
		return t, err
	}
	targets = slices.DeleteFunc(targets, func(f fuzzTarget) bool { return !match.MatchString(f.name) })
	var mu sync.Mutex // of t, and of what is printed
	var wg sync.WaitGroup
	next := make(chan fuzzTarget)
	for range runtime.NumCPU() {
		wg.Go(func() {
			for f := range next {
				progress, err := f.run(ctx, d)
				mu.Lock()
				if err != nil {
					fmt.Println("  fail", err)
					t.late += fmt.Sprintf("failed: %v\n", err)
					t.failed++
				} else {
					fmt.Printf("  pass %-36s %s\n", f.dir+" "+f.name, progress)
					t.passed++
				}
				mu.Unlock()
			}
		})
	}
	for _, f := range targets {
		next <- f
	}
	close(next)
	wg.Wait()
	return t, ctx.Err()
}

// fuzzStage gives each target FUZZTIME, three seconds unless it says otherwise.
func fuzzStage(ctx context.Context) (tally, error) {
	d := 3 * time.Second
	if s := os.Getenv("FUZZTIME"); s != "" {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			return tally{}, fmt.Errorf("FUZZTIME: %w; write 60s or 1m", err)
		}
	}
	t, err := fuzzAll(ctx, d, regexp.MustCompile(""))
	if err == nil && t == (tally{}) {
		return t, fmt.Errorf("no fuzz target found")
	}
	return t, err
}

func runFuzz(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	d := flags.Duration("time", time.Minute, "time for each target")
	if err := flags.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(flags.Arg(0))
	if err != nil {
		return err
	}
	t, err := fuzzAll(ctx, *d, match)
	fmt.Println(t)
	if err == nil && t.failed > 0 {
		err = fmt.Errorf("%d failed", t.failed)
	}
	return err
}
