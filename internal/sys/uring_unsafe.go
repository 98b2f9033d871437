package sys

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets for mapping the queues of a ring.
const (
	offSQRing = 0
	offSQEs   = 0x10000000
)

// Uring is one io_uring instance: its queues, mapped, and its registrations.
//
// It is set up with SINGLE_ISSUER and DEFER_TASKRUN: every method is called on
// the thread that made it, which must be locked.
type Uring struct {
	Features uint32
	NoArray  bool // the submission queue has no index array (Linux 6.6)

	fd      int     // -1 once closed
	enterFD uintptr // fd, or its index among the task's registered rings
	enterFl uintptr

	sqHead, sqTail, sqFlags *uint32
	cqHead, cqTail          *uint32
	sqMask, cqMask          uint32
	sqEntries               uint32
	sqes                    unsafe.Pointer
	cqes                    unsafe.Pointer

	tail    uint32 // SQEs handed out
	taken   uint32 // SQEs the kernel has taken
	head    uint32 // CQEs consumed
	scratch unsafe.Pointer

	rings, entries, page []byte
}

// Scratch layout: memory whose address the kernel holds.
const (
	scratchWait = 0   // uringWait
	scratchWord = 128 // 8 bytes for the user
	scratchFD   = 136 // the argument of UpdateFile
	scratchSize = 4096
)

// SetupUring makes a ring with room for entries submissions and cqEntries
// completions. legacy leaves out what kernels after the floor have brought, so
// that both branches can be tested on one machine.
func SetupUring(entries, cqEntries uint32, legacy bool) (*Uring, error) {
	const base = SetupSingleIssuer | SetupDeferTaskrun | SetupTaskrunFlag | SetupCQSize | SetupSubmitAll
	p := uringParams{flags: base | SetupNoSQArray, cqEntries: cqEntries}
	fd, e := uringSetup(entries, &p, legacy)
	if e == unix.EINVAL && !legacy {
		legacy = true
		fd, e = uringSetup(entries, &p, legacy)
	}
	if e != 0 {
		return nil, explainSetup(e)
	}
	const need = FeatSingleMmap | FeatNoDrop | FeatExtArg
	if p.features&need != need {
		unix.Close(fd)
		return nil, fmt.Errorf("%w: features %#x: Linux 6.1 or newer is needed", ErrUringRefused, p.features)
	}
	u := &Uring{
		Features: p.features, NoArray: !legacy, fd: fd, enterFD: uintptr(fd),
		sqMask: p.sqEntries - 1, cqMask: p.cqEntries - 1, sqEntries: p.sqEntries,
	}
	if err := u.mapQueues(&p, legacy); err != nil {
		u.Close()
		return nil, err
	}
	// A registered ring descriptor saves the lookup of each enter; without it
	// the descriptor itself serves.
	up := rsrcUpdate{offset: ^uint32(0), data: uint64(fd)}
	if _, e := u.register(registerRingFDs, unsafe.Pointer(&up), 1); e == 0 {
		u.enterFD, u.enterFl = uintptr(up.offset), enterRegisteredRing
	}
	return u, nil
}

func uringSetup(entries uint32, p *uringParams, legacy bool) (int, unix.Errno) {
	cq := p.cqEntries
	flags := p.flags
	if legacy {
		flags &^= SetupNoSQArray
	}
	*p = uringParams{flags: flags, cqEntries: cq}
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	return int(fd), e
}

