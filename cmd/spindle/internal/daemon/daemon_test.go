package daemon_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/cmd/spindle/internal/daemon"
	"spindle/control"
	"spindle/control/rpc"
	"spindle/internal/sys"
	"spindle/iscsi"
	"spindle/reactor"
)

// start starts a target; without io_uring there is none to test.
func start(t *testing.T, o daemon.Options) (*daemon.Daemon, error) {
	t.Helper()
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	o.Mem = daemon.MinMem
	d, err := daemon.Start(t.Context(), o)
	if errors.Is(err, sys.ErrUringRefused) {
		t.Skip(err)
	}
	return d, err
}

func call(t *testing.T, c *rpc.Client, method string, params any, into any) {
	t.Helper()
	raw, err := c.Call(method, params)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	if into != nil {
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
	}
}

type portal struct {
	Host, Port string
	ISER       bool   `json:"iser"`
	State      string `json:"iser_state"`
}

type portalGroup struct {
	Portals []portal `json:"portals"`
}

// TestLife: a target is configured while it runs, saved, ended, and comes back
// from what was saved.
func TestLife(t *testing.T) {
	dir := t.TempDir()
	socket, file, disk := filepath.Join(dir, "s.sock"), filepath.Join(dir, "c.json"), filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := start(t, daemon.Options{Socket: socket, Malloc: 16 << 20, Listen: "127.0.0.1:0", Idle: reactor.Interrupt})
	if err != nil {
		t.Fatal(err)
	}
	c, err := rpc.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var groups []portalGroup
	call(t, c, "iscsi_get_portal_groups", nil, &groups)
	addr := net.JoinHostPort(groups[0].Portals[0].Host, groups[0].Portals[0].Port)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("nobody listens on %s: %v", addr, err)
	}
	defer func() { _ = conn.Close() }()

	call(t, c, "bdev_aio_create", map[string]any{"name": "F", "filename": disk}, nil)
	call(t, c, "bdev_delay_create", map[string]any{"name": "D", "base_bdev_name": "F", "avg_read_latency": 1, "p99_read_latency": 2, "avg_write_latency": 3, "p99_write_latency": 4}, nil)
	call(t, c, "bdev_delay_update_latency", map[string]any{"delay_bdev_name": "D", "latency_type": "avg_read", "latency_us": 2}, nil)
	call(t, c, "bdev_null_create", map[string]any{"name": "N", "num_blocks": 64, "block_size": 4096}, nil)
	call(t, c, "bdev_error_create", map[string]any{"base_name": "N"}, nil)
	call(t, c, "bdev_error_inject_error", map[string]any{"name": "EE_N", "io_type": "all", "error_type": "failure", "num": 2}, nil)
	name := "iqn.2026-11.dev.spindle:" + daemon.QuickName
	for _, b := range []string{"D", "EE_N"} {
		call(t, c, "iscsi_target_node_add_lun", map[string]any{"name": name, "bdev_name": b}, nil)
	}
	call(t, c, "bdev_malloc_delete", map[string]any{"name": "Malloc0"}, nil)
	var nodes []struct {
		LUNs []struct {
			Bdev string `json:"bdev_name"`
			ID   int    `json:"lun_id"`
		} `json:"luns"`
	}
	call(t, c, "iscsi_get_target_nodes", nil, &nodes)
	if l := nodes[0].LUNs; len(l) != 2 || l[0].Bdev != "D" || l[0].ID != 1 || l[1].Bdev != "EE_N" {
		t.Errorf("LUNs %+v", l)
	}
	var reactors struct {
		TickRate int64 `json:"tick_rate"`
		Reactors []struct {
			TID  int   `json:"tid"`
			Idle int64 `json:"idle"`
		} `json:"reactors"`
	}
	call(t, c, "framework_get_reactors", nil, &reactors)
	if len(reactors.Reactors) == 0 || reactors.Reactors[0].TID == 0 || reactors.Reactors[0].Idle == 0 {
		t.Errorf("reactors %+v", reactors)
	}
	call(t, c, "save_config", map[string]any{"filename": file}, nil)
	var saved json.RawMessage
	call(t, c, "save_config", nil, &saved)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("somebody still listens")
	}

	d, err = start(t, daemon.Options{Config: file})
	if err != nil {
		t.Fatal(err)
	}
	if !d.Control().Running() {
		t.Error("still starting")
	}
	again, err := json.Marshal(map[string]any{"subsystems": d.Control().Save()})
	if err != nil || !bytes.Equal(again, saved) {
		t.Errorf("saved\n%s\ncame back as\n%s\n%v", saved, again, err)
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
}

