package sim

import (
	"bytes"
	"crypto/sha1"
	"slices"

	"spindle/bdev"
	"spindle/internal/sim/linear"
	"spindle/scsi"
)

// EXTENDED COPY moves blocks from one unit to another (SPC-5 §6.6). What it
// reads there is a READ of the source, at some instant since the command was
// sent; what it writes here is a WRITE of that. The probe tells which blocks it
// were: a copy is the only one that writes a range with what is not of its unit.

// maxCopied bounds the segments of a copy.
const maxCopied = 3

// copyPiece is how much a copy reads and writes at a time, in bytes.
const copyPiece = 256 << 10

// copied is the source of a segment, and what it has written.
type copied struct {
	from *lun
	lba  uint64
	vals []value // by block; valueUnread until it was written
}

// begun and done tell whether any of the segment was written, and all.
func (c *copied) begun() bool {
	return slices.ContainsFunc(c.vals, func(v value) bool { return v != valueUnread })
}
func (c *copied) done() bool { return !slices.Contains(c.vals, valueUnread) }

// naa is the designator of a unit, as its VPD page 83h has it.
func (lu *lun) naa() (n [16]byte) {
	uuid := lu.uuid()
	sum := sha1.Sum(uuid[:])
	copy(n[:], []byte{0x60, 0x25, 0x35, 0x00 | sum[3]&0x0f})
	copy(n[4:], sum[4:16])
	return n
}

// copyBlocks makes an EXTENDED COPY (LID1) of one to three segments. False:
// there are no units that it could copy between. It goes from a unit to one
// behind it, so that no value ever comes back to where it was written.
func (in *initiator) copyBlocks(t *task, c *cdb) bool {
	s, r := in.s, in.rng
	t.data = append(grow(t.data, 0), make([]byte, 16+32*len(s.luns))...)
	for i, lu := range s.luns {
		d := t.data[16+32*i:]
		d[0], d[4], d[5], d[7] = 0xe4, 0x01, 0x03, 16
		id := lu.naa()
		copy(d[8:], id[:])
	}
	for range 1 + r.IntN(maxCopied) {
		i, k := r.IntN(len(s.luns)), r.IntN(len(s.luns))
		if i > k {
			i, k = k, i
		}
		from, to := s.luns[i], s.luns[k]
		lba, n := in.place(from)
		dest, m := in.place(to)
		n = min(n, m)
		all := min(from.area, to.area)
		if k := r.IntN(6); k == 0 || k < 4 && all*uint64(to.blockSize) > copyPiece {
			lba, dest, n = 0, 0, uint32(all)
		}
		if i == k || from.blockSize != to.blockSize || s.book.crosses(to, dest, n) {
			continue
		}
		in.openCopy(t, operation{lu: to, lba: dest, blocks: n}, copied{from: from, lba: lba})
		seg := make([]byte, 28)
		seg[0], seg[3] = 0x02, 24
		be.PutUint16(seg[4:], uint16(i))
		be.PutUint16(seg[6:], uint16(k))
		be.PutUint16(seg[10:], uint16(n))
		be.PutUint64(seg[12:], lba)
		be.PutUint64(seg[20:], dest)
		t.data = append(t.data, seg...)
	}
	if len(t.copies) == 0 {
		return false
	}
	t.class, t.write, t.access = classCopy, true, accessWrite
	in.nameCopy(t)
	be.PutUint16(t.data[2:], uint16(32*len(s.luns)))
	be.PutUint32(t.data[8:], uint32(28*len(t.copies)))
	t.want = uint32(len(t.data))
	t.edtl = t.want
	c.b[0] = 0x83
	be.PutUint32(c.b[10:], t.want)
	return true
}

// openCopy enters a segment into the book: what it writes is not known yet.
func (in *initiator) openCopy(t *task, o operation, c copied) {
	c.vals = make([]value, o.blocks)
	for i := range c.vals {
		c.vals[i] = valueUnread
	}
	if o.copied = &c; o.lu.resetting > 0 || c.from.resetting > 0 {
		t.excused = true
	}
	o.lu.target = true
	in.openZero(t, o)
	t.copies, t.op = append(t.copies, t.op), 0
}

