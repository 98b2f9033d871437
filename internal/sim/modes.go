package sim

// modes are the mode parameters that MODE SELECT changes here (SPC-5 §7.5.8,
// SBC-4 §6.5.6).
type modes struct {
	through bool // WCE is 0
	swp     bool // software write protect
	tas     bool // tasks that others abort end with TASK ABORTED
	threshold
}

// Mode pages and their lengths.
const (
	pageCaching      = 0x08
	pageControl      = 0x0a
	pageProvisioning = 0x1c // subpage 02h
	cachingLen       = 20
	controlLen       = 12
	provisioningLen  = 24
)

// everyone is who a notice is for when all but the nexus that asked get it.
const everyone = 255

// defaults are the mode parameters of a unit that nobody has told anything.
func (lu *lun) defaults() modes { return modes{tas: lu.tas} }

// mayCache tells whether WCE of a unit can be changed.
func (lu *lun) mayCache() bool { return lu.kind == kindFile }

// selectModes is MODE SELECT (6) of one page.
func (in *initiator) selectModes(t *task, lu *lun) (c cdb) {
	r := in.rng
	t.class, t.access, t.write, t.needs = classChange, accessWrite, true, needQuiet|needPath
	m := in.likely(lu).modes
	q := change{kind: doSelect}
	t.data = append(grow(t.data, 0), 0, 0, 0, 0)
	switch {
	case lu.metered && (t.lun != in.s.plan.contended || r.IntN(3) == 0):
		q.page = pageProvisioning
		q.modes.threshold = threshold{armed: r.IntN(4) != 0, sets: uint8(1 + r.IntN(maxSets))}
		t.data = q.modes.threshold.append(t.data)
	case lu.mayCache() && r.IntN(2) == 0:
		q.page = pageCaching
		q.modes.through = r.IntN(3) != 0
		page := [cachingLen]byte{pageCaching, cachingLen - 2, byte(b2i(!q.modes.through)) << 2}
		t.data = append(t.data, page[:]...)
	default:
		q.page = pageControl
		q.modes.tas = r.IntN(3) != 0
		q.modes.swp = !m.swp && r.IntN(4) == 0 // not for long
		page := [controlLen]byte{pageControl, controlLen - 2, 0, 0x10, byte(b2i(q.modes.swp)) << 3, byte(b2i(q.modes.tas)) << 6, 0, 0, 0xff, 0xff}
		t.data = append(t.data, page[:]...)
	}
	q.save = r.IntN(3) == 0 && (!m.swp && !q.modes.swp || r.IntN(4) == 0)
	t.change = q
	t.want = uint32(len(t.data))
	t.edtl = t.want
	c.b[0], c.b[1], c.b[4] = 0x15, 0x10|byte(b2i(q.save)), byte(t.want)
	return c
}

// set is MODE SELECT at the unit: the others are told when anything changes.
func (c *change) set(s *shared, tell func(notice)) result {
	if s.refuses(c.nexus, accessWrite) {
		return resConflict
	}
	if s.unready(c.needs) {
		return resNotReady
	}
	m := s.modes
	switch c.page {
	case pageCaching:
		m.through = c.modes.through
	case pageControl:
		m.tas, m.swp = c.modes.tas, c.modes.swp
	default:
		m.threshold = c.modes.threshold
	}
	if c.save {
		s.saved = m
	}
	if m != s.modes {
		s.modes = m
		tell(notice{everyone, causeModes})
	}
	return resGood
}

// Page controls (SPC-5 §6.14.1).
const (
	currentModes = iota
	_
	defaultModes
	savedModes
)

// senseModes is MODE SENSE (6) of one page, without block descriptor.
func (in *initiator) senseModes(t *task, lu *lun) (c cdb) {
	t.class, t.read, t.access, t.needs = classModes, true, accessWrite, needPath
	if t.service = pick(in.rng, byte(pageCaching), pageControl); lu.metered && in.rng.IntN(3) == 0 {
		t.service, c.b[3] = pageProvisioning, 0x02
	}
	t.control = pick(in.rng, byte(currentModes), currentModes, savedModes, defaultModes)
	t.want = 100
	t.edtl = t.want
	c.b[0], c.b[1], c.b[2], c.b[4] = 0x1a, 0x08, t.control<<6|t.service, byte(t.want)
	return c
}

