package conformance

import (
	"bufio"
	"io"
	"regexp"
	"strings"
)

// Outcome is what became of a test.
type Outcome string

// Outcomes. None is a test that began and never ended: a hang, or a crash of
// the suite.
const (
	Pass Outcome = "pass"
	Skip Outcome = "skip"
	Fail Outcome = "fail"
	None Outcome = "none"
)

// Result is one test of a run.
type Result struct {
	Suite, Test string
	Outcome     Outcome
	Reason      string // the suite's own words, for what is not a pass
}

// Name is SUITE.TEST.
func (r Result) Name() string { return r.Suite + "." + r.Test }

var (
	suiteLine   = regexp.MustCompile(`^Suite: (\S+)`)
	testLine    = regexp.MustCompile(`^  Test: (.+?) \.\.\.(.*)`)
	assertLine  = regexp.MustCompile(`^    \d+\. (\S+:\d+ .*)`)
	summaryLine = regexp.MustCompile(`^Run Summary:`)
)

// Parse classifies the tests in the output of iscsi-test-cu. each, if not nil,
// is called with every result when its verdict is known.
//
// A test prints its name without a newline, then whatever it has to say, then
// a verdict: "passed" or "FAILED", on the same line if it said nothing. What
// failed follows the verdict as numbered assertions; a suite's clean-up may
// also speak there, so nothing after the verdict changes it.
func Parse(log io.Reader, each func(Result)) ([]Result, error) {
	var p parser
	p.each = each
	in := bufio.NewScanner(log)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		p.line(in.Text())
	}
	p.end()
	return p.results, in.Err()
}

type parser struct {
	results []Result
	suite   string
	open    bool // the last result has no verdict yet
	each    func(Result)
}

func (p *parser) line(l string) {
	if m := suiteLine.FindStringSubmatch(l); m != nil {
		p.end()
		p.suite = m[1]
		return
	}
	if m := testLine.FindStringSubmatch(l); m != nil {
		p.end()
		p.results = append(p.results, Result{Suite: p.suite, Test: m[1], Outcome: None})
		p.open = true
		l = m[2]
	}
	if summaryLine.MatchString(l) {
		p.end()
	}
	if len(p.results) == 0 {
		return
	}
	r := &p.results[len(p.results)-1]
	if !p.open {
		if m := assertLine.FindStringSubmatch(l); m != nil && r.Outcome == Fail && r.Reason == "" {
			r.Reason = m[1]
		}
		return
	}
	said := strings.TrimSpace(l)
	for _, tag := range []string{"[SKIPPED]", "[FAILED]"} {
		if why, ok := strings.CutPrefix(said, tag); ok {
			if tag == "[SKIPPED]" && r.Outcome == None {
				r.Outcome = Skip
			}
			if r.Reason == "" || tag == "[FAILED]" {
				r.Reason = strings.TrimSpace(why)
			}
		}
	}
	switch {
	case strings.HasPrefix(l, "FAILED"):
		r.Outcome = Fail
	case strings.HasPrefix(l, "passed"):
		if r.Outcome == None {
			r.Outcome, r.Reason = Pass, ""
		}
	default:
		return
	}
	p.open = false
	if p.each != nil {
		p.each(*r)
	}
}

// end closes a test that never got its verdict.
func (p *parser) end() {
	if !p.open {
		return
	}
	p.open = false
	r := &p.results[len(p.results)-1]
	r.Outcome = None
	if p.each != nil {
		p.each(*r)
	}
}

// Count tells how many results have each outcome.
func Count(rs []Result) map[Outcome]int {
	n := map[Outcome]int{}
	for _, r := range rs {
		n[r.Outcome]++
	}
	return n
}

// NeverPassed lists the tests that no run passed, in the order they ran, and
// tells how many there are in all.
func NeverPassed(runs ...[]Result) (names []string, tests int) {
	passed := map[string]bool{}
	for _, rs := range runs {
		for _, r := range rs {
			passed[r.Name()] = passed[r.Name()] || r.Outcome == Pass
		}
	}
	told := map[string]bool{}
	for _, rs := range runs {
		for _, r := range rs {
			if n := r.Name(); !passed[n] && !told[n] {
				told[n] = true
				names = append(names, n)
			}
		}
	}
	return names, len(passed)
}
