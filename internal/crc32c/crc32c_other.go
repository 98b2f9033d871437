//go:build !amd64

package crc32c

const (
	wide     = false
	wideFrom = 0
	wideStep = 1
)

func fold(uint32, []byte) uint32 { panic("crc32c: no wide form") }
