package iscsi_test

import (
	"testing"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// codes of unit attentions.
const (
	powerOn     = 0x2901
	busReset    = 0x2902
	deviceReset = 0x2903
	cleared     = 0x2f00 // commands cleared by another initiator
)

// attention expects one unit attention on LUN 1 and none after it.
func attention(t testing.TB, c *iscsitest.Conn, code uint16) {
	t.Helper()
	sense(t, c.Do(c.Command(1, 0, 0), nil, 0), 6, code)
	if r := c.Do(c.Command(1, 0, 0), nil, 0); r.Status != 0 {
		t.Fatalf("after the unit attention: status %02x sense % x", r.Status, r.Sense)
	}
}

// TestTaskManagement runs each function on tasks in each state: the answer
// comes after the affected tasks have ended, they get no response, others do,
// and every nexus hears of it as SAM-5 §5.14 and §7 want.
func TestTaskManagement(t *testing.T) {
	for _, fn := range []struct {
		name   string
		fn     byte
		others bool   // tasks of other nexuses are affected too
		own    uint16 // unit attention of the nexus that asked; 0 is none
		ua     uint16 // of other nexuses that had a task
	}{
		{"ABORT TASK", pdu.TMFAbortTask, false, 0, 0},
		{"ABORT TASK SET", pdu.TMFAbortTaskSet, false, 0, 0},
		{"CLEAR TASK SET", pdu.TMFClearTaskSet, true, 0, cleared},
		{"LUN RESET", pdu.TMFLUNReset, true, deviceReset, deviceReset},
		{"TARGET WARM RESET", pdu.TMFWarmReset, true, busReset, busReset},
	} {
		for _, state := range []string{"waiting for data", "half of its data", "waiting for a buffer", "in the backend", "held"} {
			t.Run(fn.name+", "+state, func(t *testing.T) {
				g, dev := faulty(t, iscsitest.Options{Memory: 16 << 20})
				c := g.Dial().Login("InitialR2T=Yes", "ImmediateData=No")
				ready(t, c, 1)
				other := dialAs(g, 7).Login("InitialR2T=Yes", "ImmediateData=No")
				ready(t, other, 1)
				var b, theirs, gap pdu.BHS
				switch state {
				case "waiting for data", "half of its data":
					b = c.Command(1, pdu.FlagWrite, 8192, iscsitest.Write10(0, 16)...)
					c.Send(b, nil, nil)
					r2t := c.Expect(pdu.R2T).BHS
					if state == "half of its data" {
						c.Send(c.DataOutBHS(b.ITT(), r2t.TTT(), 0, 0, false), nil, make([]byte, 4096))
					}
					theirs = other.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(32, 8)...)
					other.Send(theirs, nil, nil)
					other.Expect(pdu.R2T)
				case "waiting for a buffer":
					free := drain(g)
					defer free()
					b = c.Command(1, pdu.FlagRead, 1<<20, iscsitest.Read10(0, 2048)...)
					c.Send(b, nil, nil)
					theirs = other.Command(1, pdu.FlagRead, 1<<20, iscsitest.Read10(0, 2048)...)
					other.Send(theirs, nil, nil)
				case "in the backend":
					hold(t, dev, bdev.Read, 2)
					b = c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...)
					c.Send(b, nil, nil)
					theirs = other.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...)
					other.Send(theirs, nil, nil)
				case "held":
					if fn.fn != pdu.TMFAbortTask {
						t.Skip("a command whose turn has not come is in no task set")
					}
					gap, b = c.Command(1, 0, 0), c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...)
					c.Send(b, nil, nil)
				}
				g.Settle()
				m := tmf(c, fn.fn, 1, b.ITT(), b.CmdSN())
				c.Send(m, nil, nil)
				managed(t, c, m.ITT(), pdu.TMFComplete)
				if gap != nil {
					c.Send(gap, nil, nil)
					good(t, c, gap.ITT(), nil)
				}
				silent(t, g, c) // no response of the aborted task
				if fn.own != 0 {
					attention(t, c, fn.own)
				}
				if theirs == nil {
					ping(t, c)
					return
				}
				if fn.others {
					silent(t, g, other)
					attention(t, other, fn.ua)
					return
				}
				silent(t, g, other)
				m = tmf(other, pdu.TMFAbortTask, 1, theirs.ITT(), theirs.CmdSN())
				other.Send(m, nil, nil) // it is still there
				managed(t, other, m.ITT(), pdu.TMFComplete)
			})
		}
	}
}

