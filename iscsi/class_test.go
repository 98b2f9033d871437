package iscsi_test

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spindle/iscsi"
	script "spindle/iscsi/dialogue"
	"spindle/iscsi/dialogue/linktest"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// The tests of this file are named for the classes of faults that targets have
// been attacked by; classes has what tests each. Those that are dialogues are played here against the target
// in this goroutine, and by the dialogue package over sockets against the
// daemon; the others run what tests there are of the class, and what they miss.

// play plays the script of a class and fails unless the target goes on.
func play(t *testing.T, class string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("dialogue", "testdata", class+"*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there is no dialogue %s: %v", class, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := script.Parse(strings.TrimSuffix(filepath.Base(file), ".txt"), string(text))
		if err != nil {
			t.Fatal(err)
		}
		const node = "iqn.2026-11.dev.spindle:chap"
		g := iscsitest.New(t, iscsitest.Options{Blocks: 204800, Engine: level(2)})
		g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: chapUser, Secret: chapSecret, MUser: "target", MSecret: "the-targets-secret"}}})
		must(t, g.Engine.AddNode(g, iscsi.NodeConfig{Name: node, RequireCHAP: true, CHAPGroup: 1, Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}}))
		busy := dialAs(g, 99).Login()
		ready(t, busy, 1)
		p := &script.Player{
			Dial: func() (script.Link, error) { return linktest.DialSim(g) },
			Wait: func(d time.Duration) { g.Advance(d) },
			Vars: map[string]string{"target": iscsitest.Node, "initiator": iscsitest.Initiator, "lun": "1", "portal": g.Portal.String(),
				"virtual": "yes", "erl": "2", "chapnode": node, "chapuser": chapUser, "chapsecret": chapSecret},
		}
		if err := p.Play(s); err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		busy.Discard()
		ping3(t, busy)
		if n := g.TCP.Stats.ParsePanics.Load(); n != 0 {
			t.Errorf("%s: %d panics", s.Name, n)
		}
	}
}

func TestClass01KeyTooLong(t *testing.T)         { play(t, "class01_") }
func TestClass02ReplyAmplification(t *testing.T) { play(t, "class02_") }
func TestClass03LoginPayloadEdge(t *testing.T)   { play(t, "class03_") }
func TestClass04CHAPDecodeLength(t *testing.T)   { play(t, "class04_") }

func TestClass05CHAPReplay(t *testing.T) {
	play(t, "class05_")
	// The source is the daemon's to choose, but what it gives is never used twice.
	g := iscsitest.New(t, iscsitest.Options{Node: iscsi.NodeConfig{RequireCHAP: true, CHAPGroup: 1}})
	secretGroup(g, chapSecret)
	seen := map[string]bool{}
	for i := range byte(50) {
		c := dialAs(g, i)
		c.Send(c.LoginBHS(0), nil, iscsitest.Keys(append(who, "AuthMethod=CHAP")...))
		c.Expect(pdu.LoginResponse)
		c.Send(c.LoginBHS(0), nil, iscsitest.Keys("CHAP_A=7"))
		challenge := pairs(c.Expect(pdu.LoginResponse).Data)["CHAP_C"]
		if len(challenge) != 2+64 || seen[challenge] {
			t.Fatalf("challenge %d: %q", i, challenge)
		}
		seen[challenge] = true
		c.Peer.Reset()
	}
}

func TestClass06CHAPReflection(t *testing.T) {
	play(t, "class06_")
	t.Run("mutual and discovery", TestDiscoveryAuth)
}

func TestClass07StateMachine(t *testing.T) {
	play(t, "class07_")
	t.Run("before login", TestBeforeLogin)
}

func TestClass08LyingLength(t *testing.T) {
	play(t, "class08_")
	t.Run("AHS", TestAHS)
}

