package iscsi_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"spindle/internal/testbed"
	"spindle/iscsi/dialogue/linktest"
)

// tool runs a program of libiscsi's and tells whether it succeeded.
func tool(env []string, name string, args ...string) (string, bool) {
	cmd := exec.Command(name, append([]string{"-i", "iqn.2026-11.x:tools"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// TestTools has libiscsi's programs authenticate to the daemon, one way and
// mutually, for discovery and for a node, while secrets are replaced, and follow
// a redirection.
func TestTools(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a target")
	}
	for _, name := range []string{"iscsi-ls", "iscsi-inq"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	target := linktest.Serve(t, testbed.Options{SizeMiB: 8})
	rpc := func(args ...string) string {
		t.Helper()
		out, err := target.RPC(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	const (
		first, second, theirs = "zq-first-secret-16", "zq-second-secret-16", "zq-the-targets-16"
		wrong                 = "zq-none-of-these"
	)
	// libiscsi takes the target's name and secret of mutual CHAP from the environment.
	asked := func(secret string) []string {
		return []string{"LIBISCSI_CHAP_TARGET_USERNAME=target", "LIBISCSI_CHAP_TARGET_PASSWORD=" + secret}
	}
	ls := func(secret string, env []string) bool {
		url := "iscsi://" + target.Addr()
		if secret != "" {
			url = "iscsi://alice%" + secret + "@" + target.Addr()
		}
		out, ok := tool(env, "iscsi-ls", url)
		return ok && strings.Contains(out, testbed.IQN)
	}
	inq := func(secret string, env []string) bool {
		url := fmt.Sprintf("iscsi://%s/%s/0", target.Addr(), testbed.IQN)
		if secret != "" {
			url = fmt.Sprintf("iscsi://alice%%%s@%s/%s/0", secret, target.Addr(), testbed.IQN)
		}
		out, ok := tool(env, "iscsi-inq", url)
		return ok && strings.Contains(out, "DIRECT_ACCESS")
	}
	expect := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: succeeded %v, want %v", what, got, want)
		}
	}
	expect("discovery by anybody", ls("", nil), true)
	expect("login by anybody", inq("", nil), true)
	rpc("iscsi_create_auth_group", "tag=1", `secrets=[{"user":"alice","secret":"`+first+`","muser":"target","msecret":"`+theirs+`"}]`)
	rpc("iscsi_set_discovery_auth", "require_chap=true", "chap_group=1")
	expect("discovery without CHAP", ls("", nil), false)
	expect("discovery with CHAP", ls(first, nil), true)
	expect("discovery with a wrong secret", ls(wrong, nil), false)
	expect("login by anybody still", inq("", nil), true)
	rpc("iscsi_portal_group_set_auth", "tag=1", "disable_chap=true")
	expect("discovery by a portal group that asks for nothing", ls("", nil), true)
	rpc("iscsi_portal_group_set_auth", "tag=1", "require_chap=true", "mutual_chap=true", "chap_group=1")
	expect("discovery, mutual wanted and not done", ls(first, nil), false)
	expect("discovery, mutual", ls(first, asked(theirs)), true)
	expect("discovery, the target does not know what is expected", ls(first, asked(wrong)), false)

	rpc("iscsi_target_node_set_auth", "name="+testbed.IQN, "require_chap=true", "chap_group=1")
	expect("login without CHAP", inq("", nil), false)
	expect("login with CHAP", inq(first, nil), true)
	expect("login, mutual", inq(first, asked(theirs)), true)
	rpc("iscsi_auth_group_remove_secret", "tag=1", "user=alice")
	expect("login of a user who is gone", inq(first, nil), false)
	rpc("iscsi_auth_group_add_secret", "tag=1", "user=alice", "secret="+second)
	expect("login with the old secret", inq(first, nil), false)
	expect("login with the new secret", inq(second, nil), true)
	rpc("iscsi_target_node_set_auth", "name="+testbed.IQN)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	rpc("iscsi_create_portal_group", "tag=2", `portals=[{"host":"127.0.0.1","port":"`+port+`"}]`)
	rpc("iscsi_target_node_add_pg_ig_maps", "name="+testbed.IQN, `pg_ig_maps=[{"pg_tag":2,"ig_tag":1}]`)
	rpc("iscsi_target_node_set_redirect", "name="+testbed.IQN, "pg_tag=1", "redirect_host=127.0.0.1", "redirect_port="+port)
	expect("login after a redirection", inq("", nil), true)
	var counters map[string]uint64
	if err := json.Unmarshal([]byte(rpc("iscsi_get_counters")), &counters); err != nil || counters["redirects"] != 1 || counters["chap_failures"] < 5 {
		t.Errorf("%v: %v", err, counters)
	}
	rpc("iscsi_target_node_set_redirect", "name="+testbed.IQN, "pg_tag=1")

	// Class 19: connections that never say anything keep nobody out.
	for range 300 {
		c, err := net.Dial("tcp", target.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	expect("login beside 300 silent connections", inq("", nil), true)
	for where, text := range map[string]string{"the log": target.Log(), "save_config": rpc("save_config"),
		"the groups": rpc("iscsi_get_auth_groups"), "the connections": rpc("iscsi_get_connections")} {
		if strings.Contains(text, "zq-") {
			t.Errorf("%s tells a secret:\n%s", where, text)
		}
	}
	if saved := rpc("save_config", "with_secrets=true"); !strings.Contains(saved, second) {
		t.Error("save_config does not tell them when asked")
	}
}
