package clients

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"spindle/internal/testbed"
)

// TestSavedPage: a page that MODE SELECT saved with SP is in force after kill -9
// and a restart.
func TestSavedPage(t *testing.T) {
	dir := t.TempDir()
	o := testbed.Options{Dir: dir, SizeMiB: 8, LUNs: []testbed.LUN{{Module: "aio"}}, Args: []string{"--state-dir", filepath.Join(dir, "state")}}
	wce := func(c *initiator) byte {
		page, err := c.command(0, []byte{0x1a, 0x08, 0x08, 0, 255}, nil, 255)
		if err != nil || len(page) < 7 {
			t.Fatalf("MODE SENSE: %v, % x", err, page)
		}
		return page[6] & 0x04
	}
	target := start(t, o)
	c := enter(t, target.Addr(), 1)
	if wce(c) == 0 {
		t.Fatal("the write cache of a file is off from the start")
	}
	list := append([]byte{0, 0, 0, 0, 0x08, 18}, make([]byte, 18)...)
	if _, err := c.command(0, []byte{0x15, 0x11, 0, 0, byte(len(list))}, list, 0); err != nil {
		t.Fatalf("MODE SELECT with SP: %v", err)
	}
	_ = target.Signal(syscall.SIGKILL, 10*time.Second) // "signal: killed" is how it ends
	if c := enter(t, start(t, o).Addr(), 1); wce(c) != 0 {
		t.Error("after a restart the write cache is on again")
	}
}
