package iscsi_test

import (
	"bytes"
	"fmt"
	"testing"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor/ring/simring"
)

// redeclare sends MaxRecvDataSegmentLength in full feature phase.
func redeclare(c *iscsitest.Conn, n uint32, acked uint32) {
	b := c.Immediate(pdu.TextRequest, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	b.SetExpStatSN(acked)
	c.Send(b, nil, iscsitest.Keys(fmt.Sprintf("MaxRecvDataSegmentLength=%d", n)))
}

// snack sends a SNACK Request that acknowledges StatSNs before acked.
func snack(c *iscsitest.Conn, kind byte, itt, ttt, from, n, acked uint32) pdu.BHS {
	b := request(c, kind, itt, ttt, from, n)
	b.SetLUN(1 << 48)
	b.SetExpStatSN(acked)
	c.Send(b, nil, nil)
	return b
}

// Class 20, IndexFromWire: data that was cut anew has fewer PDUs than it had.
// The numbers that are gone are neither acknowledged nor asked for any more.
func TestClass20SNACKBeyondRenewedData(t *testing.T) {
	_, c := recoverable(t, level(1), "MaxRecvDataSegmentLength=512", "MaxBurstLength=2048", "FirstBurstLength=512")
	r := c.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(5, 16)...)
	c.Send(r, nil, nil)
	sent := collect(c, 16)
	unack, tag := c.ExpStatSN, sent[3].BHS.TTT()
	c.ExpStatSN++
	redeclare(c, 4096, unack)
	c.Expect(pdu.TextResponse)
	c.ExpStatSN++
	snack(c, pdu.SNACKRData, r.ITT(), 7, 0, 0, unack)
	for range 4 {
		c.Expect(pdu.DataIn)
	}
	c.Expect(pdu.SCSIResponse)
	rejected(t, c, pdu.RejectInvalidDataAck, snack(c, pdu.SNACKDataAck, pdu.ReservedTag, tag, 10, 0, unack))
	rejected(t, c, pdu.RejectProtocol, snack(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, 11, 1, unack))
	snack(c, pdu.SNACKDataAck, pdu.ReservedTag, tag, 2, 0, unack)
	rejected(t, c, pdu.RejectProtocol, snack(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, 1, 1, unack))
	alive(t, c)
}

// TestDataAgainIsTheSame: what is sent again is what was sent, whatever others
// have written meanwhile, and whether all of it had left when it was asked for.
func TestDataAgainIsTheSame(t *testing.T) {
	const segment = 1024
	asks := func(kind byte) func(*testing.T, *iscsitest.Conn, uint32) *iscsitest.Conn {
		return func(_ *testing.T, c *iscsitest.Conn, itt uint32) *iscsitest.Conn {
			ttt, from, n := uint32(pdu.ReservedTag), uint32(0), uint32(0)
			switch kind {
			case pdu.SNACKRData:
				ttt = 7
			case pdu.SNACKStatus:
				itt, from, n = pdu.ReservedTag, c.ExpStatSN, 1
			}
			snack(c, kind, itt, ttt, from, n, c.ExpStatSN)
			return c
		}
	}
	for _, tc := range []struct {
		name  string
		level uint32
		ask   func(t *testing.T, c *iscsitest.Conn, itt uint32) *iscsitest.Conn
		from  int // of the data
	}{
		{"Data SNACK", 1, asks(pdu.SNACKData), 0},
		{"R-Data SNACK", 1, asks(pdu.SNACKRData), 0},
		{"Status SNACK", 1, asks(pdu.SNACKStatus), liveBlocks*512 - segment},
		{"TASK REASSIGN", 2, func(t *testing.T, c *iscsitest.Conn, itt uint32) *iscsitest.Conn {
			n := c.DialInto(c.CID).Login("MaxRecvDataSegmentLength=1024")
			c.ExpectClosed()
			m := reassign(n, itt, 0)
			n.Send(m, nil, nil)
			managed(t, n, m.ITT(), pdu.TMFComplete)
			return n
		}, 0},
	} {
		for _, buffer := range []int{2048, 64 << 10} {
			t.Run(fmt.Sprintf("%s/%d", tc.name, buffer), func(t *testing.T) {
				g, c, other, data := living(t, buffer, level(tc.level),
					fmt.Sprintf("ErrorRecoveryLevel=%d", tc.level), "MaxRecvDataSegmentLength=1024")
				itt := sent(c, c.Command(1, pdu.FlagRead, liveBlocks*512, iscsitest.Read10(7, liveBlocks)...))
				g.Settle()
				overwrite(t, other, pattern(len(data), 0xa6))
				again := tc.ask(t, c, itt)
				is := func(c *iscsitest.Conn, from int) {
					t.Helper()
					for at := from; at < len(data); at += segment {
						if p := c.Expect(pdu.DataIn); int(p.BHS.Offset()) != at || !bytes.Equal(p.Data, data[at:][:segment]) {
							t.Fatalf("data from %d on: % x", at, p.BHS)
						}
					}
				}
				if again == c {
					is(c, 0)
				}
				is(again, tc.from)
			})
		}
	}
}

