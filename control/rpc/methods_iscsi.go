package rpc

import (
	"errors"
	"slices"

	"spindle/control"
	"spindle/iscsi"
	"spindle/scsi"
)

// maxTag bounds the tags of groups: a TargetPortalGroupTag is 16 bits (RFC 7143
// §13.9) and SPDK's tags start at 1.
const maxTag = 1<<16 - 1

func tag(name, doc string) Param {
	return Param{Name: name, Type: Int32, Required: true, Min: 1, Max: maxTag, Doc: doc}
}

func iscsiMethods() []Method {
	return slices.Concat(optionMethods(), groupMethods(), authMethods(), watchMethods())
}

// noPool is what the sizes of SPDK's pools mean here.
const noPool = "kept and told again, no limit here: there are no such pools, --mem is all the memory there is for data"

func optionMethods() []Method {
	number := func(name string, lo, hi int64, doc string) Param {
		return Param{Name: name, Type: Uint32, Min: lo, Max: hi, Doc: doc}
	}
	return []Method{
		{
			Name: "iscsi_set_options", Aliases: []string{"set_iscsi_options"}, State: Startup,
			Params: slices.Concat(one(
				Param{Name: "auth_file", Type: String, Doc: "refused: make groups with iscsi_create_auth_group"},
				Param{Name: "node_base", Type: String, Doc: "prefix of node names given without iqn., eui. or naa."},
				number("nop_timeout", 0, 1<<31-1, "seconds a NOP-In may stay unanswered; 0 is for ever"),
				number("nop_in_interval", 0, 60, "seconds between NOP-Ins to a silent initiator; 0 sends none"),
			), chapParams, one(
				number("max_sessions", 1, 65535, "sessions"),
				number("max_queue_depth", 1, 256, "commands a session may have outstanding"),
				number("max_connections_per_session", 1, 65535, "connections a session may have over TCP (MaxConnections); over iSER it has one"),
				number("default_time2wait", 0, 3600, "seconds"),
				number("default_time2retain", 0, 3600, "seconds"),
				number("first_burst_length", 512, 1<<24-1, "bytes: FirstBurstLength"),
				Param{Name: "immediate_data", Type: Bool, Doc: "ImmediateData"},
				number("error_recovery_level", 0, 2, "highest ErrorRecoveryLevel over TCP; over iSER it is 0"),
				Param{Name: "allow_duplicated_isid", Type: Bool, Doc: "do not reinstate sessions"},
				number("max_large_datain_per_connection", 1, 1<<31-1, "kept and told again, no limit here: a connection's reads are bounded by max_queue_depth and the data buffers (--mem)"),
				number("max_r2t_per_connection", 1, 1<<31-1, "kept and told again, no limit here: a command's R2Ts are bounded by MaxOutstandingR2T, commands by max_queue_depth"),
				number("pdu_pool_size", 1, 1<<31-1, noPool),
				number("immediate_data_pool_size", 1, 1<<31-1, noPool),
				number("data_out_pool_size", 1, 1<<31-1, noPool),
			), LimitParams),
			Result: "true", Doc: "Set the engine's options, before framework_start_init.",
			Hint: "start the target with --wait-for-rpc, set options, then call framework_start_init; or put it into the --config file",
			bad:  invalidParams, fails: invalidParams, run: setOptions,
		},
		{
			Name: "iscsi_get_options", Aliases: []string{"get_iscsi_global_params"}, State: Runtime,
			Result: "the parameters of iscsi_set_options", Doc: "Tell the engine's options.",
			run: func(r *request) (any, error) { return control.OptionParams(r.ctl.Options()), nil },
		},
	}
}

