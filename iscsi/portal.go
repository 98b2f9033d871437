package iscsi

import (
	"fmt"
	"net/netip"
	"slices"

	"spindle/reactor"
)

// listening is a portal group that is being served.
type listening struct {
	main []Listener // by portal
	iser []Listener // likewise; nil where the portal has no iSER
}

// iserWait is why portal i, which is configured as p, is not served over iSER.
func (l *listening) iserWait(i int, p *Portal) string {
	switch {
	case !p.ISER:
		return ""
	case l == nil:
		return "the portal group is not started"
	}
	if err := l.iser[i].Waiting(); err != nil {
		return err.Error()
	}
	return ""
}

// AddPortalGroup adds a portal group and listens on its portals, unless Wait.
func (e *Engine) AddPortalGroup(c reactor.Caller, g PortalGroup) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	inv := e.inventory.Load()
	switch {
	case inv.portalGroup(g.Tag) != nil:
		return fmt.Errorf("portal group %d: %w", g.Tag, ErrExists)
	case len(inv.portals) >= MaxGroups || len(g.Portals) > MaxPortals:
		return fmt.Errorf("portal groups: %w", ErrLimit)
	case len(g.Portals) == 0:
		return fmt.Errorf("portal group %d has no portal: %w", g.Tag, ErrInvalid)
	}
	pg := &portalGroup{cfg: g}
	pg.cfg.Portals = slices.Clone(g.Portals)
	for _, p := range g.Portals {
		pg.bound = append(pg.bound, p.Addr)
	}
	if !g.Wait {
		if err := e.listen(c, pg); err != nil {
			return err
		}
	}
	e.change(func(v *inventory) { v.portals = append(slices.Clip(v.portals), pg) })
	return nil
}

// StartPortalGroup listens on the portals of a group made with Wait.
func (e *Engine) StartPortalGroup(c reactor.Caller, tag uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.inventory.Load().portalGroup(tag)
	if old == nil {
		return fmt.Errorf("portal group %d: %w", tag, ErrNotFound)
	}
	if e.listeners[tag] != nil {
		return nil
	}
	pg := &portalGroup{cfg: old.cfg, bound: slices.Clone(old.bound)}
	pg.cfg.Wait = false
	if err := e.listen(c, pg); err != nil {
		return err
	}
	e.change(func(v *inventory) {
		v.portals = slices.Clone(v.portals)
		v.portals[slices.Index(v.portals, old)] = pg
	})
	return nil
}

// RemovePortalGroup closes the portals and ends the logins and the sessions that
// came by them.
// Maps that name the group stay and mean nothing.
func (e *Engine) RemovePortalGroup(c reactor.Caller, tag uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	pg := e.inventory.Load().portalGroup(tag)
	if pg == nil {
		return fmt.Errorf("portal group %d: %w", tag, ErrNotFound)
	}
	e.change(func(v *inventory) {
		v.portals = slices.DeleteFunc(slices.Clone(v.portals), func(g *portalGroup) bool { return g == pg })
	})
	e.unlisten(c, tag)
	e.endLogins(c, func(k *Connection) bool { return k.portalTag == tag })
	e.endSessions(c, func(s *Session) bool { return s.entry.key.portalTag == tag }, errShutdown)
	return nil
}

// PortalGroups returns the portal groups with the addresses they got.
func (e *Engine) PortalGroups() []PortalGroup {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []PortalGroup
	for _, g := range e.inventory.Load().portals {
		cfg := g.cfg
		cfg.Portals = slices.Clone(cfg.Portals)
		for i, a := range g.bound {
			cfg.Portals[i].Addr = a
			cfg.Portals[i].ISERWait = e.listeners[g.cfg.Tag].iserWait(i, &g.cfg.Portals[i])
		}
		list = append(list, cfg)
	}
	return list
}

