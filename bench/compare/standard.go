package compare

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"spindle/bench/load"
	"spindle/bench/peer"
)

// Standard is the name of the set of workloads that has goals.
const Standard = "standard"

// Row is a line of the standard comparison.
type Row struct {
	ID, Title, Against string
	checks             []check
	elsewhere          string // why it is not measured here
}

// Names of the variants of Spindle that rows want.
const (
	oneReactor  = "spindle-1r"
	twoReactors = "spindle-2r"
	strict      = "spindle-strict" // its collector runs after next to no garbage
	bystander   = "spindle-other"  // makes garbage for the others' sake
)

const (
	ratePerSecond = 20_000 // of the rate-limited row: far from saturation
	connRate      = 2
	opcodeTime    = 300 * time.Millisecond
	opcodeRounds  = 3
	idleSessions  = 64
	idleTime      = 2 * time.Second
	settleTime    = 2 * time.Second // sessions find their reactors within a second
	garbageTime   = 5 * time.Second // long enough for some collections
)

// suite makes rows and tests for a name of the limit and of the subject.
type suite struct {
	limit string
	tests []Test
	rows  []Row
}

func workload(text string) Workload {
	list, err := ParseWorkloads(text)
	if err != nil || len(list) != 1 {
		panic("compare: " + text) // a constant of this file
	}
	return list[0]
}

// add makes a test that several rows may look at.
func (s *suite) add(t Test) string {
	if t.Name == "" {
		t.Name = t.Workload.Name()
	}
	if t.Title == "" {
		t.Title = t.Workload.Title()
	}
	if t.Subject == "" && !t.NoRatios {
		t.Subject = "spindle"
	}
	if !slices.ContainsFunc(s.tests, func(x Test) bool { return x.Name == t.Name }) {
		s.tests = append(s.tests, t)
	}
	return t.Name
}

func peers(names ...string) (list []Entry) {
	for _, n := range names {
		list = append(list, Entry{Peer: n})
	}
	return list
}

// TheStandard are all rows, with the tests they need. limit is the peer that
// the machine's limit is taken from.
func TheStandard(limit string) ([]Row, []Test) {
	s := &suite{limit: limit}
	s.null()
	s.perf()
	s.ram()
	s.digests()
	s.connections()
	s.reactors()
	s.idle()
	s.opcodes()
	s.garbage()
	s.rows = append(s.rows, Row{
		ID: "rig", Title: "iSER and TCP in the rig", Against: "better of STGT and LIO",
		elsewhere: "measured in the QEMU guest: make bench-rig",
	})
	return s.rows, s.tests
}

// null is the LUN that stores nothing: what the target itself costs.
func (s *suite) null() {
	rows := map[string]*Row{}
	order := []string{}
	at := func(id, title, against string, c check) {
		if rows[id] == nil {
			rows[id] = &Row{ID: id, Title: title, Against: against}
			order = append(order, id)
		}
		rows[id].checks = append(rows[id].checks, c)
	}
	cell := func(size string, depth int) string {
		t := Test{Workload: workload(fmt.Sprintf("null:randread:%s:%d", size, depth)), Entries: peers("spindle", "stgt", s.limit, "spdk")}
		if depth == 1 {
			t.Decides = "p50"
		}
		return s.add(t)
	}
	for _, size := range []string{"4k", "512"} {
		goal := atLeast(0.85)
		if size == "512" {
			goal = atLeast(0.7)
		}
		for _, depth := range []int{32, 128} {
			c := cell(size, depth)
			name := fmt.Sprintf("%s, QD %d", strings.ToUpper(size), depth)
			at("limit-"+size, "null "+size+" random read", "canned limit", quotient(name+": IOPS", c, "spindle", s.limit, "iops", goal))
			at("stgt", "null, own initiator", "STGT", share(name+": share of the limit's lead", c, "spindle", s.limit, "stgt", goal))
			spdk := atLeast(1.4)
			if size == "4k" && depth == 32 {
				spdk = atLeast(1.0)
			}
			at("spdk", "null, one core", "SPDK", quotient(name+": IOPS", c, "spindle", "spdk", "iops", spdk))
		}
	}
	one := cell("4k", 1)
	at("limit-qd1", "null 4k, QD 1", "canned limit", quotient("4K, QD 1: p50", one, "spindle", s.limit, "p50", atMost(1.15)))
	at("limit-qd1", "", "", absolute("4K, QD 1: p99.9", one, "spindle", "p999"))
	at("limit-qd1", "", "", absolute("4K, QD 1: p99.9 of the limit", one, s.limit, "p999"))
	at("spdk", "", "", quotient("4K, QD 1: p50", one, "spindle", "spdk", "p50", atMost(1.0)))
	for _, id := range order {
		s.rows = append(s.rows, *rows[id])
	}
}

