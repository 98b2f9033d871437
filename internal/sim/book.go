package sim

import (
	"fmt"
	"math"

	"spindle/internal/sim/linear"
)

// outcome of an operation on the medium, as far as its initiator knows.
type outcome uint8

const (
	pending outcome = iota // no answer yet, or never
	good
	unsure  // it failed, or was aborted: any part of it may have happened
	without // it was refused before it touched anything
)

// operation is one write to the medium, of whatever kind.
type operation struct {
	call, end int64 // instants: sent; answered, or fenced. linear.Forever until then
	lu        *lun
	lba       uint64
	blocks    uint32
	state     outcome
	fua       bool    // durable when good
	tag       uint16  // the application tag of its blocks
	tainted   bool    // its protection information is wrong: it is to be refused
	atomic    bool    // others see all of it or nothing
	ordered   bool    // it has the unit to itself
	or        bool    // it merges its value into what is there
	copied    *copied // EXTENDED COPY
	wipe      bool    // SANITIZE, FORMAT UNIT: reservations do not keep it out once it has begun
	durable   bool    // made so by a flush before a failed one
	inside    int     // writes of it in the block layer
	who       *initiator
	nexus     uint8 // of who
	val       value
	vague     bool // it was open when its medium was replaced: whatever its answer, it may have had no effect
	itt       uint32
}

// kind is what o does with a block.
func (o *operation) kind() linear.Kind {
	if o.or {
		return linear.Or
	}
	return linear.Write
}

// book is the ledger of all writes of a run.
type book struct {
	s   *run
	ops []operation
}

func (b *book) reset(s *run) {
	b.s = s
	b.ops = append(b.ops[:0], operation{state: without}) // number 0 names nothing
}

// write opens an operation and returns its number.
func (b *book) write(o operation) int {
	o.call, o.end = b.s.now(), linear.Forever
	b.ops = append(b.ops, o)
	return len(b.ops) - 1
}

// enter and leave are the probe's: a write of operation n is in the block layer.
func (b *book) enter(n int) {
	if n >= len(b.ops) {
		b.s.fail("stale write", "a write of a value that no initiator has written reached the medium: %d", n)
		return
	}
	o := &b.ops[n]
	if o.end != linear.Forever {
		b.s.fail("stale write", "write %d (task %#x of initiator %d, LUN %d block %d) reached the medium after it was over (%s)",
			n, o.itt, o.who.id, o.lu.id, o.lba, o.state)
	}
	if o.tainted {
		b.s.fail("protection", "write %d (task %#x of initiator %d, LUN %d block %d) reached the medium with wrong protection information",
			n, o.itt, o.who.id, o.lu.id, o.lba)
	}
	if o.lu.fences != 0 && o.lu.fenced[o.nexus] && !o.wipe {
		b.s.fail("fence", "write %d (task %#x of initiator %d, LUN %d block %d) reached the medium after its nexus %d was preempted",
			n, o.itt, o.who.id, o.lu.id, o.lba, o.nexus)
	}
	o.inside++
}

func (b *book) leave(n int) {
	if n < len(b.ops) {
		b.ops[n].inside--
	}
}

func (o outcome) String() string {
	return [...]string{"pending", "good", "unsure", "without effect"}[o]
}

// over ends operation n.
func (b *book) over(n int, st outcome, why string) {
	if n == 0 {
		return
	}
	o := &b.ops[n]
	if o.end != linear.Forever {
		return
	}
	o.end, o.state = b.s.now(), st
	if o.vague && st == good {
		o.state = unsure
	}
	if o.copied != nil && st == without && o.copied.begun() {
		b.s.fail("copy", "%s: write %d (task %#x of initiator %d) was made all the same", why, n, o.itt, o.who.id)
	}
	if o.inside > 0 {
		b.s.fail("answered early", "%s: write %d (task %#x of initiator %d, LUN %d block %d) is still in the block layer",
			why, n, o.itt, o.who.id, o.lu.id, o.lba)
	}
}

// entry is an operation's part in one block.
type entry struct {
	op   int32 // of writes
	call int64 // of reads
	end  int64
	val  value
	old  value
	kind linear.Kind
}

// writes tells whether e may change the block.
func (e *entry) writes() bool {
	return e.kind == linear.Write || e.kind == linear.Swap || e.kind == linear.Or
}

// cell is one block of a logical unit.
type cell struct {
	initial value
	raw     []byte // content in place of initial: parts of several writes
	log     []entry
}

// medium is what is known of a logical unit's blocks since the target started.
type medium struct {
	cells   []cell
	flushed int64 // the latest call of a flush that was answered well
	born    int64 // instant from which on it is another medium
	sync    int64 // instant of the last failed sync of the disk
	scratch []byte
	want    []byte
	part    []byte
	ops     []linear.Op
}

