package verbstest

import (
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"spindle/verbs"
)

// Run runs the suite. newPair makes a fresh pair for each test.
func Run(t *testing.T, newPair func(*testing.T) *Pair) {
	for i, tc := range []struct {
		name string
		run  func(*setup)
	}{
		{"devices describe themselves", devices},
		{"connection parameters and private data", connection},
		{"rejection", rejection},
		{"nobody listens", nobody},
		{"addresses in use and foreign", addresses},
		{"sends arrive whole and in order", sends},
		{"scatter, gather and inline", gather},
		{"RDMA WRITE is there before the send behind it", writes},
		{"RDMA READs beyond the depth", reads},
		{"send with invalidate", invalidate},
		{"what the peer may not touch", denied},
		{"receive too small", tooSmall},
		{"RNR: the peer waits for a receive", rnrWaits},
		{"RNR: the peer gives up", rnrEnds},
		{"failing flushes everything", flush},
		{"full queues refuse and nothing overtakes", full},
		{"armed queues are announced", armed},
		{"disconnecting", disconnect},
		{"the listener goes, the connection stays", listenerGoes},
		{"objects in use cannot be closed", busy},
		{"two connections at a time", two},
		{"device removal and return", removal},
		{"a wildcard listener outlives the device", wildcardRemoval},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSetup(t, newPair)
			s.port = uint16(3260 + 10*i) // of its own: what a failed test left does not matter
			tc.run(s)
			if !t.Failed() && !t.Skipped() {
				s.done()
			}
		})
	}
}

func devices(s *setup) {
	infos, err := s.Target.Scan()
	must(s.t, err)
	i := slices.IndexFunc(infos, func(d verbs.DeviceInfo) bool { return d.Name == s.Device })
	if i < 0 {
		s.t.Fatalf("%s is not among %v", s.Device, infos)
	}
	devs, err := s.Target.Devices()
	must(s.t, err)
	again, err := s.Target.Devices()
	must(s.t, err)
	if !slices.Equal(devs, again) {
		s.t.Errorf("devices change without a cause: %v, %v", devs, again)
	}
	for _, d := range devs {
		info := d.Info()
		if info.Name != s.Device {
			continue
		}
		if info.NodeGUID != infos[i].NodeGUID || info.NodeGUID == 0 || info.Index != infos[i].Index || info.Transport == verbs.TransportUnknown ||
			info.MaxSGE < 2 || info.MaxReadAtoms < depthWant || info.MaxCQE < 256 || info.MaxQPWR < 64 || len(info.Ports) == 0 {
			s.t.Errorf("%+v", info)
		}
		port, err := d.Port(1)
		must(s.t, err)
		if port.State != verbs.PortActive || port.Number != 1 || port.MaxMsg < 1<<20 ||
			!slices.ContainsFunc(port.GIDs, func(g verbs.GID) bool { return g.Addr == s.Addr }) {
			s.t.Errorf("port %+v does not have %v", port, s.Addr)
		}
		if _, err := d.Port(99); err == nil {
			s.t.Error("port 99 exists")
		}
		if _, err := d.Counters(1); err != nil {
			s.t.Error(err)
		}
	}
	for _, d := range devs {
		must(s.t, d.Close())
	}
}

