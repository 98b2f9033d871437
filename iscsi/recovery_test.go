package iscsi_test

import (
	"bytes"
	"testing"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// level allows an ErrorRecoveryLevel, and four connections a session.
func level(n uint32, change ...func(*iscsi.Options)) *iscsi.Options {
	return options(func(o *iscsi.Options) {
		o.ErrorRecoveryLevel, o.MaxConnsPerSession = n, 4
		for _, fn := range change {
			fn(o)
		}
	})
}

// recoverable starts a target of ErrorRecoveryLevel 1 and logs in.
func recoverable(t testing.TB, o *iscsi.Options, kv ...string) (*iscsitest.Target, *iscsitest.Conn) {
	t.Helper()
	g := iscsitest.New(t, iscsitest.Options{Engine: o})
	c := g.Dial().Login(append([]string{"ErrorRecoveryLevel=1"}, kv...)...)
	if c.Answered["ErrorRecoveryLevel"] != "1" {
		t.Fatalf("ErrorRecoveryLevel=%s", c.Answered["ErrorRecoveryLevel"])
	}
	attention(t, c, atPowerOn)
	return g, c
}

// request is a SNACK Request.
func request(c *iscsitest.Conn, kind byte, itt, ttt, from, n uint32) pdu.BHS {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.SetOpcode(pdu.SNACK)
	b.SetFlags(pdu.FlagFinal | kind)
	b.SetITT(itt)
	b.SetTTT(ttt)
	b.SetExpStatSN(c.ExpStatSN)
	b.SetBegRun(from)
	b.SetRunLength(n)
	return b
}

// same fails unless a PDU is the replica of another: all but ExpCmdSN and
// MaxCmdSN (RFC 7143 §11.16).
func same(t testing.TB, got, want iscsitest.PDU) {
	t.Helper()
	a, b := bytes.Clone(got.BHS), bytes.Clone(want.BHS)
	clear(a[28:36])
	clear(b[28:36])
	if !bytes.Equal(a, b) || !bytes.Equal(got.Data, want.Data) {
		t.Fatalf("sent again\n% x, %d bytes, want\n% x, %d bytes", []byte(got.BHS), len(got.Data), []byte(want.BHS), len(want.Data))
	}
}

// collect receives n PDUs.
func collect(c *iscsitest.Conn, n int) []iscsitest.PDU {
	var list []iscsitest.PDU
	for range n {
		list = append(list, c.Recv())
	}
	return list
}

// ack acknowledges StatSNs without asking for an answer.
func ack(c *iscsitest.Conn, sn uint32) {
	c.ExpStatSN = sn
	b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetITT(pdu.ReservedTag)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, nil)
}

func TestDigestErrorInCommand(t *testing.T) {
	_, c := recoverable(t, level(1), "DataDigest=CRC32C", "HeaderDigest=CRC32C")
	data := pattern(4096, 7)
	w := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(3, 8)...)
	w.SetDataLen(4096)
	bad := c.Frame(w, nil, data)
	bad[len(bad)-1] ^= 1
	for range 3 {
		c.SendRaw(bad)
		rejected(t, c, pdu.RejectDataDigest, w)
	}
	ping := c.Request(pdu.NopOut, pdu.FlagFinal) // waits for the command before it
	ping.SetTTT(pdu.ReservedTag)
	ping.SetDataLen(4)
	bad = c.Frame(ping, nil, []byte("ping"))
	bad[len(bad)-1] ^= 1
	c.SendRaw(bad)
	rejected(t, c, pdu.RejectDataDigest, ping)
	c.Send(ping, nil, []byte("ping"))
	c.SendRaw(c.Frame(w, nil, data))
	good(t, c, w.ITT(), nil)
	if p := c.Expect(pdu.NopIn); string(p.Data) != "ping" {
		t.Fatalf("echo %q", p.Data)
	}
	c.ExpStatSN++
	if r := c.Do(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(3, 8)...), nil, 0); !bytes.Equal(r.Data, data) {
		t.Fatal("the data is not what was sent again")
	}
}

