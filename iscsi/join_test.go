package iscsi_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor/ring/simring"
)

// several allows sessions n connections.
func several(n uint32) *iscsi.Options {
	return options(func(o *iscsi.Options) { o.MaxConnsPerSession = n })
}

// pair logs in twice: a session of two connections.
func pair(g *iscsitest.Target, kv ...string) (a, b *iscsitest.Conn) {
	a = g.Dial().Login(append([]string{"MaxConnections=4"}, kv...)...)
	attention(g.T, a, atPowerOn)
	return a, a.DialInto(1).Login()
}

// logoutOf is a Logout Request about a connection.
func logoutOf(c *iscsitest.Conn, reason byte, cid uint16) pdu.BHS {
	b := c.Immediate(pdu.LogoutReq, pdu.FlagFinal|reason)
	b.SetCID(cid)
	return b
}

// loggedOut expects the response to a Logout Request.
func loggedOut(t testing.TB, c *iscsitest.Conn, itt uint32, resp uint8) {
	t.Helper()
	responded(t, c, pdu.LogoutResp, itt, resp)
}

// event expects an Asynchronous Message.
func event(t testing.TB, c *iscsitest.Conn, want pdu.AsyncEvent) pdu.BHS {
	t.Helper()
	p := c.Expect(pdu.AsyncMessage)
	if p.BHS.AsyncEvent() != want || p.BHS.ITT() != pdu.ReservedTag || p.BHS.StatSN() != c.ExpStatSN {
		t.Fatalf("async event %d, StatSN %d, want %d, %d", p.BHS.AsyncEvent(), p.BHS.StatSN(), want, c.ExpStatSN)
	}
	c.ExpStatSN++
	return p.BHS
}

func TestJoin(t *testing.T) {
	for _, reactors := range []int{1, 3} {
		g := iscsitest.New(t, iscsitest.Options{Engine: several(2), Reactors: reactors})
		a, b := pair(g)
		if a.Answered["MaxConnections"] != "2" {
			t.Fatalf("MaxConnections=%s", a.Answered["MaxConnections"])
		}
		if b.TSIH != a.TSIH {
			t.Fatalf("TSIH %x joined to %x", b.TSIH, a.TSIH)
		}
		for range 20 { // one command sequence over both, with data each way
			alive(t, a)
			alive(t, b)
		}
		list := g.Engine.Connections(g)
		if len(list) != 2 || list[0].TSIH != list[1].TSIH || list[0].Reactor != list[1].Reactor || list[0].CID == list[1].CID {
			t.Fatalf("connections: %+v", list)
		}
		g.Close()
	}
}

// TestJoinUser: who began a session has proven to be somebody, and a connection
// joins only as the same user, whoever else may log in.
func TestJoinUser(t *testing.T) {
	const other, secret = "another", "anothers-secret-16"
	g := iscsitest.New(t, iscsitest.Options{Engine: several(4), Node: iscsi.NodeConfig{RequireCHAP: true, CHAPGroup: 1}})
	g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: chapUser, Secret: chapSecret}, {User: other, Secret: secret}}})
	login := func(c *iscsitest.Conn, user, secret string, keys ...string) uint16 {
		security(t, c, user, secret, pdu.LoginSuccess, who...)
		c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys(keys...))
		b := c.Expect(pdu.LoginResponse).BHS
		c.TSIH = b.TSIH()
		return uint16(b.LoginStatus())
	}
	a := g.Dial()
	if s := login(a, chapUser, chapSecret, "MaxConnections=4"); s != 0 {
		t.Fatalf("status %04x", s)
	}
	if s := login(a.DialInto(1), other, secret); s != uint16(pdu.LoginAuthFailed) {
		t.Errorf("another user joins: status %04x", s)
	}
	if s := login(a.DialInto(2), chapUser, chapSecret); s != 0 {
		t.Errorf("the same user: status %04x", s)
	}
	if n := len(g.Engine.Connections(g)); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func TestOrderAcrossConnections(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	one, two := pattern(512, 1), pattern(512, 2)
	first := a.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(7, 1)...)
	second := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(7, 1)...)
	ping := b.Request(pdu.NopOut, pdu.FlagFinal)
	ping.SetTTT(pdu.ReservedTag)

	b.Send(second, nil, two)
	b.Send(ping, nil, []byte("held"))
	silent(t, g, b) // the command before it has not come
	late := b.Request(pdu.NopOut, pdu.FlagFinal)
	late.SetTTT(pdu.ReservedTag)
	late.SetDataLen(4)
	w := b.Frame(late, nil, []byte("part"))
	b.SendRaw(w[:50]) // half a ping while the held one is resumed
	g.Settle()
	a.Send(first, nil, one)
	good(t, a, first.ITT(), nil)
	good(t, b, second.ITT(), nil)
	b.SendRaw(w[50:])
	for _, want := range []string{"held", "part"} {
		if p := b.Expect(pdu.NopIn); string(p.Data) != want {
			t.Fatalf("echo %q, want %q", p.Data, want)
		}
		b.ExpStatSN++
	}
	r := a.Do(a.Command(1, pdu.FlagRead, 512, iscsitest.Read10(7, 1)...), nil, 0)
	if !bytes.Equal(r.Data, two) {
		t.Fatal("the commands ran in the order of arrival, not of CmdSN")
	}
}