// drain takes all of the first reactor's memory and returns what gives it back.
func drain(g *iscsitest.Target) (free func()) {
	a := g.Reactors[0].Arena
	var all []func()
	for n := uint32(4 << 20); n >= 4096; n /= 2 {
		for {
			b, ok := a.Alloc(n)
			if !ok {
				break
			}
			all = append(all, func() { a.Free(b) })
		}
	}
	return func() {
		for _, f := range all {
			f()
		}
	}
}

// TestTMFWaits: while an affected command cannot be recalled from the backend
// there is no answer; then there is.
func TestTMFWaits(t *testing.T) {
	for _, tc := range []struct {
		name string
		fn   byte
	}{
		{"ABORT TASK", pdu.TMFAbortTask}, {"ABORT TASK SET", pdu.TMFAbortTaskSet},
		{"CLEAR TASK SET", pdu.TMFClearTaskSet}, {"LUN RESET", pdu.TMFLUNReset}, {"TARGET WARM RESET", pdu.TMFWarmReset},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, slow := stubborn(t, iscsitest.Options{})
			c := g.Dial().Login()
			ready(t, c, 1)
			slow.n = 1
			b := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
			c.Send(b, nil, pattern(4096, 1))
			g.Settle()
			m := tmf(c, tc.fn, 1, b.ITT(), b.CmdSN())
			c.Send(m, nil, nil)
			g.Advance(time.Second)
			silent(t, g, c)
			ping(t, c) // the connection is not stuck meanwhile
			slow.finish()
			managed(t, c, m.ITT(), pdu.TMFComplete)
			silent(t, g, c)
			slow.n = 0
			if tc.fn >= pdu.TMFLUNReset {
				sense(t, c.Do(c.Command(1, 0, 0), nil, 0), 6, map[byte]uint16{pdu.TMFLUNReset: deviceReset, pdu.TMFWarmReset: busReset}[tc.fn])
			}
			alive(t, c)
		})
	}
}

// TestTMFSparesLater: a command that comes behind a function while that waits for its
// turn is none of its business, and goes on (RFC 7143 §11.5).
func TestTMFSparesLater(t *testing.T) {
	for _, tc := range []struct {
		name string
		fn   byte
	}{
		{"CLEAR TASK SET", pdu.TMFClearTaskSet}, {"LUN RESET", pdu.TMFLUNReset}, {"TARGET WARM RESET", pdu.TMFWarmReset},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, slow := stubborn(t, iscsitest.Options{})
			c := g.Dial().Login("TaskReporting=FastAbort", "InitialR2T=Yes", "ImmediateData=No")
			ready(t, c, 1)
			other := dialAs(g, 7).Login()
			ready(t, other, 1)
			slow.n = 1
			other.Send(other.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, pattern(4096, 1))
			first := tmf(other, pdu.TMFLUNReset, 1, 0, 0) // the unit is busy with it
			other.Send(first, nil, nil)
			g.Settle()
			attention(t, c, deviceReset)
			before := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(8, 8)...)
			c.Send(before, nil, nil)
			c.Expect(pdu.R2T)
			m := tmf(c, tc.fn, 1, 0, 0)
			c.Send(m, nil, nil)
			behind := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(16, 8)...)
			c.Send(behind, nil, nil)
			r := c.Expect(pdu.R2T).BHS
			slow.finish()
			managed(t, other, first.ITT(), pdu.TMFComplete)
			managed(t, c, m.ITT(), pdu.TMFComplete) // and does not wait for that command
			c.DataOut(r, pattern(4096, 1))
			good(t, c, behind.ITT(), nil)
			silent(t, g, c)
		})
	}
}

