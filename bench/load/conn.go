package load

import (
	"fmt"
	"os"

	"spindle/bench/wire"
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// A command's tag is its slot and how often that was used, so that an answer to
// a former command is recognised. The highest bit stays 0: ReservedTag names none.
const (
	slotBits = 12
	slotMask = 1<<slotBits - 1
	tagMask  = 1<<31 - 1
)

// slot is a command in flight.
type slot struct {
	start clock.Time
	lba   uint64
	size  uint32
	tag   uint32
	got   uint32 // bytes read
	unit  uint32 // verified unit
	write bool
	live  bool

	// What the target asked for by R2T and has not got yet.
	ttt, off, want, dataSN uint32

	data mem.Ref // what is written; with verification, also where is read to
}

// sink is where received data goes besides past.
type sink uint8

const (
	sinkNone sink = iota
	sinkSlot      // into the slot's data: verification
	sinkSense
)

// conn is one session in full feature phase.
type conn struct {
	g    *generator
	id   int
	sock *os.File
	file ring.File
	tx   wire.Sender
	p    params

	cmdSN, maxCmd, expStat uint32
	template               [pdu.HeaderLen]byte

	slots []slot
	free  []uint16 // capacity: every slot
	again []uint16 // to be sent again: BUSY or TASK SET FULL; capacity: every slot
	asked []uint16 // with data asked for by R2T, in order; capacity: every slot
	used  uint32   // commands started, for tags

	armed  bool // the multishot receive is in flight
	dirty  bool // on the generator's list of connections to look at
	pinged bool // a NOP-In waits for its answer
	ping   uint32
	ended  bool // logged out, or closed by the target

	// The PDU being received.
	head    [pdu.HeaderLen + pdu.DigestLen]byte
	have    int    // of head
	headLen int    // with digest
	left    uint32 // of its data segment, padding and digest
	watch   bool   // the data segment is looked at, not only skipped
	digest  bool   // it is followed by a digest
	sink    sink
	at      uint32 // offset in the sink
	crc     uint32
	trailer uint32 // digest bytes received
	done    int    // slot that ends with this PDU, or -1
	cur     int    // slot of the data
	status  uint8
	sense   [64]byte

	seq uint64 // next block of a sequential pattern
}

// find is the slot of a tag; nil when no command has it.
//
//spindle:hot
func (c *conn) find(tag uint32) *slot {
	i := tag & slotMask
	if int(i) >= len(c.slots) {
		return nil
	}
	if s := &c.slots[i]; s.live && s.tag == tag {
		return s
	}
	return nil
}

// receive takes what arrived.
//
//spindle:hot
func (c *conn) receive(b []byte) error {
	for len(b) > 0 {
		if c.left > 0 {
			n := min(c.left, uint32(len(b)))
			if c.watch {
				if err := c.payload(b[:n]); err != nil {
					return err
				}
			}
			c.left -= n
			b = b[n:]
		} else {
			h := b
			if c.have > 0 || len(b) < c.headLen {
				n := copy(c.head[c.have:c.headLen], b)
				c.have += n
				b = b[n:]
				if c.have < c.headLen {
					return nil
				}
				h, c.have = c.head[:], 0
			} else {
				b = b[c.headLen:]
			}
			if err := c.header(h); err != nil {
				return err
			}
		}
		if c.left == 0 && c.done >= 0 {
			if err := c.finish(); err != nil {
				return err
			}
		}
	}
	return nil
}

// header takes a whole BHS.
//
//spindle:hot
func (c *conn) header(raw []byte) error {
	h := pdu.BHS(raw[:pdu.HeaderLen:pdu.HeaderLen])
	if c.p.header && pdu.GetDigest(raw[pdu.HeaderLen:c.headLen]) != pdu.Digest(h) {
		return c.wrong("header digest", h)
	}
	n := h.DataLen()
	c.left, c.done, c.sink, c.at = pdu.Padded(n), -1, sinkNone, 0
	c.digest = c.p.data && n > 0
	if c.digest {
		c.left += pdu.DigestLen
		c.crc, c.trailer = 0, 0
	}
	if h.AHSLen() != 0 || n > recvSegment {
		return c.wrong("length", h)
	}
	if max := h.MaxCmdSN(); pdu.SNLess(c.maxCmd, max) {
		c.maxCmd = max
	}
	switch h.Opcode() {
	case pdu.DataIn:
		s := c.find(h.ITT())
		if s == nil || s.write || h.Offset()+n > s.size {
			return c.wrong("Data-In", h)
		}
		s.got += n
		if c.g.verifier != nil {
			c.sink, c.at = sinkSlot, h.Offset()
			c.cur = int(h.ITT() & slotMask)
		}
		if h.Flags()&pdu.FlagStatus != 0 {
			c.ends(h)
		}
	case pdu.SCSIResponse:
		if c.find(h.ITT()) == nil || h.Response() != pdu.RespCompleted {
			return c.wrong("response", h)
		}
		if n > 0 {
			clear(c.sense[:])
			c.sink = sinkSense
		}
		c.ends(h)
	case pdu.R2T:
		s := c.find(h.ITT())
		if s == nil || !s.write || s.want != 0 || h.Desired() == 0 || h.Offset()+h.Desired() > s.size {
			return c.wrong("R2T", h)
		}
		s.ttt, s.off, s.want, s.dataSN = h.TTT(), h.Offset(), h.Desired(), 0
		c.asked = append(c.asked, uint16(h.ITT()&slotMask)) // within capacity: once a slot
	default:
		return c.other(h)
	}
	c.watch = c.sink != sinkNone || c.digest
	return nil
}

// ends notes that the PDU ends its command.
//
//spindle:hot
func (c *conn) ends(h pdu.BHS) {
	c.done, c.status, c.expStat = int(h.ITT()&slotMask), h.Status(), h.StatSN()+1
}

// other takes what is rare.
func (c *conn) other(h pdu.BHS) error {
	c.watch = c.digest
	switch {
	case h.Opcode() == pdu.NopIn:
		if h.TTT() != pdu.ReservedTag { // a ping; RFC 7143 §11.19
			c.pinged, c.ping = true, h.TTT()
		}
	case h.Opcode() == pdu.LogoutResp:
		c.ended = true
	case h.Opcode() == pdu.AsyncMessage && h.AsyncEvent() == pdu.AsyncSCSI:
	default:
		return c.wrong("opcode", h)
	}
	return nil
}

// wrong is apart from its callers because making an error allocates.
//
//go:noinline
func (c *conn) wrong(what string, h pdu.BHS) error {
	return fmt.Errorf("%w: connection %d: %s of PDU % x", ErrTarget, c.id, what, []byte(h))
}

// payload takes a piece of the data segment: data and padding, then the digest.
//
//spindle:hot
func (c *conn) payload(p []byte) error {
	data := c.left
	if c.digest {
		data -= min(data, pdu.DigestLen)
	}
	n := min(data, uint32(len(p)))
	switch c.sink {
	case sinkSlot:
		buf := c.slots[c.cur].data
		copy(buf.Slice(c.at, min(n, buf.Len-c.at)).Bytes(), p[:n])
	case sinkSense:
		if c.at < uint32(len(c.sense)) {
			copy(c.sense[c.at:], p[:n])
		}
	}
	c.at += n
	if !c.digest {
		return nil
	}
	c.crc = pdu.UpdateDigest(c.crc, p[:n])
	left := c.left - n
	for _, b := range p[n:] {
		c.trailer |= uint32(b) << (8 * (pdu.DigestLen - left))
		left--
	}
	if left == 0 && c.trailer != c.crc {
		return c.badDigest()
	}
	return nil
}

//go:noinline
func (c *conn) badDigest() error {
	return fmt.Errorf("%w: connection %d: data digest is %08x, of the data %08x", ErrTarget, c.id, c.trailer, c.crc)
}

// SCSI statuses that only ask to come again (SAM-5 §5.3).
const (
	statusGood        = 0x00
	statusBusy        = 0x08
	statusTaskSetFull = 0x28
)

// finish ends the command whose last PDU was received.
//
//spindle:hot
func (c *conn) finish() error {
	i := c.done
	c.done = -1
	s := &c.slots[i]
	if c.status != statusGood || !s.write && s.got != s.size {
		if c.status != statusBusy && c.status != statusTaskSetFull {
			return c.failed(s)
		}
		s.live, s.want = false, 0
		c.g.retries++
		c.again = append(c.again, uint16(i)) // within capacity: once a slot
		return nil
	}
	s.live = false
	if v := c.g.verifier; v != nil {
		if err := v.finished(s); err != nil {
			return err
		}
	}
	c.free = append(c.free, uint16(i)) // within capacity: once a slot
	c.g.account(s)
	return nil
}

//go:noinline
func (c *conn) failed(s *slot) error {
	op := "read"
	if s.write {
		op = "write"
	}
	err := fmt.Errorf("%w: %d bytes instead of %d", ErrTarget, s.got, s.size)
	if c.status != statusGood {
		err = statusError(c.status, c.sense[:])
	}
	return fmt.Errorf("connection %d: %s of %d bytes at LBA %d: %w", c.id, op, s.size, s.lba, err)
}
