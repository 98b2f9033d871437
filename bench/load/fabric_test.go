package load_test

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/bench/load"
	"spindle/iscsi/iscsitest"
	"spindle/iser/isertest"
	"spindle/verbs"
	"spindle/verbs/memverbs"
)

// host is a machine on the fabric of a target, which works whenever the machine
// asks for completions or events: both are on one thread.
type host struct {
	verbs.Provider
	node *memverbs.Node
	g    *isertest.Target
}

type hostEvents struct {
	verbs.EventChannel
	h *host
}

func newHost(g *isertest.Target) *host {
	n := g.Fabric.NewNode()
	n.AddDevice("mlx0", netip.MustParseAddr("10.0.0.1"))
	return &host{Provider: n, node: n, g: g}
}

func (h *host) open() (verbs.Provider, error) { return h, nil }

func (h *host) Poll(cqs []verbs.CQHandle, out []verbs.WC) (n, bad int) {
	h.g.Turn()
	return h.Provider.Poll(cqs, out)
}

func (h *host) NewEventChannel() (verbs.EventChannel, error) {
	c, err := h.Provider.NewEventChannel()
	if err != nil {
		return nil, err
	}
	return &hostEvents{c, h}, nil
}

func (c *hostEvents) Next(ev *verbs.Event) (bool, error) {
	c.h.g.Turn()
	return c.EventChannel.Next(ev)
}

// overRDMA are options to load a LUN of g from h.
func overRDMA(t *testing.T, h *host, lun, rw string, size uint32) load.Options {
	t.Helper()
	o := options(t, "iser://"+isertest.Portal.String()+"/"+iscsitest.Node+"/"+lun, rw, size)
	o.RDMA = h.open
	return o
}

// home checks that the run gave everything back.
func (h *host) home(t *testing.T) {
	t.Helper()
	if n := h.node.Live(); n != (memverbs.Live{}) {
		t.Errorf("left open: %+v", n)
	}
}

func TestRDMA(t *testing.T) {
	split := []load.Size{{Bytes: 512, Percent: 30}, {Bytes: 64 << 10, Percent: 70}}
	for _, c := range []struct {
		name, lun, rw string
		size          uint32
		change        func(*load.Options)
	}{
		{"random reads", "0", "randread", 4096, nil},
		{"large reads", "0", "read", 1 << 20, nil},
		{"writes that go with the command", "1", "randwrite", 4096, nil},
		{"writes that the target reads", "1", "write", 256 << 10, nil},
		{"mixed", "1", "randrw", 16 << 10, nil},
		{"a split", "1", "randrw", 512, func(o *load.Options) { o.Sizes = split }},
		{"many connections", "0", "randread", 4096, func(o *load.Options) { o.Connections = 8 }},
		{"deeper than the window", "0", "randread", 512, func(o *load.Options) { o.Depth = 500 }},
		{"a ramp", "0", "randread", 4096, func(o *load.Options) { o.Ramp = 50 * time.Millisecond }},
		{"an opcode", "1", "", 4096, func(o *load.Options) { o.Pattern, o.Opcode = load.Pattern{}, "write-same16" }},
		{"an opcode without data", "1", "", 4096, func(o *load.Options) { o.Pattern, o.Opcode = load.Pattern{}, "verify16" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(isertest.New(t, isertest.Options{}))
			if c.rw == "" {
				c.rw = "read"
			}
			o := overRDMA(t, h, c.lun, c.rw, c.size)
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
			if !seen(r) || r.Elapsed < o.Runtime {
				t.Errorf("%d reads, %d writes in %v", r.Read.IOs, r.Write.IOs, r.Elapsed)
			}
			if n := uint64(r.Both().TotalCount()); n != r.IOs() {
				t.Errorf("%d latencies of %d I/Os", n, r.IOs())
			}
			if n := h.g.Fabric.Counts.NoReceive; n != 0 {
				t.Errorf("%d sends found no receive", n)
			}
			h.home(t)
		})
	}
}

// lossy is the target's provider, and does not write the data of reads of 4 KiB.
type lossy struct{ verbs.Provider }

func (p lossy) Post(b *verbs.Batch) int {
	for _, w := range b.Sends {
		if list := b.SGEsOf(w.First, w.NumSGE); w.Op == verbs.OpRDMAWrite && list[0].Len == 4096 {
			list[0].Len = 0
		}
	}
	return p.Provider.Post(b)
}