// crosses tells whether a write is under way that the probe could take for one
// of a copy to a range, or the other way round: another copy, or zeroes.
func (b *book) crosses(lu *lun, lba uint64, n uint32) bool {
	for i := range b.ops {
		if o := &b.ops[i]; o.state == pending && o.lu == lu && (o.copied != nil || o.val == 0) && o.lba < lba+uint64(n) && lba < o.lba+uint64(o.blocks) {
			return true
		}
	}
	return false
}

// copying is the number of the copy that a write belongs to, 0 when it is none's:
// the one of this range that is under way, or if the blocks are of another unit
// for certain, the last one.
func (b *book) copying(lu *lun, io *bdev.IO, foreign bool) (n int) {
	for i := len(b.ops) - 1; i > 0; i-- {
		o := &b.ops[i]
		if o.copied == nil || o.lu != lu || !o.isPiece(io) {
			continue
		}
		if o.state == pending && o.end == linear.Forever {
			return i
		}
		if n == 0 && foreign {
			n = i
		}
	}
	if foreign && n == 0 {
		b.s.fail("stale write", "LUN %d: blocks of another unit are written to %d+%d, where nobody has copied any", lu.id, io.LBA, io.Blocks)
	}
	return n
}

// isPiece tells whether a write is of a piece of a copy.
func (o *operation) isPiece(io *bdev.IO) bool {
	at, piece := io.LBA-o.lba, uint64(copyPiece/o.lu.blockSize)
	return io.LBA >= o.lba && at < uint64(o.blocks) && at%piece == 0 && uint64(io.Blocks) == min(piece, uint64(o.blocks)-at)
}

// wrote learns what a piece of segment n writes, and that its source held that.
func (b *book) wrote(n int, io *bdev.IO) {
	s, o := b.s, &b.ops[n]
	c := o.copied
	data, size := io.Data.Bytes(), int(o.lu.blockSize)
	first := int(io.LBA - o.lba)
	if first > 0 {
		s.count(CopyPieces)
	}
	if first > 0 && c.vals[first-1] == valueUnread {
		s.fail("copy", "write %d (task %#x of initiator %d) writes block %d of LUN %d, and none before it", n, o.itt, o.who.id, io.LBA, o.lu.id)
		return
	}
	for i := first; i < first+int(io.Blocks); i++ {
		block := data[(i-first)*size:][:size]
		v := s.blob(block)
		if old := c.vals[i]; old != valueUnread && old != v {
			s.fail("copy", "write %d (task %#x of initiator %d) writes block %d of LUN %d a second time, and something else", n, o.itt, o.who.id, o.lba+uint64(i), o.lu.id)
			return
		} else if old == v {
			continue
		}
		c.vals[i] = v
		s.showCopy(o.lu, n, o.lba+uint64(i), v)
		s.lookCopied(o, c.lba+uint64(i), block)
		if s.failed() {
			return
		}
	}
}

// showCopy enters what copy n wrote into the history of a block.
func (s *run) showCopy(lu *lun, n int, lba uint64, v value) {
	if lu.kind == kindNull {
		return
	}
	log := lu.cells[lba].log
	for k := range log {
		if e := &log[k]; e.writes() && int(e.op) == n {
			e.val = v
		}
	}
}

// lookCopied enters what a copy read into the history of the block it came from.
func (s *run) lookCopied(o *operation, lba uint64, block []byte) {
	from := o.copied.from
	switch {
	case from.doubtful(o.call) || o.call < from.born:
		return
	case from.kind == kindNull:
		if !allBytes(block, 0) {
			s.fail("stale byte", "null device, block %d is copied as % x", lba, block[:16])
		}
		return
	}
	if v, ok := s.look(from, lba, block, o.call, false); ok && !s.failed() {
		c := &from.cells[lba]
		c.log = append(c.log, entry{call: o.call, end: s.now(), val: v, kind: linear.Read})
	}
}

// blob is the value of a block that holds b, whatever that is.
func (s *run) blob(b []byte) value {
	if allBytes(b, 0) {
		return 0
	}
	k, ok := s.blobOf[string(b)]
	if !ok {
		k = len(s.blobs)
		s.blobs = append(s.blobs, bytes.Clone(b))
		s.blobOf[string(b)] = k
	}
	return value(blobMark<<48 | uint64(k))
}