// TestRecoveryR2T drops each Data-Out PDU of a sequence in turn: what is missing
// is asked for again once the sequence is over (RFC 7143 §7.8).
func TestRecoveryR2T(t *testing.T) {
	for _, tc := range []struct {
		name        string
		keys        []string
		unsolicited bool
		gap         bool // the PDU never comes, rather than with a wrong digest
	}{
		{"solicited", []string{"InitialR2T=Yes", "ImmediateData=No"}, false, false},
		{"unsolicited", []string{"InitialR2T=No", "ImmediateData=No"}, true, false},
		{"solicited, missing", []string{"InitialR2T=Yes", "ImmediateData=No"}, false, true},
		{"unsolicited, missing", []string{"InitialR2T=No", "ImmediateData=No"}, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for broken := range uint32(4) {
				if tc.gap && broken == 3 {
					continue // without its end the sequence is not over
				}
				g, c := recoverable(t, level(1), append(tc.keys, "DataDigest=CRC32C", "MaxOutstandingR2T=4")...)
				if c.Answered["MaxOutstandingR2T"] != "1" {
					t.Fatalf("MaxOutstandingR2T=%s", c.Answered["MaxOutstandingR2T"])
				}
				data := pattern(16384, byte(broken))
				w := c.Command(1, pdu.FlagWrite, 16384, iscsitest.Write10(3, 32)...)
				ttt := uint32(pdu.ReservedTag)
				if tc.unsolicited {
					w.SetFlags(w.Flags() &^ pdu.FlagFinal)
				}
				c.Send(w, nil, nil)
				if !tc.unsolicited {
					ttt = c.Expect(pdu.R2T).BHS.TTT()
				}
				for sn := range uint32(4) {
					b := c.DataOutBHS(w.ITT(), ttt, sn, sn*4096, sn == 3)
					b.SetDataLen(4096)
					f := c.Frame(b, nil, data[sn*4096:][:4096])
					switch {
					case sn != broken:
						c.SendRaw(f)
					case !tc.gap:
						f[len(f)-1] ^= 1
						c.SendRaw(f)
						rejected(t, c, pdu.RejectDataDigest, b)
					}
				}
				r2t := c.Expect(pdu.R2T).BHS
				if r2t.Offset() != broken*4096 || r2t.Desired() != 16384-broken*4096 {
					t.Fatalf("asks for %d bytes at %d, want %d at %d", r2t.Desired(), r2t.Offset(), 16384-broken*4096, broken*4096)
				}
				c.DataOut(r2t, data)
				good(t, c, w.ITT(), nil)
				if r := c.Do(c.Command(1, pdu.FlagRead, 16384, iscsitest.Read10(3, 32)...), nil, 0); !bytes.Equal(r.Data, data) {
					t.Fatal("the data is not what was sent")
				}
				if n := counter(g, "recovery_r2ts"); n != 1 {
					t.Fatalf("%d recovery R2Ts", n)
				}
				g.Close()
			}
		})
	}
}

func TestStatusSNACK(t *testing.T) {
	g, c := recoverable(t, level(1))
	ack(c, c.ExpStatSN)
	first := c.ExpStatSN
	var sent []iscsitest.PDU
	one := func(b pdu.BHS, data []byte) {
		b.SetExpStatSN(first) // nothing is acknowledged
		c.Send(b, nil, data)
		sent = append(sent, c.Recv())
	}
	one(c.Command(1, 0, 0, 0), nil)
	one(c.Command(1, pdu.FlagRead, 1024, iscsitest.Read10(0, 2)...), nil)
	ping := c.Request(pdu.NopOut, pdu.FlagFinal)
	ping.SetTTT(pdu.ReservedTag)
	one(ping, pattern(3000, 4))
	one(c.Command(1, 0, 0, 0xff), nil) // CHECK CONDITION
	one(tmf(c, pdu.TMFAbortTask, 1, 0x7777, 0x7777), nil)
	small := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	small.SetTTT(pdu.ReservedTag)
	one(small, []byte("hi"))

	next := first + uint32(len(sent))
	for _, tc := range []struct {
		name       string
		beg, n     uint32
		from, upto int
	}{
		{"all", 0, 0, 0, 6},
		{"one by one", first + 2, 1, 2, 3},
		{"a run", first + 1, 4, 1, 5},
		{"to the end", first + 3, 0, 3, 6},
	} {
		b := request(c, pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, tc.beg, tc.n)
		b.SetExpStatSN(first)
		c.Send(b, nil, nil)
		for _, want := range sent[tc.from:tc.upto] {
			same(t, c.Recv(), want)
		}
	}
	silent(t, g, c)
	c.ExpStatSN = next
	for _, tc := range []struct {
		name   string
		beg, n uint32
	}{
		{"never sent", next, 1}, {"past the end", first + 4, 9}, {"wraps around", first + 1, 0xffffffff},
		{"acknowledged", first - 1, 1}, {"acknowledged and more", first - 1, 3}, {"far", first + 1<<31, 1}, {"far behind", first - 1<<30, 0},
	} {
		b := request(c, pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, tc.beg, tc.n)
		b.SetExpStatSN(first)
		c.Send(b, nil, nil)
		rejected(t, c, pdu.RejectProtocol, b)
	}
	// Acknowledged, they are gone.
	b := request(c, pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, first, 1)
	c.Send(b, nil, nil)
	rejected(t, c, pdu.RejectProtocol, b)
	alive(t, c)
}

