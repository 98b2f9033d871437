package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"spindle/iscsi"
	"spindle/iser"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/verbs"
	"spindle/verbs/memverbs"
)

// fabric is the RDMA side of a run: the target's machine with its devices, and
// its iSER transport. Runs without iSER have none.
type fabric struct {
	s    *run
	w    *memverbs.World
	node *memverbs.Node // the target's
	devs []rdmaDevice
	iser *iser.Transport

	descriptors bool // sources are descriptors that the rings poll
	unsolicited bool
	sendQueue   int

	changing    int   // deeds at work that change who may connect
	steadySince int64 // the last one ended
	denied      uint64
	stalls      uint64
	noReceive   uint64
	sender      int // number of the queue pair that transmitted last
}

// rdmaDevice is a device of the target's machine.
type rdmaDevice struct {
	info  verbs.DeviceInfo
	addr  netip.Addr
	there bool
}

// draw decides about the fabric, or that there is none.
func (f *fabric) draw(s *run) {
	r := s.rng
	if r.IntN(3) != 0 && !s.cfg.ISER {
		return
	}
	f.s = s
	c := memverbs.Config{
		Rand: r, Clock: &s.clk,
		Latency:    pick(r, 5*time.Microsecond, 20*time.Microsecond, 100*time.Microsecond),
		CMLatency:  pick(r, 50*time.Microsecond, 500*time.Microsecond),
		RNRTimer:   pick(r, 10*time.Microsecond, time.Millisecond, 655360*time.Microsecond),
		RetryTimer: pick(r, 10*time.Millisecond, 2*time.Second),
	}
	if !s.cfg.Calm && r.IntN(12) != 0 {
		c.Faults = drawFabricFaults(r)
	}
	f.w = memverbs.New(c)
	f.w.Trace = f.observe
	f.node = f.w.NewNode()
	f.node.Touch = f.touch
	f.descriptors, f.unsolicited = r.IntN(2) == 0, r.IntN(3) == 0
	f.sendQueue = pick(r, 0, 32, 64)
	f.devs = append(f.devs, rdmaDevice{addr: s.portals[0].addr.Addr(), info: f.drawDevice("rxe0")})
	if r.IntN(2) == 0 { // a second device, and the second portal on it
		s.portals[1].addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), 3260)
		f.devs = append(f.devs, rdmaDevice{addr: s.portals[1].addr.Addr(), info: f.drawDevice("rxe1")})
	}
	for i := range s.portals {
		s.portals[i].iser = true
	}
}

func drawFabricFaults(r *rand.Rand) memverbs.Faults {
	f := memverbs.AllFaults()
	for _, p := range []*float64{
		&f.Delay, &f.RNR, &f.LateRead, &f.RemoteAccess, &f.Fatal, &f.LateReceive, &f.ShortPoll, &f.Spurious,
		&f.EarlyReceive, &f.EventDelay, &f.DupEvent, &f.LostRequest, &f.LostReply,
	} {
		if r.IntN(5) < 2 {
			*p = 0
		}
	}
	return f
}

// drawDevice draws the limits of a device: what a run needs, or not much more.
func (f *fabric) drawDevice(name string) verbs.DeviceInfo {
	r := f.s.rng
	d := verbs.DeviceInfo{Name: name, MaxQPWR: 1024, MaxCQE: pick(r, 2048, 4096), MaxInitReadAtoms: pick(r, 1, 4, 128), MaxReadAtoms: 128}
	d.Transport, d.MemMgtExtensions = verbs.TransportRoCE, r.IntN(4) != 0
	d.Ports = []verbs.PortInfo{{MaxMsg: pick(r, uint32(4096), 16384, 8<<20)}} // of 72 KiB the smallest makes 18 requests
	return d
}

// start makes the transport of a target that starts.
func (f *fabric) start() iscsi.Transport {
	for i := range f.devs {
		f.add(i)
	}
	f.changing = 0
	f.steadySince = f.s.now()
	o := iser.Options{Provider: f.node, Reactors: f.s.reactors, Space: f.s.m.space, Offload: offload{f.s}, Log: f.s.logger(),
		Unsolicited: f.unsolicited, SendQueue: f.sendQueue}
	if f.descriptors {
		o.Provider = memverbs.WithDescriptors(f.node, f.s.w)
	}
	f.iser = iser.New(o)
	return f.iser
}

