//go:build cgo && linux

package ibverbs

// #include "shim.h"
import "C"

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"spindle/verbs"
)

// NewEventChannel makes an event channel.
func (p *provider) NewEventChannel() (verbs.EventChannel, error) {
	ch := &channel{p: p}
	var fd C.int
	switch rc := C.sp_cm_channel(&ch.c, &fd); syscall.Errno(-rc) {
	case syscall.ENOENT, syscall.ENXIO:
		return nil, fmt.Errorf("%w: /dev/infiniband/rdma_cm is missing: load the kernel module rdma_ucm", verbs.ErrNoDevice)
	case syscall.EACCES, syscall.EPERM:
		return nil, fmt.Errorf("/dev/infiniband/rdma_cm: %w", syscall.Errno(-rc))
	default:
		if err := fail(rc, "event channel"); err != nil {
			return nil, err
		}
	}
	ch.fd = int(fd)
	return ch, nil
}

// channel is an event channel.
type channel struct {
	p      *provider
	c      unsafe.Pointer
	fd     int
	users  int
	closed bool
}

func (ch *channel) FD() int        { return ch.fd }
func (ch *channel) OnReady(func()) {}

func (ch *channel) Next(ev *verbs.Event) (bool, error) {
	var c C.struct_sp_event
	switch rc := C.sp_cm_next(ch.c, &c); {
	case syscall.Errno(-rc) == syscall.EAGAIN:
		return false, nil
	case rc < 0:
		return false, fail(rc, "event channel")
	}
	*ev = verbs.Event{
		Type: verbs.EventType(c._type), Status: int(c.status), QPNum: uint32(c.qp_num),
		Param: verbs.ConnParam{
			ResponderResources: uint8(c.param.responder_resources), InitiatorDepth: uint8(c.param.initiator_depth),
			FlowControl: c.param.flow_control != 0, Retry: uint8(c.param.retry), RNRRetry: uint8(c.param.rnr_retry),
		},
	}
	ev.SetPrivate(unsafe.Slice((*byte)(unsafe.Pointer(&c.private_data)), int(c.private_len)))
	if ev.Type == verbs.EventConnectRequest {
		ev.ID = ch.adopt(c.id)
		if l := ch.p.ids[uintptr(c.listener)]; l != nil {
			ev.Listener = l
		}
	} else if i := ch.p.ids[uintptr(c.id)]; i != nil {
		ev.ID = i
	}
	return true, nil
}

// adopt makes an id of a C identifier.
func (ch *channel) adopt(c unsafe.Pointer) *id {
	i := &id{ch: ch, c: c}
	ch.p.ids[uintptr(c)] = i
	ch.users++
	return i
}

func (ch *channel) NewID() (verbs.ID, error) {
	var c unsafe.Pointer
	if err := fail(C.sp_cm_create(ch.c, &c), "identifier"); err != nil {
		return nil, err
	}
	return ch.adopt(c), nil
}

func (ch *channel) Close() error {
	if ch.users > 0 {
		return fmt.Errorf("event channel: %w", verbs.ErrBusy)
	}
	if !ch.closed {
		ch.closed = true
		C.sp_cm_channel_destroy(ch.c)
	}
	return nil
}

// id is an identifier.
type id struct {
	ch  *channel
	c   unsafe.Pointer // nil: destroyed
	qp  *queuePair
	key uint64
}

func (i *id) Key() uint64     { return i.key }
func (i *id) SetKey(k uint64) { i.key = k }

func (i *id) Addrs() (local, peer netip.AddrPort) {
	var l, p C.struct_sp_addr
	if i.c != nil {
		C.sp_cm_addrs(i.c, &l, &p)
	}
	return addrPort(&l), addrPort(&p)
}

func addrPort(c *C.struct_sp_addr) netip.AddrPort {
	raw := *(*[16]byte)(unsafe.Pointer(&c.ip))
	switch {
	case c.set == 0:
		return netip.AddrPort{}
	case c.v6 == 0:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[:4])), uint16(c.port))
	}
	a := netip.AddrFrom16(raw).Unmap()
	if a.Is6() && a.IsLinkLocalUnicast() && c.scope != 0 {
		a = a.WithZone(strconv.Itoa(int(c.scope)))
	}
	return netip.AddrPortFrom(a, uint16(c.port))
}

// sockAddr is addr for C; an IPv6 zone is an interface's name or number.
func sockAddr(addr netip.AddrPort) (c C.struct_sp_addr, err error) {
	a := addr.Addr().Unmap()
	c.port, c.set = C.uint16_t(addr.Port()), 1
	raw := (*[16]byte)(unsafe.Pointer(&c.ip))
	if a.Is4() {
		v4 := a.As4()
		copy(raw[:], v4[:])
		return c, nil
	}
	c.v6 = 1
	*raw = a.As16()
	if zone := a.Zone(); zone != "" {
		n, err := strconv.Atoi(zone)
		if err != nil {
			ifc, err := net.InterfaceByName(zone)
			if err != nil {
				return c, fmt.Errorf("address %v: %w", addr, err)
			}
			n = ifc.Index
		}
		c.scope = C.uint32_t(n)
	}
	return c, nil
}

func (i *id) Device() (verbs.Device, error) {
	ctx := C.sp_cm_context(i.c)
	if ctx == nil {
		return nil, nil
	}
	if d := i.ch.p.device(ctx); d != nil {
		return d, nil
	}
	if _, err := i.ch.p.Devices(); err != nil {
		return nil, err
	}
	if d := i.ch.p.device(ctx); d != nil {
		return d, nil
	}
	return nil, verbs.ErrGone
}

