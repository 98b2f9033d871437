package iscsi_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/malloc"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// The rules that real initiators depend on from the first day, a test for each.

// TestDayOne01OneUnitAttention: a fresh nexus sees 29/00 once for each unit, and
// INQUIRY, REPORT LUNS and REQUEST SENSE before that do not use it up.
func TestDayOne01OneUnitAttention(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	for round := range 3 {
		c := dialAs(g, byte(round)).Login()
		for _, lun := range []uint16{0, 1} {
			for _, cdb := range [][]byte{{0x12, 0, 0, 0, 96, 0}, cdb(12, 0xa0, 8, 1)} {
				if r := c.Do(c.Command(lun, pdu.FlagRead, 256, cdb...), nil, 0); r.Status != 0 {
					t.Fatalf("% x before the unit attention: status %02x", cdb, r.Status)
				}
			}
			sense(t, c.Do(c.Command(lun, 0, 0), nil, 0), 6, 0x2900)
			for _, cdb := range [][]byte{nil, {0x25}, cdb(10, 0x28, 8, 1)} {
				if r := c.Do(c.Command(lun, pdu.FlagRead, 512, cdb...), nil, 0); r.Status != 0 {
					t.Fatalf("% x after it: status %02x sense % x", cdb, r.Status, r.Sense)
				}
			}
		}
	}
}

// TestDayOne02ResetWithR2TsOutstanding: LUN RESET is answered though the
// initiator sends no Data-Out any more, and the session survives.
func TestDayOne02ResetWithR2TsOutstanding(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=No", "MaxBurstLength=4096", "FirstBurstLength=4096", "MaxOutstandingR2T=2")
	ready(t, c, 1)
	var tasks []pdu.BHS
	for range 10 {
		b := c.Command(1, pdu.FlagWrite, 65536, iscsitest.Write10(0, 128)...)
		c.Send(b, nil, nil)
		tasks = append(tasks, c.Expect(pdu.R2T).BHS, c.Expect(pdu.R2T).BHS)
	}
	start := g.Clock.T
	m := tmf(c, pdu.TMFLUNReset, 1, pdu.ReservedTag, 0)
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFComplete)
	if took := g.Clock.T.Sub(start); took > time.Second {
		t.Fatalf("answered after %v", took)
	}
	for _, r2t := range tasks {
		c.DataOut(r2t, make([]byte, 65536)) // what the initiator had under way
	}
	silent(t, g, c)
	attention(t, c, deviceReset)
	alive(t, c)
}

// TestDayOne03AbortUnreceived: ABORT TASK of a command that has not come counts
// it as received (RFC 7143 §11.6.1); outside the window there is no such task.
func TestDayOne03AbortUnreceived(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	lost, late := c.Command(1, 0, 0), c.Command(1, 0, 0)
	c.Send(late, nil, nil)
	silent(t, g, c)
	m := tmf(c, pdu.TMFAbortTask, 1, lost.ITT(), lost.CmdSN())
	c.Send(m, nil, nil)
	// The gap is closed: what waited behind it runs.
	var seen []pdu.Opcode
	for range 2 {
		p := c.Recv()
		seen = append(seen, p.BHS.Opcode())
		c.ExpStatSN++
		if o := p.BHS.Opcode(); o == pdu.TMFResponse && p.BHS.Response() != pdu.TMFComplete || o == pdu.SCSIResponse && p.BHS.ITT() != late.ITT() {
			t.Fatalf("% x", p.BHS)
		}
	}
	if fmt.Sprint(seen) != fmt.Sprint([]pdu.Opcode{pdu.SCSIResponse, pdu.TMFResponse}) && fmt.Sprint(seen) != fmt.Sprint([]pdu.Opcode{pdu.TMFResponse, pdu.SCSIResponse}) {
		t.Fatalf("answers %x", seen)
	}
	c.Send(lost, nil, nil) // it comes after all: a duplicate
	silent(t, g, c)

	// A hole further on.
	gap, skipped, after := c.Command(1, 0, 0), c.Command(1, 0, 0), c.Command(1, 0, 0)
	m = tmf(c, pdu.TMFAbortTask, 1, skipped.ITT(), skipped.CmdSN())
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFComplete)
	c.Send(after, nil, nil)
	c.Send(skipped, nil, nil)
	silent(t, g, c)
	c.Send(gap, nil, nil)
	good(t, c, gap.ITT(), nil)
	good(t, c, after.ITT(), nil)
	silent(t, g, c)

	for _, sn := range []uint32{c.CmdSN - 1, c.CmdSN - 100, c.CmdSN, c.CmdSN + 1000} {
		m := tmf(c, pdu.TMFAbortTask, 1, 0x7777, sn)
		c.Send(m, nil, nil)
		managed(t, c, m.ITT(), pdu.TMFNoTask)
	}
	alive(t, c)
}