// TestISERWaits: a portal that RDMA cannot serve says so, keeps its setting, and
// serves TCP.
func TestISERWaits(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")

	d, err := start(t, daemon.Options{Socket: socket, Malloc: 1 << 20, Listen: "127.0.0.1:0", Idle: reactor.Interrupt})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}()
	c, err := rpc.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var portals []portal
	call(t, c, "iscsi_portal_group_set_iser", map[string]any{"tag": 1, "enable": true}, &portals)
	if len(portals) != 1 || !portals[0].ISER || portals[0].State == "serving" || portals[0].State == "" {
		t.Errorf("portals %+v", portals)
	}
	addr := net.JoinHostPort(portals[0].Host, portals[0].Port)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("TCP is not served: %v", err)
	}
	defer func() { _ = conn.Close() }()
	saved, err := json.Marshal(d.Control().Save())
	if err != nil || !bytes.Contains(saved, []byte(`"iser":true`)) {
		t.Errorf("saved %s, %v", saved, err)
	}
	for _, tt := range []struct {
		name   string
		params map[string]any
		fails  bool
	}{
		{"one portal", map[string]any{"tag": 1, "enable": false, "host": portals[0].Host, "port": portals[0].Port}, false},
		{"no such group", map[string]any{"tag": 9, "enable": true}, true},
		{"no such portal", map[string]any{"tag": 1, "enable": true, "host": "127.0.0.2", "port": portals[0].Port}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := c.Call("iscsi_portal_group_set_iser", tt.params); tt.fails != (err != nil) {
				t.Fatal(err)
			}
			var groups []portalGroup
			call(t, c, "iscsi_get_portal_groups", nil, &groups)
			if p := groups[0].Portals[0]; p.ISER || p.State != "" {
				t.Errorf("portal %+v", p)
			}
		})
	}
}

