package sim

import (
	"errors"
	"fmt"
	"net/netip"

	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
	"spindle/verbs"
	"spindle/verbs/memverbs"
)

// What an initiator has, as ib_iser and libiscsi do.
const (
	iserHeader  = 28
	headersLen  = iserHeader + pdu.HeaderLen
	loginRecv   = headersLen + 8192
	fullRecv    = headersLen + 128
	loginRecvs  = 8
	fullRecvs   = 128
	sendSlots   = 64
	dataSlots   = 72
	sendSlot    = 16 << 10
	dataSlot    = 72 << 10
	hostMemory  = 8 << 20
	reserveLeft = 6 // receives of the target beyond its window that nobody may do without
)

// rdmaLink is a connection over the fabric, from an initiator's machine with a
// device of its own. Its memory is laid out once; the target reaches only what
// a command advertises.
type rdmaLink struct {
	in     *initiator
	node   *memverbs.Node
	region *mem.Region
	batch  *verbs.Batch
	wcs    []verbs.WC
	sends  []uint32 // free send slots
	datas  []uint32 // free data slots

	dev   verbs.Device
	pd    verbs.PD
	mr    verbs.MR
	ch    verbs.CompChannel
	cq    verbs.CQ
	ec    verbs.EventChannel
	id    verbs.ID
	qp    verbs.QP
	to    netip.AddrPort
	reads uint8  // RDMA READs we serve
	peer  uint32 // number of the target's queue pair

	woken      bool
	up, down   bool
	asks       bool // for Send with Invalidate
	invalidate bool // negotiated
	full       bool // full feature phase, and its receives are posted
	spoken     bool // ... and our first PDU of it sent
	cause      error
	inv        uint32   // key that the message at hand has invalidated, 0 for none
	tx         [][]byte // messages that wait for a slot
	log        []sentPDU
}

// sentPDU is a message that the target has not certainly taken yet.
type sentPDU struct {
	itt   uint32
	extra bool // it does not count in the command window
}

// buffer is what a command advertises of the initiator's memory.
type buffer struct {
	ref   mem.Ref
	slot  uint32
	mr    verbs.MR
	read  uint32 // keys, 0 for none
	write uint32
}

// canary fills read buffers before the target writes them.
const canary = 0xA5

// setUp lays the memory of initiator in's machine out.
func (l *rdmaLink) setUp(in *initiator, region *mem.Region) {
	l.in, l.region = in, region
	l.node = in.s.fab.w.NewNode()
	l.node.AddDevice("mlx0", netip.AddrFrom4([4]byte{10, 0, 0, byte(in.id + 1)}))
	at := uint64(0)
	take := func(n uint32) mem.Ref {
		r := region.Ref(at, n)
		at += uint64(n+4095) &^ 4095
		return r
	}
	n, m := verbs.BatchSize(1, 1, 1), verbs.CompletionsSize(32)
	l.batch, l.wcs = verbs.NewBatch(take(n), 1, 1, 1), verbs.NewCompletions(take(m), 32)
}

// Places in the region: receives, send slots, data slots.
const (
	recvsAt = 64 << 10
	sendsAt = recvsAt + 256<<10
	datasAt = sendsAt + sendSlots*sendSlot
)

