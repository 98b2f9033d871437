package rig

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Job is what a guest boots for.
type Job struct {
	Script string            // runs as root, in the folder that holds Files
	Files  []string          // of the host, put there by their base names
	Env    map[string]string // set for the script
	Limit  time.Duration     // of the whole boot
	CPUs   int
	MemMiB int
	// Cards gives the guest two network cards, with a cable from one to the other.
	Cards bool
	// Results is the folder for the files that the script leaves as a tar on its
	// scratch disk; empty takes none.
	Results string
	// Silence is how long the guest may say nothing before it is held to be frozen
	// and ended; 0 is as long as Limit.
	Silence time.Duration
}

// statusLine is the guest's last word.
const statusLine = "rig-status "

// ErrGuest is a guest that ended without a status: it crashed, or hung and was ended.
var ErrGuest = errors.New("the guest ended without a status")

// ErrEmulator is the end of QEMU by a fault of its own, which nothing in a guest may
// cause and no result of the guest explains.
var ErrEmulator = errors.New("QEMU crashed")

// crashed tells whether a process was ended by a fault of its own.
func crashed(err error) bool {
	var e *exec.ExitError
	if !errors.As(err, &e) {
		return false
	}
	s, ok := e.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && slices.Contains([]syscall.Signal{syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGABRT}, s.Signal())
}

// Run boots the image for one job, copies what it prints to out, and returns
// an error unless the script's status is 0.
func (i *Image) Run(ctx context.Context, job Job, out io.Writer) error {
	dir, err := os.MkdirTemp("", "spindle-rig-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := job.pack(filepath.Join(dir, "job.tar")); err != nil {
		return err
	}
	// A disk of its own for what the job stores: tmpfs knows no O_DIRECT.
	scratch, err := os.Create(filepath.Join(dir, "scratch"))
	if err != nil {
		return err
	}
	if err := errors.Join(scratch.Truncate(2<<30), scratch.Close()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, job.Limit)
	defer cancel()
	console := filepath.Join(dir, "console")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", i.qemuArgs(job, dir, console)...)
	cmd.WaitDelay = time.Second
	// QEMU takes the end of its input for the unplugging of the port: hold it open.
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close()
	text, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		return err
	}
	if job.Silence == 0 {
		job.Silence = job.Limit
	}
	frozen := time.AfterFunc(job.Silence, cancel)
	defer frozen.Stop()
	status, found := copyUntilStatus(&heard{out, frozen, job.Silence}, text)
	werr := cmd.Wait()
	if found && job.Results != "" {
		if err := unpackResults(filepath.Join(dir, "scratch"), job.Results); err != nil {
			return fmt.Errorf("results: %w", err)
		}
	}
	switch {
	case !found && crashed(werr):
		return fmt.Errorf("%w (%v)", ErrEmulator, werr)
	case !found:
		tail, _ := os.ReadFile(console)
		return fmt.Errorf("%w (%v, %v); the end of its console:\n%s", ErrGuest, ctx.Err(), werr, tail[max(0, len(tail)-2000):])
	case status != 0:
		return fmt.Errorf("status %d", status)
	}
	return nil
}

// heard puts a timer off with all that is written through it.
type heard struct {
	io.Writer
	timer *time.Timer
	d     time.Duration
}

func (h *heard) Write(b []byte) (int, error) {
	h.timer.Reset(h.d)
	return h.Writer.Write(b)
}

// copyUntilStatus copies lines until the guest tells its status.
func copyUntilStatus(w io.Writer, r io.Reader) (status int, found bool) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		line := strings.TrimRight(in.Text(), "\r")
		if s, ok := strings.CutPrefix(line, statusLine); ok {
			n, err := strconv.Atoi(s)
			if err == nil {
				status, found = n, true
				continue // it powers off now
			}
		}
		fmt.Fprintln(w, line)
	}
	return status, found
}

func (i *Image) qemuArgs(job Job, dir, console string) []string {
	disk := func(id, file, more string) []string {
		return []string{"-drive", "if=none,format=raw,id=" + id + ",file=" + file + more, "-device", "virtio-blk-pci,drive=" + id}
	}
	args := append(Machine(max(job.CPUs, 2), max(job.MemMiB, 2048)),
		"-kernel", i.path("vmlinux"), "-initrd", i.path("initrd"), "-append", kernelArgs(),
		"-serial", "file:"+console,
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=out,signal=off", "-device", "virtserialport,chardev=out,name=rig.out",
	)
	if job.Cards {
		for _, id := range []string{"card0", "card1"} {
			args = append(args, "-netdev", "hubport,hubid=0,id="+id, "-device", "virtio-net-pci,romfile=,netdev="+id)
		}
	}
	args = append(args, disk("root", i.path("root.ext4"), ",snapshot=on,cache=unsafe,file.locking=off")...)
	args = append(args, disk("job", filepath.Join(dir, "job.tar"), ",readonly=on")...)
	return append(args, disk("scratch", filepath.Join(dir, "scratch"), ",cache=unsafe,discard=unmap")...)
}

// Machine are QEMU's arguments for a guest without disks, console and network.
func Machine(cpus, memMiB int) []string {
	return []string{
		// Emulation only: a nested or absent KVM must not decide whether tests run.
		"-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-la57,-svm", "-M", "q35,hpet=off",
		"-smp", strconv.Itoa(cpus), "-m", strconv.Itoa(memMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
	}
}

func kernelArgs() string {
	return "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check nowatchdog audit=0 apparmor=0 " +
		"random.trust_cpu=on rcupdate.rcu_cpu_stall_suppress=1" + tscFrequency("/proc/cpuinfo")
}

// pack writes the job as a tar: "script", "env" and the files.
func (j *Job) pack(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	add := func(name string, mode int64, text []byte) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(text))}); err != nil {
			return err
		}
		_, err := w.Write(text)
		return err
	}
	var env strings.Builder
	for k, v := range j.Env {
		fmt.Fprintf(&env, "export %s='%s'\n", k, strings.ReplaceAll(v, "'", `'\''`))
	}
	if err := add("env", 0o644, []byte(env.String())); err != nil {
		return err
	}
	for n, file := range append([]string{j.Script}, j.Files...) {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		to := "files/" + filepath.Base(file)
		if n == 0 {
			to = "script"
		}
		if err := add(to, 0o755, text); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), f.Close())
}
