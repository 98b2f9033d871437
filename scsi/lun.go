package scsi

import "slices"

// MaxLUN is the highest logical unit number: 14 bits of flat space addressing.
const MaxLUN = 0x3fff

// MaxLUNs bounds the logical units of a target node.
const MaxLUNs = 1024

const noLUN = -1

// decodeLUN takes a raw eight-byte LUN apart (SAM-5 §4.7): single level,
// peripheral device addressing with bus 0, or flat space addressing.
//
//spindle:hot
func decodeLUN(raw uint64) int {
	if raw&^(0xff<<48) == 0 {
		return int(raw >> 48) // nearly every one
	}
	if raw>>62 == 1 && raw&0xffffffffffff == 0 { // flat, and no second level
		return int(raw >> 48 & MaxLUN)
	}
	return noLUN
}

// EncodeLUN is the form REPORT LUNS gives: peripheral below 256, flat beyond.
func EncodeLUN(lun uint16) uint64 {
	if lun < 256 {
		return uint64(lun) << 48
	}
	return uint64(lun|0x4000) << 48
}

// inventory is the published set of logical units of a Device. It is immutable:
// a change makes a new one.
type inventory struct {
	near [256]*LogicalUnit
	all  []*LogicalUnit // by LUN, ascending
	// leaving are the units that were unpublished and whose tasks have not all
	// ended: a target reset has to wait for those too.
	leaving []*LogicalUnit
}

//spindle:hot
func (inv *inventory) find(lun int) *LogicalUnit {
	if uint(lun) < uint(len(inv.near)) {
		return inv.near[lun]
	}
	return inv.findFar(lun)
}

func (inv *inventory) findFar(lun int) *LogicalUnit {
	for _, lu := range inv.all {
		if int(lu.lun) == lun {
			return lu
		}
	}
	return nil
}

// with returns a copy that holds lu (at its LUN) as well.
func (inv *inventory) with(lu *LogicalUnit) *inventory {
	n := &inventory{near: inv.near, all: make([]*LogicalUnit, 0, len(inv.all)+1), leaving: inv.leaving}
	placed := false
	for _, o := range inv.all {
		if !placed && o.lun > lu.lun {
			n.all, placed = append(n.all, lu), true
		}
		n.all = append(n.all, o)
	}
	if !placed {
		n.all = append(n.all, lu)
	}
	if int(lu.lun) < len(n.near) {
		n.near[lu.lun] = lu
	}
	return n
}

// without returns a copy that lacks lu, which is leaving.
func (inv *inventory) without(lu *LogicalUnit) *inventory {
	n := &inventory{near: inv.near, leaving: append(slices.Clone(inv.leaving), lu)}
	for _, o := range inv.all {
		if o != lu {
			n.all = append(n.all, o)
		}
	}
	if int(lu.lun) < len(n.near) {
		n.near[lu.lun] = nil
	}
	return n
}

// gone returns a copy in which lu is not leaving any more: nothing runs on it.
func (inv *inventory) gone(lu *LogicalUnit) *inventory {
	n := *inv
	n.leaving = remove(slices.Clone(inv.leaving), lu)
	return &n
}
