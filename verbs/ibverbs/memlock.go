package ibverbs

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MemlockLimit is how much memory the process may lock, which registering needs.
type MemlockLimit struct {
	Bytes     uint64
	Unlimited bool // by the limit or by CAP_IPC_LOCK
}

// Memlock asks for the limit of this process.
func Memlock() MemlockLimit {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &r); err != nil {
		return MemlockLimit{Unlimited: true} // not known: do not blame it
	}
	return MemlockLimit{Bytes: r.Cur, Unlimited: r.Cur == unix.RLIM_INFINITY || mayLock(statusFile())}
}

func statusFile() string {
	b, _ := os.ReadFile("/proc/self/status")
	return string(b)
}

// mayLock tells whether a process status has CAP_IPC_LOCK (14) in effect.
func mayLock(status string) bool {
	_, caps, _ := strings.Cut(status, "\nCapEff:")
	caps, _, _ = strings.Cut(caps, "\n")
	bits, _ := strconv.ParseUint(strings.TrimSpace(caps), 16, 64)
	return bits>>unix.CAP_IPC_LOCK&1 != 0
}

func (m MemlockLimit) String() string {
	if m.Unlimited {
		return "locked memory is not limited"
	}
	return fmt.Sprintf("%d KiB may be locked (ulimit -l, LimitMEMLOCK in the unit, CAP_IPC_LOCK)", m.Bytes>>10)
}
