package ibverbs

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/verbs"
	"spindle/verbs/verbstest"
)

// removable names the variable that lets the tests remove and add soft-RoCE
// devices: "1" in the rig's guest, nowhere else.
const removable = "SPINDLE_TEST_RDMA_REMOVE"

// findDevice finds a device and its addresses: one a family, no link-local ones.
func findDevice(p verbs.Provider) (name string, addrs []netip.Addr, err error) {
	devs, err := p.Devices()
	for _, d := range devs {
		for _, port := range d.Info().Ports {
			for _, g := range port.GIDs {
				same := func(a netip.Addr) bool { return a.Is4() == g.Addr.Is4() }
				if (name == "" || name == d.Info().Name) && !g.Addr.IsLinkLocalUnicast() && !slices.ContainsFunc(addrs, same) {
					name, addrs = d.Info().Name, append(addrs, g.Addr)
				}
			}
		}
		err = errors.Join(err, d.Close())
	}
	return name, addrs, err
}

func TestConformance(t *testing.T) {
	p, err := Open()
	if err != nil {
		t.Skipf("left out: %v", err)
	}
	name, addrs, err := findDevice(p)
	if err != nil {
		t.Fatal(err)
	}
	if name == "" {
		t.Skip("left out: no RDMA device with an address; the rig has one")
	}
	for _, addr := range addrs {
		t.Run(name+" at "+addr.String(), func(t *testing.T) {
			verbstest.Run(t, func(t *testing.T) *verbstest.Pair {
				pair := &verbstest.Pair{
					Target: p, Peer: p, Device: name, Addr: addr,
					Step: func() { time.Sleep(2 * time.Millisecond) }, Patience: 5000,
				}
				if os.Getenv(removable) == "1" {
					pair.Remove, pair.Removed, pair.Add = softRemove(t, name)
				}
				return pair
			})
		})
	}
}

// softRemove deletes and adds a soft-RoCE device with iproute2.
func softRemove(t *testing.T, name string) (remove func(), removed func() bool, add func()) {
	netdev := read(sysClass, name, "parent")
	rdma := func(args ...string) *exec.Cmd {
		cmd := exec.Command("rdma", args...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		return cmd
	}
	ended := make(chan error, 1)
	done := false
	remove = func() {
		cmd := rdma("link", "delete", name)
		done = false
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { ended <- cmd.Wait() }()
	}
	removed = func() bool {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		default:
		}
		return done
	}
	add = func() {
		if err := rdma("link", "add", name, "type", "rxe", "netdev", netdev).Run(); err != nil {
			t.Fatal(err)
		}
	}
	return remove, removed, add
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	p, err := Open()
	switch {
	case err == nil:
		if p.Name() != "ibverbs" {
			t.Error(p.Name())
		}
		if _, err := p.Scan(); err != nil {
			t.Errorf("looking for devices: %v", err)
		}
		t.Log("the libraries are here")
	case errors.Is(err, verbs.ErrNotBuilt):
		t.Log("built without cgo")
	case errors.Is(err, verbs.ErrNoLibrary):
		if !strings.Contains(err.Error(), "package lib") {
			t.Errorf("does not say what to install: %v", err)
		}
	default:
		t.Error(err)
	}
}

