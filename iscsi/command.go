package iscsi

import (
	"spindle/internal/invariants"
	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
	"spindle/scsi"
)

// commandHeader claims the task of a SCSI command and decodes it far enough to
// say where its immediate data goes.
//
//spindle:hot
func (c *Connection) commandHeader(p *PDU) {
	s, b := c.sess, p.BHS
	_ = b[pdu.HeaderLen-1] // one check instead of one a field
	itt, sn := b.ITT(), b.CmdSN()
	c.verdict = s.window.judge(sn, b.Immediate())
	if s.nexus == nil {
		return // discovery session: rejected when it is whole
	}
	switch c.verdict {
	case early:
		if s.isHeld(sn) {
			c.verdict = outside
			return
		}
	case outside:
		return
	}
	if len(s.places) == 0 || c.verdict == immediate && uint32(len(s.places)) <= s.reserved() || s.lookup(itt) != nil {
		return // refused when it is whole
	}
	t := s.claim(c, itt, sn)
	t.fill(b, p.AHS)
	t.began, t.counts = c.sh.r.Now(), true
	t.reply.Cookie = p.Cookie
	n := b.DataLen()
	if c.verdict == early {
		c.earlyData(p, t, n)
		return
	}
	p.Ctx = t
	t.prepare(t.lun)
	t.stream = true
	if n == 0 || t.state != taskData || t.need == 0 {
		return
	}
	// Nothing may end or hold up the task before its data is on the disk, nor
	// Received refuse it: the receive buffer goes back.
	if n == t.need && t.final && !p.Here.Empty() && c.outCount >= outReserve &&
		s.params.immediateData && n <= s.params.firstBurst && t.SCSI.MayInline() {
		t.SCSI.Inline = true
		return
	}
	if !t.getBuffer() {
		t.full()
		return
	}
	p.Data = t.SCSI.Data.Slice(0, min(n, t.need))
}

// reserved is how many tasks the window still covers: an immediate command may
// not take one of those.
func (s *Session) reserved() uint32 { return s.window.MaxCmdSN - s.window.ExpCmdSN + 1 }

// fill copies the request part of a SCSI command (RFC 7143 §11.3).
//
//spindle:hot
func (t *Task) fill(b pdu.BHS, ahs []byte) {
	_ = b[pdu.HeaderLen-1]
	q := &t.SCSI
	fl := b.Flags()
	t.read, t.write = fl&pdu.FlagRead != 0, fl&pdu.FlagWrite != 0
	t.final = fl&pdu.FlagFinal != 0
	t.lun, t.edtl = b.LUN(), b.EDTL()
	t.gathered = gathered{}
	t.r2tWait = false
	t.badAHS, t.missed = false, false
	if len(ahs) == 0 {
		q.CDBLen = pdu.CDBLen
		*(*[pdu.CDBLen]byte)(q.CDB[:]) = [pdu.CDBLen]byte(b.CDB())
	} else {
		n, ok := pdu.CDBFromAHS(q.CDB[:], b, ahs)
		q.CDBLen, t.badAHS = uint8(n), !ok
	}
	q.Attr = scsi.Attr(fl & pdu.AttrMask)
	// What the device server says of it, Begin resets; its memory, release.
	switch {
	case t.read:
		q.EDTL, q.ExpDir = t.edtl, scsi.DataIn
	case t.write:
		q.EDTL, q.ExpDir = t.edtl, scsi.DataOut
	default:
		q.EDTL, q.ExpDir = 0, scsi.NoData
	}
}

// prepare hands the task to the device server for decoding. Afterwards it is in
// taskData (Ready), or has its status and is in taskExecuting.
//
//spindle:hot
func (t *Task) prepare(lun uint64) {
	t.sess.nexus.Begin(&t.SCSI, lun)
	if t.read && t.write || t.badAHS {
		t.SCSI.Refuse(scsi.IllegalRequest, scsi.InvalidFieldInCDB) // no bidirectional command is supported
		t.state = taskExecuting
		return
	}
	if t.SCSI.Prepare() == scsi.Done {
		t.state = taskExecuting
		return
	}
	if t.SCSI.Dir == scsi.DataOut && t.read && t.SCSI.Want > 0 {
		// R without W: no data comes, and what the buffer held before is nobody's to write.
		t.SCSI.Refuse(scsi.IllegalRequest, scsi.InvalidIUField)
		t.state = taskExecuting
		return
	}
	t.state = taskData
	if t.sess.rec != nil {
		t.SCSI.Lend = false // what may have to be sent again has to stay as it was
	}
	if t.SCSI.Dir == scsi.DataOut && t.write {
		t.need = min(t.SCSI.Want, t.edtl)
	}
}

