package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"spindle/bdev"
	"spindle/bdev/delay"
	"spindle/bdev/file"
	"spindle/bdev/null"
	"spindle/bdev/passthru"
	"spindle/iscsi"
	"spindle/iscsi/tcp"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/simring"
)

// plan is what draw decided about a run.
type plan struct {
	reactors, initiators, actions int
	arena                         uint64
	hog                           uint32 // bytes of each arena that are somebody else's
	turnCost                      int64  // bound of what a turn takes, ns
	idle                          reactor.IdlePolicy
	abortive                      bool // initiators abort a lot
	slow                          bool // the disks may take longer than task management waits
	options                       iscsi.Options
	listen                        ring.ListenOptions
	digests                       [2]bool // the node wants them
	doomAt                        int     // kill the target after so many actions; 0 is never
	power                         bool    // ... and the machine with it
	deedEvery                     int     // actions between reconfigurations
	storeFails                    bool    // now and then the store of reservations does
	ported                        bool    // initiators set the states of the target ports
	sanitized                     bool    // ... and sanitize and format
	contended                     int     // place of the LUN whose reservation they fight for; -1 is none
}

// lunKind is what a logical unit is made of.
type lunKind uint8

const (
	kindNull lunKind = iota
	kindRAM
	kindFile
)

func (k lunKind) String() string { return [...]string{"null", "malloc", "file"}[k] }

// lun is a logical unit and what is known of its medium.
type lun struct {
	id         uint16
	kind       lunKind
	blockSize  uint32
	blocks     uint64     // of the device
	capacities []capacity // ... the last one now
	area       uint64     // blocks from 0 on that initiators write
	buffered   bool
	delayed    bool
	passed     bool
	spare      bool // comes and goes
	tas        bool // TAS is 1 by default
	removable  bool
	readOnly   bool
	shielded   bool          // its blocks have protection information
	target     bool          // of EXTENDED COPY, once
	metered    bool          // thin, and its file tells how much it uses
	writes     time.Duration // what a delayed write takes, as a rule
	ramIndex   int
	path       string
	disk       *simring.Disk

	present bool  // in the node, for all that is known
	changed int64 // instant of the last change of its presence
	bdev    *bdev.Bdev
	probe   *probe
	delay   *delay.Device
	file    *file.Device
	ram     *ramDisk

	events
	medium
	common
	resources
	counted
}

// draw decides what the run is made of.
func (s *run) draw() {
	r, p := s.rng, &s.plan
	p.reactors, p.initiators, p.actions = s.cfg.Reactors, s.cfg.Initiators, s.cfg.Actions
	if p.reactors == 0 {
		p.reactors = pick(r, 1, 1, 2, 3)
	}
	if p.initiators == 0 {
		p.initiators = 1 + r.IntN(3)
	}
	if p.actions == 0 {
		p.actions = 220 + r.IntN(120)
	}
	p.arena = pick(r, uint64(8<<20), 16<<20, 16<<20)
	if p.arena == 8<<20 && r.IntN(2) == 0 {
		p.hog = pick(r, uint32(3<<20), 3<<20+256<<10, 3<<20+448<<10)
	}
	p.turnCost = pick(r, int64(2_000), 10_000, 50_000)
	p.idle = pick(r, reactor.Interrupt, reactor.Interrupt, reactor.Adaptive)
	p.drawOptions(s)
	if r.IntN(4) == 0 {
		p.doomAt, p.power = p.actions/4+r.IntN(p.actions/2), r.IntN(3) != 0
	}
	p.abortive = r.IntN(10) == 0
	p.deedEvery = pick(r, 0, 20, 60, 60)
	p.ported, p.sanitized = r.IntN(5) == 0, r.IntN(3) == 0
	p.storeFails = !s.cfg.Calm && r.IntN(4) == 0
	s.drawMover()
	s.w = simring.New(s.drawWorld())
	s.w.Trace = s.observe
	s.portals = []portal{
		{tag: 1, addr: netip.MustParseAddrPort("127.0.0.1:3260")},
		{tag: 2, addr: netip.MustParseAddrPort("127.0.0.1:3261")},
	}
	s.fab.draw(s)
	if s.fab.w != nil {
		p.hog = min(p.hog, 2<<20) // receives take their share: idle sessions must not keep the others out for ever
	}
	s.drawAuth()
	s.drawLUNs()
	p.contended = -1
	if r.IntN(2) == 0 {
		p.contended = r.IntN(len(s.luns))
		if p.power && r.IntN(2) == 0 {
			p.contended = 1 // a file, whose cache matters then
		}
		// Writes take their time there, so that a fence has some to wait for.
		lu := s.luns[p.contended]
		lu.readOnly = false
		lu.writes = pick(r, lu.writes, 300*time.Microsecond, time.Millisecond)
		lu.delayed = lu.delayed || lu.writes > usualWrite
	}
	for i := range p.initiators {
		s.inits = append(s.inits, newInitiator(s, i))
	}
}

