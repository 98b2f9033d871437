package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/ring/simring"
)

// initiator is a model initiator: it makes the actions of its script, plays the
// protocol, and checks everything the target says.
type initiator struct {
	s    *run
	id   int
	name string
	isid [6]byte
	pcg  rand.PCG
	rng  *rand.Rand // of the action at hand

	*conn          // the one that acts, or that a PDU has come by
	conns  []*conn // that are open, the oldest first
	rdma   rdmaLink
	logins int
	portal int

	// The session.
	sess               params // what the leading login negotiated
	tsih               uint16
	user               string                 // who has authenticated
	owners             map[nexusName][]string // users who may have begun the session of a nexus that is left at the target
	began              int64                  // instant of the leading login
	broken             *conn                  // lost, and the session lives
	mended             bool                   // ... and lived: functions of the lost one may be under way
	adrift             []*conn                // vanished, and still in the session
	unacked            []sentSN               // CmdSNs that may not have been received
	failing            bool                   // it ends with a connection that was lost
	parted             clock.Time             // a connection of it ended last
	cmdSN              uint32
	expCmdSN, maxCmdSN uint32 // the newest that any connection told
	nextITT            uint32
	tasks              []*task
	free               []*task
	units              []unit  // by place in run.luns
	nexus              uint8   // the model's number of its I_T nexus
	old                []*task // of the session before, of the same nexus
	plain              bool    // the next command counts in the window
	keepers            []*held // what copy managers keep
	graves             []grave // tags of commands that task management ended

	penance  penance
	barred   barred
	replicas []replica // that are to come
	steppers []*conn   // scratch
	replay   []byte    // a CHAP response that was right once

	next   int // action
	total  int
	limit  int  // tasks outstanding
	crowds bool // it has sent more than a window holds: immediate commands, or on several connections
	wake   clock.Time
}

// grave is the tag of a command that a task management function has ended. When
// the function came by another connection, data and R2Ts may be on their way.
type grave struct {
	itt  uint32
	late bool
}

