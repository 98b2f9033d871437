package reactor

import "sync/atomic"

// Stats counts what a reactor did. The reactor writes, any thread reads.
type Stats struct {
	turns  atomic.Uint64
	busyNS atomic.Uint64
	idleNS atomic.Uint64
	sleeps atomic.Uint64
}
