package file

import (
	"fmt"
	"syscall"

	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/reactor"
	"spindle/reactor/ring"
)

const (
	// MaxInFlight bounds the I/O of one channel; more get NoMem.
	MaxInFlight = 1024
	// maxTries bounds how often an operation that makes no progress is repeated.
	maxTries = 100
)

// A tag's argument is generation (13 bits) | slot (11 bits). The generation
// changes with each I/O of a slot, so that a late cancellation never hits the
// next one. Numbers beyond the slots are the channel's own operations.
const (
	slotBits  = 11
	slotMask  = 1<<slotBits - 1
	argSync   = MaxInFlight
	argCancel = MaxInFlight + 1
)

// stage is what the operation in flight for a slot does.
type stage uint8

const (
	transfer stage = iota // read or write Data
	punch                 // deallocate the range
	zero                  // have the file system zero the range
	fill                  // write zeroes, span by span
	flushing              // wait for a sync
)

// slot is one I/O in flight. It has at most one operation in the ring, whose
// tag is the slot's index and generation.
type slot struct {
	io      *bdev.IO
	off     int64  // of the range in the file, bytes
	n       uint64 // bytes of the range
	done    uint64 // bytes of them that are transferred
	stage   stage
	tries   uint8 // without progress
	cached  bool  // through the page cache
	waiting bool  // in channel.retry, not in the ring
	aborted bool
	free    int32 // next free slot
	gen     uint32
}

// tag names the operation in flight for slot i.
//
//spindle:hot
func (c *channel) tag(i int32) ring.Tag {
	return c.source.Tag(c.slots[i].gen<<slotBits&(1<<24-1) | uint32(i))
}

// channel is one reactor's way into the file.
type channel struct {
	d      *Device
	r      *reactor.Reactor
	source reactor.Source
	direct ring.File
	cached ring.File

	slots    []slot
	freeHead int32
	retry    []int32 // slots that found the submission queue full
	spare    []int32 // what retry is exchanged with
	node     reactor.FlushNode

	sync    syncState
	cancels int // in the ring
	closing bool
}

func newChannel(d *Device, r *reactor.Reactor, syncFD int) (*channel, error) {
	c := &channel{
		d: d, r: r, direct: ring.NoFile, cached: ring.NoFile,
		slots: make([]slot, MaxInFlight), retry: make([]int32, 0, MaxInFlight), spare: make([]int32, 0, MaxInFlight),
	}
	c.sync.file, c.sync.fd = ring.NoFile, syncFD
	c.node.To = c
	for i := range c.slots {
		c.slots[i].free = int32(i) + 1
	}
	c.slots[MaxInFlight-1].free = none
	for _, f := range []struct {
		fd   int
		file *ring.File
	}{{d.direct, &c.direct}, {d.cached, &c.cached}, {syncFD, &c.sync.file}} {
		if f.fd < 0 {
			continue
		}
		var err error
		if *f.file, err = r.Ring.Install(f.fd); err != nil {
			c.removeFiles()
			return nil, fmt.Errorf("install: %w", err)
		}
	}
	c.source = r.Register(c)
	return c, nil
}

func (c *channel) removeFiles() {
	for _, f := range []ring.File{c.direct, c.cached, c.sync.file} {
		if f != ring.NoFile {
			c.r.Ring.Remove(f)
		}
	}
}

const none int32 = -1

// Submit implements bdev.Channel.
//
//spindle:hot
func (c *channel) Submit(io *bdev.IO) bdev.Status {
	st, bad := c.admit(io)
	if bad != bdev.OK {
		return bad
	}
	i := c.freeHead
	if i == none {
		return bdev.NoMem
	}
	s := &c.slots[i]
	c.freeHead = s.free
	size := int64(c.d.config.BlockSize)
	*s = slot{io: io, stage: st, gen: s.gen + 1, off: int64(io.LBA) * size, n: uint64(io.Blocks) * uint64(size)}
	if st == transfer {
		s.cached = c.direct == ring.NoFile || io.Data.Addr&uintptr(c.d.align-1) != 0
		if s.cached && c.direct != ring.NoFile {
			c.d.counts.buffered.Add(1)
		}
	}
	c.start(i)
	return bdev.Pending
}

