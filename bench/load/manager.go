package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"spindle/iscsi/pdu"
	"spindle/verbs"
)

// ErrRDMA: an address over RDMA, and no RDMA.
var ErrRDMA = errors.New("RDMA cannot be used here (`spindle rdma` tells what is missing)")

// unusable marks what `spindle rdma` explains.
func unusable(err error) error {
	for _, e := range []error{verbs.ErrNotBuilt, verbs.ErrNoLibrary, verbs.ErrNoDevice, verbs.ErrMemlock, verbs.ErrIWARP} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrRDMA, err)
		}
	}
	return err
}

const (
	resolveTime = verbs.Millis(5000)
	lookTime    = 100 * time.Microsecond // between looks while the run does not go on
	causeTime   = 100 * time.Millisecond
)

// dial connects: the address, the route, a queue pair with its receives, and the
// connection. There is no Hello: no initiator sends one.
func (f *fabric) dial(ctx context.Context, _ int) (path, error) {
	to, err := net.ResolveTCPAddr("tcp", f.g.o.Address.Host)
	if err != nil {
		return nil, err
	}
	id, err := f.events.NewID()
	if err != nil {
		return nil, unusable(err)
	}
	p := &pair{f: f, slot: uint32(len(f.pairs)), id: id}
	p.id.SetKey(uint64(p.slot))
	f.pairs = append(f.pairs, p)
	if err := p.connect(ctx, netip.AddrPortFrom(to.AddrPort().Addr().Unmap(), to.AddrPort().Port())); err != nil {
		p.close()
		return nil, fmt.Errorf("%v: %w", f.g.o.Address, unusable(err))
	}
	return p, nil
}

func (p *pair) connect(ctx context.Context, to netip.AddrPort) error {
	f := p.f
	if err := p.id.ResolveAddr(to, resolveTime); err != nil {
		return err
	}
	if err := p.await(ctx, verbs.EventAddrResolved); err != nil {
		return err
	}
	if err := p.id.ResolveRoute(resolveTime); err != nil {
		return err
	}
	if err := p.await(ctx, verbs.EventRouteResolved); err != nil {
		return err
	}
	if err := f.equip(p.id); err != nil {
		return err
	}
	if err := p.make(); err != nil {
		return err
	}
	param := verbs.ConnParam{ResponderResources: uint8(min(255, f.dev.Info().MaxReadAtoms)), InitiatorDepth: 1, Retry: 7, RNRRetry: 7}
	// All commands share one memory region: nobody may invalidate it.
	if err := p.id.Connect(param, []byte{pdu.ISERNoZBVA | pdu.ISERNoInvalidate, 0, 0, 0}); err != nil {
		return err
	}
	return p.await(ctx, verbs.EventEstablished)
}

// make makes the queue pair, and posts the receives of the login.
func (p *pair) make() (err error) {
	f := p.f
	if p.login, err = f.loop.Alloc(loginMemory); err != nil {
		return err
	}
	if p.recvs, err = f.loop.Alloc(uint32(f.recvs) * recvStride); err != nil {
		return err
	}
	if p.messages, err = f.loop.Alloc(uint32(f.sends) * messageStride); err != nil {
		return err
	}
	qp, err := p.id.CreateQP(f.pd, verbs.QPConfig{SendCQ: f.cq, RecvCQ: f.cq, MaxSend: f.sends, MaxRecv: f.recvs, MaxSendSGE: 2, MaxRecvSGE: 1})
	if err != nil {
		return err
	}
	p.qp, p.h = qp, qp.Handle()
	for i := range loginRecvs {
		p.listen(i)
	}
	return f.post()
}

// await waits for an event of the connection manager.
func (p *pair) await(ctx context.Context, want verbs.EventType) error {
	for end := time.Now().Add(loginTimeout); ; time.Sleep(lookTime) {
		if err := p.f.hear(); err != nil {
			return err
		}
		switch {
		case p.failed != nil:
			return p.failed
		case p.reached&(1<<want) != 0:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(end):
			return fmt.Errorf("%v: %w", want, syscall.ETIMEDOUT)
		}
	}
}

// hear takes the events that are there.
func (f *fabric) hear() error {
	var ev verbs.Event
	for {
		ok, err := f.events.Next(&ev)
		if err != nil || !ok {
			return err
		}
		if ev.ID != nil {
			f.pairs[ev.ID.Key()].event(&ev)
		}
	}
}

