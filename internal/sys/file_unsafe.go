package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// blockSize64 is the size of a block device in bytes.
func blockSize64(fd int) (uint64, error) {
	var n uint64
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n)))
	if e != 0 {
		return 0, e
	}
	return n, nil
}
