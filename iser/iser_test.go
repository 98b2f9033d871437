package iser_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iser"
	"spindle/iser/isertest"
	"spindle/verbs"
	"spindle/verbs/memverbs"
)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

// ready takes the unit attention of a fresh nexus.
func ready(t testing.TB, c *isertest.Conn, lun uint16) {
	t.Helper()
	for _, want := range []uint8{2, 0} {
		b := c.Command(lun, 0, 0, 0)
		c.Send(b, nil, nil)
		if r := c.Finish(b.ITT()); r.Status != want {
			t.Fatalf("TEST UNIT READY: status %02x, want %02x", r.Status, want)
		}
	}
}

// alive fails unless the session still writes and reads.
func alive(t testing.TB, c *isertest.Conn) {
	t.Helper()
	data := pattern(16384, 0x5a)
	c.Write(1, 60000, data, isertest.Shape{})
	if !bytes.Equal(c.Read(1, 60000, 32), data) {
		t.Fatal("data differs")
	}
}

// links is what the target says of its iSER connections.
func links(g *isertest.Target) (list []string) {
	for _, c := range g.Engine.Connections(g) {
		if c.Transport == "iser" {
			s := ""
			for _, f := range c.Link {
				s += fmt.Sprint(" ", f.Name, "=", f.Value)
			}
			list = append(list, s[1:])
		}
	}
	return list
}

// commands is how many the target's connections have taken.
func commands(g *isertest.Target) (n int) {
	for _, c := range g.Engine.Connections(g) {
		n += int(c.Commands)
	}
	return n
}

// TestReadWrite writes and reads back in every shape and many sizes.
func TestReadWrite(t *testing.T) {
	unsolicited := iser.Options{Unsolicited: true}
	for _, tc := range []struct {
		name  string
		opt   isertest.Options
		reads uint8
		keys  []string
		shape isertest.Shape
	}{
		{name: "solicited"},
		{name: "immediate", shape: isertest.Shape{Immediate: 8192}},
		{name: "part immediate", shape: isertest.Shape{Immediate: 512}},
		{name: "unsolicited", opt: isertest.Options{ISER: unsolicited}, keys: []string{"InitialR2T=No", "ImmediateData=No"},
			shape: isertest.Shape{Unsolicited: 65536}},
		{name: "immediate and unsolicited", opt: isertest.Options{ISER: unsolicited}, keys: []string{"InitialR2T=No"},
			shape: isertest.Shape{Immediate: 4096, Unsolicited: 20480, Segment: 4096}},
		{name: "the tagged buffer has all of it", opt: isertest.Options{ISER: unsolicited},
			keys:  []string{"InitialR2T=No", "RDMAExtensions=Yes", "TaggedBufferForSolicitedDataOnly=No"},
			shape: isertest.Shape{Immediate: 1024, Unsolicited: 8192, Whole: true}},
		{name: "one read at a time", reads: 1},
		{name: "short messages", opt: isertest.Options{ISER: iser.WithMaxMessage(iser.Options{}, 65536)}, reads: 3},
		{name: "late reads", opt: isertest.Options{Fabric: memverbs.Config{Faults: memverbs.Faults{LateRead: 1}}}},
		{name: "messages overtake ESTABLISHED", opt: isertest.Options{Fabric: memverbs.Config{Faults: memverbs.Faults{EarlyReceive: 1}}}},
		{name: "without inline data or invalidation", opt: isertest.Options{Device: verbs.DeviceInfo{Transport: verbs.TransportIB}}},
		{name: "libiscsi", keys: []string{"HeaderDigest=None", "DataDigest=None"}, reads: 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := isertest.New(t, tc.opt)
			c := g.DialWith(isertest.Dial{Reads: tc.reads})
			c.Login(without(tc.keys, "RDMAExtensions=Yes")...)
			ready(t, c, 1)
			for _, n := range []int{512, 1024, 4096, 8192, 65536, 262144, 1 << 20} {
				data, s := pattern(n, byte(n>>9)), tc.shape
				s.Immediate = min(s.Immediate, n)
				s.Unsolicited = min(s.Unsolicited, n-s.Immediate)
				c.Write(1, 100, data, s)
				if got := c.Read(1, 100, uint16(n/512)); !bytes.Equal(got, data) {
					t.Fatalf("%d bytes: read differs from what was written", n)
				}
			}
			g.Settle()
			// Seven of each, and two commands before; data that RDMA moves counts.
			switch n, err := g.Engine.NodeStats(g, iscsitest.Node); {
			case err != nil:
				t.Error(err)
			case n[0].Commands != 16, n[0].Reads != 7, n[0].Writes != 7, n[0].PDUsOut < 17, n[0].PDUsIn < 17,
				n[0].BytesRead != n[0].BytesWritten, n[0].BytesRead != 512+1024+4096+8192+65536+262144+1<<20:
				t.Errorf("counted %+v", n[0].ConnCounts)
			}
			if n := g.Fabric.Counts.NoReceive; n != 0 {
				t.Errorf("%d sends found no receive", n)
			}
			if n := g.Fabric.Counts.ReadStalls; n != 0 {
				t.Errorf("RDMA READs beyond the peer's bound %d times", n)
			}
			if n := g.Fabric.Counts.AccessDenied; n != 0 {
				t.Errorf("%d accesses denied", n)
			}
		})
	}
}

