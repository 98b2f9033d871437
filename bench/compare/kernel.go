package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"spindle/bench/counters"
	"spindle/bench/load"
	"spindle/bench/peer"
)

// FIO is fio on the disks of the kernel's initiator: the one way to iSER, and to
// what those see who mount such a disk. Its sessions last as long as the
// comparison, so nobody is stopped meanwhile; an idle target costs nothing, and
// the one that spins for ever is stopped all the same.
const FIO = "fio"

// ISER and TCP are the transports.
const (
	TCP  = "tcp"
	ISER = "iser"
)

const (
	loginTime = 40 * time.Second
	diskTime  = 20 * time.Second
	fioStart  = 10 * time.Second // until it begins, on a slow machine
	fioEnd    = 10 * time.Second // from its interrupt to its report
	idleSpin  = 2 * time.Second  // for which an idle spinning target is looked at

	// spinRounds are enough of the target that spins for ever: it is shown, not judged.
	spinRounds = 3
)

// workers are what a kernel does its work in: RDMA completions, timers, soft
// interrupts.
var workers = counters.Target{Prefixes: []string{"kworker/", "ksoftirq"}}

func checkFIO(workloads []Workload) error {
	for _, program := range []string{"fio", "iscsiadm"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is absent: apt-get install fio open-iscsi", program)
		}
	}
	for _, w := range workloads {
		if w.Connections != 1 || w.Digests {
			return fmt.Errorf("the kernel's initiator is given one connection without digests: it cannot do %s", w.Name())
		}
	}
	return nil
}

// disk is a LUN as the kernel's initiator shows it.
type disk struct{ name string } // sda, say

func (d disk) set(attribute, value string) error {
	return os.WriteFile(filepath.Join("/sys/block", d.name, "queue", attribute), []byte(value), 0o644)
}

// ios is how many requests it has completed (Documentation/block/stat.rst).
func (d disk) ios() uint64 {
	f := strings.Fields(text(filepath.Join("/sys/block", d.name, "stat")))
	if len(f) < 5 {
		return 0
	}
	reads, _ := strconv.ParseUint(f[0], 10, 64)
	writes, _ := strconv.ParseUint(f[4], 10, 64)
	return reads + writes
}

// session is one of the kernel's initiator's.
type session struct {
	target, portal string
	disks          map[string]disk // by LUN kind
}

func iscsiadm(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "iscsiadm", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("iscsiadm %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func sessions() []string {
	list, _ := filepath.Glob("/sys/class/iscsi_session/session*") // the pattern is a good one
	return list
}

// login opens a session to the target of these URLs, and waits for its disks.
func login(ctx context.Context, transport string, urls map[string]string) (*session, error) {
	s := &session{disks: map[string]disk{}}
	luns := map[string]uint16{}
	for kind, url := range urls {
		a, err := load.ParseURL("iscsi" + url[strings.Index(url, "://"):])
		if err != nil {
			return nil, err
		}
		s.target, s.portal, luns[kind] = a.Target, a.Host, a.LUN
	}
	node := func(more ...string) error {
		return iscsiadm(ctx, append([]string{"-m", "node", "-T", s.target, "-p", s.portal}, more...)...)
	}
	via := "default"
	if transport == ISER {
		via = "iser"
	}
	before := sessions()
	if err := iscsiadm(ctx, "-m", "node", "-o", "new", "-T", s.target, "-p", s.portal+",1", "-I", via); err != nil {
		return nil, err
	}
	for _, option := range [][2]string{
		{"node.session.cmds_max", "256"}, {"node.session.queue_depth", "128"},
		// A target that is stopped does not answer pings.
		{"node.conn[0].timeo.noop_out_interval", "0"}, {"node.conn[0].timeo.noop_out_timeout", "0"},
	} {
		if err := node("-o", "update", "-n", option[0], "-v", option[1]); err != nil {
			return nil, err
		}
	}
	if err := node("-I", via, "--login"); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(sessions(), func(name string) bool { return !slices.Contains(before, name) })
	if i < 0 {
		return nil, fmt.Errorf("no session to %s at %s", s.target, s.portal)
	}
	id := sessions()[i]
	for kind, lun := range luns {
		d, err := find(ctx, id, lun)
		if err != nil {
			return nil, err
		}
		for _, a := range [][2]string{{"scheduler", "none"}, {"nomerges", "2"}, {"add_random", "0"}} {
			if err := d.set(a[0], a[1]); err != nil {
				return nil, err
			}
		}
		s.disks[kind] = d
	}
	return s, nil
}

// find waits for the disk of a session's LUN, and for its queue's attributes,
// which Linux makes after the disk.
func find(ctx context.Context, session string, lun uint16) (disk, error) {
	for deadline := time.Now().Add(diskTime); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		found, _ := filepath.Glob(fmt.Sprintf("%s/device/target*/*:%d/block/*", session, lun))
		if len(found) == 1 {
			name := filepath.Base(found[0])
			_, node := os.Stat("/dev/" + name)
			_, queue := os.Stat(found[0] + "/queue/scheduler")
			if node == nil && queue == nil {
				return disk{name}, nil
			}
		}
	}
	return disk{}, fmt.Errorf("%s shows no disk of LUN %d within %v", filepath.Base(session), lun, diskTime)
}

