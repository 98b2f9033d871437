package control

import (
	"time"

	"spindle/bdev"
)

// Modules makes the devices behind bdevs. The modules are handed in as values:
// control knows what a user may ask of them, not how they are built.
type Modules struct {
	Null     func(NullSpec) (bdev.Device, error)
	Malloc   func(MallocSpec) (bdev.Device, error)
	File     func(FileSpec) (bdev.Device, error)
	Delay    func(base *bdev.Bdev, l Latencies) (bdev.Device, error)
	Error    func(base *bdev.Bdev) (bdev.Device, error)
	Passthru func(base *bdev.Bdev) (bdev.Device, error)
}

// Geometry is what devices with a size of their own are made with.
type Geometry struct {
	BlockSize         uint32 // bytes
	NumBlocks         uint64
	PhysicalBlockSize uint32 // bytes; 0 is BlockSize
	Protected         bool   // protection information of type 1 beside each block
}

// NullSpec is a null bdev to be made.
type NullSpec struct {
	Name string // empty: the next of Null0, Null1, ...
	UUID bdev.UUID
	Geometry
}

// MallocSpec is a malloc bdev to be made.
type MallocSpec struct {
	Name string // empty: the next of Malloc0, Malloc1, ...
	UUID bdev.UUID
	Geometry
	NUMA int32 // node to take memory from; -1 is any
}

// FileSpec is a file or block device to be opened.
type FileSpec struct {
	Name      string
	UUID      bdev.UUID
	Path      string
	BlockSize uint32 // bytes; 0 is the file's own
	ReadOnly  bool
	Fallocate bool // kept: unmap punches holes wherever the file system can
	Uring     bool // it was made under the uring name
}

// Latencies are what a delay bdev adds.
type Latencies struct{ AvgRead, P99Read, AvgWrite, P99Write time.Duration }

// Injection is a fault that an error bdev is told to make.
type Injection struct {
	Clear      bool // end what was injected for Ops
	Ops        []bdev.Op
	Error      string // "failure", "pending", "corrupt_data" or "nomem"
	Count      uint32 // I/Os
	QueueDepth uint64 // fail only when so many are outstanding
	Offset     uint64 // corrupt_data: the byte of the buffer
	Value      uint8  // corrupt_data: what is XORed to it
}

// What modules may offer beyond Device; control finds it by assertion.
type (
	resizer  interface{ Resize(blocks uint64) error }
	rescaner interface{ Rescan() error }
	delayer  interface{ SetLatencies(Latencies) }
	injector interface {
		Inject(Injection) error
		Resume() error
	}
)

// kind is the module a bdev came from, as its methods are named.
type kind string

const (
	kindNull     kind = "null"
	kindMalloc   kind = "malloc"
	kindAIO      kind = "aio"
	kindUring    kind = "uring"
	kindDelay    kind = "delay"
	kindError    kind = "error"
	kindPassthru kind = "passthru"
)
