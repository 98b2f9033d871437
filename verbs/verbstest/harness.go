package verbstest

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"spindle/reactor/mem"
	"spindle/verbs"
)

// Pair is two providers that reach each other; they may be one and the same.
type Pair struct {
	Target, Peer verbs.Provider
	// Device is the name of the target's device and Addr its address.
	Device string
	Addr   netip.Addr
	// Step lets a little time pass: a few milliseconds at most.
	Step func()
	// Patience is how many steps to wait for what must come.
	Patience int
	// Invalidates: SEND_WITH_INV works on regions made by RegisterRemote. If
	// not, it must be refused by the peer.
	Invalidates bool
	// Remove takes the target's device away and Add brings it back; Removed
	// tells whether Remove has ended. nil: that test is left out.
	Remove, Add func()
	Removed     func() bool
	// Settled, when set, checks at the end of a test that nothing is left.
	Settled func(t *testing.T)
}

// The memory of a side: slots of slotSize bytes.
const (
	slotSize  = 4096
	slots     = 256
	depthWant = 4 // RDMA READs
	maxSend   = 32
	maxRecv   = 64
)

// side is one end of a connection and what it is made of.
type side struct {
	t      *testing.T
	pair   *Pair
	p      verbs.Provider
	ch     verbs.EventChannel
	dev    verbs.Device
	pd     verbs.PD
	mr     verbs.MR
	cc     verbs.CompChannel
	cq     verbs.CQ
	id     verbs.ID
	qp     verbs.QP
	region *mem.Region
	mem    mem.Ref
	b      *verbs.Batch
	wcs    []verbs.WC
	got    []verbs.WC // polled and not taken
	ev     []verbs.Event
}

// setup is a listener, both sides and their connection.
type setup struct {
	*Pair
	t        *testing.T
	space    *mem.Space
	a, b     *side // target, peer
	listener verbs.ID
	port     uint16
}

func newSetup(t *testing.T, newPair func(*testing.T) *Pair) *setup {
	t.Helper()
	p := newPair(t)
	s := &setup{Pair: p, t: t, space: mem.NewSpace()}
	s.a, s.b = s.newSide(p.Target), s.newSide(p.Peer)
	return s
}

func (s *setup) newSide(p verbs.Provider) *side {
	s.t.Helper()
	x := &side{t: s.t, pair: s.Pair, p: p}
	region, err := s.space.Map(2*slotSize*slots, -1)
	must(s.t, err)
	x.region, x.mem = region, region.Ref(0, slotSize*slots)
	tail := region.Ref(slotSize*slots, slotSize*slots)
	x.b = verbs.NewBatch(tail.Slice(0, 1<<16), 128, 128, 512)
	x.wcs = verbs.NewCompletions(tail.Slice(1<<16, 1<<12), 16)
	x.ch, err = p.NewEventChannel()
	must(s.t, err)
	return x
}

// open makes what a connection needs on dev.
func (x *side) open(dev verbs.Device, local bool) {
	x.t.Helper()
	var err error
	x.dev = dev
	x.pd, err = dev.NewPD()
	must(x.t, err)
	if local {
		x.mr, err = x.pd.Register(x.region)
	} else {
		x.mr, err = x.pd.RegisterRemote(x.mem, verbs.AccessRemoteRead|verbs.AccessRemoteWrite)
	}
	must(x.t, err)
	x.cc, err = dev.NewCompChannel()
	must(x.t, err)
	x.cq, err = dev.NewCQ(256, x.cc)
	must(x.t, err)
}

func (x *side) makeQP() {
	x.t.Helper()
	var err error
	x.qp, err = x.id.CreateQP(x.pd, verbs.QPConfig{
		SendCQ: x.cq, RecvCQ: x.cq, MaxSend: maxSend, MaxRecv: maxRecv, MaxSendSGE: 4, MaxRecvSGE: 4, MaxInline: 64,
	})
	must(x.t, err)
}

