package uring

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"spindle/internal/sys"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// Defaults of Config.
const (
	DefaultEntries     = 1024
	DefaultCompletions = 8 * 1024
	DefaultFiles       = 4096
)

// MaxFiles bounds a ring's table of files.
const MaxFiles = 1 << 15

// bufferChunk is the most bytes the kernel takes as one registered buffer.
const bufferChunk = 1 << 30

// closeTimeout is how long Close waits for cancelled operations to end.
const closeTimeout = 2 * time.Second

// Tags of the ring's own operations. A reactor cannot make them: their slot
// number is beyond its table.
const (
	tagWake   = ^uint64(0)
	tagCancel = ^uint64(1)
)

// ErrStuck: operations did not end when the ring was closed; their memory is lost.
var ErrStuck = errors.New("uring: operations do not end")

// ErrFilesFull: the table of files has no free place.
var ErrFilesFull = errors.New("uring: too many files")

// Config makes a Ring.
type Config struct {
	Arena *mem.Arena
	Clock clock.Clock // the clock that Enter's deadlines are of

	// Sizes; 0 takes the default.
	Entries     int // submissions between two Enters; a power of two
	Completions int // completions the queue holds before the kernel sets some aside
	Files       int // places in the table of files; at most the process's descriptors are made

	// WorkerCPUs keeps the kernel's worker threads (blocking file operations) off
	// the reactors' cores; nil leaves them where the reactor's thread may run.
	WorkerCPUs []int

	// BusyPollUS has a sleeping Enter poll the device queues of its sockets for so
	// many microseconds first (NAPI); 0 sleeps at once.
	BusyPollUS uint32

	// Legacy uses nothing that kernels newer than Linux 6.1 have brought.
	Legacy bool
}

// Ring is an io_uring instance. See the package comment for its rules.
type Ring struct {
	u     *sys.Uring
	clock clock.Clock
	arena *mem.Arena

	files    []file // by ring.File
	freeFile []int32
	// perFile: a request in flight holds its own file only. Before Linux 6.13 a
	// removed file was kept until every request that used the table at the time
	// had ended, so one idle connection's multishot receive would keep all
	// sockets closed after its start.
	perFile bool

	// The arena's region as registered buffers of bufferChunk bytes each.
	fixedBase uintptr
	fixedLen  uint64

	groups []*group

	inflight  int  // operations whose last completion is to come
	wakeArmed bool // the read of the event counter is in flight
	refused   bool // a Prep call found the queue full and is to be repeated
	event     int  // the event counter
	signalled atomic.Bool
	wakers    atomic.Int32 // Wake calls between their look at closed and their write
	closed    atomic.Bool

	syscalls atomic.Uint64
	// noBusyPoll tells why device queues are not polled as was asked for.
	noBusyPoll error
	// noFixed tells why the arena is not registered; nil when it is.
	noFixed error
}

type file struct {
	fd    int32 // -1: the place is free
	fixed bool  // in the kernel's table, at the same index
}

// New makes a ring on the calling thread, which is from now on the only one to
// use it. Preconditions: the goroutine is locked to its thread.
func New(c Config) (*Ring, error) {
	if c.Entries == 0 {
		c.Entries = DefaultEntries
	}
	if c.Completions == 0 {
		c.Completions = DefaultCompletions
	}
	if c.Files == 0 {
		c.Files = DefaultFiles
	}
	if c.Files < 1 || c.Files > MaxFiles {
		return nil, fmt.Errorf("uring: table of %d files: %w", c.Files, syscall.EINVAL)
	}
	limit, err := sys.FileLimit()
	if err != nil {
		return nil, err
	}
	c.Files = int(min(uint64(c.Files), limit)) // more cannot be open, and the kernel refuses a larger table
	u, err := sys.SetupUring(uint32(c.Entries), uint32(c.Completions), c.Legacy)
	if err != nil {
		return nil, err
	}
	r := &Ring{
		u: u, clock: c.Clock, arena: c.Arena, event: -1,
		files: make([]file, c.Files), freeFile: make([]int32, 0, c.Files),
		perFile: !c.Legacy && u.Features&sys.FeatRWAttr != 0,
	}
	for i := c.Files - 1; i >= 0; i-- {
		r.files[i].fd = -1
		r.freeFile = append(r.freeFile, int32(i))
	}
	if err := r.register(c); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Ring) register(c Config) error {
	if err := r.u.RegisterFiles(c.Files); err != nil {
		return err
	}
	if len(c.WorkerCPUs) > 0 {
		var set sys.CPUSet
		for _, cpu := range c.WorkerCPUs {
			set.Set(cpu)
		}
		if err := r.u.RegisterWorkers(set, 0, 0); err != nil {
			return err
		}
	}
	region := c.Arena.Region()
	if err := r.u.RegisterBuffer(region.Base, region.Len, bufferChunk); err != nil {
		// Everything works with plain addresses, at the price of pinning pages for
		// each operation.
		r.noFixed = err
		if errors.Is(err, syscall.ENOMEM) {
			r.noFixed = fmt.Errorf("%w: raise the memlock limit (ulimit -l) above the arenas' size", err)
		}
	} else {
		r.fixedBase, r.fixedLen = region.Base, region.Len
	}
	if c.BusyPollUS > 0 {
		r.noBusyPoll = sys.ErrUringRefused
		if !c.Legacy {
			r.noBusyPoll = r.u.RegisterNAPI(c.BusyPollUS, true)
		}
	}
	var err error
	r.event, err = sys.Eventfd()
	return err
}

// NoBusyPoll tells why the ring does not poll device queues though it was asked
// to; nil when it does, or was not asked.
func (r *Ring) NoBusyPoll() error { return r.noBusyPoll }

