package iscsi_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// TestAccess: who may log in, by name and by address.
func TestAccess(t *testing.T) {
	const other = "iqn.2026-11.dev.spindle:other"
	for _, tc := range []struct {
		name  string
		names []string
		masks []string
		from  string
		ok    bool
	}{
		{"anybody", []string{"ANY"}, []string{"ANY"}, "127.0.0.1", true},
		{"the name", []string{iscsitest.Initiator}, []string{"ANY"}, "127.0.0.1", true},
		{"the name in capitals", []string{strings.ToUpper(iscsitest.Initiator)}, []string{"ANY"}, "127.0.0.1", true},
		{"another name", []string{other}, []string{"ANY"}, "127.0.0.1", false},
		{"denied, then anybody", []string{"!" + iscsitest.Initiator, "ANY"}, []string{"ANY"}, "127.0.0.1", false},
		{"anybody, then denied", []string{"ANY", "!" + iscsitest.Initiator}, []string{"ANY"}, "127.0.0.1", false},
		{"another denied", []string{"!" + other, "ANY"}, []string{"ANY"}, "127.0.0.1", true},
		{"no names", nil, []string{"ANY"}, "127.0.0.1", false},
		{"no netmasks", []string{"ANY"}, nil, "127.0.0.1", false},
		{"the address", []string{"ANY"}, []string{"10.1.2.3"}, "10.1.2.3", true},
		{"another address", []string{"ANY"}, []string{"10.1.2.4"}, "10.1.2.3", false},
		{"in the network", []string{"ANY"}, []string{"10.1.0.0/16"}, "10.1.2.3", true},
		{"outside the network", []string{"ANY"}, []string{"10.2.0.0/16"}, "10.1.2.3", false},
		{"second network", []string{"ANY"}, []string{"10.2.0.0/16", "10.1.2.3/31"}, "10.1.2.3", true},
		{"IPv6 network", []string{"ANY"}, []string{"[2001:db8::]/32"}, "2001:db8::7", true},
		{"IPv6 address", []string{"ANY"}, []string{"2001:db8::7"}, "2001:db8::7", true},
		{"outside the IPv6 network", []string{"ANY"}, []string{"2001:db9::/32"}, "2001:db8::7", false},
		{"IPv4 mapped", []string{"ANY"}, []string{"10.1.0.0/16"}, "::ffff:10.1.2.3", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			if err := g.Engine.SetInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: tc.names, Netmasks: tc.masks}); err != nil {
				t.Fatal(err)
			}
			want := uint16(0)
			if !tc.ok {
				want = uint16(pdu.LoginForbidden)
			}
			c := g.DialFrom(netip.MustParseAddr(tc.from))
			if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node); s != want {
				t.Fatalf("login status %04x, want %04x", s, want)
			}
			d := g.DialFrom(netip.MustParseAddr(tc.from))
			d.LoginStatus("InitiatorName="+iscsitest.Initiator, "SessionType=Discovery")
			b := d.Request(pdu.TextRequest, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			d.Send(b, nil, iscsitest.Keys("SendTargets=All"))
			if told := len(d.Expect(pdu.TextResponse).Data) > 0; told != tc.ok {
				t.Fatalf("discovery tells: %v", told)
			}
		})
	}
}

