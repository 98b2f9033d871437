package isertest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
	"spindle/verbs"
	"spindle/verbs/memverbs"
)

// What initiators have, as read in ib_iser and libiscsi.
const (
	HeadersLen = 76
	loginRecv  = HeadersLen + 8192
	fullRecv   = HeadersLen + 128
	fullRecvs  = 132 // cmds_max, and a few
	sendSlots  = 512
	slotSize   = 16 << 10
	memory     = 64 << 20 // of a host
)

// Dial options.
type Dial struct {
	Addr    netip.AddrPort // Portal
	Reads   uint8          // RDMA READs it serves at a time, 16
	Private []byte         // ib_iser's
	NoReads bool           // serves none
	RNR     uint8          // how often the target may find no receive, 6; 7 is without end
	V6      bool           // has an IPv6 address
	Seen    func(*Conn)    // told of the connection before it is made
}

// Conn is an initiator's connection.
type Conn struct {
	iscsitest.Conn // headers and counters
	g              *Target
	Host           *memverbs.Node
	dev            verbs.Device
	pd             verbs.PD
	mr             verbs.MR
	region         *mem.Region
	ec             verbs.EventChannel
	id             verbs.ID
	QP             verbs.QP
	cq             verbs.CQ
	wcs            []verbs.WC
	batch          *verbs.Batch
	sent, slots    int
	sending        int // not completed

	Private   []byte // what the target sent along
	Up        bool   // ESTABLISHED
	Down      bool   // rejected, disconnected, or failed
	Status    verbs.Status
	Lenient   bool // takes what the target sends as it comes
	full      bool // full feature phase
	discovery bool
	spoken    bool
	posted    int
	rx        []iscsitest.PDU
	// Invalidated are the keys that the target invalidated.
	Invalidated []uint32
	RDMADone    int    // of RDMA
	heap        uint32 // bytes of the region given out to buffers
}

// Buffer is initiator memory that the target may reach.
type Buffer struct {
	Ref mem.Ref
	MR  *memverbs.MR
}

// Bytes is the buffer's memory.
func (b Buffer) Bytes() []byte { return b.Ref.Bytes() }

// Dial connects over iSER.
func (g *Target) Dial() *Conn { return g.DialWith(Dial{}) }

// Ask sends a connection request and does not wait for the answer.
func (g *Target) Ask(o Dial) *Conn {
	g.T.Helper()
	c := g.newHost(o.V6)
	if o.Seen != nil {
		o.Seen(c)
	}
	c.connect(o)
	return c
}

// DialWith connects with options and waits for ESTABLISHED or the refusal.
func (g *Target) DialWith(o Dial) *Conn {
	g.T.Helper()
	c := g.Ask(o)
	g.Until("connection", func() bool { c.pull(); return c.Up || c.Down })
	return c
}

func (g *Target) must(err error) {
	g.T.Helper()
	if err != nil {
		g.T.Fatal(err)
	}
}

// newHost makes a machine with a device of its own.
func (g *Target) newHost(v6 bool) *Conn {
	g.T.Helper()
	g.hosts++
	c := &Conn{g: g, Host: g.Fabric.NewNode()}
	c.Conn = iscsitest.Conn{CmdSN: 1, ISID: [6]byte{0x80, 2, 2, 3, byte(g.hosts >> 8), byte(g.hosts)}, Answered: map[string]string{}}
	a := netip.AddrFrom4([4]byte{10, 0, byte(g.hosts >> 8), byte(g.hosts)})
	if v6 {
		a = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(g.hosts)})
	}
	c.Host.AddDevice("mlx0", a)
	devs, err := c.Host.Devices()
	g.must(err)
	c.dev = devs[0]
	c.pd, err = c.dev.NewPD()
	g.must(err)
	if n := len(g.spare); n > 0 {
		c.region, g.spare = g.spare[n-1], g.spare[:n-1]
	} else {
		c.region, err = g.space.Map(memory, -1)
		g.must(err)
	}
	c.mr, err = c.pd.Register(c.region)
	g.must(err)
	c.cq, err = c.dev.NewCQ(4096, nil)
	g.must(err)
	c.ec, err = c.Host.NewEventChannel()
	g.must(err)
	c.id, err = c.ec.NewID()
	g.must(err)
	n, m := verbs.BatchSize(64, 256, 512), verbs.CompletionsSize(64)
	c.batch = verbs.NewBatch(c.alloc(n), 64, 256, 512)
	c.wcs = verbs.NewCompletions(c.alloc(m), 64)
	c.slots = int(c.alloc(sendSlots*slotSize).Addr - c.region.Base)
	g.conns = append(g.conns, c)
	return c
}