// copyGood is the good end of a copy: all of it was written, from units and to
// units that let it.
func (in *initiator) copyGood(t *task) {
	s := in.s
	for _, n := range t.copies {
		o := &s.book.ops[n]
		from, to := o.copied.from, o.lu
		if from.doubtful(t.call) || to.doubtful(t.call) {
			continue
		}
		if !o.copied.done() {
			in.bad("copy", "task %#x ended well, and blocks %d+%d of LUN %d were not written", t.itt, o.lba, o.blocks, to.id)
			return
		}
		if !in.mayCopy(t, from, accessRead) || !in.mayCopy(t, to, accessWrite) {
			in.bad("copy", "task %#x ended well, and LUN %d or %d lets nexus %d do nothing of the kind", t.itt, from.id, to.id, in.nexus)
			return
		}
		if !to.object.Any(t.call, func(st *shared) bool { return !st.modes.through }) {
			o.fua = true
		}
	}
}

// mayCopy tells whether a unit may have let a copy read or write it.
func (in *initiator) mayCopy(t *task, lu *lun, a access) bool {
	port := in.port()
	return lu.object.Any(t.call, func(st *shared) bool {
		return !st.refuses(in.nexus, a) && !st.unready(needAll) && !st.cutOff(needAll, port) && !(a == accessWrite && (st.modes.swp || lu.readOnly))
	})
}

// mayFail tells whether a unit may have refused or failed a copy.
func (in *initiator) mayFail(t *task, lu *lun, a access) bool {
	port := in.port()
	return lu.faults > 0 || lu.doubtful(t.call) || lu.object.Any(t.call, func(st *shared) bool {
		return st.refuses(in.nexus, a) || st.unready(needAll) || st.cutOff(needAll, port) || a == accessWrite && (st.modes.swp || lu.readOnly)
	})
}

// copyAborted takes COPY ABORTED. INFORMATION tells the segment that failed:
// those before it are there, those behind it are not.
func (in *initiator) copyAborted(t *task, code scsi.Code, b []byte) {
	s := in.s
	s.count(CopiesAborted)
	at := int(be.Uint32(b[3:]))
	if t.class != classCopy || b[0]&0x80 == 0 || at >= len(t.copies) {
		in.bad("copy", "task %#x: COPY ABORTED, %04x, at segment %d", t.itt, uint16(code), at)
		return
	}
	if len(t.sense) == 0 {
		t.sense, t.failed = slices.Clone(b), at
	}
	o := &s.book.ops[t.copies[at]]
	gone := code == scsi.TargetNotReachable && (o.lu.doubtful(t.call) || o.copied.from.doubtful(t.call))
	failed := code == scsi.ThirdPartyFailure && (t.excused || s.boxed || in.aborting(o.lu) || in.aborting(o.copied.from) || in.mayFail(t, o.copied.from, accessRead) || in.mayFail(t, o.lu, accessWrite))
	if !gone && !failed {
		in.bad("copy", "task %#x: COPY ABORTED with %04x at segment %d, for no reason", t.itt, uint16(code), at)
		return
	}
	for i, n := range t.copies {
		o := &s.book.ops[n]
		if o.lu.doubtful(t.call) || o.copied.from.doubtful(t.call) {
			s.book.over(n, unsure, "COPY ABORTED")
			continue
		}
		if i < at && !o.copied.done() || i > at && o.copied.begun() {
			in.bad("copy", "task %#x: COPY ABORTED at segment %d, and segment %d is written: %v", t.itt, at, i, o.copied.begun())
			return
		}
		if i < at {
			s.book.over(n, good, "COPY ABORTED behind it")
		} else if i > at {
			s.book.over(n, without, "COPY ABORTED before it")
		}
	}
	if o.copied.begun() && !o.copied.done() {
		s.count(CopiesPartial)
	}
	s.book.over(t.copies[at], unsure, "COPY ABORTED")
}

// aborting tells whether a function for our own tasks of a unit has no answer yet:
// it ends what a copy does there, although the copy may be younger.
func (in *initiator) aborting(lu *lun) bool {
	place := in.s.placeOf(lu)
	return slices.ContainsFunc(in.tasks, func(t *task) bool { return t.forSet() && (t.lun < 0 || t.lun == place) })
}

// excuseCopies lets copies from or to a unit fail: something ends their tasks there.
func (in *initiator) excuseCopies(lu *lun) {
	for _, t := range in.tasks {
		for _, n := range t.copies {
			if o := &in.s.book.ops[n]; o.lu == lu || o.copied.from == lu {
				t.excused = true
			}
		}
	}
}
