// Package file is a disk in a regular file or on a block device, through the
// reactors' rings.
//
// Reads and writes go past the page cache (O_DIRECT) where the alignment of the
// block size and of the buffer allows, through it otherwise. The host's caches
// are the device's volatile cache: Flush is fdatasync, a FUA write is a
// RWF_DSYNC write or, through the page cache, a write and an fdatasync. Unmap
// punches holes. Once an fdatasync has failed, the kernel forgets what it could
// not write (it marks the pages clean), so the device refuses every further
// write and flush until it is made anew.
//
// Threading: a Device is safe from any thread; New, Rescan and Close block and
// are called off the reactors. A channel belongs to its reactor.
// Memory: a Device maps or borrows one span of zeroes; data buffers are the
// submitters', and are the kernel's until the I/O has ended.
package file

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"

	"spindle/bdev"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

const (
	// defaultBlockSize of a regular file does not depend on the file system,
	// so that an image reads the same wherever it is moved.
	defaultBlockSize = 512
	// pageSize is what the page cache and most file systems work in, bytes.
	pageSize = 4096
	// zeroSpan is how much one write of zeroes covers, bytes.
	zeroSpan = 1 << 20
)

// ErrTooSmall is returned for a file that does not hold one block.
var ErrTooSmall = errors.New("file: smaller than a block")

// Config makes a Device.
type Config struct {
	Kernel    ring.Kernel
	Path      string
	BlockSize uint32 // 0: that of a block device, 512 for a regular file
	// PhysicalBlockSize is what initiators are told to align to, in bytes; 0: BlockSize.
	PhysicalBlockSize uint32
	ReadOnly          bool
	Buffered          bool   // never use O_DIRECT
	NoUnmap           bool   // do not punch holes, so that space once allocated stays so
	Product           string // "" means "AIO disk", the name SPDK's clients know
	// Reactors is how many channels are expected; Open blocks for those beyond it.
	Reactors int
	// Space is where the device maps zeroes to write, unless Zeroes is set: a
	// span of zeroes that devices may share and that outlives them.
	Space  *mem.Space
	Zeroes mem.Ref
}

// Device is a disk in a file.
type Device struct {
	bdev.LiveInfo
	config Config
	align  uint32 // of O_DIRECT
	direct int    // descriptor; -1 is none
	cached int    // descriptor, through the page cache
	region *mem.Region
	zeroes mem.Ref

	failed      atomic.Bool // a flush failed
	noZeroRange atomic.Bool // the kernel cannot zero this file without writing
	noPunch     atomic.Bool // the kernel cannot punch holes in it
	counts      counts

	// syncs are spare descriptors to flush with; see channel.sync. All are
	// opened before the first write, so that none misses an error.
	mu     sync.Mutex
	syncs  []int
	closed bool
	looks  int // at the file, under way: the last ends what Close left
}

// Counts tells how often a device took a longer way.
type Counts struct {
	Short      uint64 // transfers that moved only a part
	Retried    uint64 // operations that were interrupted or found no resources
	Buffered   uint64 // transfers of a direct device that went through the page cache
	ZeroWrites uint64 // writes of zeroes in place of a zeroed range or a hole
	QueueFull  uint64 // operations that found the submission queue full
}

type counts struct{ short, retried, buffered, zeroWrites, queueFull atomic.Uint64 }

// New opens c.Path.
func New(c Config) (*Device, error) {
	d := &Device{config: c, direct: -1, cached: -1}
	if d.config.Product == "" {
		d.config.Product = "AIO disk"
	}
	err := d.open()
	if err == nil {
		err = d.mapZeroes()
	}
	if err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("file: %w", err)
	}
	return d, nil
}

func (d *Device) flags() ring.OpenFlags {
	if d.config.ReadOnly {
		return ring.OpenReadOnly
	}
	return 0
}

func (d *Device) open() error {
	c := &d.config
	fd, info, err := c.Kernel.Open(c.Path, d.flags())
	if err != nil {
		return err
	}
	d.cached = fd
	if c.BlockSize == 0 {
		c.BlockSize = defaultBlockSize
		if info.BlockDevice {
			c.BlockSize = max(info.Align, defaultBlockSize)
		}
	}
	if info.Size < int64(c.BlockSize) {
		return fmt.Errorf("%w: %s has %d bytes", ErrTooSmall, c.Path, info.Size)
	}
	// A block device enforces its logical block size; a file system wants
	// Align of offset and length. Both are met when it divides the block size.
	if !c.Buffered && info.Align != 0 && c.BlockSize%info.Align == 0 {
		if fd, _, err := c.Kernel.Open(c.Path, d.flags()|ring.OpenDirect); err == nil {
			d.direct, d.align = fd, info.Align
		}
	}
	for range max(c.Reactors, 1) {
		fd, err := d.openSync()
		if err != nil {
			return err
		}
		d.syncs = append(d.syncs, fd)
	}
	return d.Update(func(i *bdev.Info) { *i = d.describe(info) })
}

func (d *Device) openSync() (int, error) {
	fd, _, err := d.config.Kernel.Open(d.config.Path, d.flags())
	return fd, err
}

