package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"spindle/bench/compare"
)

// tally counts verdicts, in words.
func tally(goals []compare.Goal) string {
	var parts []string
	for _, v := range []string{compare.Met, compare.NotMet, compare.Undecided, compare.Missing, compare.Elsewhere, compare.Reported} {
		n := 0
		for _, g := range goals {
			if g.Verdict == v {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, v))
		}
	}
	return strings.Join(parts, ", ")
}

// Tally is the verdicts on all goals, counted.
func (v *view) Tally() string { return tally(v.R.Goals) }

// class is a goal's verdict as a class of the page.
func class(g compare.Goal) string { return strings.ReplaceAll(g.Verdict, " ", "-") }

func goalsMarkdown(w io.Writer, r *compare.Result) {
	if len(r.Goals) == 0 {
		return
	}
	fmt.Fprintf(w, "**Goals: %s.** Medians of rounds with the interval they lie in.\n\n", tally(r.Goals))
	fmt.Fprint(w, "| row | against | what | goal | measured | verdict |\n|---|---|---|---|---|---|\n")
	row := ""
	for _, g := range r.Goals {
		id, against := g.Row, g.Against
		if id == row {
			id, against = "", ""
		}
		row = g.Row
		verdict := g.Verdict
		switch verdict {
		case compare.NotMet:
			verdict = "**" + verdict + "**"
		case compare.Undecided:
			verdict += ": the spread is too wide"
		}
		if g.Note != "" {
			verdict += "; " + oneLine(g.Note)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", id, against, g.What, g.Want, g.Figure(), verdict)
	}
	fmt.Fprintln(w)
}

func goalsText(w io.Writer, r *compare.Result) {
	if len(r.Goals) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "row\tagainst\twhat\tgoal\tmeasured\tverdict\n")
	for _, g := range r.Goals {
		verdict := g.Verdict
		if g.Note != "" {
			verdict += "; " + oneLine(g.Note)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", g.Row, g.Against, g.What, g.Want, g.Figure(), verdict)
	}
	t.Flush()
	fmt.Fprintf(w, "goals: %s\n", tally(r.Goals))
}
