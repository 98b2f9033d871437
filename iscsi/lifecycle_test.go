package iscsi_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// TestLogoutVariants: reasons and their answers (RFC 7143 §11.14, §11.15).
func TestLogoutVariants(t *testing.T) {
	for _, tc := range []struct {
		name   string
		reason byte
		cid    uint16
		resp   uint8
		closes bool
	}{
		{"close the session", pdu.LogoutCloseSession, 0, pdu.LogoutSuccess, true},
		{"close the session, CID ignored", pdu.LogoutCloseSession, 77, pdu.LogoutSuccess, true},
		{"close the connection", pdu.LogoutCloseConnection, 0, pdu.LogoutSuccess, true},
		{"close another connection", pdu.LogoutCloseConnection, 77, pdu.LogoutCIDNotFound, false},
		{"remove for recovery", pdu.LogoutRemoveForReinst, 0, pdu.LogoutNoRecovery, false},
	} {
		for _, immediate := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				g, dev := faulty(t, iscsitest.Options{})
				c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=No")
				ready(t, c, 1)
				if tc.closes { // with tasks in two states
					hold(t, dev, bdev.Read, 1)
					c.Send(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)
					c.Send(c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, nil)
					c.Expect(pdu.R2T)
				}
				b := c.Request(pdu.LogoutReq, pdu.FlagFinal|tc.reason)
				if immediate {
					b.SetImmediate()
					c.CmdSN--
				}
				b.SetCID(tc.cid)
				c.Send(b, nil, nil)
				p := c.Expect(pdu.LogoutResp).BHS
				if p.ITT() != b.ITT() || p.Response() != tc.resp || p.StatSN() != c.ExpStatSN || p.Time2Wait() != 2 || p.Time2Retain() != 20 {
					t.Fatalf("% x", p)
				}
				c.ExpStatSN++
				if !tc.closes {
					alive(t, c)
					return
				}
				c.ExpectClosed()
				g.Until("session gone", func() bool { return len(g.Engine.Connections(g)) == 0 })
			})
		}
	}
}

// TestLogoutWaits: the response comes after the commands have left the backend.
func TestLogoutWaits(t *testing.T) {
	g, slow := stubborn(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	slow.n = 1
	c.Send(c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, pattern(4096, 1))
	c.Send(c.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil)
	g.Advance(time.Second)
	silent(t, g, c)
	slow.finish()
	if p := c.Expect(pdu.LogoutResp); p.BHS.Response() != pdu.LogoutSuccess {
		t.Fatalf("% x", p.BHS)
	}
	c.ExpectClosed()
}

// TestLogoutThenGone: the initiator vanishes while its logout waits.
func TestLogoutThenGone(t *testing.T) {
	g, slow := stubborn(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	slow.n = 1
	c.Send(c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, pattern(4096, 1))
	c.Send(c.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil)
	g.Settle()
	c.Peer.Reset()
	g.Settle()
	slow.finish()
	g.Settle()
	slow.n = 0
	ready(t, g.Dial().Login(), 1)
}

// login1 sends the whole login of a normal session and returns without its answer.
func login1(c *iscsitest.Conn, kv ...string) {
	c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil,
		iscsitest.Keys(append([]string{"InitiatorName=" + iscsitest.Initiator, "TargetName=" + iscsitest.Node}, kv...)...))
}

// TestReinstatement: a login with the name and ISID of a session replaces it
// (RFC 7143 §6.3.5): the old one ends first, its tasks included, and the new
// nexus starts afresh.
func TestReinstatement(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Reactors: 2})
	c := g.Dial().Login()
	ready(t, c, 1)
	again := g.Dial().Login()
	c.ExpectClosed()
	if again.TSIH == c.TSIH || again.TSIH == 0 {
		t.Fatalf("TSIH %d after %d", again.TSIH, c.TSIH)
	}
	ready(t, again, 1)
	alive(t, again)
	if n := g.Engine.Stats.Reinstatements.Load(); n != 1 {
		t.Fatalf("%d reinstatements", n)
	}
	if n := len(g.Engine.Connections(g)); n != 1 {
		t.Fatalf("%d connections", n)
	}
}