// dialRDMA begins to connect over the fabric.
func (in *initiator) dialRDMA(p portal) error {
	l, r := &in.rdma, in.dice
	*l = rdmaLink{in: in, node: l.node, region: l.region, batch: l.batch, wcs: l.wcs,
		sends: l.sends[:0], datas: l.datas[:0], tx: l.tx[:0], log: l.log[:0], to: p.addr}
	for i := range uint32(sendSlots) {
		l.sends = append(l.sends, sendSlots-1-i)
	}
	for i := range uint32(dataSlots) {
		l.datas = append(l.datas, dataSlots-1-i)
	}
	l.batch.Reset()
	l.reads, l.asks = pick(r, uint8(1), 2, 4, 16), r.IntN(3) != 0
	devs, err := l.node.Devices()
	if err != nil {
		return err
	}
	l.dev = devs[0]
	l.pd, err = l.dev.NewPD()
	in.s.must(err)
	l.mr, err = l.pd.Register(l.region)
	in.s.must(err)
	l.ch, err = l.dev.NewCompChannel()
	in.s.must(err)
	l.cq, err = l.dev.NewCQ(1024, l.ch)
	in.s.must(err)
	l.ec, err = l.node.NewEventChannel()
	in.s.must(err)
	l.id, err = l.ec.NewID()
	in.s.must(err)
	wake := func() { l.woken = true }
	l.ch.OnReady(wake)
	l.ec.OnReady(wake)
	in.s.count(DialsRDMA)
	in.take(l)
	if in.s.cfg.Trace {
		in.s.line("initiator %d: connects to portal %d over RDMA, ISID %x", in.id, p.tag, in.isid)
	}
	return l.id.ResolveAddr(l.to, 1000)
}

// is tells whether a queue pair of the connection has this number.
func (l *rdmaLink) is(num uint32) bool { return l.qp != nil && (l.qp.Num() == num || l.peer == num) }

func (l *rdmaLink) ready() bool    { return l.woken }
func (l *rdmaLink) queued() bool   { return len(l.tx) > 0 }
func (l *rdmaLink) writable() bool { return len(l.sends) > 0 && l.up }
func (l *rdmaLink) room() bool     { return len(l.datas) >= 2 }
func (l *rdmaLink) why() error     { return l.cause }

// close ends the process that has the connection: its kernel tells the peer.
func (l *rdmaLink) close() {
	if l.up && !l.down {
		_ = l.id.Disconnect()
	}
	l.gone()
	l.node.Kill()
}

func (l *rdmaLink) gone() {
	l.id, l.qp, l.up = nil, nil, false
	for _, t := range l.in.tasks {
		t.mem = buffer{}
	}
}

// vanish ends the machine: the target hears nothing more of it.
func (l *rdmaLink) vanish() {
	l.node.Vanish()
	l.gone()
}

// halfClose asks for the end and waits for it.
func (l *rdmaLink) halfClose() {
	if l.up && !l.down {
		_ = l.id.Disconnect()
	}
}

// reset fails the queue pair without a word from the connection manager.
func (l *rdmaLink) reset() {
	if l.qp != nil {
		_ = l.qp.Fail()
	}
}

// receive takes events and completions, and then the end.
func (l *rdmaLink) receive() {
	in := l.in
	l.woken = false
	for ev := (verbs.Event{}); in.link == l && !in.s.failed(); {
		ok, err := l.ec.Next(&ev)
		in.s.must(err)
		if !ok {
			break
		}
		l.event(&ev)
	}
	for armed := false; in.link == l && !in.s.failed(); {
		n, _ := l.node.Poll([]verbs.CQHandle{l.cq.Handle()}, l.wcs)
		for i := range l.wcs[:n] {
			if in.link == l && !in.s.failed() {
				l.completed(&l.wcs[i])
			}
		}
		if n > 0 {
			continue
		}
		if armed {
			break
		}
		l.ch.Drain()
		l.node.Arm([]verbs.CQHandle{l.cq.Handle()})
		armed = true
	}
	if in.link == l && l.down && !in.s.failed() {
		in.lost()
	}
}

// event takes an event of the connection manager.
func (l *rdmaLink) event(ev *verbs.Event) {
	in := l.in
	switch ev.Type {
	case verbs.EventAddrResolved:
		in.s.must(l.id.ResolveRoute(1000))
	case verbs.EventRouteResolved:
		l.connect()
	case verbs.EventEstablished:
		p := ev.Private()
		l.up, l.peer = true, ev.QPNum
		l.invalidate = l.asks && len(p) > 0 && p[0]&0x40 == 0
		if len(p) < 4 || p[0]&0x80 == 0 || p[0]&0x40 == 0 && !l.asks {
			in.bad("private data", "% x", p)
		}
		if n := ev.Param.ResponderResources; n > l.reads {
			in.bad("RDMA READs", "the target wants %d at a time, we serve %d", n, l.reads)
		}
		if l.invalidate {
			in.s.count(Invalidating)
		}
		in.sendLogin()
	case verbs.EventTimewaitExit:
	case verbs.EventDisconnected:
		l.end(errDisconnected)
	default:
		l.refused(ev.Type)
	}
}

