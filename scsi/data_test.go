package scsi

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"spindle/bdev"
)

func TestInquiry(t *testing.T) {
	g := newBench(t, 1)
	b := g.add(0, newDisk(512, 1000, allCaps), LUNOptions{})
	s := g.ready("a", 0)
	std := s.in(0, cdb("12 00 00 00 ff"), 255)
	if len(std) != 96 || std[0] != 0 || std[2] != 6 || std[3]&0x0f != 2 || int(std[4]) != len(std)-5 {
		t.Errorf("standard inquiry: % x", std)
	}
	if got := string(std[8:36]); got != "SPINDLE Test disk       0001" {
		t.Errorf("identification %q", got)
	}
	if got := s.in(0, cdb("12 00 00 00 05"), 5); len(got) != 5 || got[4] != 91 {
		t.Errorf("truncated inquiry: % x", got)
	}
	pages := s.in(0, cdb("12 01 00 00 ff"), 255)
	list := pages[4:]
	if !bytes.Equal(list, []byte{0x00, 0x80, 0x83, 0x85, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2, 0xb3}) {
		t.Fatalf("pages % x", list)
	}
	for _, p := range list {
		d := s.in(0, []byte{0x12, 1, p, 0, 255, 0}, 255)
		if d[0] != 0 || d[1] != p || int(be.Uint16(d[2:])) != len(d)-4 {
			t.Errorf("page %02x: header % x, %d bytes", p, d[:4], len(d))
		}
	}
	if got := s.in(0, cdb("12 01 87 00 ff"), 255); !bytes.Equal(got, []byte{0, 0x87, 0, 4, 0x3f, 0xff, 0, 0}) {
		t.Errorf("mode page policy: % x", got)
	}
	if got := s.in(0, cdb("12 01 80 00 ff"), 255); string(got[4:]) != b.UUID().Serial() {
		t.Errorf("serial %q", got[4:])
	}
}

// designators splits page 83 into kind (association, type) and value.
func designators(page []byte) map[byte][]byte {
	m := map[byte][]byte{}
	for d := page[4:]; len(d) >= 4; d = d[4+d[3]:] {
		m[d[1]&0x3f] = d[4 : 4+d[3]]
	}
	return m
}

func TestDeviceIdentification(t *testing.T) {
	g := newBench(t, 1)
	b := g.add(0, newDisk(512, 1000, allCaps), LUNOptions{})
	g.add(1, newDisk(512, 1000, allCaps), LUNOptions{})
	m := designators(g.ready("a", 0).in(0, cdb("12 01 83 00 ff"), 255))
	id := b.UUID()
	sum := sha1.Sum(id[:])
	if naa := m[0x03]; len(naa) != 16 || naa[0]>>4 != 6 || !bytes.Equal(naa[4:], sum[4:16]) {
		t.Errorf("NAA % x", naa)
	}
	if t10 := string(m[0x01]); t10 != "SPINDLE "+id.Serial() {
		t.Errorf("T10 vendor id %q", t10)
	}
	for kind, want := range map[byte]string{0x14: "\x00\x00\x00\x01", 0x15: "\x00\x00\x00\x01", 0x18: "iqn.2026-01.test:node,t,0x0001", 0x28: "iqn.2026-01.test:node"} {
		if got := strings.TrimRight(string(m[kind]), "\x00"); got != strings.TrimRight(want, "\x00") || len(m[kind])%4 != 0 {
			t.Errorf("designator %02x is %q, want %q", kind, m[kind], want)
		}
	}
	// The same again in another life of the node.
	h := newBench(t, 1)
	h.add(7, newDisk(512, 5, 0), LUNOptions{})
	if again := designators(h.ready("b", 0).in(7, cdb("12 01 83 00 ff"), 255)); !bytes.Equal(again[0x03], m[0x03]) {
		t.Errorf("NAA changed from % x to % x", m[0x03], again[0x03])
	}
}