// showed takes the data of MODE SENSE: it has to be that of modes that the unit
// may have had.
func (in *initiator) showed(t *task, lu *lun) {
	in.s.count(ModesRead)
	b := t.got
	if len(b) < 4+controlLen || lu.doubtful(t.call) {
		return
	}
	fits := func(st *shared) bool {
		m := [...]modes{currentModes: st.modes, defaultModes: lu.defaults(), savedModes: st.saved}[t.control]
		switch {
		case (b[2]&0x80 != 0) != (st.modes.swp || lu.readOnly): // WP
			return false
		case t.service == pageProvisioning:
			return string(b[4:]) == string(m.threshold.page(b[4]&0x80))
		case t.service == pageCaching:
			return !lu.mayCache() || (b[6]&0x04 == 0) == m.through
		}
		return (b[8]&0x08 != 0) == m.swp && (b[9]&0x40 != 0) == m.tas
	}
	if t.control == savedModes {
		in.s.count(ModesReadSaved)
	}
	in.fits(t, lu, "modes", fits)
}

// protected takes DATA PROTECT, SOFTWARE WRITE PROTECTED.
func (in *initiator) protected(t *task, lu *lun) {
	in.s.count(WritesProtected)
	if lu.doubtful(t.call) || t.access == accessWrite && lu.object.Any(t.call, func(st *shared) bool { return st.modes.swp }) {
		return
	}
	in.bad("modes", "LUN %d: task %#x is refused for SWP, which is not set", lu.id, t.itt)
}

// written is a write that ended well: it was not protected from, and with the
// cache off it is durable.
func (in *initiator) written(t *task, lu *lun) {
	if lu.doubtful(t.call) || lu.object.Lost {
		return
	}
	if !lu.object.Any(t.call, func(st *shared) bool { return !st.modes.swp }) {
		in.bad("modes", "LUN %d: task %#x wrote although SWP is set", lu.id, t.itt)
	}
	if t.class != classZero && t.op != 0 && !lu.object.Any(t.call, func(st *shared) bool { return !st.modes.through }) {
		in.s.count(WritesThrough)
		in.s.book.ops[t.op].fua = true
	}
}

// taskAborted takes TASK ABORTED (SAM-5 §5.3.1): another nexus has ended the
// task, and TAS says to tell.
func (in *initiator) taskAborted(t *task, lu *lun) {
	in.s.count(TasksAbortedTold)
	if in.unannounced(t) {
		in.conn.owe(t, in.s.now())
	}
	if in.sess.fastAbort {
		in.conn.endsLate(t, len(in.s.luns))
	}
	if !in.overtook(t) && !in.failing && !lu.doubtful(t.call) && !((t.excuses > 0 || t.at < lu.stray) && lu.object.Any(t.call, func(st *shared) bool { return st.modes.tas })) {
		in.bad("modes", "LUN %d: task %#x ends with TASK ABORTED, and nobody has aborted it with TAS set", lu.id, t.itt)
	}
}

// tellsAborted tells whether TAS was set for certain while a function that was
// sent at call ended tasks; before are the states that it met, if it changes any.
func (lu *lun) tellsAborted(call int64, before []shared) bool {
	if lu.doubtful(call) || lu.object.Lost {
		return false
	}
	if before == nil {
		return !lu.object.Any(call, func(st *shared) bool { return !st.modes.tas })
	}
	for i := range before {
		if !before[i].modes.tas {
			return false
		}
	}
	return true
}

// awaitAborted is the success of a function m that has ended others' tasks with
// TAS set: those that nothing else may have ended have an answer to come.
func (in *initiator) awaitAborted(m *task, place int) {
	for _, o := range in.s.inits {
		for _, t := range o.tasks {
			if o != in && t.lun == place && t.kind == kindCommand && t.excuses == 1 && t.excuser == m.stamp(in.id) {
				t.maybe = false
			}
		}
	}
}
