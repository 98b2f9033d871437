package sim

import (
	"encoding/binary"

	"spindle/internal/sim/linear"
	"spindle/iscsi/pdu"
)

var be = binary.BigEndian

// class of a SCSI command, as far as its answer is judged.
type class uint8

const (
	classRead class = iota
	classWrite
	classFlush
	classZero // UNMAP, WRITE SAME of zeroes
	classSame
	classSwap
	classOr
	classCopy
	classVerify
	classNothing // no data, no effect
	classReply   // data that must always be the same
	classSense
	classChange    // of what nexuses share
	classRegistry  // PERSISTENT RESERVE IN
	classModes     // MODE SENSE of what may change
	classPorts     // REPORT TARGET PORT GROUPS
	classCapacity  // READ CAPACITY
	classIdentity  // REPORT IDENTIFYING INFORMATION
	classList      // REPORT LUNS
	classLog       // LOG SENSE
	classResources // LOG SENSE of the logical block provisioning page
	classResults   // RECEIVE COPY RESULTS
	classBadList   // PERSISTENT RESERVE OUT with a malformed list of TransportIDs
)

// cdb is a command being built, of 32 bytes when it is a variable-length one.
type cdb struct{ b [32]byte }

func cdb10(op byte, flags byte, lba uint64, n uint32) (c cdb) {
	c.b[0], c.b[1] = op, flags
	be.PutUint32(c.b[2:], uint32(lba))
	be.PutUint16(c.b[7:], uint16(n))
	return c
}

func cdb12(op byte, flags byte, lba uint64, n uint32) (c cdb) {
	c.b[0], c.b[1] = op, flags
	be.PutUint32(c.b[2:], uint32(lba))
	be.PutUint32(c.b[6:], n)
	return c
}

func cdb16(op byte, flags byte, lba uint64, n uint32) (c cdb) {
	c.b[0], c.b[1] = op, flags
	be.PutUint64(c.b[2:], lba)
	be.PutUint32(c.b[10:], n)
	return c
}

func cdb6(op byte, lba uint64, n uint32) (c cdb) {
	be.PutUint32(c.b[:], uint32(lba)&0x1fffff)
	c.b[0], c.b[4] = op, byte(n)
	return c
}

// cdb32 is a variable-length CDB (SPC-5 §4.2.3): the service action in place of
// the opcode, the flags of byte 1 in byte 10.
func cdb32(sa byte, flags byte, lba uint64, n uint32) (c cdb) {
	c.b[0], c.b[7], c.b[9], c.b[10] = 0x7f, 24, sa, flags
	be.PutUint64(c.b[12:], lba)
	be.PutUint32(c.b[28:], n)
	return c
}

// service32 are the service actions of the commands that have 32 bytes too, by
// the opcode of their shortest form.
var service32 = map[byte]byte{0x28: 0x09, 0x2f: 0x0a, 0x2a: 0x0b, 0x2e: 0x0c, 0x41: 0x0d}

// place draws a range of blocks, most of them in the first few.
func (in *initiator) place(lu *lun) (lba uint64, n uint32) {
	r := in.rng
	n = uint32(pick(r, 1, 1, 1, 2, 3, 4, 8, 8, 16, 32, 64))
	if lu.blockSize == 4096 {
		n = (n + 3) / 4
	}
	n = min(n, uint32(lu.area))
	span := lu.area - uint64(n) + 1
	if r.IntN(2) == 0 {
		span = min(span, 12)
	}
	return r.Uint64N(span), n
}

// medium command: a CDB of one of the lengths that an opcode comes in.
func (in *initiator) sized(op10, op12, op16 byte, flags byte, lba uint64, n uint32) cdb {
	switch k := in.rng.IntN(6); {
	case k < 2 && service32[op10] != 0:
		in.s.count(LongCDBs)
		return cdb32(service32[op10], flags, lba, n)
	case k == 2 && op12 != 0:
		return cdb12(op12, flags, lba, n)
	case k == 3 && op16 != 0:
		return cdb16(op16, flags, lba, n)
	}
	return cdb10(op10, flags, lba, n)
}