func TestRDMAVerify(t *testing.T) {
	for _, c := range []struct {
		name, lun, rw string
		size          uint32
		target        isertest.Options
		bad           bool
	}{
		{name: "written and read back", lun: "1", rw: "write", size: 64 << 10},
		{name: "mixed, small", lun: "1", rw: "randrw", size: 512},
		{name: "mixed, large", lun: "1", rw: "randrw", size: 1 << 20},
		{name: "a disk that forgets", lun: "0", rw: "randwrite", size: 4096, bad: true},
		{name: "reads that do not arrive", lun: "1", rw: "randwrite", size: 4096, bad: true,
			target: isertest.Options{Wrap: func(p verbs.Provider) verbs.Provider { return lossy{p} }}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(isertest.New(t, c.target))
			o := overRDMA(t, h, c.lun, c.rw, c.size)
			o.Verify, o.Span, o.Connections = true, 8<<20, 2
			r, err := enough(t, o, func(r *load.Result) bool { return r.Verified > 20 })
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
			h.home(t)
		})
	}
}

func TestRDMARate(t *testing.T) {
	for _, sleep := range []bool{false, true} {
		h := newHost(isertest.New(t, isertest.Options{}))
		o := overRDMA(t, h, "0", "randread", 4096)
		o.Rate, o.Sleep, o.Runtime = 500, sleep, 500*time.Millisecond
		r, err := load.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if most := uint64(500*r.Elapsed.Seconds()) + 50; r.IOs() == 0 || r.IOs() > most {
			t.Errorf("sleep %v: %d I/Os in %v at 500 a second", sleep, r.IOs(), r.Elapsed)
		}
		if slept := r.Syscalls > 0; slept != sleep {
			t.Errorf("sleep %v: %d system calls", sleep, r.Syscalls)
		}
	}
}

func TestRDMARefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(h *host, o *load.Options)
		want   error
		text   string
	}{
		{"no listener", func(_ *host, o *load.Options) { o.Address.Host = "127.0.0.1:3261" }, syscall.ECONNREFUSED, "switched on for the portal"},
		{"rejected", func(h *host, o *load.Options) { h.g.Node.MemlockLimit = 1 }, syscall.ECONNREFUSED, "the target rejects it, with reason 28"},
		{"another machine", func(_ *host, o *load.Options) { o.Address.Host = "10.9.9.9:3260" }, syscall.EHOSTUNREACH, "10.9.9.9"},
		{"no such target", func(_ *host, o *load.Options) { o.Address.Target = "iqn.none" }, load.ErrLogin, "no such target"},
		{"a LUN that is not there", func(_ *host, o *load.Options) { o.Address.LUN = 7 }, load.ErrTarget, "sense 5/25/00"},
		{"no device", func(h *host, _ *load.Options) { h.Provider = h.g.Fabric.NewNode() }, load.ErrRDMA, "spindle rdma"},
		{"no library", func(_ *host, o *load.Options) {
			o.RDMA = func() (verbs.Provider, error) { return nil, verbs.ErrNoLibrary }
		}, load.ErrRDMA, "spindle rdma"},
		{"memory that may not be locked", func(h *host, _ *load.Options) { h.node.MemlockLimit = 1 << 20 }, load.ErrRDMA, "RLIMIT_MEMLOCK"},
		{"no provider", func(_ *host, o *load.Options) { o.RDMA = nil }, load.ErrRDMA, "brings none"},
		{"digests", func(_ *host, o *load.Options) { o.Data = true }, load.ErrOption, "digests"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(isertest.New(t, isertest.Options{}))
			o := overRDMA(t, h, "0", "randread", 4096)
			c.change(h, &o)
			if _, err := load.Run(t.Context(), o); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v; want %v, and %q", err, c.want, c.text)
			}
			h.home(t)
		})
	}
}

// TestRDMAEnds: what ends a connection under load ends the run.
func TestRDMAEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(h *host)
		want error
	}{
		{"the target's device goes", func(h *host) { h.g.Node.RemoveDevice(isertest.TargetDevice) }, load.ErrTarget},
		{"our device goes", func(h *host) { h.node.RemoveDevice("mlx0") }, verbs.ErrGone},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(isertest.New(t, isertest.Options{}))
			o := overRDMA(t, h, "0", "randread", 4096)
			o.Runtime = time.Minute
			o.Window = func(begins bool) {
				if begins {
					c.end(h)
				}
			}
			if _, err := load.Run(t.Context(), o); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// TestNothingIsAllocatedOverRDMA counts both ends and the fabric.
func TestNothingIsAllocatedOverRDMA(t *testing.T) {
	for _, rw := range []string{"randread", "randwrite", "randrw"} {
		h := newHost(isertest.New(t, isertest.Options{}))
		o := overRDMA(t, h, "1", rw, 16<<10)
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
		if n := at[1].Mallocs - at[0].Mallocs; n > 50 && n > r.IOs()/1000 {
			t.Errorf("%s: %d allocations in %d I/Os", rw, n, r.IOs())
		}
	}
}