// TestDayOne04PingWithEverythingStuck: an immediate NOP-Out is answered at once
// with every unit stuck and the window closed.
func TestDayOne04PingWithEverythingStuck(t *testing.T) {
	g, dev := faulty(t, iscsitest.Options{Node: iscsi.NodeConfig{QueueDepth: 8}})
	c := g.Dial().Login()
	ready(t, c, 1)
	hold(t, dev, bdev.Read, 100)
	for range 8 {
		c.Send(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
	}
	for range 10 {
		start := g.Clock.T
		ping(t, c)
		if took := g.Clock.T.Sub(start); took > time.Second {
			t.Fatalf("answered after %v", took)
		}
	}
	if c.MaxCmdSN != c.ExpCmdSN-1 {
		t.Fatalf("window %d..%d is open", c.ExpCmdSN, c.MaxCmdSN)
	}
	dev.ResumePending()
	for range 8 {
		c.Expect(pdu.DataIn)
		c.ExpStatSN++
	}
	if err := dev.Inject(injectNothing); err != nil {
		t.Fatal(err)
	}
	alive(t, c)
}

// TestDayOne05Miscompare: a failed COMPARE AND WRITE tells where the first
// difference is (SBC-4 §5.3): ESXi's ATS heartbeat reads it.
func TestDayOne05Miscompare(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	was, want := pattern(512, 1), pattern(512, 2)
	if r := c.Do(c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(5, 1)...), was, 512); r.Status != 0 {
		t.Fatal(r)
	}
	ats := func(verify []byte) iscsitest.Result {
		cdb := make([]byte, 16)
		cdb[0], cdb[9], cdb[13] = 0x89, 5, 1
		return c.Do(c.Command(1, pdu.FlagWrite, 1024, cdb...), append(bytes.Clone(verify), want...), 1024)
	}
	for _, at := range []int{0, 1, 300, 511} {
		wrong := bytes.Clone(was)
		wrong[at] ^= 0x80
		r := ats(wrong)
		sense(t, r, 0xe, 0x1d00)
		if info := be.Uint32(r.Sense[3:]); r.Sense[0] != 0xf0 || info != uint32(at) {
			t.Fatalf("INFORMATION %d (byte 0 %02x), want %d valid", info, r.Sense[0], at)
		}
	}
	if r := ats(was); r.Status != 0 {
		t.Fatalf("status %02x sense % x", r.Status, r.Sense)
	}
	if r := c.Do(c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(5, 1)...), nil, 0); !bytes.Equal(r.Data, want) {
		t.Fatal("the write did not happen")
	}
}

// TestDayOne06NeverReject: whatever CDB comes, with whatever lengths, it gets a
// SCSI status: Windows stalls for minutes after a Reject.
func TestDayOne06NeverReject(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("InitialR2T=Yes")
	ready(t, c, 0, 1)
	for op := range 256 {
		switch op {
		case 0x04, 0x48: // FORMAT UNIT and SANITIZE may take their time
			continue
		}
		for _, sa := range []byte{0, 1, 0x1f} {
			for _, dir := range []byte{0, pdu.FlagRead, pdu.FlagWrite} {
				cdb := []byte{byte(op), sa, 15: 0}
				r := c.Do(c.Command(1, dir, 4096, cdb...), make([]byte, 4096), 0)
				if key, _ := r.Triple(); r.Status != 0 && r.Status != 2 && r.Status != 0x18 || r.Status == 2 && key == 0 {
					t.Fatalf("opcode %02x/%02x: status %02x sense % x", op, sa, r.Status, r.Sense)
				}
			}
		}
	}
	if n := g.Engine.Stats.Rejects.Load(); n != 0 {
		t.Fatalf("%d rejects", n)
	}
	sense(t, c.Do(c.Command(1, 0, 0, 0xc7), nil, 0), 5, 0x2000)
}

