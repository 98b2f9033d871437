package sim

import (
	"spindle/internal/sim/linear"
	"spindle/scsi"
)

// ended takes the status of a command.
func (in *initiator) ended(t *task, status uint8, sense []byte) {
	s, lu := in.s, in.s.luns[t.lun]
	in.heardOf(t)
	if s.failed() {
		return
	}
	switch scsi.Status(status) {
	case scsi.Good:
		in.good(t, lu)
	case scsi.CheckCondition:
		in.checked(t, lu, sense)
	case scsi.ReservationConflict:
		in.conflicts(t, lu)
		s.over(t, without, "RESERVATION CONFLICT")
	case scsi.Busy:
		s.count(Busies)
		s.over(t, without, "BUSY")
	case scsi.TaskSetFull:
		s.count(TaskSetFulls)
		if s.arenaFailures() == 0 {
			in.bad("status", "TASK SET FULL with memory to spare")
		}
		s.over(t, without, "TASK SET FULL")
	case scsi.TaskAborted:
		in.taskAborted(t, lu)
		s.over(t, unsure, "TASK ABORTED")
	default:
		in.bad("status", "%#x of task %#x", status, t.itt)
	}
	in.remove(t)
}

// good takes GOOD.
func (in *initiator) good(t *task, lu *lun) {
	s := in.s
	u := &in.units[t.lun]
	if t.illegal || t.taint != untainted {
		in.bad("status", "task %#x should have been refused", t.itt)
	}
	if what := in.missed(t); what != "" && !lu.unsteady {
		in.bad("unit attention", "LUN %d: task %#x ended well and %s", lu.id, t.itt, what)
	}
	in.unlocked(t, lu)
	if in.admitted(t, lu); t.op != 0 {
		in.written(t, lu)
	}
	switch t.class {
	case classRead:
		if s.count(Reads); t.shielded {
			s.count(ReadsShielded)
		}
		in.readGood(t, lu)
		return
	case classFlush:
		s.count(Flushes)
		in.flushed(t, lu)
	case classVerify:
		s.count(Verifies)
		in.same(t, lu, len(t.old))
	case classReply:
		s.count(Inquiries)
		in.reply(t, lu)
	case classSense:
		in.sensed(t, u)
	case classChange:
		if t.change.kind == doAllow && !lu.doubtful(t.call) && !lu.object.Any(t.call, func(st *shared) bool { return st.cond != isReady }) {
			in.flushed(t, lu)
		}
		if s.count(changeStates[t.change.kind]); t.erase {
			s.count(Erasures)
		}
		if t.change.save {
			s.count(ModesSaved)
		}
		in.changed(t, lu, resGood)
		in.registered(t, lu)
	case classModes:
		in.showed(t, lu)
	case classIdentity:
		in.identityShown(t, lu)
	case classLog:
		in.logShown(t, lu)
	case classResources:
		in.resourcesShown(t, lu)
	case classCapacity:
		in.capacityShown(t, lu)
	case classPorts:
		in.portsShown(t, lu)
	case classList:
		in.listShown(t)
	case classRegistry:
		in.told(t, lu)
	case classWrite:
		if s.count(Writes); t.atomic {
			s.count(WritesAtomic)
		}
		if t.shielded {
			s.count(WritesShielded)
		}
		if t.op != 0 && s.book.ops[t.op].fua {
			s.count(FUAs)
		}
	case classZero:
		if s.count(Unmaps); t.also != 0 {
			s.count(UnmapsOfTwo)
		}
	case classSame:
		s.count(WriteSames)
	case classSwap:
		s.count(Swaps)
	case classOr:
		s.count(ORWrites)
	case classResults:
		in.resultsShown(t, lu)
	case classCopy:
		s.count(Copies)
		in.copyGood(t)
	}
	s.over(t, good, "GOOD")
}

