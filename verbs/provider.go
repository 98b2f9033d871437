package verbs

import (
	"net/netip"

	"spindle/reactor/mem"
)

// Provider is an implementation of RDMA verbs.
type Provider interface {
	// Name is "ibverbs" or "memverbs".
	Name() string

	// Control calls.

	// Scan describes the devices that are there now, without opening them.
	// No device is no error: the list is empty.
	Scan() ([]DeviceInfo, error)
	// Devices opens the devices that are there now. A device has one Device
	// value for as long as it is there; one that was removed is in the list no
	// more (its Device still has to be closed), and when it is added again it
	// comes as a new value. No device is no error: the list is empty.
	Devices() ([]Device, error)
	// NewEventChannel makes a channel of connection manager events. ErrNoDevice
	// when there has been no device yet: try again later.
	NewEventChannel() (EventChannel, error)

	// Reactor calls.

	// Post hands over the requests of b: all receives first, then all sends,
	// each queue pair's in order. It returns how many were refused; those have
	// Err set. After a refusal the batch's later sends (or receives) to the same
	// queue pair are refused too, so that nothing overtakes. b is untouched
	// otherwise; Reset it.
	Post(b *Batch) (refused int)
	// Poll takes completions of cqs, in that order, until out is full or the
	// queues are empty. bad is the index of the first queue that failed, else -1.
	Poll(cqs []CQHandle, out []WC) (n, bad int)
	// Arm asks each of cqs for one announcement on its completion channel when
	// the next completion arrives. Completions that are there already are not
	// announced: poll again after arming. False: a queue failed.
	Arm(cqs []CQHandle) bool
}

// Source is something that events come out of without blocking.
type Source interface {
	// FD becomes readable when an event is there; put it into a ring or a poll
	// set. -1: the provider is in process and uses OnReady instead.
	FD() int
	// OnReady sets what an in-process provider calls, from a step of its world,
	// when FD would have become readable. Others ignore it.
	OnReady(wake func())
}

// Device is an open RDMA device. Its calls are control calls. As a Source it
// announces asynchronous events.
type Device interface {
	Source
	// Info describes the device as it was when it was opened.
	Info() *DeviceInfo
	// Port asks for the present state of port n, which counts from 1.
	Port(n int) (PortInfo, error)
	// Counters are the driver's own counters of port n, where it has any.
	Counters(n int) ([]Counter, error)
	// NextAsync takes an asynchronous event; false when there is none.
	NextAsync(ev *AsyncEvent) bool
	// NewPD makes a protection domain.
	NewPD() (PD, error)
	// NewCompChannel makes a completion channel.
	NewCompChannel() (CompChannel, error)
	// NewCQ makes a completion queue of at least n entries. ch may be nil: then
	// the queue is only polled.
	NewCQ(n int, ch CompChannel) (CQ, error)
	// Close gives the device back. Everything made on it must have been closed:
	// the driver of a removed device waits for that, so do not delay it.
	Close() error
}

// PD is a protection domain. Its calls are control calls.
type PD interface {
	Device() Device
	// Register registers all of r for local use: LOCAL_WRITE, no remote access
	// of any kind. ErrIWARP on iWARP devices, whose RDMA READ needs a sink open
	// to the peer. ErrMemlock when the limit is too low.
	Register(r *mem.Region) (MR, error)
	// RegisterRemote registers a span for the peer's RDMA. For initiators and
	// tests: a target never calls it.
	RegisterRemote(m mem.Ref, access Access) (MR, error)
	Close() error
}

// MR is a registered memory region. Close is a control call.
type MR interface {
	LKey() uint32
	RKey() uint32
	Close() error
}

// CompChannel announces completions of the queues that were armed.
type CompChannel interface {
	Source
	// Drain takes the announcements; call it when FD is readable, before arming
	// again. It does not block: a reactor call.
	Drain() int
	// Close is a control call.
	Close() error
}

// CQHandle names a completion queue in Poll and Arm; 0 is none.
type CQHandle uint32

// CQ is a completion queue.
type CQ interface {
	Handle() CQHandle
	// Size is the number of entries. Whoever posts makes sure that more
	// completions than that are never outstanding; else the queue overruns
	// (AsyncCQError) and its queue pairs fail.
	Size() int
	// Close is a control call; ErrBusy while a queue pair uses the queue.
	Close() error
}

// QPHandle names a queue pair in requests; 0 is none. A handle is not used
// twice: requests for one that is gone are refused.
type QPHandle uint32

