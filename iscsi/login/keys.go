package login

import "spindle/iscsi/pdu"

// keyID indexes the key table, Machine.vals and the seen and offered sets.
type keyID uint8

const (
	kAuthMethod keyID = iota
	kCHAPA
	kCHAPI
	kCHAPC
	kCHAPN
	kCHAPR
	kInitiatorName
	kInitiatorAlias
	kTargetName
	kSessionType
	kTargetAlias
	kTargetAddress
	kPortalGroupTag
	kSendTargets
	kNodeArchitecture
	kHeaderDigest
	kDataDigest
	kMaxConnections
	kInitialR2T
	kImmediateData
	kMaxRecvData
	kMaxBurst
	kFirstBurst
	kTime2Wait
	kTime2Retain
	kMaxOutstandingR2T
	kDataPDUInOrder
	kDataSequenceInOrder
	kERL
	kProtocolLevel
	kTaskReporting
	kIFMarker
	kOFMarker
	kIFMarkInt
	kOFMarkInt
	kRDMAExtensions
	kTargetRecvData
	kInitiatorRecvData
	kMaxUnexpectedPDUs
	kMaxAHSLength
	kTaggedBufferOnly
	kHelloRequired
	numKeys
)

const _ = uint(64 - numKeys) // keySet is a word

// keySet is a set of keys.
type keySet uint64

func (s keySet) has(k keyID) bool { return s>>k&1 != 0 }
func (s *keySet) add(k keyID)     { *s |= 1 << k }

// function is how a key comes to its value (RFC 7143 §6.2).
type function uint8

const (
	fnName          function = iota // declared text that says who and what
	fnSecurity                      // AuthMethod and what it brings
	fnDeclare                       // declared number
	fnDeclareBool                   // declared Boolean
	fnAnd                           // Boolean AND
	fnOr                            // Boolean OR
	fnMin                           // smaller number
	fnMax                           // larger number
	fnDigest                        // list: None, CRC32C
	fnTaskReporting                 // list: RFC3720, ResponseFence, FastAbort
	fnNo                            // obsolete: always No
	fnReject                        // obsolete: always Reject
	fnIgnore                        // declared, of no use to us, no answer
)

// Where a key may stand.
const (
	inSecurity    = 1 << iota // security negotiation
	inOperational             // operational negotiation
	inFullFeature             // full feature phase
	byTarget                  // only the target sends it

	anyStage = inSecurity | inOperational
)

// spec is a row of the key table.
type spec struct {
	name  string
	fn    function
	where uint8
	// leading: only on the leading connection of a session.
	leading bool
	// normal: irrelevant in discovery sessions.
	normal bool
	// rdma: irrelevant without RDMA.
	rdma bool
	// lo..hi is the range, def the value when nobody negotiates. Booleans are 0 and 1.
	lo, hi, def uint32
}

const maxU24 = 1<<24 - 1

