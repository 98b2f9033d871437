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
	// Logical block provisioning: tell when this many threshold sets are in use.
	armed     bool
	threshold uint32
}

func (s *snapshot) defaultMode() modeValues {
	return modeValues{wce: s.caps&bdev.CapFlush != 0, tas: s.tells}
}

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
	pageDisconnect = 0x02
	pageCaching    = 0x08
	pageControl    = 0x0a
	pageExceptions = 0x1c
	pageAll        = 0x3f
	pageSPF        = 0x40 // subpage format
	subpageAll     = 0xff
	// subpageExtension is the control extension page (SPC-5 §7.5.9).
	subpageExtension = 0x01
	// subpageProvisioning is the logical block provisioning page (SBC-4 §6.5.9).
	subpageProvisioning = 0x02
	selectSave          = 0x01 // SP of MODE SELECT
)

// Page control (SPC-5 §6.14.1).
const (
	pcCurrent    = 0
	pcChangeable = 1
	pcDefault    = 2
	pcSaved      = 3
)

// modePageID names a mode page.
type modePageID struct{ page, sub byte }

var modePages = [...]modePageID{
	{pageRecovery, 0}, {pageDisconnect, 0}, {pageCaching, 0}, {pageControl, 0}, {pageControl, subpageExtension},
	{pageExceptions, 0}, {pageExceptions, subpageProvisioning},
}

const maxModePage = 32 // bytes, header included

// modePage makes a mode page with its header and returns its length, 0 when
// the unit has no such page. For pcChangeable it has ones where MODE SELECT may
// change bits.
func modePage(b *[maxModePage]byte, id modePageID, pc byte, s *snapshot) int {
	*b = [maxModePage]byte{id.page, 10}
	m := s.mode
	switch pc {
	case pcChangeable:
		m = modeValues{wce: s.defaultMode().wce, dsense: true, swp: true, tas: true, armed: true, threshold: 0xffffffff}
	case pcDefault:
		m = s.defaultMode()
	case pcSaved:
		m = s.savedMode()
	}
	switch id {
	case modePageID{pageRecovery, 0}, modePageID{pageExceptions, 0}:
		return 12
	case modePageID{pageDisconnect, 0}: // no limits but those of the session
		b[1] = 14
		return 16
	case modePageID{pageCaching, 0}:
		b[1] = 18
		b[2] = bit(m.wce, 2)
		return 20
	case modePageID{pageControl, 0}:
		b[2] = bit(m.dsense, 2)
		b[4] = bit(m.swp, 3)
		b[5] = bit(m.tas, 6)
		if pc != pcChangeable {
			b[3] = 0x10 // QUEUE ALGORITHM MODIFIER: unrestricted reordering
			b[8], b[9] = 0xff, 0xff
		}
		return 12
	case modePageID{pageControl, subpageExtension}:
		b[0], b[1] = pageControl|pageSPF, subpageExtension
		be.PutUint16(b[2:], 28)
		if pc != pcChangeable {
			b[4] = 0x01 // IALUAE, as TPGS of INQUIRY says
			b[6] = MaxSense
		}
		return 32
	case modePageID{pageExceptions, subpageProvisioning}:
		if !s.metered {
			return 0
		}
		m.provisioning(b, pc == pcChangeable)
		return 24
	}
	return 0
}

func bit(v bool, n uint) byte {
	if v {
		return 1 << n
	}
	return 0
}

// wanted tells whether MODE SENSE for a page and subpage returns id (SPC-5
// table 168): subpage 0 asks for the page itself, FFh for all that it has.
func (id modePageID) wanted(page, sub byte) bool {
	return (page == pageAll || page == id.page) && (sub == subpageAll || sub == id.sub)
}

func prepModeSense(t *Task) Result {
	page, sub := t.CDB[2]&0x3f, t.CDB[3]
	var b [maxModePage]byte
	known, has := page == pageAll, page == pageAll && sub == 0
	for _, id := range modePages {
		if modePage(&b, id, pcCurrent, t.View.snap) != 0 {
			known = known || id.page == page
			has = has || id.wanted(page, sub)
		}
	}
	switch {
	case t.CDB[2]>>6 == pcSaved && t.View.lu.dev.store == nil:
		return t.fail(IllegalRequest, SavingNotSupported)
	case !known:
		return t.badCDB(2, 5)
	case !has:
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
	for _, id := range modePages {
		if id.wanted(t.CDB[2]&0x3f, t.CDB[3]) {
			n := modePage(&b, id, t.CDB[2]>>6, s)
			b[0] |= bit(t.View.lu.dev.store != nil, 7) // PS
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
	if t.CDB[1]&selectSave != 0 && t.View.lu.dev.store == nil {
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
	m := lu.current.mode
	if list := t.Data.Bytes()[:t.Want]; len(list) != 0 && !t.parseModeList(list, lu.current, &m) {
		return
	}
	if m != lu.current.mode {
		lu.setMode(lu.change(r), m)
		if !plant.On(plant.ModesUntold) {
			r.attentionBut(ModeParametersChanged, t.Nexus.ID)
		}
	}
	// SP saves every page, those that were not sent too (SPC-5 §6.12).
	if kept := *lu.current.kept; t.CDB[1]&selectSave != 0 && !plant.On(plant.ModesUnsaved) && (kept.mode == nil || *kept.mode != m) {
		kept.mode = &m
		lu.keep(r, kept)
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
	id, head := modePageID{page: b[0] & 0x3f}, 2
	if b[0]&pageSPF != 0 {
		if len(b) < 4 {
			t.fail(IllegalRequest, ParameterListLength)
			return 0
		}
		id.sub, head = b[1], 4
	}
	var cur, may [maxModePage]byte
	n := modePage(&cur, id, pcCurrent, s)
	modePage(&may, id, pcChangeable, s)
	switch {
	case n == 0 || cur[0]&pageSPF != b[0]&pageSPF:
		t.badParam(uint16(off), 5)
		return 0
	case len(b) < n:
		t.fail(IllegalRequest, ParameterListLength)
		return 0
	}
	for k := 1; k < n; k++ {
		if (b[k]^cur[k])&^may[k] != 0 || k < head && b[k] != cur[k] {
			t.badParam(uint16(off+k), wholeByte)
			return 0
		}
	}
	switch id {
	case modePageID{pageCaching, 0}:
		m.wce = b[2]&0x04 != 0
	case modePageID{pageControl, 0}:
		m.dsense, m.swp, m.tas = b[2]&0x04 != 0, b[4]&0x08 != 0, b[5]&0x40 != 0
	case modePageID{pageExceptions, subpageProvisioning}:
		m.armed, m.threshold = b[16]&thresholdEnabled != 0, be.Uint32(b[20:])
	}
	return n
}
