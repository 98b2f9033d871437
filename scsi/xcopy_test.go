package scsi

import (
	"bytes"
	"fmt"
	"testing"

	"spindle/bdev"
	"spindle/reactor"
)

// copyList is an EXTENDED COPY parameter list.
type copyList struct {
	id, usage byte
	cscds     [][]byte
	segs      [][]byte
}

func (l copyList) bytes() []byte {
	c, s := bytes.Join(l.cscds, nil), bytes.Join(l.segs, nil)
	b := make([]byte, 16)
	b[0], b[1] = l.id, l.usage
	be.PutUint16(b[2:], uint16(len(c)))
	be.PutUint32(b[8:], uint32(len(s)))
	return append(append(b, c...), s...)
}

// naaOf is the CSCD descriptor of a unit of the bench.
func (g *bench) naaOf(lun uint16) []byte {
	lu := g.dev.inventory.Load().find(int(lun))
	b := make([]byte, 32)
	copy(b, []byte{0xe4, 0, 0, 0, codeBinary, designNAA, 0, 16})
	copy(b[8:], lu.ident.naa[:])
	b[30] = byte(lu.current.blockSize >> 8)
	return b
}

func blockSegment(from, to uint16, n uint16, lba, dest uint64) []byte {
	b := []byte{0x02, 0, 0, 24, byte(from >> 8), byte(from), byte(to >> 8), byte(to), 0, 0, byte(n >> 8), byte(n)}
	return be.AppendUint64(be.AppendUint64(b, lba), dest)
}

func byteSegment(from, to uint16, n uint32, lba, dest uint64) []byte {
	b := be.AppendUint32([]byte{0x0a, 0, 0, 28, byte(from >> 8), byte(from), byte(to >> 8), byte(to)}, n)
	return append(be.AppendUint64(be.AppendUint64(b, lba), dest), 0, 0, 0, 0)
}

func (s *session) startCopy(lun uint16, list []byte) *request {
	c := make([]byte, 16)
	c[0] = opExtendedCopy
	be.PutUint32(c[10:], uint32(len(list)))
	return s.start(lun, c, list, 0, AttrSimple)
}

func (s *session) xcopy(lun uint16, list []byte) *request {
	s.g.T.Helper()
	q := s.startCopy(lun, list)
	s.g.Until("copy", func() bool { return q.done })
	return q
}

