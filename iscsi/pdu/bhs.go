package pdu

import "encoding/binary"

var be = binary.BigEndian

// Opcode is the low six bits of byte 0 (RFC 7143 §11.2.1.2).
type Opcode uint8

// Initiator and target opcodes.
const (
	NopOut       Opcode = 0x00
	SCSICommand  Opcode = 0x01
	TMFRequest   Opcode = 0x02
	LoginRequest Opcode = 0x03
	TextRequest  Opcode = 0x04
	DataOut      Opcode = 0x05
	LogoutReq    Opcode = 0x06
	SNACK        Opcode = 0x10

	NopIn         Opcode = 0x20
	SCSIResponse  Opcode = 0x21
	TMFResponse   Opcode = 0x22
	LoginResponse Opcode = 0x23
	TextResponse  Opcode = 0x24
	DataIn        Opcode = 0x25
	LogoutResp    Opcode = 0x26
	R2T           Opcode = 0x31
	AsyncMessage  Opcode = 0x32
	Reject        Opcode = 0x3f
)

const (
	// HeaderLen is the length of a BHS, DigestLen that of either digest, in bytes.
	HeaderLen = 48
	DigestLen = 4
	// CDBLen is the length of the CDB in a BHS, in bytes; more of it is in an AHS.
	CDBLen = 16
	// MaxAHS is the longest additional header segment area: TotalAHSLength is a byte of words.
	MaxAHS = 255 * 4
	// ReservedTag is the tag that names no task.
	ReservedTag = 0xffffffff
)

// Flag bits of byte 1, by PDU.
const (
	FlagFinal    = 0x80
	FlagTransit  = 0x80 // login
	FlagImmed    = 0x40 // byte 0: immediate delivery
	FlagContinue = 0x40 // login, text
	FlagRead     = 0x40 // SCSI command
	FlagWrite    = 0x20 // SCSI command
	AttrMask     = 0x07 // SCSI command
	FlagAck      = 0x40 // Data-In
	FlagBidiOver = 0x10 // SCSI response
	FlagBidiUnd  = 0x08 // SCSI response
	FlagOverflow = 0x04 // SCSI response, Data-In with status
	FlagUnderfl  = 0x02 // SCSI response, Data-In with status
	FlagStatus   = 0x01 // Data-In carries the status
)

// BHS is a view over a basic header segment. The getters of fields that only
// some PDUs have are named for their meaning there.
type BHS []byte

func (b BHS) Opcode() Opcode           { return Opcode(b[0] & 0x3f) }
func (b BHS) Immediate() bool          { return b[0]&0x40 != 0 }
func (b BHS) Flags() byte              { return b[1] }
func (b BHS) Final() bool              { return b[1]&FlagFinal != 0 }
func (b BHS) AHSLen() uint32           { return uint32(b[4]) * 4 } // bytes
func (b BHS) DataLen() uint32          { return be.Uint32(b[4:8]) & 0xffffff }
func (b BHS) LUN() uint64              { return be.Uint64(b[8:16]) }
func (b BHS) ITT() uint32              { return be.Uint32(b[16:20]) }
func (b BHS) TTT() uint32              { return be.Uint32(b[20:24]) }
func (b BHS) EDTL() uint32             { return be.Uint32(b[20:24]) } // SCSI command
func (b BHS) RefTag() uint32           { return be.Uint32(b[20:24]) } // TMF request
func (b BHS) CID() uint16              { return be.Uint16(b[20:22]) } // login and logout request
func (b BHS) CmdSN() uint32            { return be.Uint32(b[24:28]) } // initiator
func (b BHS) StatSN() uint32           { return be.Uint32(b[24:28]) } // target
func (b BHS) ExpStatSN() uint32        { return be.Uint32(b[28:32]) } // initiator
func (b BHS) ExpCmdSN() uint32         { return be.Uint32(b[28:32]) } // target
func (b BHS) MaxCmdSN() uint32         { return be.Uint32(b[32:36]) } // target
func (b BHS) CDB() []byte              { return b[32:48:48] }
func (b BHS) RefCmdSN() uint32         { return be.Uint32(b[32:36]) } // TMF request
func (b BHS) DataSN() uint32           { return be.Uint32(b[36:40]) } // Data-In, Data-Out, R2T's R2TSN
func (b BHS) Offset() uint32           { return be.Uint32(b[40:44]) } // Data-In, Data-Out, R2T
func (b BHS) Desired() uint32          { return be.Uint32(b[44:48]) } // R2T
func (b BHS) Residual() uint32         { return be.Uint32(b[44:48]) } // SCSI response, Data-In with status
func (b BHS) TMF() uint8               { return b[1] & 0x7f }
func (b BHS) LogoutReason() uint8      { return b[1] & 0x7f }
func (b BHS) Response() uint8          { return b[2] }
func (b BHS) Status() uint8            { return b[3] }                             // SCSI response, Data-In
func (b BHS) ISID() []byte             { return b[8:14:14] }                       // login
func (b BHS) TSIH() uint16             { return be.Uint16(b[14:16]) }              // login
func (b BHS) CSG() uint8               { return b[1] >> 2 & 3 }                    // login
func (b BHS) NSG() uint8               { return b[1] & 3 }                         // login
func (b BHS) VersionMax() uint8        { return b[2] }                             // login
func (b BHS) VersionMin() uint8        { return b[3] }                             // login request; active version in the response
func (b BHS) LoginStatus() LoginStatus { return LoginStatus(be.Uint16(b[36:38])) } // login response
func (b BHS) Continue() bool           { return b[1]&FlagContinue != 0 }           // login, text
func (b BHS) ExpDataSN() uint32        { return be.Uint32(b[36:40]) }              // SCSI response, TMF request
func (b BHS) BidiResidual() uint32     { return be.Uint32(b[40:44]) }              // SCSI response
func (b BHS) SNACKType() uint8         { return b[1] & 0x0f }
func (b BHS) BegRun() uint32           { return be.Uint32(b[40:44]) } // SNACK
func (b BHS) RunLength() uint32        { return be.Uint32(b[44:48]) } // SNACK
func (b BHS) Time2Wait() uint16        { return be.Uint16(b[40:42]) } // logout response
func (b BHS) Time2Retain() uint16      { return be.Uint16(b[42:44]) } // logout response
func (b BHS) AsyncEvent() AsyncEvent   { return AsyncEvent(b[36]) }
func (b BHS) AsyncVCode() uint8        { return b[37] }
func (b BHS) Param1() uint16           { return be.Uint16(b[38:40]) }    // async message
func (b BHS) Param2() uint16           { return be.Uint16(b[40:42]) }    // async message
func (b BHS) Param3() uint16           { return be.Uint16(b[42:44]) }    // async message
func (b BHS) PaddedDataLen() uint32    { return (b.DataLen() + 3) &^ 3 } // bytes on the wire

