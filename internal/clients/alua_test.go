package clients

import (
	"strconv"
	"strings"
	"testing"

	"spindle/internal/testbed"
)

// told tells whether an error has this sense key, additional sense code and
// qualifier; fixed format, behind the two bytes of the sense length.
func told(err error, key, asc, ascq string) bool {
	if err == nil {
		return false
	}
	_, sense, _ := strings.Cut(err.Error(), "sense ")
	f := strings.Fields(sense)
	return len(f) >= 16 && f[4] == key && f[14] == asc && f[15] == ascq
}

// TestALUA: a portal group's state is changed by RPC and by SET TARGET PORT
// GROUPS; both paths learn of it, and it is saved when it is control's.
func TestALUA(t *testing.T) {
	target := start(t, testbed.Options{LUNs: []testbed.LUN{{Module: "malloc"}}, Paths: 2, SizeMiB: 8})
	one, two := enter(t, target.Addr(), 1), enter(t, strings.Replace(target.Addr(), strconv.Itoa(target.Port), strconv.Itoa(target.More[0]), 1), 2)
	rpc := func(args ...string) string {
		out, err := target.RPC(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	read := func(c *initiator) error { _, err := c.read(0, 0, 1); return err }
	const set, get = "iscsi_target_node_set_alua_state", "iscsi_target_node_get_alua_states"

	rpc(set, "name="+testbed.IQN, "pg_tag=2", "alua_state=standby")
	for _, c := range []*initiator{one, two} {
		if err := read(c); !told(err, "06", "2a", "06") {
			t.Errorf("after a change of state: %v", err)
		}
	}
	if err := read(two); !told(err, "02", "04", "0b") {
		t.Errorf("by a path in standby: %v", err)
	}
	if err := read(one); err != nil {
		t.Errorf("by the other path: %v", err)
	}
	if out := rpc(get, "name="+testbed.IQN); !strings.Contains(out, `"standby"`) || strings.Contains(out, `"explicit": true`) {
		t.Errorf("%s: %s", get, out)
	}
	if out := rpc("save_config"); !strings.Contains(out, set) {
		t.Errorf("the state is not saved:\n%s", out)
	}

	// SET TARGET PORT GROUPS makes it active again, by the path in standby.
	setPorts := []byte{0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8}
	if _, err := two.command(0, setPorts, []byte{0, 0, 0, 0, 0x01, 0, 0, 2}, 0); err != nil {
		t.Fatalf("SET TARGET PORT GROUPS: %v", err)
	}
	if err := read(one); !told(err, "06", "2a", "06") {
		t.Errorf("the other path was not told: %v", err)
	}
	if err := read(two); err != nil {
		t.Errorf("by a path made active: %v", err)
	}
	if out := rpc(get, "name="+testbed.IQN); !strings.Contains(out, `"non_optimized"`) || !strings.Contains(out, `"explicit": true`) {
		t.Errorf("%s: %s", get, out)
	}
	if _, err := target.RPC(t.Context(), set, "name="+testbed.IQN, "pg_tag=3", "alua_state=standby"); err == nil {
		t.Error("a portal group that does not lead here has a state")
	}
}

// enter is a session that has taken its unit attentions.
func enter(t *testing.T, addr string, n int) *initiator {
	t.Helper()
	c, err := dial(addr, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	if err := c.settle(0); err != nil {
		t.Fatal(err)
	}
	return c
}
