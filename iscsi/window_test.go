package iscsi_test

import (
	"bytes"
	"fmt"
	"testing"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// TestOutOfOrderHeld: commands that come early run in the order of their CmdSN
// (RFC 7143 §4.2.2.1), whatever PDU they are.
func TestOutOfOrderHeld(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("ImmediateData=Yes")
	ready(t, c, 1)
	first := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
	second := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
	nop := c.Request(pdu.NopOut, pdu.FlagFinal)
	nop.SetTTT(pdu.ReservedTag)
	read := c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(9, 1)...)
	c.Send(read, nil, nil)
	c.Send(nop, nil, []byte("third"))
	c.Send(second, nil, pattern(512, 2))
	silent(t, g, c)
	c.Send(first, nil, pattern(512, 1))
	good(t, c, first.ITT(), nil)
	good(t, c, second.ITT(), nil)
	echoed(t, c, nop.ITT(), "third")
	if r := good(t, c, read.ITT(), nil); !bytes.Equal(r.Data, pattern(512, 2)) {
		t.Fatal("the read did not see the second write")
	}
	if c.ExpCmdSN != c.CmdSN {
		t.Fatalf("ExpCmdSN %d, want %d", c.ExpCmdSN, c.CmdSN)
	}
}

// TestHeldTMFAndText: a Text Request and a task management function wait for
// their turn too.
func TestHeldTMFAndText(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	gap := c.Command(1, 0, 0)
	text := c.Request(pdu.TextRequest, pdu.FlagFinal)
	text.SetTTT(pdu.ReservedTag)
	c.Send(text, nil, iscsitest.Keys("SendTargets="))
	fn := c.Request(pdu.TMFRequest, pdu.FlagFinal|pdu.TMFAbortTask)
	fn.SetRefTag(gap.ITT())
	fn.SetRefCmdSN(gap.CmdSN())
	c.Send(fn, nil, nil)
	silent(t, g, c)
	c.Send(gap, nil, nil)
	good(t, c, gap.ITT(), nil)
	if p := c.Expect(pdu.TextResponse); !bytes.Contains(p.Data, []byte("TargetName="+iscsitest.Node)) {
		t.Fatalf("%q", p.Data)
	}
	c.ExpStatSN++
	managed(t, c, fn.ITT(), pdu.TMFNoTask)
}

// TestOutsideWindow: what is outside the window, or came already, is dropped
// without a word, and counted.
func TestOutsideWindow(t *testing.T) {
	for _, tc := range []struct {
		name string
		op   pdu.Opcode
		sn   func(exp, max uint32) uint32
	}{
		{"command before it", pdu.SCSICommand, func(exp, _ uint32) uint32 { return exp - 1 }},
		{"command behind it", pdu.SCSICommand, func(_, max uint32) uint32 { return max + 1 }},
		{"command far behind it", pdu.SCSICommand, func(_, max uint32) uint32 { return max + 1<<30 }},
		{"NOP-Out before it", pdu.NopOut, func(exp, _ uint32) uint32 { return exp - 1 }},
		{"NOP-Out behind it", pdu.NopOut, func(_, max uint32) uint32 { return max + 1 }},
		{"task management behind it", pdu.TMFRequest, func(_, max uint32) uint32 { return max + 1 }},
		{"logout behind it", pdu.LogoutReq, func(_, max uint32) uint32 { return max + 1 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login()
			ready(t, c, 1)
			b := c.Request(tc.op, pdu.FlagFinal|1)
			c.CmdSN--
			b.SetTTT(pdu.ReservedTag)
			b.SetCmdSN(tc.sn(c.CmdSN, c.MaxCmdSN))
			c.Send(b, nil, []byte("data"))
			silent(t, g, c)
			if n := g.Engine.Stats.Dropped.Load(); n != 1 {
				t.Fatalf("%d dropped", n)
			}
			alive(t, c)
		})
	}
}

// TestDuplicateCmdSN: an early CmdSN that comes twice is taken once.
func TestDuplicateCmdSN(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	gap, early := c.Command(1, 0, 0), c.Command(1, 0, 0)
	c.Send(early, nil, nil)
	again := append(pdu.BHS(nil), early...)
	again.SetITT(c.NewITT())
	c.Send(again, nil, nil)
	nop := append(pdu.BHS(nil), early...)
	nop.SetOpcode(pdu.NopOut)
	nop.SetITT(c.NewITT())
	nop.SetTTT(pdu.ReservedTag)
	c.Send(nop, nil, []byte("x"))
	c.Send(gap, nil, nil)
	good(t, c, gap.ITT(), nil)
	good(t, c, early.ITT(), nil)
	silent(t, g, c)
	if n := g.Engine.Stats.Dropped.Load(); n != 2 {
		t.Fatalf("%d dropped, want 2", n)
	}
	alive(t, c)
}

