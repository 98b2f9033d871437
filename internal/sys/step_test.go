//go:build amd64

package sys

import (
	"errors"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A thread that waits for what cannot come, as all else stands still, is given
// up; the process goes on unharmed.
func TestStepperStuck(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it has come so far
		t.Fatal(err)
	}
	func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		s, err := NewStepper(cmd.Process.Pid)
		if errors.Is(err, unix.EPERM) {
			_ = in.Close()
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_, err = s.Count(cmd.Process.Pid, CallUringEnter, 1, 1<<20, func(int) {})
		if !errors.Is(err, ErrStuck) {
			t.Errorf("%v, want ErrStuck", err)
		}
	}()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process was harmed: %v", err)
	}
}
