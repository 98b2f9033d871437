package compare

import (
	"strings"
	"testing"
	"time"

	"spindle/bench/counters"
	"spindle/bench/peer"
)

// steady are samples of these IOPS, one a round.
func steady(name string, iops ...float64) Figure {
	f := Figure{Peer: name, Syscalls: 0.05, Collector: &counters.GC{}}
	for i, v := range iops {
		f.Samples = append(f.Samples, Sample{Round: i, IOPS: v, P50: 1e6 / v, P999: 5e6 / v, IOs: uint64(v), Elapsed: time.Second, Counts: counters.Counts{Run: 10e6}})
	}
	f.IOPS = Summarise(iops)
	return f
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name    string
		check   check
		figures []Figure
		verdict string
		figure  string
		note    string
	}{
		{"reached", quotient("q", "cell", "a", "b", "iops", atLeast(0.85)),
			[]Figure{steady("a", 90, 91, 92, 93, 94), steady("b", 100, 100, 100, 100, 100)}, Met, "0.92x [0.90–0.94]", ""},
		{"not reached", quotient("q", "cell", "a", "b", "iops", atLeast(0.95)),
			[]Figure{steady("a", 90, 91, 92, 93, 94), steady("b", 100, 100, 100, 100, 100)}, NotMet, "0.92x [0.90–0.94]", ""},
		{"at most", quotient("q", "cell", "a", "b", "p50", atMost(1.15)),
			[]Figure{steady("a", 90, 90, 90), steady("b", 100, 100, 100)}, Met, "1.11x [1.11–1.11]", ""},
		{"too wide, across the goal", quotient("q", "cell", "a", "b", "iops", atLeast(1)),
			[]Figure{steady("a", 50, 100, 150, 200, 60), steady("b", 100, 100, 100, 100, 100)}, Undecided, "1.00x [0.50–2.00]", ""},
		{"wide, but on one side", quotient("q", "cell", "a", "b", "iops", atLeast(10)),
			[]Figure{steady("a", 1500, 2000, 2500, 3000, 4000), steady("b", 100, 100, 100, 100, 100)}, Met, "25.00x [15.00–40.00]", ""},
		{"two rounds only", quotient("q", "cell", "a", "b", "iops", atLeast(1)),
			[]Figure{steady("a", 200, 200), steady("b", 100, 100)}, Undecided, "2.00x [2.00–2.00]", ""},
		{"absent", quotient("q", "cell", "a", "gone", "iops", atLeast(1)), []Figure{steady("a", 1, 2, 3)}, Missing, "", "Gone is absent"},
		{"failed", quotient("q", "cell", "a", "b", "iops", atLeast(1)),
			[]Figure{steady("a", 1, 2, 3), {Peer: "b", Error: "it broke\nlong story"}}, Missing, "", "it broke"},
		{"share", share("s", "cell", "a", "b", "c", atLeast(0.7)),
			[]Figure{steady("a", 80, 80, 80), steady("b", 100, 100, 100), steady("c", 10, 10, 10)}, Met, "0.80x [0.80–0.80]", "a has 8.0x, the limit 10.0x of c"},
		{"slowest over fastest", worst("w", "cell", []string{"a", "b", "c"}, atLeast(0.8)),
			[]Figure{steady("a", 100, 100, 100), steady("b", 70, 70, 70), steady("c", 90, 90, 90)}, NotMet, "0.70x [0.70–0.70]", "slowest: b"},
		{"share of a core", coreShare("i", "cell", "a", atMost(2)), []Figure{steady("a", 1, 1, 1)}, Met, "1.00 % [1.00–1.00]", ""},
		{"no goal", absolute("p", "cell", "a", "p999"), []Figure{steady("a", 1000, 1000, 1000)}, Reported, "5000.00 µs [5000.00–5000.00]", ""},
		{"system calls", mostCalls("c", "cell", atMost(0.1)), []Figure{steady("a", 1)}, Met, "0.0500", "the most: a"},
		{"not counted", mostCalls("c", "cell", atMost(0.1)), []Figure{{Peer: "a", Syscalls: counters.Unknown}}, Missing, "", "not counted"},
		{"no collection", noCollections("g", "cell"), []Figure{steady("a", 9)}, Met, "0.0000", "in 9 I/Os"},
		{"not measured", quotient("q", "other", "a", "b", "iops", atLeast(1)), nil, Missing, "", "not measured"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Result{
				Method: Method{MaxSpread: 1.5}, Peers: []Peer{{Name: "gone", Title: "Gone", Absent: "absent: get it"}},
				Cells: []Cell{{Name: "cell", Figures: c.figures}},
			}
			g := c.check.judge(r, &Row{ID: "row"})
			if g.Verdict != c.verdict || g.Figure() != c.figure || !strings.Contains(g.Note, c.note) {
				t.Errorf("%s, %q, %q", g.Verdict, g.Figure(), g.Note)
			}
		})
	}
}