// TestClass09BufferBleed: what one initiator wrote is in no answer to another
// but a READ of where it is.
func TestClass09BufferBleed(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	writer, reader := dialAs(g, 1).Login(), dialAs(g, 2).Login()
	ready(t, writer, 1)
	ready(t, reader, 0, 1)
	mark := bytes.Repeat([]byte{0xa5}, 64<<10)
	for _, tc := range []struct {
		name string
		cdb  []byte
	}{
		{"INQUIRY", []byte{0x12, 0, 0, 0xff, 0xff, 0}},
		{"VPD 83", []byte{0x12, 1, 0x83, 0xff, 0xff, 0}},
		{"VPD B2", []byte{0x12, 1, 0xb2, 0xff, 0xff, 0}},
		{"MODE SENSE (6)", []byte{0x1a, 0, 0x3f, 0xff, 0xff, 0}},
		{"MODE SENSE (10)", []byte{0x5a, 0, 0x3f, 0xff, 0, 0, 0, 0xff, 0xff, 0}},
		{"LOG SENSE", []byte{0x4d, 0, 0x40, 0, 0, 0, 0, 0xff, 0xff, 0}},
		{"REPORT LUNS", []byte{0xa0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0}},
		{"READ CAPACITY (16)", []byte{0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0}},
		{"GET LBA STATUS", []byte{0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0}},
		{"REPORT SUPPORTED OPERATION CODES", []byte{0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0}},
		{"PERSISTENT RESERVE IN", []byte{0x5e, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
		{"REQUEST SENSE", []byte{0x03, 0, 0, 0, 0xff, 0}},
		{"READ beyond the end", iscsitest.Read10(1<<30, 8)},
		{"nothing known", []byte{0xc1, 0, 0, 0, 0xff, 0}},
		{"READ of what was never written", iscsitest.Read10(40000, 64)},
	} {
		if r := writer.Do(writer.Command(1, pdu.FlagWrite, 64<<10, iscsitest.Write10(0, 128)...), mark, 0); r.Status != 0 {
			t.Fatalf("write: %02x", r.Status)
		}
		r := reader.Do(reader.Command(1, pdu.FlagRead, 64<<10, tc.cdb...), nil, 0)
		if bytes.Contains(r.Data, mark[:4]) || bytes.Contains(r.Sense, mark[:4]) {
			t.Errorf("%s tells what another wrote: status %02x, %d bytes", tc.name, r.Status, len(r.Data))
		}
		if want := uint32(64<<10 - len(r.Data)); r.Flags&pdu.FlagUnderfl != 0 && r.Residual != want {
			t.Errorf("%s: %d bytes, residual %d", tc.name, len(r.Data), r.Residual)
		}
	}
	b := reader.Immediate(pdu.NopOut, pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	reader.Send(b, nil, []byte{1, 2, 3})
	echoed(t, reader, b.ITT(), "\x01\x02\x03")
}

func TestClass10DigestLength(t *testing.T) {
	play(t, "class10_")
	t.Run("header", TestHeaderDigestError)
	t.Run("data", TestDataDigestError)
}

func TestClass11LBAWrap(t *testing.T)      { play(t, "class11_") }
func TestClass12NoDataBuffer(t *testing.T) { play(t, "class12_") }

// TestClass13XcopyAuthority: EXTENDED COPY reaches no unit that its session may
// not see, though it is named by its true designator; scsi.TestXcopyAuthority
// goes through the reasons.
func TestClass13XcopyAuthority(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{LUNs: func(g *iscsitest.Target) []iscsi.LUN {
		return []iscsi.LUN{iscsitest.Malloc(g, 1, 65536), iscsitest.Malloc(g, 2, 65536)}
	}})
	all := dialAs(g, 1).Login()
	ready(t, all, 1, 2)
	list := copyList(t, all, 2, 1)
	xcopy := func(c *iscsitest.Conn) iscsitest.Result {
		return c.Do(extendedCopy(c, 1, list), list, len(list))
	}
	mark := pattern(512, 0x66)
	if r := all.Do(all.Command(2, pdu.FlagWrite, 512, iscsitest.Write10(0, 1)...), mark, 512); r.Status != 0 {
		t.Fatalf("write: %02x", r.Status)
	}
	if r := xcopy(all); r.Status != 0 {
		t.Fatalf("a copy of a unit in view: status %02x sense % x", r.Status, r.Sense)
	}
	if r := all.Do(all.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, 0); !bytes.Equal(r.Data, mark) {
		t.Error("nothing was copied")
	}
	if r := all.Do(all.Command(1, pdu.FlagWrite, 512, iscsitest.Write10(0, 1)...), make([]byte, 512), 512); r.Status != 0 {
		t.Fatalf("write: %02x", r.Status)
	}
	must(t, g.Engine.RemoveMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}))
	must(t, g.Engine.AddMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 1, InitiatorTag: 1, LUNs: []uint16{1}}}))
	masked := dialAs(g, 2).Login()
	ready(t, masked, 1)
	if r := xcopy(masked); r.Status != 2 {
		t.Errorf("a copy of a hidden unit: status %02x", r.Status)
	}
	if r := masked.Do(masked.Command(1, pdu.FlagRead, 512, iscsitest.Read10(0, 1)...), nil, 0); r.Status != 0 || bytes.Equal(r.Data, mark) {
		t.Error("the hidden unit was copied")
	}
}

