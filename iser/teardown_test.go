package iser_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iser"
	"spindle/iser/isertest"
	"spindle/verbs"
	"spindle/verbs/memverbs"
)

// cut ends a script in the middle of a turn.
type cut struct{}

// life is a session from its connection request to its end.
func life(t testing.TB, g *isertest.Target, seen func(*isertest.Conn)) {
	c := g.DialWith(isertest.Dial{Seen: seen}).Login()
	ready(t, c, 1)
	data := pattern(65536, 3)
	c.Write(1, 0, data, isertest.Shape{Immediate: 4096})
	if !bytes.Equal(c.Read(1, 0, 128), data) {
		t.Fatal("data differs")
	}
	for range 4 {
		c.StartWrite(1, 0, data, isertest.Shape{})
		c.StartRead(1, 256, 128)
	}
	for range 8 {
		c.Expect(pdu.SCSIResponse)
	}
	c.Send(c.Request(pdu.LogoutReq, pdu.FlagFinal|pdu.LogoutCloseSession), nil, nil)
	if p := c.Expect(pdu.LogoutResp); p.BHS.Response() != pdu.LogoutSuccess {
		t.Fatalf("% x", p.BHS)
	}
	c.ExpectClosed()
}

// TestLogout: the response arrives before the connection ends.
func TestLogout(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	life(t, g, nil)
	g.Settle()
	if n := len(g.Engine.Connections(g)); n != 0 {
		t.Fatalf("%d connections left", n)
	}
}

// TestTeardownAnywhere ends a session at each of its turns in each way there is;
// Close then finds everything given back.
func TestTeardownAnywhere(t *testing.T) {
	turns := 0
	g := isertest.New(t, isertest.Options{Seed: 1})
	g.OnTurn = func() { turns++ }
	life(t, g, nil)
	g.OnTurn = nil
	for _, tc := range []struct {
		name string
		end  func(*testing.T, *isertest.Target, *isertest.Conn)
		slow bool // only NOP-In can tell
	}{
		{name: "the initiator disconnects", end: func(_ *testing.T, _ *isertest.Target, c *isertest.Conn) {
			if c != nil && c.Up {
				c.Disconnect()
			}
		}},
		{name: "the initiator is killed", end: func(_ *testing.T, _ *isertest.Target, c *isertest.Conn) {
			if c != nil {
				c.Vanish()
			}
		}},
		{name: "the initiator's machine stops", slow: true, end: func(_ *testing.T, _ *isertest.Target, c *isertest.Conn) {
			if c != nil {
				c.Stop()
			}
		}},
		{name: "the device is removed", end: func(t *testing.T, g *isertest.Target, _ *isertest.Conn) {
			g.Node.RemoveDevice(isertest.TargetDevice)
			g.Wait("release of the device", 5*time.Second, func() bool { return g.Node.Removing() == 0 })
			g.AddDevice()
		}},
		{name: "iSER is switched off", end: func(t *testing.T, g *isertest.Target, _ *isertest.Conn) {
			for _, on := range []bool{false, true} {
				if err := g.Engine.SetPortalGroupISER(g, 1, on); err != nil {
					t.Fatal(err)
				}
				g.Wait("end of iSER", time.Second, func() bool { return len(links(g)) == 0 })
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			every := 1 + turns/60
			if testing.Short() {
				every = 1 + turns/20
			}
			for k := 1; k < turns; k += every {
				var c *isertest.Conn
				g := isertest.New(t, isertest.Options{Seed: 1})
				n := 0
				g.OnTurn = func() {
					if n++; n == k {
						panic(cut{})
					}
				}
				func() {
					defer func() {
						if p := recover(); p != nil && p != any(cut{}) {
							panic(p)
						}
					}()
					life(t, g, func(o *isertest.Conn) { c = o })
				}()
				g.OnTurn = nil
				tc.end(t, g, c)
				if !tc.slow {
					g.Wait(fmt.Sprintf("cut at turn %d: end of the connection", k), 20*time.Second, func() bool { return len(links(g)) == 0 })
				}
				if c != nil {
					c.Vanish()
				}
				if k%7 == 0 && !tc.slow {
					g.Wait("portal", 5*time.Second, func() bool { return g.Engine.PortalGroups()[0].Portals[0].ISERWait == "" })
					o := g.Dial().Login()
					ready(t, o, 1)
					alive(t, o)
				}
				g.Close()
				if t.Failed() {
					t.Fatalf("cut at turn %d of %d", k, turns)
				}
			}
		})
	}
}

// TestEndBeforeStart: connections that end while the engine keeps them waiting for
// its configuration are given back at once, and do not come up afterwards.
func TestEndBeforeStart(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*isertest.Target, *isertest.Conn)
	}{
		{"the initiator gives up", func(_ *isertest.Target, c *isertest.Conn) { c.Vanish() }},
		{"the device's address changes", func(g *isertest.Target, _ *isertest.Conn) { g.Node.ChangeAddress(isertest.TargetDevice) }},
		{"the device is removed", func(g *isertest.Target, _ *isertest.Conn) {
			g.Node.RemoveDevice(isertest.TargetDevice)
			g.Wait("release of the device", 5*time.Second, func() bool { return g.Node.Removing() == 0 })
			g.AddDevice()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Held: true}})
			c := g.Ask(isertest.Dial{})
			g.Until("request", func() bool { return g.ISER.Stats.Accepted.Load() == 1 })
			tc.end(g, c)
			g.Wait("end of the connection", 5*time.Second, func() bool { return g.Node.Live().QPs == 0 })
			g.Engine.Open(g)
			if n := g.ISER.Stats.DrainTimeout.Load(); n != 0 {
				t.Errorf("%d queue pairs did not drain", n)
			}
			g.Wait("portal", 5*time.Second, func() bool { return g.Engine.PortalGroups()[0].Portals[0].ISERWait == "" })
			o := g.Dial().Login()
			ready(t, o, 1)
			alive(t, o)
			if n := len(links(g)); n != 1 {
				t.Errorf("%d connections", n)
			}
			g.Close()
		})
	}
}

