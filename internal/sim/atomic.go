package sim

import "slices"

// untorn checks what one READ saw of commands that are atomic for others, which
// COMPARE AND WRITE (SBC-4 §5.3) and WRITE ATOMIC (§5.46) are: when it saw one in
// a block, then no other block of it held what was certainly older.
func (in *initiator) untorn(t *task, lu *lun, seen []value) {
	s := in.s
	for i, v := range seen {
		for _, m := range s.members(v) {
			if o := s.atomicOf(lu, m); o != nil {
				in.whole(t, lu, o, t.lba+uint64(i), seen)
			}
		}
	}
}

// whole checks that a READ which saw o in one block saw nothing older in another.
func (in *initiator) whole(t *task, lu *lun, o *operation, at uint64, seen []value) {
	s := in.s
	for k, w := range seen {
		lba, list := t.lba+uint64(k), s.members(w)
		if len(list) == 0 || lba < o.lba || lba >= o.lba+uint64(o.blocks) || slices.Contains(list, o.val) {
			continue
		}
		s.count(AtomicsCompared)
		older := func(v value) bool {
			if !v.known() {
				return false // copied from who knows when
			}
			p := &s.book.ops[v.number()]
			return p.end < o.call && !p.vague
		}
		if !slices.ContainsFunc(list, func(v value) bool { return !older(v) }) {
			in.bad("atomicity", "LUN %d: task %#x read block %d of write %d (task %#x of initiator %d, instant %d), and block %d from before it: write %d",
				lu.id, t.itt, at, o.val.number(), o.itt, o.who.id, o.call, lba, list[0].number())
			return
		}
	}
}

// atomicOf is the atomic command that left v, if it has done so whole: a failed
// one may have written a part, and so may one that lost its power.
func (s *run) atomicOf(lu *lun, v value) *operation {
	if !v.known() || v.number() >= len(s.book.ops) {
		return nil
	}
	o := &s.book.ops[v.number()]
	if !o.atomic || o.lu != lu || o.blocks < 2 || o.call < s.started || o.call < lu.born {
		return nil
	}
	if o.state == good || o.state == pending && lu.kind == kindRAM {
		return o
	}
	return nil
}

// writeAtomic makes WRITE ATOMIC (16).
func (in *initiator) writeAtomic(lba uint64, n uint32) (c cdb) {
	c.b[0] = 0x9c
	be.PutUint64(c.b[2:], lba)
	be.PutUint16(c.b[12:], uint16(n))
	return c
}

// unmapList makes the parameter list of UNMAP: a range, and now and then a second.
func (in *initiator) unmapList(t *task, lu *lun) {
	t.lba, t.blocks = in.place(lu)
	t.data = append(grow(t.data, 0), make([]byte, 8)...)
	add := func(lba uint64, n uint32) {
		t.data = be.AppendUint64(t.data, lba)
		t.data = be.AppendUint32(t.data, n)
		t.data = be.AppendUint32(t.data, 0)
	}
	add(t.lba, t.blocks)
	in.openZero(t, operation{lu: lu, lba: t.lba, blocks: t.blocks})
	if in.rng.IntN(2) == 0 {
		lba, n := in.place(lu)
		add(lba, n)
		first := t.op
		in.openZero(t, operation{lu: lu, lba: lba, blocks: n})
		t.op, t.also = first, t.op
	}
	be.PutUint16(t.data, uint16(len(t.data)-2))
	be.PutUint16(t.data[2:], uint16(len(t.data)-8))
	t.want = uint32(len(t.data))
	t.edtl = t.want
}
