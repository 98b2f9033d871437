package memverbs

import (
	"testing"
	"time"

	"spindle/verbs"
)

// BenchmarkPostPoll is a batch of RDMA WRITEs through post, fabric and poll.
func BenchmarkPostPoll(b *testing.B) {
	const batch = 8
	w, a, peer := established(b, Config{}, 256)
	b.ReportAllocs()
	b.SetBytes(64)
	for i := 0; b.Loop(); i++ {
		if i%batch != 0 {
			continue
		}
		for j := range uint32(batch) {
			a.add(verbs.OpRDMAWrite, verbs.FlagSignaled, j*64, 64, peer)
		}
		a.post()
		for got := 0; got < batch; got += len(a.poll()) {
			if !w.Step() {
				w.Advance(time.Millisecond)
			}
		}
	}
}
