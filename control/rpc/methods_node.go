package rpc

import (
	"fmt"
	"slices"
	"syscall"

	"spindle/control"
	"spindle/iscsi"
	"spindle/scsi"
)

// lunParams are the options of a LUN. SPDK has none of them.
var lunParams = []Param{
	{Name: "read_only", Type: Bool, Doc: "refuse writes"},
	{Name: "removable", Type: Bool, Doc: "the medium can be ejected and loaded"},
	{Name: "thick", Type: Bool, Doc: "fully provisioned: hide that the bdev can unmap"},
}

var nodeName = Param{Name: "name", Type: String, Required: true, Doc: "full name of the node"}

const nodeHint = `"spindle rpc iscsi_get_target_nodes" lists the nodes with their full names`

func nodeMethods() []Method {
	const hint = nodeHint
	name := nodeName
	maps := Param{Name: "pg_ig_maps", Type: Objects, Required: true, MaxItems: control.MaxMaps, Doc: "who may come in where", Fields: []Param{
		tag("pg_tag", "portal group"), tag("ig_tag", "initiator group"),
		{Name: "luns", Type: Objects, MaxItems: control.MaxMaps, Doc: "only these LUNs are seen through the map; all when not given", Fields: []Param{
			{Name: "lun_id", Type: Int32, Required: true, Min: 0, Max: control.MaxLUN, Doc: "LUN"},
		}},
	}}
	return []Method{
		{
			Name: "iscsi_create_target_node", Aliases: []string{"construct_target_node"}, State: Runtime,
			Params: append(one(
				Param{Name: "name", Type: String, Required: true, Doc: "iSCSI name; without a type, node_base and a colon come before it"},
				Param{Name: "alias_name", Type: String, Required: true, Doc: "TargetAlias"},
				maps,
				Param{Name: "luns", Type: Objects, Required: true, MaxItems: control.MaxLUNsGiven, Doc: "what it serves", Fields: slices.Concat([]Param{
					{Name: "bdev_name", Type: String, Required: true, Doc: "bdev; LUNs that share one take no reservations, COMPARE AND WRITE, ORWRITE or WRITE ATOMIC"},
					{Name: "lun_id", Type: Int32, Doc: "LUN; the lowest free when not given or -1"},
				}, lunParams)},
				Param{Name: "queue_depth", Type: Int32, Required: true, Min: 1, Max: 256, Doc: "commands a session may have outstanding"},
				Param{Name: "header_digest", Type: Bool, Doc: "require CRC32C of headers"},
				Param{Name: "data_digest", Type: Bool, Doc: "require CRC32C of data"},
			), chapParams...),
			Result: "true", Doc: "Make a target node.", Hint: "bdevs, portal groups and initiator groups are made first",
			bad: invalidParams, fails: invalidParams, run: createNode,
		},
		{
			Name: "iscsi_delete_target_node", Aliases: []string{"delete_target_node"}, State: Runtime, Params: one(name), Result: "true",
			Doc: "Delete a target node: its sessions are logged out and their I/O drains.", Hint: hint, bad: invalidParams,
			run: func(r *request) (any, error) { return true, r.ctl.DeleteNode(r.String("name")) },
		},
		{
			Name: "iscsi_get_target_nodes", Aliases: []string{"get_target_nodes"}, State: Runtime,
			Result: "array of {name, alias_name, pg_ig_maps, luns, queue_depth, disable_chap, require_chap, mutual_chap, chap_group, header_digest, data_digest}",
			Doc:    "List the target nodes.",
			run: func(r *request) (any, error) {
				list := []control.Obj{}
				for _, n := range r.ctl.Nodes() {
					list = append(list, control.NodeParams(n))
				}
				return list, nil
			},
		},
		{
			Name: "iscsi_target_node_add_lun", Aliases: []string{"target_node_add_lun"}, State: Runtime,
			Params: slices.Concat(one(name, Param{Name: "bdev_name", Type: String, Required: true, Doc: "bdev; LUNs that share one take no reservations, COMPARE AND WRITE, ORWRITE or WRITE ATOMIC"},
				Param{Name: "lun_id", Type: Int32, Doc: "LUN; the lowest free when not given or -1"}), lunParams),
			Result: "true", Doc: "Add a LUN to a node, which may be in use.", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) {
				return true, r.ctl.AddLUN(r.String("name"), placement(r.Args))
			},
		},
		{
			Name: "iscsi_target_node_remove_lun", State: Runtime,
			Params: one(name, Param{Name: "lun_id", Type: Int32, Required: true, Min: 0, Max: control.MaxLUN, Doc: "LUN"}),
			Result: "true", Doc: "Take a LUN out of a node; its I/O drains. SPDK has no such method.", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) {
				return true, r.ctl.RemoveLUN(r.String("name"), int(r.Int("lun_id")))
			},
		},
		{
			Name: "iscsi_target_node_add_pg_ig_maps", Aliases: []string{"add_pg_ig_maps"}, State: Runtime, Params: one(name, maps),
			Result: "true", Doc: "Open a node to more portal and initiator groups.", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) { return onMaps(r, r.ctl.AddMaps) },
		},
		{
			Name: "iscsi_target_node_remove_pg_ig_maps", Aliases: []string{"delete_pg_ig_maps"}, State: Runtime, Params: one(name, maps),
			Result: "true", Doc: "Close a node to portal and initiator groups, from the next login on.", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) { return onMaps(r, r.ctl.RemoveMaps) },
		},
		{
			Name: "iscsi_target_node_request_logout", State: Runtime,
			Params: one(name, Param{Name: "pg_tag", Type: Int32, Min: -1, Max: maxTag, Doc: "only those that came by this portal group"}),
			Result: "true", Doc: "Ask a node's initiators to log out (Async Message, event 1).", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) {
				return true, r.ctl.RequestLogout(r.String("name"), uint16(max(0, r.Int("pg_tag"))))
			},
		},
		asyncMethod(name, hint),
		{
			Name: "iscsi_target_node_set_auth", Aliases: []string{"set_iscsi_target_node_auth"}, State: Runtime,
			Params: append(one(name), chapParams...), Result: "true",
			Doc: "Choose who must authenticate to a node, from the next login on.", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) { return true, r.ctl.SetNodeAuth(r.String("name"), auth(r.Args)) },
		},
	}
}

