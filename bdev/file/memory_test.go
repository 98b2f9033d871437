package file_test

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/file"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/simring"
)

// poor is a ring whose kernel has no memory for the next writes, or syncs.
type poor struct {
	ring.Ring
	writes, syncs int
	short         map[ring.Tag]bool
}

func (r *poor) Write(t ring.Tag, f ring.File, b mem.Ref, off int64, fl ring.WriteFlags) bool {
	if r.writes > 0 {
		r.writes--
		r.short[t] = true
	}
	return r.Ring.Write(t, f, b, off, fl)
}

func (r *poor) Sync(t ring.Tag, f ring.File) bool {
	if r.syncs > 0 {
		r.syncs--
		r.short[t] = true
	}
	return r.Ring.Sync(t, f)
}

func (r *poor) Enter(out []ring.CQE, until clock.Time) (int, error) {
	n, err := r.Ring.Enter(out, until)
	for i := range out[:n] {
		if r.short[out[i].Tag] {
			delete(r.short, out[i].Tag)
			out[i].Res = -int32(syscall.ENOMEM)
		}
	}
	return n, err
}

// TestNoMemory: a write that the kernel has no memory for is made again, and the
// device outlives one that it never has; a sync may have lost what it was for.
func TestNoMemory(t *testing.T) {
	r := &poor{short: map[ring.Tag]bool{}}
	s := &sim{}
	s.Rig = bdevtest.NewRig(t, 1, func(g *bdevtest.Rig) ring.Ring {
		s.world = simring.New(simring.Config{Rand: rand.New(rand.NewPCG(1, 9)), Clock: g.Clock, DiskLatency: 50 * time.Microsecond})
		s.world.AddDisk(path, simring.DiskOptions{Size: 1 << 20})
		g.Tick = func(d time.Duration) { s.world.Advance(d) }
		r.Ring = s.world.NewRing(g.Arena())
		return r
	})
	d := s.device(file.Config{})
	ch, buf := s.Open(d, 0), s.filled(4096, 1)
	write := func(fl bdev.Flags) bdev.Status { return s.Do(ch, bdevtest.NewCall(bdev.Write, 0, 8, buf, fl)) }
	for _, fl := range []bdev.Flags{0, bdev.FUA} {
		r.writes = 3
		if st := write(fl); st != bdev.OK || r.writes != 0 {
			t.Errorf("flags %d: %v", fl, st)
		}
		r.writes = 1000
		if st := write(fl); st != bdev.Failed || d.Info().Failure != "" {
			t.Errorf("flags %d, without an end: %v, failure %q", fl, st, d.Info().Failure)
		}
		r.writes = 0
	}
	s.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
	r.syncs = 1
	if st := s.Do(ch, bdevtest.NewCall(bdev.Flush, 0, 0, mem.Ref{}, 0)); st != bdev.Failed || d.Info().Failure == "" {
		t.Errorf("flush: %v, failure %q", st, d.Info().Failure)
	}
}
