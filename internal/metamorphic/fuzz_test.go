package metamorphic

import (
	"testing"

	"spindle/iscsi/dialogue/linktest"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// FuzzDevices sends any CDB with any data-out to each kind of LUN, through the
// whole target. Properties: a response within what was expected, with sense
// exactly when it is CHECK CONDITION and a residual that fits; stacked on malloc
// it ends as on malloc; where every device that keeps data did it, they hold the
// same afterwards; everything comes home.
func FuzzDevices(f *testing.F) {
	for _, o := range list(1, 50) {
		f.Add(o.cdb, o.out, o.edtl, o.dir)
	}
	for _, c := range [][]byte{ // past failures of other targets: LBA wrap, no data buffer, parameter lists that end early
		cdb16(0x88, 1<<64-1, 1), cdb16(0x88, 1<<64-256, 1<<24+1), cdb16(0x93, 1<<64-1, 1), cdb16(0x9e, 1<<64-1, 8),
		cdb10(0x42, 0, 1<<16-1), cdb10(0x41, 1<<32-1, 1<<16-1), {0x93, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0},
		{0x3c, 2, 0, 0, 0, 0, 0, 16, 0, 0}, {0x3b, 2, 0, 0, 0, 0, 0, 16, 0, 0}, {0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0},
		{0x15, 0x10, 0, 0, 255, 0}, {0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0},
	} {
		f.Add(c, []byte(nil), uint32(4096), byte(pdu.FlagRead))
		f.Add(c, make([]byte, 512), uint32(512), byte(pdu.FlagWrite))
		f.Add(c, []byte{0, 22, 0, 16}, uint32(4), byte(pdu.FlagWrite))
	}
	f.Fuzz(func(t *testing.T, cdb, out []byte, edtl uint32, dir byte) {
		if len(cdb) == 0 || len(cdb) > 16 || len(out) > 4<<10 || edtl > 4<<20 {
			return
		}
		o := op{cdb: cdb, dir: dir & (pdu.FlagRead | pdu.FlagWrite), edtl: edtl}
		switch o.dir {
		case pdu.FlagWrite:
			o.out, o.edtl = out, uint32(len(out))
		case 0:
			o.edtl = 0
		case pdu.FlagRead | pdu.FlagWrite:
			o.dir = pdu.FlagRead
		}
		g := iscsitest.New(t, iscsitest.Options{Memory: 32 << 20, LUNs: luns})
		closeFiles(t, g)
		results := make([]outcome, len(kinds))
		held := make([]outcome, len(kinds))
		for lun := range kinds {
			l, err := linktest.DialSim(g)
			if err != nil {
				t.Fatal(err)
			}
			i, err := login(l, iscsitest.Node, uint16(lun), allTerms[2])
			if err != nil {
				t.Fatal(err)
			}
			if results[lun], err = i.run(o); err != nil {
				t.Fatalf("%s: %v", kinds[lun], err)
			}
			check(t, o, results[lun])
			if held[lun], err = i.run(op{cdb: cdb10(0x28, 0, 64), dir: pdu.FlagRead, edtl: 64 * blockSize}); err != nil {
				t.Fatal(err)
			}
			l.Close()
		}
		ram, stack := results[reference], results[len(kinds)-1]
		if ram.status != stack.status || ram.sense != stack.sense || ram.flags != stack.flags || ram.residual != stack.residual {
			t.Errorf("%v:\n\tmalloc  %v\n\tstacked %v", o, ram, stack)
		}
		for lun := reference; lun < len(kinds); lun++ {
			if results[lun].status == 0 && ram.status == 0 && held[lun].status == 0 && held[reference].status == 0 &&
				string(held[lun].data) != string(held[reference].data) {
				t.Errorf("%v: %s holds something else than malloc", o, kinds[lun])
			}
		}
	})
}

// check holds an outcome to what a response may be (RFC 7143 §11.4).
func check(t *testing.T, o op, r outcome) {
	t.Helper()
	switch {
	case r.status != 0 && r.status != 2 && r.status != 4 && r.status != 0x18:
		t.Errorf("%v: status %02x", o, r.status)
	case (r.sense != "") != (r.status == 2):
		t.Errorf("%v: status %02x with %d bytes of sense", o, r.status, len(r.sense))
	case uint32(len(r.data)) > o.edtl || len(r.data) > 0 && o.dir != pdu.FlagRead:
		t.Errorf("%v: %d bytes of data", o, len(r.data))
	case r.flags == pdu.FlagUnderfl && (r.residual == 0 || r.residual > o.edtl):
		t.Errorf("%v: underflow by %d", o, r.residual)
	case r.flags == pdu.FlagOverflow && r.residual == 0, r.flags == 0 && r.residual != 0, r.flags == pdu.FlagOverflow|pdu.FlagUnderfl:
		t.Errorf("%v: flags %02x residual %d", o, r.flags, r.residual)
	case o.dir == pdu.FlagRead && r.status == 0 && r.flags&pdu.FlagUnderfl != 0 && uint32(len(r.data))+r.residual != o.edtl:
		t.Errorf("%v: %d bytes and a residual of %d", o, len(r.data), r.residual)
	}
}
