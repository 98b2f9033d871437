package pdu

import (
	"encoding/binary"

	"spindle/internal/crc32c"
)

// Digest returns the CRC32C of b (RFC 7143 §13.1).
//
//spindle:hot
func Digest(b []byte) uint32 { return crc32c.Sum(b) }

// UpdateDigest continues crc over b. A data digest covers the pad bytes, a
// header digest the AHS.
//
//spindle:hot
func UpdateDigest(crc uint32, b []byte) uint32 { return crc32c.Update(crc, b) }

// PutDigest stores crc as it travels: bit 0 of the remainder leads, which on
// bytes is little-endian, unlike every other field of the protocol.
func PutDigest(dst []byte, crc uint32) { binary.LittleEndian.PutUint32(dst, crc) }

// GetDigest loads a digest as it travels.
func GetDigest(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// Pad is how many pad bytes follow n bytes of data: the wire moves words.
func Pad(n uint32) uint32 { return -n & 3 }

// Padded rounds n up to a word.
func Padded(n uint32) uint32 { return (n + 3) &^ 3 }

// zeroes is what padding is made of; never written.
var zeroes [4]byte

// PadBytes returns the pad that follows n bytes of data. The bytes are shared
// and not to be written.
func PadBytes(n uint32) []byte { return zeroes[: -n&3 : 4] }
