package iscsi_test

import (
	"runtime"
	"testing"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// TestMemoryExhausted: commands that find no buffer wait, by turns of their
// connections, and all of them end when memory comes back.
func TestMemoryExhausted(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20})
	var conns []*iscsitest.Conn
	for i := range byte(3) {
		c := dialAs(g, i).Login("ImmediateData=No", "InitialR2T=Yes")
		ready(t, c, 1)
		conns = append(conns, c)
	}
	free := drain(g)
	const each = 10
	for _, c := range conns {
		for i := range each {
			dir, cdb := byte(pdu.FlagRead), iscsitest.Read10(0, 128)
			if i%2 == 1 {
				dir, cdb = pdu.FlagWrite, iscsitest.Write10(0, 128)
			}
			c.Send(c.Command(1, dir, 65536, cdb...), nil, nil)
		}
		silent(t, g, c)
	}
	if n := g.Engine.Stats.BufferWaits.Load(); n != 3*each {
		t.Fatalf("%d commands wait, want %d", n, 3*each)
	}
	for _, c := range conns {
		b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		b.SetTTT(pdu.ReservedTag)
		c.Send(b, nil, []byte("ping"))
		echoed(t, c, b.ITT(), "") // without its data, but answered
	}
	free()
	kick(t, conns[0])
	for _, c := range conns {
		got := map[uint32]bool{}
		for len(got) < each {
			p := c.Recv()
			switch b := p.BHS; b.Opcode() {
			case pdu.R2T:
				c.DataOut(b, pattern(65536, 1))
			case pdu.DataIn:
				if b.Flags()&pdu.FlagStatus != 0 {
					got[b.ITT()] = true
				}
			case pdu.SCSIResponse:
				if b.Status() != 0 {
					t.Fatalf("% x", b)
				}
				got[b.ITT()] = true
			}
		}
	}
}

// TestBufferTurns: waiting commands are served one a connection in turn.
func TestBufferTurns(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20})
	greedy, modest := dialAs(g, 1).Login(), dialAs(g, 2).Login()
	ready(t, greedy, 1)
	ready(t, modest, 1)
	a := g.Reactors[0].Arena
	one, ok := a.Alloc(1 << 20)
	if !ok {
		t.Fatal("no memory")
	}
	free := drain(g)
	defer free()
	for range 6 {
		greedy.Send(greedy.Command(1, pdu.FlagRead, 1<<20, iscsitest.Read10(0, 2048)...), nil, nil)
	}
	g.Settle()
	for range 2 {
		modest.Send(modest.Command(1, pdu.FlagRead, 1<<20, iscsitest.Read10(0, 2048)...), nil, nil)
	}
	g.Settle()
	a.Free(one)
	kick(t, modest)
	order := ""
	for range 2000 {
		g.Turn()
		for name, c := range map[string]*iscsitest.Conn{"g": greedy, "m": modest} {
			for {
				p, ok := c.TryRecv()
				if !ok {
					break
				}
				if p.BHS.Flags()&pdu.FlagStatus != 0 {
					order += name
				}
			}
		}
	}
	if order != "gmgmgggg" {
		t.Fatalf("served %s", order)
	}
}

// kick has the waiting commands served, as any buffer that comes home does: one
// more waits, and is aborted.
func kick(t *testing.T, c *iscsitest.Conn) {
	t.Helper()
	b := c.Command(1, pdu.FlagRead, 96, 0x12, 0, 0, 0, 96)
	c.Send(b, nil, nil)
	m := tmf(c, pdu.TMFAbortTask, 1, b.ITT(), b.CmdSN())
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFComplete)
}