func (x *side) close() {
	x.t.Helper()
	if x.qp != nil {
		must(x.t, x.qp.Close())
	}
	if x.id != nil {
		must(x.t, x.id.Destroy())
	}
	x.qp, x.id = nil, nil
	if x.dev != nil {
		must(x.t, x.cq.Close())
		must(x.t, x.cc.Close())
		must(x.t, x.mr.Close())
		must(x.t, x.pd.Close())
	}
	x.cq, x.cc, x.mr, x.pd = nil, nil, nil, nil
}

func (s *setup) listen() {
	s.t.Helper()
	var err error
	s.listener, err = s.a.ch.NewID()
	must(s.t, err)
	must(s.t, s.listener.Bind(netip.AddrPortFrom(s.Addr, s.port)))
	must(s.t, s.listener.Listen(8))
}

// resolve takes the peer up to where it may connect.
func (s *setup) resolve() {
	s.t.Helper()
	b := s.b
	var err error
	b.id, err = b.ch.NewID()
	must(s.t, err)
	must(s.t, b.id.ResolveAddr(netip.AddrPortFrom(s.Addr, s.port), 2000))
	b.event(verbs.EventAddrResolved)
	must(s.t, b.id.ResolveRoute(2000))
	b.event(verbs.EventRouteResolved)
	dev, err := b.id.Device()
	must(s.t, err)
	if b.dev == nil {
		b.open(dev, false)
	}
	b.makeQP()
}

// params offers depthWant RDMA READs each way; rnr is how often the other side
// tries again.
func params(rnr uint8) verbs.ConnParam {
	return verbs.ConnParam{ResponderResources: depthWant, InitiatorDepth: depthWant, Retry: 7, RNRRetry: rnr}
}

// connect makes a connection; each side lets the other try again so often
// without a receive. before runs when both have queue pairs.
func (s *setup) connect(rnrA, rnrB uint8, before func()) {
	s.t.Helper()
	if s.listener == nil {
		s.listen()
	}
	s.resolve()
	must(s.t, s.b.id.Connect(params(rnrB), []byte("request")))
	req := s.a.event(verbs.EventConnectRequest)
	s.take(&req)
	if before != nil {
		before()
	}
	must(s.t, s.a.id.Accept(params(rnrA), []byte("reply")))
	s.b.event(verbs.EventEstablished)
	s.a.event(verbs.EventEstablished)
}

// take makes the target's side of a request.
func (s *setup) take(req *verbs.Event) {
	s.t.Helper()
	a := s.a
	a.id = req.ID
	dev, err := a.id.Device()
	must(s.t, err)
	if a.dev == nil {
		a.open(dev, true)
	}
	a.makeQP()
}

// done closes everything and looks for leaks.
func (s *setup) done() {
	s.t.Helper()
	s.b.close()
	s.a.close()
	if s.listener != nil {
		must(s.t, s.listener.Destroy())
	}
	must(s.t, s.a.ch.Close())
	must(s.t, s.b.ch.Close())
	for _, d := range []verbs.Device{s.a.dev, s.b.dev} {
		if d != nil {
			must(s.t, d.Close())
		}
	}
	if s.Settled != nil {
		s.Settled(s.t)
	}
}

// wait steps until cond holds.
func (p *Pair) wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range p.Patience {
		if cond() {
			return
		}
		p.Step()
	}
	t.Fatalf("waited in vain for %s", what)
}

// event waits for an event of the type, which must be the next.
func (x *side) event(want verbs.EventType) verbs.Event {
	x.t.Helper()
	x.pair.wait(x.t, want.String(), x.pull)
	ev := x.ev[0]
	x.ev = x.ev[1:]
	if ev.Type != want {
		x.t.Fatalf("event %v (status %d), want %v", ev.Type, ev.Status, want)
	}
	return ev
}

// pull takes what the channel has and tells whether there is an event.
func (x *side) pull() bool {
	var ev verbs.Event
	for {
		ok, err := x.ch.Next(&ev)
		must(x.t, err)
		if !ok {
			return len(x.ev) > 0
		}
		x.ev = append(x.ev, ev)
	}
}

