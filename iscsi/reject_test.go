package iscsi_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// TestRejects: the reason of each Reject (RFC 7143 §11.17.1), its copy of the
// header, and a session that goes on.
func TestRejects(t *testing.T) {
	for _, tc := range []struct {
		name   string
		op     pdu.Opcode
		flags  byte
		change func(b pdu.BHS)
		data   []byte
		reason uint8
	}{
		{name: "SNACK for data", op: pdu.SNACK, flags: pdu.FlagFinal | pdu.SNACKData, reason: pdu.RejectSNACK},
		{name: "SNACK for status", op: pdu.SNACK, flags: pdu.FlagFinal | pdu.SNACKStatus, reason: pdu.RejectSNACK},
		{name: "unknown opcode 07", op: 0x07, flags: pdu.FlagFinal, reason: pdu.RejectUnsupported},
		{name: "unknown opcode 1c with data", op: 0x1c, flags: pdu.FlagFinal, data: []byte("vendor"), reason: pdu.RejectUnsupported},
		{name: "target's opcode", op: pdu.NopIn, flags: pdu.FlagFinal, reason: pdu.RejectUnsupported},
		{name: "login in full feature phase", op: pdu.LoginRequest, flags: 0x87, data: iscsitest.Keys("InitiatorName=x"), reason: pdu.RejectProtocol},
		{name: "logout for an unknown reason", op: pdu.LogoutReq, flags: pdu.FlagFinal | 5, reason: pdu.RejectInvalidField},
		{name: "text with F and C", op: pdu.TextRequest, flags: pdu.FlagFinal | pdu.FlagContinue, change: func(b pdu.BHS) { b.SetTTT(pdu.ReservedTag) }, reason: pdu.RejectProtocol},
		{name: "text with a tag nobody gave", op: pdu.TextRequest, flags: pdu.FlagFinal, change: func(b pdu.BHS) { b.SetTTT(7) }, data: iscsitest.Keys("SendTargets="), reason: pdu.RejectProtocol},
		{name: "text that is no text", op: pdu.TextRequest, flags: pdu.FlagFinal, change: func(b pdu.BHS) { b.SetTTT(pdu.ReservedTag) }, data: []byte("no equals sign\x00"), reason: pdu.RejectProtocol},
	} {
		for _, immediate := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				g := iscsitest.New(t, iscsitest.Options{})
				c := g.Dial().Login()
				ready(t, c, 1)
				b := c.Request(tc.op, tc.flags)
				if immediate || tc.op == pdu.SNACK { // a SNACK has no CmdSN
					b.SetImmediate()
					c.CmdSN--
				}
				if tc.change != nil {
					tc.change(b)
				}
				c.Send(b, nil, tc.data)
				rejected(t, c, tc.reason, b)
				if n := g.Engine.Stats.Rejects.Load(); n != 1 {
					t.Fatalf("%d rejects counted", n)
				}
				alive(t, c)
			})
		}
	}
}

// TestDiscoveryHasNoCommands: a discovery session rejects what needs a nexus.
func TestDiscoveryHasNoCommands(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial()
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "SessionType=Discovery"); s != 0 {
		t.Fatalf("login status %04x", s)
	}
	for _, op := range []pdu.Opcode{pdu.SCSICommand, pdu.TMFRequest} {
		b := c.Immediate(op, pdu.FlagFinal|1)
		c.Send(b, nil, nil)
		rejected(t, c, pdu.RejectProtocol, b)
	}
	c.Send(c.DataOutBHS(1, 2, 0, 0, true), nil, []byte("data"))
	ping(t, c)
}