func (s *run) drawWorld() simring.Config {
	r := s.rng
	if r.IntN(40) == 0 {
		s.plan.slow = true
	}
	c := simring.Config{
		Rand: r, Clock: &s.clk,
		NetLatency:   pick(r, 10*time.Microsecond, 50*time.Microsecond, 100*time.Microsecond),
		DiskLatency:  pick(r, 20*time.Microsecond, 200*time.Microsecond, time.Millisecond),
		Stall:        pick(r, 10*time.Millisecond, 200*time.Millisecond, 2*time.Second),
		SocketBuffer: pick(r, 4<<10, 16<<10, 64<<10, 64<<10),
	}
	if s.plan.slow {
		c.DiskLatency = 300 * time.Millisecond
	}
	if s.cfg.Calm || r.IntN(12) == 0 {
		return c
	}
	f := simring.AllFaults()
	for _, p := range []*float64{
		&f.Split, &f.Coalesce, &f.Delay, &f.Stall, &f.Reorder, &f.HalfClose, &f.Reset,
		&f.LateAccept, &f.AcceptError, &f.ShortSend, &f.NoBufs, &f.LostMore,
		&f.Interrupted, &f.Busy, &f.QueueFull, &f.Overflow, &f.CancelRace, &f.Spurious,
		&f.DiskDelay, &f.DiskReorder, &f.ReadError, &f.WriteError, &f.NoSpace,
		&f.ShortRead, &f.ShortWrite, &f.SyncError, &f.NoThread,
	} {
		if r.IntN(5) < 2 {
			*p = 0
		}
	}
	c.Faults = f
	return c
}

func (p *plan) drawOptions(s *run) {
	r := s.rng
	o := iscsi.Defaults()
	o.MaxQueueDepth = pick(r, uint32(1), 2, 4, 8, 16, 16, 32)
	o.MaxBurstLength = pick(r, uint32(512), 4096, 16384, 65536, 262144)
	o.FirstBurstLength = min(o.MaxBurstLength, pick(r, uint32(512), 4096, 8192, 65536))
	o.MaxOutstandingR2T = pick(r, uint32(1), 2, 4, 8)
	o.ImmediateData = r.IntN(4) != 0
	o.InitialR2T = r.IntN(4) == 0
	o.NopInInterval = p.drawInterval(r)
	o.MaxConnsPerSession = pick(r, uint32(1), 2, 2, 3)
	o.ErrorRecoveryLevel = pick(r, uint32(0), 0, 1, 2)
	o.NopTimeout = pick(r, uint32(5), 30)
	if r.IntN(8) == 0 {
		o.MaxPendingLogins = 2
	}
	p.options = o
	s.depth = o.MaxQueueDepth
	if r.IntN(3) == 0 {
		p.listen.RecvBuffer = pick(r, 2048, 8192)
	}
	if r.IntN(3) == 0 {
		p.listen.SendBuffer = pick(r, 2048, 8192)
	}
	if r.IntN(3) == 0 {
		p.listen.UserTimeoutMS = 3000
	}
	p.digests = [2]bool{r.IntN(8) == 0, r.IntN(8) == 0}
}

// drawInterval draws how often the target pings. Without any it keeps what an
// initiator that vanished had: where memory is short, that keeps the others out
// for ever.
func (p *plan) drawInterval(r *rand.Rand) uint32 {
	n := pick(r, uint32(0), 5, 30)
	if p.hog > 0 {
		n = max(n, 5)
	}
	return n
}

// usualWrite is what a delayed write takes.
const usualWrite = 30 * time.Microsecond