// command makes a random SCSI command and sends it.
func (in *initiator) command() {
	t := in.newTask(kindCommand)
	r := in.rng
	t.lun = r.IntN(len(in.s.luns))
	if c := in.s.plan.contended; c >= 0 && r.IntN(2) == 0 {
		t.lun = c
	}
	lu := in.s.luns[t.lun]
	t.gated, t.needs = true, needAll
	var c cdb
	if len(in.keepers) > 0 && r.IntN(14) == 0 {
		c = in.askCopy(t)
		in.submit(t, in.s.luns[t.lun], &c)
		return
	}
	if in.unready(t, lu, &c) || r.IntN(28) == 0 && in.copyBlocks(t, &c) {
		in.submit(t, lu, &c)
		return
	}
	if t.lun == in.s.plan.contended && r.IntN(in.stake(lu)) == 0 {
		switch k := r.IntN(29); {
		case k == 28:
			c = in.malformed(t, lu)
		case k < 13:
			c = in.reserve(t, lu)
		case k < 16:
			c = in.readReservations(t, lu)
		case k < 22:
			c = in.selectModes(t, lu)
		case k < 24:
			c = in.identify(t)
		case k < 25:
			c = in.askIdentity(t)
		default:
			c = in.senseModes(t, lu)
		}
		in.submit(t, lu, &c)
		return
	}
	if r.IntN(24) == 0 {
		if r.IntN(5) == 0 {
			c = in.selectLog(t)
		} else {
			c = in.readLog(t, lu)
		}
		in.submit(t, lu, &c)
		return
	}
	if lu.metered && r.IntN(16) == 0 {
		c = in.askResources(t, lu)
		in.submit(t, lu, &c)
		return
	}
	switch k := r.IntN(100); {
	case len(lu.capacities) > 1 && k%8 == 0:
		c = in.readCapacity(t)
	case in.s.relisted && k%8 == 1:
		c = in.reportLUNs(t)
	case k < 32:
		c = in.read(t, lu)
	case k < 66:
		c = in.writeCommand(t, lu)
	case k < 71:
		t.class, t.access = classFlush, accessWrite
		if c = in.sized(0x35, 0, 0x91, 0, 0, 0); r.IntN(8) == 0 { // START STOP UNIT that stops flushes
			t.needs = needAll &^ needMedium
			c = cdb{b: [32]byte{0x1b}}
		}
	case k < 75:
		c = in.unmap(t, lu)
	case k < 79:
		c = in.writeSame(t, lu)
	case k < 83:
		c = in.compareAndWrite(t, lu)
	case k < 85:
		c = in.orWrite(t, lu)
	case k < 88:
		c = in.verify(t, lu)
	case k < 91:
		t.class, t.access = classNothing, accessUnit
		if r.IntN(3) == 0 { // the default self-test
			t.access, t.needs = accessWrite, needQuiet|needPath
			c = cdb{b: [32]byte{0x1d, 0x04}}
		}
	case k < 96:
		c = in.inquire(t, lu)
	case k < 97:
		c = in.reserveOld(t, lu)
	default:
		c = in.nonsense(t, lu)
	}
	in.submit(t, lu, &c)
}

func (in *initiator) read(t *task, lu *lun) cdb {
	t.class, t.read, t.access = classRead, true, accessRead
	t.lba, t.blocks = in.place(lu)
	t.want = t.blocks * lu.blockSize
	t.edtl = in.expect(t.want)
	if t.blocks < 200 && in.rng.IntN(12) == 0 {
		return cdb6(0x08, t.lba, t.blocks)
	}
	fl := pick(in.rng, byte(0), 0, 0, 0x08, 0x10)
	if lu.shielded && in.rng.IntN(2) == 0 {
		fl |= in.shieldRead(t, lu)
	}
	return in.sized(0x28, 0xa8, 0x88, fl, t.lba, t.blocks)
}

// expect draws an expected length: mostly what the CDB moves.
func (in *initiator) expect(want uint32) uint32 {
	switch in.rng.IntN(16) {
	case 0:
		return want / 2
	case 1:
		return want + 512
	}
	return want
}