// TestWindowWraps: serial numbers go on over 2^32.
func TestWindowWraps(t *testing.T) {
	for _, start := range []uint32{0xffffffff, 0xfffffffe, 0xffffff80, 0x7fffffff} {
		t.Run(fmt.Sprintf("%#x", start), func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{QueueDepth: 8}})
			c := g.Dial()
			c.CmdSN, c.ExpStatSN = start, start
			c.Login()
			ready(t, c, 1)
			for range 40 {
				a, b := c.Command(1, 0, 0), c.Command(1, 0, 0)
				c.Send(b, nil, nil)
				c.Send(a, nil, nil)
				good(t, c, a.ITT(), nil)
				good(t, c, b.ITT(), nil)
				if c.ExpCmdSN != c.CmdSN || c.MaxCmdSN != c.CmdSN+7 {
					t.Fatalf("window %#x..%#x, want %#x..%#x", c.ExpCmdSN, c.MaxCmdSN, c.CmdSN, c.CmdSN+7)
				}
			}
			for range 20 {
				c.Send(c.Command(1, 0, 0), nil, nil)
				good(t, c, c.ITT, nil)
			}
		})
	}
}

// TestWindowCloses: the window closes at the queue depth; each response, not
// the last of them, opens it again, and no NOP-In is needed for that.
func TestWindowCloses(t *testing.T) {
	for _, depth := range []uint32{1, 2, 8} {
		t.Run(fmt.Sprint(depth), func(t *testing.T) {
			g, dev := faulty(t, iscsitest.Options{Node: iscsi.NodeConfig{QueueDepth: depth}})
			c := g.Dial().Login()
			ready(t, c, 1)
			hold(t, dev, bdev.Read, 1)
			c.Send(c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, nil)
			g.Settle()
			for range 3 * depth {
				var round []uint32
				for range depth - 1 {
					b := c.Command(1, 0, 0)
					c.Send(b, nil, nil)
					round = append(round, b.ITT())
				}
				for _, itt := range round {
					good(t, c, itt, nil)
				}
				if len(round) > 0 && c.MaxCmdSN-c.ExpCmdSN+1 != depth-1 {
					t.Fatalf("window %d..%d with one of %d outstanding", c.ExpCmdSN, c.MaxCmdSN, depth)
				}
			}
			hold(t, dev, bdev.Read, depth-1)
			for range depth - 1 {
				c.Send(c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, nil)
			}
			ping(t, c)
			if c.MaxCmdSN != c.ExpCmdSN-1 {
				t.Fatalf("window %d..%d is not closed", c.ExpCmdSN, c.MaxCmdSN)
			}
			late := c.Command(1, 0, 0)
			c.Send(late, nil, nil)
			silent(t, g, c)
			c.CmdSN--
			dev.ResumePending()
			for range depth {
				if p := c.Expect(pdu.DataIn); p.BHS.Status() != 0 {
					t.Fatalf("% x", p.BHS)
				}
				c.ExpStatSN++
			}
			if c.MaxCmdSN-c.ExpCmdSN+1 != depth {
				t.Fatalf("window %d..%d, want %d commands", c.ExpCmdSN, c.MaxCmdSN, depth)
			}
			silent(t, g, c)
			alive(t, c)
		})
	}
}

// TestOtherPDUsMoveWindow: PDUs with a CmdSN that are no SCSI commands move the
// window too, far beyond its size.
func TestOtherPDUsMoveWindow(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{QueueDepth: 4}})
	c := g.Dial().Login()
	ready(t, c, 1)
	for range 20 {
		b := c.Request(pdu.NopOut, pdu.FlagFinal)
		b.SetTTT(pdu.ReservedTag)
		c.Send(b, nil, nil)
		echoed(t, c, b.ITT(), "")
		fn := c.Request(pdu.TMFRequest, pdu.FlagFinal|pdu.TMFClearACA)
		c.Send(fn, nil, nil)
		managed(t, c, fn.ITT(), pdu.TMFNotSupported)
		bad := c.Request(0x1c, pdu.FlagFinal)
		c.Send(bad, nil, nil)
		rejected(t, c, pdu.RejectUnsupported, bad)
	}
	alive(t, c)
}