func (i *id) Port() int { return int(C.sp_cm_port(i.c)) }
func (i *id) SetTOS(tos uint8) error {
	return fail(C.sp_cm_tos(i.c, C.uint8_t(tos)), "type of service")
}
func (i *id) SetAckTimeout(t uint8) error {
	return fail(C.sp_cm_ack_timeout(i.c, C.uint8_t(t)), "ACK timeout")
}

func (i *id) Bind(addr netip.AddrPort) error {
	c, err := sockAddr(addr)
	if err != nil {
		return err
	}
	return fail(C.sp_cm_bind(i.c, &c), "bind %v", addr)
}

func (i *id) Listen(backlog int) error { return fail(C.sp_cm_listen(i.c, C.int(backlog)), "listen") }

func (i *id) ResolveAddr(dst netip.AddrPort, timeout verbs.Millis) error {
	c, err := sockAddr(dst)
	if err != nil {
		return err
	}
	return fail(C.sp_cm_resolve_addr(i.c, &c, C.int(timeout)), "resolve %v", dst)
}

func (i *id) ResolveRoute(timeout verbs.Millis) error {
	return fail(C.sp_cm_resolve_route(i.c, C.int(timeout)), "resolve route")
}

func param(p *verbs.ConnParam) (c C.struct_sp_param) {
	c.responder_resources, c.initiator_depth = C.uint8_t(p.ResponderResources), C.uint8_t(p.InitiatorDepth)
	c.retry, c.rnr_retry = C.uint8_t(p.Retry), C.uint8_t(p.RNRRetry)
	if p.FlowControl {
		c.flow_control = 1
	}
	return c
}

func (i *id) Connect(p verbs.ConnParam, private []byte) error {
	c := param(&p)
	return fail(C.sp_cm_connect(i.c, &c, unsafe.Pointer(unsafe.SliceData(private)), C.int(len(private))), "connect")
}

func (i *id) Accept(p verbs.ConnParam, private []byte) error {
	c := param(&p)
	return fail(C.sp_cm_accept(i.c, &c, unsafe.Pointer(unsafe.SliceData(private)), C.int(len(private))), "accept")
}

func (i *id) Reject(private []byte) error {
	return fail(C.sp_cm_reject(i.c, unsafe.Pointer(unsafe.SliceData(private)), C.int(len(private))), "reject")
}

func (i *id) Disconnect() error { return fail(C.sp_cm_disconnect(i.c), "disconnect") }

func (i *id) Notify(t verbs.AsyncType) error {
	if t != verbs.AsyncCommEst {
		return fmt.Errorf("notify %v: %w", t, verbs.ErrInvalid)
	}
	return fail(C.sp_cm_notify_established(i.c), "notify")
}

func (i *id) Destroy() error {
	if i.qp != nil {
		return fmt.Errorf("identifier: its queue pair exists: %w", verbs.ErrBusy)
	}
	if i.c == nil {
		return nil
	}
	delete(i.ch.p.ids, uintptr(i.c))
	i.ch.users--
	c := i.c
	i.c = nil
	return fail(C.sp_cm_destroy(c), "identifier")
}

func (i *id) CreateQP(with verbs.PD, c verbs.QPConfig) (verbs.QP, error) {
	pd, ok0 := with.(*domain)
	send, ok1 := c.SendCQ.(*queue)
	recv, ok2 := c.RecvCQ.(*queue)
	if !ok0 || !ok1 || !ok2 || i.qp != nil {
		return nil, fmt.Errorf("queue pair: %w", verbs.ErrInvalid)
	}
	q := &queuePair{id: i, pd: pd, send: send, recv: recv}
	caps := C.struct_sp_caps{
		max_send: C.uint32_t(c.MaxSend), max_recv: C.uint32_t(c.MaxRecv), max_send_sge: C.uint32_t(c.MaxSendSGE),
		max_recv_sge: C.uint32_t(c.MaxRecvSGE), max_inline: C.uint32_t(c.MaxInline),
	}
	var handle, num C.uint32_t
	if err := fail(C.sp_create_qp(i.c, pd.c, C.uint32_t(send.handle), C.uint32_t(recv.handle), &caps, &handle, &num), "queue pair"); err != nil {
		return nil, err
	}
	c.MaxSend, c.MaxRecv, c.MaxInline = int(caps.max_send), int(caps.max_recv), int(caps.max_inline)
	c.MaxSendSGE, c.MaxRecvSGE = int(caps.max_send_sge), int(caps.max_recv_sge)
	q.handle, q.num, q.caps = verbs.QPHandle(handle), uint32(num), c
	i.qp = q
	pd.users++
	send.users++
	recv.users++
	return q, nil
}

// queuePair is a queue pair.
type queuePair struct {
	id         *id
	pd         *domain
	send, recv *queue
	handle     verbs.QPHandle
	num        uint32
	caps       verbs.QPConfig
	closed     bool
}

func (q *queuePair) Handle() verbs.QPHandle { return q.handle }
func (q *queuePair) Num() uint32            { return q.num }
func (q *queuePair) Caps() verbs.QPConfig   { return q.caps }
func (q *queuePair) Fail() error            { return fail(C.sp_fail_qp(C.uint32_t(q.handle)), "queue pair") }

func (q *queuePair) State() (verbs.QPState, error) {
	rc := C.sp_query_qp(C.uint32_t(q.handle))
	return verbs.QPState(max(rc, 0)), fail(rc, "queue pair")
}

func (q *queuePair) Close() error {
	if q.closed {
		return nil
	}
	if err := fail(C.sp_destroy_qp(q.id.c, C.uint32_t(q.handle)), "queue pair"); err != nil {
		return err
	}
	q.closed = true
	q.id.qp = nil
	q.pd.users--
	q.send.users--
	q.recv.users--
	return nil
}
