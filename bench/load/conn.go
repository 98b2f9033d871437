package load

import (
	"fmt"

	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
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

// link carries the PDUs of one connection.
type link interface {
	// prepare readies a look at the connection: what is owed goes before commands.
	prepare()
	// room tells whether a command of n bytes can go.
	room(n uint32) bool
	// header is where the BHS of the next PDU goes; send or command follows.
	// Preconditions: room.
	header() pdu.BHS
	// send sends the PDU whose header is complete.
	send(h pdu.BHS)
	// command sends a command with what its negotiated parameters let go along:
	// it sets the length of the immediate data.
	command(h pdu.BHS, s *slot)
	// flush lets go what was sent; false: the next turn must look again.
	flush() bool
}

// conn is one session in full feature phase.
type conn struct {
	g    *generator
	id   int
	link link
	p    params

	cmdSN, maxCmd, expStat uint32
	template               [pdu.HeaderLen]byte

	slots []slot
	free  []uint16 // capacity: every slot
	again []uint16 // to be sent again: BUSY or TASK SET FULL; capacity: every slot
	used  uint32   // commands started, for tags

	dirty  bool // on the generator's list of connections to look at
	pinged bool // a NOP-In waits for its answer
	ping   uint32
	ended  bool // logged out, or closed by the target

	done   int // slot that ends with the PDU being received, or -1
	status uint8
	sense  [64]byte

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

// window takes the command window from a PDU.
//
//spindle:hot
func (c *conn) window(h pdu.BHS) {
	if max := h.MaxCmdSN(); pdu.SNLess(c.maxCmd, max) {
		c.maxCmd = max
	}
}

// ends notes that the PDU ends its command.
//
//spindle:hot
func (c *conn) ends(h pdu.BHS) {
	c.done, c.status, c.expStat = int(h.ITT()&slotMask), h.Status(), h.StatSN()+1
}

// other takes what is rare.
func (c *conn) other(h pdu.BHS) error {
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
