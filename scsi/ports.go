package scsi

import (
	"errors"
	"fmt"
	"slices"

	"spindle/internal/plant"
	"spindle/reactor"
)

// PortState is an asymmetric access state of a target port group (SPC-5 §5.17.2).
type PortState uint8

// States of a target port group.
const (
	PortOptimized    PortState = 0x0
	PortNonOptimized PortState = 0x1
	PortStandby      PortState = 0x2
	PortUnavailable  PortState = 0x3
	PortTransition   PortState = 0xf
)

func (s PortState) valid() bool { return s <= PortUnavailable || s == PortTransition }

// PortStateNames are the states as people write them.
var PortStateNames = []string{"optimized", "non_optimized", "standby", "unavailable", "transitioning"}

// String is the name of a state.
func (s PortState) String() string {
	switch {
	case s <= PortUnavailable:
		return PortStateNames[s]
	case s == PortTransition:
		return PortStateNames[4]
	}
	return "unknown"
}

// ParsePortState reads a name of PortStateNames.
func ParsePortState(name string) (PortState, bool) {
	switch k := slices.Index(PortStateNames, name); k {
	case -1:
		return 0, false
	case 4:
		return PortTransition, true
	default:
		return PortState(k), true
	}
}

// active tells whether commands for the medium work.
func (s PortState) active() bool { return s <= PortNonOptimized }

// MaxPorts bounds the target ports of a target node.
const MaxPorts = 256

// ErrNoPort is returned for a target port group the node does not have.
var ErrNoPort = errors.New("scsi: no such target port group")

// Why a port has its state (SPC-5 table 244).
const (
	portUntouched = 0
	portExplicit  = 1 // SET TARGET PORT GROUPS
	portImplicit  = 2 // control
)

// port is a target port: an iSCSI portal group, whose tag is its relative target
// port identifier and its target port group at once (RFC 7143 §4.2.7.3).
type port struct {
	tag    uint16
	state  PortState
	reason uint8
	// serial counts what control says of the port, so that it is taken over once
	// and what initiators set afterwards stays.
	serial uint32
}

// port finds a port of the unit, or nil.
func (s *snapshot) port(tag uint16) *port {
	for k := range s.ports {
		if s.ports[k].tag == tag {
			return &s.ports[k]
		}
	}
	return nil
}

// SetPorts tells which target ports lead to the device: the tags of its portal
// groups. New ones are active/optimized. Safe from any control thread; units
// follow soon.
func (d *Device) SetPorts(tags []uint16) {
	old := d.ports
	var next []port
	for _, tag := range tags {
		known := func(p port) bool { return p.tag == tag }
		if len(next) == MaxPorts || slices.ContainsFunc(next, known) {
			continue
		}
		p := port{tag: tag}
		if k := slices.IndexFunc(old, known); k >= 0 {
			p = old[k]
		}
		next = append(next, p)
	}
	slices.SortFunc(next, func(a, b port) int { return int(a.tag) - int(b.tag) })
	d.publishPorts(next)
	for _, lu := range d.inventory.Load().all {
		lu.resized()
	}
}

func (d *Device) publishPorts(list []port) {
	d.ports = list
	d.wanted.Store(&list)
}

// SetPortGroupState changes the state of a target port group of every unit, as
// ALUA calls implicit: initiators learn of it by a unit attention. It returns
// once no command of a path that is no longer active is in the backend.
func (d *Device) SetPortGroupState(c reactor.Caller, tag uint16, state PortState) error {
	k := slices.IndexFunc(d.ports, func(p port) bool { return p.tag == tag })
	switch {
	case k < 0:
		return fmt.Errorf("%w: %d", ErrNoPort, tag)
	case !state.valid():
		return fmt.Errorf("scsi: target port group state %#x is not valid", uint8(state))
	}
	next := slices.Clone(d.ports)
	next[k].state, next[k].reason = state, portImplicit
	next[k].serial++
	d.publishPorts(next)
	for _, lu := range d.inventory.Load().all {
		c.Await(lu.claimHome(0).r, func(done func()) {
			lu.receive(&homeCall{lu: lu, kind: callPorts, done: done})
		})
	}
	return nil
}

// PortGroup is a target port group as control wants it, and as each unit has
// it: SET TARGET PORT GROUPS reaches one unit.
type PortGroup struct {
	Tag   uint16
	State PortState
	Units []UnitPort
}

// UnitPort is the state of a target port group at a unit.
type UnitPort struct {
	LUN      uint16
	State    PortState
	Explicit bool // an initiator set it
}

// PortGroups lists the target port groups by tag. Safe from any thread.
func (d *Device) PortGroups() []PortGroup {
	var out []PortGroup
	for _, p := range *d.wanted.Load() {
		g := PortGroup{Tag: p.tag, State: p.state}
		for _, lu := range d.inventory.Load().all {
			if q := lu.latest.Load().port(p.tag); q != nil {
				g.Units = append(g.Units, UnitPort{lu.lun, q.state, q.reason == portExplicit})
			}
		}
		out = append(out, g)
	}
	return out
}

