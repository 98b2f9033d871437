package iser_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iser"
	"spindle/iser/isertest"
	"spindle/verbs"
	"spindle/verbs/memverbs"
)

// TestSleep: reactors that sleep when there is nothing to do miss no completion,
// no event and no connection request.
func TestSleep(t *testing.T) {
	for seed := range uint64(8) {
		g := isertest.New(t, isertest.Options{Seed: seed, FDs: seed%2 == 0, Target: iscsitest.Options{Reactors: 2, Sleep: true},
			Fabric: memverbs.Config{Latency: 50 * time.Microsecond, Faults: memverbs.Faults{Spurious: 0.3, ShortPoll: 0.3, LateRead: 0.3}}})
		for range 3 {
			c := g.Dial().Login()
			ready(t, c, 1)
			for range 20 {
				alive(t, c)
			}
			c.Send(c.Request(pdu.LogoutReq, pdu.FlagFinal|pdu.LogoutCloseSession), nil, nil)
			c.Expect(pdu.LogoutResp)
			c.ExpectClosed()
		}
		g.Node.RemoveDevice(isertest.TargetDevice)
		g.Wait("release", 5*time.Second, func() bool { return g.Node.Removing() == 0 })
		slept := uint64(0)
		for _, r := range g.Reactors {
			slept += r.Stats().Sleeps
		}
		if slept < 100 {
			t.Fatalf("reactors slept %d times: the test does not test sleep", slept)
		}
		g.Close()
	}
}

// TestAddressChange: a listener whose device changed its address listens again,
// and its connections end.
func TestAddressChange(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	g.Node.ChangeAddress(isertest.TargetDevice)
	c.ExpectClosed()
	g.Wait("service", 3*time.Second, func() bool { return g.Engine.PortalGroups()[0].Portals[0].ISERWait == "" })
	c = g.Dial().Login()
	ready(t, c, 1)
	alive(t, c)
}

// TestOnePortal: iSER of one portal of a group goes and comes by itself.
func TestOnePortal(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	portals := []iscsi.Portal{{Addr: addr("127.0.0.1:4001"), ISER: true}, {Addr: addr("127.0.0.1:4002"), ISER: true}}
	if err := g.Engine.AddPortalGroup(g, iscsi.PortalGroup{Tag: 2, Portals: portals}); err != nil {
		t.Fatal(err)
	}
	if err := g.Engine.AddMaps(iscsitest.Node, []iscsi.Map{{PortalTag: 2, InitiatorTag: 1}}); err != nil {
		t.Fatal(err)
	}
	one := g.DialWith(isertest.Dial{Addr: portals[0].Addr}).Login()
	two := g.DialWith(isertest.Dial{Addr: portals[1].Addr}).Login()
	ready(t, one, 1)
	ready(t, two, 1)
	if err := g.Engine.SetPortalISER(g, 2, portals[0].Addr, false); err != nil {
		t.Fatal(err)
	}
	one.ExpectClosed()
	alive(t, two)
	if c := g.DialWith(isertest.Dial{Addr: portals[0].Addr}); c.Up {
		t.Fatal("connected to a portal without iSER")
	}
	if p := g.Engine.PortalGroups()[1].Portals; p[0].ISER || !p[1].ISER {
		t.Fatalf("%+v", p)
	}
	if err := g.Engine.SetPortalISER(g, 2, portals[0].Addr, true); err != nil {
		t.Fatal(err)
	}
	one = g.DialWith(isertest.Dial{Addr: portals[0].Addr}).Login()
	ready(t, one, 1)
	alive(t, two)
	if err := g.Engine.SetPortalISER(g, 2, addr("127.0.0.1:9"), true); err == nil {
		t.Fatal("a portal that is not there")
	}
}

