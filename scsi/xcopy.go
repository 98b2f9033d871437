package scsi

import (
	"slices"

	"spindle/internal/plant"
)

// EXTENDED COPY (LID1) copies between units of one target node. Each piece is
// read and written by a child task of the same I_T nexus, which goes the way of
// any READ and WRITE on the unit it is for: reservations, holds, write
// protection, ALUA, aborts and removal mean to it what they mean to those, and
// a unit that the nexus cannot see cannot be named.

// Limits, as RECEIVE COPY OPERATING PARAMETERS tells them.
const (
	maxCSCD        = 16
	maxSegments    = 64
	maxCopyList    = (maxCSCD+1)*cscdLength + (maxSegments+1)*segmentOffsetLen // bytes of descriptors
	maxSegmentSize = 32 << 20                                                  // bytes
	maxCopies      = 8                                                         // of a nexus, on one unit, at once
	copyChunk      = 256 << 10                                                 // bytes read and written at a time
	copyAlign      = 4096                                                      // of the memory, enough for any device
)

// Layout of the parameter list (SPC-5 §6.6), in bytes.
const (
	copyHeader       = 16
	cscdLength       = 32
	segmentLen       = 28 // block device to block device
	segmentOffsetLen = 32 // with offsets
	cscdIdentity     = 0xe4
	segmentBlocks    = 0x02
	segmentOffset    = 0x0a
)

// LIST ID USAGE (SPC-5 table 109).
const (
	listHold    = 0 << 3
	listDiscard = 2 << 3
	listNone    = 3 << 3
	listField   = 3 << 3
)

func prepExtendedCopy(t *Task) Result {
	n := be.Uint32(t.CDB[10:])
	if n == 0 {
		return Ready
	}
	if n < copyHeader || n > copyHeader+maxCopyList {
		return t.fail(IllegalRequest, ParameterListLength)
	}
	if t.itl.copying >= maxCopies {
		t.Status = Busy
		return Done
	}
	r := t.wantList(n)
	t.Scratch = copyScratch(n) - n + copyChunk
	return r
}

// copyScratch is where the buffer of a copy starts, behind a list of n bytes.
func copyScratch(n uint32) uint32 { return (n + copyAlign - 1) &^ (copyAlign - 1) }

// segment is one segment descriptor, taken apart.
type segment struct {
	from, to       uint16 // indexes of CSCD descriptors
	lba, dest      uint64
	blocks         uint32 // of the destination when byDest, of the source otherwise
	bytes          uint32 // in place of blocks when offset
	offset, byDest bool
}

// copier is an EXTENDED COPY at work.
type copier struct {
	t      *Task // the command
	child  Task
	record copyRecord
	usage  byte   // LIST ID USAGE
	list   []byte // descriptors
	cscds  int
	segs   [maxSegments]segment
	count  int
	seg    int

	// The segment at work.
	from, to  *ITL
	lba, dest uint64
	left      uint64 // bytes
	n         uint32 // bytes in the buffer
	open      bool   // from, to and left are set
	ended     bool   // the child is done, and its outcome not looked at
}

// doExtendedCopy parses the list, then copies piece by piece.
func doExtendedCopy(t *Task) action {
	if t.Want == 0 {
		return actDone
	}
	if t.step == 0 {
		t.step = 1
		if !t.startCopy() {
			return actDone
		}
	}
	c := t.copy
	for {
		if c.ended && !c.pieceDone() {
			return c.finish()
		}
		if !c.open && (!c.nextSegment() || !c.open) {
			return c.finish() // it failed, or no segment is left
		}
		if c.from.view.closing || c.to.view.closing {
			c.abort(TargetNotReachable)
			return c.finish()
		}
		if !c.from.view.active || !c.to.view.active {
			return actYield // home makes the view of a unit active soon
		}
		switch c.start() {
		case Waiting:
			return actChild
		case Ready: // a piece was written, or could be started no further
			return actYield
		}
	}
}

// startCopy checks the whole list before anything is copied. False: t has failed.
func (t *Task) startCopy() bool {
	list := t.Data.Bytes()[:t.Want]
	c := &copier{t: t}
	if !c.parse(list) {
		return false
	}
	c.record.id, c.usage = list[0], list[1]&listField
	if c.usage != listNone {
		for _, r := range t.itl.copies {
			if r.id == c.record.id && r.running {
				t.fail(IllegalRequest, OperationInProgress)
				return false
			}
		}
	}
	t.copy = c
	t.itl.copying++
	if c.usage != listNone {
		c.record.running = true
		t.itl.keepCopy(c.record)
	}
	return true
}

