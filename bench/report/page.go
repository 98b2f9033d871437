package report

import (
	_ "embed" // the page's template
	"errors"
	"fmt"
	"html/template"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"spindle/bench/compare"
	"spindle/bench/counters"
	"spindle/bench/load"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{"class": class}).Parse(pageText))

// row of the table of figures, as text.
type row struct {
	Cell, Peer, Error                                        string
	IOPS, P50, P99, P999, CPU, Switches, Wakeups, Calls, Own string
	First                                                    bool // of its cell
	Ratio, RatioP50, GC, Heap                                string
}

// view is what both pages show.
type view struct {
	R        *compare.Result
	Subject  string
	Rows     []row
	Facts    [][2]string
	Absent   []compare.Peer
	Pictures []Picture
}

// Safe marks the picture as ours, for the template.
func (p Picture) Safe() template.HTML { return template.HTML(p.SVG) }

func newView(r *compare.Result) *view {
	v := &view{R: r, Subject: title(r, r.Method.Subject), Pictures: charts(r)}
	for i := range r.Cells {
		v.Rows = append(v.Rows, rows(r, &r.Cells[i])...)
	}
	for _, p := range r.Peers {
		if p.Absent != "" {
			v.Absent = append(v.Absent, p)
		}
	}
	v.Facts = facts(r)
	return v
}

func rows(r *compare.Result, cell *compare.Cell) (list []row) {
	for i, f := range cell.Figures {
		x := row{Cell: cell.Title, Peer: title(r, f.Peer), First: i == 0, Error: f.Error}
		if f.IOPS.N > 0 {
			x.IOPS = fmt.Sprintf("%s [%s–%s]", load.SI(f.IOPS.Median), load.SI(f.IOPS.Low), load.SI(f.IOPS.High))
			x.P50, x.P99, x.P999 = latency(f.P50), latency(f.P99), latency(f.P999)
			x.CPU = number(f.CPU)
			if f.Busy > 0 {
				x.CPU += fmt.Sprintf(" (busy %s)", number(f.Busy))
			}
			x.Switches = number(f.Voluntary) + " + " + number(f.Involuntary)
			x.Wakeups, x.Calls, x.Own = known(f.Wakeups), known(f.Syscalls), number(f.Initiator)
			x.Heap, x.GC = allocations(f.Heap), collections(&f)
			x.Ratio, x.RatioP50 = ratio(cell.Ratio(f.Peer, "iops")), ratio(cell.Ratio(f.Peer, "p50"))
		}
		list = append(list, x)
	}
	return list
}

// latency is a number, or nothing from an initiator that does not tell.
func latency(i compare.Interval) string {
	if i.Median == 0 {
		return "?"
	}
	return number(i.Median)
}

// allocations are objects and bytes for an I/O, of a target that tells.
func allocations(h *compare.Heap) string {
	if h == nil {
		return "-"
	}
	return fmt.Sprintf("%s (%s B)", number(h.Objects), number(h.Bytes))
}

// collections are how many there were, how long the world stood still for all of
// them, and the longest time it did.
func collections(f *compare.Figure) string {
	n, total, g := int64(0), time.Duration(0), f.Collector
	switch {
	case f.Heap != nil:
		n, total = f.Heap.Collections, f.Heap.Pauses
	case g != nil:
		n, total = int64(g.Cycles), g.Pauses
	default:
		return "-"
	}
	if n == 0 {
		return "0"
	}
	text := fmt.Sprintf("%d, %v", n, total.Round(time.Microsecond))
	if g != nil && g.Cycles > 0 {
		text += fmt.Sprintf(", at most %v", g.Longest.Round(time.Microsecond))
	}
	return text
}

func known(v float64) string {
	if v == counters.Unknown {
		return "?"
	}
	return number(v)
}

// ratio prints the interval of a ratio, and the ratio only if that means something.
func ratio(q *compare.Ratio) string {
	switch {
	case q == nil:
		return ""
	case q.Refused:
		return fmt.Sprintf("refused [%.2f–%.2f]", q.Interval.Low, q.Interval.High)
	}
	return fmt.Sprintf("%.2f [%.2f–%.2f]", q.Interval.Median, q.Interval.Low, q.Interval.High)
}

func facts(r *compare.Result) [][2]string {
	m, how := r.Machine, r.Method
	virtual := ""
	if m.Virtual {
		virtual = ", virtual"
	}
	list := [][2]string{
		{"measured", r.Started.Format("2006-01-02 15:04 MST") + fmt.Sprintf(", in %.0f s, by %s", r.Took.Seconds(), r.Tool)},
		{"machine", fmt.Sprintf("%s, %d CPUs%s, %d MiB, Linux %s, %s", m.CPU, m.CPUs, virtual, m.MemoryMiB, m.Kernel, m.Go)},
		{"commit", m.Commit},
		{"disturbance", fmt.Sprintf("load average %.2f before the start, %.1f %% of the CPU time stolen by the hypervisor", m.LoadStart, 100*m.Steal)},
		{"method", fmt.Sprintf("%d interleaved rounds of %v after a ramp of %v; targets on CPU %d, initiator (%s) on CPU %d; %s; LUNs of %s, those in memory written through first",
			how.Rounds, how.Runtime, how.Ramp, how.TargetCPU, how.Initiator, how.InitiatorCPU, way(how), load.FormatBytes(how.LUNSize))},
	}
	for _, p := range r.Peers {
		if p.Absent == "" {
			version := p.Version
			if p.Counted != "" {
				version += "; counted by " + p.Counted
			}
			list = append(list, [2]string{p.Title, version})
		}
	}
	return list
}

