package iscsi_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// classes has, for each class of faults that targets have been attacked by, the tests
// over sockets against the built target, and those against the target in the test's
// goroutine, on a simulated network. A dialogue is played by dialogue.TestSocket and
// by dialogue.TestSimulated. What else searches the class is under more.
var classes = []struct {
	name            string
	socket          string
	simulated, more string
}{
	{"01 key too long", "class01_key_too_long", "TestClass01KeyTooLong", "login.FuzzLogin pdu.FuzzText"},
	{"02 reply amplification", "class02_reply_amplification class02_snack_replays", "TestClass02ReplyAmplification TestClass02SNACKAmplification", ""},
	{"03 edge of a login payload", "class03_login_payload_edge", "TestClass03LoginPayloadEdge", "login.FuzzLogin"},
	{"04 CHAP decoding", "class04_chap_decode", "TestClass04CHAPDecodeLength", "login.FuzzCHAPDecode"},
	{"05 CHAP replay", "class05_chap_replay TestSocketClass05CHAPEntropy", "TestClass05CHAPReplay", ""},
	{"06 CHAP reflection", "class06_chap_reflection", "TestClass06CHAPReflection", ""},
	{"07 state machine", "class07_state_machine", "TestClass07StateMachine", ""},
	{"08 lying length", "class08_lying_length", "TestClass08LyingLength", "pdu.FuzzBHS"},
	{"09 buffer bleed", "class09_buffer_bleed", "TestClass09BufferBleed", ""},
	{"10 digest length", "class10_digest_length", "TestClass10DigestLength", ""},
	{"11 LBA wrap", "class11_lba_wrap", "TestClass11LBAWrap", "scsi.FuzzCDB"},
	{"12 no data buffer", "class12_no_data_buffer", "TestClass12NoDataBuffer", "scsi.FuzzWriteSame"},
	{"13 XCOPY authority", "class13_xcopy_authority TestSocketClass13XcopyAuthority", "TestClass13XcopyAuthority", "scsi.TestXcopyAuthority"},
	{"14 PR parsing", "class14_pr_parse", "TestClass14PRParse", "scsi.FuzzPersistentOut"},
	{"15 teardown race", "class15_teardown_race", "TestClass15TeardownRace", ""},
	{"16 abort versus complete", "class16_abort_storm", "TestClass16AbortVsComplete", ""},
	{"17 format", "class17_format", "TestClass17Format", ""},
	{"18 admin output", "class18_admin_output TestSocketClass18AdminOutput", "TestClass18AdminOutput", "rpc.TestSecretsAreNotTold rpc.TestPeerCredentials"},
	{"19 connection exhaustion", "class19_connection_exhaustion", "TestClass19ConnectionExhaustion", "clients.TestAbuse"},
	{"20 index from the wire", "class20_index_from_wire class20_snack_runs", "TestClass20IndexFromWire TestClass20SNACKBeyondRenewedData TestClass20SNACKBehindRenewal", "iser.FuzzMessage"},
	{"21 peer side", "TestSocketClass21PeerSide", "TestClass21PeerSide", ""},
}

// TestClasses: what the table names is there, and it names all that is called a class.
func TestClasses(t *testing.T) {
	const dialogues = "dialogue/testdata/"
	there := map[string]bool{} // dialogues, and tests: those of other folders as folder.Test
	for _, dir := range []string{".", "dialogue", "login", "pdu", "../scsi", "../iser", "../control/rpc", "../internal/clients"} {
		for _, name := range tests(t, dir) {
			if there[filepath.Base(dir)+"."+name] = true; dir == "." || dir == "dialogue" {
				there[name] = true
			}
		}
	}
	files, err := filepath.Glob(dialogues + "class*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		there[strings.TrimSuffix(filepath.Base(f), ".txt")] = true
		if text, err := os.ReadFile(f); err != nil || strings.Contains(string(text), "\nneeds: virtual") {
			t.Errorf("%s is not played over sockets: %v", f, err)
		}
	}
	if !there["TestSocket"] || !there["TestSimulated"] {
		t.Error("nothing plays the dialogues")
	}
	called := regexp.MustCompile(`^(?:class|TestClass|TestSocketClass)(\d\d)`)
	named := map[string]bool{}
	for i, c := range classes {
		if c.socket == "" || c.simulated == "" || !strings.HasPrefix(c.name, fmt.Sprintf("%02d ", i+1)) {
			t.Errorf("class %d: %+v", i+1, c)
		}
		for _, name := range slices.Concat(strings.Fields(c.socket), strings.Fields(c.simulated), strings.Fields(c.more)) {
			named[name] = true
			if !there[name] {
				t.Errorf("class %s: there is no %s", c.name, name)
			}
			if m := called.FindStringSubmatch(name); m != nil && m[1] != c.name[:2] {
				t.Errorf("class %s names %s", c.name, name)
			}
		}
	}
	for name := range there {
		if called.MatchString(name) && !named[name] {
			t.Errorf("%s is in no class", name)
		}
	}
}

// tests are the tests and fuzz tests of a folder.
func tests(t *testing.T, dir string) (list []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s: %v", dir, err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) {
				list = append(list, fn.Name.Name)
			}
		}
	}
	return list
}
