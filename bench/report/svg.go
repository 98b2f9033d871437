package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// canvas collects the elements of a picture.
type canvas struct {
	b    strings.Builder
	w, h float64
}

const (
	ink    = "#1f2933"
	faint  = "#52606d"
	grid   = "#e4e7eb"
	family = "system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif"
)

// anchors of a text.
const (
	left   = "start"
	middle = "middle"
	right  = "end"
)

func (c *canvas) add(format string, args ...any) { fmt.Fprintf(&c.b, format+"\n", args...) }

func (c *canvas) line(x1, y1, x2, y2 float64, colour string, width float64) {
	c.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>`, x1, y1, x2, y2, colour, width)
}

func (c *canvas) rect(x, y, w, h float64, fill, extra string) {
	c.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" %s/>`, x, y, max(w, 0), h, fill, extra)
}

func (c *canvas) dot(x, y float64, colour string) {
	c.add(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x, y, colour)
}

func (c *canvas) text(x, y float64, anchor, colour string, size int, text string) {
	c.add(`<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" font-size="%d">%s</text>`, x, y, anchor, colour, size, html.EscapeString(text))
}

type point struct{ x, y float64 }

func (c *canvas) path(points []point, colour string) {
	var p []string
	for _, q := range points {
		p = append(p, fmt.Sprintf("%.1f,%.1f", q.x, q.y))
	}
	c.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2" stroke-linejoin="round"/>`, strings.Join(p, " "), colour)
}

// String is the picture. The title is what a screen reader says.
func (c *canvas) String(title string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-label="%s" font-family="%s">
<title>%s</title>
<rect width="100%%" height="100%%" fill="#ffffff"/>
%s</svg>
`, c.w, c.h, c.w, c.h, html.EscapeString(title), family, html.EscapeString(title), c.b.String())
}

// scale maps values to a range of pixels, linearly in their logarithm.
type scale struct {
	low, high float64
	from, to  float64
}

// logScale covers the values, widened to marks of 1, 2 and 5.
func logScale(values []float64, from, to float64) scale {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if v > 0 && !math.IsInf(v, 0) {
			low, high = min(low, v), max(high, v)
		}
	}
	if low > high {
		low, high = 1, 10
	}
	s := scale{from: from, to: to, low: low, high: high}
	steps := marks(low/10, high*10)
	for _, m := range steps {
		if m <= low {
			s.low = m
		}
	}
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i] >= high {
			s.high = steps[i]
		}
	}
	if s.high == s.low {
		s.high *= 2
	}
	return s
}

func (s scale) at(v float64) float64 {
	v = min(max(v, s.low), s.high)
	return s.from + (s.to-s.from)*math.Log(v/s.low)/math.Log(s.high/s.low)
}

// ticks are the marks of an axis, fewer of them when it is long.
func (s scale) ticks() []float64 {
	all := marks(s.low, s.high)
	if len(all) <= 8 {
		return all
	}
	var tens []float64
	for _, m := range all {
		if e := math.Log10(m); math.Abs(e-math.Round(e)) < 1e-9 {
			tens = append(tens, m)
		}
	}
	return tens
}

// marks are the numbers 1, 2 and 5 times a power of ten within the bounds.
func marks(low, high float64) (list []float64) {
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, m := range []float64{1, 2, 5} {
			if v := m * math.Pow(10, e); v >= low*0.9999999 && v <= high*1.0000001 {
				list = append(list, v)
			}
		}
	}
	return list
}
