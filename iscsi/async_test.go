package iscsi_test

import (
	"errors"
	"testing"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

func TestTaskReporting(t *testing.T) {
	for _, tc := range []struct{ offer, want string }{
		{"FastAbort,ResponseFence,RFC3720", "FastAbort"}, {"ResponseFence,FastAbort", "ResponseFence"},
		{"RFC3720", "RFC3720"}, {"X-other,RFC3720", "RFC3720"}, {"X-other", "Reject"},
	} {
		g := iscsitest.New(t, iscsitest.Options{})
		c := g.Dial().Login("TaskReporting=" + tc.offer)
		if got := c.Answered["TaskReporting"]; got != tc.want {
			t.Errorf("%s: %s, want %s", tc.offer, got, tc.want)
		}
		g.Close()
	}
}

// TestFastAbort: who has tasks ended by a function on another session or another
// connection is told once a LUN, if FastAbort was negotiated, and not otherwise
// (RFC 7143 §4.2.3.4). The Data-Out that comes all the same is discarded.
func TestFastAbort(t *testing.T) {
	for _, tc := range []struct {
		name      string
		reporting string
		fn        byte
		mine      bool // the function comes by the session's own other connection
		told      bool
	}{
		{"another session's reset", "FastAbort", pdu.TMFLUNReset, false, true},
		{"another session's reset, RFC3720", "RFC3720", pdu.TMFLUNReset, false, false},
		{"another session's reset, ResponseFence", "ResponseFence", pdu.TMFLUNReset, false, false},
		{"another session's CLEAR TASK SET", "FastAbort", pdu.TMFClearTaskSet, false, true},
		{"another session's ABORT TASK SET", "FastAbort", pdu.TMFAbortTaskSet, false, false}, // affects its own tasks only
		{"another connection's reset", "FastAbort", pdu.TMFLUNReset, true, true},
		{"another connection's ABORT TASK SET", "FastAbort", pdu.TMFAbortTaskSet, true, true},
		{"another connection's ABORT TASK", "FastAbort", pdu.TMFAbortTask, true, false},
		{"another connection's reset, RFC3720", "RFC3720", pdu.TMFLUNReset, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{Engine: several(2)})
			a, b := pair(g, "InitialR2T=Yes", "ImmediateData=No", "TaskReporting="+tc.reporting)
			by := a
			if !tc.mine {
				by = g.Dial()
				by.ISID[5]++
				by.Login("TaskReporting=FastAbort")
				attention(t, by, atPowerOn)
			}
			var tasks, r2ts []pdu.BHS
			for i := range uint32(3) {
				w := b.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(i*8, 8)...)
				b.Send(w, nil, nil)
				tasks = append(tasks, w)
				r2ts = append(r2ts, b.Expect(pdu.R2T).BHS)
			}
			m := tmf(by, tc.fn, 1, tasks[0].ITT(), tasks[0].CmdSN())
			by.Send(m, nil, nil)
			if tc.told {
				e := event(t, b, pdu.AsyncTasksTerminated)
				if e.LUN() != 1<<48 {
					t.Fatalf("event 5 about LUN %x", e.LUN())
				}
				n := b.Immediate(pdu.NopOut, pdu.FlagFinal) // as the initiator must
				n.SetITT(pdu.ReservedTag)
				n.SetTTT(pdu.ReservedTag)
				n.SetLUN(e.LUN())
				b.Send(n, nil, nil)
			} else if tc.mine { // the fence wants its answer
				ack(b, b.ExpStatSN)
			}
			managed(t, by, m.ITT(), pdu.TMFComplete)
			if tc.told && tc.mine {
				b.Expect(pdu.NopIn) // the fence's
			}
			lives := len(tasks) // the first that is not affected
			switch {
			case tc.fn == pdu.TMFAbortTask:
				lives = 1
			case tc.fn == pdu.TMFAbortTaskSet && !tc.mine:
				lives = 0
			}
			for i, r := range r2ts {
				b.DataOut(r, pattern(4096, 1))
				if i >= lives {
					good(t, b, tasks[i].ITT(), nil)
				}
			}
			ack(a, a.ExpStatSN) // the fences want it
			switch {
			case tc.fn == pdu.TMFLUNReset:
				attention(t, b, deviceReset)
			case tc.fn == pdu.TMFClearTaskSet:
				attention(t, b, cleared)
			}
			ack(b, b.ExpStatSN)
			alive(t, b)
			alive(t, a)
			silent(t, g, b)
		})
	}
}

