package iser_test

import (
	"strings"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iser/isertest"
)

// openISCSI is what open-iscsi 2.1.8 says over ib_iser, key for key.
var openISCSI = []string{
	"InitiatorName=" + iscsitest.Initiator, "InitiatorAlias=host", "TargetName=" + iscsitest.Node, "SessionType=Normal",
	"DefaultTime2Wait=2", "DefaultTime2Retain=0", "IFMarker=No", "OFMarker=No", "ErrorRecoveryLevel=0", "InitialR2T=No",
	"ImmediateData=Yes", "MaxBurstLength=16776192", "FirstBurstLength=262144", "MaxOutstandingR2T=1", "MaxConnections=1",
	"DataPDUInOrder=Yes", "DataSequenceInOrder=Yes", "InitiatorRecvDataSegmentLength=262144", "TargetRecvDataSegmentLength=8192",
	"RDMAExtensions=Yes",
}

// TestOpenISCSILogin plays the login that was captured from open-iscsi and
// ib_iser, and holds every byte of the answer's text.
func TestOpenISCSILogin(t *testing.T) {
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Node: iscsi.NodeConfig{Name: iscsitest.Node, Alias: "disk"}}})
	c := g.Dial()
	if c.Private[0] != 0x80 || strings.Trim(string(c.Private[1:]), "\x00") != "" {
		t.Fatalf("private data % x", c.Private[:8])
	}
	// The first request has the names and goes from security to operational.
	b := c.LoginBHS(pdu.FlagTransit | pdu.StageSecurity<<2 | pdu.StageOperational)
	c.Send(b, nil, iscsitest.Keys(append(openISCSI[:4:4], "AuthMethod=None")...))
	p := c.Expect(pdu.LoginResponse)
	if p.BHS.LoginStatus() != 0 || p.BHS.NSG() != pdu.StageOperational {
		t.Fatalf("% x", p.BHS)
	}
	c.ExpStatSN = p.BHS.StatSN() + 1
	b = c.LoginBHS(pdu.FlagTransit | pdu.StageOperational<<2 | pdu.StageFullFeature)
	c.Send(b, nil, iscsitest.Keys(openISCSI[4:]...))
	p = c.Expect(pdu.LoginResponse)
	want := iscsitest.Keys(
		"TargetAlias=disk", "DefaultTime2Wait=2", "DefaultTime2Retain=0", "IFMarker=No", "OFMarker=No", "ErrorRecoveryLevel=0",
		"InitialR2T=Yes", "ImmediateData=Yes", "MaxBurstLength=1048576", "FirstBurstLength=65536", "MaxOutstandingR2T=1", "MaxConnections=1",
		"DataPDUInOrder=Yes", "DataSequenceInOrder=Yes", "InitiatorRecvDataSegmentLength=262144", "TargetRecvDataSegmentLength=8192",
		"RDMAExtensions=Yes",
	)
	if p.BHS.LoginStatus() != 0 || p.BHS.NSG() != pdu.StageFullFeature || p.BHS.TSIH() == 0 {
		t.Fatalf("% x", p.BHS)
	}
	if string(p.Data) != string(want) {
		t.Fatalf("answered\n%q, want\n%q", p.Data, want)
	}
}