// The same CmdSN by both connections, while the data of the first still comes.
func TestDuplicateCmdSNAcrossConnections(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	one := a.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(7, 1)...)
	one.SetDataLen(512)
	w := a.Frame(one, nil, pattern(512, 1))
	a.SendRaw(w[:100])
	g.Settle()
	two := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(8, 1)...)
	two.SetCmdSN(one.CmdSN())
	b.Send(two, nil, pattern(512, 2))
	good(t, b, two.ITT(), nil)
	a.SendRaw(w[100:])
	silent(t, g, a) // its number has been used
	a.CmdSN--
	alive(t, b)
	alive(t, a)
	if n := g.Engine.Stats.Dropped.Load(); n != 1 {
		t.Fatalf("%d commands dropped, want 1", n)
	}

	// Early, twice, data still coming.
	gap := a.Command(1, 0, 0, 0)
	x := a.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(7, 1)...)
	x.SetDataLen(512)
	w = a.Frame(x, nil, pattern(512, 1))
	a.SendRaw(w[:100])
	y := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(8, 1)...)
	y.SetCmdSN(x.CmdSN())
	a.CmdSN--
	b.Send(y, nil, pattern(512, 2))
	g.Settle()
	a.SendRaw(w[100:])
	silent(t, g, a)
	b.Send(gap, nil, nil)
	good(t, b, gap.ITT(), nil)
	good(t, b, y.ITT(), nil)
	alive(t, a)
}

// A gap that is filled while the early command's data still comes.
func TestGapFilledMeanwhile(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	first := a.Command(1, 0, 0, 0)
	second := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(8, 1)...)
	second.SetDataLen(512)
	w := b.Frame(second, nil, pattern(512, 1))
	b.SendRaw(w[:100])
	g.Settle()
	a.Send(first, nil, nil)
	good(t, a, first.ITT(), nil)
	b.SendRaw(w[100:])
	good(t, b, second.ITT(), nil)
	alive(t, a)
}

// RFC 7143 §4.2.2.1: a task belongs to the connection its command came by.
func TestAllegiance(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g, "InitialR2T=Yes", "ImmediateData=No")
	data := pattern(4096, 9)
	cmd := a.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(7, 8)...)
	a.Send(cmd, nil, nil)
	r2t := a.Expect(pdu.R2T).BHS
	b.DataOut(r2t, make([]byte, 4096))
	silent(t, g, b)
	silent(t, g, a)
	a.DataOut(r2t, data)
	good(t, a, cmd.ITT(), nil)
	r := b.Do(b.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(7, 8)...), nil, 0)
	if !bytes.Equal(r.Data, data) {
		t.Fatal("data of the wrong connection was taken")
	}
}

