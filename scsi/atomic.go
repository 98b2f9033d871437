package scsi

import (
	"spindle/bdev"
	"spindle/internal/plant"
)

// COMPARE AND WRITE and ORWRITE read, decide and write under a hold on their
// range: no other command of any nexus on any reactor comes between.

// prepCompareAndWrite: data-out is the blocks to compare, then those to write
// (SBC-4 §5.3).
func prepCompareAndWrite(t *Task) Result {
	lba, n := be.Uint64(t.CDB[2:]), uint32(t.CDB[13])
	s := t.View.snap
	if !t.View.lu.supports(t.op, s) {
		return t.fail(IllegalRequest, InvalidOpcode)
	}
	if t.CDB[1]&cdbProtect != 0 {
		return t.badCDB(1, 7)
	}
	if !s.inRange(lba, n) {
		return t.outOfRange()
	}
	if n > s.maxCompare() || n == 0 && t.EDTL > 0 {
		return t.badCDB(13, wholeByte) // data for more blocks than the field can say
	}
	t.lba, t.blocks = lba, n
	t.Dir, t.Want = DataOut, 2*n<<s.shift
	t.wantScratch(n)
	if t.EDTL != t.Want {
		// Which half a short or long transfer belongs to cannot be known.
		return t.fail(IllegalRequest, InvalidIUField)
	}
	return Ready
}

// maxCompare is the longest COMPARE AND WRITE in blocks.
func (s *snapshot) maxCompare() uint32 { return min(maxCompareBlocks, s.maxBlocks) }

// Steps of the commands that run under a hold.
const (
	holdAsked = 1 + iota
	chunkRead
	dataWritten
)

// sole begins what the task's hold makes atomic: that keeps out the commands of
// this unit, and the bdev may not be another LUN's too. False: the task has failed.
func (t *Task) sole() bool {
	if !t.View.lu.bdev.BeginAlone() {
		t.fail(IllegalRequest, InvalidOpcode)
		return false
	}
	t.flags |= taskSole
	return true
}

func doCompareAndWrite(t *Task) action {
	switch t.step {
	case 0:
		if t.blocks == 0 {
			return actDone
		}
		t.step = holdAsked
		return actHold
	case holdAsked:
		if !t.sole() {
			return actDone
		}
	case chunkRead:
		if !t.checkChunk(checkBytes) {
			return actDone
		}
	case dataWritten:
		return t.atomicWritten()
	}
	if t.cursor != t.blocks {
		t.step = chunkRead
		return t.readChunk()
	}
	// The blocks to write move to the front, where memory is aligned for any
	// device; what was compared is no longer needed.
	n := t.blocks << t.View.snap.shift
	b := t.Data.Bytes()
	copy(b[:n], b[n:2*n])
	t.IO.Data = t.Data.Slice(0, n)
	return t.atomicWrite()
}

func prepORWrite(t *Task) Result {
	lba, n := decode16(&t.CDB)
	if !t.View.lu.supports(t.op, t.View.snap) {
		return t.fail(IllegalRequest, InvalidOpcode)
	}
	if t.CDB[1]&cdbProtect != 0 {
		return t.badCDB(1, 7)
	}
	if t.extent(lba, n) == Done {
		return Done
	}
	r := t.wantList(n << t.View.snap.shift)
	t.wantScratch(n)
	return r
}

// doORWrite merges the medium into the data-out, then writes that (SBC-4 §5.17).
func doORWrite(t *Task) action {
	switch t.step {
	case 0:
		if t.blocks == 0 {
			return actDone
		}
		if t.step = holdAsked; !plant.On(plant.LooseMerge) {
			return actHold
		}
	case holdAsked:
		if !t.sole() {
			return actDone
		}
	case chunkRead:
		if t.IO.Status != bdev.OK {
			t.ioFailed()
			return actDone
		}
		got := t.IO.Data.Bytes()
		data := t.Data.Bytes()[t.cursor<<t.View.snap.shift:][:len(got)]
		for k := range data {
			data[k] |= got[k]
		}
		t.cursor += t.IO.Blocks
	case dataWritten:
		return t.atomicWritten()
	}
	if t.cursor != t.blocks {
		t.step = chunkRead
		return t.readChunk()
	}
	t.IO.Data = t.Data.Slice(0, t.Want)
	return t.atomicWrite()
}

// maxAtomic is the longest WRITE ATOMIC in blocks, 0 for none. A hold makes it
// atomic for other commands of the unit and the data goes to the device in one I/O,
// but a device with a volatile cache may tear that when power fails.
func (lu *LogicalUnit) maxAtomic(s *snapshot) uint32 {
	if s.caps&bdev.CapFlush != 0 || !lu.bdev.Alone() {
		return 0
	}
	return min(s.maxBlocks, 0xffff)
}

// prepWriteAtomic checks WRITE ATOMIC (16) (SBC-4 §5.46).
func prepWriteAtomic(t *Task) Result {
	s := t.View.snap
	if !t.View.lu.supports(t.op, s) {
		return t.fail(IllegalRequest, InvalidOpcode)
	}
	if t.CDB[1]&cdbProtect != 0 {
		return t.badCDB(1, 7)
	}
	if be.Uint16(t.CDB[10:]) != 0 { // ATOMIC BOUNDARY: none is supported
		return t.badCDB(10, wholeByte)
	}
	lba, n := be.Uint64(t.CDB[2:]), uint32(be.Uint16(t.CDB[12:]))
	if !s.inRange(lba, n) {
		return t.outOfRange()
	}
	if n > t.View.lu.maxAtomic(s) {
		return t.badCDB(12, wholeByte)
	}
	t.lba, t.blocks = lba, n
	return t.wantList(n << s.shift)
}

func doWriteAtomic(t *Task) action {
	if plant.On(plant.TornAtomic) {
		return t.tear()
	}
	switch t.step {
	case 0:
		if t.blocks == 0 {
			return actDone
		}
		t.step = holdAsked
		return actHold
	case holdAsked:
		if !t.sole() {
			return actDone
		}
		t.IO.Data = t.Data.Slice(0, t.Want)
		return t.atomicWrite()
	}
	return t.atomicWritten()
}

// atomicWrite writes IO.Data to the task's range.
func (t *Task) atomicWrite() action {
	t.step = dataWritten
	var fl bdev.Flags
	if t.durable() && t.View.snap.caps&bdev.CapFUA != 0 {
		fl = bdev.FUA
	}
	return t.io(bdev.Write, fl, t.lba, t.blocks)
}

// atomicWritten ends the command, after a flush if it needs one.
func (t *Task) atomicWritten() action {
	if t.IO.Status != bdev.OK {
		t.ioFailed()
		return actDone
	}
	if t.IO.Op == bdev.Write && t.durable() && t.View.snap.caps&bdev.CapFUA == 0 && t.View.snap.caps&bdev.CapFlush != 0 {
		return t.io(bdev.Flush, 0, 0, 0)
	}
	return actDone
}

// tear is the planted bug: no hold, and each block for itself.
func (t *Task) tear() action {
	switch {
	case t.step == 1: // one was written
		t.step = 2
		return actYield
	case t.cursor == t.blocks:
		return actDone
	}
	t.step = 1
	n := t.View.snap.blockSize
	t.IO.Data = t.Data.Slice(t.cursor*n, n)
	t.cursor++
	return t.io(bdev.Write, 0, t.lba+uint64(t.cursor)-1, 1)
}