func TestDataSNACK(t *testing.T) {
	for _, tc := range []struct {
		name  string
		keys  []string
		bytes uint32
		pdus  int
	}{
		{"one PDU", nil, 4096, 1},
		{"small segments", []string{"MaxRecvDataSegmentLength=1000"}, 8192, 9},
		{"bursts", []string{"MaxRecvDataSegmentLength=1024", "MaxBurstLength=2560", "FirstBurstLength=512"}, 16384, 19},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, c := recoverable(t, level(1), tc.keys...)
			data := pattern(int(tc.bytes), 3)
			c.Do(c.Command(1, pdu.FlagWrite, tc.bytes, iscsitest.Write10(5, uint16(tc.bytes/512))...), data, 0)
			r := c.Command(1, pdu.FlagRead, tc.bytes, iscsitest.Read10(5, uint16(tc.bytes/512))...)
			c.Send(r, nil, nil)
			sent := collect(c, tc.pdus)
			unack := c.ExpStatSN
			snack := func(from, n uint32) pdu.BHS {
				b := request(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, from, n)
				b.SetExpStatSN(unack)
				c.Send(b, nil, nil)
				return b
			}
			acks := 0
			for i, p := range sent {
				if plain := p.BHS.Flags() &^ pdu.FlagAck; p.BHS.Flags() != plain {
					acks++
					if p.BHS.LUN() != 1<<48 || p.BHS.TTT() == pdu.ReservedTag {
						t.Fatalf("PDU %d wants an acknowledgement with LUN %x and TTT %x", i, p.BHS.LUN(), p.BHS.TTT())
					}
					p.BHS.SetFlags(plain) // it need not ask again
					p.BHS.SetLUN(0)
					p.BHS.SetTTT(pdu.ReservedTag)
				}
			}
			if want := int(tc.bytes-1) / 2560; tc.name == "bursts" && acks != want {
				t.Fatalf("%d PDUs ask for an acknowledgement, want %d", acks, want)
			}
			for i := range sent {
				snack(uint32(i), 1)
				same(t, c.Recv(), sent[i])
			}
			snack(0, 0)
			for i := range sent {
				same(t, c.Recv(), sent[i])
			}
			n := uint32(tc.pdus)
			for _, bad := range [][2]uint32{{n, 1}, {0, n + 1}, {n, 0}, {1, 0xffffffff}, {0xffffffff, 2}, {1 << 31, 0}} {
				b := snack(bad[0], bad[1])
				p := c.Expect(pdu.Reject)
				if p.BHS.Response() != pdu.RejectProtocol {
					t.Fatalf("BegRun %x RunLength %x: reason %x", b.BegRun(), b.RunLength(), p.BHS.Response())
				}
			}
			c.ExpStatSN = unack + 1 + 6 // the answer and the rejects
			b := snack(0, 0)            // its ExpStatSN acknowledges nothing yet
			for i := range sent {
				same(t, c.Recv(), sent[i])
			}
			_ = b
			ack(c, c.ExpStatSN)
			gone := request(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, 0, 0)
			c.Send(gone, nil, nil)
			rejected(t, c, pdu.RejectProtocol, gone)
			alive(t, c)
			silent(t, g, c)
		})
	}
}

