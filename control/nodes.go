package control

import (
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/scsi"
)

// iscsiNameMax is the longest iSCSI name (RFC 7143 §4.2.7.1), in bytes.
const iscsiNameMax = 223

// LUN places a bdev in a node; a negative ID is the lowest free one.
type LUN struct {
	ID   int
	Bdev string
	// ReadOnly refuses writes; Removable has the medium ejected and loaded.
	ReadOnly, Removable bool
	Thick               bool // hides that the bdev can unmap
}

// Node is a target node.
type Node struct {
	iscsi.NodeConfig
	// ID is the number of the SCSI device: the lowest that was free.
	ID int
}

// Auth says who must authenticate, by the secrets of which group.
type Auth iscsi.CHAPPolicy

func (a Auth) check() error {
	if a.Disable && a.Require || a.Mutual && !a.Require {
		return refuse(syscall.EINVAL, "CHAP cannot be disabled and required, nor be mutual without being required")
	}
	return nil
}

// fullName completes a name that has no type with the node base.
func (c *Control) fullName(name string) (string, error) {
	full := name
	if !hasType(name) {
		full = c.Options().NodeBase + ":" + name
	}
	if name == "" || len(full) > iscsiNameMax {
		return "", refuse(syscall.EINVAL, "a target node needs a name of 1 to %d bytes", iscsiNameMax)
	}
	for i := range len(full) {
		if !nameByte(full[i]) {
			return "", refuse(syscall.EINVAL, "target node name %q: only letters, digits, '-', '.' and ':' are allowed", name)
		}
	}
	return full, nil
}

// wireName is a name as the engine knows it: in lower case, the normal form of
// iSCSI names (RFC 7143 §4.2.7.1). Configuration keeps it as it was written.
func wireName(name string) string { return strings.ToLower(name) }

func onWire(cfg iscsi.NodeConfig) iscsi.NodeConfig {
	cfg.Name = wireName(cfg.Name)
	return cfg
}

func hasType(name string) bool {
	name = wireName(name)
	return strings.HasPrefix(name, "iqn.") || strings.HasPrefix(name, "eui.") || strings.HasPrefix(name, "naa.")
}

// nameByte tells whether b may stand in an iSCSI name (RFC 3722 §6); letters of
// other scripts are, as UTF-8.
func nameByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '.' || b == ':' || b >= 0x80
}

// CreateNode makes a target node. cfg has its name, maps and flags; luns are
// what it serves.
func (c *Control) CreateNode(cfg iscsi.NodeConfig, luns []LUN) error {
	c.change.Lock()
	defer c.change.Unlock()
	var err error
	if cfg.Name, err = c.fullName(cfg.Name); err != nil {
		return err
	}
	if _, err := c.node(cfg.Name); err == nil {
		return refuse(syscall.EEXIST, "target node %s exists", cfg.Name)
	}
	if depth := c.Options().MaxQueueDepth; cfg.QueueDepth == 0 || cfg.QueueDepth > depth {
		return refuse(syscall.EINVAL, "queue depth %d is not 1 to %d", cfg.QueueDepth, depth)
	}
	if err := (Auth{cfg.DisableCHAP, cfg.RequireCHAP, cfg.MutualCHAP, cfg.CHAPGroup}).check(); err != nil {
		return err
	}
	if err := c.checkMaps(nil, cfg.Maps); err != nil {
		return err
	}
	for _, l := range luns {
		placed, err := c.place(cfg.LUNs, l)
		if err != nil {
			return err
		}
		cfg.LUNs = append(cfg.LUNs, placed)
	}
	shared, err := share(cfg.LUNs)
	if err != nil {
		return err
	}
	if err := c.Engine.AddNode(c.Caller, onWire(cfg)); err != nil {
		unshare(shared)
		return err
	}
	c.mu.Lock()
	c.nodes = append(c.nodes, Node{cfg, c.freeDevice()})
	c.mu.Unlock()
	return nil
}

// share counts each LUN as a user of its bdev, all or none.
func share(luns []iscsi.LUN) ([]iscsi.LUN, error) {
	for i, l := range luns {
		if err := l.Bdev.Share(); err != nil {
			unshare(luns[:i])
			return nil, err
		}
	}
	return luns, nil
}

func unshare(luns []iscsi.LUN) {
	for _, l := range luns {
		l.Bdev.Unshare()
	}
}

// freeDevice is the lowest free number of a SCSI device. Preconditions: mu is held.
func (c *Control) freeDevice() int {
	for id := 0; ; id++ {
		if !slices.ContainsFunc(c.nodes, func(n Node) bool { return n.ID == id }) {
			return id
		}
	}
}