// TestNopInTellsWindow: a closed window that nothing else reopens is told by a
// NOP-In that wants no answer.
func TestNopInTellsWindow(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{QueueDepth: 2}})
	c := g.Dial().Login()
	ready(t, c, 1)
	for range 2 { // NOP-Outs that want no answer, but count
		b := c.Request(pdu.NopOut, pdu.FlagFinal)
		b.SetITT(pdu.ReservedTag)
		b.SetTTT(pdu.ReservedTag)
		c.Send(b, nil, nil)
	}
	p := c.Expect(pdu.NopIn)
	if p.BHS.ITT() != pdu.ReservedTag || p.BHS.TTT() != pdu.ReservedTag || p.BHS.StatSN() != c.ExpStatSN {
		t.Fatalf("% x", p.BHS)
	}
	if c.MaxCmdSN-c.ExpCmdSN+1 != 2 {
		t.Fatalf("window %d..%d", c.ExpCmdSN, c.MaxCmdSN)
	}
	silent(t, g, c)
	alive(t, c)
}

// TestImmediateBeyondWindow: immediate commands run though the window is closed,
// up to the tasks that no CmdSN is promised; the next one is rejected.
func TestImmediateBeyondWindow(t *testing.T) {
	const depth = 4
	g, dev := faulty(t, iscsitest.Options{Node: iscsi.NodeConfig{QueueDepth: depth}})
	c := g.Dial().Login()
	ready(t, c, 1)
	hold(t, dev, bdev.Read, 100)
	for range depth {
		c.Send(c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, nil)
	}
	immediate := func() pdu.BHS {
		b := c.Immediate(pdu.SCSICommand, pdu.FlagFinal|pdu.FlagRead|pdu.AttrSimple)
		b.SetLUN(1 << 48)
		b.SetEDTL(512)
		copy(b.CDB(), iscsitest.Read10(0, 1))
		return b
	}
	taken := 0
	for range depth + iscsi.ImmediateTasks {
		c.Send(immediate(), nil, nil)
		g.Settle()
		taken++
	}
	if _, ok := c.TryRecv(); ok {
		t.Fatal("an immediate command was answered early")
	}
	b := immediate()
	c.Send(b, nil, nil)
	rejected(t, c, pdu.RejectImmediate, b)
	dev.ResumePending()
	for range depth + taken {
		c.Expect(pdu.DataIn)
		c.ExpStatSN++
	}
	c.Expect(pdu.NopIn) // every task was answering: the window opens when they have
	if err := dev.Inject(injectNothing); err != nil {
		t.Fatal(err)
	}
	alive(t, c)
}

// TestTaskInProgress: a tag that is in use is rejected, its CmdSN counts.
func TestTaskInProgress(t *testing.T) {
	g, dev := faulty(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	hold(t, dev, bdev.Read, 1)
	b := c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...)
	c.Send(b, nil, nil)
	again := c.Command(1, 0, 0)
	again.SetITT(b.ITT())
	c.Send(again, nil, nil)
	rejected(t, c, pdu.RejectTaskInProgress, again)
	if c.ExpCmdSN != c.CmdSN {
		t.Fatalf("ExpCmdSN %d, want %d", c.ExpCmdSN, c.CmdSN)
	}
	dev.ResumePending()
	good(t, c, b.ITT(), nil)
	alive(t, c)
}

// TestFlood: an initiator that fills every window it is told of, never reads,
// and then reads everything, gets every answer; memory stays bounded meanwhile.
func TestFlood(t *testing.T) {
	for _, tc := range []struct {
		name string
		send func(c *iscsitest.Conn) pdu.BHS
		n    int
	}{
		{"reads", func(c *iscsitest.Conn) pdu.BHS {
			return c.Command(1, pdu.FlagRead, 65536, iscsitest.Read10(0, 128)...)
		}, 64},
		{"pings", func(c *iscsitest.Conn) pdu.BHS {
			b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			return b
		}, 5000},
		{"immediate test unit ready", func(c *iscsitest.Conn) pdu.BHS {
			b := c.Immediate(pdu.SCSICommand, pdu.FlagFinal)
			b.SetLUN(1 << 48)
			return b
		}, 5000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{QueueDepth: 64}})
			c := g.Dial().Login()
			ready(t, c, 1)
			var w []byte
			for range tc.n {
				w = append(w, c.Frame(tc.send(c), nil, nil)...)
			}
			for range 2000 { // without reading
				w = w[c.Peer.Write(w):]
				g.Turn()
			}
			if in := g.Reactors[0].Arena.Stats().InUse; in > 24<<20 {
				t.Fatalf("%d bytes in use for a peer that does not read", in)
			}
			got := 0
			for got < tc.n {
				w = w[c.Peer.Write(w):]
				p, ok := c.TryRecv()
				if !ok {
					g.Turn()
					continue
				}
				switch {
				case p.BHS.Opcode() == pdu.DataIn && p.BHS.Flags()&pdu.FlagStatus == 0:
				case p.BHS.Opcode() == pdu.NopIn && p.BHS.ITT() == pdu.ReservedTag:
				default:
					got++
					c.ExpStatSN = p.BHS.StatSN() + 1
				}
			}
			alive(t, c)
		})
	}
}
