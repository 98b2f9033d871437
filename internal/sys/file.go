package sys

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Fallocate modes for regular files and block devices; the size stays.
const (
	FallocPunchHole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	FallocZeroRange = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
)

// Values of io_uring operations that are ordinary constants of the kernel.
const (
	WriteDsync  = unix.RWF_DSYNC
	MsgWaitall  = unix.MSG_WAITALL
	MsgNosignal = unix.MSG_NOSIGNAL
	SockCloexec = unix.SOCK_CLOEXEC
	PollIn      = unix.POLLIN
	ShutRdwr    = unix.SHUT_RDWR
)

// ErrNotStorage: a path names neither a regular file nor a block device.
var ErrNotStorage = errors.New("neither a regular file nor a block device")

// FileStat describes an open file or block device.
type FileStat struct {
	Size   int64
	Block  bool   // a block device
	Socket bool   // a socket: the other fields mean nothing
	Align  uint32 // bytes: what O_DIRECT wants of offset, length and memory; 0: O_DIRECT is refused
	Punch  bool   // FallocPunchHole is expected to work; of a regular file OpenFile alone tells
	// Of a regular file: what it occupies and what its file system has left, in bytes.
	Used, Free uint64
}

// OpenFile opens path for reading, and for writing unless readOnly. direct asks
// for O_DIRECT; a file that would refuse its I/O later is refused here.
func OpenFile(path string, readOnly, direct bool) (int, FileStat, error) {
	flags := unix.O_CLOEXEC | unix.O_RDWR
	if readOnly {
		flags = unix.O_CLOEXEC | unix.O_RDONLY
	}
	if direct {
		flags |= unix.O_DIRECT
	}
	fd, err := retryOpen(path, flags)
	if err != nil {
		return -1, FileStat{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	st, err := Stat(fd)
	if err == nil && !st.Block && !st.Socket {
		st.Punch = canPunch(fd, st.Size)
	}
	switch {
	case err == nil && st.Socket:
		err = ErrNotStorage
	case err == nil && direct && st.Align == 0:
		err = unix.EINVAL // what the kernel's own refusal of O_DIRECT is
	}
	if err == nil {
		err = setBlocking(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, FileStat{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, st, nil
}

// setBlocking clears O_NONBLOCK: io_uring would answer EAGAIN where the file
// system cannot do without blocking, instead of taking a worker.
func setBlocking(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_NONBLOCK)
	}
	return err
}

func retryOpen(path string, flags int) (int, error) {
	for {
		// O_NONBLOCK keeps the open of a FIFO from hanging.
		fd, err := unix.Open(path, flags|unix.O_NONBLOCK, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// Stat describes fd. It changes nothing: reactors and pollers call it while I/O runs.
func Stat(fd int) (FileStat, error) {
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return FileStat{}, fmt.Errorf("fstat: %w", err)
	}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		align, _ := dioAlign(fd, 4096)
		const unit = 512 // of st_blocks, whatever the file system's blocks are
		st := FileStat{Size: s.Size, Align: align, Used: uint64(s.Blocks) * unit}
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil {
			st.Free = fs.Bavail * uint64(max(fs.Frsize, 1))
		}
		return st, nil
	case unix.S_IFBLK:
		return statBlock(fd, uint64(s.Rdev))
	case unix.S_IFSOCK:
		return FileStat{Socket: true}, nil
	}
	return FileStat{}, ErrNotStorage
}

func statBlock(fd int, rdev uint64) (FileStat, error) {
	size, err := blockSize64(fd)
	if err != nil {
		return FileStat{}, fmt.Errorf("BLKGETSIZE64: %w", err)
	}
	sector, err := unix.IoctlGetInt(fd, unix.BLKSSZGET)
	if err != nil || sector <= 0 {
		sector = 4096
	}
	align, _ := dioAlign(fd, uint32(sector))
	return FileStat{Size: int64(size), Block: true, Align: max(align, uint32(sector)), Punch: canDiscard(rdev)}, nil
}

// dioAlign asks the kernel (statx STATX_DIOALIGN, Linux 6.1) what O_DIRECT
// wants; a file system that does not tell gets unknown.
func dioAlign(fd int, unknown uint32) (uint32, error) {
	var x unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &x)
	if err != nil || x.Mask&unix.STATX_DIOALIGN == 0 {
		return unknown, err
	}
	if x.Dio_offset_align == 0 {
		return 0, nil
	}
	return max(x.Dio_mem_align, x.Dio_offset_align), nil
}

// canPunch tries to punch a hole where there is nothing, beyond the end. To a file
// system that is a change like any other: XFS waits for the I/O that is in flight.
func canPunch(fd int, size int64) bool {
	const unit = 1 << 20
	err := unix.Fallocate(fd, FallocPunchHole, (size+unit-1)/unit*unit, unit)
	return err == nil
}

// canDiscard asks sysfs; a partition's queue is its disk's.
func canDiscard(rdev uint64) bool {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(rdev), unix.Minor(rdev))
	for _, p := range []string{dir + "queue/discard_max_bytes", dir + "../queue/discard_max_bytes"} {
		b, err := os.ReadFile(p)
		if err == nil {
			n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
			return err == nil && n > 0
		}
	}
	return false
}
