package scsi

import (
	"slices"

	"spindle/internal/plant"
)

// abortScope says whose tasks a round aborts.
type abortScope uint8

const (
	abortNone   abortScope = iota
	abortAll               // every task of the unit
	abortFenced            // those of the nexuses in fence
)

// attention is a unit attention a round establishes.
type attention struct {
	code Code
	to   NexusID
	only bool // for to alone; otherwise for every nexus but to
	all  bool // to is empty: for every nexus
}

// round is a change on its way through the views in use. Home writes it before
// it starts; views only read it until they acknowledge.
type round struct {
	call    *homeCall // answered at the end
	except  *Task     // the task that asked: it waits for the round
	snap    *snapshot // to install; nil leaves the old one
	uas     []attention
	fence   []NexusID // their older tasks leave the backend first
	drain   bool      // every older task leaves the backend first
	save    []byte    // to keep before the round starts, when keeps
	saveAs  string    // what follows the unit's name in the store
	keeps   bool
	then    func() // runs at home once all have acknowledged, before the answer
	abort   abortScope
	reset   *reset // the function that it is part of
	tas     bool   // aborted tasks of other nexuses end with TASK ABORTED
	from    NexusID
	cleared bool // other nexuses that lose tasks get COMMANDS CLEARED
	pending int
}

// attention establishes c for every nexus.
func (r *round) attention(c Code) {
	r.uas = append(r.uas, attention{code: c, all: true})
}

// attentionBut establishes c for every nexus but id.
func (r *round) attentionBut(c Code, id NexusID) {
	r.uas = append(r.uas, attention{code: c, to: id})
}

// attentionFor establishes c for id alone.
func (r *round) attentionFor(c Code, id NexusID) {
	r.uas = append(r.uas, attention{code: c, to: id, only: true})
}

// start sends r to every view that is active or has nexuses.
func (lu *LogicalUnit) start(r *round) {
	if r.snap != nil {
		lu.current = r.snap
		lu.latest.Store(r.snap)
	}
	if !lu.current.pr.any() {
		lu.bdev.Reserve(false)
	}
	lu.round = r
	// One count of our own keeps acknowledgements given inside the loop from
	// ending the round under it.
	r.pending = 1
	if r.snap != nil || len(r.uas) != 0 || len(r.fence) != 0 || r.drain || r.abort != abortNone {
		if r.abort != abortNone {
			lu.bounceAll()
		}
		home := int(lu.homeIndex.Load())
		for _, v := range lu.views {
			if !v.used.Load() && !slices.Contains(lu.active, v) {
				continue
			}
			r.pending++
			if v.index == home {
				v.install(r)
			} else {
				v.r.Post(&v.order)
			}
		}
	}
	lu.acknowledged()
}

// bounceAll sends the commands that wait for a round back.
func (lu *LogicalUnit) bounceAll() {
	q := lu.calls
	lu.calls = callQueue{}
	for c := q.pop(); c != nil; c = q.pop() {
		if c.kind == callCommand {
			lu.bounce(c)
		} else {
			lu.calls.push(c)
		}
	}
}

// acknowledged counts a view that is done with the round.
// Preconditions: runs on the home reactor.
func (lu *LogicalUnit) acknowledged() {
	r := lu.round
	if r.pending--; r.pending != 0 {
		return
	}
	lu.round = nil
	if r.then != nil {
		r.then()
	}
	c := r.call
	switch {
	case c.from != nil: // a resize has nobody to tell
		lu.answer(c)
	case c.done != nil:
		c.done()
	}
	lu.next()
}

// install applies r on a view, and acknowledges it once what it fences or
// aborts is gone.
// Preconditions: runs on v's reactor.
func (v *View) install(r *round) {
	if r.snap != nil {
		if v.snap.state != r.snap.state || v.snap.erased {
			v.reconsider()
		}
		v.snap = r.snap
		v.regard()
		for _, i := range v.itls {
			i.regate()
		}
	}
	if r.cleared {
		v.tellCleared(r)
	}
	if r.reset != nil && r.reset.code != 0 && !plant.On(plant.CopyOutlives) {
		for _, i := range v.itls {
			i.resetCopies()
		}
	}
	for _, a := range r.uas {
		for _, i := range v.itls {
			if a.all || (i.nexus.ID == a.to) == a.only {
				i.queueUA(a.code)
			}
		}
	}
	w := watch{seq: v.seq, except: r.except, reset: r.reset, done: v.acknowledge}
	switch {
	case r.abort == abortAll:
		v.abortOthers(r)
	case r.abort == abortFenced:
		w.nexuses = r.fence
		for _, i := range v.itls {
			if hasNexus(r.fence, i.nexus.ID) {
				v.abortTasks(i, r.except, r.tas && i.nexus.ID != r.from, nil)
			}
		}
	case r.drain:
		w.backend = true
	case len(r.fence) != 0:
		w.nexuses, w.backend = r.fence, true
	default:
		v.acknowledge()
		return
	}
	v.watch(w)
}

// abortOthers aborts the tasks of the view; TASK ABORTED goes to nexuses
// other than the one that asked.
func (v *View) abortOthers(r *round) {
	for _, i := range v.itls {
		v.abortTasks(i, r.except, r.tas && i.nexus.ID != r.from, r.reset)
	}
}

// tellCleared queues COMMANDS CLEARED BY ANOTHER INITIATOR on the other nexuses
// that lose tasks without a status (SPC-5 §7.5.8, TAS 0).
func (v *View) tellCleared(r *round) {
	for t := v.tasks.head; t != nil; t = t.next {
		if t.Nexus.ID != r.from && t.flags&taskAborted == 0 && t.state != taskLive { // that one's response leaves
			t.itl.queueUA(CommandsCleared)
		}
	}
}

// acknowledge tells home that the view is done with the round.
func (v *View) acknowledge() {
	if v.index == int(v.lu.homeIndex.Load()) {
		v.lu.acknowledged()
		return
	}
	v.lu.views[v.lu.homeIndex.Load()].r.Post(&v.ack)
}

func hasNexus(list []NexusID, id NexusID) bool {
	for k := range list {
		if list[k] == id {
			return true
		}
	}
	return false
}
