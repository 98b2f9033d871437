package scsi

import "spindle/internal/plant"

// Gates: conditions of an I_T_L nexus that stop a command before it runs. A
// command's row says which of them apply to it, so that a READ tests one byte.
const (
	gateRead  uint8 = 1 << iota // a reservation keeps out commands that read the medium
	gateWrite                   // a reservation keeps out commands that write it or change the unit
	gateOther                   // a RESERVE of another nexus keeps out the rest
	gateUA                      // a unit attention waits
	gateFence                   // a task management function timed out here
	gateState                   // the unit is not ready: no medium, SANITIZE
	gatePath                    // the target port group is not active
)

const (
	gateReserved = gateRead | gateWrite | gateOther
	gateCommand  = gateUA | gateFence
	// gateShared is what follows from the unit's shared state: it may change
	// while a task waits, so it is looked at again.
	gateShared = gateReserved | gateState | gatePath
)

// MaxUA bounds the unit attentions that wait on one I_T_L nexus. Beyond it they
// collapse into 29/00, which tells the initiator to look at everything again.
const MaxUA = 8

// ITL is one I_T_L nexus. It belongs to its nexus's reactor.
type ITL struct {
	nexus   *Nexus
	view    *View
	gate    uint8
	uas     uint8
	fences  uint8 // time boxes closed with tasks still running
	told    bool  // home may keep something for this nexus that ends with it
	ua      [MaxUA]Code
	copying uint8 // EXTENDED COPYs at work
	copies  []copyRecord
	reset   bool     // the unit was, while the nexus moved
	lost    homeCall // tells home that the nexus ended, or passes by it
	move    *move    // that it passes by for
}

// queueUA establishes a unit attention condition, reported in order (SAM-5 §5.14).
func (i *ITL) queueUA(c Code) {
	if plant.On(plant.AttentionLost) && c == DeviceReset {
		return
	}
	i.gate |= gateUA
	for _, o := range i.ua[:i.uas] {
		// One condition is told once; a pending power on or reset covers everything
		// that happened to the unit (SPC-5 §5.8.7).
		if o == c || o == PowerOnReset {
			return
		}
	}
	if int(i.uas) == len(i.ua) {
		i.ua[0], i.uas = PowerOnReset, 1
		return
	}
	i.ua[i.uas] = c
	i.uas++
}

// takeUA removes and returns the oldest condition, or 0.
func (i *ITL) takeUA() Code {
	if i.uas == 0 {
		return 0
	}
	c := i.ua[0]
	if plant.On(plant.AttentionTwice) {
		return c
	}
	copy(i.ua[:], i.ua[1:i.uas])
	i.uas--
	if i.uas == 0 {
		i.gate &^= gateUA
	}
	return c
}

// untold puts back the unit attention that t was to report and cannot, because
// it was aborted while its data still came in: what was not told is not cleared
// (SAM-5 §5.14).
func (t *Task) untold() {
	if code := t.attention(); code != 0 {
		t.itl.queueUA(code)
	}
}

// attention is the unit attention that t reports, or 0.
func (t *Task) attention() Code {
	if t.SenseLen == 0 {
		return 0
	}
	key, code := Key(t.Sense[2]&0xf), Code(be.Uint16(t.Sense[12:]))
	if t.Sense[0]&0x7f == 0x72 { // descriptor format (SPC-5 §4.4.2)
		key, code = Key(t.Sense[1]&0xf), Code(be.Uint16(t.Sense[2:]))
	}
	if key != UnitAttention {
		return 0
	}
	return code
}

// Fences tells whether the response of t, which has ended, needs the transport's
// Response Fence (RFC 7143 §4.2.2.3.4): that of PREEMPT AND ABORT, and the unit
// attention by which a nexus learns that its tasks were aborted.
func (t *Task) Fences() bool {
	if t.Status == Good {
		return t.CDB[0] == opPersistentOut && t.CDB[1]&0x1f == prPreemptAbort
	}
	code := t.attention()
	return code>>8 == PowerOnReset>>8 || code == CommandsCleared
}

// dropUA removes c if it waits: REPORT LUNS clears 3F/0E (SPC-5 §6.33.1).
func (i *ITL) dropUA(c Code) {
	n := uint8(0)
	for _, o := range i.ua[:i.uas] {
		if o != c {
			i.ua[n] = o
			n++
		}
	}
	i.uas = n
	if n == 0 {
		i.gate &^= gateUA
	}
}
