package login

import (
	"bytes"
	"strconv"
	"strings"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
)

// pair is one key=value of a text and what it is answered with.
type pair struct {
	key    keyID
	known  bool
	name   []byte
	value  []byte
	answer string // "" is no answer
}

// answer takes a whole text: it classifies its pairs, learns who is calling,
// and puts what there is to say into m.out. final is the T bit of its request.
func (m *Machine) answer(text []byte, final bool) pdu.LoginStatus {
	pairs, status := m.classify(text)
	if status != pdu.LoginSuccess {
		return status
	}
	if !m.resolved {
		if status := m.resolve(pairs); status != pdu.LoginSuccess {
			return status
		}
	}
	w := pdu.NewTextWriter(nil, MaxReply)
	if !m.announced && !m.id.Discovery {
		// RFC 7143 §13.9: in the first response of a normal session.
		w.AddNumber(pdu.KeyTargetPortalGroupTag, uint64(m.policy.Config.PortalGroupTag))
	}
	m.announced = true
	if m.stage == pdu.StageSecurity {
		if status := m.security(pairs, &w); status != pdu.LoginSuccess {
			return status
		}
	} else {
		if status := m.operate(pairs); status != pdu.LoginSuccess {
			return status
		}
		m.declare(&w)
	}
	for i := range pairs {
		p := &pairs[i]
		switch {
		case p.answer == "":
		case p.known:
			w.Add(keys[p.key].name, p.answer)
		default:
			w.Add(string(p.name), p.answer)
		}
	}
	if m.stage == pdu.StageOperational && final {
		if status := m.offer(&w); status != pdu.LoginSuccess {
			return status
		}
	}
	if w.Overflowed() {
		return m.why(pdu.LoginInitiatorError, "answer too long")
	}
	m.out = w.Bytes()
	return pdu.LoginSuccess
}

// classify finds each pair's row in the key table and refuses what may not
// stand in this text.
func (m *Machine) classify(text []byte) ([]pair, pdu.LoginStatus) {
	var pairs []pair
	t := pdu.ParseText(text)
	for t.Next() {
		if len(pairs) == MaxPairs {
			return nil, m.why(pdu.LoginInitiatorError, "too many keys")
		}
		p := pair{name: t.Key(), value: t.Value()}
		if p.key, p.known = findKey(p.name); !p.known {
			// RFC 7143 §6.2: whatever it is, X- keys too. An answer to an answer
			// would never end.
			if !isConstant(p.value) {
				p.answer = pdu.ValueNotUnderstood
			}
			pairs = append(pairs, p)
			continue
		}
		k := &keys[p.key]
		stage := uint8(inSecurity)
		if m.stage == pdu.StageOperational {
			stage = inOperational
		}
		switch {
		case m.seen.has(p.key):
			// RFC 7143 §6.3: a second negotiation is an initiator error.
			return nil, m.why(pdu.LoginInitiatorError, "key sent twice")
		case k.where&stage == 0:
			return nil, m.why(pdu.LoginInitiatorError, "key in the wrong stage")
		case k.leading && m.id.TSIH != 0:
			return nil, m.why(pdu.LoginInitiatorError, "leading-only key on a later connection")
		case k.fn == fnName && m.resolved && p.key != kInitiatorAlias:
			return nil, m.why(pdu.LoginInitiatorError, "name after the first request")
		}
		if p.key == kInitiatorAlias {
			m.id.InitiatorAlias = string(p.value)
		}
		m.seen.add(p.key)
		pairs = append(pairs, p)
	}
	if t.Err() != nil {
		return nil, m.why(pdu.LoginInitiatorError, t.Err().Error())
	}
	return pairs, pdu.LoginSuccess
}

func isConstant(v []byte) bool {
	switch string(v) {
	case pdu.ValueNotUnderstood, pdu.ValueIrrelevant, pdu.ValueReject:
		return true
	}
	return false
}

