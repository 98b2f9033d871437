package crc32c

import "hash/crc32"

// table is read-only after start; its presence makes hash/crc32 use the CPU's
// CRC32C instruction.
var table = crc32.MakeTable(crc32.Castagnoli)

// Sum returns the checksum of b.
//
//spindle:hot
func Sum(b []byte) uint32 { return Update(0, b) }

// Update continues crc over b.
//
//spindle:hot
func Update(crc uint32, b []byte) uint32 {
	if wide && len(b) >= wideFrom {
		n := len(b) &^ (wideStep - 1)
		crc = ^fold(^crc, b[:n])
		if b = b[n:]; len(b) == 0 {
			return crc
		}
	}
	return crc32.Update(crc, table, b)
}
