package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/ring/simring"
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

// initiator is a model initiator: it makes the actions of its script, plays the
// protocol, and checks everything the target says.
type initiator struct {
	s    *run
	id   int
	name string
	isid [6]byte
	pcg  rand.PCG
	rng  *rand.Rand // of the action or login at hand

	link     link // nil without a connection
	tcp      tcpLink
	rdma     rdmaLink
	phase    phase
	excused  string // why the connection may end; "" is no reason
	login    login
	prm      params
	logins   int
	portal   int
	dialled  int64
	failures uint64 // of the arenas, when it dialled

	// The session.
	cmdSN, expStatSN   uint32
	expCmdSN, maxCmdSN uint32
	statKnown          bool
	nextITT            uint32
	tasks              []*task
	free               []*task
	bursts             []burst
	units              []unit     // by place in run.luns
	nexus              uint8      // the model's number of its I_T nexus
	old                []*task    // of the session before, of the same nexus
	heard              bool       // the target has said something in full feature phase
	parting            clock.Time // when it began to log out
	plain              bool       // the next command counts in the window
	asked              bool       // the target wants a logout
	graves             []uint32   // tags of commands that task management ended

	penance penance
	replay  []byte // a CHAP response that was right once

	next  int // action
	total int
	limit int // tasks outstanding
	wake  clock.Time
	deaf  clock.Time
}

func newInitiator(s *run, id int) *initiator {
	in := &initiator{s: s, id: id, name: fmt.Sprintf("%s%d", initiatorName, id)}
	in.rng = rand.New(&in.pcg)
	in.isid = [6]byte{0x80, 0, 0, 0, 0, byte(id)}
	in.total = s.plan.actions / s.plan.initiators
	in.limit = pick(s.rng, 1, 4, 8, 16)
	in.units = make([]unit, len(s.luns))
	if s.fab.w != nil {
		in.rdma.setUp(in, s.m.hosts[id])
	}
	return in
}

// overRDMA tells whether the connection is over iSER.
func (in *initiator) overRDMA() bool { return in.link == &in.rdma }

// draw makes rng that of action or login number n, whatever came before it.
func (in *initiator) draw(kind, n int) {
	in.pcg.Seed(in.s.cfg.Seed^uint64(in.id+1)<<48, uint64(n)<<8|uint64(kind))
}

// through tells whether the initiator has made its actions.
func (in *initiator) through() bool {
	return in.next >= in.total && (in.link == nil || !in.link.queued())
}

// describe tells where the initiator is, for the report of a run that is stuck.
func (in *initiator) describe() string {
	text := fmt.Sprintf("initiator %d is %v, action %d of %d", in.id, in.phase, in.next, in.total)
	for _, t := range in.tasks {
		text += fmt.Sprintf(", task %#x (%v, maybe %v)", t.itt, t.kind, t.maybe)
	}
	return text
}

// ready tells whether a step would do something now.
func (in *initiator) ready() bool {
	l := in.link
	if l == nil {
		return in.next < in.total && in.wake <= in.s.clk.T
	}
	if in.deaf <= in.s.clk.T && l.ready() {
		return true
	}
	if l.queued() {
		return l.writable()
	}
	if len(in.bursts) > 0 {
		return true
	}
	return in.phase == full && in.next < in.total && in.wake <= in.s.clk.T && in.mayAct()
}

// due is when the initiator will want a step although nothing happens.
func (in *initiator) due() clock.Time {
	at := clock.Never
	if in.next < in.total && in.wake > in.s.clk.T && (in.link == nil || in.phase == full && in.mayAct()) {
		at = in.wake
	}
	if in.deaf > in.s.clk.T && in.link != nil {
		at = min(at, in.deaf)
	}
	return at
}

// mayAct tells whether there is room for one more task.
func (in *initiator) mayAct() bool {
	if in.login.discovery {
		return false
	}
	return in.owed() < in.limit && !pdu.SNLess(in.maxCmdSN, in.cmdSN) || in.stuckFor()
}

// owed counts the tasks that must have an answer.
func (in *initiator) owed() (n int) {
	for _, t := range in.tasks {
		if !t.maybe {
			n++
		}
	}
	return n
}

// stuckFor lets an initiator whose window is shut make an action now and then:
// those that need no window.
func (in *initiator) stuckFor() bool { return in.owed() < in.limit+4 && in.next%7 == 0 }

