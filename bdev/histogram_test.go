package bdev_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
)

// TestHistogramLayout compares with SPDK's layout: range 0 and 1 have a value a
// bucket, each later range buckets twice as wide.
func TestHistogramLayout(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	b := bdev.New("Null0", bdev.UUID{}, nullDevice(g, 8))
	for _, tt := range []struct {
		name     string
		o        bdev.HistogramOptions
		min, max uint32
		buckets  int
		err      error
	}{
		{"default", bdev.HistogramOptions{Op: bdev.AllOps}, 0, 57, 58 * 128, nil},
		{"coarse", bdev.HistogramOptions{Granularity: 4}, 0, 60, 61 * 16, nil},
		{"bounded", bdev.HistogramOptions{MinNS: 1024, MaxNS: 1 << 20}, 4, 14, 11 * 128, nil},
		{"too fine", bdev.HistogramOptions{Granularity: 13}, 0, 0, 0, bdev.ErrHistogram},
		{"upside down", bdev.HistogramOptions{MinNS: 9, MaxNS: 8}, 0, 0, 0, bdev.ErrHistogram},
		{"no such operation", bdev.HistogramOptions{Op: bdev.AllOps + 1}, 0, 0, 0, bdev.ErrHistogram},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := b.EnableHistogram(tt.o)
			if !errors.Is(err, tt.err) {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			h := b.Histogram()
			if h.MinRange != tt.min || h.MaxRange != tt.max || len(h.Buckets) != tt.buckets {
				t.Fatalf("ranges %d..%d, %d buckets", h.MinRange, h.MaxRange, len(h.Buckets))
			}
		})
	}
	_ = b.EnableHistogram(bdev.HistogramOptions{Op: bdev.AllOps})
	h := b.Histogram()
	for _, tt := range []struct {
		bucket int
		start  uint64
	}{
		{0, 0}, {127, 127}, {128, 128}, {255, 255}, {256, 256}, {257, 258}, {383, 510},
		{384, 512}, {385, 516}, {57 * 128, 1 << 63}, {58*128 - 1, math.MaxUint64 - 1<<56 + 1},
	} {
		if got := h.BucketStart(tt.bucket); got != tt.start {
			t.Errorf("bucket %d starts at %d, want %d", tt.bucket, got, tt.start)
		}
	}
}

func TestHistogramCounts(t *testing.T) {
	g := bdevtest.NewRig(t, 2, nil)
	b := bdev.New("Slow0", bdev.UUID{}, slowDevice(g, 95*time.Microsecond, 95*time.Microsecond))
	one, two, buf := g.Open(b, 0), g.Open(b, 1), g.Buffer(512)
	if b.Histogram() != nil {
		t.Fatal("enabled from the start")
	}
	run := func() {
		for range 10 {
			g.MustDo(one, bdev.Read, 0, 1, buf, 0)
			g.MustDo(two, bdev.Write, 0, 1, buf, 0)
		}
	}
	for _, tt := range []struct {
		name  string
		o     bdev.HistogramOptions
		total uint64
	}{
		{"all", bdev.HistogramOptions{Op: bdev.AllOps}, 20},
		{"writes", bdev.HistogramOptions{Op: bdev.Write}, 10},
		{"reads", bdev.HistogramOptions{Op: bdev.Read, Granularity: 9}, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := b.EnableHistogram(tt.o); err != nil {
				t.Fatal(err)
			}
			run()
			h := b.Histogram()
			if n := h.Count(99_000, 100_001); n != tt.total || h.Count(0, math.MaxUint64) != n {
				t.Fatalf("%d at 100 µs, %d in all", n, h.Count(0, math.MaxUint64))
			}
			extra, err := b.Open(g.Reactors[0])
			if err != nil {
				t.Fatal(err)
			}
			g.MustDo(extra, bdev.Read, 0, 1, buf, 0)
			extra.Close()
			if tt.o.Op != bdev.Write {
				tt.total++
			}
			if n := b.Histogram().Count(0, math.MaxUint64); n != tt.total {
				t.Fatalf("%d after a channel closed, want %d", n, tt.total)
			}
		})
	}
	_ = b.EnableHistogram(bdev.HistogramOptions{Op: bdev.AllOps, MinNS: 1 << 20, MaxNS: 1 << 21})
	run()
	if h := b.Histogram(); h.Buckets[0] != 20 {
		t.Fatalf("latencies below the bound: %d in the first bucket", h.Buckets[0])
	}
	if b.DisableHistogram(); b.Histogram() != nil {
		t.Fatal("still enabled")
	}
	run()
}
