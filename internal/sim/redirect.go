package sim

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/reactor"
)

// Redirection (RFC 7143 §11.13.5, status 0101) and the Asynchronous Messages that
// an operator orders (§11.9).

// notices are what was ordered of the target since the run began.
type notices struct {
	redirected []bool         // whether logins by the first portal group are sent to the second: now, and before
	ordered    [numEvents]int // by event
	done       [numEvents]int // ... and sent
	dropped    []uint16       // CIDs of connections that were to be dropped
}

const numEvents = 5

// What nobody negotiates (RFC 7143 §13.15, §13.16), in seconds.
const (
	time2Wait   = 2
	time2Retain = 20
)

// redirect sends logins by the first portal group to the second for a while.
func (s *run) redirect(c reactor.Caller) {
	s.count(Redirections)
	turn := func(to netip.AddrPort) {
		s.redirected = append(s.redirected, to.IsValid())
		s.must(s.engine.SetNodeRedirect(nodeName, s.portals[0].tag, to))
	}
	turn(s.portals[1].addr)
	c.(*coroutine).pause(time.Duration(s.rng.IntN(20_000)) * time.Microsecond)
	turn(netip.AddrPort{})
}

// mayBeSent tells whether one of the configurations that the login may have met
// redirects it, or, with to false, lets it stay.
func (in *initiator) mayBeSent(to bool) bool {
	s, l := in.s, &in.login
	if in.portal != 0 || l.discovery {
		return !to
	}
	began, ended := slices.Contains(s.redirected[l.sentSince:l.sentUntil], to), slices.Contains(s.redirected[l.sentLast:], to)
	switch {
	case !l.last: // it is judged at its beginning, and once more at its end
		return began
	case to:
		return began || ended
	}
	return began && ended
}

// sentAway takes a redirection.
func (in *initiator) sentAway(data []byte) {
	want := []byte("TargetAddress=" + in.s.portals[1].addr.String() + "\x00")
	if !in.mayBeSent(true) || !bytes.Equal(data, want) {
		in.bad("redirection", "portal %d sends the login away: %q", in.portal, data)
	}
	in.s.count(LoginsRedirected)
}

// order has the target tell its initiators something, or end their sessions.
func (s *run) order(c reactor.Caller) {
	m := iscsi.AsyncMessage{Event: pick(s.rng, pdu.AsyncSCSI, pdu.AsyncRenegotiate, pdu.AsyncDropConnection, pdu.AsyncDropSession), LUN: s.luns[0].id, Key: 6, ASC: 0x3f, ASCQ: 0x0e, Seconds: 7}
	if s.rng.IntN(2) == 0 && slices.ContainsFunc(s.inits, func(in *initiator) bool { return len(in.conns) > 1 }) {
		m.Event = pdu.AsyncDropConnection
	}
	s.ordered[m.Event]++
	if m.Event == pdu.AsyncDropConnection {
		m.CID = s.someCID()
		s.dropped = append(s.dropped, m.CID)
	}
	s.drops(&m)
	hear := s.hearers(m.Event)
	s.must(s.engine.SendAsync(c, nodeName, m))
	s.done[m.Event]++
	s.drops(&m) // those that came meanwhile
	for _, k := range hear {
		k.must[m.Event]++
		k.mustBy = s.clk.T.Add(orderLimit)
	}
}

// orderLimit is how long an order may be on its way from reactor to reactor.
const orderLimit = 100 * time.Millisecond

// hearers are the connections that will be told of an event, unless they end.
func (s *run) hearers(e pdu.AsyncEvent) (list []*conn) {
	for _, in := range s.inits {
		single := len(in.conns) == 1 && !in.conns[0].joins && len(in.adrift) == 0 // at the target, too
		for _, k := range in.conns {
			if (e == pdu.AsyncSCSI && single || e == pdu.AsyncRenegotiate) && k.phase == full && k.heard && !k.login.discovery {
				list = append(list, k)
			}
		}
	}
	return list
}

// informedBy takes the answer to a ping, before which came what was ordered long ago.
func (in *initiator) informedBy(t *task) {
	c := in.conn
	for e, n := range c.must {
		if t.at > c.mustBy && c.events[e] < n && in.phase == full && !in.failing {
			in.bad("async message", "event %d was ordered, and has not come on connection %d", e, c.cid)
		}
	}
}

