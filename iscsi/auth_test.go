package iscsi_test

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

var discovery = []string{"InitiatorName=" + iscsitest.Initiator, "SessionType=Discovery"}

// secretGroup sets auth group 1 to one user with this secret.
func secretGroup(g *iscsitest.Target, secret string) {
	g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: chapUser, Secret: secret, MUser: "target", MSecret: "the-targets-secret"}}})
}

// TestSetNodeAuth: what a node asks of authentication changes for the logins
// from then on, and for no session.
func TestSetNodeAuth(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	secretGroup(g, chapSecret)
	before := dialAs(g, 1).Login()
	ready(t, before, 1)
	must(t, g.Engine.SetNodeAuth(iscsitest.Node, iscsi.CHAPPolicy{Require: true, Group: 1}))
	if s := dialAs(g, 2).LoginStatus(who...); s != uint16(pdu.LoginAuthFailed) {
		t.Fatalf("without CHAP: status %04x", s)
	}
	chap(t, dialAs(g, 3), chapUser, chapSecret, pdu.LoginSuccess, who...)
	if s := dialAs(g, 4).LoginStatus(discovery...); s != 0 {
		t.Fatalf("discovery: status %04x", s)
	}
	must(t, g.Engine.SetNodeAuth(iscsitest.Node, iscsi.CHAPPolicy{Require: true, Mutual: true, Group: 1}))
	chap(t, dialAs(g, 5), chapUser, chapSecret, pdu.LoginAuthFailed, who...)
	mutual(t, dialAs(g, 6), who...)
	must(t, g.Engine.SetNodeAuth(iscsitest.Node, iscsi.CHAPPolicy{Disable: true}))
	ready(t, dialAs(g, 7).Login(), 1)
	alive(t, before)
	for _, bad := range []iscsi.CHAPPolicy{{Disable: true, Require: true}, {Mutual: true}} {
		if g.Engine.SetNodeAuth(iscsitest.Node, bad) == nil || g.Engine.SetPortalGroupAuth(1, bad) == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	if g.Engine.SetNodeAuth("iqn.2026-11.dev.spindle:none", iscsi.CHAPPolicy{}) == nil || g.Engine.SetPortalGroupAuth(9, iscsi.CHAPPolicy{}) == nil {
		t.Error("no such node or group, and no error")
	}
}

// TestForeignUserTakesNoName: a user who knows a secret of the group, but is not
// bound to the name it gives, is refused like one who knows none, and so takes
// no session, reservation or registration of the nexus that has the name.
func TestForeignUserTakesNoName(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{RequireCHAP: true, CHAPGroup: 1}})
	g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{
		{User: chapUser, Secret: chapSecret, Initiators: []string{"iqn.2026-11.dev.spindle:other", strings.ToLower(iscsitest.Initiator)}},
		{User: "mallory", Secret: "mallory's own secret", Initiators: []string{"iqn.2026-11.dev.spindle:mallory"}},
		{User: "anyone", Secret: "a secret for any name"},
	}})
	owner := dialAs(g, 1)
	chap(t, owner, chapUser, chapSecret, pdu.LoginSuccess, who...)
	ready(t, owner, 1)
	chap(t, dialAs(g, 1), "mallory", "mallory's own secret", pdu.LoginAuthFailed, who...)
	alive(t, owner)
	mallory := append([]string{"InitiatorName=iqn.2026-11.dev.Spindle:MALLORY"}, who[1:]...)
	chap(t, dialAs(g, 2), "mallory", "mallory's own secret", pdu.LoginSuccess, mallory...)
	chap(t, dialAs(g, 3), chapUser, chapSecret, pdu.LoginAuthFailed, mallory...)
	chap(t, dialAs(g, 4), "anyone", "a secret for any name", pdu.LoginSuccess, who...)
}

