package bdev

import (
	"sync/atomic"
	"time"

	"spindle/reactor/clock"
)

// Limits are a bdev's QoS limits; 0 is unlimited. A megabyte is 2^20 bytes.
type Limits struct {
	RWIOsPerSec uint64
	RWMBPerSec  uint64
	RMBPerSec   uint64
	WMBPerSec   uint64
}

// timeslice is how often quotas are refilled. A limit's burst is one
// timeslice's worth; an I/O larger than what is left runs on credit, which the
// following slices pay back.
const timeslice = time.Millisecond

// Tokens are counted in millionths of an I/O or a byte, and rates apply per
// microsecond, so a slice's refill is exact for every rate down to 1 a second.
const (
	token    = 1e6
	sliceUS  = int64(timeslice / time.Microsecond)
	maxRate  = 1 << 37 // 128 GiB/s: with maxAwayUS it keeps a refill within an int64
	maxAway  = 1 << 15 // slices
	_        = uint64(1<<63-1) - uint64(maxRate)*maxAway*1000
	megabyte = 1 << 20
)

// bucket is one limit's tokens, shared by all reactors.
type bucket struct {
	rate  atomic.Int64 // a second; 0 is unlimited
	level atomic.Int64 // millionths; may go below zero
}

func (k *bucket) set(rate uint64) {
	n := int64(min(rate, maxRate))
	k.rate.Store(n)
	k.level.Store(n * sliceUS)
}

// open tells whether the limit lets another I/O pass.
//
//spindle:hot
func (k *bucket) open() bool { return k.rate.Load() == 0 || k.level.Load() > 0 }

//spindle:hot
func (k *bucket) take(n int64) {
	if k.rate.Load() != 0 {
		k.level.Add(-n * token)
	}
}

//spindle:hot
func (k *bucket) refill(slices int64) {
	rate := k.rate.Load()
	if rate == 0 {
		return
	}
	full, more := rate*sliceUS, rate*sliceUS*slices
	for {
		old := k.level.Load()
		if k.level.CompareAndSwap(old, min(old+more, full)) {
			return
		}
	}
}

// qos is a bdev's set of limits. Whoever first looks at it in a new timeslice
// refills it, so an idle bdev costs no timer.
type qos struct {
	slice                          atomic.Int64 // the last timeslice refilled
	sharers                        atomic.Int32 // channels
	served                         atomic.Int32 // place of the last that waited and got tokens
	rwIOs, rwBytes, rBytes, wBytes bucket
}

func (q *qos) set(l Limits) {
	q.rwIOs.set(l.RWIOsPerSec)
	q.rwBytes.set(min(l.RWMBPerSec, maxRate) * megabyte)
	q.rBytes.set(min(l.RMBPerSec, maxRate) * megabyte)
	q.wBytes.set(min(l.WMBPerSec, maxRate) * megabyte)
}

//spindle:hot
func (q *qos) refill(now clock.Time) {
	s := int64(now) / int64(timeslice)
	old := q.slice.Load()
	if s <= old || !q.slice.CompareAndSwap(old, s) {
		return
	}
	n := min(s-old, maxAway)
	q.rwIOs.refill(n)
	q.rwBytes.refill(n)
	q.rBytes.refill(n)
	q.wBytes.refill(n)
}

// admit takes io's tokens, or tells that it has to wait. Only reads and writes
// are limited, as initiators count them. An Inline one runs on credit: the limits
// were set after it was told that it would not wait.
//
//spindle:hot
func (q *qos) admit(io *IO, bytes int64) bool {
	if io.Op > Write {
		return true
	}
	own := &q.rBytes
	if io.Op == Write {
		own = &q.wBytes
	}
	if io.Flags&Inline == 0 && (!q.rwIOs.open() || !q.rwBytes.open() || !own.open()) {
		return false
	}
	q.rwIOs.take(1)
	q.rwBytes.take(bytes)
	own.take(bytes)
	return true
}

// giveBack returns the tokens of an I/O that was admitted and not begun.
func (q *qos) giveBack(io *IO, bytes int64) {
	if io.Op > Write {
		return
	}
	own := &q.rBytes
	if io.Op == Write {
		own = &q.wBytes
	}
	q.rwIOs.take(-1)
	q.rwBytes.take(-bytes)
	own.take(-bytes)
}

// SetLimits sets the QoS limits, live; the zero Limits lifts them. I/O that
// waits is let go within a timeslice.
func (b *Bdev) SetLimits(l Limits) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limits = l
	b.qos.set(l)
	if l == (Limits{}) {
		b.state.And(^stateQoS)
	} else {
		b.state.Or(stateQoS)
	}
}

// Limits returns the QoS limits in force.
func (b *Bdev) Limits() Limits {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limits
}

// ioQueue is a first-in first-out queue through IO.Next.
type ioQueue struct{ head, tail *IO }

//spindle:hot
func (q *ioQueue) push(io *IO) {
	io.Next = nil
	if q.tail == nil {
		q.head = io
	} else {
		q.tail.Next = io
	}
	q.tail = io
}

//spindle:hot
func (q *ioQueue) pop() *IO {
	io := q.head
	q.head = io.Next
	if q.head == nil {
		q.tail = nil
	}
	io.Next = nil
	return io
}

// unpop puts io back at the head.
func (q *ioQueue) unpop(io *IO) {
	io.Next = q.head
	if q.head == nil {
		q.tail = io
	}
	q.head = io
}

// remove takes io out, and tells whether it was there.
func (q *ioQueue) remove(io *IO) bool {
	var prev *IO
	for e := q.head; e != nil; prev, e = e, e.Next {
		if e != io {
			continue
		}
		if prev == nil {
			q.head = e.Next
		} else {
			prev.Next = e.Next
		}
		if q.tail == e {
			q.tail = prev
		}
		e.Next = nil
		return true
	}
	return false
}
