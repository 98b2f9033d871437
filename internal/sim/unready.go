package sim

import (
	"time"

	"spindle/bdev"
	"spindle/scsi"
)

// needs are what a command needs of its unit beside the reservations.
type needs uint8

const (
	needMedium needs = 1 << iota // that the medium is there
	needQuiet                    // that no SANITIZE or FORMAT UNIT is at work, or has failed
	needPath                     // a path that is not unavailable
	needActive                   // a path that is active
)

const needAll = needMedium | needQuiet | needPath | needActive

// condition is why a unit is not ready.
type condition uint8

const (
	isReady condition = iota
	isEjected
	isSanitizing
	isUnsanitized // SANITIZE failed
	isFormatting
	isUnformatted // FORMAT UNIT failed
)

// wiped tells whether c is a wipe at work.
func (c condition) wiped() bool { return c == isSanitizing || c == isFormatting }

// portState is the asymmetric access state of a target port group (SPC-5 §5.17.2).
type portState uint8

const (
	optimized    portState = 0x0
	nonOptimized portState = 0x1
	standby      portState = 0x2
	unavailable  portState = 0x3
)

// cutOff tells whether the path by a port does not let a command through.
func (s *shared) cutOff(n needs, port uint8) bool {
	p := s.ports[port]
	return n&needActive != 0 && p >= standby || n&needPath != 0 && p == unavailable
}

// unready tells whether the unit is in no state for a command.
func (s *shared) unready(n needs) bool {
	if s.cond == isEjected {
		return n&needMedium != 0
	}
	return s.cond != isReady && n&needQuiet != 0
}

// port is the number of the target port that the initiator's session came by.
func (in *initiator) port() uint8 { return uint8(in.s.nexuses[in.nexus].portal - 1) }

// nexusSet is a set of nexuses.
type nexusSet [maxNexuses/64 + 1]uint64

func (n *nexusSet) has(k uint8) bool { return n[k/64]>>(k%64)&1 != 0 }
func (n *nexusSet) add(k uint8)      { n[k/64] |= 1 << (k % 64) }
func (n *nexusSet) del(k uint8)      { n[k/64] &^= 1 << (k % 64) }

// move is START STOP UNIT with LOEJ, PREVENT and ALLOW at the unit (SBC-4 §5.25,
// SPC-5 §6.15).
func (c *change) moveMedium(s *shared, tell func(notice)) result {
	switch c.kind {
	case doPrevent:
		s.prevent.add(c.nexus)
		return resGood
	case doAllow:
		s.prevent.del(c.nexus)
		return resGood
	}
	switch {
	case s.prevent != nexusSet{}:
		return resPrevented
	case c.kind == doEject && s.cond == isReady:
		s.cond = isEjected
	case c.kind == doLoad && s.cond == isEjected:
		s.cond = isReady
		tell(notice{everyone, causeMedium})
	}
	return resGood
}

// setPorts is SET TARGET PORT GROUPS at the unit (SPC-5 §6.47).
func (c *change) setPorts(s *shared, tell func(notice)) result {
	next := s.ports
	for i := range next {
		if c.named>>i&1 != 0 {
			next[i] = c.ports[i]
		}
	}
	if next != s.ports {
		s.ports = next
		tell(notice{everyone, causeAccess})
	}
	return resGood
}

// moveMedium is START STOP UNIT or PREVENT ALLOW MEDIUM REMOVAL.
func (in *initiator) moveMedium(t *task, lu *lun) (c cdb) {
	r := in.rng
	st := in.likely(lu)
	t.class, t.access, t.needs = classChange, accessWrite, needAll&^needMedium
	k := r.IntN(10)
	switch {
	case st.prevent != nexusSet{} && k < 5:
		t.change.kind = doAllow
	case k < 2:
		t.change.kind = doPrevent
	case k < 3:
		t.change.kind = doAllow
	case st.cond == isEjected && k < 9:
		t.change.kind = doLoad
	default:
		t.change.kind = doEject
	}
	switch t.change.kind {
	case doPrevent, doAllow:
		t.access = accessUnit
		c.b[0], c.b[4] = 0x1e, byte(b2i(t.change.kind == doPrevent))
	default:
		c.b[0], c.b[4] = 0x1b, 0x02|byte(b2i(t.change.kind == doLoad))
	}
	return c
}