func (s *session) logout() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*loginTime)
	defer cancel()
	node := []string{"-m", "node", "-T", s.target, "-p", s.portal}
	return errors.Join(iscsiadm(ctx, append(node, "--logout")...), iscsiadm(ctx, append(node, "-o", "delete")...))
}

// connect opens the sessions of a contestant and begins to count it.
func (p *Plan) connect(ctx context.Context, c *contestant, r *Result) error {
	c.sessions = map[string]*session{}
	for _, w := range p.Workloads {
		t := w.transport()
		if c.sessions[t] != nil {
			continue
		}
		urls, err := c.urls(t)
		if err != nil {
			return err
		}
		s, err := login(ctx, t, urls)
		if err != nil {
			return err
		}
		c.sessions[t] = s
	}
	m, err := counters.Open(counters.Target{PID: c.run.PID, Prefixes: c.run.Threads}, false)
	if err != nil {
		return err
	}
	c.meter = m
	if c.heap, err = counters.OpenHeap(c.run.Control); err != nil {
		return err
	}
	counted := m.Source
	if m.Note != "" {
		counted += ", " + m.Note
	}
	if c.run.PID == 0 {
		counted += fmt.Sprintf(" in kernel threads %s*", strings.Join(c.run.Threads, "*, "))
	}
	about(r, c.name).Counted = counted
	return nil
}

// disconnect ends what connect began.
func (c *contestant) disconnect() error {
	var err error
	for _, s := range c.sessions {
		err = errors.Join(err, s.logout())
	}
	if c.meter != nil {
		c.meter.Close()
	}
	c.heap.Close()
	c.sessions, c.meter, c.heap = nil, nil, nil
	return err
}

// kernel is what a contestant has with the kernel's initiator.
type kernel struct {
	sessions map[string]*session // by transport
	meter    *counters.Meter
	heap     *counters.HeapMeter
	written  []string // transports whose LUN in memory was written through
}

// settle opens the sessions of the kernel's initiator, which last.
func (p *Plan) settle(ctx context.Context, list []*contestant, r *Result) error {
	for _, c := range list {
		c.run.Resume()
		if err := p.connect(ctx, c, r); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		c.pause()
		p.Log("%s: the kernel's initiator is logged in", c.name)
	}
	var err error
	if p.workers, err = counters.Open(workers, false); err != nil {
		return err
	}
	for _, c := range list {
		if c.name == peer.Spinning {
			if r.IdleSpin, err = idleRate(c); err != nil {
				return err
			}
			p.Log("%s: %.0f voluntary context switches a second without work", c.name, r.IdleSpin)
		}
	}
	return nil
}

