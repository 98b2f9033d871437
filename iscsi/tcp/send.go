package tcp

import (
	"encoding/binary"
	"syscall"

	"spindle/internal/plant"
	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

var le = binary.LittleEndian

// sender queues PDUs and sends what a turn queued as one message.
type sender struct {
	msg        ring.Msg
	head, tail *iscsi.Out // queued
	fly, last  *iscsi.Out // in the message being sent, done when all of it has left
	sending    bool
	since      clock.Time // when the sendmsg in flight was submitted
	vecs       int        // of the message
	left       uint32     // bytes of the message not sent
	own        uint32     // Data-In header slots used by the message
	live       uint32     // bytes of live data that is queued and not in the message
	credit     uint32     // bytes of live data that no system call has been made for
	dropped    int        // vectors of the message that have left
	pack       pack

	loans   [maxLoans]loan
	loan    uint32 // the one of the message being sent; noLoan when it is copied
	ownLent int    // loans that refer to Data-In header slots
}

// Queue implements iscsi.Conn.
//
//spindle:hot
func (c *Conn) Queue(o *iscsi.Out) {
	x := &c.tx
	o.Next = nil
	if c.dead { // the queue is being handed back: what that brings up leaves for nowhere
		c.seq.Stamp(o.BHS, o.Stamp)
		if o.Done != nil {
			o.Done.OutSent(o)
		}
		return
	}
	if x.tail == nil {
		x.head = o
	} else {
		x.tail.Next = o
	}
	x.tail = o
	c.r.NeedFlush(&c.flush)
}

// Respond implements iscsi.Conn.
//
//spindle:hot
func (c *Conn) Respond(p *iscsi.Reply) {
	if plant.On(plant.LostResponse) && p.ITT%64 == 9 {
		return
	}
	p.Off, p.DataSN, p.Vecs = 0, 0, 0
	c.Resend(p)
}

// Resend implements iscsi.Resender.
//
//spindle:hot
func (c *Conn) Resend(p *iscsi.Reply) {
	p.Out.Reply = p
	if p.Data.Empty() {
		p.SCSIResponse(p.DataSN)
	}
	c.Queue(&p.Out)
}

// Fetch implements iscsi.Conn: an R2T (RFC 7143 §11.8).
func (c *Conn) Fetch(f *iscsi.Fetch) {
	b := f.Out.BHS
	b.Clear(pdu.R2T)
	b.SetFlags(pdu.FlagFinal)
	b.SetLUN(f.LUN)
	b.SetITT(f.ITT)
	b.SetTTT(f.TTT)
	b.SetDataSN(f.R2TSN)
	b.SetOffset(f.Offset)
	b.SetDesired(f.Data.Len)
	f.Out.Stamp, f.Out.Data = iscsi.StampCurrent, mem.Ref{}
	c.Queue(f.Out)
}

// Flush implements reactor.Flusher: it sends what is queued, and drives a
// closing connection on.
//
//spindle:hot
func (c *Conn) Flush() {
	if c.dead {
		return
	}
	if c.closing {
		c.teardown()
		return
	}
	if c.stream && !c.rx.armed {
		if c.resting != nil && c.rested() {
			return
		}
		c.armRecv()
	}
	x := &c.tx
	if x.live > 0 {
		if x.pays(c.t.opt.LiveCost) {
			c.sendLive()
		} else {
			c.settleLive()
		}
	}
	if x.sending || c.closing {
		return
	}
	if x.vecs == 0 {
		if x.head == nil {
			c.drained()
			return
		}
		c.gather()
		if x.vecs == 0 {
			return // its headers are lent out; their return flushes again
		}
	}
	if !c.submit() {
		c.r.NeedFlush(&c.flush)
	}
}

// submit sends the vectors that are left of the message.
//
//spindle:hot
func (c *Conn) submit() bool {
	x := &c.tx
	if c.zc != nil && x.left >= c.t.opt.ZeroCopy && c.lend() {
		if !c.zc.SendZC(c.src.Tag(opLoan+x.loan), c.file, x.msg, x.vecs) {
			return false
		}
	} else if !c.r.Ring.Send(c.src.Tag(opSend), c.file, x.msg, x.vecs) {
		return false
	}
	x.sending, x.since = true, c.r.Now()
	c.inflight++
	return true
}

// Stalled implements iscsi.Staller: a sendmsg ends when the peer has taken some
// of it.
func (c *Conn) Stalled() clock.Time {
	if !c.tx.sending {
		return 0
	}
	return max(c.tx.since, 1)
}

// gather moves queued PDUs into the message until it is full.
//
//spindle:hot
func (c *Conn) gather() {
	x := &c.tx
	x.vecs, x.left, x.own, x.loan, x.dropped = 0, 0, 0, noLoan, 0
	if x.ownLent > 0 {
		x.own = ownSlots // the kernel may still read all of them
	}
	x.pack.reset(x.head.Next == nil)
	limit := x.msg.Cap() - 4 // a PDU's three, and one for the run before it
	for o := x.head; o != nil && x.vecs <= limit && x.left < MaxSendBytes; o = x.head {
		if p := o.Reply; p != nil && !p.Data.Empty() {
			if c.fits(p) {
				c.dataInOne(p)
			} else if !c.dataIn(p, limit) {
				p.Vecs = x.vecs
				break
			}
			if p.Live {
				p.Vecs = x.vecs
				x.live -= p.Data.Len
			}
		} else {
			c.seq.Stamp(o.BHS, o.Stamp)
			o.BHS.SetDataLen(o.Data.Len)
			if !c.plain() || o.Data.Len&3 != 0 || o.Data.Len > CopyBreak || !x.packOut(c, o) {
				c.put(o.Slot.Slice(iscsi.SlotBHS, pdu.HeaderLen+pdu.DigestLen), o.Slot.Slice(iscsi.SlotTrailer, 8), o.Data)
			}
		}
		x.head = o.Next
		if x.head == nil {
			x.tail = nil
		}
		o.Next = nil
		if x.last == nil {
			x.fly = o
		} else {
			x.last.Next = o
		}
		x.last = o
	}
	x.endRun()
}

// plain tells that PDUs leave without digests, and that nobody looks at their
// headers again.
//
//spindle:hot
func (c *Conn) plain() bool { return !c.careful }

// fits tells whether a reply is what most are: one Data-In PDU that carries the
// status, without padding and digests.
//
//spindle:hot
func (c *Conn) fits(p *iscsi.Reply) bool {
	n := p.Data.Len
	return p.Off == 0 && n&3 == 0 && p.Sense.Empty() && n <= min(c.seq.MaxSendData, MaxSendBytes) &&
		(c.p.MaxBurst == 0 || n <= c.p.MaxBurst) && c.plain()
}

// dataInOne is dataIn for a reply that fits; gather left room for its vectors.
//
//spindle:hot
func (c *Conn) dataInOne(p *iscsi.Reply) {
	x, n := &c.tx, p.Data.Len
	h := pdu.DataInHeader{
		Flags: pdu.FlagFinal | pdu.FlagStatus | p.Flags, Status: p.Status, ITT: p.ITT,
		DataLen: n, StatSN: c.seq.StatSN, Residual: p.Residual,
	}
	c.seq.StatSN++
	c.seq.Sent++
	h.ExpCmdSN, h.MaxCmdSN = c.seq.Window.Tell()
	p.Off = n
	if n <= CopyBreak && x.packIn(c, &h, p.Data) {
		return
	}
	x.endRun()
	h.Put(p.Out.BHS)
	x.msg.SetVec(x.vecs, p.Out.Slot.Addr+iscsi.SlotBHS, pdu.HeaderLen)
	x.msg.SetVec(x.vecs+1, p.Data.Addr, n)
	x.vecs += 2
	x.left += pdu.HeaderLen + n
}

// dataIn puts the rest of a reply's data into the message as Data-In PDUs, the
// last of which carries the status (RFC 7143 §11.7.3) unless there is sense.
// False: the message is full first.
//
//spindle:hot
func (c *Conn) dataIn(p *iscsi.Reply, limit int) bool {
	x, segment := &c.tx, c.seq.MaxSendData
	if p.Segment != 0 {
		segment = p.Segment
	}
	for p.Off < p.Data.Len {
		n := min(p.Data.Len-p.Off, segment, MaxSendBytes)
		if b := c.p.MaxBurst; b > 0 {
			n = min(n, b-p.Off%b)
		}
		end := p.Off+n == p.Data.Len
		status := end && p.Sense.Empty()
		if x.vecs > limit || x.left >= MaxSendBytes || !status && x.own == ownSlots {
			return false
		}
		var hdr, trail mem.Ref
		if status {
			hdr = p.Out.Slot.Slice(iscsi.SlotBHS, pdu.HeaderLen+pdu.DigestLen)
			trail = p.Out.Slot.Slice(iscsi.SlotTrailer, 8)
		} else {
			hdr = c.block.Slice(x.own*slotSize, pdu.HeaderLen+pdu.DigestLen)
			trail = c.block.Slice(x.own*slotSize+slotTrail, 8)
			x.own++
		}
		h := pdu.DataInHeader{ITT: p.ITT, DataLen: n, DataSN: p.DataSN, Offset: p.Off}
		switch {
		case status:
			h.Flags = pdu.FlagFinal | pdu.FlagStatus | p.Flags
			h.Status, h.Residual = p.Status, p.Residual
			h.StatSN = c.seq.StatSN
			c.seq.StatSN++
		case end || c.p.MaxBurst > 0 && (p.Off+n)%c.p.MaxBurst == 0 && !plant.On(plant.MissingFinal):
			h.Flags = pdu.FlagFinal
		}
		c.seq.Sent++
		h.ExpCmdSN, h.MaxCmdSN = c.seq.Window.Tell()
		h.Put(pdu.BHS(hdr.Bytes()))
		if c.p.AskAcks && h.Flags == pdu.FlagFinal {
			askAck(pdu.BHS(hdr.Bytes()), p)
		}
		c.put(hdr, trail, p.Data.Slice(p.Off, n))
		p.Off += n
		if !plant.On(plant.WrongDataSN) {
			p.DataSN++
		}
	}
	if p.Sense.Empty() {
		return true
	}
	if x.vecs > limit {
		return false
	}
	p.SCSIResponse(p.DataSN)
	o := &p.Out
	c.seq.Stamp(o.BHS, o.Stamp)
	c.put(o.Slot.Slice(iscsi.SlotBHS, pdu.HeaderLen+pdu.DigestLen), o.Slot.Slice(iscsi.SlotTrailer, 8), o.Data)
	return true
}

// askAck has the initiator acknowledge the data up to here.
func askAck(b pdu.BHS, p *iscsi.Reply) {
	if a, ok := p.Out.Done.(iscsi.DataAcker); ok {
		lun, ttt := a.AckTag()
		b.SetFlags(pdu.FlagFinal | pdu.FlagAck)
		b.SetLUN(lun)
		b.SetTTT(ttt)
	}
}

// put adds one PDU's vectors: header and its digest, data, padding and its
// digest. hdr is the BHS with room for a digest, trail 8 bytes. With digests, what
// is behind one PDU's data and before the next one's is packed, and one vector.
//
//spindle:hot
func (c *Conn) put(hdr, trail, data mem.Ref) {
	x := &c.tx
	n := uint32(pdu.HeaderLen)
	if c.p.HeaderDigest {
		b := hdr.Bytes()
		le.PutUint32(b[n:], pdu.Digest(b[:n]))
		n += pdu.DigestLen
	}
	if !c.careful || !x.packed(c, hdr.Slice(0, n)) {
		x.vec(hdr.Addr, n)
	}
	if data.Empty() {
		return
	}
	if !c.careful || data.Len > CopyBreak || !x.packed(c, data) {
		x.vec(data.Addr, data.Len)
	}
	pad := -data.Len & 3
	tail := pad
	if pad > 0 || c.p.DataDigest {
		b := trail.Bytes()
		le.PutUint32(b, 0)
		if c.p.DataDigest {
			crc := pdu.UpdateDigest(pdu.Digest(data.Bytes()), b[:pad])
			if plant.On(plant.WrongDigest) {
				crc = pdu.Digest(data.Bytes())
			}
			le.PutUint32(b[pad:], crc)
			tail += pdu.DigestLen
		}
		if !c.careful || !x.packed(c, trail.Slice(0, tail)) {
			x.vec(trail.Addr, tail)
		}
	}
}

//spindle:hot
func (x *sender) vec(addr uintptr, n uint32) {
	x.endRun()
	x.msg.SetVec(x.vecs, addr, n)
	x.vecs++
	x.left += n
}

// sent handles the completion of a sendmsg.
//
//spindle:hot
func (c *Conn) sent(res int32) {
	x := &c.tx
	x.sending = false
	if c.closing {
		return
	}
	switch {
	case res == -int32(syscall.EINTR) || res == -int32(syscall.EAGAIN):
		res = 0
	case res < 0:
		c.Close(failure("send", res))
		return
	}
	if uint32(res) < x.left {
		x.advance(uint32(res))
		c.t.Stats.ShortSends.Add(1)
		c.r.NeedFlush(&c.flush)
		return
	}
	o := x.fly
	x.fly, x.last, x.vecs, x.left = nil, nil, 0, 0
	if x.loan == noLoan || !x.keep(o) {
		x.freePack(c)
		finish(o)
	}
	if x.head != nil || c.draining {
		c.r.NeedFlush(&c.flush)
	}
}

// finish tells the owners of a list that it has left.
//
//spindle:hot
func finish(o *iscsi.Out) {
	for o != nil {
		next := o.Next
		o.Next = nil
		if o.Done != nil {
			o.Done.OutSent(o)
		}
		o = next
	}
}

// advance drops n sent bytes from the front of the message.
func (x *sender) advance(n uint32) {
	x.left -= n
	first := 0
	for {
		addr, l := x.msg.Vec(first)
		if n < l {
			x.msg.SetVec(first, addr+uintptr(n), l-n)
			break
		}
		n -= l
		first++
	}
	for i := first; i < x.vecs; i++ {
		addr, l := x.msg.Vec(i)
		x.msg.SetVec(i-first, addr, l)
	}
	x.vecs -= first
	x.dropped += first
}

// Drain implements iscsi.Conn.
func (c *Conn) Drain() {
	c.draining = true
	c.r.NeedFlush(&c.flush)
}

// drained tells the engine, when it asked, that nothing is left to send.
func (c *Conn) drained() {
	if c.draining {
		c.draining = false
		c.h.Drained()
	}
}

// drop hands every queued Out back, at the end of the connection.
func (x *sender) drop(c *Conn) {
	x.freePack(c)
	for i, list := range [...]*iscsi.Out{x.fly, x.head} {
		for o := list; o != nil; {
			next := o.Next
			o.Next = nil
			if o.Reply != nil {
				o.Reply.Unsent = i == 1
			}
			if o.Done != nil {
				o.Done.OutSent(o)
			}
			if o.Reply != nil {
				o.Reply.Unsent = false
			}
			o = next
		}
	}
	for i := range x.loans {
		x.loans[i].end(c) // nothing is in flight: only what was being sent when the connection broke
	}
	*x = sender{}
}