// results runs RECEIVE COPY RESULTS.
func (s *session) results(lun uint16, sa, id byte) *request {
	return s.do(lun, []byte{opReceiveCopy, sa, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, nil, 256)
}

// copyBench has a 512-byte unit 0 filled with its block numbers, a 4096-byte
// unit 1, and a read-only unit 2.
func copyBench(t *testing.T, reactors int) (*bench, []*disk) {
	g := newBench(t, reactors)
	disks := []*disk{newDisk(512, 4096, allCaps), newDisk(4096, 512, allCaps), newDisk(512, 4096, allCaps)}
	for k, d := range disks {
		if _, err := g.dev.AddLUN(g, uint16(k), bdev.New(string(rune('a'+k)), bdev.UUID{}, d), LUNOptions{ReadOnly: k == 2}); err != nil {
			t.Fatal(err)
		}
	}
	for k := range disks[0].data {
		disks[0].data[k] = byte(k / 512)
	}
	return g, disks
}

func TestExtendedCopy(t *testing.T) {
	g, disks := copyBench(t, 2)
	a, b := g.naaOf(0), g.naaOf(1)
	tests := []struct {
		name string
		list copyList
		want string
		from uint64 // bytes
		to   *disk
		dest uint64
		n    int
	}{
		{"within a unit", copyList{cscds: [][]byte{a}, segs: [][]byte{blockSegment(0, 0, 1000, 0, 2000)}}, "good", 0, disks[0], 2000 * 512, 1000 * 512},
		{"to larger blocks", copyList{cscds: [][]byte{a, b}, segs: [][]byte{blockSegment(0, 1, 16, 8, 3)}}, "good", 8 * 512, disks[1], 3 * 4096, 16 * 512},
		{"counted by the destination", copyList{cscds: [][]byte{a, b}, segs: [][]byte{func() []byte {
			s := blockSegment(0, 1, 2, 8, 5)
			s[1] = 2
			return s
		}()}}, "good", 8 * 512, disks[1], 5 * 4096, 2 * 4096},
		{"by bytes", copyList{cscds: [][]byte{a, b}, segs: [][]byte{byteSegment(0, 1, 1<<20, 0, 100)}}, "good", 0, disks[1], 100 * 4096, 1 << 20},
		{"two segments", copyList{cscds: [][]byte{a, b}, segs: [][]byte{blockSegment(0, 1, 8, 0, 0), blockSegment(1, 0, 1, 0, 4088)}}, "good", 0, disks[0], 4088 * 512, 4096},
		{"nothing", copyList{cscds: [][]byte{a}, segs: [][]byte{blockSegment(0, 0, 0, 0, 0)}}, "good", 0, nil, 0, 0},
		{"no segments", copyList{cscds: [][]byte{a}}, "good", 0, nil, 0, 0},
		{"part of a block", copyList{cscds: [][]byte{a, b}, segs: [][]byte{blockSegment(0, 1, 1, 0, 0)}}, "0A/260A", 0, nil, 0, 0},
		{"an index beyond", copyList{cscds: [][]byte{a}, segs: [][]byte{blockSegment(0, 1, 1, 0, 0)}}, "0A/0D02", 0, nil, 0, 0},
		{"beyond the end", copyList{cscds: [][]byte{a}, segs: [][]byte{blockSegment(0, 0, 8, 0, 4089)}}, "0A/0000", 0, nil, 0, 0},
		{"wraps", copyList{cscds: [][]byte{a}, segs: [][]byte{blockSegment(0, 0, 8, ^uint64(0), 0)}}, "0A/0000", 0, nil, 0, 0},
		{"longer than a segment may be", copyList{cscds: [][]byte{a}, segs: [][]byte{byteSegment(0, 0, maxSegmentSize+512, 0, 0)}}, "0A/2600", 0, nil, 0, 0},
		{"read only", copyList{cscds: [][]byte{a, g.naaOf(2)}, segs: [][]byte{blockSegment(0, 1, 8, 0, 0)}}, "0A/0D01", 0, nil, 0, 0},
		{"other block size", copyList{cscds: [][]byte{append(append([]byte(nil), a[:28]...), 0, 0, 16, 0)}, segs: [][]byte{blockSegment(0, 0, 8, 0, 0)}}, "0A/0D02", 0, nil, 0, 0},
	}
	s := g.ready("a", 1)
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tc.list.usage = listDiscard
			before := bytes.Clone(disks[2].data)
			if got := s.xcopy(0, tc.list.bytes()).outcome(); got != tc.want {
				t.Fatalf("%s, want %s", got, tc.want)
			}
			if tc.to != nil && !bytes.Equal(tc.to.data[tc.dest:][:tc.n], disks[0].data[tc.from:][:tc.n]) {
				t.Error("not copied")
			}
			if !bytes.Equal(before, disks[2].data) {
				t.Error("the read-only unit was written")
			}
		})
	}
	if i := s.n.existing(0); i.copying != 0 || len(i.copies) != 7 {
		t.Logf("%d at work, %d records", i.copying, len(i.copies))
		if i.copying != 0 {
			t.Error("a copy never ended")
		}
	}
}