// keys is RFC 7143 §13 and §12, and RFC 7145 §6, as a table.
var keys = [numKeys]spec{
	kAuthMethod: {name: pdu.KeyAuthMethod, fn: fnSecurity, where: inSecurity},
	kCHAPA:      {name: pdu.KeyCHAPA, fn: fnSecurity, where: inSecurity},
	kCHAPI:      {name: pdu.KeyCHAPI, fn: fnSecurity, where: inSecurity},
	kCHAPC:      {name: pdu.KeyCHAPC, fn: fnSecurity, where: inSecurity},
	kCHAPN:      {name: pdu.KeyCHAPN, fn: fnSecurity, where: inSecurity},
	kCHAPR:      {name: pdu.KeyCHAPR, fn: fnSecurity, where: inSecurity},

	kInitiatorName:    {name: pdu.KeyInitiatorName, fn: fnName, where: anyStage},
	kInitiatorAlias:   {name: pdu.KeyInitiatorAlias, fn: fnName, where: anyStage | inFullFeature},
	kTargetName:       {name: pdu.KeyTargetName, fn: fnName, where: anyStage},
	kSessionType:      {name: pdu.KeySessionType, fn: fnName, where: anyStage},
	kTargetAlias:      {name: pdu.KeyTargetAlias, fn: fnName, where: byTarget},
	kTargetAddress:    {name: pdu.KeyTargetAddress, fn: fnName, where: byTarget},
	kPortalGroupTag:   {name: pdu.KeyTargetPortalGroupTag, fn: fnName, where: byTarget},
	kSendTargets:      {name: pdu.KeySendTargets, fn: fnName, where: inFullFeature},
	kNodeArchitecture: {name: pdu.KeyNodeArchitecture, fn: fnIgnore, where: anyStage},

	kHeaderDigest: {name: pdu.KeyHeaderDigest, fn: fnDigest, where: inOperational},
	kDataDigest:   {name: pdu.KeyDataDigest, fn: fnDigest, where: inOperational},

	kMaxConnections: {name: pdu.KeyMaxConnections, fn: fnMin, where: inOperational,
		leading: true, normal: true, lo: 1, hi: 65535, def: 1},
	kInitialR2T: {name: pdu.KeyInitialR2T, fn: fnOr, where: inOperational,
		leading: true, normal: true, def: 1},
	kImmediateData: {name: pdu.KeyImmediateData, fn: fnAnd, where: inOperational,
		leading: true, normal: true, def: 1},
	kMaxRecvData: {name: pdu.KeyMaxRecvData, fn: fnDeclare, where: inOperational | inFullFeature,
		lo: 512, hi: maxU24, def: 8192},
	kMaxBurst: {name: pdu.KeyMaxBurst, fn: fnMin, where: inOperational,
		leading: true, normal: true, lo: 512, hi: maxU24, def: 262144},
	kFirstBurst: {name: pdu.KeyFirstBurst, fn: fnMin, where: inOperational,
		leading: true, normal: true, lo: 512, hi: maxU24, def: 65536},
	kTime2Wait: {name: pdu.KeyDefaultTime2Wait, fn: fnMax, where: inOperational,
		leading: true, hi: 3600, def: 2},
	kTime2Retain: {name: pdu.KeyDefaultTime2Retain, fn: fnMin, where: inOperational,
		leading: true, hi: 3600, def: 20},
	kMaxOutstandingR2T: {name: pdu.KeyMaxOutstandingR2T, fn: fnMin, where: inOperational,
		leading: true, normal: true, lo: 1, hi: 65535, def: 1},
	kDataPDUInOrder: {name: pdu.KeyDataPDUInOrder, fn: fnOr, where: inOperational,
		leading: true, normal: true, def: 1},
	kDataSequenceInOrder: {name: pdu.KeyDataSequenceInOrder, fn: fnOr, where: inOperational,
		leading: true, normal: true, def: 1},
	kERL: {name: pdu.KeyErrorRecoveryLevel, fn: fnMin, where: inOperational,
		leading: true, hi: 2, def: 0},
	kProtocolLevel: {name: pdu.KeyProtocolLevel, fn: fnMin, where: inOperational,
		leading: true, normal: true, hi: 31, def: 1},
	kTaskReporting: {name: pdu.KeyTaskReporting, fn: fnTaskReporting, where: inOperational,
		leading: true, normal: true},

	// RFC 7143 §13.25: No or Reject for the first two, Reject for the others,
	// NotUnderstood for none. ib_iser offers the first two and wants No.
	kIFMarker:  {name: pdu.KeyIFMarker, fn: fnNo, where: inOperational},
	kOFMarker:  {name: pdu.KeyOFMarker, fn: fnNo, where: inOperational},
	kIFMarkInt: {name: pdu.KeyIFMarkInt, fn: fnReject, where: inOperational},
	kOFMarkInt: {name: pdu.KeyOFMarkInt, fn: fnReject, where: inOperational},

	// Without RDMA, AND with our No makes RDMAExtensions No; the rest has no meaning.
	kRDMAExtensions: {name: pdu.KeyRDMAExtensions, fn: fnAnd, where: inOperational, leading: true},
	kTargetRecvData: {name: pdu.KeyTargetRecvData, fn: fnMin, where: inOperational,
		rdma: true, lo: 512, hi: maxU24, def: 8192},
	kInitiatorRecvData: {name: pdu.KeyInitiatorRecvData, fn: fnMin, where: inOperational,
		rdma: true, lo: 512, hi: maxU24, def: 8192},
	kMaxUnexpectedPDUs: {name: pdu.KeyMaxUnexpectedPDUs, fn: fnDeclare, where: inOperational,
		leading: true, rdma: true, hi: 1<<32 - 1},
	kMaxAHSLength: {name: pdu.KeyMaxAHSLength, fn: fnDeclare, where: inOperational,
		leading: true, rdma: true, hi: 1<<32 - 1, def: 256},
	kTaggedBufferOnly: {name: pdu.KeyTaggedBufferOnly, fn: fnDeclareBool, where: inOperational,
		leading: true, rdma: true},
	kHelloRequired: {name: pdu.KeyISERHelloRequired, fn: fnDeclareBool, where: inOperational,
		leading: true, rdma: true},
}

// findKey returns the row of name. A walk, since a login has a few dozen keys.
func findKey(name []byte) (keyID, bool) {
	for k := range keys {
		if keys[k].name == string(name) {
			return keyID(k), true
		}
	}
	return 0, false
}