var errDisconnected = errors.New("disconnected")

func (l *rdmaLink) end(why error) {
	if l.down = true; l.cause == nil {
		l.cause = why
	}
}

// refused is the end of a connection that was not made.
func (l *rdmaLink) refused(t verbs.EventType) {
	s := l.in.s
	s.count(RejectedRDMA)
	p := s.portals[l.in.portal]
	if !p.up || !p.iser {
		l.in.excuse("its portal is closed")
	}
	l.end(fmt.Errorf("no connection: %v", t))
}

// connect sends the connection request, with the receive of login posted.
func (l *rdmaLink) connect() {
	s := l.in.s
	var err error
	l.qp, err = l.id.CreateQP(l.pd, verbs.QPConfig{SendCQ: l.cq, RecvCQ: l.cq, MaxSend: sendSlots, MaxRecv: fullRecvs + loginRecvs, MaxSendSGE: 1, MaxRecvSGE: 1})
	if err != nil {
		s.must(err)
		return
	}
	l.post(0, loginRecv)
	private := []byte{0xc0, 0, 0, 0}
	if l.asks {
		private[0] = 0x80
	}
	s.must(l.id.Connect(verbs.ConnParam{ResponderResources: l.reads, InitiatorDepth: 1, Retry: 7, RNRRetry: 6}, private))
}

// The WRIDs of our requests: the place of a receive, or the slot of a send.
const sendMark = verbs.WRID(1) << 62

// recvPlace is where receive i is, and how long.
func recvPlace(i int) (at uint64, n uint32) {
	if i < loginRecvs {
		return recvsAt + uint64(i)*(loginRecv+52), loginRecv
	}
	return recvsAt + loginRecvs*(loginRecv+52) + uint64(i-loginRecvs)*256, fullRecv
}

// post posts receive i.
func (l *rdmaLink) post(i int, n uint32) {
	at, _ := recvPlace(i)
	l.batch.Recv(l.qp.Handle(), verbs.WRID(i), verbs.SGE{Addr: uint64(l.region.Base) + at, Len: n, LKey: l.mr.LKey()})
	l.node.Post(l.batch) // refused when the queue pair has ended: its flush tells
	l.batch.Reset()
}

// enter posts the receives of full feature phase.
func (l *rdmaLink) enter() {
	l.full = true
	if l.in.login.discovery {
		for i := 1; i < loginRecvs; i++ {
			l.post(i, loginRecv)
		}
		return
	}
	for i := range fullRecvs {
		l.post(loginRecvs+i, fullRecv)
	}
}

// completed takes a completion.
func (l *rdmaLink) completed(w *verbs.WC) {
	in := l.in
	switch {
	case w.Status != verbs.StatusOK:
		if w.Status != verbs.StatusFlushed {
			l.cause = errors.New(w.Status.String())
		}
		l.end(errDisconnected)
	case w.Op == verbs.WCSend:
		l.sends = append(l.sends, uint32(w.ID&^sendMark))
	case w.Op == verbs.WCRecv:
		l.inv = 0
		if w.Flags&verbs.WCInvalidated != 0 {
			l.inv = w.InvKey
		}
		at, n := recvPlace(int(w.ID))
		l.arrived(l.region.Ref(at, w.ByteLen).Bytes())
		if in.link == l && !l.down && l.qp != nil && (int(w.ID) >= loginRecvs || in.login.discovery || in.phase == loggingIn) {
			l.post(int(w.ID), n)
		}
	}
}

