package iscsi_test

import (
	"maps"
	"math"
	"net/netip"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// statsOf are what a node has counted.
func statsOf(t *testing.T, g *iscsitest.Target, name string) iscsi.NodeStats {
	t.Helper()
	list, err := g.Engine.NodeStats(g, "")
	must(t, err)
	for _, n := range list {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node %q", name)
	return iscsi.NodeStats{}
}

// some are the counters that are not zero.
func some(list []iscsi.Counter) map[string]uint64 {
	m := map[string]uint64{}
	for _, c := range list {
		if c.Value != 0 {
			m[c.Name] = c.Value
		}
	}
	return m
}

func equal(t *testing.T, what string, got, want map[string]uint64) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// TestNodeStats: what a session does is counted with its connection, its
// session and its node, and stays with the node when it has gone.
func TestNodeStats(t *testing.T) {
	g, dev := faulty(t, iscsitest.Options{})
	must(t, g.Engine.EnableHistograms(g, iscsitest.Node, true, bdev.HistogramOptions{Op: bdev.AllOps}))
	c := g.Dial().Login("InitialR2T=No", "ImmediateData=Yes", "MaxRecvDataSegmentLength=4096")
	if n := statsOf(t, g, iscsitest.Node); n.Begun != 1 || len(n.Sessions) != 1 || n.PDUsIn != 1 || n.PDUsOut != 1 {
		t.Errorf("after the login: %+v", n)
	}
	ready(t, c, 1) // two commands, one of which fails
	data := pattern(8192, 1)
	for _, immediate := range []int{0, 512} { // an R2T and its Data-Out; immediate data alone
		if r := c.Do(c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(1, 1)...), data[:512], immediate); r.Status != 0 {
			t.Fatalf("% x", r.Sense)
		}
	}
	hold(t, dev, bdev.Read, 1)
	b := c.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(0, 16)...) // two Data-In PDUs
	c.Send(b, nil, nil)
	g.Settle()
	g.Advance(3 * time.Millisecond)
	dev.ResumePending()
	good(t, c, b.ITT(), nil)
	ping3(t, c)
	g.Settle()

	n := statsOf(t, g, iscsitest.Node)
	want := map[string]uint64{
		// The login, five commands, a Data-Out and a ping; an R2T and a Data-In more.
		"pdus_in": 8, "pdus_out": 9, "commands": 5, "commands_failed": 1,
		"num_read_ops": 1, "bytes_read": 8192, "num_write_ops": 2, "bytes_written": 1024,
	}
	for what, k := range map[string]iscsi.ConnCounts{"node": n.ConnCounts, "session": n.Sessions[0].ConnCounts, "connection": n.Sessions[0].Conns[0].ConnCounts} {
		if k.ReadTime < uint64(3*time.Millisecond) || k.ReadTime > uint64(10*time.Millisecond) {
			t.Errorf("%s: a read of 3 ms took %d", what, k.ReadTime)
		}
		k.ReadTime, k.WriteTime = 0, 0
		equal(t, what, some(k.Counters()), want)
	}
	if r, w := n.Read.Count(3e6, 10e6), n.Write.Count(0, math.MaxUint64); r != 1 || n.Read.Count(0, math.MaxUint64) != 1 || w != 2 {
		t.Errorf("histograms: %d reads of 3 ms, %d writes", r, w)
	}
	out := logoutOf(c, pdu.LogoutCloseSession, 0)
	c.Send(out, nil, nil)
	loggedOut(t, c, out.ITT(), pdu.LogoutSuccess)
	g.Settle()
	after := statsOf(t, g, iscsitest.Node)
	for _, list := range [][]iscsi.Counter{after.Counters(), after.Logins, after.Logouts, after.Ends, after.TaskManagement} {
		seen := map[string]bool{"": true}
		for _, c := range list {
			if seen[c.Name] {
				t.Errorf("the name %q is none, or there twice", c.Name)
			}
			seen[c.Name] = true
		}
	}
	n.PDUsIn++
	n.PDUsOut++
	if after.ConnCounts != n.ConnCounts || len(after.Sessions) != 0 {
		t.Errorf("after the logout %+v, before %+v", after, n)
	}
	equal(t, "logouts", some(after.Logouts), map[string]uint64{"close_session": 1})
	equal(t, "ends", some(after.Ends), map[string]uint64{"logout": 1})
	must(t, g.Engine.EnableHistograms(g, iscsitest.Node, false, bdev.HistogramOptions{}))
	if h := statsOf(t, g, iscsitest.Node).Read; h != nil {
		t.Error("a histogram is still there")
	}
	if _, err := g.Engine.NodeStats(g, "iqn.none"); err == nil {
		t.Error("a node that is not there")
	}
}

// TestSessionStats: a session counts for all of its connections, those that have gone too.
func TestSessionStats(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Reactors: 2, Engine: several(2)})
	a, b := pair(g)
	for _, c := range []*iscsitest.Conn{a, b, b} {
		c.Do(c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, 0)
	}
	out := logoutOf(a, pdu.LogoutCloseConnection, 1)
	a.Send(out, nil, nil)
	loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
	g.Settle()
	n := statsOf(t, g, iscsitest.Node)
	s := n.Sessions[0]
	if len(s.Conns) != 1 || s.Conns[0].Reads != 1 || s.Reads != 3 || n.Reads != 3 || s.Initiator != iscsitest.Initiator {
		t.Errorf("%+v", n)
	}
	equal(t, "logouts", some(n.Logouts), map[string]uint64{"close_connection": 1})
	equal(t, "ends", some(n.Ends), map[string]uint64{})
}

