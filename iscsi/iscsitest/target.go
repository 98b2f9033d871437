// Package iscsitest runs the whole target in the test's goroutine: the real
// engine, TCP transport, device server and block modules over a simulated
// kernel and a manual clock, with an initiator that sends and receives PDUs.
//
// Threading: everything belongs to the test's goroutine; reactors are turned by
// hand.
// Memory: arenas are real; Close checks that every buffer came home.
package iscsitest

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/malloc"
	"spindle/bdev/null"
	"spindle/iscsi"
	"spindle/iscsi/tcp"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring/simring"
)

// Name of the target node that New makes, and of the initiator that Dial plays.
const (
	Node      = "iqn.2026-11.dev.spindle:test"
	Initiator = "iqn.2026-11.dev.spindle:initiator"
)

// Options make a Target. Zero fields take the defaults named.
type Options struct {
	Reactors int            // 1
	Memory   uint64         // bytes of each reactor's arena, 64 MiB
	Engine   *iscsi.Options // iscsi.Defaults
	Node     iscsi.NodeConfig
	World    simring.Config // Immediate unless a fault is set or Delayed
	Delayed  bool
	Blocks   uint64                                 // of LUN 1, 65536
	Wrap     func(*Target, bdev.Device) bdev.Device // around LUN 1's device
	LUNs     func(*Target) []iscsi.LUN              // instead of null at 0 and malloc at 1
	Seed     uint64                                 // of the world
	// ISER makes a transport for the portal to be served over as well; Turn then
	// calls Also.
	ISER func(*Target) iscsi.Transport
	Also func()
	// Sleep lets reactors without work sleep: Turn then runs those that were
	// woken, so that a lost wake-up is a hang.
	Sleep bool
	// Entropy, when set, is the engine's instead of a sequence that repeats; Log
	// what it writes to.
	Entropy io.Reader
	Log     *slog.Logger
	Held    bool // connections wait for Engine.Open
	// Balance has sessions move between reactors.
	Balance iscsi.Balancer
}

// Target is a target under test.
type Target struct {
	T        testing.TB
	Clock    *clock.Manual
	World    *simring.World
	Space    *mem.Space
	Reactors []*reactor.Reactor
	Engine   *iscsi.Engine
	TCP      *tcp.Transport
	Portal   netip.AddrPort
	LUNs     []iscsi.LUN
	rings    []*simring.Ring
	also     func()
	threads  []*simring.Thread // with Options.Sleep
	closed   bool
}

// entropy is not random: tests repeat.
type entropy struct{ n byte }

func (e *entropy) Read(b []byte) (int, error) {
	for i := range b {
		e.n += 31
		b[i] = e.n
	}
	return len(b), nil
}

// New starts a target with a null LUN 0 and a malloc LUN 1 behind one portal.
func New(t testing.TB, o Options) *Target {
	t.Helper()
	if o.Reactors == 0 {
		o.Reactors = 1
	}
	if o.Memory == 0 {
		o.Memory = 64 << 20
	}
	if o.Blocks == 0 {
		o.Blocks = 65536
	}
	if o.Engine == nil {
		d := iscsi.Defaults()
		o.Engine = &d
	}
	clk := &clock.Manual{}
	o.World.Clock = clk
	o.World.Immediate = !o.Delayed
	if o.World.Rand == nil {
		o.World.Rand = rand.New(rand.NewPCG(o.Seed, 1))
	}
	g := &Target{T: t, also: o.Also, Clock: clk, World: simring.New(o.World), Space: mem.NewSpace()}
	g.Space.Sparse = true
	// The last of the cleanups: nothing is left that could touch it. A process that
	// fuzzes makes more targets than it may have mappings.
	t.Cleanup(func() {
		if !t.Failed() {
			g.must(g.Space.Close())
		}
	})
	for i := range o.Reactors {
		a, err := g.Space.NewArena(o.Memory, -1)
		if err != nil {
			t.Fatal(err)
		}
		q := g.World.NewRing(a)
		g.rings = append(g.rings, q)
		rc := reactor.Config{ID: i, Core: -1, Ring: q, Clock: clk, Arena: a}
		if o.Sleep {
			rc.Idle = reactor.Interrupt
		}
		r := reactor.New(rc)
		g.Reactors = append(g.Reactors, r)
		if o.Sleep {
			work := 1
			g.threads = append(g.threads, simring.NewThread(q, func() { work = r.Turn(r.Until(work)) }))
		}
	}
	g.TCP = tcp.New(g.World, g.Reactors, tcp.Options{})
	c := iscsi.Config{Reactors: g.Reactors, Transport: g.TCP, Entropy: o.Entropy, Options: *o.Engine, Log: o.Log, Held: o.Held, Balance: o.Balance}
	if c.Entropy == nil {
		c.Entropy = new(entropy)
	}
	if o.ISER != nil {
		c.ISER = o.ISER(g)
	}
	g.Engine = iscsi.New(c)
	if o.LUNs != nil {
		g.LUNs = o.LUNs(g)
	} else {
		g.LUNs = g.defaultLUNs(o)
	}
	g.must(g.Engine.AddPortalGroup(g, iscsi.PortalGroup{Tag: 1, Portals: []iscsi.Portal{{Addr: netip.MustParseAddrPort("127.0.0.1:3260"), ISER: o.ISER != nil}}}))
	g.Portal = g.Engine.PortalGroups()[0].Portals[0].Addr
	g.must(g.Engine.AddInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"ANY"}, Netmasks: []string{"ANY"}}))
	n := o.Node
	if n.Name == "" {
		n.Name = Node
	}
	n.LUNs = g.LUNs
	g.AddNode(n)
	t.Cleanup(g.Close)
	return g
}

