package file_test

import (
	"testing"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/file"
)

func BenchmarkRead4K(b *testing.B)  { bench(b, bdev.Read, false) }
func BenchmarkWrite4K(b *testing.B) { bench(b, bdev.Write, false) }

// Without O_DIRECT a read takes the kernel no longer than its copy, so that what
// the module and the ring cost is most of the figure.
func BenchmarkReadCached4K(b *testing.B) { bench(b, bdev.Read, true) }

// bench reads or writes 4 KiB at a time from one block to the next through a
// real ring, 32 of them in flight.
func bench(b *testing.B, op bdev.Op, buffered bool) {
	const blocks, size = 1 << 12, 4096
	g := bdevtest.NewRig(b, 1, realRing)
	ch := g.Open(realDevice(b, g, file.Config{Path: image(b, b.TempDir(), blocks*size), BlockSize: size, Buffered: buffered}), 0)
	whole := g.Buffer(1 << 20)
	for lba := uint64(0); lba < blocks; lba += 256 { // a hole would not be read from the disk
		g.MustDo(ch, bdev.Write, lba, 256, whole, 0)
	}
	var calls [32]*bdevtest.Call
	for i := range calls {
		calls[i] = bdevtest.NewCall(op, 0, 1, g.Buffer(size), 0)
	}
	busy := calls[:0]
	done := func() bool {
		for _, c := range busy {
			if !c.Done() {
				return false
			}
		}
		return true
	}
	b.ReportAllocs()
	b.SetBytes(size)
	lba := uint64(0)
	for b.Loop() {
		c := calls[len(busy)]
		c.LBA, lba = lba, (lba+1)%blocks
		if s := c.Start(ch); s != bdev.Pending {
			b.Fatal(s)
		}
		if busy = calls[:len(busy)+1]; len(busy) == len(calls) {
			g.Until("a batch", done)
			busy = calls[:0]
		}
	}
	g.Until("the rest", done)
	for _, c := range calls {
		if c.Final != bdev.OK && c.Calls > 0 {
			b.Fatal(c.Final)
		}
	}
}
