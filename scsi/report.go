package scsi

import (
	"time"

	"spindle/bdev"
)

// REPORT SUPPORTED OPERATION CODES, reporting options (SPC-5 §6.37.1).
const (
	reportAll     = 0
	reportOpcode  = 1 // a command without service actions
	reportService = 2 // one with
	reportEither  = 3 // with or without
)

// supports tells whether the unit has the command: some need a device that can,
// or a medium that can be removed.
func (lu *LogicalUnit) supports(c *command, s *snapshot) bool {
	switch c.opcode {
	case opUnmap:
		return s.caps&bdev.CapUnmap != 0
	case opPreventAllow:
		return lu.opt.Removable
	case opWriteAtomic16:
		return lu.maxAtomic(s) != 0
	case opSanitize:
		return s.canSanitize(c.sa)
	case opPersistentOut, opReserve6, opReserve10, opCompareAndWrite, opORWrite16:
		return lu.bdev.Alone() // see claims and sole
	case opMaintenanceOut:
		return c.sa != saSetIdentity || lu.dev.store != nil
	}
	return true
}

func prepReportOpcodes(t *Task) Result {
	op, sa := t.CDB[3], be.Uint16(t.CDB[4:])
	tb := t.Nexus.dev.table
	services := len(tb.service[op]) != 0
	switch t.CDB[2] & 0x07 {
	case reportAll, reportEither:
	case reportOpcode:
		if services {
			return t.badCDB(2, 2)
		}
	case reportService:
		if tb.plain[op] != nil || sa > 0x1f {
			return t.badCDB(2, 2)
		}
	default:
		return t.badCDB(2, 2)
	}
	return t.wantReply(be.Uint32(t.CDB[6:]))
}

func doReportOpcodes(t *Task) action {
	p := t.reply()
	timeouts := t.CDB[2]&0x80 != 0 // RCTD
	tb, lu, s := t.Nexus.dev.table, t.View.lu, t.View.snap
	if t.CDB[2]&0x07 == reportAll {
		p.u32(0)
		for _, c := range tb.rows {
			// libiscsi has room for 16 bytes of CDB usage data and reads a longer one
			// as a fault, so the 32-byte commands are told to who asks for them, or has
			// a use for them: protection information.
			if lu.supports(c, s) && (c.opcode != opVariable || s.shielded) {
				c.describe(&p, timeouts)
			}
		}
		p.length32(0)
		return t.send(&p)
	}
	op, sa := t.CDB[3], be.Uint16(t.CDB[4:])
	c := tb.plain[op]
	if c != nil && sa != 0 && t.CDB[2]&0x07 == reportEither {
		c = nil
	}
	if c == nil {
		c = tb.findService(op, sa)
	}
	if c == nil || !lu.supports(c, s) {
		p.u8(0)
		p.u8(0x01) // SUPPORT: not supported
		p.u16(0)
		return t.send(&p)
	}
	p.u8(0)
	p.u8(bit(timeouts, 7) | 0x03) // CTDP, SUPPORT: in conformance with a standard
	p.u16(uint16(c.length))
	p.bytes(c.usage)
	if timeouts {
		c.timeouts(&p)
	}
	return t.send(&p)
}

// describe writes an all_commands descriptor (SPC-5 §6.37.2).
func (c *command) describe(p *reply, timeouts bool) {
	p.u8(c.opcode)
	p.u8(0)
	p.u16(c.sa)
	p.u8(0)
	p.u8(bit(timeouts, 1) | bit(c.flags&cmdService != 0, 0))
	p.u16(uint16(c.length))
	if timeouts {
		c.timeouts(p)
	}
}

// timeouts writes a command timeouts descriptor (SPC-5 §6.37.4).
func (c *command) timeouts(p *reply) {
	p.u16(10)
	p.u8(0)
	p.u8(0)
	p.u32(0)
	p.u32(c.seconds)
}

// functionTimeout is how long an initiator may wait for the answer to a task
// management function, in tenths of a second: the time box, and what lies before it
// and after.
const functionTimeout = uint32((managementBudget + 5*time.Second) / (100 * time.Millisecond))

func prepReportTMF(t *Task) Result { return t.wantReply(be.Uint32(t.CDB[6:])) }

// doReportTMF reports the supported task management functions (SPC-5 §6.38).
func doReportTMF(t *Task) action {
	p := t.reply()
	p.u8(0xda) // ATS, ATSS, CTSS, LURS, TRS
	p.u8(0)
	p.u8(0)
	if t.CDB[2]&0x80 == 0 { // REPD
		p.u8(0)
		return t.send(&p)
	}
	p.u8(12)
	p.u8(0x01) // TMFTMOV
	p.zero(3)  // the long time out is that of every function
	p.u32(functionTimeout)
	p.u32(0) // no short one
	return t.send(&p)
}
