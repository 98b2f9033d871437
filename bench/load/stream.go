package load

import (
	"fmt"
	"os"

	"spindle/bench/wire"
	"spindle/iscsi/pdu"
	"spindle/reactor/ring"
)

// maxUnsolicited bounds the Data-Out PDUs that follow a command at once, so that
// a whole command always fits an empty batch. The rest is asked for by R2T.
const maxUnsolicited = 64

// segmentRoom is what the header of a segment and its digests take.
const segmentRoom = pdu.HeaderLen + 2*pdu.DigestLen

// sink is where received data goes besides past.
type sink uint8

const (
	sinkNone sink = iota
	sinkSlot      // into the slot's data: verification
	sinkSense
)

// stream is the link of a connection over TCP.
type stream struct {
	c     *conn
	net   *tcp
	sock  *os.File
	file  ring.File
	tx    wire.Sender
	asked []uint16 // slots with data asked for by R2T, in order; capacity: every slot
	armed bool     // the multishot receive is in flight

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
	cur     int    // slot of the data
}

// receive takes what arrived.
//
//spindle:hot
func (t *stream) receive(b []byte) error {
	for len(b) > 0 {
		if t.left > 0 {
			n := min(t.left, uint32(len(b)))
			if t.watch {
				if err := t.payload(b[:n]); err != nil {
					return err
				}
			}
			t.left -= n
			b = b[n:]
		} else {
			h := b
			if t.have > 0 || len(b) < t.headLen {
				n := copy(t.head[t.have:t.headLen], b)
				t.have += n
				b = b[n:]
				if t.have < t.headLen {
					return nil
				}
				h, t.have = t.head[:], 0
			} else {
				b = b[t.headLen:]
			}
			if err := t.arrived(h); err != nil {
				return err
			}
		}
		if t.left == 0 && t.c.done >= 0 {
			if err := t.c.finish(); err != nil {
				return err
			}
		}
	}
	return nil
}

// arrived takes a whole BHS.
//
//spindle:hot
func (t *stream) arrived(raw []byte) error {
	c := t.c
	h := pdu.BHS(raw[:pdu.HeaderLen:pdu.HeaderLen])
	if c.p.header && pdu.GetDigest(raw[pdu.HeaderLen:t.headLen]) != pdu.Digest(h) {
		return c.wrong("header digest", h)
	}
	n := h.DataLen()
	t.left, c.done, t.sink, t.at = pdu.Padded(n), -1, sinkNone, 0
	t.digest = c.p.data && n > 0
	if t.digest {
		t.left += pdu.DigestLen
		t.crc, t.trailer = 0, 0
	}
	if h.AHSLen() != 0 || n > recvSegment {
		return c.wrong("length", h)
	}
	c.window(h)
	switch h.Opcode() {
	case pdu.DataIn:
		s := c.find(h.ITT())
		if s == nil || s.write || h.Offset()+n > s.size {
			return c.wrong("Data-In", h)
		}
		s.got += n
		if c.g.verifier != nil {
			t.sink, t.at = sinkSlot, h.Offset()
			t.cur = int(h.ITT() & slotMask)
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
			t.sink = sinkSense
		}
		c.ends(h)
	case pdu.R2T:
		s := c.find(h.ITT())
		if s == nil || !s.write || s.want != 0 || h.Desired() == 0 || h.Offset()+h.Desired() > s.size {
			return c.wrong("R2T", h)
		}
		s.ttt, s.off, s.want, s.dataSN = h.TTT(), h.Offset(), h.Desired(), 0
		t.asked = append(t.asked, uint16(h.ITT()&slotMask)) // within capacity: once a slot
	default:
		t.watch = t.digest
		return c.other(h)
	}
	t.watch = t.sink != sinkNone || t.digest
	return nil
}

// payload takes a piece of the data segment: data and padding, then the digest.
//
//spindle:hot
func (t *stream) payload(p []byte) error {
	data := t.left
	if t.digest {
		data -= min(data, pdu.DigestLen)
	}
	n := min(data, uint32(len(p)))
	switch t.sink {
	case sinkSlot:
		buf := t.c.slots[t.cur].data
		copy(buf.Slice(t.at, min(n, buf.Len-t.at)).Bytes(), p[:n])
	case sinkSense:
		if t.at < uint32(len(t.c.sense)) {
			copy(t.c.sense[t.at:], p[:n])
		}
	}
	t.at += n
	if !t.digest {
		return nil
	}
	t.crc = pdu.UpdateDigest(t.crc, p[:n])
	left := t.left - n
	for _, b := range p[n:] {
		t.trailer |= uint32(b) << (8 * (pdu.DigestLen - left))
		left--
	}
	if left == 0 && t.trailer != t.crc {
		return t.badDigest()
	}
	return nil
}

