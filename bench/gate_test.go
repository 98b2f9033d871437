package bench

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"spindle/bench/counters"
	"spindle/bench/load"
	"spindle/bench/peer"
	"spindle/internal/testbed"
)

// The gates. They hold on a busy machine too, since each is the best of several
// runs: what interferes only ever adds.
const (
	maxSyscalls    = 0.1   // of the target per I/O, at queue depth 32
	maxVoluntary   = 0.02  // context switches of the target per I/O, at queue depth 32
	maxAllocations = 0.001 // of the target per I/O: what else the process does in a run
	maxIdle        = 0.02  // of a core, with sessions that do nothing
	attempts       = 6
	runtimeOfGate  = 400 * time.Millisecond
)

// gated are the workloads of the data path.
var gated = []struct {
	name, lun, rw string
	size          uint32
	depth         int
	header, data  bool
}{
	{"null read", peer.Null, "randread", 4096, 32, false, false},
	{"small read", peer.Null, "randread", 512, 32, false, false},
	{"memory read", peer.RAM, "randread", 4096, 32, false, false},
	{"memory write", peer.RAM, "randwrite", 4096, 32, false, false},
	{"mixed", peer.RAM, "randrw", 4096, 32, false, false},
	{"digests", peer.RAM, "randrw", 4096, 32, true, true},
}