// resolve reads the names of the first text and asks the Resolver.
func (m *Machine) resolve(pairs []pair) pdu.LoginStatus {
	for i := range pairs {
		p := &pairs[i]
		if !p.known {
			continue
		}
		switch p.key {
		case kInitiatorName:
			m.id.InitiatorName = strings.ToLower(string(p.value))
		case kTargetName:
			m.id.TargetName = strings.ToLower(string(p.value))
		case kSessionType:
			switch string(p.value) {
			case pdu.ValueSessionNormal:
			case pdu.ValueSessionDiscovery:
				m.id.Discovery = true
			default:
				return m.why(pdu.LoginSessionType, "unknown SessionType")
			}
		}
	}
	switch {
	case m.id.InitiatorName == "":
		return m.why(pdu.LoginMissingParameter, "no InitiatorName")
	case m.id.TargetName == "" && !m.id.Discovery:
		return m.why(pdu.LoginMissingParameter, "no TargetName")
	case len(m.id.InitiatorName) > pdu.MaxName || len(m.id.TargetName) > pdu.MaxName:
		return m.why(pdu.LoginInitiatorError, "name too long")
	}
	id := m.id
	m.policy = m.resolver.Resolve(&id)
	if m.policy.Status != pdu.LoginSuccess {
		return m.why(m.policy.Status, "refused by policy")
	}
	m.policy.Config.normalize()
	m.resolved = true
	if m.policy.RequireAuth && m.stage != pdu.StageSecurity && !plant.On(plant.AuthSkipped) {
		return m.why(pdu.LoginAuthFailed, "security negotiation skipped")
	}
	return pdu.LoginSuccess
}

// normalize brings a Config into the ranges of the key table.
func (c *Config) normalize() {
	fit := func(v *uint32, k keyID) { *v = min(max(*v, keys[k].lo), keys[k].hi) }
	fit(&c.MaxRecvData, kMaxRecvData)
	fit(&c.MaxBurst, kMaxBurst)
	fit(&c.FirstBurst, kFirstBurst)
	c.FirstBurst = min(c.FirstBurst, c.MaxBurst)
	fit(&c.MaxOutstandingR2T, kMaxOutstandingR2T)
	fit(&c.MaxConnections, kMaxConnections)
	fit(&c.Time2Wait, kTime2Wait)
	fit(&c.Time2Retain, kTime2Retain)
	fit(&c.ERL, kERL)
	if c.ProtocolLevel == 0 {
		c.ProtocolLevel = keys[kProtocolLevel].def
	}
	fit(&c.ProtocolLevel, kProtocolLevel)
	if c.RDMA {
		c.HeaderDigest, c.DataDigest = DigestNever, DigestNever // RFC 7145 §6.1
	}
}

// ours is this side's value of a negotiated number or Boolean.
func (m *Machine) ours(k keyID) uint32 {
	c := &m.policy.Config
	switch k {
	case kMaxConnections:
		return c.MaxConnections
	case kInitialR2T:
		return bit(c.InitialR2T)
	case kImmediateData:
		return bit(c.ImmediateData)
	case kMaxBurst:
		return c.MaxBurst
	case kFirstBurst:
		return min(c.FirstBurst, m.vals[kMaxBurst])
	case kTime2Wait:
		return c.Time2Wait
	case kTime2Retain:
		return c.Time2Retain
	case kMaxOutstandingR2T:
		if m.vals[kERL] > 0 {
			return 1 // RFC 7143 §13.19: with sequences in order, only the last may be recovered
		}
		return c.MaxOutstandingR2T
	case kDataPDUInOrder, kDataSequenceInOrder:
		return 1
	case kERL:
		if m.vals[kMaxOutstandingR2T] > 1 {
			return 0 // settled in an earlier text, and the two do not go together
		}
		return c.ERL
	case kProtocolLevel:
		return c.ProtocolLevel
	case kRDMAExtensions:
		return bit(c.RDMA)
	case kTargetRecvData:
		return c.MaxRecvData
	case kInitiatorRecvData:
		return keys[k].hi
	}
	return keys[k].def
}

