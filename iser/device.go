package iser

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"spindle/internal/plant"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/verbs"
)

// device is an RDMA device that is there. Owner: the control thread, but for
// keys.
type device struct {
	m     *manager
	v     verbs.Device
	name  string
	watch *watch // of asynchronous events; the home reactor's

	pd       verbs.PD
	mrs      []registration
	queues   [][]*queue // by reactor
	conns    []*Conn
	inline   int
	gone     bool // removed, or to be given back
	settling bool
	left     int // queues and the watch that have not stopped yet
	closed   bool

	// keys are the local keys of the registered regions, by region index: one
	// immutable list, replaced whole. Any thread may read.
	keys  atomic.Pointer[[]key]
	asked atomic.Bool // a reactor asked for a registration

	errors, rnr atomic.Uint64 // completions that ended a connection; of those, receiver not ready
}

// key is a region's local key with keyValid; keyNone asks for a registration,
// keyCopy says that there can be none.
type key uint64

const (
	keyNone  key = 0
	keyCopy  key = 1 << 32
	keyValid key = 1 << 33
)

type registration struct {
	region *mem.Region
	mr     verbs.MR
}

// queue is a completion queue of a device on a reactor.
type queue struct {
	d  *device
	s  *shard
	cq verbs.CQ
	ch verbs.CompChannel
	// The control thread's.
	free int  // entries not promised to a queue pair
	bad  bool // it failed: nothing more comes out of it

	watch *watch // the reactor's
}

// scan looks for devices that are new.
func (m *manager) scan() {
	p := m.t.opt.Provider
	if p == nil || m.stopping != nil {
		return
	}
	list, err := p.Devices()
	if err != nil {
		m.t.log.Debug("RDMA devices", "err", err)
	}
	for _, v := range list {
		if m.find(v) != nil {
			continue
		}
		d := &device{m: m, v: v, name: v.Info().Name, queues: make([][]*queue, len(m.t.shards))}
		d.keys.Store(&[]key{})
		d.watch = newWatch(m.home, v, m.kick)
		m.devices = append(m.devices, d)
		m.t.Stats.Devices.Add(1)
		m.after = append(m.after, d.watch.start)
		m.t.log.Info("RDMA device", "device", d.name, "transport", v.Info().Transport.String())
	}
}

// find is the device of a verbs.Device; nil for none.
func (m *manager) find(v verbs.Device) *device {
	if v == nil {
		return nil
	}
	for _, d := range m.devices {
		if same(d.v, v) {
			return d
		}
	}
	return nil
}

// same tells whether two values are of one device. Libraries before rdma-core 33
// give it no number.
func same(a, b verbs.Device) bool {
	if i := a.Info().Index; i != 0 {
		return i == b.Info().Index
	}
	return a == b
}

// conn is the connection of a queue pair.
func (d *device) conn(h verbs.QPHandle) *Conn {
	for _, c := range d.conns {
		if c.qp.Handle() == h {
			return c
		}
	}
	return nil
}

// prepare readies a device for its first connection: a protection domain, and
// every arena registered. Other regions are when data in them is first sent.
func (d *device) prepare() error {
	info := d.v.Info()
	switch {
	case d.gone:
		return verbs.ErrGone
	case d.pd != nil:
		return nil
	case info.Transport == verbs.TransportIWARP:
		return verbs.ErrIWARP
	}
	pd, err := d.v.NewPD()
	if err != nil {
		return fmt.Errorf("%s: protection domain: %w", d.name, err)
	}
	d.pd, d.inline = pd, wantInline
	for _, s := range d.m.t.shards {
		if err := d.register(s.r.Arena.Region()); err != nil {
			d.unprepare()
			return fmt.Errorf("%s: %w: %w", d.name, errArena, err)
		}
	}
	return nil
}

var errArena = errors.New("data buffers could not be registered")

// unprepare undoes prepare.
func (d *device) unprepare() {
	for i, r := range d.mrs {
		if i > 0 || !plant.On(plant.LeakedRegistration) {
			d.check("deregister memory", r.mr.Close())
		}
	}
	d.mrs = nil
	d.keys.Store(&[]key{})
	if d.pd != nil {
		d.check("close protection domain", d.pd.Close())
		d.pd = nil
	}
}

func (d *device) check(what string, err error) {
	if err != nil {
		d.m.t.log.Error(what, "device", d.name, "err", err)
	}
}

func (d *device) key(region uint32) key {
	list := *d.keys.Load()
	if uint64(region) >= uint64(len(list)) {
		return keyNone
	}
	return list[region]
}

