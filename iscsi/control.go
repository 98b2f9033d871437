package iscsi

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"spindle/bdev"
	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/scsi"
)

// change publishes a new inventory. Preconditions: e.mu is held.
func (e *Engine) change(fn func(*inventory)) {
	next := *e.inventory.Load()
	fn(&next)
	e.inventory.Store(&next)
}

// Open lets connections in that an engine made with Config.Held keeps waiting.
func (e *Engine) Open(c reactor.Caller) {
	for _, sh := range e.shards {
		c.Await(sh.r, func(done func()) {
			early := sh.early
			sh.held, sh.early = false, nil
			for _, fn := range early {
				fn()
			}
			done()
		})
	}
}

// Options returns the settings.
func (e *Engine) Options() Options { return e.inventory.Load().opt }

// SetOptions replaces the settings; sessions that exist keep what they negotiated.
func (e *Engine) SetOptions(o Options) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.change(func(v *inventory) { v.opt = o })
}

// AddInitiatorGroup adds an access list.
func (e *Engine) AddInitiatorGroup(g InitiatorGroup) error {
	list, err := newAccessList(g)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	inv := e.inventory.Load()
	switch {
	case inv.initiatorGroup(g.Tag) != nil:
		return fmt.Errorf("initiator group %d: %w", g.Tag, ErrExists)
	case len(inv.initiators) >= MaxGroups:
		return fmt.Errorf("initiator groups: %w", ErrLimit)
	}
	e.change(func(v *inventory) { v.setInitiators(append(slices.Clip(v.initiators), list)) })
	return nil
}

// SetInitiatorGroup replaces an access list; sessions that exist live on.
func (e *Engine) SetInitiatorGroup(g InitiatorGroup) error {
	list, err := newAccessList(g)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.inventory.Load().initiatorGroup(g.Tag)
	if old == nil {
		return fmt.Errorf("initiator group %d: %w", g.Tag, ErrNotFound)
	}
	e.change(func(v *inventory) {
		next := slices.Clone(v.initiators)
		next[slices.Index(next, old)] = list
		v.setInitiators(next)
	})
	return nil
}

// RemoveInitiatorGroup removes an access list: maps that name it admit nobody.
func (e *Engine) RemoveInitiatorGroup(tag uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inventory.Load().initiatorGroup(tag) == nil {
		return fmt.Errorf("initiator group %d: %w", tag, ErrNotFound)
	}
	e.change(func(v *inventory) {
		v.setInitiators(slices.DeleteFunc(slices.Clone(v.initiators), func(l *accessList) bool { return l.Tag == tag }))
	})
	return nil
}

// InitiatorGroups returns the access lists.
func (e *Engine) InitiatorGroups() []InitiatorGroup {
	var list []InitiatorGroup
	for _, l := range e.inventory.Load().initiators {
		list = append(list, l.InitiatorGroup)
	}
	return list
}

// SetAuthGroup adds or replaces a set of CHAP secrets; logins from now on use it.
func (e *Engine) SetAuthGroup(g AuthGroup) {
	g.Secrets = slices.Clone(g.Secrets)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.change(func(v *inventory) {
		if plant.On(plant.StaleSecret) && len(v.auth) > 0 {
			return
		}
		v.auth = slices.DeleteFunc(slices.Clone(v.auth), func(o *AuthGroup) bool { return o.Tag == g.Tag })
		v.auth = append(v.auth, &g)
	})
}

// RemoveAuthGroup removes a set of CHAP secrets.
func (e *Engine) RemoveAuthGroup(tag int32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.change(func(v *inventory) {
		v.auth = slices.DeleteFunc(slices.Clone(v.auth), func(o *AuthGroup) bool { return o.Tag == tag })
	})
}

// AuthGroups returns the sets of CHAP secrets.
func (e *Engine) AuthGroups() []AuthGroup {
	var list []AuthGroup
	for _, g := range e.inventory.Load().auth {
		list = append(list, *g)
	}
	return list
}

// NodeName completes a node's name with NodeBase and checks it (RFC 7143 §4.2.7).
func (e *Engine) NodeName(name string) (string, error) {
	name = strings.ToLower(name)
	if !strings.HasPrefix(name, "iqn.") && !strings.HasPrefix(name, "eui.") && !strings.HasPrefix(name, "naa.") {
		name = e.Options().NodeBase + ":" + name
	}
	if len(name) > pdu.MaxName {
		return "", fmt.Errorf("node name %q is longer than %d bytes: %w", name, pdu.MaxName, ErrInvalid)
	}
	for _, r := range name {
		if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == ':' || r > 0x7f) {
			return "", fmt.Errorf("node name %q: character %q: %w", name, r, ErrInvalid)
		}
	}
	return name, nil
}