// idleSwitches is the rate of switches that a peer has without work.
func idleSwitches(name string, r *Result) float64 {
	if name == r.Method.Subject || name == peer.Spinning {
		return r.IdleSpin
	}
	return 0
}

// reading is everything counted, at one moment.
type reading struct {
	at      time.Time
	ios     uint64
	target  counters.Counts
	workers counters.Counts
	system  int64 // context switches of the whole machine
	busy    float64
	heap    *counters.Heap // since the reading before
}

func (p *Plan) read(c *contestant, d disk) (x reading, err error) {
	x.busy = busyTime(c.run.Control)
	if x.heap, err = c.heap.Read(); err != nil {
		return x, err
	}
	x.target, err = c.meter.Read()
	if p.workers != nil && err == nil {
		x.workers, err = p.workers.Read()
	}
	x.system = switches()
	x.at, x.ios = time.Now(), d.ios()
	return x, err
}

// switches is the machine's count of context switches (proc(5)).
func switches() int64 {
	for line := range strings.Lines(text("/proc/stat")) {
		if v, ok := strings.CutPrefix(line, "ctxt "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// fioSide is what is read of fio's report: of reads or of writes.
type fioSide struct {
	IOs     float64 `json:"total_ios"`
	Latency struct {
		Mean, Max  float64
		Percentile map[string]float64
	} `json:"lat_ns"`
}

type fioReport struct {
	Jobs []struct {
		Error       int
		Read, Write fioSide
		Runtime     float64 `json:"job_runtime"` // ms
		User        float64 `json:"usr_cpu"`     // percent
		System      float64 `json:"sys_cpu"`
	}
}

func fioArgs(w Workload, d disk, size uint64, cpu int) []string {
	args := []string{
		"--name=bench", "--thread", "--filename=/dev/" + d.name, "--direct=1", "--ioengine=libaio", "--rw=" + w.RW,
		"--bs=" + strconv.Itoa(int(w.Size)), "--iodepth=" + strconv.Itoa(w.Depth), "--size=" + strconv.FormatUint(size, 10),
		"--norandommap", "--randrepeat=0", "--output-format=json", "--lat_percentiles=1", "--clat_percentiles=0", "--percentile_list=50:99:99.9",
	}
	if w.mixed() {
		args = append(args, "--rwmixread="+strconv.Itoa(w.Mix))
	}
	if cpu >= 0 {
		args = append(args, "--cpus_allowed="+strconv.Itoa(cpu))
	}
	return args
}

func milliseconds(t time.Duration) string { return strconv.FormatInt(t.Milliseconds(), 10) + "ms" }

// fio is one run on the kernel's disk. What the target does, and how many
// requests the disk completes meanwhile, is counted from outside, in the middle
// of the run: fio's own report is believed for latencies only.
func (p *Plan) fio(ctx context.Context, w Workload, c *contestant) (*Sample, error) {
	d, m := c.sessions[w.transport()].disks[w.LUN], p.Method
	ctx, interrupt := context.WithCancel(ctx)
	defer interrupt()
	args := append(fioArgs(w, d, m.LUNSize, m.InitiatorCPU), "--time_based", "--ramp_time="+milliseconds(m.Ramp), "--runtime="+milliseconds(m.Runtime+fioStart))
	cmd := exec.CommandContext(ctx, "fio", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it reports what it has
	cmd.WaitDelay = fioEnd
	idle := d.ios()
	var out []byte
	ended := make(chan error, 1)
	go func() {
		var err error
		out, err = peer.Output(m.InitiatorCPU, cmd)
		ended <- err
	}()
	from, to, err := p.window(c, d, idle)
	over := len(ended) > 0
	interrupt()
	e := <-ended
	if over || err != nil {
		return nil, fmt.Errorf("fio ended too early: %w\n%s", errors.Join(e, err), out)
	}
	s, err := latencies(out)
	if err != nil {
		return nil, err
	}
	s.IOs = to.ios - from.ios
	if s.IOs == 0 {
		return nil, fmt.Errorf("no I/O ended within %v", m.Runtime)
	}
	s.Elapsed = to.at.Sub(from.at)
	s.IOPS = float64(s.IOs) / s.Elapsed.Seconds()
	s.MBps = s.IOPS * float64(w.Size) / 1e6
	s.Counts, s.Workers, s.System, s.Busy = to.target.Sub(from.target), to.workers.Sub(from.workers), to.system-from.system, to.busy-from.busy
	s.Heap = to.heap
	return s, nil
}

// window waits for fio's first requests and its ramp, and reads the counters at
// both ends of the time to be measured.
func (p *Plan) window(c *contestant, d disk, idle uint64) (from, to reading, err error) {
	for deadline := time.Now().Add(fioStart); d.ios() == idle; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return from, to, errors.New("it does not begin")
		}
	}
	time.Sleep(p.Method.Ramp)
	if from, err = p.read(c, d); err != nil {
		return from, to, err
	}
	time.Sleep(p.Method.Runtime)
	to, err = p.read(c, d)
	return from, to, err
}

// latencies makes a sample of fio's report.
func latencies(out []byte) (*Sample, error) {
	at := max(0, strings.IndexByte(string(out), '{')) // notes may come before it
	var r fioReport
	if err := json.Unmarshal(out[at:], &r); err != nil {
		return nil, fmt.Errorf("fio's report: %w\n%s", err, out)
	}
	if len(r.Jobs) != 1 || r.Jobs[0].Error != 0 {
		return nil, fmt.Errorf("fio failed\n%s", out)
	}
	j := r.Jobs[0]
	side, ios := j.Read, j.Read.IOs+j.Write.IOs
	if j.Write.IOs > side.IOs {
		side = j.Write
	}
	us := func(p string) float64 { return side.Latency.Percentile[p] / 1e3 }
	s := &Sample{Mean: side.Latency.Mean / 1e3, Max: side.Latency.Max / 1e3, P50: us("50.000000"), P99: us("99.000000"), P999: us("99.900000")}
	if ios > 0 {
		s.Own = (j.User + j.System) / 100 * j.Runtime * 1e6 / ios
	}
	return s, nil
}

// fillDisk writes a LUN in memory through once.
func (p *Plan) fillDisk(ctx context.Context, w Workload, c *contestant) error {
	if c.dead != nil || slices.Contains(c.written, w.transport()) {
		return nil
	}
	w.RW, w.Size, w.Depth = "write", 256<<10, 4
	cmd := exec.CommandContext(ctx, "fio", fioArgs(w, c.sessions[w.transport()].disks[w.LUN], p.Method.LUNSize, p.Method.InitiatorCPU)...)
	out, err := peer.Output(p.Method.InitiatorCPU, cmd)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	c.written = append(c.written, w.transport())
	return nil
}

// idleRate is how often a second a target that spins in vain is switched out of
// its own accord: the Go runtime takes a thread that never sleeps off its
// processor a hundred times a second and puts it back. What a target does for
// an I/O is beside that.
func idleRate(c *contestant) (float64, error) {
	c.run.Resume()
	defer c.pause()
	time.Sleep(idleSpin / 4)
	from, err := c.meter.Read()
	begin := time.Now()
	if err != nil {
		return 0, err
	}
	time.Sleep(idleSpin)
	to, err := c.meter.Read()
	return float64(to.Sub(from).Voluntary) / time.Since(begin).Seconds(), err
}

// pause stops a contestant while another is measured. One with sessions of the
// kernel's goes on, unless it would spin.
func (c *contestant) pause() {
	if c.sessions == nil || c.name == peer.Spinning {
		c.run.Pause()
	}
}
