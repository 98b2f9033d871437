package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"spindle/bench/compare"
	"spindle/bench/load"
)

// colours of the peers: Okabe and Ito's, which colour-blind readers can tell apart.
var colours = map[string]string{"spindle": "#0072b2", "stgt": "#e69f00", "spdk": "#009e73", "lio": "#cc79a7", "limit": "#7b8794"}

// spares are for peers without a colour of their own.
var spares = []string{"#d55e00", "#56b4e9", "#000000", "#b5a800"}

// Picture is an SVG.
type Picture struct {
	Name, Title, SVG string
}

// charts draws what the result has.
func charts(r *compare.Result) (list []Picture) {
	for _, draw := range []func(*compare.Result) Picture{ratioChart, depthChart, latencyChart, costChart} {
		if p := draw(r); p.SVG != "" {
			list = append(list, p)
		}
	}
	return list
}

func colour(r *compare.Result, peer string) string {
	if c := colours[peer]; c != "" {
		return c
	}
	i := slices.IndexFunc(r.Peers, func(p compare.Peer) bool { return p.Name == peer })
	if i < 0 { // one peer under several conditions: "limit, 16 connections"
		name, _, _ := strings.Cut(peer, ",")
		return cmp.Or(colours[name], colours["spindle"])
	}
	return spares[i%len(spares)]
}

// named tells whether a cell's figures have names of their own instead of their peers'.
func named(r *compare.Result, cell *compare.Cell) bool {
	return slices.ContainsFunc(cell.Figures, func(f compare.Figure) bool {
		return !slices.ContainsFunc(r.Peers, func(p compare.Peer) bool { return p.Name == f.Peer })
	})
}

// width is about what a text of size 12 takes.
func width(text string) float64 { return 6.5 * float64(utf8.RuneCountInString(text)) }

func title(r *compare.Result, peer string) string {
	for _, p := range r.Peers {
		if p.Name == peer {
			return p.Title
		}
	}
	return peer
}

// legend names the peers that have figures, from x on.
func legend(c *canvas, r *compare.Result, cells []*compare.Cell, x, y float64) {
	for _, p := range present(r) {
		if !slices.ContainsFunc(cells, func(cell *compare.Cell) bool { return cell.Figure(p) != nil }) {
			continue
		}
		c.rect(x, y-9, 12, 10, colour(r, p), "")
		c.text(x+17, y, left, ink, 12, title(r, p))
		x += 40 + 7*float64(len(title(r, p)))
	}
}

// present are the peers that took part.
func present(r *compare.Result) (list []string) {
	for _, p := range r.Peers {
		if p.Absent == "" {
			list = append(list, p.Name)
		}
	}
	return list
}

const chartWidth = 960

// ratioChart shows the subject's IOPS over every other's, with intervals.
func ratioChart(r *compare.Result) Picture {
	const step, top, labels = 24.0, 56.0, 330.0
	type row struct {
		cell  string // "" but in its first row
		ratio *compare.Ratio
		at, y float64 // of the cell's title, of the rest
	}
	var rows []row
	values := []float64{1}
	y := top
	for i := range r.Cells {
		cell := r.Cells[i].Title
		for j := range r.Cells[i].Ratios {
			if q := &r.Cells[i].Ratios[j]; q.What == "iops" {
				at := y
				if cell != "" && width(cell)+width(title(r, q.To)) > labels-30 {
					y += step * 0.7 // the title has a line of its own
				}
				rows = append(rows, row{cell, q, at, y})
				values = append(values, q.Interval.Low, q.Interval.High)
				cell, y = "", y+step
			}
		}
	}
	if len(rows) == 0 {
		return Picture{}
	}
	name := fmt.Sprintf("IOPS of %s over the others' (median of rounds and its interval; right of 1 is faster)", title(r, r.Method.Subject))
	c := &canvas{w: chartWidth, h: y + 40}
	c.text(12, 22, left, ink, 15, name)
	s := logScale(values, labels, chartWidth-90)
	bottom := c.h - 30
	for _, t := range s.ticks() {
		c.line(s.at(t), top-12, s.at(t), bottom, grid, 1)
		c.text(s.at(t), bottom+16, middle, faint, 11, tick(t))
	}
	c.line(s.at(1), top-12, s.at(1), bottom, ink, 1.5)
	for _, row := range rows {
		q, y := row.ratio, row.y
		if row.cell != "" {
			c.text(12, row.at+11, left, ink, 12, row.cell)
		}
		c.text(labels-10, y+11, right, faint, 12, title(r, q.To))
		col := colour(r, q.To)
		from, to := s.at(q.Interval.Low), s.at(q.Interval.High)
		if q.Refused {
			c.rect(from, y+3, to-from, 8, "none", fmt.Sprintf(`stroke="%s" stroke-dasharray="3 2"`, col))
			c.text(to+8, y+11, left, faint, 12, "too wide")
			continue
		}
		x0, x1 := min(s.at(1), s.at(q.Interval.Median)), max(s.at(1), s.at(q.Interval.Median))
		c.rect(x0, y, x1-x0, 14, col, `opacity="0.75"`)
		c.line(from, y+7, to, y+7, ink, 1.5)
		c.line(from, y+3, from, y+11, ink, 1.5)
		c.line(to, y+3, to, y+11, ink, 1.5)
		c.text(max(to, x1)+8, y+11, left, ink, 12, fmt.Sprintf("%.2f", q.Interval.Median))
	}
	return Picture{"ratios", name, c.String(name)}
}