// admit is the first stage of io, or the status that refuses it.
//
//spindle:hot
func (c *channel) admit(io *bdev.IO) (stage, bdev.Status) {
	if io.Op == bdev.Read {
		return transfer, bdev.OK
	}
	if c.d.failed.Load() {
		return 0, bdev.Failed
	}
	if c.d.config.ReadOnly && io.Op != bdev.Flush {
		return 0, bdev.NotSup
	}
	switch io.Op {
	case bdev.Write:
		return transfer, bdev.OK
	case bdev.Flush:
		return flushing, bdev.OK
	case bdev.Unmap:
		if c.d.Info().Caps&bdev.CapUnmap == 0 {
			return 0, bdev.NotSup
		}
		if c.d.noPunch.Load() { // promised and not kept: zeroes it is
			return c.zeroStage(), bdev.OK
		}
		return punch, bdev.OK
	case bdev.WriteZeroes:
		return c.zeroStage(), bdev.OK
	}
	return 0, bdev.NotSup
}

//spindle:hot
func (c *channel) zeroStage() stage {
	if c.d.noZeroRange.Load() {
		return fill
	}
	return zero
}

// start puts the slot's next operation into the ring, or on the retry list when
// that is full.
//
//spindle:hot
func (c *channel) start(i int32) {
	s := &c.slots[i]
	if s.stage == flushing {
		c.joinSync(i)
		return
	}
	if c.prep(s, c.tag(i)) {
		return
	}
	c.d.counts.queueFull.Add(1)
	s.waiting = true
	c.retry = append(c.retry, i) // within its capacity: a slot is in it once
	c.r.NeedFlush(&c.node)
}

//spindle:hot
func (c *channel) prep(s *slot, t ring.Tag) bool {
	q := c.r.Ring
	at := s.off + int64(s.done)
	switch s.stage {
	case punch:
		return q.Allocate(t, c.cached, ring.PunchHole, s.off, int64(s.n))
	case zero:
		return q.Allocate(t, c.cached, ring.ZeroRange, s.off, int64(s.n))
	case fill:
		z := c.d.zeroes
		return q.Write(t, c.cached, z.Slice(0, uint32(min(s.n-s.done, uint64(z.Len)))), at, 0)
	}
	b := s.io.Data.Slice(uint32(s.done), uint32(s.n-s.done))
	f := c.direct
	if s.cached {
		f = c.cached
	}
	if s.io.Op == bdev.Read {
		return q.Read(t, f, b, at)
	}
	var fl ring.WriteFlags
	if s.io.Flags&bdev.FUA != 0 && !s.cached && !plant.On(plant.DroppedFUA) {
		fl = ring.FUA
	}
	return q.Write(t, f, b, at, fl)
}

// Flush is called at the end of a turn for what found the queue full. What
// finds it full again asks for the next turn's.
func (c *channel) Flush() {
	if plant.On(plant.SkippedSync) {
		c.synced(0)
	}
	list := c.retry
	c.retry = c.spare[:0]
	for _, i := range list {
		c.slots[i].waiting = false
		if c.slots[i].aborted {
			c.end(i, bdev.Aborted)
			continue
		}
		c.start(i)
	}
	c.spare = list
	c.pumpSync()
}

// Complete implements reactor.Completer.
//
//spindle:hot
func (c *channel) Complete(arg uint32, e ring.CQE) {
	switch arg & slotMask {
	case argSync:
		c.synced(e.Res)
		return
	case argCancel:
		c.cancelled()
		return
	}
	i := int32(arg & slotMask)
	s := &c.slots[i]
	if e.Res < 0 {
		c.failed(i, syscall.Errno(-e.Res))
		return
	}
	if s.stage == transfer || s.stage == fill {
		c.moved(i, uint64(e.Res))
		return
	}
	c.reached(i)
}

// moved goes on after a transfer of n bytes. What ended inside a block begins it
// again, so that it is of one write even if another was there in between.
//
//spindle:hot
func (c *channel) moved(i int32, n uint64) {
	s := &c.slots[i]
	before := s.done
	s.done += n
	if s.done == s.n {
		c.reached(i)
		return
	}
	if s.stage == transfer {
		c.d.counts.short.Add(1)
	}
	s.done -= s.done % uint64(c.d.config.BlockSize)
	switch {
	case s.aborted:
		c.end(i, bdev.Aborted)
		return
	case n == 0 && s.io.Op == bdev.Read:
		// The file ends here although its size said otherwise: it was truncated.
		c.end(i, bdev.Failed)
		return
	case s.done == before:
		if s.tries++; s.tries == maxTries {
			c.end(i, bdev.Failed)
			return
		}
	default:
		s.tries = 0
	}
	c.start(i)
}

