package iscsi_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

const (
	chapUser   = "user"
	chapSecret = "secret-of-16-byte"
)

var who = []string{"InitiatorName=" + iscsitest.Initiator, "TargetName=" + iscsitest.Node}

// count is the value of a counter of the engine.
func count(t *testing.T, g *iscsitest.Target, name string) uint64 {
	t.Helper()
	for _, c := range g.Engine.Counters() {
		if c.Name == name {
			return c.Value
		}
	}
	t.Fatalf("there is no counter %s", name)
	return 0
}

// closed tells whether a connection has been ended by now.
func closed(g *iscsitest.Target, c *iscsitest.Conn) bool {
	g.Settle()
	return closedAfter(c)
}

// from is address n of a small network.
func from(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }

// as is a connection from address n with an ISID of its own.
func as(g *iscsitest.Target, n, isid byte) *iscsitest.Conn {
	c := g.DialFrom(from(n))
	c.ISID[5] = isid
	return c
}

// TestLimitsReached hits each limit on what peers may have and do. What is
// beyond it fails, is counted and logged, and a session that was there before
// goes on.
func TestLimitsReached(t *testing.T) {
	hit := map[string]bool{}
	for _, tc := range []struct {
		name   string // of the limit
		set    func(o *iscsi.Options)
		memory uint64
		hit    func(t *testing.T, g *iscsitest.Target)
	}{
		{"pending_logins", func(o *iscsi.Options) { o.MaxPendingLogins = 4 }, 0, func(t *testing.T, g *iscsitest.Target) {
			var c [5]*iscsitest.Conn
			for i := range c {
				c[i] = as(g, byte(i), 1)
			}
			if !closed(g, c[0]) || closed(g, c[1]) || closed(g, c[4]) {
				t.Error("it is not the oldest that went")
			}
		}},
		{"pending_logins_per_address", func(o *iscsi.Options) { o.MaxPendingPerAddress = 3 }, 0, func(t *testing.T, g *iscsitest.Target) {
			other := as(g, 2, 1)
			g.Settle()
			var c [4]*iscsitest.Conn
			for i := range c {
				c[i] = as(g, 1, byte(i))
			}
			if !closed(g, c[0]) || closed(g, c[1]) || closed(g, c[3]) || closed(g, other) {
				t.Error("it is not the oldest of the address that went")
			}
			ready(t, c[3].Login(), 1)
		}},
		{"login_timeout", func(o *iscsi.Options) { o.LoginTimeout = 3 }, 0, func(t *testing.T, g *iscsitest.Target) {
			c := as(g, 1, 1)
			g.Advance(4 * time.Second)
			if !closed(g, c) {
				t.Error("a silent login is still there")
			}
		}},
		{"logins_per_second", func(o *iscsi.Options) { o.MaxLoginsPerSecond = 1 }, 0, func(t *testing.T, g *iscsitest.Target) {
			for range 4 {
				if closed(g, as(g, 1, 1)) {
					t.Error("closed within the allowance")
				}
			}
			if !closed(g, as(g, 1, 1)) {
				t.Error("a fifth connection at once")
			}
			ready(t, as(g, 2, 2).Login(), 1)
			g.Advance(1100 * time.Millisecond)
			ready(t, as(g, 1, 3).Login(), 1)
		}},
		{"chap_backoff", func(o *iscsi.Options) { o.CHAPBackoff = 2 }, 0, func(t *testing.T, g *iscsitest.Target) {
			must(t, g.Engine.SetNodeAuth(iscsitest.Node, iscsi.CHAPPolicy{Require: true, Group: 1}))
			for range 6 {
				chap(t, as(g, 1, 1), chapUser, "not-the-secret-16", pdu.LoginAuthFailed, who...)
			}
			if !closed(g, as(g, 1, 1)) {
				t.Error("the address need not wait")
			}
			chap(t, as(g, 2, 2), chapUser, chapSecret, pdu.LoginSuccess, who...)
			g.Advance(1100 * time.Millisecond)
			chap(t, as(g, 1, 3), chapUser, "not-the-secret-16", pdu.LoginAuthFailed, who...)
			g.Advance(1100 * time.Millisecond)
			if !closed(g, as(g, 1, 1)) {
				t.Error("the second wait is not longer")
			}
			g.Advance(1100 * time.Millisecond)
			chap(t, as(g, 1, 3), chapUser, chapSecret, pdu.LoginSuccess, who...)
			chap(t, as(g, 1, 4), chapUser, "not-the-secret-16", pdu.LoginAuthFailed, who...)
			if closed(g, as(g, 1, 1)) {
				t.Error("a success does not clear the failures")
			}
			if n := count(t, g, "chap_failures"); n != 8 {
				t.Errorf("%d CHAP failures counted", n)
			}
		}},
		{"connections_per_address", func(o *iscsi.Options) { o.MaxConnsPerAddress = 2 }, 0, func(t *testing.T, g *iscsitest.Target) {
			first := as(g, 1, 1).Login()
			ready(t, first, 1)
			ready(t, as(g, 1, 2).Login(), 1)
			if !closed(g, as(g, 1, 3)) {
				t.Error("a third connection")
			}
			ready(t, as(g, 2, 3).Login(), 1)
			first.Peer.Close()
			g.Settle()
			ready(t, as(g, 1, 4).Login(), 1)
		}},
		{"sessions", func(o *iscsi.Options) { o.MaxSessions = 2 }, 0, func(t *testing.T, g *iscsitest.Target) {
			chap(t, as(g, 1, 1), chapUser, chapSecret, pdu.LoginSuccess, who...)
			noRoom(t, as(g, 2, 2), who...)
		}},
		{"sessions_per_node", func(o *iscsi.Options) { o.MaxSessionsPerNode = 2 }, 0, func(t *testing.T, g *iscsitest.Target) {
			ready(t, as(g, 1, 1).Login(), 1)
			noRoom(t, as(g, 2, 2), who...)
			if s := as(g, 3, 3).LoginStatus(who[0], "SessionType=Discovery"); s != 0 {
				t.Errorf("discovery: status %04x", s)
			}
		}},
		{"reserved_sessions", func(o *iscsi.Options) { o.MaxSessions, o.ReservedSessions = 4, 2 }, 0, func(t *testing.T, g *iscsitest.Target) {
			if s := as(g, 1, 1).LoginStatus(who[0], "SessionType=Discovery"); s != 0 {
				t.Errorf("discovery: status %04x", s)
			}
			noRoom(t, as(g, 1, 2), who[0], "SessionType=Discovery")
			noRoom(t, as(g, 1, 3), who...)
			chap(t, as(g, 2, 4), chapUser, chapSecret, pdu.LoginSuccess, who...)
			chap(t, as(g, 2, 5), chapUser, chapSecret, pdu.LoginSuccess, who...)
		}},
		{"tasks", func(o *iscsi.Options) { o.MaxQueueDepth = 4 }, 0, func(t *testing.T, g *iscsitest.Target) {
			c := as(g, 1, 1).Login()
			ready(t, c, 1)
			b := c.Command(1, 0, 0)
			b.SetCmdSN(c.MaxCmdSN + 1)
			c.CmdSN--
			c.Send(b, nil, nil)
			silent(t, g, c)
			if d := c.MaxCmdSN - c.ExpCmdSN + 1; d != 4 {
				t.Errorf("the window holds %d", d)
			}
			alive(t, c)
		}},
		{"text_rounds", func(o *iscsi.Options) { o.MaxTextRounds = 3 }, 0, func(t *testing.T, g *iscsitest.Target) {
			c := as(g, 1, 1)
			for i, keys := range [4][]string{who} {
				c.Send(c.LoginBHS(1<<2), nil, iscsitest.Keys(keys...))
				if s := c.Expect(pdu.LoginResponse).BHS.LoginStatus(); (s != 0) != (i == 3) {
					t.Errorf("request %d: status %04x", i, s)
				}
			}
			c.ExpectClosed()
			if n := count(t, g, "limit_text_rounds"); n != 1 {
				t.Errorf("counted %d times", n)
			}
			d := as(g, 1, 2).Login()
			b := d.Immediate(pdu.TextRequest, pdu.FlagContinue)
			b.SetTTT(pdu.ReservedTag)
			for range 3 {
				d.Send(b, nil, []byte("X-k=v"))
				p := d.Expect(pdu.TextResponse)
				d.ExpStatSN = p.BHS.StatSN() + 1
				b.SetTTT(p.BHS.TTT())
			}
			d.Send(b, nil, []byte("X-k=v"))
			rejected(t, d, pdu.RejectResources, nil)
			ready(t, d, 1)
		}},
		{"send_timeout", func(o *iscsi.Options) { o.NopInInterval, o.SendTimeout = 0, 5 }, 0, func(t *testing.T, g *iscsitest.Target) {
			c := as(g, 1, 1).Login()
			ready(t, c, 1)
			var w []byte
			for range 600 {
				for len(w) < 64<<10 {
					b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
					b.SetTTT(pdu.ReservedTag)
					b.SetDataLen(4096)
					w = append(w, c.Frame(b, nil, make([]byte, 4096))...)
				}
				w = w[c.Peer.Write(w):]
				g.Turn()
			}
			g.Advance(11 * time.Second)
			g.Until("close", func() bool { return len(g.Engine.Connections(g)) == 1 })
		}},
		{"memory", func(o *iscsi.Options) {}, 16 << 20, func(t *testing.T, g *iscsitest.Target) {
			c := as(g, 1, 1).Login("InitialR2T=No")
			ready(t, c, 1)
			free := drain(g)
			if r := c.Do(c.Command(1, pdu.FlagWrite, 4096, buffered...), pattern(4096, 1), 4096); r.Status != 0x28 {
				t.Errorf("status %02x", r.Status)
			}
			free()
		}},
		{"connections_per_session", func(o *iscsi.Options) { o.MaxConnsPerSession = 2 }, 0, func(t *testing.T, g *iscsitest.Target) {
			c := as(g, 1, 1).Login("MaxConnections=4")
			ready(t, c, 1)
			c.DialInto(1).Login()
			if s := c.DialInto(2).LoginStatus(append(who, "SessionType=Normal")...); s != uint16(pdu.LoginTooManyConns) {
				t.Errorf("status %04x", s)
			}
		}},
		{"retained_data", func(o *iscsi.Options) { o.ErrorRecoveryLevel, o.MaxRetainedData = 1, 4096 }, 0, func(t *testing.T, g *iscsitest.Target) {
			c := as(g, 1, 1).Login("ErrorRecoveryLevel=1")
			ready(t, c, 1)
			first := c.ExpStatSN
			for range 2 {
				r := c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(5, 8)...)
				r.SetExpStatSN(first)
				c.Send(r, nil, nil)
				c.Expect(pdu.DataIn)
			}
		}},
		{"snack_replays", func(o *iscsi.Options) { o.ErrorRecoveryLevel, o.MaxSNACKReplays = 1, 1 }, 0, func(t *testing.T, g *iscsitest.Target) {
			c := as(g, 1, 1).Login("ErrorRecoveryLevel=1")
			ready(t, c, 1)
			r := c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(5, 1)...)
			c.Send(r, nil, nil)
			sn := c.Expect(pdu.DataIn).BHS.StatSN()
			for i := range 2 {
				b := request(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, 0, 0)
				b.SetExpStatSN(sn)
				c.Send(b, nil, nil)
				c.Expect([]pdu.Opcode{pdu.DataIn, pdu.Reject}[i])
			}
		}},
		{"registrants", func(o *iscsi.Options) { o.MaxRegistrants = 1 }, 0, func(t *testing.T, g *iscsitest.Target) {
			key := make([]byte, 24)
			key[15] = 1
			for i, want := range []uint16{0, 0x5504} { // INSUFFICIENT REGISTRATION RESOURCES
				c := as(g, byte(i), byte(i)).Login()
				ready(t, c, 1)
				r := c.Do(c.Command(1, pdu.FlagWrite, 24, 0x5f, 0, 0, 0, 0, 0, 0, 0, 24), key, 24)
				if _, code := r.Triple(); code != want {
					t.Errorf("registration %d: status %02x, code %04x", i, r.Status, code)
				}
			}
		}},
	} {
		hit["limit_"+tc.name] = true
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			g := iscsitest.New(t, iscsitest.Options{Engine: options(tc.set), Memory: tc.memory, Log: slog.New(slog.NewTextHandler(&out, nil))})
			g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: chapUser, Secret: chapSecret}}})
			must(t, g.Engine.SetNodeAuth(iscsitest.Node, iscsi.CHAPPolicy{Group: 1}))
			busy := as(g, 9, 9).Login()
			ready(t, busy, 1)
			if n := count(t, g, "limit_"+tc.name); n != 0 {
				t.Fatalf("reached %d times already", n)
			}
			tc.hit(t, g)
			if count(t, g, "limit_"+tc.name) == 0 {
				t.Error("not counted")
			}
			if !strings.Contains(out.String(), `msg="limit reached" limit=`+tc.name+" ") {
				t.Errorf("not logged:\n%s", out.String())
			}
			if strings.Contains(out.String(), chapSecret) {
				t.Error("the log tells the secret")
			}
			busy.Discard()
			ping3(t, busy)
			alive(t, busy)
		})
	}
	for _, c := range iscsitest.New(t, iscsitest.Options{}).Engine.Counters() {
		if strings.HasPrefix(c.Name, "limit_") && !hit[c.Name] {
			t.Errorf("nothing hits %s", c.Name)
		}
	}
}