// TestKeys is the negotiation of what RFC 7145 §6 adds, and of what it takes away.
func TestKeys(t *testing.T) {
	normal := []string{"InitiatorName=" + iscsitest.Initiator, "TargetName=" + iscsitest.Node, "SessionType=Normal"}
	for _, tc := range []struct {
		name   string
		keys   []string
		want   map[string]string
		status uint16
	}{
		{name: "RDMAExtensions", keys: []string{"RDMAExtensions=Yes"}, want: map[string]string{"RDMAExtensions": "Yes"}},
		{name: "RDMAExtensions declined is taken as it is", keys: []string{"RDMAExtensions=No"}, want: map[string]string{"RDMAExtensions": "No"}},
		{name: "left out", want: map[string]string{}},
		{name: "segment lengths are minima", keys: []string{"RDMAExtensions=Yes", "InitiatorRecvDataSegmentLength=512", "TargetRecvDataSegmentLength=1048576"},
			want: map[string]string{"InitiatorRecvDataSegmentLength": "512", "TargetRecvDataSegmentLength": "8192"}},
		{name: "segment length below the range", keys: []string{"RDMAExtensions=Yes", "TargetRecvDataSegmentLength=511"},
			want: map[string]string{"TargetRecvDataSegmentLength": "Reject"}},
		{name: "digests as libiscsi offers them", keys: []string{"HeaderDigest=None,CRC32C", "DataDigest=CRC32C,None", "MaxRecvDataSegmentLength=262144", "RDMAExtensions=Yes"},
			want: map[string]string{"HeaderDigest": "None", "DataDigest": "None"}},
		{name: "unexpected PDUs are declared", keys: []string{"RDMAExtensions=Yes", "MaxOutstandingUnexpectedPDUs=2"}, want: map[string]string{}},
		{name: "one unexpected PDU is none", keys: []string{"RDMAExtensions=Yes", "MaxOutstandingUnexpectedPDUs=1"},
			want: map[string]string{"MaxOutstandingUnexpectedPDUs": "Reject"}},
		{name: "no unsolicited Data-Out", keys: []string{"InitialR2T=No", "RDMAExtensions=Yes"}, want: map[string]string{"InitialR2T": "Yes"}},
		{name: "error recovery", keys: []string{"ErrorRecoveryLevel=2", "RDMAExtensions=Yes"}, want: map[string]string{"ErrorRecoveryLevel": "0"}},
		{name: "connections", keys: []string{"MaxConnections=8", "RDMAExtensions=Yes"}, want: map[string]string{"MaxConnections": "1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := isertest.New(t, isertest.Options{})
			c := g.Dial()
			if s := c.LoginStatus(append(normal[:len(normal):len(normal)], tc.keys...)...); s != tc.status {
				t.Fatalf("login status %04x, want %04x", s, tc.status)
			}
			for k, v := range tc.want {
				if c.Answered[k] != v {
					t.Errorf("%s=%s, want %s", k, c.Answered[k], v)
				}
			}
			for _, k := range []string{"MaxRecvDataSegmentLength", "HeaderDigest", "MaxOutstandingUnexpectedPDUs"} {
				if v, ok := c.Answered[k]; ok && tc.want[k] != v {
					t.Errorf("%s=%s was not asked for", k, v)
				}
			}
			ready(t, c, 1)
		})
	}
	t.Run("over TCP", func(t *testing.T) {
		g := isertest.New(t, isertest.Options{})
		c := g.Target.Dial().Login("RDMAExtensions=Yes", "InitiatorRecvDataSegmentLength=4096", "TargetRecvDataSegmentLength=4096")
		for k, v := range map[string]string{"RDMAExtensions": "No", "InitiatorRecvDataSegmentLength": "Irrelevant", "TargetRecvDataSegmentLength": "Irrelevant"} {
			if c.Answered[k] != v {
				t.Errorf("%s=%s, want %s", k, c.Answered[k], v)
			}
		}
	})
}

// discover logs in to a discovery session the way open-iscsi does over iSER,
// without RDMAExtensions, and returns what SendTargets=All tells.
func discover(t *testing.T, c *isertest.Conn) string {
	t.Helper()
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "SessionType=Discovery", "MaxRecvDataSegmentLength=32768"); s != 0 {
		t.Fatalf("login status %04x", s)
	}
	b := c.Request(pdu.TextRequest, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, iscsitest.Keys("SendTargets=All"))
	return string(c.Expect(pdu.TextResponse).Data)
}

// TestDiscovery: each transport is told the portals that have it.
func TestDiscovery(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	both := string(iscsitest.Keys("TargetName="+iscsitest.Node, "TargetAddress=127.0.0.1:3260,1"))
	if got := discover(t, g.Dial()); got != both {
		t.Errorf("over iSER: %q", got)
	}
	if err := g.Engine.AddPortalGroup(g, iscsi.PortalGroup{Tag: 2, Portals: []iscsi.Portal{{Addr: addr("127.0.0.1:3261")}, {Addr: addr("[::1]:3261"), ISER: true}}}); err != nil {
		t.Fatal(err)
	}
	if err := g.Engine.AddMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 2, InitiatorTag: 1}}); err != nil {
		t.Fatal(err)
	}
	want := both + "TargetAddress=[::1]:3261,2\x00"
	if got := discover(t, g.Dial()); got != want {
		t.Errorf("over iSER: %q, want %q", got, want)
	}
	c := g.Target.Dial()
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "SessionType=Discovery"); s != 0 {
		t.Fatalf("login status %04x", s)
	}
	b := c.Request(pdu.TextRequest, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, iscsitest.Keys("SendTargets=All"))
	want = both + "TargetAddress=127.0.0.1:3261,2\x00TargetAddress=[::1]:3261,2\x00"
	if got := string(c.Expect(pdu.TextResponse).Data); got != want {
		t.Errorf("over TCP: %q, want %q", got, want)
	}
}

