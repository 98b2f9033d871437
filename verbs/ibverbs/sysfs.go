//go:build linux

package ibverbs

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"spindle/verbs"
)

// sysClass is where the kernel describes its RDMA devices.
var sysClass = "/sys/class/infiniband"

// kernelDevices are the devices that the kernel has, usable or not.
func kernelDevices() []string {
	return list(sysClass)
}

// list is the sorted names of a directory; none if it cannot be read.
func list(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func read(parts ...string) string {
	b, _ := os.ReadFile(filepath.Join(parts...))
	return strings.TrimSpace(string(b))
}

// sysfsPorts describes the ports of a device, but for their addresses.
func sysfsPorts(dev string) (ports []verbs.PortInfo) {
	dir := filepath.Join(sysClass, dev, "ports")
	for n := 1; n <= len(list(dir)); n++ {
		p := verbs.PortInfo{Number: n}
		at := filepath.Join(dir, strconv.Itoa(n))
		state, _, _ := strings.Cut(read(at, "state"), ":") // "4: ACTIVE"
		k, _ := strconv.Atoi(state)
		p.State = verbs.PortState(k)
		switch read(at, "link_layer") {
		case "InfiniBand":
			p.Link = verbs.LinkInfiniBand
		case "Ethernet":
			p.Link = verbs.LinkEthernet
		}
		if net := read(at, "gid_attrs", "ndevs", "0"); net != "" {
			p.NetDevs = []string{net}
		}
		ports = append(ports, p)
	}
	return ports
}

// sysfsGIDs is the address table of a port, where the library cannot tell.
func sysfsGIDs(dev string, port, entries int) (gids []verbs.GID) {
	at := filepath.Join(sysClass, dev, "ports", strconv.Itoa(port))
	for i := range min(entries, 128) {
		n := strconv.Itoa(i)
		a, err := netip.ParseAddr(read(at, "gids", n))
		if err != nil || a.IsUnspecified() {
			continue
		}
		gids = append(gids, verbs.GID{Index: i, Addr: a.Unmap(), Type: read(at, "gid_attrs", "types", n), NetDev: read(at, "gid_attrs", "ndevs", n)})
	}
	return gids
}

// sysfsCounters are the driver's counters of a port.
func sysfsCounters(dev string, port int) (counters []verbs.Counter, err error) {
	at := filepath.Join(sysClass, dev, "ports", strconv.Itoa(port))
	if _, err := os.Stat(at); err != nil {
		return nil, fmt.Errorf("%s port %d: %w", dev, port, err)
	}
	for _, dir := range []string{"counters", "hw_counters"} {
		for _, name := range list(filepath.Join(at, dir)) {
			if v, err := strconv.ParseUint(read(at, dir, name), 10, 64); err == nil && name != "lifespan" {
				counters = append(counters, verbs.Counter{Name: name, Value: v})
			}
		}
	}
	return counters, nil
}
