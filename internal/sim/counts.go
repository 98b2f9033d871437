package sim

import (
	"slices"

	"spindle/bdev"
	"spindle/internal/sim/linear"
)

// Log pages (SPC-5 §7.3): their counts are those of the I/O that a unit's device has
// done, as the probe below the block layer saw it, since the last LOG SELECT that
// reset them. Alone, an initiator is told exactly; beside others it is told of all
// that had ended when its command was sent, and of nothing that had not when it ended.

// Log pages that have counts, and others.
const (
	logSupported    = 0x00
	logWriteErrors  = 0x02
	logReadErrors   = 0x03
	logProvisioning = 0x0c
	logTemperature  = 0x0d
	logScan         = 0x15
	logStatistics   = 0x19
)

var countPages = [...]byte{logWriteErrors, logReadErrors, logStatistics}

// tally counts what a device has done.
type tally struct{ reads, writes, bytesRead, bytesWritten, failed uint64 }

// add counts an I/O that has ended.
func (d *tally) add(io *bdev.IO, st bdev.Status, blockSize uint32) {
	n := uint64(io.Blocks) * uint64(blockSize)
	switch {
	case st == bdev.Failed:
		d.failed++
	case st != bdev.OK:
	case io.Op == bdev.Read:
		d.reads++
		d.bytesRead += n
	case io.Op == bdev.Write:
		d.writes++
		d.bytesWritten += n
	}
}

// counts is what a page tells of d, in the order of its parameters.
func (d *tally) counts(page byte, blockSize uint32) []uint64 {
	switch page {
	case logWriteErrors:
		return []uint64{5: d.bytesWritten, 6: d.failed}
	case logReadErrors:
		return []uint64{5: d.bytesRead, 6: d.failed}
	}
	n := uint64(blockSize)
	return []uint64{d.reads, d.writes, d.bytesRead / n, d.bytesWritten / n, 7: 0}
}

// counted is what a unit has counted.
type counted struct {
	done  tally
	bases [len(countPages)][]base // where counts began, the newest last
}

// base is a reset of the counts of a page: what had been counted then.
type base struct {
	call, end int64
	low, high tally
}

// restart is a unit made anew, which counts all that its device has done.
func (n *counted) restart() {
	for k := range n.bases {
		n.bases[k] = append(n.bases[k][:0], base{})
	}
}

// selectLog is LOG SELECT, which resets the counts of a page, or of all, or does
// nothing (SPC-5 §6.12).
func (in *initiator) selectLog(t *task) (c cdb) {
	r := in.rng
	t.class, t.access, t.needs = classChange, accessWrite, needQuiet|needPath
	t.change = change{kind: doSelectLog, page: pick(r, byte(logSupported), logWriteErrors, logReadErrors, logStatistics, logStatistics, logTemperature)}
	reset, pc, sub := r.IntN(4) != 0, byte(r.IntN(4)), pick(r, byte(0), 0, 0xff)
	t.change.resets = (reset || pc == 3) && t.change.page != logTemperature && (t.change.page != logSupported || sub == 0)
	c.b[0], c.b[1], c.b[2], c.b[3] = 0x4c, byte(b2i(reset))<<1, pc<<6|t.change.page, sub
	return c
}

// selectLog is LOG SELECT at the unit: the others are told.
func (c *change) selectLog(tell func(notice)) result {
	if c.resets {
		tell(notice{everyone, causeLog})
	}
	return resGood
}

// beginReset notes that counts may be reset from now on, endReset whether they were.
// Of a command without an answer nobody knows: its reset stays possible.
func (n *counted) beginReset(c *change, call int64) {
	for k, page := range countPages {
		if c.resets && (c.page == page || c.page == logSupported) {
			n.bases[k] = append(n.bases[k], base{call: call, end: linear.Forever, low: n.done})
		}
	}
}

func (n *counted) endReset(call, now int64, good bool) {
	for k := range n.bases {
		i := slices.IndexFunc(n.bases[k], func(b base) bool { return b.call == call && call != 0 })
		switch {
		case i < 0:
		case good:
			b := &n.bases[k][i]
			b.end, b.high = now, n.done
		default:
			n.bases[k] = slices.Delete(n.bases[k], i, i+1)
		}
	}
}

