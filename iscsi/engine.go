package iscsi

import (
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"spindle/iscsi/login"
	"spindle/reactor"
	"spindle/scsi"
)

// Limits that are not settings. Settings are in Options.
const (
	// MaxNodes, MaxGroups and MaxPortals bound the configuration.
	MaxNodes   = 1024
	MaxGroups  = 1024
	MaxPortals = 1024
	// MaxQueueDepth bounds Options.MaxQueueDepth and NodeConfig.QueueDepth.
	MaxQueueDepth = 256
	// ImmediateTasks are kept for SCSI commands sent as immediate, beyond the window.
	ImmediateTasks = 8
	// ConnectionOuts is how many PDUs other than command responses a connection
	// may have queued before it stops receiving.
	ConnectionOuts = 16
	// MaxManagement is how many task management functions a session may have outstanding.
	MaxManagement = 16
)

// Config makes an Engine.
type Config struct {
	Reactors  []*reactor.Reactor
	Transport Transport // of the portals
	// ISER is the transport that portals with Portal.ISER are served by as well;
	// nil when there is none.
	ISER    Transport
	Entropy io.Reader // challenges and the like; an edge
	Options Options
	Log     *slog.Logger
	// Held: portals listen, but connections wait for Open, so that nobody is
	// told that a node does not exist while the configuration is loaded.
	Held bool
	// Balance, if set, has sessions over TCP move between reactors while they run.
	Balance Balancer
	// Reservations keeps what units are told to keep over power loss: persistent
	// reservations (APTPL), saved mode pages, identifying information. It is written
	// through Offload; without it all of these are refused.
	Reservations scsi.Store
	Offload      reactor.Offload
}

// Engine is the target: nodes, groups, portals and the sessions they have.
// Control-plane methods may be called from any goroutine and serialise
// themselves; they are in control.go.
type Engine struct {
	reactors  []*reactor.Reactor
	transport Transport
	iser      Transport
	entropy   io.Reader
	store     scsi.Store
	offload   reactor.Offload
	log       *slog.Logger
	shards    []*shard
	registry  *registry

	inventory atomic.Pointer[inventory] // what logins read
	mu        sync.Mutex                // serialises the control plane
	listeners map[uint16][]Listener     // by portal group tag; guarded by mu
	down      atomic.Bool               // shutting down: no login succeeds
	gate      gate
	limits    [numLimits]limitState
	chatter   chatter

	Stats Stats
}

// Stats counts what the engine did. Any thread may read.
type Stats struct {
	Logins         atomic.Uint64 // reached full feature phase
	LoginFailures  atomic.Uint64
	LoginTimeouts  atomic.Uint64
	LoginsEvicted  atomic.Uint64 // dropped for MaxPendingLogins or MaxPendingPerAddress
	CHAPFailures   atomic.Uint64
	Redirects      atomic.Uint64
	Rejects        atomic.Uint64
	Dropped        atomic.Uint64 // commands outside the window, silently dropped
	TaskSetFull    atomic.Uint64
	BufferWaits    atomic.Uint64 // commands that waited for a data buffer
	NopTimeouts    atomic.Uint64
	Reinstatements atomic.Uint64
	SNACKs         atomic.Uint64
	RecoveryR2Ts   atomic.Uint64 // R2Ts for Data-Out that was dropped
	Reassigned     atomic.Uint64 // tasks that another connection took over
	Moves          atomic.Uint64 // sessions that went to another reactor
	MovesGivenUp   atomic.Uint64 // and those that stayed: never at rest, or no room for them
}

// Defaults are the options a target starts with; where SPDK has the option, its default.
func Defaults() Options {
	return Options{
		NodeBase:           "iqn.2026-11.dev.spindle",
		MaxSessions:        1024,
		MaxConnsPerSession: 2,
		MaxQueueDepth:      128,
		DefaultTime2Wait:   2,
		DefaultTime2Retain: 20,
		FirstBurstLength:   64 << 10,
		MaxBurstLength:     1 << 20,
		MaxOutstandingR2T:  4,
		ImmediateData:      true,
		InitialR2T:         false,
		NopInInterval:      30,
		NopTimeout:         60,
		LoginTimeout:       15,
		MaxPendingLogins:   128,

		MaxPendingPerAddress: 64,
		MaxLoginsPerSecond:   1024,
		CHAPBackoff:          30,
		MaxConnsPerAddress:   1024,
		MaxSessionsPerNode:   512,
		ReservedSessions:     64,
		SendTimeout:          60,
		MaxTextRounds:        login.MaxRequests,
		MaxRegistrants:       scsi.MaxRegistrants,
		MaxBufferWaiters:     1024,
		MaxRetainedData:      8 << 20,
		MaxSNACKReplays:      8,

		MaxLargeDataIn:      64,
		MaxR2TPerConnection: 4,
		PDUPoolSize:         36864,
		ImmediateDataPool:   16384,
		DataOutPool:         2048,
	}
}

// New makes an engine with nothing configured.
func New(c Config) *Engine {
	e := &Engine{
		reactors:  c.Reactors,
		transport: c.Transport,
		iser:      c.ISER,
		entropy:   c.Entropy,
		store:     c.Reservations,
		offload:   c.Offload,
		log:       c.Log,
		gate:      gate{peers: map[netip.Prefix]*peer{}},
		listeners: map[uint16][]Listener{},
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	for _, r := range c.Reactors {
		sh := newShard(e, r)
		sh.held = c.Held
		e.shards = append(e.shards, sh)
	}
	e.registry = newRegistry(e, c.Reactors[0])
	e.inventory.Store(&inventory{opt: c.Options})
	e.registry.startBalance(c.Balance)
	return e
}
