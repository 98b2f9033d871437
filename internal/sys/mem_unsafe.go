package sys

import "unsafe"

// Bytes views n bytes of off-heap memory at addr as a slice. The caller
// guarantees that the span is mapped for as long as the slice is used; the
// garbage collector ignores pointers outside its heap.
func Bytes(addr uintptr, n uint32) []byte {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(pointer(addr)), n)
}

// Addr is the address of the first byte of b, or 0 when b is empty.
func Addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// anchor is where pointer starts from.
var anchor byte

// pointer turns an off-heap address into a pointer without the uintptr
// conversion that vet rightly distrusts for heap addresses. It steps from a
// real pointer: one made of a bare word is an integer to the compiler, whose
// alias analysis fails on it (go1.26, isInlinableMemmove).
func pointer(addr uintptr) unsafe.Pointer {
	a := unsafe.Pointer(&anchor)
	return unsafe.Add(a, addr-uintptr(a))
}

// PutIovec writes a struct iovec to off-heap memory at addr.
//
//spindle:hot
func PutIovec(addr, base uintptr, n uint32) {
	*(*iovec)(pointer(addr)) = iovec{base: uint64(base), len: uint64(n)}
}

// iovec is struct iovec, with the address as a number.
type iovec struct{ base, len uint64 }

// PutMsghdr writes a struct msghdr of n vectors at vecs, and nothing else, to
// off-heap memory at addr.
//
//spindle:hot
func PutMsghdr(addr, vecs uintptr, n int) {
	h := (*msghdr)(pointer(addr))
	*h = msghdr{iov: uint64(vecs), iovlen: uint64(n)}
}

// msghdr is struct msghdr, with addresses as numbers: it lives off the heap.
type msghdr struct {
	name       uint64
	namelen, _ uint32
	iov        uint64
	iovlen     uint64
	control    uint64
	controllen uint64
	flags, _   uint32
}