func without(list []string, s string) (out []string) {
	for _, k := range list {
		if k != s {
			out = append(out, k)
		}
	}
	return out
}

// TestResiduals: what is not moved is told, and an error moves nothing.
func TestResiduals(t *testing.T) {
	for _, tc := range []struct {
		name     string
		write    bool
		edtl     uint32
		lba      uint32
		blocks   uint16
		flags    byte
		residual uint32
		status   uint8
		moved    int
	}{
		{name: "read exact", edtl: 1024, blocks: 2, moved: 1024},
		{name: "read underflow", edtl: 4096, blocks: 2, flags: pdu.FlagUnderfl, residual: 3072, moved: 1024},
		{name: "read overflow", edtl: 512, blocks: 2, flags: pdu.FlagOverflow, residual: 512, moved: 512},
		{name: "read beyond the end", edtl: 1024, lba: 65535, blocks: 2, flags: pdu.FlagUnderfl, residual: 1024, status: 2},
		{name: "write underflow", write: true, edtl: 4096, blocks: 2, flags: pdu.FlagUnderfl, residual: 3072},
		{name: "write overflow", write: true, edtl: 512, blocks: 2, flags: pdu.FlagOverflow, residual: 512},
		{name: "write beyond the end", write: true, edtl: 1024, lba: 65535, blocks: 2, flags: pdu.FlagUnderfl, residual: 1024, status: 2},
		{name: "nothing expected, read", edtl: 0, blocks: 2, flags: pdu.FlagOverflow, residual: 1024},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := isertest.New(t, isertest.Options{})
			c := g.Dial().Login()
			ready(t, c, 1)
			c.Write(1, 0, pattern(1024, 9), isertest.Shape{})
			dir, cdb, tags := byte(pdu.FlagRead), iscsitest.Read10(tc.lba, tc.blocks), isertest.Tags{}
			var buf isertest.Buffer
			if tc.write {
				dir, cdb = pdu.FlagWrite, iscsitest.Write10(tc.lba, tc.blocks)
			}
			if tc.edtl > 0 {
				buf = c.Buffer(tc.edtl, verbs.AccessRemoteRead|verbs.AccessRemoteWrite)
				for i := range buf.Bytes() {
					buf.Bytes()[i] = 0xee
				}
				if tc.write {
					tags = isertest.Tags{Write: buf.MR.RKey(), WriteA: uint64(buf.Ref.Addr)}
				} else {
					tags = isertest.Tags{Read: buf.MR.RKey(), ReadA: uint64(buf.Ref.Addr)}
				}
			}
			b := c.Command(1, dir, tc.edtl, cdb...)
			c.SendTags(tags, b, nil, nil)
			r := c.Finish(b.ITT())
			if r.Status != tc.status || r.Flags != tc.flags || r.Residual != tc.residual || (len(r.Sense) > 0) != (tc.status == 2) {
				t.Fatalf("%+v", r)
			}
			if tc.edtl > 0 && !tc.write {
				want := append(pattern(1024, 9)[:tc.moved], bytes.Repeat([]byte{0xee}, int(tc.edtl)-tc.moved)...)
				if !bytes.Equal(buf.Bytes(), want) {
					t.Fatal("the initiator's memory is not what it should be")
				}
			}
			alive(t, c)
		})
	}
}

