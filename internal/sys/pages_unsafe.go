package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// preferNode makes NUMA node node the first choice for the pages of b.
func preferNode(b []byte, node int) error {
	const maxNodes = 1024
	var mask [maxNodes / 64]uint64
	if node >= maxNodes {
		return unix.EINVAL
	}
	mask[node/64] = 1 << (node % 64)
	// The kernel reads maxnode-1 bits.
	_, _, e := unix.Syscall6(unix.SYS_MBIND, Addr(b), uintptr(len(b)), unix.MPOL_PREFERRED,
		uintptr(unsafe.Pointer(&mask)), maxNodes+1, 0)
	if e != 0 {
		return e
	}
	return nil
}
