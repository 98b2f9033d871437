package dialogue

import (
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"spindle/internal/testbed"
	"spindle/iscsi/iscsitest"
)

var (
	foreign       = flag.String("dialogue.addr", "", "play against the target at this host:port")
	foreignTarget = flag.String("dialogue.iqn", "", "its node's name")
	foreignLUN    = flag.String("dialogue.lun", "1", "a LUN of it that may be written")
	foreignWait   = flag.Duration("dialogue.patience", 2*time.Second, "how long it may take to answer")
)

// socket is a Link over TCP.
type socket struct {
	*net.TCPConn
	patience time.Duration
}

func dial(addr string, patience time.Duration) func() (Link, error) {
	return func() (Link, error) {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return nil, err
		}
		return socket{c.(*net.TCPConn), patience}, nil
	}
}

func (s socket) Write(b []byte) error {
	_ = s.SetWriteDeadline(time.Now().Add(5 * time.Second)) // a failure shows in Write
	_, err := s.TCPConn.Write(b)
	return ended(err)
}

// ended makes one of the ways in which a peer closes.
func ended(err error) error {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return io.EOF
	}
	return err
}

func (s socket) Read(hopeful bool) ([]byte, error) {
	limit := 50 * time.Millisecond
	if hopeful {
		limit = s.patience
	}
	_ = s.SetReadDeadline(time.Now().Add(limit)) // a failure shows in Read
	buf := make([]byte, 64<<10)
	n, err := s.TCPConn.Read(buf)
	switch {
	case n > 0:
		return buf[:n], nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, ErrQuiet
	}
	return nil, ended(err)
}

func (s socket) Close() { _ = s.TCPConn.Close() } // nothing is left to lose

// TestSocket plays every script over a real socket against the built target.
// A script leaves the LUN as the others expect it.
func TestSocket(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a target")
	}
	bin := filepath.Join(t.TempDir(), "spindle")
	build := exec.Command("go", "build", "-o", bin, "spindle/cmd/spindle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	target, err := testbed.Start(t.Context(), bin, testbed.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := target.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, call := range [][]string{
		{"iscsi_create_auth_group", "tag=1", `secrets=[{"user":"` + chapUser + `","secret":"` + chapSecret + `","muser":"target","msecret":"` + ourSecret + `"}]`},
		{"bdev_null_create", "name=chap", "num_blocks=1024", "block_size=512"},
		{"iscsi_create_target_node", "name=" + chapNode, "alias_name=chap", "queue_depth=16", "require_chap=true", "chap_group=1",
			`luns=[{"lun_id":0,"bdev_name":"chap"}]`, `pg_ig_maps=[{"pg_tag":1,"ig_tag":1}]`},
	} {
		if _, err := target.RPC(t.Context(), call...); err != nil {
			t.Fatal(err)
		}
	}
	p := &Player{
		Dial: dial(target.Addr(), 5*time.Second), Wait: time.Sleep,
		Vars: map[string]string{"target": testbed.IQN, "initiator": iscsitest.Initiator, "lun": "0", "portal": target.Addr(),
			"chapnode": chapNode, "chapuser": chapUser, "chapsecret": chapSecret},
	}
	for _, s := range load(t) {
		t.Run(s.Name, func(t *testing.T) {
			if slices.Contains(s.Needs, "virtual") {
				t.Skip("only where waiting costs nothing")
			}
			if err := p.Play(s); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestForeign plays the scripts against somebody else's target.
func TestForeign(t *testing.T) {
	if *foreign == "" {
		t.Skip("-dialogue.addr names no target")
	}
	p := &Player{
		Dial: dial(*foreign, *foreignWait), Wait: time.Sleep,
		Vars: map[string]string{"target": *foreignTarget, "initiator": iscsitest.Initiator, "lun": *foreignLUN, "portal": *foreign},
	}
	for _, s := range load(t) {
		t.Run(s.Name, func(t *testing.T) {
			if m := missing(s, p.Vars); len(m) > 0 {
				t.Skipf("needs %v", m)
			}
			if err := p.Play(s); err != nil {
				t.Fatal(err)
			}
		})
	}
}