func TestDataAck(t *testing.T) {
	_, c := recoverable(t, level(1), "MaxRecvDataSegmentLength=1024", "MaxBurstLength=2048", "FirstBurstLength=512")
	r := c.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(5, 16)...)
	c.Send(r, nil, nil)
	sent := collect(c, 8)
	unack := c.ExpStatSN
	p := sent[3].BHS // the end of the second sequence
	send := func(kind byte, itt, ttt, from, n uint32, lun uint64) pdu.BHS {
		b := request(c, kind, itt, ttt, from, n)
		b.SetLUN(lun)
		b.SetExpStatSN(unack)
		c.Send(b, nil, nil)
		return b
	}
	c.ExpStatSN++
	for _, tc := range []struct {
		name             string
		itt, ttt, beg, n uint32
		lun              uint64
	}{
		{"a task's tag", r.ITT(), p.TTT(), 4, 0, p.LUN()}, {"a run", pdu.ReservedTag, p.TTT(), 4, 1, p.LUN()},
		{"another tag", pdu.ReservedTag, p.TTT() + 1, 4, 0, p.LUN()}, {"an old tag", pdu.ReservedTag, p.TTT() - 1<<16, 4, 0, p.LUN()},
		{"another LUN", pdu.ReservedTag, p.TTT(), 4, 0, 0}, {"never sent", pdu.ReservedTag, p.TTT(), 9, 0, p.LUN()},
		{"a tag out of range", pdu.ReservedTag, 0xfffe, 4, 0, p.LUN()},
	} {
		rejected(t, c, pdu.RejectInvalidDataAck, send(pdu.SNACKDataAck, tc.itt, tc.ttt, tc.beg, tc.n, tc.lun))
	}
	send(pdu.SNACKDataAck, pdu.ReservedTag, p.TTT(), 4, 0, p.LUN())
	rejected(t, c, pdu.RejectInvalidDataAck, send(pdu.SNACKDataAck, pdu.ReservedTag, p.TTT(), 2, 0, p.LUN())) // back
	rejected(t, c, pdu.RejectProtocol, send(pdu.SNACKData, r.ITT(), pdu.ReservedTag, 3, 1, 0))                // acknowledged
	send(pdu.SNACKData, r.ITT(), pdu.ReservedTag, 0, 0, 0)
	for _, want := range sent[4:] {
		want.BHS.SetFlags(want.BHS.Flags() &^ pdu.FlagAck)
		want.BHS.SetLUN(0)
		want.BHS.SetTTT(pdu.ReservedTag)
		same(t, c.Recv(), want)
	}
	alive(t, c)
}

func TestR2TSNACK(t *testing.T) {
	g, c := recoverable(t, level(1), "InitialR2T=Yes", "ImmediateData=No", "MaxBurstLength=4096", "FirstBurstLength=512")
	data := pattern(8192, 3)
	w := c.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(5, 16)...)
	c.Send(w, nil, nil)
	snack := func(from, n uint32) pdu.BHS {
		b := request(c, pdu.SNACKData, w.ITT(), pdu.ReservedTag, from, n)
		c.Send(b, nil, nil)
		return b
	}
	for i := range uint32(2) {
		r2t := c.Expect(pdu.R2T)
		if r2t.BHS.DataSN() != i {
			t.Fatalf("R2TSN %d, want %d", r2t.BHS.DataSN(), i)
		}
		for _, run := range [][2]uint32{{i, 1}, {0, 0}, {i, 0}} {
			snack(run[0], run[1])
			again := c.Expect(pdu.R2T)
			again.BHS.SetStatSN(r2t.BHS.StatSN()) // the current one: rejects count
			same(t, again, r2t)
		}
		rejected(t, c, pdu.RejectProtocol, snack(i+1, 1))
		rejected(t, c, pdu.RejectProtocol, snack(i, 2))
		if i > 0 {
			rejected(t, c, pdu.RejectProtocol, snack(0, 1)) // answered
		}
		c.DataOut(r2t.BHS, data)
	}
	good(t, c, w.ITT(), nil)
	alive(t, c)
	silent(t, g, c)
}

