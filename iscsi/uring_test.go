package iscsi_test

import (
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/null"
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

// TestUringSyscalls serves a null LUN over loopback from the real ring: at
// queue depth 32 a command costs at most 0.2 system calls.
func TestUringSyscalls(t *testing.T) {
	space := mem.NewSpace()
	arena, err := space.NewArena(32<<20, -1)
	must(t, err)
	clk := clock.NewMonotonic()
	r := reactor.New(reactor.Config{Core: -1, Clock: clk, Arena: arena, Idle: reactor.Adaptive,
		NewRing: func(a *mem.Arena) (ring.Ring, error) {
			return uring.New(uring.Config{Arena: a, Clock: clk, Files: 64})
		}})
	if err := r.Start(); errors.Is(err, sys.ErrUringRefused) {
		t.Skip(err)
	} else {
		must(t, err)
	}
	reactors := []*reactor.Reactor{r}
	e := iscsi.New(iscsi.Config{Reactors: reactors, Transport: tcp.New(uring.Kernel{}, reactors, tcp.Options{}), Entropy: rand.Reader, Options: iscsi.Defaults()})
	caller := reactor.Blocking{}
	dev, err := null.New(null.Config{Space: space, BlockSize: 512, Blocks: 1 << 20})
	must(t, err)
	must(t, e.AddPortalGroup(caller, iscsi.PortalGroup{Tag: 1, Portals: []iscsi.Portal{{Addr: netip.MustParseAddrPort("127.0.0.1:0")}}}))
	must(t, e.AddInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"ANY"}, Netmasks: []string{"127.0.0.0/8"}}))
	must(t, e.AddNode(caller, iscsi.NodeConfig{Name: iscsitest.Node, Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}},
		LUNs: []iscsi.LUN{{ID: 1, Bdev: bdev.New("Null0", bdev.UUID{0: 1}, dev)}}}))
	defer func() {
		e.Shutdown(caller, 0)
		must(t, e.RemoveNode(caller, iscsitest.Node))
		r.Stop()
		must(t, r.Wait())
		if !arena.AllHome() {
			t.Errorf("arena memory not home: %+v", arena.Stats())
		}
	}()

	nc, err := net.Dial("tcp", e.PortalGroups()[0].Portals[0].Addr.String())
	must(t, err)
	defer nc.Close()
	must(t, nc.SetDeadline(time.Now().Add(30*time.Second)))
	c := &iscsitest.Conn{CmdSN: 1}
	login := c.LoginBHS(pdu.FlagTransit | 1<<2 | 3)
	keys := iscsitest.Keys("InitiatorName="+iscsitest.Initiator, "TargetName="+iscsitest.Node, "MaxRecvDataSegmentLength=65536")
	login.SetDataLen(uint32(len(keys)))
	buf := make([]byte, 1<<20)
	recv := func() pdu.BHS {
		_, err := io.ReadFull(nc, buf[:pdu.HeaderLen])
		must(t, err)
		b := pdu.BHS(buf[:pdu.HeaderLen])
		_, err = io.ReadFull(nc, buf[pdu.HeaderLen:pdu.HeaderLen+int(b.PaddedDataLen())])
		must(t, err)
		return b
	}
	_, err = nc.Write(c.Frame(login, nil, keys))
	must(t, err)
	if b := recv(); b.LoginStatus() != 0 || b.TSIH() == 0 {
		t.Fatalf("% x", b)
	}
	batch := func(n int) {
		var w []byte
		for range n {
			w = append(w, c.Frame(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(0, 8)...), nil, nil)...)
		}
		_, err := nc.Write(w)
		must(t, err)
		for range n {
			recv()
		}
	}
	batch(1) // the unit attention
	batch(32)
	const rounds = 300
	before := r.Ring.Syscalls()
	for range rounds {
		batch(32)
	}
	if per := float64(r.Ring.Syscalls()-before) / (rounds * 32); per > 0.2 {
		t.Errorf("%.3f system calls a command", per)
	} else {
		t.Logf("%.3f system calls a command", per)
	}
}
