package crc32c

import "spindle/internal/sys"

const (
	wideFrom = 256 // bytes: fold needs as many, and is faster from there on
	wideStep = 64  // fold takes multiples of it
)

// wide tells that the CPU has what fold uses.
var wide = sys.WideMultiply()

// fold continues the remainder crc over b, whose length is a multiple of
// wideStep and at least wideFrom.
//
//go:noescape
func fold(crc uint32, b []byte) uint32
