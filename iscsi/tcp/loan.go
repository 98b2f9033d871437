package tcp

import (
	"syscall"

	"spindle/iscsi"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// Sending without a copy: the kernel refers to a message's headers and data
// until the peer has acknowledged them, and says so by a completion of its own.
// Until then they are lent: their owners are not told that they have left, so
// that no buffer, task or header slot of theirs is used again.

const (
	// maxLoans is the number of messages a connection may have lent out at a time;
	// what is sent beyond them is copied.
	maxLoans = 8
	noLoan   = ^uint32(0)
)

// loan is a message that the kernel refers to.
type loan struct {
	pending int        // notifications to come
	fly     *iscsi.Out // who is told when they have come
	own     bool       // it refers to Data-In header slots of the connection
	pack    mem.Ref    // small PDUs of the message
}

// zeroCopier is the ring of a connection that may lend, nil for one that may
// not: data under a digest must stay what it was, and a device may lend us memory
// that other commands write to.
func (t *Transport) zeroCopier(r *reactor.Reactor, p *iscsi.Params) ring.ZeroCopier {
	if t.opt.ZeroCopy == 0 || p.DataDigest || p.Discovery {
		return nil
	}
	if z, ok := r.Ring.(ring.ZeroCopier); ok && z.ZeroCopy() {
		return z
	}
	return nil
}

// lend finds a loan for the message, or keeps the one it has; false when all are
// out.
//
//spindle:hot
func (c *Conn) lend() bool {
	x := &c.tx
	if x.loan != noLoan {
		return true // the rest of a message sent in part
	}
	for i := range x.loans {
		if l := &x.loans[i]; l.pending == 0 && l.fly == nil {
			x.loan = uint32(i)
			return true
		}
	}
	return false
}

// keep has a message that was sent wait for its notifications; false when none
// is to come.
//
//spindle:hot
func (x *sender) keep(o *iscsi.Out) bool {
	l := &x.loans[x.loan]
	x.loan = noLoan
	if l.pending == 0 {
		return false
	}
	// With header slots of an earlier message lent out, this one has none.
	if l.fly, l.own = o, x.ownLent == 0 && x.own > 0; l.own {
		x.ownLent++
	}
	l.pack, x.pack.mem = x.pack.mem, mem.Ref{}
	return true
}

// end gives back what the loan had.
//
//spindle:hot
func (l *loan) end(c *Conn) {
	o := l.fly
	l.fly = nil
	if l.own {
		l.own = false
		c.tx.ownLent--
	}
	if !l.pack.Empty() {
		c.r.Arena.Free(l.pack)
		l.pack = mem.Ref{}
	}
	finish(o)
}

// returned handles a completion of a message that was lent: its result first,
// then the notification.
//
//spindle:hot
func (c *Conn) returned(i uint32, e ring.CQE) {
	x := &c.tx
	l := &x.loans[i]
	if e.Flags&ring.FlagNotif == 0 {
		if e.Flags&ring.FlagMore != 0 {
			l.pending++
		}
		if e.Res == -int32(syscall.ENOBUFS) || e.Res == -int32(syscall.ENOMEM) {
			// No more memory may be locked: this connection copies from now on.
			c.t.Stats.LoansRefused.Add(1)
			c.zc = nil
			e.Res = -int32(syscall.EAGAIN)
		} else if e.Res > 0 {
			c.t.Stats.Loans.Add(1)
		}
		c.sent(e.Res)
		return
	}
	if l.pending--; l.pending > 0 || l.fly == nil {
		return // the rest of the message has yet to leave, or to come back
	}
	l.end(c)
	if x.head != nil {
		c.r.NeedFlush(&c.flush)
	}
}