func TestProvisioningPages(t *testing.T) {
	tests := []struct {
		name           string
		caps           bdev.Caps
		lbpme, lbp, pt byte
		maxUnmap       uint32
		unmap          string
	}{
		{"thin", allCaps, 0xc0, 0xe4, 2, 1 << 20, "good"},
		{"thick", bdev.CapWriteZeroes, 0, 0, 0, 0, "05/2000"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 1)
			g.add(0, newDisk(512, 1000, tc.caps), LUNOptions{})
			s := g.ready("a", 0)
			rc := s.in(0, cdb("9e 10 00 00 00 00 00 00 00 00 00 00 00 20"), 32)
			if be.Uint64(rc) != 999 || be.Uint32(rc[8:]) != 512 || rc[14] != tc.lbpme {
				t.Errorf("read capacity 16: % x", rc)
			}
			b0, b2 := s.in(0, cdb("12 01 b0 00 ff"), 255), s.in(0, cdb("12 01 b2 00 ff"), 255)
			if be.Uint32(b0[20:]) != tc.maxUnmap || len(b0) != 64 {
				t.Errorf("block limits: % x", b0)
			}
			if b2[5] != tc.lbp || b2[6] != tc.pt {
				t.Errorf("provisioning: % x", b2)
			}
			if q := s.do(0, cdb("42 00 00 00 00 00 00 00 18"), unmapList(0, 1), 0); q.outcome() != tc.unmap {
				t.Errorf("unmap: %s", q.outcome())
			}
			listed := bytes.Contains(s.in(0, cdb("a3 0c 00 00 00 00 00 00 ff ff"), 0xffff), []byte{opUnmap, 0, 0, 0, 0, 0, 0, 10})
			if listed != (tc.unmap == "good") {
				t.Errorf("unmap reported as supported: %v", listed)
			}
		})
	}
}

func TestUnmapLimits(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 1000, allCaps)
	d.info.Blocks = 4 << 20 // only checked, never touched
	g.add(0, d, LUNOptions{})
	s := g.ready("a", 0)
	if q := s.do(0, cdb("42 00 00 00 00 00 00 00 18"), unmapList(0, 1<<20+1), 0); q.outcome() != "05/2600" {
		t.Errorf("too many blocks: %s", q.outcome())
	}
	list := make([]byte, 8+16*257)
	be.PutUint16(list[2:], 16*257)
	if q := s.do(0, []byte{0x42, 0, 0, 0, 0, 0, 0, byte(len(list) >> 8), byte(len(list)), 0}, list, 0); q.outcome() != "05/2600" {
		t.Errorf("too many descriptors: %s", q.outcome())
	}
}

