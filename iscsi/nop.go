package iscsi

import (
	"encoding/binary"
	"slices"
	"time"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

var be = binary.BigEndian

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// nopOut takes a NOP-Out: a ping to answer, or the answer to ours (RFC 7143 §11.18).
func (c *Connection) nopOut(b pdu.BHS) {
	if b.TTT() != pdu.ReservedTag {
		c.pinged = false // any answer proves that the initiator lives
		c.dropData()
		return
	}
	if b.ITT() == pdu.ReservedTag {
		c.dropData() // wants no answer
		return
	}
	itt, lun := b.ITT(), b.LUN()
	data := c.data
	c.data = mem.Ref{}
	c.withOut(func(o *Out) {
		o.BHS.Clear(pdu.NopIn)
		o.BHS.SetFlags(pdu.FlagFinal)
		o.BHS.SetLUN(lun)
		o.BHS.SetITT(itt)
		o.BHS.SetTTT(pdu.ReservedTag)
		o.Stamp = StampNext
		c.misc(o).buf = data
		if n := min(data.Len, c.sendLimit()); n > 0 {
			o.Data = data.Slice(0, n) // echoed up to what the initiator takes
		}
		c.tp.Queue(o)
	})
}

// sendLimit is the longest data segment this connection may send, in bytes.
func (c *Connection) sendLimit() uint32 {
	n := c.seq.MaxSendData
	if m := c.tp.Traits().MaxSendData; m != 0 {
		n = min(n, m)
	}
	return n
}

// tellWindow sends a NOP-In that wants no answer, to carry MaxCmdSN.
func (c *Connection) tellWindow() {
	if c.phase != phaseFull || c.freeOuts == nil {
		return
	}
	c.nopIn(pdu.ReservedTag)
}

// nopIn queues a NOP-In of our own; with ttt set it wants an answer.
func (c *Connection) nopIn(ttt uint32) {
	c.withOut(func(o *Out) {
		c.fillNopIn(o, ttt)
		c.tp.Queue(o)
	})
}

// fillNopIn writes a NOP-In of our own.
func (c *Connection) fillNopIn(o *Out, ttt uint32) {
	o.BHS.Clear(pdu.NopIn)
	o.BHS.SetFlags(pdu.FlagFinal)
	o.BHS.SetITT(pdu.ReservedTag)
	o.BHS.SetTTT(ttt)
	o.Stamp = StampCurrent
}

// timer is the connection's one timer: the login deadline, the keepalive, and
// the end of a farewell.
func (c *Connection) timer(now clock.Time) {
	if c.closing != nil {
		c.tp.Close(c.closing)
		return
	}
	switch c.phase {
	case phaseLogin:
		c.e.Stats.LoginTimeouts.Add(1)
		c.e.reached(limitSlowLogin, now, "peer", c.peer)
		c.tp.Close(errLoginTimeout)
		return
	case phaseFull, phaseLogout: // a logout waits for responses to leave
	default:
		return
	}
	opt := &c.e.inventory.Load().opt
	next := c.watchSend(now, opt)
	if next == 0 {
		return
	}
	if c.phase == phaseFull {
		if at := c.keepAlive(now, opt); at != 0 {
			next = min(next, at)
		}
	}
	if next != clock.Never {
		c.sh.r.Arm(&c.nop, next)
	}
}

// startWatch arms the timer for the keepalive and the watch over the sender.
func (c *Connection) startWatch(opt *Options) {
	first := uint32(0)
	for _, n := range [...]uint32{opt.NopInInterval, opt.SendTimeout} {
		if n > 0 && (first == 0 || n < first) {
			first = n
		}
	}
	if first > 0 {
		c.sh.r.Arm(&c.nop, c.sh.r.Now().Add(seconds(first)))
	}
}

// prove pings the session's peer because somebody else is refused for its sake,
// and ends the session when nothing comes in the time that keepAlive gives it:
// without keepalive, one who has vanished would keep its successor out for ever.
// However many are refused, there is one such ping in that time.
// Preconditions: runs on the session's reactor.
func (s *Session) prove() {
	if s.conn == nil || s.ending || s.proof.Armed() || plant.On(plant.LockedOut) {
		return
	}
	limit := seconds(s.e.inventory.Load().opt.NopTimeout)
	if limit == 0 {
		limit = seconds(Defaults().NopTimeout)
	}
	asked := s.sh.r.Now()
	for _, c := range s.conns {
		if c.phase == phaseFull {
			c.nopIn(0)
		}
	}
	s.proof.Fire = func(now clock.Time) {
		switch {
		case s.conn == nil || s.ending,
			slices.ContainsFunc(s.conns, func(c *Connection) bool { return c.lastRx >= asked }):
		case slices.ContainsFunc(s.conns, (*Connection).holding):
			s.sh.r.Arm(&s.proof, now.Add(limit)) // it has not left yet
		default:
			s.e.Stats.NopTimeouts.Add(1)
			s.end(errNopTimeout)
		}
	}
	s.sh.r.Arm(&s.proof, asked.Add(limit))
	s.e.log.Info("session has to prove that its peer lives", "initiator", s.initiator, "node", s.node.cfg.Name, "tsih", s.tsih, "within", limit)
}

// A Staller is a Conn that knows since when nothing of what it sends has been
// taken by the peer; 0 when nothing waits.
type Staller interface{ Stalled() clock.Time }

// watchSend ends a connection whose peer does not read what is sent to it, and
// returns when to look again: never without a limit, 0 when it has ended.
func (c *Connection) watchSend(now clock.Time, opt *Options) clock.Time {
	limit := seconds(opt.SendTimeout)
	s, ok := c.tp.(Staller)
	if !ok || limit == 0 {
		return clock.Never
	}
	since := s.Stalled()
	if since == 0 {
		return now.Add(limit)
	}
	if now.Sub(since) >= limit {
		c.e.reached(limitUnread, now, "peer", c.peer)
		c.tp.Close(errUnread)
		return 0
	}
	return since.Add(limit)
}

// A Holder is a Conn that may keep back what is queued until the peer speaks.
// Asked whether it does, it sees to it by its own means that the connection ends
// if the peer is gone.
type Holder interface{ Holding() bool }

func (c *Connection) holding() bool {
	h, ok := c.tp.(Holder)
	return ok && h.Holding()
}

// keepAlive pings a silent initiator and ends the connection of one that does
// not answer. It returns when to look again, 0 for never.
func (c *Connection) keepAlive(now clock.Time, opt *Options) clock.Time {
	if opt.NopInInterval == 0 {
		return 0
	}
	every, limit := seconds(opt.NopInInterval), seconds(opt.NopTimeout)
	switch {
	case c.lastRx >= c.pingAt && c.pinged:
		c.pinged = false // something came since: it lives
		fallthrough
	case !c.pinged:
		if idle := now.Sub(c.lastRx); idle < every {
			return c.lastRx.Add(every)
		}
		c.pinged, c.pingAt = true, now
		c.nopIn(0)
	case limit == 0: // it may take its time
	case now.Sub(c.pingAt) >= limit && c.holding():
		c.pingAt = now // it has not left yet
	case now.Sub(c.pingAt) >= limit:
		c.e.Stats.NopTimeouts.Add(1)
		c.tp.Close(errNopTimeout)
		return 0
	}
	if limit == 0 {
		return now.Add(every)
	}
	return min(now.Add(every), c.pingAt.Add(limit))
}
