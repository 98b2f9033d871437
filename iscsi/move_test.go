package iscsi_test

import (
	"testing"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

// mover gives the orders that a test wants.
type mover struct {
	order         iscsi.Order
	moved, stayed int
}

func (m *mover) Balance(clock.Time, []time.Duration) (iscsi.Order, time.Duration) {
	o := m.order
	m.order = iscsi.Order{}
	return o, 50 * time.Microsecond
}

func (m *mover) Moved(_ clock.Time, _, _ int, moved bool) {
	if moved {
		m.moved++
	} else {
		m.stayed++
	}
}

// from orders the only session of a reactor to go to the other.
func (m *mover) from(r int) {
	m.order = iscsi.Order{From: r, To: 1 - r, Choose: func(shares []float64) int { return len(shares) - 1 }}
}

// movable starts a target with two reactors and a session that has used both LUNs.
func movable(t *testing.T, o iscsitest.Options) (*iscsitest.Target, *mover, *iscsitest.Conn) {
	m := &mover{}
	o.Reactors, o.Balance = 2, m
	g := iscsitest.New(t, o)
	c := g.Dial().Login()
	ready(t, c, 0, 1)
	return g, m, c
}

// on is the reactor of the session with this TSIH.
func on(g *iscsitest.Target, c *iscsitest.Conn) int {
	g.T.Helper()
	for _, i := range g.Engine.Connections(g) {
		if i.TSIH == c.TSIH {
			return i.Reactor
		}
	}
	g.T.Fatalf("no session %d", c.TSIH)
	return -1
}

// move has the session change its reactor.
func move(g *iscsitest.Target, m *mover, c *iscsitest.Conn) {
	g.T.Helper()
	from, n := on(g, c), m.moved
	m.from(from)
	g.Until("a move", func() bool { return m.moved > n || m.stayed > 0 })
	if m.stayed > 0 || on(g, c) != 1-from {
		g.T.Fatalf("the session is on reactor %d after %d moves, and has stayed %d times", on(g, c), m.moved, m.stayed)
	}
}

func TestSessionMoves(t *testing.T) {
	for _, sleep := range []bool{false, true} {
		g, m, c := movable(t, iscsitest.Options{Sleep: sleep})
		for range 5 {
			move(g, m, c)
			alive(t, c)
			b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			c.Send(b, nil, []byte("ping"))
			if p := c.Expect(pdu.NopIn); string(p.Data) != "ping" {
				t.Errorf("echo %q", p.Data)
			} else {
				c.ExpStatSN = p.BHS.StatSN() + 1
			}
		}
		if n := counter(g, "sessions_moved"); n != 5 {
			t.Errorf("%d moves are counted", n)
		}
		list, err := g.Engine.NodeStats(g, iscsitest.Node)
		must(t, err)
		if n := list[0]; len(n.Sessions) != 1 || n.Sessions[0].Reactor != on(g, c) || n.Commands != 14 || n.Sessions[0].Commands != 14 || n.Begun != 1 {
			t.Errorf("%+v", list)
		}
		c.Send(c.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil)
		c.Expect(pdu.LogoutResp)
		c.ExpectClosed()
		g.Close()
	}
}

// TestMoveTellsAttentions: whenever a reset comes while a session moves, the session
// has its unit attention once.
func TestMoveTellsAttentions(t *testing.T) {
	g, m, c := movable(t, iscsitest.Options{Delayed: true})
	other := dialAs(g, 9).Login()
	ready(t, other, 1)
	inMove := 0
	for turns := range 60 {
		m.from(on(g, c)) // it, or the other
		b := tmf(other, pdu.TMFLUNReset, 1, 0, 0)
		before := m.moved + m.stayed
		for range turns {
			g.Turn()
		}
		if m.moved+m.stayed == before {
			inMove++
		}
		other.Send(b, nil, nil)
		p := other.Expect(pdu.TMFResponse)
		other.ExpStatSN = p.BHS.StatSN() + 1
		if p.BHS.Response() != pdu.TMFComplete {
			t.Fatalf("response %d", p.BHS.Response())
		}
		g.Until("the end of the move", func() bool { return m.moved+m.stayed > before })
		attention(t, c, deviceReset)
		attention(t, other, deviceReset)
	}
	if m.moved < 30 || inMove < 5 {
		t.Errorf("%d moves, %d resets during one", m.moved, inMove)
	}
}

// TestMoveWaitsForTasks: a session with a task stays, and goes on.
func TestMoveWaitsForTasks(t *testing.T) {
	m := &mover{}
	g, dev := faulty(t, iscsitest.Options{Reactors: 2, Balance: m, Engine: options(func(o *iscsi.Options) { o.MaxQueueDepth = 2 })})
	c := g.Dial().Login()
	ready(t, c, 1)
	at := on(g, c)
	hold(t, dev, bdev.Read, 2)
	a, b := c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(1, 1)...)
	c.Send(a, nil, nil)
	c.Send(b, nil, nil)
	g.Settle()
	m.from(at)
	g.Until("giving up", func() bool { return m.stayed == 1 })
	if on(g, c) != at || m.moved != 0 || counter(g, "session_moves_given_up") != 1 {
		t.Fatalf("a session with tasks moved")
	}
	dev.ResumePending()
	good(t, c, a.ITT(), nil)
	good(t, c, b.ITT(), nil)
	if c.MaxCmdSN-c.CmdSN+1 != 2 {
		t.Errorf("the window has %d places of 2", c.MaxCmdSN-c.CmdSN+1)
	}
	alive(t, c)

	// The last of them ends while the session is brought to rest.
	hold(t, dev, bdev.Read, 2)
	a, b = c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(1, 1)...)
	c.Send(a, nil, nil)
	c.Send(b, nil, nil)
	g.Settle()
	m.from(at)
	g.Settle()
	dev.ResumePending()
	good(t, c, a.ITT(), nil)
	good(t, c, b.ITT(), nil)
	if c.MaxCmdSN != b.CmdSN() {
		t.Errorf("MaxCmdSN %d went beyond %d while the session was brought to rest", c.MaxCmdSN, b.CmdSN())
	}
	p := c.Expect(pdu.NopIn) // tells of the window
	if g.Until("the move", func() bool { return m.moved == 1 }); on(g, c) != 1-at || p.BHS.MaxCmdSN() != b.CmdSN()+2 || p.BHS.ITT() != pdu.ReservedTag {
		t.Errorf("on reactor %d, MaxCmdSN %d after CmdSN %d", on(g, c), p.BHS.MaxCmdSN(), b.CmdSN())
	}
	alive(t, c)
}