func (b BHS) SetOpcode(o Opcode)    { b[0] = byte(o) }
func (b BHS) SetFlags(f byte)       { b[1] = f }
func (b BHS) SetResponse(v uint8)   { b[2] = v }
func (b BHS) SetStatus(v uint8)     { b[3] = v }
func (b BHS) SetAHSLen(n uint32)    { b[4] = byte(n / 4) }
func (b BHS) SetDataLen(n uint32)   { b[5], b[6], b[7] = byte(n>>16), byte(n>>8), byte(n) }
func (b BHS) SetLUN(v uint64)       { be.PutUint64(b[8:16], v) }
func (b BHS) SetITT(v uint32)       { be.PutUint32(b[16:20], v) }
func (b BHS) SetTTT(v uint32)       { be.PutUint32(b[20:24], v) }
func (b BHS) SetEDTL(v uint32)      { be.PutUint32(b[20:24], v) }
func (b BHS) SetCmdSN(v uint32)     { be.PutUint32(b[24:28], v) }
func (b BHS) SetStatSN(v uint32)    { be.PutUint32(b[24:28], v) }
func (b BHS) SetExpStatSN(v uint32) { be.PutUint32(b[28:32], v) }
func (b BHS) SetExpCmdSN(v uint32)  { be.PutUint32(b[28:32], v) }
func (b BHS) SetMaxCmdSN(v uint32)  { be.PutUint32(b[32:36], v) }
func (b BHS) SetDataSN(v uint32)    { be.PutUint32(b[36:40], v) }
func (b BHS) SetOffset(v uint32)    { be.PutUint32(b[40:44], v) }
func (b BHS) SetDesired(v uint32)   { be.PutUint32(b[44:48], v) }
func (b BHS) SetResidual(v uint32)  { be.PutUint32(b[44:48], v) }

func (b BHS) SetImmediate()                { b[0] |= FlagImmed }
func (b BHS) SetRefTag(v uint32)           { be.PutUint32(b[20:24], v) }
func (b BHS) SetRefCmdSN(v uint32)         { be.PutUint32(b[32:36], v) }
func (b BHS) SetExpDataSN(v uint32)        { be.PutUint32(b[36:40], v) }
func (b BHS) SetBidiResidual(v uint32)     { be.PutUint32(b[40:44], v) }
func (b BHS) SetCID(v uint16)              { be.PutUint16(b[20:22], v) }
func (b BHS) SetTSIH(v uint16)             { be.PutUint16(b[14:16], v) }
func (b BHS) SetVersions(hi, lo uint8)     { b[2], b[3] = hi, lo }
func (b BHS) SetLoginStatus(v LoginStatus) { be.PutUint16(b[36:38], uint16(v)) }
func (b BHS) SetTime2Wait(v uint16)        { be.PutUint16(b[40:42], v) }
func (b BHS) SetTime2Retain(v uint16)      { be.PutUint16(b[42:44], v) }
func (b BHS) SetBegRun(v uint32)           { be.PutUint32(b[40:44], v) }
func (b BHS) SetRunLength(v uint32)        { be.PutUint32(b[44:48], v) }
func (b BHS) SetParam1(v uint16)           { be.PutUint16(b[38:40], v) }
func (b BHS) SetParam2(v uint16)           { be.PutUint16(b[40:42], v) }
func (b BHS) SetParam3(v uint16)           { be.PutUint16(b[42:44], v) }

// SetAsync sets the event of an Asynchronous Message and its vendor code.
func (b BHS) SetAsync(event AsyncEvent, vcode uint8) { b[36], b[37] = byte(event), vcode }

// Clear zeroes the header and sets its opcode.
func (b BHS) Clear(o Opcode) {
	clear(b[:HeaderLen])
	b[0] = byte(o)
}

// SNLess is serial number arithmetic on 32 bits (RFC 1982): a is before b.
func SNLess(a, b uint32) bool { return int32(a-b) < 0 }
