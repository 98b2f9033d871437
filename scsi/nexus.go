package scsi

import (
	"slices"
	"sort"

	"spindle/reactor"
)

// NexusID names an I_T nexus. It is comparable: persistent reservations know
// their registrants by it, across sessions.
type NexusID struct {
	InitiatorName string
	ISID          [6]byte
	TargetName    string
	TPGT          uint16
	RelativePort  uint16 // relative target port identifier
}

// Nexus is one I_T nexus: a session. It belongs to one reactor.
type Nexus struct {
	ID NexusID
	// OnAbort, when not nil, is told of a task that is about to be aborted with others:
	// by a function for a set of tasks, whoever's, or with its unit.
	OnAbort func(*Task)

	dev      *Device
	side     *side
	visible  func(lun uint16) bool
	absent   View // of logical units that are not there
	near     [256]*ITL
	far      []*ITL // LUN 256 and up, ascending
	all      []*ITL // in order of first use
	tasks    int    // between Begin and End
	losing   int    // calls home that end what RESERVE holds
	managing int    // task management functions not answered
	resets   int    // those at work, answered or not
	closed   func() // set by Close: told when all of these are 0
	leaving  bool   // the calls home are made
}

// NewNexus makes the nexus of a session that entered full feature phase. It has
// one unit attention, 29/00, for each logical unit. visible (nil shows all) is
// asked by REPORT LUNS and when the nexus first uses a unit.
// Preconditions: runs on r, the session's reactor.
func (d *Device) NewNexus(r *reactor.Reactor, id NexusID, visible func(lun uint16) bool) *Nexus {
	s := d.sideOf(r)
	n := &Nexus{ID: id, dev: d, side: s, visible: visible}
	n.absent.init(r)
	s.nexuses = append(s.nexuses, n)
	return n
}

// Begin looks up the logical unit of a raw eight-byte LUN and puts t on the
// list of its view. A LUN that is not there gives a view that answers for it.
// Preconditions: runs on the nexus's reactor; t is not begun.
//
//spindle:hot
func (n *Nexus) Begin(t *Task, lun uint64) {
	i := n.find(decodeLUN(lun))
	v := &n.absent
	if i != nil {
		v = i.view
	}
	op := n.dev.table.find(&t.CDB, t.CDBLen)
	t.decoded = decoded{}
	t.IO.Flags = 0
	t.state = taskEngine
	// Pointers together: the compiler asks once whether the garbage collector marks.
	t.Nexus, t.itl, t.View, t.op, t.hold = n, i, v, op, nil
	n.tasks++
	v.enlist(t)
}

// find returns the I_T_L nexus of a LUN, or nil when there is no such unit.
//
//spindle:hot
func (n *Nexus) find(lun int) *ITL {
	if uint(lun) < uint(len(n.near)) {
		if i := n.near[lun]; i != nil {
			return i
		}
	} else if i := n.findFar(lun); i != nil {
		return i
	}
	return n.attach(lun)
}

func (n *Nexus) findFar(lun int) *ITL {
	for _, i := range n.far {
		if int(i.view.lu.lun) == lun {
			return i
		}
	}
	return nil
}

// attach makes the I_T_L nexus on the first command to a unit, so that a view
// nobody uses stays inactive.
func (n *Nexus) attach(lun int) *ITL {
	if lun < 0 {
		return nil
	}
	lu := n.dev.inventory.Load().find(lun)
	if lu == nil || n.visible != nil && !n.visible(uint16(lun)) {
		return nil
	}
	v := lu.views[n.side.index]
	if v.closing {
		return nil
	}
	i := &ITL{nexus: n, view: v}
	i.queueUA(PowerOnReset)
	n.place(i)
	return i
}

// place has the nexus use the view of i.
func (n *Nexus) place(i *ITL) {
	if lun := int(i.view.lu.lun); lun < len(n.near) {
		n.near[lun] = i
	} else {
		n.far = append(n.far, i)
		sort.Slice(n.far, func(a, b int) bool { return n.far[a].view.lu.lun < n.far[b].view.lu.lun })
	}
	n.all = append(n.all, i)
	i.view.addITL(i)
}

// detach forgets the I_T_L nexus of a unit that goes away.
func (n *Nexus) detach(i *ITL) {
	if l := int(i.view.lu.lun); l < len(n.near) {
		n.near[l] = nil
	}
	n.far = remove(n.far, i)
	n.all = remove(n.all, i)
}

// remove takes x out of list, in place.
func remove[T comparable](list []T, x T) []T {
	if k := slices.Index(list, x); k >= 0 {
		return slices.Delete(list, k, k+1)
	}
	return list
}

// QueueUA establishes a unit attention condition for every logical unit that
// the nexus has used.
// Preconditions: runs on the nexus's reactor.
func (n *Nexus) QueueUA(c Code) {
	for _, i := range n.all {
		i.queueUA(c)
	}
}

// Close ends the nexus: its tasks are aborted, and done is called once all have
// ended and its reservations of the old kind are released.
// Preconditions: runs on the nexus's reactor; nothing is begun any more.
func (n *Nexus) Close(done func()) {
	n.closed = done
	n.absent.abortTasks(nil, nil, false, nil)
	for _, i := range n.all {
		i.view.abortTasks(i, nil, false, nil)
	}
	n.side.closing = append(n.side.closing, n)
	n.side.kick()
}

// leave ends what the nexus holds by RESERVE or PREVENT, once its tasks are gone: one of
// them may be the RESERVE.
func (n *Nexus) leave() {
	n.leaving = true
	for _, i := range n.all {
		if p := i.view.snap.pr; i.told || p.reserved && p.owner == n.ID {
			n.losing++
			i.lost.itl = i
			i.view.call(&i.lost, callLost)
		}
	}
}

// finish drops the nexus from its views.
func (n *Nexus) finish() {
	for _, i := range n.all {
		i.view.dropITL(i)
	}
	n.all, n.far = nil, nil
	clear(n.near[:])
	n.side.nexuses = remove(n.side.nexuses, n)
	n.closed()
}

// existing returns the I_T_L nexus of a unit that was used, or nil.
func (n *Nexus) existing(lun int) *ITL {
	if lun < len(n.near) {
		return n.near[lun]
	}
	return n.findFar(lun)
}

// side is a Device's part on one reactor.
type side struct {
	r       *reactor.Reactor
	index   int
	nexuses []*Nexus
	closing []*Nexus // Close was called, something remains
	answers []response
	wake    reactor.Msg
	woken   bool
}

// kick has settle run soon, outside whatever runs now: the engine is never
// called back from inside its own call.
func (s *side) kick() {
	if !s.woken {
		s.woken = true
		s.r.Post(&s.wake)
	}
}

func (s *side) settle(*reactor.Reactor) {
	s.woken = false
	answers := s.answers
	s.answers = nil
	for _, a := range answers {
		a.n.managing--
		a.m.Done(a.resp)
	}
	list := s.closing
	s.closing = nil
	for _, n := range list {
		if n.tasks == 0 && !n.leaving {
			n.leave()
		}
		if n.tasks == 0 && n.losing == 0 && n.managing == 0 {
			n.finish()
		} else {
			s.closing = append(s.closing, n)
		}
	}
}
