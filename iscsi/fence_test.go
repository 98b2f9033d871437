package iscsi_test

import (
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// RFC 7143 §4.2.2.3.3: the answer to a task management function stays back until
// what was answered before it on other connections is acknowledged.
func TestResponseFence(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(g *iscsitest.Target, b *iscsitest.Conn)
	}{
		{"acknowledged", func(_ *iscsitest.Target, b *iscsitest.Conn) { ack(b, b.ExpStatSN) }},
		{"not within its time", func(g *iscsitest.Target, _ *iscsitest.Conn) { g.Advance(6 * time.Second) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
			a, b := pair(g)
			cmd := b.Command(1, 0, 0, 0)
			b.Send(cmd, nil, nil)
			good(t, b, cmd.ITT(), nil)
			m := tmf(a, pdu.TMFAbortTaskSet, 1, 0, 0)
			a.Send(m, nil, nil)
			silent(t, g, a)
			if p := b.Expect(pdu.NopIn); p.BHS.TTT() == pdu.ReservedTag {
				t.Fatal("the NOP-In wants no answer")
			}
			silent(t, g, a)
			tc.end(g, b)
			managed(t, a, m.ITT(), pdu.TMFComplete)
			alive(t, a)
			alive(t, b)
		})
	}
	t.Run("its connection dies", func(t *testing.T) {
		g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
		a, b := pair(g)
		b.Send(b.Command(1, 0, 0, 0), nil, nil)
		g.Settle()
		m := tmf(a, pdu.TMFAbortTaskSet, 1, 0, 0)
		a.Send(m, nil, nil)
		silent(t, g, a)
		out := logoutOf(a, pdu.LogoutCloseConnection, 1)
		a.Send(out, nil, nil)
		managed(t, a, m.ITT(), pdu.TMFComplete)
		loggedOut(t, a, out.ITT(), pdu.LogoutSuccess)
	})
}

// asked expects the NOP-In that asks for an acknowledgement.
func asked(t testing.TB, c *iscsitest.Conn) {
	t.Helper()
	if p := c.Expect(pdu.NopIn); p.BHS.TTT() == pdu.ReservedTag {
		t.Fatal("the NOP-In wants no answer")
	}
}

// turSent sends TEST UNIT READY and returns its tag.
func turSent(c *iscsitest.Conn, lun uint16) uint32 { return sent(c, c.Command(lun, 0, 0, 0)) }

// RFC 7143 §4.2.2.3.3, (3) and (4): what is answered after the response to a task
// set function stays back on other connections until that is acknowledged.
func TestFenceHoldsLater(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(g *iscsitest.Target, a, b *iscsitest.Conn)
	}{
		{"acknowledged", func(_ *iscsitest.Target, a, _ *iscsitest.Conn) { ack(a, a.ExpStatSN) }},
		{"not within its time", func(g *iscsitest.Target, _, _ *iscsitest.Conn) { g.Advance(6 * time.Second) }},
		{"its connection is logged out", func(_ *iscsitest.Target, a, b *iscsitest.Conn) {
			b.Send(logoutOf(b, pdu.LogoutCloseConnection, 0), nil, nil)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
			a, b := pair(g)
			if r := a.Do(a.Command(0, 0, 0, 0), nil, 0); r.Status != 2 {
				t.Fatalf("status %02x", r.Status) // it is another logical unit, and attends
			}
			ack(a, a.ExpStatSN)
			m := tmf(a, pdu.TMFAbortTaskSet, 1, 0, 0)
			a.Send(m, nil, nil)
			managed(t, a, m.ITT(), pdu.TMFComplete)
			silent(t, g, a) // nobody waits yet: it may take its time

			other := b.Command(0, 0, 0, 0)
			good(t, b, sent(b, other), nil)
			own := a.Command(1, 0, 0, 0) // StatSN keeps this one's order
			own.SetExpStatSN(own.ExpStatSN() - 1)
			a.Send(own, nil, nil)
			good(t, a, own.ITT(), nil)

			later, last := turSent(b, 1), turSent(b, 1)
			silent(t, g, b)
			asked(t, a)
			silent(t, g, b)
			tc.end(g, a, b)
			good(t, b, later, nil)
			good(t, b, last, nil)
			if tc.name != "its connection is logged out" {
				alive(t, a)
				alive(t, b)
			}
		})
	}
}

// What waits for a fence does not outlive its connection or its session, and
// neither has to wait for the fence to end.
func TestFenceEnds(t *testing.T) {
	for _, tc := range []struct {
		name   string
		reason byte
	}{
		{"the connection", pdu.LogoutCloseConnection}, {"the session", pdu.LogoutCloseSession},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
			a, b := pair(g)
			m := tmf(a, pdu.TMFAbortTaskSet, 1, 0, 0)
			a.Send(m, nil, nil)
			p := a.Expect(pdu.TMFResponse) // and it is not acknowledged
			b.Send(b.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(7, 8)...), nil, nil)
			silent(t, g, b) // its data is lent by the device
			asked(t, a)
			out := logoutOf(b, tc.reason, 1)
			b.Send(out, nil, nil)
			loggedOut(t, b, out.ITT(), pdu.LogoutSuccess)
			b.ExpectClosed()
			if tc.reason == pdu.LogoutCloseSession {
				a.ExpectClosed()
				return
			}
			a.ExpStatSN = p.BHS.StatSN() + 1
			alive(t, a)
		})
	}
}

