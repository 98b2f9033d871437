package ring

import (
	"encoding/binary"

	"spindle/internal/sys"
	"spindle/reactor/mem"
)

var le = binary.LittleEndian

// Msg is arena memory that holds a msghdr and its iovecs for Send: the kernel
// reads both until the completion, so they are never Go memory.
//
//	 0 ..  63  struct msghdr (filled in by the ring)
//	64 ..      struct iovec[], 16 bytes each: base, length
type Msg struct{ mem.Ref }

// MsgHeader is the room kept for the msghdr, in bytes; VecSize that of one iovec.
const (
	MsgHeader = 64
	VecSize   = 16
)

// Cap is the number of vectors the message can hold.
func (m Msg) Cap() int { return (int(m.Len) - MsgHeader) / VecSize }

// SetVec makes vector i point at addr.
func (m Msg) SetVec(i int, addr uintptr, n uint32) {
	at := MsgHeader + uint32(i)*VecSize
	if at+VecSize > m.Len {
		panic("ring: vector beyond the message")
	}
	sys.PutIovec(m.Addr+uintptr(at), addr, n)
}

// Vec returns vector i.
func (m Msg) Vec(i int) (addr uintptr, n uint32) {
	b := m.Slice(MsgHeader+uint32(i)*VecSize, VecSize).Bytes()
	return uintptr(le.Uint64(b)), uint32(le.Uint64(b[8:]))
}

// Total is the number of bytes in the first n vectors.
func (m Msg) Total(n int) uint32 {
	total := uint32(0)
	for i := range n {
		_, l := m.Vec(i)
		total += l
	}
	return total
}
