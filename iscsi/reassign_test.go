package iscsi_test

import (
	"testing"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/ring/simring"
)

// reassign asks for a task that another connection had.
func reassign(c *iscsitest.Conn, itt, exp uint32) pdu.BHS {
	b := tmf(c, pdu.TMFReassign, 1, itt, 0)
	b.SetExpDataSN(exp)
	return b
}

// intoRecovery loses connection b of a session and has the initiator log it out
// on a, by one of the ways there are. The answer is the connection to go on with.
var waysOut = []struct {
	name  string
	loses bool // the connection fails first
	out   func(t *testing.T, g *iscsitest.Target, a, b *iscsitest.Conn) *iscsitest.Conn
}{
	{"failed, logged out", true, func(t *testing.T, _ *iscsitest.Target, a, b *iscsitest.Conn) *iscsitest.Conn {
		if e := event(t, a, pdu.AsyncDropConnection); e.Param1() != b.CID || e.Param2() != 2 || e.Param3() != 20 {
			t.Fatalf("event 2: % x", e)
		}
		out := logoutOf(a, pdu.LogoutRemoveForReinst, b.CID)
		a.Send(out, nil, nil)
		loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
		return a
	}},
	{"logged out by another", false, func(t *testing.T, _ *iscsitest.Target, a, b *iscsitest.Conn) *iscsitest.Conn {
		out := logoutOf(a, pdu.LogoutRemoveForReinst, b.CID)
		a.Send(out, nil, nil)
		loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
		b.ExpectClosed()
		return a
	}},
	{"logged out by itself", false, func(t *testing.T, _ *iscsitest.Target, a, b *iscsitest.Conn) *iscsitest.Conn {
		out := logoutOf(b, pdu.LogoutRemoveForReinst, b.CID)
		b.Send(out, nil, nil)
		b.ExpectClosed()
		return a
	}},
	{"failed, reinstated", true, func(t *testing.T, _ *iscsitest.Target, a, b *iscsitest.Conn) *iscsitest.Conn {
		event(t, a, pdu.AsyncDropConnection)
		return a.DialInto(b.CID).Login("MaxRecvDataSegmentLength=1024")
	}},
	{"reinstated", false, func(_ *testing.T, _ *iscsitest.Target, a, b *iscsitest.Conn) *iscsitest.Conn {
		n := a.DialInto(b.CID).Login("MaxRecvDataSegmentLength=1024")
		b.ExpectClosed()
		return n
	}},
}

