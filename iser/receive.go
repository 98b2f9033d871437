package iser

import (
	"spindle/internal/plant"
	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
	"spindle/verbs"
)

// Receive buffers are spans of arena blocks: a message with a whole data
// segment and the longest AHS, rounded up to cache lines.
const (
	recvSize   = (headersLen + pdu.MaxAHS + MaxRecvData + 63) &^ 63
	loginBlock = 16 << 10
	recvBlock  = 128 << 10
	perBlock   = recvBlock / recvSize
)

// arrival is a message that the engine has not taken yet.
type arrival struct {
	index uint16
	len   uint32
}

// receiver posts receives and hands messages to the engine in order.
type receiver struct {
	c      *Conn
	blocks []mem.Ref // arena memory of bufs
	bufs   []mem.Ref
	posted int // receives the device has

	queue []arrival // a ring, oldest first; as long as bufs
	at, n int

	wantLogin bool // the engine waits for a login PDU
	stopped   bool // it wants no more: a farewell is queued
	blocked   bool // it had no room for pdu; it calls Resume
	holding   bool // pdu is the oldest arrival, decoded
	msg       message
	pdu       iscsi.PDU
}

// open posts the receive of login mode.
func (x *receiver) open() bool {
	b, ok := x.c.r.Arena.Alloc(loginBlock)
	if !ok {
		return false
	}
	x.blocks = append(x.blocks, b)
	x.bufs = append(x.bufs, b.Slice(0, recvSize))
	x.queue = make([]arrival, 1)
	x.wantLogin = true
	x.post(0)
	return true
}

// grow posts more receives, up to n in all.
func (x *receiver) grow(n int) bool {
	first := len(x.bufs)
	for len(x.bufs) < n {
		b, ok := x.c.r.Arena.Alloc(recvBlock)
		if !ok {
			return false // what there is goes back with the connection
		}
		x.blocks = append(x.blocks, b)
		for i := 0; i < perBlock && len(x.bufs) < n; i++ {
			x.bufs = append(x.bufs, b.Slice(uint32(i*recvSize), recvSize))
		}
	}
	queue := make([]arrival, len(x.bufs))
	for i := range x.n {
		queue[i] = x.queue[(x.at+i)%len(x.queue)]
	}
	x.queue, x.at = queue, 0
	for i := first; i < len(x.bufs); i++ {
		x.post(i)
	}
	return true
}

// post gives a buffer to the device, at the end of the turn or before.
//
//spindle:hot
func (x *receiver) post(i int) {
	c := x.c
	b := x.bufs[i]
	c.s.recv(c.qph, verbs.NewWRID(c.slot, c.gen, opRecv<<indexBits|uint16(i)),
		verbs.SGE{Addr: uint64(b.Addr), Len: b.Len, LKey: c.localKey(b.Region)})
	x.posted++
}

// localKey is the key of arena memory, which is always registered.
//
//spindle:hot
func (c *Conn) localKey(region uint32) uint32 {
	return uint32(c.dev.key(region))
}

// arrived takes the completion of a receive.
//
//spindle:hot
func (x *receiver) arrived(i uint16, n uint32) {
	x.posted--
	if x.c.step != stepOpen {
		return
	}
	x.queue[(x.at+x.n)%len(x.queue)] = arrival{index: i, len: n}
	x.n++
	x.pump()
}

// NextLogin implements iscsi.Conn.
func (c *Conn) NextLogin() {
	c.rx.wantLogin = true
	c.s.later(c)
}

// ready tells whether the engine may be handed a message now.
//
//spindle:hot
func (x *receiver) ready() bool {
	c := x.c
	switch {
	case x.n == 0 || x.blocked || x.stopped || c.step != stepOpen:
		return false
	case c.stream:
		return true
	}
	// Until ESTABLISHED nothing is answered: the peer's ready-to-use may be behind
	// its first message. After the final response messages wait for FullFeature.
	return x.wantLogin && c.established && !c.provisioned
}

// pump hands over what has arrived.
//
//spindle:hot
func (x *receiver) pump() {
	for x.ready() {
		if !x.holding && !x.decode() {
			return
		}
		if !x.c.h.Received(&x.pdu) {
			x.blocked = true
			return
		}
		x.done()
	}
}

// done gives the buffer of the oldest arrival back to the device. That happens
// in the turn in which the engine took the message, and a turn's receives are
// posted before its sends: no response overtakes the receive it makes room for.
//
//spindle:hot
func (x *receiver) done() {
	i := x.queue[x.at].index
	x.holding = false
	if x.at++; x.at == len(x.queue) {
		x.at = 0
	}
	x.n--
	if x.c.step == stepOpen && (!plant.On(plant.LostReceive) || i%2 == 0) {
		x.post(int(i))
	}
}

// decode checks the oldest arrival, asks the engine where its data goes, and
// puts it there. False: there is nothing to hand over.
//
//spindle:hot
func (x *receiver) decode() bool {
	c := x.c
	a := x.queue[x.at]
	if err := x.msg.parse(x.bufs[a.index].Slice(0, a.len).Bytes()); err != nil {
		return x.malformed(err)
	}
	m := &x.msg
	if !c.stream {
		x.wantLogin = false
	} else {
		if c.quiet {
			c.quiet = false
			c.s.later(c)
		}
		if m.bhs.Opcode() == pdu.DataOut && m.bhs.TTT() != pdu.ReservedTag {
			return x.malformed(errSolicited)
		}
	}
	if len(m.data) > MaxRecvData {
		return x.malformed(errLength)
	}
	x.pdu = iscsi.PDU{BHS: m.bhs, AHS: m.ahs, Cookie: m.cookie}
	c.s.decoding = c
	c.h.Header(&x.pdu)
	c.s.decoding = nil
	switch {
	case x.pdu.Close != nil:
		c.end(x.pdu.Close)
		return false
	case x.pdu.Stop:
		x.stopped = true
		return false
	}
	if n := min(uint32(len(m.data)), x.pdu.Data.Len); n > 0 {
		copy(x.pdu.Data.Slice(0, n).Bytes(), m.data)
	}
	x.holding = true
	return true
}

// malformed ends the connection for what the peer sent.
func (x *receiver) malformed(err error) bool {
	x.c.t.Stats.Malformed.Add(1)
	x.c.end(err)
	return false
}

// drop frees the buffers, at the end of the connection.
func (x *receiver) drop() {
	for _, b := range x.blocks {
		x.c.r.Arena.Free(b)
	}
	x.blocks, x.bufs, x.queue, x.n, x.posted = nil, nil, nil, 0, 0
}
