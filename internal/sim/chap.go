package sim

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"spindle/iscsi/pdu"
)

// chapHash is a response of RFC 1994 §4.1 by an algorithm of IANA's, nil for
// those that a target need not know.
func chapHash(algorithm int, id byte, secret, challenge []byte) []byte {
	b := append(append([]byte{id}, secret...), challenge...)
	switch algorithm {
	case 5:
		h := md5.Sum(b)
		return h[:]
	case 6:
		h := sha1.Sum(b)
		return h[:]
	case 7:
		h := sha256.Sum256(b)
		return h[:]
	case 8:
		h := sha3.Sum256(b)
		return h[:]
	}
	return nil
}

// fault is what an initiator does wrong when it authenticates.
type fault uint8

const (
	faultNone fault = iota
	faultSecret
	faultRetired // a secret that was rotated away
	faultTargets // what the target proves, sent back as our own
	faultCut     // the first bytes of the right response
	faultOther   // another initiator's user
	faultUnknown
	faultReflected // the target's challenge sent back to it
	faultReplay    // the response to an earlier challenge
	faultTurn      // no algorithm asked for
	faultAlgorithm // none that the target knows
	faultSkipped   // the security stage is left out
	numFaults
)

// proof is an initiator's part in the security stage of a login: what it offered
// and sent, whatever it meant by it.
type proof struct {
	since, until int      // the configurations of run.auth that may judge it; until 0 is open
	last         int      // the first of those that may judge it once more, at its end
	list         []string // of AuthMethod; nil: it begins with operational negotiation
	fault        fault
	algorithms   []string
	method       string // that the target chose
	step         int    // requests of CHAP sent
	user         string
	response     []byte
	mutual       bool
	oursID       byte
	ours         []byte // challenge

	// The target's.
	algorithm int
	id        byte
	challenge []byte
	passed    bool
	name      string
	proven    []byte
}

// drawProof decides how to authenticate: mostly as the target's operator said.
func (in *initiator) drawProof() {
	s, r, l := in.s, in.dice, &in.login
	p := &l.proof
	*p = proof{since: len(s.auth.history) - 1}
	l.sentSince = max(len(s.redirected)-1, 0)
	c := s.auth.now()
	if !s.auth.on() {
		if l.stage == pdu.StageSecurity {
			p.list = pick(r, []string{"None"}, []string{"CHAP", "None"})
		}
		return
	}
	ask := c.policy(l.discovery)
	if r.IntN(7) == 0 || s.auth.guessing && in.logins < 2*freeFailures {
		p.fault = fault(1 + r.IntN(int(numFaults)-1))
	}
	switch {
	case ask.Require && p.fault == faultSkipped:
		l.stage = pdu.StageOperational
	case ask.Require, l.stage == pdu.StageSecurity, r.IntN(2) == 0:
		l.stage = pdu.StageSecurity
		p.list = pick(r, []string{"CHAP"}, []string{"CHAP", "None"}, []string{"None", "CHAP"}, []string{"KRB5", "CHAP"})
		if !ask.Require && !slices.Contains(p.list, "None") {
			p.list = append(p.list, "None")
		}
	}
	for _, k := range r.Perm(4)[:1+r.IntN(4)] {
		p.algorithms = append(p.algorithms, strconv.Itoa(5+k))
	}
	if r.IntN(4) == 0 {
		p.algorithms = slices.Insert(p.algorithms, 0, "99")
	}
	if p.fault == faultAlgorithm {
		p.algorithms = []string{"4", "99"}
	}
	p.user = s.auth.history[0].secrets[in.id].User
	if in.joins && in.user == "" && !ask.Require && r.IntN(4) != 0 {
		p.list = pick(r, nil, []string{"None"})
		if l.stage = pdu.StageSecurity; p.list == nil {
			l.stage = pdu.StageOperational
		}
	}
	p.mutual = ask.Mutual || r.IntN(2) == 0
	if p.fault == faultNone && in.joins && in.user != "" {
		p.user = in.user
		p.mutual = ask.Mutual || p.mutual && in.user != "single" && in.user != "twin"
	} else if p.fault == faultNone && in.barred.by(in) && in.barred.user != "" && r.IntN(8) != 0 { // it insists
		p.user = in.barred.user
		p.mutual = ask.Mutual
	} else if p.fault == faultNone && !ask.Mutual && r.IntN(8) == 0 {
		p.user = pick(r, "single", "twin")
		p.mutual = r.IntN(4) == 0
	}
	switch p.fault {
	case faultOther:
		p.user = s.auth.history[0].secrets[r.IntN(s.plan.initiators)].User
	case faultUnknown:
		p.user = "nobody"
	case faultReflected:
		p.mutual = true
	}
}