// TestLoginStats: logins are counted by how they end, with the node they came to.
func TestLoginStats(t *testing.T) {
	for _, tc := range []struct {
		name, node string
		options    func(*iscsi.Options)
		run        func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn)
	}{
		{"accepts", iscsitest.Node, nil, func(t *testing.T, _ *iscsitest.Target, c *iscsitest.Conn) { c.Login() }},
		{"redirects", iscsitest.Node, nil, func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			must(t, g.Engine.SetNodeRedirect(iscsitest.Node, 1, netip.MustParseAddrPort("10.0.0.9:3260")))
			c.LoginStatus(who...)
		}},
		{"authenticate_fails", iscsitest.Node, nil, func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: chapUser, Secret: chapSecret}}})
			must(t, g.Engine.SetNodeAuth(iscsitest.Node, iscsi.CHAPPolicy{Require: true, Group: 1}))
			chap(t, c, chapUser, "not-the-secret-16", pdu.LoginAuthFailed, who...)
		}},
		{"authorize_fails", iscsitest.Node, nil, func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			must(t, g.Engine.SetInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"iqn.other"}, Netmasks: []string{"ANY"}}))
			c.LoginStatus(who...)
		}},
		{"negotiate_fails", "", nil, func(t *testing.T, _ *iscsitest.Target, c *iscsitest.Conn) {
			c.LoginStatus(who[0], "TargetName=iqn.none")
		}},
		{"target_errors", iscsitest.Node, func(o *iscsi.Options) { o.MaxSessions = 0 }, func(t *testing.T, _ *iscsitest.Target, c *iscsitest.Conn) { c.LoginStatus(who...) }},
		{"unfinished", "", nil, func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) { c.Peer.Reset() }},
		{"accepts", "", nil, func(t *testing.T, _ *iscsitest.Target, c *iscsitest.Conn) {
			c.LoginStatus(who[0], "SessionType=Discovery")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := iscsi.Defaults()
			if tc.options != nil {
				tc.options(&o)
			}
			g := iscsitest.New(t, iscsitest.Options{Engine: &o})
			c := g.Dial()
			g.Settle()
			tc.run(t, g, c)
			g.Settle()
			equal(t, "logins", some(statsOf(t, g, tc.node).Logins), map[string]uint64{tc.name: 1})
		})
	}
}

// TestSessionEnds: sessions are counted by how they end.
func TestSessionEnds(t *testing.T) {
	for _, tc := range []struct {
		name    string
		digests uint64
		run     func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn)
	}{
		{"connection_lost", 0, func(t *testing.T, _ *iscsitest.Target, c *iscsitest.Conn) { c.Peer.Reset() }},
		{"connection_lost", 0, func(t *testing.T, _ *iscsitest.Target, c *iscsitest.Conn) { c.Peer.Close() }},
		{"reinstated", 0, func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) { g.Dial().Login() }},
		{"by_target", 0, func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			m := tmf(c, pdu.TMFColdReset, 1, 0, 0)
			c.Send(m, nil, nil)
			managed(t, c, m.ITT(), pdu.TMFComplete)
		}},
		{"digest_errors", 1, func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			w := c.Frame(c.Command(1, 0, 0), nil, nil)
			w[40] ^= 1
			c.SendRaw(w)
		}},
		{"timeouts", 0, func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			g.Advance(100 * time.Second)
			g.Advance(100 * time.Second)
		}},
		{"format_errors", 0, func(t *testing.T, g *iscsitest.Target, c *iscsitest.Conn) {
			b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
			b.SetDataLen(1<<24 - 1)
			c.SendRaw(c.Frame(b, nil, nil))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login("HeaderDigest=CRC32C", "DataDigest=CRC32C")
			tc.run(t, g, c)
			g.Settle()
			n := statsOf(t, g, iscsitest.Node)
			equal(t, "ends", some(n.Ends), map[string]uint64{tc.name: 1})
			if n.DigestErrors != tc.digests {
				t.Errorf("%d digest errors", n.DigestErrors)
			}
		})
	}
}

// TestAbortStats: commands that are aborted are counted, whether they were with
// the device or not, and whether their initiator is told; so are the functions.
func TestAbortStats(t *testing.T) {
	g, dev := faulty(t, iscsitest.Options{})
	c := g.Dial().Login("DataDigest=CRC32C")
	ready(t, c, 1)
	hold(t, dev, bdev.Read, 1)
	r := c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...)
	c.Send(r, nil, nil)
	w := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(0, 1)...)
	c.Send(w, nil, nil)
	c.Expect(pdu.R2T)
	m := tmf(c, pdu.TMFAbortTaskSet, 1, 0, 0)
	c.Send(m, nil, nil)
	g.Settle()
	dev.ResumePending()
	managed(t, c, m.ITT(), pdu.TMFComplete)
	m = tmf(c, pdu.TMFAbortTask, 1, 9999, 0)
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFNoTask)
	b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	b.SetDataLen(4)
	f := c.Frame(b, nil, []byte("ping"))
	f[len(f)-1] ^= 1
	c.SendRaw(f)
	rejected(t, c, pdu.RejectDataDigest, b)
	n := statsOf(t, g, iscsitest.Node)
	if n.Aborted != 2 || n.Reads+n.Writes != 0 || n.DigestErrors != 1 || n.Rejects != 1 {
		t.Errorf("%+v", n.ConnCounts)
	}
	equal(t, "functions", some(n.TaskManagement), map[string]uint64{"abort_task_set": 1, "abort_task": 1})
	// What dies with its session counts too, though its connection went first.
	hold(t, dev, bdev.Read, 1)
	c.Send(c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, nil)
	g.Settle()
	c.Peer.Reset()
	g.Settle()
	dev.ResumePending()
	g.Settle()
	if n := statsOf(t, g, iscsitest.Node); n.Aborted != 3 || len(n.Sessions) != 0 {
		t.Errorf("%+v", n)
	}
}