// TestFastAbortOfHeld: a command that waits for its turn and ends by an ABORT TASK
// is told of by the answer to that alone.
func TestFastAbortOfHeld(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("TaskReporting=FastAbort")
	attention(t, c, atPowerOn)
	c.CmdSN++ // a gap
	w := c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...)
	c.Send(w, nil, nil)
	m := tmf(c, pdu.TMFAbortTask, 1, w.ITT(), w.CmdSN())
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFComplete)
}

// TestFastAbortTold: that a function of another session ends tasks is told at once, and
// whether or not each is told to be aborted as well (RFC 7143 §4.2.3.4, d).
func TestFastAbortTold(t *testing.T) {
	g, slow := stubborn(t, iscsitest.Options{})
	by := dialAs(g, 7).Login()
	ready(t, by, 1)
	control := []byte{4: 0x0a, 10, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0} // TAS
	if r := by.Do(by.Command(1, pdu.FlagWrite, 16, 0x15, 0x10, 0, 0, 16, 0), control, 16); r.Status != 0 {
		t.Fatalf("MODE SELECT: status %02x sense % x", r.Status, r.Sense)
	}
	c := g.Dial().Login("TaskReporting=FastAbort", "InitialR2T=Yes", "ImmediateData=Yes")
	ready(t, c, 1)
	slow.n = 1
	busy := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
	c.Send(busy, nil, pattern(4096, 1))
	g.Settle()
	waiting := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(8, 8)...)
	c.Send(waiting, nil, nil)
	r := c.Expect(pdu.R2T).BHS
	m := tmf(by, pdu.TMFLUNReset, 1, 0, 0)
	by.Send(m, nil, nil)
	if e := event(t, c, pdu.AsyncTasksTerminated); e.LUN() != 1<<48 {
		t.Fatalf("event 5 about LUN %x", e.LUN())
	}
	aborted := func(b pdu.BHS) {
		t.Helper()
		if r := c.Finish(b.ITT(), nil); r.Status != 0x40 {
			t.Fatalf("status %02x", r.Status)
		}
	}
	aborted(waiting)
	silent(t, g, by)
	slow.finish()
	aborted(busy)
	managed(t, by, m.ITT(), pdu.TMFComplete)
	c.DataOut(r, pattern(4096, 1)) // was on its way
	attention(t, c, deviceReset)
	alive(t, c)
}