// TestReassign has tasks in each state lose their connection and go on by
// another (RFC 7143 §7.2.2).
func TestReassign(t *testing.T) {
	data := pattern(8192, 5)
	for _, tc := range []struct {
		name string
		// begin brings a task of b into its state; take collects what c gets for it.
		begin func(t *testing.T, g *iscsitest.Target, b *iscsitest.Conn) pdu.BHS
		held  bdev.Op // I/O that is held meanwhile
		exp   uint32
		take  func(t *testing.T, c *iscsitest.Conn, itt uint32)
	}{
		{name: "write waits for data", begin: func(_ *testing.T, _ *iscsitest.Target, b *iscsitest.Conn) pdu.BHS {
			w := b.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(5, 16)...)
			b.Send(w, nil, nil)
			r := b.Expect(pdu.R2T).BHS
			b.Send(b.DataOutBHS(w.ITT(), r.TTT(), 0, 0, false), nil, data[:4096])
			return w
		}, take: func(t *testing.T, c *iscsitest.Conn, itt uint32) {
			r := c.Expect(pdu.R2T).BHS
			if r.Offset() != 4096 || r.Desired() != 4096 || r.DataSN() != 1 {
				t.Fatalf("R2T: % x", r)
			}
			c.DataOut(r, data)
			good(t, c, itt, nil)
		}},
		{name: "write waits for unsolicited data", begin: func(_ *testing.T, _ *iscsitest.Target, b *iscsitest.Conn) pdu.BHS {
			w := b.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(5, 16)...)
			w.SetFlags(w.Flags() &^ pdu.FlagFinal)
			b.Send(w, nil, data[:1024])
			return w
		}, take: func(t *testing.T, c *iscsitest.Conn, itt uint32) { good(t, c, itt, data) }},
		{name: "write in the device", held: bdev.Write, begin: func(_ *testing.T, g *iscsitest.Target, b *iscsitest.Conn) pdu.BHS {
			w := b.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(5, 16)...)
			b.Send(w, nil, data)
			g.Settle()
			return w
		}, take: func(t *testing.T, c *iscsitest.Conn, itt uint32) { good(t, c, itt, nil) }},
		{name: "read in the device", held: bdev.Read, begin: func(_ *testing.T, g *iscsitest.Target, b *iscsitest.Conn) pdu.BHS {
			r := b.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(100, 16)...)
			b.Send(r, nil, nil)
			g.Settle()
			return r
		}, take: func(t *testing.T, c *iscsitest.Conn, itt uint32) {
			if r := good(t, c, itt, nil); len(r.Data) != 8192 || r.DataPDUs != 8 {
				t.Fatalf("%d bytes, %d PDUs", len(r.Data), r.DataPDUs)
			}
		}},
		{name: "read answered", begin: func(_ *testing.T, _ *iscsitest.Target, b *iscsitest.Conn) pdu.BHS {
			r := b.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(100, 16)...)
			b.Send(r, nil, nil)
			collect(b, 8)
			return r
		}, take: func(t *testing.T, c *iscsitest.Conn, itt uint32) {
			if r := good(t, c, itt, nil); len(r.Data) != 8192 {
				t.Fatalf("%d bytes", len(r.Data))
			}
		}},
		{name: "read answered, data acknowledged", exp: 5, begin: func(_ *testing.T, _ *iscsitest.Target, b *iscsitest.Conn) pdu.BHS {
			r := b.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(100, 16)...)
			b.Send(r, nil, nil)
			collect(b, 8)
			return r
		}, take: func(t *testing.T, c *iscsitest.Conn, itt uint32) {
			for i := range uint32(3) {
				p := c.Expect(pdu.DataIn).BHS
				if p.ITT() != itt || p.DataSN() != 5+i || p.Offset() != 5120+i*1024 {
					t.Fatalf("data: % x", p)
				}
			}
			c.ExpStatSN++
		}},
		{name: "read answered, all data acknowledged", exp: 8, begin: func(_ *testing.T, _ *iscsitest.Target, b *iscsitest.Conn) pdu.BHS {
			r := b.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(100, 16)...)
			b.Send(r, nil, nil)
			collect(b, 8)
			return r
		}, take: func(t *testing.T, c *iscsitest.Conn, itt uint32) {
			p := c.Expect(pdu.SCSIResponse).BHS
			if p.ITT() != itt || p.ExpDataSN() != 8 || p.StatSN() != c.ExpStatSN {
				t.Fatalf("response: % x", p)
			}
			c.ExpStatSN++
		}},
		{name: "sense answered", begin: func(_ *testing.T, _ *iscsitest.Target, b *iscsitest.Conn) pdu.BHS {
			r := b.Command(1, 0, 0, 0xff)
			b.Send(r, nil, nil)
			b.Recv()
			return r
		}, take: func(t *testing.T, c *iscsitest.Conn, itt uint32) { sense(t, c.Finish(itt, nil), 5, 0x2000) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, way := range waysOut {
				for _, late := range []bool{false, true} { // the device ends it before, or after the reassignment
					if late && tc.held == 0 {
						continue
					}
					g, dev := faulty(t, iscsitest.Options{Engine: level(2)})
					a, b := pair(g, "ErrorRecoveryLevel=2", "MaxRecvDataSegmentLength=1024", "InitialR2T=No")
					if a.Answered["ErrorRecoveryLevel"] != "2" {
						t.Fatalf("ErrorRecoveryLevel=%s", a.Answered["ErrorRecoveryLevel"])
					}
					b = relogin(t, a, b)
					if tc.held != 0 {
						hold(t, dev, tc.held, 1)
					}
					task := tc.begin(t, g, b)
					g.Settle()
					allegiant := reassign(a, task.ITT(), 0)
					a.Send(allegiant, nil, nil)
					managed(t, a, allegiant.ITT(), pdu.TMFTaskAllegiant)
					if way.loses {
						b.Peer.Reset()
						g.Settle()
					}
					if tc.held != 0 && !late {
						dev.ResumePending()
						g.Settle()
					}
					c := way.out(t, g, a, b)
					m := reassign(c, task.ITT(), tc.exp)
					c.Send(m, nil, nil)
					managed(t, c, m.ITT(), pdu.TMFComplete)
					if late {
						silent(t, g, c)
						dev.ResumePending()
					}
					tc.take(t, c, task.ITT())
					again := reassign(c, task.ITT(), 0)
					c.Send(again, nil, nil)
					p := c.Expect(pdu.TMFResponse)
					c.ExpStatSN++
					if r := p.BHS.Response(); r != pdu.TMFNoTask {
						t.Fatalf("%s: reassigned twice: %d", way.name, r)
					}
					alive(t, a)
					alive(t, c)
					if n := counter(g, "tasks_reassigned"); n != 1 {
						t.Fatalf("%d tasks reassigned", n)
					}
					g.Close()
				}
			}
		})
	}
}