func connection(s *setup) {
	s.listen()
	s.resolve()
	p := params(7)
	p.InitiatorDepth, p.ResponderResources = 2, 3
	must(s.t, s.b.id.Connect(p, []byte{0xC0, 1, 2, 3}))
	req := s.a.event(verbs.EventConnectRequest)
	if req.Listener != s.listener || req.ID == s.listener || req.ID == nil {
		s.t.Errorf("request for listener %v", req.Listener)
	}
	if got := req.Private(); len(got) < 4 || string(got[:4]) != "\xC0\x01\x02\x03" {
		s.t.Errorf("private data %x", got)
	}
	if req.Param.InitiatorDepth != 3 || req.Param.ResponderResources != 2 {
		s.t.Errorf("parameters %+v: not as this side has them", req.Param)
	}
	s.take(&req)
	if name := s.a.dev.Info().Name; name != s.Device {
		s.t.Errorf("request on %s", name)
	}
	again, err := req.ID.Device()
	must(s.t, err)
	if again != s.a.dev || req.ID.Port() != 1 {
		s.t.Errorf("device %p, %p, port %d", again, s.a.dev, req.ID.Port())
	}
	req.ID.SetKey(42)
	must(s.t, req.ID.Accept(verbs.ConnParam{ResponderResources: 2, InitiatorDepth: 3, RNRRetry: 7}, []byte{0x80}))
	est := s.b.event(verbs.EventEstablished)
	if got := est.Private(); len(got) < 1 || got[0] != 0x80 {
		s.t.Errorf("reply's private data %x", got)
	}
	est = s.a.event(verbs.EventEstablished)
	if est.ID != req.ID || est.ID.Key() != 42 {
		s.t.Errorf("established %v with key %d", est.ID, est.ID.Key())
	}
	local, peer := s.a.id.Addrs()
	plocal, ppeer := s.b.id.Addrs()
	if local != netip.AddrPortFrom(s.Addr, s.port) || local != ppeer || peer.Addr() != plocal.Addr() {
		s.t.Errorf("target %v - %v, peer %v - %v", local, peer, plocal, ppeer)
	}
	for _, x := range []*side{s.a, s.b} {
		if st, err := x.qp.State(); st != verbs.QPReadyToSend || err != nil {
			s.t.Errorf("queue pair is %v, %v", st, err)
		}
		if c := x.qp.Caps(); c.MaxSend < maxSend || c.MaxRecv < maxRecv || c.MaxSendSGE < 4 || c.MaxInline < 64 {
			s.t.Errorf("granted %+v", c)
		}
	}
}

func rejection(s *setup) {
	s.listen()
	s.resolve()
	must(s.t, s.b.id.Connect(params(7), nil))
	req := s.a.event(verbs.EventConnectRequest)
	must(s.t, req.ID.Reject([]byte("no")))
	must(s.t, req.ID.Destroy())
	rej := s.b.event(verbs.EventRejected)
	if rej.Status != 28 || len(rej.Private()) < 2 || string(rej.Private()[:2]) != "no" {
		s.t.Errorf("rejected with %d, %q", rej.Status, rej.Private())
	}
}

func nobody(s *setup) {
	s.port = 3999
	s.resolve()
	must(s.t, s.b.id.Connect(params(7), nil))
	if rej := s.b.event(verbs.EventRejected); rej.Status != 8 {
		s.t.Errorf("rejected with %d", rej.Status)
	}
}

func addresses(s *setup) {
	s.listen()
	id, err := s.a.ch.NewID()
	must(s.t, err)
	if err := id.Bind(netip.AddrPortFrom(s.Addr, s.port)); !errors.Is(err, syscall.EADDRINUSE) {
		s.t.Errorf("second listener: %v", err)
	}
	if err := id.Bind(netip.MustParseAddrPort("192.0.2.1:3260")); err == nil {
		s.t.Error("bound to somebody else's address")
	}
	must(s.t, id.Destroy())
	wild, err := s.a.ch.NewID()
	must(s.t, err)
	mine, other := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	if s.Addr.Is6() {
		mine, other = other, mine
	}
	must(s.t, wild.Bind(netip.AddrPortFrom(mine, s.port+1)))
	must(s.t, wild.Listen(4))
	family, err := s.a.ch.NewID() // the other one
	must(s.t, err)
	must(s.t, family.Bind(netip.AddrPortFrom(other, s.port+1)))
	must(s.t, family.Listen(4))
	if d, err := wild.Device(); d != nil || err != nil {
		s.t.Errorf("wildcard is on %v, %v", d, err)
	}
	must(s.t, wild.SetTOS(0x60))
	s.port++
	s.resolve()
	must(s.t, s.b.id.Connect(params(7), nil))
	req := s.a.event(verbs.EventConnectRequest)
	if req.Listener != wild {
		s.t.Error("a request at the listener of the other address family")
	}
	s.take(&req)
	must(s.t, s.a.id.SetAckTimeout(14))
	must(s.t, s.a.id.Accept(params(7), nil))
	s.b.event(verbs.EventEstablished)
	must(s.t, wild.Destroy())
	must(s.t, family.Destroy())
}