// TestMasking: a map shows only its LUNs, and a change counts at once.
func TestMasking(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	must(t, g.Engine.RemoveMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}))
	c := g.Dial()
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node); s != uint16(pdu.LoginNotFound) {
		t.Fatalf("login without a map: status %04x", s)
	}
	must(t, g.Engine.AddMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 1, InitiatorTag: 1, LUNs: []uint16{1}}}))
	c = g.Dial().Login()
	ready(t, c, 1)
	sense(t, c.Do(c.Command(0, 0, 0), nil, 0), 5, 0x2500)
	r := c.Do(c.Command(0, pdu.FlagRead, 256, cdb(12, 0xa0, 9, 255)...), nil, 0)
	if r.Status != 0 || len(r.Data) != 16 || r.Data[9] != 1 {
		t.Fatalf("REPORT LUNS: status %02x % x", r.Status, r.Data)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSendTargetsContinues: many nodes and a short MaxRecvDataSegmentLength
// (RFC 7143 §11.10, appendix C).
func TestSendTargetsContinues(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	for i := range 40 {
		must(t, g.Engine.AddNode(g, iscsi.NodeConfig{Name: fmt.Sprintf("node%02d", i), Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}}))
	}
	c := g.Dial()
	c.LoginStatus("InitiatorName="+iscsitest.Initiator, "SessionType=Discovery", "MaxRecvDataSegmentLength=512")
	b := c.Request(pdu.TextRequest, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, iscsitest.Keys("SendTargets=All"))
	var all []byte
	for {
		p := c.Expect(pdu.TextResponse)
		all = append(all, p.Data...)
		if len(p.Data) > 512 || p.BHS.ITT() != b.ITT() || p.BHS.Final() == p.BHS.Continue() {
			t.Fatalf("% x", p.BHS)
		}
		if p.BHS.Final() {
			break
		}
		b = append(pdu.BHS(nil), b...)
		b.SetCmdSN(c.CmdSN)
		c.CmdSN++
		b.SetTTT(p.BHS.TTT())
		c.Send(b, nil, nil)
	}
	want := "TargetName=" + iscsitest.Node + "\x00TargetAddress=127.0.0.1:3260,1\x00"
	for i := range 40 {
		want += fmt.Sprintf("TargetName=iqn.2026-11.dev.spindle:node%02d\x00TargetAddress=127.0.0.1:3260,1\x00", i)
	}
	if string(all) != want {
		t.Fatalf("got %q", all)
	}
}

// TestLiveChanges: units, nodes and portal groups come and go while a command
// is in the backend.
func TestLiveChanges(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(g *iscsitest.Target) error
		closed bool
		code   uint16
	}{
		{"RemoveLUN", func(g *iscsitest.Target) error { return g.Engine.RemoveLUN(g, iscsitest.Node, 1) }, false, 0x2500},
		{"RemoveNode", func(g *iscsitest.Target) error { return g.Engine.RemoveNode(g, iscsitest.Node) }, true, 0},
		{"RemovePortalGroup", func(g *iscsitest.Target) error { return g.Engine.RemovePortalGroup(g, 1) }, true, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, slow := stubborn(t, iscsitest.Options{Reactors: 2})
			c := g.Dial().Login()
			ready(t, c, 0, 1)
			slow.n = 1
			c.Send(c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, pattern(4096, 1))
			g.Settle()
			slow.n = 0
			start := g.Clock.T
			releaseOn(g, slow, start.Add(2*time.Second))
			must(t, tc.change(g))
			if took := g.Clock.T.Sub(start); took < time.Second {
				t.Fatalf("done after %v, with a write in the backend", took)
			}
			if tc.closed {
				c.ExpectClosed()
				return
			}
			g.Settle()
			c.Discard()
			ping3(t, c)
			sense(t, c.Do(c.Command(1, 0, 0), nil, 0), 5, tc.code)
		})
	}
}

// TestAddLUNLive: sessions hear of a new unit and use it.
func TestAddLUNLive(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Reactors: 2})
	c := g.Dial().Login()
	ready(t, c, 0)
	must(t, g.Engine.AddLUN(g, iscsitest.Node, iscsi.LUN{ID: 7, Bdev: ram(t, g, "Malloc7", 7)}))
	sense(t, c.Do(c.Command(0, 0, 0), nil, 0), 6, 0x3f0e)
	ready(t, c, 7)
	if err := g.Engine.AddLUN(g, iscsitest.Node, iscsi.LUN{ID: 7, Bdev: ram(t, g, "Malloc8", 8)}); !errors.Is(err, iscsi.ErrExists) {
		t.Fatalf("LUN 7 twice: %v", err)
	}
}