// arrived takes a message of the target.
func (l *rdmaLink) arrived(w []byte) {
	in := l.in
	if len(w) < headersLen || w[0] != 0x10 || !allBytes(w[1:iserHeader], 0) {
		in.bad("framing", "iSER header: % x", w[:min(len(w), headersLen)])
		return
	}
	b := pdu.BHS(append([]byte(nil), w[iserHeader:headersLen]...))
	data := append([]byte(nil), w[headersLen:]...)
	n := b.DataLen()
	if rest := uint32(len(data)); rest < n || rest > pdu.Padded(n) || !allBytes(data[n:], 0) {
		in.bad("framing", "data segment of %d bytes in a message with %d: % x", n, rest, b)
		return
	}
	if l.full && !l.spoken {
		in.bad("first PDU", "the target speaks before the initiator in full feature phase: %s", brief(b, true))
	}
	if l.full && !in.login.discovery && n > 128 {
		in.bad("framing", "data segment of %d bytes in full feature phase: % x", n, b)
	}
	if l.inv != 0 && b.Opcode() != pdu.SCSIResponse {
		in.bad("invalidate", "key %#x with %s", l.inv, brief(b, true))
	}
	l.taken(b.ITT())
	in.message(b, data[:n])
	if in.link == l && l.full {
		l.credit()
	}
}

// taken notes that the target has taken the message of a task that it answers,
// and all before it.
func (l *rdmaLink) taken(itt uint32) {
	if itt == pdu.ReservedTag {
		return
	}
	for i := range l.log {
		if l.log[i].itt == itt {
			l.log = l.log[:copy(l.log, l.log[i+1:])]
			return
		}
	}
}

// extras is the number of messages outside the command window that the target
// may not have taken yet.
func (l *rdmaLink) extras() (n int) {
	for i := range l.log {
		if l.log[i].extra {
			n++
		}
	}
	return n
}

// credit checks that the target has a receive for whatever may come: the rest
// of the window, what is on its way, and the reserve.
func (l *rdmaLink) credit() {
	in := l.in
	receives, onTheWay, ok := memverbs.Credit(l.qp)
	if !ok || in.phase != full || in.login.discovery {
		return
	}
	room := max(int(int32(in.maxCmdSN-in.cmdSN+1)), 0)
	if need := room + onTheWay + reserveLeft - l.extras(); receives < need {
		in.bad("receives", "the target has %d posted; the window has room for %d, %d are on their way", receives, room, onTheWay)
	}
}

// --- sending

func (l *rdmaLink) send(b pdu.BHS, data []byte) { l.message(buffer{}, b, data) }

// message queues a message.
func (l *rdmaLink) message(m buffer, b pdu.BHS, data []byte) {
	in := l.in
	w := make([]byte, headersLen, iserHeader+len(b)+len(data)+3)
	w[0] = 0x10
	at := uint64(m.ref.Addr)
	if m.write != 0 {
		w[0] |= 0x08
		be.PutUint32(w[4:], m.write)
		be.PutUint64(w[8:], at)
	}
	if m.read != 0 {
		w[0] |= 0x04
		be.PutUint32(w[16:], m.read)
		be.PutUint64(w[20:], at)
	}
	copy(w[iserHeader:], b)
	w = append(append(w, b[pdu.HeaderLen:]...), data...)
	if in.id%2 == 0 { // initiators do not pad; a target must not mind
		w = append(w, pdu.PadBytes(uint32(len(data)))...)
	}
	if l.full {
		l.spoken = true
		sn := b.CmdSN()
		l.log = append(l.log, sentPDU{itt: b.ITT(), extra: b.Opcode() != pdu.DataOut &&
			(b.Immediate() || pdu.SNLess(sn, in.expCmdSN) || pdu.SNLess(in.maxCmdSN, sn))})
	}
	l.tx = append(l.tx, w)
}

