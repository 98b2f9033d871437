package simring

import (
	"math/rand/v2"

	"spindle/reactor/ring"
)

// SectorSize is what a crash writes whole or not at all.
const SectorSize = 512

const pageSize = 4096

// Bounds of what a disk's volatile cache holds: beyond them the oldest writes
// become durable by themselves, as a real cache is written back.
const (
	maxUnsynced      = 256
	maxUnsyncedBytes = 8 << 20
	maxKeptBuffer    = 256 << 10 // a larger one is not reused
)

// DiskOptions describe a file or block device. Zero fields take the defaults named.
type DiskOptions struct {
	Size        int64
	MaxSize     int64 // a regular file may grow up to here, 4 * Size; beyond: -ENOSPC
	Align       uint32
	BlockDevice bool
	NoDiscard   bool // PunchHole is refused with -EOPNOTSUPP
	NoDirect    bool // OpenDirect is refused
	ReadOnly    bool
}

// Disk is a file or block device: its content as programs read it, what of it
// is durable, and the writes between the two, oldest first.
type Disk struct {
	w        *World
	id       int
	path     string
	opt      DiskOptions
	size     int64
	durable  int64 // size that a crash leaves
	pages    map[int64]*page
	touched  []*page // pages whose two images may differ
	unsynced []*unsynced
	bytes    int
	seq      uint64 // of the next write
	free     []*unsynced
	inflight int
	syncErr  bool
	used     uint64 // of the file system, as SetUsage said
	left     uint64
}

// page holds both images of one page.
type page struct {
	now     [pageSize]byte
	safe    [pageSize]byte
	touched bool
}

// unsynced is a write that a crash may lose, in part or whole.
type unsynced struct {
	seq  uint64
	off  int64
	n    int64
	zero bool // no data: the range is zeroed
	safe bool // FUA: durable, but older writes are not yet
	data []byte
}

// AddDisk makes a disk that Open finds under path. It reads as zeroes.
func (w *World) AddDisk(path string, opt DiskOptions) *Disk {
	if opt.Align == 0 {
		opt.Align = SectorSize
	}
	if opt.MaxSize == 0 {
		opt.MaxSize = 4 * opt.Size
	}
	if opt.BlockDevice {
		opt.MaxSize = opt.Size
	}
	d := &Disk{w: w, id: len(w.disks), path: path, opt: opt, size: opt.Size, durable: opt.Size, pages: map[int64]*page{}}
	w.disks = append(w.disks, d)
	return d
}

// Disk returns the disk at path, or nil.
func (w *World) Disk(path string) *Disk {
	for _, d := range w.disks {
		if d.path == path {
			return d
		}
	}
	return nil
}

// ID is the disk's number in events.
func (d *Disk) ID() int { return d.id }

// Size is the current size.
func (d *Disk) Size() int64 { return d.size }

// Resize changes the size durably, as an operator does.
func (d *Disk) Resize(n int64) {
	d.size, d.durable = n, n
	d.opt.MaxSize = max(d.opt.MaxSize, n)
}

// SetUsage says what Stat tells of a regular file: the bytes that it occupies, and
// those that its file system has left.
func (d *Disk) SetUsage(used, left uint64) { d.used, d.left = used, left }

// FailSync makes the next Sync fail with -EIO.
func (d *Disk) FailSync() { d.syncErr = true }

// Unsynced is the number of writes that a crash may lose.
func (d *Disk) Unsynced() int { return len(d.unsynced) }

// ReadAt copies the current content from off on; it is for checkers and takes
// no time.
func (d *Disk) ReadAt(b []byte, off int64) { d.read(b, off, false) }

// DurableAt is ReadAt of what is durable for certain.
func (d *Disk) DurableAt(b []byte, off int64) { d.read(b, off, true) }

// WriteAt sets content durably; it is for preparing a test and takes no time.
func (d *Disk) WriteAt(b []byte, off int64) { d.write(b, off, int64(len(b)), true) }

func (d *Disk) info() ring.FileInfo {
	return ring.FileInfo{Size: d.size, BlockDevice: d.opt.BlockDevice, Align: d.opt.Align, Discard: !d.opt.NoDiscard, Used: d.used, Free: d.left}
}

func (d *Disk) page(i int64, create bool) *page {
	p := d.pages[i]
	if p == nil && create {
		p = new(page)
		d.pages[i] = p
	}
	return p
}

// read copies one of the images into b.
func (d *Disk) read(b []byte, off int64, durable bool) {
	for len(b) > 0 {
		i := off % pageSize
		k := min(pageSize-i, int64(len(b)))
		switch p := d.page(off/pageSize, false); {
		case p == nil:
			clear(b[:k])
		case durable:
			copy(b, p.safe[i:i+k])
		default:
			copy(b, p.now[i:i+k])
		}
		b, off = b[k:], off+k
	}
}

