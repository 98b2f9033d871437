package pdu

import (
	"bytes"
	"testing"
)

func seq(from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(from + i)
	}
	return b
}

func TestCDBFromAHS(t *testing.T) {
	h := make(BHS, HeaderLen)
	copy(h.CDB(), seq(0, 16))
	cdb32, cdb17 := seq(0, 32), seq(0, 17)
	for _, tc := range []struct {
		name string
		area []byte
		room int
		want int
		ok   bool
	}{
		{name: "none", room: 32, want: 16, ok: true},
		{name: "32 bytes", area: AppendExtCDB(nil, cdb32), room: 32, want: 32, ok: true},
		{name: "17 bytes, padded", area: AppendExtCDB(nil, cdb17), room: 32, want: 17, ok: true},
		{name: "behind a read length", area: AppendExtCDB(AppendBidiReadLength(nil, 512), cdb32), room: 32, want: 32, ok: true},
		{name: "unknown type first", area: append([]byte{0, 2, 9, 0, 1, 0, 0, 0}, AppendExtCDB(nil, cdb32)...), room: 32, want: 32, ok: true},
		{name: "no room", area: AppendExtCDB(nil, cdb32), room: 31},
		{name: "no room for 16", room: 15},
		{name: "twice", area: AppendExtCDB(AppendExtCDB(nil, cdb17), cdb17), room: 64},
		{name: "length past the area", area: []byte{0, 17, 1, 0, 0, 0, 0, 0}, room: 32},
		{name: "length zero", area: []byte{0, 0, 1, 0}, room: 32},
		{name: "length 65535", area: []byte{0xff, 0xff, 1, 0}, room: 32},
		{name: "cut segment", area: []byte{0, 1, 1}, room: 32},
		{name: "padding cut", area: []byte{0, 2, 1, 0, 9}, room: 32},
		{name: "rubbish behind", area: append(AppendExtCDB(nil, cdb32), 0, 0, 0, 0), room: 32},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dst := make([]byte, tc.room)
			n, ok := CDBFromAHS(dst, h, tc.area)
			if ok != tc.ok {
				t.Fatalf("ok = %v, want %v", ok, tc.ok)
			}
			if ok && (n != tc.want || !bytes.Equal(dst[:n], seq(0, n))) {
				t.Errorf("CDB %x, want %d bytes", dst[:n], tc.want)
			}
		})
	}
}

func TestBidiReadLength(t *testing.T) {
	a := ParseAHS(AppendBidiReadLength(nil, 0x12345678))
	if !a.Next() || a.Type() != AHSBidiReadLen {
		t.Fatal("no read length segment")
	}
	if n, ok := a.ReadLength(); !ok || n != 0x12345678 {
		t.Errorf("ReadLength = %#x, %v", n, ok)
	}
	if a.Next() || a.Bad() {
		t.Error("more behind the only segment")
	}
	short := ParseAHS([]byte{0, 1, AHSBidiReadLen, 0})
	if !short.Next() {
		t.Fatal("segment without content not found")
	}
	if _, ok := short.ReadLength(); ok {
		t.Error("a read length of no bytes was taken")
	}
}

func TestDigest(t *testing.T) {
	// RFC 3720 §B.4 gives these as bytes on the wire.
	for _, tc := range []struct {
		name string
		in   []byte
		want []byte
	}{
		{name: "zeroes", in: make([]byte, 32), want: []byte{0xaa, 0x36, 0x91, 0x8a}},
		{name: "ones", in: bytes.Repeat([]byte{0xff}, 32), want: []byte{0x43, 0xab, 0xa8, 0x62}},
		{name: "counting", in: seq(0, 32), want: []byte{0x4e, 0x79, 0xdd, 0x46}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got [DigestLen]byte
			PutDigest(got[:], Digest(tc.in))
			if !bytes.Equal(got[:], tc.want) {
				t.Errorf("got %x, want %x", got, tc.want)
			}
			if GetDigest(tc.want) != UpdateDigest(Digest(tc.in[:5]), tc.in[5:]) {
				t.Error("a digest in two parts differs")
			}
		})
	}
}

func TestPadding(t *testing.T) {
	for n := range uint32(9) {
		if (n+Pad(n))%4 != 0 || Pad(n) > 3 || Padded(n) != n+Pad(n) || len(PadBytes(n)) != int(Pad(n)) {
			t.Errorf("n = %d: Pad %d, Padded %d, %d bytes", n, Pad(n), Padded(n), len(PadBytes(n)))
		}
	}
}

// FuzzBHS walks any header and AHS area: nothing panics, and what comes out of
// the walk lies inside what went in.
func FuzzBHS(f *testing.F) {
	f.Add(make([]byte, HeaderLen))
	f.Add(append(make([]byte, HeaderLen), AppendExtCDB(nil, seq(0, 32))...))
	f.Add(append(make([]byte, HeaderLen), 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < HeaderLen {
			return
		}
		b, area := BHS(in[:HeaderLen]), in[HeaderLen:]
		if len(area) > MaxAHS {
			area = area[:MaxAHS]
		}
		if b.DataLen() > 1<<24-1 || b.AHSLen() > MaxAHS || b.PaddedDataLen()%4 != 0 {
			t.Fatalf("lengths out of range: %x", []byte(b))
		}
		total := 0
		a := ParseAHS(area)
		for a.Next() {
			total += 3 + len(a.body)
			if a.Type() == AHSBidiReadLen {
				a.ReadLength()
			}
		}
		if total > len(area) {
			t.Fatalf("walked %d bytes of %d", total, len(area))
		}
		var cdb [260]byte
		n, ok := CDBFromAHS(cdb[:], b, area)
		if ok && (n < 16 || n > 16+len(area)) {
			t.Fatalf("CDB of %d bytes", n)
		}
		if a.Bad() && ok {
			t.Fatal("CDB taken from a malformed area")
		}
		// What the getters read, the setters write.
		c := make(BHS, HeaderLen)
		c.Clear(b.Opcode())
		c.SetFlags(b.Flags())
		c.SetDataLen(b.DataLen())
		c.SetAHSLen(b.AHSLen())
		c.SetLUN(b.LUN())
		c.SetITT(b.ITT())
		c.SetTTT(b.TTT())
		if c.DataLen() != b.DataLen() || c.AHSLen() != b.AHSLen() || !bytes.Equal(c[4:24], b[4:24]) {
			t.Fatalf("round trip: %x became %x", []byte(b), []byte(c))
		}
	})
}

func BenchmarkDigest(b *testing.B) {
	b.ReportAllocs()
	data := make([]byte, 4096)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		sink += Digest(data)
	}
}

func BenchmarkCDBFromAHS(b *testing.B) {
	b.ReportAllocs()
	h, area := make(BHS, HeaderLen), AppendExtCDB(nil, seq(0, 32))
	var cdb [32]byte
	for b.Loop() {
		n, _ := CDBFromAHS(cdb[:], h, area)
		sink += uint32(n)
	}
}
