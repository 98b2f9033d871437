package pdu

// DataInHeader is a Data-In header as values (RFC 7143 §11.7), for the sender of
// many: Put writes all 48 bytes at once.
type DataInHeader struct {
	Flags, Status              byte
	DataLen, ITT               uint32
	StatSN, ExpCmdSN, MaxCmdSN uint32
	DataSN, Offset, Residual   uint32
}

// Put writes h to b. The LUN and the target transfer tag are those of a PDU that
// wants no acknowledgement.
//
//spindle:hot
func (h *DataInHeader) Put(b BHS) {
	_ = b[HeaderLen-1]
	be.PutUint64(b[0:8], uint64(DataIn)<<56|uint64(h.Flags)<<48|uint64(h.Status)<<32|uint64(h.DataLen&0xffffff))
	be.PutUint64(b[8:16], 0)
	be.PutUint64(b[16:24], uint64(h.ITT)<<32|ReservedTag)
	be.PutUint64(b[24:32], uint64(h.StatSN)<<32|uint64(h.ExpCmdSN))
	be.PutUint64(b[32:40], uint64(h.MaxCmdSN)<<32|uint64(h.DataSN))
	be.PutUint64(b[40:48], uint64(h.Offset)<<32|uint64(h.Residual))
}