// TestFailedStart: what cannot start leaves nothing running and says why.
func TestFailedStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	socket := filepath.Join(t.TempDir(), "s.sock")
	broken := filepath.Join(t.TempDir(), "c.json")
	if err := os.WriteFile(broken, []byte(`{"subsystems":[{"subsystem":"bdev","config":[{"method":"bdev_malloc_create","params":{"name":"M"}}]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    daemon.Options
		want string
	}{
		{"port in use", daemon.Options{Malloc: 1 << 20, Listen: l.Addr().String(), Socket: socket}, "address already in use"},
		{"bad call in the file", daemon.Options{Config: broken, Socket: socket}, `subsystem bdev, call 1: bdev_malloc_create: parameter "num_blocks"`},
		{"no core", daemon.Options{Cores: []int{sys.MaxCPUs - 1}, Socket: socket}, "--cores"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := start(t, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v", err)
			}
			if _, err := os.Lstat(socket); !os.IsNotExist(err) {
				t.Errorf("the socket is there: %v", err)
			}
		})
	}
}

func TestBanner(t *testing.T) {
	d, err := start(t, daemon.Options{WaitForRPC: true, Log: control.NewLog(os.Stderr)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if b := d.Banner(); !strings.Contains(b, "serves nothing yet") || d.Control().Running() {
		t.Errorf("banner %q, running %v", b, d.Control().Running())
	}
	name, err := d.Control().CreateNull(control.NullSpec{Name: "N\x1b[2J", Geometry: control.Geometry{BlockSize: 512, NumBlocks: 8}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Control().CreateNode(iscsi.NodeConfig{Name: "n\u009b2J", QueueDepth: 1}, []control.LUN{{Bdev: name}}); err != nil {
		t.Fatal(err)
	}
	if b := d.Banner(); !strings.Contains(b, ":n\ufffd2J\n") || !strings.Contains(b, "N\ufffd[2J,") {
		t.Errorf("banner %q", b)
	}
}

// TestLimitsTable: docs/hardening.md tells the limits that there are, by their
// settings, defaults and counters.
func TestLimitsTable(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	d, err := start(t, daemon.Options{Socket: socket, Idle: reactor.Interrupt})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Stop() }()
	c, err := rpc.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var options map[string]any
	var counters map[string]uint64
	call(t, c, "iscsi_get_options", nil, &options)
	call(t, c, "iscsi_get_counters", nil, &counters)
	text, err := os.ReadFile("../../../../docs/hardening.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\d+)[^|]* \\| `([a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1)
	for _, row := range rows {
		setting, value, counter := row[1], row[2], "limit_"+row[3]
		if v, ok := options[setting]; !ok || fmt.Sprintf("%.0f", v) != value {
			t.Errorf("%s is %v, and %s in the table", setting, v, value)
		}
		if _, ok := counters[counter]; !ok {
			t.Errorf("there is no %s, or it is there twice", counter)
		}
		delete(counters, counter)
		delete(options, setting)
	}
	for name := range counters {
		if strings.HasPrefix(name, "limit_") {
			t.Errorf("%s is not in the table", name)
		}
	}
	for _, name := range []string{"tcp_parse_panics", "iser_parse_panics"} {
		if n, ok := counters[name]; !ok || n != 0 || !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("%s: %d, %v", name, n, ok)
		}
	}
	for _, p := range rpc.LimitParams {
		if _, left := options[p.Name]; left {
			t.Errorf("%s is not in the table", p.Name)
		}
	}
}

// TestSecurityNamesTests: the tests that SECURITY.md says show something are there.
func TestSecurityNamesTests(t *testing.T) {
	const root = "../../../.."
	text, err := os.ReadFile(root + "/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z/]+)\\.(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 10 {
		t.Fatalf("only %d tests are named", len(named))
	}
	for _, n := range named {
		files, _ := filepath.Glob(filepath.Join(root, n[1], "*_test.go"))
		if !slices.ContainsFunc(files, func(f string) bool {
			src, err := os.ReadFile(f)
			return err == nil && bytes.Contains(src, []byte("func "+n[2]+"("))
		}) {
			t.Errorf("there is no %s.%s", n[1], n[2])
		}
	}
}

// TestStopIsBounded: an end that does not get there says what it waits for.
func TestStopIsBounded(t *testing.T) {
	hung := make(chan struct{})
	defer close(hung)
	err := daemon.Within(time.Millisecond, func(stage func(string)) error {
		stage("closing disks")
		<-hung
		return nil
	})
	if !errors.Is(err, daemon.ErrStuck) || !strings.Contains(err.Error(), "closing disks") {
		t.Errorf("%v", err)
	}
	other := errors.New("other")
	if err := daemon.Within(time.Hour, func(func(string)) error { return other }); err != other {
		t.Errorf("%v", err)
	}
}

// TestStopBesideHungCall: a call that waits for a file system does not keep the target
// from its end, but for the process itself.
func TestStopBesideHungCall(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	d, err := start(t, daemon.Options{Socket: socket, Malloc: 1 << 20, Listen: "127.0.0.1:0", Idle: reactor.Interrupt})
	if err != nil {
		t.Fatal(err)
	}
	begun, let := make(chan struct{}), make(chan struct{})
	d.Control().Modules.File = func(control.FileSpec) (bdev.Device, error) {
		close(begun)
		<-let
		return nil, errors.New("hung")
	}
	d.Control().Bdevs() // a lock that calls take, too: they see it
	c, err := rpc.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	called := make(chan error, 1)
	go func() {
		_, err := c.Call("bdev_aio_create", map[string]any{"name": "F", "filename": "/hung"})
		called <- err
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- d.Stop() }()
	for len(d.Control().Bdevs()) > 0 { // closed last
		runtime.Gosched()
	}
	select {
	case err := <-stopped:
		t.Errorf("stopped under a call: %v", err)
	default:
	}
	close(let)
	if err := <-called; err == nil {
		t.Error("the call is not answered")
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
