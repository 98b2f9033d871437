package sim

import (
	"math/rand/v2"

	"spindle/reactor/clock"
)

// phase of an initiator's connection.
type phase uint8

const (
	down phase = iota
	loggingIn
	full
	loggingOut
)

func (p phase) String() string {
	return [...]string{"down", "logging in", "full feature", "logging out"}[p]
}

// conn is one connection of an initiator's session, or the login of one.
type conn struct {
	cid      uint16
	link     link // nil without a connection
	tcp      tcpLink
	phase    phase
	excused  string // why it may end; "" is no reason
	login    login
	prm      params
	dialled  int64
	failures uint64 // of the arenas, when it dialled
	pcg      rand.PCG
	dice     *rand.Rand // of its login

	expStatSN              uint32
	statKnown              bool
	lastExpCmd, lastMaxCmd uint32 // what it told last
	bursts                 []burst
	heard                  bool       // the target has said something in full feature phase
	parting                clock.Time // when it began to log out
	asked                  bool       // the target wants a logout
	deaf                   clock.Time // it reads nothing before

	before, events [numEvents]int // asynchronous messages ordered before, and received since
	must           [numEvents]int // ... to be received
	mustBy         clock.Time     // by the answer to a ping that is sent later

	ends []int64 // when an end of tasks was told, by place of the unit
	owed []owed  // ends of tasks that are yet to be told
	late []bool  // ... and may be, by place of the unit: TASK ABORTED came before

	joins    bool       // a session that exists
	replaces *conn      // whose place it takes
	denial   bool       // its login was refused
	done     bool       // its end ends nothing else
	again    bool       // it has been logged out before, as far as anybody knows
	dropping bool       // the target was ordered to drop it
	named    bool       // ... for certain: it was in full feature phase, and no other had its CID
	told     bool       // ... and another has told of it
	mute     bool       // what it says has been overtaken: another told of its end
	doomed   clock.Time // the target has to close it by then; 0 is never
}

func newConn(cid uint16) *conn {
	c := &conn{cid: cid}
	c.dice = rand.New(&c.pcg)
	return c
}

// excuse gives a reason why c may end.
func (c *conn) excuse(why string) {
	if c.excused == "" {
		c.excused = why
	}
}

// up tells whether the initiator has a session.
func (in *initiator) up() bool {
	for _, c := range in.conns {
		if c.phase == full {
			return true
		}
	}
	return false
}

// take takes the connection at hand into the session.
func (in *initiator) take(l link) {
	in.link = l
	in.conns = append(in.conns, in.conn)
}
