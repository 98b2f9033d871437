package rpc_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spindle/control"
	"spindle/control/controltest"
	"spindle/control/rpc"
)

// patience bounds how long a test waits for what must come.
const patience = 10 * time.Second

func serve(t testing.TB, started bool) (path string, ctl *control.Control, engine *controltest.Engine) {
	t.Helper()
	ctl, engine = controltest.New()
	if started {
		ctl.Start()
	}
	s := rpc.NewServer(ctl)
	path = filepath.Join(t.TempDir(), "s.sock")
	if err := s.Listen(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return path, ctl, engine
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

type exchange struct {
	name, send string
	want       []string
}

func transcript(t *testing.T) (list []exchange) {
	t.Helper()
	text, err := os.ReadFile("testdata/transcript.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "# "):
			list = append(list, exchange{name: line[2:]})
		case strings.HasPrefix(line, ">> "):
			list[len(list)-1].send = strings.ReplaceAll(line[3:], `\n`, "\n")
		case strings.HasPrefix(line, "<< "):
			last := &list[len(list)-1]
			last.want = append(last.want, line[3:])
		}
	}
	return list
}

// play sends, and then a request whose answer marks the end of what was to come.
func play(t *testing.T, c net.Conn, e exchange, pieces int) {
	t.Helper()
	const mark = `{"jsonrpc":"2.0","id":"end","result":"NOTICE"}`
	send := e.send
	closed := len(e.want) > 0 && e.want[len(e.want)-1] == "closed"
	if !closed {
		send += `{"id":"end","method":"log_get_level"}`
	}
	for i := range pieces {
		from, to := len(send)*i/pieces, len(send)*(i+1)/pieces
		if _, err := c.Write([]byte(send[from:to])); err != nil && !closed {
			t.Fatal(err)
		}
	}
	in := bufio.NewScanner(c)
	in.Buffer(nil, 1<<20)
	var got []string
	for in.Scan() && in.Text() != mark {
		got = append(got, in.Text())
	}
	if closed {
		got = append(got, "closed")
	}
	if g, w := strings.Join(got, "\n"), strings.Join(e.want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func TestTranscript(t *testing.T) {
	for _, pieces := range []int{1, 7} {
		t.Run(fmt.Sprintf("pieces=%d", pieces), func(t *testing.T) {
			path, _, _ := serve(t, true)
			for _, e := range transcript(t) {
				if e.send == "" {
					continue
				}
				t.Run(e.name, func(t *testing.T) { play(t, dial(t, path), e, pieces) })
			}
		})
	}
}

func TestStartupPhase(t *testing.T) {
	path, ctl, engine := serve(t, false)
	waiter := dial(t, path)
	// A request that waits holds up neither its own connection nor others.
	fmt.Fprint(waiter, `{"id":1,"method":"framework_wait_init"}{"id":2,"method":"log_get_level"}`)
	in := bufio.NewReader(waiter)
	if got, _ := in.ReadString('\n'); got != `{"jsonrpc":"2.0","id":2,"result":"NOTICE"}`+"\n" {
		t.Fatalf("got %s", got)
	}
	c := dial(t, path)
	early := `{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"Method may only be called after framework is initialized using framework_start_init RPC."}}`
	play(t, c, exchange{send: `{"id":1,"method":"bdev_get_bdevs"}`, want: []string{early}}, 1)
	play(t, c, exchange{
		// What rpc.py sends for "iscsi_set_options -o 30 -a 16": its flags are explicit.
		send: `{"id":2,"method":"iscsi_set_options","params":{"nop_timeout":30,"max_sessions":16,"immediate_data":false,"disable_chap":false,"require_chap":false,"mutual_chap":false,"allow_duplicated_isid":false}}`,
		want: []string{`{"jsonrpc":"2.0","id":2,"result":true}`},
	}, 1)
	if o := engine.Options(); o.NopTimeout != 30 || o.MaxSessions != 16 || o.ImmediateData {
		t.Errorf("options %+v", o)
	}
	play(t, c, exchange{send: `{"id":3,"method":"framework_start_init"}`, want: []string{`{"jsonrpc":"2.0","id":3,"result":true}`}}, 1)
	if got, _ := in.ReadString('\n'); got != `{"jsonrpc":"2.0","id":1,"result":true}`+"\n" {
		t.Fatalf("got %s", got)
	}
	if !ctl.Running() {
		t.Error("not running")
	}
}

func TestBatchThatWaits(t *testing.T) {
	path, _, _ := serve(t, false)
	c := dial(t, path)
	fmt.Fprint(c, `[{"id":1,"method":"framework_wait_init"},{"id":2,"method":"framework_start_init"}]`)
	got, _ := bufio.NewReader(c).ReadString('\n')
	if want := `[{"jsonrpc":"2.0","id":1,"result":true},{"jsonrpc":"2.0","id":2,"result":true}]` + "\n"; got != want {
		t.Errorf("got %s", got)
	}
}

func TestLimits(t *testing.T) {
	path, _, _ := serve(t, true)
	pad := func(n int) string { return strings.Repeat(" ", n) }
	const call, answer = `{"id":1,"method":"log_get_level"}`, `{"jsonrpc":"2.0","id":1,"result":"NOTICE"}`
	deep := func(n int) string {
		return `{"id":1,"method":"rpc_get_methods","params":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	// A batch of n elements has n numbers, and two brackets that count as one value each.
	wide := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]" }
	invalid := `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid request"}}`
	for _, tt := range []struct {
		name, send string
		want       []string
	}{
		{"largest request", pad(rpc.MaxRequest-len(call)) + call, []string{answer}},
		{"too large", pad(rpc.MaxRequest-1) + call, []string{"closed"}},
		{"deepest", deep(rpc.MaxDepth - 1), []string{`{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Invalid parameters"}}`}},
		{"too deep", deep(rpc.MaxDepth), []string{"closed"}},
		{"most values", wide(rpc.MaxValues - 2), []string{"[" + strings.TrimSuffix(strings.Repeat(invalid+",", rpc.MaxValues-2), ",") + "]"}},
		{"too many values", wide(rpc.MaxValues + 1), []string{"closed"}},
	} {
		t.Run(tt.name, func(t *testing.T) { play(t, dial(t, path), exchange{send: tt.send, want: tt.want}, 1) })
	}
}

func TestConnectionLimit(t *testing.T) {
	path, _, _ := serve(t, true)
	const ping, pong = `{"id":1,"method":"log_get_level"}`, `{"jsonrpc":"2.0","id":1,"result":"NOTICE"}`
	var conns []net.Conn
	for range rpc.MaxConnections {
		c := dial(t, path)
		play(t, c, exchange{send: ping, want: []string{pong}}, 1)
		conns = append(conns, c)
	}
	over := dial(t, path)
	if n, err := over.Read(make([]byte, 1)); err == nil {
		t.Fatalf("read %d bytes from a connection beyond the limit", n)
	}
	_ = conns[0].Close()
	for deadline := time.Now().Add(patience); ; {
		c := dial(t, path)
		_, _ = c.Write([]byte(ping))
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			if line != pong+"\n" {
				t.Errorf("got %s", line)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a closed connection's place was not given away")
		}
	}
}

func TestSocket(t *testing.T) {
	ctl, _ := controltest.New()
	path := filepath.Join(t.TempDir(), "s.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()

	first := rpc.NewServer(ctl)
	if err := first.Listen(path); err != nil {
		t.Fatalf("with a stale socket: %v", err)
	}
	for _, name := range []string{path, path + ".lock"} {
		i, err := os.Stat(name)
		if err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, i.Mode(), err)
		}
	}
	if err := rpc.NewServer(ctl).Listen(path); !errors.Is(err, rpc.ErrSocketInUse) {
		t.Errorf("a second server: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".lock"} {
		if _, err := os.Lstat(name); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rpc.NewServer(ctl).Listen(path); err == nil {
		t.Error("a file that is no socket was replaced")
	}
	if err := rpc.NewServer(ctl).Listen("/" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "--rpc-socket") {
		t.Errorf("a long path: %v", err)
	}
}

// TestCloseEndsWaiting: Close returns although a request waits.
func TestCloseEndsWaiting(t *testing.T) {
	ctl, _ := controltest.New()
	s := rpc.NewServer(ctl)
	path := filepath.Join(t.TempDir(), "s.sock")
	if err := s.Listen(path); err != nil {
		t.Fatal(err)
	}
	c := dial(t, path)
	play(t, c, exchange{send: `{"id":1,"method":"framework_wait_init"}`}, 1)
	done := make(chan error)
	go func() { done <- s.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Close waits for a request that waits")
	}
}

// TestLastAnswer: the request that ends the server is answered.
func TestLastAnswer(t *testing.T) {
	ctl, _ := controltest.New()
	ctl.Start()
	s := rpc.NewServer(ctl)
	closed := make(chan error, 1)
	ctl.Stop = func(string) error {
		going := make(chan struct{})
		go func() {
			close(going)
			closed <- s.Close()
		}()
		<-going
		return nil
	}
	path := filepath.Join(t.TempDir(), "s.sock")
	if err := s.Listen(path); err != nil {
		t.Fatal(err)
	}
	c := dial(t, path)
	fmt.Fprint(c, `{"id":1,"method":"spdk_kill_instance","params":{"sig_name":"SIGTERM"}}`)
	if got, err := bufio.NewReader(c).ReadString('\n'); got != `{"jsonrpc":"2.0","id":1,"result":true}`+"\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// TestWaitingEndsWithItsConnection: a wait without end holds nothing once its
// client has gone.
func TestWaitingEndsWithItsConnection(t *testing.T) {
	ctl, _ := controltest.New()
	ctl.Start()
	ended := make(chan struct{})
	client, server := net.Pipe()
	go func() {
		defer close(ended)
		rpc.NewServer(ctl).ServeStream(server)
	}()
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	play(t, client, exchange{send: `{"id":1,"method":"bdev_get_bdevs","params":{"name":"late","timeout":1e15}}`}, 1)
	if _, err := ctl.CreateNull(control.NullSpec{Name: "other", Geometry: control.Geometry{BlockSize: 512, NumBlocks: 8}}); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the connection is still served")
	}
}

const spdkConfig = `{"subsystems":[
 {"subsystem":"sock","config":[{"method":"sock_set_default_impl","params":{"impl_name":"posix"}}]},
 {"subsystem":"bdev","config":[
  {"method":"bdev_set_options","params":{"bdev_io_pool_size":65535,"bdev_io_cache_size":256,"bdev_auto_examine":true}},
  {"method":"bdev_malloc_create","params":{"name":"Malloc0","num_blocks":131072,"block_size":512,"physical_block_size":512,"uuid":"8a9d8c5e-8a45-4f43-9a2e-0a6a4b7e1d11","optimal_io_boundary":0,"md_size":0,"dif_type":0,"dif_is_head_of_md":false,"dif_pi_format":0}},
  {"method":"bdev_set_qos_limit","params":{"name":"Malloc0","rw_ios_per_sec":2000,"rw_mbytes_per_sec":0,"r_mbytes_per_sec":0,"w_mbytes_per_sec":0}},
  {"method":"bdev_wait_for_examine"}]},
 {"subsystem":"scsi","config":null},
 {"subsystem":"iscsi","config":[
  {"method":"iscsi_set_options","params":{"node_base":"iqn.2016-06.io.spdk","max_sessions":128,"immediate_data":true,"nop_in_interval":15}},
  [{"method":"iscsi_create_portal_group","params":{"tag":1,"portals":[{"host":"127.0.0.1","port":"0"}],"private":false}},
   {"method":"iscsi_create_initiator_group","params":{"tag":2,"initiators":["ANY"],"netmasks":["127.0.0.0/8"]}}],
  {"method":"iscsi_create_target_node","params":{"name":"Disk","alias_name":"d","pg_ig_maps":[{"pg_tag":1,"ig_tag":2}],"luns":[{"bdev_name":"Malloc0","lun_id":0}],"queue_depth":64,"chap_group":0,"header_digest":false,"data_digest":false}}]}]}`

func save(t *testing.T, ctl *control.Control) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"subsystems": ctl.SaveWith(control.SaveOptions{Secrets: true})})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLoadSaveRoundTrip: what is loaded from SPDK's file, and what every method
// made, saves as something that loads to the same.
func TestLoadSaveRoundTrip(t *testing.T) {
	ctl, engine := controltest.New()
	s := rpc.NewServer(ctl)
	ctx := t.Context()
	if err := s.Load(ctx, []byte(spdkConfig), rpc.LoadOptions{}); err == nil || !strings.Contains(err.Error(), "sock_set_default_impl") {
		t.Fatalf("an unknown method: %v", err)
	}
	if !ctl.Empty() || ctl.Running() {
		t.Fatal("something was loaded before the unknown method was found")
	}
	if err := s.Load(ctx, []byte(spdkConfig), rpc.LoadOptions{SkipUnknown: true}); err != nil {
		t.Fatal(err)
	}
	if !ctl.Running() || engine.Options().NopInInterval != 15 {
		t.Error("start-up methods did not run first")
	}
	more := `{"subsystems":[{"subsystem":"bdev","config":[
	 {"method":"bdev_null_create","params":{"name":"N","num_blocks":100,"block_size":4096}},
	 {"method":"bdev_null_resize","params":{"name":"N","new_size":8}},
	 {"method":"bdev_aio_create","params":{"name":"F","filename":"/tmp/f","block_size":512,"readonly":true}},
	 {"method":"bdev_uring_create","params":{"name":"U","filename":"/tmp/u"}},
	 {"method":"bdev_delay_create","params":{"name":"D","base_bdev_name":"N","avg_read_latency":1,"p99_read_latency":2,"avg_write_latency":3,"p99_write_latency":4}},
	 {"method":"bdev_delay_update_latency","params":{"delay_bdev_name":"D","latency_type":"p99_write","latency_us":44}},
	 {"method":"bdev_error_create","params":{"base_name":"F"}},
	 {"method":"bdev_passthru_create","params":{"name":"P","base_bdev_name":"EE_F"}}]},
	 {"subsystem":"iscsi","config":[
	 {"method":"iscsi_create_auth_group","params":{"tag":3,"secrets":[{"user":"u","secret":"sssssssssssss","muser":"m","msecret":"mmmmmmmmmmmmm"}]}},
	 {"method":"iscsi_create_portal_group","params":{"tag":2,"portals":[{"host":"[::1]","port":"3261"}],"private":true,"wait":true}},
	 {"method":"iscsi_create_target_node","params":{"name":"iqn.2001-04.com.example:two","alias_name":"","pg_ig_maps":[{"pg_tag":1,"ig_tag":2,"luns":[{"lun_id":7}]},{"pg_tag":2,"ig_tag":2}],"luns":[{"bdev_name":"D"},{"bdev_name":"U","lun_id":7},{"bdev_name":"P","lun_id":-1}],"queue_depth":16,"require_chap":true,"chap_group":3}}]}]}`
	if err := s.Load(ctx, []byte(more), rpc.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	saved := save(t, ctl)
	for _, want := range []string{`"num_blocks":2048`, `"p99_write_latency":44`, `{"bdev_name":"P","lun_id":1}`, `"luns":[{"lun_id":7}]`, `"name":"iqn.2016-06.io.spdk:Disk"`, `"wait":true`} {
		if !bytes.Contains(saved, []byte(want)) {
			t.Errorf("saved has no %s", want)
		}
	}
	again, _ := controltest.New()
	if err := rpc.NewServer(again).Load(ctx, saved, rpc.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if second := save(t, again); !bytes.Equal(saved, second) {
		t.Errorf("first\n%s\nsecond\n%s", saved, second)
	}
}
