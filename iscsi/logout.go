package iscsi

import (
	"slices"

	"spindle/iscsi/pdu"
)

// logout takes a Logout Request (RFC 7143 §11.14): the tasks end first, the
// response leaves, the connection closes.
func (c *Connection) logout(b pdu.BHS) {
	s, itt := c.sess, b.ITT()
	switch b.LogoutReason() {
	case pdu.LogoutCloseSession:
		c.logoutSession(itt)
	case pdu.LogoutCloseConnection:
		k := s.byCID(b.CID())
		switch {
		case k == nil:
			c.logoutResponse(itt, pdu.LogoutCIDNotFound)
		case k == c && len(s.conns) == 1:
			c.logoutSession(itt) // with its last connection it ends
		case k == c:
			c.logoutSelf(itt)
		default:
			k.retire(errLoggedOut)
			k.onClosed = append(k.onClosed, func() { c.logoutResponse(itt, pdu.LogoutSuccess) })
		}
	case pdu.LogoutRemoveForReinst:
		c.logoutResponse(itt, pdu.LogoutNoRecovery) // ERL 0
	default:
		c.reject(b, pdu.RejectInvalidField)
	}
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

// logoutResponse answers a Logout Request (RFC 7143 §11.15).
func (c *Connection) logoutResponse(itt uint32, resp uint8) {
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
