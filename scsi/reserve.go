package scsi

import (
	"spindle/internal/plant"
	"spindle/reactor/clock"
)

// registrant is a nexus registered for persistent reservations.
type registrant struct {
	id  NexusID
	key uint64
}

// MaxRegistrants bounds Limits.Registrants.
const MaxRegistrants = 128

// Limits bound what initiators may have a node's units keep. Reactors ask.
type Limits interface {
	// Registrants is how many registrants a unit may have, at most MaxRegistrants.
	Registrants() int
	// TooManyRegistrants: id was refused for it.
	TooManyRegistrants(id NexusID, now clock.Time)
}

// fixedLimits are those of a node that was given none.
type fixedLimits struct{}

func (fixedLimits) Registrants() int                       { return MaxRegistrants }
func (fixedLimits) TooManyRegistrants(NexusID, clock.Time) {}

// Bound sets the node's limits. Called before there are sessions.
func (d *Device) Bound(l Limits) { d.limits = l }

// reservations is the reservation state of a unit; immutable, part of a snapshot.
type reservations struct {
	generation uint32 // PRGENERATION
	aptpl      bool   // kept over power loss
	regs       []registrant
	held       bool
	kind       prType
	holder     NexusID // not for the all-registrants types
	reserved   bool    // RESERVE(6) or (10) by owner
	owner      NexusID
}

// any tells whether somebody has registered or reserved.
func (p *reservations) any() bool { return len(p.regs) != 0 || p.reserved }

// claims fails the command of r if it is the first to reserve anything, and the
// bdev is another LUN's too: that has initiators and reservations of its own, and
// nothing would keep those out. False: r changes nothing.
func (lu *LogicalUnit) claims(r *round) bool {
	if r.snap == nil || !r.snap.pr.any() || lu.current.pr.any() || lu.bdev.Reserve(true) {
		return true
	}
	t := r.except
	*r = round{call: r.call, except: t, uas: r.uas[:0], fence: r.fence[:0]}
	t.fail(IllegalRequest, InvalidOpcode)
	return false
}

// prType is a persistent reservation type (SPC-5 §6.16.3.4).
type prType uint8

const (
	writeExclusive      prType = 1
	exclusiveAccess     prType = 3
	writeExclusiveRegs  prType = 5
	exclusiveAccessRegs prType = 6
	writeExclusiveAll   prType = 7
	exclusiveAccessAll  prType = 8
	supportedTypesByte4 byte   = 0xea // WR_EX_AR, EX_AC_RO, WR_EX_RO, EX_AC, WR_EX
	supportedTypesByte5 byte   = 0x01 // EX_AC_AR
)

func (k prType) valid() bool {
	switch k {
	case writeExclusive, exclusiveAccess, writeExclusiveRegs, exclusiveAccessRegs, writeExclusiveAll, exclusiveAccessAll:
		return true
	}
	return false
}

// all tells whether every registrant holds a reservation of this type.
func (k prType) all() bool { return k == writeExclusiveAll || k == exclusiveAccessAll }

// open tells whether registrants may do what the holder may.
func (k prType) open() bool { return k >= writeExclusiveRegs }

// readable tells whether everybody may read.
func (k prType) readable() bool {
	return k == writeExclusive || k == writeExclusiveRegs || k == writeExclusiveAll
}

func (p *reservations) find(id NexusID) int {
	for k := range p.regs {
		if p.regs[k].id == id {
			return k
		}
	}
	return -1
}

// holds tells whether id holds the reservation.
func (p *reservations) holds(id NexusID) bool {
	return p.held && (p.kind.all() && p.find(id) >= 0 || !p.kind.all() && p.holder == id)
}

// gates is what the reservation keeps id from (SPC-5 table 66, SBC-4 table 13).
func (p *reservations) gates(id NexusID) uint8 {
	if plant.On(plant.ReservationOpen) {
		return 0
	}
	if p.reserved && p.owner != id {
		return gateRead | gateWrite | gateOther
	}
	if !p.held || p.holds(id) || p.kind.open() && p.find(id) >= 0 && !plant.On(plant.ReservationShut) {
		return 0
	}
	if p.kind.readable() {
		return gateWrite
	}
	return gateRead | gateWrite
}

// regate works the gates of the I_T_L nexus out from the installed snapshot.
func (i *ITL) regate() {
	i.gate = i.gate&^gateShared | i.view.snap.gates(i.nexus.ID)
}

// gates is what the shared state keeps a nexus from.
func (s *snapshot) gates(id NexusID) uint8 {
	g := s.pr.gates(id)
	if s.state != unitReady {
		g |= gateState
	}
	if p := s.port(id.TPGT); p != nil && !p.state.active() {
		g |= gatePath
	}
	return g
}

func prepReserve(t *Task) Result {
	// Third-party and extent reservations are obsolete since SPC-2.
	if t.CDB[1]&0x11 != 0 {
		return t.badCDB(1, 4)
	}
	return Ready
}

// doAtHome is a command whose effect is on the unit's shared state.
func doAtHome(t *Task) action {
	if t.step == 0 {
		t.step = 1
		return actHome
	}
	return actDone
}

// homeReserve is RESERVE (SPC-2 §7.21). It excludes persistent reservations:
// with registrations there is a conflict.
func homeReserve(lu *LogicalUnit, t *Task, r *round) {
	p := lu.current.pr
	if len(p.regs) != 0 || p.reserved && p.owner != t.Nexus.ID {
		t.Status = ReservationConflict
		return
	}
	if p.reserved {
		return
	}
	n := *p
	n.reserved, n.owner = true, t.Nexus.ID
	lu.change(r).pr = &n
}

// homeRelease is RELEASE: one that does not own the reservation releases
// nothing and says so to nobody (SPC-2 §7.16).
func homeRelease(lu *LogicalUnit, t *Task, r *round) {
	p := lu.current.pr
	if len(p.regs) != 0 {
		t.Status = ReservationConflict
		return
	}
	lu.applyRelease(t.Nexus.ID, r)
}
