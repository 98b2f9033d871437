package mem

import (
	"fmt"
	"math/bits"

	"spindle/internal/invariants"
)

// MinBlock and MaxBlock bound the size classes, in bytes.
const (
	MinBlock = 4 << 10
	MaxBlock = 4 << 20
)

const (
	minShift = 12
	maxShift = 22

	// Classes is the number of size classes; class c has blocks of MinBlock<<c bytes.
	Classes = maxShift - minShift + 1

	chunkUnits = MaxBlock / MinBlock // units in a chunk
	maxUnits   = 1 << 30             // bound of an arena: 4 TiB
	none       = int32(-1)           // end of a list
)

// The state of a unit (MinBlock bytes): the first unit of a block says what the
// block is, the others say that they are not a first.
const (
	stateClass = 0x0f // mask of the class
	stateFree  = 0x40 // first unit of a free block
	stateUsed  = 0x80 // first unit of a block that Alloc gave out
	stateInner = 0x00
)

// Arena carves one region into power-of-two blocks. Owner: one reactor.
//
// It is a buddy allocator that works against its own tidiness: Free never
// joins blocks and Alloc splits only when its class is empty, so a steady load
// pops and pushes the same blocks, whatever mix of sizes it has. Buddies are
// joined when an allocation would fail, in chunks of MaxBlock that were freed
// into since they were joined last, so the cost is bounded by the frees before.
//
// The bookkeeping is beside the memory, not in it (a stray write of a device
// cannot corrupt it), and holds no pointers (the collector does not scan it).
type Arena struct {
	region *Region
	base   uintptr

	state      []uint8 // per unit
	next, prev []int32 // per unit: links of the free list, by the first unit of a block
	heads      [Classes]int32

	chunkFree  []uint32 // per chunk: free units
	chunkDirty []bool   // per chunk: freed into since it was joined last

	stats Stats
	home  uint64 // bytes in use that are there to stay
}

// Stats is the account of an arena, in bytes and calls since it was made.
type Stats struct {
	Size      uint64
	InUse     uint64          // bytes of the blocks given out
	HighWater uint64          // the most InUse has been
	Free      [Classes]uint64 // free blocks of each class, as they are split now
	Allocs    uint64
	Frees     uint64
	Failures  uint64 // allocations that found no block
	Splits    uint64
	Joins     uint64
}

// NewArena makes an arena of the whole of region, whose size is a multiple of
// MaxBlock.
func NewArena(region *Region) (*Arena, error) {
	if region.Len == 0 || region.Len%MaxBlock != 0 || region.Len/MinBlock > maxUnits {
		return nil, fmt.Errorf("mem: arena of %d bytes: not a multiple of %d", region.Len, MaxBlock)
	}
	units := int(region.Len / MinBlock)
	a := &Arena{
		region: region, base: region.Base,
		state: make([]uint8, units), next: make([]int32, units), prev: make([]int32, units),
		chunkFree: make([]uint32, units/chunkUnits), chunkDirty: make([]bool, units/chunkUnits),
	}
	a.stats.Size = region.Len
	for c := range a.heads {
		a.heads[c] = none
	}
	// Highest first, so that the lowest addresses are given out first.
	for chunk := len(a.chunkFree) - 1; chunk >= 0; chunk-- {
		a.chunkFree[chunk] = chunkUnits
		a.push(int32(chunk*chunkUnits), Classes-1)
	}
	return a, nil
}

// Region is the memory the arena carves.
func (a *Arena) Region() *Region { return a.region }

// Alloc returns n bytes (its Len is n, its memory the next power of two), or
// false when no block of that size can be made now. The bytes are whatever
// they were. n outside 1..MaxBlock fails.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (a *Arena) Alloc(n uint32) (Ref, bool) {
	if n == 0 || n > MaxBlock {
		a.stats.Failures++
		return Ref{}, false
	}
	class := classOf(n)
	unit := a.heads[class]
	if unit == none {
		if unit = a.refill(class); unit == none {
			a.stats.Failures++
			return Ref{}, false
		}
	}
	a.unlink(unit, class)
	a.state[unit] = stateUsed | uint8(class)
	a.chunkFree[unit/chunkUnits] -= 1 << class
	a.stats.Allocs++
	a.stats.InUse += MinBlock << class
	if a.stats.InUse > a.stats.HighWater {
		a.stats.HighWater = a.stats.InUse
	}
	return Ref{Addr: a.base + uintptr(unit)<<minShift, Len: n, Region: a.region.Index}, true
}

