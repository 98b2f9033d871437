package sim

import "fmt"

func (c change) String() string {
	return fmt.Sprintf("%s(key %d, action key %d, type %d, APTPL %v)", changeNames[c.kind], c.key, c.action, c.rtype, c.aptpl)
}

var changeNames = [...]string{
	"REGISTER", "PR RESERVE", "PR RELEASE", "CLEAR", "PREEMPT", "PREEMPT AND ABORT", "REGISTER AND IGNORE EXISTING KEY",
	"REGISTER AND MOVE", "RESERVE", "RELEASE", "MODE SELECT", "reset",
	"load", "eject", "PREVENT", "ALLOW", "SET TARGET PORT GROUPS", "SANITIZE", "EXIT FAILURE MODE", "FORMAT UNIT",
}

// changeStates are what runs have to see of each kind of change.
var changeStates = [...]State{
	Registers, PRReserves, PRReleases, PRClears, PRPreempts, PRPreemptAborts, RegisterIgnores, RegisterMoves, Reservations, ReleasesOld, ModeSelects, 0,
	Loads, Ejects, Prevents, Allows, PortsSet, IdentitiesSet, LogsSelected, Sanitizes, SanitizeExits, Formats,
}

// reserveOld is RESERVE or RELEASE of SPC-2.
func (in *initiator) reserveOld(t *task, lu *lun) (c cdb) {
	t.class, t.needs = classChange, needPath|needActive
	t.change = change{kind: doReserveOld}
	c.b[0] = pick(in.rng, byte(0x16), 0x56)
	if st := in.likely(lu); st.reserved && st.owner == in.nexus || in.rng.IntN(2) == 0 {
		t.change.kind = doReleaseOld
		c.b[0]++
	}
	return c
}

// likely is a state that a unit may be in.
func (in *initiator) likely(lu *lun) (st shared) {
	lu.object.Any(in.s.now(), func(s *shared) bool {
		st = *s
		return true
	})
	return st
}

// reserve is PERSISTENT RESERVE OUT, mostly with what fits the state.
func (in *initiator) reserve(t *task, lu *lun) cdb {
	r := in.rng
	st := in.likely(lu)
	own := st.keyOf(in.nexus)
	t.class, t.access, t.needs = classChange, accessUnit, needPath
	c := change{key: own, aptpl: r.IntN(2) == 0, rtype: rsvTypes[r.IntN(len(rsvTypes))]}
	k := r.IntN(100)
	switch {
	case own == 0 && k < 60:
		c.kind, c.action = doRegister, in.newKey()
		in.widen(&c, &st, lu, true)
	case own == 0 && k < 90:
		c.kind, c.action = doRegisterIgnore, in.newKey()
		in.widen(&c, &st, lu, false)
	case st.count > maxRegs/2:
		c.kind = doClear
	case k < 26:
		c.kind = doReserve
	case k < 36:
		c.kind = doRelease
		if st.held && r.IntN(8) != 0 {
			c.rtype = st.kind
		}
	case k < 54:
		c.kind = doPreempt
	case k < 75:
		c.kind = doPreemptAbort
	case k < 79:
		c.kind = doClear
	case k < 84:
		c.kind, c.action = doRegister, in.newKey()
		in.widen(&c, &st, lu, r.IntN(8) == 0)
	case k < 90:
		c.kind = pick(r, doRegister, doRegisterIgnore) // unregisters
		in.widen(&c, &st, lu, false)
	default:
		c.kind, c.action = doMove, in.newKey()
		c.to, c.unreg = in.neighbour(), r.IntN(2) == 0
	}
	if c.kind == doPreempt || c.kind == doPreemptAbort {
		c.action = in.victim(&st)
	}
	if r.IntN(16) == 0 {
		c.key ^= 0x55
	}
	t.change = c
	return in.reserveOut(t)
}

// newKey is a reservation key; some are those of others too.
func (in *initiator) newKey() uint64 {
	return pick(in.rng, uint64(in.id+1), uint64(in.id+1), uint64(in.nexus)+100, 9)
}

// victim is a key to preempt: that of the holder, of some registrant, or none.
func (in *initiator) victim(st *shared) uint64 {
	r := in.rng
	switch k := r.IntN(12); {
	case k == 0:
		return 0
	case k == 1:
		return 77
	case k < 6 && st.held && !st.kind.everyRegistrantHolds():
		return st.keyOf(st.holder)
	case k < 6 && st.held:
		return 0
	case st.count == 0:
		return 9
	}
	g := st.regs[r.IntN(int(st.count))]
	for i := 0; i < 3 && !in.rival(g.nexus); i++ {
		g = st.regs[r.IntN(int(st.count))]
	}
	return g.key
}

// stake is how seldom an initiator fights for a unit: those that are not
// registered yet do so soon, so that there are writes of registrants to fence.
func (in *initiator) stake(lu *lun) int {
	if st := in.likely(lu); st.keyOf(in.nexus) == 0 {
		return 2
	}
	return 5
}

// rival tells whether a nexus is that of another initiator's session, which may
// have commands under way.
func (in *initiator) rival(nexus uint8) bool {
	for _, o := range in.s.inits {
		if o != in && o.phase == full && o.nexus == nexus {
			return true
		}
	}
	return false
}