func TestCollectionsAreSeen(t *testing.T) {
	busy := steady("a", 9, 9)
	for i := range busy.Samples {
		busy.Samples[i].Collector.Cycles = 2
	}
	once := steady("b", 9, 9)
	once.Samples[0].Collector.Cycles = 1
	r := &Result{Cells: []Cell{{Name: "cell", Figures: []Figure{busy, once}}}}
	c := noCollections("g", "cell")
	if g := c.judge(r, &Row{}); g.Verdict != NotMet || g.Interval.Median != 2 || !strings.HasSuffix(g.Note, " a") {
		t.Errorf("%+v", g)
	}
}

// TestStandardIsWhole: every check looks at figures that a test makes, of peers
// that there are, and every test is looked at.
func TestStandardIsWhole(t *testing.T) {
	rows, tests := TheStandard("limit")
	drivers := Rivals(tests, peer.Drivers(peer.Paths{}), 1, 0)
	known := map[string]bool{}
	for _, d := range drivers {
		known[d.Name()] = true
	}
	figures, used := map[string]map[string]bool{}, map[string]bool{}
	for _, x := range tests {
		if figures[x.Name] != nil {
			t.Errorf("two tests are called %q", x.Name)
		}
		figures[x.Name] = map[string]bool{}
		for _, e := range x.Entries {
			name := e.Name
			if name == "" {
				name = e.Peer
			}
			figures[x.Name][name] = true
			if !known[e.Peer] || e.Garbage != "" && !known[e.Garbage] {
				t.Errorf("%s: there is no peer %q or %q", x.Name, e.Peer, e.Garbage)
			}
		}
		if !x.NoRatios && !figures[x.Name][x.Subject] {
			t.Errorf("%s: ratios of %q, which it does not measure", x.Name, x.Subject)
		}
	}
	ids := map[string]bool{}
	for _, row := range rows {
		if ids[row.ID] || len(row.checks) == 0 && row.elsewhere == "" {
			t.Errorf("row %q is there twice, or says nothing", row.ID)
		}
		ids[row.ID] = true
		for _, c := range row.checks {
			used[c.cell] = true
			for _, f := range c.needs {
				if !figures[c.cell][f] {
					t.Errorf("%s, %s: no test makes a figure %q in %q", row.ID, c.what, f, c.cell)
				}
			}
		}
	}
	for name := range figures {
		if !used[name] {
			t.Errorf("nothing looks at %q", name)
		}
	}
}

func TestChoose(t *testing.T) {
	rows, tests := TheStandard("limit")
	some, few, err := Choose(rows, tests, "idle,limit-qd1")
	if err != nil || len(some) != 2 || len(few) != 2 {
		t.Errorf("%d rows, %d tests, %v", len(some), len(few), err)
	}
	if _, _, err := Choose(rows, tests, "fly"); err == nil || !strings.Contains(err.Error(), "limit-4k") {
		t.Errorf("%v", err)
	}
}

func TestMerge(t *testing.T) {
	r := &Result{Cells: []Cell{{Name: "a", Title: "old"}, {Name: "b"}}, Peers: []Peer{{Name: "p", Version: "1"}}, Machine: Machine{Commit: "x"}}
	r.Merge(&Result{Cells: []Cell{{Name: "c"}, {Name: "a", Title: "new"}}, Peers: []Peer{{Name: "p", Version: "2"}, {Name: "q"}}, Machine: Machine{Commit: "y"}, Warnings: []string{"w"}})
	if len(r.Cells) != 3 || r.Cells[0].Title != "new" || len(r.Peers) != 2 || r.Peers[0].Version != "2" || len(r.Warnings) != 2 {
		t.Errorf("%+v", r)
	}
}
