package memverbs

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/verbs"
)

// end is one side of a connection in these tests.
type end struct {
	t   testing.TB
	n   *Node
	ch  verbs.EventChannel
	id  verbs.ID
	dev *device
	cc  verbs.CompChannel
	cq  verbs.CQ
	qp  *queuePair
	mr  *MR
	mem mem.Ref
	b   *verbs.Batch
	wcs []verbs.WC
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (e *end) equip(id verbs.ID, access verbs.Access, cqSize int) {
	e.t.Helper()
	e.id = id
	dev, err := id.Device()
	check(e.t, err)
	e.dev = dev.(*device)
	pd, err := dev.NewPD()
	check(e.t, err)
	r, err := mem.NewSpace().Map(4<<20, -1)
	check(e.t, err)
	e.mem = r.Ref(0, 1<<20)
	mr, err := pd.RegisterRemote(r.Ref(0, 2<<20), access)
	check(e.t, err)
	e.mr = mr.(*MR)
	e.b = verbs.NewBatch(r.Ref(2<<20, verbs.BatchSize(64, 64, 128)), 64, 64, 128)
	e.wcs = verbs.NewCompletions(r.Ref(3<<20, verbs.CompletionsSize(64)), 64)
	e.cc, err = dev.NewCompChannel()
	check(e.t, err)
	e.cq, err = dev.NewCQ(cqSize, e.cc)
	check(e.t, err)
	qp, err := id.CreateQP(pd, verbs.QPConfig{SendCQ: e.cq, RecvCQ: e.cq, MaxSend: 16, MaxRecv: 16, MaxSendSGE: 2, MaxRecvSGE: 2, MaxInline: 64})
	check(e.t, err)
	e.qp = qp.(*queuePair)
}

func (e *end) sge(off, n uint32) verbs.SGE {
	return verbs.SGE{Addr: uint64(e.mem.Addr) + uint64(off), Len: n, LKey: e.mr.LKey()}
}

func (e *end) recv(n int) {
	for i := range n {
		e.b.Recv(e.qp.Handle(), verbs.NewWRID(uint32(i), 0, 1), e.sge(uint32(i)*64, 64))
	}
	e.post()
}

func (e *end) add(op verbs.Opcode, flags verbs.Flags, off, n uint32, other *end) {
	w := verbs.SendWR{ID: verbs.NewWRID(uint32(len(e.b.Sends)), 0, 2), QP: e.qp.Handle(), Op: op, Flags: flags}
	if other != nil {
		w.RemoteAddr, w.RKey = uint64(other.mem.Addr)+uint64(off), other.mr.RKey()
	}
	e.b.Send(w, e.sge(off, n))
}

func (e *end) post() {
	e.t.Helper()
	if n := e.n.Post(e.b); n != 0 {
		e.t.Fatalf("%d refused", n)
	}
	e.b.Reset()
}

func (e *end) poll() []verbs.WC {
	n, _ := e.n.Poll([]verbs.CQHandle{e.cq.Handle()}, e.wcs)
	return e.wcs[:n]
}

func (e *end) events() (got []verbs.EventType) {
	var ev verbs.Event
	for {
		if ok, _ := e.ch.Next(&ev); !ok {
			return got
		}
		got = append(got, ev.Type)
	}
}

// dial makes a World with a connection that is accepted; ESTABLISHED may be on
// its way to the target.
func dial(t testing.TB, c Config, cqSize int) (w *World, a, b *end) {
	t.Helper()
	w, target, peer := pair(c)
	a, b = &end{t: t, n: target}, &end{t: t, n: peer}
	var err error
	a.ch, err = target.NewEventChannel()
	check(t, err)
	b.ch, err = peer.NewEventChannel()
	check(t, err)
	l, err := a.ch.NewID()
	check(t, err)
	check(t, l.Bind(netip.AddrPortFrom(targetAddr, 3260)))
	check(t, l.Listen(1))
	id, err := b.ch.NewID()
	check(t, err)
	check(t, id.ResolveAddr(netip.AddrPortFrom(targetAddr, 3260), 1))
	w.Advance(10 * time.Millisecond)
	check(t, id.ResolveRoute(1))
	w.Advance(10 * time.Millisecond)
	b.equip(id, verbs.AccessRemoteRead|verbs.AccessRemoteWrite, 256)
	param := verbs.ConnParam{ResponderResources: 2, InitiatorDepth: 2, RNRRetry: 7}
	check(t, id.Connect(param, nil))
	w.Advance(10 * time.Millisecond)
	b.events()
	var ev verbs.Event
	if ok, _ := a.ch.Next(&ev); !ok || ev.Type != verbs.EventConnectRequest {
		t.Fatalf("no request: %v", ev.Type)
	}
	a.equip(ev.ID, 0, cqSize)
	a.recv(8)
	check(t, ev.ID.Accept(param, nil))
	for b.qp.state != verbs.QPReadyToSend {
		w.Run(0)
	}
	return w, a, b
}

// established is dial with both sides told.
func established(t testing.TB, c Config, cqSize int) (w *World, a, b *end) {
	t.Helper()
	w, a, b = dial(t, c, cqSize)
	w.Advance(10 * time.Millisecond)
	a.events()
	b.events()
	return w, a, b
}

// The freedom that surprises: the peer may have a SEND while the RDMA READ
// posted before it has not touched this side's memory, and what it reads then
// is what the peer wrote afterwards.
func TestReadIsNotOrderedWithTheSendBehindIt(t *testing.T) {
	w, a, b := established(t, Config{Faults: Faults{LateRead: 1}}, 256)
	b.recv(1)
	copy(b.mem.Bytes(), "before")
	a.add(verbs.OpRDMARead, verbs.FlagSignaled, 0, 6, b)
	a.add(verbs.OpSend, verbs.FlagSignaled, 64, 8, nil)
	a.post()
	for len(b.poll()) == 0 {
		if !w.Step() {
			w.AdvanceTo(w.Next())
		}
	}
	if got := a.mem.Bytes()[0]; got != 0 {
		t.Fatalf("the read came first: %q", got)
	}
	if len(a.poll()) != 0 {
		t.Fatal("a completion overtook the RDMA READ's")
	}
	copy(b.mem.Bytes(), "after!")
	w.Advance(time.Second)
	wcs := a.poll()
	if len(wcs) != 2 || wcs[0].Op != verbs.WCRDMARead || wcs[1].Op != verbs.WCSend || string(a.mem.Bytes()[:6]) != "after!" {
		t.Fatalf("%+v, %q", wcs, a.mem.Bytes()[:6])
	}
	if w.Counts.LateRead != 1 {
		t.Errorf("%d late reads counted", w.Counts.LateRead)
	}
}

// What is behind a request that failed is flushed, even if the peer has it.
func TestNothingSucceedsBehindAFailedRead(t *testing.T) {
	w, a, b := established(t, Config{Faults: Faults{LateRead: 1}}, 256)
	b.recv(1)
	a.add(verbs.OpRDMARead, verbs.FlagSignaled, 0, 6, b)
	a.add(verbs.OpSend, verbs.FlagSignaled, 64, 8, nil)
	a.post()
	for a.qp.at(a.qp.done+1).state != acked {
		if !w.Step() {
			w.AdvanceTo(w.Next())
		}
	}
	w.Faults = Faults{RemoteAccess: 1}
	w.Advance(time.Second)
	wcs := a.poll()
	if len(wcs) < 2 || wcs[0].Status != verbs.StatusRemoteAccess || wcs[1].Status != verbs.StatusFlushed {
		t.Fatalf("%+v", wcs)
	}
}

// Whoever asks for a connection or accepts one is told in the end that the other
// side never heard of it.
func TestLostHandshakes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		faults Faults
		peer   []verbs.EventType
		target []verbs.EventType
	}{
		{"request", Faults{LostRequest: 1}, []verbs.EventType{verbs.EventUnreachable}, nil},
		{"reply", Faults{LostReply: 1}, []verbs.EventType{verbs.EventUnreachable}, []verbs.EventType{verbs.EventRejected}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, target, peer := pair(Config{})
			a, b := &end{t: t, n: target}, &end{t: t, n: peer}
			a.ch, _ = target.NewEventChannel()
			b.ch, _ = peer.NewEventChannel()
			l, err := a.ch.NewID()
			check(t, err)
			check(t, l.Bind(netip.AddrPortFrom(targetAddr, 3260)))
			check(t, l.Listen(1))
			id, err := b.ch.NewID()
			check(t, err)
			check(t, id.ResolveAddr(netip.AddrPortFrom(targetAddr, 3260), 1))
			w.Advance(10 * time.Millisecond)
			check(t, id.ResolveRoute(1))
			w.Advance(10 * time.Millisecond)
			b.equip(id, 0, 256)
			b.events()
			w.Faults = tc.faults
			check(t, id.Connect(verbs.ConnParam{ResponderResources: 2}, nil))
			w.Advance(10 * time.Millisecond)
			var ev verbs.Event
			if ok, _ := a.ch.Next(&ev); ok {
				a.equip(ev.ID, 0, 256)
				check(t, ev.ID.Accept(verbs.ConnParam{InitiatorDepth: 2}, nil))
			}
			w.Advance(10 * time.Second)
			if got := b.events(); !slices.Equal(got, tc.peer) {
				t.Errorf("the peer hears %v", got)
			}
			if got := a.events(); !slices.Equal(got, tc.target) {
				t.Errorf("the target hears %v", got)
			}
		})
	}
}

