//go:build cgo && linux

package ibverbs

// #include "shim.h"
import "C"

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"unsafe"

	"spindle/reactor/mem"
	"spindle/verbs"
)

// device is a context of librdmacm, with a reference.
type device struct {
	p     *provider
	ctx   unsafe.Pointer
	fd    int
	info  verbs.DeviceInfo
	users int // domains, queues, completion channels
}

func (d *device) Info() *verbs.DeviceInfo { return &d.info }
func (d *device) FD() int                 { return d.fd }
func (d *device) OnReady(func())          {}

func (d *device) Port(n int) (verbs.PortInfo, error) {
	var c C.struct_sp_port
	if n < 1 || n > 255 {
		return verbs.PortInfo{}, fmt.Errorf("%s: port %d: %w", d.info.Name, n, verbs.ErrInvalid)
	}
	if err := fail(C.sp_query_port(d.ctx, C.int(n), &c), "%s: port %d", d.info.Name, n); err != nil {
		return verbs.PortInfo{}, err
	}
	p := verbs.PortInfo{
		Number: n, State: verbs.PortState(c.state), Link: verbs.LinkLayer(c.link), MaxMsg: uint32(c.max_msg), MTU: int(c.mtu), LID: uint16(c.lid),
	}
	var gids [256]C.struct_sp_gid
	if count := C.sp_gids(d.ctx, &gids[0], C.int(len(gids))); count >= 0 {
		for i := range gids[:count] {
			if g := &gids[i]; int(g.port) == n {
				p.GIDs = append(p.GIDs, gid(g))
			}
		}
	} else {
		p.GIDs = sysfsGIDs(d.info.Name, n, int(c.gids))
	}
	for _, g := range p.GIDs {
		if g.NetDev != "" && !slices.Contains(p.NetDevs, g.NetDev) {
			p.NetDevs = append(p.NetDevs, g.NetDev)
		}
	}
	return p, nil
}

func gid(c *C.struct_sp_gid) verbs.GID {
	g := verbs.GID{Index: int(c.index), Addr: netip.AddrFrom16(*(*[16]byte)(unsafe.Pointer(&c.gid))).Unmap()}
	switch c._type {
	case 0, 1:
		g.Type = "IB/RoCE v1"
	case 2:
		g.Type = "RoCE v2"
	}
	if ifc, err := net.InterfaceByIndex(int(c.ifindex)); err == nil {
		g.NetDev = ifc.Name
	}
	return g
}

func (d *device) Counters(n int) ([]verbs.Counter, error) { return sysfsCounters(d.info.Name, n) }

func (d *device) NextAsync(ev *verbs.AsyncEvent) bool {
	var c C.struct_sp_async
	if C.sp_next_async(d.ctx, &c) < 0 {
		return false
	}
	*ev = verbs.AsyncEvent{Type: verbs.AsyncType(c._type), QP: verbs.QPHandle(c.qp), CQ: verbs.CQHandle(c.cq), Port: int(c.port)}
	return true
}

// gone tells whether the machine has the device no more. The kernel's name
// stays in sysfs while it waits for us, but the library does not list it.
func (d *device) gone() bool {
	list, err := d.p.Scan()
	return err == nil && !slices.ContainsFunc(list, func(o verbs.DeviceInfo) bool {
		return o.Name == d.info.Name && o.Index == d.info.Index && o.NodeGUID == d.info.NodeGUID
	})
}

func (d *device) Close() error {
	if d.users > 0 {
		return fmt.Errorf("%s: %w", d.info.Name, verbs.ErrBusy)
	}
	for _, i := range d.p.ids { //spindle:ordered any of them will do
		if C.sp_cm_context(i.c) == d.ctx {
			return fmt.Errorf("%s: an identifier is bound to it: %w", d.info.Name, verbs.ErrBusy)
		}
	}
	if k := slices.Index(d.p.devices, d); k >= 0 {
		removed := C.int(0)
		if d.gone() {
			removed = 1
		}
		d.p.devices = slices.Delete(d.p.devices, k, k+1)
		C.sp_release(d.ctx, removed)
	}
	return nil
}

func (d *device) NewPD() (verbs.PD, error) {
	pd := &domain{dev: d}
	if err := fail(C.sp_alloc_pd(d.ctx, &pd.c), "%s: protection domain", d.info.Name); err != nil {
		return nil, err
	}
	d.users++
	return pd, nil
}

// domain is a protection domain.
type domain struct {
	dev    *device
	c      unsafe.Pointer
	users  int
	closed bool
}

