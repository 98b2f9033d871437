package rpc

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"spindle/bdev"
	"spindle/iscsi"
)

func watchMethods() []Method {
	return []Method{
		{
			Name: "iscsi_get_connections", Aliases: []string{"get_iscsi_connections"}, State: Runtime,
			Result: "array of {id, cid, tsih, state, login_phase, initiator_addr, target_addr, target_node_name, thread_name, transport}; over iSER device, qp_num, qp_state, reads_outstanding, reads_max, sends_outstanding, receives_posted, device_rnr_errors and device_errors too",
			Doc:    "List the connections.", run: getConnections,
		},
		{
			Name: "iscsi_get_stats", State: Runtime, Result: "{invalid, running, exiting, exited}", Doc: "Count the connections by state.",
			run: func(r *request) (any, error) {
				states := []string{"invalid", "running", "exiting", "exited"}
				counts := map[string]int{}
				for _, c := range r.ctl.Connections() {
					counts[c.State]++
				}
				var o obj
				for _, s := range states {
					o = append(o, member{s, counts[s]})
				}
				return o, nil
			},
		},
		{
			Name: "iscsi_get_counters", State: Runtime, Result: "{name: number}",
			Doc: "Tell what the engine has counted since it started, limits that were reached among it. SPDK has no such method.",
			run: func(r *request) (any, error) {
				o := obj{}
				for _, c := range r.ctl.Counters() {
					o = append(o, member{c.Name, c.Value})
				}
				return o, nil
			},
		},
		{
			Name: "iscsi_target_node_get_stats", State: Runtime,
			Params: one(
				Param{Name: "name", Type: String, Doc: "only this target node"},
				Param{Name: "sessions", Type: Bool, Doc: "false leaves the sessions out; they are told when not given"},
			),
			Result: "{tick_rate, nodes}; of each node name, counters (pdus_in, pdus_out, commands, num_read_ops, num_write_ops, bytes_read, bytes_written, " +
				"read_latency_ticks, write_latency_ticks, commands_failed, commands_aborted, rejects, digest_errors), sessions_begun, logins, logouts, session_ends and " +
				"task_management by kind, and sessions with the same counters, as have their connections",
			Doc: "Tell what target nodes have counted since they were made, with their sessions and connections; the node without a name is discovery, and logins that came to no node. " +
				"Terms are those of the iSCSI MIB (RFC 4544), and bdev_get_iostat's. SPDK has no such method.",
			Hint: nodeHint, bad: invalidParams, fails: invalidParams, run: getNodeStats,
		},
		{
			Name: "iscsi_target_node_enable_histogram", State: Runtime,
			Params: one(
				Param{Name: "name", Type: String, Required: true, Doc: "target node"},
				Param{Name: "enable", Type: Bool, Required: true, Doc: "start from zero, or stop"},
				Param{Name: "granularity", Type: Uint8, Doc: "log2 of the buckets a power of two; 7 when not given"},
				Param{Name: "min_nsec", Type: Uint64, Doc: "shortest latency told apart"},
				Param{Name: "max_nsec", Type: Uint64, Doc: "longest latency told apart"},
			),
			Result: "true", Doc: "Count the latencies of a node's reads and writes: from a command's header to its response having left.", Hint: nodeHint,
			bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) {
				return true, r.ctl.EnableHistograms(r.String("name"), r.Bool("enable"),
					bdev.HistogramOptions{Op: bdev.AllOps, Granularity: uint8(r.Uint("granularity")), MinNS: r.Uint("min_nsec"), MaxNS: r.Uint("max_nsec")})
			},
		},
		{
			Name: "iscsi_target_node_get_histogram", State: Runtime,
			Params: one(Param{Name: "name", Type: String, Required: true, Doc: "target node"}),
			Result: "{read, write}, each as bdev_get_histogram tells it",
			Doc:    "Tell a node's latency histograms.", Hint: "start them with iscsi_target_node_enable_histogram",
			bad: invalidParams, fails: invalidParams, run: getNodeHistogram,
		},
		{
			Name: "scsi_get_devices", Aliases: []string{"get_scsi_devices"}, State: Runtime, Result: "array of {id, device_name}",
			Doc: "List the SCSI devices: one for each target node.",
			run: func(r *request) (any, error) {
				list := []obj{}
				for _, n := range r.ctl.Nodes() {
					list = append(list, obj{{"id", n.ID}, {"device_name", n.Name}})
				}
				return list, nil
			},
		},
	}
}

// counts appends counters to o.
func (o obj) counts(list []iscsi.Counter) obj {
	for _, c := range list {
		o = append(o, member{c.Name, c.Value})
	}
	return o
}

func getNodeStats(r *request) (any, error) {
	list, err := r.ctl.NodeStats(r.String("name"))
	if err != nil {
		return nil, err
	}
	nodes := []obj{}
	for _, n := range list {
		sessions := []obj{}
		for _, s := range n.Sessions {
			if r.Has("sessions") && !r.Bool("sessions") {
				break
			}
			conns := []obj{}
			for _, c := range s.Conns {
				conns = append(conns, obj{{"id", c.ID}, {"cid", c.CID}, {"initiator_addr", hostOf(c.Peer)}}.counts(c.Counters()))
			}
			o := obj{{"tsih", s.TSIH}, {"initiator_name", s.Initiator}, {"transport", s.Transport}, {"thread_name", threadName(s.Reactor)}}
			sessions = append(sessions, append(o.counts(s.Counters()), member{"connections", conns}))
		}
		o := obj{{"name", n.Name}}.counts(n.Counters())
		nodes = append(nodes, append(o, obj{
			{"sessions_begun", n.Begun},
			{"logins", obj{}.counts(n.Logins)}, {"logouts", obj{}.counts(n.Logouts)}, {"session_ends", obj{}.counts(n.Ends)},
			{"task_management", obj{}.counts(n.TaskManagement)}, {"sessions", sessions},
		}...))
	}
	return obj{{"tick_rate", TickRate}, {"nodes", nodes}}, nil
}

func getNodeHistogram(r *request) (any, error) {
	list, err := r.ctl.NodeStats(r.String("name"))
	if err != nil {
		return nil, err
	}
	if n := list[0]; n.Read != nil {
		return obj{{"read", histogramOf(n.Read)}, {"write", histogramOf(n.Write)}}, nil
	}
	return nil, fmt.Errorf("the histograms of %q are not enabled: %w", r.String("name"), syscall.EFAULT)
}

func getConnections(r *request) (any, error) {
	list := []obj{}
	for _, c := range r.ctl.Connections() {
		tsih := int(c.TSIH)
		if tsih == 0 {
			tsih = maxTag // as SPDK shows a connection without a session
		}
		// SPDK's clients know a node by what follows the first colon.
		_, node, found := strings.Cut(c.Node, ":")
		if !found {
			node = c.Node
		}
		list = append(list, obj{
			{"id", c.ID}, {"cid", c.CID}, {"tsih", tsih}, {"state", c.State}, {"login_phase", c.LoginPhase},
			{"initiator_addr", hostOf(c.InitiatorAddr)}, {"target_addr", hostOf(c.TargetAddr)},
			{"target_node_name", node}, {"thread_name", threadName(c.Reactor)}, {"transport", c.Transport},
		})
		for _, f := range c.Link {
			list[len(list)-1] = append(list[len(list)-1], member{f.Name, f.Value})
		}
	}
	return list, nil
}

// hostOf is the address without its port.
func hostOf(addr string) string {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return ap.Addr().String()
	}
	return addr
}
