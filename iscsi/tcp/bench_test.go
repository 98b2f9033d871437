package tcp_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"spindle/bdev"
	"spindle/bdev/null"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iscsi/tcp"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// tapeRing is a kernel that costs nothing: receives deliver what the benchmark
// put on the tape, sends end at once. What is left is our own work per command.
type tapeRing struct {
	arena  *mem.Arena
	accept ring.Tag
	recv   ring.Tag
	bufs   []mem.Ref
	free   []uint16
	out    []ring.CQE
	login  [][]byte // what login-mode receives get, in order
	files  ring.File
}

func (q *tapeRing) Accept(t ring.Tag, _ ring.File) bool { q.accept = t; return true }
func (q *tapeRing) Recv(t ring.Tag, _ ring.File, _ ring.Group) bool {
	q.recv = t
	return true
}
func (q *tapeRing) RecvInto(t ring.Tag, _ ring.File, b mem.Ref) bool {
	n := copy(b.Bytes(), q.login[0])
	q.login = q.login[1:]
	q.out = append(q.out, ring.CQE{Tag: t, Res: int32(n)})
	return true
}
func (q *tapeRing) Send(t ring.Tag, _ ring.File, m ring.Msg, n int) bool {
	q.out = append(q.out, ring.CQE{Tag: t, Res: int32(m.Total(n))})
	return true
}
func (q *tapeRing) SendNow(_ ring.File, m ring.Msg, n int) int32 {
	return int32(m.Total(n))
}
func (q *tapeRing) Read(ring.Tag, ring.File, mem.Ref, int64) bool                   { return false }
func (q *tapeRing) Write(ring.Tag, ring.File, mem.Ref, int64, ring.WriteFlags) bool { return false }
func (q *tapeRing) Sync(ring.Tag, ring.File) bool                                   { return false }
func (q *tapeRing) Allocate(ring.Tag, ring.File, uint32, int64, int64) bool         { return false }
func (q *tapeRing) PollFD(ring.Tag, int) bool                                       { return false }
func (q *tapeRing) Shutdown(ring.Tag, ring.File) bool                               { return true }
func (q *tapeRing) Cancel(ring.Tag, ring.Tag) bool                                  { return true }
func (q *tapeRing) NewGroup(count int, size uint32) (ring.Group, error) {
	for i := range count {
		b, _ := q.arena.Alloc(size)
		q.bufs = append(q.bufs, b)
		q.free = append(q.free, uint16(i))
	}
	return 0, nil
}
func (q *tapeRing) Buffer(_ ring.Group, id uint16) mem.Ref { return q.bufs[id] }
func (q *tapeRing) Recycle(_ ring.Group, id uint16)        { q.free = append(q.free, id) }
func (q *tapeRing) Install(int) (ring.File, error)         { q.files++; return q.files, nil }
func (q *tapeRing) Remove(ring.File)                       {}
func (q *tapeRing) Enter(out []ring.CQE, _ clock.Time) (int, error) {
	n := copy(out, q.out)
	q.out = append(q.out[:0], q.out[n:]...)
	return n, nil
}
func (q *tapeRing) Wake()            {}
func (q *tapeRing) Syscalls() uint64 { return 0 }
func (q *tapeRing) Close() error     { return nil }

// tapeKernel hands out descriptors that mean nothing.
type tapeKernel struct{ ring.Kernel }

func (tapeKernel) Listen(a netip.AddrPort, _ ring.ListenOptions) (int, netip.AddrPort, error) {
	return 1, a, nil
}
func (tapeKernel) Addrs(int) (l, p netip.AddrPort, err error) { return }
func (tapeKernel) CloseFD(int) error                          { return nil }

// turner runs a reactor's turns in the caller's goroutine.
type turner struct{}

func (turner) Await(r *reactor.Reactor, start func(done func())) {
	over := false
	r.Post(&reactor.Msg{Run: func(*reactor.Reactor) { start(func() { over = true }) }})
	for !over {
		r.Turn(0)
	}
}
func (turner) Block(work func()) { work() }

