package sim

import (
	"slices"
)

// reportLUNs is REPORT LUNS, which any unit answers, also one that is not there.
func (in *initiator) reportLUNs(t *task) (c cdb) {
	t.class, t.read, t.gated, t.needs = classList, true, false, 0
	t.want, t.edtl = 256, 256
	t.listed = in.s.luns[0].over[causeLUNs]
	c.b[0] = 0xa0
	be.PutUint32(c.b[6:], t.want)
	return c
}

// listShown takes its data: the units that are there for certain, and none that
// certainly are not.
func (in *initiator) listShown(t *task) {
	s := in.s
	s.count(ListsRead)
	var listed []uint64
	if b := t.got; len(b) < 8 || int(be.Uint32(b)) != len(b)-8 || len(b)%8 != 0 {
		in.bad("LUN list", "task %#x: % x", t.itt, b)
		return
	}
	for b := t.got[8:]; len(b) != 0; b = b[8:] {
		listed = append(listed, be.Uint64(b))
	}
	for _, lu := range s.luns {
		k := slices.Index(listed, lunField(lu.id))
		if lu.steady(t.call) && lu.present != (k >= 0) {
			in.bad("LUN list", "LUN %d: in the list is %v, and it is there %v: % x", lu.id, k >= 0, lu.present, listed)
		}
		if k >= 0 {
			listed = slices.Delete(listed, k, k+1)
		}
	}
	if len(listed) != 0 {
		in.bad("LUN list", "of nowhere or twice: % x", listed)
	}
	in.knowsList(t)
}

// knowsList notes that the nexus has seen the list: no unit tells it any more of what
// had changed before (SPC-5 §6.33.1). An answer that is still on its way may.
func (in *initiator) knowsList(t *task) {
	told := in.mayTell(t) || len(in.adrift) > 0
	for i := range in.units {
		u := &in.units[i]
		u.due[causeLUNs] = debt{told: in.s.now()}
		if u.used && !told {
			u.base[causeLUNs] = max(u.base[causeLUNs], t.listed-u.seen[causeLUNs])
		}
	}
}

// steady tells whether lu has been there, or not, since call.
func (lu *lun) steady(call int64) bool { return !lu.unsteady && lu.changed < call }
