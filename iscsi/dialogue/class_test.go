package dialogue_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"spindle/internal/testbed"
	"spindle/iscsi/dialogue"
	"spindle/iscsi/dialogue/linktest"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// What the dialogues named for the classes of faults cannot say without knowing the
// target: that challenges differ, the names of its units, where they end.

// listener keeps what comes over a link.
type listener struct {
	dialogue.Link
	heard *bytes.Buffer
}

func (l listener) Read(hopeful bool) ([]byte, error) {
	b, err := l.Link.Read(hopeful)
	l.heard.Write(b)
	return b, err
}

// played plays a script over a socket to a portal and returns what the target said.
func played(t *testing.T, addr, node, initiator, script string) []byte {
	t.Helper()
	s, err := dialogue.Parse(t.Name(), script)
	if err != nil {
		t.Fatal(err)
	}
	var heard bytes.Buffer
	p := &dialogue.Player{
		Dial: func() (dialogue.Link, error) {
			l, err := linktest.DialSocket(addr, 5*time.Second)
			return listener{l, &heard}, err
		},
		Wait: time.Sleep,
		Vars: map[string]string{"target": node, "initiator": initiator, "lun": "1"},
	}
	if err := p.Play(s); err != nil {
		t.Fatal(err)
	}
	return heard.Bytes()
}

// serveTwo is a target whose node also has two small units in memory, LUN 1 and 2.
// The first initiator sees both, the second LUN 1.
func serveTwo(t *testing.T) (target *testbed.Target, node, first, second string) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts a target")
	}
	target = linktest.Serve(t, testbed.Options{})
	node, first, second = "iqn.2026-11.dev.spindle:two", "iqn.2026-11.x:first", "iqn.2026-11.x:second"
	for _, call := range [][]string{
		{"bdev_malloc_create", "name=one", "num_blocks=1000", "block_size=512"},
		{"bdev_malloc_create", "name=two", "num_blocks=1000", "block_size=512"},
		{"iscsi_create_initiator_group", "tag=2", `initiators=["` + first + `"]`, `netmasks=["ANY"]`},
		{"iscsi_create_initiator_group", "tag=3", `initiators=["` + second + `"]`, `netmasks=["ANY"]`},
		{"iscsi_create_target_node", "name=" + node, "alias_name=two", "queue_depth=16", "disable_chap=true",
			`luns=[{"lun_id":1,"bdev_name":"one"},{"lun_id":2,"bdev_name":"two"}]`,
			`pg_ig_maps=[{"pg_tag":1,"ig_tag":2},{"pg_tag":1,"ig_tag":3,"luns":[{"lun_id":1}]}]`},
	} {
		if _, err := target.RPC(t.Context(), call...); err != nil {
			t.Fatal(err)
		}
	}
	return target, node, first, second
}

// TestSocketClass05CHAPEntropy: two lives of the daemon never give one challenge
// twice.
func TestSocketClass05CHAPEntropy(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a target")
	}
	challenge := regexp.MustCompile("CHAP_C=0x([0-9a-f]{64})\x00")
	const logins = 20
	seen := map[string]bool{}
	for range 2 {
		target := linktest.Serve(t, testbed.Options{})
		for _, call := range [][]string{
			{"iscsi_create_auth_group", "tag=1", `secrets=[{"user":"` + chapUser + `","secret":"` + chapSecret + `"}]`},
			{"iscsi_target_node_set_auth", "name=" + testbed.IQN, "chap_group=1", "require_chap=true"},
		} {
			if _, err := target.RPC(t.Context(), call...); err != nil {
				t.Fatal(err)
			}
		}
		var script strings.Builder
		for i := range logins {
			fmt.Fprintf(&script, "conn c%d\n> login csg=0\n\tInitiatorName=$initiator\n\tTargetName=$target\n\tAuthMethod=CHAP\n"+
				"< login-response csg=0 nsg=0 status=0\n\t...\n> login csg=0\n\tCHAP_A=7\n< login-response csg=0 nsg=0 status=0\n\t...\nclose\n", i)
		}
		for _, m := range challenge.FindAllSubmatch(played(t, target.Addr(), testbed.IQN, iscsitest.Initiator, script.String()), -1) {
			seen[string(m[1])] = true
		}
	}
	if len(seen) != 2*logins {
		t.Errorf("%d challenges of 32 bytes in %d logins", len(seen), 2*logins)
	}
}

