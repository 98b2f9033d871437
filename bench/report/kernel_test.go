package report

import (
	"strings"
	"testing"

	"spindle/bench/compare"
)

// kernelSample is a comparison on the disks of the kernel's initiator.
func kernelSample() *compare.Result {
	r := sample()
	r.Method.Initiator = compare.FIO
	r.IdleSpin = 120
	r.Peers[2] = compare.Peer{Name: "lio", Title: "LIO", Version: "of Linux 6.1", Counted: "eBPF"}
	iops := func(m float64) compare.Interval { return compare.Interval{Median: m, Low: m, High: m, N: 9} }
	w := compare.Workload{Transport: compare.ISER, LUN: "null", RW: "randread", Mix: 100, Size: 4096, Depth: 32, Connections: 1}
	r.Cells = []compare.Cell{{
		Workload: w, Name: w.Name(), Title: w.Title(), Subject: "spindle",
		Figures: []compare.Figure{
			{Peer: "spindle", IOPS: iops(8000), Voluntary: 0.25, Net: 0.125, Involuntary: 2, Workers: 3, System: 4},
			{Peer: "stgt", IOPS: iops(4000), Voluntary: 1.5, Net: 1.5, System: 8},
			{Peer: "lio", IOPS: iops(2000), Voluntary: 5, Net: 5, System: 16},
		},
	}}
	return r
}

func TestKernelTables(t *testing.T) {
	text := Markdown(kernelSample(), "")
	for _, want := range []string{
		"| 4K randread, QD 32 | 2.00k | 4.00k | 8.00k | 0.50 | 16 | 8 | 4 | 2.00 |",
		"| iSER, null, 4K randread, QD 32 | Spindle | 0.25 | 0.125 | 2 | 3 | 4 |", "120 times a second",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	page, err := HTML(kernelSample())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"The experiment of 2013", "<td>0.125</td>", "less idle"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestNoHeadlineWithoutAllThree(t *testing.T) {
	r := kernelSample()
	r.Cells[0].Figures = r.Cells[0].Figures[:2]
	if text := Markdown(r, ""); strings.Contains(text, "2013") {
		t.Error("the experiment is shown without LIO")
	}
	if text := Markdown(sample(), ""); strings.Contains(text, "less idle") || strings.Contains(text, "2013") {
		t.Error("a comparison over TCP shows tables of the kernel's initiator")
	}
}
