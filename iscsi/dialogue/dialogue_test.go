package dialogue_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/malloc"
	"spindle/bdev/null"
	"spindle/iscsi"
	"spindle/iscsi/dialogue"
	"spindle/iscsi/dialogue/linktest"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu/pcap"
)

// Names and secrets of what every target of ours is set up with.
const (
	chapNode   = "iqn.2026-11.dev.spindle:chap"
	chapUser   = "alice"
	chapSecret = "alice-secret-123"
	ourSecret  = "target-secret-456"
)

// load parses the scripts of testdata.
func load(t testing.TB) []*dialogue.Script {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	var list []*dialogue.Script
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := dialogue.Parse(strings.TrimSuffix(filepath.Base(file), ".txt"), string(text))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

// missing are the variables a script needs and vars has not.
func missing(s *dialogue.Script, vars map[string]string) []string {
	return slices.DeleteFunc(slices.Clone(s.Needs), func(n string) bool { return vars[n] != "" })
}

// simTarget is the target in this goroutine, LUN 1 of malloc.
type simTarget struct{ *iscsitest.Target }

func newSim(t testing.TB) simTarget {
	var g simTarget
	o := iscsi.Defaults()
	o.ErrorRecoveryLevel = 2
	g.Target = iscsitest.New(t, iscsitest.Options{Engine: &o, LUNs: func(g *iscsitest.Target) []iscsi.LUN {
		zero, err := null.New(null.Config{Space: g.Space, BlockSize: 512, Blocks: 1 << 31})
		if err != nil {
			t.Fatal(err)
		}
		ram, err := malloc.New(malloc.Config{Space: g.Space, BlockSize: 512, Blocks: 204800})
		if err != nil {
			t.Fatal(err)
		}
		return []iscsi.LUN{
			{ID: 0, Bdev: bdev.New("null", bdev.UUID{0: 1}, zero)},
			{ID: 1, Bdev: bdev.New("malloc", bdev.UUID{0: 2}, ram)},
		}
	}})
	g.Engine.SetAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{
		{User: chapUser, Secret: chapSecret, MUser: "target", MSecret: ourSecret}}})
	err := g.Engine.AddNode(g, iscsi.NodeConfig{Name: chapNode, RequireCHAP: true, CHAPGroup: 1,
		Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g simTarget) player() *dialogue.Player {
	return &dialogue.Player{
		Dial: func() (dialogue.Link, error) {
			return linktest.DialSim(g.Target)
		},
		Wait: func(d time.Duration) { g.Advance(d) },
		Vars: map[string]string{"target": iscsitest.Node, "initiator": iscsitest.Initiator, "lun": "1",
			"portal": g.Portal.String(), "virtual": "yes", "erl": "2", "chapnode": chapNode, "chapuser": chapUser, "chapsecret": chapSecret},
	}
}

// TestSimulated plays each script against a target of its own in this goroutine:
// afterwards every buffer and task of the target is home.
func TestSimulated(t *testing.T) {
	for _, s := range load(t) {
		t.Run(s.Name, func(t *testing.T) {
			g := newSim(t)
			p := g.player()
			if m := missing(s, p.Vars); len(m) > 0 {
				t.Fatalf("the simulated target lacks %v", m)
			}
			if err := p.Play(s); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDissector has Wireshark, which shares no code with us, judge all that was
// said. It may fault the PDUs that a script says are malformed.
func TestDissector(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("no tshark: make setup installs it")
	}
	var capture bytes.Buffer
	w := pcap.NewWriter(&capture)
	scripts := load(t)
	frames := map[int]dialogue.Frame{}
	const streams = 32 // of a script, at most
	for i, s := range scripts {
		p := newSim(t).player()
		p.Capture, p.Port, p.Frames = w, uint16(40000+streams*i), frames
		if err := p.Play(s); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "dialogues.pcap")
	if err := os.WriteFile(file, capture.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(filter string) []string {
		out, err := exec.Command(tshark, "-n", "-o", "iscsi.bogus_pdu_max_data_len:16777216", "-r", file, "-Y", filter,
			"-T", "fields", "-E", "separator=;", "-e", "frame.number", "-e", "tcp.srcport", "-e", "iscsi.opcode", "-e", "_ws.expert.message").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(strings.ReplaceAll(string(out), " ", "_"))
	}
	if n := len(ask("iscsi")); n < 2*len(scripts) {
		t.Fatalf("%d frames of iSCSI in %d dialogues", n, len(scripts))
	}
	for _, line := range ask("iscsi.keyvalue.invalid || iscsi.opcode.invalid || _ws.malformed") {
		var n, source int
		if _, err := fmt.Sscanf(line, "%d;%d;", &n, &source); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		f, ok := frames[n]
		if !ok {
			t.Errorf("no step has frame %s", line)
		} else if why := map[bool]string{false: f.Malformed, true: f.Script.MalformedReply}[source == 3260]; why == "" {
			t.Errorf("%s:%d: frame %s", f.Script.Name, f.Line, line)
		}
	}
}

// TestParse: a script with a mistake does not play.
func TestParse(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"empty", "# nothing\n", "no steps"},
		{"verb", "say hello\n", "unknown verb"},
		{"PDU", "> hello F\n", "unknown PDU"},
		{"field", "> scsi F r2tsn=1\n", `no "r2tsn=1"`},
		{"flag", "> scsi Z\n", `no "Z"`},
		{"data first", "\tx 00\n", "data under nothing"},
		{"data under wait", "wait 1s\n\tx 00\n", "data under nothing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := dialogue.Parse("s", tc.text); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// TestNotices: a player that expects what does not come says so.
func TestNotices(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"another PDU", "> nop-out I F\n< text-response\n", "nop-in, want text-response"},
		{"a field", "> nop-out I F\n< nop-in ttt=5\n", "ttt is 0xffffffff, want 5"},
		{"an alternative", "> nop-out I F\n< nop-in ttt=5|6\n", "want 5|6"},
		{"an exclusion", "> nop-out I F\n< nop-in ttt=!0xffffffff\n", "want !0xffffffff"},
		{"flags", "> nop-out I F\n< nop-in F C\n", "flags 0x80, want 0xc0"},
		{"the tag", "> nop-out I F\n> nop-out I F\n< nop-in\n", "ITT"},
		{"data", "> nop-out I F\n\t\"ping\"\n< nop-in\n\t\"pong\"\n", "data from byte 0"},
		{"more data", "> nop-out I F\n\t\"ping\"\n< nop-in\n\tx 70 69\n", "4 bytes of data, want 2"},
		{"no data", "> nop-out I F\n\t\"ping\"\n< nop-in\n\tnone\n", "4 bytes of data"},
		{"silence", "> nop-out I F\nsilence\n", "there came nop-in"},
		{"nothing", "< nop-in\n", "nothing came"},
		{"no close", "expect-close\n", "nothing came"},
		{"a close", "logout\n> nop-out I F\n< nop-in\n", "EOF"},
		{"a variable", "> nop-out I F itt=$nobody\n", "no variable"},
		{"a key", "> text F\n\tSendTargets=\n< text-response F\n\tTargetName=*\n", "also answered"},
		{"a value", "> text F\n\tSendTargets=\n< text-response F\n\tTargetName=x\n\t...\n", "want TargetName=x"},
		{"sense", "> scsi F lun=9 cdb=00\n< scsi-response F status=2\n\tsense 5/2400\n", "sense 5/2500"},
		{"a header", "> snack F type=0\n> nop-out I F\n< reject reason=3\n\theader\n", "not the header"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := dialogue.Parse("s", "login\nready\n"+tc.text)
			if err != nil {
				t.Fatal(err)
			}
			if err := newSim(t).player().Play(s); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}
