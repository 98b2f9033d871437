package iser

import (
	"encoding/binary"
	"fmt"

	"spindle/iscsi"
	"spindle/iscsi/pdu"
)

var be = binary.BigEndian

// The layout of a message; see the package comment.
const (
	headerLen  = 28
	headersLen = headerLen + pdu.HeaderLen
	slotHeader = iscsi.SlotBHS - headerLen // where a message begins in an Out's slot

	typeControl = 0x10
	typeMask    = 0xf0
	flagWSV     = 0x08 // Write STag valid
	flagRSV     = 0x04 // Read STag valid
)

// Flags of the private data that both sides of a connection request carry: four
// bytes, of which three are reserved. Both bits tell what is not there.
const (
	noZBVA      = 0x80 // zero-based virtual addresses
	noRemoteInv = 0x40 // Send with Invalidate
)

// Errors that end a connection from its receiving side.
var (
	errShort     = fmt.Errorf("%w: message shorter than its headers", iscsi.ErrFormat)
	errOpcode    = fmt.Errorf("%w: iSER message of a type that was not negotiated", iscsi.ErrFormat)
	errLength    = fmt.Errorf("%w: data segment longer than the message", iscsi.ErrFormat)
	errSolicited = fmt.Errorf("%w: solicited Data-Out PDU", iscsi.ErrFormat) // RFC 7145 §7.3.5: there is no R2T
	errPanic     = iscsi.ErrFormat                                           // the recover frame
	errNoSTag    = fmt.Errorf("%w: command without the STag its data needs", iscsi.ErrFormat)
)

// message is a received message, checked.
type message struct {
	cookie iscsi.Cookie
	bhs    pdu.BHS
	ahs    []byte
	data   []byte
}

// parse takes a message apart. b is what arrived, no more: lengths inside it
// are the peer's word.
//
//spindle:hot
func (m *message) parse(b []byte) error {
	if len(b) < headersLen {
		return errShort
	}
	if b[0]&typeMask != typeControl {
		return errOpcode // Hello, HelloReply: nobody asked for them
	}
	m.bhs = pdu.BHS(b[headerLen:headersLen:headersLen])
	n, d := uint32(headersLen)+m.bhs.AHSLen(), m.bhs.DataLen()
	if uint32(len(b)) < n || uint32(len(b))-n < d {
		return errLength
	}
	m.ahs, m.data = b[headersLen:n:n], b[n:n+d:n+d]
	m.cookie = iscsi.Cookie{}
	if m.bhs.Opcode() == pdu.SCSICommand {
		m.cookie = cookieOf(b)
	}
	return nil
}

// A cookie keeps what a command's header says of the initiator's memory: Read
// STag and Write STag, Read Base Offset, Write Base Offset. An STag of 0 is none.
//
//spindle:hot
func cookieOf(b []byte) (k iscsi.Cookie) {
	if b[0]&flagRSV != 0 {
		k[0] = uint64(be.Uint32(b[16:])) << 32
		k[1] = be.Uint64(b[20:])
	}
	if b[0]&flagWSV != 0 {
		k[0] |= uint64(be.Uint32(b[4:]))
		k[2] = be.Uint64(b[8:])
	}
	return k
}

func readSTag(k *iscsi.Cookie) uint32  { return uint32(k[0] >> 32) }
func writeSTag(k *iscsi.Cookie) uint32 { return uint32(k[0]) }

// putHeader writes the iSER header of a message to the initiator.
//
//spindle:hot
func putHeader(b []byte) {
	clear(b[:headerLen])
	b[0] = typeControl
}
