package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"spindle/bdev"
	"spindle/iscsi"
)

// ErrEmpty is returned for saving an empty configuration over one that is not.
var ErrEmpty = errors.New("refusing to overwrite a configuration with an empty one")

// SubsystemInfo names a part of the configuration and what it builds on.
type SubsystemInfo struct {
	Name  string   `json:"subsystem"`
	Needs []string `json:"depends_on"`
}

// Subsystems are the parts of the configuration, in the order they are saved
// and loaded in.
var Subsystems = []SubsystemInfo{
	{"bdev", []string{}},
	{"scsi", []string{"bdev"}},
	{"iscsi", []string{"scsi"}},
}

// Save returns the calls that make the configuration again, by subsystem.
func (c *Control) Save() []Subsystem {
	var out []Subsystem
	for _, s := range Subsystems {
		calls, _ := c.SaveSubsystem(s.Name)
		out = append(out, Subsystem{s.Name, calls})
	}
	return out
}

// SaveSubsystem returns the calls of one subsystem; nil when it has none.
func (c *Control) SaveSubsystem(name string) ([]Call, error) {
	switch name {
	case "bdev":
		return c.saveBdevs(), nil
	case "scsi":
		return nil, nil
	case "iscsi":
		return c.saveISCSI(), nil
	}
	return nil, refuse(syscall.EINVAL, "Subsystem '%s' not found", name)
}

// saveBdevs emits bdevs in the order they were made, so that bases come before
// what stands on them, each followed by its limits.
func (c *Control) saveBdevs() []Call {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var calls []Call
	for _, b := range c.bdevs {
		calls = append(calls, b.call)
		if l := b.Limits(); l != (bdev.Limits{}) {
			calls = append(calls, Call{"bdev_set_qos_limit", append(Obj{{"name", b.Name()}}, LimitParams(l)...)})
		}
	}
	return append(calls, Call{Method: "bdev_wait_for_examine"})
}

// LimitParams are QoS limits under their RPC names.
func LimitParams(l bdev.Limits) Obj {
	return Obj{{"rw_ios_per_sec", l.RWIOsPerSec}, {"rw_mbytes_per_sec", l.RWMBPerSec},
		{"r_mbytes_per_sec", l.RMBPerSec}, {"w_mbytes_per_sec", l.WMBPerSec}}
}

// saveISCSI emits options, auth groups, portal groups, initiator groups and nodes, in the
// order in which they need each other.
func (c *Control) saveISCSI() []Call {
	calls := []Call{{"iscsi_set_options", OptionParams(c.Options())}}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, g := range c.auth {
		calls = append(calls, Call{"iscsi_create_auth_group", AuthParams(g)})
	}
	for _, g := range c.portal {
		p := Obj{{"tag", g.Tag}, {"portals", g.Portals}, {"private", g.Private}}
		if g.Wait {
			p = append(p, Member{"wait", true})
		}
		calls = append(calls, Call{"iscsi_create_portal_group", p})
	}
	for _, g := range c.init {
		calls = append(calls, Call{"iscsi_create_initiator_group", InitiatorParams(g)})
	}
	for _, n := range c.nodes {
		calls = append(calls, Call{"iscsi_create_target_node", NodeParams(n)})
	}
	return calls
}

// OptionParams are the engine's options under their RPC names.
func OptionParams(o iscsi.Options) Obj {
	return Obj{
		{"node_base", o.NodeBase},
		{"max_sessions", o.MaxSessions},
		{"max_connections_per_session", o.MaxConnsPerSession},
		{"max_queue_depth", o.MaxQueueDepth},
		{"default_time2wait", o.DefaultTime2Wait},
		{"default_time2retain", o.DefaultTime2Retain},
		{"first_burst_length", o.FirstBurstLength},
		{"immediate_data", o.ImmediateData},
		{"allow_duplicated_isid", o.AllowDuplicatedISID},
		{"error_recovery_level", o.ErrorRecoveryLevel},
		{"nop_timeout", o.NopTimeout},
		{"nop_in_interval", o.NopInInterval},
		{"disable_chap", o.DisableCHAP},
		{"require_chap", o.RequireCHAP},
		{"mutual_chap", o.MutualCHAP},
		{"chap_group", o.CHAPGroup},
		{"max_large_datain_per_connection", o.MaxLargeDataIn},
		{"max_r2t_per_connection", o.MaxR2TPerConnection},
		{"pdu_pool_size", o.PDUPoolSize},
		{"immediate_data_pool_size", o.ImmediateDataPool},
		{"data_out_pool_size", o.DataOutPool},
	}
}

// AuthParams are a group of secrets under its RPC names.
func AuthParams(g iscsi.AuthGroup) Obj {
	secrets := []Obj{}
	for _, s := range g.Secrets {
		o := Obj{{"user", s.User}, {"secret", s.Secret}}
		if s.MUser != "" {
			o = append(o, Member{"muser", s.MUser}, Member{"msecret", s.MSecret})
		}
		secrets = append(secrets, o)
	}
	return Obj{{"tag", g.Tag}, {"secrets", secrets}}
}

// InitiatorParams are an initiator group under its RPC names.
func InitiatorParams(g iscsi.InitiatorGroup) Obj {
	return Obj{{"tag", g.Tag}, {"initiators", list(g.Initiators)}, {"netmasks", list(g.Netmasks)}}
}

// list keeps an empty list from becoming null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// NodeParams are a target node under its RPC names.
func NodeParams(n Node) Obj {
	o := Obj{{"name", n.Name}, {"alias_name", n.Alias}}
	maps, luns := []Obj{}, []Obj{}
	for _, m := range n.Maps {
		p := Obj{{"pg_tag", m.PortalTag}, {"ig_tag", m.InitiatorTag}}
		if m.LUNs != nil {
			seen := []Obj{}
			for _, id := range m.LUNs {
				seen = append(seen, Obj{{"lun_id", id}})
			}
			p = append(p, Member{"luns", seen})
		}
		maps = append(maps, p)
	}
	for _, l := range n.LUNs {
		luns = append(luns, Obj{{"bdev_name", l.Bdev.Name()}, {"lun_id", l.ID}})
	}
	return append(o, Obj{
		{"pg_ig_maps", maps},
		{"luns", luns},
		{"queue_depth", n.QueueDepth},
		{"disable_chap", n.DisableCHAP},
		{"require_chap", n.RequireCHAP},
		{"mutual_chap", n.MutualCHAP},
		{"chap_group", n.CHAPGroup},
		{"header_digest", n.HeaderDigest},
		{"data_digest", n.DataDigest},
	}...)
}

// Empty tells whether nothing is configured.
func (c *Control) Empty() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.bdevs)+len(c.portal)+len(c.init)+len(c.nodes)+len(c.auth) == 0
}

// SaveFile writes the configuration to a file that only its owner may read. The
// file is replaced as a whole, or not at all; an empty configuration replaces
// nothing, because that is how configurations get lost.
func (c *Control) SaveFile(path string) error {
	if c.Empty() {
		if i, err := os.Stat(path); err == nil && i.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s", ErrEmpty, path)
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(struct {
		Subsystems []Subsystem `json:"subsystems"`
	}{c.Save()}); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	var err error
	c.Caller.Block(func() { err = replace(path, b.Bytes()) })
	return err
}

// replace writes a file beside path, makes it durable, and renames it.
func replace(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = fmt.Errorf("save configuration: %w", err)
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
