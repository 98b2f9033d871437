package verbs

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// DeviceInfo describes a device.
type DeviceInfo struct {
	Name     string
	Index    uint32 // not used twice: tells a device from one added again; 0 is unknown
	NodeGUID uint64
	Firmware string

	Transport Transport
	VendorID  uint32
	PartID    uint32

	MaxQP, MaxCQ, MaxMR, MaxPD int
	MaxQPWR                    int // requests of a queue
	MaxCQE                     int
	MaxSGE                     int // of a request
	MaxSGERead                 int // of an RDMA READ's sink
	MaxMRSize                  uint64
	MaxReadAtoms               int // max_qp_rd_atom: RDMA READs a queue pair serves at a time
	MaxInitReadAtoms           int // max_qp_init_rd_atom: ... and may have outstanding
	// MemMgtExtensions: the device takes Send with Invalidate and fast
	// registration (IBA 1.4 §9.4.1.1).
	MemMgtExtensions bool

	Ports []PortInfo
}

// The vendors that the kernel's software devices say they are of
// (drivers/infiniband/sw: rxe_param.h, siw.h).
const (
	vendorRXE = 0xffffff
	vendorSIW = 0x626d74
)

// Software tells whether the device is no adapter but a kernel module (soft-RoCE,
// soft-iWARP) that does its work on the CPUs of those who use it.
func (i *DeviceInfo) Software() bool { return i.VendorID == vendorRXE || i.VendorID == vendorSIW }

// PortInfo describes a port of a device.
type PortInfo struct {
	Number  int
	State   PortState
	Link    LinkLayer
	MaxMsg  uint32 // bytes of one message
	MTU     int    // bytes in use
	LID     uint16
	GIDs    []GID
	NetDevs []string // network devices under it
}

// GID is an entry of a port's address table.
type GID struct {
	Index  int
	Addr   netip.Addr // IPv4 for an address mapped into a GID
	Type   string     // "IB/RoCE v1", "RoCE v2"
	NetDev string
}

// Counter is one of a driver's counters.
type Counter struct {
	Name  string
	Value uint64
}

// Transport is what a device speaks.
type Transport uint8

// The transports; RoCE is InfiniBand's transport on an Ethernet link.
const (
	TransportUnknown Transport = iota
	TransportIB
	TransportRoCE
	TransportIWARP
)

var transportNames = [...]string{"unknown", "InfiniBand", "RoCE", "iWARP"}

func (t Transport) String() string { return name(transportNames[:], int(t), "transport") }

// LinkLayer is what a port is connected to; values of libibverbs.
type LinkLayer uint8

// The link layers.
const (
	LinkUnspecified LinkLayer = iota
	LinkInfiniBand
	LinkEthernet
)

var linkNames = [...]string{"unspecified", "InfiniBand", "Ethernet"}

func (l LinkLayer) String() string { return name(linkNames[:], int(l), "link layer") }

// PortState is the state of a port; values of libibverbs.
type PortState uint8

// The states of a port. Only an active one carries traffic.
const (
	PortNop PortState = iota
	PortDown
	PortInit
	PortArmed
	PortActive
	PortActiveDefer
)

var portNames = [...]string{"no change", "down", "initializing", "armed", "active", "active, deferring"}

func (s PortState) String() string { return name(portNames[:], int(s), "port state") }

// QPState is the state of a queue pair; values of libibverbs.
type QPState uint8

// The states of a queue pair (IBA 1.4 §10.3.1).
const (
	QPReset QPState = iota
	QPInit
	QPReadyToReceive
	QPReadyToSend
	QPSendDrained
	QPSendError
	QPError
)

var qpNames = [...]string{"RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"}

func (s QPState) String() string { return name(qpNames[:], int(s), "QP state") }

// Access are the rights of a memory region; values of libibverbs.
type Access uint8

// The rights that RegisterRemote gives beside LOCAL_WRITE.
const (
	AccessRemoteWrite Access = 1 << 1
	AccessRemoteRead  Access = 1 << 2
)

// AsyncEvent is an asynchronous event of a device.
type AsyncEvent struct {
	Type AsyncType
	QP   QPHandle // of the events of a queue pair
	CQ   CQHandle // of AsyncCQError
	Port int      // of the events of a port
}

// AsyncType says what an AsyncEvent is; values of libibverbs.
type AsyncType uint8

// The asynchronous events (IBA 1.4 §11.6.3).
const (
	AsyncCQError        AsyncType = iota // a completion queue overran
	AsyncQPFatal                         // a queue pair failed
	AsyncQPRequestError                  // the peer asked for something invalid
	AsyncQPAccessError                   // the peer had no right to what it asked for
	AsyncCommEst                         // a message arrived before ready-to-use
	AsyncSQDrained
	AsyncPathMigrated
	AsyncPathMigrateError
	AsyncDeviceFatal // the device failed or was removed
	AsyncPortActive
	AsyncPortError
	AsyncLIDChange
	AsyncPKeyChange
	AsyncSMChange
	AsyncSRQError
	AsyncSRQLimit
	AsyncLastWQE // the last receive of a failed queue pair left the shared queue
	AsyncClientReregister
	AsyncGIDChange
)

var asyncNames = [...]string{"CQ error", "QP fatal", "QP request error", "QP access error", "communication established",
	"SQ drained", "path migrated", "path migration error", "device fatal", "port active", "port error", "LID change",
	"P_Key change", "SM change", "SRQ error", "SRQ limit reached", "last WQE reached", "client reregister", "GID change"}

func (t AsyncType) String() string { return name(asyncNames[:], int(t), "async event") }

// name is the i'th of names, or a number for a value that this page does not know.
func name(names []string, i int, what string) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s %d", what, i)
}

// GUIDString writes a GUID as sysfs does, in four groups.
func GUIDString(guid uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], guid)
	return fmt.Sprintf("%02x%02x:%02x%02x:%02x%02x:%02x%02x", b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7])
}