func sends(s *setup) {
	const n = 40
	s.connect(7, 7, func() { s.a.recv(0, n, slotSize) })
	for i := range n {
		flags := verbs.Flags(0)
		if i%8 == 7 {
			flags = verbs.FlagSignaled
		}
		size := uint32(8 + 80*i)
		s.b.fill(i%16, uint64(i), size)
		s.b.send(verbs.OpSend, flags, i%16, size)
		if i%8 == 7 {
			s.b.post()
			if wc := s.b.ok(1)[0]; wc.ID != verbs.NewWRID(uint32(i%16), 1, opSend) || wc.Op != verbs.WCSend || wc.QPNum != s.b.qp.Num() {
				s.t.Errorf("completion %+v", wc)
			}
		}
	}
	for i, wc := range s.a.ok(n) {
		size := uint32(8 + 80*i)
		if wc.ID != verbs.NewWRID(uint32(i), 1, opRecv) || wc.ByteLen != size || wc.Op != verbs.WCRecv || wc.QPNum != s.a.qp.Num() || wc.Flags != 0 {
			s.t.Errorf("receive %d: %+v", i, wc)
		}
		if !s.a.filled(i, uint64(i), size) {
			s.t.Errorf("receive %d: wrong data", i)
		}
	}
	s.b.silence(3) // the unsignalled ones never complete
}

func gather(s *setup) {
	a, b := s.a, s.b
	s.connect(7, 7, func() {
		a.b.SGEs = append(a.b.SGEs, a.sge(0, 6), a.sge(1, 8), a.sge(2, 100))
		a.b.Recvs = append(a.b.Recvs, verbs.RecvWR{ID: verbs.NewWRID(0, 1, opRecv), QP: a.qp.Handle(), NumSGE: 3})
		a.post()
		a.recv(3, 2, 64)
	})
	copy(b.slot(0).Bytes(), "gathered ")
	copy(b.slot(1).Bytes(), "and scattered")
	b.b.Send(verbs.SendWR{ID: 1, QP: b.qp.Handle(), Op: verbs.OpSend, Flags: verbs.FlagSignaled}, b.sge(0, 9), b.sge(1, 13))
	b.post()
	b.ok(1)
	wc := a.ok(1)[0]
	got := string(a.slot(0).Bytes()[:6]) + string(a.slot(1).Bytes()[:8]) + string(a.slot(2).Bytes()[:8])
	if wc.ByteLen != 22 || got != "gathered and scattered" {
		s.t.Errorf("%d bytes: %q", wc.ByteLen, got)
	}
	copy(b.slot(2).Bytes(), "inline")
	b.send(verbs.OpSend, verbs.FlagSignaled|verbs.FlagInline, 2, 6)
	b.post()
	copy(b.slot(2).Bytes(), "reused")
	b.ok(1)
	if a.ok(1); string(a.slot(3).Bytes()[:6]) != "inline" {
		s.t.Errorf("inline data is %q", a.slot(3).Bytes()[:6])
	}
	b.b.Send(verbs.SendWR{ID: 2, QP: b.qp.Handle(), Op: verbs.OpSend, Flags: verbs.FlagSignaled})
	b.post()
	b.ok(1)
	if wc := a.ok(1)[0]; wc.ByteLen != 0 {
		s.t.Errorf("an empty send has %d bytes", wc.ByteLen)
	}
}

func writes(s *setup) {
	const rounds = 20
	a, b := s.a, s.b
	s.connect(7, 7, func() { b.recv(100, rounds, 64) })
	for i := range rounds {
		for k := range 3 {
			a.fill(k, uint64(i*3+k), slotSize)
			a.remote(a.send(verbs.OpRDMAWrite, 0, k, slotSize), b, k)
		}
		a.send(verbs.OpSend, verbs.FlagSignaled, 10, 16)
		a.post()
		b.ok(1)
		for k := range 3 {
			if !b.filled(k, uint64(i*3+k), slotSize) {
				s.t.Fatalf("round %d: RDMA WRITE %d is not there yet", i, k)
			}
		}
		a.ok(1)
	}
	a.silence(3)
}

