package scsi

import (
	"testing"

	"spindle/bdev"
	"spindle/reactor"
)

// inlineDisk is a disk that ends writes inside Submit.
type inlineDisk struct{ *disk }

type inlineChannel struct{ bdev.Channel }

func (d inlineDisk) Open(r *reactor.Reactor) (bdev.Channel, error) {
	ch, err := d.disk.Open(r)
	return inlineChannel{ch}, err
}

func (inlineChannel) Inline() bool { return true }

// TestMayInline: what Execute ends at once, and what it may not.
func TestMayInline(t *testing.T) {
	for _, tc := range []struct {
		name  string
		later bool // the device ends it later
		cdb   string
		out   int
		attr  Attr
		may   bool
	}{
		{"WRITE(6)", false, "0a 00 00 05 01 00", 512, AttrSimple, true},
		{"WRITE(10)", false, write5, 512, AttrSimple, true},
		{"WRITE(12)", false, "aa 00 00 00 00 05 00 00 00 01 00 00", 512, AttrSimple, true},
		{"WRITE(16)", false, "8a 00 00 00 00 00 00 00 00 05 00 00 00 01 00 00", 512, AttrHeadOfQueue, true},
		{"a device that ends later", true, write5, 512, AttrSimple, false},
		{"ORDERED", false, write5, 512, AttrOrdered, false},
		{"READ", false, read5, 0, AttrSimple, false},
		{"COMPARE AND WRITE", false, caw5, 1024, AttrSimple, false},
		{"WRITE AND VERIFY", false, "2e 02 00 00 00 05 00 00 01", 512, AttrSimple, false},
		{"VERIFY", false, "2f 02 00 00 00 05 00 00 01", 512, AttrSimple, false},
		{"WRITE SAME", false, "41 00 00 00 00 05 00 00 01", 512, AttrSimple, false},
		{"ORWRITE", false, "8b 00 00 00 00 00 00 00 00 05 00 00 00 01", 512, AttrSimple, false},
		{"WRITE ATOMIC", false, "9c 00 00 00 00 00 00 00 00 05 00 00 00 01", 512, AttrSimple, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 1)
			var d bdev.Device = inlineDisk{newDisk(512, 100, 0)} // no cache that could tear a WRITE ATOMIC
			if tc.later {
				d = d.(inlineDisk).disk
			}
			g.add(0, d, LUNOptions{})
			q := g.ready("a", 0).begin(0, cdb(tc.cdb), make([]byte, tc.out), 512, tc.attr)
			if q.Prepare() != Ready || q.MayInline() != tc.may {
				t.Errorf("%s, may %v", q.outcome(), q.MayInline())
			}
			q.finish()
		})
	}
}

// TestMayInlineShielded: data that travels with its protection information is
// taken apart in a buffer.
func TestMayInlineShielded(t *testing.T) {
	g := newBench(t, 1)
	d := newDisk(512, 100, allCaps)
	d.info.Protected = true
	g.add(0, inlineDisk{d}, LUNOptions{})
	s := g.ready("a", 0)
	for c, may := range map[string]bool{write5: true, "2a 20 00 00 00 05 00 00 01": false} {
		q := s.begin(0, cdb(c), make([]byte, 520), 0, AttrSimple)
		if q.Prepare() != Ready || q.MayInline() != may {
			t.Errorf("%s: %s, may %v", c, q.outcome(), q.MayInline())
		}
		q.finish()
	}
}

// TestMayInlineGuarded: a WRITE may have to wait while a hold stands or is asked
// for, and while its view is not active.
func TestMayInlineGuarded(t *testing.T) {
	g := newBench(t, 2)
	d := newDisk(512, 100, allCaps)
	g.add(0, inlineDisk{d}, LUNOptions{})
	home, s := g.ready("a", 0), g.session("b", 1)
	may := func() bool {
		q := s.begin(0, cdb(write5), fill(1, 512), 0, AttrSimple)
		defer q.finish()
		return q.Prepare() == Ready && q.MayInline()
	}
	s.do(0, cdb("00 00 00 00 00 00"), nil, 0)
	if may() {
		t.Error("while the view is not active")
	}
	g.turns(10)
	if !may() {
		t.Error("not when the view is active")
	}
	d.stuck = true
	caw := home.issue(caw5, append(fill(0, 512), fill(2, 512)...))
	g.turns(10)
	if may() {
		t.Error("while a hold stands")
	}
	d.stuck = false
	d.finish()
	g.turns(10)
	if !caw.done || !may() {
		t.Errorf("not when the hold is over: %s", caw.outcome())
	}
}
