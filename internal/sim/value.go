package sim

import (
	"bytes"
	"encoding/binary"
)

// value is what one write left in a block: no two writes have the same, so that
// a read tells whose write it saw. 0 is a block of zeroes. What ORWRITE merges
// has another mark, whose bits show in whatever it was merged into.
//
//	63..48 mark | 47 the same in every block | 39..0 number of the operation
type value uint64

const (
	valueMark   = 0x5eed
	orMark      = 0xa110           // merged into what was there
	mergedMark  = 0x0c0b           // several of these: the number is that in run.merged
	blobMark    = 0xb10b           // copied from another unit: in run.blobs
	valueUnread = value(1<<64 - 1) // it is not known yet
	valueSame   = 1 << 47
	valueNumber = 1<<40 - 1
)

func valueOf(op int) value { return value(valueMark<<48 | uint64(op)) }

func (v value) ours() bool  { return v>>48 == valueMark }
func (v value) known() bool { return v.ours() || v>>48 == orMark }
func (v value) number() int { return int(v & valueNumber) }

// step makes neighbouring words of a block differ in every byte.
const step = 0x9E3779B97F4A7C15

var le = binary.LittleEndian

// seed is the second word of a block of value v at lba.
func (v value) seed(lba uint64) uint64 {
	if v&valueSame != 0 {
		lba = 0
	}
	return (uint64(v)+1)*0xD1B54A32D192ED03 ^ lba*0x2545F4914F6CDD1D
}

// fill writes the block that v leaves at lba.
func (v value) fill(b []byte, lba uint64) {
	if v == 0 {
		clear(b)
		return
	}
	le.PutUint64(b, uint64(v))
	w := v.seed(lba)
	for i := 8; i+8 <= len(b); i += 8 {
		le.PutUint64(b[i:], w)
		w += step
	}
}

// read tells the value of a block at lba, false when no write left all of it.
func readValue(b []byte, lba uint64) (value, bool) {
	v := value(le.Uint64(b))
	if v == 0 {
		return 0, bytes.Equal(b[8:], b[:len(b)-8])
	}
	if !v.known() {
		return v, false
	}
	w := v.seed(lba)
	for i := 8; i+8 <= len(b); i += 8 {
		if le.Uint64(b[i:]) != w {
			return v, false
		}
		w += step
	}
	return v, true
}
