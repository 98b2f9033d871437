package null_test

import (
	"testing"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/null"
)

func TestConformance(t *testing.T) {
	bdevtest.Run(t, bdevtest.Factory{
		Forgets: true,
		New: func(g *bdevtest.Rig, n uint64) bdev.Device {
			d, err := null.New(null.Config{BlockSize: 512, Blocks: n, Space: g.Space})
			if err != nil {
				g.T.Fatal(err)
			}
			return d
		},
		Resize: func(d bdev.Device, n uint64) error { return d.(*null.Device).Resize(n) },
	})
}
