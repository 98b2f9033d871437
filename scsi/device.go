package scsi

import (
	"errors"
	"fmt"
	"sync/atomic"

	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/reactor"
)

// The package's errors, one for each meaning.
var (
	ErrLUNInUse  = errors.New("scsi: LUN is in use")
	ErrLUNRange  = errors.New("scsi: LUN out of range")
	ErrNoLUN     = errors.New("scsi: no such LUN")
	ErrBlockSize = errors.New("scsi: block size is not 512 or 4096")
	ErrEmpty     = errors.New("scsi: the bdev has no blocks")
	ErrTooMany   = errors.New("scsi: too many logical units")
)

// Device is the LUN inventory of one target node. Control calls are made one at
// a time; the inventory is read by every reactor.
type Device struct {
	name      string
	reactors  []*reactor.Reactor
	sides     []*side
	table     *table
	ports     []port // as control wants them; the control thread's
	wanted    atomic.Pointer[[]port]
	store     Store
	offload   reactor.Offload
	limits    Limits
	inventory atomic.Pointer[inventory]
}

// LUNOptions are what a logical unit tells about itself beyond its bdev.
type LUNOptions struct {
	Serial   string // unit serial number; "" derives it from the bdev's UUID
	Vendor   string // T10 vendor identification; "" is SPINDLE
	Product  string // product identification; "" is that of the bdev
	ReadOnly bool
	// Removable has the medium ejected and loaded by START STOP UNIT.
	Removable bool
	// Thick hides that the bdev can unmap: the unit is fully provisioned.
	Thick bool
	// TAS is the default of that bit of the control mode page: a task that
	// another nexus aborts ends with TASK ABORTED instead of in silence
	// (SPC-5 §7.5.8).
	TAS bool
}

// LUNInfo describes a logical unit.
type LUNInfo struct {
	ID   uint16
	Bdev *bdev.Bdev
}

// NewDevice makes the inventory of the target node called name, served by reactors.
func NewDevice(name string, reactors []*reactor.Reactor) *Device {
	d := &Device{name: name, reactors: reactors, table: newTable(), limits: fixedLimits{}}
	d.inventory.Store(&inventory{})
	d.wanted.Store(new([]port))
	for i, r := range reactors {
		s := &side{r: r, index: i}
		s.wake.Run = s.settle
		d.sides = append(d.sides, s)
	}
	return d
}

func (d *Device) sideOf(r *reactor.Reactor) *side {
	for _, s := range d.sides {
		if s.r == r {
			return s
		}
	}
	panic("scsi: reactor does not serve this device")
}

// LUNs returns the inventory, ascending. Safe from any thread.
func (d *Device) LUNs() []LUNInfo {
	inv := d.inventory.Load()
	out := make([]LUNInfo, 0, len(inv.all))
	for _, lu := range inv.all {
		out = append(out, LUNInfo{ID: lu.lun, Bdev: lu.bdev})
	}
	return out
}

// AddLUN places b at lun: a channel and a view on every reactor, then the unit
// is published and every nexus gets REPORTED LUNS DATA HAS CHANGED.
func (d *Device) AddLUN(c reactor.Caller, lun uint16, b *bdev.Bdev, opt LUNOptions) (*LogicalUnit, error) {
	inv := d.inventory.Load()
	switch {
	case lun > MaxLUN:
		return nil, fmt.Errorf("LUN %d: %w", lun, ErrLUNRange)
	case inv.find(int(lun)) != nil:
		return nil, fmt.Errorf("LUN %d: %w", lun, ErrLUNInUse)
	case len(inv.all) >= MaxLUNs:
		return nil, ErrTooMany
	}
	lu, err := newLogicalUnit(d, lun, b, opt)
	if err != nil {
		return nil, fmt.Errorf("LUN %d: %w", lun, err)
	}
	if err := lu.restore(c); err != nil {
		return nil, fmt.Errorf("LUN %d: %w", lun, err)
	}
	if err := b.Share(); err != nil {
		return nil, fmt.Errorf("LUN %d: %w", lun, err)
	}
	if err := b.Enter(lu.current.pr.any()); err != nil {
		b.Unshare()
		return nil, fmt.Errorf("LUN %d: %w", lun, err)
	}
	lu.shared = !b.Alone()
	c.Await(lu.views[0].r, b.WhenQuiet) // what another LUN of b does alone
	for _, v := range lu.views {
		c.Await(v.r, func(done func()) {
			if v.ch, err = b.Open(v.r); err == nil {
				v.inline = v.ch.(bdev.Inliner)
			}
			done()
		})
		if err != nil {
			lu.close(c)
			return nil, fmt.Errorf("LUN %d: open channel: %w", lun, err)
		}
	}
	lu.stops = []func(){b.OnChange(lu.resized), b.OnAlone(lu.resized)}
	d.inventory.Store(inv.with(lu))
	d.lunsChanged(c)
	return lu, nil
}

// RemoveLUN takes a unit away: it is unpublished, its tasks are aborted and
// waited for on every reactor, its channels closed. Other units go on.
func (d *Device) RemoveLUN(c reactor.Caller, lun uint16) error {
	inv := d.inventory.Load()
	lu := inv.find(int(lun))
	if lu == nil {
		return fmt.Errorf("LUN %d: %w", lun, ErrNoLUN)
	}
	d.inventory.Store(inv.without(lu))
	// All views let go before any is waited for: a task of one may wait for a
	// task of another.
	for _, v := range lu.views {
		c.Await(v.r, v.retire)
	}
	for _, v := range lu.views {
		c.Await(v.r, v.drain)
	}
	d.inventory.Store(d.inventory.Load().gone(lu))
	lu.close(c)
	d.lunsChanged(c)
	return nil
}

// lunsChanged queues 3F/0E on every nexus, each on its own reactor.
func (d *Device) lunsChanged(c reactor.Caller) {
	for _, s := range d.sides {
		c.Await(s.r, func(done func()) {
			for _, n := range s.nexuses {
				if !plant.On(plant.ListUntold) {
					n.QueueUA(ReportedLUNsChanged)
				}
			}
			done()
		})
	}
}
