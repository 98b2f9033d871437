package iscsi_test

import (
	"bytes"
	"fmt"
	"testing"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor/ring/simring"
)

// TestR2T holds R2Ts to RFC 7143 §11.8: LUN, offsets, lengths, R2TSN, how many
// at a time, and a StatSN that is shown but not used up.
func TestR2T(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=Yes", "MaxBurstLength=8192", "FirstBurstLength=4096", "MaxOutstandingR2T=3")
	ready(t, c, 1)
	data := pattern(50<<10, 1)
	b := c.Command(1, pdu.FlagWrite, 50<<10, iscsitest.Write10(0, 100)...)
	c.Send(b, nil, data[:1024])
	off, asked, open, next := uint32(1024), uint32(1024), []pdu.BHS{}, uint32(0)
	for off < 50<<10 {
		for len(open) < 3 && asked < 50<<10 {
			p := c.Expect(pdu.R2T).BHS
			n := min(8192, 50<<10-asked)
			if p.LUN() != 1<<48 || p.ITT() != b.ITT() || p.TTT() == pdu.ReservedTag || p.Offset() != asked ||
				p.Desired() != n || p.DataSN() != next || p.StatSN() != c.ExpStatSN || !p.Final() {
				t.Fatalf("R2T %d: % x", next, p)
			}
			open, asked, next = append(open, p), asked+n, next+1
		}
		silent(t, g, c)
		c.DataOut(open[0], data)
		off += open[0].Desired()
		open = open[1:]
	}
	good(t, c, b.ITT(), nil)
	r := c.Do(c.Command(1, pdu.FlagRead, 50<<10, iscsitest.Read10(0, 100)...), nil, 0)
	if !bytes.Equal(r.Data, data) {
		t.Fatal("data differs")
	}
}

// TestDataOutErrors breaks one rule of RFC 7143 §11.7 at a time. The command
// ends as said, what follows is discarded, and the session goes on.
func TestDataOutErrors(t *testing.T) {
	type send func(c *iscsitest.Conn, r2t pdu.BHS, data []byte)
	out := func(sn, off, n uint32, final bool) send {
		return func(c *iscsitest.Conn, r2t pdu.BHS, data []byte) {
			c.Send(c.DataOutBHS(r2t.ITT(), r2t.TTT(), sn, off, final), nil, data[:n])
		}
	}
	const crc, amount = 0x4705, 0x0c0d
	for _, tc := range []struct {
		name string
		send []send
		code uint16
	}{
		{"DataSN skips", []send{out(0, 0, 1024, false), out(2, 1024, 3072, true)}, crc},
		{"DataSN starts at 1", []send{out(1, 0, 4096, true)}, crc},
		{"DataSN repeats", []send{out(0, 0, 1024, false), out(0, 1024, 3072, true)}, crc},
		{"offset skips", []send{out(0, 0, 1024, false), out(1, 2048, 2048, true)}, crc},
		{"offset goes back", []send{out(0, 0, 1024, false), out(1, 0, 1024, true)}, crc},
		{"offset of 4 GiB", []send{out(0, 0xfffffe00, 1024, true)}, crc},
		{"too much in one PDU", []send{out(0, 0, 4608, true)}, amount},
		{"too much in the second", []send{out(0, 0, 4096, false), out(1, 4096, 4, true)}, amount},
		{"too little", []send{out(0, 0, 1024, true)}, amount},
		{"empty and final", []send{out(0, 0, 0, true)}, amount},
		{"much too much", []send{out(0, 0, 256<<10, true)}, amount},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=No", "MaxBurstLength=4096", "FirstBurstLength=4096")
			ready(t, c, 1)
			data := pattern(256<<10, 1)
			b := c.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(0, 16)...)
			c.Send(b, nil, nil)
			r2t := c.Expect(pdu.R2T).BHS
			for _, s := range tc.send {
				s(c, r2t, data)
			}
			sense(t, c.Finish(b.ITT(), nil), 0xb, tc.code)
			out(0, 0, 4096, true)(c, r2t, data) // too late: discarded
			silent(t, g, c)
			alive(t, c)
		})
	}
}

