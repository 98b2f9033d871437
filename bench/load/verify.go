package load

import (
	"encoding/binary"
	"fmt"

	"spindle/iscsi/pdu"
)

// A verified unit is one block of the chosen size. Each 512 bytes of it carry a
// stamp that says where and by which write they were written:
//
//	0 offset in the LUN, 8 number of the write, 12 CRC32C of the rest, 16 ... fill
//
// No two commands touch one unit at a time, so what a read must return is known.
const (
	sector       = 512
	stampCRC     = 12
	stampLen     = 16
	maxUnits     = 1 << 28
	maxNeighbour = 64
)

// verifier knows what was written. All of it belongs to the loading thread.
type verifier struct {
	writes  []uint32 // of each unit: the number of its last write that was answered
	busy    []bool
	size    uint32 // of a unit
	last    uint32 // number of the latest write
	cursor  uint64 // of the pass at the end
	checked uint64
	skipped uint64 // reads of units that this run had not written
}

func newVerifier(units uint64, size uint32) (*verifier, error) {
	if units > maxUnits {
		return nil, badOption("--verify remembers %d units at most, not %d: choose a smaller --size", maxUnits, units)
	}
	return &verifier{writes: make([]uint32, units), busy: make([]bool, units), size: size}, nil
}

// take makes unit, or one soon after it, the slot's; false when all are in use.
//
//spindle:hot
func (v *verifier) take(s *slot, unit uint64) bool {
	n := uint64(len(v.busy))
	for i := range min(n, maxNeighbour) {
		u := (unit + i) % n
		if v.busy[u] {
			continue
		}
		v.busy[u] = true
		s.unit = uint32(u)
		return true
	}
	return false
}

// next makes the next unit that was written the slot's, for the pass at the end.
func (v *verifier) next(s *slot) bool {
	for ; v.cursor < uint64(len(v.writes)); v.cursor++ {
		if u := v.cursor; v.writes[u] != 0 && !v.busy[u] {
			v.busy[u] = true
			s.unit = uint32(u)
			v.cursor++
			return true
		}
	}
	return false
}

// stamp fills what the slot writes.
func (v *verifier) stamp(s *slot) {
	v.last++
	b := s.data.Bytes()
	le := binary.LittleEndian
	for off := uint32(0); off < s.size; off += sector {
		p := b[off : off+sector]
		at := uint64(s.unit)*uint64(v.size) + uint64(off)
		le.PutUint64(p, at)
		le.PutUint32(p[8:], v.last)
		fill := at*2685821657736338717 + uint64(v.last)
		for i := stampLen; i < sector; i += 8 {
			le.PutUint64(p[i:], fill)
		}
		le.PutUint32(p[stampCRC:], stampSum(p))
	}
}

// wipe spoils what the slot reads into: what was there before is not taken for
// what comes.
//
//spindle:hot
func (v *verifier) wipe(s *slot) {
	b := s.data.Bytes()
	for off := uint32(0); off < s.size; off += sector {
		clear(b[off : off+stampLen])
	}
}

func stampSum(p []byte) uint32 {
	return pdu.UpdateDigest(pdu.Digest(p[:stampCRC]), p[stampLen:])
}

// finished takes a command that ended well.
func (v *verifier) finished(s *slot) error {
	v.busy[s.unit] = false
	want := v.writes[s.unit]
	b := s.data.Bytes()[:s.size]
	if s.write {
		v.writes[s.unit] = binary.LittleEndian.Uint32(b[8:])
		return nil
	}
	if want == 0 {
		v.skipped++
		return nil
	}
	v.checked++
	for off := uint32(0); off < s.size; off += sector {
		p := b[off : off+sector]
		at, number := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[8:])
		wantAt := uint64(s.unit)*uint64(v.size) + uint64(off)
		if at == wantAt && number == want && binary.LittleEndian.Uint32(p[stampCRC:]) == stampSum(p) {
			continue
		}
		return fmt.Errorf("%w: verify: byte %d of the LUN should have write %d: found offset %d, write %d, checksum right: %v",
			ErrTarget, wantAt, want, at, number, binary.LittleEndian.Uint32(p[stampCRC:]) == stampSum(p))
	}
	return nil
}
