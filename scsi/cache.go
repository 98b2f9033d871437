package scsi

import (
	"spindle/bdev"
	"spindle/internal/plant"
)

func prepCache10(t *Task) Result { return t.prepCache(decode10(&t.CDB)) }
func prepCache16(t *Task) Result { return t.prepCache(decode16(&t.CDB)) }

// prepCache checks the range of SYNCHRONIZE CACHE and PRE-FETCH; no number
// means the rest of the medium, and there is no limit.
func (t *Task) prepCache(lba uint64, n uint32) Result {
	if !t.View.snap.inRange(lba, n) {
		return t.outOfRange()
	}
	return Ready
}

// cacheImmed is IMMED of SYNCHRONIZE CACHE.
const cacheImmed = 0x02

// doCache is SYNCHRONIZE CACHE. With IMMED it answers at once, and the flush goes
// on (SBC-4 §5.31); one that fails has the device refuse what comes after it.
func doCache(t *Task) action {
	if t.step == 0 && t.CDB[1]&cacheImmed != 0 && t.View.snap.caps&bdev.CapFlush != 0 && t.View.flusher.start(t.View) {
		return actDone
	}
	return doFlush(t)
}

// flusher is a flush of a view that belongs to no task.
type flusher struct {
	io      bdev.IO
	v       *View
	running bool
	again   bool // asked for since it began: what was written meanwhile needs another
}

// start has everything that was written become durable. False: the device has no
// memory for it now, or is gone; the task has to wait for a flush of its own.
func (f *flusher) start(v *View) bool {
	if f.running {
		f.again = true
		return true
	}
	s := f.submit(v)
	return s == bdev.Pending || s == bdev.OK
}

// submit gives the device a flush.
func (f *flusher) submit(v *View) bdev.Status {
	f.v, f.io.Op = v, bdev.Flush
	f.io.Push(f, 0)
	s := v.ch.Submit(&f.io)
	if s == bdev.Pending {
		f.running, f.again = true, false
		v.busy++
	} else {
		f.io.Pop()
	}
	return s
}

// IODone implements bdev.Completer.
func (f *flusher) IODone(io *bdev.IO) {
	io.Pop()
	f.running = false
	f.v.busy--
	f.resume()
	f.v.kick() // who waits for the channel to fall idle
}

// resume starts the flush that was asked for during the last one. It has been
// answered, so it waits for memory here.
func (f *flusher) resume() {
	v := f.v
	if !f.again || f.running {
		return
	}
	if f.again = false; v.closing {
		return
	}
	if f.submit(v) == bdev.NoMem {
		f.again = true
		v.retrySoon()
	}
}

// doFlush makes everything durable: the whole unit, whatever range was asked.
func doFlush(t *Task) action {
	if t.step == 0 && t.View.snap.caps&bdev.CapFlush != 0 && !plant.On(plant.EarlyFlush) {
		t.step = 1
		return t.io(bdev.Flush, 0, 0, 0)
	}
	if t.step == 1 && t.IO.Status != bdev.OK {
		t.ioFailed()
	}
	return actDone
}
