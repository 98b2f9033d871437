package scsi

import (
	"spindle/bdev"
	"spindle/internal/plant"
)

// CDB bits of the block commands.
const (
	cdbProtect = 0xe0 // RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT
	cdbDPO     = 0x10
	cdbFUA     = 0x08
)

func prepRead6(t *Task) Result   { return t.prepRead(decode6(&t.CDB)) }
func prepWrite6(t *Task) Result  { return t.prepWrite(decode6(&t.CDB)) }
func prepRead10(t *Task) Result  { return t.prepRead(decode10(&t.CDB)) }
func prepWrite10(t *Task) Result { return t.prepWrite(decode10(&t.CDB)) }
func prepRead12(t *Task) Result  { return t.prepRead(decode12(&t.CDB)) }
func prepWrite12(t *Task) Result { return t.prepWrite(decode12(&t.CDB)) }
func prepRead16(t *Task) Result  { return t.prepRead(decode16(&t.CDB)) }
func prepWrite16(t *Task) Result { return t.prepWrite(decode16(&t.CDB)) }

// decode6 to decode16 return the LBA and the number of blocks. In a six-byte
// CDB 0 stands for 256 blocks (SBC-4 §5.14).
//
//spindle:hot
func decode6(c *[MaxCDB]byte) (uint64, uint32) {
	n := uint32(c[4])
	if n == 0 {
		n = 256
	}
	return uint64(c[1]&0x1f)<<16 | uint64(c[2])<<8 | uint64(c[3]), n
}

//spindle:hot
func decode10(c *[MaxCDB]byte) (uint64, uint32) {
	return uint64(be.Uint32(c[2:])), uint32(be.Uint16(c[7:]))
}

//spindle:hot
func decode12(c *[MaxCDB]byte) (uint64, uint32) {
	return uint64(be.Uint32(c[2:])), be.Uint32(c[6:])
}

//spindle:hot
func decode16(c *[MaxCDB]byte) (uint64, uint32) {
	return be.Uint64(c[2:]), be.Uint32(c[10:])
}

// lengthField is where a CDB has its transfer length: what INVALID FIELD IN CDB
// points at.
func lengthField(t *Task) uint16 {
	switch t.op.length {
	case 6:
		return 4
	case 10:
		return 7
	case 12:
		return 6
	}
	return 10
}

// inRange tells whether n blocks at lba lie on the medium. Written so that no
// sum can wrap.
//
//spindle:hot
func (s *snapshot) inRange(lba uint64, n uint32) bool {
	return lba < s.blocks && uint64(n) <= s.blocks-lba
}

// extent checks a command's range against the medium and the transfer limit
// and notes it. Done: the task has failed.
//
//spindle:hot
func (t *Task) extent(lba uint64, n uint32) Result {
	s := t.View.snap
	if !s.inRange(lba, n) {
		return t.outOfRange()
	}
	if n > s.maxBlocks {
		return t.badCDB(lengthField(t), wholeByte)
	}
	t.lba, t.blocks = lba, n
	return Ready
}

//spindle:hot
func (t *Task) prepRead(lba uint64, n uint32) Result {
	if t.op.length != 6 && t.CDB[1]&cdbProtect != 0 {
		return t.prepShielded(lba, n, DataIn)
	}
	if t.extent(lba, n) == Done {
		return Done
	}
	t.Dir = DataIn
	t.Want = n << t.View.snap.shift
	t.Lend, t.MayLive = t.View.snap.lend, t.View.snap.live
	return Ready
}

//spindle:hot
func (t *Task) prepWrite(lba uint64, n uint32) Result {
	if t.op.length != 6 && t.CDB[1]&cdbProtect != 0 {
		return t.prepShielded(lba, n, DataOut)
	}
	if t.extent(lba, n) == Done {
		return Done
	}
	t.Dir = DataOut
	t.Want = n << t.View.snap.shift
	if t.EDTL < t.Want {
		return t.shortWrite()
	}
	return Ready
}

