// Package daemon puts the target together: memory, reactors, transport, engine,
// modules, control and the RPC server; it loads the configuration and takes
// everything apart again in good order.
//
// Threading: Start and Stop are called from one goroutine that may block. Each
// reactor has a thread of its own; RPC connections have goroutines.
// Memory: an arena for each reactor, outside the Go heap, lives as long as the
// process. The Go heap is small and steady, so its collector runs only when the
// limit comes near.
package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"spindle/control"
	"spindle/control/prstore"
	"spindle/control/rpc"
	"spindle/internal/sys"
	"spindle/iscsi"
	"spindle/iscsi/tcp"
	"spindle/iser"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/uring"
	"spindle/scsi"
)

// Version is this program's version.
var Version = control.Version{Major: 0, Minor: 1}

const (
	// DefaultSocket is where the RPC server listens.
	DefaultSocket = "/var/tmp/spindle.sock"
	// DefaultMem is what an arena gets when nothing else is said, and MinMem the
	// least it works with: receive buffers and a few of the largest commands.
	DefaultMem = 256 << 20
	MinMem     = 32 << 20
	// heapLimit is when the Go collector starts to run at all, in bytes.
	heapLimit = 256 << 20
	// userTimeoutMS is how long sent data may stay unacknowledged before the
	// kernel gives a connection up, in milliseconds: as long as a NOP-In may.
	userTimeoutMS = 60_000
	// LogoutGrace is how long initiators have to log out before their sessions
	// are ended.
	LogoutGrace = 3 * time.Second
	// StopLimit is how long an end in good order may take: a file system that does
	// not answer must not keep the process. What was not answered by then was not
	// promised. A service manager kills later (packaging/spindle.service).
	StopLimit = 45 * time.Second
)

// ErrStuck is returned for an end that takes too long.
var ErrStuck = errors.New("ended without draining")

// Options are what serve takes.
type Options struct {
	Config      string // file to load; "" is none
	SkipUnknown bool   // pass over methods of the file that are not known
	Socket      string // of the RPC server; "" serves none
	Cores       []int  // CPUs to run reactors on; nil chooses
	Mem         uint64 // bytes for all arenas; 0 is DefaultMem each
	Idle        reactor.IdlePolicy
	WaitForRPC  bool   // stay in the start-up phase until framework_start_init
	StateDir    string // folder of what must outlive the process: persistent reservations, saved mode pages; "" keeps nothing
	Congestion  string // TCP congestion control of connections; "" leaves the system's
	ZeroCopy    uint32 // bytes of a message from which on it is sent without a copy; 0 always copies
	BusyPollUS  uint32 // microseconds that a reactor polls device queues before it sleeps; 0 sleeps at once
	ByQueue     bool   // place connections by the device queue they come by
	Pack        bool   // sessions move to as few reactors as serve them
	Malloc      uint64 // bytes of a disk to serve at once; 0 is none
	Listen      string // address to serve it on
	ISER        bool   // over RDMA too
	Log         *control.Log
	// UsageTicks is when thin units are asked how much they use; nil is every usagePeriod.
	UsageTicks <-chan time.Time
	// RDMATOS is the type of service of iSER connections, RDMAAckTimeout their ACK
	// timeout of 4.096 µs * 2^n; 0 leaves the system's.
	RDMATOS, RDMAAckTimeout uint8
	Legacy                  bool // use nothing that kernels newer than Linux 6.1 have brought
}

// Daemon is a running target.
type Daemon struct {
	opt      Options
	log      *slog.Logger
	reactors []*reactor.Reactor
	tids     []atomic.Int64 // of the reactors' threads
	iser     *iser.Transport
	engine   *iscsi.Engine
	ctl      *control.Control
	server   *rpc.Server
	stop     chan string
	ending   chan struct{} // closed by Stop
	watched  chan struct{} // closed when watchUsage has ended
}

// Start builds and starts a target. What was started is stopped again when it fails,
// or when ctx ends before the configuration is loaded.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	if o.Log == nil {
		o.Log = control.NewLog(io.Discard)
	}
	d := &Daemon{opt: o, log: o.Log.Logger("control"), stop: make(chan string, 1), ending: make(chan struct{}), watched: make(chan struct{})}
	if err := d.build(); err != nil {
		return nil, errors.Join(err, d.stopReactors())
	}
	go d.watchUsage()
	if err := d.configure(ctx); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

