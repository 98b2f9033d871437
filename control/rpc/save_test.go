package rpc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spindle/control"
	"spindle/control/controltest"
	"spindle/control/rpc"
	"spindle/iscsi"
)

// TestSavedLoads: what was made in ways that the call which makes an object does not
// allow, or by another name, is saved as something that loads to the same.
func TestSavedLoads(t *testing.T) {
	const base = `{"method":"bdev_null_create","params":{"name":"N","num_blocks":100,"block_size":4096,"uuid":"8a9d8c5e-8a45-4f43-9a2e-0a6a4b7e1d11"}}`
	groups := `{"method":"iscsi_create_portal_group","params":{"tag":1,"portals":[{"host":"127.0.0.1","port":"0"}]}},
	 {"method":"iscsi_create_initiator_group","params":{"tag":1,"initiators":["ANY"],"netmasks":["ANY"]}},
	 {"method":"iscsi_create_target_node","params":{"name":"n","alias_name":"","pg_ig_maps":[{"pg_tag":1,"ig_tag":1}],"luns":[],"queue_depth":16}}`
	for k := range 70 {
		groups += fmt.Sprintf(`,{"method":"iscsi_target_node_add_lun","params":{"name":%q,"bdev_name":"N","lun_id":%d,"read_only":%v}}`, iscsi.Defaults().NodeBase+":n", 2*k, k%2 == 0)
	}
	for _, tt := range []struct{ name, bdevs, iscsi, want string }{
		{"more LUNs than a call may give", base, groups, `"lun_id":138`},
		{"averages above the 99th percentile", base + `,
		 {"method":"bdev_delay_create","params":{"name":"D","base_bdev_name":"N","avg_read_latency":1,"p99_read_latency":2,"avg_write_latency":3,"p99_write_latency":4}},
		 {"method":"bdev_delay_update_latency","params":{"delay_bdev_name":"D","latency_type":"avg_read","latency_us":77}},
		 {"method":"bdev_delay_update_latency","params":{"delay_bdev_name":"D","latency_type":"avg_write","latency_us":99}}`, "", `"latency_us":4`},
		{"an error bdev on a UUID", base + `,
		 {"method":"bdev_error_create","params":{"base_name":"8a9d8c5e-8a45-4f43-9a2e-0a6a4b7e1d11"}},
		 {"method":"bdev_passthru_create","params":{"name":"P","base_bdev_name":"EE_N"}}`, "", `"EE_N"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			load := func(config []byte) *control.Control {
				ctl, _ := controltest.New()
				if err := rpc.NewServer(ctl).Load(t.Context(), config, rpc.LoadOptions{}); err != nil {
					t.Fatal(err)
				}
				return ctl
			}
			saved := save(t, load([]byte(`{"subsystems":[{"subsystem":"bdev","config":[`+tt.bdevs+`]},{"subsystem":"iscsi","config":[`+tt.iscsi+`]}]}`)))
			if !bytes.Contains(saved, []byte(tt.want)) {
				t.Errorf("saved has no %s", tt.want)
			}
			if again := save(t, load(saved)); !bytes.Equal(saved, again) {
				t.Errorf("first\n%s\nsecond\n%s", saved, again)
			}
		})
	}
}

// meanwhile is an engine at which something happens when it is first asked for its
// options.
type meanwhile struct {
	control.Engine
	do func()
}

func (m *meanwhile) Options() iscsi.Options {
	if do := m.do; do != nil {
		m.do = nil
		do()
	}
	return m.Engine.Options()
}

// TestSaveIsOneState: a LUN that is made while the configuration is saved is not
// saved without its bdev.
func TestSaveIsOneState(t *testing.T) {
	ctl, engine := controltest.New()
	s := rpc.NewServer(ctl)
	load := func(bdevs, iscsi string) {
		t.Helper()
		if err := s.Load(t.Context(), []byte(`{"subsystems":[{"subsystem":"bdev","config":[`+bdevs+`]},{"subsystem":"iscsi","config":[`+iscsi+`]}]}`), rpc.LoadOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	load("", "")
	ctl.Engine = &meanwhile{engine, func() {
		load(`{"method":"bdev_null_create","params":{"name":"N","num_blocks":100,"block_size":4096}}`,
			`{"method":"iscsi_create_target_node","params":{"name":"n","alias_name":"","pg_ig_maps":[],"luns":[{"bdev_name":"N"}],"queue_depth":16}}`)
	}}
	saved, err := json.Marshal(ctl.Save())
	if err != nil {
		t.Fatal(err)
	}
	if text := string(saved); strings.Contains(text, "bdev_name") && !strings.Contains(text, "bdev_null_create") {
		t.Errorf("a LUN without its bdev: %s", saved)
	}
}

// TestSavedIsParameters: what save_config answers is what load_config takes, with
// what it says of secrets that it left out.
func TestSavedIsParameters(t *testing.T) {
	ctl, _ := controltest.New()
	if err := ctl.CreateAuthGroup(iscsi.AuthGroup{Tag: 7, Secrets: []iscsi.Secret{{User: "u", Secret: "twelve or more"}}}); err != nil {
		t.Fatal(err)
	}
	saved, err := json.Marshal(ctl.SaveObject(control.SaveOptions{}))
	if err != nil || !bytes.Contains(saved, []byte(`"omitted"`)) {
		t.Fatalf("nothing is left out: %s, %v", saved, err)
	}
	ctl, _ = controltest.New()
	s := &stream{in: bytes.NewReader(fmt.Appendf(nil, `{"id":1,"method":"load_config","params":%s}`, saved))}
	rpc.NewServer(ctl).ServeStream(s)
	if got := s.out.String(); !strings.Contains(got, `"result":true`) || len(ctl.AuthGroups()) != 1 {
		t.Errorf("%s, %d groups", got, len(ctl.AuthGroups()))
	}
}

// TestSaveEmptied: a configuration that is emptied while it is saved does not take
// the place of one that is not empty.
func TestSaveEmptied(t *testing.T) {
	ctl, engine := controltest.New()
	if err := ctl.CreateAuthGroup(iscsi.AuthGroup{Tag: 7}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "spindle.json")
	if err := ctl.SaveFile(path, control.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctl.Engine = &meanwhile{engine, func() {
		if err := ctl.DeleteAuthGroup(7); err != nil {
			t.Error(err)
		}
	}}
	if err := ctl.SaveFile(path, control.SaveOptions{}); !errors.Is(err, control.ErrEmpty) {
		t.Errorf("saved: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("%s, %v", after, err)
	}
}