// drops excuses those that may end by an order, which is given or was.
func (s *run) drops(m *iscsi.AsyncMessage) {
	for _, in := range s.inits {
		switch {
		case m.Event == pdu.AsyncDropSession:
			in.excuse("sessions are dropped by order")
		case m.Event == pdu.AsyncDropConnection && int(m.CID)%maxInitiators == in.id:
			in.toDrop(m.CID)
		}
	}
}

// someCID is that of a connection, of a session that has several if there is one.
func (s *run) someCID() (cid uint16) {
	most := 0
	for _, in := range s.inits {
		if n := len(in.conns); n > most {
			most, cid = n, in.conns[s.rng.IntN(n)].cid
		}
	}
	return cid
}

// toDrop hears of an order to drop a connection: it has to end, and its session
// only when no other is in full feature phase at the target.
func (in *initiator) toDrop(cid uint16) {
	if len(in.conns) <= 1 || len(in.adrift) > 0 || slices.ContainsFunc(in.conns, func(c *conn) bool { return c.phase != full || !c.heard }) {
		in.excuse("its only connection is dropped by order")
	}
	for _, c := range in.conns {
		if c.cid != cid {
			continue
		}
		if c.named && c.phase == full {
			c.doomed = in.s.clk.T.Add(closeLimit)
		}
		c.named = c.named || !c.dropping && c.phase == full && c.heard
		c.dropping = true
		c.excuse("dropped by order")
	}
}

// toldOfDrop takes the event that tells of it on another connection (RFC 7143
// §11.9.1, event 2).
func (in *initiator) toldOfDrop(b pdu.BHS, data []byte) {
	s, cid := in.s, b.Param1()
	s.count(ConnectionsDropped)
	if !slices.Contains(s.dropped, cid) || len(data) != 0 || b.Param2() != time2Wait || b.Param3() != time2Retain {
		in.bad("async message", "event 2 names connection %d, with %d and %d seconds", cid, b.Param2(), b.Param3())
		return
	}
	for _, c := range in.conns {
		if c.cid != cid {
			continue
		}
		if c == in.conn {
			in.bad("async message", "event 2 comes by connection %d, which it names", cid)
		} else if c.named && c.phase == full { // and not another, to which its CID has passed
			c.told = true
			in.part(c, "dropped by order")
			in.doom(c, "dropped by order")
		}
	}
}

// droppedByOrder is the loss of a connection that was to be dropped, of a session
// with others: its tasks have ended before it, when it ended in order and was told of.
func (in *initiator) droppedByOrder() {
	c := in.conn
	if in.failing { // what was to end it may be lost with this one
		in.abandon()
		return
	}
	if c.told && c.link.why() == nil {
		in.drop()
		in.endTasks(c, "its connection was dropped by order")
		if in.other(c) == nil { // nobody is there to go on
			in.abandon()
			return
		}
		in.plug(c)
		return
	}
	c.again = true // as far as anybody knows
	in.driftOff()
}

// informed takes an Asynchronous Message that an operator may have ordered: once an
// order and connection, with what was ordered.
func (in *initiator) informed(b pdu.BHS, data []byte) {
	s, e := in.s, b.AsyncEvent()
	in.s.count(AsyncMessages)
	if int(e) >= numEvents || b.ITT() != pdu.ReservedTag {
		in.bad("protocol", "asynchronous event %d: % x", e, []byte(b))
		return
	}
	if in.events[e]++; in.events[e] > s.ordered[e]-in.before[e] {
		in.bad("async message", "event %d for the %d. time on connection %d, nobody has ordered it", e, in.events[e], in.cid)
	}
	switch e {
	case pdu.AsyncSCSI:
		if len(data) != 20 || be.Uint16(data) != 18 || data[2] != 0x70 || data[4]&0xf != 6 || be.Uint16(data[14:]) != 0x3f0e || b.LUN() != uint64(s.luns[0].id)<<48 {
			in.bad("async message", "sense data % x of LUN %x", data, b.LUN())
		}
	case pdu.AsyncDropConnection:
		in.toldOfDrop(b, data)
	case pdu.AsyncRenegotiate:
		if b.Param3() != 7 || len(data) != 0 {
			in.bad("async message", "event 4 gives %d seconds, was to give 7", b.Param3())
		}
	}
}
