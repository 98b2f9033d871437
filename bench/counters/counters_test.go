package counters

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// sleeper is a process with a known behaviour: it sleeps n times, in a shell
// that makes a child for each.
func sleeper(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Skip("no shell:", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// open skips the test only where the system refuses eBPF.
func open(t *testing.T, target Target, syscalls bool) *Meter {
	t.Helper()
	if err := trusted(); errors.Is(err, os.ErrPermission) || errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip("no eBPF here:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	m, err := Open(target, syscalls)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestCountsOfAProcess(t *testing.T) {
	cmd := sleeper(t, "while read line; do :; done </dev/zero")
	m := open(t, Target{PID: cmd.Process.Pid}, true)
	before, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	after, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	d := after.Sub(before)
	// It reads byte by byte and never sleeps.
	if d.Syscalls < 100 || d.Run < int64(10*time.Millisecond) || d.Voluntary > d.Syscalls/10 {
		t.Errorf("a busy reader counted as %+v", d)
	}
}

func TestSwitchesAgreeWithTheKernel(t *testing.T) {
	m := open(t, Target{PID: os.Getpid()}, false)
	read := func() (Counts, Counts) {
		a, err := m.Read()
		if err != nil {
			t.Fatal(err)
		}
		b, err := readProc(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
	bpf0, proc0 := read()
	for range 50 {
		time.Sleep(time.Millisecond)
	}
	bpf1, proc1 := read()
	got, want := bpf1.Sub(bpf0), proc1.Sub(proc0)
	// The readings are some microseconds apart, in which switches happen.
	if got.Voluntary < 50 || got.Voluntary < want.Voluntary*8/10-10 || got.Voluntary > want.Voluntary*12/10+10 {
		t.Errorf("voluntary switches: eBPF %d, kernel %d", got.Voluntary, want.Voluntary)
	}
	if m.bpf.wakes && got.Wakeups < 40 {
		t.Errorf("%d wake-ups in 50 sleeps", got.Wakeups)
	}
}

func TestKernelThreads(t *testing.T) {
	m := open(t, Target{Prefixes: []string{"kworker/", "ksoft"}}, false)
	time.Sleep(500 * time.Millisecond)
	c, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	if c.Voluntary == 0 {
		t.Error("no kernel worker ran for half a second")
	}
}

func TestProcOfAnEndedProcess(t *testing.T) {
	cmd := sleeper(t, "exit 0")
	_ = cmd.Wait()
	if _, err := Open(Target{PID: cmd.Process.Pid}, false); err == nil {
		t.Error("a process that has ended was opened")
	}
}

func TestListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	if got := Listener(addr); got != os.Getpid() {
		t.Errorf("process %d listens on %v, want %d", got, addr, os.Getpid())
	}
	l.Close()
	if got := Listener(addr); got != 0 {
		t.Errorf("process %d listens on a closed port", got)
	}
	if got := Listener(netip.MustParseAddrPort("192.0.2.1:3260")); got != 0 {
		t.Errorf("process %d listens on another machine", got)
	}
}

func TestSub(t *testing.T) {
	for _, c := range []struct {
		name                string
		after, before, want int64
	}{
		{"grows", 10, 4, 6},
		{"a thread ended", 3, 4, 0},
		{"unknown stays so", Unknown, Unknown, Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := (Counts{Wakeups: c.after}).Sub(Counts{Wakeups: c.before}).Wakeups; got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}
