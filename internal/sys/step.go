package sys

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTrace: a process cannot be traced here, or ended meanwhile.
var ErrTrace = errors.New("cannot trace")

// ErrStuck: a thread waits for another one of its process, which stands still.
// It may be asked again: Go's threads do so when they are caught in the middle of
// a collection or of a preemption.
var ErrStuck = errors.New("a traced thread waits for one that stands still")

// stuckTime is how long an instruction may take.
const stuckTime = time.Second

// Numbers of system calls for Count.
const (
	CallUringEnter = unix.SYS_IO_URING_ENTER
	CallSendto     = unix.SYS_SENDTO
)

// Stepper executes one thread of a process instruction by instruction while all
// its others stand still, to count what hardware counters are not there for.
//
// Every call is made on the thread that made it, which must be locked (ptrace(2)).
type Stepper struct {
	pid  int
	tids []int
}

// NewStepper stops every thread of a process.
// Preconditions: the goroutine is locked to its thread.
func NewStepper(pid int) (*Stepper, error) {
	s := &Stepper{pid: pid}
	for { // threads may be made while others are being stopped
		tids, err := threads(pid)
		if err != nil {
			s.Close()
			return nil, err
		}
		found := false
		for _, tid := range tids {
			if slices.Contains(s.tids, tid) {
				continue
			}
			found = true
			if err := s.stop(tid); err != nil {
				s.Close()
				return nil, err
			}
		}
		if !found {
			return s, nil
		}
	}
}

func threads(pid int) (list []int, err error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrace, err)
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err == nil {
			list = append(list, tid)
		}
	}
	return list, nil
}

func (s *Stepper) stop(tid int) error {
	if err := unix.PtraceSeize(tid); err != nil {
		return fmt.Errorf("%w: thread %d: %w", ErrTrace, tid, err)
	}
	s.tids = append(s.tids, tid)
	if err := unix.PtraceInterrupt(tid); err != nil {
		return fmt.Errorf("%w: thread %d: %w", ErrTrace, tid, err)
	}
	_, err := s.wait(tid)
	return err
}

// wait waits until a thread stands still, and tells for which signal.
func (s *Stepper) wait(tid int) (unix.Signal, error) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(tid, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("%w: thread %d: %w", ErrTrace, tid, err)
		}
		if !ws.Stopped() {
			return 0, fmt.Errorf("%w: thread %d has ended", ErrTrace, tid)
		}
		return ws.StopSignal(), nil
	}
}

// watch interrupts a thread by a signal when its count of instructions has not
// grown for stuckTime. The process never sees the signal. SIGURG is what Go's
// runtime sends its threads itself.
func (s *Stepper) watch(tid int, count *atomic.Int64, fired *atomic.Bool) (end func()) {
	quit := make(chan struct{})
	go func() {
		tick := time.NewTicker(stuckTime)
		defer tick.Stop()
		for last := int64(-1); ; {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			if n := count.Load(); n != last {
				last = n
				continue
			}
			fired.Store(true)
			_ = unix.Tgkill(s.pid, tid, unix.SIGURG) // it may have ended
		}
	}()
	return func() { close(quit) }
}

// Count executes a thread from the end of one system call of that number to the
// end of the turns-th after it, and returns the instructions between; a system
// call is one. After each such call settle is told how many there were, with the
// thread standing still. Signals for the thread are dropped: they are the
// runtime's wish to preempt it. More than limit instructions are an error, and so
// is one that does not end (ErrStuck).
func (s *Stepper) Count(tid, call, turns, limit int, settle func(turn int)) (int, error) {
	var count atomic.Int64
	var fired atomic.Bool
	defer s.watch(tid, &count, &fired)()
	from, seen := 0, -1
	for n := 1; n <= limit; n++ {
		if err := unix.PtraceSingleStep(tid); err != nil {
			return 0, fmt.Errorf("%w: thread %d: %w", ErrTrace, tid, err)
		}
		sig, err := s.wait(tid)
		if err != nil {
			return 0, err
		}
		if sig == unix.SIGURG && fired.Load() {
			return 0, fmt.Errorf("%w: thread %d", ErrStuck, tid)
		}
		count.Store(int64(n))
		made, err := afterCall(tid)
		if err != nil {
			return 0, fmt.Errorf("%w: thread %d: %w", ErrTrace, tid, err)
		}
		if made != call {
			continue
		}
		if seen++; seen == 0 {
			from = n
		}
		settle(seen)
		if seen == turns {
			return n - from, nil
		}
	}
	return 0, fmt.Errorf("%w: thread %d made %d of %d system calls %d in %d instructions", ErrTrace, tid, max(seen, 0), turns, call, limit)
}

// Close lets the process go on.
func (s *Stepper) Close() {
	for _, tid := range s.tids {
		_ = unix.PtraceDetach(tid) // it may have ended
	}
	s.tids = nil
}