// BenchmarkRead is the target's own work for READs of a null device, depth
// commands a receive: framing, engine, device server and block layer, without a
// kernel.
func BenchmarkRead(b *testing.B) {
	for _, tc := range []struct {
		name  string
		depth int
		bytes uint32
		keys  string
	}{
		{"512B/depth32", 32, 512, ""},
		{"4KiB/depth32", 32, 4096, ""},
		{"512B/depth128", 128, 512, ""},
		{"4KiB/depth32/digests", 32, 4096, "HeaderDigest=CRC32C\x00DataDigest=CRC32C\x00"},
	} {
		b.Run(tc.name, func(b *testing.B) { benchRead(b, tc.depth, tc.bytes, tc.keys) })
	}
}

func benchRead(b *testing.B, depth int, bytes uint32, keys string) {
	space := mem.NewSpace()
	arena, err := space.NewArena(64<<20, -1)
	if err != nil {
		b.Fatal(err)
	}
	q := &tapeRing{arena: arena}
	r := reactor.New(reactor.Config{Core: -1, Ring: q, Clock: clock.NewMonotonic(), Arena: arena})
	rs := []*reactor.Reactor{r}
	opt := iscsi.Defaults()
	opt.NopInInterval = 0
	e := iscsi.New(iscsi.Config{Reactors: rs, Transport: tcp.New(tapeKernel{}, rs, tcp.Options{}), Options: opt})
	zero, err := null.New(null.Config{Space: space, BlockSize: 512, Blocks: 1 << 31})
	if err != nil {
		b.Fatal(err)
	}
	var c turner
	must(b, e.AddPortalGroup(c, iscsi.PortalGroup{Tag: 1, Portals: []iscsi.Portal{{Addr: netip.MustParseAddrPort("127.0.0.1:3260")}}}))
	must(b, e.AddInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"ANY"}, Netmasks: []string{"ANY"}}))
	must(b, e.AddNode(c, iscsi.NodeConfig{
		Name: iscsitest.Node, Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}},
		LUNs: []iscsi.LUN{{Bdev: bdev.New("Null0", bdev.UUID{1}, zero)}},
	}))
	text := []byte("InitiatorName=iqn.b\x00SessionType=Normal\x00TargetName=" + iscsitest.Node + "\x00MaxRecvDataSegmentLength=262144\x00" + keys)
	hdr := make(pdu.BHS, pdu.HeaderLen)
	hdr[0] = 0x43
	hdr.SetFlags(pdu.FlagTransit | 1<<2 | 3)
	hdr.SetDataLen(uint32(len(text)))
	hdr.SetCmdSN(1)
	q.login = [][]byte{hdr, text, make([]byte, 4)}
	q.out = append(q.out, ring.CQE{Tag: q.accept, Res: 5, Flags: ring.FlagMore})
	for range 20 {
		r.Turn(0)
	}
	// One buffer of the tape: depth READ(10)s.
	size := pdu.HeaderLen
	if keys != "" {
		size += pdu.DigestLen
	}
	tape := make([]byte, depth*size)
	sn := uint32(1)
	round := func() {
		id := q.free[len(q.free)-1]
		q.free = q.free[:len(q.free)-1]
		for i := range depth {
			h := pdu.BHS(tape[i*size : i*size+size])
			h[0], h[1] = byte(pdu.SCSICommand), pdu.FlagFinal|pdu.FlagRead|1
			h.SetITT(sn)
			h.SetEDTL(bytes)
			h.SetCmdSN(sn)
			h[32] = 0x28
			binary.BigEndian.PutUint16(h[39:], uint16(bytes/512))
			if keys != "" {
				pdu.PutDigest(h[pdu.HeaderLen:], pdu.Digest(h[:pdu.HeaderLen]))
			}
			sn++
		}
		n := copy(q.bufs[id].Bytes(), tape)
		q.out = append(q.out, ring.CQE{Tag: q.recv, Res: int32(n), Flags: ring.FlagMore | ring.FlagBuffer | uint32(id)<<16})
		for range 3 {
			r.Turn(0)
		}
	}
	for range 100 {
		round()
	}
	info := e.Connections(c)
	if len(info) != 1 || info[0].Commands != uint64(100*depth) {
		b.Fatalf("the tape is not being read: %+v", info)
	}
	b.ReportAllocs()
	b.SetBytes(int64(bytes))
	for i := 0; b.Loop(); i++ {
		if i%depth == 0 {
			round()
		}
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
