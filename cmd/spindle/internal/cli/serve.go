package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/pkg/profile"

	"spindle/cmd/spindle/internal/daemon"
	"spindle/control"
	"spindle/internal/sys"
	"spindle/reactor"
)

func serveCommand() command {
	return command{
		name: "serve", short: "serve disks over iSCSI",
		long: `Serve disks over iSCSI until SIGINT or SIGTERM, which drain I/O, ask initiators to
log out, and end the process with status 0; a second signal ends it at once, and so
do 45 seconds in which it does not come to an end, with status 1. SIGHUP does the same when the terminal that it was started from goes; without a terminal
it changes nothing, because RPC changes everything live. $NOTIFY_SOCKET is told
when it serves (Type=notify of systemd; packaging/spindle.service is an example).

Without --config and --malloc nothing is served until it is configured over the
RPC socket ("spindle help rpc"). Root is not needed: ports from 1024 on and any
memlock limit do, at some cost that the log names.`,
		flags: func(fs *flag.FlagSet) func(streams, []string) error {
			f := declareServe(fs)
			return func(s streams, args []string) error {
				if len(args) > 0 {
					return usagef("serve takes flags only, not %q", args[0])
				}
				o, err := f.options(s.err)
				if err != nil {
					return err
				}
				return serve(s, o, f.profile)
			}
		},
	}
}

// serveFlags are the flags of serve, as text.
type serveFlags struct {
	o                                                                         daemon.Options
	cores, mem, idle, level, malloc, addr, congestion, state, zeroCopy, place string
	profile                                                                   string
	noRPC                                                                     bool
	tos, ackTimeout, busyPoll                                                 uint
}

func declareServe(fs *flag.FlagSet) *serveFlags {
	f := &serveFlags{}
	fs.StringVar(&f.o.Config, "config", "", "`FILE` to load: what save_config prints")
	fs.BoolVar(&f.o.SkipUnknown, "skip-unknown", false, "pass over methods of FILE that are not known, for files from SPDK")
	fs.StringVar(&f.o.Socket, "rpc-socket", daemon.DefaultSocket, "`PATH` of the RPC socket")
	fs.BoolVar(&f.noRPC, "no-rpc", false, "serve no RPC socket")
	fs.BoolVar(&f.o.WaitForRPC, "wait-for-rpc", false, "wait for options and framework_start_init before anything else")
	fs.StringVar(&f.cores, "cores", "", "`MASK` of CPUs to run reactors on: 0x3, 0-1 or [0,1] (default half of those there are)")
	fs.StringVar(&f.mem, "mem", "", "`SIZE` of all data buffers together, such as 512M (default 256M for each reactor)")
	fs.StringVar(&f.state, "state-dir", "", "`DIR` to keep persistent reservations (APTPL), saved mode pages and identifying information in; without it initiators are refused that")
	fs.StringVar(&f.congestion, "tcp-congestion", "cubic", "TCP congestion control `NAME` of connections; empty leaves the system's")
	fs.StringVar(&f.zeroCopy, "tcp-zero-copy", "", "`SIZE` of a message, such as 64K, from which on it is sent without a copy (SENDMSG_ZC); for real network cards, off by default")
	fs.StringVar(&f.place, "tcp-placement", "pack", "`HOW` a session finds its reactor: load, the one with the fewest connections; pack, as load, and sessions move while they run: to as few reactors as serve them, apart where one is busy; queue, one for each queue of the network card")
	fs.UintVar(&f.busyPoll, "busy-poll", 0, "`MICROSECONDS` that a reactor polls the queues of the network card before it sleeps; 0 sleeps at once")
	fs.UintVar(&f.tos, "rdma-tos", 0, "type of service, `0` to 255, of iSER connections; 0 leaves the system's")
	fs.UintVar(&f.ackTimeout, "rdma-ack-timeout", 0, "`N` for an ACK timeout of iSER connections of 4.096 µs * 2^N, to 31; 0 leaves the system's")
	fs.StringVar(&f.idle, "idle", reactor.Adaptive.String(), "`POLICY` of a reactor without work: adaptive spins for a while and sleeps, poll spins, interrupt sleeps")
	fs.StringVar(&f.profile, "profile", "", "`KIND` of profile to write to the working directory: cpu, mem or trace")
	fs.StringVar(&f.level, "log-level", "notice", "`LEVEL` from which to log: "+strings.ToLower(strings.Join(control.LevelNames(), ", ")))
	fs.StringVar(&f.malloc, "malloc", "", "`SIZE` of a disk in memory to serve at once, such as 1G")
	fs.StringVar(&f.addr, "listen", "127.0.0.1:3260", "`ADDR` to serve that disk on")
	fs.BoolVar(&f.o.ISER, "iser", false, "serve it over iSER (RDMA) too; \"spindle rdma\" tells whether that works here")
	return f
}

