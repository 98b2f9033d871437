package compare

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"spindle/bench/counters"
	"spindle/bench/limit"
	"spindle/bench/peer"
)

func TestParseWorkloads(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"one", "null:randread:4k:32", []string{"null:randread:4k:32"}},
		{"alternatives", "null+ram:read:512+4k:1", []string{"null:read:512:1", "null:read:4k:1", "ram:read:512:1", "ram:read:4k:1"}},
		{"a mix", "ram:randrw70:4k:32", []string{"ram:randrw70:4k:32"}},
		{"connections", "null:randread:4k:1:1+16", []string{"null:randread:4k:1", "null:randread:4k:1:16"}},
		{"digests", "null:randread:4k:1:1:digests", []string{"null:randread:4k:1:1:digests"}},
		{"a set", "quick", []string{"null:randread:4k:1", "null:randread:4k:32"}},
		{"a set and one", "quick,ram:write:128k:8", []string{"null:randread:4k:1", "null:randread:4k:32", "ram:write:128k:8"}},
		{"an unknown LUN", "disk:read:4k:1", nil},
		{"an unknown pattern", "null:trim:4k:1", nil},
		{"no depth", "null:read:4k", nil},
		{"depth 0", "null:read:4k:0", nil},
		{"a word behind", "null:read:4k:1:1:fast", nil},
		{"an unknown set", "everything", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := ParseWorkloads(c.text)
			var names []string
			for _, w := range list {
				names = append(names, w.Name())
			}
			if !reflect.DeepEqual(names, c.want) || (err == nil) != (c.want != nil) {
				t.Errorf("%v, %v", names, err)
			}
		})
	}
}

func TestNamesAreWhatIsParsed(t *testing.T) {
	for _, s := range sets {
		list, err := ParseWorkloads(s.Text)
		if err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		for _, w := range list {
			again, err := ParseWorkloads(w.Name())
			if err != nil || len(again) != 1 || again[0] != w {
				t.Errorf("%s became %v, %v", w.Name(), again, err)
			}
		}
	}
}

