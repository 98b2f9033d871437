package sim

import (
	"slices"

	"spindle/scsi"
)

// RECEIVE COPY RESULTS (SPC-5 §6.22 to §6.25): what a copy manager keeps of an
// EXTENDED COPY by its list identifier, for the I_T nexus that sent it. How it
// ended is told once; details of a failure are told once, all of them, and
// separately. Both go when the identifier is used again, and with a reset of the
// unit. It is judged when nothing else about the identifier was under way; the
// standard lets LIST ID USAGE 10b keep nothing.

// Service actions.
const (
	copyStatus     = 0x00
	copyData       = 0x01
	copyParameters = 0x03
	copyDetails    = 0x04
)

// listIDs are how many list identifiers are used, from 0 on.
const listIDs = 3

// LIST ID USAGE (SPC-5 table 129).
const (
	listHold    = 0 << 3
	listDiscard = 2 << 3
	listNone    = 3 << 3
)

// keeping is what is known of what is kept.
type keeping uint8

const (
	keepsNothing keeping = iota
	keepsEnd
	keepsUnknown
)

// held is what the copy manager of a unit keeps of a list identifier.
type held struct {
	place  int // of the unit
	id     uint8
	serial int // commands about it that were sent
	open   int // ... and are not over
	copies int // EXTENDED COPYs among those

	is       keeping
	optional bool // it may be gone
	good     bool // the copy ended well
	told     bool // ... and STATUS has told so, or how else it ended
	segments [2]int
	bytes    [2]uint64 // at least, and at most
	sense    []byte    // of a failure, until it was told
	since    int64     // when it was sent
	ended    int64
	resets   int // of the unit that had begun by then; -1: it is not quiet
}

// asks is what a command has to do with a list identifier.
type asks struct {
	held   *held
	usage  byte
	serial int
	alone  bool    // nothing else about it was under way when it was sent
	twice  bool    // another copy of the identifier may be under way
	runs   []int   // the segments of the one copy that was
	before keeping // that one's, when it was sent
	resets int64   // the last reset of the unit that was over
	sense  []byte  // of COPY ABORTED
	failed int     // ... at this segment
}

// keeper finds the record of an identifier of this session.
func (in *initiator) keeper(place int, id uint8) *held {
	for _, h := range in.keepers {
		if h.place == place && h.id == id {
			return h
		}
	}
	h := &held{place: place, id: id}
	in.keepers = append(in.keepers, h)
	return h
}

// nameCopy gives an EXTENDED COPY its list identifier, or none.
func (in *initiator) nameCopy(t *task) {
	r := in.rng
	t.usage = pick(r, byte(listHold), listHold, listHold, listDiscard, listNone, listNone)
	id := uint8(r.IntN(listIDs))
	if t.data[1] = t.usage; t.usage == listNone {
		in.keeper(t.lun, 0).optional = true // of which it is not said whether that uses it
		return
	}
	h := in.keeper(t.lun, id)
	if h.copies > 0 && r.IntN(4) != 0 {
		id = (id + 1) % listIDs
		h = in.keeper(t.lun, id)
	}
	t.data[0], t.held = id, h
}

// askCopy is RECEIVE COPY RESULTS.
func (in *initiator) askCopy(t *task) (c cdb) {
	r := in.rng
	t.class, t.read, t.access, t.needs = classResults, true, accessUnit, needPath
	t.service, t.want = pick(r, byte(copyStatus), copyStatus, copyStatus, copyDetails, copyDetails, copyParameters), 256
	id := uint8(r.IntN(listIDs))
	if len(in.keepers) > 0 {
		h := in.keepers[r.IntN(len(in.keepers))]
		t.lun, id = h.place, h.id
	}
	switch t.service {
	case copyParameters:
		id = 0
	case copyDetails:
		t.want = pick(r, uint32(256), 256, 256, 60, 0)
		t.read = t.want > 0
		fallthrough
	default:
		t.held = in.keeper(t.lun, id)
	}
	t.edtl = t.want
	c.b[0], c.b[1], c.b[2] = 0x84, t.service, id
	be.PutUint32(c.b[10:], t.want)
	return c
}

// begunResets counts the resets of a unit that have begun; -1: one may be under way.
func (s *run) begunResets(lu *lun) int {
	if lu.resetting > 0 || s.clk.T < lu.stray {
		return -1
	}
	return lu.begun[causeLUN] + lu.begun[causeWarm] + lu.begun[causeCold]
}

