package login

import (
	"bytes"
	"crypto/subtle"
	"strconv"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
)

// auth is the state of the security stage.
type auth struct {
	step      authStep
	alg       algorithm
	id        byte // CHAP_I
	challenge [ChallengeLen]byte
	user      string // who has authenticated
	secret    []byte // and by what
	mutual    bool
}

// authStep is what is awaited of the initiator.
type authStep uint8

const (
	authNone      authStep = iota // AuthMethod, or nothing
	authAlgorithm                 // CHAP_A
	authResponse                  // CHAP_N and CHAP_R
	authPassed
)

// done tells that nothing is left to prove.
func (a *auth) done(required bool) bool {
	return a.step == authPassed || a.step == authNone && !required
}

// security answers the keys of a text in the security stage: AuthMethod first,
// then the steps of CHAP (RFC 7143 §12.1.3).
//
//	I: CHAP_A=<list>                      T: CHAP_A CHAP_I CHAP_C
//	I: CHAP_N CHAP_R [CHAP_I CHAP_C]      T: [CHAP_N CHAP_R]
func (m *Machine) security(pairs []pair, w *pdu.TextWriter) pdu.LoginStatus {
	var v [kCHAPR + 1][]byte
	var got keySet
	for i := range pairs {
		if p := &pairs[i]; p.known && p.key <= kCHAPR {
			v[p.key] = p.value
			got.add(p.key)
		}
	}
	if got.has(kAuthMethod) {
		if status := m.chooseMethod(v[kAuthMethod], w); status != pdu.LoginSuccess {
			return status
		}
	} else if m.policy.RequireAuth && m.auth.step == authNone {
		return m.why(pdu.LoginAuthFailed, "authentication is required, no AuthMethod offered")
	}
	if got&^(1<<kAuthMethod) == 0 {
		return pdu.LoginSuccess
	}
	switch {
	case m.auth.step == authAlgorithm && got.has(kCHAPA) && got&(1<<kCHAPN|1<<kCHAPR|1<<kCHAPI|1<<kCHAPC) == 0:
		return m.challengeInitiator(v[kCHAPA], w)
	case m.auth.step == authResponse && got.has(kCHAPN) && got.has(kCHAPR) && got.has(kCHAPI) == got.has(kCHAPC):
		return m.verify(&v, got.has(kCHAPC), w)
	}
	return m.why(pdu.LoginAuthFailed, "CHAP key out of turn")
}

// chooseMethod picks the first of the initiator's list that the policy allows.
func (m *Machine) chooseMethod(list []byte, w *pdu.TextWriter) pdu.LoginStatus {
	for v := range bytes.SplitSeq(list, []byte{','}) {
		switch {
		case string(v) == "CHAP" && m.policy.CHAP != nil:
			w.Add(pdu.KeyAuthMethod, "CHAP")
			m.auth.step = authAlgorithm
			return pdu.LoginSuccess
		case string(v) == pdu.ValueNone && !m.policy.RequireAuth:
			w.Add(pdu.KeyAuthMethod, pdu.ValueNone)
			return pdu.LoginSuccess
		}
	}
	return m.why(pdu.LoginAuthFailed, "no acceptable AuthMethod")
}

// challengeInitiator settles the algorithm and sends a fresh challenge.
func (m *Machine) challengeInitiator(list []byte, w *pdu.TextWriter) pdu.LoginStatus {
	a := &m.auth
	if a.alg = chooseAlgorithm(list); a.alg == 0 {
		return m.why(pdu.LoginAuthFailed, "no common CHAP algorithm")
	}
	var random [ChallengeLen + 1]byte
	if !fill(m.policy.CHAP.Entropy, random[:]) {
		return m.why(pdu.LoginTargetError, "no entropy for a CHAP challenge")
	}
	a.id = random[0]
	copy(a.challenge[:], random[1:])
	if plant.On(plant.RepeatedChallenge) {
		clear(a.challenge[:])
	}
	a.step = authResponse
	w.AddNumber(pdu.KeyCHAPA, uint64(a.alg))
	w.AddNumber(pdu.KeyCHAPI, uint64(a.id))
	w.Add(pdu.KeyCHAPC, encodeHex(a.challenge[:]))
	return pdu.LoginSuccess
}

