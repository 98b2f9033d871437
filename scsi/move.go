package scsi

import (
	"slices"

	"spindle/internal/plant"
	"spindle/reactor"
)

// A nexus may go to another reactor while nothing of it is under way. Rounds go
// to views, and a unit attention that one brings must reach the nexus once,
// whichever reactor it is on by then. So it stays on its old views, as it was,
// until it is on the new ones and every unit's home has answered a call from
// there. A round that started before the answer has been posted to the old view,
// ahead of the message that takes the nexus away; one that starts later finds the
// new view in use. What both have been told is told once.

// move is a nexus on its way.
type move struct {
	n    *Nexus
	from *side
	old  []*ITL
	left int // homes that have not answered
	done func()
}

// Quiet tells whether nothing of the nexus is under way: no task, no function, no
// call home.
// Preconditions: runs on the nexus's reactor.
func (n *Nexus) Quiet() bool {
	if n.tasks != 0 || n.losing != 0 || n.managing != 0 || n.resets != 0 || n.closed != nil || n.absent.woken {
		return false
	}
	for _, i := range n.all {
		if i.fences != 0 || i.copying != 0 {
			return false
		}
	}
	return true
}

// Move has the nexus live on r from now on and calls done there once it has
// arrived. The units of its device must not come and go meanwhile.
// Preconditions: runs on r; the nexus is Quiet, and stays so until done.
func (n *Nexus) Move(r *reactor.Reactor, done func()) {
	m := &move{n: n, from: n.side, old: n.all, done: done}
	s := n.dev.sideOf(r)
	n.side, n.all, n.far = s, nil, nil
	clear(n.near[:])
	n.absent.init(r)
	s.nexuses = append(s.nexuses, n)
	m.left = 1
	for _, o := range m.old {
		i := &ITL{nexus: n, view: o.view.lu.views[s.index], told: o.told, move: m}
		n.place(i)
		i.lost.itl = i
		m.left++
		i.view.call(&i.lost, callPass)
	}
	m.passed()
}

// passed counts the answer of a home.
func (m *move) passed() {
	if m.left--; m.left > 0 {
		return
	}
	m.from.r.Post(&reactor.Msg{Run: func(*reactor.Reactor) { m.leave() }})
}

// leave takes the nexus off its old views.
// Preconditions: runs on the old reactor.
func (m *move) leave() {
	for _, o := range m.old {
		o.view.dropITL(o)
	}
	m.from.nexuses = remove(m.from.nexuses, m.n)
	m.n.side.r.Post(&reactor.Msg{Run: func(*reactor.Reactor) { m.arrive() }})
}

// arrive adds what the new views were told to what the old ones were.
// Preconditions: runs on the new reactor.
func (m *move) arrive() {
	for k, i := range m.n.all {
		before, late := m.old[k], slices.Clone(i.ua[:i.uas])
		i.move, i.uas = nil, 0
		if !i.reset { // by a round that the old view may not have seen
			i.copies = before.copies
		}
		i.reset = false
		if !plant.On(plant.MovedUntold) {
			for _, c := range before.ua[:before.uas] {
				i.queueUA(c)
			}
		}
		for _, c := range late {
			i.queueUA(c)
		}
	}
	m.done()
}
