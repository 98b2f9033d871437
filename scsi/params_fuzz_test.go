package scsi

import (
	"bytes"
	"testing"

	"spindle/bdev/bdevtest"
)

// FuzzUnmap sends any parameter list with any lengths. GOOD zeroes exactly the
// blocks of its descriptors, on a unit whose unmapped blocks read as zeroes; any
// other status changes nothing (SBC-4 §5.35).
func FuzzUnmap(f *testing.F) {
	list := func(d ...byte) []byte { return append([]byte{0, byte(6 + len(d)), 0, byte(len(d)), 0, 0, 0, 0}, d...) }
	one := func(lba uint64, n uint32) []byte {
		b := make([]byte, 16)
		be.PutUint64(b, lba)
		be.PutUint32(b[8:], n)
		return b
	}
	f.Add(list(), uint16(8))
	f.Add(list(one(3, 5)...), uint16(24))
	f.Add(list(append(one(0, 1), one(1, 1)...)...), uint16(40))
	f.Add(list(one(0, 64)...), uint16(24))
	f.Add(list(one(64, 0)...), uint16(24))
	f.Add(list(one(63, 2)...), uint16(24))
	f.Add(list(one(1<<64-1, 1)...), uint16(24)) // LBA and count wrap
	f.Add(list(one(1<<64-1, 1<<32-1)...), uint16(24))
	f.Add(list(append(one(5, 1), one(1<<63, 1)...)...), uint16(40))
	f.Add(list(one(3, 5)...)[:20], uint16(20)) // a descriptor cut in two
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, uint16(8))
	rig := bdevtest.NewRig(f, 1, nil)
	f.Fuzz(func(t *testing.T, out []byte, declared uint16) {
		if len(out) > 1024 {
			return
		}
		d, s := fuzzDisk(t, rig)
		want := bytes.Clone(d.data)
		c := cdb("42")
		be.PutUint16(c[7:], declared)
		q := s.do(0, c, out, 0)
		checkOutcome(t, q)
		if q.Status == Good {
			n := min(int(declared), len(out))
			if n >= 8 {
				end := min(8+int(be.Uint16(out[2:])), n)
				for at := 8; at+16 <= end; at += 16 {
					if n := uint64(be.Uint32(out[at+8:])); n != 0 {
						zero(want, 512, be.Uint64(out[at:]), n)
					}
				}
			}
		}
		same(t, q, want, d.data)
	})
}

// FuzzWriteSame sends WRITE SAME (10) or (16) with any CDB and any data. GOOD
// leaves the block, or zeroes with NDOB, in exactly the blocks named, any other
// status changes nothing (SBC-4 §5.44, §5.45).
func FuzzWriteSame(f *testing.F) {
	block := fill(0x5a, 512)
	for _, c := range []string{
		"41 00 00000003 00 0004 00", "41 08 00000003 00 0004 00", "41 00 00000000 00 0000 00", "41 00 0000003f 00 0002 00",
		"93 00 0000000000000003 00000004 00 00", "93 01 0000000000000003 00000004 00 00", "93 09 0000000000000000 00000000 00 00",
		"93 00 ffffffffffffffff 00000001 00 00", "93 01 ffffffffffffffff 00000002 00 00", "93 01 0000000000000001 ffffffff 00 00",
		"93 04 0000000000000003 00000004 00 00", "93 02 0000000000000003 00000004 00 00",
	} {
		f.Add(cdb(c), block)
		f.Add(cdb(c), []byte(nil))
		f.Add(cdb(c), block[:256])
		f.Add(cdb(c), fill(1, 1024))
	}
	rig := bdevtest.NewRig(f, 1, nil)
	f.Fuzz(func(t *testing.T, c, out []byte) {
		if len(c) != 16 || len(out) > 1024 || c[0] != 0x41 && c[0] != 0x93 {
			return
		}
		d, s := fuzzDisk(t, rig)
		want := bytes.Clone(d.data)
		q := s.do(0, c, append([]byte(nil), out...), 0)
		checkOutcome(t, q)
		if q.Status == Good {
			lba, n := uint64(be.Uint32(c[2:])), uint64(be.Uint16(c[7:]))
			if c[0] == 0x93 {
				lba, n = be.Uint64(c[2:]), uint64(be.Uint32(c[10:]))
			}
			if n == 0 {
				n = uint64(len(want)/512) - lba
			}
			zero(want, 512, lba, n)
			if len(out) > 0 && c[1]&1 == 0 && c[1]&8 == 0 {
				for i := range n {
					copy(want[(lba+i)*512:(lba+i+1)*512], make([]byte, 512))
					copy(want[(lba+i)*512:(lba+i+1)*512], out)
				}
			}
		}
		same(t, q, want, d.data)
	})
}

