package sys

// StreamAlign is the alignment and the unit of Stream, in bytes.
const StreamAlign = 64

// Stream copies src to dst, of the same length, past the caches: lines of dst are
// not read first, and do not drive others out. It pays for what is much and not
// looked at soon. Other threads see the bytes as those of a plain copy.
//
//spindle:hot
func Stream(dst, src []byte) {
	n := min(len(dst), len(src)) &^ (StreamAlign - 1)
	if n == 0 || Addr(dst)&(StreamAlign-1) != 0 {
		copy(dst, src)
		return
	}
	stream(dst[:n], src[:n])
	copy(dst[n:], src[n:])
}

// stream copies multiples of StreamAlign to an aligned dst.
//
//go:noescape
func stream(dst, src []byte)
