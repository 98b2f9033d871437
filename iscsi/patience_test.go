package iscsi_test

import (
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
)

// TestBufferPatience: a command whose buffer never comes ends with TASK SET FULL
// instead of waiting, and holding up those behind it, for ever.
func TestBufferPatience(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	a := g.Reactors[0].Arena
	var taken []mem.Ref
	for size := uint32(mem.MaxBlock); size >= mem.MinBlock; size /= 2 {
		for b, ok := a.Alloc(size); ok; b, ok = a.Alloc(size) {
			taken = append(taken, b)
		}
	}
	b := c.Command(1, pdu.FlagRead, 65536, iscsitest.Read10(0, 128)...)
	c.Send(b, nil, nil)
	g.Advance(4 * time.Second)
	if p, ok := c.TryRecv(); ok {
		t.Fatalf("answered while it should wait: % x", p.BHS)
	}
	g.Advance(2 * time.Second)
	if r := c.Finish(b.ITT(), nil); r.Status != 0x28 {
		t.Fatalf("status %02x, want TASK SET FULL", r.Status)
	}
	for _, m := range taken {
		a.Free(m)
	}
	if r := c.Do(c.Command(1, pdu.FlagRead, 65536, iscsitest.Read10(0, 128)...), nil, 0); r.Status != 0 {
		t.Fatalf("status %02x with memory back", r.Status)
	}
}

// TestResetBesideDeafPeer: a LUN RESET does not wait for the answers to an
// initiator that does not read.
func TestResetBesideDeafPeer(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Delayed: true})
	deaf := g.Dial().Login()
	deaf.ISID[5]++
	c := g.Dial()
	c.ISID[5] = 77
	c.Login()
	ready(t, deaf, 1)
	ready(t, c, 1)
	for range 4 {
		deaf.Send(deaf.Command(1, pdu.FlagRead, 1<<20, iscsitest.Read10(0, 2048)...), nil, nil)
	}
	g.Settle()
	b := c.Immediate(pdu.TMFRequest, pdu.FlagFinal|pdu.TMFLUNReset)
	b.SetLUN(1 << 48)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, nil)
	at := g.Clock.T
	if p := c.Expect(pdu.TMFResponse); p.BHS.Response() != pdu.TMFComplete {
		t.Fatalf("response %d", p.BHS.Response())
	}
	if d := g.Clock.T.Sub(at); d > time.Second {
		t.Fatalf("the reset took %v", d)
	}
}

// TestLogoutOfDeafPeer: an initiator that logs out and reads nothing, although memory
// is lent for it, is waited for as long as any that reads nothing.
func TestLogoutOfDeafPeer(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.NopInInterval, o.SendTimeout = 0, 5 })})
	c := g.Dial().Login()
	ready(t, c, 0)
	for range 4 {
		c.Send(c.Command(0, pdu.FlagRead, 1<<20, iscsitest.Read10(0, 2048)...), nil, nil)
	}
	g.Settle()
	c.Send(c.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil)
	g.Advance(time.Second)
	if n := len(g.Engine.Connections(g)); n != 1 {
		t.Fatal("all was read")
	}
	g.Advance(10 * time.Second)
	if n := len(g.Engine.Connections(g)); n != 0 {
		t.Fatalf("%d connections are left", n)
	}
}
