package scsi

import (
	"bytes"
	"fmt"
	"testing"

	"spindle/bdev"
	"spindle/bdev/malloc"
)

// shieldBench has a unit with protection information, of 256 blocks.
func shieldBench(t *testing.T, size int) (*bench, *session) {
	g := newBench(t, 1)
	d, err := malloc.New(malloc.Config{BlockSize: uint32(size), Blocks: 256, Space: g.Space, Node: -1, Protected: true})
	if err != nil {
		t.Fatal(err)
	}
	g.add(0, d, LUNOptions{})
	return g, g.ready("a", 0)
}

// rw is a READ (10) or WRITE (10) with a value of RDPROTECT or WRPROTECT.
func rw(op, protect byte, lba uint32, n uint16) []byte {
	c := make([]byte, 16)
	c[0], c[1] = op, protect<<5
	be.PutUint32(c[2:], lba)
	be.PutUint16(c[7:], n)
	return c
}

// woven is data with its tuples in it, as it travels.
func woven(data []byte, lba uint64, size int) []byte {
	tuples := make([]byte, len(data)/size*bdev.TupleLen)
	bdev.Protect(tuples, data, lba, size)
	var out []byte
	for k := 0; k < len(data)/size; k++ {
		out = append(append(out, data[k*size:][:size]...), tuples[k*bdev.TupleLen:][:bdev.TupleLen]...)
	}
	return out
}

// TestShieldReported: what an initiator looks at before it uses protection
// information.
func TestShieldReported(t *testing.T) {
	g, s := shieldBench(t, 512)
	g.add(1, newDisk(512, 100, allCaps), LUNOptions{})
	for lun := range uint16(2) {
		s.do(lun, cdb("00"), nil, 0) // unit attentions
	}
	for lun, want := range []byte{1, 0} {
		lun := uint16(lun)
		if c := s.in(lun, cdb("9e 10 00 00 00 00 00 00 00 00 00 00 00 20"), 32); c[12] != want {
			t.Errorf("LUN %d: READ CAPACITY (16) byte 12 %02x", lun, c[12])
		}
		if inq := s.in(lun, cdb("12 00 00 00 60"), 96); inq[5]&1 != want {
			t.Errorf("LUN %d: PROTECT %d", lun, inq[5]&1)
		}
		if ext := s.in(lun, cdb("12 01 86 00 40"), 64); ext[4] != 5*want {
			t.Errorf("LUN %d: VPD 86 byte 4 %02x", lun, ext[4])
		}
		list := s.in(lun, cdb("a3 0c 00 00 00 00 00 00 ff ff"), 0xffff)
		if has := bytes.Contains(list, []byte{opVariable, 0, 0, saRead32, 0, 1, 0, 32}); has != (want == 1) {
			t.Errorf("LUN %d: READ (32) among the supported commands: %v", lun, has)
		}
	}
	if got := s.do(1, rw(opRead10, 1, 0, 1), nil, 520).outcome(); got != "05/2400" {
		t.Errorf("RDPROTECT without protection information: %s", got)
	}
}

// TestShieldedTransfers: blocks go in and come out with and without their
// tuples, by every width of command, whichever way they were written.
func TestShieldedTransfers(t *testing.T) {
	for _, size := range []int{512, 4096} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			_, s := shieldBench(t, size)
			unit := size + bdev.TupleLen
			data := make([]byte, 3*size)
			for k := range data {
				data[k] = byte(k * 7)
			}
			check := func(what string, lba uint64) {
				t.Helper()
				if got := s.in(0, rw(opRead10, 0, uint32(lba), 3), uint32(len(data))); !bytes.Equal(got, data) {
					t.Errorf("%s: other data without tuples", what)
				}
				if got := s.in(0, rw(opRead10, 1, uint32(lba), 3), uint32(3*unit)); !bytes.Equal(got, woven(data, lba, size)) {
					t.Errorf("%s: other data with tuples", what)
				}
			}
			if got := s.do(0, rw(opWrite10, 0, 5, 3), data, 0).outcome(); got != "good" {
				t.Fatal(got)
			}
			check("written plain", 5)
			long := make([]byte, 32)
			copy(long, []byte{opVariable, 0, 0, 0, 0, 0, 0, 24, 0, saWrite32, 1 << 5})
			long[19], long[31] = 9, 3
			for _, c := range [][]byte{
				rw(opWrite10, 1, 9, 3),
				{opWrite12, 1 << 5, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0},
				{opWrite16, 5 << 5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0},
				long,
			} {
				data[0]++
				if got := s.do(0, c, woven(data, 9, size), 0).outcome(); got != "good" {
					t.Fatalf("% x: %s", c, got)
				}
				check(fmt.Sprintf("% x", c), 9)
			}
			// The application tag is the initiator's and comes back.
			tagged := woven(data, 9, size)
			copy(tagged[size+2:], []byte{0x12, 0x34})
			s.do(0, rw(opWrite10, 1, 9, 3), tagged, 0)
			if got := s.in(0, rw(opRead10, 4, 9, 3), uint32(3*unit)); !bytes.Equal(got, tagged) {
				t.Error("another application tag")
			}
			// Whole blocks of a short transfer are written, parts are not.
			if got := s.do(0, rw(opWrite10, 1, 20, 3), woven(data, 20, size)[:2*unit], 0).outcome(); got != "good" {
				t.Errorf("two blocks for three: %s", got)
			}
			if got := s.do(0, rw(opWrite10, 1, 20, 3), woven(data, 20, size)[:2*unit-8], 0).outcome(); got != "05/0E03" {
				t.Errorf("a part of a block: %s", got)
			}
			if got := s.do(0, rw(opRead10, 1, 255, 2), nil, uint32(2*unit)).outcome(); got != "05/2100" {
				t.Errorf("beyond the end: %s", got)
			}
		})
	}
}

