package peer

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/bench/load"
)

func TestFind(t *testing.T) {
	all := Drivers(Paths{})
	for _, c := range []struct {
		name, list string
		want       string
	}{
		{"one", "stgt", "stgt"},
		{"in the order asked for", "limit,spindle", "limit spindle"},
		{"one that runs already", "mine=iscsi://127.0.0.1:1/iqn.a/0", "mine"},
		{"unknown", "scst", ""},
		{"empty", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := Find(all, c.list)
			var names []string
			for _, d := range found {
				names = append(names, d.Name())
			}
			if got := strings.Join(names, " "); (err == nil) != (c.want != "") || err == nil && got != c.want {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestAbsentSaysHowToGetIt(t *testing.T) {
	for _, d := range []Driver{lioDriver{"/nowhere"}, spdkDriver{"/nowhere/iscsi_tgt"}, spindleDriver{"/nowhere/spindle"}} {
		if _, err := d.Version(t.Context()); !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), "make") {
			t.Errorf("%s: %v", d.Name(), err)
		}
	}
}

// TestSTGT starts the real thing, writes to both of its LUNs and ends it.
func TestSTGT(t *testing.T) {
	var d stgtDriver
	if _, err := d.Version(t.Context()); err != nil {
		t.Skip(err)
	}
	if os.Getuid() != 0 {
		t.Skip("tgtd wants root")
	}
	s := Setup{CPU: -1, Size: 8 << 20, Dir: t.TempDir()}
	r, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	for _, kind := range []string{Null, RAM} {
		a, err := load.ParseURL(r.URLs[kind])
		if err != nil {
			t.Fatal(err)
		}
		p, _ := load.ParsePattern("write", 0)
		o := load.Options{
			Address: a, Pattern: p, Sizes: []load.Size{{Bytes: 64 << 10, Percent: 100}}, Depth: 4, CPU: -1,
			Runtime: 200 * time.Millisecond, Verify: kind == RAM, Span: 1 << 20,
		}
		res, err := load.Run(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if kind == RAM && res.Capacity != s.Size { // its null store has a size of its own
			t.Errorf("%s: %d bytes, want %d", kind, res.Capacity, s.Size)
		}
	}
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir("/dev/shm"); len(left) > 0 {
		for _, f := range left {
			if strings.HasPrefix(f.Name(), memoryPrefix()) {
				t.Errorf("%s was left in memory", f.Name())
			}
		}
	}
}

// TestPause: a paused process does nothing, and ends in good order all the same.
func TestPause(t *testing.T) {
	p, err := start(Setup{CPU: -1}, "/bin/sh", "-c", "echo ready; while :; do read x </dev/null; done")
	if err != nil {
		t.Fatal(err)
	}
	r := &Running{PID: p.cmd.Process.Pid, proc: p}
	if line := <-p.first; line != "ready" {
		t.Fatalf("it said %q", line)
	}
	state := func() string {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(r.PID) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(text))[2]
	}
	r.Pause()
	deadline := time.Now().Add(5 * time.Second)
	for state() != "T" {
		if time.Now().After(deadline) {
			t.Fatalf("it is in state %s", state())
		}
	}
	if err := r.Alive(); err != nil {
		t.Error(err)
	}
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	if err := r.Alive(); err == nil {
		t.Error("it lives")
	}
	if err := syscall.Kill(r.PID, 0); err == nil {
		t.Error("its process is there")
	}
}

func TestFreePort(t *testing.T) {
	port, err := freePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// TestProgram starts a command as a target.
func TestProgram(t *testing.T) {
	for _, text := range []string{"", "x", "x=true", "=true iscsi://h/t/0", "x=true http://h"} {
		if _, err := Program(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	d, err := Program("gone=/nowhere/target -p {port} iscsi://127.0.0.1:{port}/t/0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Version(t.Context()); !errors.Is(err, ErrAbsent) {
		t.Errorf("%v", err)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 listens in this test")
	}
	script := filepath.Join(t.TempDir(), "listen.py")
	if err := os.WriteFile(script, []byte("import socket,sys\ns=socket.create_server(('127.0.0.1',int(sys.argv[1])))\nc,_=s.accept()\nprint(c)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err = Program("mine=" + python + " " + script + " {port} iscsi://127.0.0.1:{port}/t/0"); err != nil {
		t.Fatal(err)
	}
	r, err := d.Start(t.Context(), Setup{CPU: -1})
	if err != nil {
		t.Fatal(err)
	}
	if u := r.URLs[Null]; !strings.HasPrefix(u, "iscsi://127.0.0.1:") || strings.Contains(u, "{") || r.Alive() != nil {
		t.Errorf("%q, %v", u, r.Alive())
	}
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
}

// TestRevision: a result tells which build it is of, not only which bench.
func TestRevision(t *testing.T) {
	at := func(list ...debug.BuildSetting) *debug.BuildInfo { return &debug.BuildInfo{Settings: list} }
	commit := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef0123"}
	for _, c := range []struct {
		name string
		info *debug.BuildInfo
		want string
	}{
		{"not told", at(debug.BuildSetting{Key: "vcs.modified", Value: "true"}), ""},
		{"a commit", at(commit, debug.BuildSetting{Key: "vcs.modified", Value: "false"}), "0123456789ab"},
		{"more than a commit", at(commit, debug.BuildSetting{Key: "vcs.modified", Value: "true"}), "0123456789ab, modified"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Revision(c.info); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