// TestDayOne07NoLUN0: without a LUN 0, REPORT LUNS works there and INQUIRY says
// that nothing is connected (SPC-5 §6.6).
func TestDayOne07NoLUN0(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{LUNs: func(g *iscsitest.Target) []iscsi.LUN {
		return []iscsi.LUN{{ID: 3, Bdev: ram(t, g, "Malloc3", 3)}}
	}})
	c := g.Dial().Login()
	r := c.Do(c.Command(0, pdu.FlagRead, 256, cdb(12, 0xa0, 8, 1)...), nil, 0)
	if want := []byte{0, 0, 0, 8, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0}; r.Status != 0 || !bytes.Equal(r.Data, want) {
		t.Fatalf("REPORT LUNS: status %02x % x", r.Status, r.Data)
	}
	r = c.Do(c.Command(0, pdu.FlagRead, 96, 0x12, 0, 0, 0, 96), nil, 0)
	if r.Status != 0 || len(r.Data) < 36 || r.Data[0] != 0x7f {
		t.Fatalf("INQUIRY: status %02x % x", r.Status, r.Data)
	}
	sense(t, c.Do(c.Command(0, 0, 0), nil, 0), 5, 0x2500)
	ready(t, c, 3)
}

// TestDayOne08TwoISIDs: one initiator name with two ISIDs is two nexuses: each
// has its own unit attentions and reservations, and both live.
func TestDayOne08TwoISIDs(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	a, b := dialAs(g, 1).Login(), dialAs(g, 2).Login()
	ready(t, a, 1)
	ready(t, b, 1)
	if a.TSIH == b.TSIH {
		t.Fatal("one TSIH for two sessions")
	}
	register := func(c *iscsitest.Conn, key byte) {
		t.Helper()
		list := make([]byte, 24)
		list[15] = key
		if r := c.Do(c.Command(1, pdu.FlagWrite, 24, 0x5f, 0, 0, 0, 0, 0, 0, 0, 24), list, 24); r.Status != 0 {
			t.Fatalf("register: status %02x sense % x", r.Status, r.Sense)
		}
	}
	register(a, 1)
	register(b, 2)
	keys := func(c *iscsitest.Conn) []byte {
		t.Helper()
		r := c.Do(c.Command(1, pdu.FlagRead, 64, 0x5e, 0, 0, 0, 0, 0, 0, 0, 64), nil, 0)
		if r.Status != 0 {
			t.Fatalf("read keys: status %02x sense % x", r.Status, r.Sense)
		}
		return r.Data[8:]
	}
	want := []byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2}
	if got := keys(a); !bytes.Equal(got, want) {
		t.Fatalf("keys % x", got)
	}
	// The reservation of one keeps the other out, and outlives the session.
	list := make([]byte, 24)
	list[7] = 1
	if r := a.Do(a.Command(1, pdu.FlagWrite, 24, 0x5f, 1, 3, 0, 0, 0, 0, 0, 24), list, 24); r.Status != 0 {
		t.Fatalf("reserve: status %02x sense % x", r.Status, r.Sense)
	}
	conflict := func() {
		t.Helper()
		if r := b.Do(b.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, 0); r.Status != 0x18 {
			t.Fatalf("read of the other nexus: status %02x", r.Status)
		}
	}
	conflict()
	a.Send(a.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil)
	a.Expect(pdu.LogoutResp)
	a.ExpectClosed()
	conflict()
	a = dialAs(g, 1).Login()
	ready(t, a, 1)
	if got := keys(a); !bytes.Equal(got, want) {
		t.Fatalf("keys after a new login % x", got)
	}
	alive(t, a)
	conflict()
}

