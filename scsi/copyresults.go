package scsi

import (
	"slices"

	"spindle/internal/plant"
)

// copyRecord is what RECEIVE COPY RESULTS tells of an EXTENDED COPY. It is kept
// for the I_T_L nexus that sent it, until all of it was told, its list identifier
// is used again, the unit is reset, or the nexus ends (SPC-5 §6.23, §6.25).
type copyRecord struct {
	id              uint8
	running, failed bool
	told            bool // how it ended; details of a failure are left
	detailed        bool // ... they were told, and how it ended is left
	reset           bool // the unit was reset while it ran
	segments        uint16
	bytes           uint64
	sense           []byte
}

// maxCopyRecords bounds what a nexus leaves behind on a unit: the oldest goes.
const maxCopyRecords = 2 * maxCopies

func (i *ITL) findCopy(id uint8) int {
	return slices.IndexFunc(i.copies, func(r copyRecord) bool { return r.id == id })
}

func (i *ITL) keepCopy(r copyRecord) {
	i.dropCopy(r.id)
	if len(i.copies) == maxCopyRecords {
		k := slices.IndexFunc(i.copies, func(r copyRecord) bool { return !r.running })
		i.copies = slices.Delete(i.copies, max(k, 0), max(k, 0)+1)
	}
	i.copies = append(i.copies, r)
}

func (i *ITL) updateCopy(r *copyRecord) {
	if k := i.findCopy(r.id); k >= 0 {
		reset := i.copies[k].reset
		i.copies[k] = *r
		i.copies[k].reset = reset
	}
}

func (i *ITL) dropCopy(id uint8) {
	if k := i.findCopy(id); k >= 0 {
		i.copies = slices.Delete(i.copies, k, k+1)
	}
}

// resetCopies is the reset of the unit: what has ended is forgotten, what is at
// work will be when the reset ends it.
func (i *ITL) resetCopies() {
	i.reset = i.move != nil
	i.copies = slices.DeleteFunc(i.copies, func(r copyRecord) bool { return !r.running })
	for k := range i.copies {
		i.copies[k].reset = true
	}
}

// prepCopyResults: the list identifier means nothing to OPERATING PARAMETERS.
func prepCopyResults(t *Task) Result {
	if t.op.sa != saCopyParameters && t.copyRecord() == nil {
		return t.badCDB(2, wholeByte)
	}
	return t.wantReply(be.Uint32(t.CDB[10:]))
}

// copyRecord is what t asks for, or nil: nothing is known, or it was told, or
// the copy of which the details are wanted has not ended.
func (t *Task) copyRecord() *copyRecord {
	k := t.itl.findCopy(t.CDB[2])
	if k < 0 {
		return nil
	}
	r := &t.itl.copies[k]
	if t.op.sa == saCopyStatus && r.told || t.op.sa == saCopyDetails && r.running {
		return nil
	}
	return r
}

// doCopyResults is RECEIVE COPY RESULTS (SPC-5 §6.22, §6.23, §6.25).
func doCopyResults(t *Task) action {
	p := t.reply()
	if t.op.sa == saCopyParameters {
		copyParameters(&p)
		return t.send(&p)
	}
	r := t.copyRecord()
	switch {
	case r == nil: // dropped since it was looked for
		t.badCDB(2, wholeByte)
		return actDone
	case t.op.sa == saCopyStatus:
		r.status(&p)
		r.told = !r.running
	default:
		r.details(&p)
		r.detailed = r.detailed || t.Want == 0 || int(t.Want) >= p.n // all of them, or they are not wanted
	}
	if plant.On(plant.CopyRetold) {
		r.told, r.detailed = false, false
	}
	if r.told && (!r.failed || r.detailed) {
		t.itl.dropCopy(r.id)
	}
	return t.send(&p)
}

// Copy manager status (SPC-5 table 254).
const (
	copyRunning = 0
	copyGood    = 1
	copyFailed  = 2
)

func (r *copyRecord) status(p *reply) {
	p.u32(8)
	switch {
	case r.running:
		p.u8(copyRunning)
	case r.failed:
		p.u8(copyFailed)
	default:
		p.u8(copyGood)
	}
	p.u16(r.segments)
	p.u8(1) // TRANSFER COUNT in KiB
	p.u32(uint32(min(r.bytes>>10, 0xffffffff)))
}

// details makes the failed segment details, empty for a copy that did not fail,
// or when they were told.
func (r *copyRecord) details(p *reply) {
	p.u32(0)
	if !r.failed || r.detailed {
		return
	}
	p.zero(56 - p.n)
	p.u8(byte(CheckCondition))
	p.u8(0)
	p.u16(uint16(len(r.sense)))
	p.bytes(r.sense)
	p.length32(0)
}

// copyParameters tells the limits (SPC-5 §6.19).
func copyParameters(p *reply) {
	p.u32(0)
	p.u8(0x01) // SNLID: a copy may have no list identifier
	p.zero(3)
	p.u16(maxCSCD)
	p.u16(maxSegments)
	p.u32(maxCopyList)
	p.u32(maxSegmentSize)
	p.u32(0) // inline data
	p.u32(0) // held data
	p.u32(0) // stream transfers
	p.u16(0)
	p.u16(maxCopies)
	p.u8(maxCopies)
	p.u8(9) // data segment granularity 512 bytes
	p.u16(0)
	p.zero(3)
	p.u8(3)
	p.bytes([]byte{segmentBlocks, segmentOffset, cscdIdentity})
	p.length32(0)
}

// vpdThirdParty makes the third-party copy page (SPC-5 §7.8.17).
func vpdThirdParty(p *reply) {
	p.bytes([]byte{0x00, 0x01, 0x00, 0x0c}) // supported commands
	p.bytes([]byte{8, opExtendedCopy, 1, saExtendedCopy, opReceiveCopy, 3, saCopyStatus, saCopyParameters, saCopyDetails, 0, 0, 0})
	p.bytes([]byte{0x00, 0x04, 0x00, 0x1c}) // parameter data
	p.u32(0)
	p.u16(maxCSCD)
	p.u16(maxSegments)
	p.u32(maxCopyList)
	p.u32(0)
	p.zero(12)
	p.bytes([]byte{0x00, 0x08, 0x00, 0x04}) // supported descriptors
	p.bytes([]byte{3, segmentBlocks, segmentOffset, cscdIdentity})
	p.bytes([]byte{0x80, 0x01, 0x00, 0x20}) // general copy operations
	p.u32(maxCopies)
	p.u32(maxCopies)
	p.u32(maxSegmentSize)
	p.u8(9)
	p.zero(19)
}
