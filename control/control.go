package control

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/reactor"
	"spindle/scsi"
)

// Engine is what control needs of the iSCSI engine.
type Engine interface {
	Options() iscsi.Options
	SetOptions(iscsi.Options)
	AddPortalGroup(reactor.Caller, iscsi.PortalGroup) error
	StartPortalGroup(c reactor.Caller, tag uint16) error
	RemovePortalGroup(c reactor.Caller, tag uint16) error
	SetPortalGroupISER(c reactor.Caller, tag uint16, on bool) error
	SetPortalISER(c reactor.Caller, tag uint16, portal netip.AddrPort, on bool) error
	PortalGroups() []iscsi.PortalGroup
	AddInitiatorGroup(iscsi.InitiatorGroup) error
	SetInitiatorGroup(iscsi.InitiatorGroup) error
	RemoveInitiatorGroup(tag uint16) error
	AddNode(reactor.Caller, iscsi.NodeConfig) error
	RemoveNode(c reactor.Caller, name string) error
	AddLUN(c reactor.Caller, node string, l iscsi.LUN) error
	RemoveLUN(c reactor.Caller, node string, id uint16) error
	AddMaps(node string, m []iscsi.Map) error
	RemoveMaps(node string, m []iscsi.Map) error
	SetAuthGroup(iscsi.AuthGroup)
	RemoveAuthGroup(tag int32)
	Connections(reactor.Caller) []iscsi.ConnInfo
	RequestLogout(c reactor.Caller, node string) error
	RequestLogoutBy(c reactor.Caller, node string, tag uint16) error
	SendAsync(c reactor.Caller, node string, m iscsi.AsyncMessage) error
	SetNodeAuth(node string, a iscsi.CHAPPolicy) error
	SetPortalGroupAuth(tag uint16, a iscsi.CHAPPolicy) error
	SetNodeRedirect(node string, tag uint16, to netip.AddrPort) error
	SetPortGroupState(c reactor.Caller, node string, tag uint16, state scsi.PortState) error
	PortGroupStates(node string) ([]scsi.PortGroup, error)
	Counters() []iscsi.Counter
	NodeStats(c reactor.Caller, node string) ([]iscsi.NodeStats, error)
	EnableHistograms(c reactor.Caller, node string, on bool, o bdev.HistogramOptions) error
}

// ReactorStats is one reactor, for those who watch.
type ReactorStats struct {
	ID, Core, NUMA, TID int
	Busy, Idle          time.Duration
	Sys, User           time.Duration // CPU time of its thread
	Interrupt           bool          // sleeps as soon as it is idle
	MemoryInUse         uint64        // bytes of its arena given out
}

// Config makes a Control.
type Config struct {
	Engine   Engine
	Modules  Modules
	Caller   reactor.Caller
	Reactors []*reactor.Reactor
	Watch    func() []ReactorStats
	// TransportCounters are counted beside the engine's own; may be nil.
	TransportCounters func() []iscsi.Counter
	Log               *Log
	Version           Version
	// Stop asks the process to end, in the way of the signal named.
	Stop func(signal string) error
}

// Version is what the program calls itself.
type Version struct {
	Major, Minor, Patch int
	Suffix              string
}

// String is the name and version of the program, for people.
func (v Version) String() string {
	s := fmt.Sprintf("Spindle v%d.%d", v.Major, v.Minor)
	if v.Patch != 0 {
		s += fmt.Sprintf(".%d", v.Patch)
	}
	return s + v.Suffix
}

// Control holds the configuration. See the package comment for its rules.
type Control struct {
	Config
	log *slog.Logger

	change sync.Mutex // held for a whole transaction; always taken before mu
	memory sync.Mutex // held while a malloc bdev takes its memory

	mu     sync.RWMutex // guards what follows, and is never held while blocking
	bdevs  []*Bdev      // in the order made
	plans  []plan       // of bdevs that are being made
	serial map[string]int
	portal tagged[uint16, PortalGroup]
	init   tagged[uint16, iscsi.InitiatorGroup]
	nodes  []Node
	auth   tagged[int32, iscsi.AuthGroup]
	events events
	added  chan struct{} // closed, and replaced, when a bdev is added
	closed bool          // no bdev is made any more; written under change, too

	started chan struct{} // closed when the start-up phase ends
	once    sync.Once
}

// New makes an empty configuration.
func New(c Config) *Control {
	if c.Log == nil {
		c.Log = NewLog(io.Discard)
	}
	ctl := &Control{Config: c, log: c.Log.Logger("control"), serial: map[string]int{}, added: make(chan struct{}), started: make(chan struct{})}
	ctl.portal = tagged[uint16, PortalGroup]{mu: &ctl.mu, what: "portal group", tag: func(g PortalGroup) uint16 { return g.Tag }}
	ctl.init = tagged[uint16, iscsi.InitiatorGroup]{mu: &ctl.mu, what: "initiator group", tag: func(g iscsi.InitiatorGroup) uint16 { return g.Tag }}
	ctl.auth = tagged[int32, iscsi.AuthGroup]{mu: &ctl.mu, what: "auth group", tag: func(g iscsi.AuthGroup) int32 { return g.Tag }}
	return ctl
}

// Start ends the start-up phase, in which options are set.
func (c *Control) Start() { c.once.Do(func() { close(c.started) }) }

// Started is closed when the start-up phase has ended.
func (c *Control) Started() <-chan struct{} { return c.started }

// Running tells whether the start-up phase has ended.
func (c *Control) Running() bool {
	select {
	case <-c.started:
		return true
	default:
		return false
	}
}

// Bdev is a bdev of the registry.
type Bdev struct {
	*bdev.Bdev
	kind kind
	base *Bdev // what it is stacked on
	// call makes it again; guarded by Control.mu, replaced and never changed.
	call Call
	stop func() // ends the subscription to its changes

	failed atomic.Bool // the log has it
}

// Close deletes everything, in the order in which things need each other: the
// nodes with their sessions, then portals, then bdevs from the top of their
// stacks. I/O in flight ends before what it uses does. What cannot be deleted
// keeps nothing else from it.
func (c *Control) Close() error {
	c.change.Lock()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.change.Unlock()
	var errs []error
	for _, n := range c.Nodes() {
		errs = append(errs, c.DeleteNode(n.Name))
	}
	for _, g := range c.PortalGroups() {
		errs = append(errs, c.DeletePortalGroup(g.Tag))
	}
	list := c.Bdevs()
	slices.Reverse(list) // what stands on another was made after it
	for _, b := range list {
		errs = append(errs, c.DeleteBdev(b.Name(), ""))
	}
	return errors.Join(errs...)
}