// Free takes back a Ref that Alloc gave; a slice of it will not do. A span that
// is not this arena's or is free already is a corrupted ledger: it panics.
// Preconditions: runs on the owning reactor.
//
//spindle:hot
func (a *Arena) Free(r Ref) {
	off := uint64(r.Addr - a.base)
	unit := off >> minShift
	if r.Region != a.region.Index || off&(MinBlock-1) != 0 || unit >= uint64(len(a.state)) {
		panic("mem: free of memory that is not this arena's")
	}
	st := a.state[unit]
	class := int(st & stateClass)
	if st&stateUsed == 0 || r.Len == 0 || classOf(r.Len) != class {
		panic("mem: free of memory that was not given out")
	}
	if invariants.Enabled {
		invariants.Mangle(Ref{Addr: r.Addr, Len: MinBlock << class}.Bytes())
	}
	chunk := unit / chunkUnits
	a.chunkFree[chunk] += 1 << class
	a.chunkDirty[chunk] = true
	a.stats.Frees++
	a.stats.InUse -= MinBlock << class
	a.push(int32(unit), class)
}

// Holds tells whether all of b lies in one block that was given out: a check
// for those who watch what uses the arena's memory.
// Preconditions: runs on the owning reactor.
func (a *Arena) Holds(b Ref) bool {
	if !a.region.Contains(b) {
		return false
	}
	unit := uint64(b.Addr-a.base) >> minShift
	for class := range uint64(Classes) {
		first := unit &^ (1<<class - 1)
		if a.state[first] == stateUsed|uint8(class) {
			end := a.base + uintptr(first+1<<class)<<minShift
			return b.Addr+uintptr(b.Len) <= end
		}
	}
	return false
}

// Stats returns the account. Preconditions: runs on the owning reactor.
func (a *Arena) Stats() Stats { return a.stats }

// InUse is the number of bytes in blocks given out.
// Preconditions: runs on the owning reactor.
func (a *Arena) InUse() uint64 { return a.stats.InUse }

// Settle declares what is in use now to be there for good (rings, receive
// buffers, slots made at start): AllHome no longer misses it.
// Preconditions: runs on the owning reactor.
func (a *Arena) Settle() { a.home = a.stats.InUse }

// AllHome tells whether every block given out since Settle has come back.
// Preconditions: runs on the owning reactor.
func (a *Arena) AllHome() bool { return a.stats.InUse == a.home }

// classOf is the class of n bytes, n in 1..MaxBlock.
func classOf(n uint32) int {
	if n <= MinBlock {
		return 0
	}
	return bits.Len32(n-1) - minShift
}

// push puts a free block at the head of its class: the one used last is the one
// the cache still knows.
func (a *Arena) push(unit int32, class int) {
	h := a.heads[class]
	a.state[unit] = stateFree | uint8(class)
	a.next[unit], a.prev[unit] = h, none
	if h != none {
		a.prev[h] = unit
	}
	a.heads[class] = unit
	a.stats.Free[class]++
}

func (a *Arena) unlink(unit int32, class int) {
	n, p := a.next[unit], a.prev[unit]
	if p == none {
		a.heads[class] = n
	} else {
		a.next[p] = n
	}
	if n != none {
		a.prev[n] = p
	}
	a.stats.Free[class]--
}

// refill makes a block of an empty class by splitting a larger one, or by
// joining smaller ones, and returns it, still on its free list; none if neither
// can be had.
func (a *Arena) refill(class int) int32 {
	from := a.larger(class)
	if from < 0 {
		if !a.join(class) {
			return none
		}
		from = a.larger(class)
	}
	unit := a.heads[from]
	for ; from > class; from-- {
		a.unlink(unit, from)
		a.push(unit+1<<(from-1), from-1) // the upper half waits
		a.push(unit, from-1)
		a.stats.Splits++
	}
	return unit
}

// larger is the smallest class from class on that has a free block, or -1.
func (a *Arena) larger(class int) int {
	for c := class; c < Classes; c++ {
		if a.heads[c] != none {
			return c
		}
	}
	return -1
}

// join joins free buddies, chunk by chunk, until there is a block of class.
func (a *Arena) join(class int) bool {
	for chunk := range a.chunkFree {
		if a.chunkDirty[chunk] && a.chunkFree[chunk] >= 1<<class {
			a.chunkDirty[chunk] = false
			a.joinChunk(int32(chunk) * chunkUnits)
			if a.larger(class) >= 0 {
				return true
			}
		}
	}
	return false
}

// joinChunk joins all free buddies of the chunk that begins at first.
func (a *Arena) joinChunk(first int32) {
	for class := 0; class < Classes-1; class++ {
		size, free := int32(1)<<class, stateFree|uint8(class)
		for unit := first; unit < first+chunkUnits; unit += 2 * size {
			buddy := unit + size
			if a.state[unit] == free && a.state[buddy] == free {
				a.unlink(unit, class)
				a.unlink(buddy, class)
				a.state[buddy] = stateInner
				a.push(unit, class+1)
				a.stats.Joins++
			}
		}
	}
}
