package bdev

import (
	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

// Op is what an IO does.
type Op uint8

const (
	Read        Op = iota // fill Data from Blocks blocks at LBA
	Write                 // write Data to Blocks blocks at LBA
	Flush                 // make every write that completed before submission, on any channel, durable; LBA and Blocks ignored
	Unmap                 // deallocate the range; it reads as zeroes when Info.UnmapZeroes
	WriteZeroes           // the range reads as zeroes
	NumOps
)

// Flags qualify an IO.
type Flags uint8

const (
	FUA    Flags = 1 << iota // a Write or WriteZeroes is durable before it completes
	Lend                     // the submitter takes a lent buffer for a Read: see CapLend and CapLive
	Inline                   // the Data of a Write is there during Submit only: see Inliner
)

// Status is the state of an IO.
type Status uint8

const (
	Pending      Status = iota // not final: IODone comes later
	OK                         // done
	NoMem                      // not started, nothing changed: queue and submit again later
	Failed                     // medium error: unrecovered read or write error
	OutRange                   // LBA range outside the device
	NotSup                     // operation not supported
	Gone                       // the device is being removed or has failed for good
	Aborted                    // ended by Abort
	NoSpace                    // thin provisioning: no space left
	GuardFailed                // protection information: the data is not what was written
	RefTagFailed               // protection information: it is another block's
)

// Final tells whether s ends the IO.
func (s Status) Final() bool { return s != Pending && s != NoMem }

// MaxStack is how deep devices stack: frames in an IO.
const MaxStack = 6

// Completer is told that an IO has its final status. Runs on the channel's reactor.
type Completer interface{ IODone(io *IO) }

type frame struct {
	c   Completer
	arg uint64
}

// IO is one block I/O. It is embedded in its submitter's task and allocates
// nothing. For Read and Write, Data holds exactly Blocks blocks, contiguous;
// with Lend set on a device that has CapLend or CapLive, a Read is submitted with empty
// Data and the device points Data at memory of its own, which stays valid and
// readable until the submitter calls Release.
type IO struct {
	Op     Op
	Flags  Flags
	Status Status
	depth  uint8
	Blocks uint32
	LBA    uint64
	Data   mem.Ref
	Meta   mem.Ref    // of a Read or Write on a device with Info.Protected: see there
	Bad    uint32     // with GuardFailed and RefTagFailed: which of the blocks
	Start  clock.Time // when Bdev's channel took it; for latency
	Next   *IO        // intrusive queue of whoever holds it
	frames [MaxStack]frame
}

// Push makes c the next to be told of the IO's end, with a word of its own.
// The submitter pushes itself before Submit; a stacked device before it
// forwards. When Submit returns a final status (or NoMem), whoever pushed takes
// its frame back with Pop.
//
//spindle:hot
func (io *IO) Push(c Completer, arg uint64) {
	io.frames[io.depth] = frame{c, arg}
	io.depth++
}

// Pop removes the newest frame and returns its word. IODone calls it for its own frame.
//
//spindle:hot
func (io *IO) Pop() uint64 {
	io.depth--
	return io.frames[io.depth].arg
}

// Complete gives the IO its final status and tells the newest frame's Completer,
// which pops its frame and, if it is a stacked device, calls Complete again.
// Preconditions: runs on the channel's reactor, outside Submit.
//
//spindle:hot
func (io *IO) Complete(s Status) {
	io.Status = s
	io.frames[io.depth-1].c.IODone(io)
}

var opNames = [NumOps]string{"read", "write", "flush", "unmap", "write_zeroes"}

// String is the operation's name as the RPC interface spells it.
func (o Op) String() string {
	if o < NumOps {
		return opNames[o]
	}
	return "unknown"
}

// NumStatus is the number of statuses.
const NumStatus = int(RefTagFailed) + 1

var statusNames = [NumStatus]string{"pending", "ok", "nomem", "failed", "out_of_range", "not_supported", "gone", "aborted", "no_space", "guard_failed", "ref_tag_failed"}

// String is the status as statistics and logs spell it.
func (s Status) String() string {
	if int(s) < NumStatus {
		return statusNames[s]
	}
	return "unknown"
}
