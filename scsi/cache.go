package scsi

import "spindle/bdev"

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
	if t.step == 0 && t.View.snap.caps&bdev.CapFlush != 0 {
		t.step = 1
		return t.io(bdev.Flush, 0, 0, 0)
	}
	if t.step == 1 && t.IO.Status != bdev.OK {
		t.ioFailed()
	}
	return actDone
}

// prepStartStop: the medium is not removable, and there is nothing to spin
// down (SBC-4 §5.25).
func prepStartStop(t *Task) Result {
	if t.CDB[4]&0xf0 == 0 && t.CDB[4]&0x02 != 0 { // LOEJ
		return t.badCDB(4, 1)
	}
	return Ready
}

// doStartStop flushes on stop, unless NO_FLUSH says not to.
func doStartStop(t *Task) action {
	if t.CDB[4]&0xf5 != 0 { // POWER CONDITION, NO_FLUSH, START
		return actDone
	}
	return doFlush(t)
}