// step makes one step.
func (in *initiator) step() {
	if in.link == nil {
		in.dial()
		return
	}
	in.link.flush()
	if in.deaf <= in.s.clk.T {
		in.link.receive()
	}
	if in.link == nil || in.s.failed() {
		return
	}
	switch {
	case in.link.queued():
	case len(in.bursts) > 0:
		in.sendBurst()
	case in.phase == full && in.next < in.total && in.wake <= in.s.clk.T && in.mayAct():
		in.act()
	}
	if in.link != nil {
		in.link.flush()
	}
}

// excuse gives a reason why the connection may end.
func (in *initiator) excuse(why string) {
	in.letGoAll() // what it has reserved is the next one's
	if in.link != nil && in.excused == "" {
		in.excused = why
	}
}

// farewell is how long the last words of a connection have to leave before it is
// closed over them.
const farewell = 5 * time.Second

// lost is the end of the connection by the target or the network.
func (in *initiator) lost() {
	s := in.s
	if in.excused == "" && in.phase == loggingIn && (s.w.Faults.QueueFull > 0 || s.plan.options.MaxPendingLogins < 10) {
		in.excused = "logins may be dropped"
	}
	if in.phase == loggingOut && in.link.why() != nil {
		in.excuse("data met a closed socket")
	}
	if in.phase == loggingOut && s.clk.T.Sub(in.parting) >= farewell {
		in.excuse("its last words took too long")
	}
	if in.phase == loggingIn {
		in.unsettled()
	}
	if s.coldOpen > 0 || in.dialled < s.coldOver {
		in.excuse("cold reset")
	}
	if in.phase == loggingIn && (!s.stable() || in.dialled < s.steadySince) {
		in.excuse("the target is changing")
	}
	if in.overRDMA() && in.phase == loggingIn && (!s.fab.stable() || in.dialled < s.fab.steadySince) {
		in.excuse("the fabric is changing")
	}
	if !in.heard && s.plan.options.MaxPendingLogins < 10 {
		in.excuse("too many logins")
	}
	if in.excused == "" && s.arenaFailures() != in.failures {
		in.excused = "no memory"
	}
	if in.excused == "" {
		s.fail("session", "initiator %d: the connection ended (%v, in phase %v) and nobody had a reason", in.id, in.link.why(), in.phase)
	}
	s.line("initiator %d: connection lost (%s)", in.id, in.excused)
	if in.phase == full {
		s.count(SessionsLost)
	}
	in.drop()
}

// drop forgets the connection. What was outstanding stays open in the books:
// the target may be at it still.
func (in *initiator) drop() {
	if in.link == nil {
		return
	}
	in.link.close()
	in.link = nil
	in.endSession()
}

// endSession puts the session's tasks aside.
func (in *initiator) endSession() {
	for i := range in.units {
		in.letGo(i)
	}
	in.old = append(in.old, in.tasks...)
	in.tasks = in.tasks[:0]
	in.bursts, in.graves = in.bursts[:0], in.graves[:0]
	in.phase, in.excused, in.asked, in.heard = down, "", false, false
	in.deaf = 0
	clear(in.units)
	most := 2 * time.Millisecond
	if !in.s.stable() {
		most = 200 * time.Millisecond // it may take a while
	}
	in.wake = in.s.clk.T.Add(time.Duration(in.s.rng.IntN(int(most))))
	if in.penance.waits(in.s.clk.T) && in.s.rng.IntN(4) != 0 {
		in.wake = max(in.wake, in.penance.until)
	}
}

// hangUp ends the connection at the end of the run.
func (in *initiator) hangUp() {
	in.next = in.total
	if in.link != nil {
		in.excuse("the end")
		in.drop()
	}
}

func (s *run) arenaFailures() (n uint64) {
	for _, a := range s.arenas {
		n += a.Stats().Failures
	}
	return n
}

// observe sees every event of the World.
func (s *run) observe(e simring.Event) {
	switch e.Kind {
	case simring.Injected:
		switch e.Op {
		case "reset", "half-close":
			if in := s.conns[e.ID]; in != nil {
				in.excuse("fault: " + e.Op)
			}
		case "sync-error":
			for _, lu := range s.luns {
				if lu.disk != nil && lu.disk.ID() == e.ID {
					s.syncFailed(lu)
				}
			}
		}
		if s.cfg.Trace && e.Op != "split" {
			s.line("fault %s at %d", e.Op, e.ID)
		}
	case simring.Complete:
		if s.cfg.Trace && (e.Op == "recv" || e.Op == "cancel") {
			s.line("  reactor %d %s: %d flags %#x tag %x", e.ID, e.Op, e.N, e.Flags&3, e.Tag)
		}
	case simring.Storage:
		if s.cfg.Trace {
			s.line("  disk %d %s: %d", e.ID, e.Op, e.N)
		}
	}
}