// TestDeadPeer: NOP-In finds an initiator that is silent, and retries that run
// out find one that is gone.
func TestDeadPeer(t *testing.T) {
	o := iscsi.Defaults()
	o.NopInInterval, o.NopTimeout = 5, 5
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Engine: &o}})
	c := g.Dial().Login()
	ready(t, c, 1)
	c.Stop()
	g.Wait("end of the connection", 15*time.Second, func() bool { return len(links(g)) == 0 })
	c = g.Dial().Login() // answers no NOP-In, though its host takes them
	ready(t, c, 1)
	g.Wait("end of the connection", 15*time.Second, func() bool { return len(links(g)) == 0 })
	if g.Engine.Stats.NopTimeouts.Load() == 0 {
		t.Error("no NOP-In timed out")
	}
	b := g.Dial() // never logs in
	g.Wait("end of the login", 20*time.Second, func() bool { return len(links(g)) == 0 })
	b.ExpectClosed()
}

// TestReinstatement: a login with the same ISID ends the session there is, RDMA
// in flight or not.
func TestReinstatement(t *testing.T) {
	g := isertest.New(t, isertest.Options{Fabric: memverbs.Config{Faults: memverbs.Faults{LateRead: 1}, Latency: 200 * time.Microsecond}})
	c := g.Dial().Login()
	ready(t, c, 1)
	for range 8 {
		c.StartWrite(1, 0, pattern(65536, 1), isertest.Shape{})
	}
	g.Settle()
	again := g.Dial()
	again.ISID = c.ISID
	again.Login()
	ready(t, again, 1)
	alive(t, again)
	c.ExpectClosed()
	if n := len(links(g)); n != 1 {
		t.Fatalf("%d connections", n)
	}
}