// maxAckTimeout is what 5 bits hold (IBA 1.4 §9.7.6.1.3).
const maxAckTimeout = 31

// options reads the flags.
func (f *serveFlags) options(logTo io.Writer) (daemon.Options, error) {
	o := f.o
	o.Log = control.NewLog(logTo)
	o.Listen = f.addr
	if f.noRPC {
		o.Socket = ""
	}
	if err := o.Log.SetLevel(f.level); err != nil {
		return o, usagef("--log-level: %w", err)
	}
	if f.cores != "" {
		list, err := sys.ParseCPUs(f.cores)
		if err != nil {
			return o, usagef("--cores: %w; want a mask such as 0x3, or a list such as 0-1 or [0,1]", err)
		}
		o.Cores = list
	}
	for _, size := range []struct {
		flag, text string
		to         *uint64
	}{{"--mem", f.mem, &o.Mem}, {"--malloc", f.malloc, &o.Malloc}} {
		if size.text == "" {
			continue
		}
		n, err := parseSize(size.text)
		if err != nil {
			return o, usagef("%s: %w", size.flag, err)
		}
		*size.to = n
	}
	idle := map[string]reactor.IdlePolicy{}
	for _, p := range []reactor.IdlePolicy{reactor.Adaptive, reactor.Poll, reactor.Interrupt} {
		idle[p.String()] = p
	}
	p, known := idle[f.idle]
	if !known {
		return o, usagef("--idle %q: want adaptive, poll or interrupt", f.idle)
	}
	o.Idle = p
	if f.tos > math.MaxUint8 || f.ackTimeout > maxAckTimeout {
		return o, usagef("--rdma-tos is at most %d and --rdma-ack-timeout %d", math.MaxUint8, maxAckTimeout)
	}
	if err := f.network(&o); err != nil {
		return o, err
	}
	o.RDMATOS, o.RDMAAckTimeout = uint8(f.tos), uint8(f.ackTimeout)
	o.Congestion, o.StateDir = f.congestion, f.state
	if _, err := profileMode(f.profile); err != nil {
		return o, err
	}
	if o.WaitForRPC && (o.Config != "" || o.Malloc != 0) {
		return o, usagef("--wait-for-rpc waits for everything: load the configuration with load_config instead of --config or --malloc")
	}
	if o.WaitForRPC && f.noRPC {
		return o, usagef("--wait-for-rpc would wait for ever with --no-rpc")
	}
	return o, nil
}

// Limits of what serve takes for sockets.
const (
	maxBusyPoll = 1000 // microseconds: beyond a millisecond, policy poll is meant
	minZeroCopy = 4 << 10
)

// network reads the flags of sockets.
func (f *serveFlags) network(o *daemon.Options) error {
	switch f.place {
	case "load":
	case "queue":
		o.ByQueue = true
	case "pack":
		o.Pack = true
	default:
		return usagef("--tcp-placement %q: want load, queue or pack", f.place)
	}
	if f.busyPoll > maxBusyPoll {
		return usagef("--busy-poll is at most %d microseconds; --idle poll never sleeps", maxBusyPoll)
	}
	o.BusyPollUS = uint32(f.busyPoll)
	if f.zeroCopy == "" {
		return nil
	}
	n, err := parseSize(f.zeroCopy)
	if err != nil || n < minZeroCopy || n > math.MaxUint32 {
		return usagef("--tcp-zero-copy %q: want a size from 4K on", f.zeroCopy)
	}
	o.ZeroCopy = uint32(n)
	return nil
}

