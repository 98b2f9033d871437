package iscsi

import (
	"slices"
	"time"

	"spindle/iscsi/login"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// reinstateLimit is how long a login waits for the session it replaces to end,
// tasks and all; then it is refused with 0301.
const reinstateLimit = 10 * time.Second

// nexusKey names a session's I_T nexus (RFC 7143 §4.4.3).
type nexusKey struct {
	initiator string
	isid      [6]byte
	node      string // "" for discovery
	portalTag uint16
}

// regEntry is a session the registry knows.
type regEntry struct {
	key     nexusKey
	s       *Session
	r       *reactor.Reactor // where the session lives
	waiting []*registration  // logins that replace it
	pinned  bool             // the transport chose r and counts its load
	ending  bool
	gone    []func() // told when it has ended

	arrived bool            // its leading connection is in full feature phase
	early   []*registration // connections that would join it and came before that

	moving   bool     // on its way to another reactor, or about to be
	deferred []func() // what waits for that, for its session
}

// registration is a login that asks for its session.
type registration struct {
	c      *Connection
	s      *Session
	key    nexusKey
	window Window // of the session that c joins
	timer  reactor.Timer
	over   bool
	old    *regEntry // the session whose end it waits for
}

// registry knows every session of the target: it gives out TSIHs, chooses
// reactors, and replaces sessions. Owner: the first reactor; others post to it.
type registry struct {
	e       *Engine
	r       *reactor.Reactor
	entries []*regEntry // in order of login
	byKey   map[nexusKey]*regEntry
	byTSIH  map[uint16]*regEntry
	last    uint16

	// Sessions that move from reactor to reactor; without a policy they stay.
	policy  Balancer
	tick    reactor.Timer
	busy    []time.Duration // of each reactor, for the policy
	order   Order           // of the policy, about to be carried out
	move    *move           // the one under way
	holders int             // who needs the sessions to stay
	onStill []func()        // those that wait for the move to end
}

func newRegistry(e *Engine, r *reactor.Reactor) *registry {
	return &registry{e: e, r: r, byKey: map[nexusKey]*regEntry{}, byTSIH: map[uint16]*regEntry{}}
}

// post runs fn on r. For what happens once a login or less.
func post(r *reactor.Reactor, fn func()) {
	r.Post(&reactor.Msg{Run: func(*reactor.Reactor) { fn() }})
}

// register asks for a place for s; c.registered gets the answer.
func (g *registry) register(c *Connection, s *Session, tsih uint16) {
	q := &registration{c: c, s: s, key: nexusKey{initiator: s.initiator, isid: s.isid, portalTag: c.portalTag}}
	if s.node != nil {
		q.key.node = s.node.cfg.Name
	}
	c.asks = q
	post(g.r, func() {
		if tsih != 0 {
			g.join(q, tsih)
			return
		}
		g.enter(q)
	})
}

// answer tells the login.
func (q *registration) answer(status pdu.LoginStatus, why string) {
	q.over = true
	w := q.window
	post(q.c.sh.r, func() { q.c.registered(q.s, w, status, why) })
}

// join adds a connection to a session (RFC 7143 §6.3.1): the same initiator,
// ISID, target and portal group, or there is no such session for it. The rest is
// for the session's reactor to judge.
func (g *registry) join(q *registration, tsih uint16) {
	en := g.byTSIH[tsih]
	switch {
	case en == nil || en.ending || en.key != q.key:
		q.answer(pdu.LoginNoSession, "no such session")
	case g.e.down.Load():
		q.answer(pdu.LoginUnavailable, "target is shutting down")
	case q.stale():
	case !en.arrived:
		en.early = append(en.early, q)
	default:
		g.to(en, func() { en.s.join(q) })
	}
}

// arrived has those join a session that waited for its leading connection. The
// initiator knows the session from the Login Response on, and the reactor where the
// next connection comes, by another portal say, may be ahead of the one that has
// just sent that.
// Preconditions: runs on the registry's reactor.
func (g *registry) arrived(s *Session) {
	en := s.entry
	list := en.early
	en.arrived, en.early = true, nil
	for _, q := range list {
		g.join(q, s.tsih)
	}
}

// stale judges a login by the configuration of now, and answers one that it would
// not let in. Here is where that has to be: what is done to sessions after a change
// comes by here, too, and finds the session or is before it.
// Preconditions: runs on the registry's reactor; the connection waits for it.
func (q *registration) stale() bool {
	m := q.c.login.m
	id := m.Identity()
	p := q.c.Resolve(&id)
	status, why := m.Holds(&p)
	if status == pdu.LoginSuccess {
		return false
	}
	q.answer(status, why)
	return true
}

// enter makes the entry, or first ends the session it replaces (RFC 7143 §6.3.5).
func (g *registry) enter(q *registration) {
	opt := g.e.inventory.Load().opt
	old := g.byKey[q.key]
	switch {
	case g.e.down.Load() || q.s.node != nil && q.s.node.removed.Load(), g.e.inventory.Load().portalGroup(q.key.portalTag) == nil:
		q.answer(pdu.LoginTargetRemoved, "target is being removed")
	case q.stale():
	case q.s.node != nil && old != nil && !opt.AllowDuplicatedISID && q.s.user != old.s.user && g.proven(old.s):
		g.to(old, old.s.prove)
		q.answer(pdu.LoginForbidden, "not who began the session it would replace")
	case q.s.node != nil && old != nil && !opt.AllowDuplicatedISID:
		g.e.Stats.Reinstatements.Add(1)
		old.waiting, q.old = append(old.waiting, q), old
		q.timer.Fire = func(clock.Time) {
			if !q.over {
				q.unwait()
				q.answer(pdu.LoginUnavailable, "the session it replaces did not end in time")
			}
		}
		g.r.Arm(&q.timer, g.r.Now().Add(reinstateLimit))
		g.kill(old, errReinstated)
	default:
		if l := g.beyond(q.s, &opt); l != numLimits {
			g.e.reached(l, g.r.Now(), "peer", q.c.peer, "initiator", q.s.initiator)
			q.answer(pdu.LoginOutOfResources, "too many sessions")
			return
		}
		g.admit(q)
	}
}

// unwait takes a login off the list of those that wait for a session to end.
func (q *registration) unwait() {
	q.old.waiting = slices.DeleteFunc(q.old.waiting, func(o *registration) bool { return o == q })
	q.old = nil
}

// forsake gives up what a login waits for whose connection has gone: as many may
// come as are evicted for one more, and none is kept longer than its connection.
func (g *registry) forsake(q *registration) {
	post(g.r, func() {
		if q.old != nil && !q.over {
			g.r.Disarm(&q.timer)
			q.unwait()
			q.over = true
		}
	})
}

// proven tells whether whoever began s has authenticated and still could: once
// its secret or the node's CHAP is gone, it must not keep its successor out.
func (g *registry) proven(s *Session) bool {
	inv := g.e.inventory.Load()
	var p login.Policy
	if n := inv.node(s.node.cfg.Name); n != nil {
		n.cfg.chap().apply(&p, inv, nil)
	}
	if s.user == "" || p.CHAP == nil {
		return false
	}
	_, known := p.CHAP.Store.Credentials(s.user, s.initiator)
	return known
}

// beyond tells which limit one more session would be beyond, numLimits for none.
func (g *registry) beyond(s *Session, o *Options) limit {
	most := int(o.MaxSessions)
	if len(g.entries) >= most {
		return limitSessions
	}
	if len(g.e.inventory.Load().auth) > 0 && s.user == "" && len(g.entries) >= most-int(min(o.ReservedSessions, o.MaxSessions/2)) {
		// Peers that need not prove anything must not lock out those that do.
		return limitReserved
	}
	if s.node == nil || o.MaxSessionsPerNode == 0 {
		return numLimits
	}
	n := 0
	for _, en := range g.entries {
		if en.key.node == s.node.cfg.Name {
			n++
		}
	}
	if n >= int(o.MaxSessionsPerNode) {
		return limitNodeSessions
	}
	return numLimits
}

// admit gives a session its TSIH and its reactor: the one with the least
// connections, the first of equals.
func (g *registry) admit(q *registration) {
	best := g.e.reactors[0]
	for _, r := range g.e.reactors[1:] {
		if r.Load() < best.Load() {
			best = r
		}
	}
	pinned := q.c.tp.Traits().Pinned
	if pinned {
		best = q.c.sh.r
	} else {
		if p, ok := q.c.tp.(Placer); ok {
			if r := p.Place(best); r != nil {
				best = r
			}
		}
		best.AddLoad(1)
	}
	for {
		g.last++
		if g.last != 0 && g.byTSIH[g.last] == nil {
			break
		}
	}
	en := &regEntry{key: q.key, s: q.s, r: best, pinned: pinned}
	q.s.entry, q.s.tsih = en, g.last
	g.entries = append(g.entries, en)
	if q.s.node != nil {
		g.byKey[q.key] = en
	}
	g.byTSIH[g.last] = en
	q.answer(pdu.LoginSuccess, "")
}

// kill ends a session, wherever it lives.
func (g *registry) kill(en *regEntry, why error) {
	if en.ending {
		return
	}
	en.ending = true
	s := en.s
	g.to(en, func() {
		switch {
		case !s.arrived:
			s.killed = true
		case !s.ended:
			s.end(why)
		}
	})
}

// leave takes a session that has ended out, from any reactor.
func (g *registry) leave(s *Session) {
	post(g.r, func() {
		en := s.entry
		for i, o := range g.entries {
			if o == en {
				g.entries = append(g.entries[:i], g.entries[i+1:]...)
				break
			}
		}
		if g.byKey[en.key] == en {
			delete(g.byKey, en.key)
		}
		delete(g.byTSIH, s.tsih)
		if !en.pinned {
			en.r.AddLoad(-1)
		}
		for _, q := range en.early {
			q.answer(pdu.LoginNoSession, "the session is ending")
		}
		for _, q := range en.waiting {
			g.r.Disarm(&q.timer)
			q.old = nil
			if !q.over {
				g.enter(q)
			}
		}
		for _, fn := range en.gone {
			fn()
		}
	})
}

// end ends every session that match picks and calls done once all have ended.
// Preconditions: runs on the registry's reactor.
func (g *registry) end(match func(*Session) bool, why error, done func()) {
	left := 1
	one := func() {
		if left--; left == 0 {
			done()
		}
	}
	for _, en := range g.entries {
		if match(en.s) {
			left++
			en.gone = append(en.gone, one)
			g.kill(en, why)
		}
	}
	one()
}

// each runs fn for every session that match picks, on the session's reactor,
// if it has arrived there. Preconditions: runs on the registry's reactor.
func (g *registry) each(match func(*Session) bool, fn func(*Session)) {
	for _, en := range g.entries {
		if s := en.s; match(s) {
			g.to(en, func() {
				if s.conn != nil && !s.ending {
					fn(s)
				}
			})
		}
	}
}