func TestModeSense(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 1000, allCaps), LUNOptions{})
	g.add(1, newDisk(4096, 1000, 0), LUNOptions{ReadOnly: true})
	s := g.ready("a", 0)
	s.do(1, cdb("00"), nil, 0)
	tests := []struct {
		name string
		lun  uint16
		cdb  string
		want string
	}{
		{"control", 0, "1a 08 0a 00 ff", "0f 00 10 00 0a0a 0010 0000 0000 ffff 0000"},
		{"control changeable", 0, "1a 08 4a 00 ff", "0f 00 10 00 0a0a 0400 0840 0000 0000 0000"},
		{"caching with descriptor", 0, "1a 00 08 00 ff", "1f 00 10 08 000003e8 00000200 0812 0400 00000000 00000000 00000000 00000000"},
		{"caching without a cache", 1, "1a 08 08 00 ff", "17 00 90 00 0812 0000 00000000 00000000 00000000 00000000"},
		{"long descriptor", 1, "5a 10 1c 00 00 00 00 00 ff", "0022 00 90 01 00 0010 00000000000003e8 00000000 00001000 1c0a 0000 00000000 00000000"},
		{"recovery ten", 0, "5a 08 01 00 00 00 00 00 ff", "0012 00 10 00 00 0000 010a 0000 00000000 00000000"},
		{"truncated", 0, "1a 08 3f ff 04", "6b 00 10 00"},
		{"disconnect-reconnect", 0, "1a 08 02 00 ff", "13 00 10 00 020e 0000 00000000 00000000 00000000"},
		{"disconnect-reconnect changeable", 0, "1a 08 42 00 ff", "13 00 10 00 020e 0000 00000000 00000000 00000000"},
		{"control extension", 0, "1a 08 0a 01 ff", "23 00 10 00 4a01 001c 0100 6000" + strings.Repeat("00", 24)},
		{"control extension changeable", 0, "1a 08 4a 01 ff", "23 00 10 00 4a01 001c" + strings.Repeat("00", 28)},
		{"control and its extension", 0, "1a 08 0a ff ff", "2f 00 10 00 0a0a 0010 0000 0000 ffff 0000 4a01 001c 0100 6000" + strings.Repeat("00", 24)},
		{"all pages without subpages", 0, "1a 08 3f 00 04", "4b 00 10 00"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got := hex.EncodeToString(s.in(tc.lun, cdb(tc.cdb), 255))
			if want := strings.ReplaceAll(tc.want, " ", ""); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestModeSelect(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 1000, allCaps), LUNOptions{})
	s, o := g.ready("a", 0), g.ready("b", 0)
	set := func(c2, c4, c5 byte) {
		t.Helper()
		list := append(fill(0, 4), 0x0a, 0x0a, c2, 0x10, c4, c5, 0, 0, 0xff, 0xff, 0, 0)
		if q := s.do(0, cdb("15 10 00 00 10"), list, 0); q.Status != Good {
			t.Fatal(q.outcome())
		}
	}
	set(0, 0x08, 0)
	if q := o.do(0, cdb("00"), nil, 0); q.outcome() != "06/2A01" {
		t.Errorf("other nexus: %s", q.outcome())
	}
	if q := s.do(0, cdb("2a 00 00 00 00 00 00 00 01"), fill(0, 512), 0); q.outcome() != "07/2702" {
		t.Errorf("write with SWP: %s", q.outcome())
	}
	if got := s.in(0, cdb("1a 08 0a 00 ff"), 255); got[2] != 0x90 || got[8] != 0x08 {
		t.Errorf("mode sense with SWP: % x", got)
	}
	set(0x04, 0, 0)
	q := s.do(0, cdb("88 00 ff ff ff ff ff ff ff ff 00 00 00 01"), nil, 512)
	if q.outcome() != "05/2100" || q.Sense[0] != 0x72 {
		t.Errorf("descriptor sense: %s, % x", q.outcome(), q.Sense[:q.SenseLen])
	}
	q = s.do(0, cdb("12 00 80 00 ff"), nil, 255)
	if !bytes.Equal(q.Sense[:q.SenseLen], []byte{0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xc0, 0, 2, 0}) {
		t.Errorf("field pointer in descriptor sense: % x", q.Sense[:q.SenseLen])
	}
	q = s.do(0, cdb("2f 02 00 00 00 00 00 00 01"), fill(1, 512), 0)
	if !bytes.Equal(q.Sense[:q.SenseLen], []byte{0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("information in descriptor sense: % x", q.Sense[:q.SenseLen])
	}
}

// TestReadOnly: a write-protected unit refuses what would change it, tells a CDB
// that is wrong as such, and lets pass what writes no block.
// TestModeSelectWhileDataComes: a write whose data was still coming when another
// nexus had the unit write-protected finds it so.
func TestModeSelectWhileDataComes(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 1000, allCaps), LUNOptions{})
	s, o := g.ready("a", 0), g.ready("b", 0)
	q := o.begin(0, cdb("2a 00 00 00 00 07 00 00 01"), fill(0x55, 512), 0, AttrSimple)
	if q.Prepare() != Ready {
		t.Fatal(q.outcome())
	}
	q.buf, _ = g.Arena().Alloc(512)
	q.Data = q.buf
	list := append(fill(0, 4), 0x0a, 0x0a, 0, 0x10, 0x08, 0, 0, 0, 0xff, 0xff, 0, 0)
	if p := s.do(0, cdb("15 10 00 00 10"), list, 0); p.Status != Good {
		t.Fatal(p.outcome())
	}
	if q.Execute() != Done || q.outcome() != "07/2702" {
		t.Errorf("write after SWP: %s", q.outcome())
	}
	q.collect()
	if got := s.in(0, cdb("28 00 00 00 00 07 00 00 01"), 512); !bytes.Equal(got, fill(0, 512)) {
		t.Error("it was written")
	}
}

