package scsi

import (
	"spindle/internal/plant"
	"spindle/reactor"
)

// A thin unit whose device can tell how much of its resources are in use has a
// threshold (SBC-4 §4.7.3.7): the logical block provisioning mode page sets it,
// a log page tells the counts, and every nexus gets a unit attention when it is
// reached. Counts are in threshold sets.

// setBytes is the size of a threshold set; VPD page B2 tells it as an exponent
// of two in blocks.
const (
	setBytes    = 1 << 20
	setBytesLog = 20
)

// The one threshold descriptor of the mode page (SBC-4 table 202): armed by an
// increase of the resources in use.
const (
	thresholdEnabled    = 0x80
	thresholdIncreasing = 0x01
	resourceAvailable   = 0x01
	resourceUsed        = 0x02
)

// provisioning writes the logical block provisioning mode page.
func (m *modeValues) provisioning(b *[maxModePage]byte, changeable bool) {
	b[0], b[1] = pageExceptions|pageSPF, subpageProvisioning
	be.PutUint16(b[2:], 20)
	b[16] = bit(m.armed, 7)
	be.PutUint32(b[20:], m.threshold)
	if !changeable {
		b[16] |= thresholdIncreasing
		b[17] = resourceUsed
	}
}

// usage is what a device last said of its resources, in threshold sets.
type usage struct{ used, available uint64 }

// PollUsage asks the devices of thin units how much they use, and has units
// whose threshold is reached tell so. It is for a control thread, now and then,
// beside other control calls: a file system may take its time to answer.
func (d *Device) PollUsage(c reactor.Caller) {
	for _, lu := range d.inventory.Load().all {
		if lu.latest.Load().metered {
			c.Block(lu.pollUsage)
		}
	}
}

func (lu *LogicalUnit) pollUsage() {
	lu.asking.Lock()
	defer lu.asking.Unlock()
	if lu.closed {
		return
	}
	u, err := lu.bdev.Usage()
	if err != nil {
		return // what was known stays
	}
	if !plant.On(plant.UsageKept) || lu.usage.Load() == nil {
		lu.usage.Store(&usage{(u.Used + setBytes - 1) / setBytes, u.Available / setBytes})
	}
	lu.resized()
}

// applyUsage tells that the threshold is reached: once, until usage has been
// below it again.
func (lu *LogicalUnit) applyUsage(r *round) {
	m, u := lu.current.mode, lu.usage.Load()
	reached := m.armed && u != nil && u.used >= uint64(m.threshold)
	if reached && (!lu.reached || plant.On(plant.ThresholdRepeated)) && !plant.On(plant.ThresholdUntold) {
		r.attention(SoftThresholdReached)
	}
	lu.reached = reached
}

// provisioningLog writes the logical block provisioning log page (SBC-4 §6.4.5).
func (t *Task) provisioningLog(l *logPage) {
	u := t.View.lu.usage.Load()
	if u == nil {
		return // not asked yet
	}
	for _, c := range [...]struct {
		code  uint16
		count uint64
	}{{resourceAvailable, u.available}, {resourceUsed, u.used}} {
		l.parameter(c.code, logBinary, 8, func() {
			l.u32(uint32(min(c.count, 0xffffffff)))
			l.u8(0x01) // SCOPE: this unit alone
			l.zero(3)
		})
	}
}
