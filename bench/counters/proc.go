package counters

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// tasks are the threads of a process.
func tasks(pid int) ([]string, error) {
	dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err == nil && len(dirs) == 0 {
		err = fmt.Errorf("%w: %d", ErrNoTarget, pid)
	}
	return dirs, err
}

// readProc sums the threads' own accounts (proc(5)).
func readProc(pid int) (Counts, error) {
	dirs, err := tasks(pid)
	if err != nil {
		return Counts{}, err
	}
	c := Counts{Wakeups: Unknown, Syscalls: Unknown}
	for _, d := range dirs {
		text, err := os.ReadFile(d + "/status")
		if err != nil {
			continue // it has ended since
		}
		c.Voluntary += field(text, "voluntary_ctxt_switches:")
		c.Involuntary += field(text, "nonvoluntary_ctxt_switches:")
	}
	c.Run, err = runTime(pid)
	return c, err
}

// field is the number after a name that begins a line.
func field(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		if v, ok := bytes.CutPrefix(line, []byte(name)); ok {
			n, _ := strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64)
			return n
		}
	}
	return 0
}

// runTime is the CPU time of a process's threads: the first field of schedstat.
func runTime(pid int) (int64, error) {
	dirs, err := tasks(pid)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for _, d := range dirs {
		text, err := os.ReadFile(d + "/schedstat")
		if err != nil {
			continue
		}
		first, _, _ := bytes.Cut(text, []byte(" "))
		n, err := strconv.ParseInt(string(first), 10, 64)
		if err != nil {
			return Unknown, nil
		}
		total += n
	}
	return total, nil
}