// QPConfig describes a queue pair to be made. It is of the reliable connected kind.
type QPConfig struct {
	SendCQ, RecvCQ         CQ
	MaxSend, MaxRecv       int // requests outstanding
	MaxSendSGE, MaxRecvSGE int // of one request; DeviceInfo.MaxSGE bounds them
	MaxInline              int // bytes of a request with FlagInline
}

// QP is a queue pair. Its calls, but for the plain reads, are control calls.
type QP interface {
	Handle() QPHandle // plain
	Num() uint32      // plain: the number on the wire and in completions
	Caps() QPConfig   // plain: what was granted, at least what was asked for
	// State asks the device.
	State() (QPState, error)
	// Fail moves the queue pair to the error state: every outstanding request
	// completes with StatusFlushed, signalled or not, and so does every send
	// posted later. A receive posted later may not complete by itself
	// (soft-RoCE does not look): call Fail again for it to be flushed.
	Fail() error
	// Close destroys it: its requests touch no memory any more. Completions not
	// polled yet may be lost, or come later. With an error it exists still, and
	// its requests with it; Close may be tried again.
	Close() error
}

// EventChannel is a channel of connection manager events. Its calls are control calls.
type EventChannel interface {
	Source
	// Next takes an event, copies it to ev and acknowledges it at once; false
	// when there is none.
	Next(ev *Event) (bool, error)
	// NewID makes an identifier whose events come here.
	NewID() (ID, error)
	// Close needs every identifier destroyed first.
	Close() error
}

// ID is an identifier of the connection manager (an RDMA socket). Its calls,
// but for the plain reads, are control calls.
type ID interface {
	// Addrs are the addresses of this side and of the peer, as far as known. Plain.
	Addrs() (local, peer netip.AddrPort)
	// Device is where the identifier is bound to; nil for a wildcard address.
	Device() (Device, error)
	// Port is the device's port, from 1; 0 when not bound to one.
	Port() int
	// Key and SetKey keep a number of the caller's. Plain.
	Key() uint64
	SetKey(uint64)

	// SetTOS sets the type of service of the connections to come (of a listener:
	// of those it takes).
	SetTOS(tos uint8) error
	// SetAckTimeout sets the queue pair's ACK timeout to 4.096 µs * 2^t.
	SetAckTimeout(t uint8) error

	// Bind binds to addr. An IPv6 wildcard binds IPv6 only.
	Bind(addr netip.AddrPort) error
	Listen(backlog int) error
	// ResolveAddr and ResolveRoute are the initiator's first steps; each ends in
	// an event.
	ResolveAddr(dst netip.AddrPort, timeout Millis) error
	ResolveRoute(timeout Millis) error

	// CreateQP makes the queue pair of the connection.
	CreateQP(pd PD, c QPConfig) (QP, error)
	// Connect, Accept and Reject carry private data: at most MaxPrivateREQ,
	// MaxPrivateREP and MaxPrivateREJ bytes.
	Connect(p ConnParam, private []byte) error
	Accept(p ConnParam, private []byte) error
	Reject(private []byte) error
	// Notify tells the connection manager of AsyncCommEst: a message arrived
	// before the peer's ready-to-use.
	Notify(t AsyncType) error
	// Disconnect moves the queue pair to the error state and tells the peer.
	Disconnect() error
	// Destroy gives the identifier back; its queue pair must have been closed.
	// No event of it comes after.
	Destroy() error
}

// Millis is a timeout of the connection manager, in milliseconds.
type Millis int

// Bounds of private data with IP addressing, in bytes (IBA 1.4 §12.6, less the
// header of the IP port space in a request, §A11.3).
const (
	MaxPrivateREQ = 56
	MaxPrivateREP = 196
	MaxPrivateREJ = 148
)

// ConnParam are the parameters of a connection.
type ConnParam struct {
	// ResponderResources is how many RDMA READs of the peer this side serves at
	// a time, InitiatorDepth how many this side may have outstanding. In an
	// EventConnectRequest they are this side's bounds: InitiatorDepth is what
	// the peer offers to serve.
	ResponderResources, InitiatorDepth uint8
	FlowControl                        bool
	// Retry is how often a request that is not acknowledged is sent again.
	Retry uint8
	// RNRRetry is how often the *peer* sends again what found no receive here;
	// 7 is without end.
	RNRRetry uint8
}
