package scsi

import (
	"spindle/bdev"
	"spindle/internal/plant"
)

// modeValues are the mode parameters that can change.
type modeValues struct {
	wce    bool // caching: write cache enabled
	dsense bool // control: descriptor format sense
	swp    bool // control: software write protect
	tas    bool // control: tasks aborted by another nexus end with TASK ABORTED
}

func defaultMode(c bdev.Caps) modeValues { return modeValues{wce: c&bdev.CapFlush != 0} }

// setMode puts m, and what follows from it, in a snapshot under construction.
func (lu *LogicalUnit) setMode(s *snapshot, m modeValues) {
	s.mode = m
	s.through = s.caps&bdev.CapFlush != 0 && !m.wce && !plant.On(plant.WriteBack)
	s.protect &^= protectSoftware
	if m.swp && !plant.On(plant.WriteProtectOpen) {
		s.protect |= protectSoftware
	}
}

// Mode pages (SPC-5 §7.5, SBC-4 §6.5).
const (
	pageRecovery   = 0x01
	pageCaching    = 0x08
	pageControl    = 0x0a
	pageExceptions = 0x1c
	pageAll        = 0x3f
	subpageAll     = 0xff
)

// Page control (SPC-5 §6.14.1).
const (
	pcCurrent    = 0
	pcChangeable = 1
	pcDefault    = 2
	pcSaved      = 3
)

var modePages = [...]byte{pageRecovery, pageCaching, pageControl, pageExceptions}

const maxModePage = 20 // bytes, header included

// modePage makes a mode page with its header and returns its length, 0 when
// there is no such page. For pcChangeable it has ones where MODE SELECT may
// change bits.
func modePage(b *[maxModePage]byte, page byte, pc byte, s *snapshot) int {
	*b = [maxModePage]byte{page, 10}
	m := s.mode
	switch pc {
	case pcChangeable:
		m = modeValues{wce: s.caps&bdev.CapFlush != 0, dsense: true, swp: true, tas: true}
	case pcDefault:
		m = defaultMode(s.caps)
	}
	switch page {
	case pageRecovery, pageExceptions:
		return 12
	case pageCaching:
		b[1] = 18
		b[2] = bit(m.wce, 2)
		return 20
	case pageControl:
		b[2] = bit(m.dsense, 2)
		b[4] = bit(m.swp, 3)
		b[5] = bit(m.tas, 6)
		if pc != pcChangeable {
			b[3] = 0x10 // QUEUE ALGORITHM MODIFIER: unrestricted reordering
			b[8], b[9] = 0xff, 0xff
		}
		return 12
	}
	return 0
}

func bit(v bool, n uint) byte {
	if v {
		return 1 << n
	}
	return 0
}

func isModePage(page byte) bool {
	for _, p := range modePages {
		if p == page {
			return true
		}
	}
	return page == pageAll
}

func prepModeSense(t *Task) Result {
	switch sub := t.CDB[3]; {
	case t.CDB[2]>>6 == pcSaved:
		return t.fail(IllegalRequest, SavingNotSupported)
	case !isModePage(t.CDB[2] & 0x3f):
		return t.badCDB(2, 5)
	case sub != 0 && sub != subpageAll:
		return t.badCDB(3, wholeByte)
	}
	if t.op.length == 6 {
		return t.wantReply(uint32(t.CDB[4]))
	}
	return t.wantReply(uint32(be.Uint16(t.CDB[7:])))
}

// doModeSense makes mode parameter header, block descriptor and pages (SPC-5 §7.5.5).
func doModeSense(t *Task) action {
	s := t.View.snap
	p := t.reply()
	long := t.op.length == 10
	longLBA := long && t.CDB[1]&0x10 != 0 // LLBAA
	desc := 0
	if t.CDB[1]&0x08 == 0 { // DBD
		desc = 8
		if longLBA {
			desc = 16
		}
	}
	specific := byte(0x10) // DPOFUA
	if s.protect != 0 {
		specific |= 0x80
	}
	if long {
		p.u16(0)
		p.u8(0)
		p.u8(specific)
		p.u8(bit(longLBA && desc != 0, 0))
		p.u8(0)
		p.u16(uint16(desc))
	} else {
		p.u8(0)
		p.u8(0)
		p.u8(specific)
		p.u8(byte(desc))
	}
	switch desc {
	case 8:
		p.u32(uint32(min(s.blocks, 0xffffffff)))
		p.u32(s.blockSize)
	case 16:
		p.u64(s.blocks)
		p.u32(0)
		p.u32(s.blockSize)
	}
	var b [maxModePage]byte
	for _, page := range modePages {
		if want := t.CDB[2] & 0x3f; want == pageAll || want == page {
			n := modePage(&b, page, t.CDB[2]>>6, s)
			p.bytes(b[:n])
		}
	}
	if long {
		p.length16(0)
	} else {
		p.set(0, byte(p.n-1))
	}
	return t.send(&p)
}