// TestSessionsShareTasks: a session more does not bring tasks of its own, of which
// those that it may use at once would be 300 KB.
func TestSessionsShareTasks(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	ready(t, dialAs(g, 1).Login(), 1)
	const more = 16
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range byte(more) {
		ready(t, dialAs(g, 2+i).Login(), 1)
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / more; n > 128<<10 {
		t.Errorf("%d bytes a session", n)
	} else {
		t.Logf("%d bytes a session", n)
	}
}

// buffered is WRITE AND VERIFY(10) of blocks 0 to 7: a plain WRITE needs no memory.
var buffered = []byte{0x2e, 0, 0, 0, 0, 0, 0, 0, 8, 0}

// TestTaskSetFull: beyond the queue of waiting commands, and for commands whose
// data is already under way, the answer is TASK SET FULL, and nothing is lost.
func TestTaskSetFull(t *testing.T) {
	t.Run("immediate data", func(t *testing.T) {
		g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20})
		c := g.Dial().Login("InitialR2T=No")
		ready(t, c, 1)
		free := drain(g)
		b := c.Command(1, pdu.FlagWrite, 4096, buffered...)
		if r := c.Do(b, pattern(4096, 1), 4096); r.Status != 0x28 || len(r.Sense) != 0 {
			t.Fatalf("status %02x", r.Status)
		}
		b = c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
		b.SetFlags(b.Flags() &^ pdu.FlagFinal)
		c.Send(b, nil, nil)
		c.Send(c.DataOutBHS(b.ITT(), pdu.ReservedTag, 0, 0, true), nil, pattern(4096, 1))
		if r := c.Finish(b.ITT(), nil); r.Status != 0x28 {
			t.Fatalf("status %02x", r.Status)
		}
		silent(t, g, c)
		if n := g.Engine.Stats.TaskSetFull.Load(); n != 2 {
			t.Fatalf("%d counted", n)
		}
		free()
		alive(t, c)
	})
	t.Run("queue full", func(t *testing.T) {
		g := iscsitest.New(t, iscsitest.Options{Memory: 64 << 20, Engine: options(func(o *iscsi.Options) { o.MaxQueueDepth = iscsi.MaxQueueDepth })})
		var conns []*iscsitest.Conn
		for i := range byte(5) {
			c := dialAs(g, i).Login()
			ready(t, c, 1)
			conns = append(conns, c)
		}
		free := drain(g)
		full, waits := 0, 0
		for _, c := range conns {
			for range iscsi.MaxQueueDepth {
				c.Send(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
			}
			g.Settle()
			for {
				p, ok := c.TryRecv()
				if !ok {
					break
				}
				if p.BHS.Opcode() != pdu.SCSIResponse || p.BHS.Status() != 0x28 {
					t.Fatalf("% x", p.BHS)
				}
				full++
			}
		}
		if waits = int(g.Engine.Stats.BufferWaits.Load()); waits != int(iscsi.Defaults().MaxBufferWaiters) || full != 5*iscsi.MaxQueueDepth-waits {
			t.Fatalf("%d wait, %d are full", waits, full)
		}
		free()
		m := tmf(conns[0], pdu.TMFAbortTask, 1, conns[0].ITT-1, conns[0].CmdSN-2)
		conns[0].Send(m, nil, nil) // has the queue looked at
		ended := 0
		g.Until("all", func() bool {
			for _, c := range conns {
				for {
					p, ok := c.TryRecv()
					if !ok {
						break
					}
					if p.BHS.Opcode() == pdu.DataIn {
						ended++
					}
				}
			}
			return ended == waits-1
		})
	})
	t.Run("connection ends", func(t *testing.T) {
		g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20})
		c := g.Dial().Login()
		ready(t, c, 1)
		free := drain(g)
		for _, lun := range []uint16{1, 1, 55} { // INQUIRY to an absent unit wants memory too
			c.Send(c.Command(lun, pdu.FlagRead, 96, 0x12, 0, 0, 0, 96), nil, nil)
		}
		g.Settle()
		c.Peer.Reset()
		g.Settle()
		free()
		ready(t, g.Dial().Login(), 1)
	})
}

// TestNoMemoryForLogin: a connection that finds no memory is closed, and the
// next one after memory is back is served.
func TestNoMemoryForLogin(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20, Reactors: 2})
	g.Settle()
	free := drain(g) // of the accepting reactor or of the session's
	c := g.Dial()
	g.Settle()
	if c.Peer.EOF() || c.Peer.Err() != nil {
		free()
	} else {
		login1(c)
		c.ExpectClosed()
		free()
	}
	ready(t, g.Dial().Login(), 1)
}

// TestEarlyWithoutMemory: a command that comes before the one ahead of it, and
// finds no memory for its immediate data, is answered in its turn. Dropped, it
// would leave a gap in CmdSN.
func TestEarlyWithoutMemory(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20})
	c := dialAs(g, 1).Login()
	ready(t, c, 1)
	free := drain(g)
	first := c.Command(1, 0, 0, 0)
	second := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
	c.Send(second, nil, pattern(4096, 1))
	c.Send(first, nil, nil)
	for _, want := range []struct {
		itt    uint32
		status uint8
	}{{first.ITT(), 0}, {second.ITT(), 0x28}} {
		p := c.Expect(pdu.SCSIResponse)
		if p.BHS.ITT() != want.itt || p.BHS.Status() != want.status {
			t.Fatalf("% x, want the response to %#x with status %#x", p.BHS, want.itt, want.status)
		}
	}
	free()
	third := c.Command(1, 0, 0, 0)
	c.Send(third, nil, nil)
	if p := c.Expect(pdu.SCSIResponse); p.BHS.ITT() != third.ITT() || p.BHS.Status() != 0 {
		t.Fatalf("% x", p.BHS)
	}
}

// TestEarlyRequestWithoutMemory: a NOP-Out or Text Request that found no memory
// while it was held is answered as it would be in its turn, not as one with a
// broken digest.
func TestEarlyRequestWithoutMemory(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20})
	c := dialAs(g, 1).Login()
	ready(t, c, 1)
	defer drain(g)()
	gap := c.Command(1, 0, 0, 0)
	ping := c.Request(pdu.NopOut, pdu.FlagFinal)
	ping.SetTTT(pdu.ReservedTag)
	c.Send(ping, nil, pattern(100, 1))
	text := c.Request(pdu.TextRequest, pdu.FlagFinal)
	text.SetTTT(pdu.ReservedTag)
	c.Send(text, nil, iscsitest.Keys("SendTargets="))
	c.Send(gap, nil, nil)
	good(t, c, gap.ITT(), nil)
	if p := c.Expect(pdu.NopIn); p.BHS.ITT() != ping.ITT() || len(p.Data) != 0 {
		t.Fatalf("% x", p.BHS)
	}
	if p := c.Expect(pdu.Reject); p.BHS.Response() != pdu.RejectResources {
		t.Fatalf("% x", p.BHS)
	}
}

// TestAbortWithoutUnit: a command that waits for memory can be aborted although its
// unit is not there.
func TestAbortWithoutUnit(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20})
	c := g.Dial().Login()
	ready(t, c, 1)
	free := drain(g)
	b := c.Command(77, pdu.FlagRead, 96, 0x12, 0, 0, 0, 96)
	c.Send(b, nil, nil)
	silent(t, g, c)
	m := tmf(c, pdu.TMFAbortTask, 77, b.ITT(), b.CmdSN())
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFComplete)
	free()
	alive(t, c)
}
