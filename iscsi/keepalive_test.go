package iscsi_test

import (
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// until turns the target until a PDU comes and returns it with the time it took.
func until(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn, limit time.Duration) (iscsitest.PDU, time.Duration) {
	t.Helper()
	start := g.Clock.T
	for g.Clock.T.Sub(start) < limit {
		if p, ok := c.TryRecv(); ok {
			return p, g.Clock.T.Sub(start)
		}
		g.Advance(100 * time.Millisecond)
	}
	t.Fatalf("no PDU within %v", limit)
	return iscsitest.PDU{}, 0
}

// near tells whether d is d0, give or take a step of the clock.
func near(d, d0 time.Duration) bool { return d >= d0-time.Second && d <= d0+time.Second }

// TestKeepalive: an idle initiator is pinged after the interval (RFC 7143
// §11.19); while it answers, it lives.
func TestKeepalive(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.NopInInterval, o.NopTimeout = 10, 25 })})
	c := g.Dial().Login()
	for range 5 {
		p, after := until(t, g, c, time.Minute)
		if !near(after, 10*time.Second) {
			t.Fatalf("pinged after %v", after)
		}
		if b := p.BHS; b.Opcode() != pdu.NopIn || b.ITT() != pdu.ReservedTag || b.TTT() == pdu.ReservedTag || b.StatSN() != c.ExpStatSN {
			t.Fatalf("% x", b)
		}
		b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		b.SetITT(pdu.ReservedTag)
		b.SetTTT(p.BHS.TTT())
		b.SetLUN(p.BHS.LUN())
		c.Send(b, nil, nil)
	}
	ready(t, c, 1)
	alive(t, c)
}

// TestKeepaliveForEver: without nop_timeout an initiator is pinged, and may take
// its time.
func TestKeepaliveForEver(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.NopInInterval, o.NopTimeout = 10, 0 })})
	c := g.Dial().Login()
	ready(t, c, 1)
	if p, after := until(t, g, c, time.Minute); p.BHS.Opcode() != pdu.NopIn || !near(after, 10*time.Second) {
		t.Fatalf("% x after %v", p.BHS, after)
	}
	g.Advance(time.Hour)
	alive(t, c)
	if p, after := until(t, g, c, time.Minute); p.BHS.Opcode() != pdu.NopIn || !near(after, 10*time.Second) {
		t.Fatalf("% x after %v, once it has spoken", p.BHS, after)
	}
}

// TestKeepaliveByTraffic: any PDU proves that the initiator lives, and while
// they come none is asked for.
func TestKeepaliveByTraffic(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.NopInInterval, o.NopTimeout = 10, 25 })})
	c := g.Dial().Login()
	ready(t, c, 1)
	for range 10 {
		g.Advance(8 * time.Second)
		if r := c.Do(c.Command(1, 0, 0), nil, 0); r.Status != 0 {
			t.Fatalf("status %02x", r.Status)
		}
	}
	if p, after := until(t, g, c, time.Minute); p.BHS.Opcode() != pdu.NopIn || !near(after, 10*time.Second) {
		t.Fatalf("% x after %v", p.BHS, after)
	}
	g.Advance(8 * time.Second)
	c.Do(c.Command(1, 0, 0), nil, 0) // instead of the answer
	if p, after := until(t, g, c, time.Minute); p.BHS.Opcode() != pdu.NopIn || after > 18*time.Second {
		t.Fatalf("% x after %v", p.BHS, after)
	}
}

