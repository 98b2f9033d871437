package sim

// maxRegs bounds the registrants that the model of a unit holds.
const maxRegs = 12

// shared is what the nexuses of a logical unit share beside its blocks:
// registrations and reservations (SPC-5 §5.14, SPC-2 §5.5.1), mode parameters,
// whether it is ready, and the states of the paths to it. It is written from the standards, not from the device server.
type shared struct {
	generation uint32
	regs       [maxRegs]registration // by nexus, ascending
	count      uint8
	held       bool // there is a persistent reservation
	kind       rsvType
	holder     uint8 // when one nexus holds it
	aptpl      bool
	reserved   bool // by RESERVE
	owner      uint8
	modes      modes
	saved      modes    // that a reset and a new start return to
	identity   [2]uint8 // identifying information, by place of its type
	cond       condition
	prevent    nexusSet // those that prevent the removal of the medium
	ports      [2]portState
	used       uint8 // threshold sets of a metered unit; 0 is none that it knows of
	reached    bool  // its threshold, when it looked last
}

// registration is the key of a registered nexus.
type registration struct {
	nexus uint8
	key   uint64
}

// rsvType is the type of a persistent reservation (SPC-5 §6.16.3.4).
type rsvType uint8

const (
	writeExclusive      rsvType = 1
	exclusiveAccess     rsvType = 3
	writeRegistrants    rsvType = 5
	accessRegistrants   rsvType = 6
	writeAllRegistrants rsvType = 7
	accessAll           rsvType = 8
)

var rsvTypes = [...]rsvType{writeExclusive, exclusiveAccess, writeRegistrants, accessRegistrants, writeAllRegistrants, accessAll}

func (k rsvType) everyRegistrantHolds() bool { return k >= writeAllRegistrants }
func (k rsvType) registrantsMay() bool       { return k >= writeRegistrants }
func (k rsvType) othersRead() bool {
	return k == writeExclusive || k == writeRegistrants || k == writeAllRegistrants
}

// access is what a command needs of a reservation (SPC-5 table 66, SBC-4 table 13).
type access uint8

const (
	accessFree  access = iota // INQUIRY and its like: never in conflict
	accessUnit                // kept out by RESERVE alone
	accessRead                // reads the medium
	accessWrite               // writes the medium, or changes the unit
)

// refuses tells whether a command of a nexus meets RESERVATION CONFLICT.
func (s *shared) refuses(nexus uint8, a access) bool {
	if a == accessFree {
		return false
	}
	if s.reserved && s.owner != nexus {
		return true
	}
	if !s.held || a == accessUnit || s.isHolder(nexus) {
		return false
	}
	if s.kind.registrantsMay() && s.find(nexus) >= 0 {
		return false
	}
	return a == accessWrite || !s.kind.othersRead()
}

func (s *shared) isHolder(nexus uint8) bool {
	if !s.held {
		return false
	}
	if s.kind.everyRegistrantHolds() {
		return s.find(nexus) >= 0
	}
	return s.holder == nexus
}

func (s *shared) find(nexus uint8) int {
	for i := range s.regs[:s.count] {
		if s.regs[i].nexus == nexus {
			return i
		}
	}
	return -1
}

// keyOf is the key of a nexus, 0 when it is not registered.
func (s *shared) keyOf(nexus uint8) uint64 {
	if i := s.find(nexus); i >= 0 {
		return s.regs[i].key
	}
	return 0
}

// set registers a nexus, or changes its key. False: the model has no room.
func (s *shared) set(nexus uint8, key uint64) bool {
	if i := s.find(nexus); i >= 0 {
		s.regs[i].key = key
		return true
	}
	if s.count == maxRegs {
		return false
	}
	i := int(s.count)
	for ; i > 0 && s.regs[i-1].nexus > nexus; i-- {
		s.regs[i] = s.regs[i-1]
	}
	s.regs[i] = registration{nexus, key}
	s.count++
	return true
}

func (s *shared) unset(nexus uint8) {
	i := s.find(nexus)
	if i < 0 {
		return
	}
	copy(s.regs[i:], s.regs[i+1:s.count])
	s.count--
	s.regs[s.count] = registration{}
}

// drop ends the persistent reservation.
func (s *shared) drop() { s.held, s.kind, s.holder = false, 0, 0 }

// take gives the reservation to a nexus.
func (s *shared) take(nexus uint8, k rsvType) {
	s.held, s.kind, s.holder = true, k, nexus
	if k.everyRegistrantHolds() {
		s.holder = 0
	}
}

// fresh is the state of a unit that has kept nothing.
func (lu *lun) fresh() shared { return shared{modes: lu.defaults(), saved: lu.defaults()} }

// kept is what is left of the state when the unit comes back: with APTPL the
// registrations and the reservation, with a generation of 0 (SPC-5 §5.14.5). What was
// saved is kept in any case.
func (lu *lun) kept(s shared) shared {
	if !s.aptpl {
		return shared{modes: s.saved, saved: s.saved, identity: s.identity}
	}
	s.modes = s.saved
	s.generation, s.reserved, s.owner = 0, false, 0
	s.cond, s.prevent, s.ports = isReady, nexusSet{}, [2]portState{}
	s.used, s.reached = 0, false
	return s
}

// result of a command that changes the shared state.
type result = uint8

const (
	resGood result = iota
	resConflict
	resIllegal
	resNotReady
	resPrevented
	resProtected
	resTooMany // the model has no room: nothing is known any more
	resUnclear // nor does the standard say
)

