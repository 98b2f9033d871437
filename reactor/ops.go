package reactor

import "spindle/reactor/ring"

// A Tag is arg (24 bits) | generation (16 bits) | slot (24 bits).
const (
	slotBits = 24
	genBits  = 16
	argBits  = 24
)

// Source is a Completer's place in the reactor's table: it makes the tags of
// its operations. Long-lived objects (a connection, a file channel) register
// once and tell their operations apart by the argument.
type Source uint64

// Tag makes the tag of an operation with argument arg (24 bits).
//
//spindle:hot
func (s Source) Tag(arg uint32) ring.Tag {
	return ring.Tag(uint64(arg)<<(slotBits+genBits) | uint64(s))
}

type opSlot struct {
	to  Completer
	gen uint16
}

type opTable struct {
	slots []opSlot
	free  []uint32
}

// Register gives c a Source.
// Preconditions: runs on the owning reactor.
func (r *Reactor) Register(c Completer) Source {
	t := &r.ops
	var i uint32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
	} else {
		i = uint32(len(t.slots))
		if i >= 1<<slotBits-2 { // the last two slots' tags belong to the ring
			panic("reactor: too many sources")
		}
		t.slots = append(t.slots, opSlot{})
	}
	t.slots[i].to = c
	return Source(uint64(t.slots[i].gen)<<slotBits | uint64(i))
}

// Unregister takes s out of the table; later completions are counted as stale.
// Preconditions: runs on the owning reactor, and no operation of s is in flight.
func (r *Reactor) Unregister(s Source) {
	i, gen := uint32(s&(1<<slotBits-1)), uint16(s>>slotBits)
	if int(i) >= len(r.ops.slots) || r.ops.slots[i].gen != gen || r.ops.slots[i].to == nil {
		panic("reactor: source unregistered twice")
	}
	r.ops.slots[i].to = nil
	r.ops.slots[i].gen++
	r.ops.free = append(r.ops.free, i)
}

// dispatch hands c to the source that made its tag.
//
//spindle:hot
func (r *Reactor) dispatch(c ring.CQE) {
	t := &r.ops
	i := uint32(c.Tag & (1<<slotBits - 1))
	gen := uint16(c.Tag >> slotBits)
	if int(i) >= len(t.slots) || t.slots[i].gen != gen || t.slots[i].to == nil {
		r.stats.stale.Add(1)
		return
	}
	t.slots[i].to.Complete(uint32(c.Tag>>(slotBits+genBits)), c)
}
