package lint

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rule is a house rule over one package.
type rule struct {
	name  string
	why   string
	check func(*pkg) []finding
}

var rules = []rule{
	{"imports", "the rooms import one way (docs/architecture.md)", importDirection},
	{"unsafe", "unsafe lives in internal/sys and verbs, in files named *_unsafe.go, so that a reader knows where to look", unsafeFiles},
	{"syscalls", "only internal/sys and verbs speak to the kernel in its own words; elsewhere syscall is for Errno values, signals and what net.Dialer hands over", rawSyscalls},
	{"deterministic", "below control nothing is left to chance, so that a simulated run is (seed, commit)", deterministic},
	{"maprange", "map order is random: range over a slice, or say //spindle:ordered WHY", mapRange},
	{"hot", "a hot function allocates nothing, blocks on nothing and hides no call", hotFunctions},
	{"length", "functions up to 100 lines, files up to 800", lengths},
	{"packagedoc", "a package comment states purpose, Threading and Memory", packageDocs},
	{"exporteddoc", "what the data path exports says what it is", exportedDocs},
	{"registries", "no init, no package-level registry: parts are handed in by cmd", registries},
}

func TestHouse(t *testing.T) {
	pkgs := thisModule(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, p := range pkgs {
				for _, f := range r.check(p) {
					t.Error(f)
				}
			}
			if t.Failed() {
				t.Log("the rule:", r.why)
			}
		})
	}
}

var (
	wantComment = regexp.MustCompile(`// want\b`)
	roomComment = regexp.MustCompile(`(?m)^//lint:room (\S+)$`)
)

// TestRulesBite runs each rule over testdata/<rule>/<sample>: the lines marked
// "// want" must be found, and no other. A sample names the room it plays in
// "//lint:room".
func TestRulesBite(t *testing.T) {
	samples, err := filepath.Glob("testdata/*/*")
	if err != nil {
		t.Fatal(err)
	}
	var patterns []string
	for _, s := range samples {
		patterns = append(patterns, "./internal/lint/"+s)
	}
	seen := map[string]bool{}
	for _, p := range load(t, patterns...) {
		name := filepath.Base(filepath.Dir(p.dir))
		i := slices.IndexFunc(rules, func(r rule) bool { return r.name == name })
		if i < 0 {
			t.Errorf("testdata/%s is the name of no rule", name)
			continue
		}
		seen[name] = true
		t.Run(name+"/"+filepath.Base(p.dir), func(t *testing.T) {
			want := map[string]bool{}
			for _, f := range p.files {
				if m := roomComment.FindSubmatch(f.src); m != nil {
					p.room = string(m[1])
				}
				for i, line := range bytes.Split(f.src, []byte("\n")) {
					if wantComment.Match(line) {
						want[fmt.Sprintf("%s:%d", f.name, i+1)] = true
					}
				}
			}
			got := map[string]string{}
			for _, f := range rules[i].check(p) {
				got[fmt.Sprintf("%s:%d", filepath.Base(f.pos.Filename), f.pos.Line)] = f.msg
			}
			for at := range want {
				if got[at] == "" {
					t.Errorf("%s: the rule missed this", at)
				}
			}
			for at, msg := range got {
				if !want[at] {
					t.Errorf("%s: the rule is wrong here: %s", at, msg)
				}
			}
		})
	}
	for _, r := range rules {
		if !seen[r.name] {
			t.Errorf("rule %q has no sample under testdata", r.name)
		}
	}
}

