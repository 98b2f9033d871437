package iscsi

import (
	"slices"

	"spindle/iscsi/pdu"
)

// logout takes a Logout Request (RFC 7143 §11.14): the tasks end first, the
// response leaves, the connection closes.
func (c *Connection) logout(b pdu.BHS) {
	itt := b.ITT()
	if r := int(b.LogoutReason()); r < len(logoutNames) {
		c.tally.logouts[r]++
	}
	switch b.LogoutReason() {
	case pdu.LogoutCloseSession:
		c.logoutSession(itt)
	case pdu.LogoutCloseConnection, pdu.LogoutRemoveForReinst:
		c.logoutConnection(itt, b.LogoutReason(), b.CID())
	default:
		c.reject(b, pdu.RejectInvalidField)
	}
}

// logoutConnection ends a connection of the session. One whose last Login Response
// has left is one (RFC 7143 §8.1.3, T5), although it may be on its way to the
// session's reactor.
func (c *Connection) logoutConnection(itt uint32, reason uint8, cid uint16) {
	s := c.sess
	k, l := s.byCID(cid), s.lostCID(cid)
	coming := slices.IndexFunc(s.joining, func(j *Connection) bool { return j.cid == cid })
	switch {
	case k == nil && l == nil && coming >= 0 && len(s.onCome) < MaxManagement:
		s.onCome = append(s.onCome, onCome{s.joining[coming], func() {
			if c.phase == phaseFull {
				c.logoutConnection(itt, reason, cid)
			}
		}})
	case reason == pdu.LogoutRemoveForReinst:
		c.logoutToRecover(itt, cid)
	case k == nil && l != nil:
		s.forget(l, func() { c.logoutResponse(itt, pdu.LogoutSuccess) })
	case k == nil:
		c.logoutResponse(itt, pdu.LogoutCIDNotFound)
	case k == c && len(s.conns)+len(s.joining) == 1:
		c.logoutSession(itt) // with its last connection it ends
	case k == c:
		c.logoutSelf(itt)
	case c.tooManyLogouts(itt, k):
	default:
		k.onClosed = append(k.onClosed, func() { c.logoutResponse(itt, pdu.LogoutSuccess) })
		k.leave(errLoggedOut)
	}
}

// tooManyLogouts refuses one logout too many that would wait for the end of k.
func (c *Connection) tooManyLogouts(itt uint32, k *Connection) bool {
	if len(k.onClosed) < MaxManagement {
		return false
	}
	c.e.reached(limitTasks, c.sh.r.Now(), "peer", c.peer)
	c.logoutResponse(itt, pdu.LogoutCleanupFailed)
	return true
}

// logoutSession ends the session on the initiator's word.
func (c *Connection) logoutSession(itt uint32) {
	s := c.sess
	s.ending = true
	for _, k := range s.conns {
		k.phase = phaseLogout
	}
	bye := func() {
		c.logoutResponse(itt, pdu.LogoutSuccess)
		c.closeAfterSend(errLoggedOut)
		for _, k := range slices.Clone(s.conns) {
			if k != c {
				k.closeAfterSend(errLoggedOut)
			}
		}
	}
	if s.nexus == nil {
		bye()
		return
	}
	s.closeNexus(bye)
}

// logoutSelf ends this connection; the session has others.
func (c *Connection) logoutSelf(itt uint32) {
	c.phase, c.leaving = phaseLogout, true
	c.quiesce(func() {
		c.logoutResponse(itt, pdu.LogoutSuccess)
		c.closeAfterSend(errLoggedOut)
	})
}

// logoutToRecover ends a connection whose tasks are to be taken over.
func (c *Connection) logoutToRecover(itt uint32, cid uint16) {
	s := c.sess
	k, l := s.byCID(cid), s.lostCID(cid)
	switch {
	case s.params.errorRecoveryLevel < 2:
		c.logoutResponse(itt, pdu.LogoutNoRecovery)
	case k == c:
		c.phase, c.recover = phaseLogout, true
		c.logoutResponse(itt, pdu.LogoutSuccess)
		c.closeAfterSend(errLoggedOut)
	case k != nil && c.tooManyLogouts(itt, k):
	case k != nil:
		k.onClosed = append(k.onClosed, func() { c.logoutResponse(itt, pdu.LogoutSuccess) })
		k.retire(errLoggedOut)
	case l != nil:
		l.ready = true
		c.logoutResponse(itt, pdu.LogoutSuccess)
	default:
		c.logoutResponse(itt, pdu.LogoutCIDNotFound)
	}
}

// logoutResponse answers a Logout Request (RFC 7143 §11.15).
func (c *Connection) logoutResponse(itt uint32, resp uint8) {
	if c.closing != nil {
		return // it has had its own, which is the last
	}
	q := &c.sess.params
	c.withOut(func(o *Out) {
		o.BHS.Clear(pdu.LogoutResp)
		o.BHS.SetFlags(pdu.FlagFinal)
		o.BHS.SetResponse(resp)
		o.BHS.SetITT(itt)
		o.BHS.SetTime2Wait(q.time2Wait)
		o.BHS.SetTime2Retain(q.time2Retain)
		o.Stamp = StampNext
		c.tp.Queue(o)
	})
}
