package mem

import "spindle/internal/sys"

// Ref is a span of registered off-heap memory. It is a plain value with no Go
// pointer in it, so it may be stored in off-heap structures and copied without
// write barriers. The zero Ref is empty.
type Ref struct {
	Addr   uintptr
	Len    uint32 // bytes
	Region uint32 // index of the Region in its Space: finds the fixed buffer index or the RDMA key
}

// Bytes views the span. The view is valid for as long as the Ref's owner holds it.
//
//spindle:hot
func (r Ref) Bytes() []byte { return sys.Bytes(r.Addr, r.Len) }

// Slice returns the n bytes that start at off.
//
//spindle:hot
func (r Ref) Slice(off, n uint32) Ref {
	if uint64(off)+uint64(n) > uint64(r.Len) {
		panic("mem: slice out of range")
	}
	return Ref{Addr: r.Addr + uintptr(off), Len: n, Region: r.Region}
}

// Empty tells whether the span has no bytes.
func (r Ref) Empty() bool { return r.Len == 0 }