// TestTMFSparesParts: nor are the parts of such a command, if it is an EXTENDED COPY.
func TestTMFSparesParts(t *testing.T) {
	g, slow := stubborn(t, iscsitest.Options{})
	c := g.Dial().Login("ImmediateData=Yes")
	ready(t, c, 1)
	list := copyList(t, c, 1, 1)
	other := dialAs(g, 7).Login()
	ready(t, other, 1)
	slow.n = 2
	other.Send(other.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...), nil, pattern(4096, 1))
	first := tmf(other, pdu.TMFLUNReset, 1, 0, 0) // the unit is busy with it
	other.Send(first, nil, nil)
	g.Settle()
	attention(t, c, deviceReset)
	m := tmf(c, pdu.TMFClearTaskSet, 1, 0, 0)
	c.Send(m, nil, nil)
	behind := extendedCopy(c, 1, list)
	c.Send(behind, nil, list)
	g.Settle()
	part := slow.held[1:]
	slow.held = slow.held[:1]
	slow.finish()
	managed(t, other, first.ITT(), pdu.TMFComplete)
	managed(t, c, m.ITT(), pdu.TMFComplete)
	slow.held = part
	slow.finish()
	good(t, c, behind.ITT(), nil)
}

// TestWarmResetOfAbsent: a command to a unit that is not there, which waits for a
// buffer, ends with a target reset as any other.
func TestWarmResetOfAbsent(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20})
	c := g.Dial().Login()
	ready(t, c, 1)
	free := drain(g)
	c.Send(c.Command(77, pdu.FlagRead, 1<<16, 0xa0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0), nil, nil) // REPORT LUNS
	silent(t, g, c)
	m := tmf(c, pdu.TMFWarmReset, 0, 0, 0)
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFComplete)
	free()
	silent(t, g, c)
	attention(t, c, busReset)
	alive(t, c)
}

// TestTMFTimeBox: a command that does not come back gets the function the
// answer 255; new commands are fenced until it has (SAM-5 §7).
func TestTMFTimeBox(t *testing.T) {
	g, slow := stubborn(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	slow.n = 1
	b := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
	c.Send(b, nil, pattern(4096, 1))
	g.Settle()
	slow.n = 0
	m := tmf(c, pdu.TMFLUNReset, 1, 0, 0)
	c.Send(m, nil, nil)
	g.Advance(20 * time.Second)
	managed(t, c, m.ITT(), pdu.TMFRejected)
	if r := c.Do(c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, 0); r.Status != 8 {
		t.Fatalf("read beside a write that may still happen: status %02x", r.Status)
	}
	slow.finish()
	g.Settle()
	sense(t, c.Do(c.Command(1, 0, 0), nil, 0), 6, deviceReset)
	alive(t, c)
}

// TestColdReset: the answer leaves, then every session of the node ends; a new
// login finds a power-on condition. Those of another node do not hear of it.
func TestColdReset(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Reactors: 2})
	c, other := g.Dial().Login(), dialAs(g, 7).Login()
	ready(t, c, 1)
	ready(t, other, 1)
	must(t, g.Engine.AddNode(g, iscsi.NodeConfig{Name: iscsitest.Node + "2", Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}}))
	stranger := dialAs(g, 8)
	if s := stranger.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node+"2"); s != 0 {
		t.Fatalf("status %04x", s)
	}
	m := tmf(c, pdu.TMFColdReset, 1, 0, 0)
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFComplete)
	c.ExpectClosed()
	other.ExpectClosed()
	ping3(t, stranger)
	ready(t, g.Dial().Login(), 1)
}