// secret is what the initiator believes to be the secret.
func (in *initiator) secret() []byte {
	a, p := &in.s.auth, &in.login.proof
	if p.fault == faultRetired {
		for _, x := range a.retired {
			if x.User == p.user {
				return []byte(x.Secret)
			}
		}
	}
	secret := "of nobody"
	for _, x := range a.now().secrets {
		if x.User == p.user {
			if secret = x.Secret; p.fault == faultTargets {
				secret = x.MSecret
			}
		}
	}
	if p.fault == faultSecret {
		secret += "!"
	}
	return []byte(secret)
}

// securityKeys adds the keys of the security stage to a request.
func (in *initiator) securityKeys(add func(k, v string)) {
	s, r := in.s, in.dice
	p := &in.login.proof
	if in.login.requests == 0 {
		add(pdu.KeyAuthMethod, strings.Join(p.list, ","))
		return
	}
	if p.method != "CHAP" {
		return
	}
	p.step++
	if p.step == 1 && p.fault != faultTurn {
		add(pdu.KeyCHAPA, strings.Join(p.algorithms, ","))
		return
	}
	if p.step > 2 { // the target asks for more
		return
	}
	p.response = chapHash(max(p.algorithm, 5), p.id, in.secret(), p.challenge)
	switch p.fault {
	case faultCut:
		p.response = p.response[:1+r.IntN(4)]
	case faultReplay:
		if in.replay != nil {
			p.response = in.replay
		}
	default:
		in.replay = p.response
	}
	add(pdu.KeyCHAPN, p.user)
	add(pdu.KeyCHAPR, binaryValue(r.IntN(3), p.response))
	if !p.mutual {
		return
	}
	p.oursID, p.ours = byte(r.Uint32()), make([]byte, pick(r, 1, 16, 32, 1024))
	for i := range p.ours {
		p.ours[i] = byte(r.Uint32())
	}
	if p.fault == faultReflected {
		s.count(ChallengesReflected)
		p.oursID, p.ours = p.id, p.challenge
	}
	add(pdu.KeyCHAPI, strconv.Itoa(int(p.oursID)))
	add(pdu.KeyCHAPC, binaryValue(r.IntN(3), p.ours))
}

// binaryValue writes b in one of the ways of RFC 7143 §6.1.
func binaryValue(way int, b []byte) string {
	switch way {
	case 0:
		return "0b" + base64.StdEncoding.EncodeToString(b)
	case 1:
		return "0X" + strings.ToUpper(hex.EncodeToString(b))
	}
	return "0x" + hex.EncodeToString(b)
}

// readBinary reads a value of the target's, nil when it is none.
func readBinary(v string) []byte {
	if len(v) < 3 {
		return nil
	}
	decode := hex.DecodeString
	if v[1] == 'b' || v[1] == 'B' {
		decode = base64.StdEncoding.DecodeString
	}
	b, err := decode(v[2:])
	if err != nil || v[0] != '0' {
		return nil
	}
	return b
}

// securityKey takes a key of the target's in the security stage.
func (in *initiator) securityKey(k, v string) {
	p := &in.login.proof
	switch k {
	case pdu.KeyAuthMethod:
		p.method = v
		if !in.any(func(c *authConfig) bool { return c.choose(p.list, in.login.discovery) == v }) {
			in.bad("authentication", "AuthMethod=%s of %v", v, p.list)
		}
	case pdu.KeyCHAPA:
		p.algorithm, _ = strconv.Atoi(v)
		if !slices.Contains(p.algorithms, v) || chapHash(p.algorithm, 0, nil, nil) == nil {
			in.bad("authentication", "CHAP_A=%s of %v", v, p.algorithms)
		}
	case pdu.KeyCHAPI:
		n, err := strconv.ParseUint(v, 10, 8)
		if err != nil {
			in.bad("authentication", "CHAP_I=%s", v)
		}
		p.id = byte(n)
	case pdu.KeyCHAPC:
		in.challenged(v)
	case pdu.KeyCHAPN:
		p.name = v
	case pdu.KeyCHAPR:
		p.proven = readBinary(v)
	}
}

// challenged takes the target's challenge, which no one has seen before.
func (in *initiator) challenged(v string) {
	a, p := &in.s.auth, &in.login.proof
	p.challenge = readBinary(v)
	if n := len(p.challenge); n < 16 || n > 1024 {
		in.bad("authentication", "a challenge of %d bytes", n)
	}
	if a.challenges[string(p.challenge)] {
		in.bad("authentication", "the challenge %x comes a second time", p.challenge)
	}
	a.challenges[string(p.challenge)] = true
}

// loginUser is who the login says it is, "" when it does not authenticate.
func (in *initiator) loginUser() string {
	if p := &in.login.proof; p.method == "CHAP" {
		return p.user
	}
	return ""
}

// mayBeDenied tells whether a configuration may have refused the login: one of those that
// may judge it, or at its end one since.
func (in *initiator) mayBeDenied() bool {
	return in.any(in.denies) || in.login.last && slices.ContainsFunc(in.s.auth.history[in.login.proof.last:], func(c authConfig) bool { return !in.holds(&c) })
}

