package iscsi_test

import (
	"testing"

	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// FuzzFullFeature sends any bytes after a login. Properties: no panic, the
// connection ends in full feature phase or closed, another session is not
// disturbed, and everything comes home.
func FuzzFullFeature(f *testing.F) {
	c := &iscsitest.Conn{CmdSN: 3, ExpStatSN: 4}
	frame := func(b pdu.BHS, ahs, data []byte) []byte {
		b.SetAHSLen(uint32(len(ahs)))
		b.SetDataLen(uint32(len(data)))
		return c.Frame(b, ahs, data)
	}
	write := c.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(0, 16)...)
	nop := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	nop.SetTTT(pdu.ReservedTag)
	text := c.Request(pdu.TextRequest, pdu.FlagFinal)
	text.SetTTT(pdu.ReservedTag)
	for _, seed := range [][]byte{
		frame(write, nil, make([]byte, 512)),
		frame(write, pdu.AppendBidiReadLength(nil, 512), nil),
		frame(nop, nil, []byte("ping")),
		frame(text, nil, iscsitest.Keys("SendTargets=")),
		frame(c.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil),
		frame(tmf(c, pdu.TMFLUNReset, 1, 0, 0), nil, nil),
		frame(c.DataOutBHS(1, 2, 0, 0, true), nil, make([]byte, 64)),
		append(frame(write, nil, nil), frame(c.DataOutBHS(write.ITT(), 0, 0, 0, true), nil, make([]byte, 8192))...),
		append(frame(tmf(c, pdu.TMFAbortTask, 1, 9, 4), nil, nil), frame(tmf(c, pdu.TMFColdReset, 1, 0, 0), nil, nil)...),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20, Blocks: 2048})
		other := dialAs(g, 9).Login()
		c := g.Dial().Login("InitialR2T=Yes")
		sense(t, c.Do(c.Command(1, 0, 0), nil, 0), 6, 0x2900)
		for turns := 0; len(data) > 0 && c.Peer.Err() == nil && !c.Peer.EOF(); turns++ {
			if turns > 20000 {
				t.Fatalf("%d bytes are not taken", len(data))
			}
			data = data[c.Peer.Write(data):]
			c.Discard()
			g.Turn()
		}
		g.Settle()
		c.Discard()
		for _, i := range g.Engine.Connections(g) {
			if i.LoginPhase != "full_feature_phase" && i.State != "exiting" {
				t.Fatalf("connection in phase %s, state %s", i.LoginPhase, i.State)
			}
		}
		if other.Peer.EOF() || other.Peer.Err() != nil {
			return // TARGET COLD RESET ends every session
		}
		ping(t, other)
	})
}

// TestStreamCutEverywhere: PDUs cut into segments at any byte are the same PDUs.
func TestStreamCutEverywhere(t *testing.T) {
	for _, keys := range [][]string{nil, {"HeaderDigest=CRC32C", "DataDigest=CRC32C"}} {
		g := iscsitest.New(t, iscsitest.Options{})
		c := g.Dial().Login(append(keys, "InitialR2T=No")...)
		ready(t, c, 1)
		for at := 1; ; at++ {
			data := pattern(1021, byte(at))
			var w []byte
			add := func(b pdu.BHS, ahs, data []byte) {
				b.SetAHSLen(uint32(len(ahs)))
				b.SetDataLen(uint32(len(data)))
				w = append(w, c.Frame(b, ahs, data)...)
			}
			wr := c.Command(1, pdu.FlagWrite, 1024, iscsitest.Write10(uint32(at), 2)...)
			wr.SetFlags(wr.Flags() &^ pdu.FlagFinal)
			add(wr, nil, data[:5])
			add(c.DataOutBHS(wr.ITT(), pdu.ReservedTag, 0, 5, false), nil, data[5:1021])
			add(c.DataOutBHS(wr.ITT(), pdu.ReservedTag, 1, 1021, true), nil, []byte{1, 2, 3})
			tur := c.Command(1, 0, 0)
			add(tur, []byte{0, 1, 0x3f, 0}, nil)
			nop := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			nop.SetTTT(pdu.ReservedTag)
			add(nop, nil, []byte("abcde"))
			if at >= len(w) {
				break
			}
			for _, piece := range [][]byte{w[:at], w[at:]} {
				c.SendRaw(piece)
				g.Turn()
				g.Turn()
			}
			good(t, c, wr.ITT(), nil)
			good(t, c, tur.ITT(), nil)
			echoed(t, c, nop.ITT(), "abcde")
			if at%64 == 0 {
				r := c.Do(c.Command(1, pdu.FlagRead, 1024, iscsitest.Read10(uint32(at), 2)...), nil, 0)
				if string(r.Data) != string(data)+"\x01\x02\x03" {
					t.Fatalf("cut at %d: data differs", at)
				}
			}
		}
	}
}