func bit(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// operate negotiates the operational keys of a text. FirstBurstLength and
// MaxOutstandingR2T come last: their upper bounds are MaxBurstLength and what
// ErrorRecoveryLevel leaves, wherever those stand in the text.
func (m *Machine) operate(pairs []pair) pdu.LoginStatus {
	for _, late := range [...]bool{false, true} {
		for i := range pairs {
			p := &pairs[i]
			if !p.known || late != (p.key == kFirstBurst || p.key == kMaxOutstandingR2T) {
				continue
			}
			if status := m.negotiate(p); status != pdu.LoginSuccess {
				return status
			}
		}
	}
	if m.settled.has(kFirstBurst) && m.vals[kFirstBurst] > m.vals[kMaxBurst] {
		// RFC 7143 §13.14: FirstBurstLength MUST NOT exceed MaxBurstLength.
		return m.why(pdu.LoginInitiatorError, "MaxBurstLength below FirstBurstLength")
	}
	return pdu.LoginSuccess
}

// negotiate settles one key. Either the pair answers our offer, or it is the
// initiator's and p.answer becomes our answer.
func (m *Machine) negotiate(p *pair) pdu.LoginStatus {
	k := &keys[p.key]
	if m.offered.has(p.key) {
		m.offered &^= 1 << p.key
		return m.takeAnswer(p)
	}
	switch {
	case k.fn == fnName || k.fn == fnIgnore:
		return pdu.LoginSuccess
	case isConstant(p.value):
		// Answers to what nobody asked.
		return m.why(pdu.LoginInitiatorError, "answer without an offer")
	case k.normal && m.id.Discovery, k.rdma && !m.policy.Config.RDMA:
		p.answer = pdu.ValueIrrelevant
		return pdu.LoginSuccess
	}
	switch k.fn {
	case fnDeclare, fnMin, fnMax:
		n, ok := number(p.key, p.value)
		if !ok {
			return m.refuse(p)
		}
		if k.fn != fnDeclare {
			n = combine(k.fn, n, m.ours(p.key))
			p.answer = strconv.FormatUint(uint64(n), 10)
		}
		m.settle(p.key, n)
	case fnDeclareBool, fnAnd, fnOr:
		n, ok := boolean(p.value)
		if !ok {
			return m.refuse(p)
		}
		if k.fn != fnDeclareBool {
			n = combine(k.fn, n, m.ours(p.key))
			p.answer = yesNo(n)
		}
		m.settle(p.key, n)
	case fnDigest:
		return m.digest(p)
	case fnTaskReporting:
		m.taskReporting(p)
	case fnNo:
		p.answer = pdu.ValueNo
	case fnReject:
		p.answer = pdu.ValueReject
	}
	return pdu.LoginSuccess
}

// refuse answers a value outside the key's range. The key keeps its default
// (RFC 7143 §6.2); when we cannot live with that there is no login, since
// offering the key again would be a second negotiation.
func (m *Machine) refuse(p *pair) pdu.LoginStatus {
	p.answer = pdu.ValueReject
	if m.wants(p.key) {
		return m.why(pdu.LoginInitiatorError, "value out of range")
	}
	return pdu.LoginSuccess
}

func (m *Machine) settle(k keyID, n uint32) {
	m.vals[k] = n
	m.settled.add(k)
}

// combine is the result function of a negotiated key.
func combine(fn function, a, b uint32) uint32 {
	switch fn {
	case fnMin, fnAnd: // on 0 and 1, AND is the minimum and OR the maximum
		return min(a, b)
	default:
		return max(a, b)
	}
}

// number reads the value of a numeric key within its range.
func number(k keyID, v []byte) (uint32, bool) {
	n, ok := pdu.ParseNumber(v)
	if !ok || n < uint64(keys[k].lo) || n > uint64(keys[k].hi) {
		return 0, false
	}
	if n == 1 && (k == kMaxUnexpectedPDUs || k == kMaxAHSLength) {
		return 0, false // RFC 7145 §6.7, §6.8: 0, or 2 and up
	}
	return uint32(n), true
}

func boolean(v []byte) (uint32, bool) {
	switch string(v) {
	case pdu.ValueYes:
		return 1, true
	case pdu.ValueNo:
		return 0, true
	}
	return 0, false
}

func yesNo(n uint32) string {
	if n != 0 {
		return pdu.ValueYes
	}
	return pdu.ValueNo
}

// digestMode is what we do about digest key k.
func (m *Machine) digestMode(k keyID) Digests {
	if k == kHeaderDigest {
		return m.policy.Config.HeaderDigest
	}
	return m.policy.Config.DataDigest
}

// digest picks the first of the initiator's list that we have (RFC 7143
// §6.2.1, §13.1).
func (m *Machine) digest(p *pair) pdu.LoginStatus {
	mode := m.digestMode(p.key)
	for v := range bytes.SplitSeq(p.value, []byte{','}) {
		switch {
		case string(v) == pdu.ValueNone && mode != DigestRequire:
			p.answer = pdu.ValueNone
			m.settle(p.key, 0)
			return pdu.LoginSuccess
		case string(v) == pdu.ValueCRC32C && mode != DigestNever:
			p.answer = pdu.ValueCRC32C
			m.settle(p.key, 1)
			return pdu.LoginSuccess
		}
	}
	if mode == DigestRequire {
		return m.why(pdu.LoginInitiatorError, "required digest not offered")
	}
	p.answer = pdu.ValueReject
	return pdu.LoginSuccess
}

// taskReporting picks the first of the initiator's list that we have (RFC 7143
// §13.23).
func (m *Machine) taskReporting(p *pair) {
	ours := m.policy.Config.TaskReporting
	for v := range bytes.SplitSeq(p.value, []byte{','}) {
		var t TaskReporting
		switch string(v) {
		case "RFC3720":
		case "ResponseFence":
			t = ResponseFence
		case "FastAbort":
			t = FastAbort
		default:
			continue
		}
		if t&ours == t {
			p.answer = string(v)
			m.settle(p.key, uint32(t))
			return
		}
	}
	p.answer = pdu.ValueReject
}