// TestHeldIsBounded: connections that wait until the configuration is there are
// no more than logins in progress may be.
func TestHeldIsBounded(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Held: true, Engine: options(func(o *iscsi.Options) { o.MaxPendingLogins = 3 })})
	var c [5]*iscsitest.Conn
	for i := range c {
		c[i] = as(g, byte(i), byte(i))
		if closed(g, c[i]) != (i >= 3) {
			t.Errorf("connection %d", i)
		}
	}
	if n := count(t, g, "limit_pending_logins"); n != 2 {
		t.Errorf("counted %d times", n)
	}
	g.Engine.Open(g)
	for _, c := range c[:3] {
		ready(t, c.Login(), 1)
	}
}

// noRoom logs in without authentication and expects status 0302.
func noRoom(t *testing.T, c *iscsitest.Conn, kv ...string) {
	t.Helper()
	if s := c.LoginStatus(kv...); s != uint16(pdu.LoginOutOfResources) {
		t.Fatalf("status %04x", s)
	}
}

// TestLimitLogIsBounded: a limit that is reached all the time is logged once a
// second, with the number of times.
func TestLimitLogIsBounded(t *testing.T) {
	var out bytes.Buffer
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.MaxConnsPerAddress = 1 }),
		Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	c := as(g, 1, 1).Login()
	for range 3 {
		for range 50 {
			g.DialFrom(from(1))
			g.Settle()
		}
		g.Advance(1100 * time.Millisecond)
	}
	if n := strings.Count(out.String(), "limit reached"); n != 3 {
		t.Errorf("%d lines\n%s", n, out.String())
	}
	if !strings.Contains(out.String(), "times=50") || count(t, g, "limit_connections_per_address") != 150 {
		t.Errorf("not all told:\n%s", out.String())
	}
	ready(t, c, 1)
}