func newInitiator(s *run, id int) *initiator {
	in := &initiator{s: s, id: id, name: fmt.Sprintf("%s%d", initiatorName, id), conn: newConn(uint16(id))}
	in.rng, in.owners = rand.New(&in.pcg), map[nexusName][]string{}
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

// draw makes rng that of action number n, whatever came before it.
func (in *initiator) draw(n int) { in.pcg.Seed(in.s.cfg.Seed^uint64(in.id+1)<<48, uint64(n)<<8) }

// roll makes dice that of the next login, which hears of what is ordered from now on.
func (in *initiator) roll() {
	in.conn.pcg.Seed(in.s.cfg.Seed^uint64(in.id+1)<<48, uint64(in.logins)<<8|1)
	in.logins++
	in.before, in.events, in.must = in.s.done, [numEvents]int{}, [numEvents]int{}
}

// through tells whether the initiator has made its actions.
func (in *initiator) through() bool {
	return in.next >= in.total && !slices.ContainsFunc(in.conns, func(c *conn) bool { return c.link.queued() })
}

// describe tells where the initiator is, for the report of a run that is stuck.
func (in *initiator) describe() string {
	text := fmt.Sprintf("initiator %d, action %d of %d", in.id, in.next, in.total)
	for _, c := range in.conns {
		text += fmt.Sprintf(", connection %d is %v (%s)", c.cid, c.phase, c.excused)
	}
	for _, t := range in.tasks {
		text += fmt.Sprintf(", task %#x (%v, maybe %v)", t.itt, t.kind, t.maybe)
	}
	return text
}

// ready tells whether a step would do something now.
func (in *initiator) ready() bool {
	if len(in.conns) == 0 {
		return in.next < in.total && in.wake <= in.s.clk.T
	}
	return slices.ContainsFunc(in.conns, in.canStep)
}

// canStep tells whether a step on c would do something now.
func (in *initiator) canStep(c *conn) bool {
	l := c.link
	if c.deaf <= in.s.clk.T && l.ready() || c.doomed != 0 && c.doomed <= in.s.clk.T {
		return true
	}
	if l.queued() {
		return l.writable()
	}
	return len(c.bursts) > 0 || in.canAct(c) && in.wake <= in.s.clk.T
}

// canAct tells whether the next action may be made on c, once its time has come.
func (in *initiator) canAct(c *conn) bool {
	return c.phase == full && in.next < in.total && !c.login.discovery && in.mayAct()
}

// due is when the initiator will want a step although nothing happens.
func (in *initiator) due() clock.Time {
	at, now := clock.Never, in.s.clk.T
	if in.next < in.total && in.wake > now && (len(in.conns) == 0 || slices.ContainsFunc(in.conns, in.canAct)) {
		at = in.wake
	}
	for _, c := range in.conns {
		if c.deaf > now {
			at = min(at, c.deaf)
		}
		if c.doomed != 0 {
			at = min(at, c.doomed)
		}
	}
	return at
}

// mayAct tells whether there is room for one more task.
func (in *initiator) mayAct() bool {
	return in.owed() < in.limit && !pdu.SNLess(in.maxCmdSN, in.cmdSN) || len(in.adrift) > 0 || in.stuckFor()
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

// step makes one step, on one of the connections that can.
func (in *initiator) step() {
	switch {
	case len(in.conns) > 0:
	case in.broken != nil:
		in.mend()
		return
	default:
		in.dial()
		return
	}
	can := in.steppers[:0]
	for _, c := range in.conns {
		if in.canStep(c) {
			can = append(can, c)
		}
	}
	in.steppers = can
	if in.conn = can[0]; len(can) > 1 {
		in.conn = can[in.s.rng.IntN(len(can))]
	}
	in.link.flush()
	if in.deaf <= in.s.clk.T {
		in.link.receive()
	}
	if in.link == nil || in.s.failed() {
		return
	}
	in.closedInTime()
	switch {
	case in.link.queued():
	case len(in.bursts) > 0:
		in.sendBurst()
	case in.canAct(in.conn) && in.wake <= in.s.clk.T:
		in.act()
	}
	if in.link != nil {
		in.link.flush()
	}
}

// excuse gives a reason why the session's connections may end.
func (in *initiator) excuse(why string) {
	in.letGoAll() // what it has reserved is the next one's
	for _, c := range in.conns {
		c.excuse(why)
	}
	if in.broken != nil {
		in.broken.excuse(why)
	}
}

// farewell is how long the last words of a connection have to leave before it is
// closed over them.
const farewell = 5 * time.Second

// lost is the end of the connection by the target or the network.
func (in *initiator) lost() {
	s, c := in.s, in.conn
	if in.excused == "" && in.phase == loggingIn && (s.w.Faults.QueueFull > 0 || s.plan.options.MaxPendingLogins < 10) {
		in.excused = "logins may be dropped"
	}
	if in.phase == loggingOut && in.link.why() != nil {
		c.excuse("data met a closed socket")
	}
	if in.phase == loggingOut && s.clk.T.Sub(in.parting) >= farewell {
		c.excuse("its last words took too long")
	}
	if in.phase == loggingIn {
		in.unsettled()
		if !in.denial {
			in.barred = barred{} // by now the session may be that of this login
		}
	}
	if s.coldOpen > 0 || in.dialled < s.coldOver {
		c.excuse("cold reset")
	}
	if in.phase == loggingIn && (!s.stable() || in.dialled < s.steadySince) {
		c.excuse("the target is changing")
	}
	if in.overRDMA() && in.phase == loggingIn && (!s.fab.stable() || in.dialled < s.fab.steadySince) {
		c.excuse("the fabric is changing")
	}
	if !in.heard && s.plan.options.MaxPendingLogins < 10 {
		c.excuse("too many logins")
	}
	if in.excused == "" && s.arenaFailures() != in.failures {
		in.excused = "no memory"
	}
	if in.excused == "" {
		s.fail("session", "initiator %d: connection %d ended (%v, in phase %v) and nobody had a reason", in.id, c.cid, c.link.why(), c.phase)
	}
	s.line("initiator %d.%d: connection lost (%s)", in.id, c.cid, c.excused)
	if in.phase == full {
		s.count(SessionsLost)
	}
	if c.joins && c.phase == loggingIn && len(in.conns) == 1 { // it was to save the session
		in.drop()
		return
	}
	if len(in.conns) > 1 && c.dropping && (!c.done || c.told) && c.phase != loggingIn {
		in.droppedByOrder()
		return
	}
	if len(in.conns) > 1 && !in.failing && !c.done && in.loggingOut(c) { // perhaps it is
		c.again = true
		in.driftOff()
		return
	}
	in.drop()
	switch {
	case len(in.conns) == 0:
	case in.stranded():
		in.abandon()
	case c.done:
	case c.phase == loggingIn:
		in.joinFailed(c)
	default:
		in.failSession("a connection of its session was lost")
	}
}

// drop forgets the connection.
func (in *initiator) drop() {
	c := in.conn
	if c.link == nil {
		return
	}
	c.link.close()
	c.link = nil
	in.conns = slices.DeleteFunc(in.conns, func(k *conn) bool { return k == c })
	if len(in.conns) == 0 && in.broken == nil {
		in.endSession()
	}
}

// dropAll forgets all connections.
func (in *initiator) dropAll() {
	if in.broken != nil && len(in.conns) == 0 {
		in.endSession()
	}
	in.broken = nil
	for len(in.conns) > 0 {
		if in.conn = in.conns[0]; in.phase == loggingIn {
			in.unsettled() // the target may go on with it
		}
		in.drop()
	}
}

// endSession puts the session's tasks aside. What was outstanding stays open in
// the books: the target may be at it still.
func (in *initiator) endSession() {
	for i := range in.units {
		in.letGo(i)
	}
	for _, t := range in.tasks {
		in.s.boxed = in.s.boxed || t.kind == kindManage && in.s.clk.T.Sub(t.at) >= 10*time.Second
	}
	in.old = append(in.old, in.tasks...)
	in.tasks, in.graves = in.tasks[:0], in.graves[:0]
	in.conn = newConn(uint16(in.id))
	in.replicas, in.broken, in.mended, in.keepers = in.replicas[:0], nil, false, nil
	in.adrift, in.unacked, in.failing = in.adrift[:0], in.unacked[:0], false
	clear(in.units)
	most := 2 * time.Millisecond
	if !in.s.stable() {
		most = 200 * time.Millisecond // it may take a while
	}
	in.wake = in.s.clk.T.Add(time.Duration(in.s.rng.IntN(int(most))))
	if in.penance.waits(in.s.clk.T) && in.s.rng.IntN(4) != 0 {
		in.wake = max(in.wake, in.penance.until)
	}
	if in.barred.by(in) && in.s.rng.IntN(2) == 0 {
		in.wake = in.wake.Add(time.Duration(in.s.rng.IntN(8)) * time.Second)
	}
}

// hangUp ends the connections at the end of the run.
func (in *initiator) hangUp() {
	in.next = in.total
	in.excuse("the end")
	in.dropAll()
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
