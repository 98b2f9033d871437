package wire

import (
	"fmt"
	"runtime/debug"

	"spindle/internal/sys"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/uring"
)

// reapBatch is the number of completions taken at a time.
const reapBatch = 256

// Loop is a ring with its memory, its receive buffers and its clock.
type Loop struct {
	Ring  ring.Ring
	Arena *mem.Arena
	Clock clock.Clock
	Group ring.Group

	space *mem.Space
	cqes  [reapBatch]ring.CQE
}

// Options of a loop.
type Options struct {
	CPU     int    // to pin the thread to; -1 leaves it
	Memory  uint64 // bytes besides the receive buffers
	Files   int
	Buffers int // receive buffers, a power of two
	Buffer  uint32
}

// New makes a loop on the calling thread.
// Preconditions: the goroutine is locked to its thread.
func New(o Options) (*Loop, error) {
	if o.CPU >= 0 {
		if err := sys.PinThread(o.CPU); err != nil {
			return nil, err
		}
	}
	node := -1
	if o.CPU >= 0 {
		node = mem.NodeOfCore(o.CPU)
	}
	// One block more than asked for: descriptors of the receive buffers.
	size := o.Memory + uint64(o.Buffers)*uint64(o.Buffer) + 2*mem.MaxBlock
	l := &Loop{Clock: clock.NewMonotonic(), space: mem.NewSpace()}
	var err error
	if l.Arena, err = l.space.NewArena(size, node); err != nil {
		return nil, err
	}
	if err := l.Arena.Region().Populate(); err != nil {
		return nil, err
	}
	r, err := uring.New(uring.Config{Arena: l.Arena, Clock: l.Clock, Files: o.Files + 8})
	if err != nil {
		return nil, err
	}
	if l.Group, err = r.NewGroup(o.Buffers, o.Buffer); err != nil {
		r.Close()
		return nil, err
	}
	l.Ring = r
	return l, nil
}

// Close ends the ring and gives the memory back, unless something the kernel
// still works on is stuck in it.
func (l *Loop) Close() {
	if l.Ring.Close() == nil {
		_ = l.space.Delete(l.Arena.Region()) // at worst the pages stay
	}
}

// Alloc takes n bytes for good.
func (l *Loop) Alloc(n uint32) (mem.Ref, error) {
	r, ok := l.Arena.Alloc(n)
	if !ok {
		return mem.Ref{}, fmt.Errorf("bench: no arena memory for %d bytes", n)
	}
	return r, nil
}

// Turn submits what was prepared and returns what has completed. until is as
// for ring.Enter: 0 polls.
//
//spindle:hot
func (l *Loop) Turn(until clock.Time) ([]ring.CQE, error) {
	n, err := l.Ring.Enter(l.cqes[:], until)
	return l.cqes[:n], err
}

// Received is the bytes of a receive completion that has a buffer.
//
//spindle:hot
func (l *Loop) Received(c ring.CQE) []byte {
	return l.Ring.Buffer(l.Group, c.BufferID()).Slice(0, uint32(c.Res)).Bytes()
}

// QuietCollector keeps the garbage collector out of a measurement: nothing on
// the measured path makes garbage, so there is nothing to collect. The result
// undoes it.
func QuietCollector() (undo func()) {
	old := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(old) }
}
