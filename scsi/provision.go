package scsi

import (
	"bytes"

	"spindle/bdev"
	"spindle/internal/plant"
)

// Layout of the UNMAP parameter list (SBC-4 §5.28.2), in bytes.
const (
	unmapHeader = 8
	unmapDescr  = 16
)

func prepUnmap(t *Task) Result {
	if !t.View.lu.supports(t.op, t.View.snap) {
		return t.fail(IllegalRequest, InvalidOpcode)
	}
	if t.CDB[1]&0x01 != 0 { // ANCHOR
		return t.badCDB(1, 0)
	}
	n := uint32(be.Uint16(t.CDB[7:]))
	if n != 0 && n < unmapHeader {
		return t.fail(IllegalRequest, ParameterListLength)
	}
	return t.wantList(n)
}

// doUnmap checks every descriptor before it unmaps the first.
func doUnmap(t *Task) action {
	list := t.Data.Bytes()[:t.Want]
	if t.step == 0 {
		t.step = 1
		if len(list) == 0 || !t.checkUnmap(list) {
			return actDone
		}
	} else if t.IO.Status != bdev.OK {
		t.ioFailed()
		return actDone
	}
	for t.cursor < t.arg {
		d := list[unmapHeader+t.cursor*unmapDescr:]
		t.cursor++
		if n := be.Uint32(d[8:]); n != 0 {
			return t.io(bdev.Unmap, 0, be.Uint64(d), n)
		}
	}
	return actDone
}

// checkUnmap checks an UNMAP parameter list and leaves the number of
// descriptors in arg. False: the task has failed.
func (t *Task) checkUnmap(list []byte) bool {
	n := min(int(be.Uint16(list[2:])), len(list)-unmapHeader) / unmapDescr
	if n > maxUnmapDescr {
		t.badParam(2, wholeByte)
		return false
	}
	s := t.View.snap
	total := uint64(0)
	for k := range n {
		off := unmapHeader + k*unmapDescr
		lba, blocks := be.Uint64(list[off:]), be.Uint32(list[off+8:])
		if blocks == 0 {
			continue
		}
		if !s.inRange(lba, blocks) {
			t.outOfRange()
			return false
		}
		if total += uint64(blocks); total > maxUnmapBlocks {
			t.badParam(uint16(off+8), wholeByte)
			return false
		}
	}
	t.arg = uint32(n)
	if plant.On(plant.HalfUnmap) {
		t.arg = min(t.arg, 1)
	}
	return true
}

// Bits of byte 1 of WRITE SAME (SBC-4 §5.43).
const (
	sameAnchor = 0x10
	sameUnmap  = 0x08
	sameNDOB   = 0x01
)

func prepWriteSame10(t *Task) Result {
	if t.CDB[1]&sameNDOB != 0 { // only WRITE SAME (16) has it
		return t.badCDB(1, 0)
	}
	return t.prepWriteSame(decode10(&t.CDB))
}

func prepWriteSame16(t *Task) Result { return t.prepWriteSame(decode16(&t.CDB)) }

func (t *Task) prepWriteSame(lba uint64, n uint32) Result {
	s := t.View.snap
	switch {
	case t.CDB[1]&cdbProtect != 0:
		return t.badCDB(1, 7)
	case t.CDB[1]&sameAnchor != 0:
		return t.badCDB(1, 4)
	case t.CDB[1]&sameUnmap != 0 && s.caps&bdev.CapUnmap == 0:
		return t.badCDB(1, 3)
	case !s.inRange(lba, n):
		return t.outOfRange()
	}
	// WSNZ is 0: no number means the rest of the medium (SBC-4 §5.43).
	blocks := uint64(n)
	if n == 0 {
		blocks = s.blocks - lba
	}
	if blocks > s.maxSame() {
		return t.badCDB(lengthField(t), wholeByte)
	}
	t.lba, t.blocks = lba, uint32(blocks)
	if t.CDB[1]&sameNDOB != 0 {
		t.wantScratch(t.blocks)
		return Ready
	}
	t.Dir, t.Want = DataOut, s.blockSize
	t.wantScratch(t.blocks)
	if t.EDTL != t.Want {
		return t.fail(IllegalRequest, InvalidIUField)
	}
	return Ready
}

// sameBurst is how much WRITE SAME writes before it lets others run, in bytes.
const sameBurst = 1 << 20

// doWriteSame unmaps when asked to, zeroes with one I/O where the block is all
// zeroes, and otherwise writes copies of it.
func doWriteSame(t *Task) action {
	s := t.View.snap
	switch t.step {
	case 0:
		t.step = 1
		zero := allZero(t.Data.Bytes()[:t.Want])
		switch {
		case t.CDB[1]&sameUnmap != 0 && s.zeroes:
			// UNMAP asks for deallocation whatever the block holds: initiators
			// and every other target read it so, and expect zeroes after it.
			t.cursor = t.blocks
			return t.io(bdev.Unmap, 0, t.lba, t.blocks)
		case zero && s.caps&bdev.CapWriteZeroes != 0:
			t.cursor = t.blocks
			return t.io(bdev.WriteZeroes, 0, t.lba, t.blocks)
		}
		t.fillScratch()
	case 1:
		if t.IO.Status != bdev.OK {
			t.ioFailed()
			return actDone
		}
		if t.cursor == t.blocks {
			return t.sameDone()
		}
		if t.arg >= sameBurst {
			t.arg = 0
			t.IO.Status = bdev.OK
			return actYield
		}
	case 2:
		if t.IO.Status != bdev.OK {
			t.ioFailed()
		}
		return actDone
	}
	t.IO.Data = t.chunk()
	n := t.IO.Data.Len >> s.shift
	lba := t.lba + uint64(t.cursor)
	t.cursor += n
	t.arg += n << s.shift
	return t.io(bdev.Write, 0, lba, n)
}

// sameDone flushes when the write cache is off.
func (t *Task) sameDone() action {
	if !t.View.snap.through {
		return actDone
	}
	t.step = 2
	return t.io(bdev.Flush, 0, 0, 0)
}

// fillScratch fills the scratch with copies of the data-out block, or zeroes.
func (t *Task) fillScratch() {
	b := t.Data.Bytes()
	block, rest := b[:t.Want], b[t.scratchAt():t.Want+t.Scratch]
	if len(block) == 0 {
		clear(rest)
		return
	}
	for k := 0; k < len(rest); k += len(block) {
		copy(rest[k:], block)
	}
}

func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

func prepGetLBAStatus(t *Task) Result {
	if be.Uint64(t.CDB[2:]) >= t.View.snap.blocks {
		return t.outOfRange()
	}
	return t.wantReply(be.Uint32(t.CDB[10:]))
}

// doGetLBAStatus reports the rest of the medium as mapped, because no device
// tells more, until SANITIZE has erased it (SBC-4 §5.9; one descriptor is enough).
func doGetLBAStatus(t *Task) action {
	p := t.reply()
	lba := be.Uint64(t.CDB[2:])
	p.u32(20) // parameter data length
	p.u32(0)
	p.u64(lba)
	p.u32(uint32(min(t.View.snap.blocks-lba, 0xffffffff)))
	p.u8(bit(t.View.snap.erased, 0)) // deallocated; 0 is mapped, or not known
	p.zero(3)
	return t.send(&p)
}
