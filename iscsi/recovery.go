package iscsi

import (
	"slices"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
)

// MaxRetainedStatus is how many responses other than those of SCSI commands a
// connection keeps for Status SNACK; the oldest goes first.
const MaxRetainedStatus = 64

// recovery is what a session of ErrorRecoveryLevel 1 or 2 knows of its tasks
// beyond what level 0 needs. Its records are by task index.
type recovery struct {
	tasks []record
	bytes uint64 // of data that answered commands keep
	count uint32 // of such commands
	lost  []*lostConn
}

// record is what recovery knows of one task. It belongs to the command whose
// generation it has.
type record struct {
	gen    uint32
	held   bool // on its connection's list
	acked  bool // acknowledged while a copy of it was on its way
	apart  bool // the status is a PDU of its own although there is no sense
	busy   int  // copies on their way
	statSN uint32
	next   *Task // of the connection's list, in order of StatSN

	// How the data was cut into PDUs: from DataSN baseSN at offset baseOff on, in
	// pieces of segment bytes.
	segment         uint32
	maxBurst        uint32
	baseSN, baseOff uint32
	ackedSN         uint32 // DataACK: the initiator has what comes before
	resent          uint64 // bytes sent again
	answers         uint32 // responses and R2Ts sent again

	r2tSN, r2tOff, r2tLen uint32 // the R2T outstanding; r2tLen 0 when none is
}

// keptStatus is a response that is no command's, for Status SNACK.
type keptStatus struct {
	bhs    [pdu.HeaderLen]byte
	small  [SlotDataSize]byte
	n      uint32
	buf    mem.Ref // its data segment, where it is not small
	resent uint32
	busy   int
	acked  bool
}

// connRecovery is a connection's part.
type connRecovery struct {
	head, tail *Task         // answered and not acknowledged, by StatSN
	statuses   []*keptStatus // likewise
	forgotten  uint32        // StatSNs before it may be kept no longer
	asked      []snack       // not yet served
	serving    bool          // they are being served
}

// newRecovery makes the records of a session's tasks.
func newRecovery(n int) *recovery { return &recovery{tasks: make([]record, n)} }

// record returns t's record, a new one when the last was another command's.
func (t *Task) record() *record {
	k := &t.sess.rec.tasks[t.index]
	if k.gen != t.gen || k.segment == 0 {
		*k = record{gen: t.gen, segment: t.conn.sendLimit(), maxBurst: t.sess.params.maxBurst}
	}
	return k
}

// cut settles how the data of t's response is cut: what the initiator declares
// from here on changes nothing of it, or a DataSN would not tell what it stands for.
func (t *Task) cut() {
	k := t.record()
	k.segment = t.conn.sendLimit()
	t.reply.Segment = k.segment
}

// retain keeps a command whose response has left until it is acknowledged, for
// SNACK and, at level 2, for another connection. False: it is not to be kept.
func (s *Session) retain(t *Task) bool {
	c := t.conn
	if plant.On(plant.RetainedForgotten) && t.itt%4 == 1 {
		return false
	}
	if s.ending || c.leaving || c.phase != phaseFull && !c.recover {
		return false
	}
	k := t.record()
	k.statSN = t.reply.Out.BHS.StatSN()
	if !t.reply.Unsent && pdu.SNLess(k.statSN, c.acked) {
		return false // the acknowledgement overtook the completion of the send
	}
	t.state, k.held = taskRetained, true
	k.next = nil
	if c.rec.tail == nil {
		c.rec.head = t
	} else {
		c.rec.tail.record().next = t
	}
	c.rec.tail = t
	s.rec.bytes += uint64(t.SCSI.Data.Len)
	s.rec.count++
	c.boundRetained()
	c.serveSNACKs()
	s.openWindow() // its PDUs may have left with an older one
	return true
}

// boundRetained gives up the oldest of what c keeps, as far as that is too much.
func (c *Connection) boundRetained() {
	s := c.sess
	limit := uint64(s.e.inventory.Load().opt.MaxRetainedData)
	for s.rec.count > s.depth || len(c.rec.statuses) > MaxRetainedStatus || limit > 0 && s.rec.bytes > limit {
		if !c.giveUp() {
			return
		}
		s.e.reached(limitRetained, s.sh.r.Now(), "initiator", s.initiator)
	}
}

// giveUp lets go of the oldest response that c keeps. False: there is none.
func (c *Connection) giveUp() bool {
	t, list := c.rec.head, c.rec.statuses
	switch {
	case len(list) > 0 && (t == nil || pdu.SNLess(list[0].statSN(), t.record().statSN)):
		c.forgetUpTo(list[0].statSN())
		c.releaseStatuses(list[0].statSN() + 1)
	case t != nil:
		c.forgetUpTo(t.record().statSN)
		c.sess.unretain(c, t)
	default:
		return false
	}
	return true
}