func (in *initiator) writeCommand(t *task, lu *lun) cdb {
	r := in.rng
	t.class, t.write, t.access = classWrite, true, accessWrite
	t.lba, t.blocks = in.place(lu)
	n := t.blocks
	t.want = n * lu.blockSize
	t.edtl = t.want
	switch r.IntN(24) {
	case 0:
		if n > 1 {
			t.blocks = n / 2
			t.edtl = t.blocks * lu.blockSize
		}
	case 1:
		t.edtl += 1024
	}
	o := operation{lu: lu, lba: t.lba, blocks: t.blocks}
	var c cdb
	switch k := r.IntN(16); {
	case k == 0 && n < 200:
		c = cdb6(0x0a, t.lba, n)
	case k == 1:
		o.fua = true // WRITE AND VERIFY makes it durable
		c = in.sized(0x2e, 0xae, 0x8e, pick(r, byte(0), 0x02), t.lba, n)
	case k == 2 && (lu.kind == kindRAM || r.IntN(4) == 0), k > 12 && lu.kind == kindRAM:
		o.atomic, t.atomic = true, true
		c = in.writeAtomic(t.lba, n)
	default:
		o.fua = k < 4
		fl := byte(0)
		if o.fua {
			fl = 0x08
		}
		if lu.shielded && r.IntN(2) == 0 {
			fl |= in.shieldWrite(t, &o)
		}
		c = in.sized(0x2a, 0xaa, 0x8a, fl, t.lba, n)
	}
	t.broken = r.IntN(150) == 0 && t.taint == untainted
	v := in.open(t, o, 0)
	t.data = grow(t.data, int(t.edtl))
	if t.shielded {
		in.fillShielded(t, lu, v)
		return c
	}
	for i := range t.blocks {
		v.fill(t.data[i*lu.blockSize:][:lu.blockSize], t.lba+uint64(i))
	}
	return c
}

// grow makes b n bytes long.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		b = make([]byte, n)
	}
	b = b[:n]
	return b
}

// open enters a write into the book and into the blocks it writes.
func (in *initiator) open(t *task, o operation, flags value) value {
	o.who, o.nexus, o.itt = in, in.nexus, t.itt
	t.op = in.s.book.write(o)
	v := valueOf(t.op) | flags
	if o.or {
		v = value(orMark<<48 | uint64(t.op))
	}
	in.s.book.ops[t.op].val = v
	if o.lu.kind == kindNull {
		return v
	}
	for i := range uint64(o.blocks) {
		c := &o.lu.cells[o.lba+i]
		c.log = append(c.log, entry{op: int32(t.op), val: v, kind: o.kind()})
	}
	return v
}

// openZero is open of an operation that leaves zeroes, or what is not known yet.
func (in *initiator) openZero(t *task, o operation) {
	o.who, o.nexus, o.itt = in, in.nexus, t.itt
	t.op = in.s.book.write(o)
	if o.lu.kind == kindNull {
		return
	}
	for i := range uint64(o.blocks) {
		c := &o.lu.cells[o.lba+i]
		e := entry{op: int32(t.op), kind: linear.Write}
		if o.copied != nil {
			e.val = valueUnread
		}
		c.log = append(c.log, e)
	}
}

func (in *initiator) unmap(t *task, lu *lun) cdb {
	t.class, t.write, t.access = classZero, true, accessWrite
	in.unmapList(t, lu)
	return cdb10(0x42, 0, 0, t.want)
}

func (in *initiator) writeSame(t *task, lu *lun) cdb {
	r := in.rng
	t.lba, t.blocks = in.place(lu)
	t.access = accessWrite
	o := operation{lu: lu, lba: t.lba, blocks: t.blocks}
	zero := !in.s.book.crosses(lu, t.lba, t.blocks)
	if zero && r.IntN(2) == 0 { // zeroes, from no buffer
		t.class = classZero
		in.openZero(t, o)
		return cdb16(0x93, 0x01, t.lba, t.blocks)
	}
	t.class, t.write = classSame, true
	t.want, t.edtl = lu.blockSize, lu.blockSize
	t.data = grow(t.data, int(lu.blockSize))
	if zero && r.IntN(3) == 0 {
		clear(t.data)
		in.openZero(t, o)
		return cdb16(0x93, pick(r, byte(0), 0x08), t.lba, t.blocks)
	}
	in.open(t, o, valueSame).fill(t.data, 0)
	return in.sized(0x41, 0, 0x93, 0, t.lba, t.blocks)
}

