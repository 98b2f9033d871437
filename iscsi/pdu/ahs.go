package pdu

// AHS types (RFC 7143 §11.2.2.1).
const (
	AHSExtendedCDB = 1
	AHSBidiReadLen = 2
)

// AHS walks the segments of an additional header segment area:
//
//	0..1  AHSLength: effective bytes of content, the reserved byte included
//	2     AHSType
//	3     reserved or specific, then content, padded to 4
type AHS struct {
	rest []byte
	typ  uint8
	body []byte
	bad  bool
}

// ParseAHS starts a walk over area, the bytes between BHS and header digest.
func ParseAHS(area []byte) AHS { return AHS{rest: area} }

// Next steps to the next segment. It returns false at the end and at the first
// segment that does not fit; Bad tells the two apart.
//
//spindle:hot
func (a *AHS) Next() bool {
	if len(a.rest) == 0 || a.bad {
		return false
	}
	// AHSLength counts from byte 3 on, so an honest segment has at least one.
	if len(a.rest) < 4 {
		a.bad = true
		return false
	}
	n := int(be.Uint16(a.rest)) // at most 65535: cannot wrap
	end := 3 + n
	if n == 0 || end > len(a.rest) {
		a.bad = true
		return false
	}
	a.typ = a.rest[2]
	a.body = a.rest[3:end:end]
	padded := (end + 3) &^ 3
	if padded > len(a.rest) {
		a.bad = true
		return false
	}
	a.rest = a.rest[padded:]
	return true
}

// Type is the AHSType of the current segment.
func (a *AHS) Type() uint8 { return a.typ }

// Bad tells that the area is malformed.
func (a *AHS) Bad() bool { return a.bad }

// ExtCDB is the part of a CDB beyond its 16th byte (RFC 7143 §11.2.2.3).
// Preconditions: Type is AHSExtendedCDB.
func (a *AHS) ExtCDB() []byte { return a.body[1:] }

// ReadLength is the expected bidirectional read data length (RFC 7143
// §11.2.2.4); false when the segment is not the five bytes it must be.
// Preconditions: Type is AHSBidiReadLen.
func (a *AHS) ReadLength() (uint32, bool) {
	if len(a.body) != 5 {
		return 0, false
	}
	return be.Uint32(a.body[1:]), true
}

// CDBFromAHS copies the whole CDB, the 16 bytes of the BHS and what an extended
// CDB segment adds, into dst. It returns its length, and false when the area is
// malformed, has two extensions, or the CDB does not fit dst.
//
//spindle:hot
func CDBFromAHS(dst []byte, b BHS, area []byte) (int, bool) {
	n := copy(dst, b.CDB())
	if n < 16 {
		return 0, false
	}
	a := ParseAHS(area)
	for a.Next() {
		if a.typ != AHSExtendedCDB {
			continue
		}
		ext := a.ExtCDB()
		if n != 16 || len(ext) > len(dst)-n {
			return 0, false
		}
		n += copy(dst[n:], ext)
	}
	return n, !a.bad
}

// AppendExtCDB appends the AHS segment that carries cdb[16:] (padded) to dst.
// Preconditions: 16 < len(cdb) <= 260.
func AppendExtCDB(dst, cdb []byte) []byte {
	ext := cdb[16:]
	dst = be.AppendUint16(dst, uint16(len(ext)+1))
	dst = append(dst, AHSExtendedCDB, 0)
	dst = append(dst, ext...)
	for i := len(ext); i&3 != 0; i++ {
		dst = append(dst, 0)
	}
	return dst
}

// AppendBidiReadLength appends the AHS segment of an expected bidirectional
// read data length to dst.
func AppendBidiReadLength(dst []byte, n uint32) []byte {
	dst = append(dst, 0, 5, AHSBidiReadLen, 0)
	return be.AppendUint32(dst, n)
}
