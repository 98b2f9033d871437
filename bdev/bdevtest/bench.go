package bdevtest

import (
	"testing"

	"spindle/bdev"
)

// benchDepth is how many I/Os share a turn, as at queue depth 32.
const benchDepth = 32

// Bench submits c, over and over, to a device that ends it inside Submit. A
// turn every benchDepth I/Os is part of the figure.
func Bench(b *testing.B, g *Rig, ch bdev.Channel, c *Call) {
	b.Helper()
	b.ReportAllocs()
	b.SetBytes(int64(c.Data.Len))
	n := 0
	for b.Loop() {
		if s := c.Start(ch); s != bdev.OK {
			b.Fatal(s)
		}
		if n++; n == benchDepth {
			n = 0
			g.Turn()
		}
	}
}
