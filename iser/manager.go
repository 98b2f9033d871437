package iser

import (
	"errors"
	"slices"
	"time"

	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/verbs"
)

// manager is the control thread: every call of verbs that may block. It works
// in steps, one at a time, each of which does the jobs handed in, takes every
// event there is, and ends. The home reactor starts a step when there is a job
// or one of the sources is ready.
type manager struct {
	t    *Transport
	home *reactor.Reactor

	// The home reactor's.
	queue   []job // for the next step
	running bool
	again   bool
	ended   reactor.Msg
	timer   reactor.Timer
	events  *watch // of the event channel

	// The step's; the home reactor's between steps.
	jobs      []job
	after     []func() // for the home reactor when the step has ended
	ec        verbs.EventChannel
	devices   []*device
	listeners []*listener
	conns     int
	owners    map[uint64]owner // of connection manager identifiers, by their key
	lastKey   uint64
	more      bool // events were left for the next step
	now       clock.Time
	rejected  uint64     // requests, when that was logged last
	complain  clock.Time // when it may be logged again
	stopping  func()
	ev        verbs.Event
	async     verbs.AsyncEvent
}

// job is work for a step; done runs on the home reactor afterwards.
type job struct{ do, done func() }

// owner is whose identifier it is: one of the two.
type owner struct {
	listener *listener
	conn     *Conn
}

func newManager(t *Transport, home *reactor.Reactor) *manager {
	m := &manager{t: t, home: home, owners: map[uint64]owner{}}
	m.ended.Run = m.stepEnded
	m.timer.Fire = func(clock.Time) { m.submit(m.lookAround, nil) }
	return m
}

// submit has do done in a step.
// Preconditions: runs on the home reactor.
func (m *manager) submit(do, done func()) {
	m.queue = append(m.queue, job{do, done})
	m.kick()
}

// post is submit from any thread.
func (m *manager) post(do func()) {
	m.home.Post(&reactor.Msg{Run: func(*reactor.Reactor) { m.submit(do, nil) }})
}

// await is submit from control code; it returns when the step has ended.
func (m *manager) await(c reactor.Caller, do func()) {
	c.Await(m.home, func(done func()) { m.submit(do, done) })
}

// kick starts a step, or has one follow the one that runs.
func (m *manager) kick() {
	if m.running {
		m.again = true
		return
	}
	m.running, m.again = true, false
	m.now = m.home.Now()
	m.jobs, m.queue = m.queue, nil
	m.t.opt.Offload.Go(m.step, m.home, &m.ended)
}

// stepEnded goes on, on the home reactor.
func (m *manager) stepEnded(*reactor.Reactor) {
	m.running = false
	jobs, after := m.jobs, m.after
	m.jobs, m.after = nil, nil
	for _, fn := range after {
		fn()
	}
	for _, j := range jobs {
		if j.done != nil {
			j.done()
		}
	}
	if m.running { // one of those has started the next
		return
	}
	if m.events != nil {
		m.events.arm()
	}
	for _, d := range m.devices {
		d.watch.arm()
	}
	m.schedule()
	if m.again || m.more || len(m.queue) > 0 {
		m.kick()
	}
}

// schedule arms the timer for what no event announces.
func (m *manager) schedule() {
	switch {
	case m.stopping != nil:
		m.home.Disarm(&m.timer)
	case slices.ContainsFunc(m.listeners, func(l *listener) bool { return l.id == nil }):
		m.lookWithin(retryEvery)
	case len(m.devices) > 0:
		m.lookWithin(sweepEvery)
	default:
		m.home.Disarm(&m.timer)
	}
}

// lookWithin has the look around come in d at the latest. Steps that follow one
// another, which peers can have us make, do not put it off.
func (m *manager) lookWithin(d time.Duration) {
	at := m.home.Now().Add(d)
	if !m.timer.Armed() || m.timer.Due() > at {
		m.home.Arm(&m.timer, at)
	}
}

// maxEvents bounds the events of a source that a step takes. What connections ask
// for is done between steps: peers that ask for connections faster than they are
// made, or refused, do not hold it up.
const maxEvents = 32

// step is one step of the control thread.
func (m *manager) step() {
	for _, j := range m.jobs {
		j.do()
	}
	m.more = false
	m.takeEvents()
	m.takeAsync()
}

