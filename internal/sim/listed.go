package sim

import (
	"fmt"
	"slices"

	"spindle/scsi"
)

// Registrations of several I_T nexuses at once: of initiator ports that a list of
// TransportIDs names (SPEC_I_PT), and with every target port (ALL_TG_PT; SPC-5
// §5.14.7, §6.17.3). All that a list names are registered, or nobody is.

// maxListed bounds the initiator ports that a list names.
const maxListed = 3

// wider is whom a registration is for, beside the nexus that asks.
type wider struct {
	spec    bool // SPEC_I_PT
	all     bool // ALL_TG_PT
	listed  [maxListed]nexusName
	names   uint8 // how many of them
	others  [2 * maxListed]uint8
	count   uint8 // how many of these: each with the port that was used, or with all
	sibling uint8 // with all: the initiator port of the asker, by the other target port
}

// across is the same initiator port by the other target port.
func (n nexusName) across() nexusName {
	n.portal = 3 - n.portal
	return n
}

// transportID is the TransportID of an initiator port (SPC-5 §7.6.4.6).
func (n nexusName) transportID() []byte {
	id := fmt.Sprintf("%s%d,i,0x%x", initiatorName, n.initiator, n.isid)
	size := (len(id) + 4) &^ 3
	b := make([]byte, 4+size)
	b[0], b[3] = 0x45, byte(size)
	copy(b[4:], id)
	return b
}

// widen has a registration be for others too, now and then; with a list only if
// it may have one.
func (in *initiator) widen(c *change, st *shared, lu *lun, mayList bool) {
	s, r := in.s, in.rng
	if lu.unsteady || len(s.nexuses)+2*maxListed+1 >= maxNexuses || int(st.count)+2*maxListed+2 > maxRegs {
		return
	}
	me := s.nexuses[in.nexus]
	if r.IntN(3) == 0 {
		c.all, c.sibling = true, s.intern(me.across())
		if k := st.keyOf(c.sibling); c.kind == doRegister && k != c.key || k != 0 && c.key == 0 && c.action == 0 {
			c.all, c.sibling = false, 0 // of which the standard does not say what becomes
		}
	}
	if c.spec = mayList && r.IntN(3) == 0; !c.spec {
		return
	}
	for range 1 + r.IntN(maxListed) {
		if n, ok := in.portToList(c, st); ok {
			c.list(s, n)
		}
	}
}

// list adds an initiator port to the list.
func (c *change) list(s *run, n nexusName) {
	c.listed[c.names] = n
	c.names++
	c.others[c.count] = s.intern(n)
	c.count++
	if c.all {
		c.others[c.count] = s.intern(n.across())
		c.count++
	}
}

// portToList is an initiator port that is not on the list: that of a session, or
// of one that may come; seldom one that is registered already.
func (in *initiator) portToList(c *change, st *shared) (nexusName, bool) {
	s, r := in.s, in.rng
	me := s.nexuses[in.nexus]
	for range 6 {
		n := s.nexuses[r.IntN(len(s.nexuses))]
		if r.IntN(3) == 0 {
			o := s.inits[r.IntN(len(s.inits))]
			n.initiator, n.isid = o.id, o.isid
			n.isid[4] += byte(r.IntN(2))
		}
		n.portal = me.portal
		if n == me || slices.Contains(c.listed[:c.names], n) {
			continue
		}
		taken := false
		for k, o := range s.nexuses {
			taken = taken || (o == n || c.all && o == n.across()) && st.find(uint8(k)) >= 0
		}
		if !taken || r.IntN(8) == 0 {
			return n, true
		}
	}
	return nexusName{}, false
}

// appendList puts the list behind the basic parameter list.
func (w *wider) appendList(b []byte) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	for _, n := range w.listed[:w.names] {
		b = append(b, n.transportID()...)
	}
	be.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// register is SPC-5 §5.14.7 and, for a key of 0, §5.14.11.2.
func (c *change) register(s *shared, own uint64, tell func(notice)) result {
	sibling := s.keyOf(c.sibling)
	switch {
	case c.kind == doRegister && own != c.key:
		return resConflict
	case c.all && (c.kind == doRegister && sibling != own || own == 0 && c.action == 0 && sibling != 0):
		return resUnclear // one request by each port would have more than one result
	case own == 0 && c.action == 0:
		return resGood // nothing is registered, and nothing changes
	case c.spec && own != 0:
		return resIllegal
	}
	for _, n := range c.others[:c.count] {
		if s.find(n) >= 0 {
			return resIllegal
		}
	}
	who := append(make([]uint8, 0, 2+2*maxListed), c.nexus)
	if c.all {
		who = append(who, c.sibling)
	}
	released := false
	for _, n := range append(who, c.others[:c.count]...) {
		if c.action == 0 {
			released = s.unregister(n) || released
		} else if !s.set(n, c.action) {
			return resTooMany
		}
	}
	if released {
		s.tellOthers(c.nexus, causeReleased, tell)
	}
	s.aptpl = c.aptpl
	s.generation++
	return resGood
}