// drawLUNs gives the node two to five logical units.
func (s *run) drawLUNs() {
	r := s.rng
	size := pick(r, uint32(512), 512, 4096)
	add := func(id uint16, k lunKind) *lun {
		lu := &lun{id: id, kind: k, blockSize: pick(r, size, size, size, 512, 4096)}
		lu.delayed, lu.passed, lu.tas = r.IntN(3) == 0, r.IntN(4) == 0, r.IntN(3) == 0
		lu.removable, lu.writes = r.IntN(6) == 0, usualWrite
		lu.readOnly = r.IntN(16) == 0
		lu.shielded = k == kindRAM && r.IntN(4) == 0
		lu.area = uint64(pick(r, 48, 128, 256, 512))
		if lu.blockSize == 4096 {
			lu.area /= pick(r, uint64(2), 4)
		}
		lu.blocks = lu.area
		s.luns = append(s.luns, lu)
		return lu
	}
	if r.IntN(3) == 0 {
		lu := add(0, kindNull)
		lu.blocks = 1 << 24
	} else {
		add(0, kindRAM)
	}
	s.addFile(add(1, kindFile), 0)
	if r.IntN(2) == 0 {
		add(2, kindRAM).ramIndex = 1
	}
	if r.IntN(2) == 0 {
		lu := add(uint16(pick(r, 5, 255, 300)), pick(r, kindRAM, kindFile))
		lu.spare, lu.ramIndex = true, 2
		if lu.kind == kindFile {
			s.addFile(lu, 1)
		}
	}
}

// addFile gives lu its disk.
func (s *run) addFile(lu *lun, i int) {
	r := s.rng
	lu.path = fmt.Sprintf("/disk%d", i)
	size := int64(lu.blocks) * int64(lu.blockSize)
	opt := simring.DiskOptions{Size: size, Align: pick(r, uint32(512), 512, 4096), BlockDevice: r.IntN(3) == 0,
		NoDiscard: r.IntN(4) == 0, NoDirect: r.IntN(4) == 0}
	if opt.BlockDevice && opt.Align > lu.blockSize {
		opt.Align = lu.blockSize
	}
	lu.metered = !opt.BlockDevice && !opt.NoDiscard
	lu.buffered = r.IntN(3) == 0
	lu.disk = s.w.AddDisk(lu.path, opt)
}

// start starts the target: reactors, engine, portal, node.
func (s *run) start() {
	s.epoch++
	s.started = s.now()
	s.arenas, s.rings, s.cores, s.reactors, s.hogs = nil, nil, nil, nil, nil
	for i := range s.plan.reactors {
		a, err := s.m.arena(i, s.plan.arena)
		if err != nil {
			s.fail("machine", "%v", err)
			return
		}
		s.hogs = append(s.hogs, s.hog(a))
		q := s.w.NewRing(a)
		r := reactor.New(reactor.Config{ID: i, Core: -1, Ring: q, Clock: &s.clk, Arena: a, Idle: s.plan.idle})
		s.arenas, s.rings, s.reactors = append(s.arenas, a), append(s.rings, q), append(s.reactors, r)
		s.cores = append(s.cores, s.newCore(r, q))
	}
	s.tcp = tcp.New(s.w, s.reactors, tcp.Options{Listen: s.plan.listen})
	cfg := iscsi.Config{Reactors: s.reactors, Transport: s.tcp, Entropy: newEntropy(s), Options: s.plan.options, Log: s.logger(),
		Reservations: s.store, Offload: offload{s}, Balance: s.balancer()}
	if s.fab.w != nil {
		cfg.ISER = s.fab.start()
	}
	s.engine = iscsi.New(cfg)
	s.jobs, s.leaving = s.jobs[:0], false
	s.changing = 1 // whatever deed was under way is gone
	s.await("start", s.configure)
	s.changed()
}

// hog takes the plan's share of an arena, so that memory is short.
func (s *run) hog(a *mem.Arena) (list []mem.Ref) {
	for n := uint32(mem.MaxBlock / 2); n >= mem.MinBlock; n /= 2 {
		if s.plan.hog&n != 0 {
			if b, ok := a.Alloc(n); ok {
				list = append(list, b)
			}
		}
	}
	return list
}

// entropy is drawn from the seed: runs repeat.
type entropy struct{ rng *rand.Rand }