// TestClass14PRParse: PERSISTENT RESERVE OUT parameters whose TransportIDs lie
// about their lengths are refused; scsi.FuzzPersistentOut goes on from there.
func TestClass14PRParse(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	for _, tc := range []struct {
		name string
		ids  []byte // behind the 24 bytes of the list
		said uint32 // length of TransportIDs as told; 0 is the truth
	}{
		{"no TransportID", []byte{}, 1},
		{"length beyond the list", []byte{5, 0, 0, 20}, 0xffffff00},
		{"wraps to the truth", []byte{5, 0, 0, 20}, 0xffffffff},
		{"additional length beyond the list", []byte{5, 0, 0xff, 0xff, 'i', 'q', 'n', 0}, 0},
		{"name without a NUL", append([]byte{0x45, 0, 0, 20}, "iqn.2026-11.x:no-nul"...), 0},
		{"no separator", append([]byte{0x45, 0, 0, 20}, "iqn.2026-11.x:y\x00\x00\x00\x00\x00"...), 0},
		{"one byte", []byte{0x45}, 0},
		{"empty name", []byte{5, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0},
	} {
		list := append(make([]byte, 28), tc.ids...)
		binary.BigEndian.PutUint64(list[8:], 1)
		list[20] = 0x08 // SPEC_I_PT
		said := tc.said
		if said == 0 {
			said = uint32(len(tc.ids))
		}
		binary.BigEndian.PutUint32(list[24:], said)
		out := cdb(10, 0x5f)
		binary.BigEndian.PutUint32(out[5:], uint32(len(list)))
		r := c.Do(c.Command(1, pdu.FlagWrite, uint32(len(list)), out...), list, len(list))
		if key, _ := r.Triple(); r.Status != 2 || key != 5 {
			t.Errorf("%s: status %02x, sense % x", tc.name, r.Status, r.Sense)
		}
	}
	r := c.Do(c.Command(1, pdu.FlagRead, 256, cdb(10, 0x5e, 8, 255)...), nil, 0)
	if r.Status != 0 || len(r.Data) != 8 || binary.BigEndian.Uint32(r.Data[4:]) != 0 {
		t.Errorf("something was registered: % x", r.Data)
	}
	alive(t, c)
}

func TestClass15TeardownRace(t *testing.T) {
	t.Run("reinstatement", TestReinstatementRace)
	t.Run("logout", TestLogoutThenGone)
	t.Run("live changes", TestLiveChanges)
	t.Run("portal group", TestRemovePortalGroupRacesLogin)
}

// TestClass16AbortVsComplete aborts a write at every turn of its life: it is
// answered once or never, and the function always.
func TestClass16AbortVsComplete(t *testing.T) {
	for turns := range 30 {
		g := iscsitest.New(t, iscsitest.Options{Delayed: true})
		c := g.Dial().Login()
		ready(t, c, 1)
		b := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(0, 8)...)
		c.Send(b, nil, pattern(4096, 1))
		for range turns {
			g.Turn()
		}
		m := tmf(c, pdu.TMFAbortTask, 1, b.ITT(), b.CmdSN())
		c.Send(m, nil, nil)
		statuses, managed := 0, 0
		g.Until("answer", func() bool {
			for p, ok := c.TryRecv(); ok; p, ok = c.TryRecv() {
				c.ExpStatSN = p.BHS.StatSN() + 1
				switch p.BHS.Opcode() {
				case pdu.SCSIResponse:
					statuses++
				case pdu.TMFResponse:
					managed++
				}
			}
			return managed > 0
		})
		g.Settle()
		if _, more := c.TryRecv(); more || statuses > 1 || managed != 1 {
			t.Fatalf("after %d turns: %d statuses, %d answers to the function", turns, statuses, managed)
		}
		alive(t, c)
		g.Close()
	}
	t.Run("task management", TestTaskManagement)
	t.Run("waits", TestTMFWaits)
}

