package hostile

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iser/isertest"
	"spindle/reactor/mem"
	"spindle/verbs"
	"spindle/verbs/ibverbs"
)

const (
	node      = "iqn.2026-11.io.spindle:rig"
	patience  = 60 * time.Second // the guest is emulated, its host shared
	recvSize  = isertest.HeadersLen + 8192
	recvs     = 132
	sendSlots = 64
	sendSize  = 16 << 10
	memory    = 4 << 20
)

// target is what the environment names.
func target(t *testing.T) (portal netip.AddrPort, lun uint16) {
	t.Helper()
	name := os.Getenv("RIG_PORTAL")
	if name == "" {
		t.Skip("left out: no RIG_PORTAL; the rig has one")
	}
	portal, err := netip.ParseAddrPort(name)
	must(t, err)
	n, err := strconv.ParseUint(os.Getenv("RIG_LUN"), 10, 16)
	must(t, err)
	return portal, uint16(n)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// client is an initiator's connection.
type client struct {
	iscsitest.Conn // headers and counters
	t              *testing.T
	p              verbs.Provider
	ec             verbs.EventChannel
	id             verbs.ID
	pd             verbs.PD
	mr             verbs.MR
	cq             verbs.CQ
	qp             verbs.QP
	batch          *verbs.Batch
	wcs            []verbs.WC
	region         *mem.Region
	heap           uint32 // bytes of the region given out
	sends          mem.Ref
	sent, sending  int
	remote         []verbs.MR
	rx             []iscsitest.PDU

	up, down bool
	status   verbs.Status // of the first request that failed
}

// dialing says how to connect.
type dialing struct {
	private []byte // of the request; nil: as libiscsi does
	reads   uint8  // RDMA READs served at a time
}

// clients counts them, for ISIDs.
var clients uint16

func dial(t *testing.T, portal netip.AddrPort, d dialing) *client {
	t.Helper()
	p, err := ibverbs.Open()
	must(t, err)
	clients++
	c := &client{t: t, p: p}
	c.Conn = iscsitest.Conn{CmdSN: 1, ISID: [6]byte{0x80, 3, 2, 1, byte(clients >> 8), byte(clients)}, Answered: map[string]string{}}
	c.region, err = mem.NewSpace().Map(memory, -1)
	must(t, err)
	c.ec, err = p.NewEventChannel()
	must(t, err)
	c.id, err = c.ec.NewID()
	must(t, err)
	t.Cleanup(c.close)
	must(t, c.id.ResolveAddr(portal, 5000))
	c.event(verbs.EventAddrResolved)
	must(t, c.id.ResolveRoute(5000))
	c.event(verbs.EventRouteResolved)
	c.make()
	if d.private == nil {
		d.private = []byte{0xc0, 0, 0, 0} // soft-RoCE invalidates no region of a process
	}
	must(t, c.id.Connect(verbs.ConnParam{ResponderResources: d.reads, InitiatorDepth: 1, Retry: 7, RNRRetry: 6}, d.private))
	c.until("connection", func() bool { return c.up || c.down })
	return c
}

// make makes what the connection needs on its device, and posts its receives.
func (c *client) make() {
	c.t.Helper()
	dev, err := c.id.Device()
	must(c.t, err)
	c.pd, err = dev.NewPD()
	must(c.t, err)
	c.mr, err = c.pd.Register(c.region)
	must(c.t, err)
	c.cq, err = dev.NewCQ(4*recvs, nil)
	must(c.t, err)
	c.qp, err = c.id.CreateQP(c.pd, verbs.QPConfig{SendCQ: c.cq, RecvCQ: c.cq, MaxSend: sendSlots, MaxRecv: recvs, MaxSendSGE: 1, MaxRecvSGE: 1})
	must(c.t, err)
	c.batch = verbs.NewBatch(c.alloc(verbs.BatchSize(8, 8, 16)), 8, 8, 16)
	c.wcs = verbs.NewCompletions(c.alloc(verbs.CompletionsSize(32)), 32)
	c.sends = c.alloc(sendSlots * sendSize)
	for range recvs {
		c.recv(c.alloc(recvSize).Addr - c.region.Base)
	}
}

func (c *client) alloc(n uint32) mem.Ref {
	r := c.region.Ref(uint64(c.heap), n)
	c.heap += (n + 63) &^ 63
	return r
}

// recv posts a receive at an offset of the region.
func (c *client) recv(off uintptr) {
	c.batch.Recv(c.qp.Handle(), verbs.WRID(off), verbs.SGE{Addr: uint64(c.region.Base + off), Len: recvSize, LKey: c.mr.LKey()})
	c.post()
}

func (c *client) post() {
	c.t.Helper()
	if n := c.p.Post(c.batch); n > 0 && !c.down {
		c.t.Fatalf("%d requests refused", n)
	}
	c.batch.Reset()
}

// close gives everything back without a word to the target, as a process does
// that is killed.
func (c *client) close() {
	if c.ec == nil {
		return
	}
	if c.qp != nil {
		must(c.t, c.qp.Close())
	}
	must(c.t, c.id.Destroy())
	for _, mr := range c.remote {
		must(c.t, mr.Close())
	}
	if c.cq != nil {
		must(c.t, c.cq.Close())
		must(c.t, c.mr.Close())
		must(c.t, c.pd.Close())
	}
	must(c.t, c.ec.Close())
	c.ec = nil
}

// until waits for done, taking events and completions.
func (c *client) until(what string, done func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c.pull()
		if done() {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// event waits for an event, which has to be want.
func (c *client) event(want verbs.EventType) {
	c.t.Helper()
	var ev verbs.Event
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		ok, err := c.ec.Next(&ev)
		must(c.t, err)
		if ok && ev.Type == want {
			return
		}
		if ok || time.Now().After(end) {
			c.t.Fatalf("event %v (status %d), want %v", ev.Type, ev.Status, want)
		}
	}
}

func (c *client) pull() {
	c.t.Helper()
	var ev verbs.Event
	for {
		ok, err := c.ec.Next(&ev)
		must(c.t, err)
		if !ok {
			break
		}
		switch ev.Type {
		case verbs.EventEstablished:
			c.up = true
		case verbs.EventTimewaitExit:
		default:
			c.down = true
		}
	}
	for {
		n, _ := c.p.Poll([]verbs.CQHandle{c.cq.Handle()}, c.wcs)
		for i := range c.wcs[:n] {
			c.completed(&c.wcs[i])
		}
		if n == 0 {
			return
		}
	}
}

const sendID = verbs.WRID(1) << 62

func (c *client) completed(w *verbs.WC) {
	c.t.Helper()
	switch {
	case w.Status != verbs.StatusOK:
		c.down = true
		if c.status == verbs.StatusOK {
			c.status = w.Status
		}
	case w.Op == verbs.WCSend:
		c.sending--
	case w.Op == verbs.WCRecv:
		p, err := isertest.Parse(c.region.Ref(uint64(w.ID), w.ByteLen).Bytes())
		must(c.t, err)
		c.rx = append(c.rx, p)
		c.recv(uintptr(w.ID))
	}
}

// Headers implements isertest.Sender.
func (c *client) Headers() *iscsitest.Conn { return &c.Conn }

// Remote implements isertest.Sender.
func (c *client) Remote(n uint32, access verbs.Access) (uint32, uint64) {
	ref, mr := c.lend(n, access)
	return mr.RKey(), uint64(ref.Addr)
}

// lend registers memory that the target may reach.
func (c *client) lend(n uint32, access verbs.Access) (mem.Ref, verbs.MR) {
	c.t.Helper()
	ref := c.alloc(n)
	mr, err := c.pd.RegisterRemote(ref, access)
	must(c.t, err)
	c.remote = append(c.remote, mr)
	return ref, mr
}

// sendRaw sends a message as it is.
func (c *client) sendRaw(w []byte) {
	c.t.Helper()
	c.until("room to send", func() bool { return c.sending < sendSlots || c.down })
	if c.down {
		return
	}
	m := c.sends.Slice(uint32(c.sent%sendSlots*sendSize), uint32(len(w)))
	c.sent++
	c.sending++
	copy(m.Bytes(), w)
	c.batch.Send(verbs.SendWR{ID: sendID, QP: c.qp.Handle(), Flags: verbs.FlagSignaled}, verbs.SGE{Addr: uint64(m.Addr), Len: m.Len, LKey: c.mr.LKey()})
	c.post()
}

func (c *client) send(tags isertest.Tags, b pdu.BHS, data []byte) {
	c.t.Helper()
	b.SetDataLen(uint32(len(data)))
	c.sendRaw(isertest.Message(tags, b, nil, data))
}

// expect receives a PDU of this opcode.
func (c *client) expect(o pdu.Opcode) iscsitest.PDU {
	c.t.Helper()
	c.until("PDU", func() bool { return len(c.rx) > 0 || c.down })
	if len(c.rx) == 0 {
		c.t.Fatalf("the connection ended while opcode %#02x was expected (%v)", o, c.status)
	}
	p := c.rx[0]
	c.rx = c.rx[1:]
	if p.BHS.Opcode() != o {
		c.t.Fatalf("got opcode %#02x, want %#02x: % x", p.BHS.Opcode(), o, p.BHS)
	}
	return p
}

func (c *client) expectClosed() {
	c.t.Helper()
	c.until("the end of the connection", func() bool { return c.down })
}

// tryLogin logs in to the node with these keys beside the usual ones.
func (c *client) tryLogin(keys ...string) uint16 {
	c.t.Helper()
	keys = append([]string{
		"InitiatorName=iqn.2026-11.io.spindle:raw", "TargetName=" + node, "SessionType=Normal",
		"RDMAExtensions=Yes", "InitiatorRecvDataSegmentLength=262144", "TargetRecvDataSegmentLength=8192",
	}, keys...)
	c.send(isertest.Tags{}, c.LoginBHS(pdu.FlagTransit|1<<2|3), iscsitest.Keys(keys...))
	p := c.expect(pdu.LoginResponse)
	for _, s := range strings.Split(string(p.Data), "\x00") {
		if k, v, ok := strings.Cut(s, "="); ok {
			c.Answered[k] = v
		}
	}
	c.ExpStatSN, c.TSIH = p.BHS.StatSN()+1, p.BHS.TSIH()
	return uint16(p.BHS.LoginStatus())
}

func (c *client) login(keys ...string) *client {
	c.t.Helper()
	if s := c.tryLogin(keys...); s != 0 {
		c.t.Fatalf("login status %04x", s)
	}
	return c
}

// finish collects the response of the command with this tag.
func (c *client) finish(itt uint32) uint8 {
	c.t.Helper()
	p := c.expect(pdu.SCSIResponse)
	if p.BHS.ITT() != itt || p.BHS.StatSN() != c.ExpStatSN {
		c.t.Fatalf("response to %x with StatSN %d, want %x and %d", p.BHS.ITT(), p.BHS.StatSN(), itt, c.ExpStatSN)
	}
	c.ExpStatSN++
	return p.BHS.Status()
}

// ready takes the unit attentions that greet a new nexus.
func (c *client) ready(lun uint16) *client {
	c.t.Helper()
	for range 8 {
		b := c.Command(lun, 0, 0, 0)
		c.send(isertest.Tags{}, b, nil)
		if c.finish(b.ITT()) == 0 {
			return c
		}
	}
	c.t.Fatal("TEST UNIT READY does not succeed")
	return c
}

// write and read are whole commands whose data goes by RDMA.
func (c *client) write(lun uint16, lba uint32, data []byte) {
	c.t.Helper()
	ref, mr := c.lend(uint32(len(data)), verbs.AccessRemoteRead)
	copy(ref.Bytes(), data)
	b := c.Command(lun, pdu.FlagWrite, uint32(len(data)), iscsitest.Write10(lba, uint16(len(data)/512))...)
	c.send(isertest.Tags{Write: mr.RKey(), WriteA: uint64(ref.Addr)}, b, nil)
	if s := c.finish(b.ITT()); s != 0 {
		c.t.Fatalf("WRITE: status %02x", s)
	}
}

func (c *client) read(lun uint16, lba uint32, blocks uint16) []byte {
	c.t.Helper()
	ref, mr := c.lend(uint32(blocks)*512, verbs.AccessRemoteWrite)
	b := c.Command(lun, pdu.FlagRead, ref.Len, iscsitest.Read10(lba, blocks)...)
	c.send(isertest.Tags{Read: mr.RKey(), ReadA: uint64(ref.Addr)}, b, nil)
	if s := c.finish(b.ITT()); s != 0 {
		c.t.Fatalf("READ: status %02x", s)
	}
	return ref.Bytes()
}
