package scsi

import (
	"testing"

	"spindle/bdev"
	"spindle/internal/invariants"
)

// TestNoAllocation: READ, WRITE and the commands under a hold allocate nothing, whether the device
// ends them inside Submit or later.
func TestNoAllocation(t *testing.T) {
	if invariants.Enabled {
		t.Skip("the race detector allocates")
	}
	for _, tc := range []struct {
		name  string
		stuck bool
		caps  bdev.Caps
		cdb   string
	}{
		{"read", false, allCaps, read5},
		{"write", false, allCaps, write5},
		{"read later", true, allCaps, read5},
		{"write later", true, allCaps, write5},
		{"compare and write", false, allCaps, caw5},
		{"compare and write later", true, allCaps, caw5},
		{"orwrite", false, allCaps, "8b 00 00 00 00 00 00 00 00 05 00 00 00 01"},
		{"write same", false, 0, "41 00 00 00 00 05 00 00 01"},
		{"lent", false, allCaps | bdev.CapLend, read5},
		{"live", false, allCaps | bdev.CapLive, read5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 1)
			d := newDisk(512, 100, tc.caps)
			g.add(0, d, LUNOptions{})
			s := g.ready("a", 0)
			d.keep, d.stuck = false, tc.stuck
			d.fly, d.queue = make([]*bdev.IO, 0, 1), make([]*bdev.IO, 0, 1)
			q := &idleRequest{}
			copy(q.CDB[:], cdb(tc.cdb))
			q.CDBLen, q.EDTL, q.Owner = 16, 512, q
			if tc.cdb == caw5 {
				q.EDTL = 1024
			}
			buf := g.Buffer(4096)
			clear(buf.Bytes())
			n := testing.AllocsPerRun(1000, func() {
				s.n.Begin(&q.Task, 0)
				q.done = false
				if q.Prepare() != Ready {
					t.Fatal("not ready")
				}
				q.Data, q.Live = buf, q.MayLive
				if q.Execute() == Waiting {
					for range 2 {
						d.finish()
					}
					if !q.done {
						t.Fatal("not done")
					}
				}
				if q.Status != Good {
					t.Fatal(q.Status)
				}
				q.End()
				g.Turn()
			})
			if n != 0 {
				t.Errorf("%v allocations a command", n)
			}
		})
	}
}

type idleRequest struct {
	Task
	done bool
}

func (q *idleRequest) TaskDone(*Task)  { q.done = true }
func (q *idleRequest) TaskAbort(*Task) {}

func BenchmarkRead4K(b *testing.B) {
	g := newBench(b, 1)
	d := newDisk(4096, 100, allCaps|bdev.CapLend)
	g.add(0, d, LUNOptions{})
	s := g.ready("a", 0)
	d.keep = false
	q := &idleRequest{}
	copy(q.CDB[:], cdb(read5))
	q.CDBLen, q.EDTL, q.Owner = 16, 4096, q
	b.SetBytes(4096)
	b.ReportAllocs()
	for b.Loop() {
		s.n.Begin(&q.Task, 0)
		q.Prepare()
		q.Execute()
		q.End()
	}
}