func TestReadDepthHoldsUpTheQueue(t *testing.T) {
	w, a, b := established(t, Config{Faults: Faults{LateRead: 1}}, 256)
	b.recv(1)
	for i := range uint32(3) { // one more than the depth
		a.add(verbs.OpRDMARead, 0, 64*i, 8, b)
	}
	a.add(verbs.OpSend, verbs.FlagSignaled, 512, 8, nil)
	a.post()
	done := false
	for !done {
		if len(b.poll()) > 0 {
			t.Fatal("the SEND passed a stalled RDMA READ")
		}
		w.Run(0)
		done = a.qp.reads < 2 && a.qp.next >= 2
	}
	w.Advance(time.Second)
	if len(b.poll()) != 1 || len(a.poll()) != 1 || w.Counts.ReadStalls == 0 {
		t.Errorf("%d stalls", w.Counts.ReadStalls)
	}
}

// A peer that accepted fewer RDMA READs than this side sends ends the connection.
func TestMoreReadsThanThePeerServes(t *testing.T) {
	w, a, b := established(t, Config{}, 256)
	a.qp.depth = 8
	for i := range uint32(8) {
		a.add(verbs.OpRDMARead, verbs.FlagSignaled, 64*i, 8, b)
	}
	a.post()
	w.Advance(time.Second)
	var bad []verbs.Status
	for _, wc := range a.poll() {
		if wc.Status != verbs.StatusOK && wc.Status != verbs.StatusFlushed {
			bad = append(bad, wc.Status)
		}
	}
	if len(bad) != 1 || bad[0] != verbs.StatusRemoteInvalid {
		t.Errorf("%v", bad)
	}
}