// reached goes on after the last byte: an I/O that has to be durable and is not
// yet waits for a sync.
//
//spindle:hot
func (c *channel) reached(i int32) {
	s := &c.slots[i]
	if s.io.Op != bdev.Read && s.io.Flags&bdev.FUA != 0 && (s.stage != transfer || s.cached) {
		s.stage = flushing
		c.joinSync(i)
		return
	}
	c.end(i, bdev.OK)
}

// failed goes on after an operation that returned an error.
func (c *channel) failed(i int32, errno syscall.Errno) {
	s := &c.slots[i]
	if s.aborted {
		c.end(i, bdev.Aborted)
		return
	}
	// Memory that an operation lacks is of the moment, too; of a sync it may be what
	// write-back lacked, so that there it is no such thing.
	moment := passing(errno) || errno == syscall.ENOMEM
	if moment {
		c.d.counts.retried.Add(1)
		if s.tries++; s.tries < maxTries {
			c.start(i)
			return
		}
	}
	switch errno {
	case syscall.EOPNOTSUPP, syscall.ENOSYS:
		if c.otherWay(s) {
			c.start(i)
			return
		}
	case syscall.EINVAL:
		if c.alike(s) {
			c.start(i)
			return
		}
	}
	status := statusOf(errno)
	if status == bdev.Failed && !moment && s.io.Op == bdev.Write && s.io.Flags&bdev.FUA != 0 && s.stage == transfer {
		c.d.fail("RWF_DSYNC write", errno)
	}
	c.end(i, status)
}

// alike picks another way to do what was refused for where or how long it is, for
// this once, and tells whether there is one.
func (c *channel) alike(s *slot) bool {
	switch {
	case s.stage == transfer && !s.cached:
		// A file system may refuse O_DIRECT for one place of a file (inline
		// data, an encrypted or compressed extent).
		s.cached = true
		c.d.counts.buffered.Add(1)
	case s.stage == punch || s.stage == zero:
		// A block device deallocates and zeroes its own blocks, which may be larger.
		s.stage = fill
		c.d.counts.zeroWrites.Add(1)
	default:
		return false
	}
	return true
}

// otherWay picks the next best way to zero a range, for good, and tells whether
// there is one.
func (c *channel) otherWay(s *slot) bool {
	switch s.stage {
	case punch:
		c.d.noPunch.Store(true)
		s.stage = c.zeroStage()
	case zero:
		c.d.noZeroRange.Store(true)
		s.stage = fill
	default:
		return false
	}
	if s.stage == fill {
		c.d.counts.zeroWrites.Add(1)
	}
	return true
}

func statusOf(errno syscall.Errno) bdev.Status {
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT:
		return bdev.NoSpace
	case syscall.ENODEV, syscall.ENXIO:
		return bdev.Gone
	}
	return bdev.Failed
}

// passing tells of an error that it is of the moment and says nothing about the
// file. ECANCELED is one where nobody cancelled: the kernel gives up what it
// has queued for a thread when it cannot make the first such thread, and a
// signal that is pending for the reactor's, as the Go runtime's often are,
// keeps it from that (seen with Linux 6.1).
func passing(errno syscall.Errno) bool {
	return errno == syscall.EINTR || errno == syscall.EAGAIN || errno == syscall.ECANCELED
}

// end frees the slot and completes its I/O.
//
//spindle:hot
func (c *channel) end(i int32, status bdev.Status) {
	s := &c.slots[i]
	io := s.io
	s.io = nil
	s.free = c.freeHead
	c.freeHead = i
	io.Complete(status)
}

// Abort implements bdev.Channel: the operation is cancelled if that is still
// possible, and no further one is begun. What waits for a sync goes on.
func (c *channel) Abort(io *bdev.IO) {
	for i := range c.slots {
		s := &c.slots[i]
		if s.io != io {
			continue
		}
		if s.stage == flushing || s.aborted {
			return
		}
		s.aborted = true
		if !s.waiting && c.r.Ring.Cancel(c.source.Tag(argCancel), c.tag(int32(i))) {
			c.cancels++
		}
		return
	}
}

// Release implements bdev.Channel: nothing is ever lent.
func (c *channel) Release(*bdev.IO) {}

// Close implements bdev.Channel. The ring may still owe the completion of a
// cancellation; its place in the table is kept until then.
func (c *channel) Close() {
	c.closing = true
	if c.cancels == 0 {
		c.finish()
	}
}

func (c *channel) cancelled() {
	c.cancels--
	if c.closing && c.cancels == 0 {
		c.finish()
	}
}

func (c *channel) finish() {
	c.removeFiles()
	c.r.Unregister(c.source)
	c.d.giveSync(c.sync.fd)
}
