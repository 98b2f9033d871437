package clients

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"spindle/internal/testbed"
)

func TestLibiscsi(t *testing.T) {
	target := start(t, testbed.Options{})
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"discovery lists the LUNs", []string{"iscsi-ls", "-s", target.Portal()},
			[]string{testbed.IQN, "Lun:0 ", "Lun:1 ", "Lun:2 ", "DIRECT_ACCESS"}},
		{"inquiry", []string{"iscsi-inq", target.URL(testbed.Malloc)}, []string{"DIRECT_ACCESS", "Vendor:"}},
		{"device identification", []string{"iscsi-inq", "-e", "1", "-c", "131", target.URL(testbed.File)}, []string{"NAA"}},
		{"capacity", []string{"iscsi-readcapacity16", "-s", target.URL(testbed.File)}, []string{fmt.Sprint(100 << 20)}},
		{"reads at depth", []string{"iscsi-perf", "-t", "2", "-m", "32", "-b", "8", "-r", target.URL(testbed.Malloc)}, []string{"iops"}},
		{"long reads", []string{"iscsi-perf", "-t", "1", "-m", "8", "-b", "2048", target.URL(testbed.File)}, []string{"iops"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := tool(t, c.args...)
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("no %q in\n%s", w, out)
				}
			}
		})
	}
}

func TestQEMU(t *testing.T) {
	target := start(t, testbed.Options{})
	for _, form := range []struct {
		name string
		lun  int
	}{{"malloc", testbed.Malloc}, {"file", testbed.File}} {
		url := target.URL(form.lun)
		t.Run(form.name+"/convert and compare", func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "image")
			data := make([]byte, 100<<20)
			if _, err := rand.Read(data[:20<<20]); err != nil { // the rest zeroes: qemu-img writes those its own way
				t.Fatal(err)
			}
			copy(data[70<<20:], data[:8<<20])
			if err := os.WriteFile(img, data, 0o600); err != nil {
				t.Fatal(err)
			}
			tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", img, url)
			tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", img, url)
			tool(t, "qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 4k", url)
			if out, err := client(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", img, url); err == nil {
				t.Errorf("one block differs, and qemu-img finds none: %s", out)
			}
		})
		t.Run(form.name+"/patterns", func(t *testing.T) {
			out := tool(t, "qemu-io", "-f", "raw", "-t", "none",
				"-c", "write -P 0xa5 0 3M", "-c", "aio_write -P 0x3c 3M 64k", "-c", "aio_flush", "-c", "flush",
				"-c", "read -P 0xa5 0 3M", "-c", "read -P 0x3c 3M 64k",
				"-c", "write -z 1M 1M", "-c", "read -P 0 1M 1M", "-c", "discard 0 1M", "-c", "read -P 0xa5 2M 1M", url)
			if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
				t.Error(out)
			}
		})
	}
}

// TestFlushSurvivesKill: what was flushed to a file LUN outlives the process.
func TestFlushSurvivesKill(t *testing.T) {
	target := start(t, testbed.Options{})
	tool(t, "qemu-io", "-f", "raw", "-t", "none", "-c", "write -P 0x77 5M 1M", "-c", "flush", target.URL(testbed.File))
	dir := t.TempDir()
	if err := target.Signal(syscall.SIGKILL, stall); err == nil {
		t.Error("a killed process reports success")
	}
	disk, err := os.ReadFile(filepath.Join(target.Dir, "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "disk.img"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	next := start(t, testbed.Options{Dir: dir})
	out := tool(t, "qemu-io", "-f", "raw", "-c", "read -P 0x77 5M 1M", next.URL(testbed.File))
	if strings.Contains(out, "failed") {
		t.Error(out)
	}
}

// TestLiveChange: a disk made over the RPC socket is there for the next who asks.
func TestLiveChange(t *testing.T) {
	target := start(t, testbed.Options{})
	rpc := func(args ...string) string {
		t.Helper()
		out, err := target.RPC(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	rpc("bdev_malloc_create", "name=more", "num_blocks=8192", "block_size=4096")
	rpc("iscsi_target_node_add_lun", "name="+testbed.IQN, "bdev_name=more", "lun_id=7")
	if out := tool(t, "iscsi-readcapacity16", "-s", target.URL(7)); !strings.Contains(out, fmt.Sprint(8192*4096)) {
		t.Errorf("capacity: %s", out)
	}
	tool(t, "qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", "-c", "read -P 1 0 1M", target.URL(7))
	if out := rpc("save_config"); !strings.Contains(out, `"more"`) {
		t.Errorf("save_config does not know the new disk:\n%s", out)
	}
}
