package scsi

import (
	"spindle/bdev"
	"spindle/internal/plant"
)

// Fields of byte 4 of START STOP UNIT (SBC-4 §5.25).
const (
	startPower   = 0xf0
	startNoFlush = 0x04
	startLoEj    = 0x02
	startStart   = 0x01
)

// prepStartStop: there is nothing to spin down, and only a removable medium can
// be ejected.
func prepStartStop(t *Task) Result {
	if t.CDB[4]&(startPower|startLoEj) == startLoEj && !t.View.lu.opt.Removable {
		return t.badCDB(4, 1)
	}
	return Ready
}

// doStartStop flushes on stop, unless NO_FLUSH says not to, and has home move
// the medium when asked to. An eject always flushes.
func doStartStop(t *Task) action {
	b := t.CDB[4]
	switch {
	case b&startPower != 0:
		return actDone
	case b&startLoEj == 0:
		if b&(startStart|startNoFlush) != 0 {
			return actDone
		}
		return doFlush(t)
	}
	return t.moveMedium(b&startStart == 0)
}

// moveMedium has home do what may take the medium away, durable or not at all.
func (t *Task) moveMedium(away bool) action {
	switch {
	case t.step == 0 && away && t.View.snap.state == unitReady && t.View.snap.caps&bdev.CapFlush != 0:
		return doFlush(t)
	case t.step == 1 && t.IO.Status != bdev.OK:
		t.ioFailed()
		return actDone
	case t.step < 2:
		t.step = 2
		return actHome
	}
	return actDone
}

// homeStartStop loads or ejects the medium. Commands in the backend end first.
// PREVENT keeps a medium in, and out as well: initiators' tests want it so.
func homeStartStop(lu *LogicalUnit, t *Task, r *round) {
	if len(lu.prevent) != 0 && !plant.On(plant.PreventIgnored) {
		t.fail(IllegalRequest, RemovalPrevented)
		return
	}
	load := t.CDB[4]&startStart != 0
	switch {
	case load && lu.current.state == unitEjected:
		lu.change(r).state = unitReady
		if !plant.On(plant.LoadUntold) {
			r.attentionBut(MediumChanged, t.Nexus.ID)
		}
	case !load && lu.current.state == unitReady:
		lu.change(r).state = unitEjected
		r.drain = true
	}
}

// prepPrevent checks PREVENT ALLOW MEDIUM REMOVAL (SPC-5 §6.15).
func prepPrevent(t *Task) Result {
	if !t.View.lu.supports(t.op, t.View.snap) {
		return t.fail(IllegalRequest, InvalidOpcode)
	}
	if t.CDB[4]&0x02 != 0 { // obsolete values
		return t.badCDB(4, 1)
	}
	t.itl.told = true
	return Ready
}

// doPrevent makes the cache durable before removal is allowed (SPC-5 §6.15). Who
// else prevents it home alone knows: an ALLOW that is not the last does no less.
func doPrevent(t *Task) action { return t.moveMedium(t.CDB[4]&0x01 == 0) }

// homePrevent notes who prevents removal: until it allows it, CLEAR or PREEMPT
// AND ABORT removes its registration, its nexus ends, or a reset.
func homePrevent(lu *LogicalUnit, t *Task, _ *round) {
	id := t.Nexus.ID
	switch {
	case t.CDB[4]&0x01 == 0:
		lu.prevent = remove(lu.prevent, id)
	case hasNexus(lu.prevent, id):
	case len(lu.prevent) >= MaxRegistrants:
		t.fail(IllegalRequest, InsufficientResources)
	default:
		lu.prevent = append(lu.prevent, id)
	}
}

// condition is what keeps a unit from being ready, as sense data; NO SENSE when
// nothing does.
func (lu *LogicalUnit) condition(s *snapshot) sense {
	switch s.state {
	case unitEjected:
		return sense{key: NotReady, code: MediumNotPresent}
	case unitSanitizing:
		return lu.wiping(SanitizeInProgress)
	case unitFormatting:
		return lu.wiping(FormatInProgress)
	case unitUnformatted:
		return sense{key: MediumError, code: FormatCorrupted}
	case unitUnsanitized:
		return sense{key: MediumError, code: SanitizeFailed}
	}
	return sense{}
}

// wiping is what work on the whole medium says, with its progress.
func (lu *LogicalUnit) wiping(c Code) sense {
	p := uint16(lu.wipe.progress.Load())
	return sense{key: NotReady, code: c, has: hasSKS, sks: [3]byte{0x80, byte(p >> 8), byte(p)}}
}

// worksIn tells whether a command works while its unit is in a state.
func (c *command) worksIn(s unitState) bool {
	switch s {
	case unitReady:
		return true
	case unitEjected:
		return c.flags&cmdUnready != 0
	}
	return c.flags&cmdBusy != 0
}

// unready ends a task that needs the unit to be ready. False: it does not.
func (t *Task) unready(s *snapshot) bool {
	if t.op.worksIn(s.state) {
		return false
	}
	if plant.On(plant.EjectedOpen) && s.state == unitEjected || plant.On(plant.WipeOpen) && s.state == unitSanitizing ||
		plant.On(plant.FormatOpen) && s.state == unitFormatting {
		return false
	}
	t.check(t.View.lu.condition(s))
	return true
}

// READ DEFECT DATA: byte 2 of the 10-byte CDB, byte 1 of the 12-byte one asks
// for the lists and their format (SBC-4 §5.12). There are no defects to tell.
func prepDefects10(t *Task) Result { return t.wantReply(uint32(be.Uint16(t.CDB[7:]))) }
func prepDefects12(t *Task) Result { return t.wantReply(be.Uint32(t.CDB[6:])) }

func doDefects10(t *Task) action {
	p := t.reply()
	p.u8(0)
	p.u8(t.CDB[2] & 0x1f) // PLISTV, GLISTV and the format asked for
	p.u16(0)
	return t.send(&p)
}

func doDefects12(t *Task) action {
	p := t.reply()
	p.u8(0)
	p.u8(t.CDB[1] & 0x1f)
	p.u16(0) // generation
	p.u32(0)
	return t.send(&p)
}
