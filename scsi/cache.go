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

// doFlush makes everything durable: the whole unit, whatever range was asked.
// With IMMED it still answers when it is done, which the standard lets it.
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