// lookAround does what no event announces: listeners try again, registrations
// of deleted regions are dropped.
func (m *manager) lookAround() {
	if len(m.listeners) > 0 {
		m.scan()
	}
	for _, l := range m.listeners {
		if l.id == nil {
			m.listen(l)
		}
	}
	for _, d := range m.devices {
		d.sweep()
	}
}

// open makes the event channel, once there is a device.
func (m *manager) open() error {
	p := m.t.opt.Provider
	switch {
	case p == nil && m.t.opt.Missing != nil:
		return m.t.opt.Missing
	case p == nil:
		return verbs.ErrNotBuilt
	case m.ec != nil:
		return nil
	}
	ec, err := p.NewEventChannel()
	if err != nil {
		return err
	}
	m.ec = ec
	m.after = append(m.after, func() {
		m.events = newWatch(m.home, ec, m.kick)
		m.events.start()
	})
	return nil
}

// name gives an identifier a key and an owner.
func (m *manager) name(id verbs.ID, o owner) {
	m.lastKey++
	id.SetKey(m.lastKey)
	m.owners[m.lastKey] = o
}

// ownerOf is whose identifier it is: nobody's when it is not known any more.
func (m *manager) ownerOf(id verbs.ID) owner {
	if id == nil {
		return owner{}
	}
	return m.owners[id.Key()]
}

// destroy gives an identifier back. Its queue pair is closed.
func (m *manager) destroy(id verbs.ID) {
	delete(m.owners, id.Key())
	if err := id.Destroy(); err != nil {
		m.t.log.Error("destroy connection manager identifier", "err", err)
	}
}

// --- listeners

func (m *manager) addListener(l *listener) {
	m.listeners = append(m.listeners, l)
	m.scan()
	m.listen(l)
}

// listen tries to serve a portal; what is in the way is told by Waiting.
func (m *manager) listen(l *listener) {
	err := m.bind(l)
	if err == nil {
		l.why.Store(nil)
		m.t.log.Info("iSER portal", "addr", l.addr)
		return
	}
	if old := l.Waiting(); old == nil || old.Error() != err.Error() {
		m.t.log.Warn("iSER portal waits", "addr", l.addr, "why", err)
	}
	l.why.Store(&err)
}

func (m *manager) bind(l *listener) error {
	if err := m.open(); err != nil {
		return err
	}
	if len(m.devices) == 0 {
		return verbs.ErrNoDevice
	}
	id, err := m.ec.NewID()
	if err != nil {
		return err
	}
	m.name(id, owner{listener: l})
	err = id.Bind(l.addr)
	if err == nil && m.t.opt.TOS != 0 {
		err = id.SetTOS(m.t.opt.TOS)
	}
	if err == nil && m.t.opt.AckTimeout != 0 {
		err = id.SetAckTimeout(m.t.opt.AckTimeout)
	}
	var dev *device
	if err == nil {
		dev, err = m.deviceOf(id)
	}
	if err == nil {
		err = id.Listen(listenBacklog)
	}
	if err != nil {
		m.destroy(id)
		return err
	}
	l.id, l.dev = id, dev
	return nil
}

// deviceOf is the device that an identifier is bound to, which may have come since
// the last look; nil for a wildcard address.
func (m *manager) deviceOf(id verbs.ID) (*device, error) {
	v, err := id.Device()
	if err != nil || v == nil {
		return nil, err
	}
	if m.find(v) == nil {
		m.scan()
	}
	if d := m.find(v); d != nil {
		return d, nil
	}
	return nil, verbs.ErrNoDevice
}

// listenBacklog is how many connection requests may wait for the control thread.
const listenBacklog = 256

// unbind stops listening; why is what Waiting tells from then on.
func (m *manager) unbind(l *listener, why error) {
	if l.id == nil {
		return
	}
	m.destroy(l.id)
	l.id, l.dev = nil, nil
	l.why.Store(&why)
}

func (m *manager) removeListener(l *listener) {
	l.closed = true
	m.unbind(l, errClosed)
	m.listeners = slices.DeleteFunc(m.listeners, func(o *listener) bool { return o == l })
}

var errClosed = errors.New("portal closed")

