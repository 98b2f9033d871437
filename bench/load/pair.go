package load

import (
	"fmt"
	"time"

	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
	"spindle/verbs"
)

// What a connection posts, as the kernel's initiator does: receives of 8 KiB of
// data for the login, and then a receive of 128 bytes for each command and for
// what the target may send unasked.
const (
	headersLen   = pdu.ISERLen + pdu.HeaderLen
	loginRecvs   = 3
	loginLen     = headersLen + 8192
	loginStride  = (loginLen + 63) &^ 63
	recvLen      = headersLen + 128
	recvStride   = 256
	reserveRecvs = 16

	messageStride = 128
	signalEvery   = 16 // sends; the rest is known to be done with it

	// The memory of a login: receives, a send, and what a command reads.
	loginSend   = loginRecvs * loginStride
	loginData   = loginMemory - loginDataN
	loginDataN  = 512
	loginMemory = 32 << 10
)

// pair is a connection over RDMA: the path of a session, then its link.
type pair struct {
	f    *fabric
	c    *conn // nil while the session logs in
	slot uint32
	id   verbs.ID
	qp   verbs.QP
	h    verbs.QPHandle

	login    mem.Ref
	recvs    mem.Ref
	messages mem.Ref // as many as the send queue has places

	posted, reaped uint32 // sends; those reaped have left the queue

	reached uint // events of the connection manager, a bit each
	failed  error
	leaving bool
	inbox   [][]byte // of the session
	want    uint32   // what its command reads
}

// buffer is that of receive i.
//
//spindle:hot
func (p *pair) buffer(i int) mem.Ref {
	if i < loginRecvs {
		return p.login.Slice(uint32(i)*loginStride, loginLen)
	}
	return p.recvs.Slice(uint32(i-loginRecvs)*recvStride, recvLen)
}

// listen posts receive i.
//
//spindle:hot
func (p *pair) listen(i int) {
	p.f.place(0, 1, 1)
	b := p.buffer(i)
	p.f.batch.Recv(p.h, verbs.NewWRID(p.slot, uint16(i), opRecv), verbs.SGE{Addr: uint64(b.Addr), Len: b.Len, LKey: p.f.lkey})
}

// receive takes a message. Lengths inside it are the peer's word.
//
//spindle:hot
func (p *pair) receive(b []byte) error {
	if len(b) < headersLen || !pdu.ISER(b).Control() {
		return p.malformed(b)
	}
	h := pdu.BHS(b[pdu.ISERLen:headersLen:headersLen])
	data := b[headersLen:]
	n := h.DataLen()
	if h.AHSLen() != 0 || n > uint32(len(data)) {
		return p.malformed(b)
	}
	data = data[:n]
	c := p.c
	if c == nil {
		p.keep(b)
		return nil
	}
	c.window(h)
	if h.Opcode() != pdu.SCSIResponse {
		return c.other(h)
	}
	s := c.find(h.ITT())
	if s == nil || h.Response() != pdu.RespCompleted {
		return c.wrong("response", h)
	}
	if n > 0 {
		clear(c.sense[:])
		copy(c.sense[:], data)
	}
	if !s.write {
		s.got = s.size - short(h, s.size)
	}
	c.ends(h)
	return c.finish()
}

// short is how much less than size came (RFC 7143 §11.4.5).
//
//spindle:hot
func short(h pdu.BHS, size uint32) uint32 {
	if h.Flags()&pdu.FlagUnderfl == 0 {
		return 0
	}
	return min(size, h.Residual())
}

//go:noinline
func (p *pair) malformed(b []byte) error {
	return fmt.Errorf("%w: connection %d: message % x", ErrTarget, p.slot, b[:min(len(b), headersLen)])
}

// broken takes a failed completion.
func (p *pair) broken(w *verbs.WC) error {
	if p.leaving || p.c != nil && p.c.ended {
		return nil
	}
	// The connection manager knows why, or is about to.
	for end := time.Now().Add(causeTime); p.failed == nil && time.Now().Before(end); time.Sleep(lookTime) {
		if err := p.f.hear(); err != nil {
			return err
		}
	}
	if p.failed != nil {
		return p.failed
	}
	return fmt.Errorf("%w: connection %d: %v", ErrTarget, p.slot, w.Status)
}

// prepare has nothing to do: the target takes data itself.
//
//spindle:hot
func (p *pair) prepare() {}

//spindle:hot
func (p *pair) flush() bool { return true }

// room does not depend on the size of a command: its data does not go with it.
//
//spindle:hot
func (p *pair) room(uint32) bool { return p.posted-p.reaped < uint32(p.f.sends) }

// message is where the next one goes.
//
//spindle:hot
func (p *pair) message() mem.Ref {
	return p.messages.Slice(p.posted%uint32(p.f.sends)*messageStride, headersLen)
}

//spindle:hot
func (p *pair) header() pdu.BHS {
	b := p.message().Bytes()
	pdu.ISER(b).Clear()
	return pdu.BHS(b[pdu.ISERLen:headersLen:headersLen])
}

//spindle:hot
func (p *pair) send(pdu.BHS) { p.queue(p.message(), mem.Ref{}) }

// command advertises where the target writes what is read, or reads what is
// written. As the kernel's initiator means it, the advertised buffer begins with
// what did not come with the command.
//
//spindle:hot
func (p *pair) command(h pdu.BHS, s *slot) {
	m := p.message()
	head := pdu.ISER(m.Bytes())
	var data mem.Ref
	switch {
	case s.write:
		n := p.c.immediate(s)
		h.SetDataLen(n)
		data = s.data.Slice(0, n)
		if n < s.size {
			head.SetWrite(p.f.rkey, uint64(s.data.Addr)+uint64(n))
		}
	case s.size > 0:
		to := s.data
		if v := p.f.g.verifier; v == nil {
			to = p.f.past
		} else {
			v.wipe(s)
		}
		head.SetRead(p.f.rkey, uint64(to.Addr))
	}
	p.queue(m, data)
}

// queue sends a message with its data segment.
//
//spindle:hot
func (p *pair) queue(m, data mem.Ref) {
	p.f.place(1, 0, 2)
	p.posted++
	w := verbs.SendWR{ID: verbs.NewWRID(p.slot, uint16(p.posted), opSend), QP: p.h, Op: verbs.OpSend}
	if p.posted%signalEvery == 0 {
		w.Flags = verbs.FlagSignaled
	}
	head := verbs.SGE{Addr: uint64(m.Addr), Len: m.Len, LKey: p.f.lkey}
	if data.Len == 0 {
		p.f.batch.Send(w, head)
		return
	}
	p.f.batch.Send(w, head, verbs.SGE{Addr: uint64(data.Addr), Len: data.Len, LKey: p.f.lkey})
}

// adopt posts the receives of full feature phase. The target keeps silent until
// it has been spoken to, and then each answer finds one.
func (f *fabric) adopt(way path, c *conn) error {
	p := way.(*pair)
	for i := loginRecvs; i < f.recvs; i++ {
		p.listen(i)
	}
	p.c, c.link = c, p
	for _, b := range p.inbox {
		if err := p.receive(b); err != nil {
			return err
		}
	}
	p.inbox = nil
	return f.post()
}
