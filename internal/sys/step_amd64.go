package sys

import "golang.org/x/sys/unix"

// afterCall is the number of the system call that the instruction before was, or
// -1: SYSCALL leaves the address of the next instruction in RCX (Intel SDM 2B),
// which hardly anything else does.
func afterCall(tid int) (int, error) {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return -1, err
	}
	if r.Rcx != r.Rip {
		return -1, nil
	}
	return int(int64(r.Orig_rax)), nil
}