// TestSocketClass13XcopyAuthority: a unit that is masked from a session is no source
// of its EXTENDED COPY, by its true name neither.
func TestSocketClass13XcopyAuthority(t *testing.T) {
	target, node, first, second := serveTwo(t)
	naa := regexp.MustCompile(`(?s)\x01\x03\x00\x10(.{16})`).FindAllSubmatch(played(t, target.Addr(), node, first, `
login
ready
> scsi F R lun=1 edtl=255 cdb=12018300ff00
< data-in F S U status=0 residual=*
	x 00 83 ...
> scsi F lun=2 cdb=00
< scsi-response F status=2
	sense 6/2900
> scsi F R lun=2 edtl=255 cdb=12018300ff00
< data-in F S U status=0 residual=*
	x 00 83 ...
> scsi F W lun=2 edtl=512 cdb=2a000000000000000100
	fill 0x66 512
< scsi-response F status=0
logout
`), -1)
	if len(naa) != 2 {
		t.Fatalf("%d names", len(naa))
	}
	descriptor := func(i int) string {
		return "e4 00 0000 01 03 00 10 " + hex.EncodeToString(naa[i][1]) + " 00000000 00 000200\n\tx "
	}
	list := "\tx 00 00 0040 00000000 0000001c 00000000\n\tx " + descriptor(1) + descriptor(0) +
		"02 00 0018 0000 0001 0000 0001 0000000000000000 0000000000000000\n"
	const send = "\n> scsi F W lun=1 edtl=108 cdb=830000000000000000000000006c0000\n"
	const read = "> scsi F R lun=1 edtl=512 cdb=28000000000000000100\n< data-in F S status=0\n\tfill "
	played(t, target.Addr(), node, second, "login\nready"+send+list+"< scsi-response status=2\n\tsense a/0d02\n"+read+"0 512\nlogout\n")
	played(t, target.Addr(), node, first, "login\nready"+send+list+"< scsi-response F status=0\n"+read+"0x66 512\nlogout\n")
}

// TestSocketClass18AdminOutput: what initiators call themselves comes out of the RPC
// methods that tell of sessions, and of the log, as text: it forges no JSON, no line
// and no command to a terminal. A name with a control character is none (RFC 7143
// §6.1).
func TestSocketClass18AdminOutput(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a target")
	}
	const forged = "forged-by-a-name"
	names := []string{
		`iqn.2026-11.x:"}],"` + forged + `":[{"`,
		`iqn.2026-11.x:\\" level=ERROR msg=` + forged,
		`iqn.2026-11.x:\n\u000a\x1b[2j`,
		"iqn.2026-11.x:\u009b2J\u0085time=0 msg=" + forged,
		"iqn.2026-11.x:\u2028\u202e\U000e0001" + forged,
		"iqn.2026-11.x:\xff\xc0\x8a\x9b2J",
		"iqn.2026-11.x:<script>%s%n",
		"iqn.2026-11.x:" + strings.Repeat("n", pdu.MaxName-14),
	}
	target := linktest.Serve(t, testbed.Options{})
	var script strings.Builder
	login := func(conn int, name, response string) {
		fmt.Fprintf(&script, "conn c%d\n> login T csg=1 nsg=3 isid=%#x\n\t%q\n\tTargetName=$target\n< login-response %s\n\t%s\n",
			conn, 0x800000000100+conn, "InitiatorName="+name+"\x00", response, map[bool]string{true: "...", false: "none"}[response[0] == 'T'])
	}
	for i, name := range names {
		login(i, name, "T csg=1 nsg=3 status=0")
	}
	for i, c := range []string{"\n", "\r", "\x1b", "\x7f", "\b"} {
		login(100+i, "iqn.2026-11.x:"+c+"time=0 level=ERROR msg="+forged, "class=2")
		script.WriteString("expect-close silent\n")
	}
	script.WriteString("wait 0s\n")
	s, err := dialogue.Parse(t.Name(), script.String())
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	p := &dialogue.Player{
		Dial: func() (dialogue.Link, error) { return linktest.DialSocket(target.Addr(), 5*time.Second) },
		Wait: func(time.Duration) { asked = true; told(t, target, names) },
		Vars: map[string]string{"target": testbed.IQN, "initiator": iscsitest.Initiator, "lun": "0"},
	}
	if err := p.Play(s); err != nil || !asked {
		t.Fatal(err)
	}
	printable(t, "the log", target.Log())
	for line := range strings.Lines(target.Log()) {
		if strings.Contains(line, forged) && !strings.Contains(line, `msg=login `) && !strings.Contains(line, `msg="connection closed"`) {
			t.Errorf("a line is forged: %q", line)
		}
	}
}

