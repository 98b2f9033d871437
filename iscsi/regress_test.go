package iscsi_test

import (
	"fmt"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// declare has the initiator take data segments of n bytes from here on.
func declare(t *testing.T, c *iscsitest.Conn, n uint32) {
	t.Helper()
	b := c.Immediate(pdu.TextRequest, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, iscsitest.Keys(fmt.Sprintf("MaxRecvDataSegmentLength=%d", n)))
	p := c.Expect(pdu.TextResponse)
	c.ExpStatSN = p.BHS.StatSN() + 1
	if p.BHS.ITT() != b.ITT() || !p.BHS.Final() {
		t.Fatalf("% x", p.BHS)
	}
}

// TestRedeclaredMaxRecv: MaxRecvDataSegmentLength may be declared anew in full
// feature phase, and bounds what leaves from then on (RFC 7143 §13.12).
func TestRedeclaredMaxRecv(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login("MaxRecvDataSegmentLength=65536")
	ready(t, c, 1)
	data := pattern(32768, 9)
	if r := c.Do(c.Command(1, pdu.FlagWrite, 32768, iscsitest.Write10(0, 64)...), data, 0); r.Status != 0 {
		t.Fatalf("write: %02x", r.Status)
	}
	for _, tc := range []struct {
		limit uint32 // 0: as it is
		pdus  int
	}{{0, 1}, {512, 64}, {8192, 4}, {65536, 1}} {
		if tc.limit != 0 {
			declare(t, c, tc.limit)
		}
		r := c.Do(c.Command(1, pdu.FlagRead, 32768, iscsitest.Read10(0, 64)...), nil, 0)
		if r.Status != 0 || string(r.Data) != string(data) || r.DataPDUs != tc.pdus {
			t.Fatalf("limit %d: status %02x, %d bytes in %d PDUs, want %d", tc.limit, r.Status, len(r.Data), r.DataPDUs, tc.pdus)
		}
	}
	declare(t, c, 512)
	b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, pattern(1024, 1))
	echoed(t, c, b.ITT(), string(pattern(1024, 1)[:512]))
}

// TestManagementEndsHeld: a task set function affects the commands before it
// that wait for a gap in CmdSN, and those only (RFC 7143 §4.2.2.3.3).
func TestManagementEndsHeld(t *testing.T) {
	for _, tc := range []struct {
		name      string
		fn        byte
		lun       uint16 // of the function; the held command is LUN 1's
		after     bool   // the function's CmdSN is before the held command's
		ends      bool
		attention bool // LUN 1 has a unit attention afterwards
	}{
		{name: "ABORT TASK SET", fn: pdu.TMFAbortTaskSet, lun: 1, ends: true},
		{name: "CLEAR TASK SET", fn: pdu.TMFClearTaskSet, lun: 1, ends: true},
		{name: "LOGICAL UNIT RESET", fn: pdu.TMFLUNReset, lun: 1, ends: true, attention: true},
		{name: "TARGET WARM RESET", fn: pdu.TMFWarmReset, ends: true, attention: true},
		{name: "ABORT TASK SET of another LUN", fn: pdu.TMFAbortTaskSet},
		{name: "LOGICAL UNIT RESET of another LUN", fn: pdu.TMFLUNReset},
		{name: "ABORT TASK SET before the command", fn: pdu.TMFAbortTaskSet, lun: 1, after: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{})
			c := g.Dial().Login()
			ready(t, c, 0, 1)
			gap := c.Request(pdu.NopOut, pdu.FlagFinal)
			gap.SetTTT(pdu.ReservedTag)
			held := c.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(0, 1)...)
			c.Send(held, nil, pattern(512, 0x77))
			silent(t, g, c)
			m := tmf(c, tc.fn, tc.lun, pdu.ReservedTag, 0)
			if tc.after {
				m.SetCmdSN(gap.CmdSN())
			}
			c.Send(m, nil, nil)
			managed(t, c, m.ITT(), pdu.TMFComplete)
			c.Send(gap, nil, nil)
			echoed(t, c, gap.ITT(), "")
			if !tc.ends {
				good(t, c, held.ITT(), nil)
			}
			silent(t, g, c)
			if c.ExpCmdSN != c.CmdSN && tc.ends {
				t.Fatalf("ExpCmdSN %d, want %d: the ended command counts as received", c.ExpCmdSN, c.CmdSN)
			}
			if tc.attention {
				if r := c.Do(c.Command(1, 0, 0), nil, 0); r.Status != 2 {
					t.Fatalf("no unit attention: status %02x", r.Status)
				}
			}
			r := c.Do(c.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, 0)
			if wrote := string(r.Data) == string(pattern(512, 0x77)); r.Status != 0 || wrote == tc.ends {
				t.Fatalf("status %02x; the write reached the medium: %v", r.Status, wrote)
			}
			alive(t, c)
		})
	}
}