// TestReinstatementWaits: a command in the backend delays the new session; if
// it does not come back, the login is refused and may be tried again.
func TestReinstatementWaits(t *testing.T) {
	g, slow := stubborn(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	slow.n = 1
	c.Send(c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, pattern(4096, 1))
	g.Settle()
	slow.n = 0
	second := g.Dial()
	login1(second)
	g.Advance(5 * time.Second)
	silent(t, g, second)
	c.ExpectClosed()
	g.Advance(6 * time.Second)
	if p := second.Expect(pdu.LoginResponse); p.BHS.LoginStatus() != pdu.LoginUnavailable {
		t.Fatalf("% x", p.BHS)
	}
	second.ExpectClosed()
	if n := g.Engine.Waiting(); n != 0 {
		t.Errorf("%d logins that were refused are kept", n)
	}
	third := g.Dial()
	login1(third)
	g.Advance(time.Second)
	silent(t, g, third)
	slow.finish()
	if p := third.Expect(pdu.LoginResponse); p.BHS.LoginStatus() != pdu.LoginSuccess {
		t.Fatalf("% x", p.BHS)
	}
	third.ExpStatSN++
	ready(t, third, 1)
	alive(t, third)
}

// TestReinstatementEvicted: logins that wait for a session to end are kept no longer
// than their connections, which go when more of them come.
func TestReinstatementEvicted(t *testing.T) {
	const most = 3
	g, slow := stubborn(t, iscsitest.Options{Reactors: 2, Engine: options(func(o *iscsi.Options) { o.MaxPendingPerAddress = most })})
	c := g.Dial().Login()
	ready(t, c, 1)
	slow.n = 1
	c.Send(c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, pattern(4096, 1))
	g.Settle()
	slow.n = 0
	var last *iscsitest.Conn
	for range 20 {
		last = g.Dial()
		login1(last)
		g.Settle()
	}
	if n := g.Engine.Waiting(); n != most {
		t.Errorf("%d logins are kept, want %d", n, most)
	}
	slow.finish()
	if p := last.Expect(pdu.LoginResponse); p.BHS.LoginStatus() != pdu.LoginSuccess {
		t.Fatalf("% x", p.BHS)
	}
	last.ExpStatSN++
	ready(t, last, 1)
	alive(t, last)
}

// TestReinstatementRace: several logins for one nexus at once end with one
// session, the last.
func TestReinstatementRace(t *testing.T) {
	for _, reactors := range []int{1, 3} {
		g := iscsitest.New(t, iscsitest.Options{Reactors: reactors})
		g.Settle()
		var all []*iscsitest.Conn
		for range 6 {
			c := g.Dial()
			login1(c)
			all = append(all, c)
		}
		g.Advance(time.Second)
		for i, c := range all {
			if gone := c.Peer.EOF() || c.Peer.Err() != nil || closedAfter(c); gone != (i < 5) {
				t.Errorf("%d reactors: login %d of 6: gone %v", reactors, i, gone)
			}
		}
		if n := len(g.Engine.Connections(g)); n != 1 {
			t.Fatalf("%d connections", n)
		}
	}
}

// closedAfter reads what came and tells whether the connection has ended.
func closedAfter(c *iscsitest.Conn) bool {
	for {
		if _, ok := c.TryRecv(); !ok {
			return c.Peer.EOF() || c.Peer.Err() != nil
		}
	}
}

// TestUnauthenticatedReinstatementKillsNothing: only a login that has passed
// the security stage may end a session.
func TestUnauthenticatedReinstatementKillsNothing(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{RequireCHAP: true, CHAPGroup: 1}})
	g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: "user", Secret: "secret-of-16-byte"}}})
	who := []string{"InitiatorName=" + iscsitest.Initiator, "TargetName=" + iscsitest.Node}
	c := g.Dial()
	chap(t, c, "user", "secret-of-16-byte", pdu.LoginSuccess, who...)
	ready(t, c, 1)
	for _, tc := range []struct {
		name string
		run  func(c *iscsitest.Conn)
	}{
		{"no security stage", func(c *iscsitest.Conn) { login1(c); c.Expect(pdu.LoginResponse) }},
		{"AuthMethod=None", func(c *iscsitest.Conn) {
			c.Send(c.LoginBHS(pdu.FlagTransit|1), nil, iscsitest.Keys(append(who, "AuthMethod=None")...))
			c.Expect(pdu.LoginResponse)
		}},
		{"wrong secret", func(c *iscsitest.Conn) { chap(t, c, "user", "not-the-secret-16", pdu.LoginAuthFailed, who...) }},
		{"unknown user", func(c *iscsitest.Conn) { chap(t, c, "nobody", "secret-of-16-byte", pdu.LoginAuthFailed, who...) }},
		{"identity only", func(c *iscsitest.Conn) {
			c.Send(c.LoginBHS(0), nil, iscsitest.Keys(append(who, "AuthMethod=CHAP")...))
			c.Expect(pdu.LoginResponse)
			c.Peer.Reset()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.run(g.Dial())
			g.Advance(time.Second)
			silent(t, g, c)
			alive(t, c)
		})
	}
	again := g.Dial()
	chap(t, again, "user", "secret-of-16-byte", pdu.LoginSuccess, who...)
	c.ExpectClosed()
	ready(t, again, 1)
}