// TestShieldChecks: which value of the field checks what, on the way in and on
// the way out (SBC-4 tables 51 and 128).
func TestShieldChecks(t *testing.T) {
	const guard, ref, field, good = "0B/1001", "0B/1003", "05/2400", "good"
	bad := func(change func([]byte)) []byte {
		w := woven(fill(0x33, 1024), 40, 512)
		change(w)
		return w
	}
	for _, tc := range []struct {
		name string
		data []byte
		want [8]string // by value of RDPROTECT and WRPROTECT; 0: a plain READ
	}{
		{"right", bad(func([]byte) {}), [8]string{good, good, good, good, good, good, field, field}},
		{"guard", bad(func(w []byte) { w[520+512]++ }), [8]string{guard, guard, good, good, guard, guard, field, field}},
		{"data", bad(func(w []byte) { w[520]++ }), [8]string{guard, guard, good, good, guard, guard, field, field}},
		{"reference tag", bad(func(w []byte) { w[520+519]++ }), [8]string{ref, ref, ref, good, good, ref, field, field}},
		{"not to be checked", bad(func(w []byte) { w[520]++; w[520+514], w[520+515] = 0xff, 0xff }), [8]string{good, good, good, good, good, good, field, field}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, s := shieldBench(t, 512)
			for p := byte(1); p < 8; p++ {
				if got := s.do(0, rw(opWrite10, p, 40, 2), tc.data, 0).outcome(); got != tc.want[p] {
					t.Errorf("WRPROTECT %d: %s, want %s", p, got, tc.want[p])
				}
			}
			if got := s.do(0, rw(opWrite10, 3, 40, 2), tc.data, 0).outcome(); got != good {
				t.Fatalf("unchecked write: %s", got)
			}
			for p := byte(0); p < 8; p++ {
				q := s.do(0, rw(opRead10, p, 40, 2), nil, 1040)
				if q.outcome() != tc.want[p] {
					t.Errorf("RDPROTECT %d: %s, want %s", p, q.outcome(), tc.want[p])
				}
				if q.Status == CheckCondition && tc.want[p] != field && be.Uint32(q.Sense[3:]) != 41 {
					t.Errorf("RDPROTECT %d: INFORMATION %d", p, be.Uint32(q.Sense[3:]))
				}
			}
		})
	}
}

// TestShieldFollows: what else writes leaves tuples that fit, and refuses
// protection fields of its own.
func TestShieldFollows(t *testing.T) {
	for _, tc := range []struct {
		name, cdb string
		out       []byte
	}{
		{"write same", "41 00 00 00 00 10 00 00 04", fill(7, 512)},
		{"write same with unmap", "41 08 00 00 00 10 00 00 04", fill(0, 512)},
		{"unmap", "42 00 00 00 00 00 00 00 18", append([]byte{0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 4}, 0, 0, 0, 0)},
		{"compare and write", "89 00 00 00 00 00 00 00 00 10 00 00 00 01", append(fill(0x11, 512), fill(0x22, 512)...)},
		{"orwrite", "8b 00 00 00 00 00 00 00 00 10 00 00 00 04", fill(0x44, 2048)},
		{"write and verify", "2e 02 00 00 00 10 00 00 04", fill(0x55, 2048)},
		{"write atomic", "9c 00 00 00 00 00 00 00 00 10 00 00 00 04", fill(0x66, 2048)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, s := shieldBench(t, 512)
			s.do(0, rw(opWrite10, 0, 16, 4), fill(0x11, 2048), 0)
			if got := s.do(0, cdb(tc.cdb), tc.out, 0).outcome(); got != "good" {
				t.Fatal(got)
			}
			for _, p := range []byte{0, 1} {
				if got := s.do(0, rw(opRead10, p, 16, 4), nil, 4*520).outcome(); got != "good" {
					t.Errorf("then read with RDPROTECT %d: %s", p, got)
				}
			}
			if tc.name == "unmap" {
				return // it has no such field
			}
			c := cdb(tc.cdb)
			c[1] |= 1 << 5
			if got := s.do(0, c, tc.out, 0).outcome(); got != "05/2400" {
				t.Errorf("with a protection field: %s", got)
			}
		})
	}
}

// TestShieldAbort: a task that is aborted with tuples in flight leaves nothing of
// them to the next command of its slot.
func TestShieldAbort(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 100, allCaps)
	d.info.Protected, d.stuck = true, true
	g.add(0, d, LUNOptions{})
	s := g.ready("a", 0)
	q := s.start(0, rw(opRead10, 1, 0, 1), nil, 520, AttrSimple)
	if q.IO.Meta.Empty() {
		t.Fatal("no tuples are asked for")
	}
	q.Abort()
	d.finish()
	g.turns(4)
	if !q.done || !q.IO.Meta.Empty() {
		t.Errorf("done %v, tuples still at %v", q.done, q.IO.Meta)
	}
}
