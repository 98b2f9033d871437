package cli

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"spindle/cmd/spindle/internal/daemon"
	"spindle/control/rpc"
)

func topCommand() command {
	return command{
		name: "top", short: "watch a running target: reactors, disks, nodes, connections",
		long: `Show, once an interval, how busy the reactors of a running target are and what its
disks do: operations and bytes a second, and their mean latency; and what its
target nodes do: the same, from a command's arrival to its response having left.
On a terminal the screen is drawn anew; elsewhere each interval is a block of text.

  spindle top
  spindle top --interval 10s --count 6 > hour.txt`,
		flags: func(fs *flag.FlagSet) func(streams, []string) error {
			socket := fs.String("rpc-socket", daemon.DefaultSocket, "`PATH` of the target's socket")
			interval := fs.Duration("interval", time.Second, "`TIME` between looks")
			count := fs.Int("count", 0, "`N` looks and an end; 0 goes on until Ctrl-C")
			return func(s streams, args []string) error {
				if len(args) > 0 {
					return usagef("top takes flags only, not %q", args[0])
				}
				if *interval < 10*time.Millisecond {
					return usagef("--interval: at least 10ms, not %v", *interval)
				}
				return top(s, *socket, *interval, *count)
			}
		},
	}
}

// clearScreen moves to the upper left and erases what is there (ECMA-48 CUP, ED).
const clearScreen = "\x1b[H\x1b[J"

func top(s streams, socket string, interval time.Duration, count int) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := rpc.Dial(socket)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	clear := ""
	if f, ok := s.out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			clear = clearScreen
		}
	}
	before, err := look(c)
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; count == 0 || n < count; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := look(c)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprint(s.out, clear, now.since(before)); err != nil {
			return err
		}
		before = now
	}
	return nil
}

// sight is what a target shows at one moment. Times are in ticks of a nanosecond.
type sight struct {
	frame struct {
		Reactors []struct {
			LCore      int    `json:"lcore"`
			Busy, Idle uint64 // since the start
			Memory     uint64 `json:"memory_in_use"` // bytes
			Sleeps     bool   `json:"in_interrupt"`
		}
	}
	disks struct {
		Ticks uint64
		Bdevs []ioCounts
	}
	nodes struct{ Nodes []ioCounts }
	conns []struct {
		Transport string
		TSIH      int `json:"tsih"`
	}
}

type ioCounts struct {
	Name         string
	Reads        uint64 `json:"num_read_ops"`
	Writes       uint64 `json:"num_write_ops"`
	BytesRead    uint64 `json:"bytes_read"`
	BytesWritten uint64 `json:"bytes_written"`
	ReadTicks    uint64 `json:"read_latency_ticks"` // sum of all reads
	WriteTicks   uint64 `json:"write_latency_ticks"`
}

func look(c *rpc.Client) (*sight, error) {
	var x sight
	for _, q := range []struct {
		method     string
		params, to any
	}{
		{"framework_get_reactors", nil, &x.frame}, {"bdev_get_iostat", nil, &x.disks},
		{"iscsi_target_node_get_stats", map[string]any{"sessions": false}, &x.nodes}, {"iscsi_get_connections", nil, &x.conns},
	} {
		b, err := c.Call(q.method, q.params)
		if err == nil {
			err = json.Unmarshal(b, q.to)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", q.method, err)
		}
	}
	return &x, nil
}

// since is what happened between two looks, as text.
func (x *sight) since(before *sight) string {
	var b strings.Builder
	over, sessions := 0, map[int]bool{}
	for _, c := range x.conns {
		if c.Transport == "iser" {
			over++
		}
		sessions[c.TSIH] = true
	}
	fmt.Fprintf(&b, "%s   %d sessions, %d connections, %d of them over RDMA\n\n", time.Now().Format(time.TimeOnly), len(sessions), len(x.conns), over)
	fmt.Fprintf(&b, "%-9s %6s  %-20s %10s\n", "reactor", "busy", "", "buffers")
	for i, r := range x.frame.Reactors {
		busy, idle := r.Busy, r.Idle
		if i < len(before.frame.Reactors) {
			busy, idle = busy-before.frame.Reactors[i].Busy, idle-before.frame.Reactors[i].Idle
		}
		share := float64(busy) / float64(max(busy+idle, 1))
		fmt.Fprintf(&b, "core %-4d %5.1f%%  %-20s %8.1fM\n", r.LCore, 100*share, strings.Repeat("#", int(20*share+0.5)), float64(r.Memory)/(1<<20))
	}
	seconds := float64(x.disks.Ticks-before.disks.Ticks) / 1e9
	rates(&b, "disk", x.disks.Bdevs, before.disks.Bdevs, seconds)
	rates(&b, "target node", x.nodes.Nodes, before.nodes.Nodes, seconds)
	b.WriteByte('\n')
	return b.String()
}

// rates writes a table of what was read and written between two looks.
func rates(b *strings.Builder, what string, list, before []ioCounts, seconds float64) {
	fmt.Fprintf(b, "\n%-20s %9s %9s %9s %9s %9s %9s\n", what, "r/s", "w/s", "rMB/s", "wMB/s", "r_us", "w_us")
	was := map[string]ioCounts{}
	for _, d := range before {
		was[d.Name] = d
	}
	for _, d := range list {
		if d.Name == "" { // of no node
			continue
		}
		o := was[d.Name]
		if d.Reads < o.Reads || d.Writes < o.Writes {
			o = ioCounts{} // another of that name, or its statistics were reset
		}
		reads, writes := float64(d.Reads-o.Reads), float64(d.Writes-o.Writes)
		name := d.Name
		if _, short, ok := strings.Cut(name, ":"); ok {
			name = short // of a node, without its authority
		}
		fmt.Fprintf(b, "%-20.20s %9.0f %9.0f %9.1f %9.1f %9.1f %9.1f\n", daemon.Printable(name), reads/seconds, writes/seconds,
			float64(d.BytesRead-o.BytesRead)/seconds/1e6, float64(d.BytesWritten-o.BytesWritten)/seconds/1e6,
			float64(d.ReadTicks-o.ReadTicks)/max(reads, 1)/1e3, float64(d.WriteTicks-o.WriteTicks)/max(writes, 1)/1e3)
	}
}
