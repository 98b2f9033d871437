package iscsi_test

import (
	"encoding/binary"
	"testing"

	"spindle/bdev"
	"spindle/bdev/errinj"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor"
)

var be = binary.BigEndian

// injectNothing ends what was ordered of a faulty device.
var injectNothing = errinj.Injection{Op: bdev.AllOps, Type: errinj.None}

// options are the defaults with changes.
func options(change func(*iscsi.Options)) *iscsi.Options {
	o := iscsi.Defaults()
	change(&o)
	return &o
}

// faulty starts a target whose LUN 1 can be told to hold or fail I/O.
func faulty(t testing.TB, o iscsitest.Options) (*iscsitest.Target, *errinj.Device) {
	t.Helper()
	return faultyAs(t, o, func(d *errinj.Device) bdev.Device { return d })
}

// unhearing is faulty with a device that does not hear Abort.
func unhearing(t testing.TB, o iscsitest.Options) (*iscsitest.Target, *errinj.Device) {
	t.Helper()
	return faultyAs(t, o, func(d *errinj.Device) bdev.Device { return deaf{d} })
}

// faultyAs shows the target what as makes of its faulty device.
func faultyAs(t testing.TB, o iscsitest.Options, as func(*errinj.Device) bdev.Device) (*iscsitest.Target, *errinj.Device) {
	t.Helper()
	var dev *errinj.Device
	o.Wrap = func(_ *iscsitest.Target, base bdev.Device) bdev.Device {
		d, err := errinj.New(base)
		if err != nil {
			t.Fatal(err)
		}
		dev = d
		return as(d)
	}
	return iscsitest.New(t, o), dev
}

// hold has the next n I/Os of a kind wait until ResumePending.
func hold(t testing.TB, d *errinj.Device, op bdev.Op, n uint32) {
	t.Helper()
	if err := d.Inject(errinj.Injection{Op: op, Type: errinj.Stuck, Num: n}); err != nil {
		t.Fatal(err)
	}
}

type deaf struct{ bdev.Device }

func (d deaf) Open(r *reactor.Reactor) (bdev.Channel, error) {
	c, err := d.Device.Open(r)
	return deafChannel{c}, err
}

type deafChannel struct{ bdev.Channel }

func (deafChannel) Abort(*bdev.IO) {}

// silent fails when a PDU comes although nothing should.
func silent(t testing.TB, g *iscsitest.Target, c *iscsitest.Conn) {
	t.Helper()
	g.Settle()
	if p, ok := c.TryRecv(); ok {
		t.Fatalf("unexpected PDU: % x", p.BHS)
	}
	if c.Peer.EOF() || c.Peer.Err() != nil {
		t.Fatal("connection ended")
	}
}

// alive fails unless the session still reads, writes and answers.
func alive(t testing.TB, c *iscsitest.Conn) {
	t.Helper()
	data := pattern(4096, 0x5a)
	if r := c.Do(c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(60000, 8)...), data, 0); r.Status != 0 {
		t.Fatalf("write afterwards: status %02x sense % x", r.Status, r.Sense)
	}
	r := c.Do(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(60000, 8)...), nil, 0)
	if r.Status != 0 || string(r.Data) != string(data) {
		t.Fatalf("read afterwards: status %02x, %d bytes", r.Status, len(r.Data))
	}
}

// good collects a command's result and fails unless it is GOOD.
func good(t testing.TB, c *iscsitest.Conn, itt uint32, data []byte) iscsitest.Result {
	t.Helper()
	r := c.Finish(itt, data)
	if r.Status != 0 {
		t.Fatalf("task %x: status %02x sense % x", itt, r.Status, r.Sense)
	}
	return r
}

// sense fails unless r is CHECK CONDITION with this key and code.
func sense(t testing.TB, r iscsitest.Result, key byte, code uint16) {
	t.Helper()
	if k, c := r.Triple(); r.Status != 2 || k != key || c != code {
		t.Fatalf("status %02x sense %x/%04x, want 02 and %x/%04x", r.Status, k, c, key, code)
	}
}

// rejected expects a Reject of this reason about a PDU with this header.
func rejected(t testing.TB, c *iscsitest.Conn, reason uint8, about pdu.BHS) {
	t.Helper()
	p := c.Expect(pdu.Reject)
	c.ExpStatSN = p.BHS.StatSN() + 1
	if p.BHS.Response() != reason || p.BHS.ITT() != pdu.ReservedTag {
		t.Fatalf("reject reason %02x ITT %x, want %02x", p.BHS.Response(), p.BHS.ITT(), reason)
	}
	if about != nil && string(p.Data) != string(about) {
		t.Fatalf("reject is about\n% x, want\n% x", p.Data, []byte(about))
	}
}

// tmf is the header of a task management function.
func tmf(c *iscsitest.Conn, fn byte, lun uint16, ref, refCmdSN uint32) pdu.BHS {
	b := c.Immediate(pdu.TMFRequest, pdu.FlagFinal|fn)
	b.SetLUN(uint64(lun) << 48)
	b.SetRefTag(ref)
	b.SetRefCmdSN(refCmdSN)
	return b
}

// managed expects the response to a task management function.
func managed(t testing.TB, c *iscsitest.Conn, itt uint32, resp uint8) {
	t.Helper()
	responded(t, c, pdu.TMFResponse, itt, resp)
}

