package limit

import (
	"encoding/binary"
	"syscall"

	"spindle/bench/wire"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

var be = binary.BigEndian

const (
	window   = 1024    // commands a connection may have here; a power of two
	small    = 512     // data up to this is copied next to its header
	slack    = 8 << 10 // of a batch, kept for answers that do not queue
	textSize = 4 << 10
	burst    = 256 << 10 // asked for at a time: no initiator's MaxBurstLength is smaller by default
)

type kind uint8

const (
	answerRead kind = iota
	answerStatus
	answerR2T
)

// task is an answer that waits for room in a batch.
type task struct {
	itt  uint32
	kind kind
	lun  uint8
	at   uint64 // offset in the LUN
	size uint32
	off  uint32 // of what was answered already; of an R2T, where it begins
	sn   uint32 // DataSN
}

// write is a WRITE with data to come.
type write struct {
	itt       uint32
	lun       uint8
	at        uint64
	size, got uint32
}

type conn struct {
	s    *server
	id   int
	fd   int
	file ring.File
	tx   wire.Sender

	armed  bool // the receive is in flight
	dirty  bool // on the server's list of connections to look at
	leave  bool // logged out: to be closed when that was answered
	dead   bool // to be closed when nothing is in flight
	shut   bool // which was told to the kernel
	ending bool // that is in flight

	expCmd, statSN, segment uint32

	tasks      [window]task // from first to end: answers that wait, in order
	first, end uint32
	writes     []write // capacity: window

	head [pdu.HeaderLen]byte // the header of the PDU being received
	have int
	left uint32  // of its data, padding included
	got  uint32  // of its data
	into mem.Ref // where data goes, if anywhere
	keep bool    // data goes to text: a login, a ping
	text []byte
}

// Operations of a connection, in its tags.
const (
	opRecv ring.Tag = iota
	opSend
	opShutdown
	opBits = 2
)

//spindle:hot
func (c *conn) tag(op ring.Tag) ring.Tag { return ring.Tag(c.id)<<opBits | op }

func (c *conn) start(fd int, file ring.File) error {
	if err := c.tx.Init(c.s.loop, file, c.tag(opSend), c.s.headers, vecs); err != nil {
		return err
	}
	if c.writes == nil {
		c.writes, c.text = make([]write, 0, window), make([]byte, 0, textSize)
	}
	c.fd, c.file, c.leave, c.dead, c.shut, c.ending = fd, file, false, false, false, false
	c.expCmd, c.statSN, c.segment = 0, 1, 8192
	c.first, c.end, c.have, c.left, c.writes = 0, 0, 0, 0, c.writes[:0]
	return nil
}

func refillable(res int32) bool { return res == -int32(syscall.ENOBUFS) }

// work sends what can be sent, and tells whether the next turn must come again.
//
//spindle:hot
func (c *conn) work() bool {
	if c.dead {
		return c.bury()
	}
	if !c.armed {
		c.armed = c.s.loop.Ring.Recv(c.tag(opRecv), c.file, c.s.loop.Group)
	}
	for c.first != c.end && c.answer(&c.tasks[c.first%window]) {
		c.first++
	}
	flushed := c.tx.Flush()
	if c.leave && flushed && !c.tx.Flying() {
		c.dead = true
	}
	return !flushed || !c.armed || c.dead
}

// bury closes a connection once nothing of it is in flight.
func (c *conn) bury() bool {
	if !c.shut {
		c.shut = c.s.loop.Ring.Shutdown(c.tag(opShutdown), c.file)
		c.ending = c.shut
		return !c.shut
	}
	// The shutdown too: a worker of the kernel does it, and would find the next
	// connection at that descriptor.
	if c.fd < 0 || c.armed || c.ending || c.tx.Flying() {
		return false
	}
	c.s.loop.Ring.Remove(c.file)
	_ = c.s.kernel.CloseFD(c.fd)
	c.fd = -1
	c.s.free = append(c.s.free, c)
	return false
}

// receive takes what arrived; false ends the connection.
//
//spindle:hot
func (c *conn) receive(b []byte) bool {
	for len(b) > 0 {
		if c.left > 0 {
			n := min(c.left, uint32(len(b)))
			switch {
			case c.got < c.into.Len:
				copy(c.into.Slice(c.got, min(n, c.into.Len-c.got)).Bytes(), b)
			case c.keep:
				// within capacity: begin looked at the length
				c.text = append(c.text, b[:n]...)
			}
			c.got += n
			c.left -= n
			b = b[n:]
		} else {
			n := copy(c.head[c.have:], b)
			b = b[n:]
			if c.have += n; c.have < pdu.HeaderLen {
				return true
			}
			c.have = 0
			if !c.begin(c.head[:]) {
				return false
			}
		}
		if c.left == 0 && !c.complete(c.head[:]) {
			return false
		}
	}
	return true
}

// begin takes a header: it decides where the data goes.
//
//spindle:hot
func (c *conn) begin(h pdu.BHS) bool {
	c.left, c.got, c.into, c.keep, c.text = h.PaddedDataLen(), 0, mem.Ref{}, false, c.text[:0]
	if h.AHSLen() != 0 {
		return false
	}
	switch h.Opcode() {
	case pdu.SCSICommand:
		if h.Flags()&pdu.FlagWrite != 0 {
			return c.beginWrite(h)
		}
	case pdu.DataOut:
		w := c.find(h.ITT())
		if w == nil || h.Offset()+h.DataLen() > w.size {
			return false
		}
		if w.lun == RAM {
			c.into, _ = c.s.memory(RAM, w.at+uint64(h.Offset()), h.DataLen())
		}
	default:
		c.keep = c.left > 0
		return c.left <= textSize
	}
	return true
}

// complete takes a PDU whose data is here.
//
//spindle:hot
func (c *conn) complete(h pdu.BHS) bool {
	if !h.Immediate() && h.Opcode() != pdu.DataOut {
		c.expCmd = h.CmdSN() + 1
	}
	switch h.Opcode() {
	case pdu.SCSICommand:
		if h.Flags()&pdu.FlagWrite != 0 {
			return c.moved(h)
		}
		if op := h.CDB()[0]; op == 0x88 || op == 0x28 {
			return c.read(h)
		}
		return c.command(h)
	case pdu.DataOut:
		return c.moved(h)
	}
	return c.other(h)
}

// span is where a READ or WRITE (10) or (16) is for, in bytes.
//
//spindle:hot
func span(h pdu.BHS) (at uint64, size uint32) {
	cdb := h.CDB()
	if cdb[0]&0xf0 == 0x80 {
		return be.Uint64(cdb[2:]) * block, be.Uint32(cdb[10:]) * block
	}
	return uint64(be.Uint32(cdb[2:])) * block, uint32(be.Uint16(cdb[7:])) * block
}

func lunOf(h pdu.BHS) uint8 { return uint8(h.LUN() >> 48) }

//spindle:hot
func (c *conn) read(h pdu.BHS) bool {
	at, size := span(h)
	if _, ok := c.s.memory(lunOf(h), at, size); !ok || size != h.EDTL() {
		return c.refuse(h)
	}
	return c.queue(task{itt: h.ITT(), kind: answerRead, lun: lunOf(h), at: at, size: size})
}

//spindle:hot
func (c *conn) beginWrite(h pdu.BHS) bool {
	at, size := span(h)
	w := write{itt: h.ITT(), lun: lunOf(h), at: at, size: size}
	data, ok := c.s.memory(w.lun, at, size)
	if op := h.CDB()[0]; op != 0x8a && op != 0x2a || !ok || size != h.EDTL() || h.DataLen() > size || len(c.writes) == cap(c.writes) {
		return false // nothing is measured with such a command
	}
	if w.lun == RAM {
		c.into = data.Slice(0, h.DataLen())
	}
	c.writes = append(c.writes, w) // within capacity: just looked
	return true
}

//spindle:hot
func (c *conn) find(itt uint32) *write {
	for i := len(c.writes) - 1; i >= 0; i-- {
		if c.writes[i].itt == itt {
			return &c.writes[i]
		}
	}
	return nil
}

// moved takes data of a WRITE; with the last of a sequence it asks for the rest
// or ends the command.
//
//spindle:hot
func (c *conn) moved(h pdu.BHS) bool {
	w := c.find(h.ITT())
	w.got += h.DataLen()
	switch {
	case w.got >= w.size:
		t := task{itt: w.itt, kind: answerStatus}
		*w = c.writes[len(c.writes)-1]
		c.writes = c.writes[:len(c.writes)-1]
		return c.queue(t)
	case h.Final():
		return c.queue(task{itt: w.itt, kind: answerR2T, off: w.got, size: min(w.size-w.got, burst)})
	}
	return true
}

// queue appends an answer. The window keeps initiators from more than fit.
//
//spindle:hot
func (c *conn) queue(t task) bool {
	if c.end-c.first == window {
		return false
	}
	c.tasks[c.end%window] = t
	c.end++
	return true
}

// numbers sets StatSN, if the PDU has one, and the window.
//
//spindle:hot
func (c *conn) numbers(h pdu.BHS, status bool) {
	if status {
		h.SetStatSN(c.statSN)
		c.statSN++
	}
	h.SetExpCmdSN(c.expCmd)
	h.SetMaxCmdSN(c.expCmd + window - 1 - (c.end - c.first))
}

// answer sends what fits of t, and tells whether that was all.
//
//spindle:hot
func (c *conn) answer(t *task) bool {
	switch t.kind {
	case answerStatus:
		if !c.tx.Room(pdu.HeaderLen+slack, 0) {
			return false
		}
		h := c.bhs(pdu.SCSIResponse, t.itt)
		h.SetFlags(pdu.FlagFinal)
		c.numbers(h, true)
		return true
	case answerR2T:
		if !c.tx.Room(pdu.HeaderLen+slack, 0) {
			return false
		}
		h := c.bhs(pdu.R2T, t.itt)
		h.SetFlags(pdu.FlagFinal)
		h.SetTTT(t.itt) // not ReservedTag: no command has that
		h.SetStatSN(c.statSN)
		c.numbers(h, false)
		h.SetOffset(t.off)
		h.SetDesired(t.size)
		return true
	}
	for t.off < t.size {
		n := min(t.size-t.off, c.segment)
		if !c.tx.Room(pdu.HeaderLen+small+slack, 1) {
			return false
		}
		h := c.bhs(pdu.DataIn, t.itt)
		last := t.off+n == t.size
		if last {
			h.SetFlags(pdu.FlagFinal | pdu.FlagStatus)
		}
		h.SetDataLen(n)
		h.SetTTT(pdu.ReservedTag)
		c.numbers(h, last)
		h.SetDataSN(t.sn)
		h.SetOffset(t.off)
		data, _ := c.s.memory(t.lun, t.at+uint64(t.off), n)
		if n <= small {
			copy(c.tx.Bytes(n), data.Bytes())
		} else {
			c.tx.Data(data)
		}
		t.off += n
		t.sn++
	}
	return true
}

//spindle:hot
func (c *conn) bhs(op pdu.Opcode, itt uint32) pdu.BHS {
	h := pdu.BHS(c.tx.Bytes(pdu.HeaderLen))
	h.Clear(op)
	h.SetITT(itt)
	return h
}