// movePorts is SET TARGET PORT GROUPS, or a look at them.
func (in *initiator) movePorts(t *task, lu *lun) (c cdb) {
	r := in.rng
	if r.IntN(3) == 0 {
		t.class, t.read, t.access, t.needs = classPorts, true, accessUnit, 0
		t.want, t.edtl = 256, 256
		c.b[0], c.b[1] = 0xa3, 0x0a
		be.PutUint32(c.b[6:], t.want)
		return c
	}
	t.class, t.access, t.needs, t.write = classChange, accessWrite, 0, true
	t.change.kind, t.change.named = doSetPorts, pick(r, byte(1), 2, 3)
	st := in.likely(lu)
	shut := st.cutOff(needActive, in.port())
	t.data = append(grow(t.data, 0), 0, 0, 0, 0)
	for i := range t.change.ports {
		if t.change.named>>i&1 == 0 && !shut {
			continue
		}
		t.change.named |= 1 << i
		p := pick(r, optimized, optimized, nonOptimized, standby, unavailable)
		if shut {
			p = pick(r, optimized, nonOptimized)
		}
		t.change.ports[i] = p
		t.data = append(t.data, byte(p), 0, 0, byte(i+1))
	}
	t.want = uint32(len(t.data))
	t.edtl = t.want
	c.b[0], c.b[1] = 0xa4, 0x0a
	be.PutUint32(c.b[6:], t.want)
	return c
}

// portsShown takes the data of REPORT TARGET PORT GROUPS.
func (in *initiator) portsShown(t *task, lu *lun) {
	in.s.count(PortsRead)
	if b := t.got; !lu.doubtful(t.call) {
		in.fits(t, lu, "ports", func(st *shared) bool {
			if len(b) != 4+12*len(st.ports) || int(be.Uint32(b)) != len(b)-4 {
				return false
			}
			for b := b[4:]; len(b) != 0; b = b[12:] {
				tag := int(be.Uint16(b[2:]))
				if tag == 0 || tag > len(st.ports) || portState(b[0]&0xf) != st.ports[tag-1] {
					return false
				}
			}
			return true
		})
	}
}

// fits tells whether what t has shown is of a state in which the unit may have
// been.
func (in *initiator) fits(t *task, lu *lun, rule string, fits func(*shared) bool) {
	if !lu.object.Any(t.call, fits) {
		in.bad(rule, "LUN %d: task %#x: no state that is possible shows % x", lu.id, t.itt, t.got)
		return
	}
	in.settled(t, lu, fits)
}

// settled keeps of the states that a unit may be in those that t has shown, if
// nothing is under way that could have changed it since: then all reactors have one.
func (in *initiator) settled(t *task, lu *lun, fits func(*shared) bool) {
	if lu.object.Quiet() && lu.object.Unchanged(t.call) {
		lu.object.Keep(in.s.now(), func(st shared) bool { return fits(&st) })
		lu.refence()
	}
}

// notReady takes sense data that says why the unit or the path lets nothing in.
func (in *initiator) notReady(t *task, lu *lun, code scsi.Code) {
	s, port := in.s, in.port()
	if t.changing != 0 {
		in.changed(t, lu, resNotReady)
		return
	}
	st, why := NotReadys, func(*shared) bool { return false }
	switch code {
	case scsi.MediumNotPresent:
		why = func(st *shared) bool { return st.cond == isEjected && st.unready(t.needs) }
	case scsi.SanitizeInProgress:
		st = NotReadysSanitize
		why = func(st *shared) bool { return st.cond == isSanitizing && st.unready(t.needs) }
		if in.rng.IntN(2) == 0 {
			in.wake = s.clk.T.Add(time.Duration(in.rng.IntN(20)) * time.Millisecond)
		}
	case scsi.SanitizeFailed:
		st = WipesFailed
		why = func(st *shared) bool { return st.cond == isUnsanitized && st.unready(t.needs) }
	case scsi.FormatInProgress:
		st = NotReadysFormat
		why = func(st *shared) bool { return st.cond == isFormatting && st.unready(t.needs) }
	case scsi.FormatCorrupted:
		st = WipesFailed
		why = func(st *shared) bool { return st.cond == isUnformatted && st.unready(t.needs) }
	case scsi.PortInStandby, scsi.PortIsUnavailable:
		want := standby
		if code == scsi.PortIsUnavailable {
			want = unavailable
		}
		st = PathsShut
		why = func(st *shared) bool { return st.ports[port] == want && st.cutOff(t.needs, port) }
	}
	s.count(st)
	if lu.doubtful(t.call) {
		return
	}
	if !lu.object.Any(t.call, why) {
		in.bad("not ready", "LUN %d: task %#x is refused with %04x, of which nobody knows", lu.id, t.itt, uint16(code))
	} else if code != scsi.SanitizeInProgress && code != scsi.FormatInProgress { // which end by themselves
		in.settled(t, lu, why)
	}
}