func reads(s *setup) {
	const n = 3*depthWant + 1
	a, b := s.a, s.b
	s.connect(7, 7, func() { b.recv(100, 1, 64) })
	for i := range n {
		b.fill(i, uint64(i), slotSize)
		a.remote(a.send(verbs.OpRDMARead, verbs.FlagSignaled, i, slotSize), b, i)
	}
	a.send(verbs.OpSend, verbs.FlagSignaled|verbs.FlagFence, 50, 16)
	a.post()
	for i, wc := range a.ok(n) {
		if wc.ID.Slot() != uint32(i) || wc.Op != verbs.WCRDMARead {
			s.t.Errorf("completion %d: %+v", i, wc)
		}
		if !a.filled(i, uint64(i), slotSize) {
			s.t.Errorf("RDMA READ %d: wrong data", i)
		}
	}
	a.ok(1)
	b.ok(1)
}

func invalidate(s *setup) {
	a, b := s.a, s.b
	s.connect(7, 7, func() { b.recv(100, 2, 64) })
	extra, err := b.pd.RegisterRemote(b.slot(5), verbs.AccessRemoteWrite)
	must(s.t, err)
	defer func() { must(s.t, extra.Close()) }()
	key := extra.RKey()
	a.send(verbs.OpSendInv, verbs.FlagSignaled, 0, 16).RKey = key
	a.post()
	if !s.Invalidates {
		sent, received := a.completions(1)[0], b.completions(1)[0]
		if sent.Status == verbs.StatusOK && received.Status == verbs.StatusOK {
			s.t.Error("the peer took an invalidation of what cannot be invalidated")
		}
		return
	}
	a.ok(1)
	if wc := b.ok(1)[0]; wc.Flags&verbs.WCInvalidated == 0 || wc.InvKey != key || wc.Op != verbs.WCRecv {
		s.t.Errorf("receive %+v, want key %#x invalidated", wc, key)
	}
	w := a.send(verbs.OpRDMAWrite, verbs.FlagSignaled, 1, 16)
	w.RemoteAddr, w.RKey = uint64(b.slot(5).Addr), key
	a.post()
	if wc := a.completions(1)[0]; wc.Status != verbs.StatusRemoteAccess {
		s.t.Errorf("use of an invalidated key: %v", wc.Status)
	}
}

// denied has the peer, a hostile one, reach for what the target never gave.
func denied(s *setup) {
	for _, tc := range []struct {
		name string
		op   verbs.Opcode
		aim  func(w *verbs.SendWR)
	}{
		{"RDMA WRITE to local memory", verbs.OpRDMAWrite, func(w *verbs.SendWR) { s.b.remote(w, s.a, 0) }},
		{"RDMA READ of local memory", verbs.OpRDMARead, func(w *verbs.SendWR) { s.b.remote(w, s.a, 0) }},
		{"forged key", verbs.OpRDMAWrite, func(w *verbs.SendWR) { s.b.remote(w, s.a, 0); w.RKey ^= 0x5500 }},
	} {
		s.connect(7, 7, nil)
		s.a.fill(0, 1, slotSize)
		s.b.fill(0, 2, slotSize)
		tc.aim(s.b.send(tc.op, 0, 0, 64))
		s.b.send(verbs.OpSend, 0, 1, 64)
		s.b.post()
		wcs := s.b.completions(2)
		if wcs[0].Status != verbs.StatusRemoteAccess || wcs[0].ID.Op() != opSend || wcs[0].ID.Slot() != 0 {
			s.t.Errorf("%s: %v for slot %d", tc.name, wcs[0].Status, wcs[0].ID.Slot())
		}
		if wcs[1].Status != verbs.StatusFlushed || wcs[1].ID.Slot() != 1 {
			s.t.Errorf("%s: behind it %v for slot %d", tc.name, wcs[1].Status, wcs[1].ID.Slot())
		}
		if !s.a.filled(0, 1, slotSize) || !s.b.filled(0, 2, slotSize) {
			s.t.Errorf("%s: memory changed", tc.name)
		}
		s.part()
	}
	s.connect(7, 7, nil)
	w := s.a.send(verbs.OpRDMAWrite, 0, 0, 64)
	s.a.remote(w, s.b, slots-1)
	w.RemoteAddr += slotSize - 32
	s.a.post()
	if wc := s.a.completions(1)[0]; wc.Status != verbs.StatusRemoteAccess {
		s.t.Errorf("across the end of a region: %v", wc.Status)
	}
}

