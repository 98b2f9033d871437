package limit

import "spindle/iscsi/pdu"

// loginText is what every initiator is told (RFC 7143 §13). Its MaxBurstLength
// and FirstBurstLength are ceilings: the results are the smaller of both sides'.
var loginText = []struct{ key, value string }{
	{pdu.KeyHeaderDigest, pdu.ValueNone}, {pdu.KeyDataDigest, pdu.ValueNone},
	{pdu.KeyInitialR2T, pdu.ValueNo}, {pdu.KeyImmediateData, pdu.ValueYes},
	{pdu.KeyMaxRecvData, "262144"}, {pdu.KeyMaxBurst, "16776192"}, {pdu.KeyFirstBurst, "262144"},
	{pdu.KeyMaxOutstandingR2T, "1"}, {pdu.KeyMaxConnections, "1"}, {pdu.KeyErrorRecoveryLevel, "0"},
	{pdu.KeyDefaultTime2Wait, "0"}, {pdu.KeyDefaultTime2Retain, "0"},
	{pdu.KeyDataPDUInOrder, pdu.ValueYes}, {pdu.KeyDataSequenceInOrder, pdu.ValueYes},
}

// other answers what is neither command nor data.
func (c *conn) other(h pdu.BHS) bool {
	if !c.tx.Room(slack, 0) {
		return false
	}
	switch h.Opcode() {
	case pdu.LoginRequest:
		return c.login(h)
	case pdu.NopOut:
		if h.ITT() != pdu.ReservedTag {
			r := c.bhs(pdu.NopIn, h.ITT())
			r.SetFlags(pdu.FlagFinal)
			r.SetTTT(pdu.ReservedTag)
			r.SetDataLen(h.DataLen())
			c.numbers(r, true)
			copy(c.tx.Bytes(uint32(len(c.text))), c.text)
		}
		return true
	case pdu.LogoutReq:
		r := c.bhs(pdu.LogoutResp, h.ITT())
		r.SetFlags(pdu.FlagFinal)
		c.numbers(r, true)
		c.leave = true
		return true
	}
	return false
}

// login agrees to one operational stage, after a security stage if there is one.
func (c *conn) login(h pdu.BHS) bool {
	c.expCmd = h.CmdSN()
	w := pdu.NewTextWriter(nil, textSize)
	t := pdu.ParseText(c.text[:h.DataLen()])
	for t.Next() {
		if string(t.Key()) == pdu.KeyMaxRecvData {
			if n, ok := pdu.ParseNumber(t.Value()); ok && n >= 512 && n < 1<<24 {
				c.segment = uint32(n) &^ 3
			}
		}
	}
	if h.CSG() == pdu.StageSecurity {
		w.Add(pdu.KeyAuthMethod, pdu.ValueNone)
	} else if h.DataLen() > 0 {
		for _, kv := range loginText {
			w.Add(kv.key, kv.value)
		}
	}
	w.Add(pdu.KeyTargetPortalGroupTag, "1")
	r := c.bhs(pdu.LoginResponse, h.ITT())
	r.SetFlags(h.Flags())
	copy(r.ISID(), h.ISID())
	r.SetTSIH(1)
	text := w.Bytes()
	r.SetDataLen(uint32(len(text)))
	c.numbers(r, true)
	padded := c.tx.Bytes(pdu.Padded(uint32(len(text))))
	clear(padded[copy(padded, text):])
	return true
}

// command answers what initiators ask before they read and write (SPC-5, SBC-4).
func (c *conn) command(h pdu.BHS) bool {
	cdb := h.CDB()
	b := make([]byte, 64)
	n := 0
	switch cdb[0] {
	case 0x00: // TEST UNIT READY
	case 0x12: // INQUIRY
		if cdb[1]&1 != 0 {
			return c.refuse(h)
		}
		b[2], b[3], b[4], b[7] = 6, 2, 31, 2
		copy(b[8:], "SPINDLE limit           0001")
		n = 36
	case 0x25: // READ CAPACITY(10)
		be.PutUint32(b, uint32(min(c.s.o.Size/block-1, 1<<32-1)))
		be.PutUint32(b[4:], block)
		n = 8
	case 0x9e: // READ CAPACITY(16)
		be.PutUint64(b, c.s.o.Size/block-1)
		be.PutUint32(b[8:], block)
		n = 32
	case 0xa0: // REPORT LUNS
		n = 16
		if c.s.ram != nil {
			n = 24
		}
		be.PutUint32(b, uint32(n-8))
		b[17] = RAM
	case 0x1a: // MODE SENSE(6)
		b[0], n = 3, 4
	default:
		return c.refuse(h)
	}
	if h.EDTL() == 0 || n == 0 {
		return c.queue(task{itt: h.ITT(), kind: answerStatus})
	}
	if !c.tx.Room(slack, 0) {
		return false
	}
	edtl := int(h.EDTL())
	r := c.bhs(pdu.DataIn, h.ITT())
	flags := byte(pdu.FlagFinal | pdu.FlagStatus)
	switch {
	case edtl > n:
		flags |= pdu.FlagUnderfl
		r.SetResidual(uint32(edtl - n))
	case edtl < n:
		n = edtl
	}
	r.SetFlags(flags)
	r.SetTTT(pdu.ReservedTag)
	r.SetDataLen(uint32(n))
	c.numbers(r, true)
	copy(c.tx.Bytes(pdu.Padded(uint32(n))), b)
	return true
}

// refuse answers CHECK CONDITION, ILLEGAL REQUEST (SPC-5 §4.4.3).
func (c *conn) refuse(h pdu.BHS) bool {
	if !c.tx.Room(slack, 0) {
		return false
	}
	sense := []byte{0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0}
	r := c.bhs(pdu.SCSIResponse, h.ITT())
	r.SetFlags(pdu.FlagFinal)
	r.SetStatus(2)
	r.SetDataLen(uint32(len(sense)))
	c.numbers(r, true)
	copy(c.tx.Bytes(uint32(len(sense))), sense)
	return true
}