// readLog is LOG SENSE.
func (in *initiator) readLog(t *task, lu *lun) (c cdb) {
	r := in.rng
	t.class, t.read, t.access, t.needs = classLog, true, accessUnit, needPath
	t.service = pick(r, byte(logWriteErrors), logReadErrors, logStatistics, logStatistics, logSupported, logTemperature, logScan)
	t.control = pick(r, byte(1), 1, 1, 0, 2, 3)
	t.want, t.edtl = 256, 256
	t.done = lu.counted.done
	c.b[0], c.b[2], c.b[7] = 0x4d, t.control<<6|t.service, 1
	return c
}

// logOf is a log page with counts.
func (lu *lun) logOf(page byte, counts []uint64) []byte {
	b := []byte{page, 0, 0, 0}
	parameter := func(code, control byte, value ...byte) {
		b = append(append(b, 0, code, control, byte(len(value))), value...)
	}
	switch page {
	case logSupported:
		for _, p := range [...]byte{logSupported, logWriteErrors, logReadErrors, logProvisioning, logTemperature, logScan, logStatistics} {
			if p != logProvisioning || lu.metered {
				b = append(b, p)
			}
		}
	case logTemperature: // it is not known
		parameter(0, 0x03, 0, 0xff)
		parameter(1, 0x03, 0, 0xff)
	case logScan: // there was none
		parameter(0, 0x03, make([]byte, 12)...)
	case logStatistics:
		var v []byte
		for _, n := range counts {
			v = be.AppendUint64(v, n)
		}
		parameter(1, 0x03, v...)
	default:
		for code, n := range counts {
			parameter(byte(code), 0x00, be.AppendUint64(nil, n)...)
		}
	}
	b[3] = byte(len(b) - 4)
	return b
}

// countsIn are the counts of a page as it came.
func countsIn(page byte, b []byte) []uint64 {
	at, step := 8, 12
	if page == logStatistics {
		step = 8
	}
	var list []uint64
	for ; at+8 <= len(b); at += step {
		list = append(list, be.Uint64(b[at:]))
	}
	return list
}

// logShown takes the data of LOG SENSE.
func (in *initiator) logShown(t *task, lu *lun) {
	in.s.count(LogsRead)
	if lu.doubtful(t.call) {
		return
	}
	k := slices.Index(countPages[:], t.service)
	var v []uint64
	if k >= 0 {
		v = countsIn(t.service, t.got)
	}
	switch {
	case k >= 0 && t.control != 1: // thresholds and defaults are all zero
		v = new(tally).counts(t.service, lu.blockSize)
	case k >= 0 && !lu.mayCount(k, t, v):
		in.bad("log", "LUN %d: task %#x shows counts %d on page %#x; %+v were done when it was sent, %+v by now, with resets at %+v",
			lu.id, t.itt, v, t.service, t.done, lu.done, lu.bases[k])
	}
	if string(t.got) != string(lu.logOf(t.service, v)) {
		in.bad("log", "LUN %d: task %#x shows page %#x as % x", lu.id, t.itt, t.service, t.got)
	}
}

// mayCount tells whether v may be what page k counts at some time while t ran.
func (lu *lun) mayCount(k int, t *task, v []uint64) bool {
	page := countPages[k]
	low, high := t.done.counts(page, lu.blockSize), lu.done.counts(page, lu.blockSize)
	if len(v) != len(low) {
		return false
	}
	later := int64(0) // a reset that was over before another began, and that before t, is not it
	for _, b := range lu.bases[k] {
		if b.end < t.call {
			later = max(later, b.call)
		}
	}
	return slices.ContainsFunc(lu.bases[k], func(b base) bool {
		if b.end < later {
			return false
		}
		if b.end == linear.Forever {
			b.high = lu.done
		}
		from, to := b.low.counts(page, lu.blockSize), b.high.counts(page, lu.blockSize)
		for i, n := range v {
			if n+to[i] < low[i] || n+from[i] > high[i] {
				return false
			}
		}
		return true
	})
}
