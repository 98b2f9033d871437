package login

import "spindle/iscsi/pdu"

// Machine is the target's side of one login. Make it with New, feed it each
// Login Request of the connection with Step.
type Machine struct {
	resolver Resolver
	state    state
	stage    uint8 // CSG
	requests uint32
	limit    uint32 // of requests
	received uint32 // bytes of key text so far

	id       Identity
	resolved bool // id is complete, policy holds
	policy   Policy
	auth     auth

	text []byte // of requests with the C bit, until one without
	out  []byte // what is left of an answer longer than a PDU

	seen    keySet // keys the initiator has sent
	offered keySet // keys we have sent first and that await an answer
	settled keySet // keys negotiated to something other than their default
	vals    [numKeys]uint32

	announced bool   // TargetPortalGroupTag has been sent
	declared  bool   // our operational declarations have been sent
	reason    string // why the login fails
}

// state is where the dialogue is.
type state uint8

const (
	fresh     state = iota // no request yet
	listening              // the next request brings keys
	telling                // m.out is not empty: the next request brings none
	ended
)

// New makes a Machine for one connection.
func New(r Resolver) *Machine {
	m := &Machine{resolver: r, limit: MaxRequests}
	for k := range keys {
		m.vals[k] = keys[k].def
	}
	return m
}

// Identity is what the initiator has said so far, for showing pending logins.
func (m *Machine) Identity() Identity { return m.id }

// Authenticated tells whether the initiator has proven who it is.
func (m *Machine) Authenticated() bool { return m.auth.step == authPassed }

// SetMaxRequests bounds the Login Requests of this login, MaxRequests otherwise.
// Preconditions: Step has not been called.
func (m *Machine) SetMaxRequests(n uint32) { m.limit = n }

// TooMany tells whether the login failed for its number of requests.
func (m *Machine) TooMany() bool { return m.requests > m.limit }

// Stage is the current stage: pdu.StageSecurity, StageOperational or StageFullFeature.
func (m *Machine) Stage() uint8 { return m.stage }

// Step answers one Login Request: its header and its data segment without
// padding. Any bytes will do; what is not a proper login ends Failed.
func (m *Machine) Step(b pdu.BHS, data []byte) Reply {
	if m.state == ended {
		return m.fail(b, pdu.LoginInvalidRequest, "login request after the login ended")
	}
	if status := m.checkHeader(b, data); status != pdu.LoginSuccess {
		return m.fail(b, status, m.reason)
	}
	if m.state == telling {
		if len(data) != 0 || b.Continue() {
			return m.fail(b, pdu.LoginInvalidRequest, "keys in the middle of an answer")
		}
		return m.respond(b)
	}
	m.state = listening
	if m.received += uint32(len(data)); m.received > MaxText {
		return m.fail(b, pdu.LoginInitiatorError, "too much key text")
	}
	text := data
	if b.Continue() || len(m.text) > 0 {
		m.text = append(m.text, data...)
		text = m.text
	}
	if b.Continue() {
		// RFC 7143 §6.2: a partial text is answered by an empty PDU.
		return m.reply(b, Continue, m.stage<<2)
	}
	m.text = nil
	if status := m.answer(text, b.Final()); status != pdu.LoginSuccess {
		return m.fail(b, status, m.reason)
	}
	return m.respond(b)
}

// Refuse turns a Done into a failure, for what only the engine can know:
// LoginOutOfResources, LoginTooManyConns, LoginNoSession. b is the request
// that led to Done.
func (m *Machine) Refuse(b pdu.BHS, status pdu.LoginStatus, reason string) Reply {
	return m.fail(b, status, reason)
}

// checkHeader holds a request to RFC 7143 §11.12 and to the requests before it.
func (m *Machine) checkHeader(b pdu.BHS, data []byte) pdu.LoginStatus {
	if m.requests++; m.requests > m.limit {
		return m.why(pdu.LoginInitiatorError, "too many login requests")
	}
	switch {
	case len(b) < pdu.HeaderLen || b.Opcode() != pdu.LoginRequest:
		return m.why(pdu.LoginInvalidRequest, "not a login request")
	case b.VersionMin() > pdu.Version:
		return m.why(pdu.LoginUnsupportedVersion, "protocol version")
	case b.AHSLen() != 0:
		return m.why(pdu.LoginInitiatorError, "login request with AHS")
	case len(data) > MaxPDUData || uint32(len(data)) != b.DataLen():
		return m.why(pdu.LoginInitiatorError, "login data segment length")
	case b.Final() && b.Continue():
		return m.why(pdu.LoginInitiatorError, "T and C bit together")
	case b.Final() && (b.NSG() <= b.CSG() || b.NSG() == 2):
		return m.why(pdu.LoginInitiatorError, "stage transition")
	}
	if m.state != fresh {
		switch {
		case b.CSG() != m.stage:
			return m.why(pdu.LoginInitiatorError, "CSG is not the current stage")
		case [6]byte(b.ISID()) != m.id.ISID || b.TSIH() != m.id.TSIH || b.CID() != m.id.CID:
			return m.why(pdu.LoginInitiatorError, "ISID, TSIH or CID changed")
		}
		return pdu.LoginSuccess
	}
	if b.CSG() > pdu.StageOperational {
		return m.why(pdu.LoginInitiatorError, "first stage")
	}
	m.stage = b.CSG()
	m.id.ISID, m.id.TSIH, m.id.CID = [6]byte(b.ISID()), b.TSIH(), b.CID()
	return pdu.LoginSuccess
}

