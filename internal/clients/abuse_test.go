package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"spindle/internal/sys"
	"spindle/internal/testbed"
)

// What a target may take under abuse: --mem and a tenth of it, its LUN in
// memory, and its floor, which is what the Go runtime may use (GOMEMLIMIT, 256
// MiB where nothing is said) and the pages of the binary itself.
const (
	abuseMem   = 64 << 20
	abuseHeap  = 64 << 20
	abuseSpan  = 16 << 20 // of the LUN
	leastRatio = 0.7
)

// abuse is a run of TestAbuse.
type abuse struct {
	t              *testing.T
	target         *testbed.Target
	tried, logouts atomic.Int64 // logins of abusers, and the logouts that were answered
}

// TestAbuse: a verified stream goes on without an error while half-open
// connections, slow logins, oversized requests, scans, logins by the thousand and
// random bytes come to the same portal; what is abuse is counted, and memory
// stays within bounds.
//
// $ABUSE is for how long, 10m say. Then the stream has to keep 0.7 of its IOPS,
// too: those that it has while another process uses as much of the CPUs as the
// abusers do. In a few seconds that says little, and is only printed.
func TestAbuse(t *testing.T) {
	round, rounds, long := 5*time.Second, 1, false
	if s := os.Getenv("ABUSE"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < time.Minute {
			t.Fatalf("ABUSE=%s: %v; write a time from 1m on", s, err)
		}
		long, round = true, 20*time.Second
		rounds = int(d / (round + round/2))
	}
	cores, cpu := apart(t)
	a := &abuse{t: t, target: start(t, testbed.Options{
		LUNs: []testbed.LUN{{Module: "malloc"}, {ID: testbed.Null, Module: "null", Blocks: 1 << 20}}, SizeMiB: abuseSpan >> 20,
		Args:  []string{"--cores", cores, "--mem", strconv.Itoa(abuseMem)},
		Env:   []string{"GOMEMLIMIT=" + strconv.Itoa(abuseHeap)},
		ISCSI: map[string]any{"login_timeout": loginTimeout},
	})}
	a.rpc(nil, "bdev_null_create", "name=noise", "block_size=512", "num_blocks=1048576")
	a.rpc(nil, "iscsi_create_target_node", "name="+noiseNode, "alias_name=noise", "queue_depth=16", "disable_chap=true",
		`luns=[{"lun_id":0,"bdev_name":"noise"}]`, `pg_ig_maps=[{"pg_tag":1,"ig_tag":1}]`)
	floor := a.status("RssFile") + abuseHeap
	fds := measure(t, a.target.PID()).fds

	calm := round / 4
	wait := a.stream(cpu, calm+time.Duration(rounds)*(round+round/2)+2*time.Second)
	before := a.counters()
	alone := a.iops(calm)
	kinds := a.abusers()
	var under, beside, cpus float64
	worst := math.Inf(1)
	for range rounds {
		iops, load := a.under(kinds, round)
		base := a.besides(load, round/2)
		under, beside, cpus = under+iops, beside+base, cpus+load
		worst = min(worst, iops/base)
	}
	after := a.counters()
	wait()

	for _, k := range kinds {
		t.Attr(strings.ReplaceAll(k.name, " ", "-"), fmt.Sprintf("%d connections, %d of them not let in", k.count.Load(), k.refused.Load()))
		if k.count.Load() == 0 {
			t.Errorf("%s: none came to an end", k.name)
		}
	}
	n := float64(rounds)
	t.Attr("IOPS", fmt.Sprintf("%.0f alone, %.0f beside %.2f CPUs of another load, %.0f under abuse: ratio %.2f, worst of %d rounds %.2f",
		alone, beside/n, cpus/n, under/n, under/beside, rounds, worst))
	if long && under/beside < leastRatio {
		t.Errorf("the stream keeps %.2f of its IOPS, want %.1f", under/beside, leastRatio)
	}
	for _, name := range []string{"limit_pending_logins", "limit_pending_logins_per_address", "limit_login_timeout", "limit_text_rounds", "login_failures", "rejects"} {
		if after[name] <= before[name] {
			t.Errorf("%s is not counted: %d", name, after[name])
		}
	}
	if got := after["logins"] - before["logins"]; got > a.tried.Load() || got < a.logouts.Load() {
		t.Errorf("%d logins counted; %d were tried, and %d logged out", got, a.tried.Load(), a.logouts.Load())
	}
	waitFDs(t, a.target, fds)
	most := abuseMem + abuseMem/10 + abuseSpan + floor
	peak := a.status("VmHWM") + a.status("HugetlbPages")
	t.Attr("memory", fmt.Sprintf("at most %d MiB, of %d: --mem %d and a tenth, LUN %d, floor %d", peak>>20, most>>20, abuseMem>>20, abuseSpan>>20, floor>>20))
	if peak > most {
		t.Errorf("memory reached %d bytes, want %d at most", peak, most)
	}
}