func newEntropy(s *run) entropy {
	return entropy{rand.New(rand.NewPCG(s.cfg.Seed, uint64(s.epoch)))}
}

func (e entropy) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(e.rng.Uint32())
	}
	return len(b), nil
}

// await runs control code to its end, with everything else going on.
func (s *run) await(name string, fn func(c reactor.Caller)) {
	s.control = s.spawn(name, fn)
	c := s.control
	for !c.over && !s.failed() {
		if !s.step(clock.Never) {
			s.stuck("control code waits: " + name)
		}
	}
}

func (s *run) must(err error) {
	if err != nil {
		s.fail("control", "%v", err)
	}
}

// configure makes the target's objects as an operator does.
func (s *run) configure(c reactor.Caller) {
	s.applyAuth()
	for i := range s.portals {
		p := &s.portals[i]
		p.iser = s.fab.w != nil
		s.must(s.engine.AddPortalGroup(c, p.group()))
		p.up = true
	}
	s.must(s.engine.AddInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"ANY"}, Netmasks: []string{"ANY"}}))
	for _, lu := range s.luns {
		if s.epoch == 1 {
			s.beginShared(lu)
		}
		s.build(c, lu)
	}
	s.addNode(c)
}

// group is p's portal group.
func (p *portal) group() iscsi.PortalGroup {
	return iscsi.PortalGroup{Tag: p.tag, Portals: []iscsi.Portal{{Addr: p.addr, ISER: p.iser}}}
}

func (s *run) addNode(c reactor.Caller) {
	cfg := iscsi.NodeConfig{
		Name: nodeName, Alias: "sim", HeaderDigest: s.plan.digests[0], DataDigest: s.plan.digests[1],
		Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}, {PortalTag: 2, InitiatorTag: 1}},
	}
	a := s.auth.now().node
	cfg.DisableCHAP, cfg.RequireCHAP, cfg.MutualCHAP, cfg.CHAPGroup = a.Disable, a.Require, a.Mutual, a.Group
	for _, lu := range s.luns {
		cfg.LUNs = append(cfg.LUNs, lu.config())
		lu.present = true
	}
	s.redirected = append(s.redirected, false)
	s.must(s.engine.AddNode(c, cfg))
	s.unmapped = 0
	s.nodeUp = true
}

// config is lu as the node has it.
func (lu *lun) config() iscsi.LUN {
	return iscsi.LUN{ID: lu.id, Bdev: lu.bdev, TAS: lu.tas, Removable: lu.removable, ReadOnly: lu.readOnly}
}

// uuid names the bdev of lu.
func (lu *lun) uuid() bdev.UUID { return bdev.UUID{0: byte(lu.id>>8) + 1, 1: byte(lu.id)} }

// build makes the bdev of lu: module, stacked devices, probe.
func (s *run) build(c reactor.Caller, lu *lun) {
	var dev bdev.Device
	var err error
	c.Block(func() {
		switch lu.kind {
		case kindNull:
			dev, err = null.New(null.Config{Space: s.m.space, BlockSize: lu.blockSize, Blocks: lu.blocks, Span: s.m.nothing})
		case kindRAM:
			lu.ram = s.m.ramDisk(lu)
			dev = lu.ram
		case kindFile:
			lu.file, err = file.New(file.Config{Kernel: s.w, Path: lu.path, BlockSize: lu.blockSize, Buffered: lu.buffered,
				Reactors: s.plan.reactors, Space: s.m.space, Zeroes: s.m.zeroes})
			dev = lu.file
		}
	})
	if err != nil {
		s.must(err)
		return
	}
	if lu.kind == kindRAM {
		lu.blocks = dev.Info().Blocks
	}
	if lu.delayed {
		lu.delay, err = delay.New(delay.Config{Base: dev, Latency: [delay.NumKinds]time.Duration{
			20 * time.Microsecond, 2 * time.Millisecond, lu.writes, 5 * time.Millisecond}})
		s.must(err)
		dev = lu.delay
	}
	if lu.passed {
		dev, err = passthru.New(dev)
		s.must(err)
	}
	lu.probe, err = newProbe(s, lu, dev)
	s.must(err)
	lu.bdev = bdev.New(fmt.Sprintf("Disk%d", lu.id), lu.uuid(), lu.probe)
	if lu.capacities == nil {
		s.resized(lu, lu.bdev.Info().Blocks)
	}
	lu.medium.begin(s, lu)
	lu.failed, lu.done = false, tally{}
}

