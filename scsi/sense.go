package scsi

import "encoding/binary"

var be = binary.BigEndian

// Key is a sense key (SPC-5 §4.5.8).
type Key uint8

const (
	NoSense        Key = 0x0
	NotReady       Key = 0x2
	MediumError    Key = 0x3
	HardwareError  Key = 0x4
	IllegalRequest Key = 0x5
	UnitAttention  Key = 0x6
	DataProtect    Key = 0x7
	CopyAborted    Key = 0xa
	AbortedCommand Key = 0xb
	Miscompare     Key = 0xe
)

// Code is an additional sense code and its qualifier: ASC<<8 | ASCQ (SPC-5 annex F.2).
type Code uint16

const (
	NoAdditionalSense       Code = 0x0000
	OperationInProgress     Code = 0x0016
	NotReadyCause           Code = 0x0400
	FormatInProgress        Code = 0x0404
	PortInTransition        Code = 0x040a
	PortInStandby           Code = 0x040b
	PortIsUnavailable       Code = 0x040c
	SanitizeInProgress      Code = 0x041b
	WriteError              Code = 0x0c00
	ThirdPartyFailure       Code = 0x0d01
	TargetNotReachable      Code = 0x0d02
	InvalidIUField          Code = 0x0e03
	GuardCheckFailed        Code = 0x1001
	RefTagCheckFailed       Code = 0x1003
	UnrecoveredReadError    Code = 0x1100
	ParameterListLength     Code = 0x1a00
	MiscompareVerify        Code = 0x1d00
	InvalidOpcode           Code = 0x2000
	LBAOutOfRange           Code = 0x2100
	InvalidFieldInCDB       Code = 0x2400
	LUNNotSupported         Code = 0x2500
	InvalidFieldInParam     Code = 0x2600
	InvalidRelease          Code = 0x2604
	TooManyCSCDs            Code = 0x2606
	UnsupportedCSCD         Code = 0x2607
	TooManySegments         Code = 0x2608
	UnsupportedSegment      Code = 0x2609
	InexactSegment          Code = 0x260a
	InlineDataTooLong       Code = 0x260b
	WriteProtected          Code = 0x2700
	SoftwareWriteProtected  Code = 0x2702
	SpaceAllocationFailed   Code = 0x2707
	MediumChanged           Code = 0x2800 // NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED
	PowerOnReset            Code = 0x2900
	PowerOn                 Code = 0x2901
	BusReset                Code = 0x2902
	DeviceReset             Code = 0x2903
	NexusLoss               Code = 0x2907
	ModeParametersChanged   Code = 0x2a01
	LogParametersChanged    Code = 0x2a02
	ReservationsPreempted   Code = 0x2a03
	ReservationsReleased    Code = 0x2a04
	RegistrationsPreempted  Code = 0x2a05
	AccessStateChanged      Code = 0x2a06
	CapacityChanged         Code = 0x2a09
	CommandsCleared         Code = 0x2f00
	FormatCorrupted         Code = 0x3100
	FormatFailed            Code = 0x3101
	SanitizeFailed          Code = 0x3103
	SavingNotSupported      Code = 0x3900
	MediumNotPresent        Code = 0x3a00
	InquiryDataChanged      Code = 0x3f03
	DeviceIdentifierChanged Code = 0x3f05
	SoftThresholdReached    Code = 0x3807
	InternalTargetFailure   Code = 0x4400
	ReportedLUNsChanged     Code = 0x3f0e
	RemovalPrevented        Code = 0x5302
	InsufficientResources   Code = 0x5503
	InsufficientRegistry    Code = 0x5504 // INSUFFICIENT REGISTRATION RESOURCES
)

// sense is a sense triple with the optional fields that go with it.
type sense struct {
	key  Key
	code Code
	info uint64 // INFORMATION, when has&hasInfo
	sks  [3]byte
	has  uint8
}

const (
	hasInfo uint8 = 1 << iota
	hasSKS
)

// Layouts of SPC-5 §4.5.2 and §4.5.3, in bytes.
const (
	fixedSenseLen    = 18
	senseHeaderLen   = 8
	infoDescriptor   = 12
	sksDescriptorLen = 8
)

// encode writes s into b and returns its length; b has room for MaxSense bytes.
func (s *sense) encode(b []byte, descriptor bool) uint8 {
	clear(b[:senseHeaderLen+infoDescriptor+sksDescriptorLen])
	if !descriptor {
		b[0] = 0x70
		b[2] = byte(s.key)
		// The INFORMATION field of fixed format has 4 bytes; a value that does not
		// fit leaves VALID clear (SPC-5 §4.5.3).
		if s.has&hasInfo != 0 && s.info <= 0xffffffff {
			b[0] |= 0x80
			be.PutUint32(b[3:], uint32(s.info))
		}
		b[7] = fixedSenseLen - 8
		be.PutUint16(b[12:], uint16(s.code))
		if s.has&hasSKS != 0 {
			copy(b[15:18], s.sks[:])
		}
		return fixedSenseLen
	}
	b[0] = 0x72
	b[1] = byte(s.key)
	be.PutUint16(b[2:], uint16(s.code))
	n := senseHeaderLen
	if s.has&hasInfo != 0 {
		b[n+1] = infoDescriptor - 2
		b[n+2] = 0x80
		be.PutUint64(b[n+4:], s.info)
		n += infoDescriptor
	}
	if s.has&hasSKS != 0 {
		b[n] = 0x02
		b[n+1] = sksDescriptorLen - 2
		copy(b[n+4:n+7], s.sks[:])
		n += sksDescriptorLen
	}
	b[7] = byte(n - senseHeaderLen)
	return uint8(n)
}

// fieldPointer makes the sense-key specific bytes that point at byte and bit of
// a CDB or a parameter list (SPC-5 §4.5.2.4.2); bit 8 and up points at the whole byte.
func fieldPointer(cdb bool, at uint16, bit uint8) [3]byte {
	p := [3]byte{0x80, byte(at >> 8), byte(at)}
	if cdb {
		p[0] |= 0x40
	}
	if bit < 8 {
		p[0] |= 0x08 | bit
	}
	return p
}

const wholeByte = 8 // as the bit of a field pointer

// check ends t with CHECK CONDITION and s.
func (t *Task) check(s sense) Result {
	t.Status = CheckCondition
	t.DataLen = 0
	t.SenseLen = s.encode(t.Sense[:], t.View.descriptorSense())
	return Done
}

// fail ends t with CHECK CONDITION and a plain sense triple.
func (t *Task) fail(k Key, c Code) Result { return t.check(sense{key: k, code: c}) }

// badCDB ends t with INVALID FIELD IN CDB, pointing at the field.
func (t *Task) badCDB(at uint16, bit uint8) Result {
	if t.op != nil && t.op.opcode == opVariable {
		at = longField(at)
	}
	return t.badByte(at, bit)
}

// badByte is badCDB for a field that is where the CDB itself has it.
func (t *Task) badByte(at uint16, bit uint8) Result {
	return t.check(sense{key: IllegalRequest, code: InvalidFieldInCDB, sks: fieldPointer(true, at, bit), has: hasSKS})
}

// badParam ends t with INVALID FIELD IN PARAMETER LIST, pointing at the field.
func (t *Task) badParam(at uint16, bit uint8) Result {
	return t.check(sense{key: IllegalRequest, code: InvalidFieldInParam, sks: fieldPointer(false, at, bit), has: hasSKS})
}

// outOfRange ends t with LOGICAL BLOCK ADDRESS OUT OF RANGE.
func (t *Task) outOfRange() Result { return t.fail(IllegalRequest, LBAOutOfRange) }