// TestClass17Format: text from the wire is never a format; there is no iSNS.
func TestClass17Format(t *testing.T) {
	var out bytes.Buffer
	g := iscsitest.New(t, iscsitest.Options{Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for _, name := range []string{"iqn.2026-11.x:%s%n%x%d%!", "iqn.2026-11.x:a\nlevel=error msg=forged", "iqn.2026-11.x:\x1b[2j"} {
		c := g.Dial()
		c.LoginStatus("InitiatorName="+name, "TargetName="+iscsitest.Node, "InitiatorAlias=%s%n")
		c.Peer.Close()
		g.Settle()
	}
	for _, bad := range []string{"(MISSING)", "(EXTRA", "\nlevel=error msg=forged", "\x1b"} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("the log has %q:\n%s", bad, out.String())
		}
	}
}

// TestClass18AdminOutput: the longest names are shown whole. What the RPC methods and
// the log make of hostile ones is dialogue.TestSocketClass18AdminOutput; that secrets
// are not told, and who may ask, is tested in control/rpc.
func TestClass18AdminOutput(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	name := "iqn.2026-11.x:" + strings.Repeat("n", pdu.MaxName-14)
	for i := range byte(20) {
		c := dialAs(g, i)
		if s := c.LoginStatus("InitiatorName="+name, "TargetName="+iscsitest.Node, "InitiatorAlias="+strings.Repeat("a", 255)); s != 0 {
			t.Fatalf("status %04x", s)
		}
	}
	list := g.Engine.Connections(g)
	if len(list) != 20 || list[0].Initiator != name {
		t.Fatalf("%d connections, %q", len(list), list[0].Initiator)
	}
}

// TestClass19ConnectionExhaustion: connections that never log in keep nobody out
// and end no session.
func TestClass19ConnectionExhaustion(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	busy := as(g, 250, 1).Login()
	ready(t, busy, 1)
	before := g.Reactors[0].Arena.Stats().InUse
	for i := range 600 {
		as(g, byte(i%200), 2)
		if i%50 == 0 {
			g.Settle()
			ready(t, as(g, 240, byte(100+i/50)).Login(), 1)
		}
	}
	g.Settle()
	alive(t, busy)
	if n := len(g.Engine.Connections(g)); n > 128+13 {
		t.Errorf("%d connections", n)
	}
	if in := g.Reactors[0].Arena.Stats().InUse - before; in > 32<<20 {
		t.Errorf("%d bytes more in use", in)
	}
	t.Run("eviction", TestEvictionSparesAuthenticated)
	t.Run("timeout", TestLoginTimeout)
}

func TestClass20IndexFromWire(t *testing.T) {
	play(t, "class20_")
	t.Run("Data-Out", TestDataOutUnknown)
}

// TestClass21PeerSide: answers that have broken initiators are not given: no
// descriptor of GET LBA STATUS reaches beyond the unit (CVE-2020-1711), no Data-In
// beyond the expected length, no residual beyond it.
func TestClass21PeerSide(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{Blocks: 1000})
	c := g.Dial().Login()
	ready(t, c, 1)
	for _, lba := range []uint64{0, 1, 999, 1000, 1<<63 - 1, 1<<64 - 1} {
		get := cdb(16, 0x9e)
		get[1] = 0x12
		binary.BigEndian.PutUint64(get[2:], lba)
		binary.BigEndian.PutUint32(get[10:], 4096)
		r := c.Do(c.Command(1, pdu.FlagRead, 4096, get...), nil, 0)
		if (r.Status == 0) != (lba < 1000) {
			t.Errorf("LBA %d: status %02x", lba, r.Status)
		}
		for d := r.Data[min(8, len(r.Data)):]; len(d) >= 16; d = d[16:] {
			first, n := binary.BigEndian.Uint64(d), uint64(binary.BigEndian.Uint32(d[8:]))
			if n == 0 || first+n > 1000 || first+n < first {
				t.Errorf("LBA %d: a descriptor of %d blocks from %d", lba, n, first)
			}
		}
	}
	t.Run("residuals", TestResiduals)
}