// TestKeepaliveUnanswered: the connection ends when the answer is overdue.
func TestKeepaliveUnanswered(t *testing.T) {
	for _, tc := range []struct{ interval, timeout uint32 }{{10, 25}, {30, 60}, {20, 5}, {10, 10}} {
		g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.NopInInterval, o.NopTimeout = tc.interval, tc.timeout })})
		c := g.Dial().Login()
		if _, after := until(t, g, c, time.Minute); !near(after, time.Duration(tc.interval)*time.Second) {
			t.Fatalf("%v: pinged after %v", tc, after)
		}
		start := g.Clock.T
		for !c.Peer.EOF() && c.Peer.Err() == nil && g.Clock.T.Sub(start) < 5*time.Minute {
			if p, ok := c.TryRecv(); ok {
				t.Fatalf("%v: % x", tc, p.BHS)
			}
			g.Advance(100 * time.Millisecond)
		}
		if after := g.Clock.T.Sub(start); !near(after, time.Duration(tc.timeout)*time.Second) {
			t.Fatalf("%v: closed after %v", tc, after)
		}
		if n := g.Engine.Stats.NopTimeouts.Load(); n != 1 {
			t.Fatalf("%d timeouts", n)
		}
	}
}

// contest begins a session as a user, on conns connections, and has others ask for
// its place many times in vain.
func contest(t *testing.T, conns int, change func(*iscsi.Options)) (*iscsitest.Target, []*iscsitest.Conn) {
	t.Helper()
	g := iscsitest.New(t, iscsitest.Options{Reactors: 2, Node: iscsi.NodeConfig{CHAPGroup: 1}, Engine: options(func(o *iscsi.Options) {
		o.NopInInterval = 0
		change(o)
	})})
	secretGroup(g, chapSecret)
	c := g.Dial()
	security(t, c, chapUser, chapSecret, pdu.LoginSuccess, who...)
	if s := c.LoginStatus("MaxConnections=2", "ErrorRecoveryLevel=2"); s != 0 {
		t.Fatalf("status %04x", s)
	}
	list := []*iscsitest.Conn{c}
	for len(list) < conns {
		k := list[0].DialInto(uint16(len(list)))
		chap(t, k, chapUser, chapSecret, pdu.LoginSuccess, who...)
		list = append(list, k)
	}
	ready(t, list[0], 1)
	refusals(t, g)
	return g, list
}

// refusals has nobody ask in vain for the place of the session.
func refusals(t *testing.T, g *iscsitest.Target) {
	t.Helper()
	for range 20 {
		if s := g.Dial().LoginStatus(who...); s != uint16(pdu.LoginForbidden) {
			t.Fatalf("status %04x", s)
		}
		g.Advance(10 * time.Millisecond)
	}
}

// pinged takes the one ping that c has got and returns its answer.
func pinged(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) pdu.BHS {
	t.Helper()
	p := c.Expect(pdu.NopIn).BHS
	if p.ITT() != pdu.ReservedTag || p.TTT() == pdu.ReservedTag || p.StatSN() != c.ExpStatSN {
		t.Fatalf("% x", p)
	}
	silent(t, g, c)
	b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetITT(pdu.ReservedTag)
	b.SetTTT(p.TTT())
	b.SetLUN(p.LUN())
	return b
}

// TestVanishedKeepsNobodyOut: a session in whose place another user is refused has
// to prove that its peer lives, by one ping however many are refused; one that
// cannot ends, also with keepalive off.
func TestVanishedKeepsNobodyOut(t *testing.T) {
	for _, tc := range []struct {
		name   string
		conns  int
		change func(*iscsi.Options)
		limit  time.Duration
	}{
		{"nop_timeout", 1, func(o *iscsi.Options) { o.NopTimeout = 7 }, 7 * time.Second},
		{"its default", 1, func(o *iscsi.Options) { o.NopTimeout = 0 }, time.Minute},
		{"two connections", 2, func(*iscsi.Options) {}, time.Minute},
		{"tasks that could be taken over", 1, func(o *iscsi.Options) { o.ErrorRecoveryLevel, o.NopTimeout = 2, 7 }, 7 * time.Second},
		{"keepalive is far off", 1, func(o *iscsi.Options) { o.NopInInterval, o.NopTimeout = 60, 7 }, 7 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, old := contest(t, tc.conns, tc.change)
			for _, c := range old {
				pinged(t, g, c)
			}
			g.Advance(tc.limit - time.Second)
			refusals(t, g)
			for _, c := range old {
				silent(t, g, c)
			}
			g.Advance(time.Second)
			for _, c := range old {
				c.ExpectClosed()
			}
			ready(t, g.Dial().Login(), 1)
			if n := g.Engine.Stats.NopTimeouts.Load(); n != 1 {
				t.Errorf("%d timeouts", n)
			}
		})
	}
}

