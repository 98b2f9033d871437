package scsi

import (
	"slices"

	"spindle/internal/plant"
)

// watch waits for tasks of a view to leave.
type watch struct {
	seq     uint64 // tasks begun up to here count
	except  *Task
	itl     *ITL      // only this I_T_L nexus's
	reset   *reset    // not those that it spares
	ref     *Task     // only this one, begun as refSeq
	refSeq  uint64    //
	nexuses []NexusID // only these nexuses'
	over    *hold     // only those that overlap it
	idle    bool      // and home's own I/O on the channel
	backend bool      // only those in the backend; otherwise all that have not ended
	done    func()
}

// waitsFor tells whether t has to leave first.
func (w *watch) waitsFor(t *Task) bool {
	switch {
	case plant.On(plant.EarlyManagement) && w.ref != nil:
		return false
	case t.seq > w.seq, t == w.except,
		w.itl != nil && t.itl != w.itl,
		w.ref != nil && (t != w.ref || t.seq != w.refSeq),
		w.nexuses != nil && !hasNexus(w.nexuses, t.Nexus.ID),
		t.flags&taskAborted == 0 && w.reset.spares(t):
		return false
	}
	if w.backend && t.state != taskBackend && t.state != taskReady && t.state != taskLive {
		return false
	}
	if w.over != nil {
		if t.op == nil || t.op.flags&cmdMedium == 0 {
			return false
		}
		lba, n := t.span()
		return w.over.overlaps(lba, n)
	}
	return true
}

func (v *View) clearOf(w *watch) bool {
	if w.idle && v.busy != 0 {
		return false
	}
	for t := v.tasks.head; t != nil; t = t.next {
		if w.waitsFor(t) {
			return false
		}
	}
	return true
}

// watch calls w.done once no task matches: now, or from process.
func (v *View) watch(w watch) {
	if v.clearOf(&w) {
		w.done()
		return
	}
	v.watches = append(v.watches, w)
	v.watchers = len(v.watches)
}

// checkWatches ends the watches that have nothing left to wait for.
func (v *View) checkWatches() {
	for k := 0; k < len(v.watches); {
		if !v.clearOf(&v.watches[k]) {
			k++
			continue
		}
		done := v.watches[k].done
		v.watches = slices.Delete(v.watches, k, k+1)
		v.watchers = len(v.watches)
		done()
	}
}
