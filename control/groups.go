package control

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"spindle/iscsi"
)

// Limits of the lists that groups and nodes are made of; SPDK's.
const (
	MaxPortals    = 1024 // a portal group
	MaxInitiators = 256  // names, and netmasks, an initiator group
	MaxMaps       = 256  // portal group to initiator group maps a node
	MaxLUNsGiven  = 64   // LUNs in the call that creates a node
	MaxLUN        = 1<<14 - 1
)

// Portal is a portal as its maker wrote it.
type Portal struct {
	Host string `json:"host"`
	Port string `json:"port"`
	// ISER serves the address over iSER as well, as soon as an RDMA device does.
	ISER bool `json:"iser,omitempty"`
	// Waits is why it is not served over iSER yet; told, not set.
	Waits string `json:"-"`
}

// PortalGroup is a set of portals with one tag.
type PortalGroup struct {
	Tag     uint16
	Portals []Portal
	Private bool
	Wait    bool  // does not listen until it is started
	Auth    *Auth // of discovery by the group; nil is everybody's
}

func (p Portal) addr() (netip.AddrPort, error) {
	host := strings.TrimSuffix(strings.TrimPrefix(p.Host, "["), "]")
	ip, err := netip.ParseAddr(host)
	if err != nil {
		if host != "*" {
			return netip.AddrPort{}, refuse(syscall.EINVAL, "portal host %q is not an IP address", p.Host)
		}
		ip = netip.IPv4Unspecified()
	}
	text := p.Port
	if text == "" {
		text = "3260" // IANA's iscsi-target
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return netip.AddrPort{}, refuse(syscall.EINVAL, "portal port %q is not a number up to 65535", p.Port)
	}
	return netip.AddrPortFrom(ip, uint16(port)), nil
}

func (g PortalGroup) config() (iscsi.PortalGroup, error) {
	e := iscsi.PortalGroup{Tag: g.Tag, Private: g.Private, Wait: g.Wait}
	if len(g.Portals) == 0 || len(g.Portals) > MaxPortals {
		return e, refuse(syscall.EINVAL, "a portal group has 1 to %d portals", MaxPortals)
	}
	for _, p := range g.Portals {
		addr, err := p.addr()
		if err != nil {
			return e, err
		}
		if slices.ContainsFunc(e.Portals, func(q iscsi.Portal) bool { return q.Addr == addr }) && addr.Port() != 0 {
			return e, refuse(syscall.EINVAL, "portal %s is given twice", addr)
		}
		e.Portals = append(e.Portals, iscsi.Portal{Addr: addr, ISER: p.ISER})
	}
	return e, nil
}

// CreatePortalGroup makes a portal group and listens, unless it waits.
func (c *Control) CreatePortalGroup(g PortalGroup) error {
	c.change.Lock()
	defer c.change.Unlock()
	e, err := g.config()
	if err != nil {
		return err
	}
	if err := c.portal.vacant(g.Tag); err != nil {
		return err
	}
	if err := c.Engine.AddPortalGroup(c.Caller, e); err != nil {
		return err
	}
	c.portal.put(g)
	return nil
}

// StartPortalGroup makes a waiting portal group listen.
func (c *Control) StartPortalGroup(tag uint16) error {
	c.change.Lock()
	defer c.change.Unlock()
	g, err := c.portal.get(tag)
	if err != nil {
		return err
	}
	if err := c.Engine.StartPortalGroup(c.Caller, tag); err != nil {
		return err
	}
	g.Wait = false
	c.portal.put(g)
	return nil
}

// SetPortalGroupAuth says who must authenticate for discovery by a portal group,
// from the next login on.
func (c *Control) SetPortalGroupAuth(tag uint16, a Auth) error {
	c.change.Lock()
	defer c.change.Unlock()
	g, err := c.portal.get(tag)
	if err != nil {
		return err
	}
	if err := a.check(); err != nil {
		return err
	}
	if err := c.Engine.SetPortalGroupAuth(tag, iscsi.CHAPPolicy(a)); err != nil {
		return err
	}
	g.Auth = &a
	c.portal.put(g)
	return nil
}

// DeletePortalGroup deletes a portal group; the nodes it led to lose the maps
// that name it.
func (c *Control) DeletePortalGroup(tag uint16) error {
	c.change.Lock()
	defer c.change.Unlock()
	if _, err := c.portal.get(tag); err != nil {
		return err
	}
	if err := c.removeMapsWhere(func(m iscsi.Map) bool { return m.PortalTag == tag }); err != nil {
		return err
	}
	if err := c.Engine.RemovePortalGroup(c.Caller, tag); err != nil {
		return err
	}
	c.portal.drop(tag)
	return nil
}

// SetISER has the portals of a group served over iSER too, or no longer: those
// whose address is host and port, or all of them when both are empty. Switched
// off, what came by iSER ends; TCP is left alone.
func (c *Control) SetISER(tag uint16, portal Portal, on bool) error {
	c.change.Lock()
	defer c.change.Unlock()
	g, err := c.portal.get(tag)
	if err != nil {
		return err
	}
	all := portal.Host == "" && portal.Port == ""
	if all {
		if err := c.Engine.SetPortalGroupISER(c.Caller, tag, on); err != nil {
			return err
		}
	} else {
		addr, err := portal.addr()
		if err != nil {
			return err
		}
		if err := c.Engine.SetPortalISER(c.Caller, tag, addr, on); err != nil {
			return err
		}
		portal = Portal{Host: addr.Addr().String(), Port: strconv.Itoa(int(addr.Port()))}
	}
	g.Portals = slices.Clone(g.Portals)
	for j, now := range c.bound(g).Portals {
		addr, err := now.addr()
		if all || err == nil && addr.Addr().String() == portal.Host && strconv.Itoa(int(addr.Port())) == portal.Port {
			g.Portals[j].ISER = on
		}
	}
	c.portal.put(g)
	return nil
}