// beginHeld sends a command that has to do with a list identifier.
func (in *initiator) beginHeld(t *task, lu *lun) {
	h := t.held
	if h == nil {
		return
	}
	h.serial++
	t.serial, t.alone, t.before, t.asks.resets = h.serial, h.open == 0, h.is, lu.resetCall
	h.open++
	if t.class == classResults {
		if h.copies == 1 && h.open == 2 {
			for _, o := range in.tasks {
				if o.held == h && o.class == classCopy && !o.twice {
					t.runs, t.before = slices.Clone(o.copies), o.before
				}
			}
		}
		return
	}
	if h.copies++; h.copies > 1 {
		for _, o := range in.tasks {
			o.twice = o.twice || o.held == h && o.class == classCopy
		}
		t.twice = true
	}
	h.resets = in.s.begunResets(lu)
}

// certain tells whether nothing else about its identifier was under way while t was.
func (a *asks) certain() bool { return a.alone && a.serial == a.held.serial }

// endHeld is the end of a command that has to do with a list identifier.
func (s *run) endHeld(t *task, st outcome) {
	h := t.held
	if h == nil {
		return
	}
	certain := t.certain()
	h.open--
	if t.class == classCopy {
		h.copies--
	}
	t.held = nil
	switch {
	case st == without && t.sense == nil: // it was not processed
		h.optional = h.optional || t.class == classCopy
	case t.class == classResults && st == good && certain: // shown has taken it
	case t.class != classCopy || !certain || st == unsure:
		h.is = keepsUnknown
	default:
		s.keep(t, h)
	}
}

// keep notes how a copy has ended.
func (s *run) keep(t *task, h *held) {
	lu := s.luns[t.lun]
	h.is, h.told, h.since, h.ended = keepsEnd, false, t.call, s.now()
	h.optional, h.good, h.sense = t.usage == listDiscard, t.sense == nil, t.sense
	n := len(t.copies)
	if h.segments = [2]int{n, n}; !h.good {
		n = t.failed
		h.segments = [2]int{n, n + 1} // with the one that failed, or without
	}
	h.bytes = [2]uint64{}
	for i, k := range t.copies {
		o := &s.book.ops[k]
		all := uint64(o.blocks) * uint64(o.lu.blockSize)
		switch {
		case i < n:
			h.bytes[0] += all
			h.bytes[1] += all
		case i == n:
			h.bytes[1] += all
		}
	}
	if lu.doubtful(t.call) {
		h.is = keepsUnknown
	}
}

// gone tells whether a reset of the unit, which was over when t was sent, has had
// what was kept discarded.
func (a *asks) gone() bool { return a.held.is == keepsEnd && a.resets > a.held.ended }

// has tells whether what was kept must be there.
func (in *initiator) has(t *task, lu *lun) bool {
	h := t.held
	return t.certain() && h.is == keepsEnd && !h.optional && h.resets >= 0 && in.s.begunResets(lu) == h.resets && !lu.doubtful(h.since)
}

// notHeld takes the refusal for an identifier of which nothing is kept.
func (in *initiator) notHeld(t *task, lu *lun) {
	if t.held == nil {
		in.bad("copy results", "task %#x: service action %d has no list identifier to refuse", t.itt, t.service)
		return
	}
	h := t.held
	switch {
	case in.has(t, lu) && (t.service == copyStatus && !h.told || t.service == copyDetails && h.sense != nil):
		in.bad("copy results", "LUN %d: task %#x is told nothing of list identifier %d (service action %d), whose copy ended at %d and was not told of", lu.id, t.itt, h.id, t.service, h.ended)
	case t.certain() && (h.is == keepsNothing || h.told):
		in.s.count(CopiesTold)
	case t.certain() && t.gone():
		in.s.count(CopiesGone)
	}
}

// resultsShown takes the data of RECEIVE COPY RESULTS.
func (in *initiator) resultsShown(t *task, lu *lun) {
	switch b := t.got; {
	case t.service == copyParameters:
		in.parametersShown(t, b)
	case t.service == copyDetails:
		in.detailsShown(t, lu, b)
	case len(b) != 12 || be.Uint32(b) != 8 || b[7] > 6:
		in.bad("copy results", "task %#x: status % x", t.itt, b)
	default:
		in.statusShown(t, lu, b)
	}
}