// build makes and starts everything that has no configuration yet.
func (d *Daemon) build() error {
	cores, workers, err := chooseCores(d.opt.Cores)
	if err != nil {
		return err
	}
	tuneRuntime(len(cores))
	space := mem.NewSpace()
	if err := d.startReactors(space, cores, workers); err != nil {
		return err
	}
	var kernel ring.Kernel = uring.Kernel{}
	d.iser = iser.New(d.rdma(space))
	store, err := d.reservations()
	if err != nil {
		return err
	}
	sockets := tcp.New(kernel, d.reactors, d.tcpOptions())
	d.engine = iscsi.New(iscsi.Config{
		Reactors:     d.reactors,
		Transport:    sockets,
		ISER:         d.iser,
		Reservations: store,
		Offload:      reactor.NewPool(1),
		Held:         true,
		Entropy:      rand.Reader,
		Options:      iscsi.Defaults(),
		Balance:      d.balancer(),
		Log:          d.opt.Log.Logger("iscsi"),
	})
	m, err := modules(space, kernel, len(d.reactors))
	if err != nil {
		return err
	}
	d.ctl = control.New(control.Config{
		Engine: d.engine, Modules: m, Caller: reactor.Blocking{}, Reactors: d.reactors,
		Watch: d.watch, TransportCounters: func() []iscsi.Counter { return append(sockets.Counters(), d.iser.Counters()...) }, Log: d.opt.Log, Version: Version, Stop: d.signal,
	})
	d.server = rpc.NewServer(d.ctl)
	return nil
}

// tcpOptions are what was asked for of sockets.
func (d *Daemon) tcpOptions() tcp.Options {
	o := tcp.Options{
		Listen:   ring.ListenOptions{Congestion: d.opt.Congestion, UserTimeoutMS: userTimeoutMS, BusyPollUS: int(d.opt.BusyPollUS)},
		ZeroCopy: d.opt.ZeroCopy, LiveCost: tcp.LiveCost,
	}
	if d.opt.ByQueue {
		o.Incoming = uring.Kernel{}.Incoming
	}
	return o
}

// balancer has sessions move between reactors; nil leaves them where they are.
func (d *Daemon) balancer() iscsi.Balancer {
	if !d.opt.Pack {
		return nil
	}
	return &iscsi.Packer{SpreadOnly: d.opt.Idle == reactor.Poll}
}

// reservations opens the place where persistent reservations are kept; nil is none.
func (d *Daemon) reservations() (scsi.Store, error) {
	if d.opt.StateDir == "" {
		return nil, nil
	}
	return prstore.Open(d.opt.StateDir)
}

// tuneRuntime fits the Go runtime to threads that never block: one P for each
// reactor and two for everything else, and a collector that only a limit wakes.
func tuneRuntime(reactors int) {
	runtime.GOMAXPROCS(reactors + 2)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(-1)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(heapLimit)
	}
}

// chooseCores returns the CPUs for reactors and those for the kernel's workers.
func chooseCores(asked []int) (cores, workers []int, err error) {
	set, err := sys.Affinity()
	if err != nil {
		return nil, nil, err
	}
	allowed := sys.CPUs(set)
	cores = asked
	if cores == nil {
		// The upper half: the lower CPUs usually have the interrupts.
		cores = allowed[len(allowed)/2:]
	}
	for _, c := range cores {
		if !slices.Contains(allowed, c) {
			return nil, nil, fmt.Errorf("CPU %d is not one this process may run on (%v); choose others with --cores", c, allowed)
		}
	}
	for _, c := range allowed {
		if !slices.Contains(cores, c) {
			workers = append(workers, c)
		}
	}
	return cores, workers, nil
}

