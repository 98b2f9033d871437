package iscsi_test

import (
	"testing"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iscsi/tcp"
	"spindle/reactor/ring/simring"
)

// dialogue is what a small session sends without waiting for answers: login, a
// ping, a write with immediate and unsolicited data, a read and a logout.
func dialogue(c *iscsitest.Conn) []byte {
	keys := iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "InitialR2T=No")
	b := c.LoginBHS(pdu.FlagTransit | 1<<2 | 3)
	b.SetDataLen(uint32(len(keys)))
	w := c.Frame(b, nil, keys)
	add := func(b pdu.BHS, data []byte) {
		b.SetDataLen(uint32(len(data)))
		w = append(w, c.Frame(b, nil, data)...)
	}
	nop := c.Request(pdu.NopOut, pdu.FlagFinal)
	nop.SetTTT(pdu.ReservedTag)
	add(nop, []byte("hello"))
	add(c.Command(1, 0, 0), nil) // takes the unit attention
	wr := c.Command(1, pdu.FlagWrite, 1024, iscsitest.Write10(0, 2)...)
	wr.SetFlags(wr.Flags() &^ pdu.FlagFinal)
	add(wr, pattern(512, 1))
	add(c.DataOutBHS(wr.ITT(), pdu.ReservedTag, 0, 512, true), pattern(512, 2))
	add(c.Command(1, pdu.FlagRead, 1024, iscsitest.Read10(0, 2)...), nil)
	early := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(0, 1)...)
	add(c.Command(1, 0, 0), nil)
	add(early, pattern(512, 3))
	add(c.Request(pdu.LogoutReq, pdu.FlagFinal|pdu.LogoutCloseSession), nil)
	return w
}

// TestCutEverywhere ends the connection after each byte of a dialogue, by FIN
// and by RST: nothing may be left of it.
func TestCutEverywhere(t *testing.T) {
	for _, how := range []string{"FIN", "RST"} {
		t.Run(how, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			g.Settle()
			fds := g.World.OpenFDs()
			probe := g.Dial()
			n := len(dialogue(probe))
			probe.Peer.Close()
			for at := range n {
				c := g.Dial()
				w := dialogue(c)[:at]
				for sent := 0; sent < len(w); {
					sent += c.Peer.Write(w[sent:])
					g.Turn()
				}
				if how == "FIN" {
					c.Peer.CloseWrite()
				} else {
					c.Peer.Reset()
				}
				g.Until("end", func() bool { return g.World.OpenFDs() == fds })
				c.Peer.Close()
			}
			if n := len(g.Engine.Connections(g)); n > 0 {
				t.Fatalf("%d connections left", n)
			}
		})
	}
}

