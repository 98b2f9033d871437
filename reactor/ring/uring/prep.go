package uring

import (
	"spindle/internal/sys"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// sqe takes a submission entry for op, or nil when the queue is full.
//
//spindle:hot
func (r *Ring) sqe(op uint8, tag uint64) *sys.SQE {
	s := r.u.SQE()
	if s == nil {
		r.refused = true
		return nil
	}
	s.Opcode, s.UserData = op, tag
	r.inflight++
	return s
}

// fileSQE takes a submission entry for op on f.
//
//spindle:hot
func (r *Ring) fileSQE(op uint8, t ring.Tag, f ring.File) *sys.SQE {
	s := r.sqe(op, uint64(t))
	if s == nil {
		return nil
	}
	if p := &r.files[f]; p.fixed {
		s.FD, s.Flags = int32(f), sys.SQEFixedFile
	} else {
		s.FD = p.fd // -1 when nothing is installed: the operation completes with EBADF
	}
	return s
}

// Accept takes connections from f until cancelled; Res is the new descriptor.
//
//spindle:hot
func (r *Ring) Accept(t ring.Tag, f ring.File) bool {
	s := r.fileSQE(sys.OpAccept, t, f)
	if s == nil {
		return false
	}
	s.IOPrio, s.OpFlags = sys.AcceptMultishot, sys.SockCloexec
	return true
}

// Recv receives from f into buffers of g until cancelled.
//
//spindle:hot
func (r *Ring) Recv(t ring.Tag, f ring.File, g ring.Group) bool {
	s := r.fileSQE(sys.OpRecv, t, f)
	if s == nil {
		return false
	}
	s.IOPrio, s.Buf = sys.RecvMultishot, uint16(g)
	s.Flags |= sys.SQEBufferSelect
	return true
}

// RecvInto fills b from f.
//
//spindle:hot
func (r *Ring) RecvInto(t ring.Tag, f ring.File, b mem.Ref) bool {
	s := r.fileSQE(sys.OpRecv, t, f)
	if s == nil {
		return false
	}
	s.Addr, s.Len, s.OpFlags = uint64(b.Addr), b.Len, sys.MsgWaitall
	return true
}

// Send sends the first n vectors of m.
//
//spindle:hot
func (r *Ring) Send(t ring.Tag, f ring.File, m ring.Msg, n int) bool {
	return r.sendmsg(sys.OpSendmsg, t, f, m, n)
}

// SendNow sends the first n vectors of m as far as there is room for them.
//
//spindle:hot
func (r *Ring) SendNow(f ring.File, m ring.Msg, n int) int32 {
	r.syscalls.Add(1)
	sys.PutMsghdr(m.Addr, m.Addr+ring.MsgHeader, n)
	return sys.SendNow(r.files[f].fd, m.Addr)
}

// SendZC sends the first n vectors of m without copying them.
//
//spindle:hot
func (r *Ring) SendZC(t ring.Tag, f ring.File, m ring.Msg, n int) bool {
	return r.sendmsg(sys.OpSendmsgZC, t, f, m, n)
}

//spindle:hot
func (r *Ring) sendmsg(op uint8, t ring.Tag, f ring.File, m ring.Msg, n int) bool {
	s := r.fileSQE(op, t, f)
	if s == nil {
		return false
	}
	sys.PutMsghdr(m.Addr, m.Addr+ring.MsgHeader, n)
	s.Addr, s.Len, s.OpFlags = uint64(m.Addr), 1, sys.MsgWaitall|sys.MsgNosignal
	return true
}

// ZeroCopy tells whether the kernel has SENDMSG_ZC, which came with Linux 6.1.
func (r *Ring) ZeroCopy() bool { return r.u.Supports(sys.OpSendmsgZC) }

// Read reads into b at off.
//
//spindle:hot
func (r *Ring) Read(t ring.Tag, f ring.File, b mem.Ref, off int64) bool {
	s := r.fileSQE(sys.OpRead, t, f)
	if s == nil {
		return false
	}
	s.Addr, s.Len, s.Off = uint64(b.Addr), b.Len, uint64(off)
	if i, ok := r.fixed(b); ok {
		s.Opcode, s.Buf = sys.OpReadFixed, i
	}
	return true
}

// Write writes b at off.
//
//spindle:hot
func (r *Ring) Write(t ring.Tag, f ring.File, b mem.Ref, off int64, fl ring.WriteFlags) bool {
	s := r.fileSQE(sys.OpWrite, t, f)
	if s == nil {
		return false
	}
	s.Addr, s.Len, s.Off = uint64(b.Addr), b.Len, uint64(off)
	if i, ok := r.fixed(b); ok {
		s.Opcode, s.Buf = sys.OpWriteFixed, i
	}
	if fl&ring.FUA != 0 {
		s.OpFlags = sys.WriteDsync
	}
	return true
}

// fixed finds the registered buffer that holds b. A block of the arena never
// lies in two: it is aligned to its size, and smaller than bufferChunk.
//
//spindle:hot
func (r *Ring) fixed(b mem.Ref) (uint16, bool) {
	off := uint64(b.Addr - r.fixedBase)
	if off >= r.fixedLen || uint64(b.Len) > r.fixedLen-off {
		return 0, false
	}
	return uint16(off / bufferChunk), true
}

// Sync makes what was written to f durable (fdatasync).
//
//spindle:hot
func (r *Ring) Sync(t ring.Tag, f ring.File) bool {
	s := r.fileSQE(sys.OpFsync, t, f)
	if s == nil {
		return false
	}
	s.OpFlags = sys.FsyncDatasync
	return true
}

// Allocate punches or zeroes n bytes of f at off.
//
//spindle:hot
func (r *Ring) Allocate(t ring.Tag, f ring.File, mode uint32, off, n int64) bool {
	s := r.fileSQE(sys.OpFallocate, t, f)
	if s == nil {
		return false
	}
	s.Off, s.Addr, s.Len = uint64(off), uint64(n), sys.FallocPunchHole
	if mode == ring.ZeroRange {
		s.Len = sys.FallocZeroRange
	}
	return true
}

// PollFD completes once fd is readable.
//
//spindle:hot
func (r *Ring) PollFD(t ring.Tag, fd int) bool {
	s := r.sqe(sys.OpPollAdd, uint64(t))
	if s == nil {
		return false
	}
	s.FD, s.OpFlags = int32(fd), sys.PollIn
	return true
}

// Shutdown ends both directions of f.
//
//spindle:hot
func (r *Ring) Shutdown(t ring.Tag, f ring.File) bool {
	s := r.fileSQE(sys.OpShutdown, t, f)
	if s == nil {
		return false
	}
	s.Len = sys.ShutRdwr
	return true
}

// Cancel asks for the end of victim.
//
//spindle:hot
func (r *Ring) Cancel(t ring.Tag, victim ring.Tag) bool {
	s := r.sqe(sys.OpAsyncCancel, uint64(t))
	if s == nil {
		return false
	}
	s.Addr = uint64(victim)
	return true
}

// Install gives fd a place in the table.
func (r *Ring) Install(fd int) (ring.File, error) {
	n := len(r.freeFile)
	if n == 0 {
		return ring.NoFile, ErrFilesFull
	}
	fixed := r.perFile
	if !fixed {
		st, err := sys.Stat(fd)
		fixed = err == nil && !st.Socket
	}
	i := r.freeFile[n-1]
	if fixed {
		if err := r.u.UpdateFile(uint32(i), int32(fd)); err != nil {
			return ring.NoFile, err
		}
	}
	r.files[i] = file{fd: int32(fd), fixed: fixed}
	r.freeFile = r.freeFile[:n-1]
	return ring.File(i), nil
}

// Remove frees f's place. Preconditions: nothing is in flight on f.
func (r *Ring) Remove(f ring.File) {
	p := &r.files[f]
	if p.fd < 0 {
		panic("uring: file removed twice")
	}
	if p.fixed {
		if err := r.u.UpdateFile(uint32(f), -1); err != nil {
			panic(err.Error()) // the place is the ring's own and taken: it cannot fail
		}
	}
	*p = file{fd: -1}
	r.freeFile = append(r.freeFile, int32(f))
}
