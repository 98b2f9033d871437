package rpc_test

import (
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"spindle/control/rpc"
)

var update = flag.Bool("update", false, "write what is generated instead of comparing it")

const document = "../../docs/rpc.md"

func TestDocumentIsCurrent(t *testing.T) {
	want := rpc.Markdown()
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error(`docs/rpc.md is not what the table says; run "go generate ./control/rpc"`)
	}
}

// TestTable checks what the table promises to everything made from it.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	var params func(where string, list []rpc.Param)
	params = func(where string, list []rpc.Param) {
		names := map[string]bool{}
		for _, p := range list {
			switch {
			case p.Name == "" || names[p.Name]:
				t.Errorf("%s: parameter %q has no name of its own", where, p.Name)
			case p.Doc == "":
				t.Errorf("%s: parameter %s is not documented", where, p.Name)
			case (p.Type == rpc.Objects) != (p.Fields != nil):
				t.Errorf("%s: parameter %s: fields and type disagree", where, p.Name)
			case (p.Type == rpc.Objects || p.Type == rpc.Strings) && p.MaxItems == 0:
				t.Errorf("%s: parameter %s is a list without a limit", where, p.Name)
			}
			names[p.Name] = true
			params(where+"."+p.Name, p.Fields)
		}
	}
	for _, m := range rpc.Methods() {
		for _, n := range append([]string{m.Name}, m.Aliases...) {
			if seen[n] {
				t.Errorf("%s is there twice", n)
			}
			seen[n] = true
		}
		if m.Doc == "" || m.Result == "" || m.State == 0 || !strings.HasSuffix(m.Doc, ".") {
			t.Errorf("%s: doc %q, result %q, state %v", m.Name, m.Doc, m.Result, m.State)
		}
		params(m.Name, m.Params)
		if h := m.Help(); !strings.Contains(h, m.Name) || !strings.Contains(h, m.Doc) {
			t.Errorf("%s: help is %q", m.Name, h)
		}
	}
	// What SPDK's own tools call when they start.
	for _, n := range []string{"rpc_get_methods", "framework_get_subsystems", "framework_get_config", "bdev_get_bdevs",
		"iscsi_get_options", "iscsi_get_target_nodes", "iscsi_get_portal_groups", "iscsi_get_initiator_groups",
		"iscsi_get_connections", "iscsi_get_auth_groups", "scsi_get_devices", "framework_start_init", "framework_wait_init"} {
		if !seen[n] {
			t.Errorf("%s is missing", n)
		}
	}
}

func TestLookup(t *testing.T) {
	for _, tt := range []struct{ name, ask, want, wrong string }{
		{name: "name", ask: "bdev_get_bdevs", want: "bdev_get_bdevs"},
		{name: "alias", ask: "get_bdevs", want: "bdev_get_bdevs"},
		{name: "slip", ask: "bdev_get_bdev", wrong: `did you mean "bdev_get_bdevs"?`},
		{name: "nonsense", ask: "x", wrong: "--help"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := rpc.Lookup(tt.ask)
			if err == nil && m.Name != tt.want || err != nil && (tt.wrong == "" || !strings.Contains(err.Error(), tt.wrong)) {
				t.Errorf("got %v, %v", m, err)
			}
		})
	}
}

func TestParseArgs(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		args         []string
		want, wrong  string
	}{
		{name: "text stays text", method: "bdev_malloc_delete", args: []string{"name=1"}, want: `{"name":"1"}`},
		{name: "quoted", method: "bdev_malloc_delete", args: []string{`name="a b"`}, want: `{"name":"a b"}`},
		{name: "numbers", method: "bdev_null_resize", args: []string{"name=N", "new_size=16"}, want: `{"name":"N","new_size":16}`},
		{name: "list", method: "iscsi_create_initiator_group", args: []string{"tag=1", "initiators=ANY,!iqn.x", `netmasks=["ANY"]`}, want: `{"initiators":["ANY","!iqn.x"],"netmasks":["ANY"],"tag":1}`},
		{name: "objects", method: "iscsi_create_portal_group", args: []string{"tag=1", `portals=[{"host":"::1"}]`, "wait=true"}, want: `{"portals":[{"host":"::1"}],"tag":1,"wait":true}`},
		{name: "value with an equals sign", method: "bdev_malloc_delete", args: []string{"name=a=b"}, want: `{"name":"a=b"}`},
		{name: "no value", method: "bdev_malloc_delete", args: []string{"name"}, wrong: "key=value"},
		{name: "missing", method: "bdev_malloc_delete", wrong: `"name" (string) is required`},
		{name: "slip", method: "bdev_malloc_delete", args: []string{"nam=x"}, wrong: `did you mean "name"?`},
		{name: "twice", method: "bdev_malloc_delete", args: []string{"name=x", "name=y"}, wrong: "twice"},
		{name: "not a number", method: "bdev_null_resize", args: []string{"name=N", "new_size=big"}, wrong: "must be a uint64"},
		{name: "out of range", method: "iscsi_delete_portal_group", args: []string{"tag=70000"}, wrong: "outside 1..65535"},
		{name: "negative", method: "bdev_null_resize", args: []string{"name=N", "new_size=-1"}, wrong: "outside"},
		{name: "not in the list", method: "log_set_level", args: []string{"level=LOUD"}, wrong: "must be one of ERROR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := rpc.Lookup(tt.method)
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.ParseArgs(tt.args)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for k := range got {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			var parts []string
			for _, k := range keys {
				parts = append(parts, `"`+k+`":`+string(got[k]))
			}
			if s := "{" + strings.Join(parts, ",") + "}"; s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
}

func TestCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash here")
	}
	script, err := rpc.Completion("bash", map[string][]string{"serve": {"--config"}, "rpc": {"--help"}}, []string{"rpc", "serve"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, words, want string }{
		{"command", "spindle se", "serve"},
		{"flag", "spindle serve --c", "--config"},
		{"method", "spindle rpc bdev_get_b", "bdev_get_bdevs"},
		{"parameter", "spindle rpc bdev_null_resize new", "new_size="},
		{"value", "spindle rpc log_set_level level=E", "level=ERROR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := exec.Command(bash, "--norc", "-c", script+"\nCOMP_WORDS=("+tt.words+"); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _spindle; echo ${COMPREPLY[@]}").CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != tt.want {
				t.Errorf("got %s, %v", out, err)
			}
		})
	}
	if _, err := rpc.Completion("tcsh", nil, nil); err == nil {
		t.Error("a shell that is not known was accepted")
	}
}
