package verbs

// WRID comes back in the completion of a request: slot (32 bits) | generation
// (16 bits) | operation (16 bits). In a failed completion only it, the status,
// the queue pair's number and the vendor's error are valid, so it has to tell
// the operation, on requests that are not signalled too: a flush completes them.
type WRID uint64

// NewWRID makes a WRID.
//
//spindle:hot
func NewWRID(slot uint32, gen, op uint16) WRID {
	return WRID(slot)<<32 | WRID(gen)<<16 | WRID(op)
}

// Slot is whose request it is.
//
//spindle:hot
func (id WRID) Slot() uint32 { return uint32(id >> 32) }

// Gen tells a use of the slot from the one before.
//
//spindle:hot
func (id WRID) Gen() uint16 { return uint16(id >> 16) }

// Op is what the request does, in the caller's own numbers.
//
//spindle:hot
func (id WRID) Op() uint16 { return uint16(id) }

// SGE is a span of registered memory; the layout is that of struct ibv_sge.
type SGE struct {
	Addr uint64
	Len  uint32 // bytes
	LKey uint32
}

// Opcode is what a send request does.
type Opcode uint8

// The send requests. Their results at the peer appear in the order posted;
// here, an RDMA READ may still be under way when later requests have completed
// at the peer (IBA 1.4 §10.8.3.3, table 79), and more of them than
// ConnParam.InitiatorDepth hold up everything behind them.
const (
	OpSend      Opcode = iota // consumes a receive of the peer
	OpSendInv                 // ... and invalidates the peer's RKey
	OpRDMAWrite               // to RemoteAddr, RKey; the peer is not told
	OpRDMARead                // from RemoteAddr, RKey into the SGEs
)

var opNames = [...]string{"SEND", "SEND_WITH_INV", "RDMA_WRITE", "RDMA_READ"}

func (o Opcode) String() string { return name(opNames[:], int(o), "opcode") }

// Flags of a send request.
type Flags uint8

// FlagSignaled asks for a completion; without it a request completes only when
// it fails, and its slot in the send queue is free again when a later signalled
// one of the queue pair has completed. FlagInline takes the data out of the
// buffers before Post returns. FlagFence holds the request until all RDMA READs
// before it are done. FlagSolicited marks the peer's completion as solicited.
const (
	FlagSignaled Flags = 1 << iota
	FlagInline
	FlagFence
	FlagSolicited
)

// SendWR is a request of a send queue. Use Batch.Send to add one.
type SendWR struct {
	ID         WRID
	RemoteAddr uint64 // OpRDMAWrite, OpRDMARead
	RKey       uint32 // likewise, and what OpSendInv invalidates
	QP         QPHandle
	First      uint32 // its SGEs in the batch, set by Batch.Send
	NumSGE     uint16
	Op         Opcode
	Flags      Flags
	Err        int32 // set by Post: an errno when it was refused, else 0
	_          uint32
}

// RecvWR is a request of a receive queue. Use Batch.Recv to add one.
type RecvWR struct {
	ID     WRID
	QP     QPHandle
	First  uint32
	NumSGE uint16
	_      uint16
	Err    int32
}

// WC is a completion. When Status is not StatusOK only ID, Status, QPNum and
// VendorErr are valid.
type WC struct {
	ID        WRID
	ByteLen   uint32 // of a receive: what arrived
	QPNum     uint32
	InvKey    uint32 // of a receive with WCInvalidated: the key that is valid no more
	VendorErr uint32
	Status    Status
	Op        WCOp
	Flags     WCFlags
	_         [5]byte
}

// WCOp is what completed.
type WCOp uint8

// The kinds of completions.
const (
	WCSend WCOp = iota
	WCRDMAWrite
	WCRDMARead
	WCRecv
	WCOther
)

var wcNames = [...]string{"SEND", "RDMA_WRITE", "RDMA_READ", "RECV", "other"}

func (o WCOp) String() string { return name(wcNames[:], int(o), "completion") }

// WCFlags say more about a completion.
type WCFlags uint8

// WCInvalidated: the peer invalidated InvKey.
const WCInvalidated WCFlags = 1

// Status is the result of a request; values of libibverbs.
type Status uint8

// The statuses (IBA 1.4 §11.6.2).
const (
	StatusOK Status = iota
	StatusLocalLength
	StatusLocalQPOp
	StatusLocalEECOp
	StatusLocalProtection
	StatusFlushed
	StatusMWBind
	StatusBadResponse
	StatusLocalAccess
	StatusRemoteInvalid
	StatusRemoteAccess
	StatusRemoteOp
	StatusRetryExceeded
	StatusRNRRetryExceeded
	StatusLocalRDDViolation
	StatusRemoteInvalidRD
	StatusRemoteAborted
	StatusInvalidEECN
	StatusInvalidEECState
	StatusFatal
	StatusResponseTimeout
	StatusGeneral
)

var statusNames = [...]string{"success", "local length error", "local QP operation error", "local EEC operation error",
	"local protection error", "flushed", "memory window bind error", "bad response", "local access error",
	"remote invalid request", "remote access error", "remote operation error", "transport retries exceeded",
	"RNR retries exceeded", "local RDD violation", "remote invalid RD request", "remote aborted", "invalid EE context number",
	"invalid EE context state", "fatal error", "response timeout", "general error"}

func (s Status) String() string { return name(statusNames[:], int(s), "status") }
