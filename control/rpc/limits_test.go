package rpc_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/control/controltest"
	"spindle/control/rpc"
)

// scarce is a listener that has no descriptor for the first connections.
type scarce struct {
	net.Listener
	failures int
}

func (l *scarce) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

// TestAcceptFails: a socket that can take no connection, because initiators have
// all descriptors say, takes them again when it can.
func TestAcceptFails(t *testing.T) {
	ctl, _ := controltest.New()
	s := rpc.NewServer(ctl)
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s.Accept(&scarce{l, 2})
	defer func() { _ = l.Close() }()
	c := dial(t, path)
	if _, err := io.WriteString(c, `{"id":1,"method":"log_get_level"}`); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "NOTICE") {
		t.Errorf("%q, %v", line, err)
	}
}

// TestTakesNothing: a client that reads no answer loses its connection, and with it
// the place that others may want.
func TestTakesNothing(t *testing.T) {
	ctl, _ := controltest.New()
	ctl.Start()
	s := rpc.NewServer(ctl)
	s.SetSendTimeout(time.Millisecond)
	path := filepath.Join(t.TempDir(), "s.sock")
	if err := s.Listen(path); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	c := dial(t, path)
	for err := error(nil); err == nil; {
		// Until the deadline of dial; what ends it before is the server's close.
		_, err = io.WriteString(c, strings.Repeat(`{"id":1,"method":"rpc_get_methods"}`, 100))
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Fatal("the connection is kept")
		}
	}
}

// TestManyWait: as many requests as may wait do, and more are refused instead of
// kept; the places come back.
func TestManyWait(t *testing.T) {
	path, ctl, _ := serve(t, false)
	c := dial(t, path)
	in := bufio.NewReader(c)
	next := func(want string) {
		t.Helper()
		if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, want) {
			t.Fatalf("%q, %v; want %s", line, err, want)
		}
	}
	for i := range rpc.MaxWaiting + 1 {
		if _, err := fmt.Fprintf(c, `{"id":%d,"method":"framework_wait_init"}`, i); err != nil {
			t.Fatal(err)
		}
	}
	next(fmt.Sprintf(`"id":%d,"error":{"code":-16,`, rpc.MaxWaiting))
	ctl.Start()
	for range rpc.MaxWaiting {
		next(`"result":true`)
	}
	if _, err := io.WriteString(c, `{"id":"late","method":"bdev_get_bdevs","params":{"name":"no","timeout":1}}`); err != nil {
		t.Fatal(err)
	}
	next(`"code":-19`)
}

// TestBatchAnswer: the answers of a batch are bounded together.
func TestBatchAnswer(t *testing.T) {
	ctl, _ := controltest.New()
	ctl.Start()
	s := rpc.NewServer(ctl)
	const n, limit = 40, 50_000
	s.SetBatchAnswer(limit)
	call := `{"id":1,"method":"rpc_get_methods"}`
	stream := &stream{in: bytes.NewReader([]byte("[" + strings.Repeat(call+",", n) + call + "]"))}
	s.ServeStream(stream)
	var answers []struct {
		Result json.RawMessage
		Error  *rpc.Error
	}
	if err := json.Unmarshal(stream.out.Bytes(), &answers); err != nil {
		t.Fatal(err)
	}
	if len(answers) != n+1 || stream.out.Len() > limit+n*100 {
		t.Fatalf("%d answers of %d bytes", len(answers), stream.out.Len())
	}
	if first, last := answers[0], answers[n]; first.Error != nil || last.Error == nil || last.Error.Message != "Response too large" {
		t.Errorf("first %v, last %v", first.Error, last.Error)
	}
}