// getBuffer allocates the command's memory, if it needs any.
//
//spindle:hot
func (t *Task) getBuffer() bool {
	n := t.bufferSize()
	if n == 0 || t.SCSI.Lend {
		return true
	}
	b, ok := t.sess.sh.alloc(n)
	t.SCSI.Data = b
	return ok
}

// full ends a task for want of memory (SAM-5 §5.3.1: the task was not entered).
func (t *Task) full() {
	t.sess.e.Stats.TaskSetFull.Add(1)
	t.sess.e.reached(limitMemory, t.sess.sh.r.Now(), "initiator", t.sess.initiator)
	t.SCSI.Status, t.SCSI.SenseLen, t.SCSI.DataLen = scsi.TaskSetFull, 0, 0
	t.state = taskExecuting
}

// commandReceived starts a SCSI command whose PDU is whole.
//
//spindle:hot
func (c *Connection) commandReceived(p *PDU) {
	s := c.sess
	if p.Ctx == nil {
		c.refuseCommand(p)
		return
	}
	t := p.Ctx
	t.stream = false
	c.n.Commands++
	if p.BadData && s.rec != nil && t.state != taskExecuting {
		c.discard(p.BHS, t)
		return
	}
	if s.shared && !c.rejudge(p.BHS) {
		c.unclaim(t)
		return
	}
	if c.verdict == inOrder {
		s.window.ExpCmdSN++
	}
	if t.state == taskDraining { // aborted meanwhile
		t.drained()
	} else if c.verdict == early {
		t.keep(p)
		s.hold(t)
		if s.shared {
			s.runHeld() // the gap may have been filled while its data came
		}
		return
	} else if t.SCSI.Inline {
		t.executeInline(p.Here)
	} else {
		if p.BadData {
			copy(t.bhs[:], p.BHS)
		}
		t.arrived(p.BHS.DataLen(), p.BadData)
	}
	if c.verdict == inOrder && (s.held != nil || len(s.skipped) > 0) {
		s.runHeld()
	}
	c.sh.r.NoteIO()
}

// refuseCommand answers a SCSI command that got no task.
func (c *Connection) refuseCommand(p *PDU) {
	s := c.sess
	switch {
	case s.nexus == nil:
		if c.verdict == inOrder {
			s.window.ExpCmdSN++
			s.runHeld()
		}
		c.reject(p.BHS, pdu.RejectProtocol)
	case c.verdict == outside || c.verdict == early:
		c.dropped() // RFC 7143 §4.2.2.1: silently ignored
	case s.lookup(p.BHS.ITT()) != nil:
		if c.verdict == inOrder {
			s.window.ExpCmdSN++
			s.runHeld()
		}
		c.reject(p.BHS, pdu.RejectTaskInProgress)
	default:
		c.e.reached(limitTasks, c.sh.r.Now(), "peer", c.peer)
		c.reject(p.BHS, pdu.RejectImmediate)
	}
	s.openWindow()
}

// discard drops a command whose data digest is wrong: the initiator sends it again
// under the same CmdSN (RFC 7143 §7.8, §7.2.1).
func (c *Connection) discard(b pdu.BHS, t *Task) {
	c.reject(b, pdu.RejectDataDigest)
	c.sess.unfile(t)
	t.release()
}

// dropped counts a PDU outside the command window.
func (c *Connection) dropped() {
	c.e.Stats.Dropped.Add(1)
	c.e.reached(limitTasks, c.sh.r.Now(), "peer", c.peer)
}

// arrived goes on with a task whose command PDU, with n bytes of immediate
// data, is whole.
//
//spindle:hot
func (t *Task) arrived(n uint32, bad bool) {
	if t.state == taskExecuting { // ended by Prepare, or for want of memory
		t.respond()
		return
	}
	if t.need > 0 || n > 0 {
		if !t.immediateData(n, bad) {
			return
		}
	}
	if t.need == 0 {
		t.final = true // whatever its F bit says, it waits for no data
	}
	if t.SCSI.Data.Empty() && !t.getBuffer() {
		t.starve()
		return
	}
	t.buffered()
}