// guess is what a block probably holds: the last write that went well.
func (in *initiator) guess(lu *lun, lba uint64) value {
	if lu.kind == kindNull {
		return 0
	}
	c := &lu.cells[lba]
	v, last := c.initial, int64(-1)
	for i := range c.log {
		e := &c.log[i]
		if !e.writes() || e.val == valueUnread {
			continue
		}
		if o := &in.s.book.ops[e.op]; o.state == good && o.end > last {
			if last = o.end; e.kind == linear.Or {
				v = in.s.or(v, e.val)
			} else {
				v = e.val
			}
		}
	}
	return v
}

func (in *initiator) compareAndWrite(t *task, lu *lun) cdb {
	t.class, t.write, t.access = classSwap, true, accessWrite
	t.lba, t.blocks = in.place(lu)
	t.blocks = min(t.blocks, 4)
	half := t.blocks * lu.blockSize
	t.want, t.edtl = 2*half, 2*half
	t.data = grow(t.data, int(2*half))
	in.compareWith(t, lu)
	o := operation{lu: lu, lba: t.lba, blocks: t.blocks, atomic: true}
	v := in.open(t, o, 0)
	for i := range uint64(t.blocks) {
		v.fill(t.data[half+uint32(i)*lu.blockSize:][:lu.blockSize], t.lba+i)
		if lu.kind != kindNull {
			c := &lu.cells[t.lba+i]
			e := &c.log[len(c.log)-1]
			e.kind, e.old = linear.Swap, t.old[i]
		}
	}
	c := cdb16(0x89, 0, t.lba, 0)
	c.b[13] = byte(t.blocks)
	return c
}

// compareWith fills the first part of the data with what the blocks probably hold.
func (in *initiator) compareWith(t *task, lu *lun) {
	wrong := in.rng.IntN(6) == 0
	for i := range uint64(t.blocks) {
		v := in.guess(lu, t.lba+i)
		if wrong && i == uint64(t.blocks-1) {
			v = valueOf(0)
		}
		t.old = append(t.old, v)
		in.s.fill(v, t.data[uint32(i)*lu.blockSize:][:lu.blockSize], t.lba+i)
	}
}

func (in *initiator) verify(t *task, lu *lun) cdb {
	t.class, t.write, t.access = classVerify, true, accessRead
	t.lba, t.blocks = in.place(lu)
	t.want = t.blocks * lu.blockSize
	t.edtl = t.want
	t.data = grow(t.data, int(t.want))
	in.compareWith(t, lu)
	return in.sized(0x2f, 0xaf, 0x8f, 0x02, t.lba, t.blocks)
}

// inquire is a command whose answer never changes.
func (in *initiator) inquire(t *task, lu *lun) (c cdb) {
	r := in.rng
	t.class, t.read = classReply, true
	t.want = uint32(pick(r, 8, 36, 96, 255))
	switch k := r.IntN(8); k {
	case 0, 1, 2:
		c.b[0], c.b[4] = 0x12, byte(t.want)
		if k > 0 {
			c.b[1], c.b[2] = 1, pick(r, byte(0x00), 0x80, 0x83, 0xb0, 0xb2)
		}
		t.gated, t.needs = false, 0
	case 3:
		t.access, t.needs = accessWrite, needPath // SPC-5 table 66: only for those who may change it
		c.b[0], c.b[2], c.b[4] = 0x1a, pick(r, byte(0x3f), 0x08, 0x0a), byte(t.want)
	case 4:
		t.access = accessUnit
		c.b[0] = 0x25
		t.want = 8
	case 5:
		t.access = accessUnit
		c.b[0], c.b[1] = 0x9e, 0x10
		be.PutUint32(c.b[10:], t.want)
	case 6:
		t.access, t.needs = accessUnit, needPath
		c.b[0], c.b[1], c.b[2] = 0xa3, 0x0c, 0
		be.PutUint32(c.b[6:], t.want)
	default:
		t.class, t.gated, t.needs = classSense, false, 0
		c.b[0], c.b[4] = 0x03, byte(t.want)
	}
	t.edtl = in.expect(t.want)
	return c
}

