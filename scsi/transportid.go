package scsi

import "strings"

// Bounds of an iSCSI TransportID (SPC-5 §7.6.4.6), in bytes.
const (
	transportHeader = 4
	minTransportLen = 20  // ADDITIONAL LENGTH
	maxTransportLen = 244 // 223 of name, ",i,0x", 12 of ISID and a NUL, padded
	maxISCSIName    = 223
	isidMark        = ",i,0x"
	isidDigits      = 12
)

const protocolISCSI = 0x05

// Byte 0 of an iSCSI TransportID that names a session: format 01b.
const transportSession = 0x40 | protocolISCSI

// transportID writes an iSCSI TransportID with initiator session id (SPC-5 §7.6.4.6).
func (id *NexusID) transportID(p *reply) {
	const hexDigits = "0123456789abcdef"
	p.u8(transportSession)
	p.u8(0)
	n := len(id.InitiatorName) + len(isidMark) + 2*len(id.ISID)
	room := max((n+4)&^3, minTransportLen)
	p.u16(uint16(room))
	p.str(id.InitiatorName)
	p.str(isidMark)
	for _, b := range id.ISID {
		p.u8(hexDigits[b>>4])
		p.u8(hexDigits[b&15])
	}
	p.zero(room - n)
}

// parseTransportID reads the TransportID at the start of b and returns its
// length; 0: it is not one. A registration belongs to an initiator port, so the
// format without a session id, which names a whole initiator, is none. The name
// comes back in the normal form that sessions have it in (RFC 7143 §4.2.7.1).
func parseTransportID(b []byte) (name string, isid [6]byte, n int) {
	if len(b) < transportHeader || b[0] != transportSession {
		return "", isid, 0
	}
	size := int(be.Uint16(b[2:]))
	if size < minTransportLen || size > maxTransportLen || size&3 != 0 || size > len(b)-transportHeader {
		return "", isid, 0
	}
	text := string(b[transportHeader : transportHeader+size])
	end := strings.IndexByte(text, 0)
	if end < 0 || strings.Trim(text[end:], "\x00") != "" {
		return "", isid, 0
	}
	text = text[:end]
	at := len(text) - isidDigits - len(isidMark)
	if at <= 0 || at > maxISCSIName || !strings.EqualFold(text[at:at+len(isidMark)], isidMark) {
		return "", isid, 0
	}
	for k := range isid {
		hi, lo := nibble(text[at+len(isidMark)+2*k]), nibble(text[at+len(isidMark)+2*k+1])
		if hi > 15 || lo > 15 {
			return "", isid, 0
		}
		isid[k] = hi<<4 | lo
	}
	return strings.ToLower(text[:at]), isid, transportHeader + size
}

// nibble is the value of a hexadecimal digit, above 15 when it is none.
func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}
