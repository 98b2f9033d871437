package bdev_test

import (
	"bytes"
	"testing"

	"spindle/bdev"
)

// TestGuard: values of SBC-4 table 30.
func TestGuard(t *testing.T) {
	inc, dec := make([]byte, 32), make([]byte, 32)
	for k := range inc {
		inc[k], dec[k] = byte(k), byte(255-k)
	}
	for _, tc := range []struct {
		name  string
		block []byte
		want  uint16
	}{
		{"zeroes", make([]byte, 32), 0},
		{"ones", bytes.Repeat([]byte{0xff}, 32), 0xa293},
		{"counting up", inc, 0x0224},
		{"ones and zeroes", append([]byte{0xff, 0xff}, make([]byte, 30)...), 0x21b8},
		{"counting down from ff", dec, 0xa0b7},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := bdev.Guard(tc.block); got != tc.want {
				t.Errorf("%04x, want %04x", got, tc.want)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	const lba = 0xffffffff // the reference tag wraps behind it
	const both = bdev.CheckGuard | bdev.CheckRefTag
	for _, tc := range []struct {
		name   string
		change func(tuples, data []byte)
		checks bdev.Checks
		want   bdev.Status
		at     uint32
	}{
		{"as made", func([]byte, []byte) {}, both, bdev.OK, 0},
		{"data changed", func(_, d []byte) { d[600]++ }, both, bdev.GuardFailed, 1},
		{"data changed, guard not looked at", func(_, d []byte) { d[600]++ }, bdev.CheckRefTag, bdev.OK, 0},
		{"another block's tuple", func(p, _ []byte) { p[2*bdev.TupleLen+7]++ }, both, bdev.RefTagFailed, 2},
		{"another block's tuple, tag not looked at", func(p, _ []byte) { p[2*bdev.TupleLen+7]++ }, bdev.CheckGuard, bdev.OK, 0},
		{"unchecked", func(p, d []byte) { d[600]++; bdev.Unprotect(p) }, both, bdev.OK, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data, tuples := bytes.Repeat([]byte{0x5a}, 3*512), make([]byte, 3*bdev.TupleLen)
			bdev.Protect(tuples, data, lba, 512)
			tc.change(tuples, data)
			if got, at := bdev.Verify(tuples, data, lba, 512, tc.checks); got != tc.want || at != tc.at {
				t.Errorf("%v at %d, want %v at %d", got, at, tc.want, tc.at)
			}
		})
	}
}
