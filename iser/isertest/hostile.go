package isertest

import (
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/verbs"
)

// Sender is the initiator that a hostile message is made for.
type Sender interface {
	Headers() *iscsitest.Conn
	// Remote registers n bytes for the target to reach.
	Remote(n uint32, access verbs.Access) (key uint32, addr uint64)
}

// HostileMessage is something that no initiator sends.
type HostileMessage struct {
	Name  string
	Login bool // to be sent before the login, instead of after it
	Stays bool // is answered, does not end the connection
	Make  func(p Sender) []byte
}

// Headers implements Sender.
func (c *Conn) Headers() *iscsitest.Conn { return &c.Conn }

// Remote implements Sender.
func (c *Conn) Remote(n uint32, access verbs.Access) (key uint32, addr uint64) {
	c.g.T.Helper()
	buf := c.Buffer(n, access)
	return buf.MR.RKey(), uint64(buf.Ref.Addr)
}

// Sized is a PDU's bytes with lengths that are true.
func Sized(t Tags, b pdu.BHS, ahs, data []byte) []byte {
	b.SetAHSLen(uint32(len(ahs)))
	b.SetDataLen(uint32(len(data)))
	return Message(t, b, ahs, data)
}

// Hostile lists hostile messages, those with commands for a LUN. In process and
// over real RDMA the target shall do the same with each.
func Hostile(lun uint16) []HostileMessage {
	return []HostileMessage{
		{Name: "nothing", Make: func(Sender) []byte { return []byte{0x10} }},
		{Name: "iSER header alone", Make: func(Sender) []byte { return make([]byte, 28) }},
		{Name: "one byte short of the headers", Make: func(p Sender) []byte {
			return Sized(Tags{}, p.Headers().Immediate(pdu.NopOut, pdu.FlagFinal), nil, nil)[:75]
		}},
		{Name: "short, during login", Login: true, Make: func(Sender) []byte { return make([]byte, 75) }},
		{Name: "data segment beyond what arrived", Make: func(p Sender) []byte {
			b := p.Headers().Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetDataLen(1<<24 - 1)
			return Message(Tags{}, b, nil, []byte("only this"))
		}},
		{Name: "data segment beyond what arrived, during login", Login: true, Make: func(p Sender) []byte {
			b := p.Headers().LoginBHS(pdu.FlagTransit | 1<<2 | 3)
			b.SetDataLen(8192)
			return Message(Tags{}, b, nil, []byte("InitiatorName=x\x00"))
		}},
		{Name: "additional header beyond what arrived", Make: func(p Sender) []byte {
			b := p.Headers().Command(lun, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...)
			b.SetAHSLen(1020)
			return Message(Tags{}, b, make([]byte, 4), nil)
		}},
		{Name: "Hello", Make: func(Sender) []byte {
			w := make([]byte, 76)
			w[0] = 0x21
			return w
		}},
		{Name: "Hello as the first message", Login: true, Make: func(Sender) []byte { return append([]byte{0x21, 0x11, 0, 16}, make([]byte, 24)...) }},
		{Name: "HelloReply", Make: func(Sender) []byte { return append([]byte{0x30}, make([]byte, 75)...) }},
		{Name: "solicited Data-Out", Make: func(p Sender) []byte {
			return Sized(Tags{}, p.Headers().DataOutBHS(1, 0, 0, 0, true), nil, make([]byte, 512))
		}},
		{Name: "forged Read STag", Make: func(p Sender) []byte {
			return Sized(Tags{Read: 0xdead00, ReadA: 1 << 40}, p.Headers().Command(lun, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
		}},
		{Name: "forged Write STag", Make: func(p Sender) []byte {
			return Sized(Tags{Write: 0xdead00, WriteA: 1 << 40}, p.Headers().Command(lun, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, nil)
		}},
		{Name: "Read STag that does not let write", Make: func(p Sender) []byte {
			key, addr := p.Remote(4096, verbs.AccessRemoteRead)
			return Sized(Tags{Read: key, ReadA: addr}, p.Headers().Command(lun, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
		}},
		{Name: "memory shorter than the data", Make: func(p Sender) []byte {
			key, addr := p.Remote(2048, verbs.AccessRemoteWrite)
			return Sized(Tags{Read: key, ReadA: addr}, p.Headers().Command(lun, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
		}},
		{Name: "read without an STag", Make: func(p Sender) []byte {
			return Sized(Tags{}, p.Headers().Command(lun, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
		}},
		{Name: "write without an STag", Make: func(p Sender) []byte {
			return Sized(Tags{}, p.Headers().Command(lun, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, nil)
		}},
		{Name: "malformed additional header", Stays: true, Make: func(p Sender) []byte {
			return Sized(Tags{}, p.Headers().Command(lun, 0, 0, 0x7f), []byte{0xff, 0xff, 1, 0}, nil)
		}},
		{Name: "bidirectional", Stays: true, Make: func(p Sender) []byte {
			return Sized(Tags{}, p.Headers().Command(lun, pdu.FlagRead|pdu.FlagWrite, 512, 0x53), nil, nil)
		}},
		{Name: "immediate data of a command that writes nothing", Stays: true, Make: func(p Sender) []byte {
			return Sized(Tags{}, p.Headers().Command(lun, 0, 0, 0), nil, make([]byte, 512))
		}},
	}
}
