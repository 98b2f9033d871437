package compare

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"spindle/bench/counters"
)

// Verdicts on a goal.
const (
	Met       = "met"
	NotMet    = "not met"
	Undecided = "undecided" // the spread is too wide to say
	Missing   = "missing"   // a peer is absent, or failed
	Elsewhere = "elsewhere" // not measured on this machine
	Reported  = "reported"  // a figure without a goal
)

// Goal is a line of the standard comparison: what was to be reached, what was.
type Goal struct {
	Row      string   `json:"row"`
	Against  string   `json:"against"`
	What     string   `json:"what"`
	Want     string   `json:"want"`
	Interval Interval `json:"interval"`
	Unit     string   `json:"unit,omitempty"`
	Verdict  string   `json:"verdict"`
	Note     string   `json:"note,omitempty"`
}

// Figure is what was measured, in words.
func (g *Goal) Figure() string {
	i := g.Interval
	if i.N == 0 {
		return ""
	}
	digits := 2
	if math.Abs(i.Median) < 0.1 {
		digits = 4
	}
	if i.N == 1 {
		return fmt.Sprintf("%.*f%s", digits, i.Median, g.Unit)
	}
	return fmt.Sprintf("%.*f%s [%.*f–%.*f]", digits, i.Median, g.Unit, digits, i.Low, digits, i.High)
}

// bound is a goal's limit: at least, at most, or none.
type bound struct {
	value float64
	most  bool
	none  bool
}

func atLeast(v float64) bound { return bound{value: v} }
func atMost(v float64) bound  { return bound{value: v, most: true} }

var noBound = bound{none: true}

func (b bound) text(unit string) string {
	switch {
	case b.none:
		return "reported"
	case b.most:
		return fmt.Sprintf("≤ %g%s", b.value, unit)
	}
	return fmt.Sprintf("≥ %g%s", b.value, unit)
}

func (b bound) reached(v float64) bool {
	if b.most {
		return v <= b.value
	}
	return v >= b.value
}

// check makes a goal of a cell.
type check struct {
	what string
	cell string
	want bound
	unit string
	// values are the rounds that decide, with something to say about them. none:
	// what they need is not there.
	values func(*Cell) (values []float64, note string)
	needs  []string // figures that must be there
	single bool     // a count, not a measurement that spreads
}

// judge evaluates a check.
func (c *check) judge(r *Result, row *Row) Goal {
	g := Goal{Row: row.ID, Against: row.Against, What: c.what, Want: c.want.text(c.unit), Unit: c.unit}
	i := slices.IndexFunc(r.Cells, func(x Cell) bool { return x.Name == c.cell })
	if i < 0 {
		g.Verdict, g.Note = Missing, "not measured"
		return g
	}
	cell := &r.Cells[i]
	for _, name := range c.needs {
		if f := cell.Figure(name); f == nil || len(f.Samples) == 0 {
			g.Verdict, g.Note = Missing, missing(r, f, name)
			return g
		}
	}
	values, note := c.values(cell)
	g.Interval, g.Note = Summarise(values), note
	switch {
	case len(values) == 0:
		g.Verdict = Missing
	case c.want.none:
		g.Verdict = Reported
	case !c.single && (len(values) < 3 || g.Interval.Low > 0 && g.Interval.Spread() > r.Method.MaxSpread):
		g.Verdict = Undecided
		// However wide: when both ends are on one side, that side is certain.
		if len(values) >= 5 && c.want.reached(g.Interval.Low) == c.want.reached(g.Interval.High) {
			g.Verdict = verdict(c.want.reached(g.Interval.Median))
		}
	default:
		g.Verdict = verdict(c.want.reached(g.Interval.Median))
	}
	return g
}

func verdict(met bool) string {
	if met {
		return Met
	}
	return NotMet
}

// missing says why there is no figure.
func missing(r *Result, f *Figure, name string) string {
	if f != nil && f.Error != "" {
		first, _, _ := strings.Cut(f.Error, "\n")
		return first
	}
	for _, p := range r.Peers {
		if p.Name == name && p.Absent != "" {
			return p.Title + " is " + p.Absent
		}
	}
	return "no figure of " + name
}

func figureOf(what string) func(*Sample) float64 {
	i := slices.IndexFunc(whats, func(w struct {
		name string
		of   func(*Sample) float64
	}) bool {
		return w.name == what
	})
	return whats[i].of
}