// TestDayOne09LoginResponse: the first Login Response of a normal session has
// TargetPortalGroupTag, and keys cut anywhere by the C bit are understood.
func TestDayOne09LoginResponse(t *testing.T) {
	text := iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "SessionType=Normal", "HeaderDigest=None", "MaxBurstLength=131072")
	g := iscsitest.New(t, iscsitest.Options{})
	for at := range len(text) + 1 {
		c := g.Dial()
		c.Send(c.LoginBHS(pdu.FlagContinue|1<<2), nil, text[:at])
		p := c.Expect(pdu.LoginResponse)
		if p.BHS.LoginStatus() != 0 || len(p.Data) != 0 || p.BHS.Flags()&(pdu.FlagTransit|pdu.FlagContinue) != 0 {
			t.Fatalf("cut at %d: % x %q", at, p.BHS, p.Data)
		}
		c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, text[at:])
		p = c.Expect(pdu.LoginResponse)
		got := pairs(p.Data)
		if p.BHS.LoginStatus() != 0 || p.BHS.TSIH() == 0 || got["TargetPortalGroupTag"] != "1" || got["MaxBurstLength"] != "131072" {
			t.Fatalf("cut at %d: % x %q", at, p.BHS, p.Data)
		}
	}
	c := g.Dial() // in the security stage, it comes in the first response too
	c.Send(c.LoginBHS(0), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "AuthMethod=None"))
	if got := pairs(c.Expect(pdu.LoginResponse).Data); got["TargetPortalGroupTag"] != "1" || got["AuthMethod"] != "None" {
		t.Fatalf("security stage: %v", got)
	}
}

// TestDayOne10Identity: the names of a unit are the same for every nexus and
// after the target is made anew, and a transfer above the limit that it tells
// gets 05/2400.
func TestDayOne10Identity(t *testing.T) {
	pages := func() (all [][]byte) {
		g := iscsitest.New(t, iscsitest.Options{Reactors: 2})
		for isid := range byte(3) {
			c := dialAs(g, isid).Login()
			for _, page := range []byte{0x80, 0x83} {
				r := c.Do(c.Command(1, pdu.FlagRead, 255, 0x12, 1, page, 0, 255), nil, 0)
				if r.Status != 0 || len(r.Data) < 8 {
					t.Fatalf("page %02x: status %02x % x", page, r.Status, r.Data)
				}
				all = append(all, r.Data)
			}
		}
		c := g.Dial().Login()
		ready(t, c, 1)
		b0 := c.Do(c.Command(1, pdu.FlagRead, 255, 0x12, 1, 0xb0, 0, 255), nil, 0).Data
		limit := be.Uint32(b0[8:])
		if limit == 0 || limit >= 0xffff {
			t.Fatalf("maximum transfer length %d", limit)
		}
		r := c.Do(c.Command(1, pdu.FlagRead, limit*512, cdb(16, 0x88)...), nil, 0)
		if r.Status != 0 {
			t.Fatalf("read of nothing: %02x", r.Status)
		}
		for _, op := range []byte{0x88, 0x8a} {
			cdb := make([]byte, 16)
			cdb[0] = op
			be.PutUint32(cdb[10:], limit+1)
			dir := byte(pdu.FlagRead)
			if op == 0x8a {
				dir = pdu.FlagWrite
			}
			sense(t, c.Do(c.Command(1, dir, (limit+1)*512, cdb...), nil, 0), 5, 0x2400)
		}
		cdb := make([]byte, 16)
		cdb[0] = 0x88
		be.PutUint32(cdb[10:], limit)
		if r := c.Do(c.Command(1, pdu.FlagRead, limit*512, cdb...), nil, 0); r.Status != 0 || len(r.Data) != int(limit)*512 {
			t.Fatalf("read of the limit: status %02x, %d bytes", r.Status, len(r.Data))
		}
		g.Close()
		return all
	}
	first, second := pages(), pages()
	for i := range first {
		if !bytes.Equal(first[i], first[i%2]) || !bytes.Equal(first[i], second[i]) {
			t.Errorf("page %d differs:\n% x\n% x", i, first[i], second[i])
		}
	}
}

// ram is a named malloc bdev.
func ram(t testing.TB, g *iscsitest.Target, name string, id byte) *bdev.Bdev {
	t.Helper()
	d, err := malloc.New(malloc.Config{Space: g.Space, BlockSize: 512, Blocks: 65536})
	if err != nil {
		t.Fatal(err)
	}
	return bdev.New(name, bdev.UUID{0: id}, d)
}
