package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"spindle/cmd/spindle/internal/daemon"
	"spindle/verbs/ibverbs"
)

func rdmaCommand() command {
	return command{
		name: "rdma", short: "tell whether iSER can be served here, and what is missing",
		long: `Look at everything iSER (iSCSI over RDMA) needs on this machine: libraries, devices,
their links and addresses, the connection manager, and the limit of locked memory.
What is missing is told with what to do about it. The status is 0 when iSER can be
served. A target that runs need not be stopped, and nothing is changed.`,
		flags: func(fs *flag.FlagSet) func(streams, []string) error {
			size := fs.String("mem", "", "`SIZE` of data buffers, as for serve (default 256M)")
			return func(s streams, args []string) error {
				if len(args) > 0 {
					return usagef("rdma takes flags only, not %q", args[0])
				}
				need := uint64(daemon.DefaultMem)
				if *size != "" {
					n, err := parseSize(*size)
					if err != nil {
						return usagef("--mem: %w", err)
					}
					need = n
				}
				findings, ready := ibverbs.Diagnose(need)
				return explainRDMA(s.out, findings, ready)
			}
		},
	}
}

// errNoISER is for the exit status; what is wrong has been told.
var errNoISER = errors.New("iSER cannot be served here yet; TCP can")

// explainRDMA writes what was found, and what to do next.
func explainRDMA(w io.Writer, findings []ibverbs.Finding, ready bool) error {
	step := 0
	for _, f := range findings {
		if f.OK {
			fmt.Fprintf(w, "  ok    %s\n", f.What)
			continue
		}
		step++
		fmt.Fprintf(w, "  %d.    %s\n        do: %s\n", step, f.What, f.Do)
	}
	if !ready {
		fmt.Fprint(w, `
Then run this command again. Portals that have iSER switched on keep it, serve TCP
meanwhile, and begin to serve iSER when a device appears; only a new binary or new
libraries want the target restarted.
`)
		return errNoISER
	}
	_, err := fmt.Fprint(w, `
iSER can be served. Switch it on for a portal group of a running target, on an
address that a device above answers at:
  spindle rpc iscsi_portal_group_set_iser tag=1 enable=true
and log in with the kernel's initiator on another machine (as root):
  modprobe ib_iser
  iscsiadm -m node -o new -T NODE -p ADDRESS:3260,1 -I iser
  iscsiadm -m node -T NODE -p ADDRESS:3260 -I iser --login
`)
	return err
}
