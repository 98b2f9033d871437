package iscsi_test

import (
	"bytes"
	"testing"

	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

// clear takes the unit attention a fresh nexus has.
func ready(t *testing.T, c *iscsitest.Conn, luns ...uint16) {
	t.Helper()
	for _, l := range luns {
		r := c.Do(c.Command(l, 0, 0, 0), nil, 0)
		if _, code := r.Triple(); r.Status != 2 || code != 0x2900 {
			t.Fatalf("LUN %d: first command of a nexus: status %02x sense % x", l, r.Status, r.Sense)
		}
		if r := c.Do(c.Command(l, 0, 0, 0), nil, 0); r.Status != 0 {
			t.Fatalf("LUN %d: a second unit attention: % x", l, r.Sense)
		}
	}
}

// TestReadWrite writes and reads back under every shape of data transfer.
func TestReadWrite(t *testing.T) {
	for _, tc := range []struct {
		name      string
		keys      []string
		bytes     int
		immediate int
		unsol     int // bytes of unsolicited Data-Out after the immediate data
	}{
		{name: "all immediate", keys: []string{"ImmediateData=Yes"}, bytes: 4096, immediate: 4096},
		{name: "R2T only", keys: []string{"ImmediateData=No", "InitialR2T=Yes"}, bytes: 4096},
		{name: "immediate then R2T", keys: []string{"ImmediateData=Yes", "InitialR2T=Yes"}, bytes: 65536, immediate: 8192},
		{name: "several bursts", keys: []string{"InitialR2T=Yes", "MaxBurstLength=16384", "FirstBurstLength=4096"}, bytes: 262144, immediate: 4096},
		{name: "several R2Ts at once", keys: []string{"InitialR2T=Yes", "MaxBurstLength=16384", "FirstBurstLength=4096", "MaxOutstandingR2T=4"}, bytes: 262144},
		{name: "unsolicited", keys: []string{"InitialR2T=No", "ImmediateData=No", "FirstBurstLength=16384"}, bytes: 16384, unsol: 16384},
		{name: "immediate, unsolicited, R2T", keys: []string{"InitialR2T=No", "ImmediateData=Yes", "FirstBurstLength=16384"}, bytes: 1 << 20, immediate: 4096, unsol: 12288},
		{name: "digests", keys: []string{"HeaderDigest=CRC32C", "DataDigest=CRC32C", "InitialR2T=Yes"}, bytes: 65536, immediate: 512},
		{name: "small data segments", keys: []string{"MaxRecvDataSegmentLength=512", "MaxBurstLength=4096", "FirstBurstLength=4096"}, bytes: 65536, immediate: 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login(tc.keys...)
			ready(t, c, 1)
			data := pattern(tc.bytes, 3)
			blocks := uint16(tc.bytes / 512)
			b := c.Command(1, pdu.FlagWrite, uint32(tc.bytes), iscsitest.Write10(7, blocks)...)
			if tc.unsol > 0 {
				b.SetFlags(b.Flags() &^ pdu.FlagFinal)
			}
			c.Send(b, nil, data[:tc.immediate])
			for off, sn := tc.immediate, uint32(0); off < tc.immediate+tc.unsol; sn++ {
				n := min(4096, tc.immediate+tc.unsol-off)
				final := off+n == tc.immediate+tc.unsol
				c.Send(c.DataOutBHS(b.ITT(), pdu.ReservedTag, sn, uint32(off), final), nil, data[off:off+n])
				off += n
			}
			if r := c.Finish(b.ITT(), data); r.Status != 0 || r.Flags != 0 {
				t.Fatalf("write: status %02x flags %x residual %d sense % x", r.Status, r.Flags, r.Residual, r.Sense)
			}
			r := c.Do(c.Command(1, pdu.FlagRead, uint32(tc.bytes), iscsitest.Read10(7, blocks)...), nil, 0)
			if r.Status != 0 || !bytes.Equal(r.Data, data) {
				t.Fatalf("read: status %02x, %d bytes, equal %v", r.Status, len(r.Data), bytes.Equal(r.Data, data))
			}
		})
	}
}

// TestResiduals holds the residual count and its flag to RFC 7143 §11.4.5.
func TestResiduals(t *testing.T) {
	for _, tc := range []struct {
		name     string
		write    bool
		edtl     uint32
		blocks   uint16
		flags    byte
		residual uint32
		data     int
	}{
		{name: "read exact", edtl: 1024, blocks: 2, data: 1024},
		{name: "read underflow", edtl: 4096, blocks: 2, flags: pdu.FlagUnderfl, residual: 3072, data: 1024},
		{name: "read overflow", edtl: 512, blocks: 2, flags: pdu.FlagOverflow, residual: 512, data: 512},
		{name: "write underflow", write: true, edtl: 4096, blocks: 2, flags: pdu.FlagUnderfl, residual: 3072},
		{name: "write overflow", write: true, edtl: 512, blocks: 2, flags: pdu.FlagOverflow, residual: 512},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login()
			ready(t, c, 1)
			dir, cdb := byte(pdu.FlagRead), iscsitest.Read10(0, tc.blocks)
			if tc.write {
				dir, cdb = pdu.FlagWrite, iscsitest.Write10(0, tc.blocks)
			}
			r := c.Do(c.Command(1, dir, tc.edtl, cdb...), make([]byte, tc.edtl), 0)
			if r.Status != 0 || r.Flags != tc.flags || r.Residual != tc.residual || len(r.Data) != tc.data {
				t.Fatalf("status %02x flags %02x residual %d data %d", r.Status, r.Flags, r.Residual, len(r.Data))
			}
		})
	}
}

// TestPing: an immediate NOP-Out is echoed without StatSN running ahead.
func TestPing(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, []byte("hello"))
	p := c.Expect(pdu.NopIn)
	if p.BHS.ITT() != b.ITT() || string(p.Data) != "hello" || p.BHS.StatSN() != c.ExpStatSN {
		t.Fatalf("% x %q", p.BHS, p.Data)
	}
}

// TestLogout: the response comes and then the end of the connection.
func TestLogout(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	c.Send(c.Request(pdu.LogoutReq, pdu.FlagFinal|pdu.LogoutCloseSession), nil, nil)
	if p := c.Expect(pdu.LogoutResp); p.BHS.Response() != pdu.LogoutSuccess {
		t.Fatalf("% x", p.BHS)
	}
	c.ExpectClosed()
	if n := len(g.Engine.Connections(g)); n != 0 {
		t.Fatalf("%d connections left", n)
	}
}

// TestDiscovery: SendTargets=All names the node and its portal.
func TestDiscovery(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial()
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "SessionType=Discovery"); s != 0 {
		t.Fatalf("login status %04x", s)
	}
	b := c.Request(pdu.TextRequest, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, iscsitest.Keys("SendTargets=All"))
	p := c.Expect(pdu.TextResponse)
	want := string(iscsitest.Keys("TargetName="+iscsitest.Node, "TargetAddress=127.0.0.1:3260,1"))
	if string(p.Data) != want {
		t.Fatalf("got %q, want %q", p.Data, want)
	}
}
