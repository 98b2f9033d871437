package clients

import (
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/internal/testbed"
)

// TestSignals: the target says good-bye to its sessions and exits with status 0.
func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			target := start(t, testbed.Options{})
			c, err := dial(target.Addr(), 1)
			if err != nil {
				t.Fatal(err)
			}
			defer c.conn.Close()
			if err := c.settle(testbed.Malloc); err != nil {
				t.Fatal(err)
			}
			heard := make(chan uint8, 1)
			go func() { // an initiator that does as it is asked: RFC 7143 §11.9.1, event 1
				_, _, err := c.receive()
				for err == nil {
					_, _, err = c.receive()
				}
				heard <- c.asyncEvent
			}()
			if err := target.Signal(sig, 15*time.Second); err != nil {
				t.Errorf("%v\n%s", err, target.Log())
			}
			if e := <-heard; e < 1 || e > 3 {
				t.Errorf("async event %d: want a request to log out (1), or word of a dropped connection (2) or session (3)", e)
			}
		})
	}
}

// TestHangup: SIGHUP ends neither a service nor what nohup started; when the
// terminal of a target goes, the target goes too.
func TestHangup(t *testing.T) {
	// What this process ignores, started by nohup, its children would; what it hears they do not.
	hear := make(chan os.Signal, 1)
	signal.Notify(hear, syscall.SIGHUP)
	defer signal.Stop(hear)
	for _, wrap := range [][]string{nil, {"nohup"}} {
		t.Run("lives "+strings.Join(wrap, ""), func(t *testing.T) {
			target := start(t, testbed.Options{Wrap: wrap})
			if err := syscall.Kill(target.PID(), syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			if _, err := target.RPC(t.Context(), "framework_wait_init"); err != nil {
				t.Error(err)
			}
			if wrap == nil && !eventually(func() bool { return strings.Contains(target.Log(), "SIGHUP") }) {
				t.Error("nothing is said of it")
			}
			if !target.Alive() {
				t.Errorf("it has ended:\n%s", target.Log())
			}
		})
	}
	t.Run("terminal", func(t *testing.T) {
		target := start(t, testbed.Options{Wrap: []string{"sh", "-c", `exec script -qec "exec $*" /dev/null </dev/null`, "sh"}})
		_ = target.Signal(syscall.SIGKILL, stall) // the terminal's other end; "signal: killed" is how it ends
		if !eventually(func() bool { _, err := os.Lstat(target.Socket); return os.IsNotExist(err) }) {
			t.Error("the target is there without its terminal")
		}
	})
}

// TestNotify: the service manager hears when the target serves and when it stops.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	hear := func(want string) {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(stall)); err != nil {
			t.Fatal(err)
		}
		var b [64]byte
		n, err := manager.Read(b[:])
		if got := string(b[:n]); err != nil || got != want {
			t.Errorf("%q (%v), want %q", got, err, want)
		}
	}
	target := start(t, testbed.Options{Env: []string{"NOTIFY_SOCKET=" + path}})
	hear("READY=1")
	if err := target.Signal(syscall.SIGTERM, stall); err != nil {
		t.Errorf("%v\n%s", err, target.Log())
	}
	hear("STOPPING=1")
}

// eventually waits for what is to become true.
func eventually(what func() bool) bool {
	for end := time.Now().Add(stall); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if what() {
			return true
		}
	}
	return false
}

// TestNoEarlyRefusal: an initiator that waits for the target to come back may
// be refused a connection, but never told that its node is not there: it would
// believe that, and give up (RFC 7143 §11.13.5, 0x0203).
func TestNoEarlyRefusal(t *testing.T) {
	for range 10 {
		stop, refused := make(chan struct{}), make(chan error, 1)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().(*net.TCPAddr)
		l.Close()
		go func() {
			defer close(refused)
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := dial(addr.String(), 1)
				if err == nil {
					c.conn.Close()
				} else if strings.Contains(err.Error(), "status 0x0203") {
					refused <- err
					return
				}
			}
		}()
		target := start(t, testbed.Options{Port: addr.Port})
		close(stop)
		if err := <-refused; err != nil {
			t.Fatal(err)
		}
		if err := target.Signal(syscall.SIGKILL, stall); err == nil {
			t.Error("a killed process reports success")
		}
	}
}

// TestWithoutRoot: nobody, with the memory lock limit of a plain user.
func TestWithoutRoot(t *testing.T) {
	dir, err := os.MkdirTemp("", "spindle-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	src := os.Getenv("SPINDLE_BIN")
	if src == "" {
		t.Skip("SPINDLE_BIN names no target: run make clients")
	}
	text, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "spindle") // nobody may not see the work tree
	if err := os.WriteFile(bin, text, 0o755); err != nil {
		t.Fatal(err)
	}
	wrap := []string{"prlimit", "--memlock=8388608"}
	if os.Getuid() == 0 {
		wrap = append(wrap, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
		if err := os.WriteFile(filepath.Join(dir, "disk.img"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, "disk.img"), 0o666); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	t.Setenv("SPINDLE_BIN", bin)
	target := start(t, testbed.Options{Dir: dir, Wrap: wrap})
	tool(t, "iscsi-ls", "-s", target.Portal())
	for _, lun := range []int{testbed.Malloc, testbed.File} {
		tool(t, "qemu-io", "-f", "raw", "-c", "write -P 9 0 1M", "-c", "read -P 9 0 1M", "-c", "flush", target.URL(lun))
	}
	info, err := os.Stat(target.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the RPC socket has mode %v", info.Mode().Perm())
	}
}

// TestIdleCPU: the default idle policy, with a session that says nothing.
func TestIdleCPU(t *testing.T) {
	target := start(t, testbed.Options{})
	c, err := dial(target.Addr(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	if err := c.settle(testbed.Malloc); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // let the spin after the last command end
	const window = 5 * time.Second
	before := measure(t, target.PID()).cpu
	time.Sleep(window)
	spent := measure(t, target.PID()).cpu - before
	if spent > window*2/100 {
		t.Errorf("idle for %v, %v of CPU: more than 2 %% of a core", window, spent)
	}
	if _, err := c.read(testbed.Malloc, 0, 8); err != nil {
		t.Errorf("after the sleep: %v", err)
	}
}