func (c *Conn) alloc(n uint32) mem.Ref {
	n = (n + 4095) &^ 4095
	if uint64(c.heap)+uint64(n) > c.region.Len {
		c.g.T.Fatal("the initiator's memory is used up")
	}
	r := c.region.Ref(uint64(c.heap), n)
	c.heap += n
	return r
}

// connect goes through the handshake; pull sees the events.
func (c *Conn) connect(o Dial) {
	g := c.g
	g.T.Helper()
	if !o.Addr.IsValid() {
		o.Addr = Portal
	}
	if o.Reads == 0 && !o.NoReads {
		o.Reads = 16
	}
	if o.RNR == 0 {
		o.RNR = 6
	}
	if o.Private == nil {
		o.Private = []byte{0x80, 0, 0, 0}
	}
	g.must(c.id.ResolveAddr(o.Addr, 1000))
	c.event(verbs.EventAddrResolved)
	g.must(c.id.ResolveRoute(1000))
	c.event(verbs.EventRouteResolved)
	var err error
	c.QP, err = c.id.CreateQP(c.pd, verbs.QPConfig{SendCQ: c.cq, RecvCQ: c.cq, MaxSend: 512, MaxRecv: 512, MaxSendSGE: 1, MaxRecvSGE: 1})
	g.must(err)
	c.PostRecv(loginRecv)
	g.must(c.id.Connect(verbs.ConnParam{ResponderResources: o.Reads, InitiatorDepth: 1, Retry: 7, RNRRetry: o.RNR}, o.Private))
}

// event turns until an event comes, which has to be t.
func (c *Conn) event(t verbs.EventType) {
	c.g.T.Helper()
	var ev verbs.Event
	c.g.Until(t.String(), func() bool {
		ok, err := c.ec.Next(&ev)
		c.g.must(err)
		return ok
	})
	if ev.Type != t {
		c.g.T.Fatalf("event %v, want %v", ev.Type, t)
	}
}

// PostRecv posts a receive of n bytes.
func (c *Conn) PostRecv(n uint32) {
	c.g.T.Helper()
	off := c.alloc(n)
	c.batch.Recv(c.QP.Handle(), verbs.WRID(off.Addr-c.region.Base), verbs.SGE{Addr: uint64(off.Addr), Len: n, LKey: c.mr.LKey()})
	c.post()
	c.posted++
}

func (c *Conn) repost(id verbs.WRID, n uint32) {
	c.batch.Recv(c.QP.Handle(), id, verbs.SGE{Addr: uint64(c.region.Base) + uint64(id), Len: n, LKey: c.mr.LKey()})
	c.post()
	c.posted++
}

func (c *Conn) post() {
	c.g.T.Helper()
	if n := c.Host.Post(c.batch); n > 0 && !c.Down {
		c.g.T.Fatalf("%d requests refused", n)
	}
	c.batch.Reset()
}

const sendID = verbs.WRID(1) << 62

// SendRaw sends a message as it is.
func (c *Conn) SendRaw(w []byte) {
	c.g.T.Helper()
	if c.sending == sendSlots {
		c.pull()
	}
	if c.sending == sendSlots {
		c.g.T.Fatal("the initiator's send slots are used up")
	}
	off := uint64(c.slots + c.sent%sendSlots*slotSize)
	c.sent++
	c.sending++
	m := c.region.Ref(off, uint32(len(w)))
	copy(m.Bytes(), w)
	c.batch.Send(verbs.SendWR{ID: sendID, QP: c.QP.Handle(), Flags: verbs.FlagSignaled}, verbs.SGE{Addr: uint64(m.Addr), Len: m.Len, LKey: c.mr.LKey()})
	c.post()
}

