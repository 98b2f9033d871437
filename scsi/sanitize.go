package scsi

import "spindle/bdev"

// Bits of byte 1 of SANITIZE (SBC-4 §5.24).
const (
	sanitizeImmed = 0x80
	sanitizeZNR   = 0x40
	sanitizeAUSE  = 0x20
)

// Layout of the SANITIZE OVERWRITE parameter list (SBC-4 §5.24.2.2).
const (
	overwriteHeader = 4
	overwriteInvert = 0x80
	overwriteTest   = 0x60
	overwriteCount  = 0x1f
)

// canSanitize tells which service actions the device can do. BLOCK ERASE means
// deallocation. CRYPTOGRAPHIC ERASE asks that nothing of the data can be read
// any more; there are no keys to change, so the medium is made to read as zeroes
// instead, where that is what an erased block reads as too.
func (s *snapshot) canSanitize(sa uint16) bool {
	switch sa {
	case saSanitizeErase:
		return s.caps&bdev.CapUnmap != 0 && s.zeroes
	case saSanitizeCrypto:
		return s.caps&bdev.CapUnmap != 0 && s.zeroes && s.caps&bdev.CapWriteZeroes != 0
	}
	return true
}

func prepSanitize(t *Task) Result {
	if !t.View.lu.supports(t.op, t.View.snap) {
		return t.badCDB(1, 4)
	}
	if t.CDB[1]&sanitizeZNR != 0 {
		return t.badCDB(1, 6)
	}
	for k := uint16(2); k < 7; k++ {
		if t.CDB[k] != 0 {
			return t.badCDB(k, wholeByte)
		}
	}
	n := uint32(be.Uint16(t.CDB[7:]))
	if t.op.sa != saSanitizeOverwrite {
		if n != 0 {
			return t.badCDB(7, wholeByte)
		}
		return Ready
	}
	if n <= overwriteHeader || n > overwriteHeader+t.View.snap.blockSize {
		return t.badCDB(7, wholeByte)
	}
	return t.wantList(n)
}

// doSanitize has home start the operation, and waits for its end unless IMMED
// is set. The operation goes on when the command is aborted (SBC-4 §4.11.3).
func doSanitize(t *Task) action {
	switch t.step {
	case 0:
		t.step = 1
		return actHome
	case 1:
		if t.Status != Good || t.CDB[1]&sanitizeImmed != 0 {
			return actDone
		}
		t.step = 2
	}
	switch t.View.snap.state {
	case unitSanitizing:
		return actPark
	case unitUnsanitized:
		t.check(t.View.lu.condition(t.View.snap))
	}
	return actDone
}

// homeSanitize starts the operation: once every view refuses commands and has
// seen the older ones out of the backend.
func homeSanitize(lu *LogicalUnit, t *Task, r *round) {
	cur := lu.current
	switch {
	case cur.state == unitSanitizing, cur.state == unitFormatting:
		t.check(lu.condition(cur))
		return
	case cur.state == unitUnsanitized && !cur.forgives && t.CDB[1]&sanitizeAUSE != 0:
		// After a failed restricted operation only another one is allowed.
		t.badCDB(1, 5)
		return
	}
	list := t.Data.Bytes()[:t.Want]
	if t.op.sa == saSanitizeOverwrite && !t.checkOverwrite(list) {
		return
	}
	if !lu.prepareWipe(t.op.sa, list) {
		t.Status = Busy
		return
	}
	next := lu.change(r)
	next.state, next.forgives, next.erased = unitSanitizing, t.CDB[1]&sanitizeAUSE != 0, false
	r.drain, r.then = true, lu.startWipe
}

// checkOverwrite checks the parameter list. False: t has failed.
func (t *Task) checkOverwrite(list []byte) bool {
	n := be.Uint16(list[2:])
	switch {
	case list[0]&overwriteTest != 0:
		t.badParam(0, 6)
	case list[0]&overwriteCount == 0:
		t.badParam(0, 4)
	case n == 0 || int(n) != len(list)-overwriteHeader:
		t.badParam(2, wholeByte)
	default:
		return true
	}
	return false
}

// prepSanitizeExit: EXIT FAILURE MODE has no parameters.
func prepSanitizeExit(t *Task) Result {
	if t.CDB[1]&(sanitizeImmed|sanitizeZNR|sanitizeAUSE) != 0 {
		return t.badCDB(1, 7)
	}
	if be.Uint16(t.CDB[7:]) != 0 {
		return t.badCDB(7, wholeByte)
	}
	return Ready
}

// homeSanitizeExit makes the unit usable after a SANITIZE that failed, if that
// had AUSE set (SBC-4 §4.11.3).
func homeSanitizeExit(lu *LogicalUnit, t *Task, r *round) {
	switch cur := lu.current; {
	case cur.state == unitSanitizing, cur.state == unitFormatting:
		t.check(lu.condition(cur))
	case cur.state == unitUnsanitized && !cur.forgives:
		t.badCDB(1, 4)
	case cur.state == unitUnsanitized:
		lu.change(r).state = unitReady
	}
}