func prepModeSelect(t *Task) Result {
	if t.CDB[1]&0x01 != 0 { // SP: nothing is saved
		return t.badCDB(1, 0)
	}
	if t.CDB[1]&0x10 == 0 { // PF 0: vendor-specific pages
		return t.badCDB(1, 4)
	}
	if t.op.length == 6 {
		return t.wantList(uint32(t.CDB[4]))
	}
	return t.wantList(uint32(be.Uint16(t.CDB[7:])))
}

// wantList sets a task up to receive a parameter list. A list that the
// initiator does not send in full is not used in part.
func (t *Task) wantList(n uint32) Result {
	t.Dir, t.Want = DataOut, n
	if t.EDTL < n {
		return t.fail(IllegalRequest, InvalidIUField)
	}
	return Ready
}

// homeModeSelect applies MODE SELECT (SPC-5 §6.12): everything is checked
// before anything changes. Other nexuses learn of a change.
func homeModeSelect(lu *LogicalUnit, t *Task, r *round) {
	list := t.Data.Bytes()[:t.Want]
	if len(list) == 0 {
		return
	}
	m := lu.current.mode
	if !t.parseModeList(list, lu.current, &m) || m == lu.current.mode {
		return
	}
	lu.setMode(lu.change(r), m)
	if !plant.On(plant.ModesUntold) {
		r.attentionBut(ModeParametersChanged, t.Nexus.ID)
	}
}

// parseModeList reads a mode parameter list into m. False: t has failed.
func (t *Task) parseModeList(list []byte, s *snapshot, m *modeValues) bool {
	head, at := 4, 3
	if t.op.length == 10 {
		head, at = 8, 7
	}
	if len(list) < head {
		t.fail(IllegalRequest, ParameterListLength)
		return false
	}
	desc := int(list[at])
	if head == 8 {
		desc = int(be.Uint16(list[6:]))
	}
	if len(list) < head+desc {
		t.fail(IllegalRequest, ParameterListLength)
		return false
	}
	if desc != 0 && !t.sameDescriptor(list[head:head+desc], head, s) {
		return false
	}
	for off := head + desc; off < len(list); {
		n := t.parseModePage(list[off:], off, s, m)
		if n == 0 {
			return false
		}
		off += n
	}
	return true
}

// sameDescriptor accepts a block descriptor that changes nothing.
func (t *Task) sameDescriptor(d []byte, off int, s *snapshot) bool {
	var blocks uint64
	var size uint32
	switch len(d) {
	case 8:
		blocks, size = uint64(be.Uint32(d)), be.Uint32(d[4:])&0xffffff
		if blocks == 0xffffffff {
			blocks = 0
		}
	case 16:
		blocks, size = be.Uint64(d), be.Uint32(d[12:])
	default:
		t.badParam(uint16(off-1), wholeByte)
		return false
	}
	if size != s.blockSize || blocks != 0 && blocks != s.blocks {
		t.badParam(uint16(off), wholeByte)
		return false
	}
	return true
}

// parseModePage reads the page at the start of b, which lies at off in the
// list, and returns its length; 0: t has failed.
func (t *Task) parseModePage(b []byte, off int, s *snapshot, m *modeValues) int {
	var cur, may [maxModePage]byte
	n := modePage(&cur, b[0]&0x3f, pcCurrent, s)
	modePage(&may, b[0]&0x3f, pcChangeable, s)
	switch {
	case n == 0 || b[0]&0x40 != 0: // unknown, or a subpage
		t.badParam(uint16(off), 5)
		return 0
	case len(b) < n:
		t.fail(IllegalRequest, ParameterListLength)
		return 0
	case b[1] != cur[1]:
		t.badParam(uint16(off+1), wholeByte)
		return 0
	}
	for k := 2; k < n; k++ {
		if (b[k]^cur[k])&^may[k] != 0 {
			t.badParam(uint16(off+k), wholeByte)
			return 0
		}
	}
	switch b[0] & 0x3f {
	case pageCaching:
		m.wce = b[2]&0x04 != 0
	case pageControl:
		m.dsense, m.swp, m.tas = b[2]&0x04 != 0, b[4]&0x08 != 0, b[5]&0x40 != 0
	}
	return n
}