// neighbour is a nexus to move a reservation to.
func (in *initiator) neighbour() uint8 { return uint8(in.rng.IntN(len(in.s.nexuses))) }

// reserveOut makes the CDB and the parameter list of t's change (SPC-5 §6.17).
func (in *initiator) reserveOut(t *task) (c cdb) {
	q := &t.change
	t.write = true
	t.data = append(grow(t.data, 0), make([]byte, 24)...)
	be.PutUint64(t.data, q.key)
	be.PutUint64(t.data[8:], q.action)
	c.b[0], c.b[1], c.b[2] = 0x5f, byte(q.kind), byte(q.rtype)
	switch q.kind {
	case doMove:
		to := in.s.nexuses[q.to]
		id := to.transportID()
		t.data[17] = byte(b2i(q.unreg))<<1 | byte(b2i(q.aptpl))
		be.PutUint16(t.data[18:], to.portal)
		be.PutUint32(t.data[20:], uint32(len(id)))
		t.data = append(t.data, id...)
	case doRegister, doRegisterIgnore:
		t.data[20] = byte(b2i(q.spec))<<3 | byte(b2i(q.all))<<2 | byte(b2i(q.aptpl))
		if c.b[2] = 0; q.spec {
			t.data = q.appendList(t.data)
		}
	case doClear:
		c.b[2] = 0
	}
	t.want = uint32(len(t.data))
	t.edtl = t.want
	be.PutUint32(c.b[5:], t.want)
	return c
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// readReservations is PERSISTENT RESERVE IN.
func (in *initiator) readReservations(t *task, lu *lun) (c cdb) {
	t.class, t.read, t.access, t.needs = classRegistry, true, accessUnit, needPath
	t.want = 1024
	t.edtl = t.want
	t.service = uint8(pick(in.rng, 0, 1, 3))
	c.b[0], c.b[1] = 0x5e, t.service
	be.PutUint16(c.b[7:], uint16(t.want))
	return c
}

// told takes the data of PERSISTENT RESERVE IN: it has to be that of a state in
// which the unit may have been.
func (in *initiator) told(t *task, lu *lun) {
	s := in.s
	s.count(RegistriesRead)
	if lu.doubtful(t.call) {
		return
	}
	fits := func(st *shared) bool {
		switch t.service {
		case 0:
			return st.isKeys(t.got)
		case 1:
			return st.isReservation(t.got)
		}
		return s.isFullStatus(st, t.got)
	}
	in.fits(t, lu, "reservation", fits)
}

// isKeys tells whether b is the READ KEYS data of s (SPC-5 §6.16.2).
func (s *shared) isKeys(b []byte) bool {
	if len(b) != 8+8*int(s.count) || be.Uint32(b) != s.generation || int(be.Uint32(b[4:])) != len(b)-8 {
		return false
	}
	var sum, want uint64 // in any order: the model's keys are small and distinct in number
	for i := range s.regs[:s.count] {
		want += s.regs[i].key * s.regs[i].key
		k := be.Uint64(b[8+8*i:])
		sum += k * k
	}
	return sum == want
}

// isReservation tells whether b is the READ RESERVATION data of s (SPC-5 §6.16.3).
func (s *shared) isReservation(b []byte) bool {
	if len(b) < 8 || be.Uint32(b) != s.generation {
		return false
	}
	if !s.held {
		return len(b) == 8 && be.Uint32(b[4:]) == 0
	}
	key := uint64(0)
	if !s.kind.everyRegistrantHolds() {
		key = s.keyOf(s.holder)
	}
	return len(b) == 24 && be.Uint32(b[4:]) == 16 && be.Uint64(b[8:]) == key && rsvType(b[21]) == s.kind
}

// isFullStatus tells whether b is the READ FULL STATUS data of st (SPC-5 §6.16.5).
func (s *run) isFullStatus(st *shared, b []byte) bool {
	if len(b) < 8 || be.Uint32(b) != st.generation || int(be.Uint32(b[4:])) != len(b)-8 {
		return false
	}
	n := 0
	for b = b[8:]; len(b) > 0; n++ {
		if len(b) < 24 || len(b) < 24+int(be.Uint32(b[20:])) {
			return false
		}
		size := 24 + int(be.Uint32(b[20:]))
		if !s.isRegistrant(st, b[:size]) {
			return false
		}
		b = b[size:]
	}
	return n == int(st.count)
}

// isRegistrant tells whether b describes a registrant of st.
func (s *run) isRegistrant(st *shared, b []byte) bool {
	for _, g := range st.regs[:st.count] {
		name := s.nexuses[g.nexus]
		id := fmt.Sprintf("%s%d,i,0x%x", initiatorName, name.initiator, name.isid)
		if be.Uint16(b[18:]) != name.portal || len(b) < 28+len(id) || string(b[28:28+len(id)]) != id {
			continue
		}
		kind := rsvType(0)
		if st.isHolder(g.nexus) {
			kind = st.kind
		}
		return be.Uint64(b) == g.key && b[12]&1 == byte(b2i(kind != 0)) && rsvType(b[13]) == kind
	}
	return false
}
