package load

import (
	"math/bits"

	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
)

// work sends what can be sent on c: what is owed first, then commands. It
// returns true when the next turn must come again without a completion.
//
//spindle:hot
func (c *conn) work(now clock.Time) bool {
	c.link.prepare()
	if c.pinged {
		c.pong()
	}
	for len(c.again) > 0 && c.room(c.slots[c.again[len(c.again)-1]].size) {
		i := c.again[len(c.again)-1]
		c.again = c.again[:len(c.again)-1]
		c.command(i)
	}
	blocked := c.g.issuing && !c.issue(now)
	return !c.link.flush() || blocked
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
// command of n bytes can go.
//
//spindle:hot
func (c *conn) room(n uint32) bool {
	return !pdu.SNLess(c.maxCmd, c.cmdSN) && c.link.room(n)
}

// command sends the command of slot i.
//
//spindle:hot
func (c *conn) command(i uint16) {
	s := &c.slots[i]
	c.used++
	s.tag = (c.used<<slotBits | uint32(i)) & tagMask
	s.live, s.got, s.want = true, 0, 0
	h := c.link.header()
	copy(h, c.template[:])
	h.SetITT(s.tag)
	h.SetEDTL(s.size)
	h.SetCmdSN(c.cmdSN)
	h.SetExpStatSN(c.expStat)
	c.cmdSN++
	cdb := h.CDB()
	flags := byte(pdu.FlagFinal | pdu.AttrSimple)
	if s.size > 0 {
		flags |= pdu.FlagRead
	}
	if s.write {
		flags = pdu.FlagFinal | pdu.FlagWrite | pdu.AttrSimple
	}
	h.SetFlags(flags)
	switch {
	case c.g.op != nil:
		c.g.op.put(cdb, s.lba, c.g.fixed.Bytes>>c.g.shift)
	case s.write:
		be.PutUint64(cdb[2:], s.lba)
		be.PutUint32(cdb[10:], s.size>>c.g.shift)
		cdb[0] = 0x8a // WRITE(16), SBC-4 §5.48
	default:
		be.PutUint64(cdb[2:], s.lba)
		be.PutUint32(cdb[10:], s.size>>c.g.shift)
		cdb[0] = 0x88 // READ(16), SBC-4 §5.18
	}
	c.link.command(h, s)
}

// immediate is how many bytes of a write go with the command (RFC 7143 §13.11).
//
//spindle:hot
func (c *conn) immediate(s *slot) uint32 {
	if !c.p.immediate {
		return 0
	}
	return min(s.size, c.p.firstBurst, c.p.segment)
}

// pong answers the target's ping (RFC 7143 §11.18).
func (c *conn) pong() {
	if !c.link.room(0) {
		return
	}
	c.pinged = false
	h := c.link.header()
	h.Clear(pdu.NopOut)
	h.SetImmediate()
	h.SetFlags(pdu.FlagFinal)
	h.SetLUN(encodeLUN(c.g.o.Address.LUN))
	h.SetITT(pdu.ReservedTag)
	h.SetTTT(c.ping)
	h.SetCmdSN(c.cmdSN)
	h.SetExpStatSN(c.expStat)
	c.link.send(h)
}

func (c *conn) logout() {
	if !c.link.room(0) {
		return
	}
	h := c.link.header()
	h.Clear(pdu.LogoutReq)
	h.SetImmediate()
	h.SetFlags(pdu.FlagFinal | pdu.LogoutCloseSession)
	h.SetITT(tagMask)
	h.SetCmdSN(c.cmdSN)
	h.SetExpStatSN(c.expStat)
	c.link.send(h)
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