//go:noinline
func (t *stream) badDigest() error {
	return fmt.Errorf("%w: connection %d: data digest is %08x, of the data %08x", ErrTarget, t.c.id, t.trailer, t.crc)
}

// prepare arms the receive and sends what the target asked for.
//
//spindle:hot
func (t *stream) prepare() {
	if !t.armed {
		t.armed = t.net.loop.Ring.Recv(recvTag(t.c.id), t.file, t.net.loop.Group)
	}
	if len(t.asked) > 0 {
		t.solicited()
	}
}

//spindle:hot
func (t *stream) flush() bool { return t.tx.Flush() && t.armed }

// room tells whether a command of n bytes fits the batch.
//
//spindle:hot
func (t *stream) room(n uint32) bool {
	if t.c.g.pattern.Reads == 100 {
		return t.tx.Room(segmentRoom, 0)
	}
	segments := min(n/t.c.p.segment+1, maxUnsolicited) + 1
	return t.tx.Room(segments*segmentRoom, int(segments))
}

// header takes room for a header and its digest.
//
//spindle:hot
func (t *stream) header() pdu.BHS { return pdu.BHS(t.tx.Bytes(uint32(t.headLen))) }

// send digests the header.
//
//spindle:hot
func (t *stream) send(h pdu.BHS) {
	if t.c.p.header {
		pdu.PutDigest(h[pdu.HeaderLen:], pdu.Digest(h[:pdu.HeaderLen]))
	}
}

// command sends a command, with what data may go unasked.
//
//spindle:hot
func (t *stream) command(h pdu.BHS, s *slot) {
	if !s.write {
		t.send(h)
		return
	}
	p := &t.c.p
	immediate, unasked := t.c.immediate(s), uint32(0)
	if !p.initialR2T {
		unasked = min(s.size, p.firstBurst, p.segment*maxUnsolicited)
	}
	if unasked > immediate {
		h.SetFlags(h.Flags() &^ pdu.FlagFinal)
	}
	h.SetDataLen(immediate)
	t.send(h)
	t.append(s, 0, immediate)
	for off, sn := immediate, uint32(0); off < unasked; sn++ {
		n := min(unasked-off, p.segment)
		t.dataOut(s, pdu.ReservedTag, off, n, sn, off+n == unasked)
		off += n
	}
}

// solicited sends data that was asked for, as much as fits the batch.
//
//spindle:hot
func (t *stream) solicited() {
	kept := 0
	for _, i := range t.asked {
		s := &t.c.slots[i]
		for s.want > 0 && t.tx.Room(segmentRoom, 1) {
			n := min(s.want, t.c.p.segment)
			t.dataOut(s, s.ttt, s.off, n, s.dataSN, n == s.want)
			s.off, s.want, s.dataSN = s.off+n, s.want-n, s.dataSN+1
		}
		if s.want > 0 {
			t.asked[kept] = i
			kept++
		}
	}
	t.asked = t.asked[:kept]
}

//spindle:hot
func (t *stream) dataOut(s *slot, ttt, off, n, sn uint32, last bool) {
	h := t.header()
	copy(h, t.c.template[:])
	h.SetOpcode(pdu.DataOut)
	h.SetFlags(0)
	if last {
		h.SetFlags(pdu.FlagFinal)
	}
	h.SetDataLen(n)
	h.SetITT(s.tag)
	h.SetTTT(ttt)
	h.SetCmdSN(0) // reserved in a Data-Out, RFC 7143 §11.7
	h.SetExpStatSN(t.c.expStat)
	h.SetDataSN(sn)
	h.SetOffset(off)
	t.send(h)
	t.append(s, off, n)
}

// append adds n bytes of a command's data as the data segment of the header
// before. Sizes are multiples of 512 and segments of 4: there is no padding.
//
//spindle:hot
func (t *stream) append(s *slot, off, n uint32) {
	if n == 0 {
		return
	}
	data := s.data.Slice(off, n)
	t.tx.Data(data)
	if t.c.p.data {
		pdu.PutDigest(t.tx.Bytes(pdu.DigestLen), pdu.Digest(data.Bytes()))
	}
}
