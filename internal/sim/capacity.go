package sim

// capacity is how many blocks a unit has had from an instant on: READ CAPACITY
// tells one of the last, and a nexus has been told of the change by then.
type capacity struct {
	from   int64
	blocks uint64
}

// resized notes a new capacity, before the target can know of it.
func (s *run) resized(lu *lun, blocks uint64) {
	lu.blocks = blocks
	lu.capacities = append(lu.capacities, capacity{s.now(), blocks})
}

// readCapacity is READ CAPACITY (10) or (16).
func (in *initiator) readCapacity(t *task) (c cdb) {
	t.class, t.read, t.access = classCapacity, true, accessUnit
	if t.want = 8; in.rng.IntN(2) == 0 {
		c.b[0] = 0x25
	} else {
		t.want = 32
		c.b[0], c.b[1], c.b[13] = 0x9e, 0x10, 32
	}
	t.edtl = t.want
	return c
}

// capacityShown takes the data of READ CAPACITY. A nexus that sees a change has had
// the unit attention for it: the unit's view establishes that with the change.
func (in *initiator) capacityShown(t *task, lu *lun) {
	in.s.count(CapacitiesRead)
	blocks, rest := uint64(0), t.got
	if len(rest) == 8 {
		blocks, rest = uint64(be.Uint32(rest))+1, rest[4:]
	} else {
		blocks, rest = be.Uint64(rest)+1, rest[8:]
	}
	k := len(lu.capacities) - 1
	for k >= 0 && lu.capacities[k].blocks != blocks {
		k--
	}
	if k < 0 || be.Uint32(rest) != lu.blockSize {
		in.bad("capacity", "LUN %d has %d blocks of %d bytes, which it has never had", lu.id, blocks, be.Uint32(rest))
		return
	}
	u, since := &in.units[t.lun], lu.capacities[k].from
	if u.began > since || u.blurred || u.gap > since || in.mayTell(t) {
		return
	}
	if in.s.count(ResizesSeen); u.resized < since {
		in.bad("unit attention", "LUN %d: task %#x shows %d blocks and nothing has told of the change", lu.id, t.itt, blocks)
	}
}