// --- events

// takeEvents handles what the connection manager has to say.
func (m *manager) takeEvents() {
	for n := 0; m.ec != nil; n++ {
		if n == maxEvents {
			m.more = true
			return
		}
		ok, err := m.ec.Next(&m.ev)
		if err != nil {
			m.t.log.Error("connection manager events", "err", err)
			return
		}
		if !ok {
			return
		}
		m.event(&m.ev)
	}
}

func (m *manager) event(ev *verbs.Event) {
	if ev.Type == verbs.EventConnectRequest {
		m.request(ev)
		return
	}
	o := m.ownerOf(ev.ID)
	switch {
	case o.conn != nil:
		m.connEvent(o.conn, ev)
	case o.listener != nil:
		m.listenerEvent(o.listener, ev)
	}
}

func (m *manager) connEvent(c *Conn, ev *verbs.Event) {
	switch ev.Type {
	case verbs.EventEstablished:
		c.signal(sigEstablished)
	case verbs.EventDeviceRemoval:
		m.lose(c.dev)
	case verbs.EventDisconnected:
		c.signal(sigDisconnected)
	case verbs.EventAddrChange:
		c.signal(sigAddrChange)
	case verbs.EventConnectError, verbs.EventUnreachable, verbs.EventRejected:
		c.signal(sigRefused)
	}
}

func (m *manager) listenerEvent(l *listener, ev *verbs.Event) {
	switch ev.Type {
	case verbs.EventDeviceRemoval:
		if l.dev != nil {
			m.lose(l.dev)
		}
		m.unbind(l, verbs.ErrGone)
	case verbs.EventAddrChange:
		m.unbind(l, errAddrChange)
		m.listen(l)
	}
}

var errAddrChange = errors.New("address of the RDMA device changed")

// takeAsync handles what the devices have to say.
func (m *manager) takeAsync() {
	for _, d := range slices.Clone(m.devices) {
		for n := 0; !d.closed && d.v.NextAsync(&m.async); n++ {
			m.asyncEvent(d, &m.async)
			if n == maxEvents {
				m.more = true
				break
			}
		}
	}
}

func (m *manager) asyncEvent(d *device, ev *verbs.AsyncEvent) {
	log := m.t.log.Info
	switch ev.Type {
	case verbs.AsyncDeviceFatal:
		log = m.t.log.Warn
		m.lose(d)
	case verbs.AsyncCommEst:
		// A message overtook the peer's ready-to-use: hand that in later.
		if c := d.conn(ev.QP); c != nil {
			if err := c.id.Notify(ev.Type); err != nil {
				m.t.log.Debug("notify connection manager", "err", err)
			}
		}
		log = m.t.log.Debug
	case verbs.AsyncQPFatal, verbs.AsyncQPRequestError, verbs.AsyncQPAccessError:
		if c := d.conn(ev.QP); c != nil {
			c.signal(sigFatal)
		}
	case verbs.AsyncCQError:
		d.failQueue(ev.CQ)
		log = m.t.log.Error
	case verbs.AsyncLastWQE, verbs.AsyncSQDrained:
		log = m.t.log.Debug
	}
	log("RDMA device event", "device", d.name, "event", ev.Type.String(), "port", ev.Port)
}

// --- the end

// stop closes everything that is left and then calls done.
// Preconditions: runs on the home reactor.
func (m *manager) stop(done func()) {
	m.submit(func() {
		m.stopping = done
		for _, l := range slices.Clone(m.listeners) {
			m.removeListener(l)
		}
		for _, d := range m.devices {
			d.gone = true
			m.settle(d)
		}
		m.stopped()
	}, nil)
}

// stopped ends the stop once no device is left.
func (m *manager) stopped() {
	if m.stopping == nil || len(m.devices) > 0 {
		return
	}
	done := m.stopping
	ec := m.ec
	m.ec = nil
	if ec == nil {
		m.after = append(m.after, done)
		return
	}
	m.after = append(m.after, func() {
		m.home.Disarm(&m.timer)
		w := m.events
		m.events = nil
		w.stop(func() {
			m.submit(func() {
				if err := ec.Close(); err != nil {
					m.t.log.Error("close event channel", "err", err)
				}
			}, done)
		})
	})
}