// begin starts a medium whose content is that of the device.
func (m *medium) begin(s *run, lu *lun) {
	if m.cells == nil {
		m.cells = make([]cell, lu.area)
		m.scratch, m.want, m.part = make([]byte, lu.blockSize), make([]byte, lu.blockSize), make([]byte, lu.blockSize)
	}
	if lu.kind == kindRAM {
		for i := range m.cells {
			m.cells[i].initial, m.cells[i].raw, m.cells[i].log = 0, nil, m.cells[i].log[:0]
		}
	}
}

// fate of a write in a cell: nil op is what the cell began with.
func (s *run) times(e *entry) (call, end int64, st outcome) {
	o := &s.book.ops[e.op]
	return o.call, o.end, o.state
}

// superseded is the instant before which writes must have ended to be
// overwritten for certain when a read begins at call: the latest call of a
// write that was over and good by then.
func (s *run) superseded(c *cell, call int64, durable bool, lu *lun) int64 {
	last := int64(-1)
	for i := range c.log {
		e := &c.log[i]
		if e.kind != linear.Write && e.kind != linear.Swap || e.val == valueUnread {
			continue
		}
		o := &s.book.ops[e.op]
		if o.state == good && o.end < call && (!durable || lu.isDurable(o)) {
			last = max(last, o.call)
		}
	}
	return last
}

// isDurable tells whether a good write must survive the loss of power.
func (m *medium) isDurable(o *operation) bool {
	if o.durable {
		return true
	}
	if o.fua && (o.end < m.sync || o.call > m.sync) {
		return true
	}
	return o.end < m.flushed && o.call > m.sync
}

// syncFailed is a failed sync of the disk: what earlier ones have not made
// durable, later ones need not.
func (s *run) syncFailed(lu *lun) {
	for i := range s.book.ops {
		if o := &s.book.ops[i]; o.lu == lu && o.state == good && lu.isDurable(o) {
			o.durable = true
		}
	}
	lu.sync, lu.flushed = s.now(), 0
}

// candidates calls f for each value that a cell may have for a reader between
// call and end; f tells whether to go on.
func (s *run) candidates(c *cell, call int64, durable bool, lu *lun, f func(v value, raw []byte) bool) {
	floor := s.superseded(c, call, durable, lu)
	if floor < 0 && !f(c.initial, c.raw) {
		return
	}
	for i := range c.log {
		e := &c.log[i]
		if !e.writes() || e.val == valueUnread {
			continue
		}
		if o := &s.book.ops[e.op]; o.state != without && o.end >= floor && !f(e.val, nil) {
			return
		}
	}
}

// look finds what a reader between call and now saw in block lba. ok is false
// when it is parts of several writes, each of which may be there.
func (s *run) look(lu *lun, lba uint64, b []byte, call int64, durable bool) (v value, ok bool) {
	c := &lu.cells[lba]
	v, pure := readValue(b, lba)
	if pure {
		hit := false
		s.candidates(c, call, durable, lu, func(w value, raw []byte) bool {
			hit = raw == nil && w == v
			return !hit
		})
		if hit {
			return v, true
		}
	}
	if k, ok := s.blobOf[string(b)]; ok {
		v, hit := value(blobMark<<48|uint64(k)), false
		s.candidates(c, call, durable, lu, func(w value, raw []byte) bool {
			hit = raw == nil && w == v
			return !hit
		})
		if hit {
			return v, true
		}
	}
	if c.merges() {
		if v, ok := s.decode(lu, c, lba, b, call, durable); ok {
			s.count(Merges)
			return v, true
		}
	}
	if !s.mixed(lu, c, lba, b, call, durable) {
		s.wrong(lu, lba, b, v, pure, call, durable)
		return v, false
	}
	s.count(MixedBlocks)
	return v, false
}

// mixed tells whether each byte of b is that of a write that may be there, or
// one with what may have been merged into it.
func (s *run) mixed(lu *lun, c *cell, lba uint64, b []byte, call int64, durable bool) bool {
	left := len(b)
	seen, union := make([]bool, len(b)), make([]byte, len(b))
	parts, merges := 0, c.merges()
	s.candidates(c, call, durable, lu, func(w value, raw []byte) bool {
		parts++
		if raw == nil {
			raw = lu.want
			s.fill(w, raw, lba)
		}
		for i := range b {
			union[i] |= raw[i]
			if !seen[i] && (b[i] == raw[i] || merges && raw[i]&^b[i] == 0) {
				seen[i] = true
				left--
			}
		}
		return left > 0 || merges
	})
	if merges && !contains(union, b) {
		return false
	}
	if lu.kind != kindFile && parts > 1 {
		return false // memory is copied in one piece
	}
	return left == 0
}

