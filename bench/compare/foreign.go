package compare

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"spindle/bench/counters"
	"spindle/bench/peer"
)

// Initiators there are.
const (
	Own   = "own"        // bench/load
	Perf  = "iscsi-perf" // libiscsi's: reads only, no latencies, and soon its own limit
	edges = 500 * time.Millisecond
)

// CheckInitiator tells whether an initiator is here and can do the workloads.
func CheckInitiator(name string, workloads []Workload) error {
	switch name {
	case Own:
		return nil
	case FIO:
		return checkFIO(workloads)
	case Perf:
	default:
		return fmt.Errorf("there is no initiator %q, only %s, %s and %s", name, Own, Perf, FIO)
	}
	if _, err := exec.LookPath(Perf); err != nil {
		return errors.New("iscsi-perf is absent: apt-get install libiscsi-bin")
	}
	for _, w := range workloads {
		if w.RW != "read" && w.RW != "randread" || w.Connections != 1 || w.Digests || w.Transport == ISER {
			return fmt.Errorf("iscsi-perf reads over TCP, on one connection, without digests: it cannot do %s", w.Name())
		}
	}
	return nil
}

var average = regexp.MustCompile(`iops average (\d+)`)

// perf is one run of iscsi-perf. Its seconds are whole ones, and it does not
// tell when it begins: what the target does is counted in the middle of the run.
func (p *Plan) perf(ctx context.Context, w Workload, c *contestant) (*Sample, error) {
	seconds := max(2, int(p.Method.Runtime.Seconds()+0.5))
	args := []string{"-m", strconv.Itoa(w.Depth), "-b", strconv.Itoa(int(w.Size / 512)), "-t", strconv.Itoa(seconds)}
	if w.RW == "randread" {
		args = append(args, "-r")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+stuck)
	defer cancel()
	cmd := exec.CommandContext(ctx, Perf, append(args, c.run.URLs[w.LUN])...)
	ended := make(chan error, 1)
	var out []byte
	go func() {
		var err error
		out, err = peer.Output(p.Method.InitiatorCPU, cmd)
		ended <- err
	}()
	counted, window, err := middle(ctx, c.run.PID, time.Duration(seconds)*time.Second)
	if e := <-ended; e != nil {
		return nil, fmt.Errorf("iscsi-perf: %w\n%s", e, out)
	}
	if err != nil {
		return nil, err
	}
	all := average.FindAllSubmatch(out, -1)
	if len(all) == 0 {
		return nil, fmt.Errorf("iscsi-perf: no figure in\n%s", out)
	}
	iops, _ := strconv.ParseFloat(string(all[len(all)-1][1]), 64)
	if iops == 0 {
		return nil, errors.New("iscsi-perf: no I/O")
	}
	return &Sample{IOPS: iops, MBps: iops * float64(w.Size) / 1e6, IOs: uint64(max(1, iops*window.Seconds())), Counts: counted}, nil
}

// stuck is how long iscsi-perf may take beyond its time: it tries for ever to
// reach a target that has gone.
const stuck = 10 * time.Second

// middle counts a process in a run of that length, without its edges.
func middle(ctx context.Context, pid int, length time.Duration) (counters.Counts, time.Duration, error) {
	window := length - 2*edges
	if pid == 0 {
		return counters.Counts{Wakeups: counters.Unknown, Syscalls: counters.Unknown}, window, nil
	}
	m, err := counters.Open(counters.Target{PID: pid}, false)
	if err != nil {
		return counters.Counts{}, window, err
	}
	defer m.Close()
	sleep := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	sleep(edges)
	from, err := m.Read()
	begin := time.Now()
	sleep(window)
	to, err2 := m.Read()
	return to.Sub(from), time.Since(begin), errors.Join(err, err2)
}
