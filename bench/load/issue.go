package load

import (
	"math/bits"

	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
)

// maxUnsolicited bounds the Data-Out PDUs that follow a command at once, so that
// a whole command always fits an empty batch. The rest is asked for by R2T.
const maxUnsolicited = 64

// segmentRoom is what the header of a segment and its digests take.
const segmentRoom = pdu.HeaderLen + 2*pdu.DigestLen

// work sends what can be sent on c: data asked for first, then commands. It
// returns true when the next turn must come again without a completion.
//
//spindle:hot
func (c *conn) work(now clock.Time) bool {
	if !c.armed {
		c.armed = c.g.loop.Ring.Recv(recvTag(c.id), c.file, c.g.loop.Group)
	}
	if c.pinged {
		c.pong()
	}
	if len(c.asked) > 0 {
		c.solicited()
	}
	for len(c.again) > 0 && c.room(c.slots[c.again[len(c.again)-1]].size) {
		i := c.again[len(c.again)-1]
		c.again = c.again[:len(c.again)-1]
		c.command(i)
	}
	blocked := c.g.issuing && !c.issue(now)
	return !c.tx.Flush() || !c.armed || blocked
}

// issue starts new commands as far as depth, window, rate and batch allow, and
// returns false when verification keeps it from more.
//
//spindle:hot
func (c *conn) issue(now clock.Time) bool {
	for len(c.free) > 0 && c.g.allowed > 0 && c.room(c.g.largest) {
		i := c.free[len(c.free)-1]
		s := &c.slots[i]
		if !c.g.choose(c, s) {
			return false
		}
		c.free = c.free[:len(c.free)-1]
		s.start = c.g.due(now)
		c.g.inflight++
		c.command(i)
	}
	return true
}

// room tells whether the target's window is open (RFC 7143 §4.2.2.1) and a
// command of n bytes fits the batch.
//
//spindle:hot
func (c *conn) room(n uint32) bool {
	if pdu.SNLess(c.maxCmd, c.cmdSN) {
		return false
	}
	if c.g.pattern.Reads == 100 {
		return c.tx.Room(segmentRoom, 0)
	}
	segments := min(n/c.p.segment+1, maxUnsolicited) + 1
	return c.tx.Room(segments*segmentRoom, int(segments))
}

// command sends the command of slot i, with what data may go unasked.
//
//spindle:hot
func (c *conn) command(i uint16) {
	s := &c.slots[i]
	c.used++
	s.tag = (c.used<<slotBits | uint32(i)) & tagMask
	s.live, s.got, s.want = true, 0, 0
	h := c.bhs()
	copy(h, c.template[:])
	h.SetITT(s.tag)
	h.SetEDTL(s.size)
	h.SetCmdSN(c.cmdSN)
	h.SetExpStatSN(c.expStat)
	c.cmdSN++
	cdb := h.CDB()
	flags := byte(pdu.FlagFinal | pdu.FlagRead | pdu.AttrSimple)
	switch {
	case c.g.op != nil:
		c.g.op.put(cdb, s.lba, c.g.fixed.Bytes>>c.g.shift)
		if s.size == 0 {
			flags = pdu.FlagFinal | pdu.AttrSimple
		}
	case s.write:
		be.PutUint64(cdb[2:], s.lba)
		be.PutUint32(cdb[10:], s.size>>c.g.shift)
		cdb[0] = 0x8a // WRITE(16), SBC-4 §5.48
	default:
		be.PutUint64(cdb[2:], s.lba)
		be.PutUint32(cdb[10:], s.size>>c.g.shift)
		cdb[0] = 0x88 // READ(16), SBC-4 §5.18
	}
	if !s.write {
		h.SetFlags(flags)
		c.seal(h)
		return
	}
	immediate, unasked := uint32(0), uint32(0)
	if c.p.immediate {
		immediate = min(s.size, c.p.firstBurst, c.p.segment)
	}
	if !c.p.initialR2T {
		unasked = min(s.size, c.p.firstBurst, c.p.segment*maxUnsolicited)
	}
	flags = pdu.FlagFinal | pdu.FlagWrite | pdu.AttrSimple
	if unasked > immediate {
		flags &^= pdu.FlagFinal
	}
	h.SetFlags(flags)
	h.SetDataLen(immediate)
	c.seal(h)
	c.append(s, 0, immediate)
	for off, sn := immediate, uint32(0); off < unasked; sn++ {
		n := min(unasked-off, c.p.segment)
		c.dataOut(s, pdu.ReservedTag, off, n, sn, off+n == unasked)
		off += n
	}
}