// wrong reports a block that nobody can have left there.
func (s *run) wrong(lu *lun, lba uint64, b []byte, v value, pure bool, call int64, durable bool) {
	what := "linearizability"
	if durable {
		what = "durability"
	}
	text := fmt.Sprintf("LUN %d (%v) block %d holds % x", lu.id, lu.kind, lba, b[:16])
	if allBytes(b, 0xCC) {
		what, text = "stale byte", text+": memory that was given back"
	} else if v.known() && v.number() < len(s.book.ops) {
		o := &s.book.ops[v.number()]
		text += fmt.Sprintf(": write %d of initiator %d (task %#x, block %d+%d, whole %v, %v, instants %d to %d)",
			v.number(), o.who.id, o.itt, o.lba, o.blocks, pure, o.state, o.call, short(o.end))
	}
	text += fmt.Sprintf("; looked since instant %d; it may be", call)
	s.candidates(&lu.cells[lba], call, durable, lu, func(w value, raw []byte) bool {
		text += fmt.Sprintf(" %d", w&valueNumber)
		return true
	})
	s.fail(what, "%s", text)
}

func short(at int64) int64 {
	if at == linear.Forever {
		return math.MaxInt32
	}
	return at
}

func allBytes(b []byte, v byte) bool {
	for _, x := range b {
		if x != v {
			return false
		}
	}
	return true
}

// close ends the epoch: every block's history is checked whole, with what the
// medium holds now as a last read, and is what the next epoch begins with.
func (b *book) close(power bool) {
	for _, lu := range b.s.luns {
		if lu.kind != kindNull && lu.cells != nil && !b.s.failed() {
			b.closeMedium(lu, power)
		}
	}
	for i := range b.ops {
		o := &b.ops[i]
		if o.inside = 0; o.end == linear.Forever {
			o.end = b.s.now()
		}
	}
}

func (b *book) closeMedium(lu *lun, power bool) {
	s := b.s
	lost := power && lu.kind == kindFile
	for lba := range lu.cells {
		c := &lu.cells[lba]
		if len(c.log) == 0 && !lost {
			continue
		}
		buf := lu.scratch
		lu.readMedium(buf, uint64(lba))
		at := s.now()
		v, ok := s.look(lu, uint64(lba), buf, at, lost)
		if s.failed() {
			return
		}
		if lu.shielded {
			s.shields(lu, uint64(lba), buf, lu.ram.TupleAt(uint64(lba)), v, ok)
		}
		if lost && ok {
			if n := s.lostMerge(lu, c, v); n != 0 {
				s.fail("durability", "LUN %d (%v) block %d lacks ORWRITE %d: %s", lu.id, lu.kind, lba, n, s.describe(c))
				return
			}
		}
		if !s.m.linear.Check(s.history(lu, c, v, ok && !lost, at)) {
			s.fail("linearizability", "LUN %d (%v) block %d: no order of its writes explains its reads, and %#x at the end (%v): %s", lu.id, lu.kind, lba, uint64(v), ok, s.describe(c))
			return
		}
		c.log, c.initial, c.raw = c.log[:0], v, nil
		if !ok {
			c.raw = append([]byte(nil), buf...)
		}
	}
	if power {
		lu.flushed, lu.sync = 0, 0
	}
}

// readMedium reads a block past the target.
func (lu *lun) readMedium(b []byte, lba uint64) {
	off := int64(lba) * int64(lu.blockSize)
	if lu.kind == kindFile {
		lu.disk.ReadAt(b, off)
		return
	}
	lu.ram.ReadAt(b, off)
}

// rawMark is the value of a cell that began with parts of several writes.
const rawMark = 1

// history is c's as the checker wants it, with a last read at.
func (s *run) history(lu *lun, c *cell, v value, read bool, at int64) (uint64, []linear.Op) {
	ops := lu.ops[:0]
	blurred := false
	for i := range c.log {
		e := &c.log[i]
		o := linear.Op{Call: e.call, End: e.end, Value: uint64(e.val), Old: uint64(e.old), Kind: e.kind}
		if e.writes() {
			w := &s.book.ops[e.op]
			if w.state == without || e.val == valueUnread {
				continue
			}
			o.Call, o.End = w.call, w.end
			if o.Maybe = w.state != good; o.Maybe {
				if blurred = true; o.Kind == linear.Swap {
					o.Kind = linear.Write
				}
			}
		}
		ops = append(ops, o)
	}
	if blurred {
		// A block that may be parts of several writes differs from all of them.
		k := 0
		for _, o := range ops {
			if o.Kind != linear.Differs {
				ops[k] = o
				k++
			}
		}
		ops = ops[:k]
	}
	if read {
		ops = append(ops, linear.Op{Call: at, End: at + 1, Value: uint64(v)})
		s.tick++
	}
	lu.ops = ops
	initial := uint64(c.initial)
	if c.raw != nil {
		initial = rawMark
	}
	return initial, ops
}

// describe prints a cell's history.
func (s *run) describe(c *cell) string {
	text := fmt.Sprintf("began with %d;", c.initial&valueNumber)
	for i := range c.log {
		e := &c.log[i]
		call, end, st := e.call, e.end, outcome(good)
		if e.writes() {
			call, end, st = s.times(e)
		}
		text += fmt.Sprintf(" %s %#x (%d..%d %v)", [...]string{"read", "write", "swap", "differs", "or"}[e.kind], uint64(e.val), call, short(end), st)
	}
	return text
}