// TestResetMasked: who does not see a unit ends no task on it, by TARGET WARM
// RESET or by the end of sessions after TARGET COLD RESET.
func TestResetMasked(t *testing.T) {
	for _, tc := range []struct {
		name string
		fn   byte
		resp uint8
		told uint16
	}{
		{"warm reset", pdu.TMFWarmReset, pdu.TMFComplete, busReset},
		{"cold reset", pdu.TMFColdReset, pdu.TMFNotAuthorized, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			const masked = "iqn.2026-11.dev.spindle:masked"
			g, slow := stubborn(t, iscsitest.Options{Reactors: 2})
			must(t, g.Engine.SetInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"!" + masked, "ANY"}, Netmasks: []string{"ANY"}}))
			must(t, g.Engine.AddInitiatorGroup(iscsi.InitiatorGroup{Tag: 2, Initiators: []string{masked}, Netmasks: []string{"ANY"}}))
			must(t, g.Engine.AddMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 1, InitiatorTag: 2, LUNs: []uint16{0}}}))
			owner := g.Dial().Login()
			ready(t, owner, 0, 1)
			c := dialAs(g, 7)
			if s := c.LoginStatus("InitiatorName="+masked, "TargetName="+iscsitest.Node); s != 0 {
				t.Fatalf("status %04x", s)
			}
			ready(t, c, 0)
			sense(t, c.Do(c.Command(1, 0, 0), nil, 0), 5, 0x2500)

			slow.n = 1
			b := owner.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
			owner.Send(b, nil, pattern(4096, 1))
			g.Settle()
			m := tmf(c, tc.fn, 0, 0, 0)
			c.Send(m, nil, nil)
			managed(t, c, m.ITT(), tc.resp)
			g.Advance(time.Second)
			silent(t, g, owner)
			slow.finish()
			if p := owner.Expect(pdu.SCSIResponse); p.BHS.ITT() != b.ITT() || p.BHS.Status() != 0 {
				t.Fatalf("the write beside it: % x", p.BHS)
			}
			owner.ExpStatSN++
			slow.n = 0
			if tc.told != 0 {
				sense(t, owner.Do(owner.Command(0, 0, 0), nil, 0), 6, tc.told)
			}
			alive(t, owner)
		})
	}
}

// TestTMFResponses: what cannot be done is answered, not done.
func TestTMFResponses(t *testing.T) {
	for _, tc := range []struct {
		name string
		fn   byte
		lun  uint16
		resp uint8
	}{
		{"task that does not exist", pdu.TMFAbortTask, 1, pdu.TMFNoTask},
		{"CLEAR ACA", pdu.TMFClearACA, 1, pdu.TMFNotSupported},
		{"TASK REASSIGN", pdu.TMFReassign, 1, pdu.TMFNoReassign},
		{"function 0", 0, 1, pdu.TMFNotSupported},
		{"function 99", 99, 1, pdu.TMFNotSupported},
		{"LUN RESET of no LUN", pdu.TMFLUNReset, 77, pdu.TMFNoLUN},
		{"ABORT TASK SET of no LUN", pdu.TMFAbortTaskSet, 77, pdu.TMFNoLUN},
		{"CLEAR TASK SET of no LUN", pdu.TMFClearTaskSet, 77, pdu.TMFNoLUN},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login()
			ready(t, c, 1)
			m := tmf(c, tc.fn, tc.lun, 0x1234, c.CmdSN+1000)
			c.Send(m, nil, nil)
			managed(t, c, m.ITT(), tc.resp)
			alive(t, c)
		})
	}
}

// TestManagementLimit: functions beyond MaxManagement at a time are refused.
func TestManagementLimit(t *testing.T) {
	g, slow := stubborn(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	slow.n = 1
	b := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
	c.Send(b, nil, pattern(4096, 1))
	for range iscsi.MaxManagement {
		c.Send(tmf(c, pdu.TMFAbortTaskSet, 1, 0, 0), nil, nil)
	}
	silent(t, g, c)
	m := tmf(c, pdu.TMFAbortTaskSet, 1, 0, 0)
	c.Send(m, nil, nil)
	managed(t, c, m.ITT(), pdu.TMFRejected)
	slow.finish()
	for range iscsi.MaxManagement {
		if p := c.Expect(pdu.TMFResponse); p.BHS.Response() != pdu.TMFComplete {
			t.Fatalf("% x", p.BHS)
		}
		c.ExpStatSN++
	}
	slow.n = 0
	alive(t, c)
}
