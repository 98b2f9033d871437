package scsi

import (
	"bytes"
	"testing"

	"spindle/bdev"
)

const allCaps = bdev.CapUnmap | bdev.CapWriteZeroes | bdev.CapFlush | bdev.CapFUA

// TestOutcome runs one command each against a fresh 1000-block disk whose
// block n is filled with byte n.
func TestOutcome(t *testing.T) {
	blk := func(n int, b byte) []byte { return fill(b, 512*n) }
	tests := []struct {
		name string
		cdb  string
		out  []byte
		edtl uint32
		want string
	}{
		{"test unit ready", "00", nil, 0, "good"},
		{"naca", "00 00 00 00 00 04", nil, 0, "05/2400"},
		{"unknown opcode", "ff", nil, 0, "05/2000"},
		{"unknown service action", "9e 1f", nil, 0, "05/2400"},
		{"inquiry page without evpd", "12 00 80 00 ff", nil, 255, "05/2400"},
		{"inquiry unknown page", "12 01 99 00 ff", nil, 255, "05/2400"},
		{"inquiry cmddt", "12 02 00 00 ff", nil, 255, "05/2400"},
		{"report luns bad select", "a0 00 03 00 00 00 00 00 00 ff", nil, 255, "05/2400"},
		{"read capacity 10 lba without pmi", "25 00 00 00 00 01", nil, 8, "05/2400"},
		{"read6", "08 00 00 00 01", nil, 512, "good"},
		{"read6 zero is 256", "08 00 03 00 00", nil, 256 * 512, "05/2100"},
		{"read10", "28 00 00 00 00 00 00 00 01", nil, 512, "good"},
		{"read10 last", "28 00 00 00 03 e7 00 00 01", nil, 512, "good"},
		{"read10 beyond", "28 00 00 00 03 e7 00 00 02", nil, 1024, "05/2100"},
		{"read10 none at the end", "28 00 00 00 03 e8 00 00 00", nil, 0, "05/2100"},
		{"read10 rdprotect", "28 20 00 00 00 00 00 00 01", nil, 512, "05/2400"},
		{"read16 wraps", "88 00 ff ff ff ff ff ff ff ff 00 00 00 01", nil, 512, "05/2100"},
		{"read16 sum wraps", "88 00 ff ff ff ff ff ff ff ff ff ff ff ff", nil, 512, "05/2100"},
		{"write10", "2a 00 00 00 00 00 00 00 01", blk(1, 1), 0, "good"},
		{"write6", "0a 00 00 00 01", blk(1, 1), 0, "good"},
		{"write16 beyond", "8a 00 00 00 00 00 00 00 03 e7 00 00 00 02", blk(2, 1), 0, "05/2100"},
		{"write and verify 16", "8e 00 00 00 00 00 00 00 00 00 00 00 00 01", blk(1, 1), 0, "good"},
		{"stop", "1b", nil, 0, "good"},
		{"read capacity 16 lba without pmi", "9e 10 00 00 00 00 00 00 00 01 00 00 00 20", nil, 32, "05/2400"},
		{"write10 wrprotect", "2a 20 00 00 00 00 00 00 01", blk(1, 1), 0, "05/2400"},
		{"write10 half a block", "2a 00 00 00 00 00 00 00 01", fill(1, 200), 0, "05/0E03"},
		{"write10 fewer blocks", "2a 00 00 00 00 00 00 00 02", blk(1, 1), 0, "good"},
		{"write12 fua", "aa 08 00 00 00 00 00 00 00 01", blk(1, 1), 0, "good"},
		{"verify", "2f 00 00 00 00 05 00 00 02", nil, 0, "good"},
		{"verify equal", "2f 02 00 00 00 05 00 00 01", blk(1, 5), 0, "good"},
		{"verify differs", "2f 02 00 00 00 05 00 00 01", blk(1, 6), 0, "0E/1D00"},
		{"verify bytchk 2", "2f 04 00 00 00 05 00 00 01", blk(1, 5), 0, "05/2400"},
		{"verify one block for many", "8f 06 00 00 00 00 00 00 00 05 00 00 00 01", blk(1, 5), 0, "good"},
		{"verify one block differs", "8f 06 00 00 00 00 00 00 00 05 00 00 00 02", blk(1, 5), 0, "0E/1D00"},
		{"verify beyond", "2f 00 00 00 03 e8 00 00 00", nil, 0, "05/2100"},
		{"verify vrprotect", "2f 20 00 00 00 00 00 00 01", nil, 0, "05/2400"},
		{"write and verify", "2e 02 00 00 00 00 00 00 02", blk(2, 9), 0, "good"},
		{"write and verify 12 fewer", "ae 02 00 00 00 00 00 00 00 02", blk(1, 9), 0, "good"},
		{"write and verify bytchk 3", "2e 06 00 00 00 00 00 00 01", blk(1, 9), 0, "05/2400"},
		{"synchronize cache 10", "35 02", nil, 0, "good"},
		{"synchronize cache 16 beyond", "91 00 00 00 00 00 00 00 03 e8 00 00 00 01", nil, 0, "05/2100"},
		{"prefetch 10", "34 02 00 00 00 00 03 00 10", nil, 0, "good"},
		{"prefetch 16 beyond", "90 00 ff ff ff ff ff ff ff ff 00 00 00 01", nil, 0, "05/2100"},
		{"send diagnostic", "1d", nil, 0, "good"},
		{"default self-test", "1d 04", nil, 0, "good"},
		{"default self-test that may take the unit off line", "1d 07", nil, 0, "good"},
		{"page format without a page", "1d 10", nil, 0, "good"},
		{"default self-test with a code", "1d 24", nil, 0, "05/2400"},
		{"background short self-test", "1d 20", nil, 0, "05/2400"},
		{"abort of a self-test", "1d 80", nil, 0, "05/2400"},
		{"foreground extended self-test", "1d c0", nil, 0, "05/2400"},
		{"diagnostic page", "1d 10 00 00 04", fill(0, 4), 0, "05/2400"},
		{"long diagnostic page", "1d 10 00 01 00", fill(0, 256), 0, "05/2400"},
		{"vendor's diagnostic parameters", "1d 00 00 00 04", fill(0, 4), 0, "05/2400"},
		{"default self-test with parameters", "1d 04 00 00 04", fill(0, 4), 0, "05/2400"},
		{"start", "1b 00 00 00 01", nil, 0, "good"},
		{"eject", "1b 00 00 00 02", nil, 0, "05/2400"},
		{"mode sense saved", "1a 00 ff 00 ff", nil, 255, "05/3900"},
		{"mode sense unknown page", "1a 00 05 00 ff", nil, 255, "05/2400"},
		{"mode sense unknown subpage", "1a 00 0a 02 ff", nil, 255, "05/2400"},
		{"mode select save", "15 11 00 00 04", fill(0, 4), 0, "05/2400"},
		{"mode select without pf", "15 00 00 00 04", fill(0, 4), 0, "05/2400"},
		{"mode select short header", "15 10 00 00 02", fill(0, 2), 0, "05/1A00"},
		{"mode select not all sent", "15 10 00 00 08", fill(0, 4), 0, "05/0E03"},
		{"mode select nothing", "15 10 00 00 00", nil, 0, "good"},
		{"mode select header", "55 10 00 00 00 00 00 00 08", fill(0, 8), 0, "good"},
		{"mode select fixed bit", "15 10 00 00 10", append(fill(0, 4), cdb("0a 0a 00 20 00 00 00 00 ff ff 00 00")[:12]...), 0, "05/2600"},
		{"unmap anchor", "42 01 00 00 00 00 00 00 08", fill(0, 8), 0, "05/2400"},
		{"unmap nothing", "42 00 00 00 00 00 00 00 00", nil, 0, "good"},
		{"unmap header", "42 00 00 00 00 00 00 00 08", fill(0, 8), 0, "good"},
		{"unmap short", "42 00 00 00 00 00 00 00 07", fill(0, 7), 0, "05/1A00"},
		{"unmap one", "42 00 00 00 00 00 00 00 18", unmapList(0, 10), 0, "good"},
		{"unmap none at the end", "42 00 00 00 00 00 00 00 18", unmapList(1000, 0), 0, "good"},
		{"unmap beyond", "42 00 00 00 00 00 00 00 18", unmapList(999, 2), 0, "05/2100"},
		{"unmap wraps", "42 00 00 00 00 00 00 00 18", unmapList(^uint64(0), 2), 0, "05/2100"},
		{"write same 10", "41 00 00 00 00 00 00 00 10", blk(1, 7), 0, "good"},
		{"write same rest", "41 00 00 00 00 00 00 00 00", blk(1, 7), 0, "good"},
		{"write same beyond", "41 00 00 00 03 e9 00 00 00", blk(1, 7), 0, "05/2100"},
		{"write same two blocks sent", "41 00 00 00 00 00 00 00 01", blk(2, 7), 0, "05/0E03"},
		{"write same anchor", "93 10 00 00 00 00 00 00 00 00 00 00 00 01", blk(1, 0), 0, "05/2400"},
		{"write same anchor unmap", "93 18 00 00 00 00 00 00 00 00 00 00 00 01", blk(1, 0), 0, "05/2400"},
		{"write same no data", "93 01 00 00 00 00 00 00 00 00 00 00 00 01", nil, 0, "good"},
		{"write same 10 has no ndob", "41 01 00 00 00 00 00 00 01", nil, 0, "05/2400"},
		{"write same wrprotect", "41 20 00 00 00 00 00 00 01", blk(1, 7), 0, "05/2400"},
		{"compare and write", "89 00 00 00 00 00 00 00 00 05 00 00 00 01", append(blk(1, 5), blk(1, 6)...), 0, "good"},
		{"compare and write differs", "89 00 00 00 00 00 00 00 00 05 00 00 00 01", append(blk(1, 4), blk(1, 6)...), 0, "0E/1D00"},
		{"compare and write short", "89 00 00 00 00 00 00 00 00 05 00 00 00 01", blk(1, 5), 0, "05/0E03"},
		{"compare and write long", "89 00 00 00 00 00 00 00 00 05 00 00 00 01", blk(3, 5), 0, "05/0E03"},
		{"compare and write none", "89 00 00 00 00 00 00 00 00 05", nil, 0, "good"},
		{"compare and write beyond", "89 00 00 00 00 00 00 00 03 e8 00 00 00 01", blk(2, 5), 0, "05/2100"},
		{"orwrite", "8b 00 00 00 00 00 00 00 00 05 00 00 00 02", blk(2, 0xf0), 0, "good"},
		{"orwrite beyond", "8b 00 00 00 00 00 00 00 03 e8 00 00 00 01", blk(1, 0xf0), 0, "05/2100"},
		{"orwrite protect", "8b 20 00 00 00 00 00 00 00 05 00 00 00 01", blk(1, 0xf0), 0, "05/2400"},
		{"get lba status", "9e 12 00 00 00 00 00 00 00 01 00 00 00 18", nil, 24, "good"},
		{"get lba status beyond", "9e 12 00 00 00 00 00 00 03 e8 00 00 00 18", nil, 24, "05/2100"},
		{"report opcodes bad option", "a3 0c 04 00 00 00 00 00 ff ff", nil, 0xffff, "05/2400"},
		{"report opcodes one with service actions", "a3 0c 01 9e 00 10 00 00 ff ff", nil, 0xffff, "05/2400"},
		{"report opcodes service of one without", "a3 0c 02 28 00 00 00 00 ff ff", nil, 0xffff, "05/2400"},
		{"reserve 6", "16", nil, 0, "good"},
		{"release 10", "57", nil, 0, "good"},
		{"reserve third party", "16 10", nil, 0, "05/2400"},
		{"pr in unknown action", "5e 04 00 00 00 00 00 00 ff", nil, 255, "05/2400"},
		{"pr out list length", "5f 00 00 00 00 00 00 00 10", fill(0, 16), 0, "05/1A00"},
		{"pr out type", "5f 01 02 00 00 00 00 00 18", fill(0, 24), 0, "05/2400"},
		{"pr out reserve unregistered", "5f 01 01 00 00 00 00 00 18", fill(0, 24), 0, "conflict"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 1)
			d := newDisk(512, 1000, allCaps)
			for i := range d.data {
				d.data[i] = byte(i / 512)
			}
			g.add(0, d, LUNOptions{})
			q := g.ready("a", 0).do(0, cdb(tc.cdb), tc.out, tc.edtl)
			if got := q.outcome(); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func unmapList(lba uint64, n uint32) []byte {
	b := make([]byte, 24)
	be.PutUint16(b, 22)
	be.PutUint16(b[2:], 16)
	be.PutUint64(b[8:], lba)
	be.PutUint32(b[16:], n)
	return b
}

// TestMedium checks what commands leave on the medium and in the data.
func TestMedium(t *testing.T) {
	for i, bs := range []uint32{512, 4096, 512} {
		g := newBench(t, 1)
		d := newDisk(bs, 1000, allCaps)
		if i == 2 { // a device with limits, which the disk checks
			d.info.Align, d.info.MaxTransfer = 4096, 3
			d.info.Caps = bdev.CapUnmap
		}
		g.add(0, d, LUNOptions{})
		s := g.ready("a", 0)
		n := int(bs)
		block := func(lba int) []byte { return d.data[lba*n : (lba+1)*n] }
		want := func(name string, lba int, b byte) {
			t.Helper()
			if !bytes.Equal(block(lba), fill(b, n)) {
				t.Errorf("%d-byte blocks, %s: block %d is %x, want %x", bs, name, lba, block(lba)[:4], b)
			}
		}
		good := func(c string, out []byte) {
			t.Helper()
			if q := s.do(0, cdb(c), out, 0); q.Status != Good {
				t.Fatalf("%s: %s", c, q.outcome())
			}
		}
		good("2a 00 00 00 00 01 00 00 02", fill(0x11, 2*n))
		want("write10", 2, 0x11)
		want("write10", 3, 0)
		if got := s.in(0, cdb("28 00 00 00 00 01 00 00 03"), uint32(3*n)); !bytes.Equal(got, append(fill(0x11, 2*n), fill(0, n)...)) {
			t.Errorf("read10 differs")
		}
		good("8b 00 00 00 00 00 00 00 00 01 00 00 00 01", fill(0xa0, n))
		want("orwrite", 1, 0xb1)
		good("89 00 00 00 00 00 00 00 00 01 00 00 00 02", append(append(fill(0xb1, n), fill(0x11, n)...), fill(0x77, 2*n)...))
		want("compare and write", 1, 0x77)
		want("compare and write", 2, 0x77)
		good("41 00 00 00 00 04 00 02 00", fill(0x33, n))
		want("write same", 4, 0x33)
		want("write same", 4+511, 0x33)
		want("write same", 4+512, 0)
		good("93 01 00 00 00 00 00 00 00 04 00 00 00 02", nil)
		want("write same without data", 5, 0)
		want("write same without data", 6, 0x33)
		good("42 00 00 00 00 00 00 00 18", unmapList(6, 2))
		want("unmap", 7, 0)
		want("unmap", 8, 0x33)
		good("41 08 00 00 00 08 00 00 01", fill(0, n))
		want("write same unmap", 8, 0)
		good("41 08 00 00 00 09 00 00 01", fill(5, n))
		want("write same unmap of a pattern", 9, 0)
		good("2e 02 00 00 00 20 00 00 03", fill(0x44, 3*n))
		want("write and verify", 0x22, 0x44)
	}
}

// TestMiscompareOffset: INFORMATION is the offset of the first difference,
// whichever piece of the comparison it lies in.
func TestMiscompareOffset(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 1000, allCaps)
	g.add(0, d, LUNOptions{})
	s := g.ready("a", 0)
	for _, off := range []int{0, 1, 511, 512, 65535, 65536, 200*512 - 1} {
		out := fill(0, 2*200*512)
		out[off] = 1
		q := s.do(0, cdb("89 00 00 00 00 00 00 00 00 00 00 00 00 c8"), out, 0)
		if q.outcome() != "0E/1D00" || q.Sense[0] != 0xf0 || be.Uint32(q.Sense[3:]) != uint32(off) {
			t.Errorf("compare and write, offset %d: %s, sense % x", off, q.outcome(), q.Sense[:q.SenseLen])
		}
		q = s.do(0, cdb("2f 02 00 00 00 00 00 00 c8"), out[:200*512], 0)
		if q.outcome() != "0E/1D00" || be.Uint32(q.Sense[3:]) != uint32(off) {
			t.Errorf("verify, offset %d: %s, sense % x", off, q.outcome(), q.Sense[:q.SenseLen])
		}
	}
}

// TestTransferLimit: a transfer above the limit of page B0 gets INVALID FIELD
// IN CDB, one at the limit runs.
func TestTransferLimit(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 20000, allCaps), LUNOptions{})
	s := g.ready("a", 0)
	page := s.in(0, cdb("12 01 b0 00 ff"), 255)
	limit := be.Uint32(page[8:])
	if limit != MaxTransfer/512 {
		t.Fatalf("limit %d", limit)
	}
	for _, op := range []byte{opRead12, opWrite12, opVerify12} {
		c := make([]byte, 16)
		c[0] = op
		be.PutUint32(c[6:], limit)
		if q := s.do(0, c, nil, limit*512); q.Status != Good {
			t.Errorf("%#x of %d blocks: %s", op, limit, q.outcome())
		}
		be.PutUint32(c[6:], limit+1)
		q := s.do(0, c, nil, (limit+1)*512)
		if q.outcome() != "05/2400" || !bytes.Equal(q.Sense[15:18], []byte{0xc0, 0, 6}) {
			t.Errorf("%#x of %d blocks: %s, pointer % x", op, limit+1, q.outcome(), q.Sense[15:18])
		}
	}
}