func TestJoinRefused(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	names := []string{"InitiatorName=" + iscsitest.Initiator, "TargetName=" + iscsitest.Node, "SessionType=Normal"}
	d := g.Dial()
	d.ISID[5] = 77
	if s := d.LoginStatus("InitiatorName="+iscsitest.Initiator, "SessionType=Discovery"); s != 0 {
		t.Fatalf("discovery: %04x", s)
	}
	for _, tc := range []struct {
		name   string
		change func(*iscsitest.Conn)
		keys   []string
		want   pdu.LoginStatus
	}{
		{"no such TSIH", func(c *iscsitest.Conn) { c.TSIH += 999 }, names, pdu.LoginNoSession},
		{"another ISID", func(c *iscsitest.Conn) { c.ISID[5]++ }, names, pdu.LoginNoSession},
		{"another initiator", nil, []string{"InitiatorName=iqn.x:y", names[1], names[2]}, pdu.LoginNoSession},
		{"a discovery session", func(c *iscsitest.Conn) { c.TSIH, c.ISID = d.TSIH, d.ISID },
			[]string{names[0], "SessionType=Discovery"}, pdu.LoginCannotInclude},
		{"leading-only key", nil, append(names[:3:3], "MaxBurstLength=4096"), pdu.LoginInitiatorError},
		{"one too many", nil, names, pdu.LoginTooManyConns},
	} {
		c := a.DialInto(9)
		if tc.change != nil {
			tc.change(c)
		}
		if s := c.LoginStatus(tc.keys...); s != uint16(tc.want) {
			t.Errorf("%s: status %04x, want %04x", tc.name, s, tc.want)
		}
		c.ExpectClosed()
	}
	alive(t, a)
	alive(t, b)
	if n := counter(g, "limit_connections_per_session"); n != 1 {
		t.Errorf("connections_per_session counted %d times", n)
	}
	// A login that dies before full feature phase gives its place back.
	loggedOutOf := logoutOf(a, pdu.LogoutCloseConnection, 1)
	a.Send(loggedOutOf, nil, nil)
	loggedOut(t, a, loggedOutOf.ITT(), pdu.LogoutSuccess)
	b.ExpectClosed()
	for range 5 {
		c := a.DialInto(2)
		c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys(names...))
		c.Peer.Reset()
		g.Settle()
		alive(t, a)
		if g.Engine.Options(); len(g.Engine.Connections(g)) > 3 {
			t.Fatal("connections stay")
		}
	}
}

// TestJoinAtOnce: the initiator knows the session from its Login Response on, and
// sends the next connection by another portal, to a reactor that is ahead of the
// one which has just sent that.
func TestJoinAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name string
		then func(g *iscsitest.Target) error
		want pdu.LoginStatus
	}{
		{"the session begins", func(*iscsitest.Target) error { return nil }, pdu.LoginSuccess},
		{"it never does", func(g *iscsitest.Target) error { return g.Engine.RemoveNode(g, iscsitest.Node) }, pdu.LoginNoSession},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Engine: several(4), Reactors: 3, Delayed: true})
			first, second := netip.MustParseAddrPort("127.0.0.1:3261"), netip.MustParseAddrPort("127.0.0.1:3262")
			g.AddPortalGroup(iscsi.PortalGroup{Tag: 2, Portals: []iscsi.Portal{{Addr: first}, {Addr: second}}}) // on the reactors 2 and 0
			must(t, g.Engine.AddMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 2, InitiatorTag: 1}}))
			a := g.DialTo(first)
			a.Send(a.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys(append(who, "MaxConnections=4")...))
			turn := func(list ...int) {
				for _, i := range list {
					g.Reactors[i].Turn(0)
				}
				g.World.Advance(time.Millisecond) // whatever is sent arrives
			}
			p, ok := a.TryRecv()
			for ; !ok; p, ok = a.TryRecv() { // the moment it comes
				turn(0, 1, 2)
			}
			if a.TSIH, a.ExpStatSN = p.BHS.TSIH(), p.BHS.StatSN()+1; p.BHS.LoginStatus() != 0 {
				t.Fatalf("% x", p.BHS)
			}
			g.Portal = second
			b := a.DialInto(1)
			b.Send(b.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys(who...))
			for range 100 { // the reactor of the first is held up
				turn(0, 1)
			}
			if p, ok := b.TryRecv(); ok {
				t.Fatalf("status %04x before the session has begun", p.BHS.LoginStatus())
			}
			must(t, tc.then(g))
			p = b.Expect(pdu.LoginResponse)
			if p.BHS.LoginStatus() != tc.want {
				t.Fatalf("status %04x, want %04x", p.BHS.LoginStatus(), tc.want)
			}
			if tc.want == pdu.LoginSuccess {
				b.ExpStatSN = p.BHS.StatSN() + 1
				attention(t, a, atPowerOn)
				alive(t, b)
			}
		})
	}
}

