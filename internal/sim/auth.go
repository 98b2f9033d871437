package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"spindle/iscsi"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// authTag is the tag of the auth group that the node and discovery ask.
const authTag = 1

// authConfig is what the target asks of authentication. It is never changed: a
// deed makes another.
type authConfig struct {
	node, discovery iscsi.CHAPPolicy
	secrets         []iscsi.Secret // nil: nobody has any
	withdrawn       bool           // the group is not there
}

// authState is what the target asks now and asked before, since the run began.
type authState struct {
	history    []authConfig
	rotations  int
	challenges map[string]bool // that the target has sent
	retired    []iscsi.Secret  // that a rotation has replaced
	guessing   bool            // initiators begin with a number of wrong proofs
}

func (a *authState) now() *authConfig { return &a.history[len(a.history)-1] }

// on tells whether anybody authenticates in this run.
func (a *authState) on() bool { return a.now().secrets != nil }

// change makes another configuration.
func (a *authState) change(fn func(c *authConfig)) {
	next := *a.now()
	next.secrets = slices.Clone(next.secrets)
	fn(&next)
	a.history = append(a.history, next)
}

// drawPolicy draws what a node asks: CHAP may be done, has to be, has to be by both.
func drawPolicy(r *rand.Rand) iscsi.CHAPPolicy {
	return pick(r, iscsi.CHAPPolicy{Group: authTag}, iscsi.CHAPPolicy{Group: authTag, Require: true},
		iscsi.CHAPPolicy{Group: authTag, Require: true}, iscsi.CHAPPolicy{Group: authTag, Require: true, Mutual: true},
		iscsi.CHAPPolicy{Disable: true})
}

// drawAuth decides who must authenticate, in a third of the runs anybody.
func (s *run) drawAuth() {
	r, a := s.rng, &s.auth
	a.challenges = map[string]bool{}
	a.history = []authConfig{{}}
	if r.IntN(3) != 0 {
		return
	}
	c := a.now()
	c.node, c.discovery = drawPolicy(r), drawPolicy(r)
	for i := range s.plan.initiators {
		c.secrets = append(c.secrets, s.newSecret(i))
	}
	// Users for any name: one who cannot be proven anything to, and one whose
	// secret is the same both ways, which RFC 7143 §9.2.1 forbids.
	c.secrets = append(c.secrets, iscsi.Secret{User: "single", Secret: "a secret of one direction"},
		iscsi.Secret{User: "twin", Secret: "one secret both ways", MUser: "target", MSecret: "one secret both ways"})
	o := &s.plan.options
	o.RequireCHAP, o.MutualCHAP, o.DisableCHAP, o.CHAPGroup = c.discovery.Require, c.discovery.Mutual, c.discovery.Disable, c.discovery.Group
	o.CHAPBackoff = pick(r, uint32(0), 1, 30)
	a.guessing = r.IntN(6) == 0
}

// newSecret makes the secrets of initiator i, which nobody had before.
func (s *run) newSecret(i int) iscsi.Secret {
	s.auth.rotations++
	x := iscsi.Secret{User: fmt.Sprintf("user%d", i), Secret: fmt.Sprintf("secret %d of user %d", s.auth.rotations, i),
		MUser: fmt.Sprintf("target of %d", i), MSecret: fmt.Sprintf("proof %d to user %d", s.auth.rotations, i)}
	if i%2 == 0 {
		x.Initiators = []string{fmt.Sprintf("%s%d", initiatorName, i)}
	}
	return x
}

// applyAuth gives the target its secrets.
func (s *run) applyAuth() {
	if !s.auth.on() {
		return
	}
	if s.auth.now().withdrawn {
		s.auth.change(func(c *authConfig) { c.withdrawn = false })
	}
	s.engine.SetAuthGroup(iscsi.AuthGroup{Tag: authTag, Secrets: s.auth.now().secrets})
}