// unregister ends a registration, and the reservation of its nexus. It tells
// whether those who are left are to hear of that.
func (s *shared) unregister(nexus uint8) (told bool) {
	held := s.isHolder(nexus)
	s.unset(nexus)
	if held && (!s.kind.everyRegistrantHolds() || s.count == 0) {
		told = s.kind.registrantsMay()
		s.drop()
	}
	return told
}

// malformed is PERSISTENT RESERVE OUT with a list that is none, or where none may
// be: nobody is registered by it, not even those that are named rightly.
func (in *initiator) malformed(t *task, lu *lun) cdb {
	s, r := in.s, in.rng
	st := in.likely(lu)
	me := s.nexuses[in.nexus]
	q := change{kind: doRegister, key: st.keyOf(in.nexus), action: in.newKey(), rtype: writeExclusive, aptpl: r.IntN(2) == 0}
	q.spec, q.all = true, r.IntN(3) == 0
	for range r.IntN(maxListed) {
		if n, ok := in.portToList(&q, &st); ok {
			q.listed[q.names] = n
			q.names++
		}
	}
	q.listed[q.names] = nexusName{me.initiator, [6]byte{0x80, 0xff}, me.portal} // of nobody
	q.names++
	t.class, t.access, t.needs, t.illegal = classBadList, accessUnit, needPath, true
	k := r.IntN(8)
	if k == 7 {
		q.kind = pick(r, doRegisterIgnore, doRegisterIgnore, doReserve, doRelease, doClear, doPreempt, doPreemptAbort)
	}
	t.change = q
	c := in.reserveOut(t)
	if k == 7 { // not with REGISTER
		if t.data[20] |= 0x08; q.kind != doRegisterIgnore || r.IntN(2) == 0 {
			t.data = t.data[:24]
		}
	} else {
		in.breakList(t, k, len(q.listed[q.names-1].transportID()))
	}
	t.want = uint32(len(t.data))
	t.edtl = t.want
	be.PutUint32(c.b[5:], t.want)
	return c
}

// breakList breaks the last of the TransportIDs, of n bytes, in one of seven ways.
func (in *initiator) breakList(t *task, way, n int) {
	last := t.data[len(t.data)-n:]
	switch way {
	case 0: // of another protocol
		last[0] = 0x40
	case 1: // of no format
		last[0] = pick(in.rng, byte(0x85), 0xc5)
	case 2: // no multiple of four
		last[3]--
	case 3: // longer than the list
		last[3] += 4
	case 4: // no initiator session
		copy(last[4:], "iqn.2026-11.dev.spindle:no-session")
		clear(last[4+len("iqn.2026-11.dev.spindle:no-session"):])
	case 5: // the list is cut off
		be.PutUint32(t.data[24:], be.Uint32(t.data[24:])-4)
		t.data = t.data[:len(t.data)-4]
	default: // there is less than its length says
		be.PutUint32(t.data[24:], be.Uint32(t.data[24:])+4)
	}
}

// listRefused takes ILLEGAL REQUEST of such a command.
func (in *initiator) listRefused(t *task, code scsi.Code) {
	in.s.count(ListsMalformed)
	if code != scsi.InvalidFieldInParam && code != scsi.ParameterListLength {
		in.bad("reservation", "task %#x, with a malformed list of TransportIDs, is refused with %04x", t.itt, uint16(code))
	}
}

// registered notes whom a change that was made has registered beside the nexus that asked.
func (in *initiator) registered(t *task, lu *lun) {
	s, c := in.s, &t.change
	if c.spec {
		s.count(RegistersListed)
	}
	if c.all {
		s.count(RegistersAllPorts)
		lu.byOthers.add(c.sibling)
	}
	for _, n := range c.others[:c.count] {
		lu.byOthers.add(n)
	}
	switch c.kind {
	case doRegister, doRegisterIgnore:
		lu.byOthers.del(in.nexus)
	case doReserve, doClear, doPreempt, doPreemptAbort, doMove:
		if lu.byOthers.has(in.nexus) {
			s.count(RegisteredByOthers)
		}
	}
}

// widening tells whether a command that registers with every target port is under
// way: which those are is about to change.
func (s *run) widening(lu *lun) bool {
	for _, in := range s.inits {
		for _, list := range [...][]*task{in.tasks, in.old} {
			if slices.ContainsFunc(list, func(t *task) bool { return t.changing != 0 && t.change.all && s.luns[t.lun] == lu }) {
				return true
			}
		}
	}
	return false
}