func TestReadOnly(t *testing.T) {
	const protected = "07/2700"
	g := newBench(t, 1)
	g.add(0, newDisk(512, 1000, allCaps&^bdev.CapFlush|bdev.CapReadOnly), LUNOptions{})
	s := g.ready("a", 0)
	for _, tc := range []struct {
		name, cdb string
		out       int
		want      string
	}{
		{"write (6)", "0a 00 00 00 01", 512, protected},
		{"write (10)", "2a 00 00 00 00 00 00 00 01", 512, protected},
		{"write (16)", "8a 00 00 00 00 00 00 00 00 00 00 00 00 01", 512, protected},
		{"write and verify", "2e 02 00 00 00 00 00 00 01", 512, protected},
		{"write same", "41 00 00 00 00 00 00 00 01", 512, protected},
		{"write same to the end", "93 01 00 00 00 00 00 00 00 00 00 00 00 00", 0, protected},
		{"unmap", "42 00 00 00 00 00 00 00 18", 24, protected},
		{"compare and write", "89 00 00 00 00 00 00 00 00 00 00 00 00 01", 1024, protected},
		{"orwrite", "8b 00 00 00 00 00 00 00 00 00 00 00 00 01", 512, protected},
		{"write atomic", "9c 00 00 00 00 00 00 00 00 00 00 00 00 01", 512, protected},
		{"overwrite", "48 01 00 00 00 00 00 00 08", 8, protected},
		{"block erase", "48 02", 0, protected},
		{"cryptographic erase", "48 03", 0, protected},
		{"beyond the end", "2a 00 00 00 03 e8 00 00 01", 512, "05/2100"},
		{"protection information asked for", "2a 20 00 00 00 00 00 00 01", 512, "05/2400"},
		{"no block", "2a 00 00 00 00 00 00 00 00", 0, "good"},
		{"unmap of nothing", "42", 0, "good"},
		{"write same without its block", "41 00 00 00 00 00 00 00 01", 0, protected},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if q := s.do(0, cdb(tc.cdb), fill(0, tc.out), 0); q.outcome() != tc.want {
				t.Errorf("%s, want %s", q.outcome(), tc.want)
			}
		})
	}
}

// TestReportOpcodes: every reported command is reported alone too, with its
// opcode first in the usage data; every dispatched one is reported.
func TestReportOpcodes(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 1000, bdev.CapUnmap|bdev.CapWriteZeroes), LUNOptions{Removable: true})
	s := g.ready("a", 0)
	all := s.in(0, cdb("a3 0c 00 00 00 00 00 00 ff ff"), 0xffff)
	timed := s.in(0, cdb("a3 0c 80 00 00 00 00 00 ff ff"), 0xffff)
	n := int(be.Uint32(all)) / 8
	long := len(g.dev.table.service[opVariable])
	if one := s.in(0, cdb("a3 0c 02 7f 00 0b 00 00 00 ff"), 255); one[1] != 3 || be.Uint16(one[2:]) != 32 || one[4] != opVariable {
		t.Errorf("WRITE(32): % x", one)
	}
	refused := 0 // without a store
	for _, c := range g.dev.table.rows {
		if c.opcode == opMaintenanceOut && c.sa == saSetIdentity {
			refused++
		}
	}
	if n != len(g.dev.table.rows)-long-refused || len(all) != 4+8*n || len(timed) != 4+20*n {
		t.Fatalf("%d commands in %d and %d bytes, %d dispatched", n, len(all), len(timed), len(g.dev.table.rows))
	}
	for i := range n {
		d, td := all[4+8*i:][:8], timed[4+20*i:][:20]
		if d[5]&2 != 0 || td[5]&2 == 0 || be.Uint16(td[8:]) != 10 || be.Uint32(td[16:]) == 0 {
			t.Errorf("timeouts of %02x: % x, % x", d[0], d, td)
		}
		option := byte(1)
		if d[5]&1 != 0 {
			option = 2
		} else if be.Uint16(d[2:]) != 0 {
			t.Errorf("%02x has service action %x but no SERVACTV", d[0], d[2:4])
		}
		for _, o := range []byte{option, 3, option | 0x80} {
			one := s.in(0, []byte{0xa3, 0x0c, o, d[0], d[2], d[3], 0, 0, 255, 255, 0, 0}, 0xffff)
			size := be.Uint16(one[2:])
			if one[1]&7 != 3 || size != be.Uint16(d[6:]) || one[4] != d[0] || one[1]&0x80 != o&0x80 {
				t.Errorf("%02x alone, option %02x: % x", d[0], o, one)
			}
		}
	}
	if one := s.in(0, cdb("a3 0c 01 ff 00 00 00 00 ff ff"), 0xffff); one[1] != 1 {
		t.Errorf("unknown opcode: % x", one)
	}
	tmf := s.in(0, cdb("a3 0d 80 00 00 00 00 00 00 10"), 16)
	if len(tmf) != 16 || tmf[0] != 0xda || tmf[4] != 1 || be.Uint32(tmf[8:]) != 150 {
		t.Errorf("task management functions: % x", tmf)
	}
}