// TestBeforeLogin: whatever comes instead of a Login Request ends in a Login
// Response or a closed connection, and disturbs nobody else.
func TestBeforeLogin(t *testing.T) {
	noise := make([]byte, 1<<20)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	for _, tc := range []struct {
		name     string
		bytes    []byte
		response bool // a Login Response comes before the end
	}{
		{name: "HTTP", bytes: []byte("GET / HTTP/1.1\r\nHost: localhost:3260\r\nUser-Agent: a browser\r\nAccept: */*\r\n\r\n")},
		{name: "TLS", bytes: append([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, noise[:506]...)},
		{name: "1 MiB of noise", bytes: noise},
		{name: "1 MiB of zeroes", bytes: make([]byte, 1<<20), response: true},
		{name: "1 MiB of ones", bytes: []byte(strings.Repeat("\xff", 1<<20))},
		{name: "NOP-Out", bytes: header(pdu.NopOut, 0), response: true},
		{name: "SCSI Command", bytes: header(pdu.SCSICommand, 0), response: true},
		{name: "Text Request", bytes: header(pdu.TextRequest, 0), response: true},
		{name: "Logout Request", bytes: header(pdu.LogoutReq, 0), response: true},
		{name: "Data-Out of 16 MiB", bytes: header(pdu.DataOut, 0xffffff), response: true},
		{name: "login of 8193 bytes", bytes: header(pdu.LoginRequest, 8193), response: true},
		{name: "login of 16 MiB", bytes: header(pdu.LoginRequest, 0xffffff), response: true},
		{name: "nothing", bytes: nil},
		{name: "47 bytes", bytes: header(pdu.LoginRequest, 0)[:47]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.LoginTimeout = 2 })})
			busy := g.Dial().Login()
			ready(t, busy, 1)
			c := g.Dial()
			for w := tc.bytes; len(w) > 0 && c.Peer.Err() == nil && !c.Peer.EOF(); {
				n := c.Peer.Write(w)
				w = w[n:]
				g.Turn()
				if n == 0 && c.Peer.WriteClosed() {
					break
				}
			}
			if tc.response {
				p := c.Expect(pdu.LoginResponse)
				if p.BHS.LoginStatus().Class() != 2 || len(p.Data) != 0 {
					t.Fatalf("% x", p.BHS)
				}
			}
			alive(t, busy)
			g.Advance(10 * time.Second)
			c.ExpectClosed()
			if n := len(g.Engine.Connections(g)); n != 1 {
				t.Fatalf("%d connections", n)
			}
			alive(t, busy)
		})
	}
}

// header is a BHS of an opcode that announces n bytes of data.
func header(o pdu.Opcode, n uint32) []byte {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.SetOpcode(o)
	b.SetImmediate()
	b.SetFlags(pdu.FlagFinal | 1<<2 | 3)
	b.SetITT(1)
	b.SetDataLen(n)
	return b
}

// TestAHS: additional header segments, well and badly formed.
func TestAHS(t *testing.T) {
	long := make([]byte, 32) // a variable length CDB of no service action here
	long[0], long[7] = 0x7f, 24
	for _, tc := range []struct {
		name string
		ahs  []byte
		cdb  []byte
		key  byte
		code uint16
	}{
		{"unknown type is ignored", []byte{0, 1, 0x3f, 0}, nil, 0, 0},
		{"extended CDB", pdu.AppendExtCDB(nil, long), long, 5, 0x2400},
		{"two extended CDBs", pdu.AppendExtCDB(pdu.AppendExtCDB(nil, long), long), long, 5, 0x2400},
		{"length beyond the area", []byte{0xff, 0xff, 1, 0}, nil, 5, 0x2400},
		{"length 0", []byte{0, 0, 1, 0}, nil, 5, 0x2400},
		{"all of 255 words", make([]byte, pdu.MaxAHS), nil, 5, 0x2400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login("HeaderDigest=CRC32C,None")
			ready(t, c, 1)
			b := c.Command(1, 0, 0)
			copy(b.CDB(), tc.cdb)
			c.Send(b, tc.ahs, nil)
			r := c.Finish(b.ITT(), nil)
			if tc.code == 0 && r.Status != 0 {
				t.Fatalf("status %02x sense % x", r.Status, r.Sense)
			} else if tc.code != 0 {
				sense(t, r, tc.key, tc.code)
			}
			alive(t, c)
		})
	}
}

// TestBidirectional: commands that move data both ways are refused by SCSI
// means, with and without the AHS that belongs to them.
func TestBidirectional(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("InitialR2T=No")
	ready(t, c, 1)
	for _, ahs := range [][]byte{nil, pdu.AppendBidiReadLength(nil, 512)} {
		b := c.Command(1, pdu.FlagRead|pdu.FlagWrite, 512, iscsitest.Write10(0, 1)...)
		c.Send(b, ahs, pattern(512, 1))
		sense(t, c.Finish(b.ITT(), nil), 5, 0x2400)
	}
	alive(t, c)
}

// TestSegmentTooLong: a data segment beyond what we declared ends the
// connection; one of exactly that length does not.
func TestSegmentTooLong(t *testing.T) {
	for _, op := range []pdu.Opcode{pdu.NopOut, pdu.SCSICommand, pdu.DataOut, pdu.TextRequest, 0x1c} {
		g := iscsitest.New(t, iscsitest.Options{})
		c := g.Dial().Login()
		ready(t, c, 1)
		if c.Answered["MaxRecvDataSegmentLength"] != "262144" {
			t.Fatalf("declared %q", c.Answered["MaxRecvDataSegmentLength"])
		}
		c.Send(c.DataOutBHS(1, 2, 0, 0, true), nil, make([]byte, 256<<10))
		ping(t, c)
		b := c.Immediate(op, pdu.FlagFinal)
		b.SetDataLen(256<<10 + 1)
		c.SendRaw(b)
		c.ExpectClosed()
	}
}