// relogin has b take 1024 bytes a PDU, as a does.
func relogin(t *testing.T, a, b *iscsitest.Conn) *iscsitest.Conn {
	t.Helper()
	out := logoutOf(a, pdu.LogoutCloseConnection, b.CID)
	a.Send(out, nil, nil)
	loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
	b.ExpectClosed()
	return a.DialInto(b.CID).Login("MaxRecvDataSegmentLength=1024")
}

// Class 20, IndexFromWire: tags and connections that are not theirs.
func TestReassignRefused(t *testing.T) {
	for _, tc := range []struct {
		name  string
		level string
		logs  bool
		ref   func(mine, theirs uint32) (itt uint32, lun uint16)
		want  uint8
	}{
		{"level 1", "1", true, func(m, _ uint32) (uint32, uint16) { return m, 1 }, pdu.TMFNoReassign},
		{"no logout", "2", false, func(m, _ uint32) (uint32, uint16) { return m, 1 }, pdu.TMFTaskAllegiant},
		{"no such tag", "2", true, func(m, _ uint32) (uint32, uint16) { return m + 999, 1 }, pdu.TMFNoTask},
		{"reserved tag", "2", true, func(uint32, uint32) (uint32, uint16) { return pdu.ReservedTag, 1 }, pdu.TMFNoTask},
		{"another LUN", "2", true, func(m, _ uint32) (uint32, uint16) { return m, 0 }, pdu.TMFNoTask},
		{"another session's", "2", true, func(_, o uint32) (uint32, uint16) { return o, 1 }, pdu.TMFNoTask},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, dev := faulty(t, iscsitest.Options{Engine: level(2)})
			a, b := pair(g, "ErrorRecoveryLevel="+tc.level)
			o := g.Dial()
			o.ISID[5]++
			o.ITT = 5000
			o.Login("ErrorRecoveryLevel=2")
			attention(t, o, atPowerOn)
			hold(t, dev, bdev.Write, 2)
			mine := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(5, 1)...)
			b.Send(mine, nil, pattern(512, 1))
			theirs := o.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(6, 1)...)
			o.Send(theirs, nil, pattern(512, 1))
			g.Settle()
			b.Peer.Reset()
			event(t, a, pdu.AsyncDropConnection)
			if tc.logs {
				out := logoutOf(a, pdu.LogoutRemoveForReinst, b.CID)
				a.Send(out, nil, nil)
				want := uint8(pdu.LogoutSuccess)
				if tc.level == "1" {
					want = pdu.LogoutNoRecovery
				}
				loggedOut(t, a, out.ITT(), want)
			}
			ref, lun := tc.ref(mine.ITT(), theirs.ITT())
			m := reassign(a, ref, 0)
			m.SetLUN(uint64(lun) << 48)
			a.Send(m, nil, nil)
			managed(t, a, m.ITT(), tc.want)
			dev.ResumePending()
			good(t, o, theirs.ITT(), nil)
			alive(t, a)
			alive(t, o)
		})
	}
}

