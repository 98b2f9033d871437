package control

import (
	"errors"
	"slices"
	"strconv"
	"syscall"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/scsi"
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

// SaveOptions qualify what is saved.
type SaveOptions struct {
	// Secrets has the CHAP secrets told. Without it auth groups are saved without
	// their users: loaded, they let nobody in.
	Secrets bool
}

// Save returns the calls that make the configuration again, by subsystem, but
// for secrets.
func (c *Control) Save() []Subsystem { return c.SaveWith(SaveOptions{}) }

// SaveWith is Save with options.
func (c *Control) SaveWith(o SaveOptions) []Subsystem { return c.save(o).subsystems }

// saved is the configuration of one moment.
type saved struct {
	subsystems []Subsystem
	omits      bool // something that is configured
	empty      bool // nothing is configured
}

func (c *Control) save(o SaveOptions) saved {
	options := c.Options()
	// All of it at once: a node that is made meanwhile may be on a bdev that is.
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := saved{omits: c.omits(o), empty: len(c.bdevs)+len(c.portal.list)+len(c.init.list)+len(c.nodes)+len(c.auth.list) == 0}
	for _, s := range Subsystems {
		calls, _ := c.saveSubsystem(s.Name, o, options)
		out.subsystems = append(out.subsystems, Subsystem{s.Name, calls})
	}
	return out
}

// Omits tells whether something that is configured is not saved with o.
func (c *Control) Omits(o SaveOptions) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.omits(o)
}

// omits is Omits. Preconditions: mu is held.
func (c *Control) omits(o SaveOptions) bool {
	return !o.Secrets && slices.ContainsFunc(c.auth.list, func(g iscsi.AuthGroup) bool { return len(g.Secrets) > 0 })
}

// SaveSubsystem returns the calls of one subsystem; nil when it has none.
func (c *Control) SaveSubsystem(name string, o SaveOptions) ([]Call, error) {
	options := c.Options()
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.saveSubsystem(name, o, options)
}

// saveSubsystem is SaveSubsystem. Preconditions: mu is held.
func (c *Control) saveSubsystem(name string, o SaveOptions, options iscsi.Options) ([]Call, error) {
	switch name {
	case "bdev":
		return c.saveBdevs(), nil
	case "scsi":
		return nil, nil
	case "iscsi":
		return c.saveISCSI(o, options), nil
	}
	return nil, refuse(syscall.EINVAL, "Subsystem '%s' not found", name)
}

// saveBdevs emits bdevs in the order they were made, so that bases come before
// what stands on them, each followed by its limits. Preconditions: mu is held.
func (c *Control) saveBdevs() []Call {
	var calls []Call
	for _, b := range c.bdevs {
		calls = append(calls, b.remake()...)
		if l := b.Limits(); l != (bdev.Limits{}) {
			calls = append(calls, Call{"bdev_set_qos_limit", append(Obj{{"name", b.Name()}}, LimitParams(l)...)})
		}
	}
	return append(calls, Call{Method: "bdev_wait_for_examine"})
}

// remake are the calls that make b again. The latencies of a delay bdev, changed
// one by one, may have become what bdev_delay_create refuses.
func (b *Bdev) remake() []Call {
	calls := []Call{b.call}
	if b.kind != kindDelay {
		return calls
	}
	for _, way := range []string{"read", "write"} {
		avg, _ := b.call.Params.Get("avg_" + way + "_latency").(int64)
		p99, _ := b.call.Params.Get("p99_" + way + "_latency").(int64)
		if avg > p99 {
			calls[0].Params = calls[0].Params.set("p99_"+way+"_latency", avg)
			calls = append(calls, Call{"bdev_delay_update_latency", Obj{{"delay_bdev_name", b.Name()}, {"latency_type", "p99_" + way}, {"latency_us", p99}}})
		}
	}
	return calls
}

// LimitParams are QoS limits under their RPC names.
func LimitParams(l bdev.Limits) Obj {
	return Obj{{"rw_ios_per_sec", l.RWIOsPerSec}, {"rw_mbytes_per_sec", l.RWMBPerSec},
		{"r_mbytes_per_sec", l.RMBPerSec}, {"w_mbytes_per_sec", l.WMBPerSec}}
}

