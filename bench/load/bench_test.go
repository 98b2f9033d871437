package load_test

import (
	"testing"
	"time"

	"spindle/bench/load"
)

// BenchmarkGenerator loads the canned responder in this process and reports what
// an I/O costs the generator: the time of turns that found something to do. It
// must be less than what it costs any target.
func BenchmarkGenerator(b *testing.B) {
	for _, c := range []struct {
		name  string
		size  uint32
		depth int
	}{{"4KiB/depth32", 4096, 32}, {"512B/depth128", 512, 128}} {
		b.Run(c.name, func(b *testing.B) {
			o := options(b, responder(b, "0"), "randread", c.size)
			o.Depth, o.Runtime = c.depth, 100*time.Millisecond
			var ios, calls uint64
			var busy time.Duration
			for b.Loop() {
				r, err := load.Run(b.Context(), o)
				if err != nil {
					b.Fatal(err)
				}
				ios, calls, busy = ios+r.IOs(), calls+r.Syscalls, busy+r.Busy
			}
			b.ReportMetric(0, "ns/op") // of a run, whose length was chosen
			b.ReportMetric(float64(busy)/float64(max(1, ios)), "busy-ns/IO")
			b.ReportMetric(float64(calls)/float64(max(1, ios)), "syscalls/IO")
		})
	}
}