// A lost connection's tasks wait for DefaultTime2Wait and DefaultTime2Retain,
// the session likewise when it was the last; then they are over.
func TestTime2Retain(t *testing.T) {
	for _, tc := range []struct {
		name  string
		conns int
		after time.Duration
		lives bool
	}{
		{"one connection, in time", 1, 6 * time.Second, true}, {"one connection, late", 1, 9 * time.Second, false},
		{"two connections, in time", 2, 6 * time.Second, true}, {"two connections, late", 2, 9 * time.Second, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, dev := faulty(t, iscsitest.Options{Engine: level(2)})
			a := g.Dial().Login("ErrorRecoveryLevel=2", "MaxConnections=4", "DefaultTime2Wait=3", "DefaultTime2Retain=5")
			attention(t, a, atPowerOn)
			b := a
			if tc.conns == 2 {
				b = a.DialInto(1).Login()
			}
			hold(t, dev, bdev.Write, 1)
			w := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(5, 1)...)
			b.Send(w, nil, pattern(512, 1))
			waits := b.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(9, 16)...)
			b.Send(waits, nil, nil)
			g.Settle()
			b.Peer.Reset()
			g.Advance(tc.after)
			n := a.DialInto(b.CID)
			status := n.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node)
			if !tc.lives {
				if status != uint16(pdu.LoginNoSession) {
					t.Fatalf("login status %04x", status)
				}
				return
			}
			if status != 0 {
				t.Fatalf("login status %04x", status)
			}
			for _, itt := range []uint32{w.ITT(), waits.ITT()} {
				m := reassign(n, itt, 0)
				n.Send(m, nil, nil)
				if tc.after > 8*time.Second {
					managed(t, n, m.ITT(), pdu.TMFNoTask)
					continue
				}
				managed(t, n, m.ITT(), pdu.TMFComplete)
				dev.ResumePending()
				good(t, n, itt, make([]byte, 8192))
			}
			alive(t, n)
		})
	}
}

// Aborts and resets reach the tasks of a lost connection.
func TestManageLostTasks(t *testing.T) {
	for _, fn := range []byte{pdu.TMFAbortTask, pdu.TMFAbortTaskSet, pdu.TMFLUNReset} {
		for _, state := range []string{"data", "device", "ended"} {
			g, dev := faulty(t, iscsitest.Options{Engine: level(2)})
			a, b := pair(g, "ErrorRecoveryLevel=2", "InitialR2T=Yes", "ImmediateData=No")
			var w pdu.BHS
			if state == "data" {
				w = b.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(9, 16)...)
			} else {
				hold(t, dev, bdev.Read, 1)
				w = b.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(9, 16)...)
			}
			b.Send(w, nil, nil)
			g.Settle()
			b.Peer.Reset()
			event(t, a, pdu.AsyncDropConnection)
			if state == "ended" {
				dev.ResumePending()
				g.Settle()
			}
			m := tmf(a, fn, 1, w.ITT(), w.CmdSN())
			a.Send(m, nil, nil)
			managed(t, a, m.ITT(), pdu.TMFComplete)
			if fn == pdu.TMFLUNReset {
				attention(t, a, deviceReset)
			}
			out := logoutOf(a, pdu.LogoutRemoveForReinst, b.CID)
			a.Send(out, nil, nil)
			loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
			r := reassign(a, w.ITT(), 0)
			a.Send(r, nil, nil)
			managed(t, a, r.ITT(), pdu.TMFNoTask)
			dev.ResumePending()
			alive(t, a)
			g.Close()
		}
	}
}

