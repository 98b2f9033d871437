// Package crashable is a device in memory that loses power, for tests: it has a
// volatile write cache that only Flush and FUA get past, ends I/O late and out
// of order, and can be asked at any moment what a crash would leave behind.
//
// A write takes effect when it ends. Until a later Flush ends, or when it was
// FUA at once, each of its atomic units may be lost: a crash leaves in every
// unit the last durable version or one of those written since.
//
// Threading: a Device is safe from any thread (a mutex; this is no hot path).
// Memory: units are on the Go heap; only the CPU touches them. One that was
// written is never changed, so that the images of crashes share them.
package crashable

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"spindle/bdev"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// Config makes a Device.
type Config struct {
	BlockSize  uint32
	Blocks     uint64
	AtomicUnit uint32 // bytes that are never torn; 0 means BlockSize
	Seed       uint64 // of the delays
	// I/O ends MinDelay to MaxDelay after it was submitted; both 0 ends it in Submit.
	MinDelay, MaxDelay time.Duration
}

// image is a medium by unit; nil is zeroes.
type image [][]byte

// version is what one write left in one unit.
type version struct {
	write uint64 // number of the write, from 1
	data  []byte
}

// Device is a crashable device.
type Device struct {
	bdev.LiveInfo
	config Config

	mu      sync.Mutex
	rng     *rand.Rand
	durable image
	live    image
	since   [][]version // per unit: written since it was durable, oldest first
	dirty   []uint64    // units that have such versions, each once
	writes  uint64      // writes that have ended
	flight  []*bdev.IO  // writes that have not, in order of submission
}

// New makes a device; its blocks are durable zeroes.
func New(c Config) (*Device, error) {
	return restore(c, nil)
}

func restore(c Config, m image) (*Device, error) {
	if c.AtomicUnit == 0 {
		c.AtomicUnit = c.BlockSize
	}
	d := &Device{config: c, rng: rand.New(rand.NewPCG(c.Seed, 0))}
	err := d.Update(func(i *bdev.Info) {
		*i = bdev.Info{
			Product:     "Crashable disk",
			BlockSize:   c.BlockSize,
			Blocks:      c.Blocks,
			Caps:        bdev.CapUnmap | bdev.CapWriteZeroes | bdev.CapFlush | bdev.CapFUA,
			UnmapZeroes: true,
		}
	})
	if err != nil {
		return nil, fmt.Errorf("crashable: %w", err)
	}
	if c.BlockSize%c.AtomicUnit != 0 {
		return nil, fmt.Errorf("crashable: atomic unit of %d bytes in blocks of %d", c.AtomicUnit, c.BlockSize)
	}
	units := c.Blocks * uint64(c.BlockSize/c.AtomicUnit)
	if m == nil {
		m = make(image, units)
	}
	d.durable, d.live, d.since = m, slices.Clone(m), make([][]version, units)
	return d, nil
}

// Open implements bdev.Device.
func (d *Device) Open(r *reactor.Reactor) (bdev.Channel, error) {
	c := &channel{d: d, r: r}
	c.timer.Fire = c.expire
	return c, nil
}

// Close implements bdev.Device.
func (d *Device) Close() error { return nil }

// fate is what a crash does to one write.
type fate uint8

const (
	kept fate = iota
	torn      // each unit by the toss of a coin
	lost
)

// Crash returns the device that a power failure now would leave, as seed has
// it. The device itself goes on undisturbed.
func (d *Device) Crash(seed uint64) (*Device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 1))
	left := slices.Clone(d.durable)
	fates := make([]fate, d.writes+1)
	for i := range fates {
		fates[i] = fate(rng.IntN(3))
	}
	for _, u := range d.dirty {
		for _, v := range d.since[u] {
			if survives(fates[v.write], rng) {
				left[u] = v.data
			}
		}
	}
	for _, io := range d.flight {
		f := fate(rng.IntN(3))
		for _, p := range d.parts(io) {
			if survives(f, rng) {
				left[p.unit] = p.data
			}
		}
	}
	c := d.config
	c.Seed = seed
	return restore(c, left)
}

func survives(f fate, rng *rand.Rand) bool {
	return f == kept || f == torn && rng.IntN(2) == 0
}

// part is one unit's share of a write.
type part struct {
	unit uint64
	data []byte // of unit size
}

