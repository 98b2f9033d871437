package scsi

import (
	"testing"

	"spindle/bdev"
)

// startLive runs a READ of block 5 until its data lies on the medium.
func (s *session) startLive() *request {
	s.g.T.Helper()
	q := s.begin(0, cdb(read5), nil, 512, AttrSimple)
	if q.Prepare() != Ready || q.Lend || !q.MayLive {
		s.g.T.Fatalf("%s: a READ cannot be live", q.outcome())
	}
	q.Live = true
	q.buf, _ = s.g.Arena().Alloc(q.Want)
	q.Data = q.buf
	if q.Execute() != Done || q.Medium.Len != 512 || q.DataLen != 512 {
		s.g.T.Fatalf("%s: %d bytes on the medium", q.outcome(), q.Medium.Len)
	}
	return q
}

// TestLiveReadIsInTheBackend: while a READ's data lies on the medium, what has to
// stay apart from the READ waits: an ORDERED write, COMPARE AND WRITE, a
// management function; a plain write does not. All go on when the data has been
// copied or sent.
func TestLiveReadIsInTheBackend(t *testing.T) {
	for _, tc := range []struct {
		name  string
		cdb   string
		out   []byte
		attr  Attr
		waits bool
	}{
		{"write", write5, fill(2, 512), AttrSimple, false},
		{"ORDERED write", write5, fill(2, 512), AttrOrdered, true},
		{"COMPARE AND WRITE", caw5, append(fill(0, 512), fill(2, 512)...), AttrSimple, true},
	} {
		for _, copied := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				g := newBench(t, 1)
				d := newDisk(512, 100, allCaps|bdev.CapLive)
				g.add(0, d, LUNOptions{})
				s, other := g.ready("a", 0), g.ready("b", 0)
				q := s.startLive()
				w := other.start(0, cdb(tc.cdb), tc.out, 0, tc.attr)
				m := s.managing(FnAbortTaskSet, 0, nil)
				g.turns(10)
				if w.done == tc.waits {
					t.Errorf("the other command: done %v", w.done)
				}
				if *m != -1 {
					t.Error("management was answered before the data was away")
				}
				if copied {
					q.Settle(0)
					if q.Data.Bytes()[511] != 0 || !q.Medium.Empty() {
						t.Errorf("copied byte %d", q.Data.Bytes()[511])
					}
				}
				q.finish()
				g.turns(10)
				if w.outcome() != "good" || *m != RespComplete || d.data[5*512] != 2 || d.lent != 0 {
					t.Errorf("%s, management %d, byte %d, %d lent", w.outcome(), *m, d.data[5*512], d.lent)
				}
			})
		}
	}
}

// TestLiveReadIsNotCleared: the task has its response; a CLEAR TASK SET of another
// nexus waits for it and has nothing to tell.
func TestLiveReadIsNotCleared(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 100, allCaps|bdev.CapLive), LUNOptions{})
	s, other := g.ready("a", 0), g.ready("b", 0)
	q := s.startLive()
	m := other.managing(FnClearTaskSet, 0, nil)
	g.turns(10)
	if *m != -1 || q.told != 0 {
		t.Errorf("answer %d, told %d times, before the response has left", *m, q.told)
	}
	q.finish()
	g.turns(10)
	if got := s.do(0, cdb("00"), nil, 0).outcome(); *m != RespComplete || got != "good" {
		t.Errorf("answer %d, then %s", *m, got)
	}
}
