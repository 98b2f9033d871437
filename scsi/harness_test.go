package scsi

import (
	"bytes"
	"testing"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/reactor"
	"spindle/reactor/mem"
)

// The harness plays the transport engine on reactors that are turned by hand.

// disk is an in-memory device whose I/Os can be kept in flight.
type disk struct {
	bdev.Listeners
	info   bdev.Info
	data   []byte
	stuck  bool // I/Os wait for finish
	noMem  int  // submissions still to refuse
	fail   bdev.Status
	fly    []*bdev.IO
	log    []bdev.IO // what was submitted
	lent   int
	aborts int
	queue  []*bdev.IO // spare for fly
	keep   bool       // log
}

func newDisk(blockSize uint32, blocks uint64, caps bdev.Caps) *disk {
	return &disk{
		info: bdev.Info{Product: "Test disk", BlockSize: blockSize, Blocks: blocks, Caps: caps, UnmapZeroes: true},
		data: make([]byte, uint64(blockSize)*blocks),
		keep: true,
	}
}

func (d *disk) Info() *bdev.Info                            { return &d.info }
func (d *disk) Open(*reactor.Reactor) (bdev.Channel, error) { return &diskChannel{d: d}, nil }
func (d *disk) Close() error                                { return nil }

type diskChannel struct{ d *disk }

func (c *diskChannel) Submit(io *bdev.IO) bdev.Status {
	d := c.d
	if d.noMem > 0 {
		d.noMem--
		return bdev.NoMem
	}
	if d.keep {
		d.log = append(d.log, bdev.IO{Op: io.Op, Flags: io.Flags, LBA: io.LBA, Blocks: io.Blocks})
	}
	if n := io.Data.Len; n != 0 && io.Op <= bdev.Write {
		if a := uintptr(max(d.info.Align, 1)); io.Data.Addr%a != 0 || d.info.MaxTransfer != 0 && io.Blocks > d.info.MaxTransfer {
			panic("I/O breaks the limits of the device")
		}
	}
	if d.stuck {
		d.fly = append(d.fly, io)
		return bdev.Pending
	}
	return d.run(io)
}

func (d *disk) run(io *bdev.IO) bdev.Status {
	if d.fail != bdev.Pending {
		return d.fail
	}
	if io.Op == bdev.Flush {
		return bdev.OK
	}
	at := io.LBA * uint64(d.info.BlockSize)
	n := uint64(io.Blocks) * uint64(d.info.BlockSize)
	if at+n > uint64(len(d.data)) {
		return bdev.OutRange
	}
	switch io.Op {
	case bdev.Read:
		if io.Flags&bdev.Lend != 0 {
			io.Data = lentMemory.Slice(0, uint32(n))
			d.lent++
		}
		copy(io.Data.Bytes(), d.data[at:at+n])
	case bdev.Write:
		copy(d.data[at:at+n], io.Data.Bytes())
	case bdev.Unmap, bdev.WriteZeroes:
		clear(d.data[at : at+n])
	}
	return bdev.OK
}

// finish ends what is in flight.
func (d *disk) finish() {
	fly := d.fly
	d.fly, d.queue = d.queue[:0], nil
	for _, io := range fly {
		io.Complete(d.run(io))
	}
	d.queue = fly
}

func (c *diskChannel) Abort(*bdev.IO)   { c.d.aborts++ }
func (c *diskChannel) Release(*bdev.IO) { c.d.lent-- }
func (c *diskChannel) Close()           {}

var lentMemory mem.Ref

// bench is a target node on n reactors.
type bench struct {
	*bdevtest.Rig
	dev *Device
}

func newBench(t testing.TB, n int) *bench {
	t.Helper()
	return benchOn(bdevtest.NewRig(t, n, nil))
}

// benchOn makes a target node on reactors that may have served another.
func benchOn(rig *bdevtest.Rig) *bench {
	g := &bench{Rig: rig}
	g.dev = NewDevice("iqn.2026-01.test:node", g.Reactors)
	if lentMemory.Empty() {
		lentMemory, _ = g.Arena().Alloc(1 << 20)
	}
	return g
}

// Await implements reactor.Caller by turning the reactors.
func (g *bench) Await(_ *reactor.Reactor, start func(done func())) {
	ended := false
	start(func() { ended = true })
	g.Until("control call", func() bool { return ended })
}

func (g *bench) Block(work func()) { work() }

func (g *bench) add(lun uint16, d bdev.Device, opt LUNOptions) *bdev.Bdev {
	g.T.Helper()
	b := bdev.New("disk", bdev.UUID{}, d)
	if _, err := g.dev.AddLUN(g, lun, b, opt); err != nil {
		g.T.Fatal(err)
	}
	return b
}