// verify checks the initiator's response and, when it asks, proves who we are.
// An unknown user, or one who may not have this initiator's name, costs the same
// work as a wrong secret and has the same answer.
func (m *Machine) verify(v *[kCHAPR + 1][]byte, mutual bool, w *pdu.TextWriter) pdu.LoginStatus {
	a, policy := &m.auth, m.policy.CHAP
	user := string(v[kCHAPN])
	response, ok := decodeBinary(v[kCHAPR], a.alg.size())
	cred, known := policy.Store.Credentials(user, m.id.InitiatorName)
	secret := cred.Secret
	if !known {
		secret = a.challenge[:]
	}
	want := a.alg.response(a.id, secret, a.challenge[:])
	if plant.On(plant.CutResponse) {
		want = want[:len(response)]
	}
	match := subtle.ConstantTimeCompare(response, want)
	if match != 1 || !ok || !known || len(cred.Secret) == 0 {
		return m.why(pdu.LoginAuthFailed, "CHAP response does not match")
	}
	if !mutual {
		if policy.Mutual {
			return m.why(pdu.LoginAuthFailed, "mutual CHAP is required")
		}
		a.step, a.user, a.secret = authPassed, user, cred.Secret
		return pdu.LoginSuccess
	}
	id, ok := pdu.ParseNumber(v[kCHAPI])
	challenge, okC := decodeBinary(v[kCHAPC], MaxChallenge)
	switch {
	case !ok || id > 255 || !okC || len(challenge) == 0:
		return m.why(pdu.LoginAuthFailed, "malformed CHAP challenge")
	case bytes.Equal(challenge, a.challenge[:]) && !plant.On(plant.ReflectedChallenge):
		// RFC 7143 §12.1.3: a reflected challenge would have us compute the
		// initiator's own answer.
		return m.why(pdu.LoginAuthFailed, "CHAP challenge reflected")
	case len(cred.MutualSecret) == 0:
		return m.why(pdu.LoginAuthFailed, "no secret for mutual CHAP")
	case subtle.ConstantTimeCompare(cred.MutualSecret, cred.Secret) == 1:
		// RFC 7143 §9.2.1: the secrets of the two directions must differ.
		return m.why(pdu.LoginAuthFailed, "same secret in both directions")
	}
	a.step, a.user, a.secret, a.mutual = authPassed, user, cred.Secret, true
	if plant.On(plant.WrongProof) {
		cred.MutualSecret = cred.Secret
	}
	w.Add(pdu.KeyCHAPN, cred.MutualUser)
	w.Add(pdu.KeyCHAPR, encodeHex(a.alg.response(byte(id), cred.MutualSecret, challenge)))
	return pdu.LoginSuccess
}

// Holds judges a finished login by the policy of now: what it began with may have
// been replaced since, a secret that leaked say, and whoever keeps a login half
// open must gain nothing by it. A refusal goes by p, its Redirect included.
// Preconditions: Step returned Done.
func (m *Machine) Holds(p *Policy) (status pdu.LoginStatus, why string) {
	a := &m.auth
	switch {
	case p.Status != pdu.LoginSuccess:
		status, why = p.Status, "refused by the policy of now"
	case p.RequireAuth && a.step != authPassed && !plant.On(plant.AuthSkipped):
		status, why = pdu.LoginAuthFailed, "authentication is required by now"
	case p.CHAP == nil && p.RequireAuth:
		status, why = pdu.LoginAuthFailed, "the secrets are gone"
	case p.CHAP == nil || a.step != authPassed: // nothing is asked of it
	case p.CHAP.Mutual && !a.mutual:
		status, why = pdu.LoginAuthFailed, "mutual CHAP is required by now"
	default:
		cred, known := p.CHAP.Store.Credentials(a.user, m.id.InitiatorName)
		if !known || subtle.ConstantTimeCompare(cred.Secret, a.secret) != 1 {
			status, why = pdu.LoginAuthFailed, "the secret is another by now"
		}
	}
	if status != pdu.LoginSuccess {
		m.policy = *p
	}
	return status, why
}

// chooseAlgorithm picks of the initiator's list the one we like best; 0 is none.
func chooseAlgorithm(list []byte) algorithm {
	var offered [256]bool
	for v := range bytes.SplitSeq(list, []byte{','}) {
		if n, err := strconv.ParseUint(string(v), 10, 8); err == nil {
			offered[n] = true
		}
	}
	for _, a := range preference {
		if offered[a] {
			return a
		}
	}
	return 0
}
