package sim

import (
	"bytes"
	"slices"

	"spindle/bdev"
	"spindle/internal/sim/linear"
)

// orWrite makes ORWRITE (16): what is there, or-ed with a value of its own
// (SBC-4 §5.17).
func (in *initiator) orWrite(t *task, lu *lun) cdb {
	r := in.rng
	t.class, t.write, t.access = classOr, true, accessWrite
	t.lba, t.blocks = in.place(lu)
	t.want = t.blocks * lu.blockSize
	t.edtl = t.want
	o := operation{lu: lu, lba: t.lba, blocks: t.blocks, atomic: true, or: true, fua: r.IntN(2) == 0}
	v := in.open(t, o, 0)
	t.data = grow(t.data, int(t.want))
	for i := range t.blocks {
		v.fill(t.data[i*lu.blockSize:][:lu.blockSize], t.lba+uint64(i))
	}
	return cdb16(0x8b, byte(b2i(o.fua))<<3, t.lba, t.blocks)
}

// or is the value of a block of value a that b was merged into. It is b alone
// where a is 0, and no value where a is none.
func (s *run) or(a, b value) value {
	if a == rawMark || b == rawMark {
		return rawMark
	}
	return s.merge(append(append([]value(nil), s.members(a)...), s.members(b)...))
}

// merge is the value of all the values of a set. A copied block that has all bits
// of another, because ORWRITE came between the two copies, hides that one: with
// and without it they are one value.
func (s *run) merge(set []value) value {
	slices.Sort(set)
	set = slices.Compact(set)
	all := set
	set = slices.DeleteFunc(slices.Clone(all), func(v value) bool {
		return v>>48 == blobMark && slices.ContainsFunc(all, func(w value) bool {
			return w != v && w>>48 == blobMark && contains(s.blobs[w.number()], s.blobs[v.number()])
		})
	})
	switch len(set) {
	case 0:
		return 0
	case 1:
		return set[0]
	}
	for i, m := range s.merged {
		if slices.Equal(m, set) {
			return value(mergedMark<<48 | uint64(i))
		}
	}
	s.merged = append(s.merged, slices.Clone(set))
	return value(mergedMark<<48 | uint64(len(s.merged)-1))
}

// members are the values that v was merged from, itself when it was not.
func (s *run) members(v value) []value {
	switch {
	case v == 0:
		return nil
	case v>>48 == mergedMark:
		return s.merged[v.number()]
	}
	return []value{v}
}

// fill writes the block that v leaves at lba, whatever it was made from.
func (s *run) fill(v value, b []byte, lba uint64) {
	switch v >> 48 {
	default:
		v.fill(b, lba)
		return
	case blobMark:
		copy(b, s.blobs[v.number()])
		return
	case mergedMark:
	}
	clear(b)
	part := make([]byte, len(b))
	for _, m := range s.merged[v.number()] {
		s.fill(m, part, lba)
		for i := range b {
			b[i] |= part[i]
		}
	}
}

// maxMembers bounds the values that a block may tell: the more there are, the
// fewer of its bits are zero, and the more it seems to contain.
const maxMembers = 8

// decode finds the values that were merged into block b. False: there is no
// set of those that may be there which makes it.
func (s *run) decode(lu *lun, c *cell, lba uint64, b []byte, call int64, durable bool) (value, bool) {
	var set []value
	s.candidates(c, call, durable, lu, func(w value, raw []byte) bool {
		if raw == nil {
			for _, m := range s.members(w) {
				s.fill(m, lu.want, lba)
				if contains(b, lu.want) {
					set = append(set, m)
				}
			}
		}
		return true
	})
	v := s.merge(set)
	if s.fill(v, lu.want, lba); len(s.members(v)) > maxMembers || !bytes.Equal(lu.want, b) {
		return 0, false
	}
	return v, true
}

// contains tells whether every bit of part is in b.
func contains(b, part []byte) bool {
	for i, x := range part {
		if x&^b[i] != 0 {
			return false
		}
	}
	return true
}

// merges tells whether c may hold a value that was merged from others.
func (c *cell) merges() bool {
	return c.initial>>48 == mergedMark || slices.ContainsFunc(c.log, func(e entry) bool { return e.kind == linear.Or })
}

// lostMerge is an ORWRITE that was durable and is not in v, which block c holds
// after a loss of power, although nothing written since can have replaced it; 0
// is none.
func (s *run) lostMerge(lu *lun, c *cell, v value) int {
	list := s.members(v)
	base := slices.DeleteFunc(slices.Clone(list), func(m value) bool { return m>>48 == orMark })
	replaces := func(e entry) bool {
		if !e.writes() || e.kind == linear.Or || e.val == valueUnread {
			return false
		}
		return slices.Contains(base, e.val) || e.val == 0 && len(base) == 0
	}
	for i := range c.log {
		e := &c.log[i]
		o := &s.book.ops[e.op]
		if e.kind != linear.Or || o.state != good || !lu.isDurable(o) || slices.Contains(list, e.val) {
			continue
		}
		later := func(w entry) bool { return replaces(w) && s.book.ops[w.op].end >= o.call }
		if !slices.ContainsFunc(c.log, later) {
			return int(e.op)
		}
	}
	return 0
}

// merging is the ORWRITE that a write of merged blocks belongs to, 0 when there
// is none and open when there are several: it is the only one of its range that
// is not over and whose data is in it, or else the last one.
func (b *book) merging(lu *lun, io *bdev.IO) (n, open int) {
	first := io.Data.Bytes()[:lu.blockSize]
	for i := len(b.ops) - 1; i > 0; i-- {
		o := &b.ops[i]
		if !o.or || o.lu != lu || o.lba != io.LBA || o.blocks != io.Blocks || o.state != pending && n != 0 {
			continue
		}
		if o.val.fill(lu.part, io.LBA); !contains(first, lu.part) {
			continue
		}
		if o.state == pending {
			open++
		}
		n = i
	}
	return n, open
}
