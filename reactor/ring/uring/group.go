package uring

import (
	"fmt"
	"syscall"

	"spindle/internal/sys"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// MaxGroups bounds the sets of provided buffers of a ring, MaxGroupBuffers one's size.
const (
	MaxGroups       = 16
	MaxGroupBuffers = 1 << 15
)

// group is a set of provided buffers: a ring of descriptors that the kernel
// takes from, and the buffers in as few blocks as the arena's largest allows.
type group struct {
	ring   *sys.PbufRing
	desc   mem.Ref
	blocks []mem.Ref
	shift  uint // log2 of the buffers in a block
	count  int
	size   uint32
}

// NewGroup makes a set of count receive buffers of size bytes.
func (r *Ring) NewGroup(count int, size uint32) (ring.Group, error) {
	if count < 1 || count > MaxGroupBuffers || count&(count-1) != 0 || size == 0 || size > mem.MaxBlock || len(r.groups) >= MaxGroups {
		return 0, fmt.Errorf("uring: group %d of %d buffers of %d bytes: %w", len(r.groups), count, size, syscall.EINVAL)
	}
	g := &group{count: count, size: size}
	for 1<<g.shift < count && uint64(size)<<(g.shift+1) <= mem.MaxBlock {
		g.shift++
	}
	if err := g.alloc(r.arena); err != nil {
		return 0, err
	}
	id := uint16(len(r.groups))
	var err error
	if g.ring, err = r.u.RegisterPbufRing(id, g.desc.Addr, count); err != nil {
		g.free(r.arena)
		return 0, err
	}
	r.groups = append(r.groups, g)
	for i := range count {
		r.Recycle(ring.Group(id), uint16(i))
	}
	return ring.Group(id), nil
}

func (g *group) alloc(a *mem.Arena) error {
	var ok bool
	if g.desc, ok = a.Alloc(sys.PbufRingSize(g.count)); !ok {
		return fmt.Errorf("uring: no arena memory for %d buffer descriptors: %w", g.count, syscall.ENOMEM)
	}
	for range g.count >> g.shift {
		b, ok := a.Alloc(g.size << g.shift)
		if !ok {
			g.free(a)
			return fmt.Errorf("uring: no arena memory for %d buffers of %d bytes: %w", g.count, g.size, syscall.ENOMEM)
		}
		g.blocks = append(g.blocks, b)
	}
	return nil
}

func (g *group) free(a *mem.Arena) {
	for _, b := range g.blocks {
		a.Free(b)
	}
	g.blocks = nil
	a.Free(g.desc)
}

// Buffer is buffer id of g.
//
//spindle:hot
func (r *Ring) Buffer(g ring.Group, id uint16) mem.Ref {
	p := r.groups[g]
	in := uint32(id) & (1<<p.shift - 1)
	return p.blocks[id>>p.shift].Slice(in*p.size, p.size)
}

// Recycle gives buffer id of g back for receiving; the kernel sees it with the
// next Enter.
//
//spindle:hot
func (r *Ring) Recycle(g ring.Group, id uint16) {
	b := r.Buffer(g, id)
	r.groups[g].ring.Add(id, b.Addr, b.Len)
}
