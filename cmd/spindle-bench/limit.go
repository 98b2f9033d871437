package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"

	"spindle/bench/limit"
	"spindle/bench/load"
)

func limitCommand() command {
	return command{
		name: "limit", short: "be a canned responder, the limit to measure targets against",
		long: `Answer initiators from memory with as little work as possible, until SIGINT or
SIGTERM. LUN 0 answers every read with the same bytes and forgets writes; LUN 1,
with --ram, has memory. It is for measuring, never for data to keep.`,
		flags: func(fs *flag.FlagSet) func(context.Context, streams, []string) error {
			var o limit.Options
			var size string
			fs.StringVar(&o.Addr, "listen", "127.0.0.1:3261", "`ADDR` to listen on; port 0 chooses one")
			fs.IntVar(&o.CPU, "cpu", -1, "`CPU` to pin it to")
			fs.StringVar(&size, "size", "1t", "`SIZE` of each LUN")
			fs.BoolVar(&o.RAM, "ram", false, "serve LUN 1, which takes memory of that size")
			fs.IntVar(&o.Connections, "connections", limit.DefaultConnections, "`N` initiators at most at a time")
			fs.StringVar(&o.Congestion, "congestion", "cubic", "`NAME` of the TCP congestion control; \"\" is the system's")
			return func(ctx context.Context, s streams, args []string) error {
				if len(args) > 0 {
					return usagef("limit takes flags only, not %q", args[0])
				}
				var err error
				if o.Size, err = load.ParseBytes(size); err != nil {
					return err
				}
				o.Ready = func(a netip.AddrPort) { fmt.Fprintf(s.out, "listens on %v\n", a) }
				return limit.Serve(ctx, o)
			}
		},
	}
}
