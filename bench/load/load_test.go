package load_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"spindle/bench/limit"
	"spindle/bench/load"
)

// responder starts a canned responder within this process and returns the URL
// of a LUN of its.
func responder(t testing.TB, lun string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		ended <- limit.Serve(ctx, limit.Options{
			Addr: "127.0.0.1:0", CPU: -1, Size: 16 << 20, RAM: true, Connections: 32, Congestion: "cubic",
			Ready: func(a netip.AddrPort) { ready <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-ready:
		return "iscsi://" + a.String() + "/iqn.2026-11.io.spindle:limit/" + lun
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
		return ""
	}
}

func options(t testing.TB, url, rw string, size uint32) load.Options {
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
		Address: a, Pattern: p, Sizes: []load.Size{{Bytes: size, Percent: 100}}, Depth: 8, CPU: -1,
		Runtime: 150 * time.Millisecond, Congestion: "cubic",
	}
}

// enough runs o until there is something to look at: on a busy machine, with the
// race detector, a short run may end before its first I/O.
func enough(t *testing.T, o load.Options, seen func(*load.Result) bool) (*load.Result, error) {
	t.Helper()
	for {
		r, err := load.Run(t.Context(), o)
		if err != nil || seen(r) || o.Runtime > 5*time.Second {
			return r, err
		}
		o.Runtime *= 3
	}
}

func some(r *load.Result) bool { return r.IOs() > 20 }

func both(r *load.Result) bool { return r.Read.IOs > 5 && r.Write.IOs > 5 }

func TestRun(t *testing.T) {
	null, ram := responder(t, "0"), responder(t, "1")
	for _, c := range []struct {
		name, url, rw string
		size          uint32
		change        func(*load.Options)
	}{
		{"random reads", null, "randread", 4096, nil},
		{"sequential reads, small", null, "read", 512, nil},
		{"reads of several segments", null, "randread", 1 << 20, nil},
		{"writes", ram, "randwrite", 4096, nil},
		{"writes beyond the first burst", ram, "write", 1 << 20, nil},
		{"mixed", ram, "randrw", 8192, nil},
		{"a split", ram, "randrw", 0, func(o *load.Options) {
			o.Sizes = []load.Size{{Bytes: 512, Percent: 30}, {Bytes: 64 << 10, Percent: 70}}
		}},
		{"many connections", null, "randread", 4096, func(o *load.Options) { o.Connections = 16 }},
		{"deep", null, "randread", 512, func(o *load.Options) { o.Depth = 1000 }},
		{"a ramp", null, "randread", 4096, func(o *load.Options) { o.Ramp = 50 * time.Millisecond }},
		{"the first megabyte only", ram, "randread", 4096, func(o *load.Options) { o.Span = 1 << 20 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t, c.url, c.rw, c.size)
			if c.change != nil {
				c.change(&o)
			}
			seen := some
			if o.Pattern.Reads == 50 {
				seen = both
			}
			r, err := enough(t, o, seen)
			if err != nil {
				t.Fatal(err)
			}
			if r.IOs() == 0 || r.Elapsed < o.Runtime {
				t.Errorf("%d I/Os in %v", r.IOs(), r.Elapsed)
			}
			if reads := o.Pattern.Reads; (r.Read.IOs > 0) != (reads > 0) || (r.Write.IOs > 0) != (reads < 100) {
				t.Errorf("%d reads and %d writes", r.Read.IOs, r.Write.IOs)
			}
			if len(o.Sizes) == 1 && r.Read.Bytes+r.Write.Bytes != r.IOs()*uint64(o.Sizes[0].Bytes) {
				t.Errorf("%d bytes in %d I/Os", r.Read.Bytes+r.Write.Bytes, r.IOs())
			}
			if n := uint64(r.Both().TotalCount()); n != r.IOs() {
				t.Errorf("%d latencies of %d I/Os", n, r.IOs())
			}
			if h := r.Both(); h.ValueAtPercentile(50) <= 0 || h.ValueAtPercentile(50) > h.ValueAtPercentile(99.9) {
				t.Errorf("p50 %d, p99.9 %d", h.ValueAtPercentile(50), h.ValueAtPercentile(99.9))
			}
		})
	}
}

func TestVerify(t *testing.T) {
	null, ram := responder(t, "0"), responder(t, "1")
	for _, c := range []struct {
		name, url, rw string
		size          uint32
		bad           bool
	}{
		{"written and read back", ram, "write", 64 << 10, false},
		{"mixed, small", ram, "randrw", 512, false},
		{"mixed, several segments", ram, "randrw", 1 << 20, false},
		{"a disk that forgets", null, "randwrite", 4096, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t, c.url, c.rw, c.size)
			o.Verify, o.Span = true, 8<<20
			r, err := enough(t, o, func(r *load.Result) bool { return r.Verified > 0 })
			if c.bad {
				if !errors.Is(err, load.ErrTarget) || !strings.Contains(err.Error(), "verify") {
					t.Errorf("not noticed: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Verified == 0 {
				t.Error("nothing was compared")
			}
		})
	}
}