// panel is a small chart with two logarithmic axes.
type panel struct {
	c          *canvas
	x, y, w, h float64
}

func (p panel) frame(title, unit string, ys scale) {
	if most := int((p.w - 30) / width("n")); utf8.RuneCountInString(title) > most {
		title = string([]rune(title)[:most]) + "…"
	}
	p.c.text(p.x, p.y-10, left, ink, 13, title)
	for _, t := range ys.ticks() {
		p.c.line(p.x, ys.at(t), p.x+p.w, ys.at(t), grid, 1)
		p.c.text(p.x-6, ys.at(t)+4, right, faint, 11, tick(t))
	}
	p.c.line(p.x, p.y, p.x, p.y+p.h, faint, 1)
	p.c.line(p.x, p.y+p.h, p.x+p.w, p.y+p.h, faint, 1)
	p.c.text(p.x+p.w, p.y-10, right, faint, 11, unit)
}

// panels lays n panels out, two to a row, under a heading and a legend of those in cells.
func panels(r *compare.Result, cells []*compare.Cell, n int, name string) (*canvas, func(int) panel) {
	const top, height, gap, margin = 64.0, 210.0, 70.0, 64.0
	width := (chartWidth - 3*margin) / 2.0
	rows := (n + 1) / 2
	c := &canvas{w: chartWidth, h: top + float64(rows)*(height+gap) + 10}
	c.text(12, 22, left, ink, 15, name)
	legend(c, r, cells, 12, 44)
	return c, func(i int) panel {
		return panel{c, margin + float64(i%2)*(width+margin), top + 24 + float64(i/2)*(height+gap), width, height}
	}
}

// depthChart shows IOPS against queue depth, for what was measured at several.
func depthChart(r *compare.Result) Picture {
	type group struct {
		driver string // "" for our own
		title  string
		cells  []*compare.Cell
	}
	var groups []*group
	for i := range r.Cells {
		cell := &r.Cells[i]
		w := cell.Workload
		driver, plain := strings.CutSuffix(cell.Name, w.Name())
		driver = strings.TrimSpace(driver)
		if !plain || named(r, cell) || w.Idle || w.Rate > 0 {
			continue
		}
		w.Depth = 1
		key := driver + w.Title()
		j := slices.IndexFunc(groups, func(g *group) bool { return g.title == key })
		if j < 0 {
			j = len(groups)
			groups = append(groups, &group{driver: driver, title: key})
		}
		groups[j].cells = append(groups[j].cells, cell)
	}
	groups = slices.DeleteFunc(groups, func(g *group) bool { return len(g.cells) < 2 })
	if len(groups) == 0 {
		return Picture{}
	}
	var drawn []*compare.Cell
	for _, g := range groups {
		drawn = append(drawn, g.cells...)
	}
	name := "IOPS against queue depth"
	c, at := panels(r, drawn, len(groups), name)
	for i, g := range groups {
		p := at(i)
		var depths, values []float64
		for _, cell := range g.cells {
			depths = append(depths, float64(cell.Workload.Depth))
			for _, f := range cell.Figures {
				values = append(values, f.IOPS.Low, f.IOPS.High)
			}
		}
		xs := scale{slices.Min(depths), slices.Max(depths), p.x, p.x + p.w}
		ys := logScale(values, p.y+p.h, p.y)
		w := g.cells[0].Workload
		what := fmt.Sprintf("%s, %s %s", w.LUN, load.FormatBytes(uint64(w.Size)), w.RW)
		if g.driver != "" {
			what += ", " + g.driver
		}
		p.frame(what, "IOPS", ys)
		for _, d := range depths {
			c.text(xs.at(d), p.y+p.h+16, middle, faint, 11, fmt.Sprintf("QD %.0f", d))
		}
		for _, who := range present(r) {
			var line []point
			for _, cell := range g.cells {
				if f := cell.Figure(who); f != nil && f.IOPS.N > 0 {
					x := xs.at(float64(cell.Workload.Depth))
					c.line(x, ys.at(f.IOPS.Low), x, ys.at(f.IOPS.High), colour(r, who), 1)
					line = append(line, point{x, ys.at(f.IOPS.Median)})
				}
			}
			slices.SortFunc(line, func(a, b point) int { return int(math.Copysign(1, a.x-b.x)) })
			c.path(line, colour(r, who))
			for _, q := range line {
				c.dot(q.x, q.y, colour(r, who))
			}
		}
	}
	return Picture{"depth", name, c.String(name)}
}