// part ends the connection and waits until both sides are drained and told.
func (s *setup) part() {
	s.t.Helper()
	must(s.t, s.a.id.Disconnect())
	must(s.t, s.b.id.Disconnect())
	for _, x := range []*side{s.a, s.b} {
		x.event(verbs.EventDisconnected)
		x.poll()
		must(s.t, x.qp.Close())
		must(s.t, x.id.Destroy())
		x.pull()
		x.poll()
		x.qp, x.id, x.got, x.ev = nil, nil, nil, nil
	}
}

func tooSmall(s *setup) {
	s.connect(7, 7, func() { s.a.recv(0, 2, 32) })
	s.b.send(verbs.OpSend, 0, 0, 64)
	s.b.post()
	// Soft-RoCE finds fault with the receive, not with its length.
	if wc := s.b.completions(1)[0]; wc.Status != verbs.StatusRemoteInvalid && wc.Status != verbs.StatusRemoteOp {
		s.t.Errorf("sender: %v", wc.Status)
	}
	wcs := s.a.completions(2)
	if wcs[0].Status != verbs.StatusLocalLength && wcs[0].Status != verbs.StatusLocalQPOp || wcs[0].ID.Slot() != 0 || wcs[0].ID.Op() != opRecv {
		s.t.Errorf("receiver: %v", wcs[0].Status)
	}
	if wcs[1].Status != verbs.StatusFlushed || wcs[1].ID.Slot() != 1 {
		s.t.Errorf("next receive: %v", wcs[1].Status)
	}
}

func rnrWaits(s *setup) {
	s.connect(7, 7, nil)
	s.b.fill(0, 7, 64)
	s.b.send(verbs.OpSend, verbs.FlagSignaled, 0, 64)
	s.b.post()
	s.b.silence(5)
	s.a.recv(0, 1, 64)
	s.b.ok(1)
	if s.a.ok(1); !s.a.filled(0, 7, 64) {
		s.t.Error("wrong data")
	}
}

func rnrEnds(s *setup) {
	s.connect(1, 7, nil) // the target's word binds the peer
	s.b.send(verbs.OpSend, 0, 0, 64)
	s.b.post()
	if wc := s.b.completions(1)[0]; wc.Status != verbs.StatusRNRRetryExceeded {
		s.t.Errorf("sender: %v", wc.Status)
	}
}

func flush(s *setup) {
	a := s.a
	s.connect(7, 7, func() { a.recv(0, 5, 64) })
	must(s.t, a.qp.Fail())
	a.send(verbs.OpSend, 0, 10, 64)
	a.send(verbs.OpSend, verbs.FlagSignaled, 11, 64)
	a.post()
	var sent, received []uint32
	for _, wc := range a.completions(7) {
		if wc.Status != verbs.StatusFlushed || wc.QPNum != a.qp.Num() || wc.ID.Gen() != 1 {
			s.t.Errorf("%+v", wc)
		}
		if wc.ID.Op() == opSend {
			sent = append(sent, wc.ID.Slot())
		} else {
			received = append(received, wc.ID.Slot())
		}
	}
	if !slices.Equal(sent, []uint32{10, 11}) || !slices.Equal(received, []uint32{0, 1, 2, 3, 4}) {
		s.t.Errorf("sends %v, receives %v", sent, received)
	}
	if st, err := a.qp.State(); st != verbs.QPError || err != nil {
		s.t.Errorf("state %v, %v", st, err)
	}
	a.recv(5, 2, 64)
	must(s.t, a.qp.Fail()) // once more, for those posted since
	for i, wc := range a.completions(2) {
		if wc.Status != verbs.StatusFlushed || wc.ID.Slot() != uint32(5+i) {
			s.t.Errorf("late receive %d: %+v", i, wc)
		}
	}
}

