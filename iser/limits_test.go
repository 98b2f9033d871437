package iser_test

import (
	"bytes"
	"errors"
	"log/slog"
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
	"spindle/verbs/memverbs"
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

// TestUndestroyed: what a queue pair that neither drains nor can be destroyed may
// still use is kept until it is destroyed.
func TestUndestroyed(t *testing.T) {
	var f *faulty
	g := isertest.New(t, isertest.Options{Wrap: func(p verbs.Provider) verbs.Provider { f = &faulty{Provider: p}; return f }})
	g.Zombies = 1
	before := g.Reactors[0].Arena.InUse()
	c := g.Dial().Login()
	ready(t, c, 1)
	kept := g.Reactors[0].Arena.InUse()
	f.mute, g.Node.Stuck = true, true
	c.Disconnect()
	g.Wait("zombie", 10*time.Second, func() bool { return g.ISER.Stats.Zombies.Load() == 1 })
	for end := g.Clock.T.Add(30 * time.Second); g.Clock.T < end; g.World.Advance(100 * time.Millisecond) {
		g.Turn()
	}
	if n := len(links(g)); n != 1 || g.Reactors[0].Arena.InUse() != kept || g.Node.Live().QPs != 1 {
		t.Errorf("%d connections, %d bytes of %d and %d queue pairs are left", n, g.Reactors[0].Arena.InUse(), kept, g.Node.Live().QPs)
	}
	g.Node.Stuck = false
	g.Wait("end of the connection", 10*time.Second, func() bool { return len(links(g)) == 0 })
	if n := g.Reactors[0].Arena.InUse(); n >= kept {
		t.Errorf("%d bytes in use, %d before the connection", n, before)
	}
	f.mute = false
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

// TestRequestFlood: requests for connections that come all the time, one a step, do
// not keep a portal that waits from being tried again, nor any number of them at
// once keep what else the control thread has to do waiting.
func TestRequestFlood(t *testing.T) {
	s := &slow{}
	g := isertest.New(t, isertest.Options{ISER: iser.Options{Offload: s}})
	if err := g.Engine.AddPortalGroup(g, iscsi.PortalGroup{Tag: 2, Portals: []iscsi.Portal{{Addr: addr("127.0.1.1:3260"), ISER: true}}}); err != nil {
		t.Fatal(err)
	}
	g.Node.AddDevice("rxe1", addr("127.0.1.1:1").Addr())
	waits := func() string { return g.Engine.PortalGroups()[1].Portals[0].ISERWait }
	if waits() == "" {
		t.Fatal("the portal does not wait")
	}
	for end := g.Clock.T.Add(5 * time.Second); waits() != "" && g.Clock.T < end; {
		c := g.DialWith(isertest.Dial{NoReads: true}) // is rejected
		c.Vanish()
		g.World.Advance(200 * time.Millisecond)
	}
	if w := waits(); w != "" {
		t.Errorf("the portal waits after 5 s: %s", w)
	}

	s.held = true
	var conns []*isertest.Conn
	for range 50 {
		conns = append(conns, g.Ask(isertest.Dial{}))
	}
	before := g.Node.Live().QPs
	g.Until("a step", func() bool { return len(s.jobs) > 0 })
	g.World.Advance(time.Millisecond)
	g.Turn()
	s.jobs[0]()
	if n := g.Node.Live().QPs - before; n == 0 || n >= 50 {
		t.Errorf("%d of 50 requests were taken in one step", n)
	}
	s.held = false
	for _, c := range conns {
		g.Until("connection", func() bool { c.TryRecv(); return c.Up })
	}
}

// TestRejectionsAreLoggedOnce: what anybody can have us log is logged once a second,
// with how often it was.
func TestRejectionsAreLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	g := isertest.New(t, isertest.Options{ISER: iser.Options{Log: slog.New(slog.NewTextHandler(&out, nil))}})
	for range 5 {
		g.DialWith(isertest.Dial{NoReads: true}).Vanish()
	}
	if n := strings.Count(out.String(), "connection rejected"); n != 1 {
		t.Errorf("%d lines for 5 rejections at once", n)
	}
	g.World.Advance(time.Second)
	g.DialWith(isertest.Dial{NoReads: true}).Vanish()
	if !strings.Contains(out.String(), "times=5") {
		t.Errorf("the log does not tell how often:\n%s", &out)
	}
}

// changed is a provider that differs from the one in process.
type changed struct {
	verbs.Provider
	hide  int                // looks at the devices that find none
	event func(*verbs.Event) // on its way to the target
}

func (p *changed) Devices() ([]verbs.Device, error) {
	if p.hide > 0 {
		p.hide--
		return nil, nil
	}
	return p.Provider.Devices()
}

func (p *changed) NewEventChannel() (verbs.EventChannel, error) {
	ch, err := p.Provider.NewEventChannel()
	return changedChannel{ch, p}, err
}

type changedChannel struct {
	verbs.EventChannel
	p *changed
}

func (c changedChannel) Next(ev *verbs.Event) (bool, error) {
	ok, err := c.EventChannel.Next(ev)
	if ok && c.p.event != nil {
		c.p.event(ev)
	}
	return ok, err
}

// TestUnknownIdentifier: events of identifiers that are not known any more are
// nobody's, and a request to a listener that is gone is rejected.
func TestUnknownIdentifier(t *testing.T) {
	p := &changed{}
	g := isertest.New(t, isertest.Options{Wrap: func(in verbs.Provider) verbs.Provider { p.Provider = in; return p }})
	p.event = func(ev *verbs.Event) { ev.Listener = nil }
	if c := g.Dial(); c.Up {
		t.Error("connected")
	}
	p.event = func(ev *verbs.Event) {
		if ev.Type == verbs.EventEstablished {
			ev.ID = nil
		}
	}
	c := g.Dial()
	g.Wait("end of the login", 20*time.Second, func() bool { return len(links(g)) == 0 })
	c.ExpectClosed()
	p.event = nil
	ready(t, g.Dial().Login(), 1)
}

// TestDeviceOfListener: a portal bound to a device that came after the last look
// does not keep it when it is removed, and its connections find it.
func TestDeviceOfListener(t *testing.T) {
	p := &changed{}
	g := isertest.New(t, isertest.Options{Wrap: func(in verbs.Provider) verbs.Provider { p.Provider = in; return p }})
	p.hide = 1
	g.Node.AddDevice("rxe1", addr("127.0.1.1:1").Addr())
	if err := g.Engine.AddPortalGroup(g, iscsi.PortalGroup{Tag: 2, Portals: []iscsi.Portal{{Addr: addr("127.0.1.1:3260"), ISER: true}}}); err != nil {
		t.Fatal(err)
	}
	p.event = func(ev *verbs.Event) { // is late
		if ev.Type == verbs.EventDeviceRemoval {
			ev.ID = nil
		}
	}
	g.Node.RemoveDevice("rxe1")
	g.Wait("release", 5*time.Second, func() bool { return g.Node.Removing() == 0 })
	if w := g.Engine.PortalGroups()[1].Portals[0].ISERWait; w == "" {
		t.Error("the portal is served without a device")
	}
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

// TestNoMemoryForCopy: a reply that has to be copied and finds no memory does not
// hold up those that would give theirs back.
func TestNoMemoryForCopy(t *testing.T) {
	const memory = 8 << 20
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Memory: memory},
		Fabric: memverbs.Config{Faults: memverbs.Faults{LateRead: 1}, Latency: 200 * time.Microsecond}})
	g.Node.MemlockLimit = memory // nothing but the arena
	c := g.Dial().Login()
	ready(t, c, 0)
	ready(t, c, 1)
	left := map[uint32]bool{}
	for range 8 { // more than there is memory for
		itt, _ := c.StartWrite(1, 0, pattern(1<<20, 1), isertest.Shape{})
		left[itt] = true
	}
	base := commands(g)
	g.Until("the writes", func() bool { return commands(g) > base })
	itt, buf := c.StartRead(0, 0, 1024)
	left[itt] = true
	for len(left) > 0 {
		p := c.Expect(pdu.SCSIResponse)
		if !left[p.BHS.ITT()] || p.BHS.Status() != 0 || p.BHS.StatSN() != c.ExpStatSN {
			t.Fatalf("% x", p.BHS)
		}
		c.ExpStatSN++
		delete(left, p.BHS.ITT())
	}
	if !bytes.Equal(buf.Bytes(), make([]byte, 512<<10)) {
		t.Error("data differs")
	}
	if g.ISER.Stats.Copies.Load() != 1 {
		t.Errorf("%d copies", g.ISER.Stats.Copies.Load())
	}
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

