package iscsi

import (
	"fmt"
	"net/netip"
	"slices"

	"spindle/reactor"
)

// iserWait is why portal i is not served over iSER, "" when it is or need not be.
func (g *portalGroup) iserWait(i int) string {
	switch {
	case !g.cfg.Portals[i].ISER:
		return ""
	case g.iser == nil:
		return "the portal group is not started"
	}
	if err := g.iser[i].Waiting(); err != nil {
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
// came by them. Maps that name the group stay and mean nothing.
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
	e.unlisten(c, pg)
	e.endLogins(c, func(k *Connection) bool { return k.portalTag == tag })
	e.endSessions(c, func(s *Session) bool { return s.entry.key.portalTag == tag }, errShutdown)
	return nil
}

// PortalGroups returns the portal groups with the addresses they got.
func (e *Engine) PortalGroups() []PortalGroup {
	var list []PortalGroup
	for _, g := range e.inventory.Load().portals {
		cfg := g.cfg
		cfg.Portals = slices.Clone(cfg.Portals)
		for i, a := range g.bound {
			cfg.Portals[i].Addr = a
			cfg.Portals[i].ISERWait = g.iserWait(i)
		}
		list = append(list, cfg)
	}
	return list
}

// listen opens the listeners of pg, spread over the reactors, all or none.
func (e *Engine) listen(c reactor.Caller, pg *portalGroup) error {
	pg.iser = make([]Listener, len(pg.cfg.Portals))
	for i, p := range pg.cfg.Portals {
		l, err := e.serve(c, e.transport, pg, i, p.Addr)
		if err == nil {
			e.listeners[pg.cfg.Tag] = append(e.listeners[pg.cfg.Tag], l)
			pg.bound[i] = l.Addr()
			if p.ISER {
				pg.iser[i], err = e.serve(c, e.iser, pg, i, l.Addr())
			}
		}
		if err != nil {
			e.unlisten(c, pg)
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

func (e *Engine) unlisten(c reactor.Caller, pg *portalGroup) {
	for _, l := range e.listeners[pg.cfg.Tag] {
		l.Close(c)
	}
	delete(e.listeners, pg.cfg.Tag)
	for _, l := range pg.iser {
		if l != nil {
			l.Close(c)
		}
	}
}

// SetPortalGroupISER has the portals of a group served over iSER too, or no
// longer. Switched off, what came by iSER ends; TCP is left alone.
func (e *Engine) SetPortalGroupISER(c reactor.Caller, tag uint16, on bool) error {
	return e.setISER(c, tag, func(netip.AddrPort) bool { return true }, on)
}

// SetPortalISER is SetPortalGroupISER for one portal, which is named by the
// address it got.
func (e *Engine) SetPortalISER(c reactor.Caller, tag uint16, portal netip.AddrPort, on bool) error {
	return e.setISER(c, tag, func(a netip.AddrPort) bool { return a == portal }, on)
}

// setISER switches iSER for the portals of a group whose address match picks.
func (e *Engine) setISER(c reactor.Caller, tag uint16, match func(netip.AddrPort) bool, on bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.inventory.Load().portalGroup(tag)
	switch {
	case old == nil:
		return fmt.Errorf("portal group %d: %w", tag, ErrNotFound)
	case !slices.ContainsFunc(old.bound, match):
		return fmt.Errorf("portal of group %d: %w", tag, ErrNotFound)
	case on && e.iser == nil:
		return fmt.Errorf("portal group %d: this target has no iSER transport: %w", tag, ErrInvalid)
	}
	pg := &portalGroup{cfg: old.cfg, bound: old.bound, iser: slices.Clone(old.iser)}
	pg.cfg.Portals = slices.Clone(old.cfg.Portals)
	var closed []int
	for i := range pg.cfg.Portals {
		if !match(pg.bound[i]) {
			continue
		}
		pg.cfg.Portals[i].ISER = on
		switch {
		case pg.iser == nil: // not started
		case !on && pg.iser[i] != nil:
			pg.iser[i] = nil
			closed = append(closed, i)
		case on && pg.iser[i] == nil:
			l, err := e.serve(c, e.iser, pg, i, pg.bound[i])
			if err != nil {
				pg.closeNew(c, old)
				return err
			}
			pg.iser[i] = l
		}
	}
	e.change(func(v *inventory) {
		v.portals = slices.Clone(v.portals)
		v.portals[slices.Index(v.portals, old)] = pg
	})
	for _, i := range closed {
		e.endISER(c, old, i)
	}
	return nil
}

// closeNew closes the listeners for iSER that old does not have.
func (g *portalGroup) closeNew(c reactor.Caller, old *portalGroup) {
	for i, l := range g.iser {
		if l != nil && old.iser[i] == nil {
			l.Close(c)
		}
	}
}

// endISER closes the listener for iSER of portal i and ends what came by it.
func (e *Engine) endISER(c reactor.Caller, pg *portalGroup, i int) {
	pg.iser[i].Close(c)
	tag, name, at := pg.cfg.Tag, e.iser.Traits().Name, pg.bound[i]
	came := func(local netip.AddrPort) bool {
		return local.Port() == at.Port() && (at.Addr().IsUnspecified() || local.Addr().Unmap() == at.Addr().Unmap())
	}
	e.endLogins(c, func(k *Connection) bool { return k.portalTag == tag && k.tp.Traits().Name == name && came(k.local) })
	e.endSessions(c, func(s *Session) bool {
		return s.entry.key.portalTag == tag && s.transport == name && came(s.local)
	}, errShutdown)
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