// TestForeignUserReplacesNoSession: while the user who began a session could log
// in again, no other, nor one without CHAP, replaces it under the same name.
func TestForeignUserReplacesNoSession(t *testing.T) {
	const other = "the secret of another"
	secrets := []iscsi.Secret{{User: chapUser, Secret: chapSecret}, {User: "other", Secret: other}}
	for _, tc := range []struct {
		name  string
		since func(g *iscsitest.Target)
		chap  bool
		want  pdu.LoginStatus
	}{
		{"another user", func(*iscsitest.Target) {}, true, pdu.LoginForbidden},
		{"nobody, where CHAP is a choice", func(g *iscsitest.Target) {
			must(t, g.Engine.SetNodeAuth(iscsitest.Node, iscsi.CHAPPolicy{Group: 1}))
		}, false, pdu.LoginForbidden},
		{"another user, the first has no secret any more", func(g *iscsitest.Target) {
			g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: secrets[1:]})
		}, true, pdu.LoginSuccess},
		{"nobody, where CHAP is not asked for any more", func(g *iscsitest.Target) {
			must(t, g.Engine.SetNodeAuth(iscsitest.Node, iscsi.CHAPPolicy{Disable: true}))
		}, false, pdu.LoginSuccess},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Reactors: 2, Node: iscsi.NodeConfig{RequireCHAP: true, CHAPGroup: 1}})
			g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: secrets})
			owner := g.Dial()
			chap(t, owner, chapUser, chapSecret, pdu.LoginSuccess, who...)
			ready(t, owner, 1)
			tc.since(g)
			c := g.Dial()
			if !tc.chap {
				if s := c.LoginStatus(who...); s != uint16(tc.want) {
					t.Fatalf("status %04x", s)
				}
			} else if tc.want == pdu.LoginSuccess {
				chap(t, c, "other", other, tc.want, who...)
			} else {
				security(t, c, "other", other, pdu.LoginSuccess, who...)
				c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, nil)
				if s := c.Expect(pdu.LoginResponse).BHS.LoginStatus(); s != tc.want {
					t.Fatalf("status %04x", s)
				}
			}
			if tc.want == pdu.LoginSuccess {
				owner.ExpectClosed()
				return
			}
			owner.Expect(pdu.NopIn) // whether it lives
			alive(t, owner)
			chap(t, g.Dial(), chapUser, chapSecret, pdu.LoginSuccess, who...)
			owner.ExpectClosed()
		})
	}
}

// mutual logs in with CHAP in both directions and checks the target's response.
func mutual(t *testing.T, c *iscsitest.Conn, kv ...string) {
	t.Helper()
	step := func(flags byte, kv ...string) (pdu.BHS, map[string]string) {
		c.Send(c.LoginBHS(flags), nil, iscsitest.Keys(kv...))
		p := c.Expect(pdu.LoginResponse)
		c.ExpStatSN = p.BHS.StatSN() + 1
		return p.BHS, pairs(p.Data)
	}
	step(0, append(kv, "AuthMethod=CHAP")...)
	_, got := step(0, "CHAP_A=7")
	ours := "0x" + hex.EncodeToString(pattern(32, 4))
	b, answer := step(pdu.FlagTransit|1, "CHAP_N="+chapUser, "CHAP_R="+chapResponse(t, got["CHAP_I"], chapSecret, got["CHAP_C"]), "CHAP_I=77", "CHAP_C="+ours)
	if b.LoginStatus() != 0 || answer["CHAP_N"] != "target" || answer["CHAP_R"] != chapResponse(t, "77", "the-targets-secret", ours) {
		t.Fatalf("status %04x, answered %v", b.LoginStatus(), answer)
	}
	if b, _ = step(pdu.FlagTransit | 1<<2 | 3); b.LoginStatus() != 0 || b.TSIH() == 0 {
		t.Fatalf("% x", b)
	}
}

// TestDiscoveryAuth: the engine's options hold for discovery unless the portal
// group says otherwise.
func TestDiscoveryAuth(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.RequireCHAP, o.CHAPGroup = true, 1 })})
	secretGroup(g, chapSecret)
	refused := func(n byte) {
		t.Helper()
		if s := dialAs(g, n).LoginStatus(discovery...); s != uint16(pdu.LoginAuthFailed) {
			t.Fatalf("without CHAP: status %04x", s)
		}
	}
	refused(1)
	chap(t, dialAs(g, 2), chapUser, chapSecret, pdu.LoginSuccess, discovery...)
	ready(t, dialAs(g, 3).Login(), 1)
	must(t, g.Engine.SetPortalGroupAuth(1, iscsi.CHAPPolicy{Disable: true}))
	if s := dialAs(g, 4).LoginStatus(discovery...); s != 0 {
		t.Fatalf("the group asks for nothing: status %04x", s)
	}
	must(t, g.Engine.SetPortalGroupAuth(1, iscsi.CHAPPolicy{Require: true, Mutual: true, Group: 1}))
	refused(5)
	chap(t, dialAs(g, 6), chapUser, chapSecret, pdu.LoginAuthFailed, discovery...)
	mutual(t, dialAs(g, 7), discovery...)
}