// TestPortals: several devices, several portals, several units at once, and each
// its own data.
func TestPortals(t *testing.T) {
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Reactors: 2, LUNs: func(g *iscsitest.Target) (list []iscsi.LUN) {
		for i := range uint16(4) {
			list = append(list, iscsitest.Malloc(g, i, 8192))
		}
		return list
	}}})
	g.Node.AddDevice("rxe1", addr("127.0.1.1:1").Addr())
	if err := g.Engine.AddPortalGroup(g, iscsi.PortalGroup{Tag: 2, Portals: []iscsi.Portal{
		{Addr: addr("127.0.1.1:3260"), ISER: true}, {Addr: addr("127.0.1.1:3261"), ISER: true}, {Addr: addr("127.0.0.1:3261"), ISER: true},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := g.Engine.AddMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 2, InitiatorTag: 1}}); err != nil {
		t.Fatal(err)
	}
	var conns []*isertest.Conn
	for i, a := range []string{"127.0.0.1:3260", "127.0.0.1:3261", "127.0.1.1:3260", "127.0.1.1:3261"} {
		c := g.DialWith(isertest.Dial{Addr: addr(a)}).Login()
		conns = append(conns, c)
		for l := range uint16(4) {
			ready(t, c, l)
			c.Write(l, uint32(i)*256, pattern(65536, byte(4*i)+byte(l)), isertest.Shape{})
		}
	}
	devices := map[string]int{}
	for _, s := range links(g) {
		devices[strings.Fields(s)[0]]++
	}
	if devices["device=rxe0"] != 2 || devices["device=rxe1"] != 2 {
		t.Fatalf("connections by device: %v", devices)
	}
	for _, r := range g.Reactors {
		if r.Load() != 2 {
			t.Errorf("reactor %d has %d connections of 4", r.ID, r.Load())
		}
	}
	for i := range conns {
		for l := range uint16(4) {
			if got := conns[3-i].Read(l, uint32(i)*256, 128); !bytes.Equal(got, pattern(65536, byte(4*i)+byte(l))) {
				t.Fatalf("LUN %d written over portal %d and read over %d: data differs", l, i, 3-i)
			}
		}
	}
	// One device goes: the sessions of the other stay.
	g.Node.RemoveDevice("rxe1")
	g.Wait("release", 5*time.Second, func() bool { return g.Node.Removing() == 0 })
	conns[2].ExpectClosed()
	conns[3].ExpectClosed()
	if got := conns[0].Read(1, 256, 128); !bytes.Equal(got, pattern(65536, 5)) {
		t.Fatal("data differs")
	}
	p := g.Engine.PortalGroups()[1].Portals
	if p[0].ISERWait == "" || p[1].ISERWait == "" || p[2].ISERWait != "" || !p[0].ISER {
		t.Fatalf("%+v", p)
	}
	g.Node.AddDevice("rxe1", addr("127.0.1.1:1").Addr())
	g.Wait("service", 5*time.Second, func() bool { return g.Engine.PortalGroups()[1].Portals[1].ISERWait == "" })
	c := g.DialWith(isertest.Dial{Addr: addr("127.0.1.1:3261")}).Login()
	ready(t, c, 3)
	if got := c.Read(3, 0, 128); !bytes.Equal(got, pattern(65536, 3)) {
		t.Fatal("data differs")
	}
}

// TestNoDevice: a portal waits for its device, says why, and TCP serves.
func TestNoDevice(t *testing.T) {
	g := isertest.New(t, isertest.Options{NoDevice: true})
	if p := g.Engine.PortalGroups()[0].Portals[0]; !p.ISER || p.ISERWait != verbs.ErrNoDevice.Error() {
		t.Fatalf("%+v", p)
	}
	g.Target.Dial().Login()
	g.AddDevice()
	g.Wait("service", 3*time.Second, func() bool { return g.Engine.PortalGroups()[0].Portals[0].ISERWait == "" })
	c := g.Dial().Login()
	ready(t, c, 1)
	alive(t, c)
}