// chap logs in with CHAP and SHA-256 and expects this status.
func chap(t *testing.T, c *iscsitest.Conn, user, secret string, want pdu.LoginStatus, kv ...string) {
	t.Helper()
	security(t, c, user, secret, want, kv...)
	if want != pdu.LoginSuccess {
		return
	}
	c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, nil)
	b := c.Expect(pdu.LoginResponse).BHS
	c.ExpStatSN = b.StatSN() + 1
	if b.LoginStatus() != 0 || b.TSIH() == 0 {
		t.Fatalf("% x", b)
	}
	c.TSIH = b.TSIH()
}

// security is the security stage of chap.
func security(t *testing.T, c *iscsitest.Conn, user, secret string, want pdu.LoginStatus, kv ...string) {
	t.Helper()
	step := func(flags byte, kv ...string) (pdu.BHS, map[string]string) {
		c.Send(c.LoginBHS(flags), nil, iscsitest.Keys(kv...))
		p := c.Expect(pdu.LoginResponse)
		c.ExpStatSN = p.BHS.StatSN() + 1
		return p.BHS, pairs(p.Data)
	}
	step(0, append(kv, "AuthMethod=CHAP")...)
	_, got := step(0, "CHAP_A=7")
	id, challenge := got["CHAP_I"], got["CHAP_C"]
	b, _ := step(pdu.FlagTransit|1, "CHAP_N="+user, "CHAP_R="+chapResponse(t, id, secret, challenge))
	if b.LoginStatus() != want {
		t.Fatalf("login status %04x, want %04x", b.LoginStatus(), want)
	}
}