func TestReportLUNs(t *testing.T) {
	g := newBench(t, 1)
	for _, lun := range []uint16{300, 1, 255} {
		g.add(lun, newDisk(512, 10, 0), LUNOptions{})
	}
	s := g.session("a", 0)
	got := s.in(0, cdb("a0 00 02 00 00 00 00 00 01 00"), 256)
	want := append([]byte{0, 0, 0, 24, 0, 0, 0, 0}, cdb("0001 0000 0000 0000 00ff 0000 0000 0000")...)
	want = append(want, cdb("412c")[:8]...)
	if !bytes.Equal(got, want) {
		t.Errorf("got  % x\nwant % x", got, want)
	}
	if got := s.in(0, cdb("a0 00 01 00 00 00 00 00 01 00"), 256); len(got) != 8 || got[3] != 0 {
		t.Errorf("well known units: % x", got)
	}
	// No LUN 0: INQUIRY says so, the rest is refused.
	if std := s.in(0, cdb("12 00 00 00 ff"), 255); std[0] != 0x7f {
		t.Errorf("inquiry of no LUN 0: % x", std[:8])
	}
	if q := s.do(0, cdb("00"), nil, 0); q.outcome() != "05/2500" {
		t.Errorf("test unit ready of no LUN 0: %s", q.outcome())
	}
	if sense := s.in(0, cdb("03 00 00 00 ff"), 255); sense[2] != 5 || be.Uint16(sense[12:]) != 0x2500 {
		t.Errorf("request sense of no LUN 0: % x", sense)
	}
	s.n.visible = func(lun uint16) bool { return lun == 1 }
	if got := s.in(0, cdb("a0 00 00 00 00 00 00 00 01 00"), 256); len(got) != 16 {
		t.Errorf("masked: % x", got)
	}
	if q := s.do(255, cdb("00"), nil, 0); q.outcome() != "05/2500" {
		t.Errorf("masked unit: %s", q.outcome())
	}
}

func TestDecodeLUN(t *testing.T) {
	tests := []struct {
		name string
		raw  uint64
		want int
	}{
		{"zero", 0, 0},
		{"peripheral", 0x00ff << 48, 255},
		{"flat below 256", 0x4005 << 48, 5},
		{"flat", 0x7fff << 48, 0x3fff},
		{"bus", 0x0100 << 48, noLUN},
		{"logical unit addressing", 0x8001 << 48, noLUN},
		{"well known", 0xc101 << 48, noLUN},
		{"second level", 0x0001_0001 << 32, noLUN},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := decodeLUN(tc.raw); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
	for _, lun := range []uint16{0, 1, 255, 256, MaxLUN} {
		if got := decodeLUN(EncodeLUN(lun)); got != int(lun) {
			t.Errorf("LUN %d comes back as %d", lun, got)
		}
	}
}

func TestModeSelectList(t *testing.T) {
	const page = "0a 0a 00 10 00 00 00 00 ff ff 00 00"
	tests := []struct {
		name string
		ten  bool
		list string
		want string
	}{
		{"page", false, "00 00 00 00" + page, "good"},
		{"two pages", false, "00 00 00 00" + page + "01 0a 00 00 00 00 00 00 00 00 00 00", "good"},
		{"descriptor", false, "00 00 00 08 00 00 03 e8 00 00 02 00" + page, "good"},
		{"descriptor, all blocks", false, "00 00 00 08 00 00 00 00 00 00 02 00" + page, "good"},
		{"descriptor, another size", false, "00 00 00 08 00 00 00 00 00 00 10 00" + page, "05/2600"},
		{"descriptor, other blocks", false, "00 00 00 08 00 00 00 01 00 00 02 00" + page, "05/2600"},
		{"odd descriptor", false, "00 00 00 04 00 00 00 00" + page, "05/2600"},
		{"descriptor cut", false, "00 00 00 08 00 00 00 00", "05/1A00"},
		{"long descriptor", true, "00 00 00 00 01 00 00 10 00 00 00 00 00 00 03 e8 00 00 00 00 00 00 02 00" + page, "good"},
		{"unknown page", false, "00 00 00 00 05 0a 00 00 00 00 00 00 00 00 00 00", "05/2600"},
		{"subpage", false, "00 00 00 00 4a 02 00 0c", "05/2600"},
		{"disconnect-reconnect", false, "00 00 00 00 02 0e" + strings.Repeat("00", 14), "good"},
		{"disconnect-reconnect, a burst size", false, "00 00 00 00 02 0e 00 00 00 00 00 00 00 00 00 10 00 00 00 00", "05/2600"},
		{"disconnect-reconnect cut", false, "00 00 00 00 02 0e 00 00", "05/1A00"},
		{"control extension", false, "00 00 00 00 4a 01 00 1c 01 00 60" + strings.Repeat("00", 25), "good"},
		{"control extension, another sense length", false, "00 00 00 00 4a 01 00 1c 01 00 20" + strings.Repeat("00", 25), "05/2600"},
		{"control extension, a priority", false, "00 00 00 00 4a 01 00 1c 01 01 60" + strings.Repeat("00", 25), "05/2600"},
		{"control extension cut", false, "00 00 00 00 4a 01 00 1c 01 00 60", "05/1A00"},
		{"page length", false, "00 00 00 00 0a 0b 00 10 00 00 00 00 ff ff 00 00 00", "05/2600"},
		{"page cut", false, "00 00 00 00 0a 0a 00 10", "05/1A00"},
	}
	g := newBench(t, 1)
	g.add(0, newDisk(512, 1000, allCaps), LUNOptions{})
	s := g.ready("a", 0)
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			list, err := hex.DecodeString(strings.ReplaceAll(tc.list, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			c := []byte{opModeSelect6, 0x10, 0, 0, byte(len(list)), 0}
			if tc.ten {
				c = []byte{opModeSelect10, 0x10, 0, 0, 0, 0, 0, 0, byte(len(list)), 0}
			}
			if q := s.do(0, c, list, 0); q.outcome() != tc.want {
				t.Errorf("got %s, want %s", q.outcome(), tc.want)
			}
		})
	}
}

