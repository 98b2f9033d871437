package wire

import (
	"fmt"
	"syscall"

	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// MaxVecs is the most vectors one sendmsg takes (UIO_MAXIOV).
const MaxVecs = 1024

// batch is one sendmsg in the making or in flight: headers and small data are
// copied into bytes, large data is referred to.
type batch struct {
	msg   ring.Msg
	bytes mem.Ref
	used  uint32 // of bytes
	open  uint32 // where the vector being filled starts in bytes
	vecs  int    // closed ones
	first int    // vectors that have left already
	size  uint64 // bytes to leave
}

// Sender batches what leaves on one connection: while one sendmsg is in flight,
// the next fills. At depth that alone makes one system call carry many PDUs.
type Sender struct {
	ring    ring.Ring
	file    ring.File
	tag     ring.Tag
	b       [2]batch
	filling int
	flying  bool
	maxVecs int
}

// SenderMemory is what a Sender with these sizes takes from the arena.
func SenderMemory(bytes uint32, vecs int) uint64 {
	round := func(n uint32) uint64 {
		size := uint64(mem.MinBlock)
		for size < uint64(n) {
			size *= 2
		}
		return size
	}
	return 2 * (round(bytes) + round(ring.MsgHeader+uint32(vecs)*ring.VecSize))
}

// Init prepares s to send on file. Completions of tag go to Sent. The byte area
// holds bytes at a time, and a batch has at most vecs vectors.
func (s *Sender) Init(l *Loop, file ring.File, tag ring.Tag, bytes uint32, vecs int) error {
	s.ring, s.file, s.tag, s.maxVecs = l.Ring, file, tag, vecs
	for i := range s.b {
		b := &s.b[i]
		var err error
		if b.bytes.Addr == 0 {
			if b.bytes, err = l.Alloc(bytes); err != nil {
				return err
			}
			if b.msg.Ref, err = l.Alloc(ring.MsgHeader + uint32(vecs)*ring.VecSize); err != nil {
				return err
			}
		}
		b.reset()
	}
	s.filling, s.flying = 0, false
	return nil
}

func (b *batch) reset() { b.used, b.open, b.vecs, b.first, b.size = 0, 0, 0, 0, 0 }

// Room tells whether n bytes and refs references fit the batch being filled.
//
//spindle:hot
func (s *Sender) Room(n uint32, refs int) bool {
	b := &s.b[s.filling]
	return b.used+n <= b.bytes.Len && b.vecs+2*refs+1 <= s.maxVecs
}

// Bytes appends n bytes, for the caller to fill at once.
// Preconditions: Room said so.
//
//spindle:hot
func (s *Sender) Bytes(n uint32) []byte {
	b := &s.b[s.filling]
	p := b.bytes.Slice(b.used, n).Bytes()
	b.used += n
	b.size += uint64(n)
	return p
}

// Data appends r by reference. It must not change before it has left.
// Preconditions: Room said so.
//
//spindle:hot
func (s *Sender) Data(r mem.Ref) {
	b := &s.b[s.filling]
	b.close()
	b.msg.SetVec(b.vecs, r.Addr, r.Len)
	b.vecs++
	b.size += uint64(r.Len)
}

// close ends the vector of copied bytes.
//
//spindle:hot
func (b *batch) close() {
	if b.open != b.used {
		b.msg.SetVec(b.vecs, b.bytes.Addr+uintptr(b.open), b.used-b.open)
		b.vecs++
		b.open = b.used
	}
}

// Flush sends what was appended, unless a sendmsg is in flight already. It
// returns false when the ring's queue is full and the next turn must try again.
//
//spindle:hot
func (s *Sender) Flush() bool {
	b := &s.b[s.filling]
	if s.flying || b.size == 0 {
		return true
	}
	b.close()
	if !s.ring.Send(s.tag, s.file, b.msg, b.vecs) {
		return false
	}
	s.flying = true
	s.filling ^= 1
	return true
}

// Flying tells that a sendmsg is in flight.
func (s *Sender) Flying() bool { return s.flying }

// Sent takes a completion of the sender's tag.
//
//spindle:hot
func (s *Sender) Sent(res int32) error {
	if res <= 0 {
		s.flying = false
		return sendError(res)
	}
	b := &s.b[s.filling^1]
	if b.size -= uint64(res); b.size == 0 {
		b.reset()
		s.flying = false
		return nil
	}
	return s.resume(b, uint64(res))
}

// resume sends the rest of a batch of which n bytes have left. The kernel does
// this itself (MSG_WAITALL) unless a signal or memory pressure comes between.
func (s *Sender) resume(b *batch, n uint64) error {
	left := b.vecs - b.first
	for i := range left {
		addr, size := b.msg.Vec(i)
		if n >= uint64(size) {
			n -= uint64(size)
			continue
		}
		b.msg.SetVec(i, addr+uintptr(n), size-uint32(n))
		for to := 0; i+to < left; to++ {
			addr, size := b.msg.Vec(i + to)
			b.msg.SetVec(to, addr, size)
		}
		b.first += i
		break
	}
	if !s.ring.Send(s.tag, s.file, b.msg, b.vecs-b.first) {
		return fmt.Errorf("bench: rest of a short send: %w", syscall.EBUSY)
	}
	return nil
}

// sendError is apart from Sent because making an error allocates.
//
//go:noinline
func sendError(res int32) error {
	if res == 0 {
		return fmt.Errorf("bench: send: %w", syscall.EPIPE)
	}
	return fmt.Errorf("bench: send: %w", syscall.Errno(-res))
}