func (u *Uring) mapQueues(p *uringParams, array bool) error {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	size := p.cq.cqes + p.cqEntries*uint32(unsafe.Sizeof(CQE{}))
	if array {
		size = max(size, p.sq.array+p.sqEntries*4)
	}
	var err error
	if u.rings, err = unix.Mmap(u.fd, offSQRing, int(size), prot, flags); err != nil {
		return fmt.Errorf("mmap of io_uring queues: %w", err)
	}
	if u.entries, err = unix.Mmap(u.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(SQE{})), prot, flags); err != nil {
		return fmt.Errorf("mmap of io_uring entries: %w", err)
	}
	if u.page, err = unix.Mmap(-1, 0, scratchSize, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return fmt.Errorf("mmap of io_uring scratch: %w", err)
	}
	if err := unix.Madvise(u.page, unix.MADV_DONTFORK); err != nil {
		return fmt.Errorf("madvise MADV_DONTFORK: %w", err)
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.rings[off])) }
	u.sqHead, u.sqTail, u.sqFlags = at(p.sq.head), at(p.sq.tail), at(p.sq.flags)
	u.cqHead, u.cqTail = at(p.cq.head), at(p.cq.tail)
	u.cqes = unsafe.Pointer(&u.rings[p.cq.cqes])
	u.sqes = unsafe.Pointer(&u.entries[0])
	u.scratch = unsafe.Pointer(&u.page[0])
	if array {
		for i := range p.sqEntries {
			*at(p.sq.array + 4*i) = i
		}
	}
	return nil
}

// SQE returns the next free submission entry, cleared, or nil when all are
// taken. It is submitted by the next enter.
//
//spindle:hot
func (u *Uring) SQE() *SQE {
	if u.tail-u.taken >= u.sqEntries {
		return nil
	}
	s := (*SQE)(unsafe.Add(u.sqes, uintptr(u.tail&u.sqMask)*unsafe.Sizeof(SQE{})))
	*s = SQE{}
	u.tail++
	return s
}

// Queued is the number of entries not submitted yet.
//
//spindle:hot
func (u *Uring) Queued() uint32 { return u.tail - u.taken }

// Flags loads the submission queue's flags: SQCQOverflow, SQTaskrun.
//
//spindle:hot
func (u *Uring) Flags() uint32 { return atomic.LoadUint32(u.sqFlags) }

// Ready is the number of completions in the queue.
//
//spindle:hot
func (u *Uring) Ready() uint32 { return atomic.LoadUint32(u.cqTail) - u.head }

// CQE returns the i-th completion of the queue; i is below what Ready said.
//
//spindle:hot
func (u *Uring) CQE(i uint32) CQE {
	return *(*CQE)(unsafe.Add(u.cqes, uintptr((u.head+i)&u.cqMask)*unsafe.Sizeof(CQE{})))
}

// Consume gives the first n completions of the queue back to the kernel.
//
//spindle:hot
func (u *Uring) Consume(n uint32) {
	u.head += n
	atomic.StoreUint32(u.cqHead, u.head)
}

// longSubmit is the number of submissions from which Poll may take long enough
// (they are done inside it: copies into sockets, mostly) to hold up a
// stop-the-world.
const longSubmit = 64

// Poll submits and runs completion work, without ever blocking. It keeps the
// thread's P while the call is short, because leaving the scheduler costs more.
//
//spindle:hot
func (u *Uring) Poll() unix.Errno {
	n := u.Queued()
	atomic.StoreUint32(u.sqTail, u.tail)
	var e unix.Errno
	if n < longSubmit {
		_, _, e = unix.RawSyscall6(unix.SYS_IO_URING_ENTER, u.enterFD, uintptr(n), 0, enterGetEvents|u.enterFl, 0, 0)
	} else {
		_, _, e = unix.Syscall6(unix.SYS_IO_URING_ENTER, u.enterFD, uintptr(n), 0, enterGetEvents|u.enterFl, 0, 0)
	}
	u.taken = atomic.LoadUint32(u.sqHead)
	return e
}

