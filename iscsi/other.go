package iscsi

import (
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
)

// otherHeader places the data segment of a PDU that is neither command nor
// data: NOP-Out, Text Request, and what is not legal here.
func (c *Connection) otherHeader(p *PDU) {
	c.verdict = c.sess.window.judge(p.BHS.CmdSN(), p.BHS.Immediate())
	n := p.BHS.DataLen()
	switch p.BHS.Opcode() {
	case pdu.NopOut, pdu.TextRequest:
	default:
		return
	}
	if n == 0 || c.verdict == outside {
		return
	}
	c.dropData()
	b, ok := c.sh.alloc(n)
	if !ok {
		return // a ping is answered without its data, a Text Request rejected
	}
	c.data, p.Data = b, b
}

// dropData frees the data segment of a PDU other than a command's.
func (c *Connection) dropData() {
	if !c.data.Empty() {
		c.sh.free(c.data)
		c.data = mem.Ref{}
	}
}

// otherReceived dispatches a PDU that is neither command nor data.
func (c *Connection) otherReceived(p *PDU) {
	s, b := c.sess, p.BHS
	if b.Opcode() == pdu.SNACK {
		c.snackRequest(b)
		return
	}
	if p.BadData && s.rec != nil {
		// Discarded, as if it had not come: the initiator sends it again (RFC 7143 §7.8).
		c.dropData()
		c.reject(b, pdu.RejectDataDigest)
		return
	}
	if s.shared && !c.rejudge(b) {
		c.verdict = outside
	}
	switch c.verdict {
	case outside:
		c.dropped()
		c.dropData()
		return
	case early:
		c.holdOther(p)
		return
	case inOrder:
		s.window.ExpCmdSN++
	}
	c.other(b, p.BadData, uint32(c.n.PDUsIn))
	if c.verdict == inOrder && (s.held != nil || len(s.skipped) > 0) {
		s.runHeld()
	}
	s.openWindow()
}

// other acts on a PDU whose turn it is, which was its connection's at place order.
// Its data segment is in c.data.
func (c *Connection) other(b pdu.BHS, bad bool, order uint32) {
	if bad {
		c.dropData()
		c.reject(b, pdu.RejectDataDigest)
		return
	}
	switch b.Opcode() {
	case pdu.NopOut:
		c.nopOut(b)
	case pdu.TMFRequest:
		c.manage(b, order)
	case pdu.TextRequest:
		c.textRequest(b)
	case pdu.LogoutReq:
		c.logout(b)
	case pdu.LoginRequest:
		c.reject(b, pdu.RejectProtocol)
	default:
		c.reject(b, pdu.RejectUnsupported)
	}
}

// holdOther keeps an early PDU in a task until its turn.
func (c *Connection) holdOther(p *PDU) {
	s := c.sess
	if s.isHeld(p.BHS.CmdSN()) || len(s.places) == 0 {
		c.dropped()
		c.dropData()
		return
	}
	t := s.claim(c, p.BHS.ITT(), p.BHS.CmdSN())
	t.raw = true
	t.unkept = c.data.Empty() && !p.BadData
	t.SCSI.Data, c.data = c.data, mem.Ref{}
	t.SCSI.Lend = false
	t.keep(p)
	s.hold(t)
	if s.shared {
		s.runHeld() // the gap may have been filled while its data came
	}
}

// resumeOther runs a held PDU.
func (c *Connection) resumeOther(t *Task) {
	coming := c.data // of a PDU that streams in, if another connection fills the gap
	c.data, t.SCSI.Data = t.SCSI.Data, mem.Ref{}
	b := pdu.BHS(append([]byte(nil), t.bhs[:]...))
	bad, order := b.DataLen() > 0 && c.data.Empty() && !t.unkept, t.order
	c.sess.unfile(t)
	t.release()
	c.other(b, bad, order)
	c.dropData()
	c.data = coming
}

// reject answers with a Reject PDU that carries the header it is about (RFC
// 7143 §11.17).
func (c *Connection) reject(b pdu.BHS, reason uint8) {
	c.e.Stats.Rejects.Add(1)
	c.n.Rejects++
	if reason == pdu.RejectDataDigest {
		c.n.DigestErrors++
	}
	hdr := append([]byte(nil), b[:pdu.HeaderLen]...)
	c.withOut(func(o *Out) {
		o.BHS.Clear(pdu.Reject)
		o.BHS.SetFlags(pdu.FlagFinal)
		o.BHS.SetResponse(reason)
		o.BHS.SetITT(pdu.ReservedTag)
		o.Small(hdr)
		o.Stamp = StampNext
		c.tp.Queue(o)
	})
}
