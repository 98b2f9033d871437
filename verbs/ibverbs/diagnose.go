//go:build linux

package ibverbs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"spindle/verbs"
)

// Finding is one thing that RDMA needs, and how it stands.
type Finding struct {
	OK   bool
	What string
	Do   string // what to do about it, when it is not OK
}

// Diagnose looks at everything RDMA needs on this machine to register so many
// bytes of memory. ready: a connection can be made.
func Diagnose(need uint64) (findings []Finding, ready bool) {
	f := facts{kernel: kernelDevices(), memlock: Memlock(), need: need}
	_, f.manager = os.Stat("/dev/infiniband/rdma_cm")
	p, err := Open()
	if f.open = err; err == nil {
		f.devices, f.look = openAll(p)
	}
	return f.findings()
}

// openAll describes the devices in full, and gives them back.
func openAll(p verbs.Provider) (infos []verbs.DeviceInfo, err error) {
	devs, err := p.Devices()
	for _, d := range devs {
		infos = append(infos, *d.Info())
		err = errors.Join(err, d.Close())
	}
	return infos, err
}

// facts are what Diagnose judges.
type facts struct {
	open    error    // of the libraries
	kernel  []string // devices of the kernel
	devices []verbs.DeviceInfo
	look    error // of looking for devices
	manager error // of the connection manager's device file
	memlock MemlockLimit
	need    uint64 // bytes to be registered
}

func (f *facts) findings() (list []Finding, ready bool) {
	add := func(ok bool, what, do string) bool {
		if ok {
			do = ""
		}
		list = append(list, Finding{ok, what, do})
		return ok
	}
	switch {
	case errors.Is(f.open, verbs.ErrNotBuilt):
		add(false, "this binary was built without RDMA", "build it with cgo: install a C compiler and run make build")
		return list, false
	case f.open != nil:
		add(false, f.open.Error(), "apt install libibverbs1 librdmacm1 ibverbs-providers, or your distribution's rdma-core")
		return list, false
	}
	add(true, "libibverbs and librdmacm are installed", "")
	devices := len(f.devices) > 0
	switch {
	case f.look != nil:
		add(false, f.look.Error(), "check that /dev/infiniband/uverbs* can be opened by this user")
	case !devices && len(f.kernel) > 0:
		add(false, "the kernel has "+strings.Join(f.kernel, ", ")+", but no library can drive it",
			"install ibverbs-providers, load ib_uverbs, and check that this user may open /dev/infiniband/uverbs*")
	case !devices:
		add(false, "there is no RDMA device", "load the adapter's driver; or, to try without an adapter: modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0")
	}
	what := "the connection manager is there (/dev/infiniband/rdma_cm)"
	if f.manager != nil {
		what = "there is no connection manager (/dev/infiniband/rdma_cm)"
	}
	manager := add(f.manager == nil, what, "modprobe rdma_ucm")
	usable := false
	for i := range f.devices {
		usable = judge(&f.devices[i], add) || usable
	}
	lock := add(f.memlock.Unlimited || f.memlock.Bytes >= f.need, f.memlock.String(), "ulimit -l unlimited in the shell, LimitMEMLOCK=infinity in the unit, or CAP_IPC_LOCK")
	return list, manager && usable && lock
}

// judge tells whether a connection can be made over a device.
func judge(d *verbs.DeviceInfo, add func(ok bool, what, do string) bool) (usable bool) {
	what := fmt.Sprintf("device %s: %v, node GUID %s", d.Name, d.Transport, verbs.GUIDString(d.NodeGUID))
	if !add(d.Transport == verbs.TransportIB || d.Transport == verbs.TransportRoCE, what,
		"only InfiniBand and RoCE are supported: an iWARP read would have to open this machine's memory to its peers") {
		return false
	}
	for _, p := range d.Ports {
		what := fmt.Sprintf("%s port %d: %v, link %v", d.Name, p.Number, p.Link, p.State)
		if len(p.NetDevs) > 0 {
			what += ", under " + strings.Join(p.NetDevs, ", ")
		}
		if !add(p.State == verbs.PortActive, what, "check the cable, and that the network device is up (ip link set DEV up)") {
			continue
		}
		if p.Link == verbs.LinkInfiniBand {
			usable = true
			continue
		}
		var addrs []string
		for _, g := range p.GIDs {
			if a := g.Addr.String(); !g.Addr.IsLinkLocalUnicast() && !slices.Contains(addrs, a) {
				addrs = append(addrs, a)
			}
		}
		usable = add(len(addrs) > 0, fmt.Sprintf("%s port %d answers at %s", d.Name, p.Number, orNothing(addrs)),
			"give the network device an IP address: RoCE has no other") || usable
	}
	return usable
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "no IP address"
	}
	return strings.Join(list, ", ")
}
