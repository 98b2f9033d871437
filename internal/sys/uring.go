package sys

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The io_uring ABI, as far as a reactor needs it; see io_uring(7),
// io_uring_setup(2), io_uring_enter(2) and io_uring_register(2). Names are the
// kernel's without IORING_.

// Setup flags. The floor is Linux 6.1, which has all but SetupNoSQArray (6.6).
const (
	SetupCQSize       = 1 << 3
	SetupSubmitAll    = 1 << 7
	SetupTaskrunFlag  = 1 << 9
	SetupSingleIssuer = 1 << 12
	SetupDeferTaskrun = 1 << 13
	SetupNoSQArray    = 1 << 16
)

// Features that setup reports. FeatRWAttr (6.14) stands here for the kernels
// whose requests hold each registered resource by itself (since 6.13).
const (
	FeatSingleMmap = 1 << 0
	FeatNoDrop     = 1 << 1
	FeatExtArg     = 1 << 8
	FeatRWAttr     = 1 << 16
)

// Submission queue flags, set by the kernel.
const (
	SQCQOverflow = 1 << 1 // completions wait outside the queue: enter to fetch them
	SQTaskrun    = 1 << 2 // completion work waits for its task: enter to run it
)

// Enter flags.
const (
	enterGetEvents      = 1 << 0
	enterExtArg         = 1 << 3
	enterRegisteredRing = 1 << 4
)

// Opcodes.
const (
	OpFsync       = 3
	OpReadFixed   = 4
	OpWriteFixed  = 5
	OpPollAdd     = 6
	OpSendmsg     = 9
	OpAccept      = 13
	OpAsyncCancel = 14
	OpFallocate   = 17
	OpRead        = 22
	OpWrite       = 23
	OpRecv        = 27
	OpShutdown    = 34
	OpSendmsgZC   = 48
)

// SQE flags, and the flags of single operations.
const (
	SQEFixedFile    = 1 << 0
	SQEBufferSelect = 1 << 5

	FsyncDatasync   = 1 << 0
	AcceptMultishot = 1 << 0 // in IOPrio
	RecvMultishot   = 1 << 1 // in IOPrio
	CancelAll       = 1 << 0
	CancelAny       = 1 << 2

	CQEMore  = 1 << 1
	CQENotif = 1 << 3
)

// Register operations.
const (
	registerFilesUpdate    = 6
	registerProbe          = 8
	registerFiles2         = 13
	registerBuffers2       = 15
	registerIOWQAff        = 17
	registerIOWQMaxWorkers = 19
	registerRingFDs        = 20
	unregisterRingFDs      = 21
	registerPbufRing       = 22
	unregisterPbufRing     = 23
	registerNAPI           = 27 // Linux 6.9

	rsrcRegisterSparse = 1 << 0
)

// SQE is a submission queue entry.
type SQE struct {
	Opcode   uint8
	Flags    uint8
	IOPrio   uint16
	FD       int32
	Off      uint64
	Addr     uint64
	Len      uint32
	OpFlags  uint32
	UserData uint64
	Buf      uint16 // index of a registered buffer, or a buffer group
	_        [22]byte
}

// CQE is a completion queue entry.
type CQE struct {
	UserData uint64
	Res      int32
	Flags    uint32
}

// uringParams is struct io_uring_params.
type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// pbuf is struct io_uring_buf. Of entry 0 the last field is the ring's tail.
type pbuf struct {
	addr uint64
	len  uint32
	// bidTail is bid and, above it, the field of the tail: two 16-bit fields that
	// share one word, which lets the tail be published with a 32-bit atomic store.
	bidTail uint32
}

// uringNAPI is struct io_uring_napi.
type uringNAPI struct {
	timeout uint32 // microseconds
	prefer  uint8
	_       [3]uint8
	_       uint64
}

// uringProbe is struct io_uring_probe with its operations.
type uringProbe struct {
	last, count uint8
	_           uint16
	_           [3]uint32
	ops         [256]struct {
		op, _ uint8
		flags uint16
		_     uint32
	}
}

const opSupported = 1 << 0

// pbufReg is struct io_uring_buf_reg.
type pbufReg struct {
	addr        uint64
	entries     uint32
	group, flag uint16
	_           [3]uint64
}

// rsrcRegister is struct io_uring_rsrc_register.
type rsrcRegister struct {
	nr, flags uint32
	_         uint64
	data      uint64
	tags      uint64
}

// rsrcUpdate is struct io_uring_rsrc_update.
type rsrcUpdate struct {
	offset uint32
	_      uint32
	data   uint64
}

// uringWait is struct io_uring_getevents_arg and the timespec it points at.
type uringWait struct {
	sigmask   uint64
	sigmaskSz uint32
	_         uint32
	ts        uint64
	sec, nsec int64
}

// ErrUringRefused: the system forbids or lacks io_uring. The text around it
// names the switch.
var ErrUringRefused = errors.New("io_uring is not available")

// explainSetup turns an errno of io_uring_setup into a sentence that names the
// switch in the way and what to do.
func explainSetup(e unix.Errno) error {
	switch e {
	case unix.ENOSYS:
		return fmt.Errorf("%w: the kernel has none (CONFIG_IO_URING), or a seccomp filter hides it: allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile: %w", ErrUringRefused, e)
	case unix.EPERM, unix.EACCES:
		b, _ := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
		switch strings.TrimSpace(string(b)) {
		case "1":
			return fmt.Errorf("%w: sysctl kernel.io_uring_disabled is 1: set it to 0, or run as a member of kernel.io_uring_group: %w", ErrUringRefused, e)
		case "2":
			return fmt.Errorf("%w: sysctl kernel.io_uring_disabled is 2: set it to 0: %w", ErrUringRefused, e)
		}
		return fmt.Errorf("%w: a seccomp filter or security module refuses it: allow io_uring_setup, io_uring_enter and io_uring_register: %w", ErrUringRefused, e)
	case unix.EINVAL:
		return fmt.Errorf("%w: the kernel refuses SINGLE_ISSUER and DEFER_TASKRUN: Linux 6.1 or newer is needed: %w", ErrUringRefused, e)
	case unix.ENOMEM:
		return fmt.Errorf("io_uring_setup: no memory for the ring: raise the memlock limit (ulimit -l): %w", e)
	}
	return fmt.Errorf("io_uring_setup: %w", e)
}
