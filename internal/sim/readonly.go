package sim

import "spindle/bdev"

// Units that are read only (SBC-4 §4.12): a few are from birth, others become so, or
// writable again, when they come back. Every command that would change the medium is
// refused with DATA PROTECT, WRITE PROTECTED, and none of it reaches the medium; what
// only reads goes on, and so does what is shared: reservations, mode parameters.

// relock draws whether a unit that is about to go comes back read only. A wipe that
// may be on its way was judged with what the unit was.
func (s *run) relock(lu *lun) {
	locked := s.rng.IntN(4) == 0
	if lu.readOnly && !locked && s.wipeOnItsWay(lu) {
		return
	}
	if lu.readOnly != locked {
		s.count(LocksTurned)
	}
	lu.readOnly = locked
}

// wipeOnItsWay tells whether a SANITIZE or FORMAT UNIT of a unit has no answer.
func (s *run) wipeOnItsWay(lu *lun) bool {
	for _, in := range s.inits {
		for _, list := range [...][]*task{in.tasks, in.old} {
			for _, t := range list {
				if t.class == classChange && t.change.kind >= doSanitize && t.lun >= 0 && s.luns[t.lun] == lu {
					return true
				}
			}
		}
	}
	return false
}

// alters tells whether a command changes the medium.
func (t *task) alters() bool {
	return t.op != 0 || t.wipe != 0 || t.class == classChange && t.change.kind >= doSanitize
}

// locked takes DATA PROTECT, WRITE PROTECTED.
func (in *initiator) locked(t *task, lu *lun) {
	in.s.count(WritesLocked)
	if !lu.doubtful(t.call) && !(lu.readOnly && t.alters()) {
		in.bad("read only", "LUN %d: task %#x is refused as written to a medium that is read only, which is %v", lu.id, t.itt, lu.readOnly)
	}
}

// unlocked is the good end of a command: it did not change a medium that is read only.
func (in *initiator) unlocked(t *task, lu *lun) {
	switch {
	case !lu.readOnly || lu.doubtful(t.call):
	case t.alters():
		in.bad("read only", "LUN %d: task %#x ended well, and the medium is read only", lu.id, t.itt)
	case t.class == classRead:
		in.s.count(ReadsLocked)
	}
}

// lockHolds is an I/O that begins: none changes a medium that is read only.
func (p *probe) lockHolds(io *bdev.IO) {
	if lu := p.lu; lu.readOnly && !lu.unsteady && io.Op != bdev.Read && io.Op != bdev.Flush {
		p.s.fail("read only", "LUN %d is read only, and %v of blocks %d+%d reaches its device", lu.id, io.Op, io.LBA, io.Blocks)
	}
}