// TestHalfClose: an initiator that sends no more has its connection ended.
func TestHalfClose(t *testing.T) {
	g, dev := faulty(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	hold(t, dev, bdev.Read, 1)
	c.Send(c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, nil)
	g.Settle()
	c.Peer.CloseWrite()
	c.ExpectClosed()
	dev.ResumePending()
	g.Until("session gone", func() bool { return len(g.Engine.Connections(g)) == 0 })
}

// TestNeverReads: a peer that sends until nothing is taken any more and never
// reads keeps a bounded amount of memory, disturbs nobody, and leaves nothing.
func TestNeverReads(t *testing.T) {
	for _, tc := range []struct {
		name string
		pdu  func(c *iscsitest.Conn) (pdu.BHS, []byte)
	}{
		{"pings", func(c *iscsitest.Conn) (pdu.BHS, []byte) {
			b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			return b, make([]byte, 4096)
		}},
		{"early pings and their gap", func(c *iscsitest.Conn) (pdu.BHS, []byte) {
			b := c.Request(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			if c.CmdSN < 60 {
				b.SetCmdSN(b.CmdSN() + 1)
			} else if c.CmdSN == 60 {
				b.SetCmdSN(c.CmdSN - 59)
			}
			return b, make([]byte, 4096)
		}},
		{"reads", func(c *iscsitest.Conn) (pdu.BHS, []byte) {
			return c.Command(1, pdu.FlagRead, 65536, iscsitest.Read10(0, 128)...), nil
		}},
		{"task management", func(c *iscsitest.Conn) (pdu.BHS, []byte) {
			return tmf(c, pdu.TMFAbortTaskSet, 1, 0, 0), nil
		}},
		{"rejects", func(c *iscsitest.Conn) (pdu.BHS, []byte) {
			return c.Immediate(0x1c, pdu.FlagFinal), nil
		}},
		{"text", func(c *iscsitest.Conn) (pdu.BHS, []byte) {
			b := c.Immediate(pdu.TextRequest, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			return b, iscsitest.Keys("SendTargets=")
		}},
		{"writes without their data", func(c *iscsitest.Conn) (pdu.BHS, []byte) {
			return c.Command(1, pdu.FlagWrite, 65536, iscsitest.Write10(0, 128)...), nil
		}},
	} {
		for _, how := range []string{"close", "reset", "timeout"} {
			t.Run(tc.name+", "+how, func(t *testing.T) {
				g := iscsitest.New(t, iscsitest.Options{})
				other := dialAs(g, 7).Login()
				ready(t, other, 1)
				c := g.Dial().Login("InitialR2T=Yes")
				var w []byte
				for range 600 {
					for len(w) < 64<<10 {
						b, data := tc.pdu(c)
						b.SetDataLen(uint32(len(data)))
						w = append(w, c.Frame(b, nil, data)...)
					}
					w = w[c.Peer.Write(w):]
					g.Turn()
				}
				if in := g.Reactors[0].Arena.Stats().InUse; in > 32<<20 {
					t.Fatalf("%d bytes in use", in)
				}
				alive(t, other)
				switch how {
				case "close":
					c.Peer.Close()
				case "reset":
					c.Peer.Reset()
				case "timeout":
					for range 16 { // other stays
						g.Advance(10 * time.Second)
						ping2(t, other)
					}
				}
				g.Until("connection gone", func() bool { return len(g.Engine.Connections(g)) == 1 })
				alive(t, other)
			})
		}
	}
}

// ping2 is ping for a connection that may have been pinged itself meanwhile.
func ping2(t *testing.T, c *iscsitest.Conn) {
	t.Helper()
	for {
		if _, ok := c.TryRecv(); !ok {
			break
		}
	}
	ping(t, c)
}

// TestManyNeverRead: as many connections as there are receive buffers do not
// read; one more session still works.
func TestManyNeverRead(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 128 << 20})
	for i := range tcp.RecvBuffers + 10 {
		c := dialAs(g, byte(100+i)).Login()
		var w []byte
		for range 100 {
			b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			b.SetDataLen(4096)
			w = append(w, c.Frame(b, nil, make([]byte, 4096))...)
		}
		for range 60 {
			w = w[c.Peer.Write(w):]
			g.Turn()
		}
	}
	c := g.Dial().Login()
	ready(t, c, 1)
	alive(t, c)
}

// TestChurn: connections that come and go leave memory and descriptors flat.
func TestChurn(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Reactors: 2})
	g.Settle()
	fds := g.World.OpenFDs()
	var inUse uint64
	for i := range 200 {
		c := g.Dial().Login()
		ready(t, c, 1)
		switch i % 3 {
		case 0:
			c.Send(c.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil)
			c.Expect(pdu.LogoutResp)
			c.ExpectClosed()
		case 1:
			c.Peer.Reset()
		}
		c.Peer.Close()
		g.Until("connection gone", func() bool { return g.World.OpenFDs() == fds })
		g.Settle()
		use := g.Reactors[0].Arena.Stats().InUse + g.Reactors[1].Arena.Stats().InUse
		if i == 10 {
			inUse = use
		} else if i > 10 && use != inUse {
			t.Fatalf("round %d: %d bytes in use, were %d", i, use, inUse)
		}
	}
	for _, r := range g.Reactors {
		if r.Load() != 0 {
			t.Fatalf("reactor %d: load %d without connections", r.ID, r.Load())
		}
	}
	if n := g.Engine.Stats.Logins.Load(); n != 200 {
		t.Fatalf("%d logins", n)
	}
}

// TestReceivesBeyondHeld: what arrives at once fills all receive buffers of a reactor,
// while the connection holds some that it has not read yet: none of it is lost.
func TestReceivesBeyondHeld(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{World: simring.Config{SocketBuffer: 16 << 20}})
	c := g.Dial().Login()
	const (
		answered = iscsi.ConnectionOuts   // more than leaves a turn room
		silent   = tcp.MaxPDUsPerTurn - 1 // what the rest of a turn's budget reads
		size     = 3 * tcp.RecvBuffers * tcp.RecvBufferSize
	)
	var w []byte
	var tags []uint32
	for len(w) < size {
		for i := range answered + silent {
			b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			if i < answered {
				tags = append(tags, b.ITT())
			} else {
				b.SetITT(pdu.ReservedTag)
			}
			w = append(w, c.Frame(b, nil, nil)...)
		}
	}
	if n := c.Peer.Write(w); n != len(w) {
		t.Fatalf("%d bytes of %d written", n, len(w))
	}
	for _, itt := range tags {
		responded(t, c, pdu.NopIn, itt, 0)
	}
	g.Close() // all memory is home
}
