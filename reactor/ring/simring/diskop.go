package simring

import (
	"syscall"
	"time"

	"spindle/reactor/ring"
)

// start makes the execution of o pending. The order of execution is that of
// the latencies drawn, as with a device that queues.
func (d *Disk) start(o *op) {
	w := d.w
	o.ev.kind = Storage
	o.mark = d.seq
	f, c := &w.Faults, &w.Counts
	var delay time.Duration
	if !w.cfg.Immediate {
		delay = w.upTo(w.cfg.DiskLatency)
		switch {
		case w.chance(f.DiskDelay, &c.DiskDelay, "disk-delay", d.id):
			delay += w.upTo(64 * w.cfg.DiskLatency)
		case d.inflight > 0 && w.chance(f.DiskReorder, &c.DiskReorder, "disk-reorder", d.id):
			delay += 2 * w.cfg.DiskLatency
		}
	}
	d.inflight++
	w.post(&o.ev, delay)
}

// execute runs o against the disk: its memory is read or written now.
func (d *Disk) execute(o *op) {
	d.inflight--
	var res int32
	switch {
	case d.w.chance(d.w.Faults.NoThread, &d.w.Counts.NoThread, "no-thread", d.id):
		res = -int32(syscall.ECANCELED)
	case o.kind == opRead:
		res = d.execRead(o)
	case o.kind == opWrite:
		res = d.execWrite(o)
	case o.kind == opSync:
		res = d.execSync(o)
	case o.kind == opAllocate:
		res = d.execAllocate(o)
	}
	d.w.note(&Event{Kind: Storage, Op: o.kind.String(), ID: d.id, Tag: o.tag, N: int64(res)})
	o.complete(res, 0)
}

// misaligned tells whether direct I/O refuses o.
func (d *Disk) misaligned(o *op) bool {
	a := int64(d.opt.Align)
	return o.on.open&ring.OpenDirect != 0 && (o.off%a != 0 || o.n%a != 0 || int64(o.ref.Addr)%a != 0)
}

// unit is what short transfers are a multiple of.
func (d *Disk) unit(o *op) int64 {
	if d.opt.BlockDevice || o.on.open&ring.OpenDirect != 0 {
		return int64(d.opt.Align)
	}
	return 1
}

// short cuts n to a smaller positive multiple of unit.
func (d *Disk) short(n, unit int64) int64 { return unit * (1 + d.w.rng.Int64N((n-1)/unit)) }

func (d *Disk) execRead(o *op) int32 {
	w := d.w
	if d.misaligned(o) || o.off < 0 {
		return -int32(syscall.EINVAL)
	}
	if w.chance(w.Faults.ReadError, &w.Counts.ReadError, "read-error", d.id) {
		return -int32(syscall.EIO)
	}
	n := max(min(o.n, d.size-o.off), 0)
	if u := d.unit(o); n > u && w.chance(w.Faults.ShortRead, &w.Counts.ShortRead, "short-read", d.id) {
		n = d.short(n, u)
	}
	if n > 0 {
		d.read(o.ref.Slice(0, uint32(n)).Bytes(), o.off, false)
	}
	return int32(n)
}

func (d *Disk) execWrite(o *op) int32 {
	w := d.w
	f, c := &w.Faults, &w.Counts
	switch {
	case o.on.open&ring.OpenReadOnly != 0:
		return -int32(syscall.EBADF)
	case d.misaligned(o) || o.off < 0:
		return -int32(syscall.EINVAL)
	case o.n == 0:
		return 0
	case w.chance(f.NoSpace, &c.NoSpace, "no-space", d.id):
		return -int32(syscall.ENOSPC)
	case w.chance(f.WriteError, &c.WriteError, "write-error", d.id):
		d.scatter(o)
		return -int32(syscall.EIO)
	}
	n := min(o.n, d.opt.MaxSize-o.off)
	if n <= 0 {
		return -int32(syscall.ENOSPC)
	}
	if u := d.unit(o); n > u && w.chance(f.ShortWrite, &c.ShortWrite, "short-write", d.id) {
		n = d.short(n, u)
	}
	d.write(o.ref.Bytes()[:n], o.off, n, o.fua)
	return int32(n)
}

// scatter is a failed write: any of its sectors was written.
func (d *Disk) scatter(o *op) {
	b := o.ref.Bytes()
	n := min(o.n, d.size-o.off)
	for from := int64(0); from < n; {
		to := min(n, from+SectorSize-(o.off+from)%SectorSize)
		if d.w.rng.Uint64()&1 == 0 {
			d.write(b[from:to], o.off+from, to-from, false)
		}
		from = to
	}
}

// execSync makes durable what had completed when the Sync was submitted; what
// completed since may or may not be.
func (d *Disk) execSync(o *op) int32 {
	w := d.w
	if d.syncErr || w.chance(w.Faults.SyncError, &w.Counts.SyncError, "sync-error", d.id) {
		d.syncErr = false
		d.flushFailed(o.mark)
		return -int32(syscall.EIO)
	}
	d.flushed(o.mark)
	return 0
}

func (d *Disk) execAllocate(o *op) int32 {
	w := d.w
	switch {
	case o.on.open&ring.OpenReadOnly != 0:
		return -int32(syscall.EBADF)
	case o.off < 0 || o.n <= 0:
		return -int32(syscall.EINVAL)
	case d.opt.BlockDevice && (o.off|o.n)%int64(d.opt.Align) != 0: // blkdev_fallocate
		return -int32(syscall.EINVAL)
	case o.mode == ring.PunchHole && d.opt.NoDiscard:
		return -int32(syscall.EOPNOTSUPP)
	case w.chance(w.Faults.WriteError, &w.Counts.WriteError, "write-error", d.id):
		return -int32(syscall.EIO)
	}
	// The size is kept (FALLOC_FL_KEEP_SIZE): only what exists is zeroed.
	if n := min(o.n, d.size-o.off); n > 0 {
		d.write(nil, o.off, n, false)
	}
	return 0
}

// orphan ends an operation whose process died. It may have reached the disk:
// whole when only the process died, as one more un-synced write when power did.
func (d *Disk) orphan(o *op, power bool) {
	d.inflight--
	if d.w.rng.Uint64()&1 == 0 || o.on.open&ring.OpenReadOnly != 0 {
		return
	}
	n := min(o.n, d.size-o.off)
	switch {
	case o.off < 0 || n <= 0:
	case o.kind == opWrite && !d.misaligned(o):
		d.write(o.ref.Bytes()[:n], o.off, n, o.fua && !power)
	case o.kind == opAllocate:
		d.write(nil, o.off, n, false)
	}
}
