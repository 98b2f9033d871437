package counters

import (
	"errors"
	"fmt"
	"os"
)

// ErrNoTarget: there is no such process.
var ErrNoTarget = errors.New("counters: no such process")

// Target is what is counted: a process with all its threads, or kernel threads
// by the beginning of their names, for targets that live in the kernel.
type Target struct {
	PID      int
	Prefixes []string // of at most 8 bytes, such as "iscsi_tr", "kworker/"
}

// Counts are totals since some start; differences mean something. A field that
// this system cannot tell is Unknown.
type Counts struct {
	Voluntary   int64 `json:"voluntary"`   // the thread went to sleep
	Involuntary int64 `json:"involuntary"` // it was preempted
	Run         int64 `json:"run_ns"`      // CPU time, nanoseconds
	Wakeups     int64 `json:"wakeups"`
	Syscalls    int64 `json:"syscalls"`
}

// Unknown is the value of a count that could not be had.
const Unknown = -1

// Sub is what was counted since before.
func (c Counts) Sub(before Counts) Counts {
	sub := func(a, b int64) int64 {
		if a == Unknown || b == Unknown {
			return Unknown
		}
		return max(0, a-b) // threads that have ended take their counts with them
	}
	return Counts{
		Voluntary: sub(c.Voluntary, before.Voluntary), Involuntary: sub(c.Involuntary, before.Involuntary),
		Run: sub(c.Run, before.Run), Wakeups: sub(c.Wakeups, before.Wakeups), Syscalls: sub(c.Syscalls, before.Syscalls),
	}
}

// Meter counts one target.
type Meter struct {
	target Target
	bpf    *programs
	// Source is "eBPF" or "/proc"; Note tells why it is not eBPF, or what is missing.
	Source, Note string
}

// Open begins to count. syscalls counts those too, which makes each of them a
// little slower: not while latency is measured.
func Open(t Target, syscalls bool) (*Meter, error) {
	if t.PID != 0 {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", t.PID)); err != nil {
			return nil, fmt.Errorf("%w: %d", ErrNoTarget, t.PID)
		}
	}
	m := &Meter{target: t, Source: "eBPF"}
	err := trusted()
	if err == nil {
		m.bpf, err = attach(t, syscalls)
	}
	if err != nil {
		m.Source, m.Note = "/proc", "no eBPF: "+err.Error()
		if t.PID == 0 {
			return nil, fmt.Errorf("counters: kernel threads are counted by eBPF only: %w", err)
		}
		return m, nil
	}
	m.Note = m.bpf.note
	return m, nil
}

// Read returns the totals.
func (m *Meter) Read() (Counts, error) {
	if m.bpf == nil {
		return readProc(m.target.PID)
	}
	c, err := m.bpf.read()
	if err != nil || m.target.PID == 0 {
		return c, err
	}
	// A thread that never leaves its CPU is never seen to be switched out: the
	// scheduler's own account of its run time is whole.
	c.Run, err = runTime(m.target.PID)
	return c, err
}

// Close ends the counting.
func (m *Meter) Close() {
	if m.bpf != nil {
		m.bpf.close()
	}
}