// FuzzModeSelect sends any parameter list. MODE SENSE afterwards tells pages
// that are well formed and of the same lengths; with a status other than GOOD
// it tells the same as before; what is not changeable never changes (SPC-5
// §6.11).
func FuzzModeSelect(f *testing.F) {
	caching := append([]byte{0x08, 0x12, 0x04}, make([]byte, 17)...)
	control := append([]byte{0x0a, 0x0a, 0x04}, make([]byte, 9)...)
	for _, page := range [][]byte{caching, control, {0x08, 0x12}, {0x48, 0, 0, 0}, {0x3f, 0xff}, nil} {
		f.Add(byte(0x10), append(make([]byte, 4), page...), false)
		f.Add(byte(0x11), append(make([]byte, 8), page...), true)
		f.Add(byte(0x10), append([]byte{0, 0, 0, 8, 0, 0, 0, 64, 0, 0, 2, 0}, page...), false)
		f.Add(byte(0x00), append([]byte{0, 0, 0, 0xff}, page...), false)
	}
	rig := bdevtest.NewRig(f, 1, nil)
	f.Fuzz(func(t *testing.T, flags byte, out []byte, ten bool) {
		if len(out) > 255 {
			return
		}
		d, s := fuzzDisk(t, rig)
		medium := bytes.Clone(d.data)
		c := cdb("15")
		c[4] = byte(len(out))
		if ten {
			c = cdb("55")
			c[8] = byte(len(out))
		}
		c[1] = flags
		sense := func(pc string) []byte { return s.in(0, cdb("1a 08 "+pc+" 00 ff 00"), 255) }
		before, mask := sense("3f"), sense("7f")
		q := s.do(0, c, out, 0)
		checkOutcome(t, q)
		s.do(0, cdb("00"), nil, 0) // takes the unit attention of a change
		after := sense("3f")
		if q.Status != Good && !bytes.Equal(before, after) {
			t.Errorf("%s changed\n% x to\n% x", q.outcome(), before, after)
		}
		if len(after) != len(before) || len(mask) != len(before) || int(after[0]) != len(after)-1 {
			t.Fatalf("% x after % x", after, before)
		}
		for at := 4; at < len(after); {
			page := 2 + int(after[at+1])
			if at+page > len(after) {
				t.Fatalf("page %#x runs over the end: % x", after[at], after)
			}
			for i := at + 2; i < at+page; i++ {
				if (after[i]^before[i])&^mask[i] != 0 {
					t.Errorf("byte %d is not changeable by %#x and went from %#x to %#x", i, mask[i], before[i], after[i])
				}
			}
			at += page
		}
		same(t, q, medium, d.data)
	})
}

// FuzzPersistentOut sends any parameter list to any service action. The keys and
// the holder that PERSISTENT RESERVE IN tells afterwards are well formed, and no
// status but GOOD changes them (SPC-5 §6.15, §6.16).
func FuzzPersistentOut(f *testing.F) {
	list := append(append(make([]byte, 8), 0, 0, 0, 0, 0, 0, 0, 0xaa), make([]byte, 8)...)
	for sa := range byte(9) {
		f.Add(sa, byte(1), list)
		f.Add(sa, byte(0), append(bytes.Clone(list[8:16]), list[:16]...))
	}
	spec := append(bytes.Clone(list), 0, 0, 0, 8, 0x45, 0, 0, 4, 'i', 'q', 'n', '.')
	spec[20] = 8                                                       // SPEC_I_PT
	f.Add(byte(0), byte(0), spec)                                      // a TransportID without its end
	f.Add(byte(0), byte(0), append(spec[:24], 0xff, 0xff, 0xff, 0xff)) // an additional length beyond it
	f.Add(byte(7), byte(1), append(bytes.Clone(list), 0xff, 0xff, 0xff, 0xff))
	rig := bdevtest.NewRig(f, 1, nil)
	f.Fuzz(func(t *testing.T, sa, kind byte, out []byte) {
		if len(out) > 512 {
			return
		}
		_, s := fuzzDisk(t, rig)
		tell := func() []byte {
			return append(s.in(0, cdb("5e 00 0000000000 0100"), 256), s.in(0, cdb("5e 01 0000000000 0100"), 256)...)
		}
		for range 2 { // the second time with what the first left
			before := tell()
			c := cdb("5f")
			c[1], c[2] = sa&0x1f, kind
			be.PutUint32(c[5:], uint32(len(out)))
			q := s.do(0, c, out, 0)
			checkOutcome(t, q)
			after := tell()
			if keys := be.Uint32(after[4:]); keys%8 != 0 || keys > 8 {
				t.Fatalf("%d bytes of keys of one nexus", keys)
			}
			if q.Status != Good && !bytes.Equal(before, after) {
				t.Errorf("%s changed\n% x to\n% x", q.outcome(), before, after)
			}
		}
	})
}

// fuzzDisk is a thin unit of 64 blocks with content, and a nexus.
func fuzzDisk(t *testing.T, rig *bdevtest.Rig) (*disk, *session) {
	mine := *rig
	mine.T = t
	g := benchOn(&mine)
	d := newDisk(512, 64, allCaps)
	d.keep = false
	for i := range d.data {
		d.data[i] = byte(i>>9) | 0x80
	}
	g.add(0, d, LUNOptions{})
	return d, g.ready("a", 0)
}

// zero clears n blocks of b.
func zero(b []byte, size, lba, n uint64) {
	clear(b[lba*size : (lba+n)*size])
}

// same fails unless the medium is what it should be.
func same(t *testing.T, q *request, want, got []byte) {
	t.Helper()
	for i := range want {
		if want[i] != got[i] {
			t.Fatalf("% x (%s): byte %d of block %d is %#x, want %#x", q.CDB[:16], q.outcome(), i%512, i/512, got[i], want[i])
		}
	}
}
