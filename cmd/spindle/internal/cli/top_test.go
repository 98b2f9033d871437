package cli

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestTop watches a server as a user would.
func TestTop(t *testing.T) {
	_, socket := listen(t)
	if status, _, errOut := run("rpc", "--rpc-socket", socket, "bdev_malloc_create", "name=disk7", "num_blocks=8", "block_size=512"); status != exitOK {
		t.Fatal(errOut)
	}
	status, out, errOut := run("top", "--rpc-socket", socket, "--interval", "20ms", "--count", "2")
	if status != exitOK || strings.Count(out, "disk7") != 2 || strings.Contains(out, clearScreen) {
		t.Errorf("status %d, %q, %q", status, out, errOut)
	}
	for _, args := range [][]string{{"top", "x"}, {"top", "--interval", "1ms"}} {
		if status, _, _ := run(args...); status != exitUsage {
			t.Errorf("%v: status %d", args, status)
		}
	}
	if status, _, errOut := run("top", "--rpc-socket", socket+"x"); status != exitError || !strings.Contains(errOut, socket+"x") {
		t.Errorf("no target: status %d, %q", status, errOut)
	}
}

// TestSince: rates are of the time between two looks, and a disk that is new, or
// was reset, begins at zero.
func TestSince(t *testing.T) {
	look := func(text string) *sight {
		var v struct {
			Frame, Disks, Nodes, Conns json.RawMessage
		}
		var x sight
		for _, err := range []error{json.Unmarshal([]byte(text), &v), json.Unmarshal(v.Frame, &x.frame), json.Unmarshal(v.Disks, &x.disks), json.Unmarshal(v.Nodes, &x.nodes), json.Unmarshal(v.Conns, &x.conns)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return &x
	}
	before := look(`{"frame":{"reactors":[{"lcore":1,"busy":100,"idle":100}]},"disks":{"ticks":1000000000,"bdevs":[
		{"name":"a","num_read_ops":100,"bytes_read":1000000,"read_latency_ticks":5000},{"name":"b","num_write_ops":50}]},"nodes":{"nodes":[{"name":"iqn.x:n","num_read_ops":1}]},"conns":[]}`)
	now := look(`{"frame":{"reactors":[{"lcore":1,"busy":175,"idle":125,"memory_in_use":1048576}]},"disks":{"ticks":3000000000,"bdevs":[
		{"name":"a","num_read_ops":300,"bytes_read":5000000,"read_latency_ticks":405000},{"name":"b","num_write_ops":20,"bytes_written":2000000,"write_latency_ticks":60000},{"name":"c\u001b[2J\u009b2J\u202e\n"}]},
		"nodes":{"nodes":[{"name":"iqn.x:n","num_read_ops":5,"bytes_read":2000000,"read_latency_ticks":8000},{"name":""}]},"conns":[{"transport":"iser","tsih":1},{"transport":"tcp","tsih":2},{"transport":"tcp","tsih":2}]}`)
	text := now.since(before)
	for _, want := range []string{
		"2 sessions, 3 connections, 1 of them over RDMA", "core 1     75.0%  ###############           1.0M",
		"a                          100         0       2.0       0.0       2.0       0.0",
		"n                            2         0       1.0       0.0       2.0       0.0",
		"b                            0        10       0.0       1.0       0.0       3.0",
		"c\ufffd[2J\ufffd2J\ufffd\ufffd                   0         0       0.0       0.0       0.0       0.0",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}