// AddPortalGroup listens on more portals.
func (g *Target) AddPortalGroup(p iscsi.PortalGroup) {
	g.T.Helper()
	g.must(g.Engine.AddPortalGroup(g, p))
}

// AddNode serves one more node: to anybody on the portal, unless its maps say
// otherwise.
func (g *Target) AddNode(n iscsi.NodeConfig) {
	g.T.Helper()
	if n.Maps == nil {
		n.Maps = []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}
	}
	g.must(g.Engine.AddNode(g, n))
}

func (g *Target) defaultLUNs(o Options) []iscsi.LUN {
	zero, err := null.New(null.Config{Space: g.Space, BlockSize: 512, Blocks: 1 << 31})
	g.must(err)
	ram, err := malloc.New(malloc.Config{Space: g.Space, BlockSize: 512, Blocks: o.Blocks})
	g.must(err)
	var dev bdev.Device = ram
	if o.Wrap != nil {
		dev = o.Wrap(g, dev)
	}
	return []iscsi.LUN{
		{ID: 0, Bdev: bdev.New("Null0", bdev.UUID{0: 1}, zero)},
		{ID: 1, Bdev: bdev.New("Malloc0", bdev.UUID{0: 2}, dev)},
	}
}

// Malloc is a unit of 512-byte blocks in memory, for Options.LUNs.
func Malloc(g *Target, lun uint16, blocks uint64) iscsi.LUN {
	d, err := malloc.New(malloc.Config{Space: g.Space, BlockSize: 512, Blocks: blocks})
	g.must(err)
	return iscsi.LUN{ID: lun, Bdev: bdev.New(fmt.Sprintf("Malloc%d", lun), bdev.UUID{0: byte(lun), 1: 1, 15: byte(lun)}, d)}
}

func (g *Target) must(err error) {
	g.T.Helper()
	if err != nil {
		g.T.Fatal(err)
	}
}

// step is how far the clock moves each round.
const step = 10 * time.Microsecond

// Turn turns every reactor once and moves the world on.
func (g *Target) Turn() {
	g.World.Advance(step)
	if g.also != nil {
		g.also()
	}
	for _, t := range g.threads {
		if t.Runnable() {
			t.Run()
		}
	}
	if g.threads != nil {
		return
	}
	for _, r := range g.Reactors {
		r.Turn(0)
	}
}

// Advance turns until d of the clock's time is over; long waits go in larger steps.
func (g *Target) Advance(d time.Duration) {
	for end := g.Clock.T.Add(d); g.Clock.T < end; {
		if left := end.Sub(g.Clock.T); left > 10*time.Millisecond {
			g.World.Advance(5 * time.Millisecond)
		}
		g.Turn()
	}
}

// turnLimit bounds Until.
const turnLimit = 200_000

// Until turns until done says so.
func (g *Target) Until(what string, done func() bool) {
	g.T.Helper()
	for range turnLimit {
		if done() {
			return
		}
		g.Turn()
	}
	g.T.Fatalf("%s: not after %d turns", what, turnLimit)
}

// Settle turns until the reactors have nothing to do for a while.
func (g *Target) Settle() {
	for range 50 {
		g.Turn()
	}
}

// Await implements reactor.Caller.
func (g *Target) Await(r *reactor.Reactor, start func(done func())) {
	g.T.Helper()
	over := false
	r.Post(&reactor.Msg{Run: func(*reactor.Reactor) { start(func() { over = true }) }})
	g.Until("await", func() bool { return over })
}

// Block implements reactor.Caller.
func (g *Target) Block(work func()) { work() }

// Close shuts the target down and checks that nothing is left of it.
func (g *Target) Close() {
	if g.closed || g.T.Failed() {
		return
	}
	g.closed = true
	g.Engine.Shutdown(g, 0)
	for _, n := range g.Engine.Nodes() {
		g.must(g.Engine.RemoveNode(g, n.Name))
	}
	g.Settle()
	for _, t := range g.threads {
		t.Stop()
	}
	for i, q := range g.rings {
		if n := q.BuffersOut(); n != 0 {
			g.T.Errorf("reactor %d: %d receive buffers not recycled", i, n)
		}
		g.must(q.Close())
		if !g.Reactors[i].Arena.AllHome() {
			g.T.Errorf("reactor %d: arena memory not home: %+v", i, g.Reactors[i].Arena.Stats())
		}
	}
	if n := g.World.OpenFDs(); n != 0 {
		g.T.Errorf("%d descriptors left open", n)
	}
}
