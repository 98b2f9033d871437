package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spindle/bench/counters"
	"spindle/bench/limit"
	"spindle/internal/testbed"
)

// call runs a command line within this process.
func call(t *testing.T, args ...string) (status int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	status = execute(t.Context(), args, streams{&o, &e})
	return status, o.String(), e.String()
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   string
		status int
		out    string // on either stream
	}{
		{"nothing", "", exitUsage, "no command"},
		{"help", "help", exitOK, "compare"},
		{"help of a command", "help run", exitOK, "--iodepth N"},
		{"its flag", "compare --help", exitOK, "--max-spread FACTOR"},
		{"help of nothing", "help fly", exitUsage, "no command"},
		{"version", "version", exitOK, version},
		{"unknown", "fly", exitUsage, "no command"},
		{"unknown flag", "run --fly", exitUsage, "--help"},
		{"no LUN", "run", exitUsage, "name one LUN"},
		{"two LUNs", "run iscsi://a/b/0 iscsi://a/b/1", exitUsage, "name one LUN"},
		{"bad pattern", "run iscsi://a/b/0 --rw trim", exitUsage, "randread"},
		{"bad size", "run iscsi://a/b/0 --bs 1000", exitUsage, "multiple of 512"},
		{"an opcode there is not", "run iscsi://a/b/0 --opcode fly", exitUsage, "compare-and-write"},
		{"iSER without a device, or a portal", "run iser://127.0.0.1:1/b/0", exitError, "iser://127.0.0.1:1/b/0"},
		{"iSER with digests", "run iser://127.0.0.1:1/b/0 --header-digest", exitUsage, "no digests"},
		{"iSER with a limit", "run iser://127.0.0.1:1/b/0 --limit", exitUsage, "TCP only"},
		{"bad verification", "run iscsi://a/b/0 --verify md5", exitUsage, "crc32c"},
		{"limit with digests", "run iscsi://127.0.0.1:1/b/0 --limit --data-digest", exitUsage, "no digests"},
		{"nobody there", "run iscsi://127.0.0.1:1/b/0", exitError, "refused"},
		{"unknown peer", "compare --peers scst", exitUsage, "there is no peer"},
		{"unknown workload", "compare --workloads all", exitUsage, "quick"},
		{"transport", "compare --transport iser", exitUsage, "make bench-rig"},
		{"unknown transport", "compare --transport fc --initiator fio", exitUsage, "tcp and iser"},
		{"unknown initiator", "compare --initiator fly", exitUsage, "no initiator"},
		{"iscsi-perf cannot write", "compare --initiator iscsi-perf --workloads ram:write:4k:1", exitUsage, "iscsi-perf"},
		{"unknown row", "compare --workloads standard --only fly", exitUsage, "limit-4k"},
		{"a program of no URL", "compare --program x=true", exitUsage, "NAME=COMMAND"},
		{"one CPU for both", "compare --cpu 0 --target-cpu 0", exitUsage, "share CPU"},
		{"profile of two", "profile --workload null:read:4k:1+2", exitUsage, "one workload"},
		{"profile of none", "profile --spindle /nowhere/spindle", exitError, "absent"},
		{"report of nothing", "report", exitUsage, "result.json"},
		{"report of no file", "report /nowhere.json", exitError, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out, errOut := call(t, strings.Fields(c.args)...)
			if status != c.status || !strings.Contains(out+errOut, c.out) {
				t.Errorf("status %d, want %d with %q:\n%s%s", status, c.status, c.out, out, errOut)
			}
		})
	}
}

func TestEveryFlagIsExplained(t *testing.T) {
	for _, c := range commands() {
		_, out, _ := call(t, "help", c.name)
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) > 0 && strings.HasPrefix(f[0], "--") && len(f) < 3 {
				t.Errorf("%s: %s", c.name, line)
			}
		}
	}
}