// readGood compares data with what the blocks may hold.
func (in *initiator) readGood(t *task, lu *lun) {
	s := in.s
	bs := lu.blockSize
	if t.call < lu.born {
		return // it may have read the medium before this one
	}
	var tuples []byte
	if t.shielded {
		tuples = in.unweave(t, lu)
	}
	s.seen = s.seen[:0]
	for i := range uint32(len(t.got)) / bs {
		b := t.got[i*bs:][:bs]
		lba := t.lba + uint64(i)
		if lu.kind == kindNull {
			if !allBytes(b, 0) {
				in.bad("stale byte", "null device, block %d holds % x", lba, b[:16])
			}
			continue
		}
		v, ok := s.look(lu, lba, b, t.call, false)
		if s.failed() {
			return
		}
		if t.shielded {
			s.shields(lu, lba, b, tuples[i*tupleLen:][:tupleLen], v, ok)
		}
		s.mix(uint64(v))
		if ok {
			in.saw(lu, lba, t.call, linear.Read, v)
		} else {
			v = 0
		}
		s.seen = append(s.seen, v)
	}
	in.untorn(t, lu, s.seen)
}

// saw enters a read into the history of a block.
func (in *initiator) saw(lu *lun, lba uint64, call int64, k linear.Kind, v value) {
	if lu.kind == kindNull || call < lu.born {
		return
	}
	c := &lu.cells[lba]
	c.log = append(c.log, entry{call: call, end: in.s.now(), val: v, kind: k})
}

// same is a comparison that found the first n blocks as expected.
func (in *initiator) same(t *task, lu *lun, n int) {
	for i := range n {
		if lu.kind == kindNull || t.call < lu.born || lu.cells[t.lba+uint64(i)].raw != nil {
			continue
		}
		in.saw(lu, t.lba+uint64(i), t.call, linear.Read, t.old[i])
	}
}

// flushed is a flush that ended well: what was over before it was sent is durable.
func (in *initiator) flushed(t *task, lu *lun) {
	if lu.kind == kindFile && lu.probe.flushes < t.call && !lu.unsteady && lu.changed < t.call {
		in.bad("early flush", "LUN %d: task %#x ended well and no flush has ended since it was sent", lu.id, t.itt)
	}
	lu.flushed = max(lu.flushed, t.call)
}

// reply compares a reply with the first of its kind.
func (in *initiator) reply(t *task, lu *lun) {
	for i := range t.got {
		if allBytes(t.got[i:min(i+4, len(t.got))], 0xCC) && i+4 <= len(t.got) {
			in.bad("stale byte", "task %#x: memory that was given back, at byte %d of its reply: % x", t.itt, i, t.got)
			return
		}
	}
}