// respond sends the next piece of m.out and, with the last one, moves to the
// next stage when both sides are ready.
func (m *Machine) respond(b pdu.BHS) Reply {
	if len(m.out) > MaxPDUData {
		m.state = telling
		r := m.reply(b, Continue, m.stage<<2|pdu.FlagContinue)
		r.Data, m.out = m.out[:MaxPDUData:MaxPDUData], m.out[MaxPDUData:]
		return r
	}
	m.state = listening
	verdict, flags := Continue, m.stage<<2
	if b.Final() && m.ready(b.NSG()) {
		next := m.nextStage(b.NSG())
		flags |= pdu.FlagTransit | next
		if m.stage = next; next == pdu.StageFullFeature {
			verdict, m.state = Done, ended
		}
	}
	r := m.reply(b, verdict, flags)
	r.Data, m.out = m.out, nil
	return r
}

// ready tells whether the current stage is complete on our side.
func (m *Machine) ready(nsg uint8) bool {
	if m.stage == pdu.StageSecurity {
		return m.auth.done(m.policy.RequireAuth)
	}
	return nsg == pdu.StageFullFeature && m.offered == 0 && !m.wantsAny()
}

// nextStage picks the stage to go to. An initiator that would skip operational
// negotiation is sent there when we have something to say that the defaults do
// not: the target may choose an earlier stage (RFC 7143 §6.3).
func (m *Machine) nextStage(nsg uint8) uint8 {
	if m.stage == pdu.StageSecurity && nsg == pdu.StageFullFeature && m.mustNegotiate() {
		return pdu.StageOperational
	}
	return nsg
}

func (m *Machine) reply(b pdu.BHS, v Verdict, flags byte) Reply {
	return Reply{Verdict: v, Flags: flags, ISID: m.id.ISID, TSIH: m.id.TSIH, ITT: b.ITT()}
}

// fail ends the login. The response keeps the stage, and no other field means
// anything (RFC 7143 §11.13.5).
func (m *Machine) fail(b pdu.BHS, status pdu.LoginStatus, reason string) Reply {
	m.state, m.text, m.out = ended, nil, nil
	r := Reply{Verdict: Failed, Status: status, Reason: reason, Flags: m.stage << 2}
	if len(b) >= pdu.HeaderLen {
		r.ISID, r.TSIH, r.ITT = [6]byte(b.ISID()), b.TSIH(), b.ITT()
		r.Flags = b.CSG() << 2
	}
	if status.Class() == 1 && m.policy.Redirect != "" {
		w := pdu.NewTextWriter(nil, MaxPDUData)
		w.Add(pdu.KeyTargetAddress, m.policy.Redirect)
		r.Data = w.Bytes()
	}
	return r
}

// why notes the reason of a failure and passes its status on.
func (m *Machine) why(status pdu.LoginStatus, reason string) pdu.LoginStatus {
	m.reason = reason
	return status
}

// Result is what was negotiated. Preconditions: Step returned Done.
func (m *Machine) Result() Result {
	v := &m.vals
	r := Result{
		Identity:            m.id,
		CHAPUser:            m.auth.user,
		Mutual:              m.auth.mutual,
		HeaderDigest:        v[kHeaderDigest] != 0,
		DataDigest:          v[kDataDigest] != 0,
		MaxSendData:         v[kMaxRecvData],
		MaxRecvData:         keys[kMaxRecvData].def,
		MaxBurst:            v[kMaxBurst],
		FirstBurst:          min(v[kFirstBurst], v[kMaxBurst]), // a default may be above
		MaxOutstandingR2T:   v[kMaxOutstandingR2T],
		MaxConnections:      v[kMaxConnections],
		Time2Wait:           v[kTime2Wait],
		Time2Retain:         v[kTime2Retain],
		InitialR2T:          v[kInitialR2T] != 0,
		ImmediateData:       v[kImmediateData] != 0,
		DataPDUInOrder:      v[kDataPDUInOrder] != 0,
		DataSequenceInOrder: v[kDataSequenceInOrder] != 0,
		ERL:                 v[kERL],
		ProtocolLevel:       v[kProtocolLevel],
		TaskReporting:       TaskReporting(v[kTaskReporting]),
		RDMAExtensions:      v[kRDMAExtensions] != 0,
		MaxUnexpectedPDUs:   v[kMaxUnexpectedPDUs],
		MaxAHSLength:        v[kMaxAHSLength],
		TaggedBufferOnly:    v[kTaggedBufferOnly] != 0,
		TaggedBufferWhole:   v[kTaggedBufferOnly] == 0 && m.settled.has(kTaggedBufferOnly),
		HelloRequired:       v[kHelloRequired] != 0,
	}
	if m.declared && m.declaresRecvData() {
		r.MaxRecvData = m.policy.Config.MaxRecvData
	}
	if r.RDMAExtensions {
		// RFC 7145 §6.4, §6.5: these take the place of MaxRecvDataSegmentLength.
		r.MaxSendData, r.MaxRecvData = v[kInitiatorRecvData], v[kTargetRecvData]
	}
	return r
}
