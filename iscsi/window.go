package iscsi

import (
	"spindle/internal/plant"
	"spindle/iscsi/pdu"
)

// verdict is what the command window says of a PDU (RFC 7143 §4.2.2.1).
type verdict uint8

const (
	inOrder   verdict = iota // the next CmdSN
	early                    // inside the window, a gap before it: held
	outside                  // outside the window, or held already: silently dropped
	immediate                // not counted
)

// judge tells what to do with a PDU that carries CmdSN sn; now says that it is
// for immediate delivery.
//
//spindle:hot
func (w *Window) judge(sn uint32, now bool) verdict {
	switch {
	case now, plant.On(plant.WindowIgnored) && pdu.SNLess(sn, w.ExpCmdSN):
		return immediate
	case sn == w.ExpCmdSN && !pdu.SNLess(w.MaxCmdSN, sn):
		return inOrder
	case pdu.SNLess(sn, w.ExpCmdSN) || pdu.SNLess(w.MaxCmdSN, sn):
		return outside
	default:
		return early
	}
}

// advertise opens the window to n commands from ExpCmdSN on; it never retreats.
//
//spindle:hot
func (w *Window) advertise(n uint32) {
	if m := w.ExpCmdSN + n - 1; pdu.SNLess(w.MaxCmdSN, m) || plant.On(plant.WindowRetreat) {
		w.MaxCmdSN = m
	}
}

// closedToPeer tells whether the initiator, by what it was told last, may send nothing.
func (w *Window) closedToPeer() bool { return pdu.SNLess(w.Told, w.ExpCmdSN) }
