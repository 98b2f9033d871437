package memverbs

import (
	"fmt"
	"net/netip"
	"slices"

	"spindle/verbs"
)

// Node is a machine on the fabric, with one process on it: a verbs.Provider.
type Node struct {
	// MemlockLimit bounds what the node may register, in bytes; 0 is no bound.
	MemlockLimit uint64
	// Extra is how many more requests the queues of a queue pair are granted than
	// were asked for: devices round up.
	Extra int
	// Stuck: queue pairs cannot be destroyed.
	Stuck bool
	// Touch, when set, sees each span of the node's own memory as its devices
	// read or write it.
	Touch func(verbs.SGE)

	w        *World
	number   int
	devices  []*device // there now, in order of adding
	removed  []*device // removed, and open still
	channels []*channel
	ids      []*id
	cqs      []*queue     // by handle - 1
	qps      []*queuePair // by handle - 1
	port     uint16
	seen     bool // a device, ever
	locked   uint64
	live     Live
}

// Live counts what a node has open: all zero when nothing leaked.
type Live struct{ Devices, PDs, MRs, CompChannels, CQs, QPs, EventChannels, IDs int }

// Limits of the devices.
const (
	maxQPWR      = 16384
	maxCQE       = 1 << 16
	maxSGE       = 32
	maxInline    = 512
	maxMessage   = 8 << 20
	maxReadAtoms = 128
)

// NewNode makes a node without devices.
func (w *World) NewNode() *Node {
	n := &Node{w: w, number: len(w.nodes), port: 32768}
	w.nodes = append(w.nodes, n)
	return n
}

// Live tells what is open now.
func (n *Node) Live() Live { return n.live }

// Removing is the number of removed devices that the process still has open:
// whoever removes them waits for that to be none.
func (n *Node) Removing() int { return len(n.removed) }

// AddDevice adds a device with the addresses of the network device under it.
func (n *Node) AddDevice(name string, addrs ...netip.Addr) {
	n.AddDeviceInfo(verbs.DeviceInfo{Name: name}, addrs...)
}

// AddDeviceInfo is AddDevice with the properties that info has set, of its ports
// the longest message of the first; it fills in the rest.
func (n *Node) AddDeviceInfo(info verbs.DeviceInfo, addrs ...netip.Addr) {
	n.w.devices++
	info.Index = n.w.devices
	info.NodeGUID = 0x0200_5eff_fe00_0000 | uint64(info.Index)
	info.MaxQP, info.MaxCQ, info.MaxMR, info.MaxPD = 1<<16, 1<<16, 1<<16, 1<<16
	info.MaxMRSize = 1 << 62
	defaultInt(&info.MaxQPWR, maxQPWR)
	defaultInt(&info.MaxCQE, maxCQE)
	defaultInt(&info.MaxSGE, maxSGE)
	defaultInt(&info.MaxSGERead, info.MaxSGE)
	defaultInt(&info.MaxReadAtoms, maxReadAtoms)
	defaultInt(&info.MaxInitReadAtoms, maxReadAtoms)
	if info.Transport == verbs.TransportUnknown {
		info.Transport, info.MemMgtExtensions = verbs.TransportRoCE, true
	}
	message := uint32(maxMessage)
	if len(info.Ports) > 0 && info.Ports[0].MaxMsg > 0 {
		message = info.Ports[0].MaxMsg
	}
	port := verbs.PortInfo{Number: 1, State: verbs.PortActive, Link: verbs.LinkEthernet, MaxMsg: message, MTU: 4096, NetDevs: []string{info.Name}}
	for i, a := range addrs {
		port.GIDs = append(port.GIDs, verbs.GID{Index: i, Addr: a, Type: "RoCE v2", NetDev: info.Name})
	}
	info.Ports = []verbs.PortInfo{port}
	d := &device{source: source{w: n.w}, node: n, info: info, addrs: addrs}
	n.devices = append(n.devices, d)
	n.seen = true
}

func defaultInt(v *int, d int) {
	if *v == 0 {
		*v = d
	}
}

// RemoveDevice takes a device away: its identifiers and itself hear of it, its
// queue pairs fail, and nothing new can be made on it.
func (n *Node) RemoveDevice(name string) {
	i := slices.IndexFunc(n.devices, func(d *device) bool { return d.info.Name == name })
	if i < 0 {
		return
	}
	d := n.devices[i]
	n.devices = slices.Delete(n.devices, i, i+1)
	n.w.Counts.Removals++
	n.w.note(&Event{Kind: Remove, Op: name})
	d.removed = true
	if !d.open {
		return
	}
	n.removed = append(n.removed, d)
	for _, q := range n.qps {
		if q != nil && q.dev() == d {
			q.fail()
		}
	}
	for _, i := range n.ids {
		if i.dev == d {
			i.post(message{kind: verbs.EventDeviceRemoval})
		}
	}
	d.raise(verbs.AsyncEvent{Type: verbs.AsyncDeviceFatal})
	n.w.settle()
}