// immediateData accounts for data that came with the command (RFC 7143
// §11.3.4). False: the task has been answered.
func (t *Task) immediateData(n uint32, bad bool) bool {
	s := t.sess
	switch {
	case bad:
		t.conn.reject(t.bhs[:], pdu.RejectDataDigest)
		t.abortWith(scsi.ProtocolCRC)
		return false
	case n > 0 && !s.params.immediateData, n > s.params.firstBurst:
		t.abortWith(scsi.UnexpectedUnsolicited)
		return false
	case n > 0 && (!t.write || n > t.edtl):
		t.abortWith(scsi.IncorrectDataAmount)
		return false
	case !t.final && s.params.initialR2T:
		t.final = true // the F bit must be 1 then; taken as it is meant
	}
	if t.final {
		t.got = min(n, t.need)
		t.asked = t.got
		return true
	}
	// Unsolicited Data-Out PDUs follow, up to FirstBurstLength in all.
	t.got = n
	t.burstEnd = min(s.params.firstBurst, t.edtl)
	return true
}

// starve waits for a buffer, if the queue has room and nothing will come that
// has to be put somewhere.
func (t *Task) starve() {
	if t.need > 0 && !t.final {
		t.full()
		t.respond()
		return
	}
	t.state = taskBuffer
	if !t.sess.sh.wait(t) {
		t.full()
		t.respond()
	}
}

// buffered goes on with a task that has its memory: to the device server, or to
// the initiator for data.
//
//spindle:hot
func (t *Task) buffered() {
	t.state = taskData
	if t.got >= t.need && t.final {
		t.execute()
		return
	}
	if t.final {
		t.solicit()
	}
}

// execute runs the command.
//
//spindle:hot
func (t *Task) execute() {
	t.state = taskExecuting
	q := &t.SCSI
	q.Live = q.MayLive && t.conn.prompt != nil && t.sess.rec == nil && !t.sess.shared
	if q.Execute() == scsi.Done {
		t.executed()
	}
}

// executeInline runs a WRITE whose data is nobody's afterwards: the transport receives
// into it.
//
//spindle:hot
func (t *Task) executeInline(data mem.Ref) {
	t.got, t.asked = t.need, t.need
	t.state = taskExecuting
	q := &t.SCSI
	q.Data = data
	r := q.Execute()
	if plant.On(plant.StaleReceive) && r == scsi.Waiting {
		q.Lend = true
		return
	}
	q.Data = mem.Ref{}
	invariants.Check(r == scsi.Done, "iscsi: a WRITE waits in its receive buffer")
	t.executed()
}

// executed takes the result of the device server.
//
//spindle:hot
func (t *Task) executed() {
	if t.SCSI.Aborted() && t.SCSI.Status != scsi.TaskAborted || t.conn.phase != phaseFull {
		t.orphaned()
		return
	}
	t.respond()
}

// abortWith ends a task in the gathering stage with ABORTED COMMAND (RFC 7143 §11.4.7.2).
func (t *Task) abortWith(code scsi.Code) {
	t.SCSI.Refuse(scsi.AbortedCommand, code)
	t.respond()
}