func TestRate(t *testing.T) {
	for _, sleep := range []bool{false, true} {
		t.Run(fmt.Sprintf("sleep %v", sleep), func(t *testing.T) {
			o := options(t, responder(t, "0"), "randread", 4096)
			o.Rate, o.Sleep, o.Runtime = 2000, sleep, 500*time.Millisecond
			r, err := load.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			// A busy machine may be late, but it cannot be early.
			if most := uint64(2000*r.Elapsed.Seconds()) + 50; r.IOs() == 0 || r.IOs() > most {
				t.Errorf("%d I/Os in %v at 2000 a second", r.IOs(), r.Elapsed)
			}
			if d := time.Duration(r.Read.Min()); d >= 500*time.Microsecond {
				t.Errorf("none took less than %v, the time between two", d)
			}
			// One that sleeps does so for each I/O that it has to wait for; late ones
			// come many at a time.
			if slept := r.CPU.Voluntary > int64(r.IOs()/20); slept != sleep {
				t.Errorf("slept %d times for %d I/Os", r.CPU.Voluntary, r.IOs())
			}
		})
	}
}

// TestWindow: what is done at the beginning of the measured time makes no I/O late.
func TestWindow(t *testing.T) {
	const long = time.Second
	for _, rate := range []int{0, 1000} {
		o := options(t, responder(t, "0"), "randread", 4096)
		o.Rate, o.Ramp, o.Runtime = rate, 100*time.Millisecond, 300*time.Millisecond
		o.Window = func(begins bool) {
			if begins {
				time.Sleep(long)
			}
		}
		r, err := load.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Duration(r.Read.Max()); d >= long-long/10 {
			t.Errorf("rate %d: an I/O took %v", rate, d)
		}
	}
}

// TestOnce: a filled LUN was written through exactly.
func TestOnce(t *testing.T) {
	o := options(t, responder(t, "1"), "write", 256<<10)
	o.Once, o.Runtime = true, time.Minute
	r, err := load.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Write.Bytes != 16<<20 {
		t.Errorf("%d bytes written of %d", r.Write.Bytes, 16<<20)
	}
}

func TestStops(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	o := options(t, responder(t, "0"), "randread", 4096)
	o.Runtime = time.Hour
	r, err := load.Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.IOs() == 0 || r.Elapsed > time.Minute {
		t.Errorf("%d I/Os in %v", r.IOs(), r.Elapsed)
	}
}

func TestRefused(t *testing.T) {
	url := responder(t, "0")
	for _, c := range []struct {
		name   string
		change func(*load.Options)
		want   error
	}{
		{"digests that the target does not agree to", func(o *load.Options) { o.Header = true }, load.ErrLogin},
		{"larger than the LUN", func(o *load.Options) { o.Span = 4096; o.Sizes[0].Bytes = 8192 }, load.ErrOption},
		{"a LUN that is not there", func(o *load.Options) { o.Address.LUN = 7 }, load.ErrTarget},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t, url, "randread", 4096)
			c.change(&o)
			if _, err := load.Run(t.Context(), o); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// TestNothingIsAllocated counts both ends, which share this process.
func TestNothingIsAllocated(t *testing.T) {
	null, ram := responder(t, "0"), responder(t, "1")
	for _, c := range []struct{ name, url, rw string }{
		{"reads", null, "randread"}, {"writes", ram, "randwrite"}, {"mixed", ram, "randrw"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t, c.url, c.rw, 4096)
			o.Runtime, o.Ramp = 300*time.Millisecond, 50*time.Millisecond
			var at [2]runtime.MemStats
			o.Window = func(begins bool) {
				if begins {
					runtime.ReadMemStats(&at[0])
				} else {
					runtime.ReadMemStats(&at[1])
				}
			}
			r, err := load.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			// The runtime itself makes a handful.
			if n := at[1].Mallocs - at[0].Mallocs; n > 50 && n > r.IOs()/1000 {
				t.Errorf("%d allocations in %d I/Os", n, r.IOs())
			}
		})
	}
}

// TestBatches: at depth one system call carries many commands, on both ends.
func TestBatches(t *testing.T) {
	o := options(t, responder(t, "0"), "randread", 512)
	o.Depth, o.Runtime = 128, 300*time.Millisecond
	best := 1.0
	for range 5 {
		r, err := load.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if best = min(best, float64(r.Syscalls)/float64(r.IOs())); best < 0.1 {
			return
		}
	}
	t.Errorf("%.3f system calls per I/O", best)
}

func TestFIO(t *testing.T) {
	o := options(t, responder(t, "1"), "randrw", 4096)
	o.Runtime = 600 * time.Millisecond
	r, err := enough(t, o, both)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r.FIO(&o, "v"))
	if err != nil {
		t.Fatal(err)
	}
	type side struct {
		IOPS     float64
		TotalIOs uint64 `json:"total_ios"`
		BW       float64
		Clat     struct {
			Mean       float64
			N          uint64
			Percentile map[string]float64
		} `json:"clat_ns"`
	}
	var doc struct {
		Jobs []struct{ Read, Write side }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]side{"read": doc.Jobs[0].Read, "write": doc.Jobs[0].Write} {
		if s.IOPS <= 0 || s.TotalIOs == 0 || s.BW <= 0 || s.Clat.N != s.TotalIOs || s.Clat.Percentile["99.000000"] < s.Clat.Percentile["50.000000"] {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if human := r.Human(&o); !strings.Contains(human, "99.99th=[") || !strings.Contains(human, "IOPS=") {
		t.Errorf("%s", human)
	}
}
