package uring

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"spindle/reactor/ring"
)

// TestSendZC: the result comes first, then the word that nothing is referred to
// any more; until then what has not been delivered may not change, afterwards it may.
func TestSendZC(t *testing.T) {
	both(t, func(t *testing.T, legacy bool) {
		g := newRig(t, Config{Legacy: legacy})
		if !g.ZeroCopy() {
			t.Skip("no SENDMSG_ZC in this kernel")
		}
		f, peer := g.pair()
		const size = 1 << 20
		m := ring.Msg{Ref: g.buf(ring.MsgHeader + 2*ring.VecSize)}
		data := g.buf(size)
		for i := range data.Bytes() {
			data.Bytes()[i] = byte(i * 31 >> 3)
		}
		want := bytes.Clone(data.Bytes())
		m.SetVec(0, data.Addr, size/2)
		m.SetVec(1, data.Addr+size/2, size/2)
		g.must(g.SendZC(1, f, m, 2))
		done := make(chan []byte)
		go func() {
			b := make([]byte, size)
			n, _ := io.ReadFull(peer, b)
			done <- b[:n]
		}()
		if c := g.await(1); c.Res != size || c.Flags&ring.FlagMore == 0 || c.Flags&ring.FlagNotif != 0 {
			t.Fatalf("send: %+v", c)
		}
		m.SetVec(0, 0, 0) // the message itself is free now
		if c := g.await(1); c.Flags&ring.FlagNotif == 0 || c.Flags&ring.FlagMore != 0 {
			t.Fatalf("notification: %+v", c)
		}
		clear(data.Bytes())
		if !bytes.Equal(<-done, want) {
			t.Error("bytes differ")
		}
		if g.Inflight() != 0 {
			t.Errorf("%d operations in flight", g.Inflight())
		}
		peer.SetLinger(0)
		peer.Close()
		g.must(g.RecvInto(2, f, data.Slice(0, 16)))
		g.await(2) // the reset
		m.SetVec(0, data.Addr, 16)
		g.must(g.SendZC(3, f, m, 1))
		if c := g.await(3); syscall.Errno(-c.Res) != syscall.EPIPE {
			t.Errorf("send after reset: %+v", c)
		}
	})
}

// TestBusyPoll: a ring told to poll device queues sleeps and wakes as any other.
func TestBusyPoll(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		g := newRig(t, Config{BusyPollUS: 50, Legacy: legacy})
		if why := g.NoBusyPoll(); legacy != (why != nil) && !errors.Is(why, syscall.EINVAL) { // before Linux 6.9
			t.Errorf("legacy %v: %v", legacy, why)
		}
		f, peer := g.pair()
		b := g.buf(16)
		g.must(g.RecvInto(1, f, b.Slice(0, 5)))
		if _, err := peer.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if c := g.await(1); c.Res != 5 || string(b.Slice(0, 5).Bytes()) != "hello" {
			t.Errorf("%+v", c)
		}
	}
}
