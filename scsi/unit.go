package scsi

import (
	"crypto/sha1"
	"sync"

	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/reactor"
)

// snapshot is the state of a logical unit that its views read. It is immutable:
// home makes a new one for a change and every view installs it.
type snapshot struct {
	gen       uint64
	blocks    uint64
	blockSize uint32
	shift     uint8 // log2 of blockSize
	physExp   uint8 // logical blocks per physical block exponent
	protect   uint8 // why writes are refused; 0 when they are not
	lend      bool
	live      bool
	through   bool // WCE is off: every write is FUA
	caps      bdev.Caps
	shielded  bool   // blocks have protection information
	tells     bool   // TAS is 1 by default
	metered   bool   // thin, and the device tells how much it uses
	zeroes    bool   // unmapped blocks read as zeroes
	gran      uint32 // unmap granularity, blocks
	maxBlocks uint32 // of one command: block limits VPD page
	align     uint32 // of I/O memory, bytes
	mode      modeValues
	kept      *settings
	pr        *reservations
	ports     []port
	state     unitState
	forgives  bool // a SANITIZE that failed may be left: its AUSE bit
	erased    bool // block erased and not written since: nothing is mapped
	counts    logBases
}

// unitState says why a unit is not ready.
type unitState uint8

const (
	unitReady unitState = iota
	unitEjected
	unitSanitizing
	unitUnsanitized // SANITIZE failed
	unitFormatting
	unitUnformatted // FORMAT UNIT failed
)

const (
	protectReadOnly uint8 = 1 << iota // the unit or its device is read only
	protectSoftware                   // SWP of the control mode page
)

// LogicalUnit is one LUN of a Device. Its home state is written by the home
// reactor alone.
type LogicalUnit struct {
	dev   *Device
	lun   uint16
	bdev  *bdev.Bdev
	opt   LUNOptions
	ident identity
	views []*View  // one for each of the device's reactors
	stops []func() // end the subscriptions to the bdev's changes

	asking sync.Mutex // held while the bdev is asked for its usage
	closed bool       // the bdev may not be asked any more

	home
}

// identity is what INQUIRY and VPD tell; it never changes.
type identity struct {
	vendor, product, revision string
	serial                    string
	naa                       [16]byte
}

// Revision is the product revision level in INQUIRY data.
const Revision = "0001"

func newLogicalUnit(d *Device, lun uint16, b *bdev.Bdev, opt LUNOptions) (*LogicalUnit, error) {
	lu := &LogicalUnit{dev: d, lun: lun, bdev: b, opt: opt}
	info := b.Info()
	if info.BlockSize != 512 && info.BlockSize != 4096 {
		return nil, ErrBlockSize
	}
	if info.Blocks == 0 {
		return nil, ErrEmpty
	}
	lu.identify(info)
	first := lu.snapshotOf(info)
	lu.initHome(first)
	for i, r := range d.reactors {
		lu.views = append(lu.views, newView(lu, r, i, first))
	}
	return lu, nil
}

// identify derives the names from the bdev's UUID: the same over every
// transport, across restart and save and load.
func (lu *LogicalUnit) identify(info *bdev.Info) {
	id, uuid := &lu.ident, lu.bdev.UUID()
	id.vendor, id.product, id.revision = lu.opt.Vendor, lu.opt.Product, Revision
	if id.vendor == "" {
		id.vendor = "SPINDLE"
	}
	if id.product == "" {
		id.product = info.Product
	}
	id.serial = lu.opt.Serial
	if id.serial == "" {
		id.serial = uuid.Serial()
	}
	// NAA 6h (SPC-5 §7.8.6.6.5): ESXi and multipath want 16 bytes. The company id
	// is a locally administered one, 02-53-50, that nobody owns; 100 bits of a digest
	// of the UUID follow, because UUIDs somebody chose may differ in any one byte.
	sum := sha1.Sum(uuid[:])
	copy(id.naa[:], []byte{0x60, 0x25, 0x35, 0x00 | sum[3]&0x0f})
	copy(id.naa[4:], sum[4:16])
}

func (lu *LogicalUnit) snapshotOf(info *bdev.Info) *snapshot {
	s := &snapshot{
		blocks: info.Blocks, blockSize: info.BlockSize, caps: info.Caps,
		zeroes: info.UnmapZeroes, gran: max(info.UnmapGranularity, 1),
		lend:  info.Caps&bdev.CapLend != 0,
		live:  info.Caps&bdev.CapLive != 0,
		align: max(info.Align, 1),
		pr:    &reservations{},
		kept:  &settings{},
		tells: lu.opt.TAS && !plant.On(plant.BirthForgotten),
		ports: *lu.dev.wanted.Load(),
	}
	for 1<<s.shift < s.blockSize {
		s.shift++
	}
	for p := info.PhysicalBlockSize; p > s.blockSize<<s.physExp; {
		s.physExp++
	}
	s.maxBlocks = MaxTransfer >> s.shift
	if info.MaxTransfer != 0 {
		s.maxBlocks = min(s.maxBlocks, info.MaxTransfer)
	}
	if lu.opt.Thick {
		s.caps &^= bdev.CapUnmap
	}
	s.metered = s.caps&bdev.CapUnmap != 0 && info.Metered
	if s.shielded = info.Protected; s.shielded {
		s.maxBlocks = min(s.maxBlocks, maxShielded>>s.shift)
		s.lend, s.live = false, false
	}
	if (lu.opt.ReadOnly || info.Caps&bdev.CapReadOnly != 0) && !plant.On(plant.ReadOnlyOpen) {
		s.protect |= protectReadOnly
	}
	lu.setMode(s, s.defaultMode())
	return s
}

// MaxTransfer bounds the data of one command, in bytes: what the largest buffer
// holds beside the scratch a command works in.
const (
	MaxTransfer = 4<<20 - MaxScratch
	MaxScratch  = 64 << 10
)

// close gives the bdev back. Nothing runs on the unit.
func (lu *LogicalUnit) close(c reactor.Caller) {
	c.Block(func() {
		lu.asking.Lock()
		lu.closed = true
		lu.asking.Unlock()
	})
	for _, stop := range lu.stops {
		stop()
	}
	for _, v := range lu.views {
		if v.ch == nil {
			continue
		}
		c.Await(v.r, func(done func()) {
			v.r.Disarm(&v.timer)
			v.ch.Close()
			v.ch = nil
			done()
		})
	}
	lu.bdev.Leave()
	lu.bdev.Unshare()
}
