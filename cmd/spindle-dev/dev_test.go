package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCounter(t *testing.T) {
	for _, c := range []struct {
		name, events string
		want         tally
		printed      string
		again        bool // the failure's output is kept for the end
	}{
		{"leaves count, parents do not", `
{"Action":"pass","Package":"p","Test":"T/a"}
{"Action":"output","Package":"p","Test":"T/b","Output":"    a_test.go:3: not here\n"}
{"Action":"skip","Package":"p","Test":"T/b"}
{"Action":"pass","Package":"p","Test":"T"}
{"Action":"pass","Package":"p","Test":"U"}
{"Action":"pass","Package":"p"}`, tally{passed: 2, skipped: 1}, "1: not here", false},
		{"an attribute is printed", `
{"Action":"attr","Package":"p","Test":"T","Key":"ratio","Value":"0.9"}
{"Action":"pass","Package":"p","Test":"T"}
{"Action":"pass","Package":"p"}`, tally{passed: 1}, "T: ratio: 0.9", false},
		{"a failed leaf counts once", `
{"Action":"output","Package":"p","Test":"T/a/x","Output":"why\n"}
{"Action":"fail","Package":"p","Test":"T/a/x"}
{"Action":"fail","Package":"p","Test":"T/a"}
{"Action":"fail","Package":"p","Test":"T"}
{"Action":"fail","Package":"p"}`, tally{failed: 1}, "why", true},
		{"a parent that fails by itself", `
{"Action":"pass","Package":"p","Test":"T/a"}
{"Action":"fail","Package":"p","Test":"T"}
{"Action":"fail","Package":"p"}`, tally{passed: 1, failed: 1}, "", true},
		{"a package that does not build", `
{"Action":"build-output","ImportPath":"p","Output":"undefined: x\n"}
{"Action":"build-fail","ImportPath":"p"}
{"Action":"fail","Package":"p"}`, tally{failed: 1}, "undefined: x", false},
		{"a panic", `
{"Action":"run","Package":"p","Test":"T"}
{"Action":"output","Package":"p","Test":"T","Output":"panic: boom\n"}
{"Action":"fail","Package":"p"}`, tally{failed: 1}, "boom", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w bytes.Buffer
			k := newCounter(&w)
			k.read(strings.NewReader(c.events))
			got := k.tally()
			if late := got.late; c.again && !strings.Contains(late, c.printed) {
				t.Errorf("at the end %q without %q", late, c.printed)
			}
			got.late = ""
			if got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if !strings.Contains(w.String(), c.printed) {
				t.Errorf("printed %q without %q", &w, c.printed)
			}
		})
	}
}

func TestOnlyOutOfTime(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       bool
	}{
		{"time is up", "fuzz: elapsed: 3s\n--- FAIL: FuzzX (3.02s)\n    context deadline exceeded\nFAIL\n", true},
		{"a finding", "--- FAIL: FuzzX\n    context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzX/1\n", false},
		{"a panic", "--- FAIL: FuzzX\n    panic: boom\n    context deadline exceeded\n", false},
		{"a seed", "failure while testing seed corpus entry: FuzzX/1\ncontext deadline exceeded\n", false},
		{"something else", "--- FAIL: FuzzX\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := onlyOutOfTime(c.text); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestFuzzTargets(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a_test.go"), "package a\nfunc FuzzOne(f *testing.F) {}\nfunc Fuzzy() {}\n")
	write(t, filepath.Join(dir, "a.go"), "package a\nfunc FuzzNot() {}\n")
	got, err := fuzzTargets(dir)
	if err != nil || len(got) != 1 || got[0].name != "FuzzOne" {
		t.Error(got, err)
	}
}

func TestDeadLinks(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "b.md"), "")
	a := filepath.Join(dir, "a.md")
	write(t, a, "[b](b.md#part) [web](https://example.org/x) [none](none.md) [here](#here)")
	got, err := deadLinks(a)
	if err != nil || len(got) != 1 || !strings.HasSuffix(got[0], "none.md") {
		t.Error(got, err)
	}
}

func TestReadTotals(t *testing.T) {
	var w bytes.Buffer
	got, found := readTotals(&w, strings.NewReader("ok login\n3 passed, 1 failed\nok x\n2 passed, 0 failed\n"))
	if !found || got != (tally{passed: 5, failed: 1}) {
		t.Error(got, found)
	}
	if _, found := readTotals(&w, strings.NewReader("ok login\n")); found {
		t.Error("totals from nothing")
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