// TestDataOutUnknown: data for no task is discarded without a word; no tag from
// the wire names anything it should not.
func TestDataOutUnknown(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=No")
	ready(t, c, 1)
	data := pattern(4096, 9)
	b := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
	c.Send(b, nil, nil)
	r2t := c.Expect(pdu.R2T).BHS
	ttt := r2t.TTT()
	for _, tags := range [][2]uint32{
		{b.ITT(), ttt ^ 1<<16}, {b.ITT(), ttt ^ 1}, {b.ITT(), ttt + 1}, {b.ITT(), 0xffff}, {b.ITT(), 0x7fffffff},
		{b.ITT(), 0xfffffffe}, {b.ITT(), pdu.ReservedTag}, {b.ITT() + 1, ttt}, {b.ITT() - 1, ttt}, {0, ttt},
		{pdu.ReservedTag, ttt}, {pdu.ReservedTag, pdu.ReservedTag}, {b.ITT() + 1, pdu.ReservedTag},
	} {
		for _, n := range []int{0, 512, 4096} {
			c.Send(c.DataOutBHS(tags[0], tags[1], 0, 0, true), nil, data[:n])
		}
	}
	silent(t, g, c)
	c.DataOut(r2t, data)
	good(t, c, b.ITT(), nil)
	c.DataOut(r2t, data) // its tag is no longer valid
	silent(t, g, c)
	alive(t, c)
}

// TestUnsolicitedErrors: immediate and unsolicited data beyond what was
// negotiated (RFC 7143 §11.3.4, §13.10 to §13.14).
func TestUnsolicitedErrors(t *testing.T) {
	const unexpected, amount = 0x0c0c, 0x0c0d
	for _, tc := range []struct {
		name      string
		keys      []string
		edtl      uint32
		blocks    uint16
		dir       byte
		immediate int
		final     bool
		unsol     []int
		code      uint16 // of ABORTED COMMAND; 0 is GOOD
	}{
		{"immediate data not negotiated", []string{"ImmediateData=No"}, 4096, 8, pdu.FlagWrite, 512, true, nil, unexpected},
		{"immediate data beyond FirstBurstLength", []string{"FirstBurstLength=1024", "MaxBurstLength=4096"}, 4096, 8, pdu.FlagWrite, 1028, true, nil, unexpected},
		{"immediate data beyond the expected length", nil, 512, 1, pdu.FlagWrite, 516, true, nil, amount},
		{"immediate data of a read", nil, 512, 1, pdu.FlagRead, 512, true, nil, amount},
		{"unsolicited data beyond FirstBurstLength", []string{"InitialR2T=No", "FirstBurstLength=1024", "MaxBurstLength=4096"}, 4096, 8, pdu.FlagWrite, 512, false, []int{1024}, amount},
		{"unsolicited data beyond the expected length", []string{"InitialR2T=No"}, 1024, 2, pdu.FlagWrite, 512, false, []int{1024}, amount},
		{"data exactly at FirstBurstLength", []string{"InitialR2T=No", "FirstBurstLength=1024", "MaxBurstLength=4096"}, 1024, 2, pdu.FlagWrite, 512, false, []int{256, 256}, 0},
		{"unsolicited data that the CDB does not want", []string{"InitialR2T=No"}, 4096, 1, pdu.FlagWrite, 512, false, []int{1024, 2560}, 0},
		{"read without the F bit", nil, 512, 1, pdu.FlagRead, 0, false, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login(tc.keys...)
			ready(t, c, 1)
			data := pattern(8192, 1)
			cdb := iscsitest.Write10(0, tc.blocks)
			if tc.dir == pdu.FlagRead {
				cdb = iscsitest.Read10(0, tc.blocks)
			}
			b := c.Command(1, tc.dir, tc.edtl, cdb...)
			if !tc.final {
				b.SetFlags(b.Flags() &^ pdu.FlagFinal)
			}
			c.Send(b, nil, data[:tc.immediate])
			off := tc.immediate
			for i, n := range tc.unsol {
				c.Send(c.DataOutBHS(b.ITT(), pdu.ReservedTag, uint32(i), uint32(off), i == len(tc.unsol)-1), nil, data[off:off+n])
				off += n
			}
			r := c.Finish(b.ITT(), nil)
			if tc.code != 0 {
				sense(t, r, 0xb, tc.code)
			} else if r.Status != 0 {
				t.Fatalf("status %02x sense % x", r.Status, r.Sense)
			}
			silent(t, g, c)
			alive(t, c)
		})
	}
}

