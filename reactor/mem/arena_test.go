package mem

import (
	"math/rand/v2"
	"testing"

	"spindle/internal/invariants"
)

func newTestArena(t testing.TB, size uint64) *Arena {
	t.Helper()
	a, err := NewSpace().NewArena(size, -1)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestArenaClasses(t *testing.T) {
	for _, tc := range []struct {
		name string
		n    uint32
		want uint64 // bytes in use; 0 is a refusal
	}{
		{"nothing", 0, 0},
		{"one byte", 1, MinBlock},
		{"a block", MinBlock, MinBlock},
		{"a block and a byte", MinBlock + 1, 2 * MinBlock},
		{"128 KiB", 128 << 10, 128 << 10},
		{"just below the largest", MaxBlock - 1, MaxBlock},
		{"largest", MaxBlock, MaxBlock},
		{"too large", MaxBlock + 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newTestArena(t, MaxBlock)
			r, ok := a.Alloc(tc.n)
			if ok != (tc.want != 0) || a.InUse() != tc.want {
				t.Fatalf("Alloc(%d) = %v, %v with %d bytes in use, want %d", tc.n, r, ok, a.InUse(), tc.want)
			}
			if !ok {
				return
			}
			if r.Len != tc.n || !a.Region().Contains(r) || a.AllHome() {
				t.Fatalf("Ref %+v of region %+v, all home %v", r, a.Region(), a.AllHome())
			}
			a.Free(r)
			if !a.AllHome() || a.InUse() != 0 {
				t.Fatalf("%d bytes in use after Free", a.InUse())
			}
		})
	}
}

func TestArenaSteadyLoadNeitherSplitsNorJoins(t *testing.T) {
	a := newTestArena(t, 2*MaxBlock)
	cycle := func() {
		var held [24]Ref
		for i := range held {
			r, ok := a.Alloc(MinBlock << (i % 6))
			if !ok {
				t.Fatal("no block")
			}
			held[i] = r
		}
		for _, r := range held {
			a.Free(r)
		}
	}
	cycle()
	before := a.Stats()
	if n := testing.AllocsPerRun(100, cycle); n != 0 {
		t.Errorf("%v heap allocations a cycle", n)
	}
	after := a.Stats()
	if after.Splits != before.Splits || after.Joins != before.Joins {
		t.Errorf("splits %d -> %d, joins %d -> %d", before.Splits, after.Splits, before.Joins, after.Joins)
	}
}

func TestArenaJoinsWhenItWouldFail(t *testing.T) {
	a := newTestArena(t, 2*MaxBlock)
	var small []Ref
	for {
		r, ok := a.Alloc(MinBlock)
		if !ok {
			break
		}
		small = append(small, r)
	}
	if len(small) != 2*chunkUnits || a.Stats().Failures != 1 {
		t.Fatalf("%d blocks, %d failures", len(small), a.Stats().Failures)
	}
	for i, r := range small {
		if i != 0 {
			a.Free(r)
		}
	}
	if got := a.Stats().Free[0]; got != uint64(len(small)-1) {
		t.Fatalf("%d free smallest blocks: Free has joined", got)
	}
	big, ok := a.Alloc(MaxBlock) // the chunk of small[0] cannot give it, the other can
	if !ok {
		t.Fatal("free buddies were not joined")
	}
	if _, ok := a.Alloc(MaxBlock); ok {
		t.Fatal("a block was made of a chunk in use")
	}
	half, ok := a.Alloc(MaxBlock / 2)
	if !ok {
		t.Fatal("half a chunk is free")
	}
	for _, r := range []Ref{big, half, small[0]} {
		a.Free(r)
	}
	if !a.AllHome() {
		t.Fatal("not all home")
	}
}

// A failing allocation after every free must not sweep the arena each time.
func TestArenaFailureIsCheapWithoutFrees(t *testing.T) {
	a := newTestArena(t, MaxBlock)
	for {
		if _, ok := a.Alloc(MinBlock); !ok {
			break
		}
	}
	if a.join(1) {
		t.Fatal("joined blocks in use")
	}
	for i := range a.chunkDirty {
		if a.chunkDirty[i] {
			t.Fatalf("chunk %d dirty though nothing was freed", i)
		}
	}
}

func TestArenaDetectsWrongFrees(t *testing.T) {
	for _, tc := range []struct {
		name string
		ref  func(a, other *Arena) Ref
	}{
		{"twice", func(a, _ *Arena) Ref { r, _ := a.Alloc(8192); a.Free(r); return r }},
		{"foreign", func(_, o *Arena) Ref { r, _ := o.Alloc(8192); return r }},
		{"inside a block", func(a, _ *Arena) Ref { r, _ := a.Alloc(8192); return r.Slice(MinBlock, MinBlock) }},
		{"unaligned", func(a, _ *Arena) Ref { r, _ := a.Alloc(8192); return r.Slice(1, 8191) }},
		{"shortened below its class", func(a, _ *Arena) Ref { r, _ := a.Alloc(8192); return r.Slice(0, 4096) }},
		{"beyond the end", func(a, _ *Arena) Ref {
			return Ref{Addr: a.base + uintptr(a.region.Len), Len: 1, Region: a.region.Index}
		}},
		{"empty", func(*Arena, *Arena) Ref { return Ref{} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewSpace()
			a, err := s.NewArena(MaxBlock, -1)
			if err != nil {
				t.Fatal(err)
			}
			other, err := s.NewArena(MaxBlock, -1)
			if err != nil {
				t.Fatal(err)
			}
			r := tc.ref(a, other)
			defer func() {
				if recover() == nil {
					t.Errorf("Free(%+v) passed", r)
				}
			}()
			a.Free(r)
		})
	}
}