// parts splits what io writes.
func (d *Device) parts(io *bdev.IO) []part {
	size, unit := uint64(d.config.BlockSize), uint64(d.config.AtomicUnit)
	data := make([]byte, uint64(io.Blocks)*size) // zeroes for Unmap and WriteZeroes
	if io.Op == bdev.Write {
		copy(data, io.Data.Bytes())
	}
	var list []part
	for u := io.LBA * size / unit; len(data) > 0; u++ {
		list = append(list, part{u, data[:unit]})
		data = data[unit:]
	}
	return list
}

// apply makes a write take effect.
func (d *Device) apply(io *bdev.IO) {
	d.writes++
	for _, p := range d.parts(io) {
		d.live[p.unit] = p.data
		if io.Flags&bdev.FUA != 0 {
			d.durable[p.unit] = p.data
			d.since[p.unit] = nil
			continue
		}
		if d.since[p.unit] == nil {
			d.dirty = append(d.dirty, p.unit)
		}
		d.since[p.unit] = append(d.since[p.unit], version{d.writes, p.data})
	}
}

// flush makes the writes up to number last durable.
func (d *Device) flush(last uint64) {
	d.dirty = slices.DeleteFunc(d.dirty, func(u uint64) bool {
		list := d.since[u]
		for len(list) > 0 && list[0].write <= last {
			d.durable[u] = list[0].data
			list = list[1:]
		}
		if len(list) == 0 {
			list = nil // lets apply tell that the unit is clean
		}
		d.since[u] = list
		return list == nil
	})
}

// read fills b with the units from the one at byte off on.
func (d *Device) read(b []byte, off uint64) {
	for u := off / uint64(d.config.AtomicUnit); len(b) > 0; u++ {
		part := b[:d.config.AtomicUnit]
		clear(part)
		copy(part, d.live[u])
		b = b[len(part):]
	}
}

// channel ends I/O late. The frame that is not its own has no room for when:
// the list of what is in flight has.
type channel struct {
	d     *Device
	r     *reactor.Reactor
	queue []entry
	timer reactor.Timer
}

type entry struct {
	io   *bdev.IO
	due  clock.Time
	mark uint64 // Flush: writes that had ended when it was submitted
}

// Submit implements bdev.Channel.
func (c *channel) Submit(io *bdev.IO) bdev.Status {
	if io.Op >= bdev.NumOps {
		return bdev.NotSup
	}
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	e := entry{io: io, due: c.r.Now(), mark: d.writes}
	if d.config.MaxDelay == 0 {
		d.end(e)
		return bdev.OK
	}
	span := int64(d.config.MaxDelay - d.config.MinDelay)
	e.due = e.due.Add(d.config.MinDelay + time.Duration(d.rng.Int64N(span+1)) + 1)
	if writes(io.Op) {
		d.flight = append(d.flight, io)
	}
	c.queue = append(c.queue, e)
	c.arm()
	return bdev.Pending
}

func writes(op bdev.Op) bool { return op != bdev.Read && op != bdev.Flush }

// end makes e take effect. Preconditions: mu is held.
func (d *Device) end(e entry) {
	switch e.io.Op {
	case bdev.Read:
		d.read(e.io.Data.Bytes(), e.io.LBA*uint64(d.config.BlockSize))
	case bdev.Flush:
		d.flush(e.mark)
	default:
		d.apply(e.io)
	}
	for i, io := range d.flight {
		if io == e.io {
			d.flight = append(d.flight[:i:i], d.flight[i+1:]...)
			break
		}
	}
}

// first is the place of the entry due first, in order of submission among equals.
func (c *channel) first() int {
	at := 0
	for i, e := range c.queue {
		if e.due < c.queue[at].due {
			at = i
		}
	}
	return at
}

func (c *channel) arm() {
	if len(c.queue) > 0 {
		c.r.Arm(&c.timer, c.queue[c.first()].due)
	}
}

func (c *channel) expire(now clock.Time) {
	for len(c.queue) > 0 {
		i := c.first()
		e := c.queue[i]
		if e.due > now {
			break
		}
		c.queue = append(c.queue[:i:i], c.queue[i+1:]...)
		c.d.mu.Lock()
		c.d.end(e)
		c.d.mu.Unlock()
		e.io.Complete(bdev.OK)
	}
	c.arm()
}

// Abort implements bdev.Channel: everything ends soon enough.
func (c *channel) Abort(*bdev.IO) {}

// Release implements bdev.Channel.
func (c *channel) Release(*bdev.IO) {}

// Close implements bdev.Channel.
func (c *channel) Close() { c.r.Disarm(&c.timer) }