// holds tells whether c lets a login pass that has come to its end.
func (in *initiator) holds(c *authConfig) bool {
	p, ask := &in.login.proof, c.policy(in.login.discovery)
	if p.method != "CHAP" || c.withdrawn || c.secrets == nil || ask.Group == 0 || ask.Disable {
		return !ask.Require
	}
	x := c.user(p.user, in.name)
	return x != nil && (p.mutual || !ask.Mutual) && bytes.Equal(p.response, chapHash(p.algorithm, p.id, []byte(x.Secret), p.challenge))
}

// held judges that a login was let in: a configuration that was in force when its
// last request was sent, or since, lets it.
func (in *initiator) held() {
	p := &in.login.proof
	if !slices.ContainsFunc(in.s.auth.history[p.last:], func(c authConfig) bool { return in.holds(&c) }) {
		in.bad("authentication", "let in by method %q as user %q, by what held when the login began", p.method, p.user)
	}
}

// any tells whether one of the configurations that may judge the login is so.
func (in *initiator) any(is func(c *authConfig) bool) bool {
	a, p := &in.s.auth, &in.login.proof
	until := p.until
	if until == 0 {
		until = len(a.history)
	}
	for i := p.since; i < until; i++ {
		if is(&a.history[i]) {
			return true
		}
	}
	return false
}

// admits tells whether c lets the login pass.
func (in *initiator) admits(c *authConfig) bool {
	p, l := &in.login.proof, &in.login
	ask := c.policy(l.discovery)
	if p.list == nil {
		return !ask.Require
	}
	if m := c.choose(p.list, l.discovery); m == "None" || m != p.method {
		return m == p.method
	}
	x := c.user(p.user, in.name)
	switch {
	case x == nil || p.step < 2 || p.challenge == nil:
		return false
	case !bytes.Equal(p.response, chapHash(p.algorithm, p.id, []byte(x.Secret), p.challenge)):
		return false
	case !p.mutual:
		return !ask.Mutual
	}
	return x.MSecret != "" && x.MSecret != x.Secret && !bytes.Equal(p.ours, p.challenge)
}

// proved judges the end of the security stage, or that it was left out: who is
// let in has proven who it is, and the target has when it was asked to.
func (in *initiator) proved() {
	s, p := in.s, &in.login.proof
	if p.passed {
		return
	}
	p.passed = true
	if !in.any(in.admits) {
		in.bad("authentication", "let in by method %q as user %q, who has not proven it (fault %d)", p.method, p.user, p.fault)
		return
	}
	if p.method != "CHAP" {
		return
	}
	s.count(LoginsCHAP)
	s.count(CHAPMD5 + State(p.algorithm-5))
	if !p.mutual {
		return
	}
	s.count(LoginsMutual)
	if !in.any(func(c *authConfig) bool {
		x := c.user(p.user, in.name)
		return x != nil && p.name == x.MUser && bytes.Equal(p.proven, chapHash(p.algorithm, p.oursID, []byte(x.MSecret), p.ours))
	}) {
		in.bad("authentication", "the target says it is %q and proves it by %x", p.name, p.proven)
	}
}

// untold fails when the target answers the challenge of one whom it does not let in.
func (in *initiator) untold() {
	if p := &in.login.proof; p.proven != nil && !in.any(in.admits) {
		in.bad("authentication", "the target proves itself to user %q, who has proven nothing (fault %d)", p.user, p.fault)
	}
}

// denies tells whether c may refuse the login where it is.
func (in *initiator) denies(c *authConfig) bool {
	p, l := &in.login.proof, &in.login
	switch {
	case p.list == nil:
		return c.policy(l.discovery).Require
	case p.method == "":
		return c.choose(p.list, l.discovery) == ""
	case p.step == 1 && p.fault != faultTurn:
		return p.fault == faultAlgorithm
	}
	return !in.admits(c)
}

// answeredFirst takes the first response of a login: by now the target has
// settled what it asks, and it does not serve an address that has to wait.
func (in *initiator) answeredFirst() {
	p := &in.login.proof
	if p.until != 0 {
		return
	}
	p.until = len(in.s.auth.history)
	in.login.sentUntil = len(in.s.redirected)
	if in.s.clk.T < in.penance.from {
		in.bad("authentication", "served after %d failures in a row, before its time", in.penance.sure)
	}
}

// refusedProof takes a refusal, and tells whether its proof explains it.
func (in *initiator) refusedProof(st pdu.LoginStatus) bool {
	if st != pdu.LoginAuthFailed {
		return false
	}
	stranger := in.joins && in.loginUser() != in.user
	if !stranger && !in.mayBeDenied() {
		in.bad("authentication", "user %q has proven who it is by method %q, and is refused", in.login.proof.user, in.login.proof.method)
	}
	in.denied()
	return true
}