func (p *domain) Device() verbs.Device { return p.dev }

func (p *domain) Register(r *mem.Region) (verbs.MR, error) {
	if p.dev.info.Transport == verbs.TransportIWARP {
		return nil, fmt.Errorf("%s: %w", p.dev.info.Name, verbs.ErrIWARP)
	}
	return p.register(uint64(r.Base), r.Len, 0)
}

func (p *domain) RegisterRemote(m mem.Ref, access verbs.Access) (verbs.MR, error) {
	return p.register(uint64(m.Addr), uint64(m.Len), access)
}

func (p *domain) register(addr, n uint64, access verbs.Access) (verbs.MR, error) {
	r := &region{pd: p}
	var lkey, rkey C.uint32_t
	rc := C.sp_reg_mr(p.c, C.uint64_t(addr), C.uint64_t(n), C.int(access), &r.c, &lkey, &rkey)
	if syscall.Errno(-rc) == syscall.ENOMEM {
		if m := Memlock(); !m.Unlimited {
			return nil, fmt.Errorf("%s: register %d MiB: %w: %v", p.dev.info.Name, n>>20, verbs.ErrMemlock, m)
		}
	}
	if err := fail(rc, "%s: register %d bytes", p.dev.info.Name, n); err != nil {
		return nil, err
	}
	r.lkey, r.rkey = uint32(lkey), uint32(rkey)
	p.users++
	return r, nil
}

func (p *domain) Close() error {
	if p.users > 0 {
		return fmt.Errorf("protection domain: %w", verbs.ErrBusy)
	}
	if p.closed {
		return nil
	}
	p.closed = true
	p.dev.users--
	return fail(C.sp_free_pd(p.c), "protection domain")
}

// region is a memory region.
type region struct {
	pd         *domain
	c          unsafe.Pointer
	lkey, rkey uint32
	closed     bool
}

func (r *region) LKey() uint32 { return r.lkey }
func (r *region) RKey() uint32 { return r.rkey }

func (r *region) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.pd.users--
	return fail(C.sp_dereg_mr(r.c), "memory region")
}

func (d *device) NewCompChannel() (verbs.CompChannel, error) {
	ch := &compChannel{dev: d}
	var fd C.int
	if err := fail(C.sp_create_channel(d.ctx, &ch.c, &fd), "%s: completion channel", d.info.Name); err != nil {
		return nil, err
	}
	ch.fd = int(fd)
	d.users++
	return ch, nil
}

// compChannel is a completion channel.
type compChannel struct {
	dev    *device
	c      unsafe.Pointer
	fd     int
	users  int
	closed bool
}

func (ch *compChannel) FD() int        { return ch.fd }
func (ch *compChannel) OnReady(func()) {}
func (ch *compChannel) Drain() int     { return int(C.sp_drain_channel(ch.c)) }

func (ch *compChannel) Close() error {
	if ch.users > 0 {
		return fmt.Errorf("completion channel: %w", verbs.ErrBusy)
	}
	if ch.closed {
		return nil
	}
	ch.closed = true
	ch.dev.users--
	return fail(C.sp_destroy_channel(ch.c), "completion channel")
}

func (d *device) NewCQ(n int, with verbs.CompChannel) (verbs.CQ, error) {
	q := &queue{dev: d}
	var c unsafe.Pointer
	if with != nil {
		q.ch = with.(*compChannel)
		c = q.ch.c
	}
	var granted C.int
	var handle C.uint32_t
	if err := fail(C.sp_create_cq(d.ctx, C.int(n), c, &handle, &granted), "%s: completion queue of %d", d.info.Name, n); err != nil {
		return nil, err
	}
	q.handle, q.size = verbs.CQHandle(handle), int(granted)
	d.users++
	if q.ch != nil {
		q.ch.users++
	}
	return q, nil
}

// queue is a completion queue.
type queue struct {
	dev    *device
	ch     *compChannel
	handle verbs.CQHandle
	size   int
	users  int
	closed bool
}

func (q *queue) Handle() verbs.CQHandle { return q.handle }
func (q *queue) Size() int              { return q.size }

func (q *queue) Close() error {
	if q.users > 0 {
		return fmt.Errorf("completion queue: %w", verbs.ErrBusy)
	}
	if q.closed {
		return nil
	}
	q.closed = true
	q.dev.users--
	if q.ch != nil {
		q.ch.users--
	}
	return fail(C.sp_destroy_cq(C.uint32_t(q.handle)), "completion queue")
}
