// Package isertest runs the whole target over memverbs in the test's goroutine:
// the target of iscsitest with a portal over iSER beside TCP, and an initiator
// that speaks iSER as Linux and libiscsi do and holds the target to what they
// need.
//
// Threading: everything belongs to the test's goroutine.
// Memory: initiators have a region of their own; Close checks that the target's
// devices, registrations and queue pairs are given back.
package isertest

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iser"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/verbs"
	"spindle/verbs/memverbs"
)

// TargetDevice is the name of the target's device, Portal where it is served.
const TargetDevice = "rxe0"

// Portal is the address of the target's portal.
var Portal = netip.MustParseAddrPort("127.0.0.1:3260")

// Options make a Target. Zero fields take the defaults named.
type Options struct {
	Target   iscsitest.Options
	Fabric   memverbs.Config  // Rand and Clock are set here
	Device   verbs.DeviceInfo // the target's
	NoDevice bool             // the target starts without it
	ISER     iser.Options     // Provider, Reactors and Space are set here, Offload unless it is given
	Wrap     func(verbs.Provider) verbs.Provider
	FDs      bool // the target's sources are descriptors, as with real devices
	Seed     uint64
}

// Target is a target under test with its fabric.
type Target struct {
	*iscsitest.Target
	Fabric *memverbs.World
	Node   *memverbs.Node // the target's
	ISER   *iser.Transport
	OnTurn func() // called in each turn, before the reactors
	// Zombies is how many Close expects.
	Zombies uint64
	device  verbs.DeviceInfo
	space   *mem.Space    // of the initiators
	spare   []*mem.Region // of those that are gone
	hosts   int
	conns   []*Conn
	closed  bool
}

// Offload runs blocking work at once: in process nothing blocks.
type Offload struct{}

// Go implements reactor.Offload.
func (Offload) Go(work func(), r *reactor.Reactor, done *reactor.Msg) {
	work()
	r.Post(done)
}

// New starts a target.
func New(t testing.TB, o Options) *Target {
	t.Helper()
	g := &Target{space: mem.NewSpace(), device: o.Device}
	g.space.Sparse = true
	t.Cleanup(func() {
		if !t.Failed() {
			if err := g.space.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	o.Target.Also = func() {
		g.Fabric.AdvanceTo(g.Clock.T)
		if g.OnTurn != nil {
			g.OnTurn()
		}
	}
	o.Target.ISER = func(b *iscsitest.Target) iscsi.Transport {
		g.Target = b
		o.Fabric.Clock, o.Fabric.Rand = b.Clock, rand.New(rand.NewPCG(o.Seed, 2))
		g.Fabric = memverbs.New(o.Fabric)
		g.Node = g.Fabric.NewNode()
		if !o.NoDevice {
			g.AddDevice()
		}
		i := o.ISER
		i.Provider, i.Reactors, i.Space = g.Node, b.Reactors, b.Space
		if o.Wrap != nil {
			i.Provider = o.Wrap(g.Node)
		}
		if o.FDs {
			i.Provider = memverbs.WithDescriptors(i.Provider, b.World)
		}
		if i.Offload == nil {
			i.Offload = Offload{}
		}
		if i.Log == nil {
			var w io.Writer = io.Discard
			if os.Getenv("ISERTEST_LOG") != "" {
				w = os.Stderr
			}
			i.Log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		g.ISER = iser.New(i)
		return g.ISER
	}
	iscsitest.New(t, o.Target)
	t.Cleanup(g.Close) // runs before the inner target's
	return g
}

// AddDevice adds the target's device, again if it was removed.
func (g *Target) AddDevice() {
	g.device.Name = TargetDevice
	g.Node.AddDeviceInfo(g.device, Portal.Addr(), netip.MustParseAddr("::1"))
}

// Close ends everything and checks that the target gave all of it back.
func (g *Target) Close() {
	if g.closed || g.T.Failed() {
		return
	}
	g.closed = true
	for _, c := range slices.Clone(g.conns) {
		c.Vanish()
	}
	g.Engine.Shutdown(g, 0)
	g.ISER.Stop(g)
	g.Settle()
	if n := g.Node.Live(); n != (memverbs.Live{}) {
		g.T.Errorf("left open: %+v", n)
	}
	if n := g.Node.Removing(); n != 0 {
		g.T.Errorf("%d removed devices not closed", n)
	}
	for i, r := range g.Reactors {
		if r.Load() != 0 {
			g.T.Errorf("reactor %d has load %d", i, r.Load())
		}
	}
	if st := &g.ISER.Stats; st.Stale.Load() != 0 && st.DrainTimeout.Load() == 0 && st.Refused.Load() == 0 {
		g.T.Errorf("%d completions after the end of their queue pair", st.Stale.Load())
	}
	if n := g.ISER.Stats.Zombies.Load(); n != g.Zombies {
		g.T.Errorf("%d zombies", n)
	}
}

// Wait turns until done, for at most d.
func (g *Target) Wait(what string, d time.Duration, done func() bool) {
	g.T.Helper()
	for end := g.Clock.T.Add(d); !done(); {
		if g.Clock.T >= end {
			g.T.Fatalf("%s: not within %v", what, d)
		}
		g.Turn()
		if g.Clock.T.Add(100*time.Millisecond) < end && d > time.Second {
			g.World.Advance(time.Millisecond)
		}
	}
}