// Whatever is lost, the session's end and a closing logout leave nothing.
func TestLostAndOver(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(t *testing.T, g *iscsitest.Target, a *iscsitest.Conn, cid uint16)
	}{
		{"logged out to close", func(t *testing.T, _ *iscsitest.Target, a *iscsitest.Conn, cid uint16) {
			out := logoutOf(a, pdu.LogoutCloseConnection, cid)
			a.Send(out, nil, nil)
			loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
			alive(t, a)
		}},
		{"session closed", func(t *testing.T, _ *iscsitest.Target, a *iscsitest.Conn, _ uint16) {
			out := logoutOf(a, pdu.LogoutCloseSession, 0)
			a.Send(out, nil, nil)
			loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
			a.ExpectClosed()
		}},
		{"session reinstated", func(t *testing.T, g *iscsitest.Target, a *iscsitest.Conn, _ uint16) {
			c := g.Dial().Login()
			attention(t, c, atPowerOn)
			a.ExpectClosed()
		}},
		{"both lost", func(_ *testing.T, g *iscsitest.Target, a *iscsitest.Conn, _ uint16) {
			a.Peer.Reset()
			g.Advance(30 * time.Second)
		}},
		{"both lost, reinstated", func(t *testing.T, g *iscsitest.Target, a *iscsitest.Conn, _ uint16) {
			a.Peer.Reset()
			g.Settle()
			c := g.Dial().Login()
			attention(t, c, atPowerOn)
			alive(t, c)
		}},
		{"target shut down", func(*testing.T, *iscsitest.Target, *iscsitest.Conn, uint16) {}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, erl := range []string{"1", "2"} {
				g, dev := faulty(t, iscsitest.Options{Engine: level(2), Reactors: 2})
				a, b := pair(g, "ErrorRecoveryLevel="+erl)
				r := b.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(9, 16)...)
				b.Send(r, nil, nil)
				b.Expect(pdu.DataIn)
				gap := b.Command(1, 0, 0, 0)
				b.Send(b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...), nil, pattern(512, 1)) // early
				_ = gap
				hold(t, dev, bdev.Write, 1)
				w := b.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(9, 16)...)
				w.SetImmediate()
				b.Send(w, nil, pattern(8192, 1))
				g.Settle()
				b.Peer.Reset()
				event(t, a, pdu.AsyncDropConnection)
				a.CmdSN = gap.CmdSN() // what was not acknowledged is sent again
				tc.end(t, g, a, b.CID)
				dev.ResumePending()
				g.Close()
			}
		})
	}
}

// hasty does not wait for what it asks reactors for.
type hasty struct{ *iscsitest.Target }

func (hasty) Await(r *reactor.Reactor, fn func(done func())) {
	r.Post(&reactor.Msg{Run: func(*reactor.Reactor) { fn(func() {}) }})
}

// TestSessionEndsWithConnectionClosing: what was kept for another connection to take
// over goes with the session, although its own is not closed yet.
func TestSessionEndsWithConnectionClosing(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: level(2)})
	a, b := pair(g, "ErrorRecoveryLevel=2")
	b.Send(b.Command(1, pdu.FlagRead, 8192, iscsitest.Read10(9, 16)...), nil, nil)
	g.Settle()
	for _, m := range []iscsi.AsyncMessage{{Event: pdu.AsyncDropConnection, CID: b.CID}, {Event: pdu.AsyncDropSession}} {
		must(t, g.Engine.SendAsync(hasty{g}, iscsitest.Node, m))
	}
	event(t, a, pdu.AsyncDropConnection)
	event(t, a, pdu.AsyncDropSession)
	a.ExpectClosed()
	g.Close() // all memory is home
}

// TestSessionEndsWithAbortedTask: nor is what another nexus has aborted kept to be told,
// once the session ends before its own connection has closed.
func TestSessionEndsWithAbortedTask(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: level(2), World: simring.Config{SocketBuffer: 2048}})
	other := teller(t, g)
	c := g.Dial().Login("ErrorRecoveryLevel=2", "InitialR2T=Yes", "ImmediateData=No")
	attention(t, c, atPowerOn)
	c.Send(c.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(9, 16)...), nil, nil)
	c.Expect(pdu.R2T)
	c.Send(c.Command(1, pdu.FlagRead, 32768, iscsitest.Read10(9, 64)...), nil, nil) // and it is not read
	c.Send(logoutOf(c, pdu.LogoutRemoveForReinst, c.CID), nil, nil)
	g.Settle()
	fn := tmf(other, pdu.TMFClearTaskSet, 1, 0, 0)
	other.Send(fn, nil, nil)
	managed(t, other, fn.ITT(), pdu.TMFComplete)
	n := g.Dial().Login()
	attention(t, n, atPowerOn)
	alive(t, n)
	g.Close() // all memory is home
}

// TestReassignAfterSecondLoss: two connections of one CID are lost, one after the
// other, and a third takes over what each of them left.
func TestReassignAfterSecondLoss(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: level(2)})
	a := g.Dial().Login("ErrorRecoveryLevel=2")
	attention(t, a, atPowerOn)
	hold(t, dev, bdev.Write, 2)
	var tasks []pdu.BHS
	c := a
	for n := range byte(2) {
		w := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(uint32(5+n), 1)...)
		c.Send(w, nil, pattern(512, n))
		g.Settle()
		tasks = append(tasks, w)
		old := c
		c = a.DialInto(a.CID).Login()
		old.ExpectClosed()
	}
	for _, w := range tasks {
		m := reassign(c, w.ITT(), 0)
		c.Send(m, nil, nil)
		managed(t, c, m.ITT(), pdu.TMFComplete)
	}
	dev.ResumePending()
	for _, w := range tasks {
		good(t, c, w.ITT(), nil)
	}
	alive(t, c)
}