// slow is a session whose responses stay on their way until they are read.
func slow(t *testing.T) (*iscsitest.Target, *iscsitest.Conn) {
	g := iscsitest.New(t, iscsitest.Options{Engine: level(1), World: simring.Config{SocketBuffer: 2048}})
	c := g.Dial().Login("ErrorRecoveryLevel=1", "MaxRecvDataSegmentLength=512", "MaxBurstLength=2048", "FirstBurstLength=512")
	attention(t, c, atPowerOn)
	return g, c
}

// What the initiator declares while a response is on its way changes nothing of
// how that is cut: a DataSN stands for the same bytes when it is asked for again.
func TestSNACKAfterRedeclaration(t *testing.T) {
	g, c := slow(t)
	data := pattern(32<<10, 3)
	good(t, c, sent(c, c.Command(1, pdu.FlagWrite, 32<<10, iscsitest.Write10(5, 64)...)), data)
	r := c.Command(1, pdu.FlagRead, 32<<10, iscsitest.Read10(5, 64)...)
	c.Send(r, nil, nil)
	g.Settle()
	unack := c.ExpStatSN
	redeclare(c, 4096, unack)
	g.Settle()
	first := collect(c, 64)
	for i, p := range first {
		if p.BHS.Opcode() != pdu.DataIn || len(p.Data) != 512 || !bytes.Equal(p.Data, data[i*512:][:512]) {
			t.Fatalf("PDU %d: % x, %d bytes", i, p.BHS, len(p.Data))
		}
	}
	c.Expect(pdu.TextResponse)
	c.ExpStatSN += 2
	for _, i := range []uint32{63, 1, 40} {
		snack(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, i, 1, unack)
		same(t, c.Recv(), first[i])
	}
	rejected(t, c, pdu.RejectProtocol, snack(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, 64, 1, unack))
	alive(t, c)
}

// Class 20, IndexFromWire: a Data SNACK that waits behind an R-Data SNACK asks for
// numbers that are gone when its turn comes.
func TestClass20SNACKBehindRenewal(t *testing.T) {
	for _, acked := range []uint32{0, 8} {
		g, c := slow(t)
		r := c.Command(1, pdu.FlagRead, 32<<10, iscsitest.Read10(5, 64)...)
		c.Send(r, nil, nil)
		g.Settle()
		unack := c.ExpStatSN
		redeclare(c, 4096, unack)
		first := []iscsitest.PDU{c.Recv(), c.Recv(), c.Recv(), c.Recv()}
		for len(first) < 32 { // the rest stays on its way
			first = append(first, c.Recv())
		}
		g.Settle()
		snack(c, pdu.SNACKRData, r.ITT(), 7, 0, 0, unack)
		snack(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, 2, 1, unack)
		snack(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, 30, 2, unack)
		if acked > 0 {
			snack(c, pdu.SNACKDataAck, pdu.ReservedTag, first[3].BHS.TTT(), acked, 0, unack)
		}
		g.Settle()
		first = append(first, collect(c, 32)...)
		c.Expect(pdu.TextResponse)
		c.ExpStatSN += 2
		n := (64 - acked) / 4
		for i := range n {
			if p := c.Expect(pdu.DataIn); p.BHS.DataSN() != acked+i || len(p.Data) != 2048 {
				t.Fatalf("data cut anew, PDU %d of %d: % x", i, n, p.BHS)
			}
		}
		c.Expect(pdu.SCSIResponse)
		if acked == 0 {
			for i := range uint32(1) {
				if p := c.Expect(pdu.DataIn); p.BHS.DataSN() != 2+i {
					t.Fatalf("PDU 2 again: % x", p.BHS)
				}
			}
		}
		silent(t, g, c)
		c.ExpStatSN = unack + 2
		alive(t, c)
	}
}