// TestFarLUN: units beyond 255 are found by flat addressing.
func TestFarLUN(t *testing.T) {
	g := newBench(t, 2)
	for _, lun := range []uint16{MaxLUN, 256, 5000} {
		g.add(lun, newDisk(512, uint64(lun), 0), LUNOptions{})
	}
	s := g.session("a", 1)
	for _, lun := range []uint16{256, 5000, MaxLUN} {
		for _, want := range []string{"06/2900", "good"} {
			if got := s.do(lun, cdb("00"), nil, 0).outcome(); got != want {
				t.Errorf("LUN %d: %s, want %s", lun, got, want)
			}
		}
		if rc := s.in(lun, cdb("25"), 8); be.Uint32(rc) != uint32(lun)-1 {
			t.Errorf("LUN %d: % x", lun, rc)
		}
	}
	if err := g.dev.RemoveLUN(g, 5000); err != nil {
		t.Fatal(err)
	}
	if got := s.do(5000, cdb("00"), nil, 0).outcome(); got != "05/2500" {
		t.Errorf("removed: %s", got)
	}
	if got := s.do(256, cdb("00"), nil, 0).outcome(); got != "06/3F0E" {
		t.Errorf("the others: %s", got)
	}
}

func TestAddLUNErrors(t *testing.T) {
	g := newBench(t, 1)
	g.add(3, newDisk(512, 10, 0), LUNOptions{})
	tests := []struct {
		name string
		lun  uint16
		disk bdev.Device
		want error
	}{
		{"in use", 3, newDisk(512, 10, 0), ErrLUNInUse},
		{"range", MaxLUN + 1, newDisk(512, 10, 0), ErrLUNRange},
		{"block size", 4, newDisk(520, 10, 0), ErrBlockSize},
		{"empty", 4, newDisk(512, 0, 0), ErrEmpty},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			b := bdev.New("x", bdev.UUID{}, tc.disk)
			if _, err := g.dev.AddLUN(g, tc.lun, b, LUNOptions{}); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if _, shares := b.Claimed(); shares != 0 || b.OpenChannels() != 0 {
				t.Errorf("%d shares, %d channels", shares, b.OpenChannels())
			}
		})
	}
	claimed := bdev.New("y", bdev.UUID{}, newDisk(512, 10, 0))
	if err := claimed.Claim("someone"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.dev.AddLUN(g, 4, claimed, LUNOptions{}); !errors.Is(err, bdev.ErrClaimed) {
		t.Errorf("claimed: %v", err)
	}
	if err := g.dev.RemoveLUN(g, 9); !errors.Is(err, ErrNoLUN) {
		t.Errorf("remove: %v", err)
	}
}