// TestCopyList is the parser's bounds.
func TestCopyList(t *testing.T) {
	g, disks := copyBench(t, 1)
	s := g.ready("a", 0)
	a := g.naaOf(0)
	seg := blockSegment(0, 0, 8, 0, 100)
	many := func(n int, d []byte) (out [][]byte) {
		for range n {
			out = append(out, d)
		}
		return out
	}
	good := copyList{cscds: [][]byte{a}, segs: [][]byte{seg}}.bytes()
	alter := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	tests := []struct {
		name string
		list []byte
		want string
	}{
		{"empty", nil, "good"},
		{"header cut", good[:15], "05/1A00"},
		{"CSCD cut", good[:47], "05/1A00"},
		{"segment cut", good[:75], "05/1A00"},
		{"half a CSCD", alter(3, 16), "05/1A00"},
		{"lists that wrap", alter(8, 0xff), "05/1A00"},
		{"inline data", alter(15, 1), "05/260B"},
		{"reserved list usage", alter(1, 1<<3), "05/2600"},
		{"no list, but an identifier", append([]byte{1, listNone}, good[2:]...), "05/2600"},
		{"no list", alter(1, listNone), "good"},
		{"Fibre Channel CSCD", alter(16, 0xe0), "05/2607"},
		{"stream segment", alter(48, 0x03), "05/2609"},
		{"length of a segment", alter(51, 20), "05/2600"},
		{"byte offset", copyList{cscds: [][]byte{a}, segs: [][]byte{append(byteSegment(0, 0, 512, 0, 9)[:31], 1)}}.bytes(), "05/2600"},
		{"too many CSCDs", copyList{cscds: many(maxCSCD+1, a), segs: [][]byte{seg}}.bytes(), "05/2606"},
		{"too many segments", copyList{cscds: [][]byte{a}, segs: many(maxSegments+1, seg)}.bytes(), "05/2608"},
		{"as many as may be", copyList{cscds: many(maxCSCD, a), segs: many(maxSegments, seg)}.bytes(), "good"},
		{"too long", make([]byte, copyHeader+maxCopyList+1), "05/1A00"},
	}
	for _, tc := range tests {
		clear(disks[0].data[100*512:][:512])
		if got := s.xcopy(0, tc.list).outcome(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// TestXcopyAuthority: a copy reaches only what its nexus may reach by READ and
// WRITE: units that it sees, that no reservation keeps it from, of this node.
func TestXcopyAuthority(t *testing.T) {
	g, disks := copyBench(t, 2)
	secret := g.naaOf(1)
	owner := g.ready("owner", 0)
	owner.do(1, cdb("00"), nil, 0)
	id := owner.n.ID
	id.InitiatorName = "iqn.2026-01.test:guest"
	guest := &session{g: g, n: g.dev.NewNexus(g.Reactors[1], id, func(lun uint16) bool { return lun == 0 })}
	guest.do(0, cdb("00"), nil, 0)
	out := copyList{cscds: [][]byte{g.naaOf(0), secret}, segs: [][]byte{blockSegment(1, 0, 1, 0, 0)}, usage: listDiscard}
	in := copyList{cscds: [][]byte{g.naaOf(0), secret}, segs: [][]byte{blockSegment(0, 1, 8, 0, 0)}, usage: listDiscard}
	disks[1].log = nil
	for name, l := range map[string]copyList{"out of a masked unit": out, "into a masked unit": in} {
		if got := guest.xcopy(0, l.bytes()).outcome(); got != "0A/0D02" || len(disks[1].log) != 0 {
			t.Errorf("%s: %s, %d I/Os", name, got, len(disks[1].log))
		}
	}
	if guest.n.existing(1) != nil {
		t.Error("the masked unit has an I_T_L nexus")
	}
	other := g.ready("other", 1)
	other.do(1, cdb("00"), nil, 0)
	if got := other.do(1, cdb("16"), nil, 0).outcome(); got != "good" {
		t.Fatal(got)
	}
	disks[1].log = nil
	for name, l := range map[string]copyList{"out of a reserved unit": out, "into a reserved unit": in} {
		if got := owner.xcopy(0, l.bytes()).outcome(); got != "0A/0D01" || len(disks[1].log) != 0 {
			t.Errorf("%s: %s, %d I/Os", name, got, len(disks[1].log))
		}
	}
	node := benchOn(g.Rig)
	node.dev.name = "iqn.2026-01.test:second"
	if _, err := node.dev.AddLUN(node, 0, bdev.New("elsewhere", bdev.UUID{}, newDisk(512, 64, 0)), LUNOptions{}); err != nil {
		t.Fatal(err)
	}
	away := copyList{cscds: [][]byte{g.naaOf(0), node.naaOf(0)}, segs: [][]byte{blockSegment(0, 1, 8, 0, 0)}, usage: listDiscard}
	if got := owner.xcopy(0, away.bytes()).outcome(); got != "0A/0D02" {
		t.Errorf("a unit of another node: %s", got)
	}
}

func TestCopyResults(t *testing.T) {
	g, _ := copyBench(t, 1)
	a, b := g.ready("a", 0), g.ready("b", 0)
	one := [][]byte{g.naaOf(0)}
	good := copyList{id: 5, cscds: one, segs: [][]byte{blockSegment(0, 0, 8, 0, 100)}}
	bad := copyList{id: 6, cscds: one, segs: [][]byte{blockSegment(0, 0, 8, 0, 100), blockSegment(0, 0, 8, 0, 9999)}}
	par := a.results(0, saCopyParameters, 0).data
	if len(par) != 47 || be.Uint32(par) != 43 || be.Uint16(par[8:]) != maxCSCD || be.Uint16(par[10:]) != maxSegments ||
		be.Uint32(par[12:]) != maxCopyList || be.Uint32(par[16:]) != maxSegmentSize || !bytes.Equal(par[43:], []byte{3, 2, 10, 0xe4}) {
		t.Errorf("operating parameters % x", par)
	}
	if got := a.results(0, saCopyStatus, 5).outcome(); got != "05/2400" {
		t.Errorf("before the copy: %s", got)
	}
	a.xcopy(0, good.bytes())
	if st := a.results(0, saCopyStatus, 5).data; !bytes.Equal(st, []byte{0, 0, 0, 8, copyGood, 0, 1, 1, 0, 0, 0, 4}) {
		t.Errorf("status % x", st)
	}
	if got := b.results(0, saCopyStatus, 5).outcome(); got != "05/2400" {
		t.Errorf("to another nexus: %s", got)
	}
	a.xcopy(0, bad.bytes())
	if st := a.results(0, saCopyStatus, 6).data; !bytes.Equal(st, []byte{0, 0, 0, 8, copyFailed, 0, 1, 1, 0, 0, 0, 4}) {
		t.Errorf("status of a failure % x", st)
	}
	d := a.results(0, saCopyDetails, 6).data
	if int(be.Uint32(d)) != len(d)-4 || d[56] != 2 || int(be.Uint16(d[58:])) != len(d)-60 || d[62]&15 != byte(CopyAborted) {
		t.Errorf("details % x", d)
	}
	if got := a.results(0, saCopyDetails, 6).outcome(); got != "05/2400" {
		t.Errorf("details are told once: %s", got)
	}
	good.usage, good.id = listDiscard, 7
	a.xcopy(0, good.bytes())
	if got := a.results(0, saCopyStatus, 7).outcome(); got != "05/2400" {
		t.Errorf("discarded: %s", got)
	}
	good.usage = listHold
	for id := range byte(100) {
		good.id = id
		a.xcopy(0, good.bytes())
	}
	if n := len(a.n.existing(0).copies); n != maxCopyRecords {
		t.Errorf("%d records", n)
	}
}

// TestCopyResultsGo: what was told goes, and what was not stays until the unit is
// reset (SPC-5 §6.23, §6.25).
func TestCopyResultsGo(t *testing.T) {
	g, disks := copyBench(t, 2)
	a := g.ready("a", 0)
	one := [][]byte{g.naaOf(0)}
	good := copyList{id: 5, cscds: one, segs: [][]byte{blockSegment(0, 0, 8, 0, 100)}}
	bad := copyList{id: 6, cscds: one, segs: [][]byte{blockSegment(0, 0, 8, 0, 9999)}}
	status := func(id byte, want string) {
		t.Helper()
		q := a.results(0, saCopyStatus, id)
		if got := q.outcome(); got != want && fmt.Sprintf("% x", q.data) != want {
			t.Errorf("status of %d: %s, % x, want %s", id, got, q.data, want)
		}
	}
	details := func(id byte, room byte, want int) {
		t.Helper()
		q := a.do(0, []byte{opReceiveCopy, saCopyDetails, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, room, 0, 0}, nil, uint32(room))
		if got := q.outcome(); want < 0 && got != "05/2400" || want >= 0 && (got != "good" || len(q.data) != want) {
			t.Errorf("details of %d: %s, % x", id, got, q.data)
		}
	}
	a.xcopy(0, good.bytes())
	details(5, 255, 4) // there are none, and that is all that goes
	status(5, "00 00 00 08 01 00 01 01 00 00 00 04")
	status(5, "05/2400")
	a.xcopy(0, bad.bytes())
	details(6, 60, 60)
	details(6, 255, 78)
	details(6, 255, 4)
	status(6, "00 00 00 08 02 00 00 01 00 00 00 00")
	details(6, 255, -1)
	a.xcopy(0, bad.bytes())
	details(6, 0, 0) // they are not wanted
	details(6, 255, 4)

	none := good
	good.id, none.id, none.usage, none.segs = 0, 0, listNone, [][]byte{blockSegment(0, 0, 16, 0, 100)}
	a.xcopy(0, good.bytes())
	a.xcopy(0, none.bytes()) // has no identifier, not even 0
	status(0, "00 00 00 08 01 00 01 01 00 00 00 04")

	good.id = 7
	a.xcopy(0, good.bytes())
	disks[0].stuck, disks[1].stuck = true, true
	run := copyList{id: 8, cscds: [][]byte{g.naaOf(0), g.naaOf(1)}, segs: [][]byte{byteSegment(0, 1, 1<<20, 0, 0)}}
	q := a.startCopy(0, run.bytes())
	for len(disks[1].fly) == 0 {
		disks[0].finish()
		g.turns(4)
	}
	disks[1].finish()
	g.turns(4)
	status(8, "00 00 00 08 00 00 01 01 00 00 01 00") // a piece, of the segment at work
	details(8, 255, -1)
	reset := false
	a.n.Manage(&Management{Fn: FnLUNReset, Done: func(uint8) { reset = true }})
	disks[0].stuck, disks[1].stuck = false, false
	disks[0].finish()
	disks[1].finish()
	g.Until("reset", func() bool { return reset && q.done })
	a.do(0, cdb("00"), nil, 0) // the unit attention
	status(7, "05/2400")
	status(8, "05/2400")
}

// TestCopyResultsMove: what is kept moves with its nexus, and not past a reset.
func TestCopyResultsMove(t *testing.T) {
	for k := range 36 {
		wait, by := k/2-9, k%2 // turns between a reset and the move, whichever is first
		g, _ := copyBench(t, 2)
		a, o := g.ready("a", 0), g.ready("b", by)
		a.xcopy(0, copyList{id: 5, cscds: [][]byte{g.naaOf(0)}, segs: [][]byte{blockSegment(0, 0, 8, 0, 100)}}.bytes())
		moved, reset, want := false, false, "05/2400"
		steps := []func(){
			func() {
				r := g.Reactors[1]
				r.Post(&reactor.Msg{Run: func(*reactor.Reactor) { a.n.Move(r, func() { moved = true }) }})
			},
			func() { o.n.Manage(&Management{Fn: FnLUNReset, Done: func(uint8) { reset = true }}) },
		}
		if wait < 0 {
			steps[0], steps[1] = steps[1], steps[0]
		}
		steps[0]()
		g.turns(max(wait, -wait))
		if wait == 8 { // none
			steps[1], want = func() { reset = true }, "good"
		}
		steps[1]()
		g.Until("move and reset", func() bool { return moved && reset })
		for a.do(0, cdb("00"), nil, 0).Status != Good { // unit attentions
		}
		if got := a.results(0, saCopyStatus, 5).outcome(); got != want {
			t.Errorf("%d turns between, reset by reactor %d: %s, want %s", wait, by, got, want)
		}
	}
}

// TestCopyEnds: aborts, resets, reservations and removal stop a copy between
// two pieces; nothing of it stays.
func TestCopyEnds(t *testing.T) {
	tests := []struct {
		name string
		stop func(g *bench, s, o *session, q *request)
		want string
	}{
		{"abort", func(_ *bench, _, _ *session, q *request) { q.Abort() }, "aborted"},
		{"reset of its unit", func(_ *bench, _, o *session, _ *request) {
			o.n.Manage(&Management{Fn: FnLUNReset, Done: func(uint8) {}})
		}, "aborted"},
		{"reset of the destination", func(_ *bench, _, o *session, _ *request) {
			o.n.Manage(&Management{Fn: FnLUNReset, LUN: EncodeLUN(1), Done: func(uint8) {}})
		}, "0A/0D01"},
		{"reserve of the destination", func(_ *bench, _, o *session, _ *request) { o.start(1, cdb("16"), nil, 0, AttrSimple) }, "0A/0D01"},
		{"end of the nexus", func(_ *bench, s, _ *session, _ *request) { s.n.Close(func() {}) }, "aborted"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g, disks := copyBench(t, 2)
			s, o := g.ready("a", 0), g.ready("b", 1)
			s.do(1, cdb("00"), nil, 0)
			o.do(1, cdb("00"), nil, 0)
			for _, d := range disks {
				d.stuck, d.keep = true, false
			}
			used := g.Arena().InUse()
			q := s.startCopy(0, copyList{cscds: [][]byte{g.naaOf(0), g.naaOf(1)}, segs: [][]byte{byteSegment(0, 1, 2<<20, 0, 0)}}.bytes())
			step := func() {
				for _, d := range disks {
					d.finish()
				}
				g.turns(4)
			}
			step()
			for len(disks[1].fly) == 0 { // until a write is in flight
				step()
			}
			if q.done {
				t.Fatal("done too soon")
			}
			tc.stop(g, s, o, q)
			g.turns(4) // it is there before the write ends
			for range 6 {
				step()
			}
			if !q.done || q.outcome() != tc.want || g.Arena().InUse() != used {
				t.Errorf("done %v, %s; %d bytes out", q.done, q.outcome(), g.Arena().InUse()-used)
			}
		})
	}
}

// TestCopyRemoved: the destination goes away under a copy.
func TestCopyRemoved(t *testing.T) {
	g, disks := copyBench(t, 2)
	s := g.ready("a", 0)
	disks[0].stuck = true
	q := s.startCopy(0, copyList{cscds: [][]byte{g.naaOf(0), g.naaOf(1)}, segs: [][]byte{byteSegment(0, 1, 2<<20, 0, 0)}}.bytes())
	g.turns(6)
	if err := g.dev.RemoveLUN(g, 1); err != nil {
		t.Fatal(err)
	}
	disks[0].finish()
	g.Until("copy", func() bool { return q.done })
	if q.outcome() != "0A/0D02" {
		t.Errorf("%s", q.outcome())
	}
}

// TestCopyAbortReachesItsPiece: who aborts a copy does not wait for a device that
// would only end the I/O at work when it is told that nobody wants it.
func TestCopyAbortReachesItsPiece(t *testing.T) {
	g, disks := copyBench(t, 1)
	s := g.ready("a", 0)
	disks[1].stuck = true
	q := s.startCopy(0, copyList{cscds: [][]byte{g.naaOf(0), g.naaOf(1)}, segs: [][]byte{byteSegment(0, 1, 2<<20, 0, 0)}}.bytes())
	g.Until("the write", func() bool { return len(disks[1].fly) == 1 })
	q.Abort()
	if disks[1].aborts != 1 {
		t.Errorf("the write was aborted %d times", disks[1].aborts)
	}
	disks[1].finish()
	g.turns(4)
	if q.outcome() != "aborted" || len(disks[1].fly) != 0 {
		t.Errorf("%s, %d in flight", q.outcome(), len(disks[1].fly))
	}
}