func counter(g *iscsitest.Target, name string) uint64 {
	for _, c := range g.Engine.Counters() {
		if c.Name == name {
			return c.Value
		}
	}
	return 0
}

func TestLogoutOneConnection(t *testing.T) {
	for _, tc := range []struct {
		name string
		by   int // 0: another connection, 1: itself
	}{{"by another", 0}, {"by itself", 1}} {
		t.Run(tc.name, func(t *testing.T) {
			g, dev := unhearing(t, iscsitest.Options{Engine: several(3)})
			a, b := pair(g)
			c := a.DialInto(2).Login()
			hold(t, dev, bdev.Write, 1)
			w := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
			b.Send(w, nil, pattern(512, 3))
			g.Settle()
			by := []*iscsitest.Conn{a, b}[tc.by]
			out := logoutOf(by, pdu.LogoutCloseConnection, 1)
			by.Send(out, nil, nil)
			silent(t, g, by) // its write may still reach the medium
			dev.ResumePending()
			loggedOut(t, by, out.ITT(), pdu.LogoutSuccess)
			b.ExpectClosed()
			alive(t, a)
			alive(t, c)
			again := logoutOf(a, pdu.LogoutCloseConnection, 1)
			a.Send(again, nil, nil)
			loggedOut(t, a, again.ITT(), pdu.LogoutCIDNotFound)
			b = a.DialInto(1).Login() // its CID is free again
			alive(t, b)
			all := logoutOf(b, pdu.LogoutCloseSession, 0)
			b.Send(all, nil, nil)
			loggedOut(t, b, all.ITT(), pdu.LogoutSuccess)
			a.ExpectClosed()
			b.ExpectClosed()
			c.ExpectClosed()
		})
	}
}

// RFC 7143 §6.3.4: the same ISID, TSIH and CID take the place of a connection.
func TestConnectionReinstatement(t *testing.T) {
	for _, tc := range []struct {
		name  string
		conns uint32
	}{{"single connection", 1}, {"two connections", 2}} {
		t.Run(tc.name, func(t *testing.T) {
			g, dev := unhearing(t, iscsitest.Options{Engine: several(tc.conns)})
			a := g.Dial().Login("MaxConnections=4")
			attention(t, a, atPowerOn)
			old := a
			cid := uint16(0)
			if tc.conns == 2 {
				cid, old = 1, a.DialInto(1).Login()
			}
			hold(t, dev, bdev.Write, 1)
			w := old.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
			old.Send(w, nil, pattern(512, 3))
			g.Settle()
			n := a.DialInto(cid)
			n.Send(n.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
			silent(t, g, n) // not while the old one's write may reach the medium
			dev.ResumePending()
			p := n.Expect(pdu.LoginResponse)
			if p.BHS.LoginStatus() != 0 || p.BHS.TSIH() != a.TSIH {
				t.Fatalf("login: % x", p.BHS)
			}
			n.ExpStatSN = p.BHS.StatSN() + 1
			old.ExpectClosed()
			alive(t, n) // no unit attention: the nexus is the same
			if tc.conns == 2 {
				alive(t, a)
			}
		})
	}
}

func TestConnectionReinstatementTimesOut(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	hold(t, dev, bdev.Write, 1)
	b.Send(b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...), nil, pattern(512, 3))
	g.Settle()
	n := a.DialInto(1)
	n.Send(n.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
	g.Advance(11 * time.Second)
	if p := n.Expect(pdu.LoginResponse); p.BHS.LoginStatus() != pdu.LoginUnavailable {
		t.Fatalf("login: % x", p.BHS)
	}
	dev.ResumePending()
	b.ExpectClosed()
	alive(t, a)
	alive(t, a.DialInto(1).Login())
}

// TestSessionEndsAfterReinstatementTimesOut: a session that ends while one of its
// connections is being replaced waits for the other no longer than that takes.
func TestSessionEndsAfterReinstatementTimesOut(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	hold(t, dev, bdev.Write, 1)
	b.Send(b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...), nil, pattern(512, 3))
	g.Settle()
	login := func(c *iscsitest.Conn) {
		c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
		g.Settle()
	}
	login(a.DialInto(1))
	a.Peer.Reset()
	g.Advance(2 * time.Second)
	next := g.Dial() // the session's successor
	login(next)
	g.Advance(9 * time.Second)
	dev.ResumePending()
	if p := next.Expect(pdu.LoginResponse); p.BHS.LoginStatus() != pdu.LoginSuccess {
		t.Fatalf("login: % x", p.BHS)
	}
}