// Wait submits and sleeps until there is a completion or ns nanoseconds have
// passed (ETIME); ns < 0 waits without bound. It tells the scheduler, because a
// blocked thread that keeps its P stalls every stop-the-world.
//
//spindle:hot
func (u *Uring) Wait(ns int64) unix.Errno {
	n := u.Queued()
	atomic.StoreUint32(u.sqTail, u.tail)
	w := (*uringWait)(unsafe.Add(u.scratch, scratchWait))
	w.ts = 0
	if ns >= 0 {
		w.sec, w.nsec = ns/1e9, ns%1e9
		w.ts = uint64(uintptr(unsafe.Pointer(&w.sec)))
	}
	_, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, u.enterFD, uintptr(n), 1,
		enterGetEvents|enterExtArg|u.enterFl, uintptr(unsafe.Pointer(w)), unsafe.Offsetof(w.sec))
	u.taken = atomic.LoadUint32(u.sqHead) // whatever e says of the wait
	return e
}

// Word is 8 bytes of memory that lives as long as the ring.
func (u *Uring) Word() uint64 { return uint64(uintptr(unsafe.Add(u.scratch, scratchWord))) }

func (u *Uring) register(op uintptr, arg unsafe.Pointer, n uintptr) (int, unix.Errno) {
	r, _, e := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(u.fd), op, uintptr(arg), n, 0, 0)
	return int(r), e
}

// RegisterFiles makes a table of n empty places for files.
func (u *Uring) RegisterFiles(n int) error {
	reg := rsrcRegister{nr: uint32(n), flags: rsrcRegisterSparse}
	if _, e := u.register(registerFiles2, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); e != 0 {
		return fmt.Errorf("io_uring: table of %d files: %w", n, e)
	}
	return nil
}

// UpdateFile puts fd into place i of the table; -1 empties it.
func (u *Uring) UpdateFile(i uint32, fd int32) error {
	// The kernel finds the descriptor by a number in a struct, which nobody adjusts
	// when the stack moves: so it is not there.
	at := unsafe.Add(u.scratch, scratchFD)
	*(*int32)(at) = fd
	up := rsrcUpdate{offset: i, data: uint64(uintptr(at))}
	if _, e := u.register(registerFilesUpdate, unsafe.Pointer(&up), 1); e != 0 {
		return fmt.Errorf("io_uring: file %d into place %d: %w", fd, i, e)
	}
	return nil
}

// RegisterBuffer pins the size bytes at base as registered buffers of chunk
// bytes each, numbered from 0.
func (u *Uring) RegisterBuffer(base uintptr, size, chunk uint64) error {
	var vecs []unix.Iovec
	for off := uint64(0); off < size; off += chunk {
		v := unix.Iovec{Base: (*byte)(pointer(base + uintptr(off)))}
		v.SetLen(int(min(chunk, size-off)))
		vecs = append(vecs, v)
	}
	// As a number in a struct their address neither keeps them nor follows them.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(unsafe.SliceData(vecs))
	reg := rsrcRegister{nr: uint32(len(vecs)), data: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(vecs))))}
	_, e := u.register(registerBuffers2, unsafe.Pointer(&reg), unsafe.Sizeof(reg))
	if e != 0 {
		return fmt.Errorf("io_uring: registration of %d bytes: %w", size, e)
	}
	return nil
}

// RegisterWorkers keeps the ring's kernel worker threads on the CPUs of mask
// and bounds their number (bounded work: regular files; unbounded: the rest).
// An empty mask or a zero leaves things as they are.
func (u *Uring) RegisterWorkers(mask CPUSet, bounded, unbounded uint32) error {
	if mask.Count() != 0 {
		if _, e := u.register(registerIOWQAff, unsafe.Pointer(&mask), unsafe.Sizeof(mask)); e != 0 {
			return fmt.Errorf("io_uring: affinity of workers: %w", e)
		}
	}
	limits := [2]uint32{bounded, unbounded}
	if _, e := u.register(registerIOWQMaxWorkers, unsafe.Pointer(&limits), 2); e != 0 {
		return fmt.Errorf("io_uring: number of workers: %w", e)
	}
	return nil
}