// Tags are what a command advertises of the initiator's memory.
type Tags struct {
	Read, Write   uint32
	ReadA, WriteA uint64
}

// Message is a message's bytes; the header's lengths are the caller's.
func Message(t Tags, b pdu.BHS, ahs, data []byte) []byte {
	w := make([]byte, 28, HeadersLen+len(ahs)+len(data))
	w[0] = 0x10
	if t.Write != 0 {
		w[0] |= 8
		binary.BigEndian.PutUint32(w[4:], t.Write)
		binary.BigEndian.PutUint64(w[8:], t.WriteA)
	}
	if t.Read != 0 {
		w[0] |= 4
		binary.BigEndian.PutUint32(w[16:], t.Read)
		binary.BigEndian.PutUint64(w[20:], t.ReadA)
	}
	w = append(append(w, b[:pdu.HeaderLen]...), ahs...)
	return append(w, data...)
}

// SendTags sends a PDU that advertises memory.
func (c *Conn) SendTags(t Tags, b pdu.BHS, ahs, data []byte) {
	c.g.T.Helper()
	b.SetAHSLen(uint32(len(ahs)))
	b.SetDataLen(uint32(len(data)))
	c.spoken = true
	c.SendRaw(Message(t, b, ahs, data))
}

// Send sends a PDU.
func (c *Conn) Send(b pdu.BHS, ahs, data []byte) {
	c.g.T.Helper()
	c.SendTags(Tags{}, b, ahs, data)
}

// Buffer registers n bytes for the target to read or write.
func (c *Conn) Buffer(n uint32, access verbs.Access) Buffer {
	c.g.T.Helper()
	r := c.alloc(n).Slice(0, n)
	mr, err := c.pd.RegisterRemote(r, access)
	c.g.must(err)
	return Buffer{r, mr.(*memverbs.MR)}
}

// pull takes events and completions.
func (c *Conn) pull() {
	c.g.T.Helper()
	var ev verbs.Event
	for c.ec != nil {
		ok, err := c.ec.Next(&ev)
		c.g.must(err)
		if !ok {
			break
		}
		switch ev.Type {
		case verbs.EventEstablished:
			c.Up, c.Private = true, append([]byte(nil), ev.Private()...)
		case verbs.EventTimewaitExit:
		default:
			c.Down = true
		}
	}
	for c.ec != nil {
		n, _ := c.Host.Poll([]verbs.CQHandle{c.cq.Handle()}, c.wcs)
		for i := range c.wcs[:n] {
			c.completed(&c.wcs[i])
		}
		if n == 0 {
			break
		}
	}
}

func (c *Conn) completed(w *verbs.WC) {
	c.g.T.Helper()
	switch {
	case w.Status != verbs.StatusOK:
		c.Down = true
		if c.Status == 0 {
			c.Status = w.Status
		}
	case w.Op == verbs.WCRDMAWrite || w.Op == verbs.WCRDMARead:
		c.RDMADone++
	case w.Op == verbs.WCSend:
		c.sending--
	case w.Op == verbs.WCRecv:
		c.posted--
		if w.Flags&verbs.WCInvalidated != 0 {
			c.Invalidated = append(c.Invalidated, w.InvKey)
		}
		p, err := Parse(c.region.Ref(uint64(w.ID), w.ByteLen).Bytes())
		if c.Lenient {
			c.repost(w.ID, fullRecv)
			return
		}
		if err != nil {
			c.g.T.Fatalf("the target sent what no initiator takes: %v", err)
		}
		if w.Flags&verbs.WCInvalidated != 0 && p.BHS.Opcode() != pdu.SCSIResponse {
			c.g.T.Fatalf("Send with Invalidate of opcode %#x", p.BHS.Opcode())
		}
		if c.full && !c.spoken {
			c.g.T.Fatalf("PDU before the initiator's first of full feature phase: % x", p.BHS)
		}
		c.rx = append(c.rx, p)
		if c.full && !c.discovery {
			c.repost(w.ID, fullRecv)
		} else {
			c.repost(w.ID, loginRecv)
		}
	}
}