// flush posts what there is a slot for.
func (l *rdmaLink) flush() {
	if l.down {
		l.tx = l.tx[:0]
	}
	for len(l.tx) > 0 && l.writable() {
		n := len(l.sends) - 1
		slot := l.sends[n]
		l.sends = l.sends[:n]
		m := l.region.Ref(sendsAt+uint64(slot)*sendSlot, uint32(len(l.tx[0])))
		copy(m.Bytes(), l.tx[0])
		l.tx = l.tx[:copy(l.tx, l.tx[1:])]
		l.batch.Send(verbs.SendWR{ID: sendMark | verbs.WRID(slot), QP: l.qp.Handle(), Flags: verbs.FlagSignaled},
			verbs.SGE{Addr: uint64(m.Addr), Len: m.Len, LKey: l.mr.LKey()})
		l.node.Post(l.batch)
		l.batch.Reset()
	}
}

// command sends a SCSI Command with the memory its data comes from or goes to.
func (l *rdmaLink) command(t *task, b pdu.BHS, data []byte) {
	n, access := uint32(0), verbs.AccessRemoteWrite
	switch {
	case t.read:
		n = t.edtl
	case t.write && t.edtl > t.asked:
		// The buffer begins behind what goes unasked, or with the first byte.
		n, access = t.edtl-t.asked, verbs.AccessRemoteRead
		if l.in.prm.wholeBuffer {
			n = t.edtl
		}
	}
	if n > 0 {
		l.register(t, n, access)
	}
	l.message(t.mem, b, data)
}

// register makes a buffer of n bytes for t.
func (l *rdmaLink) register(t *task, n uint32, access verbs.Access) {
	s := l.in.s
	k := len(l.datas) - 1
	if k < 0 || n > dataSlot {
		s.fail("machine", "initiator %d: no memory for %d bytes", l.in.id, n)
		return
	}
	slot := l.datas[k]
	l.datas = l.datas[:k]
	ref := l.region.Ref(datasAt+uint64(slot)*dataSlot, n)
	mr, err := l.pd.RegisterRemote(ref, access)
	if err != nil {
		s.must(err)
		return
	}
	t.mem = buffer{ref: ref, slot: slot, mr: mr}
	b := ref.Bytes()
	if t.read {
		t.mem.read = mr.RKey()
		fill(b, canary)
		return
	}
	t.mem.write = mr.RKey()
	copy(b, t.data[t.edtl-n:t.edtl])
	if l.in.prm.wholeBuffer {
		fill(b[:t.asked], canary) // the target has no business there
	}
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

// answered implements link: what moved is there before the response, the rest
// of the memory is as it was, and the right key is invalid.
func (l *rdmaLink) answered(t *task, b pdu.BHS) {
	in := l.in
	key := t.mem.read | t.mem.write
	switch {
	case l.invalidate && l.inv != key, !l.invalidate && l.inv != 0:
		in.bad("invalidate", "key %#x by the response to a command with %#x (negotiated: %v): %s", l.inv, key, l.invalidate, brief(b, true))
	}
	if t.mem.read == 0 {
		return
	}
	moved := t.edtl
	if b.Flags()&pdu.FlagUnderfl != 0 {
		moved -= min(moved, b.Residual())
	}
	w := t.mem.ref.Bytes()
	t.got = append(t.got[:0], w[:moved]...)
	if !allBytes(w[moved:], canary) {
		in.bad("remote memory", "more was written than the residual tells: %s", brief(b, true))
	}
	if n := len(t.got); t.class == classReply && n >= 8 && allBytes(t.got[n-8:], canary) {
		in.bad("remote memory", "less was written than the residual tells: %s", brief(b, true))
	}
	in.s.count(ReadsRDMA)
}

// ended implements link: the memory is the initiator's own again.
func (l *rdmaLink) ended(t *task) {
	if t.mem.mr == nil {
		return
	}
	if t.mem.write != 0 {
		l.in.s.count(WritesRDMA)
	}
	l.in.s.must(t.mem.mr.Close())
	fill(t.mem.ref.Bytes(), canary^0xff)
	l.datas = append(l.datas, t.mem.slot)
	t.mem = buffer{}
}
