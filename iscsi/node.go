package iscsi

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"spindle/internal/plant"
	"spindle/iscsi/login"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/scsi"
)

// Node is a target node. Its configuration is immutable: a change makes a new
// Node around the same device.
type Node struct {
	cfg     NodeConfig
	dev     *scsi.Device
	removed *atomic.Bool // shared by the versions of a node, as are
	tallies []*tally     // by reactor
}

// depth is the command window of the node's sessions.
func (n *Node) depth(o *Options) uint32 {
	d := n.cfg.QueueDepth
	if d == 0 {
		d = o.MaxQueueDepth
	}
	return min(d, o.MaxQueueDepth, MaxQueueDepth)
}

// newNexus makes the session's I_T nexus on r. What LUNs it sees is asked anew
// for each LUN it first uses, so a changed map counts from then on.
func (n *Node) newNexus(r *reactor.Reactor, s *Session, c *Connection) *scsi.Nexus {
	e, name, tag := s.e, n.cfg.Name, c.portalTag
	peer := c.peer.Addr()
	return n.dev.NewNexus(r, scsi.NexusID{
		InitiatorName: s.initiator, ISID: s.isid, TargetName: name, TPGT: tag, RelativePort: tag,
	}, func(lun uint16) bool {
		inv := e.inventory.Load()
		node := inv.node(name)
		return node != nil && inv.sees(node, tag, s.initiator, peer, lun)
	})
}

// portalGroup is a portal group with the addresses it got.
type portalGroup struct {
	cfg   PortalGroup
	bound []netip.AddrPort
	iser  []Listener // by portal; nil where it has no iSER, or the group has not started
}

// inventory is what logins read: one immutable snapshot of the configuration.
type inventory struct {
	opt        Options
	nodes      []*Node // in order of creation
	portals    []*portalGroup
	initiators []*accessList          // in order of creation
	byTag      map[uint16]*accessList // the same
	auth       []*AuthGroup
}

func (v *inventory) node(name string) *Node {
	for _, n := range v.nodes {
		if n.cfg.Name == name {
			return n
		}
	}
	return nil
}

func (v *inventory) portalGroup(tag uint16) *portalGroup {
	for _, g := range v.portals {
		if g.cfg.Tag == tag {
			return g
		}
	}
	return nil
}

func (v *inventory) initiatorGroup(tag uint16) *accessList { return v.byTag[tag] }

// setInitiators replaces the initiator groups. Preconditions: v is not published.
func (v *inventory) setInitiators(list []*accessList) {
	v.initiators, v.byTag = list, make(map[uint16]*accessList, len(list))
	for _, l := range list {
		v.byTag[l.Tag] = l
	}
}

// admits tells whether a map's initiator group holds this initiator.
func (v *inventory) admits(m Map, initiator string, peer netip.Addr) bool {
	g := v.initiatorGroup(m.InitiatorTag)
	return g != nil && g.matches(initiator, peer)
}

// access decides a login to n through a portal group.
func (v *inventory) access(n *Node, tag uint16, initiator string, peer netip.Addr) pdu.LoginStatus {
	status := pdu.LoginNotFound // not through this portal group
	for _, m := range n.cfg.Maps {
		if m.PortalTag != tag && !plant.On(plant.PortalIgnored) {
			continue
		}
		if v.admits(m, initiator, peer) {
			return pdu.LoginSuccess
		}
		status = pdu.LoginForbidden
	}
	return status
}

// sees tells whether an initiator of a portal group sees a LUN of n.
func (v *inventory) sees(n *Node, tag uint16, initiator string, peer netip.Addr, lun uint16) bool {
	for _, m := range n.cfg.Maps {
		if m.PortalTag != tag || !v.admits(m, initiator, peer) {
			continue
		}
		if m.LUNs == nil {
			return true
		}
		for _, l := range m.LUNs {
			if l == lun {
				return true
			}
		}
	}
	return false
}

// addresses are where a portal group can be reached, as SendTargets tells it.
// An initiator is told the portals it can reach the way it came: over iSER
// those that have iSER, over TCP all.
func (v *inventory) addresses(tag uint16, local netip.AddrPort, transport string) []netip.AddrPort {
	g := v.portalGroup(tag)
	if g == nil || g.cfg.Private {
		return nil
	}
	list := make([]netip.AddrPort, 0, len(g.bound))
	for i, a := range g.bound {
		if transport == "iser" && !g.cfg.Portals[i].ISER {
			continue
		}
		if a.Addr().IsUnspecified() && a.Addr().Is4() != local.Addr().Unmap().Is4() {
			continue // no address of this family is known to reach us
		}
		list = append(list, reachable(a, local))
	}
	return list
}