func (d *Device) describe(f ring.FileInfo) bdev.Info {
	size := d.config.BlockSize
	i := bdev.Info{
		Product:     d.config.Product,
		BlockSize:   size,
		Blocks:      uint64(f.Size) / uint64(size),
		Caps:        bdev.CapWriteZeroes | bdev.CapFlush | bdev.CapFUA | bdev.CapResize,
		UnmapZeroes: true,
		Align:       d.align,
		Metered:     !f.BlockDevice,

		PhysicalBlockSize: d.config.PhysicalBlockSize,
	}
	granule := f.Align
	if !f.BlockDevice {
		granule = max(granule, pageSize)
	}
	if granule > size {
		i.UnmapGranularity = granule / size
	}
	if f.Discard && !d.config.NoUnmap {
		i.Caps |= bdev.CapUnmap
	}
	if d.config.ReadOnly {
		i.Caps = i.Caps&^(bdev.CapUnmap|bdev.CapWriteZeroes) | bdev.CapReadOnly
	}
	return i
}

func (d *Device) mapZeroes() error {
	d.zeroes = d.config.Zeroes
	if !d.zeroes.Empty() || d.config.ReadOnly {
		return nil
	}
	var err error
	if d.region, err = d.config.Space.Map(zeroSpan, -1); err != nil {
		return err
	}
	d.zeroes = d.region.Ref(0, zeroSpan)
	return nil
}

// Usage implements bdev.Meter: a sparse file's blocks and what is left to it.
func (d *Device) Usage() (bdev.Usage, error) {
	f, err := d.look()
	if err != nil {
		return bdev.Usage{}, err
	}
	return bdev.Usage{Used: f.Used, Available: f.Free}, nil
}

// look describes the file as it is now. It may take for ever, and nobody waits for
// it: Close leaves the descriptor to it.
func (d *Device) look() (ring.FileInfo, error) {
	d.mu.Lock()
	fd := d.cached
	if d.closed {
		d.mu.Unlock()
		return ring.FileInfo{}, fmt.Errorf("file %s: %w", d.config.Path, fs.ErrClosed)
	}
	d.looks++
	d.mu.Unlock()
	info, err := d.config.Kernel.Stat(fd)
	d.mu.Lock()
	d.looks--
	last := d.closed && d.looks == 0
	d.mu.Unlock()
	if last {
		_ = d.config.Kernel.CloseFD(fd)
	}
	if err != nil {
		return info, fmt.Errorf("file %s: %w", d.config.Path, err)
	}
	return info, nil
}

// Direct tells whether the device goes past the page cache.
func (d *Device) Direct() bool { return d.direct >= 0 }

// Path is the file's.
func (d *Device) Path() string { return d.config.Path }

// Counts returns how often the device took a longer way.
func (d *Device) Counts() Counts {
	c := &d.counts
	return Counts{c.short.Load(), c.retried.Load(), c.buffered.Load(), c.zeroWrites.Load(), c.queueFull.Load()}
}

// Rescan looks at the file's size again; it may have grown, or shrunk.
func (d *Device) Rescan() error {
	info, err := d.look()
	if err != nil {
		return err
	}
	blocks := uint64(info.Size) / uint64(d.config.BlockSize)
	switch blocks {
	case d.Info().Blocks:
		return nil
	case 0:
		return fmt.Errorf("%w: %s has %d bytes", ErrTooSmall, d.config.Path, info.Size)
	}
	return d.Update(func(i *bdev.Info) { i.Blocks = blocks })
}

// fail makes the device refuse writes and flushes from now on, because of what
// op returned.
func (d *Device) fail(op string, errno syscall.Errno) {
	if !d.failed.Swap(true) {
		_ = d.Update(func(i *bdev.Info) { i.Failure = op + ": " + errno.Error() })
	}
}

// Open implements bdev.Device.
func (d *Device) Open(r *reactor.Reactor) (bdev.Channel, error) {
	fd, err := d.takeSync()
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	c, err := newChannel(d, r, fd)
	if err != nil {
		d.giveSync(fd)
		return nil, fmt.Errorf("file: %w", err)
	}
	return c, nil
}

func (d *Device) takeSync() (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.syncs); n > 0 {
		fd := d.syncs[n-1]
		d.syncs = d.syncs[:n-1]
		return fd, nil
	}
	return d.openSync()
}

func (d *Device) giveSync(fd int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed { // the channel waited for a cancellation
		_ = d.config.Kernel.CloseFD(fd)
		return
	}
	d.syncs = append(d.syncs, fd)
}

// Close implements bdev.Device. Closing a file may block as long as its file system
// likes: no lock is held meanwhile that a reactor might want.
func (d *Device) Close() error {
	d.mu.Lock()
	fds := append(d.syncs, d.direct)
	if d.looks == 0 {
		fds = append(fds, d.cached)
	}
	d.closed = true
	d.syncs, d.cached, d.direct = nil, -1, -1
	d.mu.Unlock()
	var errs []error
	for _, fd := range fds {
		if fd >= 0 {
			errs = append(errs, d.config.Kernel.CloseFD(fd))
		}
	}
	if d.region != nil {
		errs = append(errs, d.config.Space.Delete(d.region))
		d.region = nil
	}
	return errors.Join(errs...)
}