// ChangeAddress tells every identifier on a device that its address changed.
func (n *Node) ChangeAddress(name string) {
	for _, i := range n.ids {
		if i.dev != nil && i.dev.info.Name == name {
			i.post(message{kind: verbs.EventAddrChange})
		}
	}
	n.w.settle()
}

// Kill ends the process: everything it had vanishes, and its peers are told, as
// by a kernel that cleans up. The node goes on and may be used anew.
func (n *Node) Kill() { n.die(true) }

// Vanish ends the machine: its peers hear nothing.
func (n *Node) Vanish() { n.die(false) }

func (n *Node) die(tell bool) {
	n.w.note(&Event{Kind: Die, ID: n.number})
	for _, i := range slices.Clone(n.ids) {
		i.vanish(tell)
	}
	for _, q := range n.qps {
		if q != nil {
			q.discard()
		}
	}
	for _, c := range n.channels {
		c.events = nil
		c.wake = nil
	}
	for _, d := range slices.Concat(n.devices, n.removed) {
		d.open, d.users, d.async, d.wake = false, 0, nil, nil
		clear(d.regions)
	}
	clear(n.qps)
	clear(n.cqs)
	n.channels, n.ids, n.removed, n.locked, n.live = nil, nil, nil, 0, Live{}
	n.w.settle()
}

// Name is "memverbs".
func (n *Node) Name() string { return "memverbs" }

// Scan describes the devices.
func (n *Node) Scan() ([]verbs.DeviceInfo, error) {
	var list []verbs.DeviceInfo
	for _, d := range n.devices {
		list = append(list, d.info)
	}
	return list, nil
}

// Devices opens the devices.
func (n *Node) Devices() ([]verbs.Device, error) {
	var list []verbs.Device
	for _, d := range n.devices {
		list = append(list, d.use())
	}
	return list, nil
}

type device struct {
	source
	node    *Node
	info    verbs.DeviceInfo
	addrs   []netip.Addr
	open    bool
	removed bool
	users   int // domains, queues, completion channels
	async   []verbs.AsyncEvent
	regions []*MR // by key >> 8
}

// use opens the device if it is not.
func (d *device) use() *device {
	if !d.open {
		d.open = true
		d.node.live.Devices++
	}
	return d
}

func (d *device) usable() error {
	if d.removed {
		return fmt.Errorf("%s: %w", d.info.Name, verbs.ErrGone)
	}
	return nil
}

func (d *device) Info() *verbs.DeviceInfo { return &d.info }

func (d *device) Port(n int) (verbs.PortInfo, error) {
	if err := d.usable(); err != nil {
		return verbs.PortInfo{}, err
	}
	if n != 1 {
		return verbs.PortInfo{}, fmt.Errorf("port %d: %w", n, verbs.ErrInvalid)
	}
	return d.info.Ports[0], nil
}

func (d *device) Counters(int) ([]verbs.Counter, error) {
	return []verbs.Counter{{Name: "rcvd_rnr_err", Value: d.w.Counts.NoReceive + d.w.Counts.RNR}}, d.usable()
}

func (d *device) NextAsync(ev *verbs.AsyncEvent) bool {
	if len(d.async) == 0 {
		return false
	}
	*ev = d.async[0]
	d.async = d.async[1:]
	return true
}

// raise makes an asynchronous event.
func (d *device) raise(ev verbs.AsyncEvent) {
	d.w.note(&Event{Kind: Async, Op: ev.Type.String(), ID: int(ev.QP)})
	d.async = append(d.async, ev)
	d.ready("async")
}

func (d *device) NewPD() (verbs.PD, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	d.users++
	d.node.live.PDs++
	return &domain{dev: d}, nil
}

func (d *device) Close() error {
	if d.users > 0 {
		return fmt.Errorf("%s: %w", d.info.Name, verbs.ErrBusy)
	}
	for _, i := range d.node.ids {
		if i.dev == d {
			return fmt.Errorf("%s: an identifier is bound to it: %w", d.info.Name, verbs.ErrBusy)
		}
	}
	if d.open {
		d.open = false
		d.node.live.Devices--
		d.node.removed = slices.DeleteFunc(d.node.removed, func(o *device) bool { return o == d })
	}
	return nil
}