// unready makes a command that changes whether the unit is ready, now and then,
// and more often one that mends it.
func (in *initiator) unready(t *task, lu *lun, c *cdb) bool {
	r, p := in.rng, &in.s.plan
	var st shared
	if lu.removable || p.ported || p.sanitized {
		st = in.likely(lu)
	}
	often := func(n int, now bool) bool { return now && r.IntN(3) == 0 || r.IntN(n) == 0 }
	switch {
	case t.lun == p.contended && r.IntN(3) != 0: // others fight for it
		return false
	case lu.removable && often(24, st.cond == isEjected):
		*c = in.moveMedium(t, lu)
	case p.ported && often(24, st.cutOff(needActive, in.port())):
		*c = in.movePorts(t, lu)
	case p.sanitized && lu.kind != kindNull && often(60, st.cond == isUnsanitized || st.cond == isUnformatted):
		if r.IntN(2) == 0 {
			*c = in.format(t, lu)
		} else {
			*c = in.sanitize(t, lu)
		}
	default:
		return false
	}
	return true
}

// drift adds what may become of a unit that is not ready by itself.
func (lu *lun) drift(st shared, add func(shared)) {
	if (st.prevent != nexusSet{}) {
		for k := range uint8(maxNexuses) {
			if n := st; st.prevent.has(k) && lu.losing[k] {
				n.prevent.del(k)
				add(n)
			}
		}
	}
	if st.cond.wiped() {
		if lu.faults > 0 {
			n := st
			n.cond++ // it failed
			add(n)
		}
		st.cond = isReady
		add(st)
	}
}

// wipe is a SANITIZE or FORMAT UNIT that may be at work.
type wipe struct {
	op     int    // in the book
	since  int64  // when its command was over; 0: it may yet start it
	sure   bool   // it was started, and on this unit
	faults uint64 // of the unit, by then
}

// sanitize is SANITIZE (SBC-4 §5.24): it leaves its pattern in every block, or
// zeroes when it erases, whatever becomes of its command.
func (in *initiator) sanitize(t *task, lu *lun) (c cdb) {
	r := in.rng
	t.class, t.access, t.needs = classChange, accessWrite, needAll&^needQuiet
	if k := r.IntN(6); k == 0 || in.likely(lu).cond == isUnsanitized && k < 3 {
		t.change.kind = doSanitizeExit
		c.b[0], c.b[1] = 0x48, 0x1f
		return c
	}
	t.change.kind, t.later = doSanitize, r.IntN(2) == 0
	o := operation{lu: lu, blocks: uint32(lu.area), fua: true, wipe: true}
	c.b[0], c.b[1] = 0x48, 0x20|byte(b2i(t.later))<<7 // AUSE: a failure can be left
	var v value
	if t.erase = r.IntN(3) == 0; t.erase {
		in.openZero(t, o)
		c.b[1] |= pick(r, byte(2), 3) // BLOCK ERASE, CRYPTOGRAPHIC ERASE
	} else {
		v = in.open(t, o, valueSame)
		c.b[1] |= 1
	}
	if in.beginWipe(t, lu); t.erase {
		return c
	}
	t.write = true
	t.data = append(grow(t.data, 0), make([]byte, 4+lu.blockSize)...)
	t.data[0] = pick(r, byte(1), 1, 2) // passes
	be.PutUint16(t.data[2:], uint16(lu.blockSize))
	v.fill(t.data[4:], 0)
	t.want = uint32(len(t.data))
	t.edtl = t.want
	be.PutUint16(c.b[7:], uint16(t.want))
	return c
}

