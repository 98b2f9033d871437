// Package malloc is a RAM disk: a region of memory outside the Go heap.
//
// Threading: a Device is safe from any thread. Channels on several reactors
// copy to and from the region at once, and what a Read lends is the region; like
// a disk, it promises nothing about overlapping I/O in flight. Range clears
// longer than a piece continue on the channel's reactor, a piece a turn.
// Memory: a Device owns its region, and another for protection information; Close empties it and makes it inaccessible.
package malloc

import (
	"errors"
	"fmt"

	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/internal/sys"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

// piece bounds how much one turn clears for one I/O, in bytes: about the time
// of a few hundred small I/Os.
const piece = 512 << 10

// Writes of streamFrom bytes and more go past the caches: the lines need not be
// read first, and what is there, receive buffers first of all, stays. A device of up
// to cached bytes may well lie in the caches whole, where its blocks are read again
// and written over sooner than they would be in memory: there it is only for writes
// so large that they would leave the caches before that.
const (
	streamFrom       = 4 << 10
	streamFromCached = 64 << 10
	cached           = 32 << 20
)

// Config makes a Device.
type Config struct {
	BlockSize         uint32
	Blocks            uint64
	PhysicalBlockSize uint32
	Space             *mem.Space
	Node              int  // NUMA node to prefer; -1 is any
	Populate          bool // make all pages present now, so that no I/O faults
	Protected         bool // with protection information beside each block
}

// Device is a RAM disk.
type Device struct {
	bdev.LiveInfo
	space  *mem.Space
	region *mem.Region
	tuples *mem.Region // protection information; nil without
}

// New makes a device; its blocks are zeroes.
func New(c Config) (*Device, error) {
	d := &Device{space: c.Space}
	err := d.Update(func(i *bdev.Info) {
		*i = bdev.Info{
			Product:           "Malloc disk",
			BlockSize:         c.BlockSize,
			Blocks:            c.Blocks,
			PhysicalBlockSize: c.PhysicalBlockSize,
			// No volatile cache beside the medium itself: no CapFlush.
			Caps:        bdev.CapUnmap | bdev.CapWriteZeroes | bdev.CapLive,
			UnmapZeroes: true,
			Protected:   c.Protected,
		}
		if c.Protected {
			i.Caps &^= bdev.CapLive // data and tuples are checked together, in a copy
		}
	})
	if err != nil {
		return nil, fmt.Errorf("malloc: %w", err)
	}
	if d.region, err = c.Space.Map(c.Blocks*uint64(c.BlockSize), c.Node); err != nil {
		return nil, fmt.Errorf("malloc: %w", err)
	}
	if c.Populate {
		err = d.region.Populate()
	}
	if err == nil && c.Protected {
		err = d.mapTuples(c)
	}
	if err != nil {
		_ = d.Close() // why it failed is what matters
		return nil, fmt.Errorf("malloc: %w", err)
	}
	return d, nil
}

// Region is the device's memory, for transports that register it.
func (d *Device) Region() *mem.Region { return d.region }

// Tuples is the memory of its protection information, nil without.
func (d *Device) Tuples() *mem.Region { return d.tuples }

// Open implements bdev.Device.
func (d *Device) Open(r *reactor.Reactor) (bdev.Channel, error) {
	info := d.Info()
	c := &channel{r: r, region: d.region, blockSize: uint64(info.BlockSize), streamFrom: streamFrom}
	if info.Blocks*c.blockSize <= cached {
		c.streamFrom = streamFromCached
	}
	c.timer.Fire = c.step
	if d.tuples != nil {
		return &protected{channel: c, tuples: d.tuples}, nil
	}
	return c, nil
}

// Close implements bdev.Device.
func (d *Device) Close() error {
	err := d.space.Delete(d.region)
	if d.tuples != nil {
		err = errors.Join(err, d.space.Delete(d.tuples))
	}
	return err
}

type channel struct {
	r         *reactor.Reactor
	region    *mem.Region
	blockSize uint64
	// streamFrom is the size in bytes of writes that go past the caches.
	streamFrom uint64

	// Long clears, oldest first; the oldest has cleared done bytes.
	head, tail *bdev.IO
	done       uint64
	timer      reactor.Timer
}

// Inline implements bdev.Inliner.
func (c *channel) Inline() bool { return true }

// Submit implements bdev.Channel.
//
//spindle:hot
func (c *channel) Submit(io *bdev.IO) bdev.Status {
	off, n := io.LBA*c.blockSize, uint64(io.Blocks)*c.blockSize
	switch io.Op {
	case bdev.Read:
		if io.Flags&bdev.Lend != 0 {
			io.Data = c.region.Ref(off, uint32(n))
			break
		}
		copy(io.Data.Bytes(), c.region.Ref(off, uint32(n)).Bytes())
	case bdev.Write:
		if plant.On(plant.LostWrite) && io.LBA%16 == 5 {
			break
		}
		if to := c.region.Ref(off, uint32(n)).Bytes(); n >= c.streamFrom {
			sys.Stream(to, io.Data.Bytes())
		} else {
			copy(to, io.Data.Bytes())
		}
	case bdev.Flush:
	case bdev.Unmap, bdev.WriteZeroes:
		if n > piece {
			c.queue(io)
			return bdev.Pending
		}
		c.clear(off, n)
	default:
		return bdev.NotSup
	}
	return bdev.OK
}

// clear zeroes with stores. Giving the pages back to the system instead would
// leave rings and NICs that registered the region with pages that are no longer
// the region's, and on reserved huge pages might not get any back.
func (c *channel) clear(off, n uint64) {
	clear(c.region.Ref(off, uint32(n)).Bytes())
}

func (c *channel) queue(io *bdev.IO) {
	io.Next = nil
	if c.tail == nil {
		c.head = io
		c.r.Arm(&c.timer, c.r.Now().Add(1))
	} else {
		c.tail.Next = io
	}
	c.tail = io
}

// step clears one piece of the oldest long clear. The timer is always armed for
// later than this turn's time, or it would fire again in the same turn.
func (c *channel) step(clock.Time) {
	io := c.head
	off, total := io.LBA*c.blockSize, uint64(io.Blocks)*c.blockSize
	n := min(piece, total-c.done)
	c.clear(off+c.done, n)
	if c.done += n; c.done == total {
		c.finish(bdev.OK)
		return
	}
	c.r.Arm(&c.timer, c.r.Now().Add(1))
}

func (c *channel) finish(s bdev.Status) {
	io := c.head
	c.done = 0
	if c.head, io.Next = io.Next, nil; c.head == nil {
		c.tail = nil
	} else {
		c.r.Arm(&c.timer, c.r.Now().Add(1))
	}
	io.Complete(s)
}

// Abort implements bdev.Channel. A long clear is let run: it is near its end.
func (c *channel) Abort(*bdev.IO) {}

// Release implements bdev.Channel.
func (c *channel) Release(*bdev.IO) {}

// Close implements bdev.Channel.
func (c *channel) Close() {}