func (p *pair) event(ev *verbs.Event) {
	switch ev.Type {
	case verbs.EventAddrResolved, verbs.EventRouteResolved, verbs.EventEstablished:
		p.reached |= 1 << ev.Type
	case verbs.EventTimewaitExit:
	default:
		if p.failed == nil {
			p.failed = p.cause(ev)
		}
	}
}

// The reason of a rejection that says that nobody listens (IBA 1.4 §12.6.7.2).
const rejectService = 8

// cause is what an event means that ends a connection.
func (p *pair) cause(ev *verbs.Event) error {
	switch ev.Type {
	case verbs.EventRejected:
		if ev.Status == rejectService {
			return fmt.Errorf("%w: nobody listens for iSER there; is it switched on for the portal?", syscall.ECONNREFUSED)
		}
		return fmt.Errorf("%w: the target rejects it, with reason %d", syscall.ECONNREFUSED, ev.Status)
	case verbs.EventDisconnected:
		return fmt.Errorf("%w: it closed connection %d", ErrTarget, p.slot)
	case verbs.EventDeviceRemoval:
		return verbs.ErrGone
	case verbs.EventAddrError:
		if ev.Status == -int(syscall.ENODEV) {
			return fmt.Errorf("%w leads there", verbs.ErrNoDevice)
		}
	}
	if ev.Status < 0 {
		return fmt.Errorf("%v: %w", ev.Type, syscall.Errno(-ev.Status))
	}
	return fmt.Errorf("%v, status %d", ev.Type, ev.Status)
}

// look tells of connections that have ended: no completion does while nothing is
// sent.
func (f *fabric) look() error {
	if err := f.hear(); err != nil {
		return err
	}
	for _, p := range f.pairs {
		if p.failed != nil && p.c != nil && !p.c.ended && !p.leaving {
			return p.failed
		}
	}
	return nil
}

// close gives a connection back.
func (p *pair) close() {
	p.leaving = true
	if p.qp != nil {
		_ = p.qp.Close()
	}
	_ = p.id.Destroy()
}

// The session's side: one PDU at a time.

func (p *pair) offer(w *pdu.TextWriter) {
	w.Add(pdu.KeyRDMAExtensions, pdu.ValueYes)
	w.Add(pdu.KeyInitialR2T, pdu.ValueYes)
	w.AddNumber(pdu.KeyInitiatorRecvData, recvSegment)
	w.AddNumber(pdu.KeyTargetRecvData, 8192)
}

func (p *pair) write(h pdu.BHS, data []byte) error {
	m := p.login.Slice(loginSend, headersLen+uint32(len(data)))
	if m.Len > loginData-loginSend {
		return badOption("a login of %d bytes", len(data))
	}
	b := m.Bytes()
	head := pdu.ISER(b)
	head.Clear()
	copy(b[pdu.ISERLen:], h)
	copy(b[headersLen:], data)
	p.want = 0
	if h.Opcode() == pdu.SCSICommand && h.EDTL() > 0 {
		p.want = h.EDTL()
		head.SetRead(p.f.rkey, uint64(p.login.Addr)+loginData)
	}
	p.queue(m, p.login.Slice(0, 0))
	return p.f.post()
}

// read gives up on a target that takes too long.
func (p *pair) read(h pdu.BHS) ([]byte, error) {
	for end := time.Now().Add(loginTimeout); len(p.inbox) == 0; time.Sleep(lookTime) {
		if _, err := p.f.pump(); err != nil {
			return nil, err
		}
		if err := p.f.hear(); err != nil {
			return nil, err
		}
		if len(p.inbox) > 0 {
			break
		}
		if p.failed != nil {
			return nil, p.failed
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%w: no answer within %v", ErrTarget, loginTimeout)
		}
	}
	b := p.inbox[0]
	p.inbox = p.inbox[1:]
	copy(h, b[pdu.ISERLen:headersLen])
	if h.Opcode() == pdu.SCSIResponse && h.Status() == statusGood {
		n := p.want - short(h, p.want)
		return slices.Clone(p.login.Slice(loginData, n).Bytes()), nil
	}
	return b[headersLen:][:h.DataLen()], nil
}

// keep is apart from its caller because it allocates.
//
//go:noinline
func (p *pair) keep(b []byte) { p.inbox = append(p.inbox, slices.Clone(b)) }
