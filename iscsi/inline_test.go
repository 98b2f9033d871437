package iscsi_test

import (
	"bytes"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/delay"
	"spindle/bdev/malloc"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iscsi/tcp"
	"spindle/reactor/ring/simring"
)

// allocs is how many buffers reactor i has given out so far.
func allocs(g *iscsitest.Target, i int) uint64 { return g.Reactors[i].Arena.Stats().Allocs }

// written fails unless LUN 1 holds data from block lba on.
func written(t *testing.T, c *iscsitest.Conn, lba uint32, data []byte) {
	t.Helper()
	n := uint32(len(data))
	if r := c.Do(c.Command(1, pdu.FlagRead, n, iscsitest.Read10(lba, uint16(n/512))...), nil, 0); r.Status != 0 || !bytes.Equal(r.Data, data) {
		t.Fatalf("block %d: status %02x, not what was written", lba, r.Status)
	}
}

// TestInlineWriteTakesNoBuffer: a WRITE whose data came with it, all of it in one
// receive buffer, to a disk in memory goes to the disk from there. Others have a
// buffer.
func TestInlineWriteTakesNoBuffer(t *testing.T) {
	write16 := append([]byte{0x8a}, make([]byte, 15)...)
	write16[9], write16[13] = 7, 2
	write12 := append([]byte{0xaa}, make([]byte, 11)...)
	write12[5], write12[9] = 7, 2
	verify := iscsitest.Write10(7, 2)
	verify[0] = 0x2e
	atomic := append([]byte(nil), write16...)
	atomic[0], atomic[12], atomic[13] = 0x9c, 0, 2
	fua := iscsitest.Write10(7, 2)
	fua[1] = 8
	protected := func(g *iscsitest.Target) []iscsi.LUN {
		d, err := malloc.New(malloc.Config{Space: g.Space, BlockSize: 512, Blocks: 64, Protected: true})
		if err != nil {
			t.Fatal(err)
		}
		return []iscsi.LUN{{ID: 1, Bdev: bdev.New("PI", bdev.UUID{0: 1}, d)}}
	}
	slow := func(_ *iscsitest.Target, base bdev.Device) bdev.Device {
		d, err := delay.New(delay.Config{Base: base})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, tc := range []struct {
		name string
		o    iscsitest.Options
		kv   []string
		cdb  []byte
		more uint32 // of the expected length, beyond what the CDB wants
		lim  bdev.Limits
		none bool
	}{
		{name: "WRITE(6)", cdb: []byte{0x0a, 0, 0, 7, 2, 0}, none: true},
		{name: "WRITE(10)", cdb: iscsitest.Write10(7, 2), none: true},
		{name: "WRITE(12)", cdb: write12, none: true},
		{name: "WRITE(16)", cdb: write16, none: true},
		{name: "FUA", cdb: fua, none: true},
		{name: "header digest", kv: []string{"HeaderDigest=CRC32C"}, cdb: write16, none: true},
		{name: "recovery", o: iscsitest.Options{Engine: level(1)}, kv: []string{"ErrorRecoveryLevel=1"}, cdb: write16, none: true},
		{name: "protected, but not shown", o: iscsitest.Options{LUNs: protected}, cdb: write16, none: true},
		{name: "data digest", kv: []string{"DataDigest=CRC32C"}, cdb: write16, none: true},
		{name: "more expected", cdb: write16, more: 512, none: true},
		{name: "WRITE AND VERIFY", cdb: verify},
		{name: "WRITE ATOMIC", cdb: atomic},
		{name: "limits", cdb: write16, lim: bdev.Limits{RWIOsPerSec: 1 << 20}},
		{name: "a device on top", o: iscsitest.Options{Wrap: slow}, cdb: write16},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, tc.o)
			c := g.Dial().Login(tc.kv...)
			attention(t, c, atPowerOn)
			g.LUNs[len(g.LUNs)-1].Bdev.SetLimits(tc.lim)
			data, before := pattern(1024, 0x17), allocs(g, 0)
			r := c.Do(c.Command(1, pdu.FlagWrite, 1024+tc.more, tc.cdb...), data, 1024)
			if n := allocs(g, 0) - before; r.Status != 0 || (n == 0) != tc.none {
				t.Errorf("status %02x, %d buffers", r.Status, n)
			}
			written(t, c, 7, data)
		})
	}
}

