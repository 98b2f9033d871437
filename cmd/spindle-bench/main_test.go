package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spindle/bench/limit"
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
		{"iSER", "run iser://a/b/0", exitUsage, "iSER"},
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
	for _, want := range []string{"read: IOPS=", "write: IOPS=", "99.90th=[", "verify:", "target: CPU"} {
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
