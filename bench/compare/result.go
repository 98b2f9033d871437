package compare

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"spindle/bench/counters"
)

// Result is a comparison, as it is stored.
type Result struct {
	Tool     string        `json:"tool"`
	Started  time.Time     `json:"started"`
	Took     time.Duration `json:"took_ns"`
	Machine  Machine       `json:"machine"`
	Method   Method        `json:"method"`
	Peers    []Peer        `json:"peers"`
	Cells    []Cell        `json:"cells"`
	Goals    []Goal        `json:"goals,omitempty"`
	Warnings []string      `json:"warnings,omitempty"`
	// IdleSpin is how often a second Spindle, spinning without work, is switched
	// out of its own accord; measured beside peer.Spinning.
	IdleSpin float64 `json:"idle_spin_per_s,omitempty"`
}

// Method is how it was measured.
type Method struct {
	Rounds       int           `json:"rounds"`
	MaxRounds    int           `json:"max_rounds"` // while the spread is too wide
	Runtime      time.Duration `json:"runtime_ns"`
	Ramp         time.Duration `json:"ramp_ns"`
	TargetCPU    int           `json:"target_cpu"`
	InitiatorCPU int           `json:"initiator_cpu"`
	LUNSize      uint64        `json:"lun_size"`
	MaxSpread    float64       `json:"max_spread"`
	Congestion   string        `json:"congestion"`
	Transport    string        `json:"transport"`
	Initiator    string        `json:"initiator"`
	Host         string        `json:"host,omitempty"`
	Subject      string        `json:"subject"` // the peer that ratios are of
}

// Peer is a target that took part, or why it did not.
type Peer struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Version string `json:"version,omitempty"`
	Absent  string `json:"absent,omitempty"`
	Counted string `json:"counted,omitempty"` // by what: eBPF or /proc
}

// Cell is a workload and what every peer did with it.
type Cell struct {
	Workload Workload `json:"workload"`
	Name     string   `json:"name"`
	Title    string   `json:"title"`
	Subject  string   `json:"subject,omitempty"` // the figure that ratios are of
	Figures  []Figure `json:"figures"`
	Ratios   []Ratio  `json:"ratios,omitempty"`
}

// Figure is what one peer did. Where one peer has several figures in a cell, each
// is called by what it did.
type Figure struct {
	Peer    string   `json:"peer"`
	Samples []Sample `json:"samples"`
	Error   string   `json:"error,omitempty"`
	Failed  int      `json:"failed,omitempty"` // runs that are not among the samples

	IOPS        Interval `json:"iops"`
	P50         Interval `json:"p50_us"`
	P99         Interval `json:"p99_us"`
	P999        Interval `json:"p999_us"`
	CPU         float64  `json:"cpu_ns_per_io"`        // of the target, all its threads
	Busy        float64  `json:"busy_ns_per_io"`       // less what it polled in vain; 0 if it does not tell
	Voluntary   float64  `json:"voluntary_per_io"`     // context switches of the target
	Involuntary float64  `json:"involuntary_per_io"`   // context switches of the target
	Net         float64  `json:"voluntary_net_per_io"` // voluntary, less what it has without work
	Workers     float64  `json:"workers_per_io"`       // switches of kernel workers and ksoftirqd; kernel's initiator only
	System      float64  `json:"system_per_io"`        // switches of the whole machine; likewise
	Wakeups     float64  `json:"wakeups_per_io"`       // counters.Unknown when unknown
	Syscalls    float64  `json:"syscalls_per_io"`      // counters.Unknown when unknown
	Initiator   float64  `json:"initiator_busy_ns_io"` // of the load generator
	// Collector is what the garbage collector of a target in Go did, in all rounds
	// together; nil where there is none.
	Collector *counters.GC `json:"collector,omitempty"`
	// Heap is what a target that tells allocates; nil where it does not.
	Heap  *Heap   `json:"heap,omitempty"`
	Curve []Point `json:"latency_curve,omitempty"` // of all rounds together

	goTarget bool // it told of its collections
}

// Heap is what a target in Go allocates for an I/O, and how it collected that in
// all rounds together.
type Heap struct {
	Objects     float64       `json:"objects_per_io"`
	Bytes       float64       `json:"bytes_per_io"`
	Collections int64         `json:"collections"`
	Pauses      time.Duration `json:"pauses_ns"`
}

// Point of a latency curve.
type Point struct {
	Percentile float64 `json:"p"`
	Micros     float64 `json:"us"`
}

// Sample is one run.
type Sample struct {
	Round int     `json:"round"`
	IOPS  float64 `json:"iops"`
	MBps  float64 `json:"mbps"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
	IOs   uint64  `json:"ios"`
	// Elapsed is the measured time.
	Elapsed time.Duration   `json:"elapsed_ns"`
	Counts  counters.Counts `json:"target"`
	// Collector is what a target in Go collected meanwhile.
	Collector counters.GC    `json:"collector"`
	Heap      *counters.Heap `json:"heap,omitempty"`      // nil: it does not tell
	Garbage   float64        `json:"garbage_s,omitempty"` // bytes a second that RPCs made meanwhile, in the target or in another
	Busy      float64        `json:"target_busy_ns"`
	Own       float64        `json:"initiator_busy_ns_io"`
	// With the kernel's initiator: switches of all kernel workers, and of the machine.
	Workers counters.Counts `json:"workers,omitzero"`
	System  int64           `json:"system_switches,omitempty"`
	// Idle is the share of the initiator's time in which nothing had arrived: near
	// 0, it was the initiator that was measured.
	Idle float64 `json:"initiator_idle"`
}

// Ratio is the subject's figure over another's.
type Ratio struct {
	Of       string    `json:"of"`
	To       string    `json:"to"`
	What     string    `json:"what"` // "iops" or "p50"
	Interval Interval  `json:"interval"`
	Rounds   []float64 `json:"rounds"`
	Refused  bool      `json:"refused"` // the interval is too wide to mean anything
}

// Ratio finds what the subject had to another; nil when there is none.
func (c *Cell) Ratio(to, what string) *Ratio {
	for i := range c.Ratios {
		if r := &c.Ratios[i]; r.To == to && r.What == what {
			return r
		}
	}
	return nil
}

// Figure finds a peer's.
func (c *Cell) Figure(peer string) *Figure {
	for i := range c.Figures {
		if c.Figures[i].Peer == peer {
			return &c.Figures[i]
		}
	}
	return nil
}

// Merge puts what was measured again into a former result: its cells and peers
// take the place of those with their names.
func (r *Result) Merge(again *Result) {
	for _, c := range again.Cells {
		if i := slices.IndexFunc(r.Cells, func(x Cell) bool { return x.Name == c.Name }); i >= 0 {
			r.Cells[i] = c
		} else {
			r.Cells = append(r.Cells, c)
		}
	}
	for _, p := range again.Peers {
		if i := slices.IndexFunc(r.Peers, func(x Peer) bool { return x.Name == p.Name }); i >= 0 {
			r.Peers[i] = p
		} else {
			r.Peers = append(r.Peers, p)
		}
	}
	if again.Machine.Commit != r.Machine.Commit {
		r.Warnings = append(r.Warnings, fmt.Sprintf("some rows were measured again at commit %s", again.Machine.Commit))
	}
	for _, w := range again.Warnings {
		if !slices.Contains(r.Warnings, w) {
			r.Warnings = append(r.Warnings, w)
		}
	}
	r.Took += again.Took
}

// Save writes the result as JSON.
func (r *Result) Save(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// Load reads what Save wrote.
func Load(path string) (*Result, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &Result{}
	return r, json.Unmarshal(text, r)
}
