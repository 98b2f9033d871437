package bdev

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// UUID names a bdev for ever (RFC 9562). The zero UUID means none.
type UUID [16]byte

// ErrUUID is returned for text that is not a UUID.
var ErrUUID = errors.New("bdev: malformed UUID")

// namespace is the UUID under which this project's name-based UUIDs are made:
// itself the version 5 UUID of "spindle" in the DNS namespace, written out so
// that it can never change by accident.
var namespace = UUID{0x54, 0xca, 0x03, 0x8c, 0xff, 0x74, 0x5a, 0xe1, 0x80, 0x20, 0x83, 0xef, 0x1a, 0x87, 0xbb, 0x58}

// NameUUID derives a UUID from a name (a bdev's name, or the path of its file):
// the same name gives the same UUID after every restart, so that the NAA
// identifier and the serial number which initiators remember stay the same.
// RFC 9562 §5.5, version 5.
func NameUUID(name string) UUID {
	h := sha1.New()
	h.Write(namespace[:])
	h.Write([]byte(name))
	var u UUID
	copy(u[:], h.Sum(nil))
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return u
}

// ParseUUID reads the 36-character form.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, fmt.Errorf("%w: %q", ErrUUID, s)
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if _, err := hex.Decode(u[:], []byte(digits)); err != nil {
		return UUID{}, fmt.Errorf("%w: %q", ErrUUID, s)
	}
	return u, nil
}

// String is the 36-character form in lower case.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// IsZero tells whether no UUID is set.
func (u UUID) IsZero() bool { return u == UUID{} }

// NAA is the 8-byte NAA Locally Assigned designator (SPC-5 §7.7.6.6.3): the
// NAA field is 3h, the other 60 bits are a digest of the whole UUID, because
// the UUID's own version and variant bits would waste some of them.
func (u UUID) NAA() [8]byte {
	sum := sha1.Sum(u[:])
	var naa [8]byte
	binary.BigEndian.PutUint64(naa[:], binary.BigEndian.Uint64(sum[:])&^(0xf<<60)|3<<60)
	return naa
}

// Serial is the unit serial number (VPD page 80h): the UUID's 32 digits.
func (u UUID) Serial() string { return hex.EncodeToString(u[:]) }