// ping3 is ping with a StatSN that is taken as it comes.
func ping3(t *testing.T, c *iscsitest.Conn) {
	t.Helper()
	b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, nil)
	p := c.Expect(pdu.NopIn)
	c.ExpStatSN = p.BHS.StatSN() + 1
}

// releaseOn has the slow device end its I/O at a time.
func releaseOn(g *iscsitest.Target, d *stubbornDevice, at clock.Time) {
	for _, i := range g.Engine.Connections(g) {
		g.Reactors[i.Reactor].Arm(&reactor.Timer{Fire: func(clock.Time) { d.finish() }}, at)
	}
}

// TestReactors: sessions spread over the reactors by load, and read and write
// one unit from all of them.
func TestReactors(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Reactors: 3})
	var conns []*iscsitest.Conn
	for i := range byte(9) {
		c := dialAs(g, i).Login()
		ready(t, c, 1)
		conns = append(conns, c)
	}
	for _, r := range g.Reactors {
		if r.Load() != 3 {
			t.Errorf("reactor %d: load %d of 9", r.ID, r.Load())
		}
	}
	count := map[int]int{}
	for _, i := range g.Engine.Connections(g) {
		count[i.Reactor]++
	}
	if fmt.Sprint(count) != "map[0:3 1:3 2:3]" {
		t.Fatalf("connections by reactor: %v", count)
	}
	for round := range 3 {
		for i, c := range conns {
			data := pattern(8192, byte(i+round))
			if r := c.Do(c.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(uint32(i)*16, 16)...), data, 8192); r.Status != 0 {
				t.Fatalf("write: %02x", r.Status)
			}
			next := conns[(i+1)%len(conns)]
			if r := next.Do(next.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(uint32(i)*16, 16)...), nil, 0); string(r.Data) != string(data) {
				t.Fatal("another session reads something else")
			}
		}
	}
	for i, c := range conns { // they leave, and others take the places
		if i%3 == 0 {
			c.Peer.Close()
		}
	}
	g.Settle()
	for i := range byte(3) {
		ready(t, dialAs(g, 50+i).Login(), 1)
	}
	for _, r := range g.Reactors {
		if r.Load() != 3 {
			t.Errorf("reactor %d: load %d of 9 after the change", r.ID, r.Load())
		}
	}
}

// TestSendTargetsCost: who has not proven anything may ask for all targets as often
// as it likes, and takes the reactor's time from those who do I/O: what an access
// list says is read when it is made, not when it is asked.
func TestSendTargetsCost(t *testing.T) {
	const nodes, masks = 200, 64
	g := iscsitest.New(t, iscsitest.Options{})
	for i := range nodes {
		list := iscsi.InitiatorGroup{Tag: uint16(2 + i), Initiators: []string{"ANY"}}
		for k := range masks {
			list.Netmasks = append(list.Netmasks, fmt.Sprintf("10.1.%d.0/24", k))
		}
		list.Netmasks = append(list.Netmasks, "127.0.0.0/8")
		must(t, g.Engine.AddInitiatorGroup(list))
		must(t, g.Engine.AddNode(g, iscsi.NodeConfig{Name: fmt.Sprintf("node%03d", i), Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: list.Tag}}}))
	}
	c := g.Dial()
	c.LoginStatus("InitiatorName="+iscsitest.Initiator, "SessionType=Discovery", "MaxRecvDataSegmentLength=262144")
	n := testing.AllocsPerRun(1, func() {
		b := c.Immediate(pdu.TextRequest, pdu.FlagFinal)
		b.SetTTT(pdu.ReservedTag)
		c.Send(b, nil, iscsitest.Keys("SendTargets=All"))
		if told := strings.Count(string(c.Expect(pdu.TextResponse).Data), "TargetName="); told != nodes+1 {
			t.Fatalf("%d nodes told, want %d", told, nodes+1)
		}
	})
	if n > 20*nodes {
		t.Errorf("%v allocations for %d nodes", n, nodes)
	}
}
