// Package linktest has the two kinds of connection that scripts and operation
// lists are played over: the simulated network of a target in this goroutine,
// and a socket to the built target.
//
// Threading: a link belongs to one goroutine; a simulated one to its target's.
// Memory: plain Go memory.
package linktest

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"spindle/internal/testbed"
	"spindle/iscsi/dialogue"
	"spindle/iscsi/iscsitest"
	"spindle/reactor/ring/simring"
)

// Sim is a Link over the simulated network of g.
type Sim struct {
	G    *iscsitest.Target
	Peer *simring.Peer
}

// DialSim connects to g's portal.
func DialSim(g *iscsitest.Target) (Sim, error) {
	p, err := g.World.Dial(g.Portal)
	return Sim{g, p}, err
}

// Write implements dialogue.Link.
func (l Sim) Write(b []byte) error {
	for len(b) > 0 {
		if l.Peer.WriteClosed() || l.Peer.Err() != nil {
			return io.EOF
		}
		n := l.Peer.Write(b)
		b = b[n:]
		l.G.Turn()
	}
	return nil
}

// Read implements dialogue.Link.
func (l Sim) Read(hopeful bool) ([]byte, error) {
	turns := 300
	if hopeful {
		turns = 20_000
	}
	buf := make([]byte, 64<<10)
	for range turns {
		if n := l.Peer.Read(buf); n > 0 {
			return buf[:n], nil
		}
		if l.Peer.EOF() || l.Peer.Err() != nil {
			return nil, io.EOF
		}
		l.G.Turn()
	}
	return nil, dialogue.ErrQuiet
}

// Close implements dialogue.Link.
func (l Sim) Close() { l.Peer.Close() }

// Socket is a Link over TCP.
type Socket struct {
	*net.TCPConn
	patience time.Duration // how long a PDU may take to come
}

// DialSocket connects to addr.
func DialSocket(addr string, patience time.Duration) (Socket, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return Socket{}, err
	}
	return Socket{c.(*net.TCPConn), patience}, nil
}

// Write implements dialogue.Link.
func (s Socket) Write(b []byte) error {
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

// Read implements dialogue.Link.
func (s Socket) Read(hopeful bool) ([]byte, error) {
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
		return nil, dialogue.ErrQuiet
	}
	return nil, ended(err)
}

// Close implements dialogue.Link.
func (s Socket) Close() { _ = s.TCPConn.Close() } // nothing is left to lose

// Serve builds spindle and starts it for one test, which asserts that it ends in
// good order.
func Serve(t testing.TB, o testbed.Options) *testbed.Target {
	t.Helper()
	bin, err := testbed.Build(t.TempDir(), "CGO_ENABLED=0")
	if err != nil {
		t.Fatal(err)
	}
	target, err := testbed.Start(t.Context(), bin, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := target.Stop(); err != nil {
			t.Error(err)
		}
	})
	return target
}