// NoFixedBuffers tells why file I/O does without registered buffers, for one
// line in the log; nil when it has them.
func (r *Ring) NoFixedBuffers() error { return r.noFixed }

// Syscalls is the number of times the ring has entered the kernel to submit or
// reap. Safe from any thread.
func (r *Ring) Syscalls() uint64 { return r.syscalls.Load() }

// Inflight is the number of operations whose last completion is to come,
// the ring's own not counted. Preconditions: runs on the owning reactor.
func (r *Ring) Inflight() int {
	if r.wakeArmed {
		return r.inflight - 1
	}
	return r.inflight
}

// Enter submits what was prepared and reaps into out.
//
//spindle:hot
func (r *Ring) Enter(out []ring.CQE, until clock.Time) (int, error) {
	for _, g := range r.groups {
		g.ring.Publish()
	}
	if !r.wakeArmed {
		r.armWake()
	}
	e := syscall.Errno(0)
	switch {
	case until != 0 && r.u.Ready() == 0 && !r.refused:
		e = r.wait(until)
	case r.u.Queued() != 0 || r.u.Flags()&(sys.SQTaskrun|sys.SQCQOverflow) != 0:
		r.syscalls.Add(1)
		e = r.u.Poll()
	}
	r.refused = false
	// EINTR: a signal came; ETIME: until came; EBUSY: the kernel takes nothing
	// more before completions are reaped; EAGAIN: it is short of memory. What was
	// not taken stays queued for the next call.
	switch e {
	case 0, syscall.EINTR, syscall.ETIME, syscall.EBUSY, syscall.EAGAIN:
	default:
		return 0, broken(e)
	}
	return r.reap(out), nil
}

// broken is apart from Enter because making an error allocates.
//
//go:noinline
func broken(e syscall.Errno) error { return fmt.Errorf("io_uring_enter: %w", e) }

// wait sleeps until a completion, or until.
//
//spindle:hot
func (r *Ring) wait(until clock.Time) syscall.Errno {
	ns := int64(-1)
	if until != clock.Never {
		ns = max(int64(until.Sub(r.clock.Now())), 0)
	}
	r.syscalls.Add(1)
	return r.u.Wait(ns)
}

// reap moves completions into out, without the ring's own.
//
//spindle:hot
func (r *Ring) reap(out []ring.CQE) int {
	ready := r.u.Ready()
	if ready == 0 {
		return 0
	}
	n, used := 0, uint32(0)
	for used < ready && n < len(out) {
		c := r.u.CQE(used)
		used++
		if c.Flags&sys.CQEMore == 0 {
			r.inflight--
		}
		switch c.UserData {
		case tagWake:
			// Cleared before the caller looks at its queues: a Wake that found the
			// flag set posted before this look.
			r.wakeArmed = false
			r.signalled.Store(false)
		case tagCancel:
		default:
			out[n] = ring.CQE{Tag: ring.Tag(c.UserData), Res: c.Res, Flags: c.Flags}
			n++
		}
	}
	r.u.Consume(used)
	return n
}

//spindle:hot
func (r *Ring) armWake() {
	s := r.sqe(sys.OpRead, tagWake)
	if s == nil {
		return // refused: Enter will not sleep, and comes again
	}
	s.FD, s.Addr, s.Len = int32(r.event), r.u.Word(), 8
	s.Off = ^uint64(0) // the current position: an event counter has none
	r.wakeArmed = true
}

// Wake makes a sleeping Enter, or else the next that would sleep, return.
// Safe from any thread, also after Close.
func (r *Ring) Wake() {
	if r.signalled.Swap(true) {
		return // somebody's signal is on its way
	}
	// Close waits for wakers, so the descriptor is not somebody else's by now.
	r.wakers.Add(1)
	if !r.closed.Load() {
		// The counter cannot overflow: signalled keeps it at one or two.
		if err := sys.Signal(r.event); err != nil {
			panic("uring: wake: " + err.Error())
		}
	}
	r.wakers.Add(-1)
}

// Close cancels what is in flight, waits a bounded time for it to end, and
// frees the ring. When something does not end, the error says so and the memory
// it may still write to is given up.
func (r *Ring) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	for r.wakers.Load() != 0 {
		runtime.Gosched()
	}
	err := r.drain()
	if r.event >= 0 {
		if e := sys.Close(r.event); e != nil && err == nil {
			err = e
		}
	}
	if r.inflight != 0 {
		return errors.Join(err, fmt.Errorf("%w: %d", ErrStuck, r.inflight))
	}
	for i, g := range r.groups {
		if e := r.u.UnregisterPbufRing(uint16(i)); e != nil && err == nil {
			err = e
		}
		g.free(r.arena)
	}
	r.groups = nil
	if e := r.u.Close(); e != nil && err == nil {
		err = e
	}
	return err
}

// drain cancels all operations and reaps their completions.
func (r *Ring) drain() error {
	if r.inflight == 0 && r.u.Queued() == 0 {
		return nil
	}
	var out [64]ring.CQE
	cancelled := false
	for deadline := r.clock.Now().Add(closeTimeout); r.inflight > 0 && r.clock.Now() < deadline; {
		if !cancelled {
			if s := r.sqe(sys.OpAsyncCancel, tagCancel); s != nil {
				s.OpFlags = sys.CancelAll | sys.CancelAny
				cancelled = true
			}
		}
		r.syscalls.Add(1)
		switch e := r.u.Wait(int64(10 * time.Millisecond)); e {
		case 0, syscall.EINTR, syscall.ETIME, syscall.EBUSY, syscall.EAGAIN:
		default:
			return fmt.Errorf("io_uring_enter: %w", e)
		}
		if r.reap(out[:]) == 0 && r.inflight > 0 {
			cancelled = false // what was prepared after the first cancel
		}
	}
	return nil
}
