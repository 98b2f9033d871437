package iser

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"spindle/iscsi/pdu"
)

// FuzzMessage takes any bytes apart as a message. Nothing panics; what is taken
// lies within what came and has the lengths that its header says; what is not is
// refused for one of three reasons; an STag that the header does not call valid
// is none (RFC 7145 §9.2).
func FuzzMessage(f *testing.F) {
	seed := func(first byte, op pdu.Opcode, ahs uint32, data uint32, extra int) []byte {
		b := make([]byte, headersLen+extra)
		b[0] = first
		binary.BigEndian.PutUint32(b[4:], 0x11)
		binary.BigEndian.PutUint64(b[8:], 1<<40)
		binary.BigEndian.PutUint32(b[16:], 0x22)
		binary.BigEndian.PutUint64(b[20:], 1<<41)
		h := pdu.BHS(b[pdu.ISERLen:])
		h.SetOpcode(op)
		h.SetAHSLen(ahs)
		h.SetDataLen(data)
		return b
	}
	for _, b := range [][]byte{
		nil, {pdu.ISERControl}, make([]byte, pdu.ISERLen), make([]byte, headersLen-1), make([]byte, headersLen),
		seed(pdu.ISERControl, pdu.SCSICommand, 0, 0, 0),
		seed(pdu.ISERControl|pdu.ISERRSV|pdu.ISERWSV, pdu.SCSICommand, 0, 0, 0),
		seed(pdu.ISERControl|pdu.ISERRSV, pdu.SCSICommand, 8, 512, 520),
		seed(pdu.ISERControl|pdu.ISERWSV, pdu.DataOut, 0, 512, 512),
		seed(pdu.ISERControl, pdu.NopOut, 0, 1<<24-1, 9),      // more than came
		seed(pdu.ISERControl, pdu.SCSICommand, 1020, 0, 4),    // likewise, of header
		seed(pdu.ISERControl, pdu.LoginRequest, 0, 8192, 100), // likewise, in login
		seed(0x20, pdu.SCSICommand, 0, 0, 0),                  // Hello
		seed(0x30, pdu.SCSICommand, 0, 0, 0),                  // HelloReply
		seed(0xf0, pdu.SCSICommand, 0, 0, 0),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		m.cookie = [3]uint64{1, 2, 3} // of the message before
		if err := m.parse(b); err != nil {
			if !errors.Is(err, errShort) && !errors.Is(err, errOpcode) && !errors.Is(err, errLength) {
				t.Fatal(err)
			}
			return
		}
		n := headersLen + int(m.bhs.AHSLen())
		switch {
		case b[0]&pdu.ISERTypeMask != pdu.ISERControl:
			t.Fatalf("type %#x is taken", b[0])
		case !bytes.Equal(m.bhs, b[pdu.ISERLen:headersLen]), !bytes.Equal(m.ahs, b[headersLen:n]), !bytes.Equal(m.data, b[n:n+int(m.bhs.DataLen())]):
			t.Fatal("a part is not where it came")
		case cap(m.bhs) != pdu.HeaderLen || cap(m.ahs) != len(m.ahs) || cap(m.data) != len(m.data):
			t.Fatal("a part reaches beyond itself")
		}
		command := m.bhs.Opcode() == pdu.SCSICommand
		var read, write uint32
		if command && b[0]&pdu.ISERRSV != 0 {
			read = binary.BigEndian.Uint32(b[16:])
		}
		if command && b[0]&pdu.ISERWSV != 0 {
			write = binary.BigEndian.Uint32(b[4:])
		}
		if readSTag(&m.cookie) != read || writeSTag(&m.cookie) != write {
			t.Fatalf("STags %#x and %#x, want %#x and %#x", readSTag(&m.cookie), writeSTag(&m.cookie), read, write)
		}
		if !command && m.cookie != [3]uint64{} {
			t.Fatal("a cookie of another message")
		}
	})
}