// TestLongDiscovery: a discovery session is answered in segments of 8 KiB, a
// normal session in segments of 128 bytes.
func TestLongDiscovery(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	for i := range 200 {
		name := "iqn.2026-11.dev.spindle:" + strings.Repeat("x", 40) + "-" + string(rune('a'+i/26%26)) + string(rune('a'+i%26)) + string(rune('a'+i/676))
		if err := g.Engine.AddNode(g, iscsi.NodeConfig{Name: name, Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name    string
		login   []string
		keys    string
		segment int
		targets int
	}{
		{"discovery", []string{"SessionType=Discovery"}, "SendTargets=All", 8192, 201},
		{"normal", []string{"SessionType=Normal", "TargetName=" + iscsitest.Node, "RDMAExtensions=Yes", "InitiatorRecvDataSegmentLength=262144"}, "SendTargets=", 128, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := g.Dial()
			if s := c.LoginStatus(append([]string{"InitiatorName=" + iscsitest.Initiator}, tc.login...)...); s != 0 {
				t.Fatalf("login status %04x", s)
			}
			b := c.Request(pdu.TextRequest, pdu.FlagFinal)
			itt := b.ITT()
			b.SetTTT(pdu.ReservedTag)
			c.Send(b, nil, iscsitest.Keys(tc.keys))
			var text []byte
			for {
				p := c.Expect(pdu.TextResponse)
				c.ExpStatSN = p.BHS.StatSN() + 1
				if len(p.Data) > tc.segment {
					t.Fatalf("segment of %d bytes", len(p.Data))
				}
				text = append(text, p.Data...)
				if p.BHS.Final() {
					break
				}
				b = c.Request(pdu.TextRequest, pdu.FlagFinal)
				b.SetITT(itt)
				b.SetTTT(p.BHS.TTT())
				c.Send(b, nil, nil)
			}
			if n := strings.Count(string(text), "TargetName="); n != tc.targets {
				t.Fatalf("%d targets, want %d", n, tc.targets)
			}
		})
	}
}

// TestPrivateData: Send with Invalidate is for initiators that said so, on
// devices that have it, and never for what was not advertised.
func TestPrivateData(t *testing.T) {
	for _, tc := range []struct {
		name       string
		private    []byte
		device     bool
		answer     byte
		invalidate bool
	}{
		{"ib_iser", []byte{0x80, 0, 0, 0}, true, 0x80, true},
		{"ib_iser with always_register=N", []byte{0xc0, 0, 0, 0}, true, 0xc0, false},
		{"libiscsi", []byte{0xc0}, true, 0xc0, false},
		{"none", []byte{}, true, 0xc0, false},
		{"garbage", []byte("\x7fELF\x02\x01\x01\x00 garbage, fifty-six bytes of garbage, no more"), true, 0xc0, false},
		{"a device without it", []byte{0x80, 0, 0, 0}, false, 0xc0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var o isertest.Options
			if !tc.device {
				o.Device.Transport = 2 // set, so that MemMgtExtensions stays as it is
			}
			g := isertest.New(t, o)
			c := g.DialWith(isertest.Dial{Private: tc.private}).Login()
			if c.Private[0] != tc.answer {
				t.Fatalf("flags %02x, want %02x", c.Private[0], tc.answer)
			}
			ready(t, c, 1)
			if len(c.Invalidated) != 0 {
				t.Fatalf("STags %x invalidated by commands that advertised none", c.Invalidated)
			}
			want := 0
			c.Write(1, 0, pattern(65536, 1), isertest.Shape{})
			c.Write(1, 0, pattern(4096, 1), isertest.Shape{Immediate: 4096}) // all immediate: nothing advertised
			c.Read(1, 0, 8)
			if tc.invalidate {
				want = 2
			}
			if len(c.Invalidated) != want {
				t.Fatalf("%d STags invalidated, want %d", len(c.Invalidated), want)
			}
		})
	}
}

// TestSilence: after the final Login Response the target says nothing, whatever
// it has to say, until the initiator has spoken.
func TestSilence(t *testing.T) {
	o := iscsi.Defaults()
	o.NopInInterval, o.NopTimeout = 1, 30
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Engine: &o}})
	c := g.Dial().Login()
	g.Settle()
	if err := g.Engine.RequestLogout(g, iscsitest.Node); err != nil {
		t.Fatal(err)
	}
	g.Advance(5 * time.Second)
	if p, ok := c.TryRecv(); ok {
		t.Fatalf("% x", p.BHS)
	}
	b := c.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	c.Send(b, nil, nil)
	c.Expect(pdu.AsyncMessage)
	pinged := false
	for {
		p := c.Expect(pdu.NopIn)
		if p.BHS.ITT() == b.ITT() {
			break
		}
		pinged = true
	}
	if !pinged {
		t.Error("no NOP-In: the target had nothing to say")
	}
}