// TestInlineWriteInPieces: wherever the data of a WRITE is cut, by the end of a
// receive or of a turn's budget, all of it arrives. What is cut has a buffer.
func TestInlineWriteInPieces(t *testing.T) {
	t.Run("plain", func(t *testing.T) { inPieces(t) })
	t.Run("digest", func(t *testing.T) { inPieces(t, "DataDigest=CRC32C") })
}

func inPieces(t *testing.T, kv ...string) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login(kv...)
	attention(t, c, atPowerOn)
	for _, cut := range []int{20, 48, 49, 48 + 1023, 48 + 1024, 48 + 1024 + 4*len(kv)} {
		b := c.Command(1, pdu.FlagWrite, 1024, iscsitest.Write10(7, 2)...)
		data, before := pattern(1024, byte(cut)), allocs(g, 0)
		w := framed(c, b, data)
		c.SendRaw(w[:cut])
		g.Settle()
		c.SendRaw(w[cut:])
		good(t, c, b.ITT(), nil)
		if n, whole := allocs(g, 0)-before, cut < pdu.HeaderLen || cut == len(w); (n == 0) != whole {
			t.Errorf("cut at %d: %d buffers", cut, n)
		}
		written(t, c, 7, data)
	}
	var w []byte
	var itts []uint32
	before := allocs(g, 0)
	for i := range 100 { // of one receive buffer, and more than a turn takes
		b := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(uint32(i), 1)...)
		w = append(w, framed(c, b, pattern(512, byte(i)))...)
		itts = append(itts, b.ITT())
	}
	c.SendRaw(w)
	for _, itt := range itts {
		good(t, c, itt, nil)
	}
	if n := allocs(g, 0) - before; n > 3 { // where the socket's own memory wraps, receives end
		t.Errorf("%d buffers", n)
	}
	for i := range 100 {
		written(t, c, uint32(i), pattern(512, byte(i)))
	}
}

// awaiting is a target whose reactor 1 turn alone moves, so that home, reactor 0, does
// not answer it, and two initiators there.
func awaiting(t *testing.T) (a, b *iscsitest.Conn, turn func()) {
	t.Helper()
	g := iscsitest.New(t, iscsitest.Options{Reactors: 2})
	var conns [4]*iscsitest.Conn
	for i := range conns {
		c := g.Dial()
		c.ISID[5] = byte(i)
		conns[i] = c.Login()
		attention(t, c, atPowerOn)
	}
	return conns[1], conns[3], func() {
		g.World.Advance(10 * time.Microsecond)
		g.Reactors[1].Turn(0)
	}
}

// framed is a command with its immediate data on the wire.
func framed(c *iscsitest.Conn, b pdu.BHS, data []byte) []byte {
	b.SetDataLen(uint32(len(data)))
	return c.Frame(b, nil, data)
}

// compareAndWrite is COMPARE AND WRITE of block 7.
func compareAndWrite(c *iscsitest.Conn) pdu.BHS {
	return c.Command(1, pdu.FlagWrite, 1024, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0)
}

// TestInlineWriteThatWaits: a WRITE that has to wait for the COMPARE AND WRITE
// before it writes what it came with, whatever its receive buffer holds by then.
func TestInlineWriteThatWaits(t *testing.T) {
	c, _, turn := awaiting(t)
	caw := compareAndWrite(c)
	b := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(7, 1)...)
	c.SendRaw(append(framed(c, caw, make([]byte, 1024)), framed(c, b, pattern(512, 1))...))
	turn()
	for i := range 100 {
		o := c.Command(1, pdu.FlagWrite, 1536, iscsitest.Write10(100+uint32(i), 3)...)
		c.Send(o, nil, pattern(1536, 0xee))
		for range 3 {
			turn()
		}
		if p, ok := c.TryRecv(); !ok || p.BHS.ITT() != o.ITT() {
			t.Fatal("the WRITE that shall overwrite the receive buffer was not answered alone")
		}
		c.ExpStatSN++
	}
	good(t, c, caw.ITT(), nil)
	good(t, c, b.ITT(), nil)
	written(t, c, 7, pattern(512, 1))
}

