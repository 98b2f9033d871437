package pdu

// Version is the only protocol version there is (RFC 7143 §11.12.4).
const Version = 0x00

// Login stages, the values of CSG and NSG (RFC 7143 §11.12.3).
const (
	StageSecurity    = 0
	StageOperational = 1
	StageFullFeature = 3
)

// LoginStatus is the Status-Class (high byte) and Status-Detail (low byte) of
// a Login Response (RFC 7143 §11.13.5).
type LoginStatus uint16

// Login status codes.
const (
	LoginSuccess            LoginStatus = 0x0000
	LoginMovedTemporarily   LoginStatus = 0x0101
	LoginMovedPermanently   LoginStatus = 0x0102
	LoginInitiatorError     LoginStatus = 0x0200
	LoginAuthFailed         LoginStatus = 0x0201
	LoginForbidden          LoginStatus = 0x0202
	LoginNotFound           LoginStatus = 0x0203
	LoginTargetRemoved      LoginStatus = 0x0204
	LoginUnsupportedVersion LoginStatus = 0x0205
	LoginTooManyConns       LoginStatus = 0x0206
	LoginMissingParameter   LoginStatus = 0x0207
	LoginCannotInclude      LoginStatus = 0x0208
	LoginSessionType        LoginStatus = 0x0209
	LoginNoSession          LoginStatus = 0x020a
	LoginInvalidRequest     LoginStatus = 0x020b
	LoginTargetError        LoginStatus = 0x0300
	LoginUnavailable        LoginStatus = 0x0301
	LoginOutOfResources     LoginStatus = 0x0302
)

// Class is the Status-Class: 0 success, 1 redirection, 2 initiator error,
// 3 target error.
func (s LoginStatus) Class() uint8 { return uint8(s >> 8) }

// Task management functions, TMF request byte 1 (RFC 7143 §11.5.1).
const (
	TMFAbortTask    = 1
	TMFAbortTaskSet = 2
	TMFClearACA     = 3
	TMFClearTaskSet = 4
	TMFLUNReset     = 5
	TMFWarmReset    = 6
	TMFColdReset    = 7
	TMFReassign     = 8
	TMFQueryTask    = 9  // RFC 7144
	TMFQueryTaskSet = 10 // RFC 7144
	TMFITNexusReset = 11 // RFC 7144
	TMFQueryAsync   = 12 // RFC 7144
)

// Task management responses (RFC 7143 §11.6.1).
const (
	TMFComplete          = 0
	TMFNoTask            = 1
	TMFNoLUN             = 2
	TMFTaskAllegiant     = 3
	TMFNoReassign        = 4
	TMFNotSupported      = 5
	TMFNotAuthorized     = 6
	TMFFunctionSucceeded = 7 // RFC 7144
	TMFRejected          = 255
)

// Logout reasons (RFC 7143 §11.14.1).
const (
	LogoutCloseSession    = 0
	LogoutCloseConnection = 1
	LogoutRemoveForReinst = 2
)

// Logout responses (RFC 7143 §11.15.1).
const (
	LogoutSuccess       = 0
	LogoutCIDNotFound   = 1
	LogoutNoRecovery    = 2
	LogoutCleanupFailed = 3
)

// Reject reasons (RFC 7143 §11.17.1).
const (
	RejectDataDigest     = 0x02
	RejectSNACK          = 0x03
	RejectProtocol       = 0x04
	RejectUnsupported    = 0x05
	RejectImmediate      = 0x06 // too many immediate commands
	RejectTaskInProgress = 0x07
	RejectInvalidDataAck = 0x08
	RejectInvalidField   = 0x09
	RejectResources      = 0x0a
	RejectWaitingLogout  = 0x0c
)

// AsyncEvent is the event of an Asynchronous Message (RFC 7143 §11.9.1).
type AsyncEvent uint8

// Asynchronous events.
const (
	AsyncSCSI            AsyncEvent = 0   // sense data follows
	AsyncLogoutRequest   AsyncEvent = 1   // Param3: seconds
	AsyncDropConnection  AsyncEvent = 2   // Param1: CID, Param2: Time2Wait, Param3: Time2Retain
	AsyncDropSession     AsyncEvent = 3   // Param2: Time2Wait, Param3: Time2Retain
	AsyncRenegotiate     AsyncEvent = 4   // Param3: seconds
	AsyncTasksTerminated AsyncEvent = 5   // FastAbort
	AsyncVendor          AsyncEvent = 255 // AsyncVCode
)

// SCSI response codes, byte 2 (RFC 7143 §11.4.3).
const (
	RespCompleted     = 0x00
	RespTargetFailure = 0x01
)

// Task attributes, SCSI command byte 1 (RFC 7143 §11.3.1).
const (
	AttrUntagged = 0
	AttrSimple   = 1
	AttrOrdered  = 2
	AttrHead     = 3
	AttrACA      = 4
)

// SNACK types (RFC 7143 §11.16.1).
const (
	SNACKData    = 0 // Data-In or R2T
	SNACKStatus  = 1
	SNACKDataAck = 2
	SNACKRData   = 3
)
