package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCoverProfile(t *testing.T) {
	spans, err := readProfile(strings.NewReader("mode: set\n" +
		"spindle/cmd/spindle-dev/cover.go:31.10,33.2 3 0\nspindle/cmd/spindle-dev/cover.go:40.1,41.2 2 1\n" +
		"mode: set\nspindle/cmd/spindle-dev/cover.go:31.10,33.2 3 7\nspindle/cmd/spindle-dev/cover.go:50.1,52.2 5 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	var total share
	for _, s := range spans {
		total.add(s)
	}
	if total != (share{5, 10}) {
		t.Errorf("%+v", total)
	}
	if _, err := readProfile(strings.NewReader("spindle/a.go:1.1 x\n")); err == nil {
		t.Error("nonsense is a profile")
	}
}

func TestCoverReport(t *testing.T) {
	list, err := functions("cover.go")
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) int {
		for _, f := range list {
			if f.name == name {
				return f.line
			}
		}
		t.Fatalf("no function %s", name)
		return 0
	}
	var w bytes.Buffer
	total, err := report(&w, []span{
		{"cover.go", at("readProfile") + 1, 4, true}, {"cover.go", at("share.add") + 1, 3, false}, {"cover.go", at("cmpOr") + 1, 1, false},
	}, map[string]string{"cover.go share.add": "needs no test"})
	if err != nil || total != (share{4, 8}) {
		t.Fatal(total, err)
	}
	for _, want := range []string{"share.add: needs no test", "cmpOr: -", "50.0 %"} {
		if !strings.Contains(w.String(), want) {
			t.Errorf("no %q in\n%s", want, &w)
		}
	}
	if strings.Contains(w.String(), "readProfile") {
		t.Errorf("what is covered is listed\n%s", &w)
	}
}

func TestReasons(t *testing.T) {
	why, err := readReasons(strings.NewReader("# note\n\na/b.go F because of it\n"))
	if err != nil || why["a/b.go F"] != "because of it" {
		t.Error(why, err)
	}
	if _, err := readReasons(strings.NewReader("a/b.go F\n")); err == nil {
		t.Error("no reason is a reason")
	}
}
