// Package null is a device without a medium: reads return a pattern, writes
// are discarded, and every I/O ends inside Submit. It measures everything
// above it.
//
// Threading: a Device is safe from any thread; its channels hold no state.
// Memory: a Device owns one span of mem.MaxBlock bytes, or borrows it from its
// maker, filled with the pattern; it is what reads are copied from, and what
// they lend. Nobody writes to it once the device is made.
package null

import (
	"fmt"

	"spindle/bdev"
	"spindle/reactor"
	"spindle/reactor/mem"
)

// Config makes a Device.
type Config struct {
	BlockSize         uint32
	Blocks            uint64
	PhysicalBlockSize uint32
	Pattern           byte // what reads return
	// Space is where the device maps its span.
	Space *mem.Space
	// Span, if set, is used instead: it is shared by devices of one Pattern and
	// outlives them. See NewSpan.
	Span mem.Ref
}

// Device is a null device.
type Device struct {
	bdev.LiveInfo
	space   *mem.Space
	region  *mem.Region // owned; nil when span is borrowed
	span    mem.Ref
	pattern byte
}

// NewSpan maps a span that devices with the pattern may share.
func NewSpan(space *mem.Space, pattern byte) (mem.Ref, error) {
	region, err := space.Map(mem.MaxBlock, -1)
	if err != nil {
		return mem.Ref{}, fmt.Errorf("null: %w", err)
	}
	return fill(region, pattern), nil
}

func fill(region *mem.Region, pattern byte) mem.Ref {
	span := region.Ref(0, mem.MaxBlock)
	if pattern != 0 { // a new region is zeroes, of pages not yet there
		b := span.Bytes()
		for i := range b {
			b[i] = pattern
		}
	}
	return span
}

// New makes a device.
func New(c Config) (*Device, error) {
	d := &Device{space: c.Space, span: c.Span, pattern: c.Pattern}
	err := d.Update(func(i *bdev.Info) {
		*i = bdev.Info{
			Product:           "Null disk",
			BlockSize:         c.BlockSize,
			Blocks:            c.Blocks,
			PhysicalBlockSize: c.PhysicalBlockSize,
			Caps: bdev.CapUnmap | bdev.CapWriteZeroes | bdev.CapFlush | bdev.CapFUA |
				bdev.CapResize | bdev.CapLend,
			UnmapZeroes: c.Pattern == 0,
			MaxTransfer: mem.MaxBlock / max(c.BlockSize, 1),
		}
	})
	if err != nil {
		return nil, fmt.Errorf("null: %w", err)
	}
	if d.span.Empty() {
		if d.region, err = c.Space.Map(mem.MaxBlock, -1); err != nil {
			return nil, fmt.Errorf("null: %w", err)
		}
		d.span = fill(d.region, c.Pattern)
	}
	return d, nil
}

// Resize changes the number of blocks, live.
func (d *Device) Resize(blocks uint64) error {
	return d.Update(func(i *bdev.Info) { i.Blocks = blocks })
}

// Open implements bdev.Device.
func (d *Device) Open(*reactor.Reactor) (bdev.Channel, error) {
	return &channel{span: d.span, zeroes: d.pattern == 0, shift: blockShift(d.Info().BlockSize)}, nil
}

// Close implements bdev.Device.
func (d *Device) Close() error {
	if d.region == nil {
		return nil
	}
	return d.space.Delete(d.region)
}

func blockShift(size uint32) (n uint8) {
	for ; size > 1; size >>= 1 {
		n++
	}
	return n
}

type channel struct {
	span   mem.Ref
	zeroes bool
	shift  uint8
}

// Inline implements bdev.Inliner.
func (c *channel) Inline() bool { return true }

// Submit implements bdev.Channel.
//
//spindle:hot
func (c *channel) Submit(io *bdev.IO) bdev.Status {
	if io.Op != bdev.Read {
		return bdev.OK
	}
	if io.Flags&bdev.Lend != 0 {
		n := uint64(io.Blocks) << c.shift
		if n > uint64(c.span.Len) {
			return bdev.NotSup
		}
		io.Data = c.span.Slice(0, uint32(n))
		return bdev.OK
	}
	b := io.Data.Bytes()
	if c.zeroes {
		clear(b)
		return bdev.OK
	}
	for from := c.span.Bytes(); len(b) > 0; {
		b = b[copy(b, from):]
	}
	return bdev.OK
}

// Abort implements bdev.Channel: nothing is ever in flight.
func (c *channel) Abort(*bdev.IO) {}

// Release implements bdev.Channel: the span is everybody's.
//
//spindle:hot
func (c *channel) Release(*bdev.IO) {}

// Close implements bdev.Channel.
func (c *channel) Close() {}
