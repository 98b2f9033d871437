package iser

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"spindle/internal/plant"
	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/verbs"
)

// Reasons to reject a connection request.
var (
	errNoListener = errors.New("no such portal")
	errNoReads    = errors.New("the initiator serves no RDMA READ")
	errTooMany    = errors.New("too many connections")
)

// rejectLogEvery is how often rejections are logged: anybody can ask.
const rejectLogEvery = time.Second

// request takes a connection request: it finds the device, chooses a reactor
// and makes the queue pair. The reactor readies the rest and asks to accept.
func (m *manager) request(ev *verbs.Event) {
	c, err := m.makeConn(ev)
	o := m.ownerOf(ev.Listener).listener
	if err == nil {
		o.why.Store(nil)
		c.signal(sigAdmit)
		return
	}
	_, peer := ev.ID.Addrs()
	if n := m.t.Stats.Rejected.Add(1); m.now >= m.complain {
		m.t.log.Warn("iSER connection rejected", "peer", peer, "why", err, "times", n-m.rejected)
		m.rejected, m.complain = n, m.now.Add(rejectLogEvery)
	}
	if o != nil && (errors.Is(err, errArena) || errors.Is(err, verbs.ErrIWARP)) {
		o.why.Store(&err)
	}
	if err := ev.ID.Reject(nil); err != nil {
		m.t.log.Debug("reject", "peer", peer, "err", err)
	}
	if err := ev.ID.Destroy(); err != nil {
		m.t.log.Error("destroy connection manager identifier", "err", err)
	}
}

func (m *manager) makeConn(ev *verbs.Event) (*Conn, error) {
	l := m.ownerOf(ev.Listener).listener
	switch {
	case l == nil || l.closed || m.stopping != nil:
		return nil, errNoListener
	case m.conns >= MaxConnections:
		return nil, errTooMany
	case ev.Param.InitiatorDepth == 0:
		return nil, errNoReads
	}
	d, err := m.deviceOf(ev.ID)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, verbs.ErrNoDevice
	}
	if err := d.prepare(); err != nil {
		return nil, err
	}
	s := m.leastLoaded()
	cfg := d.queuePair(&m.t.opt)
	q, err := d.queueFor(s, cfg.MaxSend+cfg.MaxRecv)
	if err != nil {
		return nil, err
	}
	cfg.SendCQ, cfg.RecvCQ = q.cq, q.cq
	qp, err := ev.ID.CreateQP(d.pd, cfg)
	if err != nil && cfg.MaxInline > 0 {
		cfg.MaxInline, d.inline = 0, 0 // few devices have none, and none says so
		qp, err = ev.ID.CreateQP(d.pd, cfg)
	}
	if err != nil {
		q.free += cfg.MaxSend + cfg.MaxRecv
		return nil, fmt.Errorf("%s: queue pair: %w", d.name, err)
	}
	// Not every kernel hands the listener's settings down.
	if m.t.opt.TOS != 0 {
		d.check("set type of service", ev.ID.SetTOS(m.t.opt.TOS))
	}
	if m.t.opt.AckTimeout != 0 {
		d.check("set ACK timeout", ev.ID.SetAckTimeout(m.t.opt.AckTimeout))
	}
	c := newConn(m.t, s, l, d, q, ev)
	c.promised = cfg.MaxSend + cfg.MaxRecv
	c.setQP(qp, &cfg)
	d.conns = append(d.conns, c)
	m.conns++
	m.name(ev.ID, owner{conn: c})
	s.r.AddLoad(1)
	return c, nil
}

// queuePair is what a connection's queue pair is asked to have.
func (d *device) queuePair(o *Options) verbs.QPConfig {
	info := d.v.Info()
	recvs := iscsi.MaxQueueDepth + ReserveReceives
	if o.Unsolicited {
		recvs = maxReceives
	}
	return verbs.QPConfig{
		MaxSend: min(o.SendQueue, info.MaxQPWR), MaxRecv: min(recvs, info.MaxQPWR),
		MaxSendSGE: min(sendSGEs, info.MaxSGE), MaxRecvSGE: 1, MaxInline: d.inline,
	}
}

// leastLoaded is the reactor with the least connections, the first of equals.
func (m *manager) leastLoaded() *shard {
	best := m.t.shards[0]
	for _, s := range m.t.shards[1:] {
		if s.r.Load() < best.r.Load() {
			best = s
		}
	}
	return best
}

// accept answers the connection request; the receives are posted.
func (c *Conn) doAccept() error {
	if c.dev.gone {
		return verbs.ErrGone
	}
	flags := [4]byte{pdu.ISERNoZBVA | pdu.ISERNoInvalidate}
	if c.invalidate {
		flags[0] &^= pdu.ISERNoInvalidate
	}
	return c.id.Accept(verbs.ConnParam{
		InitiatorDepth: uint8(c.depth), Retry: 7,
		RNRRetry: 7, // governs what the initiator sends: without end
	}, flags[:])
}

// doDisconnect takes the queue pair to the error state and tells the peer.
func (c *Conn) doDisconnect() error {
	if c.connected {
		if err := c.id.Disconnect(); err != nil {
			c.t.log.Debug("disconnect", "peer", c.peer, "err", err)
		}
	} else if !c.dev.gone {
		if err := c.id.Reject(nil); err != nil {
			c.t.log.Debug("reject", "peer", c.peer, "err", err)
		}
	}
	return c.qp.Fail() // also where Disconnect did not get that far
}

// doDestroy gives back what the control thread made. While the queue pair exists
// nothing is: it may still use the connection's memory.
func (c *Conn) doDestroy() error {
	m, d := c.t.m, c.dev
	if plant.On(plant.LeakedQueuePair) && d.gone {
		return nil
	}
	if err := c.qp.Close(); err != nil {
		return err
	}
	m.destroy(c.id)
	c.q.free += c.promised
	d.conns = slices.DeleteFunc(d.conns, func(o *Conn) bool { return o == c })
	m.conns--
	m.settle(d)
	return nil
}
