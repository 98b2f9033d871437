package hostile

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"spindle/iscsi/pdu"
	"spindle/iser/isertest"
)

// pattern is n bytes that tell their place.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>9) ^ byte(i) ^ seed
	}
	return b
}

// bystander is a session that behaves; unharmed fails unless its data is there
// and it still writes and reads.
type bystander struct {
	*client
	lun  uint16
	data []byte
}

func newBystander(t *testing.T) *bystander {
	portal, lun := target(t)
	o := &bystander{dial(t, portal, dialing{reads: 16}).login().ready(lun), lun, pattern(8192, 5)}
	o.write(lun, 0, o.data)
	return o
}

func (o *bystander) unharmed(t *testing.T) {
	t.Helper()
	o.t = t
	o.heap = min(o.heap, memory/2)
	if !bytes.Equal(o.read(o.lun, 0, 16), o.data) {
		t.Fatal("the data of another session changed")
	}
	more := pattern(4096, 9)
	o.write(o.lun, 64, more)
	if !bytes.Equal(o.read(o.lun, 64, 8), more) {
		t.Fatal("the data of another session differs")
	}
}

// TestHostileMessages: each ends its own connection, or is answered, as it does
// in process; nothing else notices.
func TestHostileMessages(t *testing.T) {
	portal, lun := target(t)
	other := newBystander(t)
	for _, m := range isertest.Hostile(lun) {
		t.Run(m.Name, func(t *testing.T) {
			c := dial(t, portal, dialing{reads: 16})
			if !m.Login {
				c.login().ready(lun)
			}
			c.sendRaw(m.Make(c))
			if m.Stays {
				if p := c.expect(pdu.SCSIResponse); p.BHS.Status() != 2 {
					t.Fatalf("% x", p.BHS)
				}
				c.ExpStatSN++
				c.ready(lun)
			} else {
				c.expectClosed()
			}
			other.unharmed(t)
		})
	}
	other.t = t // its subtests have ended
}

// TestTooManyCommands: a flood that ignores the window slows its sender only.
func TestTooManyCommands(t *testing.T) {
	portal, lun := target(t)
	other := newBystander(t)
	c := dial(t, portal, dialing{reads: 16}).login().ready(lun)
	for range 600 {
		c.send(isertest.Tags{}, c.Command(lun, 0, 0, 0), nil)
	}
	other.unharmed(t)
	c.close()
	other.unharmed(t)
}

// TestBeyondTheWindow: commands ahead of it are dropped in silence (RFC 7143 §4.2.2.1).
func TestBeyondTheWindow(t *testing.T) {
	portal, lun := target(t)
	c := dial(t, portal, dialing{reads: 16}).login().ready(lun)
	next := c.CmdSN
	c.CmdSN += 1000
	for range 20 {
		c.send(isertest.Tags{}, c.Command(lun, 0, 0, 0), nil)
	}
	c.CmdSN = next
	ping := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	ping.SetTTT(pdu.ReservedTag)
	c.send(isertest.Tags{}, ping, nil)
	if p := c.expect(pdu.NopIn); p.BHS.ITT() != ping.ITT() {
		t.Fatalf("% x", p.BHS)
	}
	c.ExpStatSN++
	c.ready(lun)
}

// TestPrivateData: what a connection request brings along is no reason to fail,
// whatever it is.
func TestPrivateData(t *testing.T) {
	portal, lun := target(t)
	other := newBystander(t)
	noise := make([]byte, 56)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	ones := bytes.Repeat([]byte{0xff}, 56)
	for _, tc := range []struct {
		name    string
		private []byte
	}{
		{"none", []byte{}}, {"one byte", []byte{0x80}}, {"noise", noise}, {"ones", ones}, {"login PDU", []byte("InitiatorName=x\x00")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dial(t, portal, dialing{private: tc.private, reads: 16})
			if c.up {
				c.login().ready(lun)
			}
			other.unharmed(t)
		})
	}
	other.t = t
}

// TestNoReads: an initiator that serves no RDMA READ is refused.
func TestNoReads(t *testing.T) {
	portal, _ := target(t)
	if c := dial(t, portal, dialing{}); c.up || !c.down {
		t.Fatal("connected")
	}
}

// TestMaxConnections: a session over iSER has one connection, whatever is
// offered, and a second one is refused (RFC 7145 §6.7, RFC 7143 §11.13.5).
func TestMaxConnections(t *testing.T) {
	portal, lun := target(t)
	first := dial(t, portal, dialing{reads: 16}).login("MaxConnections=8").ready(lun)
	if got := first.Answered["MaxConnections"]; got != "1" {
		t.Errorf("MaxConnections=%s", got)
	}
	second := dial(t, portal, dialing{reads: 16})
	second.ISID, second.TSIH = first.ISID, first.TSIH
	second.CmdSN = first.CmdSN
	if s := second.tryLogin(); s>>8 != 2 {
		t.Errorf("the second connection's login has status %04x", s)
	}
	first.ready(lun)
}
