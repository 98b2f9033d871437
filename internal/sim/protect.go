package sim

import (
	"bytes"

	"spindle/scsi"
)

// Protection information of type 1 (SBC-4 §4.21): some RAM disks have it. READ and
// WRITE that ask for it move eight bytes behind each block. They have to belong to
// what the block holds, whichever way that was written, and a WRITE whose tags do
// not, where it wants them to be checked, changes nothing.

// tupleLen is the length of a block's protection information.
const tupleLen = 8

var guards = makeGuards()

// makeGuards is the table of the CRC of SBC-4 §4.21.4, a byte a step.
func makeGuards() (t [256]uint16) {
	for i := range t {
		crc := uint16(i) << 8
		for range 8 {
			crc = crc<<1 ^ crc>>15*0x8bb7
		}
		t[i] = crc
	}
	return t
}

func guardOf(block []byte) (crc uint16) {
	for _, x := range block {
		crc = crc<<8 ^ guards[byte(crc>>8)^x]
	}
	return crc
}

// taint is what is wrong with the protection information of a WRITE.
type taint uint8

const (
	untainted taint = iota
	wrongGuard
	wrongReference
)

// taintCodes are how it is refused, and taintChecks the values of WRPROTECT that have
// it checked (SBC-4 table 128).
var (
	taintCodes  = [...]scsi.Code{wrongGuard: scsi.GuardCheckFailed, wrongReference: scsi.RefTagCheckFailed}
	taintChecks = [...][]byte{{1, 2, 3, 4, 5}, wrongGuard: {1, 4, 5}, wrongReference: {1, 2, 5}}
)

// shieldWrite gives a WRITE its protection information, which now and then is wrong,
// and returns WRPROTECT.
func (in *initiator) shieldWrite(t *task, o *operation) byte {
	r := in.rng
	if r.IntN(4) == 0 {
		t.taint, t.bad = taint(1+r.IntN(2)), uint32(r.IntN(int(t.blocks)))
	}
	t.shielded, o.tainted, o.tag = true, t.taint != untainted, uint16(r.IntN(0xffff))
	beyond := t.edtl - t.blocks*o.lu.blockSize
	t.want += t.want / o.lu.blockSize * tupleLen
	t.edtl = t.blocks*(o.lu.blockSize+tupleLen) + beyond
	return pick(r, taintChecks[t.taint]...) << 5
}

// shieldRead has a READ bring the protection information, and returns RDPROTECT.
func (in *initiator) shieldRead(t *task, lu *lun) byte {
	t.shielded = true
	t.want += t.blocks * tupleLen
	t.edtl = in.expect(t.want)
	return byte(1+in.rng.IntN(5)) << 5
}

// fillShielded makes the data of a WRITE of value v.
func (in *initiator) fillShielded(t *task, lu *lun, v value) {
	tag, unit := in.s.book.ops[t.op].tag, lu.blockSize+tupleLen
	for i := range t.blocks {
		block, tuple := t.data[i*unit:][:lu.blockSize], t.data[i*unit+lu.blockSize:][:tupleLen]
		v.fill(block, t.lba+uint64(i))
		guard, ref := guardOf(block), uint32(t.lba)+i
		if i == t.bad {
			switch t.taint {
			case wrongGuard:
				guard ^= uint16(1 + in.rng.IntN(0xffff))
			case wrongReference:
				ref ^= 1 + in.rng.Uint32N(1<<32-1)
			}
		}
		be.PutUint16(tuple, guard)
		be.PutUint16(tuple[2:], tag)
		be.PutUint32(tuple[4:], ref)
	}
}

// shieldRefused takes ABORTED COMMAND of a WRITE with wrong protection information:
// INFORMATION names the block (SBC-4 §4.21.3).
func (in *initiator) shieldRefused(t *task, lu *lun, code scsi.Code, b []byte) {
	in.s.count(ShieldsRefused)
	if code != taintCodes[t.taint] || b[0]&0x80 == 0 || be.Uint32(b[3:]) != uint32(t.lba)+t.bad {
		in.bad("protection", "LUN %d: task %#x is refused with %04x for block %d, was to be with %04x for block %d", lu.id, t.itt, uint16(code), be.Uint32(b[3:]), uint16(taintCodes[t.taint]), uint32(t.lba)+t.bad)
	}
}

// unweave takes the protection information out of what a READ brought.
func (in *initiator) unweave(t *task, lu *lun) (tuples []byte) {
	unit, whole := int(lu.blockSize)+tupleLen, 0
	for at := 0; at+unit <= len(t.got); at += unit {
		tuples = append(tuples, t.got[at+unit-tupleLen:at+unit]...)
		whole += copy(t.got[whole:], t.got[at:at+unit-tupleLen])
	}
	t.got = t.got[:whole]
	return tuples
}

// untagged is the protection information of a block that was not written, of which
// nothing is checked.
var untagged = bytes.Repeat([]byte{0xff}, tupleLen)

// shields checks the protection information of a block of value v; known is false
// when it is parts of several writes.
func (s *run) shields(lu *lun, lba uint64, block, tuple []byte, v value, known bool) {
	tag := uint16(0)
	if known && v.ours() && v&valueSame == 0 {
		if o := &s.book.ops[v.number()]; o.lu == lu {
			tag = o.tag
		}
	}
	got := be.Uint16(tuple[2:])
	switch {
	case bytes.Equal(tuple, untagged) && allBytes(block, 0):
	case be.Uint16(tuple) != guardOf(block) || be.Uint32(tuple[4:]) != uint32(lba):
		s.fail("protection", "LUN %d block %d, which holds % x, has the protection information % x", lu.id, lba, block[:16], tuple)
	case known && got != tag && (got != 0 || !lu.target): // it may have come back by EXTENDED COPY
		s.fail("protection", "LUN %d block %d of value %#x has the application tag %04x, was to have %04x", lu.id, lba, uint64(v), got, tag)
	}
}