// nines spreads the tail of a distribution: each nine of a percentile is as wide
// as the others.
func nines(p float64) float64 { return -math.Log10(1 - min(p, 99.999)/100) }

// latencyChart shows the distribution of latencies in each cell.
func latencyChart(r *compare.Result) Picture {
	var cells []*compare.Cell
	for i := range r.Cells {
		// Figures with names of their own are not in the legend.
		if !named(r, &r.Cells[i]) && !r.Cells[i].Workload.Idle && slices.ContainsFunc(r.Cells[i].Figures, func(f compare.Figure) bool { return len(f.Curve) > 0 }) {
			cells = append(cells, &r.Cells[i])
		}
	}
	if len(cells) == 0 {
		return Picture{}
	}
	name := "Latency by percentile, all rounds together"
	c, at := panels(r, cells, len(cells), name)
	for i, cell := range cells {
		p := at(i)
		var values []float64
		for _, f := range cell.Figures {
			for _, q := range f.Curve {
				values = append(values, q.Micros)
			}
		}
		ys := logScale(values, p.y+p.h, p.y)
		p.frame(cell.Title, "µs", ys)
		x := func(percentile float64) float64 { return p.x + p.w*nines(percentile)/nines(99.999) }
		for _, t := range []float64{0, 50, 90, 99, 99.9, 99.99} {
			c.line(x(t), p.y, x(t), p.y+p.h, grid, 1)
			c.text(x(t), p.y+p.h+16, middle, faint, 11, fmt.Sprintf("p%g", t))
		}
		for _, f := range cell.Figures {
			var line []point
			for _, q := range f.Curve {
				line = append(line, point{x(q.Percentile), ys.at(q.Micros)})
			}
			if len(line) > 0 {
				c.path(line, colour(r, f.Peer))
			}
		}
	}
	return Picture{"latency", name, c.String(name)}
}

// costChart shows what an I/O costs the target: CPU time and context switches.
func costChart(r *compare.Result) Picture {
	measures := []struct {
		title string
		of    func(compare.Figure) float64
	}{
		{"CPU time of the target, ns per I/O", func(f compare.Figure) float64 { return f.CPU }},
		{"context switches of the target per I/O", func(f compare.Figure) float64 { return f.Voluntary + f.Involuntary }},
	}
	const bar, gap, top, labels = 14.0, 12.0, 84.0, 230.0
	// A long title has a line of its own, and so has one over bars with names.
	head := func(cell *compare.Cell) float64 {
		if named(r, cell) || width(cell.Title) > labels-20 {
			return bar + 2
		}
		return 0
	}
	rows, height := 0, 0.0
	var plain []*compare.Cell
	for i := range r.Cells {
		if !named(r, &r.Cells[i]) {
			plain = append(plain, &r.Cells[i])
		}
		rows += len(r.Cells[i].Figures)
		height += head(&r.Cells[i]) + bar*float64(len(r.Cells[i].Figures)) + gap
	}
	if rows == 0 {
		return Picture{}
	}
	name := "What an I/O costs the target (left is better; a polling target's CPU time includes its polling)"
	c := &canvas{w: chartWidth, h: top + height + 40}
	c.text(12, 22, left, ink, 15, name)
	legend(c, r, plain, 12, 44)
	w := (chartWidth - labels - 150) / 2.0
	for k, m := range measures {
		var values []float64
		for _, cell := range r.Cells {
			for _, f := range cell.Figures {
				values = append(values, m.of(f))
			}
		}
		x0 := labels + float64(k)*(w+80)
		s := logScale(values, x0, x0+w)
		bottom := c.h - 30
		c.text(x0, 70, left, ink, 12, m.title)
		for _, t := range s.ticks() {
			c.line(s.at(t), top-6, s.at(t), bottom, grid, 1)
			c.text(s.at(t), bottom+16, middle, faint, 11, tick(t))
		}
		y := top
		for i := range r.Cells {
			cell := &r.Cells[i]
			if k == 0 {
				c.text(12, y+bar-2, left, ink, 12, cell.Title)
			}
			y += head(cell)
			for _, f := range cell.Figures {
				v := m.of(f)
				if k == 0 && named(r, cell) {
					c.text(labels-6, y+bar-3, right, faint, 10, title(r, f.Peer))
				}
				if v > 0 && f.IOPS.N > 0 {
					c.rect(x0, y+1, max(s.at(v)-x0, 2), bar-3, colour(r, f.Peer), "")
					c.text(max(s.at(v), x0+2)+5, y+bar-3, left, faint, 10, number(v))
				}
				y += bar
			}
			y += gap
		}
	}
	return Picture{"cost", name, c.String(name)}
}

// tick writes the mark of an axis.
func tick(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%gk", v/1e3)
	}
	return fmt.Sprintf("%.3g", v)
}

// number writes a figure briefly.
func number(v float64) string {
	switch {
	case v >= 1000:
		return load.SI(v)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.2g", v)
}