// register registers a region: LOCAL_WRITE, no remote access. One that cannot be
// is marked so.
func (d *device) register(r *mem.Region) error {
	if r == nil || d.pd == nil || d.gone || d.key(r.Index) != keyNone {
		return nil
	}
	keys := slices.Clone(*d.keys.Load())
	for uint32(len(keys)) <= r.Index {
		keys = append(keys, keyNone)
	}
	mr, err := d.pd.Register(r)
	if err != nil {
		keys[r.Index] = keyCopy
	} else {
		keys[r.Index] = keyValid | key(mr.LKey())
		d.mrs = append(d.mrs, registration{r, mr})
	}
	d.keys.Store(&keys)
	return err
}

// sweep drops registrations of regions that were deleted: they hold its pages.
func (d *device) sweep() {
	live := d.m.t.opt.Space.Regions()
	keys := slices.Clone(*d.keys.Load())
	d.mrs = slices.DeleteFunc(d.mrs, func(r registration) bool {
		if slices.Contains(live, r.region) {
			return false
		}
		d.check("deregister memory", r.mr.Close())
		keys[r.region.Index] = keyNone
		return true
	})
	d.keys.Store(&keys)
}

// queueFor finds a completion queue of s with n entries to promise, or makes one.
func (d *device) queueFor(s *shard, n int) (*queue, error) {
	for _, q := range d.queues[s.r.ID] {
		if q.free >= n && !q.bad {
			q.free -= n
			return q, nil
		}
	}
	ch, err := d.v.NewCompChannel()
	if err != nil {
		return nil, fmt.Errorf("%s: completion channel: %w", d.name, err)
	}
	cq, err := d.v.NewCQ(min(queueEntries, d.v.Info().MaxCQE), ch)
	if err != nil {
		_ = ch.Close()
		return nil, fmt.Errorf("%s: completion queue: %w", d.name, err)
	}
	if cq.Size() < n {
		_, _ = cq.Close(), ch.Close()
		return nil, fmt.Errorf("%s: a completion queue has %d entries, a connection needs %d: %w", d.name, cq.Size(), n, verbs.ErrInvalid)
	}
	q := &queue{d: d, s: s, cq: cq, ch: ch, free: cq.Size() - n}
	q.watch = newWatch(s.r, ch, q.ready)
	d.queues[s.r.ID] = append(d.queues[s.r.ID], q)
	s.r.Post(&reactor.Msg{Run: func(*reactor.Reactor) { s.addQueue(q) }})
	return q, nil
}

// failQueue ends the connections of a completion queue that failed. It is given
// back with the device: no connection gets it any more.
func (d *device) failQueue(h verbs.CQHandle) {
	for _, list := range d.queues {
		for _, q := range list {
			q.bad = q.bad || q.cq.Handle() == h
		}
	}
	for _, c := range d.conns {
		if c.q.bad {
			c.signal(sigFatal)
		}
	}
}

// ready takes the announcements; the turn's poll takes what they announce.
func (q *queue) ready() {
	q.ch.Drain()
	q.watch.arm()
}

// lose ends everything on a device that was removed: its driver waits for us.
func (m *manager) lose(d *device) {
	if d == nil || d.gone {
		return
	}
	d.gone = true
	m.t.Stats.Removals.Add(1)
	m.t.log.Warn("RDMA device removed", "device", d.name, "connections", len(d.conns))
	for _, l := range m.listeners {
		if l.dev == d {
			m.unbind(l, verbs.ErrGone)
		}
	}
	for _, c := range d.conns {
		c.signal(sigRemoved)
	}
	m.settle(d)
}

// settle gives a device that is gone back once no connection is left: first
// its queues leave their reactors, then all is closed.
func (m *manager) settle(d *device) {
	if !d.gone || d.settling || len(d.conns) > 0 {
		return
	}
	d.settling = true
	d.left = 1
	stopped := func() {
		m.submit(func() {
			if d.left--; d.left == 0 {
				m.release(d)
			}
		}, nil)
	}
	for _, list := range d.queues {
		for _, q := range list {
			d.left++
			q.s.r.Post(&reactor.Msg{Run: func(*reactor.Reactor) {
				q.s.dropQueue(q, func() { m.home.Post(&reactor.Msg{Run: func(*reactor.Reactor) { stopped() }}) })
			}})
		}
	}
	m.after = append(m.after, func() { d.watch.stop(stopped) })
}

// release closes what a device has, and the device.
func (m *manager) release(d *device) {
	for _, list := range d.queues {
		for _, q := range list {
			d.check("close completion queue", q.cq.Close())
			d.check("close completion channel", q.ch.Close())
		}
	}
	d.queues = nil
	d.unprepare()
	d.check("close device", d.v.Close())
	d.closed = true
	m.devices = slices.DeleteFunc(m.devices, func(o *device) bool { return o == d })
	m.t.Stats.Devices.Add(-1)
	m.t.log.Info("RDMA device released", "device", d.name)
	m.stopped()
}
