package scsi

import "spindle/bdev"

func prepReadCapacity10(t *Task) Result {
	// PMI is obsolete: without it the LBA must be 0 (SBC-3 §5.15.1).
	if t.CDB[8]&0x01 == 0 && be.Uint32(t.CDB[2:]) != 0 {
		return t.badCDB(2, wholeByte)
	}
	return t.wantReply(8)
}

func doReadCapacity10(t *Task) action {
	s := t.View.snap
	p := t.reply()
	p.u32(uint32(min(s.blocks-1, 0xffffffff)))
	p.u32(s.blockSize)
	return t.send(&p)
}

const readCapacity16Len = 32

func prepReadCapacity16(t *Task) Result {
	if t.CDB[14]&0x01 == 0 && be.Uint64(t.CDB[2:]) != 0 {
		return t.badCDB(2, wholeByte)
	}
	return t.wantReply(be.Uint32(t.CDB[10:]))
}

func doReadCapacity16(t *Task) action {
	s := t.View.snap
	p := t.reply()
	p.u64(s.blocks - 1)
	p.u32(s.blockSize)
	p.u8(bit(s.shielded, 0)) // PROT_EN, P_TYPE 0: type 1
	p.u8(s.physExp)          // P_I_EXPONENT 0
	var prov byte
	if s.caps&bdev.CapUnmap != 0 {
		prov = 0x80 // LBPME
		if s.zeroes {
			prov |= 0x40 // LBPRZ
		}
	}
	p.u8(prov)
	p.u8(0)
	p.zero(readCapacity16Len - p.n)
	return t.send(&p)
}
