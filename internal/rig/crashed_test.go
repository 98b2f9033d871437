package rig

import (
	"os/exec"
	"testing"
)

// TestCrashed: QEMU that ends by a fault of its own is told from one that is ended, or
// that ends.
func TestCrashed(t *testing.T) {
	for script, want := range map[string]bool{
		"kill -SEGV $$": true, "kill -ABRT $$": true, "kill -KILL $$": false, "kill -TERM $$": false, "exit 1": false, "exit 0": false,
	} {
		if got := crashed(exec.Command("sh", "-c", script).Run()); got != want {
			t.Errorf("%s: %t", script, got)
		}
	}
}