// add adds a device that is not there.
func (f *fabric) add(i int) {
	if d := &f.devs[i]; !d.there {
		d.there = true
		f.node.AddDeviceInfo(d.info, d.addr)
	}
}

// die is the end of the target's process, or of its machine.
func (f *fabric) die(power bool) {
	if power {
		f.node.Vanish()
	} else {
		f.node.Kill()
	}
}

// stable tells whether whoever connects is taken.
func (f *fabric) stable() bool { return f.changing == 0 }

func (f *fabric) settled() {
	f.changing--
	f.steadySince = f.s.now()
}

// next is when something of the fabric happens next.
func (f *fabric) next() clock.Time {
	if f.w == nil {
		return clock.Never
	}
	return f.w.Next()
}

// stepWorld makes one event of the fabric happen, and looks whether the target
// did what it must not.
func (f *fabric) stepWorld() {
	f.w.Step()
	c := &f.w.Counts
	if c.AccessDenied != f.denied {
		f.denied = c.AccessDenied
		f.s.fail("remote memory", "an access by queue pair %d (%s) to memory of an initiator that was not, or no longer, advertised", f.sender, f.whose())
	}
	if c.ReadStalls != f.stalls {
		f.stalls = c.ReadStalls
		f.s.fail("RDMA READs", "more are posted than the initiator serves")
	}
	if c.NoReceive != f.noReceive {
		f.noReceive = c.NoReceive
		f.notReady()
	}
}

// whose names the initiator at the other end of the queue pair that was active last.
func (f *fabric) whose() string {
	for _, in := range f.s.inits {
		if in.link == &in.rdma && in.rdma.is(uint32(f.sender+memverbs.FirstQPNum)) {
			return fmt.Sprintf("of initiator %d", in.id)
		}
	}
	return "of a connection that is gone"
}

// notReady judges a message that found no receive.
func (f *fabric) notReady() {
	for _, in := range f.s.inits {
		if l := &in.rdma; in.link == l && l.qp != nil && int(l.qp.Num())-memverbs.FirstQPNum == f.sender {
			if l.extras() <= iser.ReserveReceives {
				in.bad("receives", "the target has none posted for a message, %d beside the window", l.extras())
			}
			return
		}
	}
	f.s.fail("receives", "the target sent more than the initiator has receives for")
}

// touch sees the target's own memory as its devices use it.
func (f *fabric) touch(e verbs.SGE) {
	for i, a := range f.s.arenas {
		b := mem.Ref{Addr: uintptr(e.Addr), Len: e.Len, Region: a.Region().Index}
		if a.Region().Contains(b) && !a.Holds(b) {
			f.s.fail("freed memory", "a device uses %d bytes of reactor %d's arena that were given back", e.Len, i)
		}
	}
}

// observe sees every event of the fabric.
func (f *fabric) observe(e memverbs.Event) {
	s := f.s
	switch e.Kind {
	case memverbs.Transmit, memverbs.Read:
		f.sender = e.ID
		if s.cfg.Trace && e.Op != "SEND" {
			s.line("  queue pair %d %s %s", e.ID, e.Kind, e.Op)
		}
	case memverbs.Complete:
		if st := verbs.Status(e.N); s.cfg.Trace && st != verbs.StatusOK && st != verbs.StatusFlushed {
			s.line("  queue pair %d completes %s with %v", e.ID, e.Op, st)
		}
	case memverbs.Injected:
		for _, in := range s.inits {
			if l := &in.rdma; in.link != l {
				continue
			}
			switch e.Op {
			case "fatal", "remote access":
				if n := uint32(e.ID + memverbs.FirstQPNum); in.phase == loggingIn || in.rdma.is(n) {
					in.excuse("fault: " + e.Op)
				}
			case "lost request", "lost reply":
				if in.phase == loggingIn {
					in.excuse("fault: " + e.Op)
				}
			}
		}
		if s.cfg.Trace && e.Op != "delay" {
			s.line("fault %s at %d of the fabric", e.Op, e.ID)
		}
	}
}