// pathMethods are about the ways to a node.
func pathMethods() []Method {
	const hint = nodeHint
	name := nodeName
	return []Method{
		{
			Name: "iscsi_target_node_set_redirect", State: Runtime,
			Params: one(name, tag("pg_tag", "portal group whose logins are sent away"),
				Param{Name: "redirect_host", Type: String, Doc: "address to go to; none ends the redirection"},
				Param{Name: "redirect_port", Type: String, Doc: "a string; 3260 when not given"}),
			Result: "true", Doc: "Send logins elsewhere (status 0101); iscsi_target_node_request_logout moves those that are there.",
			Hint: hint, bad: invalidParams, fails: invalidParams, run: setRedirect,
		},
		{
			Name: "iscsi_target_node_set_alua_state", State: Runtime,
			Params: one(name, tag("pg_tag", "portal group: a target port group of the node"),
				Param{Name: "alua_state", Type: String, Required: true, Enum: scsi.PortStateNames, Doc: "asymmetric access state of the paths by it, to every LUN"}),
			Result: "true",
			Doc:    "Change the ALUA state of a portal group's paths; initiators get a unit attention. SPDK has no such method: it is nvmf_subsystem_listener_set_ana_state for iSCSI.",
			Hint:   hint, bad: invalidParams, fails: invalidParams, run: setALUA,
		},
		{
			Name: "iscsi_target_node_get_alua_states", State: Runtime, Params: one(name),
			Result: "array of {pg_tag, alua_state, luns: [{lun_id, alua_state, explicit}]}; explicit is what an initiator set by SET TARGET PORT GROUPS, for one LUN",
			Doc:    "Tell the ALUA states of a node's portal groups. SPDK has no such method.",
			Hint:   hint, bad: invalidParams, fails: invalidParams, run: getALUA,
		},
	}
}

// placement is a LUN with its options.
func placement(a Args) control.LUN {
	return control.LUN{
		ID: lunID(a), Bdev: a.String("bdev_name"),
		ReadOnly: a.Bool("read_only"), Removable: a.Bool("removable"), Thick: a.Bool("thick"),
	}
}

// lunID is a LUN that may be left to be chosen.
func lunID(a Args) int {
	if !a.Has("lun_id") {
		return -1
	}
	return int(a.Int("lun_id"))
}

func mapsOf(a Args) []iscsi.Map {
	var maps []iscsi.Map
	for _, p := range a.Objects("pg_ig_maps") {
		m := iscsi.Map{PortalTag: uint16(p.Int("pg_tag")), InitiatorTag: uint16(p.Int("ig_tag"))}
		if p.Has("luns") {
			m.LUNs = []uint16{}
			for _, l := range p.Objects("luns") {
				m.LUNs = append(m.LUNs, uint16(l.Int("lun_id")))
			}
		}
		maps = append(maps, m)
	}
	return maps
}

func onMaps(r *request, change func(string, []iscsi.Map) error) (any, error) {
	return true, change(r.String("name"), mapsOf(r.Args))
}

func setRedirect(r *request) (any, error) {
	var to *control.Portal
	if r.Has("redirect_host") {
		to = &control.Portal{Host: r.String("redirect_host"), Port: r.String("redirect_port")}
	} else if r.Has("redirect_port") {
		return nil, fmt.Errorf("redirect_port without redirect_host: %w", syscall.EINVAL)
	}
	return true, r.ctl.SetRedirect(r.String("name"), uint16(r.Int("pg_tag")), to)
}

func setALUA(r *request) (any, error) {
	state, _ := scsi.ParsePortState(r.String("alua_state")) // one of the enumeration
	return true, r.ctl.SetPortGroupState(r.String("name"), uint16(r.Int("pg_tag")), state)
}

func getALUA(r *request) (any, error) {
	groups, err := r.ctl.PortGroupStates(r.String("name"))
	list := []obj{}
	for _, g := range groups {
		luns := []obj{}
		for _, u := range g.Units {
			luns = append(luns, obj{{"lun_id", u.LUN}, {"alua_state", u.State.String()}, {"explicit", u.Explicit}})
		}
		list = append(list, obj{{"pg_tag", g.Tag}, {"alua_state", g.State.String()}, {"luns", luns}})
	}
	return list, err
}

func createNode(r *request) (any, error) {
	cfg := iscsi.NodeConfig{
		Name: r.String("name"), Alias: r.String("alias_name"), Maps: mapsOf(r.Args), QueueDepth: uint32(r.Int("queue_depth")),
		HeaderDigest: r.Bool("header_digest"), DataDigest: r.Bool("data_digest"),
		DisableCHAP: r.Bool("disable_chap"), RequireCHAP: r.Bool("require_chap"), MutualCHAP: r.Bool("mutual_chap"),
		CHAPGroup: int32(r.Int("chap_group")),
	}
	var luns []control.LUN
	for _, l := range r.Objects("luns") {
		luns = append(luns, placement(l))
	}
	return true, r.ctl.CreateNode(cfg, luns)
}