// perf is a foreign initiator's view.
func (s *suite) perf() {
	row := Row{ID: "stgt-perf", Title: "null, iscsi-perf", Against: "STGT"}
	for _, size := range []string{"4k", "512"} {
		for _, depth := range []int{32, 128} {
			w := workload(fmt.Sprintf("null:randread:%s:%d", size, depth))
			c := s.add(Test{
				Name: "iscsi-perf " + w.Name(), Title: w.Title() + ", iscsi-perf", Workload: w,
				Entries: peers("spindle", "stgt"), Initiator: Perf,
			})
			row.checks = append(row.checks, quotient(fmt.Sprintf("%s, QD %d: IOPS", strings.ToUpper(size), depth), c, "spindle", "stgt", "iops", atLeast(1.4)))
		}
	}
	s.rows = append(s.rows, row)
}

// ram is the LUN that stores in memory.
func (s *suite) ram() {
	small := Row{ID: "ram-4k", Title: "RAM 4k, QD 32", Against: "STGT"}
	for _, rw := range []string{"randread", "randwrite", "randrw70"} {
		c := s.add(Test{Workload: workload("ram:" + rw + ":4k:32"), Entries: peers("spindle", "stgt")})
		small.checks = append(small.checks, quotient("4K "+rw+": IOPS", c, "spindle", "stgt", "iops", atLeast(10)))
	}
	large := Row{ID: "ram-128k", Title: "RAM 128k, QD 32", Against: "STGT; canned target with an equal buffer"}
	for _, rw := range []string{"read", "write"} {
		c := s.add(Test{Workload: workload("ram:" + rw + ":128k:32"), Entries: peers("spindle", "stgt", "limit")})
		large.checks = append(large.checks,
			quotient("128K "+rw+": IOPS over STGT", c, "spindle", "stgt", "iops", atLeast(4)),
			quotient("128K "+rw+": IOPS over the canned target", c, "spindle", "limit", "iops", atLeast(0.9)))
	}
	s.rows = append(s.rows, small, large)
}

// self makes a test of one peer under several workloads, the first of which is
// what the others are held against.
func (s *suite) self(name, title, target string, subject string, entries []Entry) string {
	for i := range entries {
		entries[i].Peer = target
	}
	return s.add(Test{Name: name, Title: title, Workload: *entries[0].Workload, Entries: entries, Subject: subject})
}

func (s *suite) digests() {
	row := Row{ID: "digests", Title: "header and data digests", Against: "itself without"}
	for _, text := range []string{"null:randread:4k:32", "null:randread:128k:32", "ram:randwrite:4k:32", "ram:randwrite:128k:32"} {
		plain := workload(text)
		digested := plain
		digested.Digests = true
		c := s.self("digests "+text, plain.Title()+", digests on and off", "spindle", "digests", []Entry{{Name: "digests", Workload: &digested}, {Name: "no digests", Workload: &plain}})
		row.checks = append(row.checks, quotient(plain.Title()+": IOPS", c, "digests", "no digests", "iops", atLeast(0.85)))
	}
	s.rows = append(s.rows, row)
}

