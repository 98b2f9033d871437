package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// stgtDriver runs tgtd. Its null store is 1 TiB whatever it is told; its RAM LUN
// is a file in memory behind its usual store. LUN 0 is the target's own
// controller.
type stgtDriver struct{}

func (stgtDriver) Name() string  { return "stgt" }
func (stgtDriver) Title() string { return "STGT" }

const stgtAbsent = "apt-get install tgt"

func (stgtDriver) Version(ctx context.Context) (string, error) {
	bin, err := executable("", "tgtd")
	if err != nil {
		return "", absent(stgtAbsent)
	}
	if _, err := executable("", "tgtadm"); err != nil {
		return "", absent(stgtAbsent)
	}
	out, err := exec.CommandContext(ctx, bin, "-V").CombinedOutput()
	return "tgtd " + strings.TrimSpace(string(out)), err
}

func (stgtDriver) Start(ctx context.Context, s Setup) (*Running, error) {
	bin, err := executable("", "tgtd")
	if err != nil {
		return nil, absent(stgtAbsent)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	// The control port numbers a socket file, not a network port, and is at most 32767.
	control := strconv.Itoa(port % 32768)
	args := []string{"-f", "-C", control, "--iscsi", fmt.Sprintf("portal=127.0.0.1:%d", port)}
	p, err := start(s, bin, append(args, s.Args...)...)
	if err != nil {
		return nil, err
	}
	r := running(p, port, "", 1, 2)
	ram, err := memoryFile(s.Size)
	if err != nil {
		r.Stop()
		return nil, err
	}
	r.farewell = func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout/2)
		defer cancel()
		// It ignores SIGTERM while it has targets.
		if tgtadm(ctx, control, "--op", "delete", "--mode", "target", "--tid", "1", "--force") == nil {
			_ = tgtadm(ctx, control, "--op", "delete", "--mode", "system")
		}
	}
	r.clean = func() {
		_ = os.Remove(ram) // in memory, of ours
		for _, end := range []string{"", ".lock"} {
			_ = os.Remove("/run/tgtd/socket." + control + end) // which it leaves behind
		}
	}
	err = p.listens(ctx, fmt.Sprintf("127.0.0.1:%d", port))
	for _, args := range [][]string{
		{"--op", "new", "--mode", "target", "--tid", "1", "-T", Target},
		{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--bstype", "null", "-b", "/dev/null"},
		{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "2", "--bstype", "rdwr", "-b", ram},
		{"--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"},
	} {
		if err == nil {
			err = tgtadm(ctx, control, args...)
		}
	}
	if err != nil {
		r.Stop()
		return nil, fmt.Errorf("%w\n%s", err, p.said())
	}
	return r, nil
}

// memoryFile makes a file of that size in memory.
func memoryFile(size uint64) (string, error) {
	f, err := os.CreateTemp("/dev/shm", "spindle-bench-*.img")
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(f.Truncate(int64(size)), f.Close())
}

func tgtadm(ctx context.Context, control string, args ...string) error {
	bin, err := executable("", "tgtadm")
	if err != nil {
		return absent(stgtAbsent)
	}
	out, err := exec.CommandContext(ctx, bin, append([]string{"-C", control, "--lld", "iscsi"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(bin), strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
