package iser_test

import (
	"bytes"
	"testing"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iser/isertest"
)

// TestHostilePeer: what no initiator sends ends its own connection, and nothing
// else notices.
func TestHostilePeer(t *testing.T) {
	for _, m := range isertest.Hostile(1) {
		t.Run(m.Name, func(t *testing.T) {
			g := isertest.New(t, isertest.Options{})
			other := g.Dial().Login()
			tcp := g.Target.Dial().Login()
			ready(t, other, 1)
			data := pattern(8192, 5)
			other.Write(1, 0, data, isertest.Shape{})
			c := g.Dial()
			if !m.Login {
				c.Login()
				ready(t, c, 1)
			}
			c.SendRaw(m.Make(c))
			if m.Stays {
				if p := c.Expect(pdu.SCSIResponse); p.BHS.Status() != 2 {
					t.Fatalf("% x", p.BHS)
				}
				c.ExpStatSN++
				alive(t, c)
			} else {
				c.ExpectClosed()
			}
			if !bytes.Equal(other.Read(1, 0, 16), data) {
				t.Fatal("data of another session changed")
			}
			alive(t, other)
			b := tcp.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			tcp.Send(b, nil, nil)
			tcp.Expect(pdu.NopIn)
		})
	}
}

// TestTooManyCommands: what lies beyond the window is dropped in silence, and a
// flood that ignores the window slows its sender only.
func TestTooManyCommands(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	other := g.Dial().Login()
	ready(t, other, 1)
	c := g.Dial().Login()
	ready(t, c, 1)
	for range 400 {
		c.Send(c.Command(1, 0, 0, 0), nil, nil)
		g.Turn()
	}
	alive(t, other)
	c.Vanish()
	alive(t, other)
}

// TestNoReads: an initiator that serves no RDMA READ is refused.
func TestNoReads(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	c := g.DialWith(isertest.Dial{NoReads: true})
	if c.Up || !c.Down {
		t.Fatal("connected")
	}
	if n := g.ISER.Stats.Rejected.Load(); n != 1 {
		t.Fatalf("%d rejected", n)
	}
	alive2 := g.Dial().Login()
	ready(t, alive2, 1)
}

// FuzzDialogue feeds messages to a target before and after its login: whatever
// they are, a session of another node goes on: resets and reservations are the
// node's own affair.
func FuzzDialogue(f *testing.F) {
	var c isertest.Conn
	c.CmdSN = 1
	c.Answered = map[string]string{}
	f.Add(true, isertest.Sized(isertest.Tags{}, c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil), []byte{})
	f.Add(true, isertest.Sized(isertest.Tags{Write: 77, WriteA: 4096}, c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, make([]byte, 512)), []byte{0x21})
	f.Add(true, isertest.Sized(isertest.Tags{}, c.DataOutBHS(1, 0, 0, 0, true), nil, make([]byte, 512)), []byte{})
	f.Add(true, isertest.Sized(isertest.Tags{}, c.Immediate(pdu.NopOut, pdu.FlagFinal), nil, []byte("ping")), isertest.Sized(isertest.Tags{}, c.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil))
	f.Add(false, isertest.Sized(isertest.Tags{}, c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName=a", "SessionType=Discovery")), []byte{})
	reset := c.Immediate(pdu.TMFRequest, pdu.FlagFinal|pdu.TMFColdReset)
	f.Add(true, isertest.Sized(isertest.Tags{}, reset, nil, nil), []byte{})
	f.Add(false, make([]byte, 76), make([]byte, 28))
	g := isertest.New(f, isertest.Options{}) // shared by all runs of the process
	const node = iscsitest.Node + ".other"
	g.AddNode(iscsi.NodeConfig{Name: node, LUNs: []iscsi.LUN{iscsitest.Malloc(g.Target, 1, 65536)}})
	other := g.Dial().LoginTo(node)
	ready(f, other, 1)
	defer func() { g.T = f }()
	f.Fuzz(func(t *testing.T, login bool, first, second []byte) {
		if len(first) > 8192 || len(second) > 8192 {
			return
		}
		g.T = t
		c := g.Dial()
		if login {
			c.Login()
		}
		c.Lenient = true
		for _, w := range [][]byte{first, second} {
			if len(w) > 0 && !c.Down {
				c.SendRaw(w)
			}
			for range 200 {
				c.TryRecv()
				g.Turn()
			}
		}
		alive(t, other)
		c.Vanish()
		g.Until("the end", func() bool { return len(links(g)) == 1 })
		if n := g.ISER.Stats.ParsePanics.Load(); n != 0 {
			t.Fatalf("%d panics in the decoder", n)
		}
	})
}