func (s *suite) connections() {
	var entries []Entry
	var names, limits []string
	for _, n := range []int{1, 16, 256, 1024} {
		w := workload(fmt.Sprintf("null:randread:4k:32:%d", n))
		name := fmt.Sprintf("%d connections", n)
		names, limits = append(names, name), append(limits, "limit, "+name)
		entries = append(entries, Entry{Name: name, Peer: "spindle", Workload: &w}, Entry{Name: "limit, " + name, Peer: s.limit, Workload: &w})
	}
	c := s.add(Test{
		Name: "connections", Title: "null, 4K randread, QD 32 on each of 1 to 1024 connections", Workload: *entries[0].Workload,
		Entries: entries, Subject: names[len(names)-1],
	})
	row := Row{ID: "connections", Title: "1 to 1024 connections", Against: "itself", checks: []check{
		worst("total IOPS, slowest over fastest", c, names, atLeast(0.8)),
		worst("the same of the canned limit", c, limits, noBound),
	}}
	for i, name := range names {
		row.checks = append(row.checks, quotient(name+": IOPS over the canned limit's", c, name, limits[i], "iops", noBound))
	}
	s.rows = append(s.rows, row)
}

func (s *suite) reactors() {
	w := workload(fmt.Sprintf("null:randread:4k:8:%d", connRate))
	w.Rate, w.Sleep = ratePerSecond, true // one of the reactors has the initiator's CPU
	c := s.add(Test{
		Name: "reactors", Title: fmt.Sprintf("null, 4K randread, %d IOPS on %d connections, reactors that sleep when idle", ratePerSecond, connRate),
		Workload: w, Entries: peers(twoReactors, oneReactor), Subject: twoReactors, Decides: "cpu", Ramp: settleTime,
	})
	s.rows = append(s.rows, Row{ID: "reactors", Title: "2 reactors, rate-limited", Against: "itself with 1", checks: []check{
		quotient("thread-CPU ns per I/O", c, twoReactors, oneReactor, "cpu", atMost(1.1)),
	}})
}

func (s *suite) idle() {
	w := workload(fmt.Sprintf("null:randread:4k:1:%d", idleSessions))
	w.Idle = true
	c := s.add(Test{
		Name: "idle", Title: fmt.Sprintf("idle, %d sessions", idleSessions), Workload: w,
		Entries: peers("spindle"), NoRatios: true, Runtime: idleTime,
	})
	s.rows = append(s.rows, Row{ID: "idle", Title: "idle, 64 sessions, adaptive", Against: "-", checks: []check{
		coreShare("share of a core", c, "spindle", atMost(2)),
	}})
}

func (s *suite) opcodes() {
	var entries []Entry
	for _, name := range load.Opcodes() {
		w := workload("ram:randread:4k:32")
		if name == "compare-and-write" {
			w.Size = 512
		}
		w.Opcode = name
		entries = append(entries, Entry{Name: name, Workload: &w})
	}
	for i := range entries {
		entries[i].Peer = strict
	}
	c := s.add(Test{
		Name: "opcodes", Title: "RAM, each opcode, QD 32", Workload: *entries[0].Workload, Entries: entries,
		NoRatios: true, Runtime: opcodeTime, Rounds: opcodeRounds,
	})
	s.rows = append(s.rows, Row{ID: "opcodes", Title: "every opcode of the data path", Against: "-", checks: []check{
		noCollections("collections (0: no allocation)", c), mostCalls("system calls per I/O", c, atMost(0.1)),
	}})
}