// dismantle closes the devices of lu, which no channel uses.
func (s *run) dismantle(lu *lun) {
	if lu.bdev == nil {
		return
	}
	s.must(lu.bdev.Close())
	if lu.delay != nil {
		s.must(lu.delay.Close())
	}
	if lu.file != nil {
		s.must(lu.file.Close())
	}
	lu.bdev, lu.delay, lu.file = nil, nil, nil
}

// stop ends the coroutines, wherever they are.
func (s *run) stop() {
	if s.control != nil {
		s.control.stop()
		s.control = nil
	}
	for _, c := range s.cores {
		c.stop = true
		c.thread.Stop()
	}
	if s.failed() {
		s.m.soil()
	}
}

// die kills the target, or takes the power from its machine, and starts it
// again on what the disks kept.
func (s *run) die(power bool) {
	// What has arrived counts; what is under way is lost with the connection.
	for _, in := range s.inits {
		in.penance = penance{}
		in.excuse("the target died")
		for _, c := range slices.Clone(in.conns) {
			if c.link != nil && slices.Contains(in.conns, c) { // it may have gone with another
				in.conn = c
				c.link.receive()
			}
		}
		in.dropAll()
		for _, t := range in.old {
			t.changing = 0 // what it changed is judged with the state that is left
		}
	}
	if s.failed() {
		return
	}
	s.line("the target dies (power failure: %v)", power)
	if power {
		s.count(PowerFailures)
	} else {
		s.count(Kills)
	}
	s.stop()
	s.m.soil()
	if power {
		s.w.PowerFail()
	} else {
		s.w.Kill()
	}
	if s.fab.w != nil {
		s.fab.die(power)
	}
	s.nodeUp = false
	s.book.close(power)
	for _, lu := range s.luns {
		lu.bdev, lu.delay, lu.file = nil, nil, nil
		lu.events = events{since: s.now()}
		s.revived(lu, true)
	}
	if !s.failed() {
		s.start()
	}
}

// tallied checks that the statistics have every session ended, and more commands
// received than answered.
func (s *run) tallied(c reactor.Caller) {
	list, err := s.engine.NodeStats(c, "")
	s.must(err)
	for _, n := range list {
		ends := uint64(0)
		for _, e := range n.Ends {
			ends += e.Value
		}
		if len(n.Sessions) != 0 || ends != n.Begun || n.Reads+n.Writes > n.Commands {
			s.fail("statistics", "node %q: %d sessions began and %d ended, %d are left; %+v", n.Name, n.Begun, ends, len(n.Sessions), n.ConnCounts)
		}
	}
}

// shutdown ends the target in order and checks that nothing is left of it.
func (s *run) shutdown() {
	s.await("shutdown", func(c reactor.Caller) {
		s.engine.Shutdown(c, 0)
		s.tallied(c)
		for _, n := range s.engine.Nodes() {
			s.must(s.engine.RemoveNode(c, n.Name))
		}
		if s.fab.w != nil {
			s.fab.iser.Stop(c)
		}
	})
	s.settle(20 * time.Second)
	if s.failed() {
		return
	}
	for _, lu := range s.luns {
		s.dismantle(lu)
	}
	s.fab.check()
	for i, q := range s.rings {
		if until, asleep := q.Asleep(); !asleep || until != clock.Never {
			s.fail("home", "reactor %d is not at rest: asleep %v until %d", i, asleep, until)
		}
		if n := q.Inflight(); n != 0 {
			s.fail("home", "reactor %d has %d operations in flight", i, n)
		}
		if n := q.BuffersOut(); n != 0 {
			s.fail("home", "reactor %d: %d receive buffers not recycled", i, n)
		}
	}
	for _, c := range s.cores {
		c.stop = true
		c.thread.Stop()
	}
	s.cores = nil
	for i, q := range s.rings {
		s.must(q.Close())
		for _, b := range s.hogs[i] {
			s.arenas[i].Free(b)
		}
		if n := s.arenas[i].InUse(); n != 0 {
			s.fail("home", "reactor %d: %d bytes of its arena not home", i, n)
		}
	}
	if n := s.w.OpenFDs(); n != 0 {
		s.fail("home", "%d descriptors left open", n)
	}
}
