package scsi

import "spindle/internal/plant"

func prepNothing(*Task) Result { return Ready }
func doNothing(*Task) action   { return actDone }

// Peripheral qualifier and type of byte 0 (SPC-5 §6.7.2).
const (
	typeDisk   = 0x00
	typeAbsent = 0x7f // no device can be attached to this LUN
)

const standardInquiryLen = 96

func prepInquiry(t *Task) Result {
	if t.CDB[1]&0x01 == 0 && t.CDB[2] != 0 {
		return t.badCDB(2, wholeByte)
	}
	if t.CDB[1]&0x02 != 0 { // CMDDT is obsolete
		return t.badCDB(1, 1)
	}
	if t.CDB[1]&0x01 != 0 && !t.hasVPD(t.CDB[2]) {
		return t.badCDB(2, wholeByte)
	}
	alloc := uint32(be.Uint16(t.CDB[3:]))
	if t.CDB[1]&0x01 != 0 && t.CDB[2] == vpdPorts { // MaxPorts of them are more than maxReply
		t.Dir, t.Want = DataIn, alloc
		return Ready
	}
	return t.wantReply(alloc)
}

func doInquiry(t *Task) action {
	p := t.reply()
	if t.CDB[1]&0x01 != 0 {
		t.vpd(&p, t.CDB[2])
	} else {
		t.standardInquiry(&p)
	}
	return t.send(&p)
}

// standardInquiry makes standard INQUIRY data (SPC-5 §6.7.2).
func (t *Task) standardInquiry(p *reply) {
	id := &identity{vendor: "SPINDLE", revision: Revision}
	first := byte(typeAbsent)
	if t.itl != nil {
		id, first = &t.View.lu.ident, typeDisk
	}
	p.u8(first)
	p.u8(bit(t.itl != nil && t.View.lu.opt.Removable, 7)) // RMB
	p.u8(0x06)                                            // SPC-4
	p.u8(0x12)                                            // HISUP, response data format 2
	p.u8(standardInquiryLen - 5)
	p.u8(0x38 | bit(t.itl != nil && t.View.snap.shielded, 0)) // TPGS: implicit and explicit; 3PC; PROTECT
	p.u8(0)
	p.u8(0x02) // CMDQUE
	p.pad(id.vendor, 8)
	p.pad(id.product, 16)
	p.pad(id.revision, 4)
	p.zero(58 - p.n)
	for _, v := range []uint16{
		0x00a0, // SAM-5
		0x0960, // iSCSI
		0x0460, // SPC-4
		0x04c0, // SBC-3
	} {
		p.u16(v)
	}
	p.zero(standardInquiryLen - p.n)
}

// prepReportLUNs: SELECT REPORT 0 gives the units of this nexus, 1 the well
// known ones, of which there are none, 2 both (SPC-5 §6.33).
func prepReportLUNs(t *Task) Result {
	if t.CDB[2] > 2 {
		return t.badCDB(2, wholeByte)
	}
	return t.wantReply(be.Uint32(t.CDB[6:]))
}

func doReportLUNs(t *Task) action {
	p := t.reply()
	p.u32(0)
	p.u32(0)
	if t.CDB[2] != 1 {
		for _, lu := range t.Nexus.dev.inventory.Load().all {
			if t.Nexus.visible == nil || t.Nexus.visible(lu.lun) {
				p.u64(EncodeLUN(lu.lun))
			}
		}
	}
	n := p.n - 8
	p.set(0, byte(n>>24))
	p.set(1, byte(n>>16))
	p.set(2, byte(n>>8))
	p.set(3, byte(n))
	if !plant.On(plant.ListRetold) {
		for _, i := range t.Nexus.all {
			i.dropUA(ReportedLUNsChanged)
		}
	}
	return t.send(&p)
}

// prepareAbsent answers for a logical unit that is not there (SPC-5 §5.11,
// SAM-5 §4.7.4): INQUIRY says so, REPORT LUNS and REQUEST SENSE work.
func (t *Task) prepareAbsent() Result {
	if t.op == nil || t.op.flags&cmdAbsent == 0 {
		return t.fail(IllegalRequest, LUNNotSupported)
	}
	return t.op.prepare(t)
}

// prepRequestSense returns a waiting unit attention, or NO SENSE, as data
// (SPC-5 §6.39). DESC chooses the format.
func prepRequestSense(t *Task) Result { return t.wantReply(uint32(t.CDB[4])) }

func doRequestSense(t *Task) action {
	var s sense
	switch {
	case t.itl == nil:
		s = sense{key: IllegalRequest, code: LUNNotSupported}
	case t.itl.uas != 0:
		s = sense{key: UnitAttention, code: t.itl.takeUA()}
	default:
		s = t.View.lu.condition(t.View.snap)
	}
	var b [MaxSense]byte
	n := s.encode(b[:], t.CDB[1]&0x01 != 0)
	p := t.reply()
	p.bytes(b[:n])
	return t.send(&p)
}