func TestSlotsComeBackWithAPolledCompletion(t *testing.T) {
	w, a, b := established(t, Config{}, 256)
	b.recv(16)
	for range 15 {
		a.add(verbs.OpSend, 0, 0, 8, nil)
	}
	a.post()
	w.Advance(time.Second)
	a.add(verbs.OpSend, verbs.FlagSignaled, 0, 8, nil)
	a.post()
	w.Advance(time.Second)
	a.add(verbs.OpSend, 0, 0, 8, nil)
	if a.n.Post(a.b) != 1 {
		t.Fatal("a slot was free before anything was polled")
	}
	a.b.Reset()
	if len(a.poll()) != 1 {
		t.Fatal("want the one signalled completion")
	}
	for range 16 {
		a.add(verbs.OpSend, 0, 0, 8, nil)
	}
	a.post()
}

func TestFirstReceiveBeforeEstablished(t *testing.T) {
	w, a, b := dial(t, Config{Faults: Faults{EarlyReceive: 1}}, 256)
	woken := 0
	a.dev.OnReady(func() { woken++ })
	b.add(verbs.OpSend, verbs.FlagSignaled, 0, 8, nil)
	b.post()
	for len(a.poll()) == 0 {
		w.Run(0)
	}
	if got := a.events(); len(got) != 0 {
		t.Fatalf("events %v before the first receive", got)
	}
	var ev verbs.AsyncEvent
	if woken != 1 || !a.dev.NextAsync(&ev) || ev.Type != verbs.AsyncCommEst || ev.QP != a.qp.Handle() {
		t.Fatalf("woken %d times, %+v", woken, ev)
	}
	check(t, a.id.Notify(ev.Type))
	w.Advance(0)
	if got := a.events(); len(got) != 1 || got[0] != verbs.EventEstablished {
		t.Fatalf("%v", got)
	}
	if w.Counts.EarlyReceive != 1 || w.Counts.EarlyMessages != 1 {
		t.Errorf("%+v", w.Counts)
	}
}

