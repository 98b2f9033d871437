package login

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"io"
)

// algorithm is a CHAP_A value (RFC 7143 §12.1.3 and IANA's PPP authentication
// algorithms).
type algorithm uint8

const (
	algMD5     algorithm = 5
	algSHA1    algorithm = 6
	algSHA256  algorithm = 7
	algSHA3256 algorithm = 8
)

// preference is the order in which we choose.
var preference = [...]algorithm{algSHA256, algSHA3256, algSHA1, algMD5}

// size is the length of a response in bytes.
func (a algorithm) size() int {
	switch a {
	case algMD5:
		return md5.Size
	case algSHA1:
		return sha1.Size
	default:
		return 32
	}
}

// response is hash(identifier | secret | challenge) (RFC 1994 §4.1).
func (a algorithm) response(id byte, secret, challenge []byte) []byte {
	var h hash.Hash
	switch a {
	case algMD5:
		h = md5.New()
	case algSHA1:
		h = sha1.New()
	case algSHA256:
		h = sha256.New()
	default:
		h = sha3.New256()
	}
	h.Write([]byte{id})
	h.Write(secret)
	h.Write(challenge)
	return h.Sum(nil)
}

// encodeHex is the binary value of b in hex.
func encodeHex(b []byte) string { return "0x" + hex.EncodeToString(b) }

// decodeBinary reads a binary value, hex or base64 (RFC 7143 §6.1), of at most
// limit bytes. The length is judged before anything is decoded.
func decodeBinary(v []byte, limit int) ([]byte, bool) {
	if len(v) < 3 || v[0] != '0' {
		return nil, false
	}
	digits := v[2:]
	switch v[1] {
	case 'x', 'X':
		// n digits stand for (n+1)/2 bytes: an odd one leads alone.
		if (len(digits)+1)/2 > limit {
			return nil, false
		}
		even := make([]byte, 0, len(digits)+1)
		if len(digits)&1 != 0 {
			even = append(even, '0')
		}
		even = append(even, digits...)
		out := make([]byte, len(even)/2)
		_, err := hex.Decode(out, even)
		return out, err == nil
	case 'b', 'B':
		// The padding is optional, and at most two of it.
		for i := 0; i < 2 && len(digits) > 0 && digits[len(digits)-1] == '='; i++ {
			digits = digits[:len(digits)-1]
		}
		enc := base64.RawStdEncoding.Strict()
		// The decoder would skip line breaks; no value has them.
		if len(digits) == 0 || enc.DecodedLen(len(digits)) > limit || bytes.ContainsAny(digits, "\r\n") {
			return nil, false
		}
		out := make([]byte, enc.DecodedLen(len(digits)))
		n, err := enc.Decode(out, digits)
		return out[:n], err == nil
	}
	return nil, false
}

// fill reads all of b from r.
func fill(r io.Reader, b []byte) bool {
	if r == nil {
		return false
	}
	_, err := io.ReadFull(r, b)
	return err == nil
}