// bound is a portal group with the ports that the kernel chose, and why portals
// are not served over iSER yet.
func (c *Control) bound(g PortalGroup) PortalGroup {
	groups := c.Engine.PortalGroups()
	k := slices.IndexFunc(groups, func(b iscsi.PortalGroup) bool { return b.Tag == g.Tag })
	if k < 0 || len(groups[k].Portals) != len(g.Portals) {
		return g
	}
	g.Portals = slices.Clone(g.Portals)
	for j, b := range groups[k].Portals {
		g.Portals[j].Port = strconv.Itoa(int(b.Addr.Port()))
		g.Portals[j].Waits = b.ISERWait
	}
	return g
}

// PortalGroups lists the portal groups. A port that the kernel chose is shown
// as it is.
func (c *Control) PortalGroups() []PortalGroup {
	groups := c.portal.all()
	for i, g := range groups {
		groups[i] = c.bound(g)
	}
	return groups
}

// CreateInitiatorGroup makes an access list.
func (c *Control) CreateInitiatorGroup(g iscsi.InitiatorGroup) error {
	c.change.Lock()
	defer c.change.Unlock()
	if err := checkInitiators(g); err != nil {
		return err
	}
	if err := c.init.vacant(g.Tag); err != nil {
		return err
	}
	if err := c.Engine.AddInitiatorGroup(g); err != nil {
		return err
	}
	c.init.put(g)
	return nil
}

func checkInitiators(g iscsi.InitiatorGroup) error {
	if len(g.Initiators) > MaxInitiators || len(g.Netmasks) > MaxInitiators {
		return refuse(syscall.EINVAL, "an initiator group has at most %d names and %d netmasks", MaxInitiators, MaxInitiators)
	}
	for i, n := range g.Initiators {
		bare := strings.TrimPrefix(n, "!")
		if bare == "" || len(bare) > iscsiNameMax {
			return refuse(syscall.EINVAL, "initiator name %q is empty or longer than %d bytes", n, iscsiNameMax)
		}
		if slices.Contains(g.Initiators[:i], n) {
			return refuse(syscall.EEXIST, "initiator name %q is given twice", n)
		}
	}
	for i, m := range g.Netmasks {
		if err := checkNetmask(m); err != nil {
			return err
		}
		if slices.Contains(g.Netmasks[:i], m) {
			return refuse(syscall.EEXIST, "netmask %q is given twice", m)
		}
	}
	return nil
}

func checkNetmask(m string) error {
	if isAny(m) {
		return nil
	}
	host, bits, masked := strings.Cut(m, "/")
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	ip, err := netip.ParseAddr(host)
	if err == nil && masked {
		var n int
		if n, err = strconv.Atoi(bits); err == nil {
			_, err = ip.Prefix(n)
		}
	}
	if err != nil {
		return refuse(syscall.EINVAL, "netmask %q is not ANY, an address or a CIDR block", m)
	}
	return nil
}

// isAny recognises the word that matches everything; ALL is its older spelling.
func isAny(s string) bool { return s == "ANY" || s == "ALL" }

// EditInitiatorGroup adds names and netmasks to an initiator group, or removes
// those given, all or none.
func (c *Control) EditInitiatorGroup(g iscsi.InitiatorGroup, remove bool) error {
	c.change.Lock()
	defer c.change.Unlock()
	next, err := c.init.get(g.Tag)
	if err != nil {
		return err
	}
	if next.Initiators, err = edit(next.Initiators, g.Initiators, remove); err != nil {
		return err
	}
	if next.Netmasks, err = edit(next.Netmasks, g.Netmasks, remove); err != nil {
		return err
	}
	if err := checkInitiators(next); err != nil {
		return err
	}
	if err := c.Engine.SetInitiatorGroup(next); err != nil {
		return err
	}
	c.init.put(next)
	return nil
}

// edit returns a copy of list with some entries more or fewer.
func edit(list, some []string, remove bool) ([]string, error) {
	list = slices.Clone(list)
	if !remove {
		return append(list, some...), nil
	}
	for _, s := range some {
		i := slices.Index(list, s)
		if i < 0 {
			return nil, refuse(syscall.ENOENT, "%q is not in the group", s)
		}
		list = slices.Delete(list, i, i+1)
	}
	return list, nil
}

// DeleteInitiatorGroup deletes an initiator group; nodes lose the maps that
// name it.
func (c *Control) DeleteInitiatorGroup(tag uint16) error {
	c.change.Lock()
	defer c.change.Unlock()
	if _, err := c.init.get(tag); err != nil {
		return err
	}
	if err := c.removeMapsWhere(func(m iscsi.Map) bool { return m.InitiatorTag == tag }); err != nil {
		return err
	}
	if err := c.Engine.RemoveInitiatorGroup(tag); err != nil {
		return err
	}
	c.init.drop(tag)
	return nil
}

// InitiatorGroups lists the initiator groups.
func (c *Control) InitiatorGroups() []iscsi.InitiatorGroup { return c.init.all() }