// LimitParams are the settings that bound what initiators may have and do. SPDK has none of them; 0
// is no limit where it is allowed.
var LimitParams = []Param{
	{Name: "login_timeout", Type: Uint32, Min: 1, Max: 3600, Doc: "seconds from accept to full feature phase"},
	{Name: "max_pending_logins", Type: Uint32, Min: 1, Max: 1 << 16, Doc: "logins in progress on a reactor; the oldest goes"},
	{Name: "max_pending_logins_per_address", Type: Uint32, Max: 1 << 16, Doc: "logins in progress from an address (of IPv6, a /64)"},
	{Name: "max_logins_per_second", Type: Uint32, Max: 1 << 20, Doc: "connections an address may make a second, four seconds' worth at once"},
	{Name: "chap_backoff", Type: Uint32, Max: 3600, Doc: "seconds an address waits at most that fails CHAP again and again"},
	{Name: "max_connections_per_address", Type: Uint32, Max: 1 << 20, Doc: "connections from an address"},
	{Name: "max_sessions_per_node", Type: Uint32, Max: 65535, Doc: "sessions of a target node"},
	{Name: "reserved_sessions", Type: Uint32, Max: 65535, Doc: "of max_sessions, for initiators that have authenticated; at most half"},
	{Name: "send_timeout", Type: Uint32, Max: 3600, Doc: "seconds that an initiator may take nothing of what is sent to it"},
	{Name: "max_text_rounds", Type: Uint32, Max: 1 << 16, Doc: "Login Requests of a login, Text Requests of an exchange; 0 is 64"},
	{Name: "max_retained_data", Type: Uint32, Max: 1<<31 - 1, Doc: "bytes of data that a session of ErrorRecoveryLevel 1 or 2 keeps to be sent again: what was read, and echoes"},
	{Name: "max_snack_replays", Type: Uint32, Max: 1 << 16, Doc: "times an answer may be sent again; then SNACK is refused"},
	{Name: "max_registrants", Type: Uint32, Min: 1, Max: scsi.MaxRegistrants, Doc: "registrants a logical unit may have (persistent reservations)"},
	{Name: "max_buffer_waiters", Type: Uint32, Max: 1 << 20, Doc: "commands of a reactor that wait for a data buffer; beyond is TASK SET FULL"},
}

var errNoAuthFile = errors.New("files of secrets are not read; make groups with iscsi_create_auth_group")

func setOptions(r *request) (any, error) {
	if r.Has("auth_file") {
		return nil, invalidParams.because(errNoAuthFile)
	}
	return true, r.ctl.SetOptions(func(o *iscsi.Options) {
		for name, to := range map[string]*uint32{
			"nop_timeout": &o.NopTimeout, "nop_in_interval": &o.NopInInterval, "max_sessions": &o.MaxSessions,
			"max_queue_depth": &o.MaxQueueDepth, "max_connections_per_session": &o.MaxConnsPerSession,
			"default_time2wait": &o.DefaultTime2Wait, "default_time2retain": &o.DefaultTime2Retain,
			"first_burst_length": &o.FirstBurstLength, "error_recovery_level": &o.ErrorRecoveryLevel,
			"max_large_datain_per_connection": &o.MaxLargeDataIn, "max_r2t_per_connection": &o.MaxR2TPerConnection,
			"login_timeout": &o.LoginTimeout, "max_pending_logins": &o.MaxPendingLogins,
			"max_pending_logins_per_address": &o.MaxPendingPerAddress, "max_logins_per_second": &o.MaxLoginsPerSecond,
			"chap_backoff": &o.CHAPBackoff, "max_connections_per_address": &o.MaxConnsPerAddress,
			"max_sessions_per_node": &o.MaxSessionsPerNode, "reserved_sessions": &o.ReservedSessions,
			"send_timeout": &o.SendTimeout, "max_text_rounds": &o.MaxTextRounds, "max_buffer_waiters": &o.MaxBufferWaiters,
			"max_registrants":   &o.MaxRegistrants,
			"max_retained_data": &o.MaxRetainedData, "max_snack_replays": &o.MaxSNACKReplays,
			"pdu_pool_size": &o.PDUPoolSize, "immediate_data_pool_size": &o.ImmediateDataPool, "data_out_pool_size": &o.DataOutPool,
		} {
			if r.Has(name) {
				*to = uint32(r.Uint(name))
			}
		}
		for name, to := range map[string]*bool{
			"disable_chap": &o.DisableCHAP, "require_chap": &o.RequireCHAP, "mutual_chap": &o.MutualCHAP,
			"immediate_data": &o.ImmediateData, "allow_duplicated_isid": &o.AllowDuplicatedISID,
		} {
			if r.Has(name) {
				*to = r.Bool(name)
			}
		}
		if r.Has("chap_group") {
			o.CHAPGroup = int32(r.Int("chap_group"))
		}
		if r.Has("node_base") {
			o.NodeBase = r.String("node_base")
		}
	})
}

