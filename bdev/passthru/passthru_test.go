package passthru_test

import (
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/crashable"
	"spindle/bdev/null"
	"spindle/bdev/passthru"
)

func stack(g *bdevtest.Rig, base bdev.Device) *passthru.Device {
	d, err := passthru.New(base)
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

// TestConformance stacks three on a device that ends I/O late, and one on one
// that lends and can be resized.
func TestConformance(t *testing.T) {
	t.Run("crashable", func(t *testing.T) {
		bottom := map[bdev.Device]*crashable.Device{}
		bdevtest.Run(t, bdevtest.Factory{
			New: func(g *bdevtest.Rig, n uint64) bdev.Device {
				base, err := crashable.New(crashable.Config{BlockSize: 512, Blocks: n, MaxDelay: 50 * time.Microsecond})
				if err != nil {
					g.T.Fatal(err)
				}
				d := stack(g, stack(g, bdev.New("Base", bdev.UUID{}, stack(g, base))))
				bottom[d] = base
				return d
			},
			Crash: func(d bdev.Device, seed uint64) bdev.Device {
				after, err := bottom[d].Crash(seed)
				if err != nil {
					t.Fatal(err)
				}
				return after
			},
		})
	})
	t.Run("null", func(t *testing.T) {
		bdevtest.Run(t, bdevtest.Factory{
			Forgets: true,
			New: func(g *bdevtest.Rig, n uint64) bdev.Device {
				base, err := null.New(null.Config{BlockSize: 512, Blocks: n, Space: g.Space})
				if err != nil {
					g.T.Fatal(err)
				}
				return stack(g, bdev.New("Null0", bdev.UUID{}, base))
			},
			Resize: func(d bdev.Device, n uint64) error {
				return d.(*passthru.Device).Base().(*bdev.Bdev).Module().(*null.Device).Resize(n)
			},
		})
	})
}
