package iscsi_test

import (
	"bytes"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// Data that follows a write unasked comes while the write waits for a command of
// another connection: it is asked for when its turn has come.
func TestUnsolicitedDataOfHeldCommand(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g, "InitialR2T=No", "ImmediateData=Yes", "FirstBurstLength=2048")
	data := pattern(4096, 4)
	for _, now := range []uint32{0, 512} {
		first := a.Command(1, 0, 0, 0)
		w := b.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(9, 8)...)
		w.SetFlags(w.Flags() &^ pdu.FlagFinal)
		b.Send(w, nil, data[:now])
		b.Send(b.DataOutBHS(w.ITT(), pdu.ReservedTag, 0, now, false), nil, data[now:1024])
		silent(t, g, b)
		a.Send(first, nil, nil)
		good(t, a, first.ITT(), nil)
		g.Settle()
		b.Send(b.DataOutBHS(w.ITT(), pdu.ReservedTag, 1, 1024, true), nil, data[1024:2048]) // asked for already
		good(t, b, w.ITT(), data)
		if r := a.Do(a.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(9, 8)...), nil, 0); !bytes.Equal(r.Data, data) {
			t.Fatalf("%d bytes of immediate data: other data was written", now)
		}
	}
}

// A command that is aborted before its turn has no answer, whatever became of
// the one that had its place before.
func TestHeldCommandIsAbortedInSilence(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	other := telling(t, g, a)
	hold(t, dev, bdev.Write, 1)
	w := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
	b.Send(w, nil, pattern(512, 3))
	g.Settle()
	m := tmf(other, pdu.TMFClearTaskSet, 1, 0, 0)
	other.Send(m, nil, nil)
	g.Settle()
	dev.ResumePending()
	if r := b.Finish(w.ITT(), nil); r.Status != 0x40 {
		t.Fatalf("status %02x, want TASK ABORTED", r.Status)
	}
	managed(t, other, m.ITT(), pdu.TMFComplete)
	g.Settle()
	first := a.Command(1, 0, 0, 0)
	held := b.Command(1, 0, 0, 0)
	b.Send(held, nil, nil)
	silent(t, g, b)
	abort := tmf(b, pdu.TMFAbortTask, 1, held.ITT(), held.CmdSN())
	b.Send(abort, nil, nil)
	g.Advance(6 * time.Second) // nothing acknowledges what a was answered
	a.Discard()
	managed(t, b, abort.ITT(), pdu.TMFComplete)
	a.Send(first, nil, nil)
	good(t, a, first.ITT(), nil)
	silent(t, g, b)
	alive(t, b)
}

// A command that comes before a task set function by another connection, and is
// not before it in the order of CmdSN, is told of its end.
func TestCommandBeyondTaskSetFunction(t *testing.T) {
	for _, fn := range []byte{pdu.TMFAbortTaskSet, pdu.TMFClearTaskSet, pdu.TMFLUNReset, pdu.TMFWarmReset} {
		g, dev := unhearing(t, iscsitest.Options{Engine: several(2)})
		a, b := pair(g)
		hold(t, dev, bdev.Write, 2)
		before := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(8, 1)...)
		m := tmf(a, fn, 1, 0, 0)
		beyond := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
		for _, w := range []pdu.BHS{before, beyond} {
			b.Send(w, nil, pattern(512, 3))
		}
		g.Settle()
		a.Send(m, nil, nil)
		silent(t, g, a)
		dev.ResumePending()
		if r := b.Finish(beyond.ITT(), nil); r.Status != 0x40 {
			t.Fatalf("function %d: status %02x, want TASK ABORTED", fn, r.Status)
		}
		g.Advance(6 * time.Second) // nothing acknowledges it
		managed(t, a, m.ITT(), pdu.TMFComplete)
		g.Close()
	}
}