// statusShown takes the data of RECEIVE COPY STATUS.
func (in *initiator) statusShown(t *task, lu *lun, b []byte) {
	h, st, segments := t.held, b[4]&0x7f, int(be.Uint16(b[5:]))
	unit := uint(10 * b[7])
	least := uint64(be.Uint32(b[8:])) << unit
	most := least + 1<<unit - 1
	if st > 2 {
		in.bad("copy results", "task %#x: status % x", t.itt, b)
		return
	}
	if st == 0 {
		in.s.count(CopiesRunning)
	}
	switch {
	case lu.doubtful(t.call):
	case !t.certain():
		in.runningShown(t, st, segments, least)
	case h.is == keepsNothing || h.is == keepsEnd && h.told || t.gone():
		in.bad("copy results", "LUN %d: task %#x is told of list identifier %d, of which nothing is kept any more: % x", lu.id, t.itt, h.id, b)
	case h.is == keepsEnd && !lu.doubtful(h.since):
		in.s.count(CopyStatuses)
		want := byte(1)
		if !h.good {
			want = 2
		}
		if st != want || segments < h.segments[0] || segments > h.segments[1] || most < h.bytes[0] || least > h.bytes[1] {
			in.bad("copy results", "LUN %d: task %#x is told % x of list identifier %d, of which it is %d, %d segments, %d bytes", lu.id, t.itt, b, h.id, want, h.segments, h.bytes)
		}
	}
	if t.certain() && h.is != keepsUnknown {
		h.told = true
	}
}

// runningShown judges a status that came while one copy was under way.
func (in *initiator) runningShown(t *task, st byte, segments int, least uint64) {
	if t.runs == nil || t.serial != t.held.serial {
		return
	}
	begun, all := uint64(0), true
	for _, k := range t.runs {
		o := &in.s.book.ops[k]
		for _, v := range o.copied.vals {
			if v == valueUnread {
				all = false
			} else {
				begun += uint64(o.lu.blockSize)
			}
		}
	}
	switch {
	case st == 0 && (segments > len(t.runs) || least > begun):
		in.bad("copy results", "task %#x is told that %d segments, %d bytes are copied, and %d bytes were written of %d segments", t.itt, segments, least, begun, len(t.runs))
	case st == 1 && t.before == keepsNothing && !all:
		in.bad("copy results", "task %#x is told of a copy that ended well, and only %d bytes of it were written", t.itt, begun)
	}
}

// detailsShown takes the data of RECEIVE COPY FAILURE DETAILS.
func (in *initiator) detailsShown(t *task, lu *lun, b []byte) {
	h := t.held
	n := 0
	switch {
	case t.want == 0 && len(b) == 0:
	case len(b) < 4 || len(b) < min(int(t.want), 4+int(be.Uint32(b))):
		in.bad("copy results", "task %#x: details % x", t.itt, b)
		return
	default:
		n = int(be.Uint32(b))
	}
	if !t.certain() || lu.doubtful(t.call) || h.is == keepsUnknown || lu.doubtful(h.since) && h.is == keepsEnd {
		return
	}
	kept := h.sense
	switch {
	case t.want == 0:
	case n == 0 && h.ended == 0 && h.is == keepsNothing && !h.optional: // there was no copy of that name
		in.bad("copy results", "LUN %d: task %#x is given details of list identifier %d, which nobody has used", lu.id, t.itt, h.id)
	case n == 0 && kept != nil && in.has(t, lu):
		in.bad("copy results", "LUN %d: task %#x is given no details of list identifier %d, which failed with % x", lu.id, t.itt, h.id, kept)
	case n != 0 && (kept == nil || t.gone()):
		in.bad("copy results", "LUN %d: task %#x is given details of list identifier %d, of which none are kept: % x", lu.id, t.itt, h.id, b)
	case n != 0:
		in.s.count(CopyDetails)
		whole := len(b) >= 4+n
		if n < 60-4 || len(b) >= 60 && (b[56] != byte(scsi.CheckCondition) || int(be.Uint16(b[58:])) != n-56) ||
			whole && !slices.Equal(b[60:4+n], kept) {
			in.bad("copy results", "LUN %d: task %#x is given details of list identifier %d, which failed with % x: % x", lu.id, t.itt, h.id, kept, b)
		}
		if !whole {
			return
		}
	}
	h.sense = nil
}

// parametersShown takes the data of RECEIVE COPY OPERATING PARAMETERS: what was
// relied on is among what it tells.
func (in *initiator) parametersShown(t *task, b []byte) {
	in.s.count(CopyParameters)
	if len(b) < 44 || int(be.Uint32(b)) != len(b)-4 || int(b[43]) != len(b)-44 || b[4]&1 == 0 ||
		int(be.Uint16(b[8:])) < len(in.s.luns) || be.Uint16(b[10:]) < maxCopied || be.Uint32(b[12:]) < uint32(32*len(in.s.luns)+28*maxCopied) ||
		be.Uint16(b[34:]) < uint16(b[36]) || !slices.IsSorted(b[44:]) || !slices.Contains(b[44:], 0x02) || !slices.Contains(b[44:], 0xe4) {
		in.bad("copy results", "task %#x: operating parameters % x", t.itt, b)
	}
}