// session is a nexus with a name of its own, on reactor i.
func (g *bench) session(name string, i int) *session {
	id := NexusID{InitiatorName: "iqn.2026-01.test:" + name, ISID: [6]byte{0x40, 1, 2, 3, 4, byte(i)}, TargetName: g.dev.name, TPGT: 1, RelativePort: 1}
	return &session{g: g, n: g.dev.NewNexus(g.Reactors[i], id, nil)}
}

// ready is a session that has taken its first unit attention.
func (g *bench) ready(name string, i int) *session {
	s := g.session(name, i)
	s.do(0, cdb("00 00 00 00 00 00"), nil, 0)
	g.turns(4)
	return s
}

func (g *bench) turns(n int) {
	for range n {
		g.Turn()
	}
}

type session struct {
	g *bench
	n *Nexus
}

// request is one command and what became of it.
type request struct {
	Task
	g    *bench
	done bool
	told int // TaskAbort
	data []byte
	buf  mem.Ref
}

func (q *request) TaskDone(*Task)  { q.done = true; q.collect() }
func (q *request) TaskAbort(*Task) { q.told++; q.done = true; q.finish() }

// collect takes the result and ends the task, as the engine does once the
// response has left.
func (q *request) collect() {
	if q.DataLen != 0 {
		q.data = bytes.Clone(q.Data.Bytes()[:min(q.DataLen, q.EDTL)])
	}
	q.finish()
}

func (q *request) finish() {
	q.End()
	if !q.buf.Empty() {
		q.g.Arena().Free(q.buf)
		q.buf = mem.Ref{}
	}
}

// start drives a command as far as it goes.
func (s *session) start(lun uint16, c []byte, out []byte, edtl uint32, attr Attr) *request {
	q := s.begin(lun, c, out, edtl, attr)
	q.run(out)
	return q
}

func (s *session) begin(lun uint16, c []byte, out []byte, edtl uint32, attr Attr) *request {
	q := &request{g: s.g}
	copy(q.CDB[:], c)
	q.CDBLen = uint8(max(len(c), 16))
	q.Attr, q.EDTL, q.Owner = attr, edtl, q
	if out != nil {
		q.EDTL = uint32(len(out))
	}
	s.n.Begin(&q.Task, EncodeLUN(lun))
	return q
}

func (q *request) run(out []byte) {
	g := q.g
	if q.Prepare() == Done {
		q.done = true
		q.collect()
		return
	}
	if n := q.Want + q.Scratch; n != 0 && !q.Lend {
		b, ok := g.Arena().Alloc(n)
		if !ok {
			g.T.Fatalf("no buffer of %d bytes", n)
		}
		for i, v := 0, b.Bytes(); i < len(v); i++ {
			v[i] = 0xcc
		}
		q.buf, q.Data = b, b
		if q.Dir == DataOut {
			copy(b.Bytes()[:q.Want], out)
		}
	}
	if q.Execute() == Done {
		q.done = true
		q.collect()
	}
}

// do runs a command to its end.
func (s *session) do(lun uint16, c []byte, out []byte, edtl uint32) *request {
	s.g.T.Helper()
	q := s.start(lun, c, out, edtl, AttrSimple)
	s.g.Until("command", func() bool { return q.done })
	return q
}

// in runs a command that moves data in and has to succeed.
func (s *session) in(lun uint16, c []byte, edtl uint32) []byte {
	s.g.T.Helper()
	q := s.do(lun, c, nil, edtl)
	if q.Status != Good {
		s.g.T.Fatalf("% x: %s", c, q.outcome())
	}
	return q.data
}

// outcome is a status in the shape the tests compare: "good", "05/2400", "conflict".
func (q *request) outcome() string {
	const digits = "0123456789ABCDEF"
	switch q.Status {
	case Good:
		if q.Aborted() {
			return "aborted"
		}
		return "good"
	case Busy:
		return "busy"
	case ReservationConflict:
		return "conflict"
	case TaskAborted:
		return "task aborted"
	case CheckCondition:
		key, asc := q.Sense[2]&15, q.Sense[12:14]
		if q.Sense[0]&0x7f == 0x72 {
			key, asc = q.Sense[1]&15, q.Sense[2:4]
		}
		h := func(b byte) string { return string([]byte{digits[b>>4], digits[b&15]}) }
		return h(key) + "/" + h(asc[0]) + h(asc[1])
	}
	return "?"
}

// cdb reads bytes in hexadecimal, padded to 16.
func cdb(s string) []byte {
	out := make([]byte, 0, 16)
	for i := 0; i < len(s); i++ {
		if s[i] == ' ' {
			continue
		}
		out = append(out, unhex(s[i])<<4|unhex(s[i+1]))
		i++
	}
	for len(out) < 16 {
		out = append(out, 0)
	}
	return out
}

func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