func groupMethods() []Method {
	portals := Param{Name: "portals", Type: Objects, Required: true, MaxItems: control.MaxPortals, Doc: "addresses to listen on", Fields: []Param{
		{Name: "host", Type: String, Required: true, Doc: "IPv4 or IPv6 address"},
		{Name: "port", Type: String, Doc: "a string; 3260 when not given, \"0\" lets the kernel choose"},
		{Name: "iser", Type: Bool, Doc: "serve the address over iSER (RDMA) too, as soon as an RDMA device does; \"spindle rdma\" tells what is missing"},
	}}
	lists := func(required bool) []Param {
		return []Param{
			{Name: "initiators", Type: Strings, Required: required, MaxItems: control.MaxInitiators, Doc: `names, "ANY", or "!name" to refuse`},
			{Name: "netmasks", Type: Strings, Required: required, MaxItems: control.MaxInitiators, Doc: `addresses, CIDR blocks, or "ANY"`},
		}
	}
	group := func(r *request) iscsi.InitiatorGroup {
		return iscsi.InitiatorGroup{Tag: uint16(r.Int("tag")), Initiators: r.Strings("initiators"), Netmasks: r.Strings("netmasks")}
	}
	edit := func(remove bool) func(*request) (any, error) {
		return func(r *request) (any, error) { return true, r.ctl.EditInitiatorGroup(group(r), remove) }
	}
	const (
		portalHint    = `"spindle rpc iscsi_get_portal_groups" lists them; ports below 1024 need root or CAP_NET_BIND_SERVICE`
		initiatorHint = `"spindle rpc iscsi_get_initiator_groups" lists them`
	)
	onTag := func(f func(*control.Control, uint16) error) func(*request) (any, error) {
		return func(r *request) (any, error) { return true, f(r.ctl, uint16(r.Int("tag"))) }
	}
	return []Method{
		{
			Name: "iscsi_create_portal_group", Aliases: []string{"add_portal_group"}, State: Runtime,
			Params: one(tag("tag", "number of the group"), portals,
				Param{Name: "private", Type: Bool, Doc: "not told by discovery"},
				Param{Name: "wait", Type: Bool, Doc: "do not listen until iscsi_start_portal_group"}),
			Result: "true", Doc: "Listen on a set of addresses.", Hint: portalHint, bad: invalidParams, fails: invalidParams, run: createPortalGroup,
		},
		{
			Name: "iscsi_start_portal_group", State: Runtime, Params: one(tag("tag", "group")), Result: "true",
			Doc: "Listen on a group that was made to wait.", Hint: portalHint, bad: invalidParams, fails: invalidParams,
			run: onTag((*control.Control).StartPortalGroup),
		},
		{
			Name: "iscsi_portal_group_set_auth", Aliases: []string{"set_iscsi_portal_group_auth"}, State: Runtime,
			Params: append(one(tag("tag", "group")), chapParams...), Result: "true",
			Doc: "Choose who must authenticate for discovery by this group, whatever iscsi_set_discovery_auth says.", Hint: portalHint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) {
				return true, r.ctl.SetPortalGroupAuth(uint16(r.Int("tag")), auth(r.Args))
			},
		},
		{
			Name: "iscsi_delete_portal_group", Aliases: []string{"delete_portal_group"}, State: Runtime, Params: one(tag("tag", "group")), Result: "true",
			Doc: "Stop listening; nodes lose the maps that name the group.", Hint: portalHint, bad: invalidParams, fails: invalidParams,
			run: onTag((*control.Control).DeletePortalGroup),
		},
		{
			Name: "iscsi_portal_group_set_iser", State: Runtime,
			Params: one(tag("tag", "group"), Param{Name: "enable", Type: Bool, Required: true, Doc: "serve over iSER beside TCP, or no longer"},
				Param{Name: "host", Type: String, Doc: "address of the one portal that is meant; all of the group when not given"},
				Param{Name: "port", Type: String, Doc: "its port; 3260 when not given"}),
			Result: "array of the group's portals, as in iscsi_get_portal_groups",
			Doc:    "Switch iSER on or off while portals are in use: what came by iSER ends when it is switched off, TCP is left alone.",
			Hint:   `"spindle rdma" tells what RDMA lacks on this machine`, bad: invalidParams, fails: invalidParams, run: setISER,
		},
		{
			Name: "iscsi_get_portal_groups", Aliases: []string{"get_portal_groups"}, State: Runtime,
			Result: "array of {tag, portals: [{host, port}], private}; a portal with iSER has iser and iser_state: \"serving\", or what it waits for",
			Doc:    "List the portal groups.", run: getPortalGroups,
		},
		{
			Name: "iscsi_create_initiator_group", Aliases: []string{"add_initiator_group"}, State: Runtime,
			Params: append(one(tag("tag", "number of the group")), lists(true)...),
			Result: "true", Doc: "Make an access list.", Hint: initiatorHint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) { return true, r.ctl.CreateInitiatorGroup(group(r)) },
		},
		{
			Name: "iscsi_initiator_group_add_initiators", Aliases: []string{"add_initiators_to_initiator_group"}, State: Runtime,
			Params: append(one(tag("tag", "group")), lists(false)...),
			Result: "true", Doc: "Let more initiators in.", Hint: initiatorHint, bad: invalidParams, fails: invalidParams, run: edit(false),
		},
		{
			Name: "iscsi_initiator_group_remove_initiators", Aliases: []string{"delete_initiators_from_initiator_group"}, State: Runtime,
			Params: append(one(tag("tag", "group")), lists(false)...),
			Result: "true", Doc: "Let fewer initiators in, from their next login on.", Hint: initiatorHint, bad: invalidParams, fails: invalidParams, run: edit(true),
		},
		{
			Name: "iscsi_delete_initiator_group", Aliases: []string{"delete_initiator_group"}, State: Runtime, Params: one(tag("tag", "group")), Result: "true",
			Doc: "Delete an access list; nodes lose the maps that name it.", Hint: initiatorHint, bad: invalidParams, fails: invalidParams,
			run: onTag((*control.Control).DeleteInitiatorGroup),
		},
		{
			Name: "iscsi_get_initiator_groups", Aliases: []string{"get_initiator_groups"}, State: Runtime,
			Result: "array of {tag, initiators, netmasks}", Doc: "List the access lists.",
			run: func(r *request) (any, error) {
				list := []control.Obj{}
				for _, g := range r.ctl.InitiatorGroups() {
					list = append(list, control.InitiatorParams(g))
				}
				return list, nil
			},
		},
	}
}

