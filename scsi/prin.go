package scsi

// PERSISTENT RESERVE IN and OUT service actions (SPC-5 §6.16, §6.17).
const (
	prReadKeys        = 0x00
	prReadReservation = 0x01
	prCapabilities    = 0x02
	prReadFullStatus  = 0x03

	prRegister       = 0x00
	prReserve        = 0x01
	prRelease        = 0x02
	prClear          = 0x03
	prPreempt        = 0x04
	prPreemptAbort   = 0x05
	prRegisterIgnore = 0x06
	prRegisterMove   = 0x07
)

// prepPersistentIn: the full status of MaxRegistrants with long names is longer
// than other replies may be.
func prepPersistentIn(t *Task) Result {
	t.Dir, t.Want = DataIn, uint32(be.Uint16(t.CDB[7:]))
	return Ready
}

// doPersistentIn answers from the installed snapshot.
func doPersistentIn(t *Task) action {
	p := t.reply()
	s := t.View.snap.pr
	switch t.op.sa {
	case prReadKeys:
		p.u32(s.generation)
		p.u32(uint32(8 * len(s.regs)))
		for _, r := range s.regs {
			p.u64(r.key)
		}
	case prReadReservation:
		s.report(&p)
	case prCapabilities:
		keeps := t.View.lu.dev.store != nil
		p.u16(8)
		p.u8(prSpecIPT | prAllTgPt | bit(keeps, 0)) // SIP_C, ATP_C, PTPL_C; no CRH
		p.u8(0x80 | bit(s.aptpl, 0))                // TMV: the type mask is valid; PTPL_A
		p.u8(supportedTypesByte4)
		p.u8(supportedTypesByte5)
		p.u16(0)
	case prReadFullStatus:
		s.fullStatus(&p)
	}
	return t.send(&p)
}

// report makes the READ RESERVATION data (SPC-5 §6.16.3).
func (s *reservations) report(p *reply) {
	p.u32(s.generation)
	if !s.held {
		p.u32(0)
		return
	}
	p.u32(16)
	var key uint64 // 0 for the all-registrants types
	if k := s.find(s.holder); k >= 0 && !s.kind.all() {
		key = s.regs[k].key
	}
	p.u64(key)
	p.u32(0)
	p.u8(0)
	p.u8(byte(s.kind)) // scope LU
	p.u16(0)
}

// fullStatus makes the READ FULL STATUS data (SPC-5 §6.16.5).
func (s *reservations) fullStatus(p *reply) {
	p.u32(s.generation)
	p.u32(0)
	for _, r := range s.regs {
		p.u64(r.key)
		p.u32(0)
		if s.holds(r.id) {
			p.u8(0x01) // R_HOLDER
			p.u8(byte(s.kind))
		} else {
			p.u8(0)
			p.u8(0)
		}
		p.u32(0)
		p.u16(r.id.RelativePort)
		at := p.n
		p.u32(0)
		r.id.transportID(p)
		p.length32(at)
	}
	p.length32(4)
}
