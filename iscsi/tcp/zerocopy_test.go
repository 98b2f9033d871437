package tcp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/malloc"
	"spindle/internal/sys"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iscsi/tcp"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/uring"
)

const (
	readBytes  = 128 << 10
	readBlocks = readBytes / 512
	writeBytes = 64 << 10
	lunBlocks  = 8 << 20 / 512
)

// served is a target on real rings, with a disk in memory.
func served(t *testing.T, reactors int, o tcp.Options) (*iscsi.Engine, *tcp.Transport, string) {
	t.Helper()
	space := mem.NewSpace()
	clk := clock.NewMonotonic()
	var rs []*reactor.Reactor
	for i := range reactors {
		arena, err := space.NewArena(64<<20, -1)
		must(t, err)
		r := reactor.New(reactor.Config{
			ID: i, Core: -1, Clock: clk, Arena: arena,
			NewRing: func(a *mem.Arena) (ring.Ring, error) { return uring.New(uring.Config{Arena: a, Clock: clk}) },
		})
		if err := r.Start(); errors.Is(err, sys.ErrUringRefused) {
			t.Skip(err)
		} else {
			must(t, err)
		}
		rs = append(rs, r)
	}
	transport := tcp.New(uring.Kernel{}, rs, o)
	e := iscsi.New(iscsi.Config{Reactors: rs, Transport: transport, Options: iscsi.Defaults()})
	disk, err := malloc.New(malloc.Config{Space: space, BlockSize: 512, Blocks: lunBlocks, Node: -1})
	if err != nil {
		t.Fatal(err)
	}
	var c reactor.Blocking
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	must(t, e.AddPortalGroup(c, iscsi.PortalGroup{Tag: 1, Portals: []iscsi.Portal{{Addr: netip.MustParseAddrPort(addr)}}}))
	must(t, e.AddInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"ANY"}, Netmasks: []string{"ANY"}}))
	must(t, e.AddNode(c, iscsi.NodeConfig{
		Name: iscsitest.Node, Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}},
		LUNs: []iscsi.LUN{{Bdev: bdev.New("Malloc0", bdev.UUID{1}, disk)}},
	}))
	t.Cleanup(func() {
		e.Shutdown(c, time.Second)
		for _, r := range rs {
			r.Stop()
		}
		for _, r := range rs {
			if err := r.Wait(); err != nil {
				t.Error(err)
			}
		}
	})
	return e, transport, addr
}

// slowInitiator reads less than the target could send.
type slowInitiator struct {
	t    *testing.T
	conn *net.TCPConn
	sn   uint32
}

// dialSlow logs in.
func dialSlow(t *testing.T, addr string, segment int) *slowInitiator {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &slowInitiator{t: t, conn: conn.(*net.TCPConn), sn: 1}
	// Room for some large segments: what is beyond stays in the sender's queue.
	must(t, s.conn.SetReadBuffer(256<<10))
	must(t, s.conn.SetDeadline(time.Now().Add(time.Minute)))
	text := []byte("InitiatorName=iqn.b\x00SessionType=Normal\x00TargetName=" + iscsitest.Node + "\x00MaxRecvDataSegmentLength=" + strconv.Itoa(segment) + "\x00")
	h := make(pdu.BHS, pdu.HeaderLen)
	h[0] = 0x43
	h.SetFlags(pdu.FlagTransit | 1<<2 | 3)
	binary.BigEndian.PutUint16(h.ISID()[4:], s.conn.LocalAddr().(*net.TCPAddr).AddrPort().Port()) // its own
	h.SetCmdSN(s.sn)
	s.send(h, text)
	if h, _ := s.receive(nil); h.Opcode() != pdu.LoginResponse || h[36] != 0 {
		t.Fatalf("login: % x", []byte(h))
	}
	s.command(1, 0, 0, nil) // meets the unit attention of a new nexus
	s.receive(nil)
	return s
}

func (s *slowInitiator) send(h pdu.BHS, data []byte) {
	s.t.Helper()
	h.SetDataLen(uint32(len(data)))
	s.sendRaw(append(append([]byte(h), data...), make([]byte, -len(data)&3)...))
}

func (s *slowInitiator) sendRaw(wire []byte) {
	s.t.Helper()
	if _, err := s.conn.Write(wire); err != nil {
		s.t.Fatal(err)
	}
}

func (s *slowInitiator) receive(buf []byte) (pdu.BHS, []byte) {
	s.t.Helper()
	h := s.header()
	return h, s.data(h, buf)
}

func (s *slowInitiator) header() pdu.BHS {
	s.t.Helper()
	h := make(pdu.BHS, pdu.HeaderLen)
	if _, err := io.ReadFull(s.conn, h); err != nil {
		s.t.Fatal(err)
	}
	return h
}

// data receives what follows a header.
func (s *slowInitiator) data(h pdu.BHS, buf []byte) []byte {
	s.t.Helper()
	n := int(h.DataLen()+3) &^ 3
	if n > len(buf) {
		buf = make([]byte, n)
	}
	if _, err := io.ReadFull(s.conn, buf[:n]); err != nil {
		s.t.Fatal(err)
	}
	return buf[:h.DataLen()]
}