// TestWholeWindow keeps as many commands outstanding as the window lets, with
// the immediate PDUs that initiators send beside: none finds no receive.
func TestWholeWindow(t *testing.T) {
	for _, tc := range []struct {
		name string
		opt  isertest.Options
	}{
		{name: "as it is"},
		{name: "short send queue", opt: isertest.Options{ISER: iser.Options{SendQueue: 8}}},
		{name: "one reactor of two", opt: isertest.Options{Target: iscsitest.Options{Reactors: 2}}},
		{name: "delays and short polls", opt: isertest.Options{Fabric: memverbs.Config{Faults: memverbs.Faults{
			Delay: 0.3, LateRead: 0.3, ShortPoll: 0.5, Spurious: 0.2}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := isertest.New(t, tc.opt)
			c := g.Dial().Login()
			ready(t, c, 1)
			type op struct {
				itt  uint32
				buf  isertest.Buffer
				read bool
				lba  uint32
			}
			data := pattern(4096, 7)
			for i := range 16 {
				c.Write(1, uint32(i)*8, data, isertest.Shape{})
			}
			var out []op
			pings, sent, done := 0, 0, 0
			for done < 600 {
				for ; sent < 600 && !pdu.SNLess(c.MaxCmdSN, c.CmdSN); sent++ {
					o := op{read: sent%3 != 0, lba: uint32(sent%16) * 8}
					if o.read {
						o.itt, o.buf = c.StartRead(1, o.lba, 8)
					} else {
						o.itt, o.buf = c.StartWrite(1, o.lba, data, isertest.Shape{})
					}
					out = append(out, o)
				}
				if pings < 2 {
					b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
					b.SetTTT(pdu.ReservedTag)
					c.Send(b, nil, nil)
					pings++
				}
				p := c.Recv()
				if p.BHS.Opcode() == pdu.NopIn && p.BHS.ITT() != pdu.ReservedTag {
					pings--
					continue
				}
				if p.BHS.Opcode() == pdu.NopIn {
					continue
				}
				if p.BHS.Opcode() != pdu.SCSIResponse || p.BHS.Status() != 0 {
					t.Fatalf("% x", p.BHS)
				}
				for i, o := range out {
					if o.itt == p.BHS.ITT() {
						if o.read && !bytes.Equal(o.buf.Bytes(), data) {
							t.Fatal("data differs")
						}
						c.Release(o.buf)
						out = append(out[:i], out[i+1:]...)
						break
					}
				}
				done++
			}
			if n := g.Fabric.Counts.NoReceive; n != 0 {
				t.Errorf("%d sends found no receive", n)
			}
			if n := g.Fabric.Counts.ReadStalls; n != 0 {
				t.Errorf("RDMA READs beyond the peer's bound %d times", n)
			}
			st := &g.ISER.Stats
			if (st.SendWaits.Load() > 0) != (tc.opt.ISER.SendQueue != 0) {
				t.Errorf("the send queue was full %d times", st.SendWaits.Load())
			}
			if st.Refused.Load() != 0 || st.Stale.Load() != 0 {
				t.Errorf("%d requests refused, %d stale completions", st.Refused.Load(), st.Stale.Load())
			}
			if st.ReadWaits.Load() == 0 && tc.opt.ISER.SendQueue == 0 {
				t.Error("no RDMA READ waited: the test does not reach the peer's bound")
			}
		})
	}
}

// TestAbortWhileReading aborts a write while its data is being read: the answer
// to the management function comes only when the initiator's memory is left
// alone, and the medium stays as it was.
func TestAbortWhileReading(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fn    byte
		other bool // from another session
		posts bool // more writes than the peer serves reads: some have not begun
		twice bool // the function is sent twice
	}{
		{name: "ABORT TASK", fn: pdu.TMFAbortTask},
		{name: "ABORT TASK twice", fn: pdu.TMFAbortTask, twice: true},
		{name: "LUN RESET", fn: pdu.TMFLUNReset},
		{name: "LUN RESET from another session", fn: pdu.TMFLUNReset, other: true},
		{name: "ABORT TASK SET with a queue", fn: pdu.TMFAbortTaskSet, posts: true},
		{name: "CLEAR TASK SET from another session with a queue", fn: pdu.TMFClearTaskSet, other: true, posts: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := isertest.New(t, isertest.Options{Fabric: memverbs.Config{Faults: memverbs.Faults{LateRead: 1}, Latency: 500 * time.Microsecond}})
			c := g.DialWith(isertest.Dial{Reads: 2}).Login()
			ready(t, c, 1)
			from := c
			if tc.other {
				from = g.Dial().Login()
				ready(t, from, 1)
			}
			old := pattern(65536, 1)
			c.Write(1, 0, old, isertest.Shape{Immediate: 8192})
			n := 1
			if tc.posts {
				n = 6
			}
			base := commands(g)
			var bufs []isertest.Buffer
			var itt uint32
			for range n {
				i, b := c.StartWrite(1, 0, pattern(65536, 2), isertest.Shape{})
				bufs, itt = append(bufs, b), i
			}
			g.Until("all commands", func() bool { return commands(g) == base+n })
			g.Until("a read in flight", func() bool {
				return strings.Contains(strings.Join(links(g), " "), "reads_outstanding="+string(rune('0'+min(n, 2))))
			})
			m := from.Immediate(pdu.TMFRequest, pdu.FlagFinal|tc.fn)
			m.SetLUN(1 << 48)
			m.SetRefTag(itt)
			m.SetRefCmdSN(c.CmdSN - 1)
			from.Send(m, nil, nil)
			if tc.twice { // there is such a task while its memory is being read
				m = from.Immediate(pdu.TMFRequest, pdu.FlagFinal|tc.fn)
				m.SetLUN(1 << 48)
				m.SetRefTag(itt)
				m.SetRefCmdSN(c.CmdSN - 1)
				from.Send(m, nil, nil)
				p := from.Expect(pdu.TMFResponse)
				if p.BHS.Response() != pdu.TMFComplete {
					t.Fatalf("response %d to the first", p.BHS.Response())
				}
				from.ExpStatSN++
			}
			p := from.Expect(pdu.TMFResponse)
			if p.BHS.Response() != pdu.TMFComplete {
				t.Fatalf("response %d", p.BHS.Response())
			}
			from.ExpStatSN++
			for _, b := range bufs { // what the initiator does with the answer
				c.Release(b)
			}
			if s := strings.Join(links(g), " "); strings.Contains(s, "outstanding=1 reads") || strings.Contains(s, "outstanding=2 reads") {
				t.Fatalf("answered while memory was being read: %s", s)
			}
			if tc.other || tc.fn == pdu.TMFLUNReset {
				b := c.Command(1, 0, 0, 0)
				c.Send(b, nil, nil)
				if r := c.Finish(b.ITT()); r.Status != 2 {
					t.Fatalf("no unit attention: %+v", r)
				}
			}
			if !bytes.Equal(c.Read(1, 0, 128), old) {
				t.Fatal("an aborted write changed the medium")
			}
			alive(t, c)
			if n := g.Fabric.Counts.AccessDenied; n != 0 {
				t.Errorf("%d accesses denied", n)
			}
		})
	}
}