// change is a command that changes the shared state of a unit.
type change struct {
	kind   changeKind
	nexus  uint8 // that asks
	key    uint64
	action uint64 // SERVICE ACTION RESERVATION KEY
	rtype  rsvType
	aptpl  bool
	to     uint8 // REGISTER AND MOVE
	unreg  bool
	wider
	modes  modes // MODE SELECT
	save   bool  // ... with SP
	locked bool  // SANITIZE, FORMAT UNIT: the unit is read only
	page   uint8 // ... of this page; of LOG SELECT too
	resets bool  // LOG SELECT: counts
	needs  needs
	access access
	port   uint8        // that it came by
	ports  [2]portState // SET TARGET PORT GROUPS
	named  uint8        // ... which of them; of identifying information the type
	value  uint8        // ... and what it is
}

type changeKind uint8

// Kinds of changes: the first eight are the service actions of PERSISTENT
// RESERVE OUT (SPC-5 table 188).
const (
	doRegister changeKind = iota
	doReserve
	doRelease
	doClear
	doPreempt
	doPreemptAbort
	doRegisterIgnore
	doMove
	doReserveOld
	doReleaseOld
	doSelect
	doReset
	doLoad
	doEject
	doPrevent
	doAllow
	doSetPorts
	doIdentify
	doSelectLog
	doSanitize
	doSanitizeExit
	doFormat
)

// notice is a unit attention that a change establishes for a nexus.
type notice struct {
	to uint8
	c  cause
}

// apply makes the change; tell hears of the unit attentions. A registrant that
// is removed by preemption is told so, which is how the caller knows of it.
func (c *change) apply(s *shared, tell func(notice)) result {
	if c.kind == doReset {
		s.reserved, s.owner, s.modes, s.prevent = false, 0, s.saved, nexusSet{}
		return resGood
	}
	if s.cutOff(c.needs, c.port) {
		return resNotReady
	}
	if k := c.kind; k >= doLoad {
		switch {
		case s.refuses(c.nexus, c.access):
			return resConflict
		case s.unready(c.needs):
			return resNotReady
		case k == doSetPorts:
			return c.setPorts(s, tell)
		case k == doIdentify:
			s.identity[c.named] = c.value
			tell(notice{everyone, causeIdentity})
			return resGood
		case k == doSelectLog:
			return c.selectLog(tell)
		case k >= doSanitize:
			return c.startWipe(s)
		}
		return c.moveMedium(s, tell)
	}
	switch c.kind {
	case doSelect:
		return c.set(s, tell)
	case doReserveOld:
		if s.count != 0 || s.reserved && s.owner != c.nexus {
			return resConflict
		}
		s.reserved, s.owner = true, c.nexus
		return resGood
	case doReleaseOld:
		if s.count != 0 {
			return resConflict
		}
		if s.reserved && s.owner == c.nexus {
			s.reserved, s.owner = false, 0
		}
		return resGood
	}
	if s.reserved {
		return resConflict
	}
	own := s.keyOf(c.nexus)
	switch c.kind {
	case doRegister, doRegisterIgnore:
		return c.register(s, own, tell)
	}
	if own == 0 || own != c.key {
		return resConflict
	}
	switch c.kind {
	case doReserve:
		switch {
		case s.held && (!s.isHolder(c.nexus) || s.kind != c.rtype):
			return resConflict
		case !s.held:
			s.take(c.nexus, c.rtype)
		}
	case doRelease:
		if !s.isHolder(c.nexus) {
			return resGood
		}
		if s.kind != c.rtype {
			return resIllegal
		}
		if s.kind.registrantsMay() {
			s.tellOthers(c.nexus, causeReleased, tell)
		}
		s.drop()
	case doClear:
		s.tellOthers(c.nexus, causePreempted, tell)
		for _, g := range s.regs[:s.count] {
			s.prevent.del(g.nexus)
		}
		s.regs, s.count = [maxRegs]registration{}, 0
		s.drop()
		s.generation++
	case doPreempt, doPreemptAbort:
		return c.preempt(s, tell)
	case doMove:
		return c.move(s)
	}
	return resGood
}

func (s *shared) tellOthers(but uint8, c cause, tell func(notice)) {
	for _, g := range s.regs[:s.count] {
		if g.nexus != but {
			tell(notice{g.nexus, c})
		}
	}
}

// preempt is SPC-5 §5.14.11.2.4.
func (c *change) preempt(s *shared, tell func(notice)) result {
	all := s.held && s.kind.everyRegistrantHolds()
	if c.action == 0 && !all {
		return resIllegal
	}
	everyone := all && c.action == 0
	takes := everyone || s.held && !all && s.keyOf(s.holder) == c.action
	hit := false
	for i := int(s.count) - 1; i >= 0; i-- {
		g := s.regs[i]
		if !everyone && g.key != c.action {
			continue
		}
		hit = true
		if g.nexus != c.nexus {
			s.unset(g.nexus)
			tell(notice{g.nexus, causeRegistration})
			if c.kind == doPreemptAbort { // SBC-5 §5.15
				s.prevent.del(g.nexus)
			}
		}
	}
	if !hit {
		return resConflict
	}
	if takes {
		if s.kind != c.rtype {
			s.tellOthers(c.nexus, causeReleased, tell)
		}
		s.take(c.nexus, c.rtype)
	}
	s.generation++
	return resGood
}

// move is SPC-5 §5.14.8.
func (c *change) move(s *shared) result {
	if !s.isHolder(c.nexus) || s.kind.everyRegistrantHolds() {
		return resConflict
	}
	if c.action == 0 || c.to == c.nexus {
		return resIllegal
	}
	if !s.set(c.to, c.action) {
		return resTooMany
	}
	s.holder = c.to
	if c.unreg {
		s.unset(c.nexus)
	}
	s.aptpl = c.aptpl
	s.generation++
	return resGood
}