func full(s *setup) {
	a := s.a
	s.connect(7, 7, nil)
	posted := 0 // no receive: these stay
	for refused := 0; refused == 0; posted += 3 {
		if posted > 8*a.qp.Caps().MaxSend {
			s.t.Fatalf("%d requests in a queue of %d", posted, a.qp.Caps().MaxSend)
		}
		for i := range 3 {
			a.send(verbs.OpSend, 0, i, 8)
		}
		refused = a.p.Post(a.b)
		for k := range a.b.Sends {
			if err := a.b.Sends[k].Err; (err != 0) != (k >= 3-refused) || k == 3-refused && err != int32(syscall.ENOMEM) {
				s.t.Errorf("%d refused: request %d has %v", refused, k, syscall.Errno(err))
			}
		}
		a.b.Reset()
	}
	if posted < a.qp.Caps().MaxSend {
		s.t.Errorf("refused after %d of %d", posted, a.qp.Caps().MaxSend)
	}
	for i, h := range []verbs.QPHandle{0, a.qp.Handle() + 1000, a.qp.Handle()} {
		a.b.Recv(h, verbs.NewWRID(uint32(i), 1, opRecv), a.sge(i, 8))
	}
	if k := a.p.Post(a.b); k != 2 || a.b.Recvs[0].Err == 0 || a.b.Recvs[1].Err == 0 || a.b.Recvs[2].Err != 0 {
		s.t.Errorf("%d refused: %+v", k, a.b.Recvs)
	}
	a.b.Reset()
	gone := a.qp.Handle()
	must(s.t, a.qp.Close())
	a.qp = nil
	a.b.Recv(gone, 1, a.sge(0, 8))
	if k := a.p.Post(a.b); k != 1 {
		s.t.Error("a closed queue pair takes requests")
	}
	a.b.Reset()
}

func armed(s *setup) {
	a, b := s.a, s.b
	s.connect(7, 7, func() { a.recv(0, 4, 64) })
	cqs := []verbs.CQHandle{a.cq.Handle()}
	one := func() {
		b.send(verbs.OpSend, verbs.FlagSignaled, 0, 8)
		b.post()
		b.ok(1)
	}
	one()
	a.ok(1)
	if n := a.cc.Drain(); n != 0 {
		s.t.Errorf("%d announcements without arming", n)
	}
	if !a.p.Arm(cqs) {
		s.t.Fatal("arming failed")
	}
	for range 5 {
		s.Step()
	}
	if n := a.cc.Drain(); n != 0 {
		s.t.Errorf("%d announcements without a completion", n)
	}
	one()
	one()
	total := 0
	s.wait(s.t, "an announcement", func() bool { total += a.cc.Drain(); return total > 0 })
	a.ok(2)
	for range 5 {
		s.Step()
		total += a.cc.Drain()
	}
	if total != 1 {
		s.t.Errorf("%d announcements for arming once", total)
	}
}

func disconnect(s *setup) {
	a, b := s.a, s.b
	s.connect(7, 7, func() { a.recv(0, 3, 64); b.recv(0, 2, 64) })
	must(s.t, b.id.Disconnect())
	a.event(verbs.EventDisconnected)
	must(s.t, a.id.Disconnect())
	for _, wc := range append(a.completions(3), b.completions(2)...) {
		if wc.Status != verbs.StatusFlushed {
			s.t.Errorf("%v", wc.Status)
		}
	}
	b.event(verbs.EventDisconnected)
}

func listenerGoes(s *setup) {
	s.connect(7, 7, func() { s.a.recv(0, 1, 64) })
	must(s.t, s.listener.Destroy())
	s.listener = nil
	s.b.send(verbs.OpSend, verbs.FlagSignaled, 0, 8)
	s.b.post()
	s.b.ok(1)
	s.a.ok(1)
}

func busy(s *setup) {
	s.connect(7, 7, nil)
	a := s.a
	for _, tc := range []struct {
		name  string
		close func() error
	}{
		{"domain", a.pd.Close}, {"completion queue", a.cq.Close}, {"completion channel", a.cc.Close},
		{"device", a.dev.Close}, {"identifier", a.id.Destroy}, {"event channel", a.ch.Close},
	} {
		if err := tc.close(); !errors.Is(err, verbs.ErrBusy) {
			s.t.Errorf("%s in use: %v", tc.name, err)
		}
	}
	a.recv(0, 1, 8) // all of it works on
	s.b.send(verbs.OpSend, verbs.FlagSignaled, 0, 8)
	s.b.post()
	s.b.ok(1)
	a.ok(1)
}

