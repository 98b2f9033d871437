package simring

// Faults are probabilities, each drawn whenever its fault could happen; zero
// switches it off. They may be changed between any two calls on the World.
type Faults struct {
	// Network, drawn for each delivery on one direction of a connection.
	Split     float64 // only a part of what was sent arrives, cut at any byte
	Coalesce  float64 // held back so that later sends arrive with it
	Delay     float64 // arrives up to 16 latencies later
	Stall     float64 // the direction is frozen for up to Config.Stall
	Reorder   float64 // arrives after a later delivery of another connection
	HalfClose float64 // the initiator's direction ends, after any byte
	Reset     float64 // the connection is reset, after any byte

	// Sockets.
	LateAccept  float64 // a connection waits in the backlog for up to 16 latencies
	AcceptError float64 // a multishot accept ends with -EMFILE
	ShortSend   float64 // sendmsg takes only a part
	NoBufs      float64 // multishot receive ends with -ENOBUFS though buffers are left
	LostMore    float64 // a multishot accept or receive ends without an error

	// Ring.
	Interrupted float64 // Enter fails with EINTR: nothing submitted, nothing reaped
	Busy        float64 // Enter fails with EBUSY: nothing submitted, completions reaped
	QueueFull   float64 // a Prep call returns false
	Overflow    float64 // completions overflow and become visible some Enters later
	CancelRace  float64 // a Cancel is late, or finds its victim running
	Spurious    float64 // a sleeping Enter or a PollFD returns for no reason

	// Disks, drawn for each operation.
	DiskDelay   float64 // takes up to 64 latencies
	DiskReorder float64 // is overtaken by what is pending on the disk
	ReadError   float64 // -EIO
	WriteError  float64 // -EIO with any of the sectors written
	NoSpace     float64 // -ENOSPC
	ShortRead   float64
	ShortWrite  float64
	SyncError   float64 // -EIO, and what was to be flushed may be lost
	NoThread    float64 // -ECANCELED before it began: there was no thread to run it
	TornWrite   float64 // at a crash: a surviving write is torn at 512 bytes
}

// AllFaults is every fault at a rate that leaves runs able to progress.
func AllFaults() Faults {
	return Faults{
		Split: 0.2, Coalesce: 0.1, Delay: 0.05, Stall: 0.005, Reorder: 0.1,
		HalfClose: 0.0005, Reset: 0.0005,
		LateAccept: 0.3, AcceptError: 0.05, ShortSend: 0.2, NoBufs: 0.05, LostMore: 0.05,
		Interrupted: 0.05, Busy: 0.05, QueueFull: 0.05, Overflow: 0.05, CancelRace: 0.3, Spurious: 0.05,
		DiskDelay: 0.05, DiskReorder: 0.1, ReadError: 0.01, WriteError: 0.01, NoSpace: 0.01,
		ShortRead: 0.1, ShortWrite: 0.1, SyncError: 0.02, NoThread: 0.05, TornWrite: 0.5,
	}
}

// Lossless is f without the faults that end a connection or fail an
// operation: what is left, a correct program hides completely.
func (f Faults) Lossless() Faults {
	f.HalfClose, f.Reset = 0, 0
	f.ReadError, f.WriteError, f.NoSpace, f.SyncError = 0, 0, 0, 0
	return f
}

// Counts tells how often each fault of the same name was injected.
type Counts struct {
	Split, Coalesce, Delay, Stall, Reorder, HalfClose, Reset uint64
	LateAccept, AcceptError, ShortSend, NoBufs, LostMore     uint64
	Interrupted, Busy, QueueFull, Overflow                   uint64
	CancelRace, Spurious                                     uint64
	DiskDelay, DiskReorder, ReadError, WriteError, NoSpace   uint64
	ShortRead, ShortWrite, SyncError, NoThread, TornWrite    uint64
}

// Each calls f for every counter, in a fixed order.
func (c *Counts) Each(f func(name string, n uint64)) {
	for _, e := range [...]struct {
		name string
		n    uint64
	}{
		{"Split", c.Split}, {"Coalesce", c.Coalesce}, {"Delay", c.Delay}, {"Stall", c.Stall},
		{"Reorder", c.Reorder}, {"HalfClose", c.HalfClose}, {"Reset", c.Reset},
		{"LateAccept", c.LateAccept}, {"AcceptError", c.AcceptError}, {"ShortSend", c.ShortSend}, {"NoBufs", c.NoBufs}, {"LostMore", c.LostMore},
		{"Interrupted", c.Interrupted}, {"Busy", c.Busy}, {"QueueFull", c.QueueFull}, {"Overflow", c.Overflow},
		{"CancelRace", c.CancelRace}, {"Spurious", c.Spurious},
		{"DiskDelay", c.DiskDelay}, {"DiskReorder", c.DiskReorder}, {"ReadError", c.ReadError},
		{"WriteError", c.WriteError}, {"NoSpace", c.NoSpace}, {"ShortRead", c.ShortRead},
		{"ShortWrite", c.ShortWrite}, {"SyncError", c.SyncError}, {"NoThread", c.NoThread}, {"TornWrite", c.TornWrite},
	} {
		f(e.name, e.n)
	}
}

// Total is the number of faults injected.
func (c *Counts) Total() uint64 {
	var t uint64
	c.Each(func(_ string, n uint64) { t += n })
	return t
}

// Add adds o to c.
func (c *Counts) Add(o *Counts) {
	c.Split += o.Split
	c.Coalesce += o.Coalesce
	c.Delay += o.Delay
	c.Stall += o.Stall
	c.Reorder += o.Reorder
	c.HalfClose += o.HalfClose
	c.Reset += o.Reset
	c.LateAccept += o.LateAccept
	c.AcceptError += o.AcceptError
	c.ShortSend += o.ShortSend
	c.NoBufs += o.NoBufs
	c.LostMore += o.LostMore
	c.Interrupted += o.Interrupted
	c.Busy += o.Busy
	c.QueueFull += o.QueueFull
	c.Overflow += o.Overflow
	c.CancelRace += o.CancelRace
	c.Spurious += o.Spurious
	c.DiskDelay += o.DiskDelay
	c.DiskReorder += o.DiskReorder
	c.ReadError += o.ReadError
	c.WriteError += o.WriteError
	c.NoSpace += o.NoSpace
	c.ShortRead += o.ShortRead
	c.ShortWrite += o.ShortWrite
	c.SyncError += o.SyncError
	c.NoThread += o.NoThread
	c.TornWrite += o.TornWrite
}
