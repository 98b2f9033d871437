package pdu

// ISERLen is the length of the header that precedes a BHS in a message over RDMA.
const ISERLen = 28

// The first byte of an iSER header: the type of the message and, of a control
// message, which STags are valid (RFC 7145 §9.2).
const (
	ISERTypeMask = 0xf0
	ISERControl  = 0x10
	ISERWSV      = 0x08
	ISERRSV      = 0x04
)

// Flags of the private data that both sides of a connection request carry: four
// bytes, of which three are reserved. Both bits tell what is not there.
const (
	ISERNoZBVA       = 0x80 // zero-based virtual addresses
	ISERNoInvalidate = 0x40 // Send with Invalidate
)

// ISER is an iSER header:
//
//	 0   1  type, flags
//	 1   3  reserved
//	 4   4  Write STag         initiator memory the target reads  (SCSI write)
//	 8   8  Write Base Offset
//	16   4  Read STag          initiator memory the target writes (SCSI read)
//	20   8  Read Base Offset
type ISER []byte

// Control tells whether a PDU follows.
func (h ISER) Control() bool { return h[0]&ISERTypeMask == ISERControl }

// Write is the Write STag and its Base Offset; an STag of 0 is none.
func (h ISER) Write() (stag uint32, base uint64) {
	if h[0]&ISERWSV == 0 {
		return 0, 0
	}
	return be.Uint32(h[4:8]), be.Uint64(h[8:16])
}

// Read is the Read STag and its Base Offset; an STag of 0 is none.
func (h ISER) Read() (stag uint32, base uint64) {
	if h[0]&ISERRSV == 0 {
		return 0, 0
	}
	return be.Uint32(h[16:20]), be.Uint64(h[20:28])
}

// Clear makes h the header of a control message without STags.
func (h ISER) Clear() {
	clear(h[:ISERLen])
	h[0] = ISERControl
}

// SetWrite advertises memory that the target may read.
func (h ISER) SetWrite(stag uint32, base uint64) {
	h[0] |= ISERWSV
	be.PutUint32(h[4:8], stag)
	be.PutUint64(h[8:16], base)
}

// SetRead advertises memory that the target may write.
func (h ISER) SetRead(stag uint32, base uint64) {
	h[0] |= ISERRSV
	be.PutUint32(h[16:20], stag)
	be.PutUint64(h[20:28], base)
}