// reauthenticate changes secrets or policy in the middle of I/O: sessions live on.
func (s *run) reauthenticate() {
	r, a := s.rng, &s.auth
	switch r.IntN(5) {
	case 0:
		s.begin("change the node's authentication", func(reactor.Caller) {
			s.count(PoliciesChanged)
			a.change(func(c *authConfig) { c.node = drawPolicy(r) })
			s.must(s.engine.SetNodeAuth(nodeName, a.now().node))
		})
	case 1:
		s.begin("remove the secrets for a while", func(c reactor.Caller) {
			a.change(func(c *authConfig) { c.withdrawn = true })
			s.engine.RemoveAuthGroup(authTag)
			c.(*coroutine).pause(time.Duration(r.IntN(3000)) * time.Microsecond)
			s.applyAuth()
		})
	default:
		s.begin("rotate secrets", func(reactor.Caller) {
			s.count(SecretsRotated)
			a.change(func(c *authConfig) {
				for i := range s.plan.initiators {
					if r.IntN(3) != 0 {
						a.retired = append(a.retired, c.secrets[i])
						c.secrets[i] = s.newSecret(i)
					}
				}
			})
			s.applyAuth()
		})
	}
}

// policy is what c asks of a login.
func (c *authConfig) policy(discovery bool) *iscsi.CHAPPolicy {
	if discovery {
		return &c.discovery
	}
	return &c.node
}

// user finds the secrets of a user, who must be allowed the initiator's name.
func (c *authConfig) user(name, initiator string) *iscsi.Secret {
	for i := range c.secrets {
		if x := &c.secrets[i]; x.User == name && (len(x.Initiators) == 0 || slices.Contains(x.Initiators, initiator)) {
			return x
		}
	}
	return nil
}

// choose is the method that c takes of a list (RFC 7143 §6.2.1): the first that
// it allows; "" is none.
func (c *authConfig) choose(list []string, discovery bool) string {
	p := c.policy(discovery)
	for _, m := range list {
		if m == "CHAP" && !c.withdrawn && c.secrets != nil && p.Group != 0 && !p.Disable || m == "None" && !p.Require {
			return m
		}
	}
	return ""
}

// The target lets an address fail CHAP so many times in a row before it has to wait.
const freeFailures = 5

// penance is what an initiator knows of how long its address must wait.
type penance struct {
	sure, most int        // failures in a row, at least and at most
	from       clock.Time // not served before, for certain
	until      clock.Time // may not be served before
	passed     bool       // a login has since: forgiven, unless it was lost at once
}

// wait is how long the target has an address wait after n failures in a row.
func (s *run) wait(n int) time.Duration {
	most := s.plan.options.CHAPBackoff
	if n <= freeFailures || most == 0 {
		return 0
	}
	return min(time.Duration(most), 1<<min(n-freeFailures-1, 16)) * time.Second
}

// denied notes that the target refused our proof.
func (in *initiator) denied() {
	s, p := in.s, &in.penance
	s.count(LoginsDenied)
	p.passed = false // what failed since is not forgiven for it
	p.sure++
	p.most++
	p.from, p.until = in.login.sent.Add(s.wait(p.sure)), s.clk.T.Add(s.wait(p.most))
}

// waits tells whether the target may not have taken a connection of that time.
func (p *penance) waits(t clock.Time) bool { return t <= p.until && p.most > freeFailures }

// unsettled is the end of a connection during login: the target may have judged
// a proof and its answer be lost, or not have taken the connection.
func (in *initiator) unsettled() {
	s, p := in.s, &in.penance
	if p.waits(in.login.sent) { // its end may come late
		s.count(AddressesMadeToWait)
		in.conn.excuse("its address has to wait")
		if in.login.sent < p.from {
			return // for certain
		}
	}
	if (in.login.proof.list != nil || in.mayBeDenied()) && in.login.requests > 0 && in.excused != "login refused" {
		p.most++
		p.passed = false
		p.sure, p.from, p.until = 0, 0, s.clk.T.Add(s.wait(p.most))
	}
}
