package report

import (
	"context"
	"encoding/xml"
	"errors"
	"image"
	_ "image/png"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"spindle/bench/compare"
	"spindle/bench/counters"
)

// sample is a result with everything a page may have to show: several depths, a
// refused ratio, a failure, a target that is absent, unknown counts.
func sample() *compare.Result {
	interval := func(m float64) compare.Interval {
		return compare.Interval{Median: m, Low: m * 0.9, High: m * 1.1, Coverage: 0.9375, N: 5}
	}
	r := &compare.Result{
		Tool: "test", Started: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), Took: time.Minute,
		Machine:  compare.Machine{CPU: "a CPU", CPUs: 2, MemoryMiB: 1024, Kernel: "6.1", Go: "go1.26", Commit: "abc"},
		Method:   compare.Method{Rounds: 5, Runtime: time.Second, Ramp: time.Second / 4, MaxSpread: 1.5, Subject: "spindle", Transport: "tcp", LUNSize: 256 << 20},
		Warnings: []string{"the machine was not at rest"},
		Peers: []compare.Peer{
			{Name: "spindle", Title: "Spindle", Version: "v1", Counted: "eBPF"}, {Name: "stgt", Title: "STGT", Version: "tgtd <1>", Counted: "/proc"},
			{Name: "lio", Title: "LIO", Absent: "absent: runs in the rig"},
		},
	}
	for i, depth := range []int{1, 32} {
		w := compare.Workload{LUN: "null", RW: "randread", Mix: 100, Size: 4096, Depth: depth, Connections: 1}
		figure := func(peer string, iops float64) compare.Figure {
			f := compare.Figure{
				Peer: peer, IOPS: interval(iops), P50: interval(1e6 * float64(depth) / iops), P99: interval(2e6 / iops), P999: interval(5e6 / iops),
				CPU: 1e9 / iops, Voluntary: 1000 / iops, Involuntary: 10 / iops, Wakeups: counters.Unknown, Syscalls: 10,
			}
			for j, p := range []float64{0, 50, 90, 99, 99.9, 99.99, 100} {
				f.Curve = append(f.Curve, compare.Point{Percentile: p, Micros: float64(1+j) * 1e6 / iops})
			}
			return f
		}
		ours := figure("spindle", 50e3*float64(depth))
		ours.Heap = &compare.Heap{Objects: 0.25, Bytes: 1500, Collections: int64(i), Pauses: 1500 * time.Microsecond}
		ours.Collector = &counters.GC{Cycles: i, Longest: time.Millisecond}
		r.Cells = append(r.Cells, compare.Cell{
			Workload: w, Name: w.Name(), Title: w.Title(),
			Figures: []compare.Figure{ours, figure("stgt", 20e3*float64(1+i))},
			Ratios:  []compare.Ratio{{Of: "spindle", To: "stgt", What: "iops", Interval: interval(2.5 * float64(depth)), Refused: i == 1}},
		})
	}
	r.Goals = []compare.Goal{
		{Row: "limit-4k", Against: "canned limit", What: "QD 32", Want: "≥ 0.85x", Interval: interval(0.9), Unit: "x", Verdict: compare.Met},
		{Row: "limit-4k", Against: "canned limit", What: "QD 128", Want: "≥ 0.85x", Interval: interval(0.7), Unit: "x", Verdict: compare.NotMet, Note: "a | note"},
		{Row: "spdk", Against: "SPDK", What: "QD 32", Want: "≥ 1x", Verdict: compare.Missing, Note: "SPDK is absent"},
	}
	r.Cells = append(r.Cells, compare.Cell{Title: "ram, broken", Figures: []compare.Figure{{Peer: "stgt", Error: "it | ended\nby itself"}}})
	return r
}

func TestPageNeedsNothingBesideIt(t *testing.T) {
	text, err := HTML(sample())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Spindle measured", "the machine was not at rest", "2.50 [2.25–2.75]", "refused [72.00–88.00]", "tgtd &lt;1&gt;",
		"runs in the rig", "it | ended", "50.0k [45.0k–55.0k]", "<svg", "Linux 6.1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if outside := regexp.MustCompile(`(?:src|href)=|@import|url\(`).FindString(text); outside != "" {
		t.Errorf("the page refers to something beside it: %s", outside)
	}
}