func TestInjectedFaults(t *testing.T) {
	for _, tc := range []struct {
		name         string
		faults       Faults
		op           verbs.Opcode
		mine, theirs verbs.Status // the first failure
	}{
		{"remote access", Faults{RemoteAccess: 1}, verbs.OpRDMAWrite, verbs.StatusRemoteAccess, verbs.StatusFlushed},
		{"late remote access", Faults{RemoteAccess: 1}, verbs.OpRDMARead, verbs.StatusRemoteAccess, verbs.StatusFlushed},
		{"fatal", Faults{Fatal: 1}, verbs.OpSend, verbs.StatusFlushed, verbs.StatusOK},
		{"RNR for ever", Faults{RNR: 1}, verbs.OpSend, verbs.StatusOK, verbs.StatusOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, a, b := established(t, Config{}, 256)
			b.recv(1)
			w.Faults = tc.faults
			a.add(tc.op, 0, 0, 8, b)
			a.post()
			w.Advance(5 * time.Second)
			first := func(wcs []verbs.WC) verbs.Status {
				if len(wcs) == 0 {
					return verbs.StatusOK
				}
				return wcs[0].Status
			}
			if m, o := first(a.poll()), first(b.poll()); m != tc.mine || o != tc.theirs {
				t.Errorf("%v and %v, want %v and %v", m, o, tc.mine, tc.theirs)
			}
			total := uint64(0)
			w.Counts.Each(func(_ string, n uint64) { total += n })
			if total == 0 {
				t.Error("not counted")
			}
		})
	}
}

// The exact words for a receive that is too small; implementations differ.
func TestReceiveTooSmall(t *testing.T) {
	w, a, b := established(t, Config{}, 256)
	b.add(verbs.OpSend, 0, 0, 65, nil)
	b.post()
	w.Advance(time.Second)
	mine, theirs := b.poll(), a.poll()
	if len(mine) != 1 || mine[0].Status != verbs.StatusRemoteInvalid || len(theirs) != 8 || theirs[0].Status != verbs.StatusLocalLength || theirs[1].Status != verbs.StatusFlushed {
		t.Errorf("%+v, %+v", mine, theirs)
	}
}

func TestReceivesOfAFailedQueuePair(t *testing.T) {
	for _, tc := range []struct {
		name   string
		faults Faults
		want   int
	}{
		{"flushed", Faults{}, 10},
		{"not looked at", Faults{LateReceive: 1}, 8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, a, _ := established(t, Config{Faults: tc.faults}, 256)
			check(t, a.qp.Fail())
			w.Advance(time.Second)
			a.recv(2)
			w.Advance(time.Second)
			if wcs := a.poll(); len(wcs) != tc.want || int(w.Counts.LateReceive) != 10-tc.want {
				t.Errorf("%d completions, %d late", len(wcs), w.Counts.LateReceive)
			}
			check(t, a.qp.Fail())
			w.Advance(time.Second)
			if wcs := a.poll(); len(wcs) != 10-tc.want {
				t.Errorf("%d completions after failing again", len(wcs))
			}
		})
	}
}