// TestUnsolicitedNotAllowed: with InitialR2T=Yes, Data-Out PDUs that nobody
// asked for are discarded, and the R2T's own data counts.
func TestUnsolicitedNotAllowed(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=No")
	ready(t, c, 1)
	data := pattern(4096, 3)
	b := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
	c.Send(b, nil, nil)
	c.Send(c.DataOutBHS(b.ITT(), pdu.ReservedTag, 0, 0, true), nil, make([]byte, 4096))
	good(t, c, b.ITT(), data)
	if r := c.Do(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, 0); !bytes.Equal(r.Data, data) {
		t.Fatal("unsolicited data was taken")
	}
}

// TestDataOutWithoutFBit: PDUs cut anywhere make the same burst.
func TestDataOutWithoutFBit(t *testing.T) {
	for _, size := range []uint32{1, 3, 509, 512, 4095} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=No")
			ready(t, c, 1)
			data := pattern(4096, byte(size))
			b := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(3, 8)...)
			c.Send(b, nil, nil)
			r2t := c.Expect(pdu.R2T).BHS
			for off, sn := uint32(0), uint32(0); off < 4096; sn++ {
				n := min(size, 4096-off)
				c.Send(c.DataOutBHS(b.ITT(), r2t.TTT(), sn, off, off+n == 4096), nil, data[off:off+n])
				off += n
			}
			good(t, c, b.ITT(), nil)
			if r := c.Do(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(3, 8)...), nil, 0); !bytes.Equal(r.Data, data) {
				t.Fatal("data differs")
			}
		})
	}
}

// TestDataOutAfterAbort: R2T data of an aborted command is discarded, also in
// the middle of a PDU, and its tag may be used again at once.
func TestDataOutAfterAbort(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=No", "MaxBurstLength=4096")
	ready(t, c, 1)
	data := pattern(8192, 1)
	b := c.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(0, 16)...)
	c.Send(b, nil, nil)
	r2t := c.Expect(pdu.R2T).BHS
	fn := tmf(c, pdu.TMFAbortTask, 1, b.ITT(), b.CmdSN())
	c.Send(fn, nil, nil)
	managed(t, c, fn.ITT(), pdu.TMFComplete)
	again := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
	again.SetITT(b.ITT())
	c.Send(again, nil, nil)
	c.Send(c.DataOutBHS(b.ITT(), r2t.TTT(), 0, 0, true), nil, make([]byte, 4096))
	good(t, c, again.ITT(), data)
	if r := c.Do(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, 0); !bytes.Equal(r.Data, data[:4096]) {
		t.Fatal("data of the aborted command was written")
	}
	alive(t, c)
}

// TestDataOutCut ends the connection, or resets the unit from another session,
// while data streams into a task.
func TestDataOutCut(t *testing.T) {
	for _, where := range []string{"immediate data", "Data-Out", "early command", "absent unit"} {
		for _, how := range []string{"close", "reset", "LUN RESET"} {
			t.Run(where+", "+how, func(t *testing.T) {
				g := iscsitest.New(t, iscsitest.Options{})
				other := dialAs(g, 9).Login()
				ready(t, other, 1)
				c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=Yes", "MaxBurstLength=65536")
				ready(t, c, 1)
				lun := uint16(1)
				if where == "absent unit" {
					lun = 99
				}
				b := c.Command(lun, pdu.FlagWrite, 65536, iscsitest.Write10(0, 128)...)
				switch where {
				case "Data-Out":
					c.Send(b, nil, nil)
					b = c.DataOutBHS(b.ITT(), c.Expect(pdu.R2T).BHS.TTT(), 0, 0, true)
				case "early command":
					b.SetCmdSN(b.CmdSN() + 1)
				}
				b.SetDataLen(32768)
				w := c.Frame(b, nil, pattern(32768, 1))
				c.SendRaw(w[:10000])
				g.Settle()
				switch how {
				case "close":
					c.Peer.CloseWrite()
					c.ExpectClosed()
				case "reset":
					c.Peer.Reset()
					g.Settle()
				case "LUN RESET":
					fn := tmf(other, pdu.TMFLUNReset, 1, 0, 0)
					other.Send(fn, nil, nil)
					managed(t, other, fn.ITT(), pdu.TMFComplete)
					c.SendRaw(w[10000:])
					if where == "absent unit" {
						sense(t, c.Finish(c.ITT, nil), 5, 0x2500)
					}
					ping(t, c) // in step, and nothing else is answered
				}
			})
		}
	}
}

