package tcp

import (
	"spindle/internal/invariants"
	"spindle/internal/plant"
	"spindle/iscsi"
)

// Data of a READ may lie on a medium that others write to. It is sent from there,
// and is one state of each block all the same: the sendmsg ends before anything
// else runs on this reactor, and what it did not take is copied at once. Until
// then the command counts as in the backend, so that holds, ORDERED tasks and
// rounds wait for it; no longer than the turn, however slow the peer is.
//
// A plain WRITE that another reactor makes while the kernel copies may tear a
// block, as it may while the device copies: between overlapping I/O in flight
// there never was more than that.

// Prompt implements iscsi.Prompter.
//
//spindle:hot
func (c *Conn) Prompt(n uint32) bool {
	x := &c.tx
	if x.sending || x.vecs != 0 || c.closing || c.dead || !c.stream || c.zc != nil || c.p.DataDigest ||
		x.live+n > MaxLiveBytes || c.r.Flushing() {
		return false
	}
	x.live += n
	return true
}

// pays tells whether what is live is worth a system call of its own, beside the
// turn's, at so many bytes a call. Few blocks are cheaper copied.
//
//spindle:hot
func (x *sender) pays(cost uint32) bool {
	x.credit = min(x.credit+x.live, 4*cost)
	x.credit -= min(x.credit, cost)
	if x.credit < cost {
		return false
	}
	x.credit -= cost
	return true
}

// sendLive sends what is queued until no live data is left.
//
//spindle:hot
func (c *Conn) sendLive() {
	x := &c.tx
	invariants.Check(!x.sending && x.vecs == 0, "tcp: live data behind a message")
	for x.live > 0 {
		c.gather()
		c.t.Stats.LiveSends.Add(1)
		c.sent(c.r.Ring.SendNow(c.file, x.msg, x.vecs))
		if x.vecs != 0 {
			c.t.Stats.LiveCopies.Add(1)
			c.settleLive()
			return
		}
	}
}

// settleLive copies what is left of live data, in the message and behind it.
func (c *Conn) settleLive() {
	x := &c.tx
	next := 0
	for _, list := range [...]*iscsi.Out{x.fly, x.head} {
		for o := list; o != nil; o = o.Next {
			if p := o.Reply; p != nil && p.Live {
				next = x.settle(p, next)
			}
		}
	}
	x.live = 0
}

// settle copies what is left of p's data, whose vectors of the message are those
// from next on. It returns where those of the following reply begin.
func (x *sender) settle(p *iscsi.Reply, next int) int {
	old := p.Data
	end := max(p.Vecs-x.dropped, next)
	from := p.Off
	for i := next; i < end; i++ {
		if addr, _ := x.msg.Vec(i); addr-old.Addr < uintptr(old.Len) {
			from = uint32(addr - old.Addr)
			break
		}
	}
	if plant.On(plant.TornRead) {
		from = old.Len
	}
	p.Out.Done.(iscsi.Settler).Settle(p, from)
	if plant.On(plant.TornRead) {
		p.Data = old
		return end
	}
	for i := next; i < end; i++ {
		if addr, n := x.msg.Vec(i); addr-old.Addr < uintptr(old.Len) {
			x.msg.SetVec(i, p.Data.Addr+(addr-old.Addr), n)
		}
	}
	return end
}