func two(s *setup) {
	s.connect(7, 7, func() { s.a.recv(0, 1, 64) })
	firstA, firstB := *s.a, *s.b
	s.connect(7, 7, func() { s.a.recv(1, 1, 64) })
	for i, x := range []*side{s.b, &firstB} {
		x.b.Send(verbs.SendWR{ID: verbs.NewWRID(uint32(i), 1, opSend), QP: x.qp.Handle(), Op: verbs.OpSend, Flags: verbs.FlagSignaled}, x.sge(i, uint32(8+i)))
	}
	s.b.post() // one batch for both
	s.b.ok(2)
	for _, wc := range s.a.ok(2) {
		want := uint32(9)
		qp := firstA.qp
		if wc.ID.Slot() == 1 {
			want, qp = 8, s.a.qp
		}
		if wc.ByteLen != want || wc.QPNum != qp.Num() {
			s.t.Errorf("%+v", wc)
		}
	}
	for _, x := range []*side{&firstA, &firstB} {
		must(s.t, x.qp.Close())
		must(s.t, x.id.Destroy())
	}
}

func removal(s *setup) {
	if s.Remove == nil {
		s.t.Skip("this provider's device cannot be removed here")
	}
	a, b := s.a, s.b
	s.connect(7, 7, func() { a.recv(0, 3, 64) })
	old := a.dev.Info().Index
	s.Remove()
	s.waitGone()
	var removed bool
	s.wait(s.t, "the identifier to be told", func() bool {
		for a.pull() {
			removed = removed || a.ev[0].Type == verbs.EventDeviceRemoval && a.ev[0].ID == a.id
			a.ev = a.ev[1:]
		}
		return removed
	})
	if s.Removed() {
		s.t.Error("removed while everything is open")
	}
	b.pull()
	b.close()
	a.close()
	must(s.t, s.listener.Destroy())
	must(s.t, a.dev.Close())
	if b.dev != a.dev {
		must(s.t, b.dev.Close())
	}
	s.wait(s.t, "the removal to end", s.Removed)
	s.listener, a.dev, b.dev, a.ev, b.ev, a.got, b.got = nil, nil, nil, nil, nil, nil, nil
	s.Add()
	s.connect(7, 7, func() { s.a.recv(0, 1, 64) })
	if now := a.dev.Info().Index; now == old {
		s.t.Errorf("the new device has the old one's index %d", old)
	}
	b.send(verbs.OpSend, verbs.FlagSignaled, 0, 8)
	b.post()
	b.ok(1)
	a.ok(1)
}

// waitGone waits until the target's device is not listed.
func (s *setup) waitGone() {
	s.t.Helper()
	s.wait(s.t, "the device to go", func() bool {
		infos, err := s.Target.Scan()
		must(s.t, err)
		devs, err := s.Target.Devices()
		must(s.t, err)
		return !slices.ContainsFunc(infos, func(d verbs.DeviceInfo) bool { return d.Name == s.Device }) &&
			!slices.ContainsFunc(devs, func(d verbs.Device) bool { return d.Info().Name == s.Device })
	})
}

// wildcardRemoval: no event tells of the removal, because nothing of the
// listener is on the device; but its Device is held.
func wildcardRemoval(s *setup) {
	if s.Remove == nil {
		s.t.Skip("this provider's device cannot be removed here")
	}
	var err error
	s.listener, err = s.a.ch.NewID()
	must(s.t, err)
	wild := netip.IPv4Unspecified()
	if s.Addr.Is6() {
		wild = netip.IPv6Unspecified()
	}
	must(s.t, s.listener.Bind(netip.AddrPortFrom(wild, s.port)))
	must(s.t, s.listener.Listen(4))
	for range 2 {
		devs, err := s.Target.Devices()
		must(s.t, err)
		i := slices.IndexFunc(devs, func(d verbs.Device) bool { return d.Info().Name == s.Device })
		if i < 0 {
			s.t.Fatalf("%s is not there", s.Device)
		}
		s.a.open(devs[i], true)
		s.Remove()
		s.waitGone()
		s.a.close()
		for _, d := range devs {
			must(s.t, d.Close())
		}
		s.a.dev = nil
		s.wait(s.t, "the removal to end", s.Removed)
		s.Add()
	}
	s.connect(7, 7, func() { s.a.recv(0, 1, 64) })
	s.b.send(verbs.OpSend, verbs.FlagSignaled, 0, 8)
	s.b.post()
	s.b.ok(1)
	s.a.ok(1)
}
