package malloc_test

import (
	"testing"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/malloc"
	"spindle/reactor/mem"
)

func newDevice(g *bdevtest.Rig, blockSize uint32, n uint64) *malloc.Device {
	d, err := malloc.New(malloc.Config{BlockSize: blockSize, Blocks: n, Space: g.Space, Node: -1})
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) {
	for _, tt := range []struct {
		name string
		size uint32
	}{{"512", 512}, {"4096", 4096}} {
		t.Run(tt.name, func(t *testing.T) {
			bdevtest.Run(t, bdevtest.Factory{
				New: func(g *bdevtest.Rig, n uint64) bdev.Device { return newDevice(g, tt.size, n) },
			})
		})
	}
}

// TestLongClear: a clear of many pieces leaves the reactor its other work, and
// several of them end in order.
func TestLongClear(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	ch := g.Open(newDevice(g, 512, 1<<15), 0)
	long := []*bdevtest.Call{
		bdevtest.NewCall(bdev.WriteZeroes, 0, 1<<14, mem.Ref{}, 0),
		bdevtest.NewCall(bdev.Unmap, 1<<14, 1<<14, mem.Ref{}, 0),
	}
	for _, c := range long {
		if s := c.Start(ch); s != bdev.Pending {
			t.Fatalf("long clear: %v", s)
		}
	}
	g.Turn()
	if long[0].Done() {
		t.Fatal("8 MiB were cleared in one turn")
	}
	buf := g.Buffer(512)
	if s := bdevtest.NewCall(bdev.Read, 0, 1, buf, 0).Start(ch); s != bdev.OK {
		t.Fatalf("read meanwhile: %v", s)
	}
	g.Until("first", long[0].Done)
	if long[1].Done() {
		t.Fatal("the second ended first")
	}
	g.Until("second", long[1].Done)
}

func BenchmarkRead4K(b *testing.B)  { bench(b, bdev.Read) }
func BenchmarkWrite4K(b *testing.B) { bench(b, bdev.Write) }

func bench(b *testing.B, op bdev.Op) {
	g := bdevtest.NewRig(b, 1, nil)
	ch := g.Open(bdev.New("Malloc0", bdev.UUID{}, newDevice(g, 512, 1<<15)), 0)
	bdevtest.Bench(b, g, ch, bdevtest.NewCall(op, 0, 8, g.Buffer(4096), 0))
}
