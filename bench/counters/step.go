package counters

import (
	"runtime"

	"spindle/internal/sys"
)

// Instructions executes one thread of a process instruction by instruction, with
// the rest of it standing still, from one system call of that number to the
// turns-th after it, and returns how many instructions that took, the kernel's
// not among them. It needs no hardware counters and no machine at rest: what a
// thread executes does not depend on how long that takes. The price is some
// microseconds an instruction.
//
// settle is called after each of the calls: it waits until the other side has
// done its part, so that the thread never polls in vain.
func Instructions(pid, tid, call, turns, limit int, settle func(turn int)) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s, err := sys.NewStepper(pid)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	return s.Count(tid, call, turns, limit, settle)
}
