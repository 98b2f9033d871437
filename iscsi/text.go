package iscsi

import (
	"spindle/iscsi/login"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
)

// openText readies the connection for Text Requests.
func (c *Connection) openText() {
	res := c.login.m.Result()
	c.text = login.NewText(&res, c, c.tp.Traits().MaxSendData)
	if n := c.e.inventory.Load().opt.MaxTextRounds; n > 0 {
		c.text.SetMaxRequests(n)
	}
}

// textRequest answers a Text Request (RFC 7143 §11.10).
func (c *Connection) textRequest(b pdu.BHS) {
	if b.DataLen() > 0 && c.data.Empty() {
		c.reject(b, pdu.RejectResources)
		return
	}
	var data []byte
	if !c.data.Empty() {
		data = c.data.Slice(0, b.DataLen()).Bytes()
	}
	r := c.text.Step(b, data)
	c.dropData()
	c.seq.MaxSendData = c.text.MaxSendData()
	if r.Reject == pdu.RejectResources {
		c.e.reached(limitTextRounds, c.sh.r.Now(), "peer", c.peer)
	}
	if r.Reject != 0 {
		c.reject(b, r.Reject)
		return
	}
	var out mem.Ref
	if n := uint32(len(r.Data)); n > 0 {
		var ok bool
		if out, ok = c.sh.alloc(n); !ok {
			c.reject(b, pdu.RejectResources)
			return
		}
		copy(out.Bytes(), r.Data)
	}
	c.withOut(func(o *Out) {
		r.Encode(o.BHS)
		o.Data = out
		c.misc(o).buf = out
		o.Stamp = StampNext
		c.tp.Queue(o)
	})
}