// TestUnreadResponses: a peer that leaves no receive for its answers, and has
// them sent again without end, is given up.
func TestUnreadResponses(t *testing.T) {
	o := iscsi.Defaults()
	o.SendTimeout, o.NopInInterval = 20, 0
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Engine: &o}})
	other := g.Dial().Login()
	ready(t, other, 1)
	c := g.DialWith(isertest.Dial{RNR: 7}).Login()
	ready(t, c, 1)
	for range 140 { // more than it has receives, and it looks at none of the answers
		b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		b.SetTTT(pdu.ReservedTag)
		c.Send(b, nil, nil)
		g.Settle()
	}
	start := g.Clock.T
	g.Wait("end of the connection", 60*time.Second, func() bool { return len(links(g)) == 1 })
	if d := g.Clock.T.Sub(start); d < 15*time.Second || d > 45*time.Second {
		t.Errorf("given up after %v, the limit is 20 s", d)
	}
	if g.Fabric.Counts.NoReceive < 10 {
		t.Errorf("%d times no receive: not what ended it", g.Fabric.Counts.NoReceive)
	}
	alive(t, other)
}

// TestSilentInitiator: one that has logged in and says nothing is neither spoken
// to nor given up, and one that dies then is found.
func TestSilentInitiator(t *testing.T) {
	o := iscsi.Defaults()
	o.NopInInterval, o.NopTimeout = 5, 5
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Engine: &o}})
	c := g.Dial().Login()
	for end := g.Clock.T.Add(time.Minute); g.Clock.T < end; g.World.Advance(time.Millisecond) {
		g.Turn()
	}
	if _, ok := c.TryRecv(); ok || c.Down || len(links(g)) != 1 {
		t.Fatalf("spoken to %v, ended %v", ok, c.Down)
	}
	b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, nil)
	if p := c.Expect(pdu.NopIn); p.BHS.ITT() != pdu.ReservedTag {
		t.Fatalf("not the ping that was kept back: % x", p.BHS)
	}
	if p := c.Expect(pdu.NopIn); p.BHS.ITT() != b.ITT() {
		t.Fatalf("not the answer: % x", p.BHS)
	}
	c.Vanish()
	d := g.Dial().Login()
	g.Settle()
	d.Stop()
	g.Wait("end of the connection", 30*time.Second, func() bool { return len(links(g)) == 0 })
}