// parse takes the parameter list apart. False: the task has failed.
func (c *copier) parse(list []byte) bool {
	t := c.t
	cscds, segs := uint64(be.Uint16(list[2:])), uint64(be.Uint32(list[8:]))
	switch {
	case be.Uint32(list[12:]) != 0:
		t.fail(IllegalRequest, InlineDataTooLong)
		return false
	case cscds+segs > maxCopyList, copyHeader+cscds+segs > uint64(len(list)):
		t.fail(IllegalRequest, ParameterListLength)
		return false
	case list[1]&listField == 1<<3:
		t.badParam(1, 4)
		return false
	case list[1]&listField == listNone && list[0] != 0:
		t.badParam(0, wholeByte)
		return false
	}
	c.list = list[copyHeader : copyHeader+cscds]
	for at := 0; at < len(c.list); at += cscdLength {
		switch {
		case c.list[at] != cscdIdentity:
			t.fail(IllegalRequest, UnsupportedCSCD)
			return false
		case c.cscds == maxCSCD:
			t.fail(IllegalRequest, TooManyCSCDs)
			return false
		case len(c.list)-at < cscdLength:
			t.fail(IllegalRequest, ParameterListLength)
			return false
		}
		c.cscds++
	}
	at := copyHeader + int(cscds)
	for rest := list[at : at+int(segs)]; len(rest) != 0; {
		n := c.parseSegment(rest, len(list[:at])+int(segs)-len(rest))
		if n == 0 {
			return false
		}
		rest = rest[n:]
	}
	return true
}

// parseSegment reads the segment descriptor at the start of b, which lies at off
// in the list, and returns its length; 0: the task has failed.
func (c *copier) parseSegment(b []byte, off int) int {
	t, size := c.t, segmentLen
	switch b[0] {
	case segmentBlocks:
	case segmentOffset:
		size = segmentOffsetLen
	default:
		t.fail(IllegalRequest, UnsupportedSegment)
		return 0
	}
	switch {
	case len(b) < size:
		t.fail(IllegalRequest, ParameterListLength)
		return 0
	case int(be.Uint16(b[2:])) != size-4:
		t.badParam(uint16(off+2), wholeByte)
		return 0
	case c.count == maxSegments:
		t.fail(IllegalRequest, TooManySegments)
		return 0
	}
	s := &c.segs[c.count]
	c.count++
	*s = segment{
		from: be.Uint16(b[4:]), to: be.Uint16(b[6:]), lba: be.Uint64(b[12:]), dest: be.Uint64(b[20:]),
		blocks: uint32(be.Uint16(b[10:])), byDest: b[1]&0x02 != 0,
	}
	if size == segmentOffsetLen {
		s.offset, s.byDest, s.bytes = true, false, be.Uint32(b[8:])
		if be.Uint32(b[28:]) != 0 { // only whole blocks
			t.badParam(uint16(off+28), wholeByte)
			return 0
		}
	}
	return size
}

// nextSegment opens the next segment that copies anything. False: the task has
// failed. With none left, open stays false.
func (c *copier) nextSegment() bool {
	for c.seg < c.count {
		if plant.On(plant.CopyShort) && c.seg > 0 && c.seg == c.count-1 {
			break
		}
		s := &c.segs[c.seg]
		c.from, c.to = c.resolve(s.from), c.resolve(s.to)
		if c.from == nil || c.to == nil {
			return c.abort(TargetNotReachable)
		}
		from, to := c.from.view.snap, c.to.view.snap
		c.lba, c.dest = s.lba, s.dest
		switch {
		case s.offset:
			c.left = uint64(s.bytes)
		case s.byDest:
			c.left = uint64(s.blocks) << to.shift
		default:
			c.left = uint64(s.blocks) << from.shift
		}
		if c.left == 0 {
			c.segmentBegun()
			c.segmentDone()
			continue
		}
		switch {
		case c.left > maxSegmentSize:
			return c.abort(InvalidFieldInParam)
		case c.left&uint64(from.blockSize-1) != 0 || c.left&uint64(to.blockSize-1) != 0:
			return c.abort(InexactSegment) // blocks of one would be filled in part
		case !from.inRange(c.lba, uint32(c.left>>from.shift)) || !to.inRange(c.dest, uint32(c.left>>to.shift)):
			return c.abort(NoAdditionalSense)
		}
		c.open = true
		c.segmentBegun()
		return true
	}
	return true
}

// resolve finds the unit that CSCD descriptor k names, by its NAA identifier,
// among those that the nexus sees; nil: there is none.
func (c *copier) resolve(k uint16) *ITL {
	if int(k) >= c.cscds {
		return nil
	}
	d := c.list[int(k)*cscdLength:][:cscdLength]
	n := c.t.Nexus
	if d[1]&0x1f != typeDisk || d[4]&0x0f != codeBinary || d[5]&0x3f != assocUnit|designNAA || int(d[7]) != len(c.t.View.lu.ident.naa) {
		return nil
	}
	for _, lu := range n.dev.inventory.Load().all {
		if !slices.Equal(lu.ident.naa[:], d[8:24]) || n.visible != nil && !n.visible(lu.lun) {
			continue
		}
		i := n.find(int(lu.lun))
		if size := be.Uint32(d[28:]) & 0xffffff; i == nil || size != 0 && size != i.view.snap.blockSize {
			return nil
		}
		return i
	}
	return nil
}

