// Package bdevtest is the conformance suite that every bdev module passes, and
// the rig it runs on: reactors turned by hand over a manual clock.
//
// Threading: everything runs on the test's goroutine, reactor by reactor.
// Memory: buffers come from a region the rig maps; it lives as long as the test
// process.
package bdevtest

import (
	"testing"
	"time"

	"spindle/bdev"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// step is how far the clock moves each turn.
const step = 10 * time.Microsecond

// turnLimit bounds how long the rig waits for an I/O, in turns. Real rings
// complete in real time, so it is generous.
const turnLimit = 50_000_000

// Rig is a set of reactors that share a manual clock.
type Rig struct {
	T        testing.TB
	Clock    *clock.Manual
	Space    *mem.Space
	Reactors []*reactor.Reactor
	// Tick moves the clock; a simulated world runs its events on the way.
	Tick  func(d time.Duration)
	arena *mem.Arena
}

// NewRig makes n reactors whose rings come from newRing; nil means rings that
// do nothing, for modules that need none.
func NewRig(t testing.TB, n int, newRing func(g *Rig) ring.Ring) *Rig {
	t.Helper()
	g := &Rig{T: t, Clock: &clock.Manual{}, Space: mem.NewSpace()}
	g.Tick = g.Clock.Advance
	arena, err := g.Space.NewArena(32<<20, -1)
	if err != nil {
		t.Fatal(err)
	}
	g.arena = arena
	for i := range n {
		var q ring.Ring = NoRing{}
		if newRing != nil {
			q = newRing(g)
		}
		g.Reactors = append(g.Reactors, reactor.New(reactor.Config{ID: i, Core: -1, Ring: q, Clock: g.Clock, Arena: arena}))
	}
	return g
}

// Arena is the memory buffers come from.
func (g *Rig) Arena() *mem.Arena { return g.arena }

// Turn runs every reactor once and moves the clock.
func (g *Rig) Turn() {
	g.Tick(step)
	for _, r := range g.Reactors {
		r.Turn(0)
	}
}

// Advance runs turns until d of the clock's time is over.
func (g *Rig) Advance(d time.Duration) {
	for end := g.Clock.Now().Add(d); g.Clock.Now() < end; {
		g.Turn()
	}
}

// Until turns until done says so.
func (g *Rig) Until(what string, done func() bool) {
	g.T.Helper()
	for i := 0; !done(); i++ {
		if i == turnLimit {
			g.T.Fatalf("%s: still waiting after %d turns", what, turnLimit)
		}
		g.Turn()
	}
}

// Buffer allocates n bytes.
func (g *Rig) Buffer(n uint32) mem.Ref {
	g.T.Helper()
	b, ok := g.arena.Alloc(n)
	if !ok {
		g.T.Fatalf("no buffer of %d bytes", n)
	}
	g.T.Cleanup(func() { g.arena.Free(b) })
	return b
}

// Open opens d on reactor i and closes the channel with the test.
func (g *Rig) Open(d bdev.Device, i int) bdev.Channel {
	g.T.Helper()
	ch, err := d.Open(g.Reactors[i])
	if err != nil {
		g.T.Fatalf("open: %v", err)
	}
	g.T.Cleanup(ch.Close)
	return ch
}

// Call is one I/O and what became of it.
type Call struct {
	bdev.IO
	Final      bdev.Status // Pending until the end
	Calls      int         // of IODone
	submitting bool
	Inside     bool // IODone ran inside Submit
}

// IODone implements bdev.Completer.
func (c *Call) IODone(io *bdev.IO) {
	io.Pop()
	c.Calls++
	c.Inside = c.Inside || c.submitting
	c.Final = io.Status
}

// Done tells whether the I/O has ended.
func (c *Call) Done() bool { return c.Final != bdev.Pending }

// Start submits c once; Final is the status when it ended at once, and NoMem
// when it was refused.
func (c *Call) Start(ch bdev.Channel) bdev.Status {
	c.Final, c.Calls, c.Inside = bdev.Pending, 0, false
	c.Push(c, 0)
	c.submitting = true
	s := ch.Submit(&c.IO)
	c.submitting = false
	if s != bdev.Pending {
		c.Pop()
		c.Final = s
	}
	return s
}

// Do runs c to its end, submitting again after NoMem, and returns its status.
func (g *Rig) Do(ch bdev.Channel, c *Call) bdev.Status {
	g.T.Helper()
	for i := 0; c.Start(ch) == bdev.NoMem; i++ {
		if i == 1000 {
			g.T.Fatalf("%v: refused for ever", c.Op)
		}
		g.Turn()
	}
	g.Until(c.Op.String(), c.Done)
	if c.Inside {
		g.T.Fatalf("%v: IODone inside Submit", c.Op)
	}
	return c.Final
}

// NewCall makes an I/O.
func NewCall(op bdev.Op, lba uint64, blocks uint32, data mem.Ref, fl bdev.Flags) *Call {
	return &Call{IO: bdev.IO{Op: op, Flags: fl, LBA: lba, Blocks: blocks, Data: data}}
}

// MustDo runs an I/O that has to succeed.
func (g *Rig) MustDo(ch bdev.Channel, op bdev.Op, lba uint64, blocks uint32, data mem.Ref, fl bdev.Flags) {
	g.T.Helper()
	if s := g.Do(ch, NewCall(op, lba, blocks, data, fl)); s != bdev.OK {
		g.T.Fatalf("%v of %d blocks at %d: %v", op, blocks, lba, s)
	}
}

// NoRing is a ring for modules that make no kernel operations: all Prep calls
// refuse.
type NoRing struct{ ring.Ring }

// Enter implements ring.Ring.
func (NoRing) Enter([]ring.CQE, clock.Time) (int, error) { return 0, nil }

// Wake implements ring.Ring.
func (NoRing) Wake() {}
