package sim

import (
	"fmt"
	"slices"

	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/scsi"
)

// cause is what establishes unit attention conditions.
type cause uint8

const (
	causeAttach       cause = iota // the nexus is new to the unit
	causeLUN                       // LOGICAL UNIT RESET
	causeWarm                      // TARGET WARM RESET
	causeCold                      // TARGET COLD RESET
	causeClear                     // CLEAR TASK SET
	causeLUNs                      // the inventory changed
	causeResize                    // the capacity changed
	causeRegistration              // PREEMPT ended a registration
	causeReleased                  // a persistent reservation ended
	causePreempted                 // CLEAR
	causeModes                     // MODE SELECT
	causeMedium                    // a medium was loaded
	causeAccess                    // SET TARGET PORT GROUPS
	causeIdentity                  // SET IDENTIFYING INFORMATION
	causeLog                       // LOG SELECT
	causeThreshold                 // the provisioning threshold is reached
	numCauses
)

// causeOf is what a unit attention condition tells of, false for those that
// nothing here causes.
func causeOf(c scsi.Code) (cause, bool) {
	switch c {
	case scsi.PowerOnReset:
		return causeAttach, true
	case scsi.DeviceReset:
		return causeLUN, true
	case scsi.BusReset:
		return causeWarm, true
	case scsi.PowerOn:
		return causeCold, true
	case scsi.CommandsCleared:
		return causeClear, true
	case scsi.ReportedLUNsChanged:
		return causeLUNs, true
	case scsi.CapacityChanged:
		return causeResize, true
	case scsi.RegistrationsPreempted:
		return causeRegistration, true
	case scsi.ReservationsReleased:
		return causeReleased, true
	case scsi.ReservationsPreempted:
		return causePreempted, true
	case scsi.ModeParametersChanged:
		return causeModes, true
	case scsi.MediumChanged:
		return causeMedium, true
	case scsi.AccessStateChanged:
		return causeAccess, true
	case scsi.DeviceIdentifierChanged:
		return causeIdentity, true
	case scsi.LogParametersChanged:
		return causeLog, true
	case scsi.SoftThresholdReached:
		return causeThreshold, true
	}
	return 0, false
}

// events count causes on a logical unit: when they may begin to show, and when
// they certainly have.
type events struct {
	begun, over [numCauses]int
	faults      uint64     // I/Os that its device has failed
	unsteady    bool       // is being taken away or brought back
	resetting   int        // commands and functions on their way that end tasks of others
	stray       clock.Time // a function that ends its tasks was lost with its session, and may be at work until then
	resetCall   int64      // of the last reset that was answered well
	since       int64      // when the target started: what was sent before counts no more
}

// unit is what an initiator's session knows of a logical unit.
type unit struct {
	used    bool
	blurred bool  // an attention may have come unseen: nothing is known
	lost    int64 // when what a command that ended without an answer may have told had come
	began   int64 // the first request to it
	resized int64 // when a change of its capacity was told last
	gap     int64 // when a command ended without an answer, which may have told of what had come by then
	first   bool  // has had an attention since login
	last    int64 // instant of the last attention of a reset
	reset   int64 // ... that was sent at this instant
	owed    int64 // a reset was over then: a command sent after it finds an attention; 0 is none
	base    [numCauses]int
	seen    [numCauses]int
	due     [numCauses]debt
}

// debt is a unit attention that an I_T_L nexus must be told of.
type debt struct {
	from int64 // by commands sent after this instant; 0 is none
	told int64 // when it was told last
	call int64 // of the command that established it
}

// begin is the first request to the unit in this session.
func (u *unit) begin(s *run, lu *lun) {
	*u = unit{used: true, base: lu.over, blurred: lu.unsteady, began: s.now()}
}

