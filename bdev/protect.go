package bdev

import "encoding/binary"

// Protection information (SBC-4 §4.21): eight bytes a block beside its data, of
// a guard, which is a CRC of the data, an application tag and a reference tag,
// which of type 1 is the low half of the LBA.
const (
	TupleLen  = 8
	guardAt   = 0
	appTagAt  = 2
	refTagAt  = 4
	unchecked = 0xffff // as application tag: nothing of the block is checked (SBC-4 §4.21.2.3)
)

// Checks says which parts of a tuple are looked at.
type Checks uint8

// Parts of a tuple.
const (
	CheckGuard Checks = 1 << iota
	CheckRefTag
)

// guardPolynomial is that of the T10 DIF CRC (SBC-4 §4.21.4), x^16 left out.
const guardPolynomial = 0x8bb7

// guardTables[k] is the CRC of a byte that k zero bytes follow: eight bytes a step.
var guardTables = makeGuardTables()

func makeGuardTables() *[8][256]uint16 {
	t := &[8][256]uint16{}
	for b := range 256 {
		crc := uint16(b) << 8
		for range 8 {
			top := crc & 0x8000
			crc <<= 1
			if top != 0 {
				crc ^= guardPolynomial
			}
		}
		t[0][b] = crc
	}
	for b := range 256 {
		for k := 1; k < len(t); k++ {
			prev := t[k-1][b]
			t[k][b] = prev<<8 ^ t[0][prev>>8]
		}
	}
	return t
}

// Guard is the guard of a block, whose length is a multiple of eight.
func Guard(block []byte) uint16 {
	t, crc := guardTables, uint16(0)
	for ; len(block) >= 8; block = block[8:] {
		b := block[:8]
		crc = t[7][b[0]^byte(crc>>8)] ^ t[6][b[1]^byte(crc)] ^ t[5][b[2]] ^ t[4][b[3]] ^
			t[3][b[4]] ^ t[2][b[5]] ^ t[1][b[6]] ^ t[0][b[7]]
	}
	return crc
}

// Protect fills tuples with the protection information of blocks of size bytes
// from lba on; the application tag is 0.
func Protect(tuples, data []byte, lba uint64, size int) {
	for ; len(data) >= size; data, tuples, lba = data[size:], tuples[TupleLen:], lba+1 {
		binary.BigEndian.PutUint16(tuples[guardAt:], Guard(data[:size]))
		binary.BigEndian.PutUint16(tuples[appTagAt:], 0)
		binary.BigEndian.PutUint32(tuples[refTagAt:], uint32(lba))
	}
}

// Unprotect marks blocks that were never written: nothing of them is checked.
func Unprotect(tuples []byte) {
	for k := range tuples {
		tuples[k] = 0xff
	}
}

// Verify compares tuples with the blocks they came with: OK, or GuardFailed or
// RefTagFailed and which block it was.
func Verify(tuples, data []byte, lba uint64, size int, what Checks) (Status, uint32) {
	for k := uint32(0); len(data) >= size; k++ {
		if binary.BigEndian.Uint16(tuples[appTagAt:]) != unchecked {
			if what&CheckGuard != 0 && binary.BigEndian.Uint16(tuples[guardAt:]) != Guard(data[:size]) {
				return GuardFailed, k
			}
			if what&CheckRefTag != 0 && binary.BigEndian.Uint32(tuples[refTagAt:]) != uint32(lba)+k {
				return RefTagFailed, k
			}
		}
		data, tuples = data[size:], tuples[TupleLen:]
	}
	return OK, 0
}
