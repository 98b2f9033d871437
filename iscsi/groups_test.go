package iscsi_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// Initiators of groups of their own; whoever else comes is of group 1 only, which
// is anybody.
const (
	alpha    = "iqn.2026-11.x:alpha"
	beta     = "iqn.2026-11.x:beta"
	stranger = "iqn.2026-11.x:stranger"
)

// grouped is a target of three portal groups, the third of them private, and of
// nodes with LUNs 1, 2 and 3:
//
//	open     anybody by 1
//	split    alpha by 1, which shows LUN 1; beta by 2, which shows LUN 2 and 3;
//	         alpha by 2, which shows LUN 3
//	hidden   alpha by 3
//	partly   anybody by 3, all LUNs; beta by 1, LUN 2
//	twice    anybody by 2, LUN 1; alpha by 2, LUN 2
//	unmapped nobody
func grouped(t *testing.T) (*iscsitest.Target, [4]netip.AddrPort) {
	t.Helper()
	all := iscsi.Map{PortalTag: 1, InitiatorTag: 1}
	name := func(s string) string { return "iqn.2026-11.x:" + s }
	luns := func(k uint16) func(*iscsitest.Target) []iscsi.LUN {
		return func(g *iscsitest.Target) (list []iscsi.LUN) {
			for i := range uint16(3) {
				l := iscsitest.Malloc(g, 100*k+i+1, 64)
				l.ID = i + 1
				list = append(list, l)
			}
			return list
		}
	}
	g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{Name: name("open"), Maps: []iscsi.Map{all}}, LUNs: luns(0)})
	portals := [4]netip.AddrPort{1: g.Portal}
	for tag := uint16(2); tag <= 3; tag++ {
		portals[tag] = netip.MustParseAddrPort(fmt.Sprintf("127.0.0.%d:3260", tag))
		g.AddPortalGroup(iscsi.PortalGroup{Tag: tag, Private: tag == 3, Portals: []iscsi.Portal{{Addr: portals[tag]}}})
	}
	for tag, n := range map[uint16]string{2: alpha, 3: beta} {
		must(t, g.Engine.AddInitiatorGroup(iscsi.InitiatorGroup{Tag: tag, Initiators: []string{n}, Netmasks: []string{"ANY"}}))
	}
	for i, n := range []struct {
		name string
		maps []iscsi.Map
	}{
		{"split", []iscsi.Map{
			{PortalTag: 1, InitiatorTag: 2, LUNs: []uint16{1}},
			{PortalTag: 2, InitiatorTag: 3, LUNs: []uint16{2, 3}},
			{PortalTag: 2, InitiatorTag: 2, LUNs: []uint16{3}},
		}},
		{"hidden", []iscsi.Map{{PortalTag: 3, InitiatorTag: 2}}},
		{"partly", []iscsi.Map{{PortalTag: 3, InitiatorTag: 1}, {PortalTag: 1, InitiatorTag: 3, LUNs: []uint16{2}}}},
		{"twice", []iscsi.Map{
			{PortalTag: 2, InitiatorTag: 1, LUNs: []uint16{1}},
			{PortalTag: 2, InitiatorTag: 2, LUNs: []uint16{2}},
		}},
		{"unmapped", []iscsi.Map{}},
	} {
		g.AddNode(iscsi.NodeConfig{Name: name(n.name), Maps: n.maps, LUNs: luns(uint16(i) + 1)(g)})
	}
	return g, portals
}

// view is what an initiator gets of a node by a portal group: the LUNs that it
// sees, "-" for each that it does not, or the status that it is refused with.
func view(g *iscsitest.Target, portal netip.AddrPort, initiator, node string) string {
	g.T.Helper()
	c := g.DialTo(portal)
	defer func() {
		c.Peer.Close()
		g.Settle()
	}()
	if s := c.LoginStatus("InitiatorName="+initiator, "TargetName=iqn.2026-11.x:"+node); s != 0 {
		return fmt.Sprintf("%04x", s)
	}
	seen := []byte("---")
	for lun := uint16(1); lun <= 3; lun++ {
		r := c.Do(c.Command(lun, 0, 0, 0), nil, 0)
		switch key, code := r.Triple(); {
		case key == 6: // its first unit attention
			seen[lun-1] = '0' + byte(lun)
		case key != 5 || code != 0x2500:
			g.T.Fatalf("TEST UNIT READY of LUN %d: status %02x sense %x/%04x", lun, r.Status, key, code)
		}
	}
	r := c.Do(c.Command(0, pdu.FlagRead, 256, cdb(12, 0xa0, 9, 255)...), nil, 0) // REPORT LUNS
	listed := []byte("---")
	for i := 8; i+8 <= len(r.Data); i += 8 {
		listed[be.Uint16(r.Data[i:])-1] = '0' + r.Data[i+1]
	}
	if string(listed) != string(seen) {
		g.T.Errorf("REPORT LUNS lists %s of %s, which shows %s", listed, node, seen)
	}
	return string(seen)
}