// RegisterNAPI has Wait poll the device queues of the ring's sockets for up to
// that many microseconds before it sleeps (Linux 6.9). prefer keeps their
// interrupts off meanwhile.
func (u *Uring) RegisterNAPI(micros uint32, prefer bool) error {
	n := uringNAPI{timeout: micros}
	if prefer {
		n.prefer = 1
	}
	if _, e := u.register(registerNAPI, unsafe.Pointer(&n), 1); e != 0 {
		return fmt.Errorf("io_uring: NAPI busy polling: %w", e)
	}
	return nil
}

// Supports tells whether the kernel knows an opcode.
func (u *Uring) Supports(op uint8) bool {
	p := uringProbe{}
	if _, e := u.register(registerProbe, unsafe.Pointer(&p), uintptr(len(p.ops))); e != 0 {
		return false
	}
	return op <= p.last && p.ops[op].flags&opSupported != 0
}

// PbufRing is a ring of provided buffers in memory of the caller's.
type PbufRing struct {
	ring  unsafe.Pointer
	mask  uint32
	tail  uint32
	shown uint32 // the tail the kernel knows
}

// PbufRingSize is the memory a PbufRing of n buffers needs, in bytes; it is
// page-aligned.
func PbufRingSize(n int) uint32 { return uint32(n) * uint32(unsafe.Sizeof(pbuf{})) }

// RegisterPbufRing registers group with a ring of n buffers, a power of two, at addr.
func (u *Uring) RegisterPbufRing(group uint16, addr uintptr, n int) (*PbufRing, error) {
	reg := pbufReg{addr: uint64(addr), entries: uint32(n), group: group}
	if _, e := u.register(registerPbufRing, unsafe.Pointer(&reg), 1); e != 0 {
		return nil, fmt.Errorf("io_uring: ring of %d provided buffers: %w", n, e)
	}
	clear(Bytes(addr, PbufRingSize(n)))
	return &PbufRing{ring: pointer(addr), mask: uint32(n - 1)}, nil
}

// UnregisterPbufRing ends group.
func (u *Uring) UnregisterPbufRing(group uint16) error {
	reg := pbufReg{group: group}
	if _, e := u.register(unregisterPbufRing, unsafe.Pointer(&reg), 1); e != 0 {
		return fmt.Errorf("io_uring: end of provided buffers: %w", e)
	}
	return nil
}

func (p *PbufRing) entry(i uint32) *pbuf {
	return (*pbuf)(unsafe.Add(p.ring, uintptr(i&p.mask)*unsafe.Sizeof(pbuf{})))
}

// Add provides buffer id; the kernel sees it after Publish.
//
//spindle:hot
func (p *PbufRing) Add(id uint16, addr uintptr, n uint32) {
	b := p.entry(p.tail)
	b.addr, b.len = uint64(addr), n
	// Only the lower half: of entry 0 the upper half is the tail.
	*(*uint16)(unsafe.Pointer(&b.bidTail)) = id
	p.tail++
}

// Publish shows the kernel what was added. The kernel never writes to the ring,
// so a whole word may be stored to publish the half that is the tail.
//
//spindle:hot
func (p *PbufRing) Publish() {
	if p.tail == p.shown {
		return
	}
	w := &p.entry(0).bidTail
	atomic.StoreUint32(w, *w&0xffff|p.tail<<16)
	p.shown = p.tail
}

// Close ends the ring. Preconditions: nothing is in flight.
func (u *Uring) Close() error {
	if u.fd < 0 {
		return nil
	}
	if u.enterFl != 0 {
		up := rsrcUpdate{offset: uint32(u.enterFD)}
		u.register(unregisterRingFDs, unsafe.Pointer(&up), 1)
	}
	err := unix.Close(u.fd)
	u.fd = -1
	for _, m := range [][]byte{u.rings, u.entries, u.page} {
		if m != nil {
			if e := unix.Munmap(m); e != nil && err == nil {
				err = e
			}
		}
	}
	u.rings, u.entries, u.page = nil, nil, nil
	return err
}