// apart is the core mask of the target and the stream's CPU: two where there are two.
func apart(t *testing.T) (mask, cpu string) {
	set, err := sys.Affinity()
	if err != nil {
		t.Fatal(err)
	}
	cpus := sys.CPUs(set)
	cpu = "-1"
	if len(cpus) > 1 {
		cpu = strconv.Itoa(cpus[0])
	}
	return fmt.Sprintf("[%d]", cpus[len(cpus)-1]), cpu
}

// stream starts spindle-bench with verification; wait has it end, and checks
// that it saw no error.
func (a *abuse) stream(cpu string, d time.Duration) (wait func()) {
	a.t.Helper()
	bench := filepath.Join(filepath.Dir(os.Getenv("SPINDLE_BIN")), "spindle-bench")
	cmd := exec.CommandContext(a.t.Context(), bench, "run", "--json", "--verify", "crc32c", "--rw", "randrw", "--iodepth", "16", "--cpu", cpu,
		"--runtime", d.String(), a.target.URL(testbed.Malloc))
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	goal := a.done() + 1000
	if !eventually(func() bool { return a.done() > goal }) {
		a.t.Fatalf("the stream does not begin\n%s", &failed)
	}
	return func() {
		a.t.Helper()
		if err := <-ended; err != nil {
			a.t.Fatalf("the stream: %v\n%s", err, &failed)
		}
		var r struct {
			Jobs []struct {
				Error, Verified, Retries int64
			}
		}
		if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Jobs) != 1 {
			a.t.Fatalf("%v\n%s", err, &out)
		}
		a.t.Attr("stream", fmt.Sprintf("%d reads verified, %d commands sent again", r.Jobs[0].Verified, r.Jobs[0].Retries))
		if j := r.Jobs[0]; j.Error != 0 || j.Verified == 0 || j.Retries != 0 {
			a.t.Errorf("the stream: error %d, %d reads verified, %d commands sent again", j.Error, j.Verified, j.Retries)
		}
	}
}

// under is the stream's IOPS under abuse, and how many CPUs that took the abusers.
func (a *abuse) under(kinds []*abuser, d time.Duration) (iops, cpus float64) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for kind, k := range kinds {
		for worker := range k.workers {
			wg.Go(func() {
				if err := k.run(a.target.Addr(), kind, worker, stop); err != nil {
					a.t.Error(err)
				}
			})
		}
	}
	began, used := time.Now(), cpuTime(a.t, syscall.RUSAGE_SELF)
	iops = a.iops(d)
	cpus = (cpuTime(a.t, syscall.RUSAGE_SELF) - used).Seconds() / time.Since(began).Seconds()
	close(stop)
	wg.Wait()
	return iops, cpus
}

// besides is the stream's IOPS while this process uses as many CPUs and does nothing.
func (a *abuse) besides(cpus float64, d time.Duration) float64 {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	threads := int(math.Ceil(cpus))
	for range threads {
		wg.Go(func() { burn(a.t, cpus/float64(threads), stop) })
	}
	defer wg.Wait()
	defer close(stop)
	return a.iops(d)
}

// rusageThread is RUSAGE_THREAD of getrusage(2).
const rusageThread = 1

// burn uses a share of a CPU.
func burn(t *testing.T, share float64, stop <-chan struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, used := time.Now(), cpuTime(t, rusageThread)
	for x := uint32(1); ; {
		select {
		case <-stop:
			return
		default:
		}
		if (cpuTime(t, rusageThread) - used).Seconds() > share*time.Since(began).Seconds() {
			time.Sleep(time.Millisecond)
			continue
		}
		for range 20_000 {
			x = x*1664525 + 1013904223
		}
	}
}

func cpuTime(t *testing.T, who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		t.Error(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// iops watches the stream for d.
func (a *abuse) iops(d time.Duration) float64 {
	from, began := a.done(), time.Now()
	time.Sleep(d)
	return float64(a.done()-from) / time.Since(began).Seconds()
}

// done is how many commands of the stream are done: nobody else is at its LUN.
func (a *abuse) done() int64 {
	var r struct {
		Bdevs []struct {
			Reads  int64 `json:"num_read_ops"`
			Writes int64 `json:"num_write_ops"`
		}
	}
	a.rpc(&r, "bdev_get_iostat", "name=malloc0")
	if len(r.Bdevs) != 1 {
		a.t.Fatalf("%+v", r)
	}
	return r.Bdevs[0].Reads + r.Bdevs[0].Writes
}

func (a *abuse) counters() map[string]int64 {
	var c map[string]int64
	a.rpc(&c, "iscsi_get_counters")
	return c
}

func (a *abuse) rpc(result any, args ...string) {
	a.t.Helper()
	out, err := a.target.RPC(a.t.Context(), args...)
	if err == nil && result != nil {
		err = json.Unmarshal(out, result)
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// status is a line of the target's /proc/PID/status, in bytes.
func (a *abuse) status(name string) int64 {
	a.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.target.PID()))
	if err != nil {
		a.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				a.t.Fatal(err)
			}
			return kib << 10
		}
	}
	a.t.Fatalf("no %s in\n%s", name, text)
	return 0
}
