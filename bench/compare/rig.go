package compare

import (
	"fmt"
	"math"
	"strings"

	"spindle/bench/peer"
)

// rigRow is the row of the standard comparison that is measured on the disks of
// the kernel's initiator, where LIO and iSER are.
const rigRow = "rig"

// rivals of the row: the better of them in a cell is what counts there.
var rigRivals = []string{"stgt", "lio"}

const (
	rigMean     = 1.15 // geometric mean of the IOPS over the better rival's
	rigSwitches = 0.1  // of STGT's voluntary context switches
)

// JudgeRig makes the goals of a comparison with the kernel's initiator, for each
// transport, from its cells on null LUNs.
func JudgeRig(r *Result) (goals []Goal) {
	for _, t := range []string{ISER, TCP} {
		var cells []*Cell
		for i := range r.Cells {
			if c := &r.Cells[i]; c.Workload.transport() == t && c.Workload.LUN == peer.Null {
				cells = append(cells, c)
			}
		}
		if len(cells) > 0 {
			goals = append(goals, rigMeanGoal(r, t, cells), rigFloorGoal(t, cells), rigSwitchesGoal(r, t, cells))
		}
	}
	return goals
}

func rigGoal(transport, what, want string) Goal {
	name := map[string]string{ISER: "iSER", TCP: "TCP"}[transport]
	return Goal{Row: rigRow + ", " + name, Against: "better of STGT and LIO", What: what, Want: want}
}

// Better is the rival that did best in a cell; nil when none was there.
func (c *Cell) Better() *Figure {
	var best *Figure
	for _, name := range rigRivals {
		if f := c.Figure(name); f != nil && f.IOPS.N > 0 && (best == nil || f.IOPS.Median > best.IOPS.Median) {
			best = f
		}
	}
	return best
}

// lead is the subject's IOPS over the better rival's, by round.
func (c *Cell) lead() (rounds map[int]float64) {
	own, best := c.Figure(c.Subject), c.Better()
	rounds = map[int]float64{}
	if own == nil || best == nil {
		return rounds
	}
	for _, a := range own.Samples {
		for _, b := range best.Samples {
			if a.Round == b.Round && b.IOPS > 0 {
				rounds[a.Round] = a.IOPS / b.IOPS
			}
		}
	}
	return rounds
}

// rigMeanGoal is the geometric mean over all cells, in each round.
func rigMeanGoal(r *Result, transport string, cells []*Cell) Goal {
	g := rigGoal(transport, fmt.Sprintf("geometric mean of IOPS, %d cells", len(cells)), atLeast(rigMean).text("x"))
	g.Unit = "x"
	var means []float64
	for round := range r.Method.Rounds {
		sum, n := 0.0, 0
		for _, c := range cells {
			if v := c.lead()[round]; v > 0 {
				sum, n = sum+math.Log(v), n+1
			}
		}
		if n == len(cells) {
			means = append(means, math.Exp(sum/float64(n)))
		}
	}
	g.Interval = Summarise(means)
	g.Verdict = Missing
	if len(means) > 0 {
		g.Verdict = verdict(g.Interval.Median >= rigMean)
	} else {
		g.Note = "no round has a figure of every cell"
	}
	return g
}

// rigFloorGoal is how many cells are certainly slower than the better rival.
func rigFloorGoal(transport string, cells []*Cell) Goal {
	g := rigGoal(transport, "cells whose interval lies wholly below 1.0", atMost(0).text(""))
	var below, all []string
	for _, c := range cells {
		var v []float64
		for _, q := range c.lead() {
			v = append(v, q)
		}
		i := Summarise(v)
		if i.N == 0 {
			g.Verdict, g.Note = Missing, "no figure of "+c.Title
			return g
		}
		text := fmt.Sprintf("%s %s %.2f [%.2f–%.2f] of %s", short(c.Workload), c.Workload.RW, i.Median, i.Low, i.High, strings.ToUpper(c.Better().Peer))
		if all = append(all, text); i.High < 1 {
			below = append(below, text)
		}
	}
	g.Interval = Summarise([]float64{float64(len(below))})
	g.Verdict, g.Note = verdict(len(below) == 0), strings.Join(all, "; ")
	return g
}

func short(w Workload) string { return fmt.Sprintf("%d B QD %d", w.Size, w.Depth) }

// rigSwitchesGoal is the cell in which the subject's own voluntary switches for
// an I/O, less what it has without work, come closest to STGT's.
func rigSwitchesGoal(r *Result, transport string, cells []*Cell) Goal {
	g := rigGoal(transport, "own voluntary context switches an I/O, of STGT's; worst cell", atMost(rigSwitches).text("x"))
	g.Against, g.Unit = "STGT", "x"
	worst := -1.0
	for _, c := range cells {
		own, other := c.Figure(c.Subject), c.Figure("stgt")
		if own == nil || other == nil || own.IOPS.N == 0 || other.IOPS.N == 0 || other.Voluntary <= 0 {
			g.Verdict, g.Note = Missing, "no figure of "+c.Title
			return g
		}
		if v := own.Net / other.Voluntary; v > worst {
			worst = v
			g.Note = fmt.Sprintf("%s %s: %.4f, raw %.4f, against %.3f; %.0f a second when it spins without work",
				short(c.Workload), c.Workload.RW, own.Net, own.Voluntary, other.Voluntary, r.IdleSpin)
		}
	}
	g.Interval = Summarise([]float64{worst})
	g.Verdict = verdict(worst <= rigSwitches)
	if r.IdleSpin == 0 {
		g.Note += " (its rate without work was not measured)"
	}
	return g
}
