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
