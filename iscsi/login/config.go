package login

import (
	"io"

	"spindle/iscsi/pdu"
)

// Digests is what this side does about HeaderDigest or DataDigest.
type Digests uint8

const (
	// DigestNever has only None.
	DigestNever Digests = iota
	// DigestAllow lets the initiator's order of preference decide, as list
	// negotiation has it (RFC 7143 §6.2.1).
	DigestAllow
	// DigestRequire has only CRC32C, and offers it when the initiator does not.
	DigestRequire
)

// Config is this side's half of the negotiation. Lengths are bytes, times seconds.
type Config struct {
	RDMA              bool   // iSER: RDMAExtensions and the keys of RFC 7145 §6 belong here
	PortalGroupTag    uint16 // of the portal the connection came in by
	TargetAlias       string // may be empty
	HeaderDigest      Digests
	DataDigest        Digests
	MaxRecvData       uint32 // MaxRecvDataSegmentLength, or TargetRecvDataSegmentLength on RDMA
	MaxBurst          uint32
	FirstBurst        uint32
	MaxOutstandingR2T uint32
	MaxConnections    uint32
	Time2Wait         uint32
	Time2Retain       uint32
	InitialR2T        bool
	ImmediateData     bool
	ERL               uint32
	ProtocolLevel     uint32 // iSCSIProtocolLevel; 0 means 1, RFC 7143
	TaskReporting     TaskReporting
}

// TaskReporting is a set of task reporting semantics (RFC 7143 §13.23).
// RFC3720 is always in it.
type TaskReporting uint8

// Members of TaskReporting. A Result holds one of them, or 0 for RFC3720.
const (
	ResponseFence TaskReporting = 1 << iota
	FastAbort
)

// Identity is what an initiator says it is and wants, before anything is proven.
type Identity struct {
	InitiatorName  string // lower case (RFC 3722)
	InitiatorAlias string
	TargetName     string // lower case; may be empty in a discovery session
	Discovery      bool
	ISID           [6]byte
	TSIH           uint16 // 0: leading connection of a new session
	CID            uint16
}

// Policy is the engine's answer to an Identity.
type Policy struct {
	// Status other than LoginSuccess refuses the login.
	Status pdu.LoginStatus
	// Redirect is the TargetAddress that goes with a status of class 1.
	Redirect string
	Config   Config
	// CHAP is how to authenticate; nil offers no CHAP.
	CHAP *CHAP
	// RequireAuth refuses an initiator that has not passed CHAP.
	RequireAuth bool
}

// Resolver answers for the targets behind a portal. A Machine calls it once,
// before authentication: it must change nothing. See Machine.Holds.
type Resolver interface {
	Resolve(id *Identity) Policy
}

// Credentials are the secrets of one user.
type Credentials struct {
	Secret []byte // the initiator proves it
	// MutualUser and MutualSecret are what we prove; empty when we cannot.
	MutualUser   string
	MutualSecret []byte
}

// SecretStore finds the credentials of a CHAP user, who must be allowed to log
// in under the initiator's name (lower case).
type SecretStore interface {
	Credentials(user, initiator string) (Credentials, bool)
}

// CHAP is how to authenticate by CHAP.
type CHAP struct {
	Store   SecretStore
	Entropy io.Reader
	// Mutual refuses an initiator that does not authenticate us in turn.
	Mutual bool
}

// Result is a finished negotiation. Lengths are bytes, times seconds.
type Result struct {
	Identity
	CHAPUser string // who authenticated; "" when nobody did
	Mutual   bool   // and we to them

	HeaderDigest, DataDigest bool
	// MaxSendData is the longest data segment the initiator takes, MaxRecvData
	// the longest we said we take.
	MaxSendData, MaxRecvData uint32
	MaxBurst, FirstBurst     uint32
	MaxOutstandingR2T        uint32
	MaxConnections           uint32
	Time2Wait, Time2Retain   uint32
	InitialR2T               bool
	ImmediateData            bool
	DataPDUInOrder           bool
	DataSequenceInOrder      bool
	ERL                      uint32
	ProtocolLevel            uint32
	TaskReporting            TaskReporting

	// RDMAExtensions and what follows are iSER's (RFC 7145 §6).
	RDMAExtensions    bool
	MaxUnexpectedPDUs uint32 // the initiator takes; 0 is no limit
	MaxAHSLength      uint32
	TaggedBufferOnly  bool
	TaggedBufferWhole bool // the initiator said TaggedBufferForSolicitedDataOnly=No
	HelloRequired     bool
}

// Verdict is how a login stands after a Step.
type Verdict uint8

const (
	// Continue: send the response, the dialogue goes on.
	Continue Verdict = iota
	// Done: the response opens full feature phase; Machine.Result holds.
	Done
	// Failed: send the response, then close the connection.
	Failed
)

// Reply is the Login Response to one request.
type Reply struct {
	Verdict Verdict
	Status  pdu.LoginStatus
	Reason  string // why it failed, a constant, for the log; never the peer's bytes
	Flags   byte   // T, C, CSG, NSG
	ISID    [6]byte
	TSIH    uint16 // of the request; the engine sets it on a Done that makes a session
	ITT     uint32
	Data    []byte // at most MaxPDUData
}

// Encode writes the Login Response's header to b: all but StatSN, ExpCmdSN and
// MaxCmdSN, which are the engine's.
func (r *Reply) Encode(b pdu.BHS) {
	b.Clear(pdu.LoginResponse)
	b.SetFlags(r.Flags)
	b.SetVersions(pdu.Version, pdu.Version)
	b.SetDataLen(uint32(len(r.Data)))
	copy(b.ISID(), r.ISID[:])
	b.SetTSIH(r.TSIH)
	b.SetITT(r.ITT)
	b.SetLoginStatus(r.Status)
}
