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
	f.Add(cdb(read5), []byte(nil), uint32(512))
	f.Add(cdb(caw5), fill(0, 1024), uint32(1024))
	rig := bdevtest.NewRig(f, 1, nil) // a rig's memory lives as long as the process
	f.Fuzz(func(t *testing.T, c, out []byte, edtl uint32) {
		if len(c) == 0 || len(c) > MaxCDB || len(out) > 1<<20 {
			return
		}
		mine := *rig
		mine.T = t
		g := benchOn(&mine)
		thin := newDisk(512, 4096, allCaps)
		thin.keep = false
		g.add(0, thin, LUNOptions{})
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
			// SANITIZE may be at work: it is done before a tenth of a second is over.
			for range 100 {
				if s.do(0, cdb("00"), nil, 0).Status == Good {
					break
				}
				g.Advance(time.Millisecond)
			}
		}
	})
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
