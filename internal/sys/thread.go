package sys

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPUSet is a set of CPUs.
type CPUSet = unix.CPUSet

// MaxCPUs is the number of CPUs a CPUSet can name.
const MaxCPUs = 1024

// PinThread binds the calling thread to one CPU.
// Preconditions: the goroutine is locked to its thread.
func PinThread(cpu int) error {
	if cpu < 0 || cpu >= MaxCPUs {
		return fmt.Errorf("cpu %d: %w", cpu, unix.EINVAL)
	}
	var s CPUSet
	s.Set(cpu)
	if err := unix.SchedSetaffinity(0, &s); err != nil {
		return fmt.Errorf("sched_setaffinity to cpu %d: %w", cpu, err)
	}
	return nil
}

// Affinity returns the CPUs the calling thread may run on.
func Affinity() (CPUSet, error) {
	var s CPUSet
	if err := unix.SchedGetaffinity(0, &s); err != nil {
		return s, fmt.Errorf("sched_getaffinity: %w", err)
	}
	return s, nil
}

// SetAffinity confines the calling thread to the CPUs of s.
// Preconditions: the goroutine is locked to its thread.
func SetAffinity(s CPUSet) error {
	if err := unix.SchedSetaffinity(0, &s); err != nil {
		return fmt.Errorf("sched_setaffinity: %w", err)
	}
	return nil
}

// Yield has the calling thread wait behind the others that are ready to run on
// its CPU (sched_yield(2)). It never sleeps.
func Yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// ThreadID is the kernel's number of the calling thread.
func ThreadID() int { return unix.Gettid() }

// SetIOFlusher tells the kernel that the process serves storage (prctl(2)
// PR_SET_IO_FLUSHER): its allocations must not wait for writeback that may in
// turn wait for it. Needs CAP_SYS_RESOURCE.
func SetIOFlusher() error {
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_IO_FLUSHER: %w", err)
	}
	return nil
}

// MemlockLimit returns how many bytes the process may lock or pin;
// ^uint64(0) is no limit. Processes with CAP_IPC_LOCK are not bound by it.
func MemlockLimit() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return 0, fmt.Errorf("getrlimit RLIMIT_MEMLOCK: %w", err)
	}
	return l.Cur, nil
}

// FileLimit returns how many descriptors the process may have, which also
// bounds an io_uring's table of files.
func FileLimit() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("getrlimit RLIMIT_NOFILE: %w", err)
	}
	return l.Cur, nil
}

// Usage is what a thread has used since it began.
type Usage struct {
	User, System           time.Duration
	Voluntary, Involuntary int64 // context switches
}

// ThreadUsage returns the calling thread's usage.
// Preconditions: the goroutine is locked to its thread.
func ThreadUsage() (Usage, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &r); err != nil {
		return Usage{}, fmt.Errorf("getrusage: %w", err)
	}
	return Usage{
		User: time.Duration(r.Utime.Nano()), System: time.Duration(r.Stime.Nano()),
		Voluntary: r.Nvcsw, Involuntary: r.Nivcsw,
	}, nil
}
