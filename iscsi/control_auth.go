package iscsi

import (
	"fmt"
	"net/netip"
	"slices"
)

// check refuses contradictions.
func (a CHAPPolicy) check() error {
	if a.Disable && a.Require || a.Mutual && !a.Require {
		return fmt.Errorf("CHAP disabled and required, or mutual and not required: %w", ErrInvalid)
	}
	return nil
}

// SetNodeAuth replaces what a node asks of authentication; logins from now on
// are held to it.
func (e *Engine) SetNodeAuth(name string, a CHAPPolicy) error {
	if err := a.check(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.inventory.Load().node(name)
	if n == nil {
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	e.update(n, func(cfg *NodeConfig) {
		cfg.DisableCHAP, cfg.RequireCHAP, cfg.MutualCHAP, cfg.CHAPGroup = a.Disable, a.Require, a.Mutual, a.Group
	})
	return nil
}

// SetPortalGroupAuth replaces what discovery by a portal group asks of
// authentication, in place of Options; logins from now on are held to it.
func (e *Engine) SetPortalGroupAuth(tag uint16, a CHAPPolicy) error {
	if err := a.check(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.inventory.Load().portalGroup(tag)
	if old == nil {
		return fmt.Errorf("portal group %d: %w", tag, ErrNotFound)
	}
	next := *old
	g := &next
	g.cfg.Auth = &a
	e.change(func(v *inventory) {
		v.portals = slices.Clone(v.portals)
		v.portals[slices.Index(v.portals, old)] = g
	})
	return nil
}

// SetNodeRedirect sends the logins to a node that come by a portal group to
// another portal; the zero address ends that. Sessions that exist live on until
// RequestLogoutBy asks them to come again.
func (e *Engine) SetNodeRedirect(name string, tag uint16, to netip.AddrPort) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	inv := e.inventory.Load()
	n, g := inv.node(name), inv.portalGroup(tag)
	switch {
	case n == nil:
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	case g == nil || !slices.ContainsFunc(n.cfg.Maps, func(m Map) bool { return m.PortalTag == tag }):
		return fmt.Errorf("node %s has no map of portal group %d: %w", name, tag, ErrNotFound)
	case to.IsValid() && slices.Contains(g.bound, to):
		// The initiator would come back and be sent away for ever.
		return fmt.Errorf("%v belongs to portal group %d itself: %w", to, tag, ErrInvalid)
	case to.IsValid() && (to.Addr().IsUnspecified() || to.Port() == 0):
		return fmt.Errorf("redirection to %v: %w", to, ErrInvalid)
	}
	e.update(n, func(cfg *NodeConfig) {
		cfg.Redirects = slices.DeleteFunc(cfg.Redirects, func(r Redirect) bool { return r.PortalTag == tag })
		if to.IsValid() {
			cfg.Redirects = append(cfg.Redirects, Redirect{tag, to})
		}
	})
	return nil
}