// The leading connection fails while another is about to join, at any moment: at
// ErrorRecoveryLevel 0 nothing is left of the session.
func TestLeaderFailsWhileAnotherJoins(t *testing.T) {
	for turns := range 12 {
		g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
		a := g.Dial().Login("MaxConnections=4")
		n := a.DialInto(1)
		n.Send(n.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
		for range turns {
			g.Turn()
		}
		a.Peer.Reset()
		g.Settle()
		g.Settle()
		if k := len(g.Engine.Connections(g)); k != 0 {
			t.Fatalf("after %d turns: %d connections live on", turns, k)
		}
		g.Close()
	}
}

// The session fails while a login waits to take a connection's place.
func TestSessionFailsWhileConnectionIsReplaced(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	hold(t, dev, bdev.Write, 1)
	b.Send(b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...), nil, pattern(512, 3))
	g.Settle()
	n := a.DialInto(1)
	n.Send(n.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
	silent(t, g, n)
	a.Peer.Reset()
	g.Settle()
	dev.ResumePending()
	if p := n.Expect(pdu.LoginResponse); p.BHS.LoginStatus() != pdu.LoginNoSession {
		t.Fatalf("login: status %04x", uint16(p.BHS.LoginStatus()))
	}
	g.Until("session gone", func() bool { return len(g.Engine.Connections(g)) == 0 })
}

// A connection fails while its tasks end for another that is to take its place,
// or for a logout: neither is told before they have.
func TestConnectionFailsWhileItsTasksEnd(t *testing.T) {
	for _, logout := range []bool{false, true} {
		g, dev := unhearing(t, iscsitest.Options{Engine: several(2)})
		a, b := pair(g)
		hold(t, dev, bdev.Write, 1)
		b.Send(b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...), nil, pattern(512, 3))
		g.Settle()
		n, out := a, logoutOf(a, pdu.LogoutCloseConnection, 1)
		if logout {
			a.Send(out, nil, nil)
		} else {
			n = a.DialInto(1)
			n.Send(n.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
		}
		silent(t, g, n)
		b.Peer.Reset()
		silent(t, g, n)
		dev.ResumePending()
		if logout {
			loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
		} else if p := n.Expect(pdu.LoginResponse); p.BHS.LoginStatus() != pdu.LoginSuccess {
			t.Fatalf("login: status %04x", uint16(p.BHS.LoginStatus()))
		}
		alive(t, a)
		g.Close()
	}
}

// RFC 7143 §11.14: the Logout Response is the last PDU of its connection.
func TestNothingFollowsLogoutResponse(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	cmd := a.Command(1, 0, 0, 0)
	a.Send(cmd, nil, nil)
	good(t, a, cmd.ITT(), nil)
	m := tmf(b, pdu.TMFAbortTaskSet, 1, 0, 0)
	b.Send(m, nil, nil)
	silent(t, g, b) // until a acknowledges
	a.Expect(pdu.NopIn)
	out := logoutOf(b, pdu.LogoutCloseConnection, 1)
	b.Send(out, nil, nil)
	ack := a.Immediate(pdu.NopOut, pdu.FlagFinal)
	ack.SetITT(pdu.ReservedTag)
	ack.SetTTT(0)
	a.Send(ack, nil, nil)
	loggedOut(t, b, out.ITT(), pdu.LogoutSuccess)
	g.Settle()
	if p, ok := b.TryRecv(); ok {
		t.Fatalf("after the Logout Response: % x", p.BHS)
	}
	b.ExpectClosed()
	alive(t, a)
}

// letIn has b ask to join its session, lets some turns pass, and tells whether the
// target has let it in by then, for all that b knows.
func letIn(g *iscsitest.Target, b *iscsitest.Conn, turns int) bool {
	b.Send(b.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
	for range turns {
		g.Turn()
	}
	p, ok := b.TryRecv()
	if ok {
		b.ExpStatSN = p.BHS.StatSN() + 1
	}
	return ok && p.BHS.LoginStatus() == pdu.LoginSuccess
}

// TestLetIn: a connection whose Login Response has come is one of its session's, at
// whatever moment (RFC 7143 §8.1.3, T5), although the target may have to take it to
// another reactor still.
func TestLetIn(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*iscsi.Options)
		then   func(t *testing.T, g *iscsitest.Target, a, b *iscsitest.Conn)
	}{
		{"it is logged out by another", func(*iscsi.Options) {}, func(t *testing.T, _ *iscsitest.Target, a, b *iscsitest.Conn) {
			loggedOut(t, a, sent(a, logoutOf(a, pdu.LogoutCloseConnection, b.CID)), pdu.LogoutSuccess)
			b.ExpectClosed()
			alive(t, a)
		}},
		{"it is lost", func(*iscsi.Options) {}, func(_ *testing.T, _ *iscsitest.Target, a, b *iscsitest.Conn) {
			b.Peer.Reset()
			a.ExpectClosed()
		}},
		{"a function waits for its command", func(*iscsi.Options) {}, func(t *testing.T, g *iscsitest.Target, a, b *iscsitest.Conn) {
			first := b.Command(1, 0, 0, 0)
			m := tmf(a, pdu.TMFAbortTaskSet, 1, 0, 0)
			a.Send(m, nil, nil)
			g.Settle()
			silent(t, g, a)
			b.Send(first, nil, nil)
			good(t, b, first.ITT(), nil)
			ack(b, b.ExpStatSN)
			managed(t, a, m.ITT(), pdu.TMFComplete)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := 0
			for turns := range 16 {
				g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) {
					o.MaxConnsPerSession = 2
					tc.change(o)
				}), Reactors: 2})
				a := g.Dial().Login("MaxConnections=4")
				attention(t, a, atPowerOn)
				b := a.DialInto(1)
				g.Settle()
				if letIn(g, b, turns) {
					n++
					tc.then(t, g, a, b)
				}
				g.Close()
			}
			if n < 2 {
				t.Fatalf("let in %d times", n)
			}
		})
	}
}