// parseSize reads a number of bytes with a binary unit: 512M, 1G, 1GiB.
func parseSize(text string) (uint64, error) {
	upper := strings.ToUpper(strings.TrimSpace(text))
	upper = strings.TrimSuffix(strings.TrimSuffix(upper, "B"), "I")
	shift := 0
	if n := len(upper); n > 0 {
		if i := strings.IndexByte("KMGT", upper[n-1]); i >= 0 {
			shift, upper = 10*(i+1), upper[:n-1]
		}
	}
	n, err := strconv.ParseUint(upper, 10, 64)
	if err != nil || n == 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is no size; write 512M, 1G or a number of bytes", text)
	}
	return n << shift, nil
}

// profileMode is what pkg/profile is to do; nil is nothing.
func profileMode(kind string) (func(*profile.Profile), error) {
	switch kind {
	case "":
		return nil, nil
	case "cpu":
		return profile.CPUProfile, nil
	case "mem":
		return profile.MemProfile, nil
	case "trace":
		return profile.TraceProfile, nil
	}
	return nil, usagef("--profile %q: want cpu, mem or trace", kind)
}

// serve runs the target until a signal.
func serve(s streams, o daemon.Options, kind string) (err error) {
	mode, err := profileMode(kind)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	hangups := make(chan os.Signal, 1)
	switch {
	case signal.Ignored(syscall.SIGHUP): // nohup
	case onTerminal():
		signal.Notify(signals, syscall.SIGHUP)
	default:
		signal.Notify(hangups, syscall.SIGHUP)
	}
	defer signal.Stop(hangups)
	signal.Ignore(syscall.SIGPIPE)
	if mode != nil {
		defer profile.Start(mode, profile.ProfilePath("."), profile.NoShutdownHook, profile.Quiet).Stop()
	}
	d, err := begin(o, signals)
	if d == nil {
		return err
	}
	if _, err := io.WriteString(s.out, d.Banner()); err != nil {
		return errors.Join(err, d.Stop())
	}
	log := o.Log.Logger("control")
	if err := tellManager("READY=1"); err != nil {
		log.Warn("the service manager is not told that the target is ready", "reason", err)
	}
	why := ""
	for why == "" {
		select {
		case sig := <-signals:
			why = sig.String()
		case why = <-d.Stopping():
		case <-hangups:
			log.Log(context.Background(), control.LevelNotice, "SIGHUP has nothing to reload: changes are made over RPC and hold at once; SIGTERM ends the target")
		}
	}
	_ = tellManager("STOPPING=1") // it has been told READY, or has been missed in the log
	log.Log(context.Background(), control.LevelNotice, "ending: I/O drains, initiators are asked to log out; a second signal ends it now", "signal", why)
	ended := make(chan error, 1)
	go func() { ended <- d.Stop() }()
	select {
	case err := <-ended:
		return err
	case sig := <-signals:
		return fmt.Errorf("%v during shutdown: ended without draining", sig)
	}
}

// begin starts the target. A signal meanwhile ends that, without an error; a second
// one ends it at once, whatever it waits for.
func begin(o daemon.Options, signals <-chan os.Signal) (*daemon.Daemon, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type result struct {
		d   *daemon.Daemon
		err error
	}
	began := make(chan result, 1)
	go func() {
		d, err := daemon.Start(ctx, o)
		began <- result{d, err}
	}()
	for {
		select {
		case r := <-began:
			switch {
			case ctx.Err() == nil:
				return r.d, advise(r.err)
			case r.err == nil: // it came too late
				return nil, r.d.Stop()
			case errors.Is(r.err, daemon.ErrStuck):
				return nil, r.err
			}
			return nil, nil
		case sig := <-signals:
			if ctx.Err() != nil {
				return nil, fmt.Errorf("%v during the start: ended at once", sig)
			}
			cancel()
			o.Log.Logger("control").Log(context.Background(), control.LevelNotice, "ending: the start is given up; a second signal ends it now", "signal", sig.String())
		}
	}
}

// onTerminal tells whether the process has a controlling terminal, whose end
// SIGHUP then means.
func onTerminal() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return tty.Close() == nil
}

// tellManager sends state to the service manager that $NOTIFY_SOCKET names, if
// any: sd_notify(3).
func tellManager(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(state))
	return errors.Join(err, conn.Close())
}

// advise adds what to do next to errors that have a usual cause.
func advise(err error) error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w (ports below 1024 need root or CAP_NET_BIND_SERVICE; files and sockets need rights for this user)", err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w (another process listens there: stop it or choose another address)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w (no interface of this machine has that address: \"ip address\" lists those it has; 0.0.0.0 is all of them)", err)
	}
	return err
}