// saveISCSI emits options, auth groups, portal groups, initiator groups and nodes, in the
// order in which they need each other. Preconditions: mu is held.
func (c *Control) saveISCSI(o SaveOptions, options iscsi.Options) []Call {
	calls := []Call{{"iscsi_set_options", OptionParams(options)}}
	for _, g := range c.auth.list {
		if !o.Secrets {
			g.Secrets = nil
		}
		calls = append(calls, Call{"iscsi_create_auth_group", AuthParams(g, true)})
	}
	for _, g := range c.portal.list {
		p := Obj{{"tag", g.Tag}, {"portals", g.Portals}, {"private", g.Private}}
		if g.Wait {
			p = append(p, Member{"wait", true})
		}
		calls = append(calls, Call{"iscsi_create_portal_group", p})
		if a := g.Auth; a != nil {
			calls = append(calls, Call{"iscsi_portal_group_set_auth", append(Obj{{"tag", g.Tag}}, chapMembers(*a)...)})
		}
	}
	for _, g := range c.init.list {
		calls = append(calls, Call{"iscsi_create_initiator_group", InitiatorParams(g)})
	}
	for _, n := range c.nodes {
		given := n
		given.LUNs = n.LUNs[:min(len(n.LUNs), MaxLUNsGiven)]
		calls = append(calls, Call{"iscsi_create_target_node", NodeParams(given)})
		for _, l := range n.LUNs[len(given.LUNs):] {
			calls = append(calls, Call{"iscsi_target_node_add_lun", append(Obj{{"name", n.Name}}, lunParams(l)...)})
		}
		for _, r := range n.Redirects {
			calls = append(calls, Call{"iscsi_target_node_set_redirect", Obj{{"name", n.Name}, {"pg_tag", r.PortalTag},
				{"redirect_host", r.Addr.Addr().String()}, {"redirect_port", strconv.Itoa(int(r.Addr.Port()))}}})
		}
		// What initiators set is the initiators' and is not kept.
		groups, _ := c.Engine.PortGroupStates(wireName(n.Name)) // a node that is being deleted has none
		for _, g := range groups {
			if g.State != scsi.PortOptimized {
				calls = append(calls, Call{"iscsi_target_node_set_alua_state", Obj{{"name", n.Name}, {"pg_tag", g.Tag}, {"alua_state", g.State.String()}}})
			}
		}
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
		{"login_timeout", o.LoginTimeout},
		{"max_pending_logins", o.MaxPendingLogins},
		{"max_pending_logins_per_address", o.MaxPendingPerAddress},
		{"max_logins_per_second", o.MaxLoginsPerSecond},
		{"chap_backoff", o.CHAPBackoff},
		{"max_connections_per_address", o.MaxConnsPerAddress},
		{"max_sessions_per_node", o.MaxSessionsPerNode},
		{"reserved_sessions", o.ReservedSessions},
		{"send_timeout", o.SendTimeout},
		{"max_text_rounds", o.MaxTextRounds},
		{"max_registrants", o.MaxRegistrants},
		{"max_buffer_waiters", o.MaxBufferWaiters},
		{"max_retained_data", o.MaxRetainedData},
		{"max_snack_replays", o.MaxSNACKReplays},
	}
}

func chapMembers(a Auth) Obj {
	return Obj{{"disable_chap", a.Disable}, {"require_chap", a.Require}, {"mutual_chap", a.Mutual}, {"chap_group", a.Group}}
}

// AuthParams are a group of secrets under its RPC names; without the secrets,
// those of its users.
func AuthParams(g iscsi.AuthGroup, secret bool) Obj {
	secrets := []Obj{}
	for _, s := range g.Secrets {
		o := Obj{{"user", s.User}}
		if secret {
			o = append(o, Member{"secret", s.Secret})
		}
		if s.MUser != "" {
			o = append(o, Member{"muser", s.MUser})
		}
		if s.MUser != "" && secret {
			o = append(o, Member{"msecret", s.MSecret})
		}
		if len(s.Initiators) > 0 {
			o = append(o, Member{"initiators", s.Initiators})
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
		luns = append(luns, lunParams(l))
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

// lunParams are a LUN under its RPC names.
func lunParams(l iscsi.LUN) Obj {
	lun := Obj{{"bdev_name", l.Bdev.Name()}, {"lun_id", l.ID}}
	if l.ReadOnly {
		lun = append(lun, Member{"read_only", true})
	}
	if l.Removable {
		lun = append(lun, Member{"removable", true})
	}
	if l.Thick {
		lun = append(lun, Member{"thick", true})
	}
	return lun
}

// Empty tells whether nothing is configured.
func (c *Control) Empty() bool { return c.save(SaveOptions{}).empty }