// R-Data SNACK: the initiator has changed what it takes, and wants all data that
// it has not acknowledged cut anew (RFC 7143 §11.16.3).
func TestRDataSNACK(t *testing.T) {
	for _, acked := range []uint32{0, 4} {
		_, c := recoverable(t, level(1), "MaxRecvDataSegmentLength=1024", "MaxBurstLength=2048", "FirstBurstLength=512")
		data := pattern(8192, 3)
		c.Do(c.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(5, 16)...), data, 0)
		r := c.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(5, 16)...)
		c.Send(r, nil, nil)
		sent := collect(c, 8)
		unack := c.ExpStatSN
		snack := func(kind byte, itt, ttt, from uint32) pdu.BHS {
			b := request(c, kind, itt, ttt, from, 0)
			b.SetLUN(1 << 48)
			b.SetExpStatSN(unack)
			c.Send(b, nil, nil)
			return b
		}
		c.ExpStatSN++
		if acked > 0 {
			snack(pdu.SNACKDataAck, pdu.ReservedTag, sent[3].BHS.TTT(), acked)
		}
		text := c.Immediate(pdu.TextRequest, pdu.FlagFinal)
		text.SetTTT(pdu.ReservedTag)
		text.SetExpStatSN(unack)
		c.Send(text, nil, iscsitest.Keys("MaxRecvDataSegmentLength=512"))
		c.Expect(pdu.TextResponse)
		c.ExpStatSN++
		rejected(t, c, pdu.RejectInvalidField, snack(pdu.SNACKRData, r.ITT(), pdu.ReservedTag, 0))
		rejected(t, c, pdu.RejectInvalidField, snack(pdu.SNACKRData, r.ITT(), 7, 1))
		rejected(t, c, pdu.RejectProtocol, snack(pdu.SNACKRData, 0x1234, 7, 0))
		for _, tag := range []uint32{0x55, 0x56} {
			snack(pdu.SNACKRData, r.ITT(), tag, 0)
			at := acked * 1024
			n := (8192 - at) / 512
			for i := range n {
				p := c.Expect(pdu.DataIn)
				if p.BHS.DataSN() != acked+i || p.BHS.Offset() != at+i*512 || len(p.Data) != 512 ||
					!bytes.Equal(p.Data, data[at+i*512:][:512]) || p.BHS.Flags()&pdu.FlagStatus != 0 || p.BHS.Final() != (i%4 == 3) {
					t.Fatalf("data cut anew, PDU %d of %d: % x", i, n, p.BHS)
				}
			}
			p := c.Expect(pdu.SCSIResponse)
			if p.BHS.StatSN() != unack || p.BHS.TTT() != tag || p.BHS.ExpDataSN() != acked+n || p.BHS.Status() != 0 {
				t.Fatalf("response: % x, want StatSN %d, tag %x, ExpDataSN %d", p.BHS, unack, tag, acked+n)
			}
			snack(pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, unack) // the latest response, and what followed
			if q := c.Recv(); q.BHS.TTT() != tag || q.BHS.StatSN() != unack {
				t.Fatalf("response again: % x", q.BHS)
			}
			for range c.ExpStatSN - unack - 1 {
				c.Recv()
			}
		}
		alive(t, c)
	}
}

// Class 2, ReplyAmplification: a SNACK of 48 bytes has no more sent than the
// answer a few times over, and few of them wait at a time.
func TestClass02SNACKAmplification(t *testing.T) {
	g, c := recoverable(t, level(1, func(o *iscsi.Options) { o.MaxSNACKReplays = 3 }))
	const size = 64 << 10
	r := c.Command(1, pdu.FlagRead, size, iscsitest.Read10(5, size/512)...)
	c.Send(r, nil, nil)
	var got, refused int
	c.Recv() // MaxRecvDataSegmentLength is 8192: the first of eight
	sn := c.ExpStatSN
	collect(c, 7)
	for range 200 {
		b := request(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, 0, 0)
		b.SetExpStatSN(sn)
		c.Send(b, nil, nil)
		s := request(c, pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, sn, 1)
		s.SetExpStatSN(sn)
		c.Send(s, nil, nil)
	}
	for quiet := 0; quiet < 100; quiet++ {
		g.Turn()
		p, ok := c.TryRecv()
		if !ok {
			continue
		}
		quiet = 0
		switch p.BHS.Opcode() {
		case pdu.DataIn:
			got += len(p.Data)
		case pdu.Reject:
			refused++
		}
	}
	if most := 3*size + 3*8192; got > most || refused < 190 {
		t.Fatalf("%d bytes sent again (at most %d), %d requests refused", got, most, refused)
	}
	if counter(g, "limit_snack_replays") == 0 {
		t.Fatal("not counted")
	}
	c.ExpStatSN = sn + 1 + uint32(refused)
	alive(t, c)
}

