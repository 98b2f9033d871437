package file_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/file"
	"spindle/reactor/mem"
)

// TestSignals: the first sync of a thread has the kernel make another thread,
// which a pending signal may keep it from. Linux 6.1 then cancels the sync.
func TestSignals(t *testing.T) {
	for range 16 { // each rig's memory stays until the process ends
		t.Run("", func(t *testing.T) {
			runtime.LockOSThread() // for good: the next one shall be a new thread
			g := bdevtest.NewRig(t, 1, realRing)
			d := realDevice(t, g, file.Config{Path: image(t, t.TempDir(), 8<<20)})
			ch, buf := g.Open(d, 0), g.Buffer(4096)
			pid, tid := unix.Getpid(), unix.Gettid()
			var ended atomic.Bool
			sent := make(chan int)
			go func() {
				n := 0
				for ; !ended.Load(); n++ {
					_ = unix.Tgkill(pid, tid, unix.SIGURG)
				}
				sent <- n
			}()
			time.Sleep(time.Millisecond)
			write := g.Do(ch, bdevtest.NewCall(bdev.Write, 0, 8, buf, 0))
			flush := g.Do(ch, bdevtest.NewCall(bdev.Flush, 0, 0, mem.Ref{}, 0))
			ended.Store(true)
			n := <-sent
			if write != bdev.OK || flush != bdev.OK {
				t.Errorf("write %v, flush %v under %d signals; failure %q", write, flush, n, d.Info().Failure)
			}
		})
	}
}