// Two task set functions by two connections at once: each is fenced by the other.
func TestFenceAfterFence(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	done := turSent(b, 1)
	good(t, b, done, nil)
	one := tmf(a, pdu.TMFAbortTaskSet, 1, 0, 0)
	a.Send(one, nil, nil)
	silent(t, g, a)
	asked(t, b)
	two := tmf(b, pdu.TMFAbortTaskSet, 1, 0, 0)
	two.SetExpStatSN(two.ExpStatSN() - 1)
	b.Send(two, nil, nil)
	silent(t, g, b)
	third := a.Command(1, 0, 0, 0)
	a.Send(third, nil, nil)
	silent(t, g, a)
	silent(t, g, b)
	ack(b, b.ExpStatSN)
	managed(t, a, one.ITT(), pdu.TMFComplete)
	asked(t, a)
	silent(t, g, b)
	ack(a, a.ExpStatSN)
	managed(t, b, two.ITT(), pdu.TMFComplete)
	silent(t, g, a)
	asked(t, b)
	ack(b, b.ExpStatSN)
	good(t, a, third.ITT(), nil)
	alive(t, a)
	alive(t, b)
}

// RFC 7143 §4.2.2.3.4: the unit attention by which a session learns that its tasks
// were aborted is fenced, too, and so is the response to PREEMPT AND ABORT.
func TestFencedCommands(t *testing.T) {
	t.Run("unit attention", func(t *testing.T) {
		g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
		a, b := pair(g)
		by := dialAs(g, 77).Login()
		attention(t, by, atPowerOn)
		good(t, a, turSent(a, 1), nil)
		m := tmf(by, pdu.TMFLUNReset, 1, 0, 0)
		by.Send(m, nil, nil)
		managed(t, by, m.ITT(), pdu.TMFComplete)
		told := turSent(b, 1)
		silent(t, g, b)
		asked(t, a)
		after := a.Command(1, 0, 0, 0)
		a.Send(after, nil, nil) // which acknowledges
		sense(t, b.Finish(told, nil), 6, 0x2903)
		silent(t, g, a)
		asked(t, b)
		ack(b, b.ExpStatSN)
		good(t, a, after.ITT(), nil)
	})
	t.Run("PREEMPT AND ABORT", func(t *testing.T) {
		g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
		a, b := pair(g)
		by := dialAs(g, 77).Login()
		attention(t, by, atPowerOn)
		prout := func(c *iscsitest.Conn, action, key, service byte) uint32 {
			list := make([]byte, 24)
			list[7], list[15] = key, service
			out := c.Command(1, pdu.FlagWrite, 24, 0x5f, action, 1, 0, 0, 0, 0, 0, 24)
			c.Send(out, nil, list)
			return out.ITT()
		}
		good(t, a, prout(a, 0, 0, 7), nil)
		good(t, by, prout(by, 0, 0, 8), nil)
		good(t, b, turSent(b, 1), nil)
		preempt := prout(a, 5, 7, 8)
		silent(t, g, a)
		asked(t, b)
		after := turSent(b, 1) // which acknowledges
		good(t, a, preempt, nil)
		silent(t, g, b)
		asked(t, a)
		ack(a, a.ExpStatSN)
		good(t, b, after, nil)
	})
}

// TestFencedFunctionsBounded: functions whose answers wait for an acknowledgement are
// outstanding: an initiator cannot have the target hold more and more of them.
func TestFencedFunctionsBounded(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
	a, b := pair(g)
	good(t, b, turSent(b, 1), nil)
	const beyond = 40
	var tags []uint32
	for range iscsi.MaxManagement + beyond {
		tags = append(tags, sent(a, tmf(a, pdu.TMFAbortTask, 1, 0xdead, 0)))
	}
	for _, itt := range tags[iscsi.MaxManagement:] {
		managed(t, a, itt, pdu.TMFRejected)
	}
	silent(t, g, a)
	for range iscsi.MaxManagement {
		asked(t, b)
	}
	silent(t, g, b)
	if n := count(t, g, "limit_tasks"); n != beyond {
		t.Errorf("the limit was reached %d times, want %d", n, beyond)
	}
	ack(b, b.ExpStatSN)
	for _, itt := range tags[:iscsi.MaxManagement] {
		managed(t, a, itt, pdu.TMFNoTask)
	}
	alive(t, a)
	alive(t, b)
}
