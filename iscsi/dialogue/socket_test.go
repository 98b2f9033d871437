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

// successor is a login of nobody that would replace the session of a user who
// could log in again: refused, and that session is asked whether its peer lives.
const successor = `
conn old
> login csg=0
	InitiatorName=$initiator
	TargetName=$target
	SessionType=Normal
	AuthMethod=CHAP
< login-response csg=0 nsg=0 status=0
	...
> login csg=0
	CHAP_A=5
< login-response csg=0 nsg=0 status=0
	CHAP_A=5
	CHAP_I=?chap_i
	CHAP_C=?chap_c
> login T csg=0 nsg=1
	CHAP_N=$chapuser
	CHAP_R=chap($chapsecret)
< login-response T csg=0 nsg=1 status=0
> login T csg=1 nsg=3
< login-response T csg=1 nsg=3 status=0
	...
conn new
> login T csg=1 nsg=3
	InitiatorName=$initiator
	TargetName=$target
	SessionType=Normal
< login-response status=0x0202
	none
expect-close silent
conn old
< nop-in F itt=0xffffffff ttt=!0xffffffff
`

// TestSocketSuccessor: with keepalive off, a session whose peer says nothing any
// more keeps another user out for no longer than nop_timeout; one whose peer
// answers goes on.
func TestSocketSuccessor(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a target")
	}
	target := linktest.Serve(t, testbed.Options{ISCSI: map[string]any{"nop_in_interval": 0, "nop_timeout": 1}})
	for _, call := range [][]string{
		{"iscsi_create_auth_group", "tag=1", `secrets=[{"user":"` + chapUser + `","secret":"` + chapSecret + `"}]`},
		{"iscsi_target_node_set_auth", "name=" + testbed.IQN, "chap_group=1"},
	} {
		if _, err := target.RPC(t.Context(), call...); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ name, rest string }{
		{"vanished", "expect-close silent\nconn again\nlogin\nready\nlogout\n"},
		{"lives", "> nop-out I F itt=0xffffffff ttt=0\nwait 1500ms\nready\nalive\nlogout\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := dialogue.Parse(tc.name, successor+tc.rest)
			if err != nil {
				t.Fatal(err)
			}
			p := &dialogue.Player{
				Dial: func() (dialogue.Link, error) { return linktest.DialSocket(target.Addr(), 5*time.Second) }, Wait: time.Sleep,
				Vars: map[string]string{"target": testbed.IQN, "initiator": iscsitest.Initiator, "lun": "0", "chapuser": chapUser, "chapsecret": chapSecret},
			}
			if err := p.Play(s); err != nil {
				t.Fatal(err)
			}
		})
	}
}