// accessList is an initiator group made ready to be asked: logins and discovery ask
// on a reactor, and whoever has not logged in yet decides how often.
type accessList struct {
	InitiatorGroup
	any  bool // from any address
	nets []netip.Prefix
}

func newAccessList(g InitiatorGroup) (*accessList, error) {
	l := &accessList{InitiatorGroup: g}
	l.Initiators, l.Netmasks = slices.Clone(g.Initiators), slices.Clone(g.Netmasks)
	for _, n := range l.Initiators {
		if n == "" || len(n) > pdu.MaxName+1 {
			return nil, fmt.Errorf("initiator name %q: %w", n, ErrInvalid)
		}
	}
	for _, m := range l.Netmasks {
		p, any, err := parseNetmask(m)
		if err != nil {
			return nil, fmt.Errorf("netmask %q: %w", m, ErrInvalid)
		}
		if l.any = l.any || any; !any {
			l.nets = append(l.nets, p)
		}
	}
	return l, nil
}

// matches tells whether an initiator belongs to the group. A name that is
// denied stays so whatever else the list holds.
func (l *accessList) matches(initiator string, peer netip.Addr) bool {
	return l.matchesName(initiator) && l.matchesAddr(peer)
}

func (l *accessList) matchesName(initiator string) bool {
	ok := false
	for _, n := range l.Initiators {
		deny := strings.HasPrefix(n, "!")
		n = strings.TrimPrefix(n, "!")
		if n != "ANY" && n != "ALL" && !strings.EqualFold(n, initiator) {
			continue
		}
		if deny {
			return false
		}
		ok = true
	}
	return ok
}

func (l *accessList) matchesAddr(peer netip.Addr) bool {
	peer = peer.Unmap().WithZone("")
	return l.any || slices.ContainsFunc(l.nets, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// parseNetmask reads "ANY", an address, or CIDR; IPv6 may be in brackets.
func parseNetmask(s string) (p netip.Prefix, any bool, err error) {
	if s == "ANY" || s == "ALL" {
		return p, true, nil
	}
	s = strings.NewReplacer("[", "", "]", "").Replace(s)
	if strings.Contains(s, "/") {
		p, err = netip.ParsePrefix(s)
		return p.Masked(), false, err
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return p, false, err
	}
	p, err = a.Unmap().Prefix(a.Unmap().BitLen())
	return p, false, err
}

// AuthGroup is a set of CHAP secrets.
type AuthGroup struct {
	Tag     int32
	Secrets []Secret
}

// Secret is one user of an AuthGroup; MUser and MSecret are what we prove to it.
// It holds for logins under the names of Initiators, in lower case; under any
// name when there are none.
type Secret struct {
	User, Secret, MUser, MSecret string
	Initiators                   []string
}

// Credentials implements login.SecretStore.
func (g *AuthGroup) Credentials(user, initiator string) (login.Credentials, bool) {
	for _, s := range g.Secrets {
		if s.User == user && (len(s.Initiators) == 0 || slices.Contains(s.Initiators, initiator)) {
			return login.Credentials{Secret: []byte(s.Secret), MutualUser: s.MUser, MutualSecret: []byte(s.MSecret)}, true
		}
	}
	return login.Credentials{}, false
}

// chap is what a node asks of authentication.
func (n *NodeConfig) chap() CHAPPolicy {
	return CHAPPolicy{Disable: n.DisableCHAP, Require: n.RequireCHAP, Mutual: n.MutualCHAP, Group: n.CHAPGroup}
}

// discoveryAuth is what discovery by a portal group asks of authentication.
func (v *inventory) discoveryAuth(tag uint16) CHAPPolicy {
	if g := v.portalGroup(tag); g != nil && g.cfg.Auth != nil {
		return *g.cfg.Auth
	}
	o := &v.opt
	return CHAPPolicy{Disable: o.DisableCHAP, Require: o.RequireCHAP, Mutual: o.MutualCHAP, Group: o.CHAPGroup}
}

// redirect is where logins by a portal group are sent that came to local, "" when
// they stay: they have come to where they are sent. A portal group that is bound to
// the wildcard address has addresses that its configuration does not tell.
func (n *NodeConfig) redirect(tag uint16, local netip.AddrPort) string {
	for _, r := range n.Redirects {
		if r.PortalTag == tag && plain(r.Addr) != plain(local) {
			return r.Addr.String()
		}
	}
	return ""
}

// plain is an address without what the same one may be written with.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

func (a CHAPPolicy) apply(p *login.Policy, v *inventory, entropy io.Reader) {
	if a.Disable {
		return
	}
	p.RequireAuth = a.Require
	for _, g := range v.auth {
		if g.Tag == a.Group && a.Group != 0 {
			p.CHAP = &login.CHAP{Store: g, Entropy: entropy, Mutual: a.Mutual}
		}
	}
}