// checked takes CHECK CONDITION.
func (in *initiator) checked(t *task, lu *lun, b []byte) {
	s := in.s
	if len(b) < 18 || b[0]&0x7f != 0x70 {
		in.bad("sense", "task %#x: % x", t.itt, b)
		return
	}
	key, code := scsi.Key(b[2]&0xf), scsi.Code(be.Uint16(b[12:]))
	st := without
	in.refused(t, lu, key, code)
	switch key {
	case scsi.UnitAttention:
		in.attention(t, lu, code)
	case scsi.IllegalRequest:
		s.count(RefusedCDBs)
		absent := code == scsi.LUNNotSupported && (lu.unsteady || !lu.present || lu.changed > t.call)
		if t.class == classResults && code == scsi.InvalidFieldInCDB {
			in.notHeld(t, lu)
		}
		if t.class == classBadList && !absent {
			in.listRefused(t, code)
		}
		unsupported := code == scsi.InvalidOpcode && (t.class == classZero && lu.kind == kindFile || t.atomic && lu.kind != kindRAM)
		if !t.illegal && !absent && !unsupported && !in.mayRefuse(t, code) {
			in.bad("sense", "task %#x on LUN %d refused with %04x", t.itt, lu.id, uint16(code))
		}
	case scsi.Miscompare:
		in.admitted(t, lu)
		if st = in.miscompared(t, lu, b); s.failed() {
			return
		}
	case scsi.NotReady:
		in.notReady(t, lu, code)
	case scsi.CopyAborted:
		in.admitted(t, lu)
		in.copyAborted(t, code, b)
	case scsi.MediumError, scsi.DataProtect:
		if code == scsi.FormatCorrupted || code == scsi.SanitizeFailed && t.change.kind != doSanitize {
			in.notReady(t, lu, code)
			break
		}
		if code == scsi.SoftwareWriteProtected {
			in.protected(t, lu)
			break
		}
		if code == scsi.WriteProtected {
			in.locked(t, lu)
			break
		}
		s.count(MediumErrors)
		st = unsure
		if lu.faults == 0 {
			in.bad("sense", "task %#x on LUN %d: key %x, code %04x, and no I/O has failed", t.itt, lu.id, byte(key), uint16(code))
		}
	case scsi.AbortedCommand:
		if t.taint != untainted {
			in.shieldRefused(t, lu, code, b)
			break
		}
		s.count(AbortedCommands)
		st = unsure
		if !t.broken {
			in.bad("sense", "task %#x on LUN %d aborted with %04x", t.itt, lu.id, uint16(code))
		}
	case scsi.HardwareError:
		if t.class != classChange || s.rep.States[StoreFaults] == 0 {
			in.bad("sense", "task %#x on LUN %d: hardware error %04x, and no store has failed", t.itt, lu.id, uint16(code))
		}
	default:
		in.bad("sense", "task %#x on LUN %d: key %x, code %04x", t.itt, lu.id, byte(key), uint16(code))
	}
	s.over(t, st, "CHECK CONDITION")
}

// mayRefuse tells whether a good command may be refused with code.
func (in *initiator) mayRefuse(t *task, code scsi.Code) bool {
	switch code {
	case scsi.InvalidIUField: // the expected length is not what it has to be
		return t.edtl != t.want
	case scsi.InvalidRelease, scsi.InvalidFieldInParam, scsi.RemovalPrevented:
		return t.class == classChange // its model has judged it
	case scsi.OperationInProgress:
		return t.class == classCopy && t.twice
	case scsi.InvalidFieldInCDB: // a page or a reply that the unit does not have
		return t.class == classResults || t.class == classReply || t.class == classSame || t.class == classZero || t.erase
	}
	return false
}

// miscompared takes MISCOMPARE: INFORMATION tells the first byte that differs.
func (in *initiator) miscompared(t *task, lu *lun, b []byte) outcome {
	if t.class == classWrite {
		return unsure // WRITE AND VERIFY, and another write came between
	}
	if t.class != classSwap && t.class != classVerify {
		in.bad("sense", "task %#x: MISCOMPARE of a command that compares nothing", t.itt)
		return without
	}
	in.s.count(SwapsDiffered)
	at := be.Uint32(b[3:]) / lu.blockSize
	if b[0]&0x80 == 0 || at >= t.blocks {
		in.bad("sense", "task %#x: MISCOMPARE at byte %d of %d blocks", t.itt, be.Uint32(b[3:]), t.blocks)
		return without
	}
	in.same(t, lu, int(at))
	in.saw(lu, t.lba+uint64(at), t.call, linear.Differs, t.old[at])
	return without
}

// sensed takes the data of REQUEST SENSE, which may be a unit attention.
func (in *initiator) sensed(t *task, u *unit) {
	if len(t.got) < 14 {
		u.blurred = u.blurred || len(t.got) < 3 || t.got[2]&0xf == byte(scsi.UnitAttention)
		return
	}
	if t.got[2]&0xf == byte(scsi.UnitAttention) {
		in.attention(t, in.s.luns[t.lun], scsi.Code(be.Uint16(t.got[12:])))
	}
}