func createPortalGroup(r *request) (any, error) {
	g := control.PortalGroup{Tag: uint16(r.Int("tag")), Private: r.Bool("private"), Wait: r.Bool("wait")}
	for _, p := range r.Objects("portals") {
		portal := control.Portal{Host: p.String("host"), Port: p.String("port"), ISER: p.Bool("iser")}
		if !p.Has("port") {
			portal.Port = "3260"
		}
		g.Portals = append(g.Portals, portal)
	}
	return true, r.ctl.CreatePortalGroup(g)
}

func getPortalGroups(r *request) (any, error) {
	list := []obj{}
	for _, g := range r.ctl.PortalGroups() {
		list = append(list, obj{{"tag", g.Tag}, {"portals", portalList(g.Portals)}, {"private", g.Private}})
	}
	return list, nil
}

// portalList shows portals as SPDK does, and those with iSER with its state.
func portalList(portals []control.Portal) []obj {
	list := []obj{}
	for _, p := range portals {
		o := obj{{"host", p.Host}, {"port", p.Port}}
		if p.ISER {
			state := "serving"
			if p.Waits != "" {
				state = p.Waits
			}
			o = append(o, member{"iser", true}, member{"iser_state", state})
		}
		list = append(list, o)
	}
	return list
}

func setISER(r *request) (any, error) {
	tag := uint16(r.Int("tag"))
	if err := r.ctl.SetISER(tag, control.Portal{Host: r.String("host"), Port: r.String("port")}, r.Bool("enable")); err != nil {
		return nil, err
	}
	for _, g := range r.ctl.PortalGroups() {
		if g.Tag == tag {
			return portalList(g.Portals), nil
		}
	}
	return []obj{}, nil
}