// TestInlineWriteNextTurn: a WRITE that a turn has not come to meets what has changed
// since: a COMPARE AND WRITE of another initiator, which it waits for.
func TestInlineWriteNextTurn(t *testing.T) {
	c, other, turn := awaiting(t)
	var w []byte
	for range tcp.MaxPDUsPerTurn {
		ping := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		ping.SetITT(pdu.ReservedTag) // wants no answer
		ping.SetTTT(pdu.ReservedTag)
		w = append(w, c.Frame(ping, nil, nil)...)
	}
	b := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(7, 1)...)
	caw := compareAndWrite(other)
	c.SendRaw(append(w, framed(c, b, pattern(512, 1))...))
	other.SendRaw(framed(other, caw, append(make([]byte, 512), pattern(512, 2)...)))
	for range 5 {
		turn()
	}
	if _, ok := c.TryRecv(); ok {
		t.Fatal("the WRITE did not wait")
	}
	good(t, other, caw.ITT(), nil)
	good(t, c, b.ITT(), nil)
	written(t, c, 7, pattern(512, 1))
}

// TestInlineWriteRefused: a WRITE that comes while the connection has no room to
// answer in is taken later, with its data.
func TestInlineWriteRefused(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	attention(t, c, atPowerOn)
	var w []byte
	for range iscsi.ConnectionOuts - 1 {
		nop := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		nop.SetTTT(pdu.ReservedTag)
		w = append(w, c.Frame(nop, nil, nil)...)
	}
	b := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(7, 1)...)
	c.SendRaw(append(w, framed(c, b, pattern(512, 1))...))
	g.Advance(time.Millisecond)
	if g.TCP.Stats.Stopped.Load() == 0 {
		t.Fatal("the connection never stopped")
	}
	for range iscsi.ConnectionOuts - 1 {
		c.Expect(pdu.NopIn)
		c.ExpStatSN++
	}
	good(t, c, b.ITT(), nil)
	written(t, c, 7, pattern(512, 1))
}

// TestInlineWriteAcknowledges: a WRITE that lets go of answers by what it acknowledges,
// and so takes the room to answer in, is written as it came.
func TestInlineWriteAcknowledges(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2), World: simring.Config{SocketBuffer: 4096}})
	c, b := pair(g)
	ack(b, b.ExpStatSN)
	other := dialAs(g, 7).Login()
	attention(t, other, atPowerOn)
	m := tmf(c, pdu.TMFAbortTaskSet, 1, 0, 0)
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFComplete)
	acked := c.ExpStatSN
	c.ExpStatSN-- // for now
	last := tmf(c, pdu.TMFAbortTask, 1, 0xdead, 0)
	c.Send(last, nil, nil) // which waits for that
	asked(t, c)
	read := c.Command(1, pdu.FlagRead, 32<<10, iscsitest.Read10(7, 64)...)
	c.Send(read, nil, nil) // and for now nothing more leaves
	g.Settle()
	var w []byte
	const pings = iscsi.ConnectionOuts - 2
	for range pings {
		nop := c.Immediate(pdu.NopOut, pdu.FlagFinal)
		nop.SetTTT(pdu.ReservedTag)
		w = append(w, c.Frame(nop, nil, nil)...)
	}
	c.ExpStatSN = acked
	cmd := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(7, 1)...)
	c.SendRaw(append(w, framed(c, cmd, pattern(512, 1))...))
	g.Settle()
	for i := range uint32(100) { // the receive buffer is used again
		o := other.Command(1, pdu.FlagWrite, 1536, iscsitest.Write10(100+3*i, 3)...)
		other.Send(o, nil, pattern(1536, 0xee))
		good(t, other, o.ITT(), nil)
	}
	good(t, c, read.ITT(), nil)
	for range pings {
		c.Expect(pdu.NopIn)
		c.ExpStatSN++
	}
	managed(t, c, last.ITT(), pdu.TMFNoTask)
	good(t, c, cmd.ITT(), nil)
	written(t, c, 7, pattern(512, 1))
}

// TestInlineWriteUnexpected: data that may not come with its command is refused
// wherever it lies.
func TestInlineWriteUnexpected(t *testing.T) {
	for _, key := range []string{"ImmediateData=No", "FirstBurstLength=512"} {
		g := iscsitest.New(t, iscsitest.Options{})
		c := g.Dial().Login(key)
		attention(t, c, atPowerOn)
		r := c.Do(c.Command(1, pdu.FlagWrite, 1024, iscsitest.Write10(7, 2)...), pattern(1024, 1), 1024)
		sense(t, r, 0xb, 0x0c0c)
		written(t, c, 7, make([]byte, 1024))
	}
}