// A response that is kept no longer cannot be had again, and who asks for it is
// told so at once; what is asked for afterwards does not wait for it.
func TestForgottenStatus(t *testing.T) {
	_, c := recoverable(t, level(1))
	unack := c.ExpStatSN
	for range iscsi.MaxRetainedStatus + 1 {
		b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		b.SetTTT(pdu.ReservedTag)
		b.SetExpStatSN(unack)
		c.Send(b, nil, nil)
		c.Expect(pdu.NopIn)
		c.ExpStatSN++
	}
	rejected(t, c, pdu.RejectSNACK, snack(c, pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, unack, 1, unack))
	snack(c, pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, unack+10, 1, unack)
	if p := c.Expect(pdu.NopIn); p.BHS.StatSN() != unack+10 {
		t.Fatalf("StatSN %d, want %d", p.BHS.StatSN(), unack+10)
	}
}

// Class 8, LyingLength: echoes that are never acknowledged keep no more memory than
// a session may keep, and none that a command of another needs.
func TestEchoesAreBounded(t *testing.T) {
	for _, tc := range []struct {
		name  string
		limit uint32
		first uint32 // of the echoes that is kept, of 64
	}{{"by the session's limit", 4 << 20, 48}, {"by what others need", 0, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Memory: 24 << 20, Engine: level(1, func(o *iscsi.Options) { o.MaxRetainedData = tc.limit })})
			c := g.Dial().Login("ErrorRecoveryLevel=1", "MaxRecvDataSegmentLength=262144")
			attention(t, c, atPowerOn)
			unack := c.ExpStatSN
			data := pattern(256<<10, 1)
			for range 64 {
				b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
				b.SetTTT(pdu.ReservedTag)
				b.SetExpStatSN(unack)
				c.Send(b, nil, data)
				if p := c.Expect(pdu.NopIn); len(p.Data) != len(data) {
					t.Fatalf("%d bytes echoed", len(p.Data))
				}
				c.ExpStatSN++
			}
			other := dialAs(g, 77).Login("MaxRecvDataSegmentLength=262144")
			attention(t, other, atPowerOn)
			const writes = 12
			for range writes {
				w := other.Command(1, pdu.FlagWrite, 1<<20, iscsitest.Write10(0, 2048)...)
				other.Send(w, nil, nil)
			}
			for range writes {
				other.Expect(pdu.R2T)
			}
			if n := g.Engine.Stats.BufferWaits.Load() + g.Engine.Stats.TaskSetFull.Load(); n != 0 {
				t.Errorf("%d commands waited", n)
			}
			if counter(g, "limit_retained_data") == 0 && tc.limit != 0 {
				t.Error("not counted")
			}
			rejected(t, c, pdu.RejectSNACK, snack(c, pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, unack+tc.first-1, 1, unack))
		})
	}
}

// What is asked for again when the connection has ended leaves for nowhere, one
// thing after the other: each gives its place to the next at once.
func TestSNACKBehindTheEnd(t *testing.T) {
	g, c := slow(t)
	unack := c.ExpStatSN
	for range 8 {
		r := c.Command(1, 0, 0)
		r.SetExpStatSN(unack)
		c.Send(r, nil, nil)
		c.Expect(pdu.SCSIResponse)
	}
	r := c.Command(1, pdu.FlagRead, 32<<10, iscsitest.Read10(5, 64)...)
	r.SetExpStatSN(unack)
	c.Send(r, nil, nil)
	for range 8 {
		snack(c, pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, unack, 8, unack)
	}
	g.Settle()
	c.Peer.Reset()
	g.Settle()
	next := g.Dial().Login()
	attention(t, next, atPowerOn)
	alive(t, next)
}

// R-Data SNACKs that wait for a response on its way are each answered with their own
// tag (RFC 7143 §11.4.4).
func TestRDataSNACKTags(t *testing.T) {
	g, c := slow(t)
	r := c.Command(1, pdu.FlagRead, 16<<10, iscsitest.Read10(5, 32)...)
	c.Send(r, nil, nil)
	unack := c.ExpStatSN
	tags := []uint32{0x55, 0x56}
	for _, tag := range tags {
		snack(c, pdu.SNACKRData, r.ITT(), tag, 0, 0, unack)
	}
	g.Settle()
	collect(c, 32)
	for _, tag := range tags {
		for range 32 {
			c.Expect(pdu.DataIn)
		}
		if p := c.Expect(pdu.SCSIResponse); p.BHS.TTT() != tag || p.BHS.StatSN() != unack {
			t.Errorf("response: % x, want tag %#x", p.BHS, tag)
		}
	}
}
