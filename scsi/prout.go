package scsi

import "spindle/internal/plant"

// Bits of byte 20 of the PERSISTENT RESERVE OUT parameter list (SPC-5 §6.17.3).
const (
	prSpecIPT  = 0x08
	prAllTgPt  = 0x04
	prAPTPL    = 0x01
	prFlagByte = 20
)

// Layout of the parameter lists, in bytes: the basic one, which TransportIDs may
// follow, and that of REGISTER AND MOVE (SPC-5 §6.17.3, §6.17.4).
const (
	prParameterLength = 24
	prTransportIDs    = 28
	prMoveFlags       = 17
	prMovePort        = 18
	prMoveLength      = 20
	prMoveUnreg       = 0x02
	maxPRList         = prTransportIDs + MaxRegistrants*(transportHeader+maxTransportLen)
)

func prepPersistentOut(t *Task) Result {
	switch t.op.sa {
	case prReserve, prRelease, prPreempt, prPreemptAbort:
		if t.CDB[2]&0xf0 != 0 { // scope: the logical unit is the only one
			return t.badCDB(2, 7)
		}
		if !prType(t.CDB[2] & 0x0f).valid() {
			return t.badCDB(2, 3)
		}
	}
	n := be.Uint32(t.CDB[5:])
	most := uint32(prParameterLength)
	if t.op.sa == prRegister || t.op.sa == prRegisterMove {
		most = maxPRList
	}
	if n < prParameterLength || n > most {
		return t.fail(IllegalRequest, ParameterListLength)
	}
	return t.wantList(n)
}

// prOut is a PERSISTENT RESERVE OUT at work: next is the state it makes.
type prOut struct {
	lu        *LogicalUnit
	t         *Task
	r         *round
	list      []byte
	next      reservations
	me        int // index among the registrants, -1 for none
	key, key2 uint64
	kind      prType
}

// homePersistentOut runs PERSISTENT RESERVE OUT (SPC-5 §5.14, §6.17).
func homePersistentOut(lu *LogicalUnit, t *Task, r *round) {
	list := t.Data.Bytes()[:t.Want]
	cur := lu.current.pr
	if cur.reserved { // RESERVE excludes persistent reservations, even the owner's
		t.Status = ReservationConflict
		return
	}
	o := prOut{
		lu: lu, t: t, r: r, list: list, next: *cur, me: cur.find(t.Nexus.ID),
		key: be.Uint64(list), key2: be.Uint64(list[8:]), kind: prType(t.CDB[2] & 0x0f),
	}
	o.next.regs = append([]registrant(nil), cur.regs...)
	if sa := t.op.sa; sa == prRegister || sa == prRegisterIgnore {
		o.register(sa == prRegisterIgnore)
		return
	}
	if o.me < 0 || o.next.regs[o.me].key != o.key {
		t.Status = ReservationConflict
		return
	}
	if t.op.sa != prRegisterMove && list[prFlagByte]&prSpecIPT != 0 { // REGISTER alone has it (SPC-5 §6.17.3)
		t.badParam(prFlagByte, 3)
		return
	}
	switch t.op.sa {
	case prReserve:
		o.reserve()
	case prRelease:
		o.release()
	case prClear:
		o.clear()
	case prPreempt, prPreemptAbort:
		o.preempt(t.op.sa == prPreemptAbort)
	case prRegisterMove:
		o.move()
	}
}

// commit makes next the state, once it is kept if APTPL asks for that.
func (o *prOut) commit() {
	n := o.next
	if (n.aptpl || o.lu.current.pr.aptpl) && !plant.On(plant.Unkept) {
		o.r.keeps = true
		if n.aptpl {
			o.r.save = n.encode()
		}
	}
	o.lu.change(o.r).pr = &n
}

// drop ends the reservation.
func (p *reservations) drop() { p.held, p.kind, p.holder = false, 0, NexusID{} }

// tellRegistrants establishes c for every registrant of next but the nexus that asks.
func (o *prOut) tellRegistrants(c Code) {
	for _, g := range o.next.regs {
		if g.id != o.t.Nexus.ID {
			o.r.attentionFor(c, g.id)
		}
	}
}

func (o *prOut) reserve() {
	id := o.t.Nexus.ID
	if o.next.held {
		if !o.next.holds(id) || o.next.kind != o.kind {
			o.t.Status = ReservationConflict
		}
		return
	}
	o.take(id)
	o.commit()
}

// take gives id the reservation.
func (o *prOut) take(id NexusID) {
	o.next.held, o.next.kind, o.next.holder = true, o.kind, id
	if o.kind.all() {
		o.next.holder = NexusID{}
	}
}

func (o *prOut) release() {
	if !o.next.holds(o.t.Nexus.ID) {
		return // nothing to release is no error (SPC-5 §5.14.11.2.1)
	}
	if o.next.kind != o.kind {
		o.t.fail(IllegalRequest, InvalidRelease)
		return
	}
	if o.next.kind.open() {
		o.tellRegistrants(ReservationsReleased)
	}
	o.next.drop()
	o.commit()
}

func (o *prOut) clear() {
	o.tellRegistrants(ReservationsPreempted)
	var gone []NexusID
	for _, g := range o.next.regs {
		gone = append(gone, g.id)
	}
	o.allowRemoval(gone)
	o.next.regs = nil
	o.next.drop()
	o.next.generation++
	o.commit()
}

// allowRemoval ends the prevention of removal of those whose registration goes:
// whoever has failed must not keep the medium in (SBC-5 §5.15).
func (o *prOut) allowRemoval(gone []NexusID) {
	lu := o.lu
	o.r.then = func() {
		for _, id := range gone {
			lu.prevent = remove(lu.prevent, id)
		}
	}
}

// preempt removes registrants by key, and takes the reservation over when its
// holder is among them (SPC-5 §5.14.11.2.4). The round fences the removed
// nexuses: the status comes when none of their writes can reach the medium any
// more.
func (o *prOut) preempt(abort bool) {
	id := o.t.Nexus.ID
	everyone := o.next.held && o.next.kind.all() && o.key2 == 0
	takes := everyone
	if o.next.held && !o.next.kind.all() {
		k := o.next.find(o.next.holder)
		takes = k >= 0 && o.next.regs[k].key == o.key2
	}
	if o.key2 == 0 && !everyone {
		o.t.badParam(8, wholeByte)
		return
	}
	matched := false
	var gone []NexusID
	kept := o.next.regs[:0:0]
	for _, g := range o.next.regs {
		match := everyone || g.key == o.key2
		matched = matched || match
		if !match || g.id == id {
			kept = append(kept, g)
			continue
		}
		gone = append(gone, g.id)
		if !plant.On(plant.PreemptUntold) {
			o.r.attentionFor(RegistrationsPreempted, g.id)
		}
		if !plant.On(plant.Unfenced) {
			o.r.fence = append(o.r.fence, g.id)
		}
	}
	if !matched {
		o.t.Status = ReservationConflict
		return
	}
	o.next.regs = kept
	if takes {
		if o.next.kind != o.kind {
			o.tellRegistrants(ReservationsReleased)
		}
		o.take(id)
	}
	if abort {
		o.allowRemoval(gone)
	}
	if abort && len(o.r.fence) != 0 {
		o.r.abort, o.r.from, o.r.tas = abortFenced, id, o.lu.current.mode.tas
	}
	if !plant.On(plant.StuckGeneration) {
		o.next.generation++
	}
	o.commit()
}