func TestOverrunFailsTheQueuePairs(t *testing.T) {
	w, a, b := established(t, Config{}, 2)
	for range 3 {
		b.add(verbs.OpSend, 0, 0, 8, nil)
	}
	b.post()
	w.Advance(time.Second)
	var ev verbs.AsyncEvent
	if !a.dev.NextAsync(&ev) || ev.Type != verbs.AsyncCQError || ev.CQ != a.cq.Handle() {
		t.Fatalf("%+v", ev)
	}
	if !a.dev.NextAsync(&ev) || ev.Type != verbs.AsyncQPFatal || a.qp.state != verbs.QPError {
		t.Fatalf("%+v, %v", ev, a.qp.state)
	}
	if a.n.Arm([]verbs.CQHandle{a.cq.Handle()}) {
		t.Error("armed a failed queue")
	}
	a.poll()
	if _, bad := a.n.Poll([]verbs.CQHandle{a.cq.Handle()}, a.wcs); bad != 0 {
		t.Error("a failed queue polls as a good one")
	}
}

func TestDisconnectedTwiceThenTimewait(t *testing.T) {
	w, a, b := established(t, Config{Faults: Faults{DupEvent: 1}}, 256)
	check(t, b.id.Disconnect())
	check(t, a.id.Disconnect())
	w.Advance(10 * time.Second)
	want := []verbs.EventType{verbs.EventDisconnected, verbs.EventDisconnected, verbs.EventTimewaitExit}
	for _, e := range []*end{a, b} {
		got := e.events()
		if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
			t.Errorf("%v", got)
		}
	}
	if w.Counts.DupEvent != 2 {
		t.Errorf("%d counted", w.Counts.DupEvent)
	}
}

func TestPeersThatGo(t *testing.T) {
	for _, tc := range []struct {
		name string
		go_  func(n *Node)
		told bool
	}{
		{"process killed", (*Node).Kill, true},
		{"machine lost", (*Node).Vanish, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, a, b := established(t, Config{}, 256)
			tc.go_(b.n)
			if b.n.Live() != (Live{}) {
				t.Errorf("%+v", b.n.Live())
			}
			a.add(verbs.OpSend, 0, 0, 8, nil)
			a.post()
			w.Advance(20 * time.Second)
			if wcs := a.poll(); len(wcs) == 0 || wcs[0].Status != verbs.StatusRetryExceeded {
				t.Errorf("%+v", wcs)
			}
			if got := a.events(); (len(got) > 0) != tc.told {
				t.Errorf("events %v", got)
			}
		})
	}
}

func TestRemovedDeviceRefusesNewThings(t *testing.T) {
	w, a, _ := established(t, Config{}, 256)
	a.n.RemoveDevice("mem0")
	w.Advance(time.Second)
	var ev verbs.AsyncEvent
	if !a.dev.NextAsync(&ev) || ev.Type != verbs.AsyncDeviceFatal {
		t.Errorf("%+v", ev)
	}
	if _, err := a.dev.NewPD(); !errors.Is(err, verbs.ErrGone) {
		t.Errorf("new domain: %v", err)
	}
	if wcs := a.poll(); len(wcs) != 8 || wcs[0].Status != verbs.StatusFlushed {
		t.Errorf("%+v", wcs)
	}
	if a.n.Removing() != 1 || w.Counts.Removals != 1 {
		t.Errorf("%d removing", a.n.Removing())
	}
}

func TestRegistrationLimits(t *testing.T) {
	w := New(Config{})
	n := w.NewNode()
	if _, err := n.NewEventChannel(); !errors.Is(err, verbs.ErrNoDevice) {
		t.Errorf("event channel without a device: %v", err)
	}
	n.AddDeviceInfo(verbs.DeviceInfo{Name: "iw0", Transport: verbs.TransportIWARP}, targetAddr)
	n.AddDevice("mem0", peerAddr)
	r, err := mem.NewSpace().Map(2<<20, -1)
	check(t, err)
	devs, err := n.Devices()
	check(t, err)
	iwarp, err := devs[0].NewPD()
	check(t, err)
	if _, err := iwarp.Register(r); !errors.Is(err, verbs.ErrIWARP) {
		t.Errorf("iWARP: %v", err)
	}
	pd, err := devs[1].NewPD()
	check(t, err)
	n.MemlockLimit = 1 << 20
	if _, err := pd.Register(r); !errors.Is(err, verbs.ErrMemlock) {
		t.Errorf("locked memory: %v", err)
	}
	n.MemlockLimit = 4 << 20
	mr, err := pd.Register(r)
	check(t, err)
	if mr.(*MR).access != 0 {
		t.Error("local memory has remote rights")
	}
}