// TestNoRemoteAccess: no key of the target lets a peer write its memory, and it
// has no resources for a peer that would read it.
func TestNoRemoteAccess(t *testing.T) {
	for _, op := range []verbs.Opcode{verbs.OpRDMAWrite, verbs.OpRDMARead} {
		g := isertest.New(t, isertest.Options{})
		other := g.Dial().Login()
		ready(t, other, 1)
		regions := g.Space.Regions()
		for key := range uint32(8) {
			for low := uint32(0); low < 256; low += 51 {
				c := g.Dial().Login()
				c.RDMA(op, key<<8|low, uint64(regions[0].Base), 64)
				if op == verbs.OpRDMAWrite {
					c.ExpectClosed()
					if c.Status != verbs.StatusRemoteAccess {
						t.Fatalf("%v with key %#x: %v", op, key<<8|low, c.Status)
					}
				} else if g.Settle(); c.RDMADone > 0 {
					t.Fatalf("%v with key %#x went well", op, key<<8|low)
				}
				c.Vanish()
			}
		}
		alive(t, other)
	}
}

// TestQueues: more connections than a completion queue has room for get another.
func TestQueues(t *testing.T) {
	g := isertest.New(t, isertest.Options{Device: verbs.DeviceInfo{MaxCQE: 1800}})
	var conns []*isertest.Conn
	for range 7 {
		c := g.Dial().Login()
		ready(t, c, 1)
		conns = append(conns, c)
	}
	if n := g.Node.Live().CQs; n != 4 {
		t.Fatalf("%d completion queues for 7 connections, want 4", n)
	}
	for _, c := range conns {
		alive(t, c)
	}
	for _, c := range conns[:6] {
		c.Vanish()
	}
	alive(t, conns[6])
	g.Wait("end of connections", 10*time.Second, func() bool { return len(links(g)) == 1 })
	for range 6 {
		ready(t, g.Dial().Login(), 1)
	}
	if n := g.Node.Live().CQs; n != 4 {
		t.Fatalf("%d completion queues: their room does not come back", n)
	}
}

// TestGrantedSends: a device whose queue pairs hold more requests than was asked for
// gets no more of them: the completion queue has no room for theirs.
func TestGrantedSends(t *testing.T) {
	const entries = 2 * (512 + iscsi.MaxQueueDepth + iser.ReserveReceives) // of two connections
	g := isertest.New(t, isertest.Options{Device: verbs.DeviceInfo{MaxCQE: entries}, ISER: iser.WithMaxMessage(iser.Options{}, 512)})
	g.Node.Extra = 4096
	other := g.Dial().Login()
	ready(t, other, 1)
	c := g.Dial().Login()
	ready(t, c, 1)
	for range 100 {
		c.StartRead(1, 0, 64)
	}
	g.Until("a full send queue", func() bool { return g.ISER.Stats.SendWaits.Load() > 0 })
	c.Disconnect() // everything flushes at once
	g.Wait("end of the connection", 10*time.Second, func() bool { return len(links(g)) == 1 })
	alive(t, other)
	if n := g.Node.Live().CQs; n != 1 {
		t.Errorf("%d completion queues, want one for both", n)
	}
}

// TestGrantedReceives: nor does it get more receives than have numbers.
func TestGrantedReceives(t *testing.T) {
	o := iscsi.Defaults()
	o.FirstBurstLength = 262144
	g := isertest.New(t, isertest.Options{Target: iscsitest.Options{Engine: &o}, ISER: iser.Options{Unsolicited: true}})
	g.Node.Extra = 4096
	c := g.Dial()
	if s := c.LoginStatus("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "SessionType=Normal", "RDMAExtensions=Yes",
		"InitialR2T=No", "FirstBurstLength=262144"); s != uint16(pdu.LoginOutOfResources) {
		t.Errorf("login status %04x with more receives than can be told apart", s)
	}
}

// TestFailedQueue: a completion queue that failed ends its connections, and the next
// ones get another.
func TestFailedQueue(t *testing.T) {
	g := isertest.New(t, isertest.Options{})
	c := g.Dial().Login()
	ready(t, c, 1)
	g.Node.BreakQueues()
	c.ExpectClosed()
	g.Wait("end of the connection", 10*time.Second, func() bool { return len(links(g)) == 0 })
	c = g.Dial().Login()
	ready(t, c, 1)
	alive(t, c)
}