func (s *suite) garbage() {
	w := workload("null:randread:4k:1")
	c := s.add(Test{
		Name: "garbage", Title: "null, 4K randread, QD 1, beside 100 MB/s of garbage", Workload: w, Runtime: garbageTime, Decides: "p999",
		Subject: "own garbage", Entries: []Entry{
			{Name: "own garbage", Peer: "spindle", Garbage: "spindle"},
			{Name: "another's garbage", Peer: "spindle", Garbage: bystander},
		},
	})
	q := quotient("p99.9", c, "own garbage", "another's garbage", "p999", atMost(1.25))
	values := q.values
	q.values = func(c *Cell) ([]float64, string) {
		v, _ := values(c)
		f := c.Figure("own garbage")
		if f.Collector == nil {
			return v, ""
		}
		least := math.Inf(1)
		for i := range c.Figures {
			for _, s := range c.Figures[i].Samples {
				least = min(least, s.Garbage)
			}
		}
		return v, fmt.Sprintf("%d collections in %d runs, longest pause %v; at least %.0f MB/s", f.Collector.Cycles, len(f.Samples),
			f.Collector.Longest.Round(time.Microsecond), least/1e6)
	}
	s.rows = append(s.rows, Row{ID: "garbage", Title: "control plane making garbage", Against: "another process making it", checks: []check{q}})
}

// Choose keeps the rows whose IDs are listed, and the tests they look at.
func Choose(rows []Row, tests []Test, only string) ([]Row, []Test, error) {
	if only == "" {
		return rows, tests, nil
	}
	var ids []string
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	var chosen []Row
	for id := range strings.SplitSeq(only, ",") {
		i := slices.Index(ids, id)
		if i < 0 {
			return nil, nil, fmt.Errorf("there is no row %q, only %s", id, strings.Join(ids, ", "))
		}
		chosen = append(chosen, rows[i])
	}
	var needed []Test
	for _, t := range tests {
		if slices.ContainsFunc(chosen, func(r Row) bool {
			return slices.ContainsFunc(r.checks, func(c check) bool { return c.cell == t.Name })
		}) {
			needed = append(needed, t)
		}
	}
	return chosen, needed, nil
}

// Rivals are the drivers that tests name, out of those there are and variants of
// Spindle on its CPU and on a second one.
func Rivals(tests []Test, all []peer.Driver, cpu, second int) (list []peer.Driver) {
	for _, d := range all {
		if d.Name() != "spindle" {
			continue
		}
		cores := func(args ...string) func(*peer.Setup) {
			return func(s *peer.Setup) {
				s.CPU = -1
				s.Args = append(s.Args, args...)
			}
		}
		all = append(slices.Clone(all),
			peer.Variant(d, oneReactor, "Spindle, 1 reactor", cores("--idle", "interrupt", "--cores", fmt.Sprintf("[%d]", cpu))),
			peer.Variant(d, twoReactors, "Spindle, 2 reactors", cores("--idle", "interrupt", "--cores", fmt.Sprintf("[%d,%d]", second, cpu))),
			peer.Variant(d, strict, "Spindle, collector after next to no garbage", func(s *peer.Setup) {
				s.Env = append(s.Env, "GOGC=2", "GOMEMLIMIT=off")
			}),
			peer.Variant(d, bystander, "Spindle, not measured", func(*peer.Setup) {}))
		break
	}
	for _, d := range all {
		if slices.ContainsFunc(tests, func(t Test) bool {
			return slices.ContainsFunc(t.Entries, func(e Entry) bool { return e.Peer == d.Name() || e.Garbage == d.Name() })
		}) {
			list = append(list, d)
		}
	}
	return list
}

// Judge evaluates rows.
func Judge(rows []Row, r *Result) (goals []Goal) {
	for i := range rows {
		row := &rows[i]
		if row.elsewhere != "" {
			goals = append(goals, Goal{Row: row.ID, Against: row.Against, What: row.Title, Verdict: Elsewhere, Note: row.elsewhere})
		}
		for j := range row.checks {
			goals = append(goals, row.checks[j].judge(r, row))
		}
	}
	return goals
}
