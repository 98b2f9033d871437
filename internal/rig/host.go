package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// command runs a host tool with apt's private state; the tools of /usr/sbin
// are wanted without root as well.
func (i *Image) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, d := range strings.Split(path, ":") {
		if _, err := os.Stat(filepath.Join(d, name)); err == nil {
			name = filepath.Join(d, name)
			break
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+path, "APT_CONFIG="+i.apt("conf"), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	return cmd
}

func (i *Image) run(ctx context.Context, name string, args ...string) error {
	_, err := i.output(ctx, name, args...)
	return err
}

// output returns what a tool prints; its error holds what it complains of.
func (i *Image) output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := i.command(ctx, name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("%s: %w\n%s", name, err, exit.Stderr)
		}
		return "", err
	}
	return string(out), nil
}

// lock waits for the lock on a file; unlock lets it go.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func clearDir(dir string) error {
	return errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755))
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, info.Mode().Perm())
}

// tscFrequency tells the guest's kernel how fast its time stamp counter runs,
// which is the host's. It would calibrate it against an emulated timer, and on a
// busy host be wrong by a factor of ten, with every timeout of the guest. What
// /proc/cpuinfo calls MHz is that frequency where the host is a virtual machine
// itself; elsewhere it is the processor's of the moment, and not passed on.
func tscFrequency(cpuinfo string) string {
	text, err := os.ReadFile(cpuinfo)
	if err != nil {
		return ""
	}
	mhz, fixed := 0.0, false
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "cpu MHz":
			mhz, _ = strconv.ParseFloat(strings.TrimSpace(value), 64)
		case "flags":
			f := strings.Fields(value)
			fixed = slices.Contains(f, "hypervisor") && slices.Contains(f, "constant_tsc")
		}
	}
	if mhz == 0 || !fixed {
		return ""
	}
	return fmt.Sprintf(" tsc_early_khz=%.0f", 1000*mhz)
}