// quotient checks one figure over another.
func quotient(what, cell, of, to, figure string, want bound) check {
	return check{
		what: what, cell: cell, want: want, unit: "x", needs: []string{of, to},
		values: func(c *Cell) ([]float64, string) {
			return quotients(c.Figure(of), c.Figure(to), figureOf(figure)), ""
		},
	}
}

// share checks how much of the limit's lead over a third a target has: what it
// has over the third, by what the limit has over it in the same round.
func share(what, cell, of, limit, third string, want bound) check {
	return check{
		what: what, cell: cell, want: want, unit: "x", needs: []string{of, limit, third},
		values: func(c *Cell) ([]float64, string) {
			iops := figureOf("iops")
			own, best := quotients(c.Figure(of), c.Figure(third), iops), quotients(c.Figure(limit), c.Figure(third), iops)
			note := fmt.Sprintf("%s has %.1fx, the limit %.1fx of %s", of, Summarise(own).Median, Summarise(best).Median, third)
			return quotients(c.Figure(of), c.Figure(limit), iops), note
		},
	}
}

// worst checks the slowest figure of a cell against the fastest, in each round.
func worst(what, cell string, figures []string, want bound) check {
	return check{
		what: what, cell: cell, want: want, unit: "x", needs: figures,
		values: func(c *Cell) (list []float64, note string) {
			slowest := ""
			lowest := math.Inf(1)
			for _, name := range figures {
				if m := c.Figure(name).IOPS.Median; m < lowest {
					lowest, slowest = m, name
				}
			}
			for i := range c.Figures[0].Samples {
				low, high := math.Inf(1), 0.0
				for _, name := range figures {
					if s := c.Figure(name).Samples; i < len(s) {
						low, high = min(low, s[i].IOPS), max(high, s[i].IOPS)
					}
				}
				list = append(list, low/high)
			}
			return list, "slowest: " + slowest
		},
	}
}

// coreShare checks the part of a core that a target takes, in percent.
func coreShare(what, cell, of string, want bound) check {
	return check{
		what: what, cell: cell, want: want, unit: " %", needs: []string{of},
		values: func(c *Cell) (list []float64, note string) {
			for _, s := range c.Figure(of).Samples {
				list = append(list, 100*float64(s.Counts.Run)/float64(s.Elapsed))
			}
			return list, ""
		},
	}
}

// absolute reports a figure as it is, in microseconds.
func absolute(what, cell, of, figure string) check {
	return check{
		what: what, cell: cell, want: noBound, unit: " µs", needs: []string{of},
		values: func(c *Cell) (list []float64, note string) {
			f := c.Figure(of)
			for i := range f.Samples {
				list = append(list, figureOf(figure)(&f.Samples[i]))
			}
			return list, ""
		},
	}
}

// mostCalls checks the system calls of the figure that makes the most.
func mostCalls(what, cell string, want bound) check {
	return check{
		what: what, cell: cell, want: want, single: true,
		values: func(c *Cell) ([]float64, string) {
			most, name := -1.0, ""
			for i := range c.Figures {
				f := &c.Figures[i]
				if f.Error != "" {
					return nil, f.Peer + ": " + f.Error
				}
				if f.Syscalls == counters.Unknown {
					return nil, "system calls were not counted"
				}
				if f.Syscalls > most {
					most, name = f.Syscalls, f.Peer
				}
			}
			if most < 0 {
				return nil, ""
			}
			return []float64{most}, "the most: " + name
		},
	}
}

// noCollections checks that a target whose collector runs after little garbage
// did not run it.
func noCollections(what, cell string) check {
	return check{
		what: what, cell: cell, want: atMost(0), single: true,
		values: func(c *Cell) ([]float64, string) {
			ran, ios, names := 0, uint64(0), []string{}
			for i := range c.Figures {
				f := &c.Figures[i]
				if f.Error != "" || f.Collector == nil {
					return nil, f.Peer + ": " + f.Error + ", or its collector tells nothing"
				}
				// What else the process does only adds: its quietest run counts.
				least := math.MaxInt
				for _, s := range f.Samples {
					ios += s.IOs
					least = min(least, s.Collector.Cycles)
				}
				if ran += least; least > 0 {
					names = append(names, f.Peer)
				}
			}
			if ios == 0 {
				return nil, ""
			}
			return []float64{float64(ran)}, strings.TrimSpace(fmt.Sprintf("in %d I/Os %s", ios, strings.Join(names, ", ")))
		},
	}
}