func responder(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		ended <- limit.Serve(ctx, limit.Options{
			Addr: "127.0.0.1:0", CPU: -1, Size: 8 << 20, RAM: true, Connections: 8, Congestion: "cubic",
			Ready: func(a netip.AddrPort) { ready <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "iscsi://" + (<-ready).String() + "/iqn.2026-11.io.spindle:limit"
}

func TestRun(t *testing.T) {
	url := responder(t)
	status, out, errOut := call(t, "run", "--runtime", "0.6", url+"/1", "--ramp=0.05", "--rw", "randrw", "--verify", "crc32c", "--iodepth", "8")
	if status != exitOK {
		t.Fatalf("status %d\n%s", status, errOut)
	}
	// The target is this very process, which it finds by its port.
	for _, want := range []string{"read: IOPS=", "write: IOPS=", "99.90th=[", "verify:", "target, for an I/O: CPU "} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	status, out, errOut = call(t, "run", "--runtime", "0.6", url+"/0", "--ramp", "0", "--json")
	var doc struct {
		Jobs []struct{ Read struct{ IOPS float64 } }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || status != exitOK || len(doc.Jobs) != 1 || doc.Jobs[0].Read.IOPS <= 0 {
		t.Errorf("status %d, %v\n%s%s", status, err, out, errOut)
	}
	status, out, errOut = call(t, "run", "--runtime", "0.05", url+"/0", "--ramp", "0", "--rate", "1")
	if status != exitError || out != "" || !strings.Contains(errOut, "no I/O ended within 50ms") {
		t.Errorf("nothing was measured: status %d\n%s%s", status, out, errOut)
	}
}

// heapTeller is the RPC socket of a target that allocates 500 objects of 8 bytes,
// and collects them, between the last two times that it is asked.
func heapTeller(t *testing.T) (socket string) {
	t.Helper()
	socket = testbed.Socket(t, func(conn net.Conn) {
		in := json.NewDecoder(conn)
		for objects, collections, n := 0, 0, 0; ; n++ {
			var request any
			if in.Decode(&request) != nil {
				return
			}
			if objects += 10; n == 9 { // it is asked 8 times to know what asking costs
				objects, collections = objects+500, 1
			}
			fmt.Fprintf(conn, `{"result":{"tick_rate":1000,"objects":%d,"bytes":%d,"collections":%d,"paused":%d}}`+"\n", objects, 8*objects, collections, 7*collections)
		}
	})
	return socket
}

func TestRunTellsCosts(t *testing.T) {
	url := responder(t)
	run := []string{"run", "--runtime", "0.3", "--ramp", "0", url + "/0", "--iodepth", "4"}
	status, out, errOut := call(t, append(run, "--json", "--rpc-socket", heapTeller(t))...)
	var doc struct {
		Jobs []struct {
			Read struct {
				IOs float64 `json:"total_ios"`
			}
			Heap counters.Heap      `json:"target_heap"`
			Each map[string]float64 `json:"target_per_io"`
		}
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || status != exitOK || len(doc.Jobs) != 1 {
		t.Fatalf("status %d, %v\n%s%s", status, err, out, errOut)
	}
	job := doc.Jobs[0]
	if want := (counters.Heap{Objects: 500, Bytes: 4000, Collections: 1, Pauses: 7 * time.Millisecond}); job.Heap != want {
		t.Errorf("%+v, want %+v", job.Heap, want)
	}
	if each := job.Each; each["allocations"] != 500/job.Read.IOs || each["allocated_bytes"] != 4000/job.Read.IOs || each["cpu_ns"] <= 0 {
		t.Errorf("%v for each of %v", each, job.Read.IOs)
	}
	if m, err := counters.Open(counters.Target{PID: os.Getpid()}, true); err == nil && m.Source == "eBPF" {
		m.Close()
		if job.Each["syscalls"] <= 0 {
			t.Errorf("no system calls: %v", job.Each)
		}
	}
	_, out, errOut = call(t, append(run, "--rpc-socket", heapTeller(t))...)
	for _, want := range []string{"allocations 0.", "target: 1 garbage collections stopped it for 7ms altogether"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s%s", want, out, errOut)
		}
	}
	if status, _, errOut := call(t, append(run, "--rpc-socket", "/nowhere/s")...); status != exitError || !strings.Contains(errOut, "/nowhere/s") {
		t.Errorf("no such socket: status %d, %s", status, errOut)
	}
}

func TestCompareAndReport(t *testing.T) {
	url, dir := responder(t), t.TempDir()
	status, out, errOut := call(t, "compare", "--peers", "one="+url+"/0,two="+url+"/0,lio", "--workloads", "null:randread:4k:4",
		"--rounds", "3", "--runtime", "0.4", "--ramp", "0", "--max-spread", "1e9", "--out", dir)
	if status != exitOK {
		t.Fatalf("status %d\n%s", status, errOut)
	}
	if !strings.Contains(errOut, "LIO is absent") || !strings.Contains(out, "null, 4K randread, QD 4") {
		t.Errorf("%s%s", out, errOut)
	}
	for _, name := range []string{"result.json", "report.html", "report.md", "ratios.svg"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	again := t.TempDir()
	if status, _, errOut := call(t, "report", filepath.Join(dir, "result.json"), "--out", again); status != exitOK {
		t.Fatalf("status %d\n%s", status, errOut)
	}
	a, _ := os.ReadFile(filepath.Join(dir, "report.html"))
	b, _ := os.ReadFile(filepath.Join(again, "report.html"))
	if len(a) == 0 || !bytes.Equal(a, b) {
		t.Error("the report made again is another")
	}
}

// TestStandardRows measures one row, then another: both are in the result.
func TestStandardRows(t *testing.T) {
	url, dir := responder(t), t.TempDir()
	for _, row := range []string{"limit-qd1", "limit-4k"} {
		status, out, errOut := call(t, "compare", "--workloads", "standard", "--only", row, "--peers", "spindle="+url+"/0,limit="+url+"/0",
			"--rounds", "3", "--max-rounds", "3", "--runtime", "0.2", "--ramp", "0", "--max-spread", "1e9", "--out", dir)
		if status != exitOK || !strings.Contains(out, "goals: ") {
			t.Fatalf("status %d\n%s%s", status, out, errOut)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| limit-qd1 | canned limit | 4K, QD 1: p50 | ≤ 1.15x |", "| limit-4k | canned limit | 4K, QD 32: IOPS | ≥ 0.85x |"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
}
