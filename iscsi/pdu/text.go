package pdu

import (
	"bytes"
	"errors"
	"strconv"
)

// Limits of text keys (RFC 7143 §6.1).
const (
	// MaxKeyName is the longest key, in bytes.
	MaxKeyName = 63
	// MaxValue is the longest value of a key that says nothing else, in bytes.
	MaxValue = 255
	// MaxBinary is the longest binary string a value may stand for, in bytes.
	MaxBinary = 1024
	// MaxBinaryValue is the longest value that stands for a binary string: hex
	// is its longest form.
	MaxBinaryValue = 2 + 2*MaxBinary
	// MaxName is the longest iSCSI name, in bytes (RFC 7143 §4.2.7.1).
	MaxName = 223
)

// Key names.
const (
	KeyAuthMethod           = "AuthMethod"
	KeyCHAPA                = "CHAP_A"
	KeyCHAPI                = "CHAP_I"
	KeyCHAPC                = "CHAP_C"
	KeyCHAPN                = "CHAP_N"
	KeyCHAPR                = "CHAP_R"
	KeyInitiatorName        = "InitiatorName"
	KeyInitiatorAlias       = "InitiatorAlias"
	KeyTargetName           = "TargetName"
	KeyTargetAlias          = "TargetAlias"
	KeyTargetAddress        = "TargetAddress"
	KeyTargetPortalGroupTag = "TargetPortalGroupTag"
	KeySessionType          = "SessionType"
	KeySendTargets          = "SendTargets"
	KeyHeaderDigest         = "HeaderDigest"
	KeyDataDigest           = "DataDigest"
	KeyMaxConnections       = "MaxConnections"
	KeyInitialR2T           = "InitialR2T"
	KeyImmediateData        = "ImmediateData"
	KeyMaxRecvData          = "MaxRecvDataSegmentLength"
	KeyMaxBurst             = "MaxBurstLength"
	KeyFirstBurst           = "FirstBurstLength"
	KeyDefaultTime2Wait     = "DefaultTime2Wait"
	KeyDefaultTime2Retain   = "DefaultTime2Retain"
	KeyMaxOutstandingR2T    = "MaxOutstandingR2T"
	KeyDataPDUInOrder       = "DataPDUInOrder"
	KeyDataSequenceInOrder  = "DataSequenceInOrder"
	KeyErrorRecoveryLevel   = "ErrorRecoveryLevel"
	KeyProtocolLevel        = "iSCSIProtocolLevel"
	KeyTaskReporting        = "TaskReporting"
	KeyNodeArchitecture     = "X#NodeArchitecture"
	KeyIFMarker             = "IFMarker"
	KeyOFMarker             = "OFMarker"
	KeyIFMarkInt            = "IFMarkInt"
	KeyOFMarkInt            = "OFMarkInt"

	// iSER (RFC 7145 §6).
	KeyRDMAExtensions    = "RDMAExtensions"
	KeyTargetRecvData    = "TargetRecvDataSegmentLength"
	KeyInitiatorRecvData = "InitiatorRecvDataSegmentLength"
	KeyMaxUnexpectedPDUs = "MaxOutstandingUnexpectedPDUs"
	KeyMaxAHSLength      = "MaxAHSLength"
	KeyTaggedBufferOnly  = "TaggedBufferForSolicitedDataOnly"
	KeyISERHelloRequired = "iSERHelloRequired"
)

// Values with a meaning of their own.
const (
	ValueYes              = "Yes"
	ValueNo               = "No"
	ValueNone             = "None"
	ValueCRC32C           = "CRC32C"
	ValueReject           = "Reject"
	ValueIrrelevant       = "Irrelevant"
	ValueNotUnderstood    = "NotUnderstood"
	ValueSessionNormal    = "Normal"
	ValueSessionDiscovery = "Discovery"
)

// Errors of the text codec, one for each way to be malformed.
var (
	ErrTextUnterminated = errors.New("text: pair without a terminator")
	ErrTextNoEquals     = errors.New("text: pair without '='")
	ErrTextKey          = errors.New("text: malformed key")
	ErrTextValue        = errors.New("text: malformed value")
	ErrTextTooLong      = errors.New("text: value too long")
)

// Text walks the key=value pairs of a data segment. Key and Value alias the
// segment.
type Text struct {
	rest       []byte
	key, value []byte
	err        error
}

// ParseText starts a walk over data, the segment without its padding.
func ParseText(data []byte) Text { return Text{rest: data} }

