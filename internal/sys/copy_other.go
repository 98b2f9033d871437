//go:build !amd64

package sys

// Stream is for processors that we have no such copy for.
//
//spindle:hot
func Stream(dst, src []byte) { copy(dst, src) }
