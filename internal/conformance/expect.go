package conformance

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Expectation lists what may differ from a pass.
type Expectation struct {
	Tests int // how many tests the suite has
	lines []exception
}

// exception is a line of the file: SUITE.TEST or SUITE.*, the forms of LUN as
// names and patterns with * between commas, the outcome, and the reason in our
// words.
type exception struct {
	test, form string
	outcome    Outcome
	reason     string
	at         int
	below      bool // another list is over it
}

// ReadExpectation reads the file: "tests N", then a line for each exception.
// Of lines for one test the last counts; a pass is an exception to those before
// it. A # starts a comment.
func ReadExpectation(r io.Reader) (*Expectation, error) {
	e := &Expectation{}
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		text, _, _ := strings.Cut(in.Text(), "#")
		f := strings.Fields(text)
		switch {
		case len(f) == 0:
		case len(f) == 2 && f[0] == "tests":
			v, err := strconv.Atoi(f[1])
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			e.Tests = v
		case len(f) >= 4 && slices.Contains([]Outcome{Pass, Skip, Fail}, Outcome(f[2])):
			e.lines = append(e.lines, exception{f[0], f[1], Outcome(f[2]), strings.Join(f[3:], " "), n, false})
		default:
			return nil, fmt.Errorf("line %d: want SUITE.TEST FORM pass|skip|fail REASON, have %q", n, in.Text())
		}
	}
	if e.Tests == 0 {
		return nil, fmt.Errorf("no line \"tests N\"")
	}
	return e, in.Err()
}

// Over reads a list that is over this one: the number of tests is its own, its
// lines go before those here, and those here need not be needed.
func (e *Expectation) Over(r io.Reader) (*Expectation, error) {
	over, err := ReadExpectation(r)
	if err != nil {
		return nil, err
	}
	below := slices.Clone(e.lines)
	for i := range below {
		below[i].below = true
	}
	over.lines = append(below, over.lines...)
	return over, nil
}

// Compare lists the differences between a run of every test on one form of LUN
// and what was expected, a line each; none is good. An exception that nothing
// needed is a difference too: the list may not outlive its reasons.
func (e *Expectation) Compare(form string, rs []Result) (diffs []string) {
	if len(rs) != e.Tests {
		diffs = append(diffs, fmt.Sprintf("the suite has %d tests, %d ran", e.Tests, len(rs)))
	}
	d, needed := e.judge(form, rs)
	diffs = append(diffs, d...)
	for _, x := range e.lines {
		if x.covers(form) && !x.below && !needed[x.at] {
			diffs = append(diffs, fmt.Sprintf("line %d: %s %s is not needed any more", x.at, x.test, x.outcome))
		}
	}
	return diffs
}

// ComparePart is Compare for a run of some tests.
func (e *Expectation) ComparePart(form string, rs []Result) []string {
	diffs, _ := e.judge(form, rs)
	return diffs
}

// judge compares results with what was expected of them, and tells which lines
// were needed.
func (e *Expectation) judge(form string, rs []Result) (diffs []string, needed map[int]bool) {
	needed = map[int]bool{}
	for _, r := range rs {
		want, why := Pass, ""
		for _, x := range e.lines {
			if x.matches(form, r) {
				want, why = x.outcome, " ("+x.reason+")"
				if !x.below && r.Outcome == x.outcome {
					needed[x.at] = true
				}
			}
		}
		if r.Outcome != want {
			diffs = append(diffs, fmt.Sprintf("%s: %s, expected %s%s: %s", r.Name(), r.Outcome, want, why, r.Reason))
		}
	}
	return diffs, needed
}

func (x exception) covers(form string) bool {
	for f := range strings.SplitSeq(x.form, ",") {
		if ok, _ := path.Match(f, form); ok || f == "all" { // an unreadable pattern covers nothing
			return true
		}
	}
	return false
}

func (x exception) matches(form string, r Result) bool {
	suite, all := strings.CutSuffix(x.test, ".*")
	return x.covers(form) && (x.test == r.Name() || all && suite == r.Suite)
}

// Format writes a run's exceptions in the form of the file, with the suite's
// words as reasons: where a new list starts.
func Format(w io.Writer, form string, rs []Result) {
	fmt.Fprintf(w, "tests %d\n", len(rs))
	for _, r := range rs {
		if r.Outcome != Pass {
			fmt.Fprintf(w, "%-40s %-6s %-4s %s\n", r.Name(), form, r.Outcome, r.Reason)
		}
	}
}
