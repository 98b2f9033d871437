package verbs

// Event is an event of the connection manager. It is the caller's, with all
// that it holds: the manager's own copy has been acknowledged.
type Event struct {
	Type EventType
	// ID is whom the event is for: with EventConnectRequest the identifier of
	// the new connection, which is the caller's to accept or reject, and destroy.
	ID ID
	// Listener is where a connection request arrived.
	Listener ID
	// Status is an errno (negative) or, in a rejection, the manager's reason.
	Status int
	// Param are the parameters of EventConnectRequest and EventEstablished.
	Param ConnParam
	// QPNum is the peer's queue pair.
	QPNum uint32

	private    [256]byte
	privateLen uint8
}

// Private is the private data that came along. The manager pads it with zeroes:
// its length says nothing of what the peer gave, and it may be empty.
func (e *Event) Private() []byte { return e.private[:e.privateLen] }

// SetPrivate copies b into the event; for providers.
func (e *Event) SetPrivate(b []byte) { e.privateLen = uint8(copy(e.private[:255], b)) }

// EventType says what an Event is; values of librdmacm.
type EventType uint8

// The events of the connection manager.
const (
	EventAddrResolved EventType = iota
	EventAddrError
	EventRouteResolved
	EventRouteError
	EventConnectRequest
	EventConnectResponse
	EventConnectError
	EventUnreachable
	EventRejected
	EventEstablished
	EventDisconnected
	EventDeviceRemoval
	EventMulticastJoin
	EventMulticastError
	EventAddrChange
	EventTimewaitExit
)

var eventNames = [...]string{"ADDR_RESOLVED", "ADDR_ERROR", "ROUTE_RESOLVED", "ROUTE_ERROR", "CONNECT_REQUEST",
	"CONNECT_RESPONSE", "CONNECT_ERROR", "UNREACHABLE", "REJECTED", "ESTABLISHED", "DISCONNECTED", "DEVICE_REMOVAL",
	"MULTICAST_JOIN", "MULTICAST_ERROR", "ADDR_CHANGE", "TIMEWAIT_EXIT"}

func (t EventType) String() string { return name(eventNames[:], int(t), "event") }