func TestArenaMangles(t *testing.T) {
	if !invariants.Enabled {
		t.Skip("invariants are not compiled in")
	}
	a := newTestArena(t, MaxBlock)
	r, _ := a.Alloc(MinBlock + 1)
	a.Free(r)
	for i, b := range (Ref{Addr: r.Addr, Len: 2 * MinBlock}).Bytes() {
		if b != 0xCC {
			t.Fatalf("byte %d of a returned block is %#x", i, b)
		}
	}
}

// The model is a map of which unit belongs to whom; every block is written with
// its owner's number and read back before it is freed.
func TestArenaAgainstModel(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		a := newTestArena(t, 4*MaxBlock)
		owner := make([]int, len(a.state))
		held := map[int]Ref{}
		var ids []int
		var inUse uint64
		free := func(i int) {
			id := ids[i]
			ids[i] = ids[len(ids)-1]
			ids = ids[:len(ids)-1]
			r := held[id]
			delete(held, id)
			first := int(r.Addr-a.base) / MinBlock
			for u := 0; u < 1<<classOf(r.Len); u++ {
				if owner[first+u] != id {
					t.Fatalf("seed %d: unit %d of %d belongs to %d", seed, first+u, id, owner[first+u])
				}
				owner[first+u] = 0
			}
			inUse -= MinBlock << classOf(r.Len)
			a.Free(r)
		}
		for step := 1; step <= 20000; step++ {
			if len(ids) > 0 && rng.IntN(100) < 49 {
				free(rng.IntN(len(ids)))
				continue
			}
			n := uint32(1) << (rng.IntN(11) + rng.IntN(13))
			n = min(n+uint32(rng.IntN(int(n))), MaxBlock)
			r, ok := a.Alloc(n)
			if !ok {
				if _, again := a.Alloc(n); again {
					t.Fatalf("seed %d: a refused allocation of %d passes when repeated", seed, n)
				}
				continue
			}
			first := int(r.Addr-a.base) / MinBlock
			for u := 0; u < 1<<classOf(n); u++ {
				if owner[first+u] != 0 {
					t.Fatalf("seed %d: %+v overlaps %d", seed, r, owner[first+u])
				}
				owner[first+u] = step
			}
			if off := uintptr(first) << minShift; off&(MinBlock<<classOf(n)-1) != 0 {
				t.Fatalf("seed %d: %+v is not aligned to its size", seed, r)
			}
			held[step], ids, inUse = r, append(ids, step), inUse+MinBlock<<classOf(n)
			if a.InUse() != inUse {
				t.Fatalf("seed %d: %d bytes in use, model has %d", seed, a.InUse(), inUse)
			}
		}
		for len(ids) > 0 {
			free(len(ids) - 1)
		}
		if !a.AllHome() {
			t.Fatalf("seed %d: %d bytes not home", seed, a.InUse())
		}
		for range 4 {
			if _, ok := a.Alloc(MaxBlock); !ok {
				t.Fatalf("seed %d: the empty arena does not join to whole chunks: %+v", seed, a.Stats())
			}
		}
	}
}

func TestSettle(t *testing.T) {
	a := newTestArena(t, MaxBlock)
	a.Alloc(MinBlock)
	a.Settle()
	if !a.AllHome() {
		t.Error("settled memory is missed")
	}
	r, _ := a.Alloc(MinBlock)
	if a.AllHome() {
		t.Error("a block given out is not missed")
	}
	a.Free(r)
	if !a.AllHome() {
		t.Error("a block that came back is missed")
	}
}

func BenchmarkArenaAllocFree(b *testing.B) {
	a := newTestArena(b, 4*MaxBlock)
	b.ReportAllocs()
	for b.Loop() {
		r, _ := a.Alloc(MinBlock)
		a.Free(r)
	}
}

func TestArenaHolds(t *testing.T) {
	a := newTestArena(t, MaxBlock)
	b, _ := a.Alloc(3 * MinBlock) // a block of four units
	c, _ := a.Alloc(MinBlock)
	for _, tc := range []struct {
		name string
		ref  Ref
		want bool
	}{
		{"a whole block", b, true},
		{"its middle", b.Slice(MinBlock+5, MinBlock), true},
		{"beyond its end", Ref{Addr: b.Addr, Len: 5 * MinBlock, Region: b.Region}, false},
		{"the other", c.Slice(100, 8), true},
		{"free memory", Ref{Addr: a.Region().Base + MaxBlock/2, Len: 1, Region: b.Region}, false},
		{"outside", Ref{Addr: a.Region().Base + MaxBlock, Len: 1, Region: b.Region}, false},
	} {
		if got := a.Holds(tc.ref); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	a.Free(c)
	if a.Holds(c) {
		t.Error("a block that was given back")
	}
}