// TestLostBounded: a session keeps so many lost connections and no more, however long
// DefaultTime2Wait is.
func TestLostBounded(t *testing.T) {
	for _, beyond := range []int{0, 1} {
		g := iscsitest.New(t, iscsitest.Options{Engine: level(2)})
		a, b := pair(g, "ErrorRecoveryLevel=2", "DefaultTime2Wait=3600", "InitialR2T=Yes", "ImmediateData=No")
		w := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(5, 1)...)
		b.Send(w, nil, nil)
		b.Expect(pdu.R2T)
		lose := func() {
			b.Peer.Reset()
			event(t, a, pdu.AsyncDropConnection)
		}
		for range 4 + iscsi.MaxLost - 1 + beyond {
			lose()
			b = a.DialInto(2).Login()
		}
		lose()
		b = a.DialInto(1).Login() // an implicit logout of the first
		want := uint8(pdu.TMFComplete)
		if beyond > 0 {
			want = pdu.TMFNoTask
		}
		m := reassign(b, w.ITT(), 0)
		b.Send(m, nil, nil)
		managed(t, b, m.ITT(), want)
		if n := counter(g, "limit_connections_per_session"); n != uint64(beyond) {
			t.Errorf("connections_per_session counted %d times", n)
		}
		if beyond == 0 {
			b.DataOut(b.Expect(pdu.R2T).BHS, pattern(512, 1))
			good(t, b, w.ITT(), nil)
		}
		alive(t, b)
	}
}

// teller is another nexus, which has set TAS.
func teller(t *testing.T, g *iscsitest.Target) *iscsitest.Conn {
	t.Helper()
	c := dialAs(g, 7).Login()
	attention(t, c, atPowerOn)
	control := []byte{0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0}
	good(t, c, sent(c, c.Command(1, pdu.FlagWrite, 16, 0x15, 0x10, 0, 0, 16, 0)), control)
	return c
}

// TestAbortedTaskWithoutConnection: a task that another nexus aborts, with TAS,
// while no connection has it waits to be taken over; a session that takes the
// place of its own does not wait for it.
func TestAbortedTaskWithoutConnection(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: level(2)})
	other := teller(t, g)
	c := g.Dial().Login("ErrorRecoveryLevel=2")
	attention(t, c, atPowerOn)
	hold(t, dev, bdev.Write, 1)
	c.Send(c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(5, 1)...), nil, pattern(512, 1))
	g.Settle()
	c.Peer.Reset()
	g.Settle()
	fn := tmf(other, pdu.TMFClearTaskSet, 1, 0, 0)
	other.Send(fn, nil, nil)
	g.Settle()
	dev.ResumePending()
	g.Settle()
	n := g.Dial().Login()
	attention(t, n, atPowerOn)
	alive(t, n)
}