// TestSmallSegments: the receives for unsolicited data are counted in the data
// segments that were negotiated.
func TestSmallSegments(t *testing.T) {
	o := iscsi.Defaults()
	o.MaxQueueDepth, o.FirstBurstLength = 4, 16384
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Engine: &o}, ISER: iser.Options{Unsolicited: true}})
	c := g.Dial()
	s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "SessionType=Normal", "RDMAExtensions=Yes",
		"InitialR2T=No", "ImmediateData=No", "FirstBurstLength=16384", "InitiatorRecvDataSegmentLength=262144", "TargetRecvDataSegmentLength=512")
	if s != 0 {
		t.Fatalf("login status %04x", s)
	}
	ready(t, c, 1)
	for range 4 { // at once, without a turn of the target in between
		c.StartWrite(1, 0, pattern(16384, 7), isertest.Shape{Unsolicited: 16384, Segment: 512})
	}
	for range 4 {
		if p := c.Expect(pdu.SCSIResponse); p.BHS.Status() != 0 {
			t.Fatalf("% x", p.BHS)
		}
	}
	if n := g.Fabric.Counts.NoReceive; n != 0 {
		t.Errorf("%d sends found no receive", n)
	}
}

// TestAbortBeforeReading: write data of an aborted task whose RDMA READ has not
// been posted is not fetched, and the abort does not wait for those before it.
func TestAbortBeforeReading(t *testing.T) {
	g := isertest.New(t, isertest.Options{Fabric: memverbs.Config{Faults: memverbs.Faults{LateRead: 1}, Latency: 500 * time.Microsecond}})
	c := g.DialWith(isertest.Dial{Reads: 1}).Login()
	ready(t, c, 1)
	reads := 0
	g.Fabric.Trace = func(e memverbs.Event) {
		if e.Kind == memverbs.Transmit && e.Op == verbs.OpRDMARead.String() {
			reads++
		}
	}
	base := commands(g)
	first, _ := c.StartWrite(1, 0, pattern(65536, 1), isertest.Shape{})
	itt, buf := c.StartWrite(1, 256, pattern(65536, 2), isertest.Shape{})
	last, _ := c.StartWrite(1, 512, pattern(65536, 3), isertest.Shape{})
	g.Until("all commands", func() bool { return commands(g) == base+3 })
	m := c.Immediate(pdu.TMFRequest, pdu.FlagFinal|pdu.TMFAbortTask)
	m.SetLUN(1 << 48)
	m.SetRefTag(itt)
	m.SetRefCmdSN(c.CmdSN - 2)
	c.Send(m, nil, nil)
	for left := map[uint32]bool{first: true, last: true, m.ITT(): true}; len(left) > 0; {
		p := c.Recv()
		if !left[p.BHS.ITT()] || p.BHS.Opcode() == pdu.SCSIResponse && p.BHS.Status() != 0 || p.BHS.Opcode() == pdu.TMFResponse && p.BHS.Response() != pdu.TMFComplete {
			t.Fatalf("% x", p.BHS)
		}
		if p.BHS.ITT() == m.ITT() {
			c.Release(buf)
		} else if p.BHS.ITT() == last && left[m.ITT()] {
			t.Error("the abort waited for other commands' data")
		}
		delete(left, p.BHS.ITT())
	}
	if reads != 2 {
		t.Errorf("%d RDMA READs for two writes", reads)
	}
	if n := g.Fabric.Counts.AccessDenied; n != 0 {
		t.Errorf("%d accesses denied", n)
	}
}