// A line through points of different conditions says nothing.
func TestDepthChartKeepsConditionsApart(t *testing.T) {
	r := sample()
	for _, cell := range slices.Clone(r.Cells[:2]) {
		by := cell
		by.Name = "iscsi-perf " + cell.Name
		limited := cell
		limited.Workload.Rate = 20000
		r.Cells = append(r.Cells, by, limited)
	}
	r.Peers = append(r.Peers, compare.Peer{Name: "spindle-2r", Title: "two reactors"})
	svg := depthChart(r).SVG
	for text, want := range map[string]int{">null, 4k randread<": 1, ">null, 4k randread, iscsi-perf<": 1, "<circle": 8, "two reactors": 0} {
		if n := strings.Count(svg, text); n != want {
			t.Errorf("%q %d times, not %d, in\n%s", text, n, want, svg)
		}
	}
}

func TestMarkdown(t *testing.T) {
	text := Markdown(sample(), "")
	for _, want := range []string{"> **Warning:**", "| null, 4K randread, QD 1 | Spindle | 50.0k", "it \\| ended by itself", "![", "(ratios.svg)"} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q in\n%s", want, text)
		}
	}
	columns := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "|") {
			columns = 0 // another table may follow
			continue
		}
		n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
		if columns == 0 {
			columns = n
		}
		if n != columns {
			t.Errorf("%d bars instead of %d in %s", n, columns, line)
		}
	}
}

// TestAllocations: a target tells of its heap, another cannot.
func TestAllocations(t *testing.T) {
	html, err := HTML(sample())
	if err != nil {
		t.Fatal(err)
	}
	spaces := regexp.MustCompile(` {2,}`)
	for _, c := range []struct{ name, text, want string }{
		{"page", html, "<td>0.25 (1.50k B)</td><td>1, 1.5ms, at most 1ms</td>"},
		{"page, without collections", html, "<td>0.25 (1.50k B)</td><td>0</td>"},
		{"page, untold", html, "<td>-</td><td>-</td>"},
		{"Markdown", Markdown(sample(), ""), "| 10 | 0.25 (1.50k B) | 1, 1.5ms, at most 1ms |"},
		{"Markdown, untold", Markdown(sample(), ""), "| 10 | - | - |"},
		{"terminal", spaces.ReplaceAllString(Text(sample()), "  "), "10  0.25 (1.50k B)  0\n"},
	} {
		if !strings.Contains(c.text, c.want) {
			t.Errorf("%s lacks %q:\n%s", c.name, c.want, c.text)
		}
	}
}

func TestGoals(t *testing.T) {
	html, err := HTML(sample())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"page", html, `<span class="not-met">not met</span>; a | note`},
		{"page, tally", html, "Goals: 1 met, 1 not met, 1 missing"},
		{"Markdown", Markdown(sample(), ""), "|  |  | QD 128 | ≥ 0.85x | 0.70x [0.63–0.77] | **not met**; a \\| note |"},
		{"terminal", Text(sample()), "goals: 1 met, 1 not met, 1 missing"},
	} {
		if !strings.Contains(c.text, c.want) {
			t.Errorf("%s lacks %q:\n%s", c.name, c.want, c.text)
		}
	}
}