// TestFastAbortBesideOwn: a connection with a function of its own outstanding is told
// of what others end on another unit.
func TestFastAbortBesideOwn(t *testing.T) {
	g, slow := stubborn(t, iscsitest.Options{})
	c := g.Dial().Login("TaskReporting=FastAbort", "InitialR2T=Yes", "ImmediateData=Yes")
	ready(t, c, 0, 1)
	by := dialAs(g, 7).Login()
	ready(t, by, 0)
	slow.n = 1
	c.Send(c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, pattern(4096, 1))
	w := c.Command(0, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
	c.Send(w, nil, nil)
	c.Expect(pdu.R2T)
	own := tmf(c, pdu.TMFLUNReset, 1, 0, 0)
	c.Send(own, nil, nil)
	silent(t, g, c)
	m := tmf(by, pdu.TMFLUNReset, 0, 0, 0)
	by.Send(m, nil, nil)
	managed(t, by, m.ITT(), pdu.TMFComplete)
	if e := event(t, c, pdu.AsyncTasksTerminated); e.LUN() != 0 {
		t.Fatalf("event 5 about LUN %x", e.LUN())
	}
	slow.finish()
	managed(t, c, own.ITT(), pdu.TMFComplete) // which tells of the rest
	silent(t, g, c)
}

func TestSendAsync(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Engine: several(3)})
	a, b := pair(g)
	send := func(m iscsi.AsyncMessage) {
		t.Helper()
		must(t, g.Engine.SendAsync(g, iscsitest.Node, m))
	}
	send(iscsi.AsyncMessage{Event: pdu.AsyncSCSI, LUN: 1, Key: 6, ASC: 0x2a, ASCQ: 9})
	p := a.Expect(pdu.AsyncMessage)
	a.ExpStatSN++
	if p.BHS.AsyncEvent() != pdu.AsyncSCSI || p.BHS.LUN() != 1<<48 || len(p.Data) != 20 {
		t.Fatalf("event 0: % x | % x", p.BHS, p.Data)
	}
	r := iscsitest.Result{Sense: p.Data[2:]}
	if k, code := r.Triple(); p.Data[1] != 18 || k != 6 || code != 0x2a09 {
		t.Fatalf("sense % x", p.Data)
	}
	send(iscsi.AsyncMessage{Event: pdu.AsyncSCSI, LUN: 16383})
	if e := event(t, a, pdu.AsyncSCSI); e.LUN() != 0x7fff<<48 { // flat space addressing
		t.Fatalf("LUN %016x", e.LUN())
	}
	silent(t, g, b)

	send(iscsi.AsyncMessage{Event: pdu.AsyncRenegotiate, Seconds: 7})
	for _, c := range []*iscsitest.Conn{a, b} {
		if e := event(t, c, pdu.AsyncRenegotiate); e.Param3() != 7 {
			t.Fatalf("event 4: % x", e)
		}
		text := c.Request(pdu.TextRequest, pdu.FlagFinal)
		text.SetTTT(pdu.ReservedTag)
		c.Send(text, nil, nil)
		c.Expect(pdu.TextResponse)
		c.ExpStatSN++
	}

	for _, cid := range []uint16{1, 0} { // another's, and that of the one that tells
		tells, goes := a, b
		if cid == 0 {
			tells, goes = b, a
		}
		send(iscsi.AsyncMessage{Event: pdu.AsyncDropConnection, CID: cid})
		if e := event(t, tells, pdu.AsyncDropConnection); e.Param1() != cid || e.Param2() != 2 || e.Param3() != 20 {
			t.Fatalf("event 2: % x", e)
		}
		goes.ExpectClosed()
		alive(t, tells)
		if cid == 1 {
			b = a.DialInto(1).Login()
		}
	}
	must(t, g.Engine.RequestLogout(g, iscsitest.Node))
	if e := event(t, b, pdu.AsyncLogoutRequest); e.Param3() == 0 {
		t.Fatalf("event 1: % x", e)
	}
	send(iscsi.AsyncMessage{Event: pdu.AsyncDropConnection, CID: 77}) // of nobody
	silent(t, g, b)
	send(iscsi.AsyncMessage{Event: pdu.AsyncDropSession})
	if e := event(t, b, pdu.AsyncDropSession); e.Param2() != 2 || e.Param3() != 20 {
		t.Fatalf("event 3: % x", e)
	}
	b.ExpectClosed()

	if err := g.Engine.SendAsync(g, iscsitest.Node, iscsi.AsyncMessage{Event: 5}); !errors.Is(err, iscsi.ErrInvalid) {
		t.Fatalf("event 5: %v", err)
	}
	if err := g.Engine.SendAsync(g, "iqn.x:y", iscsi.AsyncMessage{}); !errors.Is(err, iscsi.ErrNotFound) {
		t.Fatalf("no such node: %v", err)
	}
}

// TestSendAsyncWhileOneLeaves: what is ordered is done although the first connection
// of the session is about to end.
func TestSendAsyncWhileOneLeaves(t *testing.T) {
	g, dev := unhearing(t, iscsitest.Options{Engine: several(3)})
	a, b := pair(g)
	c := a.DialInto(2).Login()
	hold(t, dev, bdev.Write, 1)
	a.Send(a.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(9, 1)...), nil, pattern(512, 1))
	g.Settle()
	out := logoutOf(b, pdu.LogoutCloseConnection, a.CID)
	b.Send(out, nil, nil)
	g.Settle()
	must(t, g.Engine.SendAsync(g, iscsitest.Node, iscsi.AsyncMessage{Event: pdu.AsyncDropConnection, CID: c.CID}))
	if e := event(t, b, pdu.AsyncDropConnection); e.Param1() != c.CID {
		t.Fatalf("event 2: % x", e)
	}
	c.ExpectClosed()
	dev.ResumePending()
	loggedOut(t, b, out.ITT(), pdu.LogoutSuccess)
	a.ExpectClosed()
	alive(t, b)
}
