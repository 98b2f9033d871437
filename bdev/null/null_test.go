package null_test

import (
	"testing"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/null"
)

func open(tb testing.TB, c null.Config) (*bdevtest.Rig, *null.Device, bdev.Channel) {
	tb.Helper()
	g := bdevtest.NewRig(tb, 1, nil)
	c.Space = g.Space
	d, err := null.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return g, d, g.Open(bdev.New("Null0", bdev.UUID{}, d), 0)
}

func TestPattern(t *testing.T) {
	for _, tt := range []struct {
		name    string
		pattern byte
	}{{"zeroes", 0}, {"pattern", 0x5a}} {
		t.Run(tt.name, func(t *testing.T) {
			g, _, ch := open(t, null.Config{BlockSize: 512, Blocks: 1 << 40, Pattern: tt.pattern})
			buf := g.Buffer(4096)
			for i := range buf.Bytes() {
				buf.Bytes()[i] = 0xff
			}
			g.MustDo(ch, bdev.Read, 1<<40-8, 8, buf, 0)
			lent := bdevtest.NewCall(bdev.Read, 0, 3, buf, bdev.Lend)
			lent.Data.Len = 0
			if s := g.Do(ch, lent); s != bdev.OK || lent.Data.Len != 3*512 || lent.Data.Addr == buf.Addr {
				t.Fatalf("lent read: %v, %+v", s, lent.Data)
			}
			for _, b := range [][]byte{buf.Bytes(), lent.Data.Bytes()} {
				for i, v := range b {
					if v != tt.pattern {
						t.Fatalf("byte %d is %#x", i, v)
					}
				}
			}
			ch.Release(&lent.IO)
		})
	}
}

func BenchmarkRead4K(b *testing.B) {
	g, _, ch := open(b, null.Config{BlockSize: 512, Blocks: 1 << 20})
	bdevtest.Bench(b, g, ch, bdevtest.NewCall(bdev.Read, 0, 8, g.Buffer(4096), 0))
}

func BenchmarkLend4K(b *testing.B) {
	g, _, ch := open(b, null.Config{BlockSize: 512, Blocks: 1 << 20})
	bdevtest.Bench(b, g, ch, bdevtest.NewCall(bdev.Read, 0, 8, g.Buffer(4096), bdev.Lend))
}

func BenchmarkWrite4K(b *testing.B) {
	g, _, ch := open(b, null.Config{BlockSize: 512, Blocks: 1 << 20})
	bdevtest.Bench(b, g, ch, bdevtest.NewCall(bdev.Write, 0, 8, g.Buffer(4096), 0))
}
