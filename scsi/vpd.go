package scsi

import "spindle/bdev"

// Vital product data pages (SPC-5 §7.8, SBC-4 §6.6).
const (
	vpdSupported     = 0x00
	vpdSerial        = 0x80
	vpdIdentity      = 0x83
	vpdNetwork       = 0x85
	vpdExtended      = 0x86
	vpdModePolicy    = 0x87
	vpdPorts         = 0x88
	vpdThirdPartyPg  = 0x8f
	vpdBlockLimits   = 0xb0
	vpdBlockChar     = 0xb1
	vpdProvisioning  = 0xb2
	vpdReferrals     = 0xb3
	referralsLen     = 16
	extendedVPDLen   = 64
	blockLimitsLen   = 64
	blockCharLen     = 64
	maxUnmapBlocks   = 1 << 20
	maxUnmapDescr    = 256
	maxCompareBlocks = 255
	// maxWriteSame bounds WRITE SAME, in bytes: how long one command may keep a
	// core busy with copying. maxSameBlocks is what WRITE SAME (10) can say.
	maxWriteSame  = 32 << 20
	maxSameBlocks = 0xffff
)

// maxSame is the MAXIMUM WRITE SAME LENGTH, in blocks.
func (s *snapshot) maxSame() uint64 { return min(uint64(maxWriteSame)>>s.shift, maxSameBlocks) }

// vpdPages are the pages of a disk, ascending as page 00 lists them.
var vpdPages = [...]byte{vpdSupported, vpdSerial, vpdIdentity, vpdNetwork, vpdExtended, vpdModePolicy, vpdPorts, vpdThirdPartyPg, vpdBlockLimits, vpdBlockChar, vpdProvisioning, vpdReferrals}

func (t *Task) hasVPD(page byte) bool {
	if t.itl == nil {
		return page == vpdSupported
	}
	for _, p := range vpdPages {
		if p == page {
			return true
		}
	}
	return false
}

func (t *Task) vpd(p *reply, page byte) {
	if t.itl == nil {
		p.bytes([]byte{typeAbsent, vpdSupported, 0, 1, vpdSupported})
		return
	}
	p.u8(typeDisk)
	p.u8(page)
	p.u16(0)
	switch page {
	case vpdSupported:
		p.bytes(vpdPages[:])
	case vpdSerial:
		p.str(t.View.lu.ident.serial)
	case vpdIdentity:
		t.vpdIdentity(p)
	case vpdNetwork: // nothing manages the unit by a network
	case vpdExtended:
		t.vpdExtended(p)
	case vpdModePolicy:
		p.bytes([]byte{pageAll, subpageAll, 0, 0}) // all nexuses share every page
	case vpdPorts:
		t.vpdPorts(p)
	case vpdThirdPartyPg:
		vpdThirdParty(p)
	case vpdBlockLimits:
		t.vpdBlockLimits(p)
	case vpdBlockChar:
		t.vpdBlockChar(p)
	case vpdProvisioning:
		t.vpdProvisioning(p)
	case vpdReferrals:
		p.zero(referralsLen - p.n) // USER DATA SEGMENT SIZE 0: REPORT REFERRALS tells it
	}
	p.length16(2)
}

// Designation descriptor bytes (SPC-5 §7.8.6.1).
const (
	codeBinary   = 0x01
	codeASCII    = 0x02
	codeUTF8     = 0x03
	assocUnit    = 0x00
	assocPort    = 0x10
	assocTarget  = 0x20
	pivISCSI     = 0x80
	protoISCSI   = 0x50
	designT10    = 0x01
	designNAA    = 0x03
	designPort   = 0x04
	designGroup  = 0x05
	designUnits  = 0x06
	designString = 0x08
)

// vpdIdentity makes the device identification page: the unit by NAA and by T10
// vendor id, the port by number, group and name, and the device by name.
func (t *Task) vpdIdentity(p *reply) {
	id := &t.View.lu.ident
	p.bytes([]byte{codeBinary, assocUnit | designNAA, 0, byte(len(id.naa))})
	p.bytes(id.naa[:])
	p.bytes([]byte{codeASCII, assocUnit | designT10, 0, byte(8 + len(id.serial))})
	p.pad(id.vendor, 8)
	p.str(id.serial)
	n := &t.Nexus.ID
	p.bytes([]byte{protoISCSI | codeBinary, pivISCSI | assocPort | designPort, 0, 4, 0, 0})
	p.u16(n.RelativePort)
	p.bytes([]byte{protoISCSI | codeBinary, pivISCSI | assocPort | designGroup, 0, 4, 0, 0})
	p.u16(n.TPGT)
	p.bytes([]byte{codeBinary, assocUnit | designUnits, 0, 4, 0, 0, 0, 0}) // all units have the same port groups
	p.name(pivISCSI|assocPort|designString, portName(n.TargetName, n.TPGT))
	p.name(pivISCSI|assocTarget|designString, n.TargetName)
}

