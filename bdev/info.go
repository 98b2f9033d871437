package bdev

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

// Bounds of a block size, in bytes.
const (
	MinBlockSize = 512
	MaxBlockSize = 64 << 10
)

// ErrGeometry is returned for block sizes and counts that no device can have.
var ErrGeometry = errors.New("bdev: bad geometry")

// Validate checks block sizes and the size in bytes, which must fit an int64.
func (i *Info) Validate() error {
	if !validBlockSize(i.BlockSize) {
		return fmt.Errorf("%w: block size %d is not a power of two from %d to %d", ErrGeometry, i.BlockSize, MinBlockSize, MaxBlockSize)
	}
	if p := i.PhysicalBlockSize; p != 0 && (!validBlockSize(p) || p < i.BlockSize) {
		return fmt.Errorf("%w: physical block size %d", ErrGeometry, p)
	}
	if i.Blocks == 0 || i.Blocks > math.MaxInt64/uint64(i.BlockSize) {
		return fmt.Errorf("%w: %d blocks of %d bytes", ErrGeometry, i.Blocks, i.BlockSize)
	}
	return nil
}

func validBlockSize(n uint32) bool {
	return n >= MinBlockSize && n <= MaxBlockSize && n&(n-1) == 0
}

// LiveInfo keeps a device's Info, for modules to embed: readers get immutable
// snapshots, changes are announced. Safe from any thread.
type LiveInfo struct {
	Listeners
	mu   sync.Mutex // serialises Update
	info atomic.Pointer[Info]
}

// Info returns the current snapshot.
func (l *LiveInfo) Info() *Info { return l.info.Load() }

// Update publishes a changed copy of the Info and tells the listeners. An Info
// that is not valid is not published.
func (l *LiveInfo) Update(change func(*Info)) error {
	l.mu.Lock()
	var next Info
	if old := l.info.Load(); old != nil {
		next = *old
	}
	change(&next)
	err := next.Validate()
	if err == nil {
		l.info.Store(&next)
	}
	l.mu.Unlock()
	if err == nil {
		l.Changed()
	}
	return err
}