// AddNode adds a target node with its LUNs.
func (e *Engine) AddNode(c reactor.Caller, cfg NodeConfig) error {
	name, err := e.NodeName(cfg.Name)
	if err != nil {
		return err
	}
	cfg.Name = name
	cfg.Maps, cfg.LUNs = slices.Clone(cfg.Maps), slices.Clone(cfg.LUNs)
	e.mu.Lock()
	defer e.mu.Unlock()
	inv := e.inventory.Load()
	switch {
	case inv.node(name) != nil:
		return fmt.Errorf("node %s: %w", name, ErrExists)
	case len(inv.nodes) >= MaxNodes:
		return fmt.Errorf("nodes: %w", ErrLimit)
	}
	if err := inv.checkMaps(cfg.Maps); err != nil {
		return err
	}
	n := &Node{cfg: cfg, dev: scsi.NewDevice(name, e.reactors), removed: new(atomic.Bool)}
	for range e.shards {
		n.tallies = append(n.tallies, new(tally))
	}
	if e.store != nil {
		n.dev.Persist(e.store, e.offload)
	}
	n.dev.Bound(e)
	n.dev.SetPorts(cfg.ports())
	for i, l := range cfg.LUNs {
		if _, err := n.dev.AddLUN(c, l.ID, l.Bdev, l.options()); err != nil {
			for _, l := range cfg.LUNs[:i] {
				_ = n.dev.RemoveLUN(c, l.ID)
			}
			return fmt.Errorf("node %s: %w", name, err)
		}
	}
	e.change(func(v *inventory) { v.nodes = append(slices.Clip(v.nodes), n) })
	return nil
}

// ports are the tags of the portal groups that lead to the node: its target ports.
func (cfg *NodeConfig) ports() []uint16 {
	var tags []uint16
	for _, m := range cfg.Maps {
		tags = append(tags, m.PortalTag)
	}
	return tags
}

// SetPortGroupState changes the asymmetric access state of a node's portal
// group (ALUA).
func (e *Engine) SetPortGroupState(c reactor.Caller, name string, tag uint16, state scsi.PortState) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.inventory.Load().node(name)
	if n == nil {
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	if err := n.dev.SetPortGroupState(c, tag, state); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	return nil
}

