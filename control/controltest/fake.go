// Package controltest has an engine and modules that do nothing but remember,
// for tests of what stands on control.
//
// Threading: as the things it stands in for. Memory: none of its own.
package controltest

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"

	"spindle/bdev"
	"spindle/control"
	"spindle/iscsi"
	"spindle/reactor"
	"spindle/scsi"
)

// Engine remembers what it was told. Fail, when set, is asked before each
// change and its error is what the change returns.
type Engine struct {
	Fail func(call string) error
	// Conns is what Connections returns.
	Conns []iscsi.ConnInfo
	LUNs  []iscsi.LUN // those that nodes were given, in order

	mu    sync.Mutex // guards what follows
	log   []string
	opt   iscsi.Options
	pgs   []iscsi.PortalGroup
	igs   []iscsi.InitiatorGroup
	nodes []iscsi.NodeConfig
	auth  []iscsi.AuthGroup
	hist  *bdev.Histogram
	alua  map[string][]scsi.PortGroup
}

// NewEngine makes an engine with the default options.
func NewEngine() *Engine { return &Engine{opt: iscsi.Defaults()} }

// Log returns the changes made so far, in order.
func (e *Engine) Log() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.log)
}

func (e *Engine) change(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	if e.Fail != nil {
		if err := e.Fail(call); err != nil {
			return err
		}
	}
	e.log = append(e.log, call)
	return nil
}

// Options implements control.Engine, as all that follows.
func (e *Engine) Options() iscsi.Options { e.mu.Lock(); defer e.mu.Unlock(); return e.opt }

func (e *Engine) SetOptions(o iscsi.Options) { e.mu.Lock(); defer e.mu.Unlock(); e.opt = o }

func (e *Engine) AddPortalGroup(_ reactor.Caller, g iscsi.PortalGroup) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.change("add portal group %d", g.Tag); err != nil {
		return err
	}
	g.Portals = slices.Clone(g.Portals)
	for i, p := range g.Portals {
		if p.Addr.Port() == 0 { // what a kernel would choose
			g.Portals[i].Addr = netip.AddrPortFrom(p.Addr.Addr(), uint16(40000+i))
		}
	}
	e.pgs = append(e.pgs, g)
	return nil
}

func (e *Engine) StartPortalGroup(_ reactor.Caller, tag uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("start portal group %d", tag)
}

func (e *Engine) RemovePortalGroup(_ reactor.Caller, tag uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pgs = slices.DeleteFunc(e.pgs, func(g iscsi.PortalGroup) bool { return g.Tag == tag })
	return e.change("remove portal group %d", tag)
}

func (e *Engine) SetPortalGroupISER(_ reactor.Caller, tag uint16, on bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("set portal group %d iSER %v", tag, on)
}

func (e *Engine) SetPortalISER(_ reactor.Caller, tag uint16, portal netip.AddrPort, on bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("set portal %v of group %d iSER %v", portal, tag, on)
}

func (e *Engine) PortalGroups() []iscsi.PortalGroup {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.pgs)
}

func (e *Engine) AddInitiatorGroup(g iscsi.InitiatorGroup) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.igs = append(e.igs, g)
	return e.change("add initiator group %d", g.Tag)
}

func (e *Engine) SetInitiatorGroup(g iscsi.InitiatorGroup) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("set initiator group %d %v %v", g.Tag, g.Initiators, g.Netmasks)
}

func (e *Engine) RemoveInitiatorGroup(tag uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("remove initiator group %d", tag)
}

func (e *Engine) SetAuthGroup(g iscsi.AuthGroup) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.change("set auth group %d", g.Tag)
}

func (e *Engine) RemoveAuthGroup(tag int32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.change("remove auth group %d", tag)
}

func (e *Engine) AddNode(_ reactor.Caller, n iscsi.NodeConfig) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.LUNs, e.nodes = append(e.LUNs, n.LUNs...), append(e.nodes, n)
	return e.change("add node %s", n.Name)
}

func (e *Engine) RemoveNode(_ reactor.Caller, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nodes = slices.DeleteFunc(e.nodes, func(n iscsi.NodeConfig) bool { return n.Name == name })
	return e.change("remove node %s", name)
}

func (e *Engine) AddLUN(_ reactor.Caller, node string, l iscsi.LUN) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.LUNs = append(e.LUNs, l)
	return e.change("add LUN %s/%d", node, l.ID)
}

func (e *Engine) RemoveLUN(_ reactor.Caller, node string, id uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("remove LUN %s/%d", node, id)
}

func (e *Engine) AddMaps(node string, m []iscsi.Map) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("add %d maps %s", len(m), node)
}

func (e *Engine) RemoveMaps(node string, m []iscsi.Map) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("remove %d maps %s", len(m), node)
}

func (e *Engine) Connections(reactor.Caller) []iscsi.ConnInfo { return slices.Clone(e.Conns) }

func (e *Engine) RequestLogout(_ reactor.Caller, node string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("request logout %s", node)
}

func (e *Engine) RequestLogoutBy(_ reactor.Caller, node string, tag uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("request logout %s by %d", node, tag)
}

func (e *Engine) SendAsync(_ reactor.Caller, node string, m iscsi.AsyncMessage) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("async event %d to %s: %+v", m.Event, node, m)
}

func (e *Engine) SetNodeAuth(node string, a iscsi.CHAPPolicy) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("set node auth %s %+v", node, a)
}

func (e *Engine) SetPortalGroupAuth(tag uint16, a iscsi.CHAPPolicy) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("set portal group auth %d %+v", tag, a)
}

