package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"spindle/internal/conformance"
	"spindle/internal/testbed"
)

const expectationFile = "scripts/conformance/expected.txt"

// conformanceStage runs the suite on each form of LUN of one target.
func conformanceStage(ctx context.Context) (tally, error) {
	if err := build(ctx); err != nil {
		return tally{}, err
	}
	var sum tally
	for _, form := range []struct {
		name string
		lun  int
	}{{"malloc", testbed.Malloc}, {"file", testbed.File}, {"aligned", testbed.Aligned}} {
		t, err := testbed.Start(ctx, "bin/spindle", testbed.Options{})
		if err != nil {
			return sum, err
		}
		n, err := conform(ctx, form.name, t.URL(form.lun), expectationFile)
		sum.add(n)
		if stop := t.Stop(); err == nil {
			err = stop
		}
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// conform runs the suite on one LUN and compares it with the expectation. What
// is expected counts by its outcome; a difference counts as failed.
func conform(ctx context.Context, form, url, expected string) (tally, error) {
	f, err := os.Open(expected)
	if err != nil {
		return tally{}, err
	}
	defer f.Close()
	e, err := conformance.ReadExpectation(f)
	if err != nil {
		return tally{}, fmt.Errorf("%s: %w", expected, err)
	}
	log, err := os.CreateTemp("", "spindle-conformance-"+form+"-*.log")
	if err != nil {
		return tally{}, err
	}
	defer log.Close()
	fmt.Printf("  %-7s %s\n", form, url)
	rs, err := runSuite(ctx, form, url, log)
	n := conformance.Count(rs)
	fmt.Printf("  %-7s %d tests: %d pass, %d skip, %d fail, %d without a verdict\n",
		form, len(rs), n[conformance.Pass], n[conformance.Skip], n[conformance.Fail], n[conformance.None])
	diffs := e.Compare(form, rs)
	for _, d := range diffs {
		fmt.Printf("  %-7s difference: %s\n", form, d)
	}
	t := tally{passed: n[conformance.Pass], skipped: n[conformance.Skip], failed: len(diffs)}
	if err == nil && len(rs) == 0 {
		err = fmt.Errorf("the suite ran no test on %s", url)
	}
	if err == nil && len(diffs) == 0 {
		return t, os.Remove(log.Name())
	}
	fmt.Printf("  %-7s the suite's log is %s\n", form, log.Name())
	return t, err
}

// runSuite prints a line a suite as it goes.
func runSuite(ctx context.Context, form, url string, log io.Writer) ([]conformance.Result, error) {
	suite, line, at := "", "", time.Now()
	flush := func() {
		if suite != "" {
			fmt.Printf("  %-7s %-24s %-32s %5.1f s\n", form, suite, line, time.Since(at).Seconds())
		}
	}
	rs, err := conformance.Run(ctx, url, log, func(r conformance.Result) {
		if r.Suite != suite {
			flush()
			suite, line, at = r.Suite, "", time.Now()
		}
		line += map[conformance.Outcome]string{conformance.Pass: ".", conformance.Skip: "s", conformance.Fail: "F", conformance.None: "?"}[r.Outcome]
	})
	flush()
	return rs, err
}

func runConformance(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	url := flags.String("url", "", "test this LUN, whose data is lost, instead of our target's")
	form := flags.String("form", "malloc", "with -url: which exceptions apply")
	write := flags.Bool("write", false, "with -url: print the exceptions that this target needs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *url == "" {
		return runTest(ctx, []string{"conformance"})
	}
	if *write {
		rs, err := conformance.Run(ctx, *url, io.Discard, nil)
		conformance.Format(os.Stdout, *form, rs)
		return err
	}
	t, err := conform(ctx, *form, *url, expectationFile)
	if err == nil && t.failed > 0 {
		err = fmt.Errorf("%d differences", t.failed)
	}
	return err
}
