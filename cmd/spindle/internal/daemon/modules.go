package daemon

import (
	"spindle/bdev"
	"spindle/bdev/delay"
	"spindle/bdev/errinj"
	"spindle/bdev/file"
	"spindle/bdev/malloc"
	"spindle/bdev/null"
	"spindle/bdev/passthru"
	"spindle/control"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// modules hands the bdev modules to control.
func modules(space *mem.Space, kernel ring.Kernel, reactors int) (control.Modules, error) {
	// What null reads return and what the file module writes for zeroes.
	zeroes, err := null.NewSpan(space, 0)
	if err != nil {
		return control.Modules{}, err
	}
	return control.Modules{
		Null: func(s control.NullSpec) (bdev.Device, error) {
			return made(null.New(null.Config{BlockSize: s.BlockSize, Blocks: s.NumBlocks, PhysicalBlockSize: s.PhysicalBlockSize, Space: space, Span: zeroes}))
		},
		Malloc: func(s control.MallocSpec) (bdev.Device, error) {
			return made(malloc.New(malloc.Config{BlockSize: s.BlockSize, Blocks: s.NumBlocks, PhysicalBlockSize: s.PhysicalBlockSize, Space: space, Node: int(s.NUMA), Populate: true, Protected: s.Protected}))
		},
		File: func(s control.FileSpec) (bdev.Device, error) {
			product := ""
			if s.Uring {
				product = "URING bdev"
			}
			return made(file.New(file.Config{
				Kernel: kernel, Path: s.Path, BlockSize: s.BlockSize, ReadOnly: s.ReadOnly, Product: product,
				Reactors: reactors, Space: space, Zeroes: zeroes,
			}))
		},
		Delay: func(base *bdev.Bdev, l control.Latencies) (bdev.Device, error) {
			d, err := delay.New(delay.Config{Base: base})
			if err != nil {
				return nil, err
			}
			s := slow{d}
			s.SetLatencies(l)
			return s, nil
		},
		Error: func(base *bdev.Bdev) (bdev.Device, error) {
			d, err := errinj.New(base)
			if err != nil {
				return nil, err
			}
			return faulty{d}, nil
		},
		Passthru: func(base *bdev.Bdev) (bdev.Device, error) { return made(passthru.New(base)) },
	}, nil
}

// made keeps a nil pointer from becoming a Device that is not nil.
func made[D bdev.Device](d D, err error) (bdev.Device, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

// slow is a delay device as control sets it.
type slow struct{ *delay.Device }

// SetLatencies changes all four latencies, live.
func (s slow) SetLatencies(l control.Latencies) {
	s.SetLatency(delay.AvgRead, l.AvgRead)
	s.SetLatency(delay.P99Read, l.P99Read)
	s.SetLatency(delay.AvgWrite, l.AvgWrite)
	s.SetLatency(delay.P99Write, l.P99Write)
}

// faulty is an error device as control orders faults from it.
type faulty struct{ *errinj.Device }

// Inject orders faults.
func (f faulty) Inject(i control.Injection) error {
	kind := map[string]errinj.Type{
		"failure": errinj.Failure, "nvme_failure": errinj.Failure, "pending": errinj.Stuck,
		"corrupt_data": errinj.CorruptData, "nomem": errinj.OutOfMemory,
	}[i.Error]
	if i.Clear {
		kind = errinj.None
	}
	for _, op := range i.Ops {
		err := f.Device.Inject(errinj.Injection{Op: op, Type: kind, Num: i.Count, QueueDepth: i.QueueDepth, Offset: i.Offset, Value: i.Value})
		if err != nil {
			return err
		}
	}
	return nil
}

// Resume lets held I/O go.
func (f faulty) Resume() error {
	f.ResumePending()
	return nil
}