// solicited sends data that was asked for, as much as fits the batch.
//
//spindle:hot
func (c *conn) solicited() {
	kept := 0
	for _, i := range c.asked {
		s := &c.slots[i]
		for s.want > 0 && c.tx.Room(segmentRoom, 1) {
			n := min(s.want, c.p.segment)
			c.dataOut(s, s.ttt, s.off, n, s.dataSN, n == s.want)
			s.off, s.want, s.dataSN = s.off+n, s.want-n, s.dataSN+1
		}
		if s.want > 0 {
			c.asked[kept] = i
			kept++
		}
	}
	c.asked = c.asked[:kept]
}

//spindle:hot
func (c *conn) dataOut(s *slot, ttt, off, n, sn uint32, last bool) {
	h := c.bhs()
	copy(h, c.template[:])
	h.SetOpcode(pdu.DataOut)
	h.SetFlags(0)
	if last {
		h.SetFlags(pdu.FlagFinal)
	}
	h.SetDataLen(n)
	h.SetITT(s.tag)
	h.SetTTT(ttt)
	h.SetCmdSN(0) // reserved in a Data-Out, RFC 7143 §11.7
	h.SetExpStatSN(c.expStat)
	h.SetDataSN(sn)
	h.SetOffset(off)
	c.seal(h)
	c.append(s, off, n)
}

// pong answers the target's ping (RFC 7143 §11.18).
func (c *conn) pong() {
	if !c.tx.Room(segmentRoom, 0) {
		return
	}
	c.pinged = false
	h := c.bhs()
	h.Clear(pdu.NopOut)
	h.SetImmediate()
	h.SetFlags(pdu.FlagFinal)
	h.SetLUN(encodeLUN(c.g.o.Address.LUN))
	h.SetITT(pdu.ReservedTag)
	h.SetTTT(c.ping)
	h.SetCmdSN(c.cmdSN)
	h.SetExpStatSN(c.expStat)
	c.seal(h)
}

func (c *conn) logout() {
	if !c.tx.Room(segmentRoom, 0) {
		return
	}
	h := c.bhs()
	h.Clear(pdu.LogoutReq)
	h.SetImmediate()
	h.SetFlags(pdu.FlagFinal | pdu.LogoutCloseSession)
	h.SetITT(tagMask)
	h.SetCmdSN(c.cmdSN)
	h.SetExpStatSN(c.expStat)
	c.seal(h)
}

// bhs takes room for a header and its digest.
//
//spindle:hot
func (c *conn) bhs() pdu.BHS { return pdu.BHS(c.tx.Bytes(uint32(c.headLen))) }

// seal digests a header that is complete.
//
//spindle:hot
func (c *conn) seal(h pdu.BHS) {
	if c.p.header {
		pdu.PutDigest(h[pdu.HeaderLen:], pdu.Digest(h[:pdu.HeaderLen]))
	}
}

// append adds n bytes of a command's data as the data segment of the header
// before. Sizes are multiples of 512 and segments of 4: there is no padding.
//
//spindle:hot
func (c *conn) append(s *slot, off, n uint32) {
	if n == 0 {
		return
	}
	data := s.data.Slice(off, n)
	c.tx.Data(data)
	if c.p.data {
		pdu.PutDigest(c.tx.Bytes(pdu.DigestLen), pdu.Digest(data.Bytes()))
	}
}

// random is xorshift64*: good enough to pick blocks, and cheap.
type random uint64

//spindle:hot
func (r *random) next() uint64 {
	x := uint64(*r)
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*r = random(x)
	return x * 2685821657736338717
}

// below is a number below n.
//
//spindle:hot
func (r *random) below(n uint64) uint64 {
	hi, _ := bits.Mul64(r.next(), n)
	return hi
}