// format is FORMAT UNIT (SBC-4 §5.4), with a parameter list header or without: the
// blocks are zeroes then, whatever becomes of the command.
func (in *initiator) format(t *task, lu *lun) (c cdb) {
	r := in.rng
	t.class, t.access, t.needs = classChange, accessWrite, needAll&^needQuiet
	t.change.kind = doFormat
	in.openZero(t, operation{lu: lu, blocks: uint32(lu.area), fua: true, wipe: true})
	in.beginWipe(t, lu)
	c.b[0], c.b[1] = 0x04, byte(b2i(lu.shielded))<<7 // FMTPINFO
	if r.IntN(3) == 0 {
		return c
	}
	t.later, t.write = r.IntN(2) == 0, true
	long := r.IntN(2) == 0
	t.want = 4 << b2i(long)
	t.edtl = t.want
	t.data = append(grow(t.data, 0), make([]byte, t.want)...)
	t.data[1] = byte(b2i(t.later))<<1 | pick(r, byte(0), 0x80, 0xf0) // FOV, and options that it lets be set
	c.b[1] |= 0x10 | byte(b2i(long))<<5 | pick(r, byte(0), 0x08)     // FMTDATA, LONGLIST, CMPLST
	return c
}

// beginWipe enters what t is about to leave in every block into the list of what
// is at work.
func (in *initiator) beginWipe(t *task, lu *lun) {
	lu.wiping = true
	lu.wipes = append(lu.wipes, wipe{op: t.op, faults: lu.faults})
	t.wipe, t.op = t.op, 0
	if in.rng.IntN(3) != 0 {
		in.wake = in.s.clk.T.Add(time.Duration(in.rng.IntN(100)) * time.Millisecond)
	}
}

// wipes tells whether an I/O is a wipe that leaves zeroes, and nothing else as long.
func (b *book) wipes(lu *lun, io *bdev.IO) bool {
	if io.Op != bdev.Unmap && io.Op != bdev.WriteZeroes || lu.kind == kindNull || io.LBA != 0 || uint64(io.Blocks) < lu.area {
		return false
	}
	for i := range b.ops {
		if o := &b.ops[i]; o.state == pending && o.lu == lu && !o.wipe && uint64(o.blocks) == lu.area {
			return false
		}
	}
	return true
}

// startWipe is SANITIZE and FORMAT UNIT at the unit. After a SANITIZE that failed
// only another one, or leaving that, makes the unit usable (SBC-4 §4.11.3).
func (c *change) startWipe(s *shared) result {
	switch {
	case s.cond.wiped(), c.kind == doFormat && s.cond == isUnsanitized:
		return resNotReady
	case s.modes.swp || c.locked:
		return resProtected
	case c.kind == doSanitize:
		s.cond = isSanitizing
	case c.kind == doFormat:
		s.cond = isFormatting
	case s.cond == isUnsanitized:
		s.cond = isReady
	}
	return resGood
}

// wiping takes the end of a command that wipes: its operation may go on.
func (s *run) wiping(t *task, st outcome) {
	if t.wipe == 0 {
		return
	}
	lu := s.luns[t.lun]
	for i := range lu.wipes {
		w := &lu.wipes[i]
		if w.op != t.wipe {
			continue
		}
		w.since, w.sure = s.now(), st == good && t.call >= lu.made // or it may have been at work on the unit before
		switch {
		case st == without:
			s.wiped(lu, i, without)
		case st == good && !t.later:
			s.wiped(lu, i, good)
		}
		break
	}
	t.wipe = 0
}

// wiped is the end of the operation of wipe i.
func (s *run) wiped(lu *lun, i int, st outcome) {
	w := lu.wipes[i]
	lu.wipes = append(lu.wipes[:i], lu.wipes[i+1:]...)
	if st == good && (!w.sure || lu.faults != w.faults) {
		st = unsure
	}
	s.book.over(w.op, st, "the wipe has ended")
}

// quiet is a command sent at call that found the unit ready: every wipe whose command was over by then has ended.
func (s *run) quiet(lu *lun, call int64) {
	for i := len(lu.wipes) - 1; i >= 0; i-- {
		if w := &lu.wipes[i]; w.since != 0 && w.since < call {
			s.wiped(lu, i, good)
		}
	}
}

// unwipe is the end of the unit that a wipe is at work on.
func (s *run) unwipe(lu *lun) {
	for i := len(lu.wipes) - 1; i >= 0; i-- {
		if lu.wipes[i].since != 0 {
			s.wiped(lu, i, unsure)
		}
	}
}