// applyPorts follows what control says of the ports.
func (lu *LogicalUnit) applyPorts(r *round) {
	want := *lu.dev.wanted.Load()
	next, moved := slices.Clone(want), false
	for k := range next {
		if old := lu.current.port(next[k].tag); old != nil {
			if old.serial == next[k].serial {
				next[k] = *old
			}
			moved = moved || next[k].state != old.state
		}
	}
	if slices.Equal(next, lu.current.ports) {
		return
	}
	lu.change(r).ports = next
	if moved {
		r.attention(AccessStateChanged)
		r.drain = true
	}
}

// unreachable ends a task that its path's state does not let through. False: it
// does (SPC-5 §5.17.2).
func (t *Task) unreachable(s *snapshot) bool {
	p := s.port(t.Nexus.ID.TPGT)
	switch {
	case p == nil || p.state.active() || plant.On(plant.PathOpen):
		return false
	case p.state == PortStandby:
		if t.op.flags&cmdStandby != 0 && !plant.On(plant.PathShut) {
			return false
		}
		t.fail(NotReady, PortInStandby)
	case p.state == PortUnavailable:
		t.fail(NotReady, PortIsUnavailable)
	default:
		t.fail(NotReady, PortInTransition)
	}
	return true
}

// REPORT TARGET PORT GROUPS, parameter data formats (SPC-5 §6.36).
const (
	formatLength   = 0x00
	formatExtended = 0x20
	formatField    = 0xe0
)

func prepReportPorts(t *Task) Result {
	if f := t.CDB[1] & formatField; f != formatLength && f != formatExtended {
		return t.badCDB(1, 7)
	}
	return t.wantReply(be.Uint32(t.CDB[6:]))
}

// doReportPorts answers from the installed snapshot: the same on every path.
func doReportPorts(t *Task) action {
	p := t.reply()
	p.u32(0)
	if t.CDB[1]&formatField == formatExtended {
		p.u8(0x10) // extended header
		p.u8(0)    // IMPLICIT TRANSITION TIME: none
		p.u16(0)
	}
	s := t.View.snap
	for k := range s.ports {
		s.ports[k].describe(&p)
	}
	if tag := t.Nexus.ID.TPGT; s.port(tag) == nil {
		(&port{tag: tag}).describe(&p) // a session outlives the map it came by
	}
	p.length32(0)
	return t.send(&p)
}

// describe writes a target port group descriptor with its one port.
func (g *port) describe(p *reply) {
	p.u8(byte(g.state))
	p.u8(0x8f) // supported: transitioning, unavailable, standby, active
	p.u16(g.tag)
	p.u8(0)
	p.u8(g.reason)
	p.u8(0)
	p.u8(1)
	p.u16(0)
	p.u16(g.tag)
}

func prepReferrals(t *Task) Result {
	if be.Uint64(t.CDB[2:]) >= t.View.snap.blocks {
		return t.outOfRange()
	}
	return t.wantReply(be.Uint32(t.CDB[10:]))
}

// doReferrals tells which port groups lead to which part of the medium: all lead
// to all of it, which is one user data segment (SBC-4 §5.23).
func doReferrals(t *Task) action {
	p, s := t.reply(), t.View.snap
	p.u16(0)
	p.u16(0)
	p.zero(3)
	p.u8(byte(min(len(s.ports), 255)))
	p.u64(0)
	p.u64(s.blocks - 1)
	for _, g := range s.ports[:min(len(s.ports), 255)] {
		p.u8(byte(g.state))
		p.u8(0)
		p.u16(g.tag)
	}
	p.length16(2)
	return t.send(&p)
}

// Layout of the SET TARGET PORT GROUPS parameter list (SPC-5 §6.47), in bytes.
const (
	setPortsHeader = 4
	setPortsDescr  = 4
)

func prepSetPorts(t *Task) Result {
	n := be.Uint32(t.CDB[6:])
	if n != 0 && n < setPortsHeader || n > setPortsHeader+MaxPorts*setPortsDescr {
		return t.fail(IllegalRequest, ParameterListLength)
	}
	return t.wantList(n)
}

// homeSetPorts changes the states an initiator asks for, all or none. Commands
// in the backend end first, whatever path they came by.
func homeSetPorts(lu *LogicalUnit, t *Task, r *round) {
	list := t.Data.Bytes()[:t.Want]
	next, moved := *lu.current, false
	next.ports = slices.Clone(lu.current.ports)
	for at := setPortsHeader; at < len(list); at += setPortsDescr {
		if len(list)-at < setPortsDescr {
			t.fail(IllegalRequest, ParameterListLength)
			return
		}
		state := PortState(list[at] & 0x0f)
		p := next.port(be.Uint16(list[at+2:]))
		switch {
		case state > PortUnavailable:
			t.badParam(uint16(at), 3)
			return
		case p == nil:
			t.badParam(uint16(at+2), wholeByte)
			return
		}
		moved = moved || p.state != state
		p.state, p.reason = state, portExplicit
	}
	if slices.Equal(next.ports, lu.current.ports) {
		return
	}
	lu.change(r).ports = next.ports
	if moved { // not only told to stay as it is
		if r.drain = true; !plant.On(plant.PortsUntold) {
			r.attentionBut(AccessStateChanged, t.Nexus.ID)
		}
	}
}
