package simring

import (
	"fmt"
	"math/bits"

	"spindle/internal/invariants"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// group is a set of provided buffers: each is either in the kernel, in the
// order it was given, or with the program.
type group struct {
	bufs   []mem.Ref
	blocks []mem.Ref // what was taken from the arena
	kernel []bool
	filled []uint32 // bytes that the last receive put there
	fifo   []uint16
	head   int
	count  int // in the kernel's queue
	ready  int // of them, those that an Enter has published
}

// NewGroup implements ring.Ring.
func (r *Ring) NewGroup(count int, size uint32) (ring.Group, error) {
	if count < 1 || count > 1<<15 || bits.OnesCount(uint(count)) != 1 || size == 0 || size > mem.MaxBlock {
		return 0, fmt.Errorf("simring: group of %d buffers of %d bytes", count, size)
	}
	g := &group{kernel: make([]bool, count), filled: make([]uint32, count), fifo: make([]uint16, count)}
	per := min(count, int(mem.MaxBlock/size))
	for len(g.bufs) < count {
		n := min(per, count-len(g.bufs))
		block, ok := r.arena.Alloc(uint32(n) * size)
		if !ok {
			g.free(r.arena)
			return 0, fmt.Errorf("simring: group of %d buffers of %d bytes: arena exhausted", count, size)
		}
		g.blocks = append(g.blocks, block)
		for i := range n {
			g.bufs = append(g.bufs, block.Slice(uint32(i)*size, size))
		}
	}
	for id := range count {
		g.give(uint16(id))
	}
	g.ready = count
	r.groups = append(r.groups, g)
	return ring.Group(len(r.groups) - 1), nil
}

func (g *group) free(a *mem.Arena) {
	for _, b := range g.blocks {
		a.Free(b)
	}
	g.blocks, g.bufs = nil, nil
}

func (g *group) give(id uint16) {
	g.kernel[id] = true
	g.fifo[(g.head+g.count)&(len(g.fifo)-1)] = id
	g.count++
}

func (g *group) take() uint16 {
	id := g.fifo[g.head]
	g.head = (g.head + 1) & (len(g.fifo) - 1)
	g.count--
	g.ready--
	g.kernel[id] = false
	return id
}

// Buffer implements ring.Ring. The program may only look at a buffer that a
// completion gave it.
func (r *Ring) Buffer(g ring.Group, id uint16) mem.Ref {
	if r.groups[g].kernel[id] {
		panic(fmt.Sprintf("simring: buffer %d of group %d is the kernel's", id, g))
	}
	return r.groups[g].bufs[id]
}

// Recycle implements ring.Ring: the kernel sees the buffer with the next Enter.
// It panics when the buffer is the kernel's.
func (r *Ring) Recycle(g ring.Group, id uint16) {
	gr := r.groups[g]
	if gr.kernel[id] {
		panic(fmt.Sprintf("simring: buffer %d of group %d recycled while in the kernel", id, g))
	}
	invariants.Mangle(gr.bufs[id].Slice(0, gr.filled[id]).Bytes())
	gr.give(id)
}

// BuffersOut is the number of provided buffers that the program holds.
func (r *Ring) BuffersOut() int {
	n := 0
	for _, g := range r.groups {
		n += len(g.fifo) - g.count
	}
	return n
}
