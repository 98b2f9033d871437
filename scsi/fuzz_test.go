package scsi

import (
	"bytes"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
)

// FuzzCDB sends any CDB with any data-out to a thin unit, a plain one and an
// absent one. Properties: no panic; a valid status, with sense exactly when it
// is CHECK CONDITION; no more data than the CDB and the buffer allow; the data
// holds nothing of the buffer's past; a TEST
// UNIT READY afterwards works.
func FuzzCDB(f *testing.F) {
	for _, r := range newTable().rows {
		c := append([]byte(nil), r.usage...)
		f.Add(c, []byte(nil), uint32(4096))
		f.Add(c, fill(1, 1024), uint32(1024))
	}
	addLists(f)
	f.Add(cdb(read5), []byte(nil), uint32(512))
	f.Add(cdb(caw5), fill(0, 1024), uint32(1024))
	rig := bdevtest.NewRig(f, 1, nil) // a rig's memory lives as long as the process
	f.Fuzz(func(t *testing.T, c, out []byte, edtl uint32) {
		if len(c) == 0 || len(c) > MaxCDB || len(out) > 1<<20 {
			return
		}
		mine := *rig
		mine.T = t
		mine.Tick = func(d time.Duration) { mine.Clock.Advance(1000 * d) } // SANITIZE has a pace
		g := benchOn(&mine)
		thin := newDisk(512, 4096, allCaps)
		thin.keep = false
		g.dev.SetPorts([]uint16{1, 2})
		g.add(0, thin, LUNOptions{Removable: true})
		g.add(1, newDisk(4096, 16, bdev.CapFlush), LUNOptions{})
		s := g.ready("a", 0)
		s.do(1, cdb("00"), nil, 0)
		for lun := range uint16(3) {
			q := s.begin(lun, c, nil, edtl, AttrSimple)
			if len(out) != 0 {
				q.EDTL = uint32(len(out))
			}
			q.run(out)
			g.Until("command", func() bool { return q.done })
			checkOutcome(t, q)
			for k := 0; s.do(0, cdb("00"), nil, 0).Status != Good; k++ {
				s.setPorts(0, 1)                       // its path may be in standby
				s.do(0, cdb("1b 00 00 00 03"), nil, 0) // or it may have been ejected
				g.Turn()                               // or SANITIZE is at work
				if k == 10000 {
					t.Fatalf("% x left the unit not ready", c)
				}
			}
		}
	})
}

// addLists adds the commands with a parameter list that their parsers take
// apart, each with a good one.
func addLists(f *testing.F) {
	g := newBench(f, 1)
	g.add(0, newDisk(512, 4096, allCaps), LUNOptions{})
	naa := g.naaOf(0)
	add := func(c string, at int, list []byte) {
		b := cdb(c)
		be.PutUint16(b[at:], uint16(len(list)))
		f.Add(b, list, uint32(len(list)))
	}
	add("15 10 00", 3, append([]byte{0, 0, 0, 0, pageControl, 10, 4, 0x10, 8}, fill(0, 7)...)) // the length ends up in byte 4
	add("55 10", 7, append([]byte{0, 0, 0, 0, 0, 0, 0, 0, pageCaching, 18}, fill(0, 18)...))
	add("42", 7, append([]byte{0, 22, 0, 16, 0, 0, 0, 0}, fill(0, 16)...))
	id := transport("iqn.2026-01.test:b,i,0x400102030401")
	add("5f 00", 7, specList(7, prAllTgPt, id, id))
	add("5f 07", 7, moveList(7, 8, prMoveUnreg, 1, id))
	add("5f 04 05", 7, prOutList(7, 8, 0))
	add("a4 0a", 8, []byte{0, 0, 0, 0, 2, 0, 0, 1})
	_, list := overwrite(0, 1, fill(0xaa, 16))
	add("48 01", 7, list)
	add("83", 12, copyList{id: 1, cscds: [][]byte{naa}, segs: [][]byte{blockSegment(0, 0, 8, 0, 100), byteSegment(0, 0, 4096, 0, 64)}}.bytes())
	f.Add(long32(13, 0, 5, 10), fill(1, 512), uint32(512))
}

func checkOutcome(t *testing.T, q *request) {
	t.Helper()
	switch q.Status {
	case Good, ReservationConflict:
		if q.SenseLen != 0 {
			t.Errorf("% x: status %#x with sense", q.CDB[:16], q.Status)
		}
	case CheckCondition:
		if q.SenseLen < 8 || q.SenseLen > MaxSense || q.DataLen != 0 {
			t.Errorf("% x: sense % x, %d bytes of data", q.CDB[:16], q.Sense[:q.SenseLen], q.DataLen)
		}
	default:
		t.Errorf("% x: status %#x", q.CDB[:16], q.Status)
	}
	if q.DataLen > q.Want || q.DataLen != 0 && q.Dir != DataIn || q.Want+q.Scratch > 4<<20 {
		t.Errorf("% x: %d bytes of data, want %d and %d, direction %d", q.CDB[:16], q.DataLen, q.Want, q.Scratch, q.Dir)
	}
	// The harness fills buffers with CC; a run of it in parameter data came from there.
	if q.op != nil && q.op.flags&cmdMedium == 0 && bytes.Contains(q.data, fill(0xcc, 4)) {
		t.Errorf("% x: data holds old memory: % x", q.CDB[:16], q.data)
	}
}
