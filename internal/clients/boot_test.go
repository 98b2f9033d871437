package clients

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/internal/rig"
	"spindle/internal/testbed"
)

// bootLimit is for a machine that is emulated on a busy host.
const bootLimit = 5 * time.Minute

// machine is a guest and its console.
type machine struct {
	lines <-chan string
	in    io.Writer
	said  strings.Builder
}

// power starts QEMU; the test's end is the guest's.
func power(t *testing.T, args ...string) *machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, "-serial", "stdio")...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, ended := make(chan string), make(chan struct{})
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- strings.TrimRight(s.Text(), "\r")
		}
	}()
	m := &machine{lines: lines, in: in}
	go func() {
		defer close(ended)
		w.CloseWithError(cmd.Wait())
	}()
	t.Cleanup(func() {
		cancel()
		for range lines {
		}
		<-ended
	})
	return m
}

// says waits for a line of the console.
func (m *machine) says(t *testing.T, want string) {
	t.Helper()
	for line := range m.lines {
		m.said.WriteString(line + "\n")
		if line == want {
			return
		}
	}
	t.Fatalf("the guest ended without %q:\n%s", want, m.said.String())
}

// boot starts a machine from LUN 0 of a new target, by a QEMU device whose vendor
// the guest sees, and returns when it has written to its root.
func boot(t *testing.T, device, vendor string) (*testbed.Target, *machine) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("no qemu-system-x86_64 (apt-get install qemu-system-x86)")
	}
	target := start(t, testbed.Options{LUNs: []testbed.LUN{{Module: "aio"}}, SizeMiB: 1600})
	cache, err := rig.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	img, err := rig.Build(t.Context(), cache, "../../scripts/rig/init", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := img.BootDisk(rig.Job{Script: "testdata/boot.sh", Env: map[string]string{"VENDOR": vendor}}, disk); err != nil {
		t.Fatal(err)
	}
	tool(t, "qemu-img", "convert", "-n", "--target-is-zero", "-f", "raw", "-O", "raw", disk, target.URL(0))
	m := power(t, append(rig.Machine(2, 1024),
		"-blockdev", "driver=iscsi,node-name=disk,discard=unmap,transport=tcp,portal="+target.Addr()+",target="+testbed.IQN+",lun=0,initiator-name=iqn.2026-11.io.spindle:guest",
		"-device", "virtio-scsi-pci", "-device", device+",drive=disk,bootindex=0")...)
	m.says(t, "written")
	return target, m
}

// passes has the guest go on to its end, which gives back the space of what it
// wrote.
func (m *machine) passes(t *testing.T, target *testbed.Target) {
	t.Helper()
	before := space(t, target)
	if _, err := io.WriteString(m.in, "go\n"); err != nil {
		t.Fatal(err)
	}
	m.says(t, "PASS")
	if after := space(t, target); after > before-(24<<20) {
		t.Errorf("%d bytes before 32 MiB are trimmed, %d behind", before, after)
	}
}

// space is what the target's disk takes of its host's, in bytes.
func space(t *testing.T, target *testbed.Target) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(target.Dir, "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// TestQEMUBootsEmulated: a machine starts from a disk that QEMU plays on the LUN.
func TestQEMUBootsEmulated(t *testing.T) {
	target, m := boot(t, "scsi-hd", "QEMU")
	m.passes(t, target)
}

// TestQEMUBoots: a machine starts from the LUN, firmware to root, with every
// SCSI command passed through; it reserves its disk, and others are kept out.
func TestQEMUBoots(t *testing.T) {
	target, m := boot(t, "scsi-block", "SPINDLE")
	other, err := dial(target.Addr(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer other.conn.Close()
	if err := other.settle(0); err == nil || !strings.Contains(err.Error(), "status 0x18") {
		t.Errorf("READ by another: %v, want RESERVATION CONFLICT", err)
	}
	if key := reservation(t, other); key != 0xb007 {
		t.Errorf("READ RESERVATION by another: key %#x", key)
	}
	if out, err := client(t, "iscsi-perf", "-t", "1", "-m", "1", "-b", "8", target.URL(0)); err == nil || !strings.Contains(out, "CONFLICT") {
		t.Errorf("iscsi-perf: %v\n%s", err, out)
	}
	if out, err := client(t, "qemu-io", "-f", "raw", "-c", "write -P 1 0 4k", target.URL(0)); err == nil {
		t.Errorf("qemu-io writes to a reserved disk:\n%s", out)
	}
	m.passes(t, target)
	if err := other.settle(0); err != nil {
		t.Errorf("READ after the release: %v", err)
	}
	if key := reservation(t, other); key != 0 {
		t.Errorf("key %#x after the release", key)
	}
}

// reservation is the key of a LUN's reservation, 0 if there is none.
func reservation(t *testing.T, c *initiator) (key uint64) {
	t.Helper()
	got, err := c.command(0, []byte{0x5e, 1, 0, 0, 0, 0, 0, 0, 24}, nil, 24)
	if err != nil || len(got) < 8 {
		t.Fatalf("READ RESERVATION: % x, %v", got, err)
	}
	if len(got) >= 16 {
		key = binary.BigEndian.Uint64(got[8:])
	}
	return key
}