func TestSummarise(t *testing.T) {
	for _, c := range []struct {
		name     string
		values   []float64
		want     Interval
		coverage float64
	}{
		{"none", nil, Interval{}, 0},
		{"one", []float64{3}, Interval{Median: 3, Low: 3, High: 3, N: 1}, 0},
		{"five: the ends", []float64{5, 1, 4, 2, 3}, Interval{Median: 3, Low: 1, High: 5, N: 5}, 0.9375},
		{"six, even", []float64{6, 5, 4, 3, 2, 1}, Interval{Median: 3.5, Low: 1, High: 6, N: 6}, 0.96875},
		{"nine: the second from the ends", []float64{9, 8, 7, 6, 5, 4, 3, 2, 1}, Interval{Median: 5, Low: 2, High: 8, N: 9}, 0.9609375},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Summarise(c.values)
			if math.Abs(got.Coverage-c.coverage) > 1e-9 {
				t.Errorf("coverage %v, want %v", got.Coverage, c.coverage)
			}
			got.Coverage = 0
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// fixture is a peer within this process.
type fixture struct {
	name   string
	absent bool
	url    string
}

func (f fixture) Name() string  { return f.name }
func (f fixture) Title() string { return f.name }

func (f fixture) Version(context.Context) (string, error) {
	if f.absent {
		return "", peer.ErrAbsent
	}
	return "1", nil
}

func (f fixture) Start(context.Context, peer.Setup) (*peer.Running, error) {
	return &peer.Running{URLs: map[string]string{peer.Null: f.url + "/0", peer.RAM: f.url + "/1"}}, nil
}

func responder(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		ended <- limit.Serve(ctx, limit.Options{
			Addr: "127.0.0.1:0", CPU: -1, Size: 4 << 20, RAM: true, Connections: 8, Congestion: "cubic",
			Ready: func(a netip.AddrPort) { ready <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "iscsi://" + (<-ready).String() + "/iqn.2026-11.io.spindle:limit"
}

// TestAFailureHasAReason: a peer that failed in every round says why, however
// few the rounds were.
func TestAFailureHasAReason(t *testing.T) {
	workloads, err := ParseWorkloads("null:randread:4k:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, transport, url, want string }{
		{"deaf", TCP, "iscsi://127.0.0.1:1/iqn.2026-11.io.spindle:none", "refused"},
		{"without RDMA", TCP, "iser://127.0.0.1:1/iqn.2026-11.io.spindle:none", "spindle rdma"},
		{"over TCP only", ISER, "iscsi://127.0.0.1:1/iqn.2026-11.io.spindle:none", "has no ISER"},
	} {
		workloads[0].Transport = c.transport
		r, err := Run(t.Context(), Plan{
			Peers:     []peer.Driver{fixture{name: c.name, url: c.url}},
			Workloads: workloads,
			Method:    Method{Rounds: 1, Runtime: 10 * time.Millisecond, TargetCPU: -1, LUNSize: 4 << 20, MaxSpread: 1.5, Congestion: "cubic"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if f := r.Cells[0].Figures[0]; !strings.Contains(f.Error, c.want) {
			t.Errorf("%s: the failure's reason is %q", c.name, f.Error)
		}
	}
}

func TestRun(t *testing.T) {
	workloads, err := ParseWorkloads("null:randread:4k:4,ram:randrw70:4k:8")
	if err != nil {
		t.Fatal(err)
	}
	plan := Plan{
		Peers:     []peer.Driver{fixture{name: "other", url: responder(t)}, fixture{name: "spindle", url: responder(t)}, fixture{name: "gone", absent: true}},
		Workloads: workloads,
		Method:    Method{Rounds: 3, Runtime: 400 * time.Millisecond, Ramp: 10 * time.Millisecond, TargetCPU: -1, InitiatorCPU: runtime.NumCPU() - 1, LUNSize: 4 << 20, MaxSpread: 1e9, Congestion: "cubic"},
	}
	r, err := Run(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Peers) != 3 || r.Peers[2].Absent == "" || r.Method.Subject != "spindle" || r.Machine.Kernel == "" {
		t.Errorf("%+v, %+v", r.Peers, r.Method)
	}
	for _, cell := range r.Cells {
		for _, name := range []string{"spindle", "other"} {
			f := cell.Figure(name)
			if f == nil || f.Error != "" || len(f.Samples) != 3 || f.IOPS.Median <= 0 || len(f.Curve) == 0 {
				t.Errorf("%s, %s: %+v", cell.Name, name, f)
			}
		}
		q := cell.Ratio("other", "iops")
		if q == nil || len(q.Rounds) != 3 || q.Refused || q.Of != "spindle" {
			t.Fatalf("%s: %+v", cell.Name, q)
		}
		for i, v := range q.Rounds {
			if want := cell.Figure("spindle").Samples[i].IOPS / cell.Figure("other").Samples[i].IOPS; math.Abs(v-want) > 1e-9 {
				t.Errorf("round %d: ratio %v, want %v", i, v, want)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "result.json")
	if err := r.Save(path); err != nil {
		t.Fatal(err)
	}
	again, err := Load(path)
	if err != nil || !reflect.DeepEqual(again.Cells, r.Cells) {
		t.Errorf("what was stored is not what was measured: %v", err)
	}
}

// TestHeapOf: medians for an I/O and sums of pauses; what one run did not tell is
// not known.
func TestHeapOf(t *testing.T) {
	sample := func(ios uint64, h *counters.Heap) Sample { return Sample{IOs: ios, Heap: h} }
	told := []Sample{
		sample(10, &counters.Heap{Objects: 20, Bytes: 50, Collections: 1, Pauses: 3}), sample(20, &counters.Heap{}),
		sample(5, &counters.Heap{Objects: 5, Bytes: 500, Collections: 1, Pauses: 4}),
	}
	for _, c := range []struct {
		name    string
		samples []Sample
		want    *Heap
	}{
		{"told", told, &Heap{Objects: 1, Bytes: 5, Collections: 2, Pauses: 7}},
		{"once", told[1:2], &Heap{}},
		{"not in every run", append(told, sample(1, nil)), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := heapOf(c.samples); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestWideRatiosAreRefused(t *testing.T) {
	sample := func(round int, iops float64) Sample { return Sample{Round: round, IOPS: iops, P50: 1, IOs: 1} }
	cell := &Cell{Subject: "spindle", Figures: []Figure{
		{Peer: "spindle", Samples: []Sample{sample(0, 100), sample(1, 100), sample(2, 100)}},
		{Peer: "steady", Samples: []Sample{sample(0, 50), sample(1, 51), sample(2, 49)}},
		{Peer: "wild", Samples: []Sample{sample(0, 50), sample(1, 10), sample(2, 90)}},
		{Peer: "seldom", Samples: []Sample{sample(0, 50), sample(2, 50)}},
		{Peer: "failed"},
	}}
	p := Plan{Method: Method{MaxSpread: 1.5}}
	cell.Ratios = p.ratios(cell)
	for peer, refused := range map[string]bool{"steady": false, "wild": true, "seldom": true} {
		if q := cell.Ratio(peer, "iops"); q == nil || q.Refused != refused {
			t.Errorf("%s: %+v", peer, q)
		}
	}
	if cell.Ratio("failed", "iops") != nil {
		t.Error("a ratio to nothing")
	}
}

func TestNoPeers(t *testing.T) {
	plan := Plan{Peers: []peer.Driver{fixture{name: "gone", absent: true}}}
	if _, err := Run(t.Context(), plan); err == nil || errors.Is(err, peer.ErrAbsent) {
		t.Errorf("%v", err)
	}
}
