package iser_test

import (
	"bytes"
	"testing"

	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iser/isertest"
	"spindle/verbs"
)

// message is a PDU's bytes with lengths that are true.
func message(t isertest.Tags, b pdu.BHS, ahs, data []byte) []byte {
	b.SetAHSLen(uint32(len(ahs)))
	b.SetDataLen(uint32(len(data)))
	return isertest.Message(t, b, ahs, data)
}

// TestHostilePeer: what no initiator sends ends its own connection, and nothing
// else notices.
func TestHostilePeer(t *testing.T) {
	for _, tc := range []struct {
		name  string
		login bool // before the login, instead of after it
		stays bool // is answered, not ended
		send  func(c *isertest.Conn) []byte
	}{
		{name: "nothing", send: func(*isertest.Conn) []byte { return []byte{0x10} }},
		{name: "iSER header alone", send: func(*isertest.Conn) []byte { return make([]byte, 28) }},
		{name: "one byte short of the headers", send: func(c *isertest.Conn) []byte {
			return message(isertest.Tags{}, c.Immediate(pdu.NopOut, pdu.FlagFinal), nil, nil)[:75]
		}},
		{name: "short, during login", login: true, send: func(*isertest.Conn) []byte { return make([]byte, 75) }},
		{name: "data segment beyond what arrived", send: func(c *isertest.Conn) []byte {
			b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetDataLen(1<<24 - 1)
			return isertest.Message(isertest.Tags{}, b, nil, []byte("only this"))
		}},
		{name: "data segment beyond what arrived, during login", login: true, send: func(c *isertest.Conn) []byte {
			b := c.LoginBHS(pdu.FlagTransit | 1<<2 | 3)
			b.SetDataLen(8192)
			return isertest.Message(isertest.Tags{}, b, nil, []byte("InitiatorName=x\x00"))
		}},
		{name: "additional header beyond what arrived", send: func(c *isertest.Conn) []byte {
			b := c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...)
			b.SetAHSLen(1020)
			return isertest.Message(isertest.Tags{}, b, make([]byte, 4), nil)
		}},
		{name: "Hello", send: func(*isertest.Conn) []byte {
			w := make([]byte, 76)
			w[0] = 0x21
			return w
		}},
		{name: "Hello as the first message", login: true, send: func(*isertest.Conn) []byte { return append([]byte{0x21, 0x11, 0, 16}, make([]byte, 24)...) }},
		{name: "HelloReply", send: func(*isertest.Conn) []byte { return append([]byte{0x30}, make([]byte, 75)...) }},
		{name: "solicited Data-Out", send: func(c *isertest.Conn) []byte {
			return message(isertest.Tags{}, c.DataOutBHS(1, 0, 0, 0, true), nil, make([]byte, 512))
		}},
		{name: "forged Read STag", send: func(c *isertest.Conn) []byte {
			return message(isertest.Tags{Read: 0xdead00, ReadA: 1 << 40}, c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
		}},
		{name: "forged Write STag", send: func(c *isertest.Conn) []byte {
			return message(isertest.Tags{Write: 0xdead00, WriteA: 1 << 40}, c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, nil)
		}},
		{name: "Read STag that does not let write", send: func(c *isertest.Conn) []byte {
			buf := c.Buffer(4096, verbs.AccessRemoteRead)
			return message(isertest.Tags{Read: buf.MR.RKey(), ReadA: uint64(buf.Ref.Addr)}, c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
		}},
		{name: "memory shorter than the data", send: func(c *isertest.Conn) []byte {
			buf := c.Buffer(2048, verbs.AccessRemoteWrite)
			return message(isertest.Tags{Read: buf.MR.RKey(), ReadA: uint64(buf.Ref.Addr)}, c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
		}},
		{name: "read without an STag", send: func(c *isertest.Conn) []byte {
			return message(isertest.Tags{}, c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
		}},
		{name: "write without an STag", send: func(c *isertest.Conn) []byte {
			return message(isertest.Tags{}, c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, nil)
		}},
		{name: "malformed additional header", stays: true, send: func(c *isertest.Conn) []byte {
			return message(isertest.Tags{}, c.Command(1, 0, 0, 0x7f), []byte{0xff, 0xff, 1, 0}, nil)
		}},
		{name: "bidirectional", stays: true, send: func(c *isertest.Conn) []byte {
			return message(isertest.Tags{}, c.Command(1, pdu.FlagRead|pdu.FlagWrite, 512, 0x53), nil, nil)
		}},
		{name: "immediate data of a command that writes nothing", stays: true, send: func(c *isertest.Conn) []byte {
			return message(isertest.Tags{}, c.Command(1, 0, 0, 0), nil, make([]byte, 512))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := isertest.New(t, isertest.Options{})
			other := g.Dial().Login()
			tcp := g.Target.Dial().Login()
			ready(t, other, 1)
			data := pattern(8192, 5)
			other.Write(1, 0, data, isertest.Shape{})
			c := g.Dial()
			if !tc.login {
				c.Login()
				ready(t, c, 1)
			}
			c.SendRaw(tc.send(c))
			if tc.stays {
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
// they are, another session goes on.
func FuzzDialogue(f *testing.F) {
	var c isertest.Conn
	c.CmdSN = 1
	c.Answered = map[string]string{}
	f.Add(true, message(isertest.Tags{}, c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil), []byte{})
	f.Add(true, message(isertest.Tags{Write: 77, WriteA: 4096}, c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, make([]byte, 512)), []byte{0x21})
	f.Add(true, message(isertest.Tags{}, c.DataOutBHS(1, 0, 0, 0, true), nil, make([]byte, 512)), []byte{})
	f.Add(true, message(isertest.Tags{}, c.Immediate(pdu.NopOut, pdu.FlagFinal), nil, []byte("ping")), message(isertest.Tags{}, c.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil))
	f.Add(false, message(isertest.Tags{}, c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName=a", "SessionType=Discovery")), []byte{})
	f.Add(false, make([]byte, 76), make([]byte, 28))
	g := isertest.New(f, isertest.Options{}) // shared by all runs of the process
	other := g.Dial().Login()
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
