package conformance

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// testdata/stgt.log is iscsi-test-cu 1.19 against STGT 1.0.85: its own summary
// says 222 passed.
func TestParseRecordedLog(t *testing.T) {
	f, err := os.Open("testdata/stgt.log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := 0
	rs, err := Parse(f, func(Result) { seen++ })
	if err != nil {
		t.Fatal(err)
	}
	n := Count(rs)
	if len(rs) != 230 || seen != 230 || n[Pass] != 160 || n[Skip] != 62 || n[Fail] != 8 || n[None] != 0 {
		t.Errorf("%d tests, %d announced, %v; want 230, 160 pass, 62 skip, 8 fail", len(rs), seen, n)
	}
	names := map[string]bool{}
	for _, r := range rs {
		if names[r.Name()] {
			t.Errorf("%s twice", r.Name())
		}
		names[r.Name()] = true
		if (r.Reason == "") != (r.Outcome == Pass) {
			t.Errorf("%s: %s with reason %q", r.Name(), r.Outcome, r.Reason)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, log string
		want      Outcome
		reason    string
	}{
		{"pass", "  Test: A ...passed\n", Pass, ""},
		{"talkative pass", "  Test: A ...    Take it\n    [WARNING] odd\npassed\n", Pass, ""},
		{"skip", "  Test: A ...    [SKIPPED] not here\npassed\n", Skip, "not here"},
		{"late skip", "  Test: A ...    Try\n    [SKIPPED] not here\npassed\n", Skip, "not here"},
		{"fail", "  Test: A ...    [FAILED] bad\nFAILED\n    1. a.c:3  - CU_ASSERT(x)\n", Fail, "bad"},
		{"bare fail", "  Test: A ...FAILED\n    1. a.c:3  - CU_ASSERT(x)\n", Fail, "a.c:3  - CU_ASSERT(x)"},
		{"skip then fail", "  Test: A ...    [SKIPPED] part\n    [FAILED] bad\nFAILED\n", Fail, "bad"},
		{"clean-up speaks after the verdict", "  Test: A ...passed    [FAILED] release\n", Pass, ""},
		{"hang", "  Test: A ...    Trying\n", None, ""},
		{"hang after a skip", "  Test: A ...    [SKIPPED] part\n", None, "part"},
		{"crash, then summary", "  Test: A ...\nRun Summary: x\npassed\n", None, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			rs, err := Parse(strings.NewReader("Suite: S\n"+c.log), nil)
			if err != nil || len(rs) != 1 {
				t.Fatal(rs, err)
			}
			if r := rs[0]; r.Name() != "S.A" || r.Outcome != c.want || r.Reason != c.reason {
				t.Errorf("got %+v, want %s %q", r, c.want, c.reason)
			}
		})
	}
}

func TestCompare(t *testing.T) {
	e, err := ReadExpectation(strings.NewReader("tests 3 # in all\n\nA.* all skip not built\nB.two file fail known: RFC says so\n"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(one, two, three Outcome) []Result {
		return []Result{{"A", "one", one, ""}, {"B", "two", two, ""}, {"B", "three", three, ""}}
	}
	for _, c := range []struct {
		name, form string
		results    []Result
		want       string // part of the one difference; "" for none
	}{
		{"as expected", "malloc", run(Skip, Pass, Pass), ""},
		{"as expected on the other form", "file", run(Skip, Fail, Pass), ""},
		{"a form's exception is not the other's", "malloc", run(Skip, Fail, Pass), "B.two: fail, expected pass"},
		{"new failure", "malloc", run(Skip, Pass, Fail), "B.three: fail, expected pass"},
		{"new skip", "malloc", run(Skip, Pass, Skip), "B.three: skip, expected pass"},
		{"hang", "malloc", run(Skip, Pass, None), "B.three: none, expected pass"},
		{"too few", "malloc", run(Skip, Pass, Pass)[:2], "has 3 tests, 2 ran"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := e.Compare(c.form, c.results)
			if c.want == "" && len(d) > 0 || c.want != "" && (len(d) != 1 || !strings.Contains(d[0], c.want)) {
				t.Errorf("differences %q, want %q", d, c.want)
			}
		})
	}
	t.Run("stale line", func(t *testing.T) {
		d := e.Compare("file", run(Pass, Pass, Pass))
		if !slices.ContainsFunc(d, func(s string) bool { return strings.Contains(s, "line 4: B.two fail is not needed") }) {
			t.Errorf("differences %q", d)
		}
	})
	t.Run("a list over it", func(t *testing.T) {
		over, err := e.Over(strings.NewReader("tests 2\nA.one malloc fail by this way\nA.one thick pass by this way\nB.two all skip by this way\n"))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name, form string
			one, two   Outcome
			want       []string
		}{
			{"its lines go before", "malloc", Fail, Skip, nil},
			{"what it says nothing of", "file", Skip, Skip, nil},
			{"a pass", "thick", Pass, Skip, nil},
			{"the other's outcome", "malloc", Skip, Skip, []string{"A.one: skip, expected fail", "line 2: A.one fail is not needed"}},
			{"a stale line", "file", Skip, Fail, []string{"B.two: fail, expected skip", "line 4: B.two skip is not needed"}},
		} {
			d := over.Compare(c.form, run(c.one, c.two, Pass)[:2])
			if len(d) != len(c.want) {
				t.Fatalf("%s: differences %q, want %q", c.name, d, c.want)
			}
			for i, w := range c.want {
				if !strings.Contains(d[i], w) {
					t.Errorf("%s: difference %q, want %q", c.name, d[i], w)
				}
			}
		}
	})
	for _, bad := range []string{"", "tests x", "tests 3\nA.one all skip", "tests 3\nA.one all maybe because"} {
		if _, err := ReadExpectation(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
