package sim

import (
	"fmt"

	"spindle/bdev"
	"spindle/bdev/malloc"
	"spindle/bdev/null"
	"spindle/internal/invariants"
	"spindle/internal/sim/linear"
	"spindle/reactor"
	"spindle/reactor/mem"
)

// MaxReactors is how many reactors a run may have.
const MaxReactors = 3

// Sizes of what a Machine maps once.
const (
	arenaSize   = 16 << 20
	ramDisks    = 3
	ramDiskSize = 2 << 20
	zeroSpan    = 1 << 20
)

// Machine is the memory that runs use, one after the other.
type Machine struct {
	space   *mem.Space
	regions [MaxReactors][2]*mem.Region    // of 8 MiB, and of 16
	ram     [2][2][ramDisks]*malloc.Device // of blocks of 512 and of 4096 bytes, without protection information and with
	nothing mem.Ref                        // null's span
	zeroes  mem.Ref
	hosts   [maxInitiators]*mem.Region // of the initiators' machines
	book    book
	linear  linear.Checker
	dirty   [MaxReactors][2]bool
}

// NewMachine maps a machine's memory.
func NewMachine() (*Machine, error) {
	m := &Machine{space: mem.NewSpace()}
	var err error
	for i := range m.regions {
		for k := range m.regions[i] {
			if m.regions[i][k], err = m.space.Map(arenaSize>>(1-k), -1); err != nil {
				return nil, fmt.Errorf("sim: %w", err)
			}
		}
	}
	for i := range m.hosts {
		if m.hosts[i], err = mem.NewSpace().Map(hostMemory, -1); err != nil {
			return nil, fmt.Errorf("sim: %w", err)
		}
	}
	for k, size := range [...]uint32{512, 4096} {
		for i := range 2 * ramDisks {
			d, err := malloc.New(malloc.Config{Space: m.space, Node: -1, BlockSize: size, Blocks: ramDiskSize / uint64(size), Protected: i%2 == 1})
			if err != nil {
				return nil, fmt.Errorf("sim: %w", err)
			}
			m.ram[k][i%2][i/2] = d
		}
	}
	if m.nothing, err = null.NewSpan(m.space, 0); err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	z, err := m.space.Map(zeroSpan, -1)
	if err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	m.zeroes = z.Ref(0, zeroSpan)
	return m, nil
}

// arena makes the arena of reactor i anew, in its region of size bytes, so that
// a run does not depend on those before it.
func (m *Machine) arena(i int, size uint64) (*mem.Arena, error) {
	k := 0
	if size == arenaSize {
		k = 1
	}
	r := m.regions[i][k]
	if m.dirty[i][k] {
		invariants.Mangle(r.Ref(0, uint32(r.Len)).Bytes())
	}
	m.dirty[i][k] = false
	return mem.NewArena(r)
}

// soil says that the arenas hold what a killed target left.
func (m *Machine) soil() {
	for i := range m.dirty {
		m.dirty[i] = [2]bool{true, true}
	}
}

// ramDisk is the RAM disk of lu with its blocks zeroed. It outlives the bdevs
// around it: Close does nothing, and it has no listeners that could pile up.
func (m *Machine) ramDisk(lu *lun) *ramDisk {
	d := m.ram[b2i(lu.blockSize == 4096)][b2i(lu.shielded)][lu.ramIndex]
	n := uint32(lu.blocks)
	clear(d.Region().Ref(0, n*lu.blockSize).Bytes())
	if lu.shielded {
		bdev.Unprotect(d.Tuples().Ref(0, n*tupleLen).Bytes())
	}
	return &ramDisk{d}
}

// ramDisk is a malloc device that is used by one run after the other.
type ramDisk struct{ dev *malloc.Device }

func (r *ramDisk) Info() *bdev.Info                              { return r.dev.Info() }
func (r *ramDisk) Open(q *reactor.Reactor) (bdev.Channel, error) { return r.dev.Open(q) }
func (r *ramDisk) Close() error                                  { return nil }

// ReadAt copies content; it is for checkers.
func (r *ramDisk) ReadAt(b []byte, off int64) {
	copy(b, r.dev.Region().Ref(uint64(off), uint32(len(b))).Bytes())
}

// TupleAt is the protection information of a block.
func (r *ramDisk) TupleAt(lba uint64) []byte {
	return r.dev.Tuples().Ref(lba*tupleLen, tupleLen).Bytes()
}
