package scsi

import (
	"sync/atomic"
	"time"

	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

// SANITIZE and FORMAT UNIT work in the background at a pace: as fast as it takes
// to be done within maxWipe, but never slower than minWipeRate, so that other
// units of the core keep it.
const (
	maxWipe     = time.Hour // each pass
	minWipeRate = 16 << 20  // bytes a second
	wipeBuffer  = 256 << 10 // bytes an I/O of OVERWRITE
	wipeErase   = 32 << 20  // bytes an I/O of the erases: a device may do it in place
)

// wipe is a SANITIZE or FORMAT UNIT at work. It belongs to the unit, not to its
// command, which may be gone. Owner: the home reactor, but for progress.
type wipe struct {
	call     homeCall // tells home's queue of the end
	io       bdev.IO
	buf      mem.Ref
	timer    reactor.Timer
	op       bdev.Op
	invert   bool // between passes
	passes   uint32
	pass     uint32
	lba      uint64
	failed   bool
	flushing bool
	due      clock.Time
	progress atomic.Uint32 // of 65536, as sense data tells it
}

// prepareWipe gets what a wipe needs. False: no memory.
func (lu *LogicalUnit) prepareWipe(sa uint16, list []byte) bool {
	w, s := &lu.wipe, lu.current
	w.pass, w.passes, w.lba, w.failed, w.flushing, w.invert = 0, 1, 0, false, false, false
	w.progress.Store(0)
	switch sa {
	case saSanitizeErase:
		w.op = bdev.Unmap
		return true
	case saSanitizeCrypto:
		w.op = bdev.WriteZeroes
		return true
	}
	w.op = bdev.Write
	w.passes, w.invert = uint32(list[0]&overwriteCount), list[0]&overwriteInvert != 0
	n := min(wipeBuffer, s.maxBlocks<<s.shift)
	var ok bool
	if w.buf, ok = lu.homeView().r.Arena.Alloc(n); !ok {
		return false
	}
	w.buf = w.buf.Slice(0, n)
	// The pattern starts anew with each block (SBC-4 §5.24.2.2).
	b, pattern := w.buf.Bytes(), list[overwriteHeader:]
	block := b[:s.blockSize]
	for k := 0; k < len(block); k += len(pattern) {
		copy(block[k:], pattern)
	}
	for k := len(block); k < len(b); k += len(block) {
		copy(b[k:], block)
	}
	return true
}

func (lu *LogicalUnit) homeView() *View { return lu.views[lu.homeIndex.Load()] }

// startWipe runs when every view has seen its older tasks out.
func (lu *LogicalUnit) startWipe() {
	w, v := &lu.wipe, lu.homeView()
	if w.timer.Fire == nil {
		w.timer.Fire = func(clock.Time) { lu.stepWipe() }
		w.call.lu, w.call.kind = lu, callWiped
	}
	v.busy++
	w.due = v.r.Now()
	v.r.Arm(&w.timer, w.due)
}

// stepWipe submits the next piece. It loops on final statuses only by way of
// the timer, so a device that ends everything inside Submit keeps the pace too.
func (lu *LogicalUnit) stepWipe() {
	w, v, s := &lu.wipe, lu.homeView(), lu.current
	if v.closing {
		lu.endWipe()
		return
	}
	if w.lba >= s.blocks || plant.On(plant.ShortWipe) && w.lba == s.blocks-1 {
		w.lba = 0
		if w.pass++; w.pass < w.passes && w.invert {
			b := w.buf.Bytes()
			for k := range b {
				b[k] = ^b[k]
			}
		}
	}
	w.io.Flags = 0
	switch {
	case w.pass < w.passes:
		n := uint64(wipeErase) >> s.shift
		if w.op == bdev.Write {
			n = uint64(w.buf.Len >> s.shift)
		}
		if n = min(n, s.blocks-w.lba); plant.On(plant.ShortWipe) && w.lba+n == s.blocks && n > 1 {
			n--
		}
		w.io.Op, w.io.LBA, w.io.Blocks = w.op, w.lba, uint32(n)
		w.io.Data = mem.Ref{}
		if w.op == bdev.Write {
			w.io.Data = w.buf.Slice(0, uint32(n)<<s.shift)
		}
	case !w.flushing && s.caps&bdev.CapFlush != 0:
		w.flushing = true
		w.io.Op, w.io.LBA, w.io.Blocks, w.io.Data = bdev.Flush, 0, 0, mem.Ref{}
	default:
		lu.endWipe()
		return
	}
	w.io.Push(lu, 0)
	switch st := v.ch.Submit(&w.io); st {
	case bdev.Pending:
	case bdev.NoMem:
		w.io.Pop()
		v.r.Arm(&w.timer, v.r.Now().Add(retryDelay))
	default:
		w.io.Pop()
		w.io.Status = st
		lu.wiped()
	}
}

// IODone continues the wipe.
func (lu *LogicalUnit) IODone(io *bdev.IO) {
	io.Pop()
	lu.wiped()
}

// wiped takes the end of an I/O of the wipe.
func (lu *LogicalUnit) wiped() {
	w, v, s := &lu.wipe, lu.homeView(), lu.current
	if w.io.Status != bdev.OK {
		w.failed = true
		lu.endWipe()
		return
	}
	if w.io.Op == bdev.Flush {
		v.r.Arm(&w.timer, v.r.Now())
		return
	}
	w.lba += uint64(w.io.Blocks)
	total := float64(s.blocks) * float64(w.passes)
	w.progress.Store(uint32(65535 * (float64(w.pass)*float64(s.blocks) + float64(w.lba)) / total))
	if w.op == bdev.Write {
		rate := max(minWipeRate, s.blocks<<s.shift/uint64(maxWipe/time.Second))
		w.due = w.due.Add(time.Duration(uint64(w.io.Blocks) << s.shift * uint64(time.Second) / rate))
	}
	v.r.Arm(&w.timer, max(w.due, v.r.Now()))
}

// endWipe gives back what the wipe used and has home note its end.
func (lu *LogicalUnit) endWipe() {
	w, v := &lu.wipe, lu.homeView()
	if !w.buf.Empty() {
		clear(w.buf.Bytes())
		v.r.Arena.Free(w.buf)
		w.buf = mem.Ref{}
	}
	v.busy--
	v.kick()
	if !v.closing {
		lu.receive(&w.call)
	}
}

// applyWiped makes the unit ready again, or not. Commands that wait for the end
// look at the state.
func (lu *LogicalUnit) applyWiped(r *round) {
	next := lu.change(r)
	switch {
	case !lu.wipe.failed:
		next.state, next.erased = unitReady, lu.wipe.op == bdev.Unmap
	case next.state == unitFormatting:
		next.state = unitUnformatted
	default:
		next.state = unitUnsanitized
	}
}
