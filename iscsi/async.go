package iscsi

import (
	"fmt"
	"slices"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/scsi"
)

// AsyncMessage is an Asynchronous Message that an operator orders (RFC 7143
// §11.9).
type AsyncMessage struct {
	Event pdu.AsyncEvent
	LUN   uint16 // AsyncSCSI
	// Key, ASC and ASCQ are the sense data of AsyncSCSI.
	Key, ASC, ASCQ uint8
	CID            uint16 // AsyncDropConnection: the connection
	Seconds        uint16 // AsyncRenegotiate: how long the initiator has
}

// SendAsync has the sessions of a node told something, and done what is told:
// a connection or a session that is said to be dropped is.
func (e *Engine) SendAsync(c reactor.Caller, name string, m AsyncMessage) error {
	if e.inventory.Load().node(name) == nil {
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	switch m.Event {
	case pdu.AsyncSCSI, pdu.AsyncDropConnection, pdu.AsyncDropSession, pdu.AsyncRenegotiate:
	default:
		return fmt.Errorf("async event %d: %w", m.Event, ErrInvalid)
	}
	c.Await(e.registry.r, func(done func()) {
		e.registry.each(ofNode(name), func(s *Session) { s.sendAsync(&m) })
		done()
	})
	return nil
}

// sendAsync is SendAsync on one session.
func (s *Session) sendAsync(m *AsyncMessage) {
	c, q := s.serving(nil), &s.params
	if c == nil || plant.On(plant.AsyncLost) && m.Event != pdu.AsyncDropSession && m.Event != pdu.AsyncDropConnection {
		return
	}
	switch m.Event {
	case pdu.AsyncSCSI:
		sense := [20]byte{1: 18, 2: 0x70, 4: m.Key & 15, 9: 10, 14: m.ASC, 15: m.ASCQ}
		c.sendEvent(m.Event, scsi.EncodeLUN(m.LUN), sense[:], 0, 0, 0)
	case pdu.AsyncRenegotiate:
		for _, k := range s.conns {
			if k.phase == phaseFull {
				k.async(m.Event, 0, 0, m.Seconds)
				if plant.On(plant.AsyncTwice) {
					k.async(m.Event, 0, 0, m.Seconds)
				}
			}
		}
	case pdu.AsyncDropConnection:
		k := s.byCID(m.CID)
		switch {
		case k == nil || k.phase != phaseFull:
		case len(s.conns) == 1:
			s.fail()
		default:
			if o := s.serving(k); o != nil {
				o.async(m.Event, k.cid, q.time2Wait, q.time2Retain)
			}
			if !plant.On(plant.DropForgotten) {
				k.retire(errOrdered)
			}
		}
	case pdu.AsyncDropSession:
		s.fail()
	}
}

// serving is a connection in full feature phase, another than but; nil if there is
// none. The first of a session may be on its way out.
func (s *Session) serving(but *Connection) *Connection {
	for _, c := range s.conns {
		if c != but && c.phase == phaseFull {
			return c
		}
	}
	return nil
}

// async queues an Asynchronous Message without data.
func (c *Connection) async(event pdu.AsyncEvent, p1, p2, p3 uint16) {
	c.sendEvent(event, 0, nil, p1, p2, p3)
}

// sendEvent queues an Asynchronous Message (RFC 7143 §11.9). data is small.
func (c *Connection) sendEvent(event pdu.AsyncEvent, lun uint64, data []byte, p1, p2, p3 uint16) {
	c.withOut(func(o *Out) {
		b := o.BHS
		b.Clear(pdu.AsyncMessage)
		b.SetFlags(pdu.FlagFinal)
		b.SetLUN(lun)
		b.SetITT(pdu.ReservedTag)
		b.SetAsync(event, 0)
		b.SetParam1(p1)
		b.SetParam2(p2)
		b.SetParam3(p3)
		if len(data) > 0 {
			o.Small(data)
		}
		o.Stamp = StampNext
		c.tp.Queue(o)
	})
}

// toldEnd is that all tasks of a unit up to one of the session's commands end.
type toldEnd struct {
	lun uint64
	gen uint32
}

// terminated tells the initiator that t ends with others, by a task set function or a
// reset, on a session that negotiated FastAbort (RFC 7143 §4.2.3.4, d, and §11.9.1,
// event 5): it stops the Data-Out of its active tasks on that LUN. TASK ABORTED may
// follow or not. One message a LUN, however many tasks end with it; none on the
// connection that gave the order, the response to which tells.
func (c *Connection) terminated(t *Task) {
	s := c.sess
	if !s.fastAbort || plant.On(plant.TerminatedUntold) || s.ending || c.phase != phaseFull || c.onQuiet != nil {
		return
	}
	switch t.state {
	case taskHeld, taskBuffer, taskData, taskExecuting:
	default:
		return // its end is under way
	}
	if slices.ContainsFunc(s.sets, func(f *setFunction) bool { return f.c == c && f.concerns(t) && f.covers(t) }) ||
		slices.ContainsFunc(c.told, func(e toldEnd) bool { return e.lun == t.lun && int32(t.gen-e.gen) <= 0 }) {
		return
	}
	if len(c.told) == 0 {
		post(c.sh.r, func() { c.told = c.told[:0] })
	}
	c.told = append(c.told, toldEnd{t.lun, s.gen})
	c.sendEvent(pdu.AsyncTasksTerminated, t.lun, nil, 0, 0, 0)
}

// terminating is scsi.Nexus.OnAbort. Of a part of a task its whole tells.
func terminating(q *scsi.Task) {
	if t, ok := q.Owner.(*Task); ok {
		t.conn.terminated(t)
	}
}