// poll takes completions and tells how many are at hand.
func (x *side) poll() int {
	x.t.Helper()
	for {
		n, bad := x.p.Poll([]verbs.CQHandle{x.cq.Handle()}, x.wcs)
		if bad >= 0 {
			x.t.Fatalf("completion queue %d failed", bad)
		}
		if n == 0 {
			return len(x.got)
		}
		x.got = append(x.got, x.wcs[:n]...)
	}
}

// completions waits for n completions.
func (x *side) completions(n int) []verbs.WC {
	x.t.Helper()
	x.pair.wait(x.t, "completions", func() bool { return x.poll() >= n })
	wcs := x.got[:n:n]
	x.got = x.got[n:]
	return wcs
}

// ok waits for n completions that all are successes.
func (x *side) ok(n int) []verbs.WC {
	x.t.Helper()
	wcs := x.completions(n)
	for _, wc := range wcs {
		if wc.Status != verbs.StatusOK {
			x.t.Fatalf("request %d: %v", wc.ID.Slot(), wc.Status)
		}
	}
	return wcs
}

// silence makes sure that nothing completes for some steps.
func (x *side) silence(steps int) {
	x.t.Helper()
	for range steps {
		if x.poll() > 0 {
			x.t.Fatalf("unexpected completion %+v", x.got[0])
		}
		x.pair.Step()
	}
}

// slot is the memory of a slot, and its SGE.
func (x *side) slot(i int) mem.Ref { return x.mem.Slice(uint32(i)*slotSize, slotSize) }

func (x *side) sge(i int, n uint32) verbs.SGE {
	return verbs.SGE{Addr: uint64(x.slot(i).Addr), Len: n, LKey: x.mr.LKey()}
}

// recv posts n receives of size bytes, into the slots from first on.
func (x *side) recv(first, n int, size uint32) {
	x.t.Helper()
	for i := first; i < first+n; i++ {
		x.b.Recv(x.qp.Handle(), verbs.NewWRID(uint32(i), 1, opRecv), x.sge(i, size))
	}
	x.post()
}

// The operations in this suite's request identifiers.
const (
	opRecv = iota + 1
	opSend
)

// send adds a request for the data of slot i.
func (x *side) send(op verbs.Opcode, flags verbs.Flags, i int, n uint32) *verbs.SendWR {
	x.b.Send(verbs.SendWR{ID: verbs.NewWRID(uint32(i), 1, opSend), QP: x.qp.Handle(), Op: op, Flags: flags}, x.sge(i, n))
	return &x.b.Sends[len(x.b.Sends)-1]
}

// remote aims an RDMA request at slot i of the other side.
func (x *side) remote(w *verbs.SendWR, other *side, i int) {
	w.RemoteAddr, w.RKey = uint64(other.slot(i).Addr), other.mr.RKey()
}

// post posts the batch.
func (x *side) post() {
	x.t.Helper()
	if n := x.p.Post(x.b); n != 0 {
		x.t.Fatalf("%d requests refused: %+v %+v", n, x.b.Recvs, x.b.Sends)
	}
	x.b.Reset()
}

// fill writes a pattern of seed into slot i.
func (x *side) fill(i int, seed uint64, n uint32) {
	b := x.slot(i).Slice(0, n).Bytes()
	for k := 0; k+8 <= len(b); k += 8 {
		binary.LittleEndian.PutUint64(b[k:], seed*0x9E3779B97F4A7C15+uint64(k))
	}
}

// filled tells whether slot i holds the pattern.
func (x *side) filled(i int, seed uint64, n uint32) bool {
	b := x.slot(i).Slice(0, n).Bytes()
	for k := 0; k+8 <= len(b); k += 8 {
		if binary.LittleEndian.Uint64(b[k:]) != seed*0x9E3779B97F4A7C15+uint64(k) {
			return false
		}
	}
	return true
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
