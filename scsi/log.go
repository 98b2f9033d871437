package scsi

import (
	"spindle/bdev"
	"spindle/internal/plant"
)

// Log pages (SPC-5 §7.3, SBC-4 §6.4).
const (
	logSupported   = 0x00
	logWriteErrors = 0x02
	logReadErrors  = 0x03
	logProvision   = 0x0c
	logTemperature = 0x0d
	logBackground  = 0x15
	logStatistics  = 0x19
)

var logPages = [...]byte{logSupported, logWriteErrors, logReadErrors, logProvision, logTemperature, logBackground, logStatistics}

// Page control of LOG SENSE (SPC-5 §6.13.1).
const (
	logThresholds   = 0
	logCumulative   = 1
	logDefaultCount = 3 // default cumulative values
)

// Parameter control byte: formats of the value (SPC-5 §7.3.2.2.2).
const (
	logBinary = 0x03 // format and linking: binary list
	logCount  = 0x00 // a counter that stops at its maximum
)

func prepLogSense(t *Task) Result {
	if t.CDB[1]&0x03 != 0 { // PPC, SP
		return t.badCDB(1, 1)
	}
	page, sub := t.CDB[2]&0x3f, t.CDB[3]
	switch {
	case !t.hasLog(page):
		return t.badCDB(2, 5)
	case sub != 0 && (page != logSupported || sub != subpageAll):
		return t.badCDB(3, wholeByte)
	case be.Uint16(t.CDB[5:]) > lastLogParameter(page):
		return t.badCDB(5, wholeByte)
	}
	return t.wantReply(uint32(be.Uint16(t.CDB[7:])))
}

// hasLog tells whether the unit has a page.
func (t *Task) hasLog(page byte) bool {
	for _, p := range logPages {
		if p == page {
			return page != logProvision || t.View.snap.metered
		}
	}
	return false
}

// lastLogParameter is the highest parameter code of a page: a PARAMETER POINTER
// beyond it is refused.
func lastLogParameter(page byte) uint16 {
	switch page {
	case logWriteErrors, logReadErrors:
		return 6
	case logTemperature, logStatistics:
		return 1
	case logProvision:
		return resourceUsed
	}
	return 0
}

// logPage builds a log page: parameters from the pointer on.
type logPage struct {
	*reply
	from   uint16
	values bool // cumulative values; thresholds are all zero
}

func (l *logPage) counter(code uint16, v uint64) {
	l.parameter(code, logCount, 8, func() { l.number(v) })
}

// parameter writes a parameter of n bytes, which fill writes.
func (l *logPage) parameter(code uint16, control byte, n int, fill func()) {
	if code < l.from {
		return
	}
	l.u16(code)
	l.u8(control)
	l.u8(byte(n))
	fill()
}

func (l *logPage) number(v uint64) {
	if !l.values {
		v = 0
	}
	l.u64(v)
}

// logBases are the counts of the bdev when LOG SELECT reset those of a page.
type logBases struct{ writeErrors, readErrors, statistics bdev.Stats }

// of is the base of a page, nil if it has no counts.
func (b *logBases) of(page byte) *bdev.Stats {
	switch page {
	case logWriteErrors:
		return &b.writeErrors
	case logReadErrors:
		return &b.readErrors
	case logStatistics:
		return &b.statistics
	}
	return nil
}

// prepLogSelect checks LOG SELECT (SPC-5 §6.12), which resets counts and does no
// more: nothing can be set, and nothing is saved.
func prepLogSelect(t *Task) Result {
	page, sub := t.CDB[2]&0x3f, t.CDB[3]
	switch {
	case t.CDB[1]&0x01 != 0: // SP
		return t.badCDB(1, 0)
	case !t.hasLog(page):
		return t.badCDB(2, 5)
	case sub != 0 && sub != subpageAll:
		return t.badCDB(3, wholeByte)
	case be.Uint16(t.CDB[7:]) != 0:
		return t.badCDB(7, wholeByte)
	}
	return Ready
}

// homeLogSelect has the counts of a page start anew, or of all by page 00h without a
// subpage. Other nexuses learn of it. PCR resets whatever PC is (SPC-5 §6.12).
func homeLogSelect(lu *LogicalUnit, t *Task, r *round) {
	if t.CDB[1]&0x02 == 0 && t.CDB[2]>>6 != logDefaultCount {
		return // no parameter value was sent
	}
	named, sub := t.CDB[2]&0x3f, t.CDB[3]
	bases := lu.current.counts
	found := false
	for _, page := range logPages {
		if page != named && (named != logSupported || sub != 0) && !plant.On(plant.CountsForgotten) {
			continue
		}
		if base := bases.of(page); base != nil {
			*base, found = lu.bdev.Since(bdev.Stats{}), true
		}
	}
	if !found {
		return
	}
	if !plant.On(plant.CountsKept) {
		lu.change(r).counts = bases
	}
	if !plant.On(plant.LogUntold) {
		r.attentionBut(LogParametersChanged, t.Nexus.ID)
	}
}

// doLogSense makes the page. Counts are those of the bdev, so they last as long
// as it, and cover every path and every user of it; a LOG SELECT resets them for
// the unit that it is sent to.
func doLogSense(t *Task) action {
	p := t.reply()
	page, sub := t.CDB[2]&0x3f, t.CDB[3]
	p.u8(page | bit(sub != 0, 6)) // SPF
	p.u8(sub)
	p.u16(0)
	l := &logPage{reply: &p, from: be.Uint16(t.CDB[5:]), values: t.CDB[2]>>6 == logCumulative}
	switch page {
	case logSupported:
		for _, n := range logPages {
			if !t.hasLog(n) {
				continue
			}
			p.u8(n)
			if sub != 0 {
				p.u8(0)
			}
		}
		if sub != 0 {
			p.bytes([]byte{logSupported, subpageAll})
		}
	case logTemperature:
		for code := range uint16(2) { // current and reference temperature: not known
			l.parameter(code, logBinary, 2, func() { p.u8(0); p.u8(0xff) })
		}
	case logProvision:
		t.provisioningLog(l)
	case logBackground: // no scan runs or ever ran
		l.parameter(0, logBinary, 12, func() { p.zero(12) })
	default:
		t.logCounts(l, page)
	}
	p.length16(2)
	return t.send(&p)
}

// logCounts writes the pages that come from the bdev's statistics.
func (t *Task) logCounts(l *logPage, page byte) {
	s := t.View.lu.bdev.Since(*t.View.snap.counts.of(page))
	r, w := &s.Ops[bdev.Read], &s.Ops[bdev.Write]
	if page == logStatistics {
		shift := t.View.snap.shift
		l.parameter(1, logBinary, 64, func() {
			for _, v := range [...]uint64{r.Ops, w.Ops, r.Bytes >> shift, w.Bytes >> shift, 0, 0, 0, 0} {
				l.number(v)
			}
		})
		return
	}
	bytes := r.Bytes
	if page == logWriteErrors {
		bytes = w.Bytes
	}
	for code := range uint16(7) {
		switch code {
		case 5: // total bytes processed
			l.counter(code, bytes)
		case 6: // total uncorrected errors; which way the I/O went is not counted
			l.counter(code, s.Errors[bdev.Failed])
		default:
			l.counter(code, 0)
		}
	}
}