// start reads the next piece, or writes what was read. Waiting: the child tells
// later. Ready: it has ended, with whatever outcome.
func (c *copier) start() Result {
	at := copyScratch(c.t.Want)
	if c.n == 0 {
		from, to := c.from.view.snap, c.to.view.snap
		n := min(uint64(copyChunk), c.left, uint64(from.maxBlocks)<<from.shift, uint64(to.maxBlocks)<<to.shift)
		n &^= uint64(max(from.blockSize, to.blockSize) - 1)
		if n == 0 { // a device takes less than a block of the other
			c.abort(InexactSegment)
			c.ended, c.child.Status = true, CheckCondition
			return Ready
		}
		return c.run(c.from, opRead16, c.lba, uint32(n), at)
	}
	return c.run(c.to, opWrite16, c.dest, c.n, at)
}

// run starts a READ(16) or WRITE(16) of n bytes on the unit of i.
func (c *copier) run(i *ITL, op byte, lba uint64, n, at uint32) Result {
	t := &c.child
	*t = Task{CDBLen: 16, Attr: AttrSimple, EDTL: n, Owner: c, Arg: c.t.Arg}
	t.CDB[0] = op
	be.PutUint64(t.CDB[2:], lba)
	be.PutUint32(t.CDB[10:], n>>i.view.snap.shift)
	c.t.Nexus.Begin(t, EncodeLUN(i.view.lu.lun))
	if t.itl != i {
		return c.over(LUNNotSupported) // the unit went away
	}
	// A unit attention of that unit is told to a command of the initiator's.
	if plant.On(plant.CopyOpen) {
		open := *t.op
		open.gate &^= gateReserved
		t.op = &open
	}
	if plant.On(plant.ReadOnlyCopied) {
		open := *t.op
		open.flags &^= cmdWrites
		t.op = &open
	}
	if g := i.gate & t.op.gate &^ gateUA; g != 0 && t.stopped(g) {
		return c.over(0)
	}
	if t.op.prepare(t) == Done || t.op.flags&cmdWrites != 0 && i.view.snap.protect != 0 && t.protected(i.view.snap) == Done {
		return c.over(0)
	}
	t.Lend = false
	t.Data = c.t.Data.Slice(at, n)
	if t.Execute() == Waiting {
		return Waiting
	}
	return c.over(0)
}

// over ends the child within the call that started it.
func (c *copier) over(code Code) Result {
	if code != 0 {
		c.child.fail(IllegalRequest, code)
	}
	c.child.End()
	c.ended = true
	return Ready
}

// TaskDone continues the copy when a child has ended.
func (c *copier) TaskDone(t *Task) {
	t.End()
	c.ended = true
	c.t.View.later(c.t)
}

// TaskAbort is part of Owner. A child is with the engine only inside run.
func (c *copier) TaskAbort(*Task) {}

// pieceDone looks at what became of a child. False: the copy has failed.
func (c *copier) pieceDone() bool {
	c.ended = false
	t := &c.child
	switch {
	case t.Status != Good || t.Aborted():
		if c.t.Status == Good {
			c.abort(ThirdPartyFailure)
		}
		return false
	case c.n == 0:
		c.n = t.EDTL
		return true
	}
	from, to := c.from.view.snap, c.to.view.snap
	c.lba += uint64(c.n >> from.shift)
	c.dest += uint64(c.n >> to.shift)
	c.left -= uint64(c.n)
	if !plant.On(plant.CopyUncounted) {
		c.record.bytes += uint64(c.n)
	}
	c.noted()
	c.n = 0
	if c.left == 0 {
		c.segmentDone()
	}
	return true
}

// segmentBegun counts a segment: that at work is one of those processed (SPC-5 §6.24).
func (c *copier) segmentBegun() {
	c.record.segments++
	c.noted()
}

func (c *copier) segmentDone() {
	c.open = false
	c.seg++
}

// noted has RECEIVE COPY STATUS tell what has been done, if there is an identifier
// to ask it by.
func (c *copier) noted() {
	if c.usage != listNone {
		c.t.itl.updateCopy(&c.record)
	}
}

// abort ends the copy with COPY ABORTED, INFORMATION telling the segment. It
// returns false.
func (c *copier) abort(code Code) bool {
	at := uint64(c.seg)
	if plant.On(plant.CopyMiscounted) && at > 0 {
		at--
	}
	c.t.check(sense{key: CopyAborted, code: code, info: at, has: hasInfo})
	return false
}

// finish ends the command.
func (c *copier) finish() action {
	c.end(c.t.Status != Good)
	return actDone
}

// end notes the outcome; the task may be aborted.
func (c *copier) end(failed bool) {
	t := c.t
	c.record.running, c.record.failed = false, failed
	c.record.sense = append([]byte(nil), t.Sense[:t.SenseLen]...)
	k := t.itl.findCopy(c.record.id)
	switch {
	case c.usage == listNone || k < 0:
	case c.usage == listDiscard && !failed, t.itl.copies[k].reset && t.Aborted():
		t.itl.dropCopy(c.record.id)
	default:
		t.itl.updateCopy(&c.record)
	}
	t.itl.copying--
	t.copy = nil // records and list go with it
}
