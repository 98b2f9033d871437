package file

import (
	"syscall"

	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/reactor/ring"
)

// syncState is a channel's way to make writes durable: one fdatasync at a time,
// for all that asked for it before it began.
//
// The kernel tells an error of write-back once to each open file description.
// So the channel has one of its own that nothing but its syncs use, and never
// has two syncs in flight: an error cannot be told to someone else's sync or
// write while ours reports success.
type syncState struct {
	file    ring.File
	fd      int     // of the device, returned when the channel closes
	running []int32 // slots that the sync in flight is for
	next    []int32 // slots that came too late for it
	flight  bool    // in the ring, or running is being ended
	tries   int
}

// joinSync has slot i end with the next sync to begin. A write that completed
// before is covered, on whichever channel it was: fdatasync is the file's.
func (c *channel) joinSync(i int32) {
	c.sync.next = append(c.sync.next, i)
	c.pumpSync()
}

// pumpSync begins a sync if one is wanted and none is in flight.
func (c *channel) pumpSync() {
	y := &c.sync
	if y.flight || len(y.next) == 0 && len(y.running) == 0 {
		return
	}
	if plant.On(plant.SkippedSync) {
		y.running, y.next = append(y.running, y.next...), y.next[:0]
		c.r.NeedFlush(&c.node)
		return
	}
	if !c.r.Ring.Sync(c.source.Tag(argSync), y.file) {
		c.d.counts.queueFull.Add(1)
		c.r.NeedFlush(&c.node)
		return
	}
	y.flight = true
	// What waited for a sync that is being repeated is covered by this one.
	y.running = append(y.running, y.next...)
	y.next = y.next[:0]
}

// synced is the end of a sync.
func (c *channel) synced(res int32) {
	y := &c.sync
	y.flight = false
	status := bdev.OK
	if res < 0 {
		errno := syscall.Errno(-res)
		if y.tries++; passing(errno) && y.tries < maxTries {
			c.d.counts.retried.Add(1)
			c.pumpSync()
			return
		}
		// Not even ENOSPC is forgiven: the pages it hit are clean now, and the
		// next fdatasync would report success without them.
		c.d.fail("fdatasync", errno)
	}
	y.tries = 0
	if c.d.failed.Load() {
		status = bdev.Failed
	}
	// What is submitted while these end joins next; flight keeps it there.
	y.flight = true
	for _, i := range y.running {
		c.end(i, status)
	}
	y.running = y.running[:0]
	y.flight = false
	c.pumpSync()
}