// respond queues the task's response.
//
//spindle:hot
func (t *Task) respond() {
	q, p := &t.SCSI, &t.reply
	t.state = taskResponding
	t.sess.unfile(t)
	t.sess.openWindow() // the response itself tells
	p.ITT, p.Status, p.Response = t.itt, uint8(q.Status), 0
	p.Data, p.Sense, p.Live = mem.Ref{}, mem.Ref{}, false
	// Bytes the command moves, or would. One that fails has moved nothing that
	// counts: its residual is the whole expected length, whatever of its data came
	// (RFC 7143 §11.4.5.1 leaves open which; Linux takes what is not residual for
	// written when sense names a later block).
	moved := uint32(0)
	switch {
	case q.Status == scsi.CheckCondition || q.SenseLen > 0:
		t.putSense()
		if q.Dir == scsi.DataOut && q.Want > t.edtl {
			moved = q.Want // the expected length was too short, whatever else was wrong
		}
	case q.Dir == scsi.DataIn:
		moved = q.DataLen
		if t.read {
			if n := min(moved, t.edtl); n > 0 {
				p.Data = t.dataIn(n)
			}
		}
	case q.Dir == scsi.DataOut && q.Status == scsi.Good:
		moved = q.Want
	}
	exp := t.edtl
	if !t.read && !t.write {
		exp = 0
	}
	switch {
	case moved > exp:
		p.Flags, p.Residual = pdu.FlagOverflow, moved-exp
	case moved < exp:
		p.Flags, p.Residual = pdu.FlagUnderfl, exp-moved
		if plant.On(plant.WrongResidual) {
			p.Residual++
		}
	default:
		p.Flags, p.Residual = 0, 0
	}
	if !q.Lend && !p.Live && q.View != nil { // nil: aborted while a segment streamed in
		// For the device server the task is over: a reset does not wait for an
		// initiator that does not read.
		q.End()
		q.View = nil
	}
	if t.sess.rec != nil {
		t.cut()
	}
	if t.sess.shared && t.fenced() {
		return
	}
	t.conn.tp.Respond(p)
}

// dataIn is where the first n bytes of the data lie that the command has read.
//
//spindle:hot
func (t *Task) dataIn(n uint32) mem.Ref {
	q := &t.SCSI
	if q.Medium.Empty() {
		return q.Data.Slice(0, n)
	}
	// A session that has become one of several connections, or keeps what it
	// sends, may send it later.
	if !t.sess.shared && t.conn.prompt.Prompt(n) {
		t.reply.Live = true
		return q.Medium.Slice(0, n)
	}
	q.Settle(0)
	return q.Data.Slice(0, n)
}

// Settle implements Settler.
func (t *Task) Settle(p *Reply, from uint32) {
	q := &t.SCSI
	q.Settle(from)
	p.Data, p.Live = q.Data.Slice(0, p.Data.Len), false
	q.End()
	q.View = nil
}

// putSense writes SenseLength and the sense data into the response's slot (RFC
// 7143 §11.4.7).
func (t *Task) putSense() {
	q, o := &t.SCSI, &t.reply.Out
	n := uint32(q.SenseLen)
	if n == 0 {
		return
	}
	b := o.Slot.Slice(SlotData, 2+n)
	w := b.Bytes()
	w[0], w[1] = byte(n>>8), byte(n)
	copy(w[2:], q.Sense[:n])
	t.reply.Sense = b
}

// earlyData gives a held command's immediate data a place until its turn.
func (c *Connection) earlyData(p *PDU, t *Task, n uint32) {
	t.state, t.stream, p.Ctx = taskHeld, true, t
	if n == 0 {
		return
	}
	b, ok := c.sh.alloc(n)
	// Without memory it is answered TASK SET FULL when its turn has come. Dropped,
	// it would leave a gap that no initiator of ErrorRecoveryLevel 0 ever fills.
	t.unkept = !ok
	t.SCSI.Data, p.Data = b, b
}

// keep copies the header of a PDU that has to wait for its turn.
func (t *Task) keep(p *PDU) {
	copy(t.bhs[:], p.BHS)
	t.SCSI.SenseLen = 0
	if p.BadData {
		t.dropBuffer()
	}
}

// resumeHeld runs a PDU whose turn has come.
func (c *Connection) resumeHeld(t *Task) {
	b := pdu.BHS(t.bhs[:])
	if t.raw {
		c.resumeOther(t)
		return
	}
	early := t.SCSI.Data
	n := b.DataLen()
	t.final = t.final || t.missed // what it missed is asked for (RFC 7143 §11.8), the rest not waited for
	t.SCSI.Data = mem.Ref{}
	t.prepare(b.LUN())
	if n > 0 && t.state == taskData && t.need > 0 {
		if !t.unkept && t.getBuffer() {
			m := min(n, t.need, early.Len)
			copy(t.SCSI.Data.Slice(0, m).Bytes(), early.Slice(0, m).Bytes())
		} else {
			t.full()
		}
	}
	bad := n > 0 && early.Empty() && !t.unkept
	t.unkept = false
	if !early.Empty() {
		c.sh.free(early)
	}
	t.arrived(n, bad)
}
