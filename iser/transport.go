package iser

import (
	"io"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"spindle/internal/plant"
	"spindle/iscsi"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/verbs"
)

// Limits of the transport.
const (
	// MaxRecvData is the TargetRecvDataSegmentLength we declare, in bytes: what a
	// receive has room for.
	MaxRecvData = 8 << 10
	// MaxSendData bounds the data segment of a SEND in full feature phase, in
	// bytes: whatever was negotiated, initiators post receives of 76+128 bytes.
	MaxSendData = 128
	// MaxLoginData is its bound during login and in discovery sessions.
	MaxLoginData = 8 << 10
	// ReserveReceives are posted beyond the command window: NOP-Out, Text, task
	// management, Logout, immediate commands.
	ReserveReceives = 16
	// MaxConnections bounds the connections of all portals.
	MaxConnections = 4096
	// MaxReads bounds the RDMA READs a connection has outstanding; its peer's
	// bound is usually lower.
	MaxReads = 128

	// sendQueue is the default depth of a send queue, maxReceives the most receives a
	// connection posts, sendSGEs what a SEND needs: headers, data, padding.
	sendQueue   = 512
	maxReceives = 1 << indexBits
	sendSGEs    = 3
	wantInline  = 128 // bytes

	// queueEntries is the size of a completion queue that is asked for.
	queueEntries = 32 << 10
)

// Time boxes of a connection's end, and of the search for devices.
const (
	drainLimit   = 5 * time.Second // for the requests of a dead queue pair to flush
	removedLimit = time.Second     // likewise on a device that was removed: the driver waits for us
	controlLimit = 5 * time.Second // for a call of the control thread before it counts as a zombie
	retryEvery   = time.Second     // a listener without a device
	sweepEvery   = 5 * time.Second // registrations of deleted regions
)

// Options make a Transport. Zero fields take the defaults named.
type Options struct {
	Provider verbs.Provider
	// Missing says why there is no Provider; portals then wait with this error.
	Missing  error
	Reactors []*reactor.Reactor
	Space    *mem.Space // whose regions are registered
	Offload  reactor.Offload
	Log      *slog.Logger
	// TOS is the type of service of connections, AckTimeout their ACK timeout of
	// 4.096 µs * 2^AckTimeout; 0 leaves the system's.
	TOS, AckTimeout uint8
	// Unsolicited allows InitialR2T=No. Each command may then bring several
	// Data-Out PDUs, which all need a receive posted.
	Unsolicited bool
	// SendQueue is the depth of a connection's send queue, 512.
	SendQueue int

	maxMessage uint32 // tests: the longest message, when less than the port's
}

// Transport is iSCSI over iSER. It implements iscsi.Transport.
type Transport struct {
	opt    Options
	log    *slog.Logger
	shards []*shard
	m      *manager
	Stats  Stats
}

// Stats counts what happened. Any thread may read.
type Stats struct {
	Accepted     atomic.Uint64
	Rejected     atomic.Uint64 // connection requests
	Malformed    atomic.Uint64 // messages that ended their connection
	ParsePanics  atomic.Uint64
	ReadWaits    atomic.Uint64 // RDMA READs that waited for one of the peer's slots
	SendWaits    atomic.Uint64 // times a send queue was full
	Refused      atomic.Uint64 // requests that the device did not take
	Failed       atomic.Uint64 // completions in error that ended a connection
	RNR          atomic.Uint64 // of those, receiver not ready at the peer
	RemoteAccess atomic.Uint64 // of those, no access to the peer's memory
	Stale        atomic.Uint64 // completions of queue pairs that are gone
	Copies       atomic.Uint64 // replies from memory that could not be registered
	DrainTimeout atomic.Uint64 // queue pairs destroyed before all requests had flushed
	Zombies      atomic.Uint64 // calls of the control thread that took too long
	Devices      atomic.Int64  // in use
	Removals     atomic.Uint64 // of devices
}

// New makes the transport for these reactors. Nothing is opened before the
// first Listen.
func New(o Options) *Transport {
	if o.SendQueue == 0 {
		o.SendQueue = sendQueue
	}
	t := &Transport{opt: o, log: o.Log, shards: make([]*shard, len(o.Reactors))}
	if t.log == nil {
		t.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	for i, r := range o.Reactors {
		t.shards[i] = newShard(t, r)
	}
	t.m = newManager(t, o.Reactors[0])
	return t
}

// Traits implements iscsi.Transport.
func (t *Transport) Traits() iscsi.Traits {
	most := uint32(MaxSendData)
	if plant.On(plant.LongMessage) {
		most = MaxLoginData
	}
	return iscsi.Traits{
		Name: "iser", RDMAKeys: true, MaxRecvData: MaxRecvData, MaxSendData: most,
		InitialR2T: !t.opt.Unsolicited, Pinned: true, Reads: true,
	}
}

// Listen implements iscsi.Transport. A portal that no device serves yet is no
// error: it waits for one.
func (t *Transport) Listen(c reactor.Caller, _ *reactor.Reactor, addr netip.AddrPort, accept func(*reactor.Reactor, iscsi.Conn)) (iscsi.Listener, error) {
	l := &listener{t: t, addr: addr, accept: accept}
	t.m.await(c, func() { t.m.addListener(l) })
	return l, nil
}

// Stop gives everything back: devices, registrations, the event channel. Call it
// when all listeners and connections are closed.
func (t *Transport) Stop(c reactor.Caller) {
	c.Await(t.m.home, t.m.stop)
}

// listener is a portal served over iSER.
type listener struct {
	t      *Transport
	addr   netip.AddrPort
	accept func(*reactor.Reactor, iscsi.Conn)
	why    atomic.Pointer[error] // why it is not being served; nil when it is

	// The control thread's.
	id     verbs.ID
	dev    *device // bound to; nil for a wildcard address
	closed bool
}

// Addr implements iscsi.Listener.
func (l *listener) Addr() netip.AddrPort { return l.addr }

// Waiting implements iscsi.Listener.
func (l *listener) Waiting() error {
	if e := l.why.Load(); e != nil {
		return *e
	}
	return nil
}

// Close implements iscsi.Listener.
func (l *listener) Close(c reactor.Caller) {
	m := l.t.m
	m.await(c, func() { m.removeListener(l) })
	// A connection that was on its way to accept is there by now: messages to a
	// reactor keep their order.
	for _, s := range l.t.shards {
		c.Await(s.r, func(done func()) { done() })
	}
}
