package iser

import (
	"fmt"

	"spindle/iscsi"
	"spindle/iscsi/pdu"
)

// The layout of a message; see the package comment.
const (
	headersLen = pdu.ISERLen + pdu.HeaderLen
	slotHeader = iscsi.SlotBHS - pdu.ISERLen // where a message begins in an Out's slot
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
	if !pdu.ISER(b).Control() {
		return errOpcode // Hello, HelloReply: nobody asked for them
	}
	m.bhs = pdu.BHS(b[pdu.ISERLen:headersLen:headersLen])
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
	read, from := pdu.ISER(b).Read()
	write, to := pdu.ISER(b).Write()
	return iscsi.Cookie{uint64(read)<<32 | uint64(write), from, to}
}

func readSTag(k *iscsi.Cookie) uint32  { return uint32(k[0] >> 32) }
func writeSTag(k *iscsi.Cookie) uint32 { return uint32(k[0]) }