func TestInsert(t *testing.T) {
	dir := t.TempDir()
	doc := filepath.Join(dir, "page.md")
	begin, end := sectionLines(Result)
	other, otherEnd := sectionLines("rig")
	after := other + "theirs\n" + otherEnd + "after\n"
	if err := os.WriteFile(doc, []byte("# before\n"+begin+"old\n"+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
	var texts [2]string
	for i := range texts { // the second time replaces the first
		if err := Insert(sample(), doc, Result, filepath.Join(dir, "pictures")); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	if texts[0] != texts[1] || strings.Contains(texts[0], "old") || !strings.HasPrefix(texts[0], "# before\n") ||
		!strings.HasSuffix(texts[0], after) || !strings.Contains(texts[0], "(pictures/ratios.svg)") {
		t.Error(texts[0])
	}
	if err := os.WriteFile(doc, []byte("no place"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Insert(sample(), doc, Result, dir); !errors.Is(err, ErrNoPlace) {
		t.Errorf("%v", err)
	}
}

func TestPicturesAreXML(t *testing.T) {
	pictures := charts(sample())
	if len(pictures) != 4 {
		t.Errorf("%d pictures, want 4", len(pictures))
	}
	for _, p := range pictures {
		d := xml.NewDecoder(strings.NewReader(p.SVG))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Errorf("%s: %v", p.Name, err)
				break
			}
		}
		if strings.Contains(p.SVG, "NaN") || strings.Contains(p.SVG, "Inf") {
			t.Errorf("%s has a coordinate that is no number", p.Name)
		}
	}
}

var label = regexp.MustCompile(`<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"[^>]* font-size="(\d+)"[^>]*>([^<]*)</text>`)

// TestLabelsCanBeRead: no label lies on another, however long a title is, and
// what has a name of its own has it beside its bar.
func TestLabelsCanBeRead(t *testing.T) {
	r := sample()
	self := r.Cells[0]
	self.Title = "null, 4K randread, QD 32 on each of 1 to 1024 connections, with a title that does not end"
	self.Figures = slices.Clone(self.Figures)
	self.Figures[0].Peer, self.Figures[1].Peer = "1024 connections", "limit, 1024 connections"
	self.Ratios = []compare.Ratio{{Of: "1024 connections", To: "limit, 1024 connections", What: "iops", Interval: self.Ratios[0].Interval}}
	r.Cells = append(r.Cells, self)
	type box struct {
		from, to, y float64
		text        string
	}
	for _, p := range charts(r) {
		if p.Name != "ratios" && p.Name != "cost" {
			continue
		}
		if !strings.Contains(p.SVG, ">limit, 1024 connections<") {
			t.Errorf("%s does not name a figure", p.Name)
		}
		var boxes []box
		for _, m := range label.FindAllStringSubmatch(p.SVG, -1) {
			x, _ := strconv.ParseFloat(m[1], 64)
			y, _ := strconv.ParseFloat(m[2], 64)
			size, _ := strconv.ParseFloat(m[4], 64)
			w := float64(utf8.RuneCountInString(m[5])) * size * 0.5
			b := box{x, x + w, y, m[5]}
			switch m[3] {
			case "end":
				b.from, b.to = x-w, x
			case "middle":
				b.from, b.to = x-w/2, x+w/2
			}
			boxes = append(boxes, b)
		}
		if len(boxes) < 10 {
			t.Fatalf("%s has %d labels", p.Name, len(boxes))
		}
		for i, a := range boxes {
			for _, b := range boxes[:i] {
				if math.Abs(a.y-b.y) < 7 && a.from < b.to && b.from < a.to {
					t.Errorf("%s: %q lies on %q", p.Name, a.text, b.text)
				}
			}
		}
	}
}

func TestAnEmptyResultHasAPage(t *testing.T) {
	if _, err := HTML(&compare.Result{}); err != nil {
		t.Error(err)
	}
	if n := len(charts(&compare.Result{})); n != 0 {
		t.Errorf("%d pictures of nothing", n)
	}
}

// TestBrowserShowsThePage looks at what a person would see.
func TestBrowserShowsThePage(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no Chromium (apt-get install chromium)")
	}
	dir := t.TempDir()
	if _, err := Write(sample(), dir); err != nil {
		t.Fatal(err)
	}
	shot := filepath.Join(dir, "page.png")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--window-size=1040,2600", "--screenshot="+shot,
		"file://"+filepath.Join(dir, "report.html")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(shot)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer f.Close()
	img, _, err := image.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	// The colours of both targets cover some of it, and so does text.
	seen := map[[3]uint8]int{}
	b := img.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r, g, bl, _ := img.At(x, y).RGBA()
			seen[[3]uint8{uint8(r >> 8), uint8(g >> 8), uint8(bl >> 8)}]++
		}
	}
	for name, c := range map[string][3]uint8{"Spindle's": {0x00, 0x72, 0xb2}, "STGT's": {0xe6, 0x9f, 0x00}, "the ink's": {0x1f, 0x29, 0x33}, "the warning's": {0xff, 0xf3, 0xc4}} {
		if seen[c] < 300 {
			t.Errorf("%s colour covers %d pixels", name, seen[c])
		}
	}
}