// At ErrorRecoveryLevel 0 the failure of one connection is the session's (RFC
// 7143 §7.1.4.4), and the initiator hears of it on the others.
func TestConnectionFailureEndsSession(t *testing.T) {
	for _, lost := range []int{0, 1} {
		g, dev := unhearing(t, iscsitest.Options{Engine: several(2)})
		a, b := pair(g)
		conns := []*iscsitest.Conn{a, b}
		dies, stays := conns[lost], conns[1-lost]
		hold(t, dev, bdev.Write, 2)
		for _, c := range conns {
			c.Send(c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...), nil, pattern(512, 3))
		}
		g.Settle()
		dies.Peer.Reset()
		event(t, stays, pdu.AsyncDropSession)
		stays.ExpectClosed()
		dev.ResumePending()
		g.Until("session gone", func() bool { return len(g.Engine.Connections(g)) == 0 })
		n := a.DialInto(5)
		if s := n.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node); s != uint16(pdu.LoginNoSession) {
			t.Fatalf("joined a dead session: %04x", s)
		}
		c := g.Dial().Login()
		attention(t, c, atPowerOn)
		alive(t, c)
		g.Close()
	}
}

// TestConnectionFailureBeforeFullFeature: a connection that its login response
// let into the session is lost on its way to the session's reactor. The initiator
// may have sent commands by it.
func TestConnectionFailureBeforeFullFeature(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2), Reactors: 2})
	a := g.Dial().Login("MaxConnections=4")
	attention(t, a, atPowerOn)
	b := a.DialInto(1)
	g.Settle()
	free := drain(g)
	if s := b.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node); s != 0 {
		t.Fatalf("login status %04x", s)
	}
	b.ExpectClosed()
	event(t, a, pdu.AsyncDropSession)
	a.ExpectClosed()
	free()
	g.Until("session gone", func() bool { return len(g.Engine.Connections(g)) == 0 })
	c := g.Dial().Login()
	attention(t, c, atPowerOn)
	alive(t, c)
}

func TestSessionReinstatementOfSeveral(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(3), Reactors: 2})
	a, b := pair(g)
	c := a.DialInto(2).Login()
	n := g.Dial().Login()
	for _, old := range []*iscsitest.Conn{a, b, c} {
		old.ExpectClosed()
	}
	attention(t, n, atPowerOn)
	alive(t, n)
	if n := g.Engine.Stats.Reinstatements.Load(); n != 1 {
		t.Fatalf("%d reinstatements", n)
	}
}

func TestManagementAcrossConnections(t *testing.T) {
	for _, tc := range []struct {
		name string
		fn   byte
	}{{"ABORT TASK", pdu.TMFAbortTask}, {"ABORT TASK SET", pdu.TMFAbortTaskSet}, {"LUN RESET", pdu.TMFLUNReset}} {
		t.Run(tc.name, func(t *testing.T) {
			g, dev := unhearing(t, iscsitest.Options{Engine: several(2)})
			a, b := pair(g)
			hold(t, dev, bdev.Write, 1)
			w := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
			b.Send(w, nil, pattern(512, 3))
			g.Settle()
			m := tmf(a, tc.fn, 1, w.ITT(), w.CmdSN())
			a.Send(m, nil, nil)
			silent(t, g, a)
			dev.ResumePending()
			managed(t, a, m.ITT(), pdu.TMFComplete)
			silent(t, g, b) // an aborted task has no response
			if tc.fn == pdu.TMFLUNReset {
				attention(t, a, deviceReset)
			}
			alive(t, a) // which acknowledges: the answers on b are fenced
			alive(t, b)
		})
	}
}

// atPowerOn is the unit attention of a new nexus.
const atPowerOn = 0x2900