// An immediate command that comes before a task set function by the same connection
// is in the set, although their CmdSN is the same; one that comes behind a function
// that waits is not, and is told of its end.
func TestImmediateCommandBesideTaskSetFunction(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	immediate := func() pdu.BHS {
		w := a.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...)
		w[0] |= 0x40
		a.CmdSN--
		a.Send(w, nil, pattern(512, 3))
		g.Settle()
		return w
	}
	hold(t, dev, bdev.Write, 1)
	immediate()
	m := tmf(a, pdu.TMFAbortTaskSet, 1, 0, 0)
	a.Send(m, nil, nil)
	silent(t, g, a)
	dev.ResumePending()
	managed(t, a, m.ITT(), pdu.TMFComplete)
	silent(t, g, a)

	hold(t, dev, bdev.Write, 1)
	first := b.Command(1, 0, 0, 0)
	m = tmf(a, pdu.TMFAbortTaskSet, 1, 0, 0)
	a.Send(m, nil, nil)
	w := immediate()
	b.Send(first, nil, nil)
	good(t, b, first.ITT(), nil)
	ack(b, b.ExpStatSN)
	silent(t, g, a)
	dev.ResumePending()
	if r := a.Finish(w.ITT(), nil); r.Status != 0x40 {
		t.Fatalf("status %02x, want TASK ABORTED", r.Status)
	}
	managed(t, a, m.ITT(), pdu.TMFComplete)
	alive(t, a)
}

