package dialogue_test

import (
	"slices"
	"testing"
	"time"

	"spindle/internal/testbed"
	"spindle/iscsi/dialogue"
	"spindle/iscsi/dialogue/linktest"
	"spindle/iscsi/iscsitest"
)

// TestSocket plays every script over a real socket against the built target.
// A script leaves the LUN as the others expect it.
func TestSocket(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a target")
	}
	target := linktest.Serve(t, testbed.Options{ISCSI: map[string]any{"error_recovery_level": 2}})
	for _, call := range [][]string{
		{"iscsi_create_auth_group", "tag=1", `secrets=[{"user":"` + chapUser + `","secret":"` + chapSecret + `","muser":"target","msecret":"` + ourSecret + `"}]`},
		{"bdev_null_create", "name=chap", "num_blocks=1024", "block_size=512"},
		{"iscsi_create_target_node", "name=" + chapNode, "alias_name=chap", "queue_depth=16", "require_chap=true", "chap_group=1",
			`luns=[{"lun_id":0,"bdev_name":"chap"}]`, `pg_ig_maps=[{"pg_tag":1,"ig_tag":1}]`},
	} {
		if _, err := target.RPC(t.Context(), call...); err != nil {
			t.Fatal(err)
		}
	}
	p := &dialogue.Player{
		Dial: func() (dialogue.Link, error) { return linktest.DialSocket(target.Addr(), 5*time.Second) }, Wait: time.Sleep,
		Vars: map[string]string{"target": testbed.IQN, "initiator": iscsitest.Initiator, "lun": "0", "portal": target.Addr(), "erl": "2",
			"chapnode": chapNode, "chapuser": chapUser, "chapsecret": chapSecret},
	}
	for _, s := range load(t) {
		if slices.Contains(s.Needs, "virtual") {
			continue // only where waiting costs nothing
		}
		t.Run(s.Name, func(t *testing.T) {
			if err := p.Play(s); err != nil {
				t.Fatal(err)
			}
		})
	}
}