// TestMoveFindsNoRoom: without memory on the other reactor the session stays.
func TestMoveFindsNoRoom(t *testing.T) {
	g, m, c := movable(t, iscsitest.Options{Memory: 8 << 20})
	at := on(g, c)
	a := g.Reactors[1-at].Arena
	sizes := []uint32{iscsi.ConnectionOuts * iscsi.OutSlot, 128 << 10} // of what is asked for, and the transport's block
	for room := range len(sizes) + 1 {
		var free, held []mem.Ref
		for _, n := range sizes[:room] {
			b, _ := a.Alloc(n)
			free = append(free, b)
		}
		for n := uint32(mem.MaxBlock); n >= mem.MinBlock; n /= 2 {
			for b, ok := a.Alloc(n); ok; b, ok = a.Alloc(n) {
				held = append(held, b)
			}
		}
		for _, b := range free {
			a.Free(b)
		}
		before := m.stayed
		m.from(at)
		g.Until("giving up", func() bool { return m.stayed == before+1 || m.moved > 0 })
		for _, b := range held {
			a.Free(b)
		}
		if m.moved > 0 || on(g, c) != at {
			t.Fatalf("with room for %d things: moved", room)
		}
		alive(t, c)
	}
	m.stayed = 0
	move(g, m, c)
	alive(t, c)
}

// TestMoveAndOrders: whenever an order for a session comes while it moves, it is
// carried out.
func TestMoveAndOrders(t *testing.T) {
	for _, tt := range []struct {
		name  string
		order func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn)
	}{
		{"reinstated", func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			k := g.Dial().Login()
			c.ExpectClosed()
			ready(t, k, 1)
			alive(t, k)
		}},
		{"asked to log out", func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			must(t, g.Engine.RequestLogout(g, iscsitest.Node))
			if p := c.Expect(pdu.AsyncMessage); p.BHS.AsyncEvent() != pdu.AsyncLogoutRequest {
				t.Errorf("event %d", p.BHS.AsyncEvent())
			} else {
				c.ExpStatSN = p.BHS.StatSN() + 1
			}
			alive(t, c)
		}},
		{"dropped", func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			must(t, g.Engine.SendAsync(g, iscsitest.Node, iscsi.AsyncMessage{Event: pdu.AsyncDropSession}))
			c.Expect(pdu.AsyncMessage)
			c.ExpectClosed()
		}},
		{"given a LUN", func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			must(t, g.Engine.AddLUN(g, iscsitest.Node, iscsitest.Malloc(g, 7, 64)))
			attention(t, c, 0x3f0e)
		}},
		{"told of by all", func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			if n := len(g.Engine.Connections(g)); n != 1 {
				t.Errorf("%d connections are listed", n)
			}
			alive(t, c)
		}},
		{"reset by its peer", func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			c.Peer.Reset()
			g.Until("its end", func() bool { return len(g.Engine.Connections(g)) == 0 })
		}},
		{"shut down", func(*testing.T, *iscsitest.Target, *iscsitest.Conn) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for turns := range 16 {
				g, m, c := movable(t, iscsitest.Options{})
				m.from(on(g, c))
				g.Until("the order", func() bool { return m.order.Choose == nil })
				for range turns {
					g.Turn()
				}
				tt.order(t, g, c)
				g.Settle()
				g.Close()
			}
		})
	}
}

// TestMoveOfSharedSession: a session that may have several connections moves until it
// has a second.
func TestMoveOfSharedSession(t *testing.T) {
	m := &mover{}
	g := iscsitest.New(t, iscsitest.Options{Reactors: 2, Balance: m})
	c := g.Dial().Login("MaxConnections=2")
	ready(t, c, 1)
	move(g, m, c)
	k := c.DialInto(1).Login()
	at := on(g, c)
	alive(t, k)
	m.from(at)
	g.Until("giving up", func() bool { return m.stayed == 1 })
	if on(g, c) != at {
		t.Error("it moved with two connections")
	}
	alive(t, c)
	alive(t, k)
}

// TestMoveKeepsAlive: the keepalive of a session that moves goes on, and ends it when
// its peer is gone.
func TestMoveKeepsAlive(t *testing.T) {
	g, m, c := movable(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.NopInInterval, o.NopTimeout = 5, 10 })})
	for range 3 {
		g.Advance(2 * time.Second)
		move(g, m, c)
	}
	p := c.Expect(pdu.NopIn)
	if p.BHS.TTT() == pdu.ReservedTag {
		t.Fatal("a ping that wants no answer")
	}
	g.Advance(2 * time.Second)
	move(g, m, c)
	g.Advance(9 * time.Second)
	c.ExpectClosed()
}