// What is kept is bounded: the oldest goes, and a SNACK for it is refused.
func TestRetainedIsBounded(t *testing.T) {
	g, c := recoverable(t, level(1, func(o *iscsi.Options) { o.MaxRetainedData = 64 << 10 }), "MaxRecvDataSegmentLength=65536")
	first := c.ExpStatSN
	var itt []uint32
	for range 40 {
		r := c.Command(1, pdu.FlagRead, 16384, iscsitest.Read10(5, 32)...)
		r.SetExpStatSN(first)
		itt = append(itt, r.ITT())
		c.Send(r, nil, nil)
		c.Recv()
	}
	c.ExpStatSN += 40
	if n := counter(g, "limit_retained_data"); n != 36 {
		t.Fatalf("%d answers given up, want 36", n)
	}
	b := request(c, pdu.SNACKStatus, pdu.ReservedTag, pdu.ReservedTag, first, 1)
	b.SetExpStatSN(first)
	c.Send(b, nil, nil)
	rejected(t, c, pdu.RejectSNACK, b)
	b = request(c, pdu.SNACKData, itt[0], pdu.ReservedTag, 0, 0)
	b.SetExpStatSN(first)
	c.Send(b, nil, nil)
	rejected(t, c, pdu.RejectProtocol, b)
	b = request(c, pdu.SNACKData, itt[39], pdu.ReservedTag, 0, 0)
	b.SetExpStatSN(first)
	c.Send(b, nil, nil)
	if p := c.Expect(pdu.DataIn); p.BHS.StatSN() != first+39 {
		t.Fatalf("again: % x", p.BHS)
	}
	// Pings are kept too, and bounded too.
	for range 2 * iscsi.MaxRetainedStatus {
		n := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		n.SetTTT(pdu.ReservedTag)
		n.SetExpStatSN(first)
		c.Send(n, nil, pattern(5000, 1))
		c.Expect(pdu.NopIn)
		c.ExpStatSN++
	}
	alive(t, c)
}

// Commands that need memory get what answered ones only keep.
func TestRetainedIsReclaimed(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20, Engine: level(1, func(o *iscsi.Options) { o.MaxRetainedData = 0 })})
	c := g.Dial().Login("ErrorRecoveryLevel=1", "MaxRecvDataSegmentLength=262144")
	attention(t, c, atPowerOn)
	first := c.ExpStatSN
	for range 100 {
		r := c.Command(1, pdu.FlagRead, 1<<20, iscsitest.Read10(0, 2048)...)
		r.SetExpStatSN(first)
		c.Send(r, nil, nil)
		for i := range 4 {
			if p := c.Expect(pdu.DataIn); i == 3 && p.BHS.Status() != 0 {
				t.Fatalf("status %02x", p.BHS.Status())
			}
		}
		c.ExpStatSN++
	}
	if n := g.Engine.Stats.BufferWaits.Load(); n != 0 {
		t.Fatalf("%d commands waited for memory that was only kept", n)
	}
	alive(t, c)
}

// The session is replaced with an answer half sent and a copy of its beginning
// queued behind it.
func TestSessionEndsWithCopyUnderWay(t *testing.T) {
	g, c := recoverable(t, level(1), "MaxRecvDataSegmentLength=8192")
	r := c.Command(1, pdu.FlagRead, 1<<20, iscsitest.Read10(0, 2048)...)
	c.Send(r, nil, nil)
	g.Settle()
	c.Send(request(c, pdu.SNACKData, r.ITT(), pdu.ReservedTag, 0, 1), nil, nil)
	g.Settle()
	n := g.Dial().Login()
	attention(t, n, atPowerOn)
	alive(t, n)
}

// The window opens between the stamping of a response and its leaving: what keeps
// the response tells of it.
func TestWindowOpensWhileResponseLeaves(t *testing.T) {
	o := level(1, func(o *iscsi.Options) { o.MaxQueueDepth = 1 })
	g, c := recoverable(t, o, "MaxRecvDataSegmentLength=262144", "MaxBurstLength=262144")
	kept := c.Command(1, 0, 0, 0)
	c.Send(kept, nil, nil)
	good(t, c, kept.ITT(), nil)
	r := c.Command(1, pdu.FlagRead, 192<<10, iscsitest.Read10(0, 384)...)
	r.SetExpStatSN(c.ExpStatSN - 1) // kept is not acknowledged
	c.Send(r, nil, nil)
	g.Settle() // the connection is full
	ack(c, c.ExpStatSN)
	g.Settle()
	good(t, c, r.ITT(), nil)
	g.Settle()
	if p, ok := c.TryRecv(); pdu.SNLess(c.MaxCmdSN, r.CmdSN()+1) {
		t.Fatalf("the window is shut: %d to %d (%v, % x)", c.ExpCmdSN, c.MaxCmdSN, ok, p.BHS)
	}
}