// TestRejects: the offending header comes back, and the connection stays.
func TestRejects(t *testing.T) {
	for _, tc := range []struct {
		name   string
		opcode pdu.Opcode
		reason uint8
	}{
		{"an opcode there is none of", 0x1c, pdu.RejectUnsupported},
		{"SNACK", pdu.SNACK, pdu.RejectSNACK},
		{"login in full feature phase", pdu.LoginRequest, pdu.RejectProtocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := isertest.New(t, isertest.Options{})
			c := g.Dial().Login()
			b := c.Immediate(tc.opcode, pdu.FlagFinal)
			c.Send(b, nil, nil)
			p := c.Expect(pdu.Reject)
			if p.BHS.Response() != tc.reason || !bytes.Equal(p.Data, b) || p.BHS.StatSN() != c.ExpStatSN {
				t.Fatalf("% x with % x", p.BHS, p.Data)
			}
			c.ExpStatSN++
			ready(t, c, 1)
			alive(t, c)
		})
	}
}

// TestPing: an echo is cut to what an initiator receives.
func TestPing(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	c := g.Dial().Login()
	for _, n := range []int{0, 5, 128, 4096} {
		b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		b.SetTTT(pdu.ReservedTag)
		data := pattern(n, 3)
		c.Send(b, nil, data)
		p := c.Expect(pdu.NopIn)
		if p.BHS.ITT() != b.ITT() || !bytes.Equal(p.Data, data[:min(n, 128)]) || p.BHS.StatSN() != c.ExpStatSN {
			t.Fatalf("% x with %d bytes of %d", p.BHS, len(p.Data), n)
		}
		c.ExpStatSN++
	}
}