// TestToggle: iSER goes and comes while TCP works on.
func TestToggle(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	tcp := g.Target.Dial().Login()
	for range 3 {
		c := g.Dial().Login()
		ready(t, c, 1)
		c.StartWrite(1, 0, pattern(65536, 1), isertest.Shape{})
		if err := g.Engine.SetPortalGroupISER(g, 1, false); err != nil {
			t.Fatal(err)
		}
		c.ExpectClosed()
		if o := g.Dial(); o.Up {
			t.Fatal("connected to a portal without iSER")
		}
		b := tcp.Immediate(pdu.NopOut, pdu.FlagFinal)
		b.SetTTT(pdu.ReservedTag)
		tcp.Send(b, nil, nil)
		tcp.Expect(pdu.NopIn)
		if err := g.Engine.SetPortalGroupISER(g, 1, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Engine.SetPortalGroupISER(g, 9, true); err == nil {
		t.Fatal("a portal group that is not there")
	}
}

// TestWildcard: a portal at every address, over both families.
func TestWildcard(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	if err := g.Engine.AddPortalGroup(g, iscsi.PortalGroup{Tag: 2, Portals: []iscsi.Portal{
		{Addr: addr("0.0.0.0:4000"), ISER: true}, {Addr: addr("[::]:4001"), ISER: true}}}); err != nil {
		t.Fatal(err)
	}
	if err := g.Engine.AddMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 2, InitiatorTag: 1}}); err != nil {
		t.Fatal(err)
	}
	c := g.DialWith(isertest.Dial{Addr: addr("127.0.0.1:4000")}).Login()
	ready(t, c, 1)
	alive(t, c)
	if got, want := discover(t, g.DialWith(isertest.Dial{Addr: addr("127.0.0.1:4000")})),
		string(iscsitest.Keys("TargetName="+iscsitest.Node, "TargetAddress=127.0.0.1:3260,1", "TargetAddress=127.0.0.1:4000,2")); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	g.Node.RemoveDevice(isertest.TargetDevice)
	g.Wait("release", 5*time.Second, func() bool { return g.Node.Removing() == 0 })
	c.ExpectClosed()
	g.AddDevice()
	g.Wait("service", 5*time.Second, func() bool { return g.Engine.PortalGroups()[1].Portals[0].ISERWait == "" })
	c = g.DialWith(isertest.Dial{Addr: addr("127.0.0.1:4000")}).Login()
	ready(t, c, 1)
	c6 := g.DialWith(isertest.Dial{Addr: addr("[::1]:4001"), V6: true}).Login()
	ready(t, c6, 1)
	alive(t, c6)
}

// TestMemlock: without leave to register memory a portal says so; with too
// little for a disk, its data is copied.
func TestMemlock(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	g.Node.MemlockLimit = 1 << 20
	if c := g.Dial(); c.Up {
		t.Fatal("connected without registered buffers")
	}
	if w := g.Engine.PortalGroups()[0].Portals[0].ISERWait; !strings.Contains(w, verbs.ErrMemlock.Error()) {
		t.Fatalf("waiting: %q", w)
	}
	g.Node.MemlockLimit = 64 << 20 // the arena's size
	c := g.Dial().Login()
	ready(t, c, 0)
	if got := c.Read(0, 0, 128); !bytes.Equal(got, make([]byte, 65536)) {
		t.Fatal("data differs")
	}
	if g.ISER.Stats.Copies.Load() != 1 {
		t.Errorf("%d copies: the disk lends memory that cannot have been registered", g.ISER.Stats.Copies.Load())
	}
	if w := g.Engine.PortalGroups()[0].Portals[0].ISERWait; w != "" {
		t.Errorf("waiting: %q", w)
	}
}

// TestMissingLibraries: a target without RDMA serves TCP and says why not iSER.
func TestMissingLibraries(t *testing.T) {
	var x *iser.Transport
	g := iscsitest.New(t, iscsitest.Options{ISER: func(b *iscsitest.Target) iscsi.Transport {
		x = iser.New(iser.Options{Missing: verbs.ErrNoLibrary, Reactors: b.Reactors, Space: b.Space, Offload: isertest.Offload{}})
		return x
	}})
	if w := g.Engine.PortalGroups()[0].Portals[0].ISERWait; w != verbs.ErrNoLibrary.Error() {
		t.Fatalf("waiting: %q", w)
	}
	g.Dial().Login()
	g.Engine.Shutdown(g, 0)
	x.Stop(g)
}

// TestLentMemory: what a disk lends is registered when it is first sent, and
// goes without a copy; when the disk is gone, so is the registration.
func TestLentMemory(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	c := g.Dial().Login()
	ready(t, c, 0)
	before := g.Node.Live().MRs
	for range 3 {
		if got := c.Read(0, 0, 128); !bytes.Equal(got, make([]byte, 65536)) {
			t.Fatal("data differs")
		}
	}
	if n := g.Node.Live().MRs; n != before+1 || g.ISER.Stats.Copies.Load() != 0 {
		t.Fatalf("%d registrations, %d before; %d copies", n, before, g.ISER.Stats.Copies.Load())
	}
	if err := g.Engine.RemoveLUN(g, iscsitest.Node, 0); err != nil {
		t.Fatal(err)
	}
	if err := g.LUNs[0].Bdev.Close(); err != nil {
		t.Fatal(err)
	}
	g.Wait("sweep", 10*time.Second, func() bool { return g.Node.Live().MRs == before })
}
