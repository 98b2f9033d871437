package login

import (
	"bytes"

	"spindle/iscsi/pdu"
)

// declaresRecvData: with RDMA, TargetRecvDataSegmentLength takes the place of
// MaxRecvDataSegmentLength but in discovery sessions (RFC 7145 §6).
func (m *Machine) declaresRecvData() bool {
	return !m.policy.Config.RDMA || m.id.Discovery
}

// declare says what we say of ourselves, once, in the first operational answer.
func (m *Machine) declare(w *pdu.TextWriter) {
	if m.declared {
		return
	}
	m.declared = true
	if m.policy.Config.TargetAlias != "" && !m.id.Discovery {
		w.Add(pdu.KeyTargetAlias, m.policy.Config.TargetAlias)
	}
	if m.declaresRecvData() {
		w.AddNumber(pdu.KeyMaxRecvData, uint64(m.policy.Config.MaxRecvData))
	}
}

// wants tells whether key k has no value yet and its default is not good enough
// for us.
func (m *Machine) wants(k keyID) bool {
	s := &keys[k]
	if k == kFirstBurst && m.vals[kInitialR2T] != 0 && m.vals[kImmediateData] == 0 {
		return false // RFC 7143 §13.14: irrelevant without unsolicited data
	}
	if m.settled.has(k) || s.where&inOperational == 0 || s.leading && m.id.TSIH != 0 ||
		s.normal && m.id.Discovery || s.rdma && m.vals[kRDMAExtensions] == 0 {
		return false
	}
	switch s.fn {
	case fnAnd, fnOr, fnMin, fnMax:
		return combine(s.fn, s.def, m.ours(k)) != s.def
	case fnDigest:
		return m.digestMode(k) == DigestRequire
	}
	return false
}

// wantsAny tells whether some key must be offered by us.
func (m *Machine) wantsAny() bool {
	for k := range numKeys {
		if m.wants(k) {
			return true
		}
	}
	return false
}

// mustNegotiate tells whether the defaults of RFC 7143 §13 would not do.
func (m *Machine) mustNegotiate() bool {
	return m.wantsAny() ||
		m.declaresRecvData() && m.policy.Config.MaxRecvData < keys[kMaxRecvData].def
}

// offer brings up, once, the keys that the initiator left out and whose default
// we cannot live with. It is the answer to a request to end the stage: before
// that, the initiator may still bring them up itself. Until it has answered
// there is no transition.
func (m *Machine) offer(w *pdu.TextWriter) pdu.LoginStatus {
	if m.offered != 0 {
		return m.why(pdu.LoginInitiatorError, "offered key not answered")
	}
	for k := range numKeys {
		if !m.wants(k) {
			continue
		}
		m.offered.add(k)
		switch keys[k].fn {
		case fnMin, fnMax:
			w.AddNumber(keys[k].name, uint64(m.ours(k)))
		case fnAnd, fnOr:
			w.Add(keys[k].name, yesNo(m.ours(k)))
		case fnDigest:
			w.Add(keys[k].name, pdu.ValueCRC32C)
		}
	}
	return pdu.LoginSuccess
}

// takeAnswer holds the initiator's answer to our offer against the key's
// function: it may not be laxer than what we offered.
func (m *Machine) takeAnswer(p *pair) pdu.LoginStatus {
	k := &keys[p.key]
	var n uint32
	ok := false
	switch k.fn {
	case fnMin, fnMax:
		n, ok = number(p.key, p.value)
	case fnAnd, fnOr:
		n, ok = boolean(p.value)
	case fnDigest:
		n, ok = 1, bytes.Equal(p.value, []byte(pdu.ValueCRC32C))
	}
	if !ok || k.fn != fnDigest && combine(k.fn, n, m.ours(p.key)) != n {
		return m.why(pdu.LoginInitiatorError, "unacceptable answer to an offered key")
	}
	m.settle(p.key, n)
	return pdu.LoginSuccess
}
