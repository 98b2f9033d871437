package verbs

import (
	"unsafe"

	"spindle/reactor/mem"
)

const (
	sendSize = int(unsafe.Sizeof(SendWR{}))
	recvSize = int(unsafe.Sizeof(RecvWR{}))
	sgeSize  = int(unsafe.Sizeof(SGE{}))
	wcSize   = int(unsafe.Sizeof(WC{}))
)

func sendWRs(m mem.Ref, n int) []SendWR { return view[SendWR](m, n) }
func recvWRs(m mem.Ref, n int) []RecvWR { return view[RecvWR](m, n) }
func sgList(m mem.Ref, n int) []SGE     { return view[SGE](m, n) }
func completions(m mem.Ref, n int) []WC { return view[WC](m, n) }

// view sees n values of T, which has no pointers, in m.
func view[T SendWR | RecvWR | SGE | WC](m mem.Ref, n int) []T {
	var t T
	if n == 0 {
		return nil
	}
	if uint64(m.Len) < uint64(n)*uint64(unsafe.Sizeof(t)) || m.Addr%8 != 0 {
		panic("verbs: memory too small or not aligned")
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(m.Bytes()))), n)
}
