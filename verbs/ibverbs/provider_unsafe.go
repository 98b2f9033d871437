//go:build cgo && linux

package ibverbs

/*
#cgo CFLAGS: -O2 -Wall -Wextra -D_GNU_SOURCE
#cgo LDFLAGS: -ldl
#cgo noescape sp_arm
#cgo nocallback sp_arm
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"spindle/verbs"
)

// maxDevices bounds what one look at the machine finds.
const maxDevices = 64

// provider implements verbs.Provider.
type provider struct {
	devices []*device       // held, removed ones too; there is one for a context
	ids     map[uintptr]*id // by the address of the C identifier
}

// Open loads the libraries. That there is no device is no error here.
func Open() (verbs.Provider, error) {
	var reason [256]C.char
	switch C.sp_load(&reason[0], C.size_t(len(reason))) {
	case 1:
		return nil, fmt.Errorf("%w: libibverbs (package libibverbs1, and ibverbs-providers for the drivers): %s", verbs.ErrNoLibrary, C.GoString(&reason[0]))
	case 2:
		return nil, fmt.Errorf("%w: librdmacm (package librdmacm1): %s", verbs.ErrNoLibrary, C.GoString(&reason[0]))
	}
	return &provider{ids: map[uintptr]*id{}}, nil
}

// fail makes an error of a C function's negative errno; nil for the others.
func fail(rc C.int, what string, args ...any) error {
	if rc >= 0 {
		return nil
	}
	e := syscall.Errno(-rc)
	switch e {
	case syscall.ENODEV:
		return fmt.Errorf("%s: %w (%w)", fmt.Sprintf(what, args...), verbs.ErrNoDevice, e)
	case syscall.EBUSY:
		return fmt.Errorf("%s: %w (%w)", fmt.Sprintf(what, args...), verbs.ErrBusy, e)
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(what, args...), e)
}

func (p *provider) Name() string { return "ibverbs" }

// Scan describes the devices: names, numbers and ports; the limits and address
// tables are for those that were opened.
func (p *provider) Scan() ([]verbs.DeviceInfo, error) {
	var found [maxDevices]C.struct_sp_info
	n := C.sp_scan(&found[0], maxDevices)
	if err := fail(n, "RDMA devices"); err != nil {
		return nil, err
	}
	list := make([]verbs.DeviceInfo, 0, n)
	for i := range found[:n] {
		list = append(list, describe(&found[i]))
	}
	return list, nil
}

func describe(c *C.struct_sp_info) verbs.DeviceInfo {
	info := verbs.DeviceInfo{
		Name: C.GoString(&c.name[0]), Index: uint32(c.index), NodeGUID: uint64(c.guid), Firmware: C.GoString(&c.firmware[0]),
		VendorID: uint32(c.vendor), PartID: uint32(c.part),
		MaxQP: int(c.max_qp), MaxCQ: int(c.max_cq), MaxMR: int(c.max_mr), MaxPD: int(c.max_pd), MaxQPWR: int(c.max_qp_wr),
		MaxCQE: int(c.max_cqe), MaxSGE: int(c.max_sge), MaxSGERead: int(c.max_sge_rd), MaxMRSize: uint64(c.max_mr_size),
		MaxReadAtoms: int(c.max_rd_atom), MaxInitReadAtoms: int(c.max_init_rd_atom), MemMgtExtensions: c.mem_mgt != 0,
	}
	info.Ports = sysfsPorts(info.Name)
	switch {
	case c.transport == 1:
		info.Transport = verbs.TransportIWARP
	case c.transport == 0 && len(info.Ports) > 0 && info.Ports[0].Link == verbs.LinkEthernet:
		info.Transport = verbs.TransportRoCE
	case c.transport == 0:
		info.Transport = verbs.TransportIB
	}
	return info
}

// Devices opens the devices.
func (p *provider) Devices() ([]verbs.Device, error) {
	var ctxs [maxDevices]unsafe.Pointer
	n := C.sp_devices(&ctxs[0], maxDevices)
	if err := fail(n, "RDMA devices"); err != nil {
		return nil, err
	}
	var list []verbs.Device
	var errs []error
	for _, ctx := range ctxs[:n] {
		d := p.device(ctx)
		if d != nil {
			C.sp_release(ctx, 0) // it holds one already
		} else {
			var err error
			if d, err = p.open(ctx); err != nil {
				C.sp_release(ctx, 0)
				errs = append(errs, err)
				continue
			}
		}
		list = append(list, d)
	}
	return list, errors.Join(errs...)
}

// device finds the device of a context; nil if it is not held.
func (p *provider) device(ctx unsafe.Pointer) *device {
	for _, d := range p.devices {
		if d.ctx == ctx {
			return d
		}
	}
	return nil
}

func (p *provider) open(ctx unsafe.Pointer) (*device, error) {
	var c C.struct_sp_info
	if err := fail(C.sp_query_device(ctx, &c), "RDMA device"); err != nil {
		return nil, err
	}
	d := &device{p: p, ctx: ctx, info: describe(&c)}
	fd := C.sp_async_fd(ctx)
	if err := fail(fd, "%s: asynchronous events", d.info.Name); err != nil {
		return nil, err
	}
	d.fd = int(fd)
	for i := range d.info.Ports {
		port, err := d.Port(i + 1)
		if err != nil {
			return nil, err
		}
		d.info.Ports[i] = port
	}
	p.devices = append(p.devices, d)
	return d, nil
}

// Post implements verbs.Provider.
//
//spindle:hot
func (p *provider) Post(b *verbs.Batch) int {
	c := C.struct_sp_post_call{
		s: (*C.struct_sp_send)(unsafe.Pointer(unsafe.SliceData(b.Sends))), ns: C.int(len(b.Sends)),
		r: (*C.struct_sp_recv)(unsafe.Pointer(unsafe.SliceData(b.Recvs))), nr: C.int(len(b.Recvs)),
		sges: (*C.struct_sp_sge)(unsafe.Pointer(unsafe.SliceData(b.SGEs))), nsges: C.int(len(b.SGEs)),
	}
	asmcgocall(unsafe.Pointer(C.sp_post_on_stack), unsafe.Pointer(&c))
	return int(c.refused)
}

// Poll implements verbs.Provider.
//
//spindle:hot
func (p *provider) Poll(cqs []verbs.CQHandle, out []verbs.WC) (n, bad int) {
	c := C.struct_sp_poll_call{
		cqs: (*C.uint32_t)(unsafe.Pointer(unsafe.SliceData(cqs))), ncqs: C.int(len(cqs)),
		out: (*C.struct_sp_wc)(unsafe.Pointer(unsafe.SliceData(out))), n: C.int(len(out)),
	}
	asmcgocall(unsafe.Pointer(C.sp_poll_on_stack), unsafe.Pointer(&c))
	return int(c.result & 0xffffffff), int(c.result>>32) - 1
}

// asmcgocall calls fn(arg) on the thread's system stack, and that is all: the
// scheduler is not told. What a cgo call does more serves calls that may block.
// For one that does not it is worse than useless where a thread spins: the
// runtime's monitor looks every 10 ms at what runs, holds a spinning thread that
// it meets inside a call for blocked, takes its P away, and then looks again
// every 20 us for a while, on the thread's own CPU if that is all there is.
//
//go:linkname asmcgocall runtime.asmcgocall
//go:noescape
func asmcgocall(fn, arg unsafe.Pointer) int32

// Arm implements verbs.Provider.
//
//spindle:hot
func (p *provider) Arm(cqs []verbs.CQHandle) bool {
	return C.sp_arm((*C.uint32_t)(unsafe.Pointer(unsafe.SliceData(cqs))), C.int(len(cqs))) == 0
}