// told asks the RPC methods that tell of sessions while those of names are there.
func told(t *testing.T, target *testbed.Target, names []string) {
	t.Helper()
	var stats struct {
		Nodes []struct {
			Sessions []struct {
				Initiator string `json:"initiator_name"`
			}
		}
	}
	var conns []struct{ ID int }
	for _, ask := range []struct {
		method string
		into   any
	}{{"iscsi_target_node_get_stats", &stats}, {"iscsi_get_connections", &conns}} {
		out, err := target.RPC(t.Context(), ask.method)
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(out))
		if err := d.Decode(ask.into); err != nil || d.More() {
			t.Errorf("%s: %v: %s", ask.method, err, out)
		}
		printable(t, ask.method, string(out))
	}
	var said, want []string
	for _, n := range stats.Nodes {
		for _, s := range n.Sessions {
			said = append(said, s.Initiator)
		}
	}
	for _, n := range names {
		want = append(want, strings.ToLower(string([]rune(n)))) // what is no UTF-8 is replaced
	}
	slices.Sort(said)
	slices.Sort(want)
	if !slices.Equal(said, want) || len(conns) != len(names) {
		t.Errorf("%d connections of %q, want %q", len(conns), said, want)
	}
}

// printable fails when text has what a terminal would take for a command.
func printable(t *testing.T, what, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s is no UTF-8: %q", what, text)
	}
	for _, r := range text {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%s has %q: %q", what, r, text)
			return
		}
	}
}

// TestSocketClass21PeerSide: no descriptor of GET LBA STATUS reaches beyond the unit,
// no data beyond what was expected.
func TestSocketClass21PeerSide(t *testing.T) {
	target, node, first, _ := serveTwo(t)
	played(t, target.Addr(), node, first, `
login
ready
> scsi F R lun=1 edtl=4096 cdb=9e120000000000000000000010000000
< data-in F S U status=0 residual=4072
	x 00000014 ???????? 0000000000000000 000003e8 ????????
> scsi F R lun=1 edtl=4096 cdb=9e1200000000000003e7000010000000
< data-in F S U status=0 residual=4072
	x 00000014 ???????? 00000000000003e7 00000001 ????????
> scsi F R lun=1 edtl=4096 cdb=9e1200000000000003e8000010000000
< scsi-response F U status=2 residual=4096
	sense 5/2100
> scsi F R lun=1 edtl=4096 cdb=9e12ffffffffffffffff000010000000
< scsi-response F U status=2 residual=4096
	sense 5/2100
> scsi F R lun=1 edtl=512 cdb=2800000003e000000800
< data-in F S O status=0 residual=3584
	length 512
> scsi F R lun=1 edtl=8192 cdb=2800000003e000000800
< data-in F S U status=0 residual=4096
	length 4096
alive
logout
`)
}
