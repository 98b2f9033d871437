package bdev

import "spindle/reactor"

// Caps says what a device can do.
type Caps uint32

const (
	CapUnmap Caps = 1 << iota
	CapWriteZeroes
	CapFlush  // has a volatile cache: Flush means something; without it every write is durable when done
	CapFUA    // honours FUA natively
	CapResize // its size may change while open
	CapLend   // Reads with Lend are answered from memory of the device's own, which never changes
	CapLive   // likewise, but from the medium itself: later writes, also other reactors', change what was lent
	CapReadOnly
)

// Info describes a device. It is an immutable snapshot: a change makes a new one.
type Info struct {
	Product   string // SPDK's product_name, as its clients match it: "Malloc disk", "AIO disk", ...
	BlockSize uint32 // bytes
	Blocks    uint64
	// PhysicalBlockSize in bytes; 0 means BlockSize.
	PhysicalBlockSize uint32
	Caps              Caps
	UnmapZeroes       bool   // unmapped blocks read as zeroes
	UnmapGranularity  uint32 // blocks; 0 means 1
	MaxTransfer       uint32 // blocks an IO; 0 means no limit of its own
	Align             uint32 // memory alignment Data needs, bytes; 0 means none
	// Protected: blocks have protection information of type 1 (TupleLen bytes) beside
	// them. A Read or Write with Meta, a tuple a block, returns or stores it as it
	// is. Without Meta a Write stores what Protect makes, and a Read is checked.
	Protected bool
	Metered   bool   // the device is a Meter that answers
	Failure   string // why writes are refused until the device is made anew: a flush failed; "" is none
}

// Device is a block device of some module.
type Device interface {
	// Info returns the current snapshot. Safe from any thread.
	Info() *Info
	// Open makes a channel for r. Preconditions: runs on r.
	Open(r *reactor.Reactor) (Channel, error)
	// Close frees the device; every channel is closed. May block: called off
	// the reactors, through Offload or a control goroutine.
	Close() error
}

// Usage is what a thin device has of its backing store, in bytes.
type Usage struct{ Used, Available uint64 }

// Meter is a Device that can tell how much it uses. Usage may block: it is called
// off the reactors.
type Meter interface{ Usage() (Usage, error) }

// Inliner is a Channel that can tell whether a Write with Inline, and the Flush after
// it, end inside Submit when nothing else runs on the reactor before. A Bdev's is one.
type Inliner interface{ Inline() bool }

// Channel is one reactor's way into a device. All calls are made on its reactor.
type Channel interface {
	// Submit starts io. A final status means it ended here and no IODone comes;
	// Pending means IODone exactly once, later, never inside Submit; NoMem means
	// nothing was started: queue it and submit again.
	Submit(io *IO) Status
	// Abort is a hint that nobody waits for io any more; completion still comes.
	Abort(io *IO)
	// Release gives back what a lent Read's Data points at.
	Release(io *IO)
	// Close ends the channel. Preconditions: nothing is in flight, nothing lent.
	Close()
}