// check looks whether the target, which was stopped, gave everything back.
func (f *fabric) check() {
	if f.w == nil {
		return
	}
	s := f.s
	if n := f.node.Live(); n != (memverbs.Live{}) {
		s.fail("home", "left open on the RDMA devices: %+v", n)
	}
	if n := f.node.Removing(); n != 0 {
		s.fail("home", "%d removed RDMA devices not closed", n)
	}
	st := &f.iser.Stats
	if n := st.DrainTimeout.Load(); n != 0 {
		s.fail("home", "%d queue pairs destroyed before their requests had flushed", n)
	}
	if n := st.Stale.Load(); n != 0 {
		s.fail("home", "%d completions after the end of their queue pair", n)
	}
	if n := st.Refused.Load(); n != 0 {
		s.fail("home", "%d requests that the devices did not take", n)
	}
	for i, r := range s.reactors {
		if r.Load() != 0 {
			s.fail("home", "reactor %d has load %d", i, r.Load())
		}
	}
}

// --- deeds

// reconfigure begins a change of the fabric in the middle of I/O.
func (f *fabric) reconfigure() {
	s := f.s
	switch s.rng.IntN(5) {
	case 0, 1:
		i := s.rng.IntN(len(f.devs))
		s.begin("remove an RDMA device", func(c reactor.Caller) { f.cycleDevice(c.(*coroutine), i) })
	case 2, 3:
		p := &s.portals[s.rng.IntN(len(s.portals))]
		s.begin("switch iSER off and on", func(c reactor.Caller) { f.toggle(c.(*coroutine), p) })
	default:
		i := s.rng.IntN(len(f.devs))
		s.begin("change an RDMA device's address", func(c reactor.Caller) {
			s.count(AddressChanges)
			f.changing++
			f.excuse(f.devs[i].addr, "its address changes")
			f.node.ChangeAddress(f.devs[i].info.Name)
			c.(*coroutine).pause(200 * time.Millisecond) // the news is on its way
			f.excuse(f.devs[i].addr, "its address changed")
			f.settled()
		})
	}
}

// excuse lets the connections over iSER to an address end.
func (f *fabric) excuse(addr netip.Addr, why string) {
	for _, in := range f.s.inits {
		if in.link == &in.rdma && f.s.portals[in.portal].addr.Addr() == addr {
			in.excuse(why)
		}
	}
}

// Bounds of what the removal of a device takes: until its driver is let go, and
// until it is served again when it is back.
const (
	removalLimit = 5 * time.Second
	revivalLimit = 5 * time.Second
)

// cycleDevice removes a device and adds it again.
func (f *fabric) cycleDevice(c *coroutine, i int) {
	s, d := f.s, &f.devs[i]
	s.count(DevicesRemoved)
	f.changing++
	f.excuse(d.addr, "its RDMA device is removed")
	f.node.RemoveDevice(d.info.Name)
	d.there = false
	if !f.until(c, removalLimit, func() bool { return f.node.Removing() == 0 }) {
		s.fail("removal", "RDMA device %s is still open %v after it was removed", d.info.Name, removalLimit)
	}
	c.pause(time.Duration(s.rng.IntN(3000)) * time.Microsecond)
	f.add(i)
	f.excuse(d.addr, "its RDMA device was removed")
	if !f.until(c, revivalLimit, func() bool { return f.served(d.addr) }) {
		s.fail("removal", "RDMA device %s is back, and its portals are not served after %v", d.info.Name, revivalLimit)
	}
	f.settled()
}

// until lets time pass until cond, false when that is not within limit.
func (f *fabric) until(c *coroutine, limit time.Duration, cond func() bool) bool {
	end := f.s.clk.T.Add(limit)
	for !cond() {
		if f.s.clk.T >= end {
			return false
		}
		c.pause(50 * time.Millisecond)
	}
	return true
}

// served tells whether every portal at addr that ought to be is served over iSER.
func (f *fabric) served(addr netip.Addr) bool {
	for _, g := range f.s.engine.PortalGroups() {
		for _, p := range g.Portals {
			if p.Addr.Addr() == addr && p.ISERWait != "" {
				return false
			}
		}
	}
	return true
}

// toggle switches iSER off at a portal and on again: sessions over TCP go on.
func (f *fabric) toggle(c *coroutine, p *portal) {
	s := f.s
	s.count(PortalsToggled)
	f.changing++
	off := func() {
		for _, in := range s.inits {
			if in.link == &in.rdma && &s.portals[in.portal] == p {
				in.excuse("iSER is switched off at its portal")
			}
		}
	}
	off()
	p.iser = false
	s.must(s.engine.SetPortalGroupISER(c, p.tag, false))
	c.pause(time.Duration(s.rng.IntN(3000)) * time.Microsecond)
	off()
	s.must(s.engine.SetPortalGroupISER(c, p.tag, true))
	p.iser = true
	f.settled()
}
