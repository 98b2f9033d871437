//go:build linux

package ibverbs

import (
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"testing"

	"spindle/verbs"
)

func TestFindings(t *testing.T) {
	roce := func(state verbs.PortState, addrs ...string) verbs.DeviceInfo {
		p := verbs.PortInfo{Number: 1, State: state, Link: verbs.LinkEthernet, NetDevs: []string{"eth4"}}
		for _, a := range addrs {
			p.GIDs = append(p.GIDs, verbs.GID{Addr: netip.MustParseAddr(a)})
		}
		return verbs.DeviceInfo{Name: "mlx0", Transport: verbs.TransportRoCE, Ports: []verbs.PortInfo{p}}
	}
	good := roce(verbs.PortActive, "fe80::1", "198.18.0.1", "198.18.0.1")
	all := MemlockLimit{Unlimited: true}
	for _, tc := range []struct {
		name  string
		facts facts
		ready bool
		do    string // a part of the first advice
	}{
		{"all there", facts{kernel: []string{"mlx0"}, devices: []verbs.DeviceInfo{good}, memlock: all}, true, ""},
		{"built without", facts{open: verbs.ErrNotBuilt, memlock: all}, false, "cgo"},
		{"no library", facts{open: fmt.Errorf("%w: librdmacm", verbs.ErrNoLibrary), memlock: all}, false, "librdmacm1"},
		{"no device", facts{memlock: all}, false, "rdma_rxe"},
		{"no driver library", facts{kernel: []string{"mlx0"}, memlock: all}, false, "ibverbs-providers"},
		{"no permission", facts{kernel: []string{"mlx0"}, look: fs.ErrPermission, memlock: all}, false, "/dev/infiniband/uverbs"},
		{"no manager", facts{devices: []verbs.DeviceInfo{good}, manager: fs.ErrNotExist, memlock: all}, false, "rdma_ucm"},
		{"link down", facts{devices: []verbs.DeviceInfo{roce(verbs.PortDown, "198.18.0.1")}, memlock: all}, false, "cable"},
		{"no address", facts{devices: []verbs.DeviceInfo{roce(verbs.PortActive, "fe80::1")}, memlock: all}, false, "IP address"},
		{"one of two will do", facts{devices: []verbs.DeviceInfo{roce(verbs.PortDown), good}, memlock: all}, true, "cable"},
		{"iWARP", facts{devices: []verbs.DeviceInfo{{Name: "iw0", Transport: verbs.TransportIWARP}}, memlock: all}, false, "iWARP"},
		{"locked memory", facts{devices: []verbs.DeviceInfo{good}, memlock: MemlockLimit{Bytes: 64 << 10}}, false, "LimitMEMLOCK"},
		{"a limit that is high enough", facts{devices: []verbs.DeviceInfo{good}, memlock: MemlockLimit{Bytes: 1 << 30}}, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.facts.need = 1 << 20
			list, ready := tc.facts.findings()
			do := ""
			for _, f := range list {
				if f.OK != (f.Do == "") || f.What == "" {
					t.Errorf("%+v", f)
				}
				if do == "" {
					do = f.Do
				}
			}
			if ready != tc.ready || !strings.Contains(do, tc.do) || (do == "") != (tc.do == "") {
				t.Errorf("ready %v, advice %q", ready, do)
			}
		})
	}
}

func TestDiagnoseThisMachine(t *testing.T) {
	list, ready := Diagnose(1 << 20)
	if len(list) == 0 {
		t.Fatal("nothing found, not even missing")
	}
	for _, f := range list {
		t.Logf("%v: %s (%s)", f.OK, f.What, f.Do)
	}
	if ready && len(kernelDevices()) == 0 {
		t.Error("ready without a device")
	}
}