// PortGroupStates tells the states of a node's portal groups.
func (e *Engine) PortGroupStates(name string) ([]scsi.PortGroup, error) {
	n := e.inventory.Load().node(name)
	if n == nil {
		return nil, fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	return n.dev.PortGroups(), nil
}

// PollUsage has thin units look at how much of their resources is in use. A file
// system that does not answer holds up no other call, but the removal of its LUN.
func (e *Engine) PollUsage(c reactor.Caller) {
	for _, n := range e.inventory.Load().nodes {
		n.dev.PollUsage(c)
	}
}

// options are the logical unit's properties.
func (l LUN) options() scsi.LUNOptions {
	return scsi.LUNOptions{
		ReadOnly:  l.ReadOnly || l.Bdev.Info().Caps&bdev.CapReadOnly != 0,
		Removable: l.Removable,
		Thick:     l.Thick,
		TAS:       l.TAS,
	}
}

func (v *inventory) checkMaps(maps []Map) error {
	for _, m := range maps {
		if v.portalGroup(m.PortalTag) == nil {
			return fmt.Errorf("portal group %d: %w", m.PortalTag, ErrNotFound)
		}
		if v.initiatorGroup(m.InitiatorTag) == nil {
			return fmt.Errorf("initiator group %d: %w", m.InitiatorTag, ErrNotFound)
		}
	}
	return nil
}

// RemoveNode unpublishes a node, ends its sessions once their tasks have ended,
// and frees its LUNs.
func (e *Engine) RemoveNode(c reactor.Caller, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.inventory.Load().node(name)
	if n == nil {
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	n.removed.Store(true)
	e.change(func(v *inventory) {
		v.nodes = slices.DeleteFunc(slices.Clone(v.nodes), func(o *Node) bool { return o == n })
	})
	e.endSessions(c, ofNode(name), errShutdown)
	for _, l := range n.cfg.LUNs {
		_ = n.dev.RemoveLUN(c, l.ID)
	}
	return nil
}

func ofNode(name string) func(*Session) bool {
	return func(s *Session) bool { return s.node != nil && s.node.cfg.Name == name }
}

// update replaces a node's configuration. Preconditions: e.mu is held.
func (e *Engine) update(old *Node, fn func(*NodeConfig)) {
	n := *old
	n.cfg.Maps, n.cfg.LUNs, n.cfg.Redirects = slices.Clone(n.cfg.Maps), slices.Clone(n.cfg.LUNs), slices.Clone(n.cfg.Redirects)
	fn(&n.cfg)
	e.change(func(v *inventory) {
		v.nodes = slices.Clone(v.nodes)
		v.nodes[slices.Index(v.nodes, old)] = &n
	})
}

// Nodes returns the target nodes.
func (e *Engine) Nodes() []NodeConfig {
	var list []NodeConfig
	for _, n := range e.inventory.Load().nodes {
		list = append(list, n.cfg)
	}
	return list
}

// AddLUN adds a logical unit to a node; its sessions see it at once.
func (e *Engine) AddLUN(c reactor.Caller, name string, l LUN) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.inventory.Load().node(name)
	if n == nil {
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	if slices.ContainsFunc(n.cfg.LUNs, func(o LUN) bool { return o.ID == l.ID }) {
		return fmt.Errorf("node %s LUN %d: %w", name, l.ID, ErrExists)
	}
	defer e.still(c)()
	if _, err := n.dev.AddLUN(c, l.ID, l.Bdev, l.options()); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	e.update(n, func(cfg *NodeConfig) { cfg.LUNs = append(cfg.LUNs, l) })
	return nil
}

// RemoveLUN drains a logical unit and takes it out of its node.
func (e *Engine) RemoveLUN(c reactor.Caller, name string, id uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.inventory.Load().node(name)
	if n == nil || !slices.ContainsFunc(n.cfg.LUNs, func(o LUN) bool { return o.ID == id }) {
		return fmt.Errorf("node %s LUN %d: %w", name, id, ErrNotFound)
	}
	defer e.still(c)()
	if err := n.dev.RemoveLUN(c, id); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	e.update(n, func(cfg *NodeConfig) {
		cfg.LUNs = slices.DeleteFunc(cfg.LUNs, func(o LUN) bool { return o.ID == id })
	})
	return nil
}

// AddMaps adds portal group to initiator group maps to a node.
func (e *Engine) AddMaps(name string, maps []Map) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	inv := e.inventory.Load()
	n := inv.node(name)
	if n == nil {
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	if err := inv.checkMaps(maps); err != nil {
		return err
	}
	for _, m := range maps {
		if slices.ContainsFunc(n.cfg.Maps, m.same) {
			return fmt.Errorf("map %d:%d: %w", m.PortalTag, m.InitiatorTag, ErrExists)
		}
	}
	e.update(n, func(cfg *NodeConfig) {
		cfg.Maps = append(cfg.Maps, maps...)
		n.dev.SetPorts(cfg.ports())
	})
	return nil
}

func (m Map) same(o Map) bool { return m.PortalTag == o.PortalTag && m.InitiatorTag == o.InitiatorTag }

// RemoveMaps removes maps from a node; sessions that came by them live on.
func (e *Engine) RemoveMaps(name string, maps []Map) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.inventory.Load().node(name)
	if n == nil {
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	for _, m := range maps {
		if !slices.ContainsFunc(n.cfg.Maps, m.same) {
			return fmt.Errorf("map %d:%d: %w", m.PortalTag, m.InitiatorTag, ErrNotFound)
		}
	}
	e.update(n, func(cfg *NodeConfig) {
		cfg.Maps = slices.DeleteFunc(cfg.Maps, func(o Map) bool { return slices.ContainsFunc(maps, o.same) })
		cfg.Redirects = slices.DeleteFunc(cfg.Redirects, func(r Redirect) bool {
			return !slices.ContainsFunc(cfg.Maps, func(m Map) bool { return m.PortalTag == r.PortalTag })
		})
		n.dev.SetPorts(cfg.ports())
	})
	return nil
}

// Connections describes every connection, by reactor and age.
func (e *Engine) Connections(c reactor.Caller) []ConnInfo {
	defer e.still(c)()
	var list []ConnInfo
	for _, sh := range e.shards {
		c.Await(sh.r, func(done func()) {
			for _, k := range sh.conns {
				list = append(list, k.info())
			}
			done()
		})
	}
	slices.SortFunc(list, func(a, b ConnInfo) int { return int(int64(a.ID) - int64(b.ID)) })
	return list
}

// A Describer is a Conn that has something to say for ConnInfo.Link.
type Describer interface{ Describe() []Fact }

func (c *Connection) info() ConnInfo {
	i := ConnInfo{
		ID: c.id, CID: c.cid, Reactor: c.sh.r.ID, State: "running", Commands: c.n.Commands,
		InitiatorAddr: c.peer.Addr().Unmap().String(), TargetAddr: c.local.Addr().Unmap().String(),
		Transport: c.tp.Traits().Name, LoginPhase: "not_started",
	}
	switch {
	case c.phase == phaseFull:
		i.LoginPhase = "full_feature_phase"
	case c.phase == phaseLogin && c.login != nil && c.login.started && c.login.m.Stage() == pdu.StageSecurity:
		i.LoginPhase = "security_negotiation_phase"
	case c.phase == phaseLogin && c.login != nil && c.login.started:
		i.LoginPhase = "operational_negotiation_phase"
	case c.phase != phaseLogin:
		i.State = "exiting"
	}
	if d, ok := c.tp.(Describer); ok {
		i.Link = d.Describe()
	}
	if s := c.sess; s != nil {
		i.TSIH, i.Initiator = s.tsih, s.initiator
		if s.node != nil {
			i.Node = s.node.cfg.Name
		}
	}
	return i
}

// RequestLogout asks every session of a node to log out (Async Message, event 1).
func (e *Engine) RequestLogout(c reactor.Caller, name string) error {
	return e.requestLogout(c, name, ofNode(name))
}

// RequestLogoutBy asks the sessions of a node that came by a portal group.
func (e *Engine) RequestLogoutBy(c reactor.Caller, name string, tag uint16) error {
	return e.requestLogout(c, name, func(s *Session) bool { return ofNode(name)(s) && s.entry.key.portalTag == tag })
}

func (e *Engine) requestLogout(c reactor.Caller, name string, match func(*Session) bool) error {
	if e.inventory.Load().node(name) == nil {
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	c.Await(e.registry.r, func(done func()) {
		e.registry.each(match, func(s *Session) { s.askLogout(logoutGrace) })
		done()
	})
	return nil
}

// logoutGrace is how long an initiator has to log out, in seconds, as the Async
// Message tells it.
const logoutGrace = 30

// askLogout sends Async Message event 1, on each connection: it asks for the
// logout of the one it comes by (RFC 7143 §11.9.1).
func (s *Session) askLogout(grace uint16) {
	for _, c := range s.conns {
		if c.phase == phaseFull {
			c.async(pdu.AsyncLogoutRequest, c.cid, 0, grace)
		}
	}
}

// coldReset ends every session of a node, after TARGET COLD RESET.
func (e *Engine) coldReset(n *Node) {
	post(e.registry.r, func() { e.registry.end(ofNode(n.cfg.Name), errColdReset, func() {}) })
}

// Shutdown stops listening, asks every session to log out, waits up to grace
// for them, and ends those that remain once their tasks have ended.
func (e *Engine) Shutdown(c reactor.Caller, grace time.Duration) {
	e.down.Store(true)
	e.Open(c) // to be turned away
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, g := range e.inventory.Load().portals {
		e.unlisten(c, g)
	}
	e.endLogins(c, func(*Connection) bool { return true })
	all := func(*Session) bool { return true }
	r := e.registry.r
	c.Await(r, func(done func()) {
		r.Disarm(&e.registry.tick)
		e.registry.each(all, func(s *Session) { s.askLogout(uint16(grace / time.Second)) })
		e.waitEmpty(r.Now().Add(grace), done)
	})
	e.endSessions(c, all, errShutdown)
	e.still(c)() // a move that was under way has given back what it had
}

// waitEmpty calls done when no session is left, or at the deadline.
func (e *Engine) waitEmpty(deadline clock.Time, done func()) {
	r := e.registry.r
	if len(e.registry.entries) == 0 || r.Now() >= deadline {
		done()
		return
	}
	r.Arm(&reactor.Timer{Fire: func(clock.Time) { e.waitEmpty(deadline, done) }}, r.Now().Add(20*time.Millisecond))
}