var (
	errHeader = errors.New("iSER header is not that of a control message without STags")
	errLength = errors.New("data segment length and message length differ")
)

// Parse checks a message from the target and copies its PDU.
func Parse(b []byte) (p iscsitest.PDU, err error) {
	if len(b) < HeadersLen || b[0] != 0x10 || string(b[1:28]) != string(make([]byte, 27)) {
		return p, errHeader
	}
	w := append([]byte(nil), b[28:]...)
	p.BHS = pdu.BHS(w[:48:48])
	n := p.BHS.DataLen()
	// ib_iser: no longer than said, shorter by at most the padding.
	if rest := uint32(len(w) - 48); p.BHS.AHSLen() != 0 || rest < n || rest > (n+3)&^3 {
		return p, fmt.Errorf("%w: %d and %d", errLength, n, rest)
	}
	p.Data = w[48 : 48+n]
	return p, nil
}

// TryRecv returns the next PDU if it has arrived.
func (c *Conn) TryRecv() (iscsitest.PDU, bool) {
	c.g.T.Helper()
	c.pull()
	if len(c.rx) == 0 {
		return iscsitest.PDU{}, false
	}
	p := c.rx[0]
	c.rx = c.rx[1:]
	c.ExpCmdSN, c.MaxCmdSN = p.BHS.ExpCmdSN(), p.BHS.MaxCmdSN()
	return p, true
}

// Recv turns the target until a PDU comes.
func (c *Conn) Recv() iscsitest.PDU {
	c.g.T.Helper()
	var p iscsitest.PDU
	c.g.Until("PDU", func() (ok bool) {
		if p, ok = c.TryRecv(); !ok && c.Down {
			c.g.T.Fatalf("connection ended while a PDU was expected (%v)", c.Status)
		}
		return ok
	})
	return p
}

// Expect receives a PDU of this opcode.
func (c *Conn) Expect(o pdu.Opcode) iscsitest.PDU {
	c.g.T.Helper()
	p := c.Recv()
	if p.BHS.Opcode() != o {
		c.g.T.Fatalf("got opcode %#02x, want %#02x: % x", p.BHS.Opcode(), o, p.BHS)
	}
	return p
}

// ExpectClosed turns until the connection has ended.
func (c *Conn) ExpectClosed() {
	c.g.T.Helper()
	c.g.Until("close", func() bool { c.pull(); return c.Down })
}

// LoginStatus sends one Login Request that goes for full feature phase, with the
// receives of that phase posted first, as ib_iser does.
func (c *Conn) LoginStatus(kv ...string) uint16 {
	c.g.T.Helper()
	return c.login(c.LoginBHS(pdu.FlagTransit|1<<2|3), iscsitest.Keys(kv...))
}

func (c *Conn) login(b pdu.BHS, text []byte) uint16 {
	c.g.T.Helper()
	c.discovery = strings.Contains(string(text), "SessionType=Discovery")
	c.Send(b, nil, text)
	p := c.Expect(pdu.LoginResponse)
	for _, s := range strings.Split(string(p.Data), "\x00") {
		if k, v, ok := strings.Cut(s, "="); ok {
			c.Answered[k] = v
		}
	}
	c.ExpStatSN = p.BHS.StatSN() + 1
	c.TSIH = p.BHS.TSIH()
	if p.BHS.LoginStatus() == 0 && p.BHS.Flags()&pdu.FlagTransit != 0 && p.BHS.NSG() == pdu.StageFullFeature {
		c.enter()
	}
	return uint16(p.BHS.LoginStatus())
}

// Login logs in to the node with these keys beside the usual ones.
func (c *Conn) Login(kv ...string) *Conn {
	c.g.T.Helper()
	return c.LoginTo(iscsitest.Node, kv...)
}

