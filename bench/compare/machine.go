package compare

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"spindle/bench/peer"
)

// Machine is where it was measured. Absolute figures mean little without it.
type Machine struct {
	CPU       string  `json:"cpu"`
	CPUs      int     `json:"cpus"`
	MemoryMiB int     `json:"memory_mib"`
	Kernel    string  `json:"kernel"`
	Virtual   bool    `json:"virtual"`
	Go        string  `json:"go"`
	Commit    string  `json:"commit"`
	LoadStart float64 `json:"load_start"` // load average before anything was started
	Steal     float64 `json:"steal"`      // share of CPU time that the hypervisor took meanwhile
}

// CommitVariable of the environment names the commit where there is no
// repository: in a guest, say.
const CommitVariable = "SPINDLE_COMMIT"

func describe() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Commit: "unknown"}
	for line := range strings.Lines(text("/proc/cpuinfo")) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			m.CPU = strings.TrimSpace(value)
		case "flags":
			m.Virtual = strings.Contains(value+" ", " hypervisor ")
		}
	}
	for line := range strings.Lines(text("/proc/meminfo")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kib, _ := strconv.Atoi(f[1])
			m.MemoryMiB = kib >> 10
		}
	}
	m.Kernel = strings.TrimSpace(text("/proc/sys/kernel/osrelease"))
	first, _, _ := strings.Cut(text("/proc/loadavg"), " ")
	m.LoadStart, _ = strconv.ParseFloat(first, 64)
	if info, ok := debug.ReadBuildInfo(); ok {
		m.Commit = cmp.Or(peer.Revision(info), m.Commit)
	}
	if c := os.Getenv(CommitVariable); c != "" {
		m.Commit = c
	}
	if m.Commit == "unknown" { // not stamped: the tree that one stands in, then
		if out, err := exec.Command("git", "describe", "--always", "--dirty=, modified").Output(); err == nil {
			m.Commit = strings.TrimSpace(string(out))
		}
	}
	return m
}

func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// ticks reads the machine's CPU time: all of it, and what was stolen (proc(5)).
func ticks() (total, steal float64) {
	line, _, _ := bytes.Cut([]byte(text("/proc/stat")), []byte("\n"))
	for i, f := range strings.Fields(string(line)) {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			continue
		}
		if i <= 8 {
			total += n
		}
		if i == 8 {
			steal = n
		}
	}
	return total, steal
}