// Without a device everything answers in a way that a caller can wait with.
func TestWithoutDevices(t *testing.T) {
	p, err := Open()
	if err != nil {
		t.Skipf("left out: %v", err)
	}
	if len(kernelDevices()) > 0 {
		t.Skip("left out: there is a device")
	}
	for name, f := range map[string]func() (int, error){
		"scan":    func() (int, error) { l, err := p.Scan(); return len(l), err },
		"devices": func() (int, error) { l, err := p.Devices(); return len(l), err },
	} {
		if n, err := f(); n != 0 || err != nil {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	if _, err := p.NewEventChannel(); !errors.Is(err, verbs.ErrNoDevice) {
		t.Errorf("event channel: %v", err)
	}
}

func TestMemlock(t *testing.T) {
	for _, tc := range []struct {
		name, status string
		may          bool
	}{
		{"root", "Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n", true},
		{"nobody", "Name:\tx\nCapEff:\t0000000000000000\n", false},
		{"only this one", "\nCapEff:\t0000000000004000\n", true},
		{"all but this one", "\nCapEff:\tffffffffffffbfff\n", false},
		{"not there", "", false},
	} {
		if mayLock(tc.status) != tc.may {
			t.Errorf("%s: %v", tc.name, !tc.may)
		}
	}
	if s := (MemlockLimit{Bytes: 8 << 20}).String(); !strings.Contains(s, "8192 KiB") || !strings.Contains(s, "LimitMEMLOCK") {
		t.Error(s)
	}
}

func TestSysfs(t *testing.T) {
	sysClass = t.TempDir()
	defer func() { sysClass = "/sys/class/infiniband" }()
	for path, text := range map[string]string{
		"mlx0/ports/1/state": "4: ACTIVE\n", "mlx0/ports/1/link_layer": "Ethernet\n", "mlx0/ports/1/gid_attrs/ndevs/0": "eth4\n",
		"mlx0/ports/1/gids/0": "0000:0000:0000:0000:0000:ffff:c612:0001\n", "mlx0/ports/1/gid_attrs/types/0": "RoCE v2\n",
		"mlx0/ports/1/gids/1": "0000:0000:0000:0000:0000:0000:0000:0000\n", "mlx0/ports/1/gids/2": "fe80:0000:0000:0000:0000:0000:0000:0007\n",
		"mlx0/ports/1/hw_counters/rcvd_rnr_err": "3\n", "mlx0/ports/1/hw_counters/lifespan": "10\n", "mlx0/ports/1/counters/port_xmit_data": "99\n",
		"mlx0/ports/2/state": "1: DOWN\n", "mlx0/ports/2/link_layer": "InfiniBand\n",
	} {
		path = sysClass + "/" + path
		if err := os.MkdirAll(path[:strings.LastIndexByte(path, '/')], 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports := sysfsPorts("mlx0")
	if len(ports) != 2 || ports[0].State != verbs.PortActive || ports[0].Link != verbs.LinkEthernet || ports[0].NetDevs[0] != "eth4" ||
		ports[1].State != verbs.PortDown || ports[1].Link != verbs.LinkInfiniBand {
		t.Errorf("%+v", ports)
	}
	gids := sysfsGIDs("mlx0", 1, 8)
	if len(gids) != 2 || gids[0].Addr != netip.MustParseAddr("198.18.0.1") || gids[0].Type != "RoCE v2" || gids[1].Index != 2 {
		t.Errorf("%+v", gids)
	}
	counters, err := sysfsCounters("mlx0", 1)
	if err != nil || len(counters) != 2 || counters[1] != (verbs.Counter{Name: "rcvd_rnr_err", Value: 3}) {
		t.Errorf("%+v, %v", counters, err)
	}
	if _, err := sysfsCounters("mlx0", 9); err == nil {
		t.Error("port 9 has counters")
	}
	if names := kernelDevices(); len(names) != 1 || names[0] != "mlx0" {
		t.Errorf("%v", names)
	}
}

// The way into C and back needs no device: requests for queue pairs that do
// not exist are refused there.
func TestCrossing(t *testing.T) {
	p, err := Open()
	if err != nil {
		t.Skipf("left out: %v", err)
	}
	b := &verbs.Batch{Sends: make([]verbs.SendWR, 0, 8), Recvs: make([]verbs.RecvWR, 0, 8), SGEs: make([]verbs.SGE, 0, 16)}
	wcs := make([]verbs.WC, 16)
	cqs := []verbs.CQHandle{0, 7}
	turn := func() {
		b.Reset()
		for i := range 3 {
			b.Send(verbs.SendWR{ID: verbs.NewWRID(uint32(i), 0, 0), QP: 77 << 16 & 7}, verbs.SGE{}, verbs.SGE{})
			b.Recv(verbs.QPHandle(5+i&1), 0, verbs.SGE{})
		}
		if n := p.Post(b); n != 6 {
			t.Fatalf("%d of 6 refused", n)
		}
		if n, bad := p.Poll(cqs, wcs); n != 0 || bad != 0 {
			t.Fatalf("%d completions, queue %d failed", n, bad)
		}
		if p.Arm(cqs) {
			t.Fatal("armed nothing")
		}
	}
	turn()
	if b.Sends[0].Err != int32(syscall.EINVAL) || b.Sends[1].Err != int32(syscall.ECANCELED) ||
		b.Recvs[0].Err != int32(syscall.EINVAL) || b.Recvs[1].Err != int32(syscall.EINVAL) || b.Recvs[2].Err != int32(syscall.ECANCELED) {
		t.Errorf("%+v %+v", b.Sends, b.Recvs)
	}
	if n := testing.AllocsPerRun(100, turn); n != 0 {
		t.Errorf("%v allocations a turn", n)
	}
	if n, bad := p.Poll(nil, wcs); n != 0 || bad != -1 {
		t.Errorf("polling nothing: %d, %d", n, bad)
	}
}

// BenchmarkCrossing is what a turn pays for asking.
func BenchmarkCrossing(b *testing.B) {
	p, err := Open()
	if err != nil {
		b.Skip(err)
	}
	wcs := make([]verbs.WC, 16)
	b.ReportAllocs()
	for b.Loop() {
		p.Poll(nil, wcs)
	}
}