func TestImportTable(t *testing.T) {
	for _, c := range []struct {
		name, room, path string
		may              bool
	}{
		{"down the chain", "scsi", "spindle/bdev", true},
		{"down the whole chain", "cmd/spindle", "spindle/internal/sys", true},
		{"up the chain", "reactor", "spindle/bdev", false},
		{"control is not its RPC's user", "control", "spindle/control/rpc", false},
		{"a part of the same room", "iscsi", "spindle/iscsi/login", true},
		{"engine and its transport", "iscsi", "spindle/iscsi/tcp", false},
		{"transport and its engine", "iscsi/tcp", "spindle/iscsi", true},
		{"control and a module", "control", "spindle/bdev/malloc", false},
		{"cmd and a module", "cmd/spindle", "spindle/bdev/malloc", true},
		{"module and block layer", "bdev/file", "spindle/bdev", true},
		{"module and module", "bdev/delay", "spindle/bdev/null", false},
		{"iSER and RDMA", "iser", "spindle/verbs", true},
		{"cmd and iSER", "cmd/spindle", "spindle/iser", true},
		{"RDMA and iSCSI", "verbs", "spindle/iscsi/pdu", false},
		{"RDMA and memory", "verbs/memverbs", "spindle/reactor/mem", true},
		{"memory and time", "reactor/mem", "spindle/reactor/clock", false},
		{"login and wire formats", "iscsi/login", "spindle/iscsi/pdu", true},
		{"login and memory", "iscsi/login", "spindle/reactor/mem", false},
		{"wire formats stand alone", "iscsi/pdu", "spindle/internal/sys", false},
		{"bench and wire formats", "bench/load", "spindle/iscsi/pdu", true},
		{"bench and engine", "bench/load", "spindle/iscsi", false},
		{"bench and RDMA", "bench/load", "spindle/verbs", true},
		{"bench and the transport over it", "bench/load", "spindle/iser", false},
		{"assertions are for all", "internal/sys", "spindle/internal/invariants", true},
		{"planted bugs are for all", "scsi", "spindle/internal/plant", true},
		{"simulated ring in the product", "cmd/spindle", "spindle/reactor/ring/simring", false},
		{"simulated ring in a helper", "iscsi/iscsitest", "spindle/reactor/ring/simring", true},
		{"helper in the product", "bdev", "spindle/bdev/bdevtest", false},
		{"tool in the product", "cmd/spindle", "spindle/internal/testbed", false},
		{"tool in a tool", "cmd/spindle-dev", "spindle/internal/testbed", true},
		{"standard library", "scsi", "encoding/binary", true},
		{"x/sys where it belongs", "internal/sys", "golang.org/x/sys/unix", true},
		{"x/sys elsewhere", "reactor/ring", "golang.org/x/sys/unix", false},
		{"any other module", "cmd/spindle", "example.com/x", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if why := mayNotImport(c.room, c.path); (why == "") != c.may {
				t.Errorf("%s importing %s: %q", c.room, c.path, why)
			}
		})
	}
}

func TestGofmt(t *testing.T) {
	if out := gofmt(t, root()); out != "" {
		t.Errorf("gofmt -s -w these:\n%s", out)
	}
	bad := filepath.Join(t.TempDir(), "bad.go")
	if err := os.WriteFile(bad, []byte("package  bad\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if gofmt(t, bad) == "" {
		t.Error("gofmt lets a badly formatted file pass")
	}
}

func gofmt(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("gofmt", "-s", "-l", path).CombinedOutput()
	if err != nil {
		t.Fatalf("gofmt: %v\n%s", err, out)
	}
	return string(out)
}

func TestVet(t *testing.T) {
	cmd := exec.Command("go", "vet", "./...")
	cmd.Dir = root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
}

// banned are words that have no place in the repository. They are spelt in two
// halves here so that this file may hold them.
var banned = []struct {
	re  *regexp.Regexp
	why string
}{
	{regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`), "do it, or say in docs/ that it is not done"},
	{regexp.MustCompile(`/wor` + `k/`), "a path of one machine"},
	{regexp.MustCompile(`(proxy\.golang|registry\.npmjs|deb\.debian|security\.debian|snapshot\.debian)\.` + `org|py` + `pi\.org|crates\.` + `io`), "registries are the machine's setting"},
	{regexp.MustCompile(`(?i)\bissue #` + `\d`), "say the thing itself: the tracker is not in the repository"},
}

func bannedWords(name string, text []byte) (out []string) {
	for i, line := range strings.Split(string(text), "\n") {
		for _, b := range banned {
			if m := b.re.FindString(line); m != "" {
				out = append(out, fmt.Sprintf("%s:%d: %q: %s", name, i+1, m, b.why))
			}
		}
	}
	return out
}

func TestBannedWords(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "-co", "--exclude-standard", "-z")
	cmd.Dir = root()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for _, name := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(root(), name))
		if err != nil || bytes.IndexByte(text, 0) >= 0 || name == "LICENSE" || strings.Contains(name, "testdata/fuzz/") {
			continue // deleted, binary, or not our words
		}
		for _, f := range bannedWords(name, text) {
			t.Error(f)
		}
	}
	for _, bad := range []string{"// TO" + "DO later", "see /wor" + "k/shared", "GOPROXY=https://proxy.golang." + "org", "fixes issue #" + "7"} {
		if len(bannedWords("sample", []byte(bad))) == 0 {
			t.Errorf("%q is not found", bad)
		}
	}
}