// TestPortalGroups: a node is reached through the portal groups that map it, by the
// initiators of the maps of that group alone, and each sees the LUNs of those maps.
// RFC 7143 §11.13.5: a node that the portal does not have is not found, one that is
// not for this initiator is forbidden.
func TestPortalGroups(t *testing.T) {
	g, portals := grouped(t)
	notFound, forbidden := fmt.Sprintf("%04x", uint16(pdu.LoginNotFound)), fmt.Sprintf("%04x", uint16(pdu.LoginForbidden))
	for _, tc := range []struct {
		node                    string
		alpha, beta, strangerBy [3]string // by portal group 1, 2, 3
	}{
		{"open", [3]string{"123", notFound, notFound}, [3]string{"123", notFound, notFound}, [3]string{"123", notFound, notFound}},
		{"split", [3]string{"1--", "--3", notFound}, [3]string{forbidden, "-23", notFound}, [3]string{forbidden, forbidden, notFound}},
		{"hidden", [3]string{notFound, notFound, "123"}, [3]string{notFound, notFound, forbidden}, [3]string{notFound, notFound, forbidden}},
		{"partly", [3]string{forbidden, notFound, "123"}, [3]string{"-2-", notFound, "123"}, [3]string{forbidden, notFound, "123"}},
		{"twice", [3]string{notFound, "12-", notFound}, [3]string{notFound, "1--", notFound}, [3]string{notFound, "1--", notFound}},
		{"unmapped", [3]string{notFound, notFound, notFound}, [3]string{notFound, notFound, notFound}, [3]string{notFound, notFound, notFound}},
	} {
		for name, want := range map[string][3]string{alpha: tc.alpha, beta: tc.beta, stranger: tc.strangerBy} {
			for i, want := range want {
				if got := view(g, portals[i+1], name, tc.node); got != want {
					t.Errorf("%s by portal group %d gets %s of %s, want %s", name, i+1, got, tc.node, want)
				}
			}
		}
	}
}

// TestPortalGroupsTold: SendTargets tells the nodes that a map lets this initiator
// reach, each with the portals of the groups of those maps but private ones, whatever
// portal it is asked by (RFC 7143 appendix C).
func TestPortalGroupsTold(t *testing.T) {
	g, portals := grouped(t)
	for name, want := range map[string]string{
		alpha:    "open@1 split@1@2 twice@2",
		beta:     "open@1 split@2 partly@1 twice@2",
		stranger: "open@1 twice@2",
	} {
		var text strings.Builder
		for node := range strings.FieldsSeq(want) {
			node, tags, _ := strings.Cut(node, "@")
			fmt.Fprintf(&text, "TargetName=iqn.2026-11.x:%s\x00", node)
			for tag := range strings.SplitSeq(tags, "@") {
				fmt.Fprintf(&text, "TargetAddress=%v,%s\x00", portals[tag[0]-'0'], tag)
			}
		}
		for tag := 1; tag <= 3; tag++ {
			if got := sendTargets(g, portals[tag], name); got != text.String() {
				t.Errorf("by portal group %d %s is told %q, want %q", tag, name, got, text.String())
			}
		}
	}
}

// sendTargets is what an initiator is told by a portal.
func sendTargets(g *iscsitest.Target, portal netip.AddrPort, initiator string) string {
	g.T.Helper()
	c := g.DialTo(portal)
	defer func() {
		c.Peer.Close()
		g.Settle()
	}()
	if s := c.LoginStatus("InitiatorName="+initiator, "SessionType=Discovery"); s != 0 {
		g.T.Fatalf("discovery by %v: status %04x", portal, s)
	}
	b := c.Request(pdu.TextRequest, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, iscsitest.Keys("SendTargets=All"))
	return string(c.Expect(pdu.TextResponse).Data)
}