// LoginTo is Login to another node.
func (c *Conn) LoginTo(node string, kv ...string) *Conn {
	c.g.T.Helper()
	keys := append([]string{
		"InitiatorName=" + iscsitest.Initiator, "TargetName=" + node, "SessionType=Normal",
		"RDMAExtensions=Yes", "InitiatorRecvDataSegmentLength=262144", "TargetRecvDataSegmentLength=8192",
	}, kv...)
	if s := c.LoginStatus(keys...); s != 0 {
		c.g.T.Fatalf("login status %04x", s)
	}
	return c
}

// Read reads and checks everything about the answer but the data.
func (c *Conn) Read(lun uint16, lba uint32, blocks uint16) []byte {
	c.g.T.Helper()
	itt, buf := c.StartRead(lun, lba, blocks)
	if r := c.Finish(itt); r.Status != 0 || r.Residual != 0 {
		c.g.T.Fatalf("read: %+v", r)
	}
	c.done(buf)
	return append([]byte(nil), buf.Bytes()...)
}

// Write writes and checks the answer.
func (c *Conn) Write(lun uint16, lba uint32, data []byte, s Shape) {
	c.g.T.Helper()
	itt, buf := c.StartWrite(lun, lba, data, s)
	if r := c.Finish(itt); r.Status != 0 || r.Residual != 0 {
		c.g.T.Fatalf("write: %+v", r)
	}
	c.done(buf)
}

// done deregisters a command's memory.
func (c *Conn) done(b Buffer) {
	if b.MR == nil {
		return
	}
	c.g.must(b.MR.Close())
	if n := (b.Ref.Len + 4095) &^ 4095; b.Ref.Addr-c.region.Base+uintptr(n) == uintptr(c.heap) {
		c.heap -= n // the youngest: its memory can be used again
	}
}

// Release deregisters a command's memory: the target must not reach it any more.
func (c *Conn) Release(b Buffer) { c.done(b) }

// Shape is how the data of a write goes to the target.
type Shape struct {
	Immediate   int
	Unsolicited int  // bytes of Data-Out PDUs
	Segment     int  // of each, 8192
	Whole       bool // the tagged buffer begins with the first byte
}

// StartWrite sends a WRITE (10) in a shape, and returns its tag and what it
// advertised.
func (c *Conn) StartWrite(lun uint16, lba uint32, data []byte, s Shape) (uint32, Buffer) {
	c.g.T.Helper()
	n, ahead := len(data), s.Immediate+s.Unsolicited
	b := c.Command(lun, pdu.FlagWrite, uint32(n), iscsitest.Write10(lba, uint16(n/512))...)
	if s.Unsolicited > 0 {
		b.SetFlags(b.Flags() &^ pdu.FlagFinal)
	}
	var t Tags
	var buf Buffer
	if ahead < n {
		from := ahead
		if s.Whole {
			from = 0
		}
		buf = c.Buffer(uint32(n-from), verbs.AccessRemoteRead)
		copy(buf.Bytes(), data[from:])
		clear(buf.Bytes()[:ahead-from]) // the target has no business there
		t = Tags{Write: buf.MR.RKey(), WriteA: uint64(buf.Ref.Addr)}
	}
	c.SendTags(t, b, nil, data[:s.Immediate])
	seg := s.Segment
	if seg == 0 {
		seg = 8192
	}
	for off, sn := s.Immediate, uint32(0); off < ahead; sn++ {
		m := min(seg, ahead-off)
		c.Send(c.DataOutBHS(b.ITT(), pdu.ReservedTag, sn, uint32(off), off+m == ahead), nil, data[off:off+m])
		off += m
	}
	return b.ITT(), buf
}

// StartRead sends a READ (10) and returns its tag and where the data goes.
func (c *Conn) StartRead(lun uint16, lba uint32, blocks uint16) (uint32, Buffer) {
	c.g.T.Helper()
	n := uint32(blocks) * 512
	buf := c.Buffer(n, verbs.AccessRemoteWrite)
	b := c.Command(lun, pdu.FlagRead, n, iscsitest.Read10(lba, blocks)...)
	c.SendTags(Tags{Read: buf.MR.RKey(), ReadA: uint64(buf.Ref.Addr)}, b, nil, nil)
	return b.ITT(), buf
}

