package peer

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

type object map[string]any

// maxSessions are more than any workload has connections.
const maxSessions = 4096

// config is the same for Spindle and SPDK, which share their methods' names.
func config(s Setup, port int, options object) object {
	portal := object{"host": s.host(), "port": strconv.Itoa(port)}
	if s.ISER {
		portal["iser"] = true
	}
	call := func(method string, params object) object { return object{"method": method, "params": params} }
	return object{"subsystems": []object{
		{"subsystem": "bdev", "config": []object{
			call("bdev_null_create", object{"name": "null", "num_blocks": s.Size / 512, "block_size": 512}),
			call("bdev_malloc_create", object{"name": "ram", "num_blocks": s.Size / 512, "block_size": 512}),
		}},
		{"subsystem": "iscsi", "config": []object{
			call("iscsi_set_options", options),
			call("iscsi_create_portal_group", object{"tag": 1, "portals": []object{portal}}),
			call("iscsi_create_initiator_group", object{"tag": 1, "initiators": []string{"ANY"}, "netmasks": []string{"ANY"}}),
			call("iscsi_create_target_node", object{
				"name": Target, "alias_name": "bench", "queue_depth": 128, "disable_chap": true,
				"luns":       []object{{"lun_id": 0, "bdev_name": "null"}, {"lun_id": 1, "bdev_name": "ram"}},
				"pg_ig_maps": []object{{"pg_tag": 1, "ig_tag": 1}},
			}),
		}},
	}}
}

// configured writes the configuration for a free port.
func configured(s Setup, name string, options object) (file string, port int, err error) {
	if port, err = freePort(s.host()); err != nil {
		return "", 0, err
	}
	text, err := json.MarshalIndent(config(s, port, options), "", "  ")
	if err != nil {
		return "", 0, err
	}
	file = filepath.Join(s.Dir, name+".json")
	return file, port, os.WriteFile(file, text, 0o644)
}

// urls names LUNs of a target node over one transport.
func urls(scheme, host string, port int, target string, null, ram int) map[string]string {
	url := func(lun int) string {
		return fmt.Sprintf("%s://%s/%s/%d", scheme, net.JoinHostPort(host, strconv.Itoa(port)), target, lun)
	}
	return map[string]string{Null: url(null), RAM: url(ram)}
}

func running(s Setup, p *process, port int, control string, null, ram int) *Running {
	return &Running{PID: p.cmd.Process.Pid, proc: p, Control: control, URLs: urls("iscsi", s.host(), port, Target, null, ram)}
}

type spindleDriver struct{ path string }

func (spindleDriver) Name() string  { return "spindle" }
func (spindleDriver) Title() string { return "Spindle" }

func (d spindleDriver) Version(ctx context.Context) (string, error) {
	bin, err := executable(d.path, "spindle")
	if err != nil {
		return "", absent("make build makes bin/spindle; or name it with --spindle")
	}
	out, err := exec.CommandContext(ctx, bin, "version").Output()
	version := strings.TrimSpace(string(out))
	if info, e := buildinfo.ReadFile(bin); e == nil && Revision(info) != "" {
		version += ", commit " + Revision(info)
	}
	return version, err
}

// Revision is the commit that a Go program was built from, and whether the tree
// was that commit's; "" when it is not told.
func Revision(info *debug.BuildInfo) string {
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = ", modified"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + modified
}

func (d spindleDriver) Start(ctx context.Context, s Setup) (*Running, error) {
	bin, err := executable(d.path, "spindle")
	if err != nil {
		return nil, err
	}
	file, port, err := configured(s, "spindle", object{"max_sessions": maxSessions, "max_sessions_per_node": maxSessions})
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(s.Dir, "spindle.sock")
	args := []string{"serve", "--config", file, "--rpc-socket", socket}
	if s.CPU >= 0 {
		args = append(args, "--cores", fmt.Sprintf("[%d]", s.CPU))
	}
	p, err := start(s, bin, append(args, s.Args...)...)
	if err != nil {
		return nil, err
	}
	r := running(s, p, port, socket, 0, 1)
	if s.ISER {
		r.ISER = urls("iser", s.host(), port, Target, 0, 1)
	}
	err = p.listens(ctx, "tcp", net.JoinHostPort(s.host(), strconv.Itoa(port)))
	if err == nil {
		err = p.listens(ctx, "unix", socket) // opened after the portal
	}
	if err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

// spdkDriver runs SPDK's iscsi_tgt with Spindle's own configuration file.
type spdkDriver struct{ path string }

func (spdkDriver) Name() string  { return "spdk" }
func (spdkDriver) Title() string { return "SPDK" }

func (d spdkDriver) Version(ctx context.Context) (string, error) {
	bin, err := executable(d.path, "iscsi_tgt")
	if err != nil {
		return "", absent("no distribution packages it; build SPDK (./configure && make) and name build/bin/iscsi_tgt with --spdk")
	}
	out, err := exec.CommandContext(ctx, bin, "--version").CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line, err
}

func (d spdkDriver) Start(ctx context.Context, s Setup) (*Running, error) {
	bin, err := executable(d.path, "iscsi_tgt")
	if err != nil {
		return nil, err
	}
	file, port, err := configured(s, "spdk", object{})
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(s.Dir, "spdk.sock")
	mask := "0x1"
	if s.CPU >= 0 {
		mask = fmt.Sprintf("[%d]", s.CPU)
	}
	// No huge pages and no PCI devices: it needs neither for these two bdevs.
	memory := strconv.FormatUint(s.Size>>20+512, 10)
	p, err := start(s, bin, append([]string{"-c", file, "-r", socket, "-m", mask, "--no-huge", "-s", memory, "--no-pci"}, s.Args...)...)
	if err != nil {
		return nil, err
	}
	r := running(s, p, port, socket, 0, 1)
	if err := p.listens(ctx, "tcp", net.JoinHostPort(s.host(), strconv.Itoa(port))); err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

// limitDriver is the canned responder of this very program.
type limitDriver struct{ self string }

func (limitDriver) Name() string  { return "limit" }
func (limitDriver) Title() string { return "canned limit" }

func (d limitDriver) Version(context.Context) (string, error) { return "built in", nil }

func (d limitDriver) Start(ctx context.Context, s Setup) (*Running, error) {
	self := d.self
	if self == "" {
		var err error
		if self, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	args := []string{"limit", "--listen", "127.0.0.1:0", "--size", strconv.FormatUint(s.Size, 10), "--cpu", strconv.Itoa(s.CPU)}
	if s.Connections > 0 {
		args = append(args, "--connections", strconv.Itoa(s.Connections+8)) // some may not have ended yet
	}
	if !s.NullOnly {
		args = append(args, "--ram")
	}
	p, err := start(s, self, args...)
	if err != nil {
		return nil, err
	}
	r := &Running{PID: p.cmd.Process.Pid, proc: p}
	var line string
	err = p.until(ctx, "say where it listens", func() bool {
		select {
		case line = <-p.first:
			return true
		default:
			return false
		}
	})
	addr, ok := strings.CutPrefix(line, "listens on ")
	if err == nil && !ok {
		err = fmt.Errorf("limit: %q\n%s", line, p.said())
	}
	if err != nil {
		r.Stop()
		return nil, err
	}
	r.URLs = map[string]string{Null: "iscsi://" + addr + "/" + Target + "/0", RAM: "iscsi://" + addr + "/" + Target + "/1"}
	return r, nil
}