// attention takes a unit attention condition: each cause is told once.
func (in *initiator) attention(t *task, lu *lun, code scsi.Code) {
	s, u := in.s, &in.units[t.lun]
	s.count(UnitAttentions)
	k, known := causeOf(code)
	if !known {
		in.bad("unit attention", "LUN %d: %04x, for which there is no cause", lu.id, uint16(code))
		return
	}
	if u.seen[k]++; k == causeThreshold {
		s.count(ThresholdsTold)
		s.failedForGood(lu) // it may be told before the I/O that failed is answered
	}
	most := lu.begun[k] - u.base[k]
	if k == causeAttach {
		most++
	}
	if u.seen[k] > most && !(k == causeAttach && u.crowded(lu)) {
		in.bad("unit attention", "LUN %d: %04x for the %d. time, of %d", lu.id, uint16(code), u.seen[k], most)
	}
	u.first = true
	for i := range u.due {
		if i == int(k) || code == scsi.PowerOnReset { // which stands for all that waited
			u.due[i] = debt{told: s.now()}
		}
	}
	if k <= causeCold {
		u.last, u.owed = s.now(), 0
	}
	if k == causeResize || code == scsi.PowerOnReset {
		u.resized = s.now()
	}
}

// crowded tells whether more conditions may have waited than are kept, in whose place
// power on is told again.
func (u *unit) crowded(lu *lun) bool {
	kinds := 0
	for k, n := range lu.begun {
		if n > u.base[k] {
			kinds++
		}
	}
	return kinds > scsi.MaxUA
}

// unanswered notes that t has ended without an answer, which may have told of
// what had come until the instant given.
func (in *initiator) unanswered(t *task, until int64) {
	for i := range in.units {
		if u := &in.units[i]; i == t.lun || t.class == classList {
			u.lost, u.gap = max(u.lost, until), in.s.now()
		}
	}
}

// mayTell tells whether an answer that has not come yet may tell of a unit
// attention of before t ended: that of a command before it, or one on another
// connection, REQUEST SENSE among them. REPORT LUNS has to do with all units.
func (in *initiator) mayTell(t *task) bool {
	return slices.ContainsFunc(in.tasks, func(o *task) bool {
		tells := o.lun == t.lun && (o.gated || o.class == classSense) || o.class == classList || t.class == classList
		return tells && (o.call < t.call || o.conn != t.conn || pdu.SNLess(o.cmdSN, t.cmdSN)) // or was sent out of order
	})
}

// missed tells whether t, which ended well, shows that an attention was not
// told. One may have gone with a command that has no answer.
func (in *initiator) missed(t *task) string {
	u := &in.units[t.lun]
	if !t.gated || u.blurred || in.mayTell(t) {
		return ""
	}
	switch {
	case !u.first && u.lost == 0:
		return "no unit attention has come since login"
	case u.first && u.owed != 0 && t.call > u.owed && u.lost < u.reset:
		return "nothing told of a reset before it"
	}
	for k, d := range u.due {
		if d.from != 0 && t.call > d.from && u.lost < d.call {
			return fmt.Sprintf("nothing told of cause %d before it", k)
		}
	}
	return ""
}

// cause notes that something which units attention begins on lu.
func (s *run) cause(lu *lun, k cause) { lu.begun[k]++ }

// caused notes that it is over: since instant call all who use the unit have
// been told, or will be with their next command.
func (s *run) caused(lu *lun, k cause, call int64, by *initiator, done bool) {
	if !done {
		return // it may come to pass all the same
	}
	lu.over[k]++
	if k == causeLUN || k == causeWarm || k == causeCold {
		lu.resetCall = max(lu.resetCall, call)
	}
	if k > causeCold || k == causeAttach {
		return
	}
	place := s.placeOf(lu)
	for _, in := range s.inits {
		u := &in.units[place]
		if in != by && in.up() && u.used && u.first && u.last < call && u.owed == 0 {
			u.owed, u.reset = s.now(), call
		}
	}
}

// owe notes that a unit attention waits for a nexus, established by a command
// that by sent at call, if it has a session that had used the unit by then.
func (s *run) owe(lu *lun, n notice, by *initiator, call int64) {
	place := s.placeOf(lu)
	for _, in := range s.inits {
		u := &in.units[place]
		if in != by && in.up() && (in.nexus == n.to || n.to == everyone) && u.used && u.first && u.last < call && u.due[n.c].from == 0 && u.due[n.c].told < call {
			u.due[n.c].from, u.due[n.c].call = s.now(), call
		}
	}
}

func (s *run) placeOf(lu *lun) int {
	for i, o := range s.luns {
		if o == lu {
			return i
		}
	}
	return -1
}

// letGo is the end of an initiator's session, as far as unit i goes.
func (in *initiator) letGo(i int) { in.s.lose(in.s.luns[i], in.nexus) }