// listen opens the listeners of pg, spread over the reactors, all or none.
func (e *Engine) listen(c reactor.Caller, pg *portalGroup) error {
	l := &listening{iser: make([]Listener, len(pg.cfg.Portals))}
	e.listeners[pg.cfg.Tag] = l
	for i, p := range pg.cfg.Portals {
		m, err := e.serve(c, e.transport, pg, i, p.Addr)
		if err == nil {
			l.main = append(l.main, m)
			pg.bound[i] = m.Addr()
			if p.ISER {
				l.iser[i], err = e.serve(c, e.iser, pg, i, m.Addr())
			}
		}
		if err != nil {
			e.unlisten(c, pg.cfg.Tag)
			return err
		}
	}
	return nil
}

// serve opens the listener of one transport for portal i of pg.
func (e *Engine) serve(c reactor.Caller, t Transport, pg *portalGroup, i int, addr netip.AddrPort) (Listener, error) {
	if t == nil {
		return nil, fmt.Errorf("portal %v: this target has no iSER transport: %w", addr, ErrInvalid)
	}
	r := e.reactors[(int(pg.cfg.Tag)+i)%len(e.reactors)]
	return t.Listen(c, r, addr, func(r *reactor.Reactor, tp Conn) { e.accept(e.shards[r.ID], pg, tp) })
}

func (e *Engine) unlisten(c reactor.Caller, tag uint16) {
	l := e.listeners[tag]
	if l == nil {
		return
	}
	for _, m := range l.main {
		m.Close(c)
	}
	l.closeISER(c)
	delete(e.listeners, tag)
}

func (l *listening) closeISER(c reactor.Caller) {
	for i, m := range l.iser {
		if m != nil {
			m.Close(c)
			l.iser[i] = nil
		}
	}
}

// SetPortalGroupISER has the portals of a group served over iSER too, or no
// longer. Switched off, what came by iSER ends; TCP is left alone.
func (e *Engine) SetPortalGroupISER(c reactor.Caller, tag uint16, on bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.inventory.Load().portalGroup(tag)
	switch {
	case old == nil:
		return fmt.Errorf("portal group %d: %w", tag, ErrNotFound)
	case on && e.iser == nil:
		return fmt.Errorf("portal group %d: this target has no iSER transport: %w", tag, ErrInvalid)
	}
	pg := &portalGroup{cfg: old.cfg, bound: old.bound}
	pg.cfg.Portals = slices.Clone(old.cfg.Portals)
	for i := range pg.cfg.Portals {
		pg.cfg.Portals[i].ISER = on
	}
	if l := e.listeners[tag]; l != nil {
		if err := e.switchISER(c, l, pg, on); err != nil {
			return err
		}
	}
	e.change(func(v *inventory) {
		v.portals = slices.Clone(v.portals)
		v.portals[slices.Index(v.portals, old)] = pg
	})
	return nil
}

// switchISER brings the listeners of a group that is served in line with on.
func (e *Engine) switchISER(c reactor.Caller, l *listening, pg *portalGroup, on bool) error {
	if on {
		for i := range l.iser {
			if l.iser[i] != nil {
				continue
			}
			var err error
			if l.iser[i], err = e.serve(c, e.iser, pg, i, pg.bound[i]); err != nil {
				return err
			}
		}
		return nil
	}
	l.closeISER(c)
	if e.iser == nil {
		return nil
	}
	tag, name := pg.cfg.Tag, e.iser.Traits().Name
	e.endLogins(c, func(k *Connection) bool { return k.portalTag == tag && k.tp.Traits().Name == name })
	e.endSessions(c, func(s *Session) bool { return s.entry.key.portalTag == tag && s.transport == name }, errShutdown)
	return nil
}

// endLogins closes the connections that match picks of those not yet in full
// feature phase.
func (e *Engine) endLogins(c reactor.Caller, match func(*Connection) bool) {
	for _, sh := range e.shards {
		c.Await(sh.r, func(done func()) {
			for _, k := range slices.Clone(sh.pending) {
				if match(k) {
					k.tp.Close(errShutdown)
				}
			}
			done()
		})
	}
}

func (e *Engine) endSessions(c reactor.Caller, match func(*Session) bool, why error) {
	c.Await(e.registry.r, func(done func()) { e.registry.end(match, why, done) })
}