// place resolves a LUN beside those that are taken.
func (c *Control) place(taken []iscsi.LUN, l LUN) (iscsi.LUN, error) {
	b, err := c.Bdev(l.Bdev)
	if err != nil {
		return iscsi.LUN{}, err
	}
	used := func(id int) bool {
		return slices.ContainsFunc(taken, func(t iscsi.LUN) bool { return int(t.ID) == id })
	}
	if l.ID < 0 {
		for l.ID = 0; used(l.ID); l.ID++ {
		}
	}
	if l.ID > MaxLUN {
		return iscsi.LUN{}, refuse(syscall.EINVAL, "LUN %d is above %d", l.ID, MaxLUN)
	}
	if used(l.ID) {
		return iscsi.LUN{}, refuse(syscall.EEXIST, "LUN %d is taken", l.ID)
	}
	// TAS: SPC-5 §7.5.8 leaves its default open. Without it a reset by one initiator
	// has the others wait for their own timeouts, 30 s in Linux.
	return iscsi.LUN{ID: uint16(l.ID), Bdev: b.Bdev, ReadOnly: l.ReadOnly, Removable: l.Removable, Thick: l.Thick, TAS: true}, nil
}

// checkMaps tells whether more can be added to have.
func (c *Control) checkMaps(have, more []iscsi.Map) error {
	if len(have)+len(more) > MaxMaps {
		return refuse(syscall.EINVAL, "a target node has at most %d maps", MaxMaps)
	}
	seen := slices.Clone(have)
	for _, m := range more {
		if !c.portal.has(m.PortalTag) {
			return refuse(syscall.ENOENT, "there is no portal group %d; make it with iscsi_create_portal_group", m.PortalTag)
		}
		if !c.init.has(m.InitiatorTag) {
			return refuse(syscall.ENOENT, "there is no initiator group %d; make it with iscsi_create_initiator_group", m.InitiatorTag)
		}
		if slices.ContainsFunc(seen, func(s iscsi.Map) bool { return sameMap(s, m) }) {
			return refuse(syscall.EEXIST, "the map %d:%d is given twice", m.PortalTag, m.InitiatorTag)
		}
		seen = append(seen, m)
	}
	return nil
}

func sameMap(a, b iscsi.Map) bool {
	return a.PortalTag == b.PortalTag && a.InitiatorTag == b.InitiatorTag
}

// node finds a node by name: iSCSI names are compared without regard to case
// (RFC 7143 §4.2.7.1).
func (c *Control) node(name string) (Node, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, n := range c.nodes {
		if strings.EqualFold(n.Name, name) {
			return n, nil
		}
	}
	return Node{}, refuse(syscall.ENOENT, "there is no target node %q; iscsi_get_target_nodes lists those there are, with their full names", name)
}

// update replaces a node's configuration as readers see it.
func (c *Control) update(name string, change func(*iscsi.NodeConfig)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = slices.Clone(c.nodes)
	for i := range c.nodes {
		if c.nodes[i].Name == name {
			change(&c.nodes[i].NodeConfig)
		}
	}
}

// DeleteNode deletes a target node: its sessions are logged out and drained.
func (c *Control) DeleteNode(name string) error {
	c.change.Lock()
	defer c.change.Unlock()
	n, err := c.node(name)
	if err != nil {
		return err
	}
	if err := c.Engine.RemoveNode(c.Caller, wireName(n.Name)); err != nil {
		return err
	}
	c.mu.Lock()
	c.nodes = slices.DeleteFunc(slices.Clone(c.nodes), func(o Node) bool { return o.Name == n.Name })
	c.mu.Unlock()
	unshare(n.LUNs)
	return nil
}

// AddLUN places a bdev in a node that may be in use.
func (c *Control) AddLUN(name string, l LUN) error {
	c.change.Lock()
	defer c.change.Unlock()
	n, err := c.node(name)
	if err != nil {
		return err
	}
	placed, err := c.place(n.LUNs, l)
	if err != nil {
		return err
	}
	if err := placed.Bdev.Share(); err != nil {
		return err
	}
	if err := c.Engine.AddLUN(c.Caller, wireName(n.Name), placed); err != nil {
		placed.Bdev.Unshare()
		return err
	}
	c.update(n.Name, func(cfg *iscsi.NodeConfig) { cfg.LUNs = append(slices.Clone(cfg.LUNs), placed) })
	return nil
}

// RemoveLUN takes a LUN out of a node; its I/O drains.
func (c *Control) RemoveLUN(name string, id int) error {
	c.change.Lock()
	defer c.change.Unlock()
	n, err := c.node(name)
	if err != nil {
		return err
	}
	for _, l := range n.LUNs {
		if int(l.ID) == id {
			return c.removeLUN(n.Name, l)
		}
	}
	return refuse(syscall.ENOENT, "target node %s has no LUN %d", n.Name, id)
}

