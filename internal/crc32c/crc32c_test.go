package crc32c

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func fill(n int) []byte {
	b, rng := make([]byte, n), rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// TestEqualsStandard: every length to past where the wide form begins to loop,
// at every place in a cache line, and large ones in pieces.
func TestEqualsStandard(t *testing.T) {
	b := fill(1 << 18)
	for n := range 1200 {
		p := b[n%67:][:n]
		if got, want := Sum(p), crc32.Checksum(p, table); got != want {
			t.Fatalf("%d bytes: %08x, want %08x", n, got, want)
		}
		if got, want := Update(0x12345678, p), crc32.Update(0x12345678, table, p); got != want {
			t.Fatalf("%d bytes continued: %08x, want %08x", n, got, want)
		}
	}
	want := crc32.Checksum(b, table)
	for _, cut := range []int{0, 1, 255, 256, 257, 4096, 65537, 1<<18 - 1} {
		if got := Update(Sum(b[:cut]), b[cut:]); got != want {
			t.Errorf("cut at %d: %08x, want %08x", cut, got, want)
		}
	}
}

// TestExample: 32 bytes of zeroes (RFC 3720 appendix B.4, as they travel).
func TestExample(t *testing.T) {
	if got := Sum(make([]byte, 32)); got != 0x8a9136aa {
		t.Errorf("%08x", got)
	}
}

func TestAllocates(t *testing.T) {
	b := fill(4096)
	if n := testing.AllocsPerRun(100, func() { Sum(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(uint32(0), fill(300))
	f.Add(^uint32(0), fill(1000))
	f.Fuzz(func(t *testing.T, crc uint32, b []byte) {
		if got, want := Update(crc, b), crc32.Update(crc, table, b); got != want {
			t.Errorf("%d bytes after %08x: %08x, want %08x", len(b), crc, got, want)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{48, 256, 512, 4096, 32 << 10, 128 << 10} {
		p := fill(n)
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				Sum(p)
			}
		})
		b.Run(fmt.Sprintf("%d/standard", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				crc32.Checksum(p, table)
			}
		})
	}
}