// TestAbortedWhileStreaming: with TAS set, a task that another nexus aborts while
// a data segment streams into it is told when the segment has come (SPC-5 §7.5.8).
func TestAbortedWhileStreaming(t *testing.T) {
	for _, where := range []string{"immediate data", "Data-Out"} {
		t.Run(where, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			other := dialAs(g, 9).Login()
			ready(t, other, 1)
			c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=Yes", "MaxBurstLength=65536")
			ready(t, c, 1)
			control := []byte{0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0}
			good(t, c, sent(c, c.Command(1, pdu.FlagWrite, 16, 0x15, 0x10, 0, 0, 16, 0)), control)
			sense(t, other.Do(other.Command(1, 0, 0, cdb(6, 0)...), nil, 0), 6, 0x2a01)

			b := c.Command(1, pdu.FlagWrite, 65536, iscsitest.Write10(0, 128)...)
			itt := b.ITT()
			if where == "Data-Out" {
				c.Send(b, nil, nil)
				b = c.DataOutBHS(itt, c.Expect(pdu.R2T).BHS.TTT(), 0, 0, true)
			}
			b.SetDataLen(32768)
			w := c.Frame(b, nil, pattern(32768, 1))
			c.SendRaw(w[:10000])
			g.Settle()
			fn := tmf(other, pdu.TMFClearTaskSet, 1, 0, 0)
			other.Send(fn, nil, nil)
			managed(t, other, fn.ITT(), pdu.TMFComplete) // it does not wait for the segment
			c.SendRaw(w[10000:])
			if r := c.Finish(itt, nil); r.Status != 0x40 {
				t.Fatalf("status %02x sense % x, want TASK ABORTED", r.Status, r.Sense)
			}
			ping(t, c)
		})
	}
}

// TestWriteFailure: an error of the device ends in CHECK CONDITION after the
// data was taken.
func TestWriteFailure(t *testing.T) {
	g, dev := faulty(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	if err := dev.Inject(failures(bdev.Write, 1)); err != nil {
		t.Fatal(err)
	}
	r := c.Do(c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), pattern(4096, 1), 4096)
	if k, _ := r.Triple(); r.Status != 2 || k != 3 {
		t.Fatalf("status %02x sense % x, want MEDIUM ERROR", r.Status, r.Sense)
	}
	alive(t, c)
}

// Data that no R2T has asked for yet, because the R2T waits for an initiator that
// does not read: the tag is known from the one before. It ends the command, or is
// dropped where data is recovered, and asked for.
func TestDataBeforeR2T(t *testing.T) {
	for _, level := range []uint32{0, 1} {
		o := options(func(o *iscsi.Options) { o.ErrorRecoveryLevel = level })
		g := iscsitest.New(t, iscsitest.Options{Engine: o, World: simring.Config{SocketBuffer: 2048}})
		c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=No", "MaxBurstLength=512", "FirstBurstLength=512",
			"MaxOutstandingR2T=1", fmt.Sprintf("ErrorRecoveryLevel=%d", level))
		attention(t, c, atPowerOn)
		w := c.Command(1, pdu.FlagWrite, 1536, iscsitest.Write10(9, 3)...)
		c.Send(w, nil, nil)
		r2t := c.Expect(pdu.R2T).BHS
		r := c.Command(1, pdu.FlagRead, 64<<10, iscsitest.Read10(0, 128)...)
		c.Send(r, nil, nil) // in the way of all that follows
		const pings = iscsi.ConnectionOuts - 2
		for range pings {
			b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			c.Send(b, nil, nil)
		}
		g.Settle()
		data := pattern(1536, 1)
		for i := range uint32(2) {
			// The second has a number that is wrong, too, where that makes no difference.
			c.Send(c.DataOutBHS(w.ITT(), r2t.TTT(), i*level, i*512, true), nil, data[i*512:][:512])
			g.Settle()
		}
		good(t, c, r.ITT(), nil)
		for range pings {
			c.Expect(pdu.NopIn)
			c.ExpStatSN++
		}
		if level == 0 {
			sense(t, c.Finish(w.ITT(), nil), 0xb, 0x0c0d)
		} else {
			good(t, c, w.ITT(), data)
		}
		alive(t, c)
	}
}