// TestWaitersLookAgain: commands that wait for a buffer are served although the
// memory came back by a way that wakes nobody.
func TestWaitersLookAgain(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20})
	c := g.Dial().Login()
	ready(t, c, 1)
	free := drain(g)
	b := c.Command(1, pdu.FlagRead, 65536, iscsitest.Read10(0, 128)...)
	c.Send(b, nil, nil)
	silent(t, g, c)
	free()
	g.Advance(20 * time.Millisecond)
	good(t, c, b.ITT(), nil)
}

// panicking is an entropy source with a bug.
type panicking struct{ armed bool }

func (p *panicking) Read(b []byte) (int, error) {
	if p.armed {
		panic("a bug while a login is parsed")
	}
	return len(b), nil
}

// TestLoginRecovers: a panic in a login ends that connection, is counted, and
// leaves nothing behind.
func TestLoginRecovers(t *testing.T) {
	bug := &panicking{}
	g := iscsitest.New(t, iscsitest.Options{Entropy: bug})
	g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: "user", Secret: "secret-of-16-byte"}}})
	must(t, g.Engine.AddNode(g, iscsi.NodeConfig{Name: "chap", RequireCHAP: true, CHAPGroup: 1, Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}}))
	busy := g.Dial().Login()
	ready(t, busy, 1)
	bug.armed = true
	c := g.Dial()
	c.Send(c.LoginBHS(0), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName=iqn.2026-11.dev.spindle:chap", "AuthMethod=CHAP"))
	c.Expect(pdu.LoginResponse)
	c.Send(c.LoginBHS(0), nil, iscsitest.Keys("CHAP_A=7"))
	c.ExpectClosed()
	if n := g.TCP.Stats.ParsePanics.Load(); n != 1 {
		t.Fatalf("%d panics counted", n)
	}
	if n := len(g.Engine.Connections(g)); n != 1 {
		t.Fatalf("%d connections", n)
	}
	alive(t, busy)
}

// TestDiscoveryRejectsCounted: a SCSI command of a discovery session is rejected
// and counts in its window, so that what follows is in order.
func TestDiscoveryRejectsCounted(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial()
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "SessionType=Discovery"); s != 0 {
		t.Fatalf("login status %04x", s)
	}
	for range 5 {
		b := c.Command(0, 0, 0)
		c.Send(b, nil, nil)
		rejected(t, c, pdu.RejectProtocol, b)
	}
	if c.ExpCmdSN != c.CmdSN {
		t.Fatalf("ExpCmdSN %d, want %d", c.ExpCmdSN, c.CmdSN)
	}
	b := c.Request(pdu.TextRequest, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, iscsitest.Keys("SendTargets=All"))
	if p := c.Expect(pdu.TextResponse); len(p.Data) == 0 {
		t.Fatal("nothing told")
	}
}

// TestRemovePortalGroupRacesLogin removes the portal group at every turn of a
// login: it ends, and no session of the group is left.
func TestRemovePortalGroupRacesLogin(t *testing.T) {
	for turns := range 60 {
		g := iscsitest.New(t, iscsitest.Options{Reactors: 2, Delayed: true})
		c := g.Dial()
		c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node))
		for range turns {
			g.Turn()
		}
		must(t, g.Engine.RemovePortalGroup(g, 1))
		must(t, g.Engine.AddPortalGroup(g, iscsi.PortalGroup{Tag: 1, Portals: []iscsi.Portal{{Addr: g.Portal}}}))
		c.ExpectClosed()
		if list := g.Engine.Connections(g); len(list) != 0 {
			t.Fatalf("after %d turns: %+v", turns, list)
		}
		ready(t, g.Dial().Login(), 1)
		g.Close()
	}
}
