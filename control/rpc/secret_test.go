package rpc_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/control"
	"spindle/control/controltest"
	"spindle/control/rpc"
	"spindle/iscsi"
	"spindle/reactor"
)

// Secrets that must be nowhere.
const (
	secretIn  = "zq-initiator-proves-this"
	secretOut = "zq-target-proves-this-too"
)

// TestSecretsAreNotTold asks everything of a target with secrets, in right and in
// wrong ways: neither answers nor the log, with all of its lines, tell them.
func TestSecretsAreNotTold(t *testing.T) {
	var log bytes.Buffer
	l := control.NewLog(&log)
	if err := l.SetLevel("DEBUG"); err != nil {
		t.Fatal(err)
	}
	engine := controltest.NewEngine()
	ctl := control.New(control.Config{
		Engine: engine, Modules: controltest.Modules(nil), Caller: reactor.Blocking{}, Log: l,
		Watch: func() []control.ReactorStats { return nil }, Stop: func(string) error { return nil },
	})
	ctl.Start()
	server := rpc.NewServer(ctl)
	ask := func(request string) string {
		s := &stream{in: bytes.NewReader([]byte(`{"method":"rpc_set_error_detail","params":{"enable":true}}` + request))}
		server.ServeStream(s)
		return s.out.String()
	}
	user := fmt.Sprintf(`"user":"zoe","secret":%q,"muser":"us","msecret":%q`, secretIn, secretOut)
	if out := ask(`{"id":1,"method":"iscsi_create_auth_group","params":{"tag":1,"secrets":[{` + user + `}]}}`); !strings.Contains(out, `"result":true`) {
		t.Fatal(out)
	}
	var requests []string
	for _, m := range rpc.Methods() {
		// filename is left out by sample, so that nothing is written.
		params := strings.Replace(sample(m.Params), `"with_secrets":true`, `"with_secrets":false`, 1)
		if m.Name == "iscsi_delete_auth_group" || strings.HasPrefix(m.Name, "log_set_") {
			continue // the group is asked about, and every line logged, to the end
		}
		requests = append(requests, fmt.Sprintf(`{"id":1,"method":%q,"params":%s}`, m.Name, params))
	}
	for _, params := range []string{
		`{"tag":1,` + user + `}`,                                 // the user is there
		`{"tag":7,` + user + `}`,                                 // the group is not
		`{"tag":1,"user":"a","secret":"` + secretIn + `","x":1}`, // unknown parameter
		`{"tag":1,"user":"a","secret":"` + secretIn + strings.Repeat("x", 300) + `"}`,
		`{"tag":1,"user":"a","secret":"` + secretIn + `","muser":"m"}`,
		`{"tag":1,"user":"a","secret":"` + secretIn + `","muser":"m","msecret":"` + secretIn + `"}`,
		`{"tag":1,"user":"a","secret":{"` + secretIn + `":1}}`,
		`{"tag":1,"user":"a","secret":["` + secretIn + `"]}`,
		`{"tag":"` + secretIn + `","user":"a","secret":1}`,
		`["` + secretIn + `"]`,
	} {
		requests = append(requests, `{"id":1,"method":"iscsi_auth_group_add_secret","params":`+params+`}`)
	}
	path := filepath.Join(t.TempDir(), "c.json")
	requests = append(requests, fmt.Sprintf(`{"id":1,"method":"save_config","params":{"filename":%q}}`, path))
	for _, r := range requests {
		out := ask(r)
		for _, s := range []string{secretIn, secretOut} {
			if strings.Contains(out, s) {
				t.Errorf("%s\ntells %s\n%s", r, s, out)
			}
		}
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"the log": log.String(), "the saved file": string(file), "errors": fmt.Sprint(ctl.Close())} {
		if strings.Contains(text, secretIn) || strings.Contains(text, secretOut) {
			t.Errorf("%s tells a secret:\n%s", where, text)
		}
	}
	if !strings.Contains(string(file), `"omitted": "CHAP`) || !strings.Contains(log.String(), "without CHAP users and secrets") {
		t.Errorf("nobody says that secrets are left out:\n%s", file)
	}
	again, _ := controltest.New()
	if err := rpc.NewServer(again).Load(t.Context(), file, rpc.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if g := again.AuthGroups(); len(g) != 1 || len(g[0].Secrets) != 0 {
		t.Errorf("loaded without secrets, the group has %+v", g)
	}
	for _, r := range []string{
		`{"id":1,"method":"save_config","params":{"with_secrets":true}}`,
		`{"id":1,"method":"iscsi_get_auth_groups","params":{"with_secrets":true}}`,
		`{"id":1,"method":"framework_get_config","params":{"name":"iscsi","with_secrets":true}}`,
	} {
		if out := ask(r); !strings.Contains(out, secretIn) || !strings.Contains(out, secretOut) || strings.Contains(out, "omitted") {
			t.Errorf("%s does not tell them:\n%s", r, out)
		}
	}
}

// TestBoundUser: the names that a user is bound to are told without secrets,
// compared in lower case, saved and loaded.
func TestBoundUser(t *testing.T) {
	ctl, _ := controltest.New()
	server := rpc.NewServer(ctl)
	ask := func(method, params string) string {
		s := &stream{in: bytes.NewReader(fmt.Appendf(nil, `{"id":1,"method":%q,"params":%s}`, method, params))}
		server.ServeStream(s)
		return s.out.String()
	}
	const bound = `"initiators":["iqn.2026-11.dev.spindle:host"]`
	for _, r := range [][2]string{
		{"framework_start_init", `null`},
		{"iscsi_create_auth_group", `{"tag":1,"secrets":[{"user":"a","secret":"twelve bytes","initiators":["iqn.2026-11.dev.spindle:HOST"]}]}`},
		{"iscsi_auth_group_add_secret", `{"tag":1,"user":"b","secret":"twelve bytes"}`},
	} {
		if out := ask(r[0], r[1]); !strings.Contains(out, `"result":true`) {
			t.Fatal(out)
		}
	}
	if out := ask("iscsi_get_auth_groups", `{}`); !strings.Contains(out, `{"user":"a",`+bound+`},{"user":"b"}`) {
		t.Error(out)
	}
	var saved struct{ Result json.RawMessage }
	if err := json.Unmarshal([]byte(ask("save_config", `{"with_secrets":true}`)), &saved); err != nil {
		t.Fatal(err)
	}
	again, _ := controltest.New()
	if err := rpc.NewServer(again).Load(t.Context(), saved.Result, rpc.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if g := again.AuthGroups(); len(g) != 1 || len(g[0].Secrets) != 2 || !slices.Equal(g[0].Secrets[0].Initiators, []string{"iqn.2026-11.dev.spindle:host"}) || len(g[0].Secrets[1].Initiators) != 0 {
		t.Errorf("loaded %+v", g)
	}
}

// TestAuthMethods: what the methods of authentication and redirection change.
func TestAuthMethods(t *testing.T) {
	ctl, engine := controltest.New()
	server := rpc.NewServer(ctl)
	if err := server.Load(t.Context(), []byte(spdkConfig), rpc.LoadOptions{SkipUnknown: true}); err != nil {
		t.Fatal(err)
	}
	const node = `"name":"iqn.2016-06.io.spdk:Disk"`
	for _, tc := range []struct{ method, params, want, log string }{
		{"iscsi_target_node_set_auth", `{` + node + `,"require_chap":true,"mutual_chap":true,"chap_group":4}`, "true", "set node auth iqn.2016-06.io.spdk:disk {Disable:false Require:true Mutual:true Group:4}"},
		{"iscsi_target_node_set_auth", `{` + node + `,"require_chap":true,"disable_chap":true}`, "-32602", ""},
		{"iscsi_target_node_set_auth", `{"name":"none"}`, "-32602", ""},
		{"iscsi_portal_group_set_auth", `{"tag":1,"require_chap":true,"chap_group":5}`, "true", "set portal group auth 1 {Disable:false Require:true Mutual:false Group:5}"},
		{"iscsi_portal_group_set_auth", `{"tag":9}`, "-32602", ""},
		{"iscsi_target_node_set_redirect", `{` + node + `,"pg_tag":1,"redirect_host":"192.0.2.1","redirect_port":"3261"}`, "true", "redirect iqn.2016-06.io.spdk:disk by 1 to 192.0.2.1:3261"},
		{"iscsi_target_node_set_redirect", `{` + node + `,"pg_tag":1,"redirect_port":"3261"}`, "-32602", ""},
		{"iscsi_target_node_set_redirect", `{` + node + `,"pg_tag":1,"redirect_host":"a name"}`, "-32602", ""},
		{"iscsi_target_node_request_logout", `{` + node + `,"pg_tag":1}`, "true", "request logout iqn.2016-06.io.spdk:disk by 1"},
		{"iscsi_target_node_request_logout", `{` + node + `,"pg_tag":7}`, "-32602", ""},
		{"iscsi_target_node_send_async_message", `{` + node + `,"event":"drop_connection","cid":3}`, "true", "async event 2 to iqn.2016-06.io.spdk:disk: {Event:2 LUN:0 Key:0 ASC:0 ASCQ:0 CID:3 Seconds:0}"},
		{"iscsi_target_node_send_async_message", `{` + node + `,"event":"boo"}`, "-32602", ""},
		{"iscsi_target_node_send_async_message", `{` + node + `,"event":"scsi","lun_id":16383,"sense_key":6,"asc":42,"ascq":9}`, "true", "async event 0 to iqn.2016-06.io.spdk:disk: {Event:0 LUN:16383 Key:6 ASC:42 ASCQ:9 CID:0 Seconds:0}"},
		{"iscsi_target_node_send_async_message", `{` + node + `,"event":"scsi","lun_id":16384}`, "-32602", ""},
		{"iscsi_target_node_request_logout", `{` + node + `}`, "true", "request logout iqn.2016-06.io.spdk:disk"},
		{"iscsi_target_node_set_alua_state", `{` + node + `,"pg_tag":1,"alua_state":"non_optimized"}`, "true", "state of iqn.2016-06.io.spdk:disk by 1 is non_optimized"},
		{"iscsi_target_node_set_alua_state", `{` + node + `,"pg_tag":7,"alua_state":"standby"}`, "-32602", ""},
		{"iscsi_target_node_set_alua_state", `{` + node + `,"pg_tag":1,"alua_state":"asleep"}`, "-32602", ""},
		{"iscsi_target_node_get_alua_states", `{` + node + `}`, `"pg_tag":1,"alua_state":"non_optimized","luns":[]`, ""},
		{"iscsi_target_node_get_alua_states", `{"name":"none"}`, "-32602", ""},
		{"iscsi_get_counters", `null`, `{"logins":3}`, ""},
		{"iscsi_target_node_get_stats", `{"name":"none"}`, "error", ""},
		{"iscsi_target_node_get_histogram", `{` + node + `}`, "error", ""},
		{"iscsi_target_node_enable_histogram", `{` + node + `,"enable":true,"granularity":13}`, "error", "histograms of iqn.2016-06.io.spdk:disk true"},
		{"iscsi_target_node_enable_histogram", `{` + node + `,"enable":true,"granularity":4}`, "true", "histograms of iqn.2016-06.io.spdk:disk true"},
		{"iscsi_target_node_get_histogram", `{` + node + `}`, `"granularity":4`, ""},
		{"iscsi_target_node_get_stats", `{` + node + `}`, `"nodes":[{"name":"iqn.2016-06.io.spdk:Disk","pdus_in":0,"pdus_out":0,"commands":0,"num_read_ops":7`, ""},
		{"iscsi_target_node_get_stats", `{"sessions":false}`, `"sessions":[]`, ""},
		{"iscsi_target_node_get_stats", `null`, `"logins":{"accepts":1}`, ""},
		{"iscsi_target_node_get_stats", `null`, `"connections":[{"id":1,"cid":2,"initiator_addr":"10.0.0.1","pdus_in":0`, ""},
	} {
		before := len(engine.Log())
		s := &stream{in: bytes.NewReader(fmt.Appendf(nil, `{"id":1,"method":%q,"params":%s}`, tc.method, tc.params))}
		server.ServeStream(s)
		log := strings.Join(engine.Log()[before:], "; ")
		if !strings.Contains(s.out.String(), tc.want) || log != tc.log {
			t.Errorf("%s %s: %s, the engine heard %q", tc.method, tc.params, s.out.String(), log)
		}
	}
	saved := string(save(t, ctl))
	for _, want := range []string{
		`{"method":"iscsi_portal_group_set_auth","params":{"tag":1,"disable_chap":false,"require_chap":true,"mutual_chap":false,"chap_group":5}}`,
		`{"method":"iscsi_target_node_set_redirect","params":{` + node + `,"pg_tag":1,"redirect_host":"192.0.2.1","redirect_port":"3261"}}`,
		`"mutual_chap":true,"chap_group":4`,
		`{"method":"iscsi_target_node_set_alua_state","params":{` + node + `,"pg_tag":1,"alua_state":"non_optimized"}}`,
	} {
		if !strings.Contains(saved, want) {
			t.Errorf("saved has no %s\n%s", want, saved)
		}
	}
	reload(t, ctl)
	if n := ctl.Nodes()[0]; len(n.Redirects) != 1 {
		t.Fatalf("%+v", n)
	}
	if err := ctl.RemoveMaps("iqn.2016-06.io.spdk:Disk", []iscsi.Map{{PortalTag: 1, InitiatorTag: 2}}); err != nil {
		t.Fatal(err)
	}
	if n := ctl.Nodes()[0]; len(n.Redirects) != 0 {
		t.Errorf("a redirection outlives its map: %+v", n.Redirects)
	}
}

// TestPeerCredentials: a process of another user is turned away although the
// socket's mode would let it in (CVE-2007-3099 checked the listening socket's).
func TestPeerCredentials(t *testing.T) {
	const stranger = "RPC_TEST_SOCKET"
	if path := os.Getenv(stranger); path != "" {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, `{"id":1,"method":"rpc_get_methods"}`) // refused, it may be closed already
		if answer, _ := io.ReadAll(c); len(answer) > 0 {
			t.Fatalf("answered %q", answer)
		}
		fmt.Println("turned away")
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can play another user")
	}
	path, _, _ := serve(t, true)
	dir, err := os.MkdirTemp("", "spindle-rpc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	bin := filepath.Join(dir, "test")
	image, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, image, 0o755); err != nil {
		t.Fatal(err)
	}
	for p := filepath.Dir(path); p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{path: 0o666, dir: 0o755} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(bin, "-test.run=^TestPeerCredentials$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), stranger+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "turned away") {
		t.Fatalf("%v\n%s", err, out)
	}
	c := dial(t, path)
	if _, err := io.WriteString(c, `{"id":1,"method":"log_get_level"}`); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 10)); err != nil {
		t.Fatalf("our own user is refused too: %v", err)
	}
}
