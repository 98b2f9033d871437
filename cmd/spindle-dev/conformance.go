package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"spindle/internal/conformance"
	"spindle/internal/testbed"
)

const expectationFile = "scripts/conformance/expected.txt"

// atOnce bounds the forms that run beside each other. Most of a run is waiting:
// the suite sleeps while SANITIZE works.
const atOnce = 14

// conformanceStage runs the suite on some forms of LUN.
func conformanceStage(ctx context.Context) (tally, error) { return onForms(ctx, some()) }

var starting sync.Mutex

// formRun is what became of the suite on one form.
type formRun struct {
	form
	results []conformance.Result
	diffs   []string
	log     string // kept, when something is wrong
	took    time.Duration
	err     error
}

// onForms runs the suite on each form, every one on a target of its own, prints
// the table and what differs from what is expected. What is expected counts by
// its outcome; a difference counts as failed, and so does a test that passes on
// no form.
func onForms(ctx context.Context, list []form) (tally, error) {
	if err := build(ctx, "./cmd/spindle"); err != nil {
		return tally{}, err
	}
	e, err := readExpectation()
	if err != nil {
		return tally{}, err
	}
	runs := make([]formRun, len(list))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for k, f := range list {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			runs[k] = f.run(ctx, e)
		})
	}
	wg.Wait()
	return printRuns(runs)
}

// run serves a LUN of the form and has the suite run on it.
func (f form) run(ctx context.Context, e *conformance.Expectation) formRun {
	r := formRun{form: f}
	// One after the other: each makes its memory present.
	starting.Lock()
	start := time.Now()
	t, err := testbed.Start(ctx, "bin/spindle", testbed.Options{LUNs: []testbed.LUN{f.lun}, Paths: f.paths, SizeMiB: f.size, Args: []string{"--mem", "128M"}})
	starting.Unlock()
	if err != nil {
		r.err = err
		return r
	}
	r.results, r.diffs, r.log, r.err = conform(ctx, f.name, f.only, t.Paths(f.lun.ID), e)
	if stop := t.Stop(); stop != nil {
		r.err = errors.Join(r.err, stop)
	}
	r.took = time.Since(start)
	fmt.Printf("  %-16s done after %.0f s\n", f.name, r.took.Seconds())
	return r
}

// printRuns prints the table and the differences; it is one that a test passes
// on no form.
func printRuns(runs []formRun) (tally, error) {
	sum := printTable(runs)
	var all [][]conformance.Result
	for _, r := range runs {
		all = append(all, r.results)
	}
	never, tests := conformance.NeverPassed(all...)
	fmt.Printf("  %d of %d tests pass on one form or more\n", tests-len(never), tests)
	if len(never) != 0 {
		fmt.Println("  on none:", strings.Join(never, ", "))
		sum.failed += len(never)
	}
	return sum, printDifferences(runs)
}

func printTable(runs []formRun) (sum tally) {
	fmt.Printf("\n  %-22s %5s %5s %5s %5s %6s\n", "form", "tests", "pass", "skip", "fail", "s")
	for _, r := range runs {
		n := conformance.Count(r.results)
		fmt.Printf("  %-22s %5d %5d %5d %5d %6.0f\n", r.name, len(r.results), n[conformance.Pass], n[conformance.Skip],
			n[conformance.Fail]+n[conformance.None], r.took.Seconds())
		sum.add(tally{passed: n[conformance.Pass], skipped: n[conformance.Skip], failed: len(r.diffs)})
	}
	return sum
}

func printDifferences(runs []formRun) (err error) {
	for _, r := range runs {
		for _, d := range r.diffs {
			fmt.Printf("  %s: difference: %s\n", r.name, d)
		}
		if r.log != "" {
			fmt.Printf("  %s: the suite's log is %s\n", r.name, r.log)
		}
		if r.err != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", r.name, r.err))
		}
	}
	return err
}

func readExpectation() (*conformance.Expectation, error) {
	f, err := os.Open(expectationFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	e, err := conformance.ReadExpectation(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expectationFile, err)
	}
	return e, nil
}

// conform runs the suite on one LUN and compares it with the expectation. The
// log is kept when there is a difference.
func conform(ctx context.Context, form, only string, urls []string, e *conformance.Expectation) (rs []conformance.Result, diffs []string, kept string, err error) {
	log, err := os.CreateTemp("", "spindle-conformance-"+form+"-*.log")
	if err != nil {
		return nil, nil, "", err
	}
	defer log.Close()
	rs, err = conformance.Run(ctx, urls, only, log, nil)
	if only == "" {
		diffs = e.Compare(form, rs)
	} else {
		diffs = e.ComparePart(form, rs)
	}
	if err == nil && len(rs) == 0 {
		err = fmt.Errorf("the suite ran no test on %s", urls[0])
	}
	if err == nil && len(diffs) == 0 {
		return rs, nil, "", os.Remove(log.Name())
	}
	return rs, diffs, log.Name(), err
}

func runConformance(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	url := flags.String("url", "", "test this LUN, whose data is lost, instead of our target's; a second path follows a comma")
	name := flags.String("form", "", "only these forms, with commas between; with -url: which exceptions apply")
	write := flags.Bool("write", false, "with -url: print the exceptions that this target needs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *url == "" {
		return ourForms(ctx, *name)
	}
	urls := strings.Split(*url, ",")
	if *write {
		rs, err := conformance.Run(ctx, urls, "", io.Discard, nil)
		conformance.Format(os.Stdout, *name, rs)
		return err
	}
	e, err := readExpectation()
	if err != nil {
		return err
	}
	r := formRun{form: form{name: *name}}
	r.results, r.diffs, r.log, r.err = conform(ctx, *name, "", urls, e)
	sum, err := printRuns([]formRun{r})
	return failed(sum, err)
}

// ourForms runs the suite on all forms of our target, or on those named.
func ourForms(ctx context.Context, name string) error {
	list := forms()
	if name != "" {
		asked := strings.Split(name, ",")
		list = slices.DeleteFunc(list, func(f form) bool { return !slices.Contains(asked, f.name) })
		if len(list) != len(asked) {
			return fmt.Errorf("of the forms %q there are %d", name, len(list))
		}
	}
	sum, err := onForms(ctx, list)
	return failed(sum, err)
}

func failed(sum tally, err error) error {
	fmt.Println(sum)
	if err == nil && sum.failed > 0 {
		err = fmt.Errorf("%d failed", sum.failed)
	}
	return err
}