// TestFUA: FUA is a flag of the write, or a flush after it; with the write
// cache off every write is FUA; without a cache none is.
func TestFUA(t *testing.T) {
	const w, fua = "2a 00 00 00 00 00 00 00 01", "2a 08 00 00 00 00 00 00 01"
	tests := []struct {
		name  string
		caps  bdev.Caps
		wce   bool
		cdb   string
		write bdev.Flags
		flush bool
	}{
		{"plain", allCaps, true, w, 0, false},
		{"fua", allCaps, true, fua, bdev.FUA, false},
		{"fua on a device without", bdev.CapFlush, true, fua, 0, true},
		{"fua without a cache", 0, true, fua, 0, false},
		{"cache off", allCaps, false, w, bdev.FUA, false},
		{"cache off on a device without fua", bdev.CapFlush, false, w, 0, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 1)
			d := newDisk(512, 100, tc.caps)
			g.add(0, d, LUNOptions{})
			s := g.ready("a", 0)
			if !tc.wce {
				list := append(fill(0, 4), 0x08, 18)
				if q := s.do(0, cdb("15 10 00 00 18"), append(list, fill(0, 18)...), 0); q.Status != Good {
					t.Fatalf("mode select: %s", q.outcome())
				}
			}
			d.log = nil
			if q := s.do(0, cdb(tc.cdb), fill(1, 512), 0); q.Status != Good {
				t.Fatal(q.outcome())
			}
			if d.log[0].Op != bdev.Write || d.log[0].Flags != tc.write {
				t.Errorf("write has flags %x, want %x", d.log[0].Flags, tc.write)
			}
			if flushed := len(d.log) == 2 && d.log[1].Op == bdev.Flush; flushed != tc.flush {
				t.Errorf("submitted %v", d.log)
			}
		})
	}
}

// TestDeviceStatus maps what a device says to sense.
func TestDeviceStatus(t *testing.T) {
	tests := []struct {
		name        string
		status      bdev.Status
		read, write string
	}{
		{"failed", bdev.Failed, "03/1100", "03/0C00"},
		{"range", bdev.OutRange, "05/2100", "05/2100"},
		{"gone", bdev.Gone, "02/0400", "02/0400"},
		{"no space", bdev.NoSpace, "07/2707", "07/2707"},
		{"aborted", bdev.Aborted, "0B/0000", "0B/0000"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 1)
			d := newDisk(512, 100, allCaps)
			g.add(0, d, LUNOptions{})
			s := g.ready("a", 0)
			d.fail = tc.status
			if q := s.do(0, cdb("28 00 00 00 00 05 00 00 01"), nil, 512); q.outcome() != tc.read {
				t.Errorf("read: %s, want %s", q.outcome(), tc.read)
			}
			if q := s.do(0, cdb("2a 00 00 00 00 05 00 00 01"), fill(1, 512), 0); q.outcome() != tc.write {
				t.Errorf("write: %s, want %s", q.outcome(), tc.write)
			}
		})
	}
}
