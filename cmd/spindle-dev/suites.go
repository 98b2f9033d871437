package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"spindle/internal/conformance"
)

// suitesScript has libiscsi's suite run through the kernel's initiator.
const suitesScript = "suites.sh"

// kernelFile is what may differ by that way.
const kernelFile = "scripts/conformance/kernel.txt"

// wantedRuns are those that the environment asks for.
func wantedRuns() string {
	runs := os.Getenv(rigSuites)
	if runs != "all" {
		return runs
	}
	var all []string
	for _, f := range forms() {
		switch {
		case f.only != "" || f.lun.Bdev != nil:
		case f.paths > 0:
			all = append(all, f.name+"@both")
		default:
			all = append(all, f.name+"@iser", f.name+"@tcp")
		}
	}
	return strings.Join(all, " ")
}

// judgeSuites compares the logs that the guest left in dir, one of each FORM by
// each transport, with what is expected of the form whatever the transport. The
// folder is kept when there is a difference.
func judgeSuites(dir string) (tally, error) {
	e, err := readKernelExpectation()
	if err != nil {
		return tally{}, err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*@*"))
	if err != nil || len(logs) == 0 {
		return tally{}, errors.Join(errors.New("the guest left no log"), err)
	}
	var runs []formRun
	good := true
	for _, name := range logs {
		r := formRun{form: form{name: filepath.Base(name)}}
		f, err := os.Open(name)
		if err != nil {
			return tally{}, err
		}
		r.results, r.err = conformance.Parse(f, nil)
		f.Close()
		kind, _, _ := strings.Cut(r.name, "@")
		if r.diffs = e.Compare(kind, r.results); len(r.diffs) > 0 {
			r.log, good = name, false
		}
		runs = append(runs, r)
	}
	sum := printTable(runs)
	err = printDifferences(runs)
	if good && err == nil {
		err = os.RemoveAll(dir)
	}
	return sum, err
}

func readKernelExpectation() (*conformance.Expectation, error) {
	e, err := readExpectation()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(kernelFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	over, err := e.Over(f)
	if err != nil {
		return nil, errors.Join(errors.New(kernelFile), err)
	}
	return over, nil
}
