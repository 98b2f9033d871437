package scsi

import (
	"spindle/bdev"
)

type channel = bdev.Channel
type hold struct{}
type homeCall struct{}
type home struct{ current *snapshot }
type reservations struct{}
type modeValues struct{ dsense, wce bool }
type Management struct {
	Fn   uint8
	LUN  uint64
	Ref  *Task
	Done func(resp uint8)
}

func (h *home) init(lu *LogicalUnit, n int) {}
func (lu *LogicalUnit) refresh(done func()) { done() }
func (lu *LogicalUnit) homeView() *View     { return lu.views[0] }
func (n *Nexus) Manage(m *Management)       { m.Done(5) }
func (v *View) admit(t *Task) bool          { return true }
func (v *View) acquire(t *Task) bool        { return true }
func (v *View) release(t *Task)             {}
func (v *View) ask(t *Task) bool            { return true }
func (v *View) later(t *Task)               {}
func (v *View) kick()                       {}
func (v *View) unpark(t *Task)              {}
func (v *View) starved(t *Task)             {}
func (v *View) ended(n *Nexus) {
	if n.closed != nil {
		n.side.kick()
	}
}
func (v *View) abortTasks(i *ITL, except *Task, tas bool) {
	for t := v.tasks.head; t != nil; {
		next := t.next
		if (i == nil || t.itl == i) && t != except {
			t.abort(tas)
		}
		t = next
	}
}
func (v *View) drain(done func()) { done() }
