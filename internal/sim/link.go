package sim

import (
	"net/netip"

	"spindle/iscsi/pdu"
	"spindle/reactor/ring/simring"
)

// link is how an initiator's PDUs travel: over TCP or over iSER. Its owner is
// the initiator's connection, which tells it of what arrives by message and lost.
type link interface {
	// ready tells whether receive would do something.
	ready() bool
	// queued tells whether flush has something left to do, and writable whether
	// it would get any further.
	queued() bool
	writable() bool
	flush()
	receive()

	// send queues a PDU, command one whose task moves data: of what it writes,
	// the bytes from t.asked on have to be fetched.
	send(b pdu.BHS, data []byte)
	command(t *task, b pdu.BHS, data []byte)
	// room tells whether two more commands may be sent.
	room() bool
	// answered checks what a command's answer says about the data that moved,
	// and ended that its task is over: the target must leave its memory alone.
	answered(t *task, b pdu.BHS)
	ended(t *task)

	// The ways to end it: in order, by half, at once, and without a word.
	close()
	halfClose()
	reset()
	vanish()
	// why is the error it ended with, nil for an orderly end.
	why() error
}

// tcpLink is a connection of the simulated kernel.
type tcpLink struct {
	in   *initiator
	c    *conn
	peer *simring.Peer
	tx   []byte
	rx   []byte
	rxAt int
}

// dialTCP opens a connection over TCP.
func (in *initiator) dialTCP(p portal) error {
	peer, err := in.s.w.DialFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(in.id + 1)}), p.addr)
	if err != nil {
		return err
	}
	l := &in.tcp
	*l = tcpLink{in: in, c: in.conn, peer: peer, tx: l.tx[:0], rx: l.rx[:0]}
	in.take(l)
	in.s.conns[peer.ID()] = in
	if in.s.cfg.Trace {
		in.s.line("initiator %d: connection %d to portal %d, ISID %x", in.id, peer.ID(), p.tag, in.isid)
	}
	return nil
}

func (l *tcpLink) ready() bool    { return l.peer.Readable() > 0 || l.over() }
func (l *tcpLink) over() bool     { return l.peer.EOF() || l.peer.Err() != nil }
func (l *tcpLink) queued() bool   { return len(l.tx) > 0 }
func (l *tcpLink) writable() bool { return l.peer.Writable() > 0 }
func (l *tcpLink) halfClose()     { l.peer.CloseWrite() }
func (l *tcpLink) reset()         { l.peer.Reset() }
func (l *tcpLink) vanish()        { l.peer.Vanish() }
func (l *tcpLink) why() error     { return l.peer.Err() }

func (l *tcpLink) close() {
	l.peer.Close()
	delete(l.in.s.conns, l.peer.ID())
}

func (l *tcpLink) room() bool              { return true }
func (l *tcpLink) answered(*task, pdu.BHS) {}
func (l *tcpLink) ended(*task)             {}

// flush gives the connection what it takes.
func (l *tcpLink) flush() {
	if len(l.tx) == 0 {
		return
	}
	if l.peer.WriteClosed() {
		l.tx = l.tx[:0]
		return
	}
	n := l.peer.Write(l.tx)
	l.tx = l.tx[:copy(l.tx, l.tx[n:])]
}

// receive takes what has arrived and deals with each whole PDU.
func (l *tcpLink) receive() {
	in := l.in
	in.conn = l.c
	for l.c.link != nil && !in.s.failed() {
		n := l.peer.Readable()
		if n == 0 {
			break
		}
		if l.rxAt > 0 {
			l.rx = l.rx[:copy(l.rx, l.rx[l.rxAt:])]
			l.rxAt = 0
		}
		at := len(l.rx)
		l.rx = append(l.rx, make([]byte, n)...)
		l.rx = l.rx[:at+l.peer.Read(l.rx[at:])]
		for l.c.link != nil && !in.s.failed() && l.parse() {
		}
	}
	if l.c.link != nil && l.over() {
		in.lost()
	}
}

// digests tells which digests are in force.
func (l *tcpLink) digests() (header, data bool) {
	p := &l.c.prm
	return p.headerDigest && l.c.phase != loggingIn, p.dataDigest && l.c.phase != loggingIn
}

// parse takes one PDU off what was received, false when there is no whole one.
func (l *tcpLink) parse() bool {
	in, rx := l.in, l.rx[l.rxAt:]
	if len(rx) < pdu.HeaderLen {
		return false
	}
	b := pdu.BHS(rx[:pdu.HeaderLen:pdu.HeaderLen])
	hd, dd := l.digests()
	at := uint32(pdu.HeaderLen)
	if hd {
		at += pdu.DigestLen
	}
	dl := b.DataLen()
	n := at + pdu.Padded(dl)
	if dl > l.c.prm.maxRecv && l.c.phase != loggingIn {
		in.bad("framing", "data segment of %d bytes, we take %d: % x", dl, in.prm.maxRecv, b)
		return false
	}
	if dd && dl > 0 {
		n += pdu.DigestLen
	}
	if uint32(len(rx)) < n {
		return false
	}
	l.rxAt += int(n)
	if hd && pdu.GetDigest(rx[pdu.HeaderLen:]) != pdu.Digest(b) {
		in.bad("digest", "header digest of % x", b)
	}
	end := at + pdu.Padded(dl)
	if dd && dl > 0 && pdu.GetDigest(rx[end:]) != pdu.Digest(rx[at:end]) {
		in.bad("digest", "data digest of % x", b)
	}
	for _, x := range rx[at+dl : end] {
		if x != 0 {
			in.bad("framing", "padding is not zero: % x", b)
		}
	}
	in.message(b, rx[at:at+dl])
	return true
}

// send implements link, with the digests in force.
func (l *tcpLink) send(b pdu.BHS, data []byte) {
	at := len(l.tx)
	l.tx = append(l.tx, b...)
	hd, dd := l.digests()
	if hd {
		l.tx = le.AppendUint32(l.tx, pdu.Digest(l.tx[at:]))
	}
	if len(data) == 0 {
		return
	}
	at = len(l.tx)
	l.tx = append(append(l.tx, data...), pdu.PadBytes(uint32(len(data)))...)
	if dd {
		l.tx = le.AppendUint32(l.tx, pdu.Digest(l.tx[at:]))
	}
}

func (l *tcpLink) command(_ *task, b pdu.BHS, data []byte) { l.send(b, data) }

// corrupt changes a bit of what is queued; a negative place counts from the end.
func (l *tcpLink) corrupt(at int, bit byte) {
	if at < 0 {
		at += len(l.tx)
	}
	l.tx[at] ^= bit
}