// Next steps to the next pair. It returns false at the end and at the first
// malformed pair; Err tells the two apart.
//
// Every pair ends with a NUL inside the segment: one that does not would have
// to be read past its end. Nothing but NULs after the last pair is taken for
// the end, since some peers count their padding.
func (t *Text) Next() bool {
	if t.err != nil || len(t.rest) == 0 {
		return false
	}
	if t.rest[0] == 0 {
		if !allZero(t.rest) {
			t.err = ErrTextNoEquals
		}
		t.rest = nil
		return false
	}
	end := bytes.IndexByte(t.rest, 0)
	if end < 0 {
		t.err = ErrTextUnterminated
		return false
	}
	pair := t.rest[:end:end]
	t.rest = t.rest[end+1:]
	eq := bytes.IndexByte(pair, '=')
	if eq < 0 {
		t.err = ErrTextNoEquals
		return false
	}
	t.key, t.value = pair[:eq:eq], pair[eq+1:]
	switch {
	case !validKey(t.key):
		t.err = ErrTextKey
	case len(t.value) > ValueLimit(t.key):
		t.err = ErrTextTooLong
	case !validValue(t.value):
		t.err = ErrTextValue
	}
	return t.err == nil
}

// Key is the key of the current pair.
func (t *Text) Key() []byte { return t.key }

// Value is the value of the current pair.
func (t *Text) Value() []byte { return t.value }

// Err is why the walk ended, nil at the end of the segment.
func (t *Text) Err() error { return t.err }

// ValueLimit is the longest value of key, in bytes (RFC 7143 §6.1, §12.1).
func ValueLimit(key []byte) int {
	switch string(key) {
	case KeyCHAPC, KeyCHAPR:
		return MaxBinaryValue
	}
	return MaxValue
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// validKey holds key to RFC 7143 §6.1: a letter, then letters, digits and
// ".-+@_", and '#' in public extensions. Lower case may lead: "iSCSI...", "iSER...".
func validKey(key []byte) bool {
	if len(key) == 0 || len(key) > MaxKeyName || !isLetter(key[0]) {
		return false
	}
	for _, c := range key[1:] {
		switch {
		case isLetter(c), c >= '0' && c <= '9':
		case c == '.', c == '-', c == '+', c == '@', c == '_', c == '#':
		default:
			return false
		}
	}
	return true
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// validValue refuses control characters; the rest of the set depends on the
// key (names and aliases are UTF-8).
func validValue(v []byte) bool {
	for _, c := range v {
		if c < 0x20 || c == 0x7f {
			return false
		}
	}
	return true
}

// ParseNumber reads a decimal or hexadecimal constant of at most 64 bits
// (RFC 7143 §6.1, numerical-value).
func ParseNumber(v []byte) (uint64, bool) {
	base := uint64(10)
	if len(v) > 2 && v[0] == '0' && v[1]|0x20 == 'x' {
		base, v = 16, v[2:]
	}
	if len(v) == 0 {
		return 0, false
	}
	var n uint64
	for _, c := range v {
		d := uint64(255)
		switch {
		case c >= '0' && c <= '9':
			d = uint64(c - '0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			d = uint64(c|0x20-'a') + 10
		}
		if d >= base || n > (1<<64-1-d)/base {
			return 0, false
		}
		n = n*base + d
	}
	return n, true
}

// TextWriter encodes pairs up to a limit. Past it nothing more is written and
// Overflowed stays true, so that a caller may write all and look once.
type TextWriter struct {
	buf   []byte
	limit int // bytes
	over  bool
}

// NewTextWriter appends to buf[:0], up to limit bytes; buf is only a start and
// grows when it must.
func NewTextWriter(buf []byte, limit int) TextWriter { return TextWriter{buf: buf[:0], limit: limit} }

// Add appends key=value.
func (w *TextWriter) Add(key, value string) {
	if !w.room(len(key) + len(value) + 2) {
		return
	}
	w.buf = append(w.buf, key...)
	w.buf = append(w.buf, '=')
	w.buf = append(w.buf, value...)
	w.buf = append(w.buf, 0)
}

// AddNumber appends key=n in decimal.
func (w *TextWriter) AddNumber(key string, n uint64) {
	var tmp [20]byte
	digits := strconv.AppendUint(tmp[:0], n, 10)
	if !w.room(len(key) + len(digits) + 2) {
		return
	}
	w.buf = append(w.buf, key...)
	w.buf = append(w.buf, '=')
	w.buf = append(w.buf, digits...)
	w.buf = append(w.buf, 0)
}

func (w *TextWriter) room(n int) bool {
	if w.over || n > w.limit-len(w.buf) {
		w.over = true
	}
	return !w.over
}

// Bytes is the text so far.
func (w *TextWriter) Bytes() []byte { return w.buf }

// Overflowed tells that something did not fit.
func (w *TextWriter) Overflowed() bool { return w.over }