func (s *slowInitiator) command(itt uint32, dir byte, edtl int, data []byte, cdb ...byte) {
	h := make(pdu.BHS, pdu.HeaderLen)
	h[0], h[1] = byte(pdu.SCSICommand), pdu.FlagFinal|dir|1
	h.SetITT(itt)
	h.SetEDTL(uint32(edtl))
	h.SetCmdSN(s.sn)
	s.sn++
	copy(h[32:], cdb)
	s.send(h, data)
}

// stamp is what every 8 bytes of a block hold.
func stamp(lba int) uint64 { return uint64(lba)<<32 | 0x5a5a5a5a }

// write writes data by cdb. Before the last block of what has to be asked for is
// sent last is called.
func (s *slowInitiator) write(cdb, data []byte, last func()) {
	s.t.Helper()
	s.command(2, pdu.FlagWrite, len(data), data[:min(len(data), writeBytes)], cdb...)
	for {
		r, _ := s.receive(nil)
		if r.Opcode() != pdu.R2T {
			if r.Opcode() != pdu.SCSIResponse || r.Status() != 0 {
				s.t.Fatalf("write: % x", []byte(r))
			}
			return
		}
		at, end := r.Offset(), r.Offset()+r.Desired()
		h := make(pdu.BHS, pdu.HeaderLen)
		h.SetOpcode(pdu.DataOut)
		h.SetFlags(pdu.FlagFinal)
		h.SetITT(r.ITT())
		h.SetTTT(r.TTT())
		h.SetOffset(at)
		if int(end) < len(data) || last == nil {
			s.send(h, data[at:end])
			continue
		}
		h.SetDataLen(r.Desired())
		s.sendRaw(append(h, data[at:end-512]...))
		last()
		s.sendRaw(data[end-512:])
	}
}

// filled are blocks from lba on whose every 8 bytes are what content tells.
func filled(lba, blocks int, content func(lba int) uint64) []byte {
	data := make([]byte, 0, blocks*512)
	for i := range blocks {
		data = append(data, bytes.Repeat(binary.LittleEndian.AppendUint64(nil, content(lba+i)), 512/8)...)
	}
	return data
}

// TestSlowPeerSeesNoChangedBytes: while a peer takes its time, the kernel refers
// to buffers that have been "sent". Were one used for the next command before
// the kernel lets go of it, the peer would read that command's data.
func TestSlowPeerSeesNoChangedBytes(t *testing.T) {
	for _, tc := range []struct {
		name    string
		segment int
		from    uint32 // zero copy from that size on
	}{
		{"one segment a read", 256 << 10, 4096},
		{"headers of the connection's own", 16 << 10, 4096},
		{"some messages only", 256 << 10, 300 << 10},
		{"copied", 256 << 10, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, transport, addr := served(t, 1, tcp.Options{ZeroCopy: tc.from, Listen: ring.ListenOptions{SendBuffer: 4 << 20}})
			s := dialSlow(t, addr, tc.segment)
			const n = writeBytes / 512
			for lba := 0; lba < lunBlocks; lba += n { // every block knows its number
				s.write(iscsitest.Write10(uint32(lba), n), filled(lba, n, stamp), nil)
			}
			const depth, total = 24, 160
			reads := make(map[uint32]int) // LBA by tag
			issued := 0
			issue := func() {
				lba := issued * 7 % (lunBlocks / readBlocks) * readBlocks
				tag := uint32(100 + issued)
				reads[tag] = lba
				issued++
				s.command(tag, pdu.FlagRead, readBytes, nil, iscsitest.Read10(uint32(lba), readBlocks)...)
			}
			for range depth {
				issue()
			}
			buf := make([]byte, 256<<10)
			for done := 0; done < total; {
				h, data := s.receive(buf)
				lba, ok := reads[h.ITT()]
				if h.Opcode() != pdu.DataIn || !ok {
					t.Fatalf("% x", []byte(h))
				}
				for i := 0; i < len(data); i += 8 {
					if got, want := binary.LittleEndian.Uint64(data[i:]), stamp(lba+(int(h.Offset())+i)/512); got != want {
						t.Fatalf("read of LBA %d, byte %d: %#x instead of %#x", lba, int(h.Offset())+i, got, want)
					}
				}
				if h.Flags()&pdu.FlagStatus == 0 {
					continue
				}
				delete(reads, h.ITT())
				done++
				if done%8 == 0 {
					time.Sleep(2 * time.Millisecond) // what makes the peer slow; nothing waits for it
				}
				if issued < total {
					issue()
				}
			}
			if n := transport.Stats.Loans.Load(); (n > 0) != (tc.from > 0) {
				t.Errorf("%d messages were sent without a copy", n)
			}
			if n := transport.Stats.LiveSends.Load(); (n > 0) != (tc.from == 0) {
				t.Errorf("%d messages were sent from the medium", n)
			}
		})
	}
}
