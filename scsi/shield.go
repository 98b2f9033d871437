package scsi

import (
	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/reactor/mem"
)

// Protection information of type 1 (SBC-4 §4.21): a unit whose device has it
// stores a guard, an application tag and a reference tag beside each block. An
// initiator that leaves RDPROTECT and WRPROTECT at 0 sees plain blocks; the
// device makes and checks the rest. READ and WRITE with one of them set move
// each block with its eight bytes behind it, and are rows of their own
// (command.shielded), so that others do not pay for them.

// maxShielded bounds the data of one command of such a unit, in bytes, so that
// a buffer holds it twice: as it travels, and apart.
const maxShielded = 1 << 20

// protectChecks is what each value of RDPROTECT and WRPROTECT asks to be checked
// (SBC-4 tables 51 and 128). The application tag is the initiators' own: nobody
// has told the unit what to expect. 110b and 111b are reserved.
var protectChecks = [...]bdev.Checks{
	1: bdev.CheckGuard | bdev.CheckRefTag,
	2: bdev.CheckRefTag,
	3: 0,
	4: bdev.CheckGuard,
	5: bdev.CheckGuard | bdev.CheckRefTag,
}

// checks is what the command's CDB asks to be checked.
func (t *Task) checks() bdev.Checks {
	what := protectChecks[t.CDB[1]>>5]
	if plant.On(plant.GuardUnchecked) {
		what &^= bdev.CheckGuard
	}
	if plant.On(plant.ReferenceUnchecked) {
		what &^= bdev.CheckRefTag
	}
	return what
}

// shieldedSteps are the steps of the commands that can move protection
// information.
func shieldedSteps(opcode uint8, sa uint16) (next func(*Task) action, ok bool) {
	switch opcode {
	case opRead10, opRead12, opRead16:
		return doShieldedRead, true
	case opWrite10, opWrite12, opWrite16:
		return doShieldedWrite, true
	case opVariable:
		switch sa {
		case saRead32:
			return doShieldedRead, true
		case saWrite32:
			return doShieldedWrite, true
		}
	}
	return nil, false
}

// prepShielded decodes a READ or WRITE that moves protection information.
func (t *Task) prepShielded(lba uint64, n uint32, dir Direction) Result {
	s := t.View.snap
	if !s.shielded || t.op.shielded == nil || int(t.CDB[1]>>5) >= len(protectChecks) {
		return t.badCDB(1, 7)
	}
	if t.extent(lba, n) == Done {
		return Done
	}
	t.op = t.op.shielded
	unit := s.blockSize + bdev.TupleLen
	t.Dir, t.Want = dir, n*unit
	if dir == DataOut && t.EDTL < t.Want {
		if t.EDTL%unit != 0 {
			return t.fail(IllegalRequest, InvalidIUField)
		}
		t.blocks = t.EDTL / unit
	}
	t.Scratch = t.scratchAt() - t.Want + n*unit
	return Ready
}

// apart is the scratch of a shielded command: the blocks, then their tuples.
func (t *Task) apart() (data, tuples mem.Ref) {
	at, n := t.scratchAt(), t.blocks<<t.View.snap.shift
	return t.Data.Slice(at, n), t.Data.Slice(at+n, t.blocks*bdev.TupleLen)
}

// weave calls move with each block of the transfer, its data and its tuple.
func (t *Task) weave(move func(travels, data, tuple []byte)) {
	d, p := t.apart()
	data, tuples, travels := d.Bytes(), p.Bytes(), t.Data.Bytes()
	size := int(t.View.snap.blockSize)
	for range t.blocks {
		move(travels[:size+bdev.TupleLen], data[:size], tuples[:bdev.TupleLen])
		travels, data, tuples = travels[size+bdev.TupleLen:], data[size:], tuples[bdev.TupleLen:]
	}
}

// verifyApart checks what lies apart. False: the task has failed.
func (t *Task) verifyApart() bool {
	data, tuples := t.apart()
	s, bad := bdev.Verify(tuples.Bytes(), data.Bytes(), t.lba, int(t.View.snap.blockSize), t.checks())
	if s != bdev.OK {
		t.protectionFailed(s, t.lba+uint64(bad))
	}
	return s == bdev.OK
}

// protectionFailed ends a task whose check of block lba failed (SBC-4 §4.21.3).
func (t *Task) protectionFailed(s bdev.Status, lba uint64) {
	code := GuardCheckFailed
	if s == bdev.RefTagFailed {
		code = RefTagCheckFailed
	}
	t.check(sense{key: AbortedCommand, code: code, info: lba, has: hasInfo})
}

func doShieldedRead(t *Task) action {
	switch {
	case t.blocks == 0:
		return actDone
	case t.step == 0:
		t.step = 1
		t.IO.Data, t.IO.Meta = t.apart()
		return t.io(bdev.Read, 0, t.lba, t.blocks)
	}
	t.IO.Meta = mem.Ref{}
	switch {
	case t.IO.Status != bdev.OK:
		t.ioFailed()
	case t.verifyApart():
		t.weave(func(travels, data, tuple []byte) { copy(travels[copy(travels, data):], tuple) })
		t.DataLen = t.Want
	}
	return actDone
}

func doShieldedWrite(t *Task) action {
	switch {
	case t.blocks == 0:
		return actDone
	case t.step == 0:
		t.step = 1
		t.weave(func(travels, data, tuple []byte) { copy(tuple, travels[copy(data, travels):]) })
		if !t.verifyApart() && !plant.On(plant.ShieldLate) {
			return actDone
		}
		var fl bdev.Flags
		if t.durable() && t.View.snap.caps&bdev.CapFUA != 0 {
			fl = bdev.FUA
		}
		t.IO.Data, t.IO.Meta = t.apart()
		return t.io(bdev.Write, fl, t.lba, t.blocks)
	}
	t.IO.Meta = mem.Ref{}
	switch {
	case t.IO.Status != bdev.OK:
		t.ioFailed()
	case t.step == 1 && t.durable() && t.View.snap.caps&(bdev.CapFUA|bdev.CapFlush) == bdev.CapFlush:
		t.step = 2
		return t.io(bdev.Flush, 0, 0, 0)
	}
	return actDone
}