// TestToldToWhoTakesOver: a task that another nexus aborts, with TAS, while no
// connection has it holds up nothing, and whoever takes it over is told TASK
// ABORTED (SPC-5 §7.5.8).
func TestToldToWhoTakesOver(t *testing.T) {
	for _, state := range []string{"data", "stream", "device"} {
		for _, end := range []string{"taken over", "aborted", "lost"} {
			t.Run(state+", "+end, func(t *testing.T) {
				g, dev := unhearing(t, iscsitest.Options{Engine: level(2)})
				other := teller(t, g)
				c := g.Dial().Login("ErrorRecoveryLevel=2", "InitialR2T=Yes", "ImmediateData=No")
				attention(t, c, atPowerOn)
				flag, cdb := byte(pdu.FlagWrite), iscsitest.Write10(5, 1)
				if state == "device" {
					hold(t, dev, bdev.Read, 1)
					flag, cdb = pdu.FlagRead, iscsitest.Read10(5, 1)
				}
				size := uint32(512)
				if state == "stream" { // it is aborted while a segment comes, of which the rest is lost
					size, cdb = 65536, iscsitest.Write10(0, 128)
				}
				b := c.Command(1, flag, size, cdb...)
				c.Send(b, nil, nil)
				g.Settle()
				fn := tmf(other, pdu.TMFClearTaskSet, 1, 0, 0)
				if state == "stream" {
					d := c.DataOutBHS(b.ITT(), c.Expect(pdu.R2T).BHS.TTT(), 0, 0, true)
					d.SetDataLen(32768)
					c.SendRaw(c.Frame(d, nil, pattern(32768, 1))[:10000])
					g.Settle()
					other.Send(fn, nil, nil)
					g.Settle()
				}
				c.Peer.Reset()
				g.Settle()
				if state != "stream" {
					other.Send(fn, nil, nil)
					g.Settle()
				}
				dev.ResumePending()
				managed(t, other, fn.ITT(), pdu.TMFComplete)
				if end == "lost" {
					g.Advance(25 * time.Second)
					g.Close()
					return
				}
				n := c.DialInto(c.CID).Login()
				if end == "aborted" {
					m := tmf(n, pdu.TMFAbortTask, 1, b.ITT(), b.CmdSN())
					n.Send(m, nil, nil)
					managed(t, n, m.ITT(), pdu.TMFComplete)
				} else {
					m := reassign(n, b.ITT(), 0)
					n.Send(m, nil, nil)
					managed(t, n, m.ITT(), pdu.TMFComplete)
					if r := n.Finish(b.ITT(), nil); r.Status != 0x40 {
						t.Fatalf("status %#x, want TASK ABORTED", r.Status)
					}
				}
				alive(t, n)
				g.Close()
			})
		}
	}
}

// TestLogoutOutlivesTime2Wait: the logout of a connection whose tasks do not end is
// answered when they have, and none that is asked for meanwhile takes its place, although
// what a lost connection leaves is given up before.
func TestLogoutOutlivesTime2Wait(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: level(2)})
	a, b := pair(g, "ErrorRecoveryLevel=2", "DefaultTime2Wait=2", "DefaultTime2Retain=0")
	hold(t, dev, bdev.Write, 1)
	b.Send(b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...), nil, pattern(512, 1))
	g.Settle()
	first := sent(a, logoutOf(a, pdu.LogoutRemoveForReinst, b.CID))
	b.ExpectClosed()
	g.Advance(3 * time.Second)
	silent(t, g, a)
	dev.ResumePending()
	loggedOut(t, a, first, pdu.LogoutSuccess)
	alive(t, a)
}

// TestReassignBehindLogout: a task whose reassignment waits for room to answer in, and
// whose connection is logged out for good meanwhile, is not there any more; the logout is
// answered when it has ended.
func TestReassignBehindLogout(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: level(2)})
	a, b := pair(g, "ErrorRecoveryLevel=2")
	hold(t, dev, bdev.Write, 1)
	w := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
	b.Send(w, nil, pattern(512, 1))
	g.Settle()
	loggedOut(t, a, sent(a, logoutOf(a, pdu.LogoutRemoveForReinst, b.CID)), pdu.LogoutSuccess)
	gap := a.Command(1, 0, 0, 0)
	var pings []uint32
	ordered := func(b pdu.BHS) {
		b[0] &^= 0x40
		b.SetCmdSN(a.CmdSN)
		a.CmdSN++
		a.Send(b, nil, nil)
	}
	for range iscsi.ConnectionOuts {
		nop := a.Request(pdu.NopOut, pdu.FlagFinal)
		nop.SetTTT(pdu.ReservedTag)
		a.Send(nop, nil, nil)
		pings = append(pings, nop.ITT())
	}
	m, out := reassign(a, w.ITT(), 0), logoutOf(a, pdu.LogoutCloseConnection, b.CID)
	ordered(m)
	ordered(out)
	silent(t, g, a)
	a.Send(gap, nil, nil)
	g.Settle()
	dev.ResumePending()
	good(t, a, gap.ITT(), nil)
	for _, itt := range pings {
		responded(t, a, pdu.NopIn, itt, 0)
	}
	managed(t, a, m.ITT(), pdu.TMFNoTask)
	loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
	alive(t, a)
}