func (d *Daemon) startReactors(space *mem.Space, cores, workers []int) error {
	size := uint64(DefaultMem)
	if d.opt.Mem != 0 {
		size = d.opt.Mem / uint64(len(cores))
	}
	if size < MinMem {
		return fmt.Errorf("--mem %d MiB leaves %d MiB for each of %d reactors; each needs %d MiB", d.opt.Mem>>20, size>>20, len(cores), MinMem>>20)
	}
	log := d.opt.Log.Logger("reactor")
	clk := clock.NewMonotonic()
	d.tids = make([]atomic.Int64, len(cores))
	for i, core := range cores {
		arena, err := space.NewArena(size, sys.NodeOfCore(core))
		if err != nil {
			return fmt.Errorf("memory of reactor %d: %w; ask for less with --mem", i, err)
		}
		if why := arena.Region().Reason; i == 0 && why != "" {
			log.Warn("no huge pages: data buffers use smaller ones", "pages", arena.Region().Kind.String(), "reason", why)
		}
		r := reactor.New(reactor.Config{
			ID: i, Core: core, Clock: clk, Arena: arena, Idle: d.opt.Idle,
			NewRing: func(a *mem.Arena) (ring.Ring, error) { return d.newRing(log, i, a, clk, workers) },
		})
		if err := r.Start(); err != nil {
			return err
		}
		d.reactors = append(d.reactors, r)
	}
	log.Info("reactors run", "cores", cores, "idle", d.opt.Idle.String(), "memory_mib", size>>20)
	return nil
}

// newRing makes a reactor's ring. Preconditions: runs on its locked thread.
func (d *Daemon) newRing(log *slog.Logger, i int, a *mem.Arena, clk clock.Clock, workers []int) (ring.Ring, error) {
	d.tids[i].Store(int64(sys.ThreadID()))
	if err := sys.SetIOFlusher(); err != nil {
		log.Debug("reactor is no I/O flusher: under memory pressure it may wait for itself", "reason", err)
	}
	r, err := uring.New(uring.Config{Arena: a, Clock: clk, WorkerCPUs: workers, BusyPollUS: d.opt.BusyPollUS, Legacy: d.opt.Legacy})
	if err != nil {
		return nil, err
	}
	if i == 0 && d.opt.ZeroCopy > 0 {
		log.Info("messages are sent without a copy", "from_bytes", d.opt.ZeroCopy, "supported", r.ZeroCopy())
	}
	if i == 0 && d.opt.BusyPollUS > 0 {
		log.Info("device queues are polled before a sleep", "microseconds", d.opt.BusyPollUS)
	}
	if err := r.NoBusyPoll(); err != nil && i == 0 {
		log.Warn("the ring does not poll device queues; sockets do while they block (SO_BUSY_POLL)", "reason", err)
	}
	if err := r.NoFixedBuffers(); err != nil && i == 0 {
		log.Warn("data buffers are not registered with io_uring: file I/O costs more", "reason", err)
	}
	return r, nil
}

// configure loads what there is to load and opens the RPC socket.
func (d *Daemon) configure(ctx context.Context) error {
	if d.opt.Config != "" {
		file, err := os.ReadFile(d.opt.Config)
		if err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
		if err := d.server.Load(ctx, file, rpc.LoadOptions{SkipUnknown: d.opt.SkipUnknown}); err != nil {
			return fmt.Errorf("configuration %s: %w", d.opt.Config, err)
		}
	}
	if !d.opt.WaitForRPC {
		d.ctl.Start()
	}
	if d.opt.Malloc != 0 {
		if err := d.quickDisk(); err != nil {
			return err
		}
	}
	go func() { // with --wait-for-rpc the start-up phase may never end
		<-d.ctl.Started()
		d.engine.Open(reactor.Blocking{})
	}()
	if err := ctx.Err(); err != nil || d.opt.Socket == "" {
		return err
	}
	return d.server.Listen(d.opt.Socket)
}

// usagePeriod is how often thin units are asked how much they use: a threshold
// is told that late.
const usagePeriod = 5 * time.Second

// watchUsage looks after the thresholds of thin units until Stop.
func (d *Daemon) watchUsage() {
	defer close(d.watched)
	ticks := d.opt.UsageTicks
	if ticks == nil {
		t := time.NewTicker(usagePeriod)
		defer t.Stop()
		ticks = t.C
	}
	for {
		select {
		case <-d.ending:
			return
		case <-ticks:
			d.engine.PollUsage(reactor.Blocking{})
		}
	}
}