// way is how the I/O travels.
func way(m compare.Method) string {
	if m.Initiator == compare.FIO {
		return "by " + strings.ReplaceAll(m.Transport, ",", " and ") + " from the kernel's initiator on the same machine"
	}
	return strings.ToUpper(m.Transport) + " over loopback, " + m.Congestion
}

// HTML is the page.
func HTML(r *compare.Result) (string, error) {
	var b strings.Builder
	err := page.Execute(&b, newView(r))
	return b.String(), err
}

// Markdown is the page for a repository; its pictures are files in folder dir,
// seen from the page.
func Markdown(r *compare.Result, dir string) string {
	v := newView(r)
	var b strings.Builder
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "> **Warning:** %s.\n\n", w)
	}
	goalsMarkdown(&b, r)
	kernelMarkdown(&b, v)
	for _, f := range v.Facts {
		fmt.Fprintf(&b, "* %s: %s\n", f[0], f[1])
	}
	for _, p := range v.Absent {
		fmt.Fprintf(&b, "* %s: %s\n", p.Title, p.Absent)
	}
	fmt.Fprintf(&b, "\n| workload | target | IOPS | %s's IOPS over it | p50 µs | p99 µs | p99.9 µs | CPU ns/IO | switches/IO (vol + invol) | syscalls/IO | allocations/IO | GC pauses |\n", v.Subject)
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, x := range v.Rows {
		cell := ""
		if x.First {
			cell = x.Cell
		}
		if x.Error != "" && x.IOPS == "" {
			fmt.Fprintf(&b, "| %s | %s | failed: %s | | | | | | | | | |\n", cell, x.Peer, oneLine(x.Error))
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", cell, x.Peer, x.IOPS, x.Ratio, x.P50, x.P99, x.P999, x.CPU, x.Switches, x.Calls, x.Heap, x.GC)
	}
	b.WriteByte('\n')
	for _, p := range v.Pictures {
		fmt.Fprintf(&b, "![%s](%s)\n\n", p.Title, path.Join(dir, p.Name+".svg"))
	}
	return b.String()
}

// Text is the figures for a terminal.
func Text(r *compare.Result) string {
	v := newView(r)
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "workload\ttarget\tIOPS\t%s over it\tp50 us\tp99.9 us\tCPU ns/IO\tswitches/IO\tsyscalls/IO\tallocations/IO\tGC pauses\n", v.Subject)
	for _, x := range v.Rows {
		if x.IOPS == "" {
			fmt.Fprintf(w, "%s\t%s\tfailed: %s\n", x.Cell, x.Peer, oneLine(x.Error))
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Cell, x.Peer, x.IOPS, x.Ratio, x.P50, x.P999, x.CPU, x.Switches, x.Calls, x.Heap, x.GC)
	}
	w.Flush()
	goalsText(&b, r)
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	return b.String()
}

func oneLine(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", "\\|")
}

// Write puts the pages and pictures into dir and returns their names.
func Write(r *compare.Result, dir string) ([]string, error) {
	text, err := HTML(r)
	if err != nil {
		return nil, err
	}
	files := [][2]string{{"report.html", text}, {"report.md", Markdown(r, "")}}
	for _, p := range charts(r) {
		files = append(files, [2]string{p.Name + ".svg", p.SVG})
	}
	var names []string
	for _, f := range files {
		name := filepath.Join(dir, f[0])
		if err := os.WriteFile(name, []byte(f[1]), 0o644); err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, nil
}

// Result is the section of a document that a comparison goes to unless it is said
// otherwise.
const Result = "result"

// sectionLines are the lines of a section between which Insert writes.
func sectionLines(section string) (begin, end string) {
	return "<!-- " + section + ": made by spindle-bench, do not edit -->\n", "<!-- end of " + section + " -->\n"
}

// ErrNoPlace: a document has no lines to write between.
var ErrNoPlace = errors.New("the document has no place for a result")

// Insert puts the Markdown into a section of a document, in place of a former one. The
// pictures are in dir.
func Insert(r *compare.Result, document, section, dir string) error {
	begin, end := sectionLines(section)
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: %w: want the lines %q and %q", document, ErrNoPlace, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	from, err := filepath.Rel(filepath.Dir(document), dir)
	if err != nil {
		return err
	}
	return os.WriteFile(document, []byte(before+begin+"\n"+Markdown(r, filepath.ToSlash(from))+end+after), 0o644)
}
