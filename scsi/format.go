package scsi

import (
	"spindle/bdev"
	"spindle/internal/plant"
)

// Bits of byte 1 of FORMAT UNIT (SBC-4 §5.4).
const (
	formatLongList = 0x20
	formatData     = 0x10
	formatComplete = 0x08
	formatDefects  = 0x07 // defect list format
)

// Bits of byte 1 of its parameter list header (SBC-4 §5.4.2.2).
const (
	formatFOV     = 0x80
	formatOptions = 0x78 // DPRY, DCRT, STPF and IP, which FOV makes valid
	formatIP      = 0x08
	formatImmed   = 0x02
)

// prepFormat takes FORMAT UNIT with a parameter list header alone, or without:
// there are no defects to list. FMTPINFO has to be what the unit has, because
// protection information belongs to the device.
func prepFormat(t *Task) Result {
	b := t.CDB[1]
	have := byte(0)
	if t.View.snap.shielded {
		have = 2 // type 1, with a PROTECTION FIELD USAGE of zero
	}
	switch {
	case b>>6 != have:
		return t.badCDB(1, 7)
	case b&formatDefects != 0:
		return t.badCDB(1, 2)
	case t.CDB[4]&0x03 != 0: // FFMT: there is no faster format
		return t.badCDB(4, 1)
	case b&formatData == 0 && b&formatLongList != 0:
		return t.badCDB(1, 5)
	case b&formatData == 0 && b&formatComplete != 0:
		return t.badCDB(1, 3)
	case b&formatData == 0:
		return Ready
	}
	return t.wantList(formatHeader(b))
}

func formatHeader(b byte) uint32 {
	if b&formatLongList != 0 {
		return 8
	}
	return 4
}

// doFormat has home start formatting, and waits for its end unless IMMED is set.
func doFormat(t *Task) action {
	switch t.step {
	case 0:
		t.step = 1
		return actHome
	case 1:
		if t.Status != Good || t.Want != 0 && t.Data.Bytes()[1]&formatImmed != 0 {
			return actDone
		}
		t.step = 2
	}
	if plant.On(plant.EarlyFormat) {
		return actDone
	}
	switch t.View.snap.state {
	case unitFormatting:
		return actPark
	case unitUnformatted:
		t.check(sense{key: MediumError, code: FormatFailed})
	}
	return actDone
}

// homeFormat starts formatting: the medium then reads as zeroes, and is
// unmapped where that can be. After a failure only FORMAT UNIT or SANITIZE makes
// the medium usable, and after a SANITIZE that failed only another one.
func homeFormat(lu *LogicalUnit, t *Task, r *round) {
	cur := lu.current
	if cur.state != unitReady && cur.state != unitUnformatted && !(plant.On(plant.FormatForgives) && cur.state == unitUnsanitized) {
		t.check(lu.condition(cur))
		return
	}
	if t.Want != 0 && !t.checkFormat(t.Data.Bytes()[:t.Want]) {
		return
	}
	sa, zero := uint16(saSanitizeOverwrite), []byte{1, 0, 0, 1, 0} // one pass of a zero
	switch {
	case cur.canSanitize(saSanitizeErase):
		sa = saSanitizeErase
	case cur.caps&bdev.CapWriteZeroes != 0:
		sa = saSanitizeCrypto
	}
	if !lu.prepareWipe(sa, zero) {
		t.Status = Busy
		return
	}
	if plant.On(plant.ShortFormat) {
		lu.wipe.lba = 1
	}
	next := lu.change(r)
	next.state, next.erased = unitFormatting, false
	r.drain, r.then = true, lu.startWipe
}

// checkFormat checks the parameter list. False: t has failed.
func (t *Task) checkFormat(list []byte) bool {
	switch b := list[1]; {
	case list[0] != 0: // PROTECTION FIELD USAGE
		t.badParam(0, 2)
	case b&formatFOV == 0 && b&formatOptions != 0:
		t.badParam(1, 6)
	case b&formatIP != 0:
		t.badParam(1, 3)
	case len(list) == 4 && be.Uint16(list[2:]) != 0:
		t.badParam(2, wholeByte)
	case len(list) == 8 && list[3] != 0: // P_I_INFORMATION and the interval exponent
		t.badParam(3, wholeByte)
	case len(list) == 8 && be.Uint32(list[4:]) != 0:
		t.badParam(4, wholeByte)
	default:
		return true
	}
	return false
}