// TestEvictionSparesAuthenticated: logins that have passed CHAP are not pushed
// out by those that have proven nothing.
func TestEvictionSparesAuthenticated(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.MaxPendingLogins = 4 })})
	g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: chapUser, Secret: chapSecret}}})
	must(t, g.Engine.SetNodeAuth(iscsitest.Node, iscsi.CHAPPolicy{Require: true, Group: 1}))
	c := as(g, 1, 1)
	security(t, c, chapUser, chapSecret, pdu.LoginSuccess, who...)
	for i := range byte(50) {
		g.DialFrom(from(100 + i))
		g.Settle()
	}
	c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, nil)
	if b := c.Expect(pdu.LoginResponse).BHS; b.LoginStatus() != 0 || b.TSIH() == 0 {
		t.Fatalf("% x", b)
	}
}

// TestManyAddresses: what the target remembers of addresses is bounded, and a /64
// counts as one.
func TestManyAddresses(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.MaxConnsPerAddress = 2 })})
	for i := range 3000 {
		c := g.DialFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
		g.Turn()
		c.Peer.Reset()
		g.Turn()
	}
	g.Settle()
	if n := len(g.Engine.Connections(g)); n != 0 {
		t.Fatalf("%d connections", n)
	}
	six := func(s string) *iscsitest.Conn { return g.DialFrom(netip.MustParseAddr(s)) }
	a, b := six("2001:db8::1"), six("2001:db8::2")
	if c := six("2001:db8::ffff:3"); closed(g, a) || closed(g, b) || !closed(g, c) {
		t.Error("a third connection of one /64")
	}
	if closed(g, six("2001:db8:0:1::1")) {
		t.Error("another /64 is refused")
	}
}

// TestChatter: what peers may have as often as they like, a refusal say, does not fill
// the log, which tells how much it leaves out.
func TestChatter(t *testing.T) {
	var out bytes.Buffer
	g := iscsitest.New(t, iscsitest.Options{Log: slog.New(slog.NewTextHandler(&out, nil))})
	for range 250 {
		if s := g.Dial().LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName=iqn.2026-11.dev.spindle:none"); s == 0 {
			t.Fatal("let in")
		}
	}
	seconds := int(time.Duration(g.Clock.T)/time.Second) + 1
	if n := bytes.Count(out.Bytes(), []byte(`"login refused"`)); n < 100 || n > 100*seconds || n == 250 {
		t.Errorf("%d refusals are logged in %d s", n, seconds)
	}
	out.Reset()
	g.Clock.Advance(time.Second)
	g.Dial().Login()
	if !bytes.Contains(out.Bytes(), []byte("lines left out")) || !bytes.Contains(out.Bytes(), []byte("msg=login ")) {
		t.Errorf("afterwards: %s", out.Bytes())
	}
}
