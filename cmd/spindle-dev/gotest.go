package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// tally counts tests, and keeps the end of what the failed ones printed: a log
// of hundreds of lines is read from its end, and CI may keep no more than that.
type tally struct {
	passed, failed, skipped int
	late                    string
}

func (t *tally) add(u tally) {
	t.passed += u.passed
	t.failed += u.failed
	t.skipped += u.skipped
	t.late += u.late
}

func (t tally) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
}

// goTest runs `go test -json args...`, prints a line a package, the attributes
// that tests have (testing.T.Attr) and the output of what failed, and counts the tests that have no subtests of their own.
func goTest(ctx context.Context, w io.Writer, args ...string) (tally, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return tally{}, err
	}
	if err := cmd.Start(); err != nil {
		return tally{}, err
	}
	c := newCounter(w)
	c.read(out)
	err = cmd.Wait()
	t := c.tally()
	if err != nil && t.failed == 0 {
		return t, fmt.Errorf("go test %s: %w", strings.Join(args, " "), err)
	}
	return t, nil
}

// event is a line of test2json.
type event struct {
	Action, Package, Test, Output, ImportPath, Key, Value string
	Elapsed                                               float64
}

// counter folds the events of a run.
type counter struct {
	w      io.Writer
	output map[string][]string // test or package -> its lines, until its verdict
	result map[string]string   // "package test" -> pass, fail or skip
	why    map[string]int      // reasons of this package's skips
	broken int                 // packages that failed without a failed test: build errors, panics
	late   strings.Builder     // the failures again, for the end of a long log
	tests  int                 // of this package
}

func newCounter(w io.Writer) *counter {
	return &counter{w: w, output: map[string][]string{}, result: map[string]string{}, why: map[string]int{}}
}

func (c *counter) read(r io.Reader) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Fprintln(c.w, in.Text()) // not an event: the go command itself speaks
			continue
		}
		c.event(e)
	}
}

func (c *counter) event(e event) {
	key := strings.TrimSpace(e.Package + " " + e.Test)
	switch e.Action {
	case "output":
		c.output[key] = append(c.output[key], e.Output)
	case "attr":
		fmt.Fprintf(c.w, "  %s: %s: %s\n", e.Test, e.Key, e.Value)
	case "build-output":
		fmt.Fprint(c.w, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			c.packageDone(e)
			return
		}
		c.result[key] = e.Action
		c.tests++
		switch e.Action {
		case "fail":
			fmt.Fprint(c.w, "  ", strings.Join(c.output[key], "  "))
			c.again(key, c.output[key])
		case "skip":
			c.why[reason(c.output[key])]++
		}
		delete(c.output, key)
	}
}

// again keeps the end of what a failed test printed.
func (c *counter) again(name string, lines []string) {
	const most = 12
	cut := lines[max(0, len(lines)-most):]
	fmt.Fprintf(&c.late, "failed: %s\n    %s\n", name, strings.TrimRight(strings.Join(cut, "    "), "\n "))
}

func (c *counter) packageDone(e event) {
	failed := false
	for k, r := range c.result {
		failed = failed || r == "fail" && strings.HasPrefix(k, e.Package+" ")
	}
	if e.Action == "fail" && !failed {
		c.broken++
		for k, lines := range c.output { // a panic is printed by the test that was running
			if k == e.Package || strings.HasPrefix(k, e.Package+" ") {
				fmt.Fprint(c.w, "  ", strings.Join(lines, "  "))
				c.again(k, lines)
			}
		}
	}
	if c.tests > 0 || e.Action == "fail" {
		fmt.Fprintf(c.w, "  %-4s %-36s %4d tests %6.1f s\n", e.Action, e.Package, c.tests, e.Elapsed)
	}
	for _, why := range slices.Sorted(maps.Keys(c.why)) {
		fmt.Fprintf(c.w, "  skip %-36s %4d: %s\n", e.Package, c.why[why], why)
	}
	clear(c.why)
	c.tests = 0
}

// reason is what a skipped test said of why: "file.go:12: WHY".
func reason(lines []string) string {
	for _, l := range lines {
		if f := strings.SplitN(strings.TrimSpace(l), ": ", 2); len(f) == 2 && strings.Contains(f[0], ".go:") {
			return f[1]
		}
	}
	return "for no reason given"
}

// tally counts leaves only: a parent says nothing that its subtests did not.
// A parent that failed by itself counts all the same.
func (c *counter) tally() tally {
	kids := map[string]string{} // parent -> worst result of a subtest
	for k, r := range c.result {
		for i := strings.LastIndexByte(k, '/'); i > strings.IndexByte(k, ' '); i = strings.LastIndexByte(k[:i], '/') {
			if kids[k[:i]] != "fail" {
				kids[k[:i]] = r
			}
		}
	}
	t := tally{failed: c.broken, late: c.late.String()}
	for k, r := range c.result {
		worst, parent := kids[k]
		switch {
		case r == "fail" && worst != "fail":
			t.failed++
		case parent:
		case r == "pass":
			t.passed++
		case r == "skip":
			t.skipped++
		}
	}
	return t
}