// Finish collects the response of the command with this tag.
func (c *Conn) Finish(itt uint32) iscsitest.Result {
	c.g.T.Helper()
	p := c.Expect(pdu.SCSIResponse)
	if p.BHS.ITT() != itt || p.BHS.StatSN() != c.ExpStatSN {
		c.g.T.Fatalf("response to %x with StatSN %d, want %x and %d", p.BHS.ITT(), p.BHS.StatSN(), itt, c.ExpStatSN)
	}
	c.ExpStatSN++
	r := iscsitest.Result{Status: p.BHS.Status(), Flags: p.BHS.Flags() & 6, Residual: p.BHS.Residual()}
	if len(p.Data) > 2 {
		r.Sense = p.Data[2:]
	}
	return r
}

// RoundTrip sends a message that is answered by one PDU and returns the first
// bytes of that; it allocates nothing.
func (c *Conn) RoundTrip(w []byte) (head [HeadersLen]byte) {
	c.SendRaw(w)
	for {
		n, _ := c.Host.Poll([]verbs.CQHandle{c.cq.Handle()}, c.wcs)
		got := false
		for i := range c.wcs[:n] {
			w := &c.wcs[i]
			if w.Op == verbs.WCSend {
				c.sending--
			} else if w.Op == verbs.WCRecv {
				copy(head[:], c.region.Ref(uint64(w.ID), HeadersLen).Bytes())
				c.repost(w.ID, fullRecv)
				got = true
			}
		}
		if got {
			return head
		}
		c.g.Turn()
	}
}

// RDMA writes to, or reads from, the target's memory: what no initiator does.
func (c *Conn) RDMA(op verbs.Opcode, key uint32, at uint64, n uint32) {
	c.g.T.Helper()
	m := c.alloc(n).Slice(0, n)
	c.batch.Send(verbs.SendWR{ID: sendID, QP: c.QP.Handle(), Op: op, Flags: verbs.FlagSignaled, RemoteAddr: at, RKey: key},
		verbs.SGE{Addr: uint64(m.Addr), Len: n, LKey: c.mr.LKey()})
	c.post()
}

// TryDial connects and logs in where either may fail; nil when it did.
func (g *Target) TryDial(o Dial) *Conn {
	g.T.Helper()
	c := g.DialWith(o)
	if c.Down {
		c.Vanish()
		return nil
	}
	c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, iscsitest.Keys(
		"InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "SessionType=Normal", "RDMAExtensions=Yes"))
	g.Until("login", func() bool { c.pull(); return c.Down || len(c.rx) > 0 })
	if p, ok := c.TryRecv(); ok && p.BHS.LoginStatus() == 0 {
		c.ExpStatSN, c.TSIH = p.BHS.StatSN()+1, p.BHS.TSIH()
		c.enter()
		return c
	}
	c.Vanish()
	return nil
}

// TryFinish is Finish where the connection may end instead.
func (c *Conn) TryFinish(itt uint32) (iscsitest.Result, bool) {
	c.g.T.Helper()
	c.g.Until("response", func() bool { c.pull(); return c.Down || len(c.rx) > 0 })
	if len(c.rx) == 0 {
		return iscsitest.Result{}, false
	}
	return c.Finish(itt), true
}

// enter begins full feature phase.
func (c *Conn) enter() {
	// libiscsi posts these only now; ib_iser has none in a discovery session but
	// that of login.
	for n := 0; n < fullRecvs && !c.discovery; n++ {
		c.PostRecv(fullRecv)
	}
	c.full, c.spoken = true, false
}

// Disconnect ends the connection from this side.
func (c *Conn) Disconnect() { c.g.must(c.id.Disconnect()) }

// Stop ends the initiator's machine: the target hears nothing more of it.
func (c *Conn) Stop() {
	if c.ec != nil {
		c.ec = nil
		c.Down = true
		c.Host.Vanish()
	}
}

// Vanish ends the initiator's process.
func (c *Conn) Vanish() {
	if c.ec != nil {
		c.ec = nil
		c.Down = true
		c.Host.Kill()
		c.g.spare = append(c.g.spare, c.region)
		c.g.conns = slices.DeleteFunc(c.g.conns, func(o *Conn) bool { return o == c })
	}
}