// A task set function waits for the commands before it that other connections
// still bring (RFC 7143 §4.2.3.3), and affects them.
func TestManagementAwaitsCommands(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g, "InitialR2T=Yes", "ImmediateData=No")
	late := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
	m := tmf(a, pdu.TMFAbortTaskSet, 1, 0, 0)
	a.Send(m, nil, nil)
	silent(t, g, a)
	b.Send(late, nil, nil)
	managed(t, a, m.ITT(), pdu.TMFComplete)
	b.Discard()
	silent(t, g, b) // no response: it was aborted as it came
	alive(t, a)
	alive(t, b)
}

// TestLogoutTellsWindow: what is on its way on a connection that logs out keeps
// another from telling of the window; it tells once that one is gone.
func TestLogoutTellsWindow(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{
		Engine: several(2), Node: iscsi.NodeConfig{QueueDepth: 1}, World: simring.Config{SocketBuffer: 2048},
	})
	a, b := pair(g)
	ping, data := b.Immediate(pdu.NopOut, pdu.FlagFinal), pattern(4096, 1)
	ping.SetTTT(pdu.ReservedTag)
	ping.SetDataLen(4096)
	out := logoutOf(b, pdu.LogoutCloseConnection, 1)
	b.SendRaw(append(b.Frame(ping, nil, data), b.Frame(out, nil, nil)...))
	g.Settle()                                // both answers wait for b to read, with the window as it was
	n := a.Request(pdu.NopOut, pdu.FlagFinal) // wants no answer, but counts
	n.SetITT(pdu.ReservedTag)
	n.SetTTT(pdu.ReservedTag)
	a.Send(n, nil, nil)
	silent(t, g, a)
	b.Expect(pdu.NopIn)
	b.ExpStatSN++
	loggedOut(t, b, out.ITT(), pdu.LogoutSuccess)
	b.ExpectClosed()
	if p := a.Expect(pdu.NopIn); p.BHS.ITT() != pdu.ReservedTag || a.MaxCmdSN != a.ExpCmdSN {
		t.Fatalf("window %d..%d: % x", a.ExpCmdSN, a.MaxCmdSN, p.BHS)
	}
	alive(t, a)
}

// TestLogoutWhileAnotherJoins: the only connection logs out while another is
// being let into the session. Whoever its login response lets in stays.
func TestLogoutWhileAnotherJoins(t *testing.T) {
	joined := 0
	for turns := range 16 {
		g := iscsitest.New(t, iscsitest.Options{Engine: several(2), Reactors: 2})
		a := g.Dial().Login("MaxConnections=4")
		attention(t, a, atPowerOn)
		b := a.DialInto(1)
		g.Settle()
		b.Send(b.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
		for range turns {
			g.Turn()
		}
		out := logoutOf(a, pdu.LogoutCloseConnection, a.CID)
		a.Send(out, nil, nil)
		loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
		a.ExpectClosed()
		p := b.Expect(pdu.LoginResponse)
		if p.BHS.LoginStatus() != pdu.LoginSuccess {
			b.ExpectClosed()
			continue
		}
		joined++
		b.ExpStatSN = p.BHS.StatSN() + 1
		alive(t, b)
	}
	if joined < 2 {
		t.Fatalf("joined %d times", joined)
	}
}

// TestLogoutsBounded: an initiator cannot have more and more logouts wait for the end
// of a connection whose tasks do not end.
func TestLogoutsBounded(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: level(2)})
	a, b := pair(g, "ErrorRecoveryLevel=2")
	hold(t, dev, bdev.Write, 1)
	b.Send(b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...), nil, pattern(512, 1))
	g.Settle()
	var tags []uint32
	for range iscsi.MaxManagement {
		tags = append(tags, sent(a, logoutOf(a, pdu.LogoutCloseConnection, b.CID)))
	}
	for _, reason := range []byte{pdu.LogoutCloseConnection, pdu.LogoutRemoveForReinst} {
		loggedOut(t, a, sent(a, logoutOf(a, reason, b.CID)), pdu.LogoutCleanupFailed)
	}
	dev.ResumePending()
	for _, itt := range tags {
		loggedOut(t, a, itt, pdu.LogoutSuccess)
	}
	alive(t, a)
}
