package clients

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"spindle/internal/testbed"
)

// start runs a target for one test, and asserts that it ends in good order.
func start(t *testing.T, o testbed.Options) *testbed.Target {
	t.Helper()
	bin := os.Getenv("SPINDLE_BIN")
	if bin == "" {
		t.Skip("SPINDLE_BIN names no target: run make clients")
	}
	target, err := testbed.Start(t.Context(), bin, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := target.Stop(); err != nil {
			t.Error(err)
		}
	})
	return target
}

// tool runs a client and returns what it prints; its failure is the test's.
func tool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := client(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// client runs a client under a time limit.
func client(t *testing.T, args ...string) (string, error) {
	cmd := exec.CommandContext(t.Context(), "timeout", append([]string{"-k", "2", "60"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, &out)
	}
	return out.String(), nil
}

// usage is what /proc tells of a process.
type usage struct {
	fds     int
	rss     int64 // bytes
	cpu     time.Duration
	threads int
}

func measure(t *testing.T, pid int) (u usage) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	u.fds = len(fds)
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		t.Fatal(err)
	}
	// After the name in parentheses: utime and stime are the 12th and 13th
	// field, threads the 18th, rss in pages the 22nd (proc(5)).
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	number := func(i int) int64 {
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const tick = 10 * time.Millisecond
	u.cpu = time.Duration(number(11)+number(12)) * tick
	u.threads = int(number(17))
	u.rss = number(21) * int64(os.Getpagesize())
	return u
}
