package wire

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"testing"

	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// pair is a loop and a socket of it, and the other end.
func pair(t *testing.T) (*Loop, ring.File, net.Conn) {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	l, err := New(Options{CPU: -1, Memory: 4 << 20, Files: 4, Buffers: 4, Buffer: 4096})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	own, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	sock, err := own.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	own.Close()
	t.Cleanup(func() { sock.Close(); other.Close() })
	file, err := l.Ring.Install(int(sock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return l, file, other
}

// pump turns the loop until the sender has nothing in flight.
func pump(t *testing.T, l *Loop, s *Sender) {
	t.Helper()
	for s.Flying() {
		cqes, err := l.Turn(0)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range cqes {
			if err := s.Sent(q.Res); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSender(t *testing.T) {
	l, file, other := pair(t)
	var s Sender
	if err := s.Init(l, file, 1, 4096, 16); err != nil {
		t.Fatal(err)
	}
	large, err := l.Alloc(8192)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := 0, large.Bytes(); i < len(b); i++ {
		b[i] = byte(i / 32)
	}
	var want []byte
	put := func(text string) {
		copy(s.Bytes(uint32(len(text))), text)
		want = append(want, text...)
	}
	put("header")
	put("another")
	s.Data(large)
	want = append(want, large.Bytes()...)
	put("trailer")
	if !s.Flush() || !s.Flying() {
		t.Fatal("nothing was sent")
	}
	put("while it flies")
	if !s.Flush() {
		t.Fatal("the queue is full")
	}
	got := make([]byte, len(want)-len("while it flies"))
	pump(t, l, &s)
	if _, err := io.ReadFull(other, got); err != nil {
		t.Fatal(err)
	}
	s.Flush()
	pump(t, l, &s)
	rest := make([]byte, len("while it flies"))
	if _, err := io.ReadFull(other, rest); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(got, rest...), want) {
		t.Error("what arrived is not what was sent")
	}
}

func TestSenderRoom(t *testing.T) {
	l, file, _ := pair(t)
	var s Sender
	if err := s.Init(l, file, 1, 4096, 8); err != nil {
		t.Fatal(err)
	}
	if s.Room(4097, 0) || !s.Room(4096, 0) {
		t.Error("bytes: not the room it has")
	}
	for i := range 3 {
		if !s.Room(8, 1) {
			t.Fatalf("no room for reference %d of 3", i+1)
		}
		s.Bytes(8)
		s.Data(mem.Ref{Addr: 4096, Len: 1})
	}
	if s.Room(8, 1) {
		t.Error("room for more vectors than there are")
	}
}

// TestShortSend plays completions that carried only a part.
func TestShortSend(t *testing.T) {
	l, file, other := pair(t)
	var s Sender
	if err := s.Init(l, file, 1, 4096, 16); err != nil {
		t.Fatal(err)
	}
	copy(s.Bytes(5), "first")
	data, err := l.Alloc(6)
	if err != nil {
		t.Fatal(err)
	}
	copy(data.Bytes(), "second")
	s.Data(data)
	copy(s.Bytes(5), "third")
	b := &s.b[s.filling]
	b.close()
	s.flying, s.filling = true, s.filling^1
	if err := s.Sent(7); err != nil { // as if the kernel had taken "firstse"
		t.Fatal(err)
	}
	pump(t, l, &s)
	got := make([]byte, 9)
	if _, err := io.ReadFull(other, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != "condthird" {
		t.Errorf("the rest was %q", got)
	}
	if err := s.Sent(-32); err == nil {
		t.Error("EPIPE was no error")
	}
}
