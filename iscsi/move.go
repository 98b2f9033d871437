package iscsi

import (
	"time"

	"spindle/internal/plant"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

// Bounds of bringing a session to rest.
const (
	// restLimit is how long a session may take to come to rest: commands that take
	// longer are not worth their initiator's wait.
	restLimit = 20 * time.Millisecond
	// restLook is how often it is looked at meanwhile: a few of the turns of a busy
	// reactor.
	restLook = 100 * time.Microsecond
)

// move takes a session from a reactor to another, at rest: no task, nothing to
// send, nothing read in part. The registry begins it and hears of its end; what it
// has for the session meanwhile waits there (regEntry.deferred), so that no message
// looks for the session where it is not. Until it is at rest, its window stays as
// it is (RFC 7143 §4.2.2.1: MaxCmdSN need not advance).
//
// The steps, each on the reactor that it names: begin (registry), pick (from),
// chosen (registry), reserve (to), look and rested (from), arrived (to), over
// (registry).
type move struct {
	g        *registry
	from, to *shard
	choose   func(shares []float64) int

	s       *Session
	c       *Connection
	tp      Mover
	depth   uint32  // of the session
	outs    mem.Ref // reserved for the connection
	slots   mem.Ref // and for the session
	timer   reactor.Timer
	limit   clock.Time
	resting bool       // the transport was asked to
	watchAt clock.Time // the connection's timer; 0 when it was not armed
}

// movable tells whether s is of the kind that moves: one connection whose transport
// can, and nothing that is kept for recovery.
func (s *Session) movable() bool {
	if s.nexus == nil || s.rec != nil || s.shared || s.ending || len(s.conns) != 1 || len(s.joining) != 0 {
		return false
	}
	_, ok := s.conn.tp.(Mover)
	return ok && s.conn.phase == phaseFull
}

// quiet tells whether nothing of s is under way, but for what its transport holds.
func (s *Session) quiet() bool {
	if len(s.places) != len(s.tasks) && !plant.On(plant.MovedEarly) {
		return false
	}
	c := s.conn
	return s.held == nil && len(s.skipped) == 0 && s.managing == 0 && s.fenced == nil && len(s.behind) == 0 &&
		len(s.sets) == 0 && len(s.onCome) == 0 && len(s.onNexus) == 0 && !s.proof.Armed() &&
		c.outCount == ConnectionOuts && len(c.outWait) == 0 && !c.blocked && c.r2tHead == nil && c.waitHead == nil &&
		c.data.Empty() && len(c.told) == 0 && len(c.fences) == 0 && len(c.onClosed) == 0 &&
		c.onQuiet == nil && c.closing == nil && (s.nexus.Quiet() || plant.On(plant.MovedEarly))
}

// work is what a connection has done, in commands: 16 KiB of data are as one.
func (c *Connection) work() uint64 { return c.n.Commands + (c.n.BytesRead+c.n.BytesWritten)>>14 }

// mark begins the time over which pick compares the connections of sh.
func (sh *shard) mark() {
	for _, c := range sh.conns {
		c.marked = c.work()
	}
}

// pick chooses the session by what each does of its reactor's work.
// Preconditions: runs on from's reactor.
func (m *move) pick() {
	var list []*Session
	var shares []float64
	total := 0.0
	for _, c := range m.from.conns {
		d := float64(c.work() - c.marked)
		total += d
		if c.phase == phaseFull && c.sess.movable() && c.sess.conn == c {
			list, shares = append(list, c.sess), append(shares, d)
		}
	}
	for i := range shares {
		shares[i] /= max(total, 1)
	}
	if i := m.choose(shares); i >= 0 && i < len(list) {
		m.s = list[i]
		m.c, m.depth = m.s.conn, m.s.depth
		m.tp = m.c.tp.(Mover)
		n := uint32(len(m.s.tasks))
		post(m.g.r, func() { m.chosen(n) })
		return
	}
	post(m.g.r, func() { m.g.over(m, false) })
}

// chosen has what the registry does with the session wait.
// Preconditions: runs on the registry's reactor.
func (m *move) chosen(places uint32) {
	en := m.s.entry
	if en.ending || m.g.byTSIH[m.s.tsih] != en {
		m.s = nil
		m.g.over(m, false)
		return
	}
	en.moving = true
	post(m.to.r, func() { m.reserve(places) })
}

// reserve makes room for the session.
// Preconditions: runs on to's reactor.
func (m *move) reserve(places uint32) {
	a, ok := m.to.r.Arena, m.to.waiters == 0
	if ok {
		m.outs, ok = a.Alloc(ConnectionOuts * OutSlot)
	}
	if ok {
		m.slots, ok = a.Alloc(places * OutSlot)
	}
	if ok && m.tp.Reserve(m.to.r) == nil {
		post(m.from.r, m.start)
		return
	}
	m.giveBack()
	post(m.g.r, func() { m.g.over(m, false) })
}

// giveBack frees what reserve got of the arena.
func (m *move) giveBack() {
	for _, b := range []*mem.Ref{&m.outs, &m.slots} {
		if !b.Empty() {
			m.to.free(*b)
			*b = mem.Ref{}
		}
	}
}

// start closes the session's window, without taking back what it has promised.
// Preconditions: runs on from's reactor, as all up to depart.
func (m *move) start() {
	if m.gone() {
		m.give()
		return
	}
	m.s.depth = 0
	m.limit = m.from.r.Now().Add(restLimit)
	m.timer.Fire = m.look
	m.look(m.from.r.Now())
}

// gone tells whether the session has ended, or is about to, or does not move any more.
func (m *move) gone() bool { return m.s.ended || m.s.conn != m.c || !m.s.movable() }

// look has the transport rest once the session is quiet, and gives up in the end.
func (m *move) look(now clock.Time) {
	switch {
	case m.gone(), now >= m.limit:
		m.give()
		return
	case !m.resting && m.s.quiet():
		m.resting = true
		m.tp.Rest(m.rested)
	}
	m.from.r.Arm(&m.timer, now.Add(restLook))
}

// give gives up: the session stays.
func (m *move) give() {
	m.tp.Rise()
	if m.s.depth == 0 {
		m.s.depth = m.depth
		if m.s.conn != nil && !m.s.ending {
			m.s.openWindow()
		}
	}
	post(m.to.r, func() {
		m.giveBack()
		m.tp.Unreserve(m.to.r)
		post(m.g.r, func() { m.g.over(m, false) })
	})
}

// rested moves the session, unless something has come meanwhile.
func (m *move) rested(quiet bool) (gone bool) {
	if m.gone() {
		return false // look gives up
	}
	if !m.s.quiet() || !quiet {
		m.resting = false
		m.tp.Rise()
		return false
	}
	m.depart()
	return true
}

// depart takes the session off its reactor. After it nothing here may touch it.
func (m *move) depart() {
	s, c, sh := m.s, m.c, m.from
	sh.r.Disarm(&m.timer)
	if m.watchAt = 0; c.nop.Armed() {
		m.watchAt = c.nop.Due()
		sh.r.Disarm(&c.nop)
	}
	sh.remove(c)
	sh.free(c.slots)
	sh.free(s.slots)
	for t := sh.tasks; t != nil; t = t.freeNext {
		if t.sess == s {
			t.sess = nil // the place that it filled is elsewhere
		}
	}
	c.tp.Move(m.to.r, func(error) { m.arrived() })
}

// arrived gives the session its place.
// Preconditions: runs on to's reactor.
func (m *move) arrived() {
	s, c, sh := m.s, m.c, m.to
	sh.add(c)
	c.bind(m.outs)
	s.slots, s.sh = m.slots, sh
	sh.enlarge(uint32(len(s.tasks)))
	c.tally = sh.tally(s.node)
	s.nexus.Move(sh.r, func() {
		if m.watchAt != 0 {
			sh.r.Arm(&c.nop, m.watchAt)
		}
		s.depth = m.depth
		m.tp.Rise()
		s.openWindow()
		post(m.g.r, func() { m.g.over(m, true) })
	})
}

// over ends a move, and does what waited for it.
// Preconditions: runs on the registry's reactor.
func (g *registry) over(m *move, moved bool) {
	g.move = nil
	if m.s != nil {
		en := m.s.entry
		if !moved {
			g.e.Stats.MovesGivenUp.Add(1)
		} else {
			g.e.Stats.Moves.Add(1)
			en.r.AddLoad(-1)
			en.r = m.to.r
			en.r.AddLoad(1)
			g.e.log.Debug("session moved", "initiator", m.s.initiator, "tsih", m.s.tsih, "from", m.from.r.ID, "to", m.to.r.ID)
		}
		en.moving = false
		list := en.deferred
		en.deferred = nil
		if plant.On(plant.MovedForgotten) {
			list = nil
		}
		for _, fn := range list {
			post(en.r, fn)
		}
	}
	g.policy.Moved(g.r.Now(), m.from.r.ID, m.to.r.ID, moved)
	list := g.onStill
	g.onStill = nil
	for _, fn := range list {
		fn()
	}
}

// to runs fn on the reactor that en's session lives on, once it has arrived there
// if it is on its way. Preconditions: runs on the registry's reactor.
func (g *registry) to(en *regEntry, fn func()) {
	if en.moving {
		en.deferred = append(en.deferred, fn)
		return
	}
	post(en.r, fn)
}

// still has every session stay where it is until the function that it returns is
// called, so that who goes over the reactors one by one meets each session once.
func (e *Engine) still(c reactor.Caller) (release func()) {
	g := e.registry
	if g.policy == nil {
		return func() {}
	}
	c.Await(g.r, func(done func()) {
		g.holders++
		if g.move == nil {
			done()
			return
		}
		g.onStill = append(g.onStill, done)
	})
	return func() {
		c.Await(g.r, func(done func()) {
			g.holders--
			done()
		})
	}
}

// startBalance has the policy asked from now on.
func (g *registry) startBalance(p Balancer) {
	if p == nil || len(g.e.reactors) < 2 {
		return
	}
	g.policy, g.busy = p, make([]time.Duration, len(g.e.reactors))
	g.tick.Fire = g.balance
	post(g.r, func() { g.balance(g.r.Now()) })
}

// balance asks the policy, and has a session move if it says so: what the sessions
// of the reactor do is compared from here to the next time.
func (g *registry) balance(now clock.Time) {
	if g.e.down.Load() {
		return
	}
	if o := g.order; o.Choose != nil && g.holders == 0 && g.move == nil {
		g.order = Order{}
		g.move = &move{g: g, from: g.e.shards[o.From], to: g.e.shards[o.To], choose: o.Choose}
		post(g.move.from.r, g.move.pick)
	}
	for i, r := range g.e.reactors {
		g.busy[i] = time.Duration(r.Stats().BusyNS)
	}
	o, next := g.policy.Balance(now, g.busy)
	if o.Choose != nil && g.move == nil && g.order.Choose == nil {
		g.order = o
		sh := g.e.shards[o.From]
		post(sh.r, sh.mark)
	}
	g.r.Arm(&g.tick, now.Add(next))
}
