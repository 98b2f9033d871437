package tcp

import (
	"fmt"
	"syscall"

	"spindle/internal/plant"
	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// Errors that end a connection from its receiving side.
var (
	errHeaderDigest = fmt.Errorf("header %w", iscsi.ErrDigest)                 // RFC 7143 §7.7: ERL 0 drops the connection
	errParsePanic   = iscsi.ErrFormat                                          // the recover frame
	errTooLong      = fmt.Errorf("%w: data segment too long", iscsi.ErrFormat) // beyond what we declared
)

// ahsLength is the byte of a header that tells of additional header segments.
const ahsLength = 4

// maxHeader is the longest header: BHS, AHS and digest.
const maxHeader = pdu.HeaderLen + pdu.MaxAHS + pdu.DigestLen

// stage is where in a PDU the receiver is.
type stage uint8

const (
	inHeader stage = iota
	inData
	inTrailer // padding and data digest
	whole     // waits for the engine to take it
)

// held is a receive buffer not yet read to its end.
type held struct {
	id       uint16
	off, len uint32
	spilled  mem.Ref // a copy in arena memory: the receive buffer has gone back
}

// receiver turns bytes into PDUs. It implements reactor.Flusher: what a turn's
// budget left over is read next turn.
type receiver struct {
	c     *Conn
	again reactor.FlushNode
	armed bool
	// cancelled: the receive was asked to stop, and the answer has not come; see limit.
	cancelled bool
	// blocked: the engine had no room for pdu; it calls Resume.
	blocked  bool
	decoding bool // inside the recover frame's parse part

	// A ring, oldest first. All receive buffers of the shard may come at once, although
	// some that were spilled are held.
	bufs  [2 * RecvBuffers]held
	bufAt int
	bufN  int

	buf      mem.Ref // being read
	stage    stage
	pdu      iscsi.PDU
	hdrTail  uint32 // bytes of header digest
	hdrGot   uint32
	data     uint32 // bytes of data segment received
	dataLen  uint32
	trailGot uint32
	trailLen uint32
	crc      uint32
	trail    [2 * pdu.DigestLen]byte
	hdr      [maxHeader]byte

	// login mode
	block mem.Ref // header, then data, read exactly
}

// --- login mode: one PDU, read exactly

// loginHeader is where in the connection's block a login-mode header goes, and
// loginTrail its padding: behind the Data-In headers, which login does not use.
const (
	loginHeader = 0
	loginTrail  = 512
)

// NextLogin implements iscsi.Conn.
func (c *Conn) NextLogin() {
	c.rx.stage = inHeader
	c.rx.recvInto(c.block.Slice(loginHeader, pdu.HeaderLen))
}

func (x *receiver) recvInto(b mem.Ref) {
	c := x.c
	if c.closing || c.dead {
		return
	}
	x.block = b
	if c.r.Ring.RecvInto(c.src.Tag(opRecv), c.file, b) {
		c.inflight++
		return
	}
	c.r.NeedFlush(&x.again) // the submission queue is full
}

// logged handles a login-mode receive, all of it inside the recover frame: what
// it touches is this login's own.
func (x *receiver) logged(e ring.CQE) {
	defer x.c.guard()
	x.decoding = true
	x.loginStep(e)
	x.decoding = false
}

func (x *receiver) loginStep(e ring.CQE) {
	c := x.c
	if c.closing {
		return
	}
	if e.Res != int32(x.block.Len) {
		c.Close(failure("login receive", min(e.Res, 0)))
		return
	}
	switch x.stage {
	case inHeader:
		h := x.block
		if n := pdu.BHS(h.Bytes()[:pdu.HeaderLen]).AHSLen(); n > 0 && h.Len == pdu.HeaderLen {
			if n > loginTrail-pdu.HeaderLen {
				c.Close(errTooLong)
				return
			}
			x.stage = inTrailer // reuse: the AHS follows the header in the block
			x.recvInto(c.block.Slice(pdu.HeaderLen, n))
			return
		}
		x.loginHeader(nil)
	case inTrailer:
		x.loginHeader(x.block.Bytes())
	case inData:
		if pad := -x.dataLen & 3; pad > 0 {
			x.stage = whole
			x.recvInto(c.block.Slice(loginTrail, pad))
			return
		}
		x.loginDone()
	case whole:
		x.loginDone()
	}
}

func (x *receiver) loginHeader(ahs []byte) {
	c := x.c
	bhs := pdu.BHS(c.block.Slice(loginHeader, pdu.HeaderLen).Bytes())
	x.pdu = iscsi.PDU{BHS: bhs, AHS: ahs}
	x.dataLen = bhs.DataLen()
	c.h.Header(&x.pdu)
	if x.pdu.Close != nil {
		c.Close(x.pdu.Close)
		return
	}
	if x.pdu.Stop {
		return
	}
	if x.dataLen == 0 {
		x.loginDone()
		return
	}
	if x.dataLen > x.pdu.Data.Len {
		c.Close(errTooLong) // nothing may be read ahead, so nothing can be discarded either
		return
	}
	x.stage = inData
	x.recvInto(x.pdu.Data.Slice(0, x.dataLen))
}

func (x *receiver) loginDone() {
	x.stage = inHeader
	x.c.h.Received(&x.pdu)
}

// --- full feature phase: a stream

// armRecv starts the multishot receive unless it runs, must not, or has to wait.
func (c *Conn) armRecv() {
	x := &c.rx
	if x.armed || c.closing || c.dead || c.starving || c.resting != nil || x.blocked || x.bufN >= MaxHeldBuffers {
		return
	}
	g, err := c.t.shards[c.r.ID].receiveGroup()
	if err != nil {
		c.Close(err)
		return
	}
	if !c.r.Ring.Recv(c.src.Tag(opRecv), c.file, g) {
		c.r.NeedFlush(&c.flush) // Flush arms it again
		return
	}
	x.armed = true
	c.inflight++
}

// streamed handles a completion of the multishot receive.
//
//spindle:hot
func (x *receiver) streamed(e ring.CQE) {
	c := x.c
	if e.Flags&ring.FlagMore == 0 {
		x.armed = false
		c.wakeRest()
	}
	if e.Flags&ring.FlagBuffer != 0 {
		c.t.shards[c.r.ID].out++
		if e.Res > 0 && x.bufN == len(x.bufs) {
			c.Close(errNoMemory) // its receive does not stop: it cannot be asked to
		}
		if e.Res <= 0 || c.closing {
			c.t.shards[c.r.ID].recycle(e.BufferID())
		} else {
			i := (x.bufAt + x.bufN) % len(x.bufs)
			x.bufs[i] = held{id: e.BufferID(), len: uint32(e.Res)}
			x.bufN++
			if x.blocked {
				x.spill()
			}
		}
	}
	if c.closing {
		return
	}
	switch {
	case e.Res > 0:
		c.process()
		x.limit()
	case e.Res == -int32(syscall.ENOBUFS):
		c.t.Stats.Starved.Add(1)
		c.starve()
		return
	case e.Res == -int32(syscall.ECANCELED): // by limit, now or before the receive was armed again
	case e.Res == -int32(syscall.EINTR) || e.Res == -int32(syscall.EAGAIN):
	default:
		c.Close(failure("receive", e.Res))
		return
	}
	c.armRecv()
}

// limit stops the receive of a connection that holds as many buffers as it may,
// or that the engine has no room for: it starts again when they are read.
//
//spindle:hot
func (x *receiver) limit() {
	c := x.c
	if x.bufN < MaxHeldBuffers && !x.blocked || !x.armed || x.cancelled || c.closing {
		return
	}
	if c.r.Ring.Cancel(c.src.Tag(opCancel), c.src.Tag(opRecv)) {
		x.cancelled = true
		c.inflight++
	}
}

// starve waits for a buffer to come back to the shard.
func (c *Conn) starve() {
	s := c.t.shards[c.r.ID]
	c.starving = true
	s.starved = append(s.starved, c)
	if !c.rx.holds() && !plant.On(plant.ForgottenStarving) {
		s.r.NeedFlush(&s.rearm) // buffers may be back already
	}
}

// holds tells whether the connection will give a receive buffer back: what it
// has spilled is memory of its own, and nobody is woken when that goes.
func (x *receiver) holds() bool {
	for i := range x.bufN {
		if x.bufs[(x.bufAt+i)%len(x.bufs)].spilled.Empty() {
			return true
		}
	}
	return false
}

// Resume implements iscsi.Conn.
func (c *Conn) Resume() {
	if c.rx.blocked {
		c.rx.blocked = false
		c.r.NeedFlush(&c.rx.again)
	}
}

// Flush reads on, or asks again for what login mode wants to read; implements
// reactor.Flusher.
func (x *receiver) Flush() {
	if x.c.closing || x.c.dead {
		return
	}
	if !x.c.stream {
		x.recvInto(x.block)
		return
	}
	x.c.process()
	if !x.c.closing {
		x.c.armRecv()
	}
}

// process reads what is held, inside the recover frame: a panic while a header
// is decoded is a hostile PDU and ends this connection; one past that is a bug
// and goes on.
func (c *Conn) process() {
	defer c.guard()
	c.rx.read()
}

func (c *Conn) guard() {
	if !c.rx.decoding {
		return // not a panic of the parser; let it through
	}
	if p := recover(); p != nil {
		c.rx.decoding = false
		c.t.Stats.ParsePanics.Add(1)
		c.Close(errParsePanic)
	}
}

// read hands over whole PDUs until the buffers are empty, the engine has no
// room, or the turn's budget is spent.
//
//spindle:hot
func (x *receiver) read() {
	c := x.c
	budget := MaxPDUsPerTurn
	for !c.closing && !x.blocked {
		if x.stage == whole && !x.deliver(&budget) || x.bufN == 0 {
			return
		}
		h := &x.bufs[x.bufAt]
		m := h.spilled
		if m.Empty() {
			m = c.r.Ring.Buffer(c.t.shards[c.r.ID].group, h.id)
		}
		x.buf = m.Slice(0, h.len)
		b := x.buf.Bytes()
		for h.off < h.len && !c.closing {
			if budget == 0 { // before the header: see PDU.Here
				c.r.NeedFlush(&x.again)
				return
			}
			h.off += x.parse(b[h.off:])
			if x.stage == whole && !x.deliver(&budget) {
				return
			}
		}
		if h.off == h.len {
			x.keepHeader()
			x.release()
		}
	}
}

// deliver hands over the PDU that is whole. False: not now, and reading stops.
//
//spindle:hot
func (x *receiver) deliver(budget *int) bool {
	*budget--
	if !x.c.h.Received(&x.pdu) {
		x.stop()
		return false
	}
	x.stage, x.hdrGot = inHeader, 0
	return true
}

// release gives the oldest buffer back.
//
//spindle:hot
func (x *receiver) release() {
	h := &x.bufs[x.bufAt]
	if h.spilled.Empty() {
		x.c.t.shards[x.c.r.ID].recycle(h.id)
	} else {
		x.c.r.Arena.Free(h.spilled)
	}
	x.bufAt = (x.bufAt + 1) % len(x.bufs)
	x.bufN--
}

// stop stops: the engine has no room. The receive ends, so that the peer is
// pushed back on, and what has come waits in memory that is not everybody's.
func (x *receiver) stop() {
	x.blocked = true
	x.c.t.Stats.Stopped.Add(1)
	x.keepHeader()
	x.spill()
	x.limit()
}

// spill copies what is held to the arena and gives the receive buffers back: a
// few peers that do not read their answers must not keep them from the rest.
func (x *receiver) spill() {
	s := x.c.t.shards[x.c.r.ID]
	if h := &x.bufs[x.bufAt]; x.bufN > 0 && h.off == h.len {
		x.release()
	}
	for i := range x.bufN {
		h := &x.bufs[(x.bufAt+i)%len(x.bufs)]
		if !h.spilled.Empty() {
			continue
		}
		b, ok := x.c.r.Arena.Alloc(h.len - h.off)
		if !ok {
			x.c.Close(errNoMemory)
			return
		}
		copy(b.Bytes(), x.c.r.Ring.Buffer(s.group, h.id).Bytes()[h.off:h.len])
		s.recycle(h.id)
		h.spilled, h.off, h.len = b, 0, b.Len
	}
}

// keepHeader copies a header whose buffer is about to go back.
func (x *receiver) keepHeader() {
	if x.stage == inHeader || &x.pdu.BHS[0] == &x.hdr[0] {
		return
	}
	n := copy(x.hdr[:], x.pdu.BHS)
	n += copy(x.hdr[n:], x.pdu.AHS)
	x.pdu.BHS = x.hdr[:pdu.HeaderLen]
	x.pdu.AHS = x.hdr[pdu.HeaderLen:n]
}

// parse consumes bytes up to the end of b, what is left of x.buf, or of a whole PDU
// and returns how many.
//
//spindle:hot
func (x *receiver) parse(b []byte) (used uint32) {
	if x.stage == inHeader && x.hdrGot|x.hdrTail == 0 && len(b) >= pdu.HeaderLen && b[ahsLength] == 0 {
		// Nearly every header: whole, alone, and without a digest.
		used = pdu.HeaderLen
		if !x.decode(b[:pdu.HeaderLen:pdu.HeaderLen], uint32(len(b))-used) {
			return uint32(len(b))
		}
	}
	for x.stage != whole {
		rest := b[used:]
		switch x.stage {
		case inHeader:
			hdr, n := x.header(rest)
			used += n
			if hdr == nil {
				return used
			}
			if !x.decode(hdr, uint32(len(b))-used) {
				return uint32(len(b))
			}
		case inData:
			n := min(x.dataLen-x.data, uint32(len(rest)))
			piece := rest[:n]
			if to := x.pdu.Data; x.data < to.Len {
				copy(to.Slice(x.data, to.Len-x.data).Bytes(), piece)
			}
			if x.c.p.DataDigest && x.pdu.Here.Empty() {
				x.crc = pdu.UpdateDigest(x.crc, piece)
			}
			x.data += n
			used += n
			if x.data < x.dataLen {
				return used
			}
			x.stage = inTrailer
		case inTrailer:
			n := uint32(copy(x.trail[x.trailGot:x.trailLen], rest))
			x.trailGot += n
			used += n
			if x.trailGot < x.trailLen {
				return used
			}
			x.trailer()
			x.stage = whole
		}
	}
	return used
}

// header returns a whole header, in place when b has all of it, else gathered
// in x.hdr; nil when more bytes are needed.
//
//spindle:hot
func (x *receiver) header(b []byte) (hdr []byte, used uint32) {
	if x.hdrGot == 0 && len(b) >= pdu.HeaderLen {
		n := pdu.HeaderLen + pdu.BHS(b).AHSLen() + x.hdrTail
		if uint32(len(b)) >= n {
			return b[:n:n], n
		}
	}
	for {
		need := uint32(pdu.HeaderLen)
		if x.hdrGot >= pdu.HeaderLen {
			need += pdu.BHS(x.hdr[:]).AHSLen() + x.hdrTail
			if x.hdrGot == need {
				return x.hdr[:need], used
			}
		}
		n := uint32(copy(x.hdr[x.hdrGot:need], b[used:]))
		x.hdrGot += n
		used += n
		if x.hdrGot < need {
			return nil, used
		}
	}
}

// decode checks a header and asks the engine where its data goes; rest is how many
// bytes of x.buf are behind it. False: the connection is closing.
//
//spindle:hot
func (x *receiver) decode(hdr []byte, rest uint32) bool {
	c := x.c
	end := uint32(len(hdr)) - x.hdrTail
	if x.hdrTail > 0 && pdu.Digest(hdr[:end]) != le.Uint32(hdr[end:]) {
		c.t.Stats.HeaderDigests.Add(1)
		c.Close(errHeaderDigest)
		return false
	}
	bhs := pdu.BHS(hdr[:pdu.HeaderLen:pdu.HeaderLen])
	x.pdu.BHS, x.pdu.AHS, x.pdu.BadData = bhs, nil, false
	if end > pdu.HeaderLen {
		x.pdu.AHS = hdr[pdu.HeaderLen:end:end]
	}
	x.dataLen = bhs.DataLen()
	if x.dataLen > MaxRecvData {
		c.Close(errTooLong)
		return false
	}
	x.pdu.Here = mem.Ref{}
	if n := x.dataLen; n != 0 && n+-n&3 <= rest {
		if m := x.buf.Slice(x.buf.Len-rest, rest); !c.p.DataDigest || digested(m, n+-n&3) {
			x.pdu.Here = m.Slice(0, n)
		}
	}
	x.pdu.Sink = iscsi.Sink{}
	x.decoding = true
	c.h.Header(&x.pdu)
	x.decoding = false
	if x.pdu.Close != nil {
		c.Close(x.pdu.Close)
		return false
	}
	if x.dataLen == 0 {
		x.trailLen = 0
		x.stage = whole
		return true
	}
	x.data, x.crc, x.trailGot, x.trailLen = 0, 0, 0, -x.dataLen&3
	if c.p.DataDigest {
		x.trailLen += pdu.DigestLen
	}
	x.stage = inData
	return true
}

// digested tells whether m has n bytes, and then their digest.
//
//spindle:hot
func digested(m mem.Ref, n uint32) bool {
	if m.Len < n+pdu.DigestLen {
		return false
	}
	b := m.Bytes()
	return pdu.Digest(b[:n]) == le.Uint32(b[n:])
}

// trailer checks the data digest, which covers the padding (RFC 7143 §11.2.4),
// unless decode has.
//
//spindle:hot
func (x *receiver) trailer() {
	if !x.c.p.DataDigest || !x.pdu.Here.Empty() {
		return
	}
	pad := x.trailLen - pdu.DigestLen
	crc := pdu.UpdateDigest(x.crc, x.trail[:pad])
	if crc != le.Uint32(x.trail[pad:]) {
		x.c.t.Stats.DataDigests.Add(1)
		x.pdu.BadData = true
	}
}

// drop gives back what the receiver holds, at the end of the connection.
func (x *receiver) drop() {
	s := x.c.t.shards[x.c.r.ID]
	for x.bufN > 0 {
		x.release()
	}
	for i, c := range s.starved {
		if c == x.c {
			s.starved = append(s.starved[:i], s.starved[i+1:]...)
			break
		}
	}
}
