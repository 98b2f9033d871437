package daemon

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"spindle/control"
	"spindle/internal/sys"
	"spindle/reactor"
)

// watch describes the reactors for those who look.
func (d *Daemon) watch() []control.ReactorStats {
	list := make([]control.ReactorStats, 0, len(d.reactors))
	for i, r := range d.reactors {
		s := r.Stats()
		w := control.ReactorStats{
			ID: r.ID, Core: r.Core, NUMA: max(sys.NodeOfCore(r.Core), 0), TID: int(d.tids[i].Load()),
			Busy: time.Duration(s.BusyNS), Idle: time.Duration(s.IdleNS), Interrupt: d.opt.Idle == reactor.Interrupt,
		}
		w.User, w.Sys = threadTimes(w.TID)
		reactor.Blocking{}.Await(r, func(done func()) {
			w.MemoryInUse = r.Arena.InUse() // its owner's to read
			done()
		})
		list = append(list, w)
	}
	return list
}

// userHZ is the unit of CPU times in /proc: a constant of the kernel's ABI.
const userHZ = 100

// threadTimes is the CPU time of a thread of this process (proc_pid_stat(5),
// fields utime and stime).
func threadTimes(tid int) (user, system time.Duration) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", tid))
	if err != nil {
		return 0, 0
	}
	// The second field, a name in parentheses, may hold anything.
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const utime, stime = 14 - 3, 15 - 3 // counted from the third field
	if len(fields) <= stime {
		return 0, 0
	}
	ticks := func(s string) time.Duration {
		n, _ := strconv.ParseUint(s, 10, 63)
		return time.Duration(n) * time.Second / userHZ
	}
	return ticks(fields[utime]), ticks(fields[stime])
}

func parsePortal(addr string) (control.Portal, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return control.Portal{}, fmt.Errorf("--listen %q: want ADDRESS:PORT, such as 127.0.0.1:3260 or [::]:3260", addr)
	}
	return control.Portal{Host: host, Port: port}, nil
}

// Banner says what is served and how to try it.
func (d *Daemon) Banner() string {
	var b strings.Builder
	addr := ""
	for _, g := range d.ctl.PortalGroups() {
		if addr == "" && !g.Wait && !g.Private {
			addr = net.JoinHostPort(reachable(g.Portals[0].Host), g.Portals[0].Port)
		}
	}
	nodes := d.ctl.Nodes()
	fmt.Fprintf(&b, "%s", Version)
	if len(nodes) == 0 {
		b.WriteString(" serves nothing yet")
		if d.opt.Socket != "" {
			fmt.Fprintf(&b, ": configure it with \"spindle rpc\" on %s", d.opt.Socket)
		}
		b.WriteByte('\n')
		return b.String()
	}
	fmt.Fprintf(&b, " serves on %s\n", addr)
	for _, n := range nodes {
		fmt.Fprintf(&b, "  %s\n", Printable(n.Name))
		for _, l := range n.LUNs {
			i := l.Bdev.Info()
			fmt.Fprintf(&b, "    LUN %d: %s, %s, %s\n", l.ID, Printable(l.Bdev.Name()), i.Product, size(i.Blocks*uint64(i.BlockSize)))
		}
	}
	if addr != "" {
		fmt.Fprintf(&b, "try it with\n  iscsi-ls -s iscsi://%s\n  iscsiadm -m discovery -t sendtargets -p %s --login    (as root)\n", addr, addr)
	}
	b.WriteString("Ctrl-C ends it\n")
	return b.String()
}

// Printable is a name without what a terminal might obey: those of disks and target
// nodes may hold nearly anything.
func Printable(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, name)
}

// reachable turns an address to listen on into one to connect to.
func reachable(host string) string {
	switch host = strings.Trim(host, "[]"); host {
	case "0.0.0.0", "*":
		return "127.0.0.1"
	case "::":
		return "::1"
	}
	return host
}

// size writes a number of bytes in the largest unit that divides it.
func size(n uint64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; i < len(units)-1 && n >= 1024 && n%1024 == 0; i++ {
		n /= 1024
	}
	return fmt.Sprintf("%d %s", n, units[i])
}