// name writes a SCSI name string designator: UTF-8, null-terminated and padded
// to a multiple of four (SPC-5 §7.8.6.11).
func (p *reply) name(kind byte, s string) {
	n := (len(s) + 4) &^ 3
	p.bytes([]byte{protoISCSI | codeUTF8, kind, 0, byte(n)})
	p.str(s)
	p.zero(n - len(s))
}

// portName is the iSCSI target port name (RFC 7143 §4.2.7.3).
func portName(target string, tag uint16) string {
	const hexDigits = "0123456789abcdef"
	digits := []byte{hexDigits[tag>>12], hexDigits[tag>>8&15], hexDigits[tag>>4&15], hexDigits[tag&15]}
	return target + ",t,0x" + string(digits)
}

// vpdPorts makes the SCSI ports page: those that REPORT TARGET PORT GROUPS tells,
// by number and name.
func (t *Task) vpdPorts(p *reply) {
	s, n := t.View.snap, &t.Nexus.ID
	for k := range s.ports {
		describePort(p, n.TargetName, s.ports[k].tag)
	}
	if s.port(n.TPGT) == nil {
		describePort(p, n.TargetName, n.TPGT) // a session outlives the map it came by
	}
}

// describePort writes a SCSI port designation descriptor: no initiator port, one
// target port.
func describePort(p *reply, target string, tag uint16) {
	p.u16(0)
	p.u16(tag)
	p.zero(6) // no TransportID
	at := p.n
	p.u16(0)
	p.name(pivISCSI|assocPort|designString, portName(target, tag))
	p.length16(at)
}

func (t *Task) vpdExtended(p *reply) {
	var checks byte
	if t.View.snap.shielded {
		checks = 0x05 // SPT 0: type 1; GRD_CHK, REF_CHK
	}
	p.u8(checks)
	p.u8(0x07) // HEADSUP, ORDSUP, SIMPSUP
	p.u8(t.volatileBit())
	p.u8(0)
	p.u8(0x10) // R_SUP
	p.zero(extendedVPDLen - p.n)
}

// volatileBit is V_SUP: the unit has a volatile cache.
func (t *Task) volatileBit() byte {
	if t.View.snap.caps&bdev.CapFlush != 0 {
		return 0x01
	}
	return 0
}

// vpdBlockChar makes the block device characteristics page (SBC-4 §6.6.2).
func (t *Task) vpdBlockChar(p *reply) {
	s := t.View.snap
	p.u16(1) // non-rotating
	p.u8(0)
	// WABEREQ and WACEREQ 01b: reads work after an erase.
	p.u8(bit(s.canSanitize(saSanitizeErase), 6) | bit(s.canSanitize(saSanitizeCrypto), 4))
	p.zero(blockCharLen - p.n)
}

func (t *Task) vpdBlockLimits(p *reply) {
	s, lu := t.View.snap, t.View.lu
	p.u8(0) // WSNZ 0: number of blocks 0 means the rest of the medium
	if lu.bdev.Alone() {
		p.u8(byte(s.maxCompare()))
	} else {
		p.u8(0)
	}
	p.u16(uint16(min(uint32(1)<<s.physExp, 0xffff))) // optimal transfer length granularity
	p.u32(s.maxBlocks)
	p.u32(min(s.maxBlocks, 1<<20>>s.shift)) // optimal transfer length
	p.u32(0)                                // maximum prefetch length: prefetch does nothing
	if s.caps&bdev.CapUnmap != 0 {
		p.u32(maxUnmapBlocks)
		p.u32(maxUnmapDescr)
		p.u32(s.gran)
		p.u32(0x80000000) // UGAVALID, alignment 0
	} else {
		p.zero(16)
	}
	p.u64(s.maxSame())
	p.u32(lu.maxAtomic(s))
	p.zero(blockLimitsLen - p.n) // any alignment and length may be atomic; no boundaries
}

func (t *Task) vpdProvisioning(p *reply) {
	s := t.View.snap
	if s.metered {
		p.u8(setBytesLog - s.shift) // THRESHOLD EXPONENT
	} else {
		p.u8(0) // no threshold
	}
	var f, kind byte
	if s.caps&bdev.CapUnmap != 0 {
		f = 0xe0    // LBPU, LBPWS, LBPWS10
		kind = 0x02 // thin provisioned
		if s.zeroes {
			f |= 0x04 // LBPRZ 001b
		}
	}
	p.u8(f)
	p.u8(kind)
	p.u8(0)
}