// TestJoiningASession: sessions have one connection; there is no such thing as
// an unknown session either (RFC 7143 §11.13.5).
func TestJoiningASession(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	for _, tc := range []struct {
		tsih uint16
		want pdu.LoginStatus
	}{{c.TSIH, pdu.LoginTooManyConns}, {c.TSIH + 5, pdu.LoginNoSession}} {
		d := g.Dial()
		d.TSIH = tc.tsih
		b := d.LoginBHS(pdu.FlagTransit | 1<<2 | 3)
		b.SetCID(1)
		d.Send(b, nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
		if p := d.Expect(pdu.LoginResponse); p.BHS.LoginStatus() != tc.want {
			t.Errorf("TSIH %d: status %04x, want %04x", tc.tsih, p.BHS.LoginStatus(), tc.want)
		}
		d.ExpectClosed()
	}
	alive(t, c)
}

// TestTooManySessions: the limit is refused with 0302 and a session that ends
// makes room.
func TestTooManySessions(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.MaxSessions = 2 })})
	a, b := dialAs(g, 1).Login(), dialAs(g, 2).Login()
	c := dialAs(g, 3)
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node); s != uint16(pdu.LoginOutOfResources) {
		t.Fatalf("status %04x", s)
	}
	c.ExpectClosed()
	a.Peer.Close()
	g.Settle()
	ready(t, dialAs(g, 3).Login(), 1)
	ready(t, b, 1)
}

// TestShutdown: Async Message 1 asks for logout; who does so is let go, who
// does not is closed at the end of the grace, commands and all.
func TestShutdown(t *testing.T) {
	g, slow := stubborn(t, iscsitest.Options{Reactors: 2})
	polite, rude := dialAs(g, 1).Login(), dialAs(g, 2).Login()
	ready(t, polite, 1)
	ready(t, rude, 1)
	pending := g.Dial()
	g.Settle()
	slow.n = 1
	rude.Send(rude.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, pattern(4096, 1))
	g.Settle()
	start := g.Clock.T
	down := shutdownCaller{Target: g, polite: polite, slow: slow, release: start.Add(5 * time.Second)}
	g.Engine.Shutdown(&down, 3*time.Second)
	if !down.loggedOut {
		t.Fatal("the polite initiator was not asked")
	}
	if after := g.Clock.T.Sub(start); after < 5*time.Second || after > 6*time.Second {
		t.Fatalf("shut down after %v", after)
	}
	b := rude.Expect(pdu.AsyncMessage).BHS
	if b.AsyncEvent() != pdu.AsyncLogoutRequest || b.Param3() != 3 || b.ITT() != pdu.ReservedTag || b.StatSN() != rude.ExpStatSN {
		t.Fatalf("% x", b)
	}
	rude.ExpectClosed()
	pending.ExpectClosed()
	if _, err := g.World.Dial(g.Portal); err == nil {
		t.Fatal("the portal still listens")
	}
}

// shutdownCaller plays the initiators while a Shutdown waits.
type shutdownCaller struct {
	*iscsitest.Target
	polite    *iscsitest.Conn
	slow      *stubbornDevice
	release   clock.Time // when the slow device ends what it holds
	loggedOut bool
}

func (s *shutdownCaller) Await(r *reactor.Reactor, start func(done func())) {
	over := false
	r.Post(&reactor.Msg{Run: func(*reactor.Reactor) { start(func() { over = true }) }})
	for !over {
		s.Advance(time.Millisecond)
		if p, ok := s.polite.TryRecv(); ok && p.BHS.Opcode() == pdu.AsyncMessage {
			s.polite.Send(s.polite.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil)
			s.loggedOut = true
		}
		if s.Clock.T >= s.release {
			s.slow.finish()
		}
	}
}

// pairs parses key=value text.
func pairs(text []byte) map[string]string {
	m := map[string]string{}
	for _, s := range strings.Split(string(text), "\x00") {
		if k, v, ok := strings.Cut(s, "="); ok {
			m[k] = v
		}
	}
	return m
}

// chapResponse is the response to a challenge, with SHA-256 (RFC 1994 §4.1).
func chapResponse(t *testing.T, id, secret, challenge string) string {
	t.Helper()
	n, err := strconv.ParseUint(id, 0, 8)
	if err != nil {
		t.Fatal(err)
	}
	c, err := hex.DecodeString(strings.TrimPrefix(challenge, "0x"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append(append([]byte{byte(n)}, secret...), c...))
	return "0x" + hex.EncodeToString(sum[:])
}
