package iscsi_test

import (
	"testing"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// digests logs in with both digests.
func digests(t *testing.T, keys ...string) (*iscsitest.Target, *iscsitest.Conn) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login(append(keys, "HeaderDigest=CRC32C", "DataDigest=CRC32C")...)
	if !c.HeaderDigest || !c.DataDigest {
		t.Fatal("digests were not negotiated")
	}
	ready(t, c, 1)
	return g, c
}

// TestHeaderDigestError ends the connection: the stream can no longer be
// followed (RFC 7143 §7.7).
func TestHeaderDigestError(t *testing.T) {
	for _, at := range []int{0, 1, 5, 17, 40, 47, 48, 51} {
		g, c := digests(t)
		w := c.Frame(c.Command(1, 0, 0), nil, nil)
		w[at] ^= 0x10
		c.SendRaw(w)
		c.ExpectClosed()
		if n := g.TCP.Stats.HeaderDigests.Load(); n != 1 {
			t.Fatalf("byte %d: %d header digest errors", at, n)
		}
	}
}

// TestDataDigestError: Reject 02 with the PDU's header, and the task it
// belonged to ends (RFC 7143 §7.8); the connection lives.
func TestDataDigestError(t *testing.T) {
	// broken sends a PDU whose data segment, padding or digest has a wrong bit.
	broken := func(c *iscsitest.Conn, b pdu.BHS, data []byte, at int) {
		b.SetDataLen(uint32(len(data)))
		w := c.Frame(b, nil, data)
		w[pdu.HeaderLen+pdu.DigestLen+at] ^= 1
		c.SendRaw(w)
	}
	data := pattern(4096, 1)
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, c *iscsitest.Conn, at int)
		n    int
	}{
		{"immediate data", func(t *testing.T, c *iscsitest.Conn, at int) {
			b := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
			broken(c, b, data[:1022], at)
			rejected(t, c, pdu.RejectDataDigest, b)
			sense(t, c.Finish(b.ITT(), nil), 0xb, 0x4705)
		}, 1022},
		{"immediate data of an early command", func(t *testing.T, c *iscsitest.Conn, at int) {
			gap, b := c.Command(1, 0, 0), c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
			broken(c, b, data[:1022], at)
			c.Send(gap, nil, nil)
			good(t, c, gap.ITT(), nil)
			rejected(t, c, pdu.RejectDataDigest, b)
			sense(t, c.Finish(b.ITT(), nil), 0xb, 0x4705)
		}, 1022},
		{"Data-Out", func(t *testing.T, c *iscsitest.Conn, at int) {
			b := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
			c.Send(b, nil, nil)
			r2t := c.Expect(pdu.R2T).BHS
			o := c.DataOutBHS(b.ITT(), r2t.TTT(), 0, 0, false)
			broken(c, o, data[:1021], at)
			rejected(t, c, pdu.RejectDataDigest, o)
			sense(t, c.Finish(b.ITT(), nil), 0xb, 0x4705)
			c.Send(c.DataOutBHS(b.ITT(), r2t.TTT(), 1, 1021, true), nil, data[1021:])
		}, 1021},
		{"ping", func(t *testing.T, c *iscsitest.Conn, at int) {
			b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			broken(c, b, data[:10], at)
			rejected(t, c, pdu.RejectDataDigest, b)
		}, 10},
		{"counted ping", func(t *testing.T, c *iscsitest.Conn, at int) {
			b := c.Request(pdu.NopOut, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			broken(c, b, data[:10], at)
			rejected(t, c, pdu.RejectDataDigest, b)
		}, 10},
		{"text", func(t *testing.T, c *iscsitest.Conn, at int) {
			b := c.Request(pdu.TextRequest, pdu.FlagFinal)
			b.SetTTT(pdu.ReservedTag)
			broken(c, b, iscsitest.Keys("SendTargets="), at)
			rejected(t, c, pdu.RejectDataDigest, b)
		}, 13},
		{"unknown opcode", func(t *testing.T, c *iscsitest.Conn, at int) {
			b := c.Request(0x1c, pdu.FlagFinal)
			broken(c, b, data[:10], at)
			rejected(t, c, pdu.RejectDataDigest, b)
		}, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, c := digests(t, "InitialR2T=Yes", "ImmediateData=Yes")
			places := []int{0, tc.n - 1, (tc.n + 3) &^ 3, (tc.n+3)&^3 + 3}
			if tc.n&3 != 0 {
				places = append(places, tc.n) // padding
			}
			for _, at := range places {
				tc.run(t, c, at)
				silent(t, g, c)
				ping(t, c)
			}
			if n := g.TCP.Stats.DataDigests.Load(); n != uint64(len(places)) {
				t.Fatalf("%d data digest errors, want %d", n, len(places))
			}
			alive(t, c)
		})
	}
}

// TestDigestRequired: a node may insist on digests.
func TestDigestRequired(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{HeaderDigest: true, DataDigest: true}})
	c := g.Dial()
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "HeaderDigest=None", "DataDigest=CRC32C,None"); s>>8 != 2 {
		t.Fatalf("login without a header digest: status %04x", s)
	}
	c.ExpectClosed()
	c = g.Dial().Login("HeaderDigest=None,CRC32C", "DataDigest=CRC32C,None")
	if !c.HeaderDigest || !c.DataDigest {
		t.Fatalf("answered %v", c.Answered)
	}
	ready(t, c, 1)
	alive(t, c)
}
