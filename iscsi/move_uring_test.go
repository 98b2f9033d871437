package iscsi_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
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

// restless moves one session after the other to and fro, whatever the load.
type restless struct {
	n             int
	moved, stayed atomic.Uint64
}

func (b *restless) Balance(clock.Time, []time.Duration) (iscsi.Order, time.Duration) {
	b.n++
	k := b.n / 2
	return iscsi.Order{From: b.n % 2, To: 1 - b.n%2, Choose: func(shares []float64) int {
		return k % max(len(shares), 1)
	}}, 500 * time.Microsecond
}

func (b *restless) Moved(_ clock.Time, _, _ int, moved bool) {
	if moved {
		b.moved.Add(1)
	} else {
		b.stayed.Add(1)
	}
}

// TestMovesUnderLoad has sessions move between two real reactors all the time, each
// with writes and reads in flight whose data is compared.
func TestMovesUnderLoad(t *testing.T) {
	space, clk := mem.NewSpace(), clock.NewMonotonic()
	var reactors []*reactor.Reactor
	var arenas []*mem.Arena
	for i := range 2 {
		a, err := space.NewArena(32<<20, -1)
		must(t, err)
		r := reactor.New(reactor.Config{ID: i, Core: -1, Clock: clk, Arena: a, Idle: reactor.Adaptive,
			NewRing: func(a *mem.Arena) (ring.Ring, error) {
				return uring.New(uring.Config{Arena: a, Clock: clk, Files: 64})
			}})
		if err := r.Start(); errors.Is(err, sys.ErrUringRefused) {
			t.Skip(err)
		} else {
			must(t, err)
		}
		reactors, arenas = append(reactors, r), append(arenas, a)
	}
	b := &restless{}
	e := iscsi.New(iscsi.Config{Reactors: reactors, Transport: tcp.New(uring.Kernel{}, reactors, tcp.Options{LiveCost: tcp.LiveCost}),
		Entropy: rand.Reader, Options: iscsi.Defaults(), Balance: b})
	caller := reactor.Blocking{}
	dev, err := malloc.New(malloc.Config{Space: space, BlockSize: 512, Blocks: 1 << 16})
	must(t, err)
	must(t, e.AddPortalGroup(caller, iscsi.PortalGroup{Tag: 1, Portals: []iscsi.Portal{{Addr: netip.MustParseAddrPort("127.0.0.1:0")}}}))
	must(t, e.AddInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"ANY"}, Netmasks: []string{"127.0.0.0/8"}}))
	must(t, e.AddNode(caller, iscsi.NodeConfig{Name: iscsitest.Node, Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}},
		LUNs: []iscsi.LUN{{ID: 1, Bdev: bdev.New("Malloc0", bdev.UUID{0: 1}, dev)}}}))
	defer func() {
		e.Shutdown(caller, 0)
		must(t, e.RemoveNode(caller, iscsitest.Node))
		for i, r := range reactors {
			r.Stop()
			must(t, r.Wait())
			if !arenas[i].AllHome() {
				t.Errorf("arena memory not home: %+v", arenas[i].Stats())
			}
		}
	}()

	addr := e.PortalGroups()[0].Portals[0].Addr.String()
	const sessions = 4
	stop := time.Now().Add(2 * time.Second)
	for moves := uint64(100); b.moved.Load() < moves && time.Now().Before(stop.Add(time.Minute)); {
		var all sync.WaitGroup
		for i := range sessions {
			all.Go(func() {
				if err := hammer(addr, i, stop); err != nil {
					t.Errorf("session %d: %v", i, err)
				}
			})
		}
		for time.Now().Before(stop) { // walks over the reactors meet each session once
			if list := e.Connections(caller); len(list) > sessions {
				t.Errorf("%d connections are listed", len(list))
			}
			time.Sleep(10 * time.Millisecond)
		}
		all.Wait()
		if t.Failed() {
			break
		}
		stop = time.Now().Add(time.Second)
	}
	if n := b.moved.Load(); n < 100 {
		t.Errorf("%d moves, and %d in vain", n, b.stayed.Load())
	} else {
		t.Logf("%d moves, %d in vain", n, b.stayed.Load())
	}
}

// hammer writes and reads back blocks of its own, several at a time, until stop.
func hammer(addr string, id int, stop time.Time) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(stop.Add(30 * time.Second)); err != nil {
		return err
	}
	c := &iscsitest.Conn{CmdSN: 1, ISID: [6]byte{0x80, 5: byte(id)}}
	data := make([]byte, 1<<20)
	recv := func() (pdu.BHS, []byte, error) {
		b := make(pdu.BHS, pdu.HeaderLen)
		if _, err := io.ReadFull(nc, b); err != nil {
			return nil, nil, err
		}
		_, err := io.ReadFull(nc, data[:b.PaddedDataLen()])
		return b, data[:b.DataLen()], err
	}
	send := func(b pdu.BHS, data []byte) error {
		b.SetDataLen(uint32(len(data)))
		_, err := nc.Write(c.Frame(b, nil, data))
		return err
	}
	if err := send(c.LoginBHS(pdu.FlagTransit|1<<2|3), iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "MaxRecvDataSegmentLength=65536")); err != nil {
		return err
	}
	if b, _, err := recv(); err != nil || b.LoginStatus() != 0 {
		return fmt.Errorf("login: % x, %w", b, err)
	}
	// answer returns what the next command to end answers; there is no R2T, and
	// whatever else comes has nothing to say.
	answer := func() (pdu.BHS, []byte, error) {
		for {
			b, d, err := recv()
			if err != nil || b.Opcode() == pdu.SCSIResponse || b.Opcode() == pdu.DataIn {
				return b, d, err
			}
		}
	}
	const size, depth = 8192, 6
	if err := send(c.Command(1, 0, 0), nil); err != nil {
		return err
	}
	if _, _, err := answer(); err != nil { // the unit attention
		return err
	}
	want := make([]byte, depth*size)
	for round := 0; time.Now().Before(stop); round++ {
		for i := range want {
			want[i] = byte(i/size + i*7 + round*31 + id)
		}
		at := func(i int) uint32 { return uint32(id*depth+i) * size / 512 }
		for i := range depth {
			if err := send(c.Command(1, pdu.FlagWrite|pdu.FlagFinal, size, iscsitest.Write10(at(i), size/512)...), want[i*size:(i+1)*size]); err != nil {
				return err
			}
		}
		for range depth {
			if b, _, err := answer(); err != nil || b.Opcode() != pdu.SCSIResponse || b.Status() != 0 {
				return fmt.Errorf("write of round %d: % x, %w", round, b, err)
			}
		}
		tags := map[uint32]int{}
		for i := range depth {
			b := c.Command(1, pdu.FlagRead, size, iscsitest.Read10(at(i), size/512)...)
			tags[b.ITT()] = i
			if err := send(b, nil); err != nil {
				return err
			}
		}
		for range depth {
			b, d, err := answer()
			if err != nil || b.Opcode() != pdu.DataIn || b.Status() != 0 {
				return fmt.Errorf("read of round %d: % x, %w", round, b, err)
			}
			if i := tags[b.ITT()]; !bytes.Equal(d, want[i*size:(i+1)*size]) {
				return fmt.Errorf("round %d, block %d: other data", round, i)
			}
		}
		if round%8 == 0 {
			time.Sleep(200 * time.Microsecond) // at rest for once
		}
	}
	return nil
}