// change sets n bytes of the current image to b, or to zero when b is nil.
func (d *Disk) change(b []byte, off, n int64) {
	d.size = max(d.size, off+n)
	for done := int64(0); done < n; {
		i := (off + done) % pageSize
		k := min(pageSize-i, n-done)
		if p := d.page((off+done)/pageSize, b != nil); p != nil {
			if !p.touched {
				p.touched = true
				d.touched = append(d.touched, p)
			}
			if b == nil {
				clear(p.now[i : i+k])
			} else {
				copy(p.now[i:i+k], b[done:])
			}
		}
		done += k
	}
}

// apply makes u, or [from, to) of it, durable.
func (d *Disk) apply(u *unsynced, from, to int64) {
	d.durable = max(d.durable, u.off+to)
	for done := from; done < to; {
		i := (u.off + done) % pageSize
		k := min(pageSize-i, to-done)
		if p := d.page((u.off+done)/pageSize, !u.zero); p != nil {
			if u.zero {
				clear(p.safe[i : i+k])
			} else {
				copy(p.safe[i:i+k], u.data[done:])
			}
		}
		done += k
	}
}

// write changes the current image and remembers the change as un-synced.
func (d *Disk) write(b []byte, off, n int64, fua bool) {
	d.change(b, off, n)
	d.remember(b, off, n).safe = fua
	d.settle()
}

func (d *Disk) remember(b []byte, off, n int64) *unsynced {
	var u *unsynced
	if k := len(d.free); k > 0 {
		u, d.free = d.free[k-1], d.free[:k-1]
	} else {
		u = new(unsynced)
	}
	*u = unsynced{seq: d.seq, off: off, n: n, zero: b == nil, data: append(u.data[:0], b...)}
	d.seq++
	d.bytes += len(b)
	d.unsynced = append(d.unsynced, u)
	return u
}

// settle makes the oldest writes durable while they are FUA or the cache is
// full. A FUA write in the middle waits for its elders only in the books: a
// crash always applies it.
func (d *Disk) settle() {
	k, bytes := 0, d.bytes
	for _, u := range d.unsynced {
		if !u.safe && len(d.unsynced)-k <= maxUnsynced && bytes <= maxUnsyncedBytes {
			break
		}
		d.apply(u, 0, u.n)
		bytes -= len(u.data)
		k++
	}
	d.forget(k)
}

// forget takes the k oldest writes off the list.
func (d *Disk) forget(k int) {
	if k == 0 {
		return
	}
	for _, u := range d.unsynced[:k] {
		d.discard(u)
	}
	m := copy(d.unsynced, d.unsynced[k:])
	clear(d.unsynced[m:])
	d.unsynced = d.unsynced[:m]
}

// discard makes the record of u free.
func (d *Disk) discard(u *unsynced) {
	d.bytes -= len(u.data)
	if cap(u.data) > maxKeptBuffer {
		u.data = nil
	}
	d.free = append(d.free, u)
}

// flushed makes everything before mark durable: the completed writes that a
// Sync covers.
func (d *Disk) flushed(mark uint64) {
	k := 0
	for _, u := range d.unsynced {
		if u.seq >= mark {
			break
		}
		d.apply(u, 0, u.n)
		k++
	}
	d.forget(k)
	d.settle()
}

// flushFailed is a Sync that failed: each covered write became durable or is
// only in the cache, marked clean, so that no later Sync writes it. That is
// what Linux does after a write-back error.
func (d *Disk) flushFailed(mark uint64) {
	kept := d.unsynced[:0]
	for _, u := range d.unsynced {
		if u.seq >= mark || u.safe {
			kept = append(kept, u)
			continue
		}
		if d.w.rng.Uint64()&1 == 0 {
			d.apply(u, 0, u.n)
		}
		d.discard(u)
	}
	clear(d.unsynced[len(kept):])
	d.unsynced = kept
	d.settle()
}

// Crash loses power: each un-synced write survives by coin flip, whole or,
// with Faults.TornWrite, any of its sectors; what a completed Sync or a
// completed FUA write covered survives. The disk then reads as it restarts.
// Operations in flight are not touched: World.PowerFail deals with both.
func (d *Disk) Crash(rng *rand.Rand) {
	d.w.note(&Event{Kind: Crash, ID: d.id, N: int64(len(d.unsynced))})
	for _, u := range d.unsynced {
		switch {
		case u.safe:
			d.apply(u, 0, u.n)
		case rng.Uint64()&1 == 0:
		case d.w.chance(d.w.Faults.TornWrite, &d.w.Counts.TornWrite, "torn-write", d.id):
			d.tear(u, rng)
		default:
			d.apply(u, 0, u.n)
		}
	}
	d.forget(len(d.unsynced))
	for _, p := range d.touched {
		p.now, p.touched = p.safe, false
	}
	d.touched = d.touched[:0]
	d.size = d.durable
}

// tear makes any of the sectors of u durable.
func (d *Disk) tear(u *unsynced, rng *rand.Rand) {
	for from := int64(0); from < u.n; {
		to := min(u.n, from+SectorSize-(u.off+from)%SectorSize)
		if rng.Uint64()&1 == 0 {
			d.apply(u, from, to)
		}
		from = to
	}
}