// TestRotateSecrets: a secret that is replaced counts from the next login on, and
// sessions stay.
func TestRotateSecrets(t *testing.T) {
	const fresh = "a-new-secret-of-24-bytes"
	g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{RequireCHAP: true, CHAPGroup: 1}})
	secretGroup(g, chapSecret)
	old := dialAs(g, 1)
	chap(t, old, chapUser, chapSecret, pdu.LoginSuccess, who...)
	ready(t, old, 1)
	secretGroup(g, fresh)
	chap(t, dialAs(g, 2), chapUser, chapSecret, pdu.LoginAuthFailed, who...)
	chap(t, dialAs(g, 3), chapUser, fresh, pdu.LoginSuccess, who...)
	g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1})
	chap(t, dialAs(g, 4), chapUser, fresh, pdu.LoginAuthFailed, who...)
	g.Engine.RemoveAuthGroup(1)
	if s := dialAs(g, 5).LoginStatus(who...); s != uint16(pdu.LoginAuthFailed) {
		t.Fatalf("without a group: status %04x", s)
	}
	alive(t, old)
}

// TestRedirect: logins by a portal group are sent elsewhere (status 0101) until
// that is ended; sessions are asked to come again.
func TestRedirect(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	there := dialAs(g, 1).Login()
	ready(t, there, 1)
	to := netip.MustParseAddrPort("192.0.2.7:3261")
	must(t, g.Engine.SetNodeRedirect(iscsitest.Node, 1, to))
	c := dialAs(g, 2)
	if s := c.LoginStatus(who...); s != uint16(pdu.LoginMovedTemporarily) || c.Answered["TargetAddress"] != to.String() {
		t.Fatalf("status %04x, answered %v", s, c.Answered)
	}
	c.ExpectClosed()
	if n := count(t, g, "redirects"); n != 1 {
		t.Errorf("%d redirects counted", n)
	}
	alive(t, there)
	must(t, g.Engine.RequestLogoutBy(g, iscsitest.Node, 9))
	silent(t, g, there)
	must(t, g.Engine.RequestLogoutBy(g, iscsitest.Node, 1))
	if b := there.Expect(pdu.AsyncMessage).BHS; b.AsyncEvent() != pdu.AsyncLogoutRequest {
		t.Fatalf("% x", b)
	}
	for _, bad := range []string{"127.0.0.1:3260", "0.0.0.0:3260", "192.0.2.7:0"} {
		if g.Engine.SetNodeRedirect(iscsitest.Node, 1, netip.MustParseAddrPort(bad)) == nil {
			t.Errorf("redirected to %s", bad)
		}
	}
	if g.Engine.SetNodeRedirect(iscsitest.Node, 2, to) == nil || g.Engine.SetNodeRedirect("none", 1, to) == nil {
		t.Error("no such map or node, and no error")
	}
	must(t, g.Engine.SetNodeRedirect(iscsitest.Node, 1, netip.AddrPort{}))
	ready(t, dialAs(g, 3).Login(), 1)
}