// shortWrite handles an initiator that sends less than its CDB says: whole
// blocks are written and the residual tells; half a block is refused before
// anything is written (FCP-4 §9.5.8 gives both ways).
func (t *Task) shortWrite() Result {
	s := t.View.snap
	if t.EDTL&(s.blockSize-1) != 0 {
		return t.fail(IllegalRequest, InvalidIUField)
	}
	t.blocks = t.EDTL >> s.shift
	return Ready
}

// io fills in the task's block I/O.
//
//spindle:hot
func (t *Task) io(op bdev.Op, fl bdev.Flags, lba uint64, n uint32) action {
	t.IO.Op, t.IO.Flags, t.IO.LBA, t.IO.Blocks = op, fl, lba, n
	return actIO
}

//spindle:hot
func doRead(t *Task) action {
	if t.step == 0 {
		if t.blocks == 0 {
			return actDone
		}
		t.step = 1
		if plant.On(plant.StaleByte) && !t.Lend && t.lba%32 == 7 {
			t.DataLen = t.Want
			return actDone
		}
		var fl bdev.Flags
		if t.Lend || t.Live {
			fl = bdev.Lend
			t.IO.Data.Addr, t.IO.Data.Len, t.IO.Data.Region = 0, 0, 0
		} else {
			t.IO.Data = t.Data.Slice(0, t.Want)
		}
		return t.io(bdev.Read, fl, t.lba, t.blocks)
	}
	if t.IO.Status != bdev.OK {
		t.ioFailed()
		return actDone
	}
	if t.Lend {
		t.Data = t.IO.Data
	} else if t.Live {
		t.Medium = t.IO.Data
	}
	t.DataLen = t.Want
	return actDone
}

// doWrite writes; FUA on a device that cannot is a flush after the write.
//
//spindle:hot
func doWrite(t *Task) action {
	switch t.step {
	case 0:
		if t.blocks == 0 {
			return actDone
		}
		t.step = 1
		var fl bdev.Flags
		if t.durable() {
			if c := t.View.snap.caps; c&bdev.CapFUA != 0 {
				fl = bdev.FUA
			} else if c&bdev.CapFlush != 0 {
				t.step = 2
			}
		}
		if t.Inline {
			fl |= bdev.Inline
		}
		t.IO.Data = t.Data.Slice(0, t.blocks<<t.View.snap.shift)
		return t.io(bdev.Write, fl, t.lba, t.blocks)
	case 2:
		if t.IO.Status != bdev.OK {
			break
		}
		t.step = 1
		return t.io(bdev.Flush, 0, 0, 0)
	}
	if t.IO.Status != bdev.OK {
		t.ioFailed()
	}
	return actDone
}

//spindle:hot
func (t *Task) durable() bool {
	if plant.On(plant.LostMerge) && t.CDB[0] == opORWrite16 {
		return false
	}
	return t.View.snap.through || t.op.length != 6 && t.CDB[1]&cdbFUA != 0
}

// ioFailed turns the status of a failed I/O into sense.
func (t *Task) ioFailed() {
	switch t.IO.Status {
	case bdev.OutRange: // it shrank under the command
		t.outOfRange()
	case bdev.NoSpace:
		t.fail(DataProtect, SpaceAllocationFailed)
	case bdev.Gone:
		t.fail(NotReady, NotReadyCause)
	case bdev.NotSup:
		t.fail(IllegalRequest, InvalidOpcode)
	case bdev.Aborted:
		t.fail(AbortedCommand, NoAdditionalSense)
	case bdev.GuardFailed, bdev.RefTagFailed:
		t.protectionFailed(t.IO.Status, t.IO.LBA+uint64(t.IO.Bad))
	default:
		// The first block of the failed I/O: where exactly is not known (SBC-4 §4.18).
		s := sense{key: MediumError, code: UnrecoveredReadError, info: t.IO.LBA, has: hasInfo}
		if t.IO.Op != bdev.Read {
			s.code = WriteError
		}
		t.check(s)
	}
}