// TestFaults runs mixed reads and writes over a fabric that does everything it
// may, seed after seed, and verifies every byte. ISER_SEEDS sets how many.
func TestFaults(t *testing.T) {
	seeds := uint64(60)
	if n, err := strconv.ParseUint(os.Getenv("ISER_SEEDS"), 10, 32); err == nil {
		seeds = n
	}
	if testing.Short() {
		seeds = 8
	}
	var counts memverbs.Counts
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 9))
		f := memverbs.AllFaults()
		if seed%2 == 0 {
			f = f.Lossless()
		}
		f.RNR /= 10 // each costs 655 ms
		f.Fatal, f.LostReply = 4*f.Fatal, 8*f.LostReply
		g := isertest.New(t, isertest.Options{Seed: seed, Target: iscsitest.Options{Reactors: 1 + int(seed%2), Sleep: seed%3 == 0}, FDs: seed%5 == 0, Fabric: memverbs.Config{Faults: f}})
		run(t, g, rng, seed%2 == 0)
		counts.Add(&g.Fabric.Counts)
		if n := g.Fabric.Counts.NoReceive; n != 0 {
			t.Fatalf("seed %d: %d sends found no receive", seed, n)
		}
		if n := g.Fabric.Counts.ReadStalls; n != 0 {
			t.Fatalf("seed %d: %d RDMA READs beyond the peer's bound", seed, n)
		}
		g.Close()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if !testing.Short() {
		counts.Each(func(name string, n uint64) {
			switch name {
			case "NoReceive", "ReadStalls", "Removals", "AccessDenied", "LateReceive":
			default:
				if n == 0 {
					t.Errorf("%s never happened", name)
				}
			}
		})
	}
}

// run writes and reads blocks whose contents it remembers. When the connection
// may be lost, what was being written then is either old or new, block by block.
func run(t *testing.T, g *isertest.Target, rng *rand.Rand, lossless bool) {
	const blocks = 512
	known := make([]byte, blocks) // pattern seed of each block; 0 is zeroes
	maybe := map[int][]byte{}     // what a block may be instead
	block := func(s byte) []byte {
		if s == 0 {
			return make([]byte, 512)
		}
		return pattern(512, s)
	}
	var c *isertest.Conn
	for op := range 120 {
		if c == nil || c.Down {
			if c != nil && lossless {
				t.Fatalf("the connection ended: %v", c.Status)
			}
			if c = connect(g, rng); c == nil {
				continue
			}
		}
		at, n := rng.IntN(blocks-64), 1+rng.IntN(64)
		if rng.IntN(2) == 0 {
			s := byte(1 + op)
			data := bytes.Repeat(pattern(512, s), n)
			sh := isertest.Shape{Immediate: rng.IntN(2) * 512 * rng.IntN(min(n, 16)+1)}
			itt, buf := c.StartWrite(1, uint32(at), data, sh)
			r, ok := c.TryFinish(itt)
			if ok && r.Status == 0 {
				for i := range n {
					known[at+i] = s
					delete(maybe, at+i)
				}
				c.Release(buf)
				continue
			}
			for i := range n {
				maybe[at+i] = append(maybe[at+i], s)
			}
			continue
		}
		itt, buf := c.StartRead(1, uint32(at), uint16(n))
		r, ok := c.TryFinish(itt)
		if !ok {
			continue
		}
		if r.Status != 0 {
			t.Fatalf("read: %+v", r)
		}
		for i := range n {
			got := buf.Bytes()[i*512 : i*512+512]
			if bytes.Equal(got, block(known[at+i])) {
				continue
			}
			found := false
			for _, s := range maybe[at+i] {
				if bytes.Equal(got, block(s)) {
					known[at+i], found = s, true
				}
			}
			if !found {
				t.Fatalf("block %d is neither what was written last nor what might have been", at+i)
			}
		}
		c.Release(buf)
	}
}

// connect logs in, as often as it takes; nil when the fabric wins.
func connect(g *isertest.Target, rng *rand.Rand) *isertest.Conn {
	for range 10 {
		c := g.TryDial(isertest.Dial{Reads: uint8(1 + rng.IntN(8))})
		if c == nil {
			continue
		}
		for range 3 {
			b := c.Command(1, 0, 0, 0)
			c.Send(b, nil, nil)
			if r, ok := c.TryFinish(b.ITT()); !ok {
				break
			} else if r.Status == 0 {
				return c
			}
		}
		c.Vanish()
	}
	return nil
}