// traffic exchanges messages under faults until something gives.
func traffic(t *testing.T, seed uint64) (hash, steps uint64, counts Counts) {
	w, a, b := established(t, Config{Rand: rand.New(rand.NewPCG(seed, 9)), RNRTimer: time.Millisecond}, 256)
	w.Faults = AllFaults()
	recvs := 0
	for turn := range 300 {
		if recvs < 8 {
			b.recv(8 - recvs)
			recvs = 8
		}
		if a.qp.tail-a.qp.free < 12 {
			a.add(verbs.OpRDMAWrite, 0, 0, 32, b)
			a.add(verbs.OpRDMARead, 0, 4096, 32, b)
			a.add(verbs.OpSend, verbs.FlagSignaled, uint32(64*(turn%8)), 32, nil)
			a.n.Post(a.b)
			a.b.Reset()
		}
		for range 10 {
			if !w.Step() {
				w.Advance(10 * time.Microsecond)
			}
		}
		a.poll()
		for _, wc := range b.poll() {
			if wc.Status == verbs.StatusOK && wc.Op == verbs.WCRecv {
				recvs--
			}
		}
	}
	return w.TraceHash(), w.Steps(), w.Counts
}

func TestSeedDecidesEverything(t *testing.T) {
	var sum Counts
	hashes := map[uint64]bool{}
	for seed := range uint64(16) {
		h1, s1, c := traffic(t, seed)
		h2, s2, _ := traffic(t, seed)
		if h1 != h2 || s1 != s2 {
			t.Fatalf("seed %d runs in two ways: %x after %d steps, %x after %d", seed, h1, s1, h2, s2)
		}
		hashes[h1] = true
		sum.Add(&c)
	}
	if len(hashes) != 16 {
		t.Errorf("16 seeds make %d runs", len(hashes))
	}
	for name, n := range map[string]uint64{"Delay": sum.Delay, "RNR": sum.RNR, "LateRead": sum.LateRead, "Fatal": sum.Fatal + sum.RemoteAccess, "ShortPoll": sum.ShortPoll} {
		if n == 0 {
			t.Errorf("%s never happened", name)
		}
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	_, a, b := established(t, Config{Immediate: true}, 256)
	cycle := func() {
		b.recv(1)
		a.add(verbs.OpRDMAWrite, 0, 0, 4096, b)
		a.add(verbs.OpRDMARead, 0, 8192, 4096, b)
		a.add(verbs.OpSend, verbs.FlagSignaled|verbs.FlagInline, 0, 60, nil)
		a.post()
		if len(a.poll()) != 1 || len(b.poll()) != 1 {
			t.Fatal("not immediate")
		}
	}
	cycle()
	if n := testing.AllocsPerRun(200, cycle); n != 0 {
		t.Errorf("%v allocations a cycle", n)
	}
}

func TestWakeFunctions(t *testing.T) {
	w, a, b := established(t, Config{Clock: &clock.Manual{T: 5}}, 256)
	var comp, cm int
	a.cc.OnReady(func() { comp++ })
	a.ch.OnReady(func() { cm++ })
	a.n.Arm([]verbs.CQHandle{a.cq.Handle()})
	b.add(verbs.OpSend, 0, 0, 8, nil)
	b.post()
	w.Advance(time.Millisecond)
	check(t, b.id.Disconnect())
	w.Advance(time.Second)
	if comp == 0 || cm == 0 || a.cc.FD() != -1 || a.cc.Drain() == 0 {
		t.Errorf("%d completions, %d events announced", comp, cm)
	}
}
