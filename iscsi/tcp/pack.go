package tcp

import (
	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
)

// CopyBreak is the longest data segment, in bytes, that is copied behind its
// header when more PDUs leave with it: the kernel's work for one more vector
// costs more than the copy.
const CopyBreak = 512

// packSize holds a full window of small PDUs, in bytes.
const packSize = 128 << 10

// pack is memory in which small PDUs of one message lie behind one another, so
// that one vector covers a run of them. It is the arena's from gather to sent: a
// connection at rest has none.
type pack struct {
	mem  mem.Ref
	used uint32
	end  uint32 // how far it may be used; 0 until there is memory
	run  uint32 // where the run begins that has no vector yet
	off  bool   // not for this message: it has one PDU, or there is no room
}

// reset begins a message; single says that it has one PDU.
//
//spindle:hot
func (s *pack) reset(single bool) { s.used, s.end, s.run, s.off = 0, 0, 0, single }

// take returns n bytes behind what is packed, nil when there is no room.
//
//spindle:hot
func (x *sender) take(c *Conn, n uint32) []byte {
	s := &x.pack
	at := s.used
	if at+n > s.end && !s.open(c, n) {
		return nil
	}
	s.used = at + n
	return mem.Ref{Addr: s.mem.Addr + uintptr(at), Len: n}.Bytes()
}

// open gets the memory; false when n more bytes are not to be had.
func (s *pack) open(c *Conn, n uint32) bool {
	if s.off || s.end != 0 {
		s.off, s.end = true, s.used
		return false
	}
	b, ok := c.r.Arena.Alloc(packSize)
	s.off = !ok
	s.mem, s.end = b, b.Len
	return n <= s.end
}

// endRun gives the packed bytes that have none a vector.
//
//spindle:hot
func (x *sender) endRun() {
	s := &x.pack
	n := s.used - s.run
	if n == 0 {
		return
	}
	x.msg.SetVec(x.vecs, s.mem.Addr+uintptr(s.run), n)
	x.vecs++
	x.left += n
	s.run = s.used
}

// freePack gives the memory back.
//
//spindle:hot
func (x *sender) freePack(c *Conn) {
	if !x.pack.mem.Empty() {
		c.r.Arena.Free(x.pack.mem)
		x.pack.mem = mem.Ref{}
	}
}

// packIn packs the Data-In PDU h with its data; false when there is no room.
//
//spindle:hot
func (x *sender) packIn(c *Conn, h *pdu.DataInHeader, data mem.Ref) bool {
	b := x.take(c, pdu.HeaderLen+data.Len)
	if b == nil {
		return false
	}
	h.Put(pdu.BHS(b))
	copy(b[pdu.HeaderLen:], data.Bytes())
	return true
}

// packOut packs a PDU whose header is complete; false when there is no room.
//
//spindle:hot
func (x *sender) packOut(c *Conn, o *iscsi.Out) bool {
	n := o.Data.Len
	b := x.take(c, pdu.HeaderLen+n)
	if b == nil {
		return false
	}
	copy(b, o.BHS)
	copy(b[pdu.HeaderLen:], o.Data.Bytes())
	return true
}

// packed packs a part of a PDU; false when there is no room.
//
//spindle:hot
func (x *sender) packed(c *Conn, m mem.Ref) bool {
	b := x.take(c, m.Len)
	if b == nil {
		return false
	}
	copy(b, m.Bytes())
	return true
}