// nonsense is a command that has to be refused.
func (in *initiator) nonsense(t *task, lu *lun) cdb {
	t.class, t.illegal = classNothing, true
	switch in.rng.IntN(6) {
	case 5: // there is no held data
		t.read, t.edtl, t.needs = true, 512, 0
		return cdb{b: [32]byte{0x84, copyData, 13: 2}}
	case 0:
		t.read, t.edtl, t.access = true, 512, accessRead
		return cdb16(0x88, 0, 1<<32, 1)
	case 4: // a reserved RDPROTECT, or one for what the unit does not have
		t.read, t.edtl, t.access = true, 520, accessRead
		return in.sized(0x28, 0xa8, 0x88, pick(in.rng, 1+5*byte(b2i(lu.shielded)), 6, 7)<<5, 0, 1)
	case 1:
		t.needs = 0
		return cdb{b: [32]byte{0xc1}}
	case 2: // no such service action
		t.needs = 0
		return cdb32(0x77, 0, 0, 0)
	}
	t.write, t.edtl, t.access = true, 512, accessWrite
	t.data = grow(t.data, 512)
	clear(t.data)
	if in.rng.IntN(2) == 0 {
		return cdb32(0x0b, 0, 1<<63, 1)
	}
	return cdb16(0x8a, 0, 1<<63, 1)
}

// submit sends a SCSI Command with as much of its data as goes unasked.
func (in *initiator) submit(t *task, lu *lun, c *cdb) {
	in.transmit(t, in.prepare(t, lu, c))
}

// prepare makes the header of a SCSI Command.
func (in *initiator) prepare(t *task, lu *lun, c *cdb) pdu.BHS {
	r, s := in.rng, in.s
	u := &in.units[t.lun]
	if !u.used {
		u.begin(s, lu)
	}
	attr := byte(pdu.AttrSimple)
	if r.IntN(24) == 0 {
		attr = pick(r, byte(pdu.AttrOrdered), pdu.AttrHead, pdu.AttrUntagged)
	}
	fl := attr
	if t.read {
		fl |= pdu.FlagRead
	}
	if t.write {
		fl |= pdu.FlagWrite
	}
	b := in.request(t, pdu.SCSICommand, fl, !in.plain && r.IntN(40) == 0)
	if lu.unsteady || lu.resetting > in.resetting(t.lun) || s.clk.T < lu.stray {
		t.maybe, t.excuses = true, 1
	}
	b.SetLUN(lunField(lu.id))
	b.SetEDTL(t.edtl)
	if copy(b.CDB(), c.b[:]); c.b[0] == 0x7f { // RFC 7143 §11.2.2.3
		b = pdu.AppendExtCDB(b, c.b[:])
		b.SetAHSLen(uint32(len(b) - pdu.HeaderLen))
	}
	if t.op != 0 && attr == pdu.AttrOrdered {
		s.count(WritesOrdered)
		s.book.ops[t.op].ordered = true
	}
	in.tasks = append(in.tasks, t)
	s.rep.Commands++
	in.beginHeld(t, lu)
	if t.class == classChange {
		in.beginChange(t, lu)
	}
	return b
}

// transmit sends a command's PDU, and plans the unsolicited data behind it.
func (in *initiator) transmit(t *task, b pdu.BHS) {
	s, r := in.s, in.rng
	p := &in.prm
	if t.broken && in.sess.level > 0 {
		t.broken, t.spoil = false, true
	}
	first := uint32(0)
	if t.write {
		first = min(p.firstBurst, t.edtl)
	}
	imm := uint32(0)
	if p.immediate && first > 0 && r.IntN(4) != 0 {
		imm = min(first, p.maxSend)
		if r.IntN(4) == 0 {
			imm = uint32(r.IntN(int(imm) + 1))
		}
	}
	more := !p.initialR2T && t.write && imm < first && r.IntN(3) != 0
	if !more {
		b[1] |= pdu.FlagFinal
	}
	if imm > 0 {
		s.count(WritesImmediate)
	}
	t.immediate = imm
	if t.asked = imm; more {
		s.count(WritesUnsolicited)
		t.asked = first
	}
	b.SetDataLen(imm)
	in.link.command(t, b, t.data[:imm])
	in.sent(b)
	if more {
		in.bursts = append(in.bursts, burst{t: t, ttt: pdu.ReservedTag, off: imm, to: first})
	}
}
