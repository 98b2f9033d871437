package scsi

import (
	"bytes"

	"spindle/bdev"
	"spindle/reactor/mem"
)

// BYTCHK, bits 2 and 1 of byte 1 (SBC-4 §5.33).
const (
	checkNone  = 0 // the medium can be read
	checkBytes = 1 // it equals the data-out
	checkBlock = 3 // each block equals the one block of data-out
)

func prepVerify10(t *Task) Result      { return t.prepVerify(decode10(&t.CDB)) }
func prepVerify12(t *Task) Result      { return t.prepVerify(decode12(&t.CDB)) }
func prepVerify16(t *Task) Result      { return t.prepVerify(decode16(&t.CDB)) }
func prepWriteVerify10(t *Task) Result { return t.prepWriteVerify(decode10(&t.CDB)) }
func prepWriteVerify12(t *Task) Result { return t.prepWriteVerify(decode12(&t.CDB)) }
func prepWriteVerify16(t *Task) Result { return t.prepWriteVerify(decode16(&t.CDB)) }

// byteCheck is the BYTCHK field.
func (t *Task) byteCheck() byte { return t.CDB[1] >> 1 & 3 }

func (t *Task) prepVerify(lba uint64, n uint32) Result {
	if t.CDB[1]&cdbProtect != 0 {
		return t.badCDB(1, 7)
	}
	check := t.byteCheck()
	if check == 2 {
		return t.badCDB(1, 2)
	}
	if t.extent(lba, n) == Done {
		return Done
	}
	if n == 0 {
		return Ready
	}
	s := t.View.snap
	r := Ready
	switch check {
	case checkBytes:
		r = t.wantList(n << s.shift)
	case checkBlock:
		r = t.wantList(s.blockSize)
	}
	t.wantScratch(n)
	return r
}

// wantScratch asks for memory to work on n blocks, up to MaxScratch at a time,
// behind the data and aligned as the device needs it.
func (t *Task) wantScratch(n uint32) {
	s := t.View.snap
	t.Scratch = t.scratchAt() - t.Want + min(n, s.maxBlocks, MaxScratch>>s.shift)<<s.shift
}

// scratchAt is where the scratch starts in the task's buffer.
func (t *Task) scratchAt() uint32 {
	a := t.View.snap.align
	return (t.Want + a - 1) &^ (a - 1)
}

// chunk is the scratch for the next part of the task's range.
func (t *Task) chunk() mem.Ref {
	s, at := t.View.snap, t.scratchAt()
	n := min(t.blocks-t.cursor, (t.Want+t.Scratch-at)>>s.shift)
	return t.Data.Slice(at, n<<s.shift)
}

func (t *Task) prepWriteVerify(lba uint64, n uint32) Result {
	if t.byteCheck() > checkBytes {
		return t.badCDB(1, 2)
	}
	r := t.prepWrite(lba, n)
	if r == Ready {
		t.wantScratch(n)
	}
	return r
}

// readChunk reads the next part of the task's range into scratch.
func (t *Task) readChunk() action {
	t.IO.Data = t.chunk()
	return t.io(bdev.Read, 0, t.lba+uint64(t.cursor), t.IO.Data.Len>>t.View.snap.shift)
}

// doVerify reads the range in pieces and compares them.
func doVerify(t *Task) action {
	if t.step == 1 && !t.checkChunk(t.byteCheck()) {
		return actDone
	}
	if t.cursor == t.blocks {
		return actDone
	}
	t.step = 1
	return t.readChunk()
}

// checkChunk compares what readChunk read. False: the task has failed.
func (t *Task) checkChunk(check byte) bool {
	if t.IO.Status != bdev.OK {
		t.ioFailed()
		return false
	}
	got := t.IO.Data.Bytes()
	want := t.Data.Bytes()[:t.Want]
	off := t.cursor << t.View.snap.shift
	t.cursor += t.IO.Blocks
	switch check {
	case checkBytes:
		return t.equal(got, want[off:], uint64(off))
	case checkBlock:
		for k := 0; k < len(got); k += len(want) {
			if !t.equal(got[k:k+len(want)], want, uint64(off)+uint64(k)) {
				return false
			}
		}
	}
	return true
}

// equal compares got with the start of want. A difference ends the task with
// MISCOMPARE, INFORMATION telling its offset from the start (SBC-4 §5.3: ESXi
// reads it), base being that of got.
func (t *Task) equal(got, want []byte, base uint64) bool {
	want = want[:len(got)]
	if bytes.Equal(got, want) {
		return true
	}
	k := 0
	for got[k] == want[k] {
		k++
	}
	t.check(sense{key: Miscompare, code: MiscompareVerify, info: base + uint64(k), has: hasInfo})
	return false
}

// doWriteVerify writes, makes it durable, and reads it back.
func doWriteVerify(t *Task) action {
	const written, flushed, checking = 1, 2, 3
	switch t.step {
	case 0:
		if t.blocks == 0 {
			return actDone
		}
		t.step = written
		var fl bdev.Flags
		if t.View.snap.caps&bdev.CapFUA != 0 {
			fl = bdev.FUA
		}
		t.IO.Data = t.Data.Slice(0, t.blocks<<t.View.snap.shift)
		return t.io(bdev.Write, fl, t.lba, t.blocks)
	case written, flushed:
		if t.IO.Status != bdev.OK {
			t.ioFailed()
			return actDone
		}
		if c := t.View.snap.caps; t.step == written && c&bdev.CapFUA == 0 && c&bdev.CapFlush != 0 {
			t.step = flushed
			return t.io(bdev.Flush, 0, 0, 0)
		}
	case checking:
		if !t.checkChunk(t.byteCheck()) || t.cursor == t.blocks {
			return actDone
		}
	}
	t.step = checking
	return t.readChunk()
}