// forgetUpTo notes that a response is kept no longer, and perhaps none before it.
func (c *Connection) forgetUpTo(sn uint32) {
	if !pdu.SNLess(sn, c.rec.forgotten) {
		c.rec.forgotten = sn + 1
	}
}

// unretain lets the oldest answered command of c go.
func (s *Session) unretain(c *Connection, t *Task) {
	k := t.record()
	c.rec.head, k.next = k.next, nil
	if c.rec.head == nil {
		c.rec.tail = nil
	}
	k.held = false
	s.rec.bytes -= uint64(t.SCSI.Data.Len)
	s.rec.count--
	if k.busy > 0 {
		k.acked = true
		return
	}
	t.release()
}

// copying keeps a task that is not to be retained while copies of it are on their
// way: they use its memory.
func (t *Task) copying() bool {
	k := t.record()
	if k.busy == 0 {
		return false
	}
	t.state, k.acked = taskRetained, true
	return true
}

// sentAgain is told that a copy of t's data or response has left.
func (t *Task) sentAgain() {
	k := t.record()
	if k.busy--; k.busy == 0 && k.acked {
		t.release()
	}
}

// retainStatus keeps a response of the connection's own.
func (c *Connection) retainStatus(m *miscOut) {
	k := &keptStatus{n: m.Data.Len, buf: m.buf}
	copy(k.bhs[:], m.BHS)
	m.buf = mem.Ref{}
	if k.buf.Empty() && k.n <= SlotDataSize && k.n > 0 {
		copy(k.small[:], m.Data.Bytes())
	}
	c.rec.statuses = append(c.rec.statuses, k)
	c.sess.rec.bytes += uint64(k.buf.Len)
	if pdu.SNLess(k.statSN(), c.acked) {
		c.releaseStatuses(c.acked)
	}
	c.boundRetained()
}

func (k *keptStatus) statSN() uint32 { return pdu.BHS(k.bhs[:]).StatSN() }

// releaseStatuses lets go of responses before sn.
func (c *Connection) releaseStatuses(sn uint32) {
	list := c.rec.statuses
	for len(list) > 0 && pdu.SNLess(list[0].statSN(), sn) {
		k := list[0]
		list = list[1:]
		if k.acked = true; k.busy == 0 {
			k.drop(c)
		}
	}
	c.rec.statuses = append(c.rec.statuses[:0], list...)
}

func (k *keptStatus) drop(c *Connection) {
	if !k.buf.Empty() {
		c.sess.rec.bytes -= uint64(k.buf.Len)
		c.sh.free(k.buf)
		k.buf = mem.Ref{}
	}
}

// releaseAcked lets go of what the initiator has acknowledged.
func (c *Connection) releaseAcked() {
	for t := c.rec.head; t != nil && pdu.SNLess(t.record().statSN, c.acked); t = c.rec.head {
		c.sess.unretain(c, t)
	}
	if len(c.rec.statuses) > 0 {
		c.releaseStatuses(c.acked)
	}
}

// dropRetained lets go of all that c keeps, acknowledged or not.
func (c *Connection) dropRetained() {
	for c.rec.head != nil {
		c.sess.unretain(c, c.rec.head)
	}
	c.dropStatuses()
}

// dropStatuses lets go of the connection's own responses, which no other
// connection can send again.
func (c *Connection) dropStatuses() {
	for _, k := range c.rec.statuses {
		k.drop(c)
	}
	c.rec.statuses, c.rec.asked = nil, nil
}

// reclaim gives up the oldest response of a session that keeps data, for memory
// that a command needs now. False: there is none.
func (s *shard) reclaim() bool {
	for _, c := range s.conns {
		if c.rec != nil && (c.rec.head != nil || slices.ContainsFunc(c.rec.statuses, func(k *keptStatus) bool { return !k.buf.Empty() })) {
			return c.giveUp()
		}
	}
	return false
}

// dropPDU is about a Data-Out PDU that is not to be used: what it brought is asked
// for again when its sequence is over.
func (t *Task) dropPDU(b pdu.BHS) {
	if b.Final() && !plant.On(plant.RecoverySkipped) {
		t.recoverBurst()
	}
}

// recoverBurst asks again for the part of a sequence that was dropped, once the
// sequence is over (RFC 7143 §7.8, the recovery R2T).
func (t *Task) recoverBurst() {
	k := t.record()
	k.r2tLen = 0
	t.dataSN = 0
	if t.final && t.r2ts > 0 { // none when the R2T itself still waits for its turn
		t.r2ts--
	}
	t.final = true
	t.got = min(t.got, t.need)
	t.asked = t.got
	t.sess.e.Stats.RecoveryR2Ts.Add(1)
	if t.got == t.need { // nothing that the command takes is missing
		t.execute()
		return
	}
	t.solicit()
}
