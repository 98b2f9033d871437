package sys

import (
	"bytes"
	"fmt"
	"testing"
)

func TestStream(t *testing.T) {
	p, err := MapPages(HugePageSize, -1)
	if err != nil {
		t.Fatal(err)
	}
	src := make([]byte, 8192)
	for i := range src {
		src[i] = byte(i*7 + i>>8)
	}
	for _, n := range []int{0, 1, 63, 64, 65, 192, 255, 256, 257, 320, 512, 4095, 4096, 8000} {
		for _, at := range []int{0, 1, 16, 64} {
			from, to := src[at*3:][:n], p.Bytes[4096+at:][:n:n]
			clear(p.Bytes[:16<<10])
			Stream(to, from)
			if !bytes.Equal(to, from) {
				t.Errorf("%d bytes to offset %d: other bytes", n, at)
			}
			if p.Bytes[4096+at-1] != 0 || p.Bytes[4096+at+n] != 0 {
				t.Errorf("%d bytes to offset %d: more than them is written", n, at)
			}
		}
	}
}

// BenchmarkStream writes 128 KiB at a time through more memory than caches hold.
func BenchmarkStream(b *testing.B) {
	const size, all = 128 << 10, 256 << 20
	p, err := MapPages(all, -1)
	if err != nil {
		b.Fatal(err)
	}
	if err := Populate(p.Bytes); err != nil {
		b.Fatal(err)
	}
	src := make([]byte, size)
	for name, f := range map[string]func(dst, src []byte){"stream": Stream, "copy": func(dst, src []byte) { copy(dst, src) }} {
		b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			off := 0
			for b.Loop() {
				f(p.Bytes[off:off+size], src)
				off = (off + size) % all
			}
		})
	}
}
