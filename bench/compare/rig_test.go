package compare

import (
	"strings"
	"testing"
)

// rigResult has one cell a depth, each with the given leads of Spindle over STGT,
// and over LIO, which has half of STGT's speed.
func rigResult(net float64, leads ...[]float64) *Result {
	r := &Result{Method: Method{Rounds: len(leads[0]), Subject: "spindle", MaxSpread: 3}, IdleSpin: 100}
	for depth, lead := range leads {
		w := Workload{Transport: ISER, LUN: "null", RW: "randread", Size: 4096, Depth: 1 + depth, Connections: 1}
		c := Cell{Workload: w, Name: w.Name(), Title: w.Title(), Subject: "spindle", Figures: []Figure{{Peer: "spindle"}, {Peer: "stgt"}, {Peer: "lio"}}}
		for round, v := range lead {
			// The machine is twice as fast every other round.
			speed := 1000 * float64(1+round%2)
			for i, iops := range []float64{v * speed, speed, speed / 2} {
				c.Figures[i].Samples = append(c.Figures[i].Samples, Sample{Round: round, IOPS: iops, IOs: 1000})
			}
		}
		for i := range c.Figures {
			c.Figures[i].summarise(nil, 0)
		}
		c.Figures[0].Net, c.Figures[0].Voluntary, c.Figures[1].Voluntary = net, 2*net, 2
		r.Cells = append(r.Cells, c)
	}
	return r
}

func TestJudgeRig(t *testing.T) {
	of := func(v float64) []float64 { return []float64{v, v * 1.01, v * 0.99, v, v, v, v, v, v} }
	for _, c := range []struct {
		name               string
		net                float64
		leads              [][]float64
		mean, floor, share string
	}{
		{"wins everywhere", 0.1, [][]float64{of(1.2), of(1.5)}, Met, Met, Met},
		{"wins on the whole", 0.1, [][]float64{of(0.9), of(2)}, Met, NotMet, Met},
		{"one cell wavers", 0.1, [][]float64{{0.7, 1.2, 0.8, 1.1, 0.9, 1.3, 0.7, 1.2, 0.9}, of(2)}, Met, Met, Met},
		{"not enough", 0.1, [][]float64{of(1.1), of(1.1)}, NotMet, Met, Met},
		{"switches too often", 0.3, [][]float64{of(1.2), of(1.2)}, Met, Met, NotMet},
	} {
		t.Run(c.name, func(t *testing.T) {
			goals := JudgeRig(rigResult(c.net, c.leads...))
			if len(goals) != 3 {
				t.Fatalf("%d goals", len(goals))
			}
			for i, want := range []string{c.mean, c.floor, c.share} {
				if goals[i].Verdict != want {
					t.Errorf("%s is %s, want %s: %+v", goals[i].What, goals[i].Verdict, want, goals[i])
				}
			}
		})
	}
}

// The better rival is another one in another cell, and a target that failed is
// no reason to have met a goal.
func TestJudgeRigByTheBetter(t *testing.T) {
	r := rigResult(0.1, []float64{1, 1, 1}, []float64{1, 1, 1})
	for i := range r.Cells[1].Figures[2].Samples {
		r.Cells[1].Figures[2].Samples[i].IOPS *= 8
	}
	r.Cells[1].Figures[2].summarise(nil, 0)
	if a, b := r.Cells[0].Better().Peer, r.Cells[1].Better().Peer; a != "stgt" || b != "lio" {
		t.Errorf("better are %s and %s", a, b)
	}
	if g := JudgeRig(r)[0]; g.Interval.Median > 0.51 || g.Interval.Median < 0.49 { // √(1 · ¼)
		t.Errorf("%+v", g)
	}
	r.Cells[1].Figures[0] = Figure{Peer: "spindle", Error: "it ended"}
	for _, g := range JudgeRig(r) {
		if g.Verdict != Missing || g.Note == "" {
			t.Errorf("%+v", g)
		}
	}
}

func TestNetSwitches(t *testing.T) {
	f := Figure{Samples: []Sample{{IOPS: 1000, IOs: 500}}}
	f.Samples[0].Counts.Voluntary = 200 // in half a second
	f.summarise(nil, 100)
	if f.Voluntary != 0.4 || f.Net < 0.299 || f.Net > 0.301 {
		t.Errorf("raw %v, net %v", f.Voluntary, f.Net)
	}
	f.summarise(nil, 1e6)
	if f.Net != 0 {
		t.Errorf("net %v", f.Net)
	}
	f = Figure{Samples: []Sample{{IOs: 1}}} // a row without load
	f.summarise(nil, 0)
	if f.Net != 0 { // and not NaN, which JSON cannot say
		t.Errorf("net of nothing %v", f.Net)
	}
}

func TestFIOReport(t *testing.T) {
	const report = `fio: terminating on signal 2
{"fio version": "fio-3.33", "jobs": [{"jobname": "bench", "error": 0, "job_runtime": 500, "usr_cpu": 10.0, "sys_cpu": 30.0,
 "read": {"total_ios": 400, "lat_ns": {"min": 1, "max": 900000, "mean": 250000.0, "percentile": {"50.000000": 200000, "99.000000": 800000, "99.900000": 900000}}},
 "write": {"total_ios": 0, "lat_ns": {"min": 0, "max": 0, "mean": 0}}}]}`
	s, err := latencies([]byte(report))
	if err != nil || s.P50 != 200 || s.P99 != 800 || s.P999 != 900 || s.Mean != 250 || s.Max != 900 || s.Own != 500_000 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "fio: no such file", `{"jobs": []}`, strings.Replace(report, `"error": 0`, `"error": 5`, 1)} {
		if _, err := latencies([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a report", bad)
		}
	}
}

func TestFIOArguments(t *testing.T) {
	w := Workload{RW: "randrw", Mix: 70, Size: 512, Depth: 32}
	line := strings.Join(fioArgs(w, disk{"sdz"}, 1<<20, 1), " ")
	for _, want := range []string{"--filename=/dev/sdz", "--rw=randrw", "--rwmixread=70", "--bs=512", "--iodepth=32", "--size=1048576", "--direct=1", "--cpus_allowed=1"} {
		if !strings.Contains(line, want) {
			t.Errorf("%s lacks %s", line, want)
		}
	}
}
