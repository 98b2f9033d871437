package iser_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iser"
	"spindle/iser/isertest"
	"spindle/reactor"
	"spindle/verbs"
)

// TestPingFlood: more pings at once than the engine has PDUs to answer with wait
// in their receives and are all answered.
func TestPingFlood(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	c := g.Dial().Login()
	want := map[uint32]bool{}
	for range 60 {
		b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		b.SetTTT(pdu.ReservedTag)
		want[b.ITT()] = true
		c.Send(b, nil, []byte("ping"))
	}
	for len(want) > 0 {
		p := c.Expect(pdu.NopIn)
		if !want[p.BHS.ITT()] || p.BHS.StatSN() != c.ExpStatSN {
			t.Fatalf("% x", p.BHS)
		}
		delete(want, p.BHS.ITT())
		c.ExpStatSN++
	}
	if n := g.Fabric.Counts.NoReceive; n != 0 {
		t.Errorf("%d sends found no receive", n)
	}
}

// faulty is a provider whose posting or polling can be stopped.
type faulty struct {
	verbs.Provider
	refuse bool // every request
	mute   bool // no completions
}

func (f *faulty) Post(b *verbs.Batch) int {
	if !f.refuse {
		return f.Provider.Post(b)
	}
	for i := range b.Sends {
		b.Sends[i].Err = 12
	}
	for i := range b.Recvs {
		b.Recvs[i].Err = 12
	}
	return len(b.Sends) + len(b.Recvs)
}

func (f *faulty) Poll(cqs []verbs.CQHandle, out []verbs.WC) (int, int) {
	if f.mute {
		return 0, -1
	}
	return f.Provider.Poll(cqs, out)
}

// TestRefused: a device that takes no request ends the connection, not the target.
func TestRefused(t *testing.T) {
	var f *faulty
	g := isertest.New(t, isertest.Options{Wrap: func(p verbs.Provider) verbs.Provider { f = &faulty{Provider: p}; return f }})
	c := g.Dial().Login()
	ready(t, c, 1)
	f.refuse = true
	c.Send(c.Command(1, 0, 0, 0), nil, nil)
	c.ExpectClosed()
	g.Wait("end of the connection", 10*time.Second, func() bool { return len(links(g)) == 0 })
	f.refuse = false
	if g.ISER.Stats.Refused.Load() == 0 {
		t.Error("nothing was refused")
	}
	ready(t, g.Dial().Login(), 1)
}

// TestDrainTimeout: a queue pair whose requests do not flush is destroyed when
// their time is over, and what they would have said comes to nobody.
func TestDrainTimeout(t *testing.T) {
	var f *faulty
	g := isertest.New(t, isertest.Options{Wrap: func(p verbs.Provider) verbs.Provider { f = &faulty{Provider: p}; return f }})
	c := g.Dial().Login()
	ready(t, c, 1)
	f.mute = true
	c.Disconnect()
	start := g.Clock.T
	g.Wait("end of the connection", 10*time.Second, func() bool { return len(links(g)) == 0 })
	if d := g.Clock.T.Sub(start); d < 4*time.Second {
		t.Errorf("given up after %v", d)
	}
	f.mute = false
	if n := g.ISER.Stats.DrainTimeout.Load(); n != 1 {
		t.Errorf("%d queue pairs given up", n)
	}
	ready(t, g.Dial().Login(), 1)
}

// slow is an Offload that can be held up.
type slow struct {
	held bool
	jobs []func()
}

func (s *slow) Go(work func(), r *reactor.Reactor, done *reactor.Msg) {
	job := func() { isertest.Offload{}.Go(work, r, done) }
	if s.held {
		s.jobs = append(s.jobs, job)
		return
	}
	job()
}

// TestZombie: a control call that hangs is counted, and waited for all the same.
func TestZombie(t *testing.T) {
	s := &slow{}
	g := isertest.New(t, isertest.Options{ISER: iser.Options{Offload: s}})
	g.Zombies = 1
	c := g.Dial().Login()
	ready(t, c, 1)
	s.held = true
	c.RDMA(verbs.OpRDMAWrite, 1, 1, 8) // a remote access error
	g.Wait("zombie", 10*time.Second, func() bool { return g.ISER.Stats.Zombies.Load() == 1 })
	if n := len(links(g)); n != 1 {
		t.Fatalf("%d connections: memory was given back that a device may still use", n)
	}
	s.held = false
	for _, job := range s.jobs {
		job()
	}
	g.Wait("end of the connection", time.Second, func() bool { return len(links(g)) == 0 })
}

// TestNoMemory: a login without memory for its receives is refused, and the
// others go on.
func TestNoMemory(t *testing.T) {
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Memory: 4 << 20}})
	first := g.Dial().Login()
	ready(t, first, 1)
	refused := false
	for range 8 {
		c := g.Dial()
		if c.Down {
			refused = true
			break
		}
		s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "SessionType=Normal", "RDMAExtensions=Yes")
		if s == uint16(pdu.LoginOutOfResources) {
			refused = true
			c.ExpectClosed()
			break
		}
		if s != 0 {
			t.Fatalf("login status %04x", s)
		}
	}
	if !refused {
		t.Fatal("4 MiB were enough")
	}
	alive(t, first)
}

// TestSmallDevice: a window that a queue pair has no receives for is refused.
func TestSmallDevice(t *testing.T) {
	g := isertest.New(t, isertest.Options{Device: verbs.DeviceInfo{MaxQPWR: 100}})
	c := g.Dial()
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "SessionType=Normal", "RDMAExtensions=Yes"); s != uint16(pdu.LoginOutOfResources) {
		t.Fatalf("login status %04x", s)
	}
	c.ExpectClosed()
	o := g.Engine.Options()
	o.MaxQueueDepth = 64
	g.Engine.SetOptions(o)
	c = g.Dial().Login()
	ready(t, c, 1)
	alive(t, c)
}

// TestIWARP: a device whose reads need memory open to the peer is refused.
func TestIWARP(t *testing.T) {
	g := isertest.New(t, isertest.Options{Device: verbs.DeviceInfo{Transport: verbs.TransportIWARP}})
	if c := g.Dial(); c.Up {
		t.Fatal("connected")
	}
	if w := g.Engine.PortalGroups()[0].Portals[0].ISERWait; !strings.Contains(w, verbs.ErrIWARP.Error()) {
		t.Fatalf("waiting: %q", w)
	}
}

// TestNoTransport: iSER is not to be had where there is no transport for it.
func TestNoTransport(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	err := g.Engine.AddPortalGroup(g, iscsi.PortalGroup{Tag: 2, Portals: []iscsi.Portal{{Addr: addr("127.0.0.1:4000"), ISER: true}}})
	if !errors.Is(err, iscsi.ErrInvalid) {
		t.Fatalf("portal with iSER: %v", err)
	}
	if err := g.Engine.SetPortalGroupISER(g, 1, true); !errors.Is(err, iscsi.ErrInvalid) {
		t.Fatalf("switched on: %v", err)
	}
	g.Dial().Login()
}
