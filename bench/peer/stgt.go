package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"spindle/bench/load"
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
	port, err := freePort(s.host())
	if err != nil {
		return nil, err
	}
	// The control port numbers a socket file, not a network port, and is at most 32767.
	control := strconv.Itoa(port % 32768)
	args := []string{"-f", "-C", control, "--iscsi", fmt.Sprintf("portal=%s:%d", s.host(), port)}
	if s.ISER {
		args = append(args, "--iser", "pool_sz_mb=128") // of 1 GiB that it would take
	}
	p, err := start(s, bin, append(args, s.Args...)...)
	if err != nil {
		return nil, err
	}
	r := running(s, p, port, "", 1, 2)
	t := stgtNodes{control: control}
	r.farewell = t.remove
	r.clean = t.clean
	err = p.listens(ctx, "tcp", net.JoinHostPort(s.host(), strconv.Itoa(port)))
	if err == nil {
		err = t.add(ctx, "iscsi", Target, s)
	}
	if err == nil && s.ISER {
		r.ISER = urls("iser", s.host(), stgtISERPort, iserTarget, 1, 2)
		err = t.add(ctx, "iser", iserTarget, s)
	}
	if err != nil {
		r.Stop()
		return nil, fmt.Errorf("%w\n%s", err, p.said())
	}
	return r, nil
}

// stgtISERPort is where it listens over iSER: 1.0.85 takes no other.
const stgtISERPort = 3260

// stgtNodes are the target nodes of a tgtd: one belongs to one transport, and
// needs files of its own.
type stgtNodes struct {
	control string
	lld     []string // of the nodes, in the order of their numbers
	files   []string
}

func (t *stgtNodes) add(ctx context.Context, lld, name string, s Setup) error {
	ram, err := memoryFile(s.Size)
	if err != nil {
		return err
	}
	t.files, t.lld = append(t.files, ram), append(t.lld, lld)
	tid := strconv.Itoa(len(t.lld))
	calls := [][]string{
		{"--op", "new", "--mode", "target", "--tid", tid, "-T", name},
		{"--op", "new", "--mode", "logicalunit", "--tid", tid, "--lun", "1", "--bstype", "null", "-b", "/dev/null"},
		{"--op", "new", "--mode", "logicalunit", "--tid", tid, "--lun", "2", "--bstype", "rdwr", "-b", ram},
		{"--op", "bind", "--mode", "target", "--tid", tid, "-I", "ALL"},
	}
	if lld == "iser" {
		// Over TCP an address is enough; here it wants the initiators' names as well.
		_, initiator, _ := strings.Cut(readText("/etc/iscsi/initiatorname.iscsi"), "InitiatorName=")
		initiator, _, _ = strings.Cut(initiator, "\n")
		for _, name := range []string{strings.TrimSpace(initiator), load.Initiator} {
			calls = append(calls, []string{"--op", "bind", "--mode", "target", "--tid", tid, "-Q", name})
		}
	}
	for _, args := range calls {
		if err := t.admin(ctx, lld, args...); err != nil {
			return err
		}
	}
	return nil
}

// remove has it end: it ignores SIGTERM while it has targets.
func (t *stgtNodes) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout/2)
	defer cancel()
	for i, lld := range t.lld {
		if t.admin(ctx, lld, "--op", "delete", "--mode", "target", "--tid", strconv.Itoa(i+1), "--force") != nil {
			return
		}
	}
	_ = t.admin(ctx, "iscsi", "--op", "delete", "--mode", "system") // else it is killed
}

func (t *stgtNodes) clean() {
	for _, f := range t.files {
		_ = os.Remove(f) // in memory, of ours
	}
	for _, end := range []string{"", ".lock"} {
		_ = os.Remove("/run/tgtd/socket." + t.control + end) // which it leaves behind
	}
}

// memoryPrefix begins the names of this process's files in memory.
func memoryPrefix() string { return fmt.Sprintf("spindle-bench-%d-", os.Getpid()) }

// memoryFile makes a file of that size in memory.
func memoryFile(size uint64) (string, error) {
	f, err := os.CreateTemp("/dev/shm", memoryPrefix()+"*.img")
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(f.Truncate(int64(size)), f.Close())
}

func (t *stgtNodes) admin(ctx context.Context, lld string, args ...string) error {
	bin, err := executable("", "tgtadm")
	if err != nil {
		return absent(stgtAbsent)
	}
	out, err := exec.CommandContext(ctx, bin, append([]string{"-C", t.control, "--lld", lld}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(bin), strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
