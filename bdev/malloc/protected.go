package malloc

import (
	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/reactor/mem"
)

// mapTuples makes the memory for protection information. No block was written,
// so nothing of any is checked.
func (d *Device) mapTuples(c Config) (err error) {
	if d.tuples, err = c.Space.Map(c.Blocks*bdev.TupleLen, c.Node); err != nil {
		return err
	}
	eachSpan(0, c.Blocks*bdev.TupleLen, func(off uint64, n uint32) { bdev.Unprotect(d.tuples.Ref(off, n).Bytes()) })
	return nil
}

// maxSpan is how much one Ref covers at most here, in bytes.
const maxSpan = 1 << 30

func eachSpan(off, n uint64, do func(off uint64, n uint32)) {
	for n > 0 {
		k := min(n, maxSpan)
		do(off, uint32(k))
		off, n = off+k, n-k
	}
}

// protected is a channel of a device with protection information.
type protected struct {
	*channel
	tuples *mem.Region
}

// Submit implements bdev.Channel. Data and tuples are two copies: as with
// overlapping writes, what a read finds between them is nobody's promise, and
// shows as a failed check.
func (c *protected) Submit(io *bdev.IO) bdev.Status {
	size := uint64(io.Blocks) * bdev.TupleLen
	var own []byte
	if io.Op <= bdev.Write {
		own = c.tuples.Ref(io.LBA*bdev.TupleLen, uint32(size)).Bytes()
	}
	switch io.Op {
	case bdev.Write:
		if io.Meta.Empty() && !plant.On(plant.PlainUnprotected) {
			bdev.Protect(own, io.Data.Bytes(), io.LBA, int(c.blockSize))
		} else {
			copy(own, io.Meta.Bytes())
		}
	case bdev.Read:
		c.channel.Submit(io)
		if io.Meta.Empty() {
			s, bad := bdev.Verify(own, io.Data.Bytes(), io.LBA, int(c.blockSize), bdev.CheckGuard|bdev.CheckRefTag)
			io.Bad = bad
			return s
		}
		copy(io.Meta.Bytes(), own)
		return bdev.OK
	case bdev.Unmap, bdev.WriteZeroes:
		eachSpan(io.LBA*bdev.TupleLen, size, func(off uint64, n uint32) { bdev.Unprotect(c.tuples.Ref(off, n).Bytes()) })
	}
	return c.channel.Submit(io)
}