// quickDisk serves a disk in memory to everybody who reaches the address.
func (d *Daemon) quickDisk() error {
	portal, err := parsePortal(d.opt.Listen)
	if err != nil {
		return err
	}
	const blockSize = 512
	portal.ISER = d.opt.ISER
	name, err := d.ctl.CreateMalloc(control.MallocSpec{Geometry: control.Geometry{BlockSize: blockSize, NumBlocks: d.opt.Malloc / blockSize}, NUMA: -1})
	if err != nil {
		return fmt.Errorf("--malloc: %w", err)
	}
	const tag = 1
	if err := d.ctl.CreatePortalGroup(control.PortalGroup{Tag: tag, Portals: []control.Portal{portal}}); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if err := d.ctl.CreateInitiatorGroup(iscsi.InitiatorGroup{Tag: tag, Initiators: []string{"ANY"}, Netmasks: []string{"ANY"}}); err != nil {
		return err
	}
	return d.ctl.CreateNode(iscsi.NodeConfig{
		Name: QuickName, Alias: "Spindle disk", QueueDepth: d.ctl.Options().MaxQueueDepth,
		Maps: []iscsi.Map{{PortalTag: tag, InitiatorTag: tag}}, DisableCHAP: true,
	}, []control.LUN{{ID: 0, Bdev: name}})
}

// QuickName is the name of the node that --malloc makes, after the node base.
const QuickName = "disk"

// Stopping receives the name of a signal that an RPC asked for.
func (d *Daemon) Stopping() <-chan string { return d.stop }

func (d *Daemon) signal(name string) error {
	switch name {
	case "SIGKILL":
		os.Exit(exitKilled)
	case "SIGUSR1":
		return nil
	}
	select {
	case d.stop <- name:
	default: // it is stopping already
	}
	return nil
}

// exitKilled is the status that a shell reports for SIGKILL.
const exitKilled = 128 + 9

// Stop ends the target: no more RPCs, initiators are asked to log out, I/O
// drains, devices are closed. After StopLimit it gives that up, and the process can
// do nothing but exit.
func (d *Daemon) Stop() error { return within(StopLimit, d.takeApart) }

// quietGrace is how long sessions wait for calls in progress before they are ended.
const quietGrace = 2 * time.Second

func (d *Daemon) takeApart(stage func(string)) error {
	const calls = "answering RPCs, or asking disks what they use"
	stage(calls)
	close(d.ending)
	quiet := make(chan error, 1)
	go func() {
		err := d.server.Close()
		<-d.watched
		quiet <- err
	}()
	var errs []error
	timer := time.NewTimer(quietGrace)
	defer timer.Stop()
	select {
	case err := <-quiet:
		errs, quiet = append(errs, err), nil
	case <-timer.C: // a call that hangs is no reason to keep initiators
	}
	stage("draining sessions")
	d.engine.Shutdown(reactor.Blocking{}, LogoutGrace)
	stage("closing disks")
	errs = append(errs, d.ctl.Close())
	if quiet != nil {
		stage(calls)
		errs = append(errs, <-quiet)
	}
	stage("stopping RDMA and reactors")
	d.iser.Stop(reactor.Blocking{})
	return errors.Join(append(errs, d.stopReactors())...)
}

// within runs work, which tells what it is about to do, and gives it up after limit.
func within(limit time.Duration, work func(stage func(string)) error) error {
	var at atomic.Value
	ended := make(chan error, 1)
	go func() { ended <- work(func(s string) { at.Store(s) }) }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		return fmt.Errorf("%w: %v after %v", ErrStuck, at.Load(), limit)
	}
}

func (d *Daemon) stopReactors() error {
	var errs []error
	for _, r := range d.reactors {
		r.Stop()
	}
	for _, r := range d.reactors {
		errs = append(errs, r.Wait())
	}
	return errors.Join(errs...)
}

// Control is the target's configuration.
func (d *Daemon) Control() *control.Control { return d.ctl }