// responded expects the response to a request that has no other result than its
// Response field.
func responded(t testing.TB, c *iscsitest.Conn, op pdu.Opcode, itt uint32, resp uint8) {
	t.Helper()
	p := c.Expect(op)
	if p.BHS.ITT() != itt || p.BHS.Response() != resp || p.BHS.StatSN() != c.ExpStatSN {
		t.Fatalf("response %d of %x (StatSN %d), want %d of %x (%d)",
			p.BHS.Response(), p.BHS.ITT(), p.BHS.StatSN(), resp, itt, c.ExpStatSN)
	}
	c.ExpStatSN++
}

// ping sends an immediate NOP-Out and expects its echo as the next PDU.
func ping(t testing.TB, c *iscsitest.Conn) {
	t.Helper()
	b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, []byte("ping"))
	echoed(t, c, b.ITT(), "ping")
}

// echoed expects the answer to a ping.
func echoed(t testing.TB, c *iscsitest.Conn, itt uint32, data string) {
	t.Helper()
	p := c.Expect(pdu.NopIn)
	if p.BHS.ITT() != itt || p.BHS.TTT() != pdu.ReservedTag || string(p.Data) != data || p.BHS.StatSN() != c.ExpStatSN {
		t.Fatalf("% x %q, want the echo of %x", p.BHS, p.Data, itt)
	}
	c.ExpStatSN++
}

// failures orders n I/Os of a kind to fail.
func failures(op bdev.Op, n uint32) errinj.Injection {
	return errinj.Injection{Op: op, Type: errinj.Failure, Num: n}
}

// dialAs connects with an ISID of its own: another nexus of the same initiator.
func dialAs(g *iscsitest.Target, n byte) *iscsitest.Conn {
	c := g.Dial()
	c.ISID[5] = n
	return c
}

// stubbornDevice holds I/O that no abort brings back, as a kernel does.
type stubbornDevice struct {
	bdev.Device
	n    int // writes still to hold
	held []*bdev.IO
}

func (d *stubbornDevice) Open(r *reactor.Reactor) (bdev.Channel, error) {
	c, err := d.Device.Open(r)
	return &stubbornChannel{c, d}, err
}

// finish ends what is held.
func (d *stubbornDevice) finish() {
	list := d.held
	d.held = nil
	for _, io := range list {
		io.Complete(bdev.OK)
	}
}

type stubbornChannel struct {
	bdev.Channel
	d *stubbornDevice
}

func (c *stubbornChannel) Submit(io *bdev.IO) bdev.Status {
	if io.Op != bdev.Write || c.d.n == 0 {
		return c.Channel.Submit(io)
	}
	c.d.n--
	c.d.held = append(c.d.held, io)
	return bdev.Pending
}

func (c *stubbornChannel) Abort(*bdev.IO) {}

// stubborn starts a target whose LUN 1 is a stubbornDevice.
func stubborn(t testing.TB, o iscsitest.Options) (*iscsitest.Target, *stubbornDevice) {
	d := &stubbornDevice{}
	o.Wrap = func(_ *iscsitest.Target, base bdev.Device) bdev.Device {
		d.Device = base
		return d
	}
	return iscsitest.New(t, o), d
}

// cdb is an operation code, n bytes long, with one byte set: cdb(12, op, at, value).
func cdb(n int, op byte, set ...byte) []byte {
	b := make([]byte, n)
	b[0] = op
	if len(set) == 2 {
		b[set[0]] = set[1]
	}
	return b
}

// sent sends a command without data and returns its tag.
func sent(c *iscsitest.Conn, b pdu.BHS) uint32 {
	c.Send(b, nil, nil)
	return b.ITT()
}

// copyList is the parameter list of an EXTENDED COPY of block 0 from a unit to another.
func copyList(t testing.TB, c *iscsitest.Conn, from, to uint16) []byte {
	t.Helper()
	name := func(lun uint16) []byte {
		d := c.Do(c.Command(lun, pdu.FlagRead, 1024, 0x12, 1, 0x83, 4, 0, 0), nil, 0).Data
		for d = d[4:]; len(d) > 4; d = d[4+int(d[3]):] {
			if d[1]&0x3f == 3 { // NAA, of the logical unit
				return d[:4+int(d[3])]
			}
		}
		t.Fatal("no NAA designator")
		return nil
	}
	list := make([]byte, 16+2*32+28)
	be.PutUint16(list[2:], 64)
	be.PutUint32(list[8:], 28)
	for i, n := range [][]byte{name(from), name(to)} {
		d := list[16+32*i:]
		d[0] = 0xe4
		copy(d[4:28], n)
		be.PutUint32(d[28:], 512)
	}
	seg := list[16+64:]
	seg[0] = 0x02
	be.PutUint16(seg[2:], 24)
	be.PutUint16(seg[6:], 1)
	be.PutUint16(seg[10:], 1)
	return list
}

// extendedCopy is the EXTENDED COPY, by way of lun, that list is for.
func extendedCopy(c *iscsitest.Conn, lun uint16, list []byte) pdu.BHS {
	b := cdb(16, 0x83)
	be.PutUint32(b[10:], uint32(len(list)))
	return c.Command(lun, pdu.FlagWrite, uint32(len(list)), b...)
}