func (e *Engine) SetNodeRedirect(node string, tag uint16, to netip.AddrPort) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change("redirect %s by %d to %v", node, tag, to)
}

// SetPortGroupState remembers the state for PortGroupStates.
func (e *Engine) SetPortGroupState(_ reactor.Caller, node string, tag uint16, state scsi.PortState) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.alua == nil {
		e.alua = map[string][]scsi.PortGroup{}
	}
	others := slices.DeleteFunc(e.alua[node], func(g scsi.PortGroup) bool { return g.Tag == tag })
	e.alua[node] = append(others, scsi.PortGroup{Tag: tag, State: state})
	return e.change("state of %s by %d is %v", node, tag, state)
}

func (e *Engine) PortGroupStates(node string) ([]scsi.PortGroup, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.alua[node], nil
}

// NodeStats has a session of one connection for each node.
func (e *Engine) NodeStats(_ reactor.Caller, node string) ([]iscsi.NodeStats, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []iscsi.NodeStats
	for _, n := range e.nodes {
		if node != "" && n.Name != node {
			continue
		}
		x := iscsi.NodeStats{Name: n.Name, Begun: 1, Logins: []iscsi.Counter{{Name: "accepts", Value: 1}}, Read: e.hist, Write: e.hist}
		x.Reads = 7
		s := iscsi.SessionStats{TSIH: 3, Initiator: "iqn.i", Transport: "tcp", ConnCounts: x.ConnCounts}
		s.Conns = []iscsi.ConnStats{{ID: 1, CID: 2, Peer: "10.0.0.1:5", ConnCounts: x.ConnCounts}}
		x.Sessions = []iscsi.SessionStats{s}
		list = append(list, x)
	}
	return list, nil
}

func (e *Engine) EnableHistograms(_ reactor.Caller, node string, on bool, o bdev.HistogramOptions) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hist = nil; on {
		e.hist, err = bdev.NewHistogram(o)
	}
	return errors.Join(err, e.change("histograms of %s %v", node, on))
}

func (e *Engine) Counters() []iscsi.Counter { return []iscsi.Counter{{Name: "logins", Value: 3}} }

// Device is a device with a size and nothing else. Closed is called with Close.
type Device struct {
	bdev.LiveInfo
	Closed    func()
	Injected  []control.Injection
	Latencies control.Latencies
	Rescans   int
}

// NewDevice makes a device, or refuses sizes that no device has.
func NewDevice(product string, g control.Geometry) (*Device, error) {
	d := &Device{}
	err := d.Update(func(i *bdev.Info) {
		*i = bdev.Info{Product: product, BlockSize: g.BlockSize, Blocks: g.NumBlocks, PhysicalBlockSize: g.PhysicalBlockSize, Caps: bdev.CapUnmap}
	})
	return d, err
}

// Open implements bdev.Device: there is no I/O here.
func (d *Device) Open(*reactor.Reactor) (bdev.Channel, error) { return nil, bdev.ErrGone }

// Close implements bdev.Device.
func (d *Device) Close() error {
	if d.Closed != nil {
		d.Closed()
	}
	return nil
}

// Resize does what control asks of modules that can; so do the methods below.
func (d *Device) Resize(blocks uint64) error {
	return d.Update(func(i *bdev.Info) { i.Blocks = blocks })
}

func (d *Device) Rescan() error { d.Rescans++; return nil }

func (d *Device) SetLatencies(l control.Latencies) { d.Latencies = l }

func (d *Device) Inject(i control.Injection) error { d.Injected = append(d.Injected, i); return nil }

func (d *Device) Resume() error { return nil }

// Modules makes Devices; their Close is told to closed by product.
func Modules(closed func(product string)) control.Modules {
	device := func(product string, g control.Geometry) (bdev.Device, error) {
		d, err := NewDevice(product, g)
		if err != nil {
			return nil, err
		}
		if closed != nil {
			d.Closed = func() { closed(product) }
		}
		return d, nil
	}
	stacked := func(product string, base *bdev.Bdev) (bdev.Device, error) {
		i := base.Info()
		return device(product, control.Geometry{BlockSize: i.BlockSize, NumBlocks: i.Blocks})
	}
	return control.Modules{
		Null:   func(s control.NullSpec) (bdev.Device, error) { return device("Null disk", s.Geometry) },
		Malloc: func(s control.MallocSpec) (bdev.Device, error) { return device("Malloc disk", s.Geometry) },
		File: func(s control.FileSpec) (bdev.Device, error) {
			product, size := "AIO disk", s.BlockSize
			if s.Uring {
				product = "URING bdev"
			}
			if size == 0 {
				size = 512
			}
			return device(product, control.Geometry{BlockSize: size, NumBlocks: 2048})
		},
		Delay:    func(b *bdev.Bdev, _ control.Latencies) (bdev.Device, error) { return stacked("delay", b) },
		Error:    func(b *bdev.Bdev) (bdev.Device, error) { return stacked("Error Injection Disk", b) },
		Passthru: func(b *bdev.Bdev) (bdev.Device, error) { return stacked("passthru", b) },
	}
}

// New makes a Control on a fake engine and fake modules.
func New() (*control.Control, *Engine) {
	e := NewEngine()
	c := control.New(control.Config{
		Engine: e, Modules: Modules(nil), Caller: reactor.Blocking{}, Log: control.NewLog(io.Discard),
		Version: control.Version{Major: 1, Minor: 2},
		Watch: func() []control.ReactorStats {
			return []control.ReactorStats{{ID: 0, Core: 1, TID: 7, Busy: 5, Idle: 6}}
		},
		Stop: func(string) error { return nil },
	})
	return c, e
}