// TestLoginHalfOpen: a login that was begun before a change does not pass by what
// held then. Whoever knows a secret that leaked could keep logins half open, and
// have a session when the secret has been replaced and the sessions by it ended.
func TestLoginHalfOpen(t *testing.T) {
	const fresh = "a-new-secret-of-24-bytes"
	node := func(a iscsi.CHAPPolicy) func(*testing.T, *iscsitest.Target) {
		return func(t *testing.T, g *iscsitest.Target) {
			t.Helper()
			must(t, g.Engine.SetNodeAuth(iscsitest.Node, a))
		}
	}
	group := func(names ...string) func(*testing.T, *iscsitest.Target) {
		return func(t *testing.T, g *iscsitest.Target) {
			t.Helper()
			must(t, g.Engine.SetInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: names, Netmasks: []string{"ANY"}}))
		}
	}
	for _, tc := range []struct {
		name string
		chap bool
		then func(*testing.T, *iscsitest.Target)
		want pdu.LoginStatus
	}{
		{"nothing changes", true, func(*testing.T, *iscsitest.Target) {}, pdu.LoginSuccess},
		{"nothing changes, no CHAP", false, func(*testing.T, *iscsitest.Target) {}, pdu.LoginSuccess},
		{"another secret", true, func(_ *testing.T, g *iscsitest.Target) { secretGroup(g, fresh) }, pdu.LoginAuthFailed},
		{"the user is gone", true, func(_ *testing.T, g *iscsitest.Target) { g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1}) }, pdu.LoginAuthFailed},
		{"the group is gone", true, func(_ *testing.T, g *iscsitest.Target) { g.Engine.RemoveAuthGroup(1) }, pdu.LoginAuthFailed},
		{"CHAP is required", false, node(iscsi.CHAPPolicy{Require: true, Group: 1}), pdu.LoginAuthFailed},
		{"mutual CHAP is required", true, node(iscsi.CHAPPolicy{Require: true, Mutual: true, Group: 1}), pdu.LoginAuthFailed},
		{"CHAP is not asked for any more", true, node(iscsi.CHAPPolicy{Disable: true}), pdu.LoginSuccess},
		{"the initiator is not admitted", true, group("!"+iscsitest.Initiator, "ANY"), pdu.LoginForbidden},
		{"it still is", true, group(iscsitest.Initiator), pdu.LoginSuccess},
		{"redirection", true, func(t *testing.T, g *iscsitest.Target) {
			must(t, g.Engine.SetNodeRedirect(iscsitest.Node, 1, netip.MustParseAddrPort("192.0.2.7:3261")))
		}, pdu.LoginMovedTemporarily},
		{"another node of the name", false, func(t *testing.T, g *iscsitest.Target) {
			must(t, g.Engine.RemoveNode(g, iscsitest.Node))
			g.AddNode(iscsi.NodeConfig{Name: iscsitest.Node, RequireCHAP: true, CHAPGroup: 1})
		}, pdu.LoginAuthFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Reactors: 2, Node: iscsi.NodeConfig{RequireCHAP: tc.chap, CHAPGroup: 1}})
			secretGroup(g, chapSecret)
			c := g.Dial()
			if tc.chap {
				security(t, c, chapUser, chapSecret, pdu.LoginSuccess, who...)
			} else {
				c.Send(c.LoginBHS(1<<2), nil, iscsitest.Keys(who...))
				c.ExpStatSN = c.Expect(pdu.LoginResponse).BHS.StatSN() + 1
			}
			tc.then(t, g)
			c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, nil)
			p := c.Expect(pdu.LoginResponse)
			if s := p.BHS.LoginStatus(); s != tc.want {
				t.Fatalf("status %04x, want %04x", s, tc.want)
			}
			if to := pairs(p.Data)["TargetAddress"]; (to != "") != (tc.want == pdu.LoginMovedTemporarily) {
				t.Fatalf("sent to %q", to)
			}
			if tc.want != pdu.LoginSuccess {
				c.ExpectClosed()
			}
		})
	}
}

// TestRedirectArrives: a portal group on the wildcard address may send logins from
// one of its addresses to another, and those that have come there stay.
func TestRedirectArrives(t *testing.T) {
	for _, tc := range []struct{ name, bound, here, there string }{
		{"IPv4", "0.0.0.0:3261", "10.0.0.1:3261", "10.0.0.2:3261"},
		{"IPv6", "[::]:3261", "[2001:db8::1]:3261", "[2001:db8::2]:3261"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			g.AddPortalGroup(iscsi.PortalGroup{Tag: 2, Portals: []iscsi.Portal{{Addr: netip.MustParseAddrPort(tc.bound)}}})
			must(t, g.Engine.AddMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 2, InitiatorTag: 1}}))
			to := netip.MustParseAddrPort(tc.there)
			must(t, g.Engine.SetNodeRedirect(iscsitest.Node, 2, to))
			c := g.DialTo(netip.MustParseAddrPort(tc.here))
			if s := c.LoginStatus(who...); s != uint16(pdu.LoginMovedTemporarily) || c.Answered["TargetAddress"] != tc.there {
				t.Fatalf("status %04x, answered %v", s, c.Answered)
			}
			ready(t, g.DialTo(to).Login(), 1)
		})
	}
}