// TestLivingKeepsOthersOut: a peer that answers the ping, or says anything else, on
// one of its connections, keeps its session, and is asked again no sooner than a
// timeout later.
func TestLivingKeepsOthersOut(t *testing.T) {
	for _, tc := range []struct {
		name  string
		conns int
		say   func(c *iscsitest.Conn, answer pdu.BHS)
	}{
		{"an answer", 1, func(c *iscsitest.Conn, answer pdu.BHS) { c.Send(answer, nil, nil) }},
		{"a command", 1, func(c *iscsitest.Conn, _ pdu.BHS) { c.Do(c.Command(1, 0, 0), nil, 0) }},
		{"an answer on one of two", 2, func(c *iscsitest.Conn, answer pdu.BHS) { c.Send(answer, nil, nil) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, old := contest(t, tc.conns, func(o *iscsi.Options) { o.NopTimeout = 7 })
			for range 3 {
				refusals(t, g)
				var answers []pdu.BHS
				for _, c := range old {
					answers = append(answers, pinged(t, g, c))
				}
				tc.say(old[0], answers[0])
				g.Advance(6 * time.Second)
				refusals(t, g)
				for _, c := range old {
					silent(t, g, c)
				}
				g.Advance(time.Second)
			}
			alive(t, old[0])
			if n := g.Engine.Stats.NopTimeouts.Load(); n != 0 {
				t.Errorf("%d timeouts", n)
			}
		})
	}
}

// TestNoKeepalive: an interval of 0 sends none.
func TestNoKeepalive(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.NopInInterval = 0 })})
	c := g.Dial().Login()
	g.Advance(5 * time.Minute)
	silent(t, g, c)
	ready(t, c, 1)
}

// TestLoginTimeout: a login has its time from accept to full feature phase,
// whatever it does meanwhile.
func TestLoginTimeout(t *testing.T) {
	for _, tc := range []struct {
		name string
		feed func(c *iscsitest.Conn) []byte // sent at one byte a second
	}{
		{"no byte", func(*iscsitest.Conn) []byte { return nil }},
		{"one byte a second", func(c *iscsitest.Conn) []byte {
			b := c.LoginBHS(0x87)
			b.SetDataLen(1000)
			return c.Frame(b, nil, make([]byte, 1000))
		}},
		{"many requests", func(c *iscsitest.Conn) []byte {
			c.Send(c.LoginBHS(1<<2), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
			c.Expect(pdu.LoginResponse)
			return nil
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial()
			start := g.Clock.T
			w := tc.feed(c)
			for !c.Peer.EOF() && c.Peer.Err() == nil && g.Clock.T.Sub(start) < time.Minute {
				if len(w) > 0 {
					w = w[c.Peer.Write(w[:1]):]
				}
				g.Advance(time.Second)
			}
			if after := g.Clock.T.Sub(start); after < 14*time.Second || after > 17*time.Second {
				t.Fatalf("closed after %v", after)
			}
			if n := g.Engine.Stats.LoginTimeouts.Load(); n != 1 {
				t.Fatalf("%d login timeouts", n)
			}
		})
	}
}

// TestPendingLoginsEvicted: beyond MaxPendingLogins the oldest go, also when
// many connect at once; sessions are not counted.
func TestPendingLoginsEvicted(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.MaxPendingLogins = 4 })})
	session := dialAs(g, 9).Login()
	var idle []*iscsitest.Conn
	for range 20 {
		idle = append(idle, g.Dial())
	}
	g.Settle()
	for i, c := range idle {
		if gone := c.Peer.EOF() || c.Peer.Err() != nil; gone != (i < 16) {
			t.Errorf("login %d of 20: gone %v", i, gone)
		}
	}
	if n := g.Engine.Stats.LoginsEvicted.Load(); n != 16 {
		t.Fatalf("%d evicted", n)
	}
	ready(t, idle[19].Login(), 1)
	ready(t, session, 1)
}