// A write that another nexus has aborted is told TASK ABORTED when its data has
// come, unless a function of its own session has ended it by then.
func TestAbortedWriteIsNotToldAfterItsSet(t *testing.T) {
	for _, own := range []bool{false, true} {
		g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
		a, b := pair(g)
		other := telling(t, g, a)
		w := a.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(9, 8)...)
		a.Send(w, nil, nil)
		out := a.DataOutBHS(w.ITT(), a.Expect(pdu.R2T).BHS.TTT(), 0, 0, true)
		out.SetDataLen(4096)
		wire := a.Frame(out, nil, pattern(4096, 3))
		a.SendRaw(wire[:2000])
		g.Settle()
		m := tmf(other, pdu.TMFClearTaskSet, 1, 0, 0)
		other.Send(m, nil, nil)
		managed(t, other, m.ITT(), pdu.TMFComplete)
		if own {
			m = tmf(b, pdu.TMFAbortTaskSet, 1, 0, 0)
			b.Send(m, nil, nil)
			g.Advance(6 * time.Second) // nothing acknowledges what a was answered
			a.Discard()
			managed(t, b, m.ITT(), pdu.TMFComplete)
			ack(b, b.ExpStatSN)
		}
		a.SendRaw(wire[2000:])
		if own {
			silent(t, g, a)
		} else if r := a.Finish(w.ITT(), nil); r.Status != 0x40 {
			t.Fatalf("status %02x, want TASK ABORTED", r.Status)
		}
		g.Close()
	}
}

// TestLetInAmongOthers: however many log in, none makes a connection go whose last
// Login Response has left.
func TestLetInAmongOthers(t *testing.T) {
	n := 0
	for k := range 48 {
		g := iscsitest.New(t, iscsitest.Options{Engine: options(func(o *iscsi.Options) { o.MaxPendingLogins = 1 })})
		a := g.Dial().Login("MaxConnections=4")
		attention(t, a, atPowerOn)
		b := a.DialInto(1)
		g.Settle()
		in := letIn(g, b, k/3)
		for range k % 3 {
			g.Dial()
			g.Turn()
		}
		g.Dial()
		g.Settle()
		if p, ok := b.TryRecv(); ok && !in {
			in = p.BHS.LoginStatus() == pdu.LoginSuccess
			b.ExpStatSN = p.BHS.StatSN() + 1
		}
		if in {
			n++
			alive(t, a)
			alive(t, b)
		}
		g.Close()
	}
	if n < 2 {
		t.Fatalf("let in %d times", n)
	}
}

// telling is another initiator, which has set TAS: what it aborts is told so. a,
// whose unit that is too, has been told of the change.
func telling(t *testing.T, g *iscsitest.Target, a *iscsitest.Conn) *iscsitest.Conn {
	t.Helper()
	other := dialAs(g, 7).Login()
	attention(t, other, atPowerOn)
	control := []byte{0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0} // with TAS
	good(t, other, sent(other, other.Command(1, pdu.FlagWrite, 16, 0x15, 0x10, 0, 0, 16, 0)), control)
	attention(t, a, 0x2a01)
	return other
}

// TestAbortWhileDataOfHeldCommandComes: a command that waits for its turn is aborted by
// another connection before its data has come whole: its CmdSN counts as received (RFC
// 7143 §11.6.1), what comes still goes nowhere.
func TestAbortWhileDataOfHeldCommandComes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		filled bool // the gap before it, ahead of the function
	}{{"before its turn", false}, {"after its turn", true}} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
			a, b := pair(g)
			first := a.Command(1, 0, 0, 0)
			held := b.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(8, 1)...)
			held.SetDataLen(512)
			w := b.Frame(held, nil, pattern(512, 1))
			b.SendRaw(w[:100])
			g.Settle()
			fill := func() {
				a.Send(first, nil, nil)
				good(t, a, first.ITT(), nil)
			}
			if tc.filled {
				fill()
			}
			m := tmf(a, pdu.TMFAbortTask, 1, held.ITT(), held.CmdSN())
			a.Send(m, nil, nil)
			managed(t, a, m.ITT(), pdu.TMFComplete)
			if !tc.filled {
				fill()
			}
			alive(t, a)
			b.SendRaw(w[100:])
			silent(t, g, b)
			written(t, a, 8, make([]byte, 512))
			alive(t, b)
			g.Close() // all memory is home
		})
	}
}
