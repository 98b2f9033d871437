// Package ring is the kernel edge of a reactor: every socket, file and fd
// operation it makes goes through a Ring. The real one drives io_uring; the
// simulated one (ring/simring) plays network, disks and their faults from a seed.
//
// Threading: a Ring has one owner, its reactor's thread; only Wake may be
// called from any thread. Kernel may be called from any thread.
// Memory: every buffer and every Msg handed to a Prep call stays with the ring
// until that operation's last completion.
package ring

import (
	"net/netip"

	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

// Tag names an operation: the reactor's slot, its generation and an argument.
// Never a pointer: a stale completion must be recognised, not followed.
type Tag uint64

// File is an index into the ring's table of registered files.
type File int32

// NoFile is a File that is not installed.
const NoFile File = -1

// Group is a set of provided receive buffers.
type Group uint16

// CQE is a completion: Res is the syscall's result, a negative errno on failure.
type CQE struct {
	Tag   Tag
	Res   int32
	Flags uint32
}

// Completion flags, with the kernel's values (io_uring(7)).
const (
	FlagBuffer uint32 = 1 << 0 // a provided buffer was consumed; see BufferID
	FlagMore   uint32 = 1 << 1 // the operation has a completion to come
	FlagNotif  uint32 = 1 << 3 // of SendZC: what was sent is no longer referred to
)

// BufferID is the provided buffer a receive completion filled.
// Preconditions: Flags has FlagBuffer.
func (c CQE) BufferID() uint16 { return uint16(c.Flags >> 16) }

// WriteFlags qualify a Write.
type WriteFlags uint32

// FUA makes the write durable before it completes (RWF_DSYNC).
const FUA WriteFlags = 1 << 0

// Allocate modes.
const (
	PunchHole uint32 = iota // deallocate; the range reads as zeroes
	ZeroRange               // zero the range, keep it allocated
)

// Ring batches kernel operations. Prep calls (Accept to Cancel) return false
// when the submission queue is full: nothing was queued, retry next turn.
// Each accepted Prep call completes at least once; the last completion of a
// tag is the one without FlagMore.
type Ring interface {
	Accept(t Tag, f File) bool              // multishot; Res is the new fd
	Recv(t Tag, f File, g Group) bool       // multishot into provided buffers; -ENOBUFS when none is left
	RecvInto(t Tag, f File, b mem.Ref) bool // one shot, waits for all of b unless the peer closes
	Send(t Tag, f File, m Msg, n int) bool  // sendmsg of the first n vectors of m; Res may be short
	// SendNow is a sendmsg here and now, which does not wait: -EAGAIN when there is
	// no room. Nothing refers to m after it.
	SendNow(f File, m Msg, n int) int32
	Read(t Tag, f File, b mem.Ref, off int64) bool // may be short
	Write(t Tag, f File, b mem.Ref, off int64, fl WriteFlags) bool
	Sync(t Tag, f File) bool // fdatasync
	Allocate(t Tag, f File, mode uint32, off, n int64) bool
	PollFD(t Tag, fd int) bool     // one shot, readable
	Shutdown(t Tag, f File) bool   // both directions
	Cancel(t Tag, victim Tag) bool // Res: 0 found, -ENOENT, -EALREADY

	NewGroup(count int, size uint32) (Group, error) // count is a power of two; memory from the reactor's arena
	Buffer(g Group, id uint16) mem.Ref
	Recycle(g Group, id uint16)

	Install(fd int) (File, error)
	Remove(f File) // with nothing in flight on f; does not close the fd

	// Enter submits what was prepared and reaps into out. until 0 polls and
	// never blocks; otherwise it may sleep until a completion, Wake or until.
	Enter(out []CQE, until clock.Time) (int, error)
	Wake()            // from any thread: makes a sleeping or the next sleeping Enter return
	Syscalls() uint64 // kernel entries made so far, for syscalls per I/O
	Close() error
}

// ZeroCopier is a Ring whose kernel can send from where data lies, without the
// copy that Send makes.
type ZeroCopier interface {
	Ring
	// SendZC is Send with two completions: the first with the result and, unless
	// it failed, FlagMore; the second with FlagNotif, when the peer has
	// acknowledged the data. Until that one nothing that m referred to may change;
	// m itself may after the first.
	SendZC(t Tag, f File, m Msg, n int) bool
	// ZeroCopy tells whether the kernel knows how.
	ZeroCopy() bool
}

// Kernel makes and closes the fds that rings operate on. Its calls may block
// and are made off the reactor (through Offload), except PeerOf and CloseFD.
type Kernel interface {
	Listen(addr netip.AddrPort, opt ListenOptions) (fd int, bound netip.AddrPort, err error)
	Open(path string, fl OpenFlags) (fd int, info FileInfo, err error)
	Stat(fd int) (FileInfo, error)
	Addrs(fd int) (local, peer netip.AddrPort, err error) // of a connected socket
	CloseFD(fd int) error
}

// ListenOptions are socket options inherited by accepted connections.
type ListenOptions struct {
	Backlog    int
	Congestion string // TCP congestion control; "" leaves the system's
	SendBuffer int    // bytes; 0 leaves the system's
	RecvBuffer int
	// UserTimeoutMS bounds how long sent data may stay unacknowledged (TCP_USER_TIMEOUT).
	UserTimeoutMS int
	// BusyPollUS is how long a sleeper polls the device's queue first (SO_BUSY_POLL).
	BusyPollUS int
}

// OpenFlags qualify Open.
type OpenFlags uint32

const (
	OpenReadOnly OpenFlags = 1 << iota
	OpenDirect             // O_DIRECT; the error is the kernel's when the file system refuses
)

// FileInfo describes an opened file or block device.
type FileInfo struct {
	Size        int64
	BlockDevice bool
	Align       uint32 // bytes: alignment that O_DIRECT wants of offset, length and memory
	Discard     bool   // PunchHole is expected to work
	// Of a regular file: what it occupies and what its file system has left, in bytes.
	Used, Free uint64
}