func (c *Control) removeLUN(name string, l iscsi.LUN) error {
	if err := c.Engine.RemoveLUN(c.Caller, wireName(name), l.ID); err != nil {
		return err
	}
	c.update(name, func(cfg *iscsi.NodeConfig) {
		cfg.LUNs = slices.DeleteFunc(slices.Clone(cfg.LUNs), func(o iscsi.LUN) bool { return o.ID == l.ID })
	})
	l.Bdev.Unshare()
	return nil
}

// unmapLUNs takes b out of every node. Preconditions: change is held.
func (c *Control) unmapLUNs(b *Bdev) error {
	for _, n := range c.Nodes() {
		for _, l := range n.LUNs {
			if l.Bdev != b.Bdev {
				continue
			}
			if err := c.removeLUN(n.Name, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// AddMaps opens a node to more portal and initiator groups.
func (c *Control) AddMaps(name string, maps []iscsi.Map) error {
	c.change.Lock()
	defer c.change.Unlock()
	n, err := c.node(name)
	if err != nil {
		return err
	}
	if err := c.checkMaps(n.Maps, maps); err != nil {
		return err
	}
	if err := c.Engine.AddMaps(wireName(n.Name), maps); err != nil {
		return err
	}
	c.update(n.Name, func(cfg *iscsi.NodeConfig) { cfg.Maps = append(slices.Clone(cfg.Maps), maps...) })
	return nil
}

// RemoveMaps closes a node to portal and initiator groups, all given or none.
func (c *Control) RemoveMaps(name string, maps []iscsi.Map) error {
	c.change.Lock()
	defer c.change.Unlock()
	n, err := c.node(name)
	if err != nil {
		return err
	}
	for i, m := range maps {
		same := func(o iscsi.Map) bool { return sameMap(o, m) }
		if !slices.ContainsFunc(n.Maps, same) || slices.ContainsFunc(maps[:i], same) {
			return refuse(syscall.ENOENT, "target node %s has no map %d:%d", n.Name, m.PortalTag, m.InitiatorTag)
		}
	}
	return c.removeMaps(n.Name, maps)
}

func (c *Control) removeMaps(name string, maps []iscsi.Map) error {
	if len(maps) == 0 {
		return nil
	}
	if err := c.Engine.RemoveMaps(wireName(name), maps); err != nil {
		return err
	}
	c.update(name, func(cfg *iscsi.NodeConfig) {
		cfg.Maps = slices.DeleteFunc(slices.Clone(cfg.Maps), func(o iscsi.Map) bool {
			return slices.ContainsFunc(maps, func(m iscsi.Map) bool { return sameMap(o, m) })
		})
		cfg.Redirects = slices.DeleteFunc(slices.Clone(cfg.Redirects), func(r iscsi.Redirect) bool {
			return !slices.ContainsFunc(cfg.Maps, func(m iscsi.Map) bool { return m.PortalTag == r.PortalTag })
		})
	})
	return nil
}

// removeMapsWhere removes matching maps from every node. Preconditions: change is held.
func (c *Control) removeMapsWhere(match func(iscsi.Map) bool) error {
	for _, n := range c.Nodes() {
		var gone []iscsi.Map
		for _, m := range n.Maps {
			if match(m) {
				gone = append(gone, m)
			}
		}
		if err := c.removeMaps(n.Name, gone); err != nil {
			return err
		}
	}
	return nil
}

// Nodes lists the target nodes.
func (c *Control) Nodes() []Node {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.nodes)
}

// RequestLogout asks the initiators of a node to log out; tag, unless it is 0,
// only those that came by this portal group.
func (c *Control) RequestLogout(name string, tag uint16) error {
	n, err := c.node(name)
	if err != nil {
		return err
	}
	if tag == 0 {
		return c.Engine.RequestLogout(c.Caller, wireName(n.Name))
	}
	if !slices.ContainsFunc(n.Maps, func(m iscsi.Map) bool { return m.PortalTag == tag }) {
		return refuse(syscall.ENOENT, "target node %s has no map of portal group %d", n.Name, tag)
	}
	return c.Engine.RequestLogoutBy(c.Caller, wireName(n.Name), tag)
}

// SendAsync sends the initiators of a node an Asynchronous Message.
func (c *Control) SendAsync(name string, m iscsi.AsyncMessage) error {
	n, err := c.node(name)
	if err != nil {
		return err
	}
	return c.Engine.SendAsync(c.Caller, wireName(n.Name), m)
}

// SetNodeAuth says who must authenticate to a node, from the next login on.
func (c *Control) SetNodeAuth(name string, a Auth) error {
	c.change.Lock()
	defer c.change.Unlock()
	n, err := c.node(name)
	if err != nil {
		return err
	}
	if err := a.check(); err != nil {
		return err
	}
	if err := c.Engine.SetNodeAuth(wireName(n.Name), iscsi.CHAPPolicy(a)); err != nil {
		return err
	}
	c.update(n.Name, func(cfg *iscsi.NodeConfig) {
		cfg.DisableCHAP, cfg.RequireCHAP, cfg.MutualCHAP, cfg.CHAPGroup = a.Disable, a.Require, a.Mutual, a.Group
	})
	return nil
}

// SetRedirect sends logins to a node that come by a portal group to another
// portal (RFC 7143 §11.13.5); nil ends that.
func (c *Control) SetRedirect(name string, tag uint16, to *Portal) error {
	c.change.Lock()
	defer c.change.Unlock()
	n, err := c.node(name)
	if err != nil {
		return err
	}
	var addr netip.AddrPort
	if to != nil {
		if addr, err = to.addr(); err != nil {
			return err
		}
	}
	if err := c.Engine.SetNodeRedirect(wireName(n.Name), tag, addr); err != nil {
		return err
	}
	c.update(n.Name, func(cfg *iscsi.NodeConfig) {
		cfg.Redirects = slices.DeleteFunc(slices.Clone(cfg.Redirects), func(r iscsi.Redirect) bool { return r.PortalTag == tag })
		if to != nil {
			cfg.Redirects = append(cfg.Redirects, iscsi.Redirect{PortalTag: tag, Addr: addr})
		}
	})
	return nil
}

// SetPortGroupState changes the asymmetric access state of the paths that a
// portal group is to a node (ALUA): commands by a path that is no longer active
// have ended when it returns, and initiators are told by a unit attention.
func (c *Control) SetPortGroupState(name string, tag uint16, state scsi.PortState) error {
	c.change.Lock()
	defer c.change.Unlock()
	n, err := c.node(name)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(n.Maps, func(m iscsi.Map) bool { return m.PortalTag == tag }) {
		return refuse(syscall.ENOENT, "target node %s has no map of portal group %d", n.Name, tag)
	}
	return c.Engine.SetPortGroupState(c.Caller, wireName(n.Name), tag, state)
}

// PortGroupStates lists the asymmetric access states of a node's portal groups.
func (c *Control) PortGroupStates(name string) ([]scsi.PortGroup, error) {
	n, err := c.node(name)
	if err != nil {
		return nil, err
	}
	return c.Engine.PortGroupStates(wireName(n.Name))
}

// Counters are the event counters of the engine and the transport beside it.
func (c *Control) Counters() []iscsi.Counter {
	list := c.Engine.Counters()
	if c.TransportCounters != nil {
		list = append(list, c.TransportCounters()...)
	}
	return list
}

// NodeStats are what target nodes have counted, or the one of a name; without a
// name the last has none, and is of discovery and of logins that came to no node.
func (c *Control) NodeStats(name string) ([]iscsi.NodeStats, error) {
	if name != "" {
		n, err := c.node(name)
		if err != nil {
			return nil, err
		}
		name = wireName(n.Name)
	}
	list, err := c.Engine.NodeStats(c.Caller, name)
	for i := range list {
		if n, err := c.node(list[i].Name); err == nil {
			list[i].Name = n.Name
		}
	}
	return list, err
}

// EnableHistograms starts counting the latencies of a node's commands, or stops.
func (c *Control) EnableHistograms(name string, on bool, o bdev.HistogramOptions) error {
	n, err := c.node(name)
	if err != nil {
		return err
	}
	return c.Engine.EnableHistograms(c.Caller, wireName(n.Name), on, o)
}

// Connections lists the connections there are; nodes have the names they were
// configured with.
func (c *Control) Connections() []iscsi.ConnInfo {
	list := c.Engine.Connections(c.Caller)
	for i := range list {
		if n, err := c.node(list[i].Node); err == nil {
			list[i].Node = n.Name
		}
	}
	return list
}

// Options returns the engine's options.
func (c *Control) Options() iscsi.Options { return c.Engine.Options() }

// SetOptions changes the engine's options; it belongs to the start-up phase.
func (c *Control) SetOptions(change func(*iscsi.Options)) error {
	c.change.Lock()
	defer c.change.Unlock()
	o := c.Engine.Options()
	change(&o)
	if !hasType(o.NodeBase) || len(o.NodeBase) > iscsiNameMax {
		return refuse(syscall.EINVAL, "node base %q is not an iSCSI name", o.NodeBase)
	}
	if err := (Auth{o.DisableCHAP, o.RequireCHAP, o.MutualCHAP, o.CHAPGroup}).check(); err != nil {
		return err
	}
	c.Engine.SetOptions(o)
	return nil
}
