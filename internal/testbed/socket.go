package testbed

import (
	"net"
	"path/filepath"
	"testing"
)

// Socket is a Unix socket of a test; its first connection is served, then closed.
func Socket(t testing.TB, serve func(net.Conn)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		serve(conn)
	}()
	return path
}
