package sim

import (
	"bytes"
	"net/netip"
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
}

const numEvents = 5

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
	for i := l.sentSince; i < l.sentUntil; i++ {
		if s.redirected[i] == to {
			return true
		}
	}
	return false
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
	m := iscsi.AsyncMessage{Event: pick(s.rng, pdu.AsyncSCSI, pdu.AsyncRenegotiate, pdu.AsyncDropSession), LUN: s.luns[0].id, Key: 6, ASC: 0x3f, ASCQ: 0x0e, Seconds: 7}
	s.ordered[m.Event]++
	if m.Event == pdu.AsyncDropSession {
		for _, in := range s.inits {
			in.excuse("sessions are dropped by order")
		}
	}
	s.must(s.engine.SendAsync(c, nodeName, m))
	s.done[m.Event]++
	if m.Event == pdu.AsyncDropSession { // those that came meanwhile
		for _, in := range s.inits {
			in.excuse("sessions were dropped by order")
		}
	}
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
	case pdu.AsyncRenegotiate:
		if b.Param3() != 7 || len(data) != 0 {
			in.bad("async message", "event 4 gives %d seconds, was to give 7", b.Param3())
		}
	}
}
