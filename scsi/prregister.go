package scsi

import (
	"slices"

	"spindle/internal/plant"
)

// register is REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-5 §5.14.7):
// for the nexus that asks, with ALL_TG_PT for its initiator port on every target
// port, with SPEC_I_PT for other initiator ports too. All or none of it is done.
func (o *prOut) register(ignoreKey bool) {
	flags := o.list[prFlagByte]
	if !o.checkFlags(flags, ignoreKey) {
		return
	}
	if !ignoreKey && (o.me < 0 && o.key != 0 || o.me >= 0 && o.next.regs[o.me].key != o.key) {
		o.t.Status = ReservationConflict
		return
	}
	ids := []NexusID{o.t.Nexus.ID}
	if flags&prSpecIPT != 0 {
		if o.me >= 0 {
			o.t.badParam(prFlagByte, 3) // it registers others only with itself
			return
		}
		var ok bool
		if ids, ok = o.transportIDs(ids); !ok {
			return
		}
	}
	if flags&prAllTgPt != 0 && !plant.On(plant.PortsForgotten) {
		ids = o.onAllPorts(ids)
	}
	if o.me < 0 && o.key2 == 0 {
		return // there is nothing to unregister
	}
	if flags&prSpecIPT != 0 && o.anyListed(ids) {
		o.t.badParam(prTransportIDs, wholeByte) // SPC-5 §5.14.7: only nexuses that are not registered
		return
	}
	for _, id := range ids {
		if !o.registerOne(id, ignoreKey) {
			return
		}
	}
	o.next.aptpl = flags&prAPTPL != 0
	o.next.generation++
	o.commit()
}

// checkFlags refuses what is not possible. False: the task has failed.
func (o *prOut) checkFlags(flags byte, ignoreKey bool) bool {
	switch spec := flags&prSpecIPT != 0; {
	case spec && ignoreKey:
		o.t.badParam(prFlagByte, 3)
	case flags&prAPTPL != 0 && o.lu.dev.store == nil:
		o.t.badParam(prFlagByte, 0)
	case !spec && len(o.list) != prParameterLength,
		spec && (len(o.list) < prTransportIDs || int(be.Uint32(o.list[prParameterLength:])) != len(o.list)-prTransportIDs):
		o.t.fail(IllegalRequest, ParameterListLength)
	default:
		return true
	}
	return false
}

// transportIDs adds the initiator ports that SPEC_I_PT names. False: the task
// has failed.
func (o *prOut) transportIDs(ids []NexusID) ([]NexusID, bool) {
	for at := prTransportIDs; at < len(o.list); {
		name, isid, n := parseTransportID(o.list[at:])
		if n == 0 {
			o.t.badParam(uint16(at), wholeByte)
			return ids, plant.On(plant.ListedPartly)
		}
		at += n
		if plant.On(plant.ListedForgotten) && len(ids) > 1 {
			continue
		}
		id := o.t.Nexus.ID
		id.InitiatorName, id.ISID = name, isid
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, true
}

// onAllPorts makes of each nexus those of its initiator port with every target port.
func (o *prOut) onAllPorts(ids []NexusID) []NexusID {
	out := slices.Clone(ids)
	for _, p := range o.lu.current.ports {
		for _, id := range ids {
			id.TPGT, id.RelativePort = p.tag, p.tag
			if !slices.Contains(out, id) {
				out = append(out, id)
			}
		}
	}
	return out
}

// anyListed tells whether one of ids is registered that the list names: another
// initiator port than the one that asks.
func (o *prOut) anyListed(ids []NexusID) bool {
	me := o.t.Nexus.ID
	return slices.ContainsFunc(ids, func(id NexusID) bool {
		return (id.InitiatorName != me.InitiatorName || id.ISID != me.ISID) && o.next.find(id) >= 0
	})
}

// registerOne registers one nexus, changes its key, or unregisters it. False:
// the task has failed.
func (o *prOut) registerOne(id NexusID, ignoreKey bool) bool {
	k := o.next.find(id)
	switch {
	case k >= 0 && !ignoreKey && o.next.regs[k].key != o.key:
		o.t.Status = ReservationConflict
		return false
	case o.key2 == 0:
		if k >= 0 {
			o.unregister(k)
		}
	case k >= 0:
		o.next.regs[k].key = o.key2
	case o.full():
		return false
	default:
		o.next.regs = append(o.next.regs, registrant{id, o.key2})
	}
	return true
}

// full tells whether the unit takes no registrant more; the task has failed then.
func (o *prOut) full() bool {
	l := o.lu.dev.limits
	if len(o.next.regs) < min(l.Registrants(), MaxRegistrants) {
		return false
	}
	l.TooManyRegistrants(o.t.Nexus.ID, o.lu.views[o.lu.homeIndex.Load()].r.Now())
	o.t.fail(IllegalRequest, InsufficientRegistry)
	return true
}

// unregister removes registrant k, and the reservation with it when it was the
// holder, or the last of those who hold an all-registrants one (SPC-5 §5.14.11.2).
func (o *prOut) unregister(k int) {
	held := o.next.holds(o.next.regs[k].id)
	o.next.regs = slices.Delete(o.next.regs, k, k+1)
	if !held || o.next.kind.all() && len(o.next.regs) != 0 {
		return
	}
	if o.next.kind.open() {
		o.tellRegistrants(ReservationsReleased)
	}
	o.next.drop()
}

// move is REGISTER AND MOVE (SPC-5 §5.14.8): the holder passes its reservation
// on, and registers who gets it.
func (o *prOut) move() {
	me := o.t.Nexus.ID
	if !o.next.holds(me) || o.next.kind.all() {
		o.t.Status = ReservationConflict
		return
	}
	flags, tag := o.list[prMoveFlags], be.Uint16(o.list[prMovePort:])
	name, isid, n := parseTransportID(o.list[prParameterLength:])
	to := NexusID{InitiatorName: name, ISID: isid, TargetName: me.TargetName, TPGT: tag, RelativePort: tag}
	switch {
	case int(be.Uint32(o.list[prMoveLength:])) != len(o.list)-prParameterLength:
		o.t.fail(IllegalRequest, ParameterListLength)
		return
	case o.key2 == 0:
		o.t.badParam(8, wholeByte)
		return
	case flags&prAPTPL != 0 && o.lu.dev.store == nil:
		o.t.badParam(prMoveFlags, 0)
		return
	case tag != me.RelativePort && o.lu.current.port(tag) == nil:
		o.t.badParam(prMovePort, wholeByte)
		return
	case n == 0 || n != len(o.list)-prParameterLength || to == me:
		o.t.badParam(prParameterLength, wholeByte)
		return
	}
	switch k := o.next.find(to); {
	case k >= 0:
		o.next.regs[k].key = o.key2
	case flags&prMoveUnreg == 0 && o.full():
		return
	default:
		o.next.regs = append(o.next.regs, registrant{to, o.key2})
	}
	o.next.holder = to
	if flags&prMoveUnreg != 0 {
		o.next.regs = slices.Delete(o.next.regs, o.me, o.me+1)
	}
	o.next.aptpl = flags&prAPTPL != 0
	o.next.generation++
	o.commit()
}