// TestNothingAllocated: a command costs no heap allocation once things are warm.
func TestNothingAllocated(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	buf := c.Buffer(65536, verbs.AccessRemoteRead|verbs.AccessRemoteWrite)
	rd := c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...)
	wr := c.Command(1, pdu.FlagWrite, 65536, iscsitest.Write10(0, 128)...)
	sn := rd.CmdSN()
	msgs := [][]byte{
		isertest.Message(isertest.Tags{Read: buf.MR.RKey(), ReadA: uint64(buf.Ref.Addr)}, rd, nil, nil),
		isertest.Message(isertest.Tags{Write: buf.MR.RKey(), WriteA: uint64(buf.Ref.Addr)}, wr, nil, nil),
	}
	// The initiator's key is invalidated by each response, and valid again.
	run := func() {
		for i, w := range msgs {
			b := pdu.BHS(w[28:76])
			b.SetCmdSN(sn)
			sn++
			key := buf.MR.Renew()
			at := 16 - 12*i
			w[at], w[at+1], w[at+2], w[at+3] = byte(key>>24), byte(key>>16), byte(key>>8), byte(key)
			if head := c.RoundTrip(w); head[28] != byte(pdu.SCSIResponse) || head[31] != 0 {
				t.Fatalf("% x", head)
			}
		}
	}
	for range 200 {
		run()
	}
	if n := testing.AllocsPerRun(500, run); n != 0 {
		t.Errorf("%v allocations a read and a write", n)
	}
}

// TestEngineKnowsNoRDMA: the engine reaches neither this package nor verbs, and
// the files that could name them do not.
func TestEngineKnowsNoRDMA(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "spindle/iscsi", "spindle/scsi", "spindle/bdev").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "spindle/iscsi\n") {
		t.Fatalf("go list does not know the engine: %s", out)
	}
	for _, p := range strings.Fields(string(out)) {
		if strings.HasPrefix(p, "spindle/verbs") || strings.HasPrefix(p, "spindle/iser") || strings.HasPrefix(p, "spindle/iscsi/tcp") {
			t.Errorf("the engine imports %s", p)
		}
	}
}

// TestDataInManyMessages: data-in that is longer than the port's messages comes
// as several RDMA WRITEs, each where it belongs.
func TestDataInManyMessages(t *testing.T) {
	g := isertest.New(t, isertest.Options{ISER: iser.WithMaxMessage(iser.Options{}, 4096)})
	c := g.Dial().Login()
	ready(t, c, 1)
	data := pattern(40960, 3)
	c.Write(1, 8, data, isertest.Shape{})
	if !bytes.Equal(c.Read(1, 8, 80), data) {
		t.Error("what was read differs")
	}
}