// start builds the target as it is now and starts it.
func start(t *testing.T, env ...string) *peer.Running {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a target")
	}
	bin, err := testbed.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	drivers, err := peer.Find(peer.Drivers(peer.Paths{Spindle: bin}), "spindle")
	if err != nil {
		t.Fatal(err)
	}
	r, err := drivers[0].Start(t.Context(), peer.Setup{CPU: runtime.NumCPU() - 1, Size: 64 << 20, Dir: t.TempDir(), Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.Alive(), r.Stop()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func options(t *testing.T, url, rw string, size uint32, depth int) load.Options {
	t.Helper()
	a, err := load.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	p, err := load.ParsePattern(rw, 50)
	if err != nil {
		t.Fatal(err)
	}
	return load.Options{
		Address: a, Pattern: p, Sizes: []load.Size{{Bytes: size, Percent: 100}}, Depth: depth, CPU: 0,
		Runtime: runtimeOfGate, Ramp: runtimeOfGate / 4, Congestion: "cubic",
	}
}

// fewSyscalls fails when the best of several runs of o costs the target more
// system calls an I/O than are allowed.
func fewSyscalls(t *testing.T, o load.Options, pid int) {
	t.Helper()
	best := 1e9
	for range attempts {
		calls, _ := costs(t, o, pid, true)
		if best = min(best, calls); best <= maxSyscalls {
			return
		}
	}
	t.Errorf("%.3f system calls per I/O, at most %v", best, maxSyscalls)
}

// costs runs o and returns what an I/O costs the target.
func costs(t *testing.T, o load.Options, pid int, syscalls bool) (calls, voluntary float64) {
	t.Helper()
	m, err := counters.Open(counters.Target{PID: pid}, syscalls)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.Source != "eBPF" && syscalls {
		t.Skip(m.Note)
	}
	var at [2]counters.Counts
	var failed error
	o.Window = func(begins bool) {
		i := 1
		if begins {
			i = 0
		}
		var err error
		at[i], err = m.Read()
		failed = errors.Join(failed, err)
	}
	r, err := load.Run(t.Context(), o)
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	d, n := at[1].Sub(at[0]), float64(max(1, r.IOs()))
	return float64(d.Syscalls) / n, float64(d.Voluntary) / n
}

func TestTargetSyscallsPerIO(t *testing.T) {
	target := start(t)
	for _, g := range gated {
		t.Run(g.name, func(t *testing.T) {
			o := options(t, target.URLs[g.lun], g.rw, g.size, g.depth)
			o.Header, o.Data = g.header, g.data
			fewSyscalls(t, o, target.PID)
		})
	}
}

func TestTargetSwitchesPerIO(t *testing.T) {
	target := start(t)
	for _, g := range gated {
		t.Run(g.name, func(t *testing.T) {
			o := options(t, target.URLs[g.lun], g.rw, g.size, g.depth)
			o.Header, o.Data = g.header, g.data
			best := 1e9
			for range attempts {
				_, voluntary := costs(t, o, target.PID, false)
				if best = min(best, voluntary); best <= maxVoluntary {
					return
				}
			}
			t.Errorf("%.4f voluntary context switches per I/O, at most %v", best, maxVoluntary)
		})
	}
}

// fewAllocations fails when the target allocates for the I/Os of o.
func fewAllocations(t *testing.T, o load.Options, target *peer.Running) {
	t.Helper()
	best := &counters.Heap{Objects: 1 << 40}
	for range attempts {
		h, ios := allocated(t, o, target)
		if float64(h.Objects) <= maxAllocations*float64(ios) {
			return
		}
		if h.Objects < best.Objects {
			best = h
		}
	}
	t.Errorf("%d allocations of %d bytes together in the best run", best.Objects, best.Bytes)
}

// allocated runs o and returns what the target allocated meanwhile.
func allocated(t *testing.T, o load.Options, target *peer.Running) (h *counters.Heap, ios uint64) {
	t.Helper()
	m, err := counters.OpenHeap(target.Control)
	if err != nil || m == nil {
		t.Fatalf("it does not tell what it allocates: %v", err)
	}
	defer m.Close()
	var failed error
	o.Window = func(bool) {
		var err error
		h, err = m.Read()
		failed = errors.Join(failed, err)
	}
	r, err := load.Run(t.Context(), o)
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return h, r.IOs()
}

func TestTargetAllocatesNothing(t *testing.T) {
	target := start(t)
	for _, g := range gated {
		t.Run(g.name, func(t *testing.T) {
			o := options(t, target.URLs[g.lun], g.rw, g.size, g.depth)
			o.Header, o.Data = g.header, g.data
			fewAllocations(t, o, target)
		})
	}
}

// TestAllocationsAreSeen: a connection in the measured time, which allocates a
// little, and nothing else.
func TestAllocationsAreSeen(t *testing.T) {
	target := start(t)
	m, err := counters.OpenHeap(target.Control)
	if err != nil || m == nil {
		t.Fatal(m, err)
	}
	defer m.Close()
	quiet, loud := int64(1<<40), int64(1<<40)
	for range attempts { // what interferes only adds
		h, err := m.Read()
		if err != nil {
			t.Fatal(err)
		}
		quiet = min(quiet, h.Objects)
		other, err := counters.OpenHeap(target.Control)
		if err != nil {
			t.Fatal(err)
		}
		if h, err = m.Read(); err != nil {
			t.Fatal(err)
		}
		other.Close()
		loud = min(loud, h.Objects)
	}
	if quiet > 2 || loud < 20 {
		t.Errorf("%d allocations without anything between, %d with another's asking", quiet, loud)
	}
}

// TestIdleTargetSleeps: with sessions but no load, an adaptive target must not
// burn its core.
func TestIdleTargetSleeps(t *testing.T) {
	target := start(t)
	o := options(t, target.URLs[peer.Null], "randread", 512, 1)
	o.Connections, o.Idle, o.Runtime = 64, true, 2*time.Second
	m, err := counters.Open(counters.Target{PID: target.PID}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	best := 1.0
	for range 3 {
		var at [2]counters.Counts
		o.Window = func(begins bool) {
			i := 1
			if begins {
				i = 0
			}
			at[i], _ = m.Read()
		}
		if _, err := load.Run(context.Background(), o); err != nil {
			t.Fatal(err)
		}
		if best = min(best, float64(at[1].Sub(at[0]).Run)/float64(o.Runtime)); best <= maxIdle {
			return
		}
	}
	t.Errorf("64 idle sessions cost %.1f %% of a core", 100*best)
}
