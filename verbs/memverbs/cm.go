package memverbs

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"spindle/verbs"
)

// Reasons of a rejection (IBA 1.4 §12.6.7.2).
const (
	RejectTimeout        = 4
	RejectInvalidService = 8
	RejectConsumer       = 28
)

// channel is an event channel: what has arrived and was not taken yet.
type channel struct {
	source
	node   *Node
	events []*verbs.Event
	users  int
	closed bool
}

// NewEventChannel makes an event channel.
func (n *Node) NewEventChannel() (verbs.EventChannel, error) {
	if !n.seen {
		return nil, verbs.ErrNoDevice
	}
	c := &channel{source: source{w: n.w}, node: n}
	n.channels = append(n.channels, c)
	n.live.EventChannels++
	return c, nil
}

func (c *channel) Next(ev *verbs.Event) (bool, error) {
	if len(c.events) == 0 {
		return false, nil
	}
	*ev = *c.events[0]
	c.events = c.events[1:]
	if ev.Type == verbs.EventConnectRequest {
		ev.ID.(*id).taken = true
	}
	return true, nil
}

func (c *channel) NewID() (verbs.ID, error) { return c.newID(), nil }

func (c *channel) newID() *id {
	i := &id{ch: c, number: c.node.w.ids}
	i.arrive = event{kind: Manage, id: i}
	c.node.w.ids++
	c.users++
	c.node.ids = append(c.node.ids, i)
	c.node.live.IDs++
	return i
}

func (c *channel) Close() error {
	if c.users > 0 {
		return fmt.Errorf("event channel: %w", verbs.ErrBusy)
	}
	if !c.closed {
		c.closed = true
		c.node.live.EventChannels--
		c.node.channels = slices.DeleteFunc(c.node.channels, func(o *channel) bool { return o == c })
	}
	return nil
}

// message is something on its way to an identifier.
type message struct {
	kind    verbs.EventType
	status  int
	param   verbs.ConnParam
	private []byte
}

// state is how far an identifier has come.
type state uint8

const (
	idle state = iota
	bound
	listening
	addrResolved
	routeResolved
	connecting   // request sent
	requested    // request received
	accepted     // answered, ready-to-use not heard yet
	connected    // both sides know
	disconnected // one of the sides has said so
	destroyed
)

// id is an identifier of the connection manager.
type id struct {
	ch     *channel
	number int
	dev    *device
	qp     *queuePair
	peer   *id
	parent *id // of an incoming connection: the listener
	state  state
	key    uint64

	local, remote netip.AddrPort
	tos, timeout  uint8

	inbox        []message // in order; the first is on its way
	arrive       event
	offered      verbs.ConnParam // of the request, or of ours
	establishing bool            // accepted, ESTABLISHED not delivered
	early        bool            // a message came before it
	taken        bool            // of a request: the owner has seen it
	told         bool            // DISCONNECTED is on its way or delivered
}

func (i *id) Addrs() (local, peer netip.AddrPort) { return i.local, i.remote }
func (i *id) Key() uint64                         { return i.key }
func (i *id) SetKey(k uint64)                     { i.key = k }
func (i *id) SetTOS(tos uint8) error              { i.tos = tos; return nil }
func (i *id) SetAckTimeout(t uint8) error         { i.timeout = t; return nil }

func (i *id) Device() (verbs.Device, error) {
	if i.dev == nil {
		return nil, nil
	}
	return i.dev.use(), nil
}

func (i *id) Port() int {
	if i.dev == nil {
		return 0
	}
	return 1
}

// at is the node's device with an address; nil if there is none.
func (n *Node) at(a netip.Addr) *device {
	for _, d := range n.devices {
		if slices.Contains(d.addrs, a.Unmap()) {
			return d
		}
	}
	return nil
}

func (i *id) Bind(addr netip.AddrPort) error {
	n := i.ch.node
	if i.state != idle {
		return fmt.Errorf("bind %v: %w", addr, verbs.ErrInvalid)
	}
	a := addr.Addr().Unmap()
	var dev *device
	if !a.IsUnspecified() {
		if dev = n.at(a); dev == nil {
			return fmt.Errorf("bind %v: %w", addr, verbs.ErrNoDevice)
		}
	}
	port := addr.Port()
	if port == 0 {
		port = n.ephemeral()
	}
	want := netip.AddrPortFrom(a, port)
	for _, o := range n.ids {
		if o.state >= bound && o.parent == nil && o.local.Port() == port && overlap(o.local.Addr(), a) {
			return fmt.Errorf("bind %v: %w", addr, syscall.EADDRINUSE)
		}
	}
	i.local, i.dev, i.state = want, dev, bound
	return nil
}

// overlap tells whether two bound addresses claim the same connections.
func overlap(a, b netip.Addr) bool {
	return a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified())
}

func (n *Node) ephemeral() uint16 {
	if n.port++; n.port < 32768 {
		n.port = 32768
	}
	return n.port
}

func (i *id) Listen(int) error {
	if i.state != bound {
		return fmt.Errorf("listen: %w", verbs.ErrInvalid)
	}
	i.state = listening
	return nil
}

func (i *id) ResolveAddr(dst netip.AddrPort, _ verbs.Millis) error {
	n := i.ch.node
	if i.state > bound {
		return fmt.Errorf("resolve %v: %w", dst, verbs.ErrInvalid)
	}
	if i.dev == nil { // any device with an address of the family
		for _, d := range n.devices {
			if k := slices.IndexFunc(d.addrs, func(a netip.Addr) bool { return a.Is4() == dst.Addr().Unmap().Is4() }); k >= 0 && i.dev == nil {
				i.dev, i.local = d, netip.AddrPortFrom(d.addrs[k], n.ephemeral())
			}
		}
	}
	if i.dev == nil {
		return fmt.Errorf("resolve %v: %w", dst, verbs.ErrNoDevice)
	}
	i.remote = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	m := message{kind: verbs.EventAddrResolved}
	if n.w.nodeAt(i.remote.Addr()) == nil {
		m = message{kind: verbs.EventAddrError, status: -int(syscall.EHOSTUNREACH)}
	}
	i.post(m)
	n.w.settle()
	return nil
}

// nodeAt is the node with an address; nil if there is none.
func (w *World) nodeAt(a netip.Addr) *Node {
	for _, n := range w.nodes {
		if n.at(a) != nil {
			return n
		}
	}
	return nil
}

func (i *id) ResolveRoute(verbs.Millis) error {
	if i.state != addrResolved {
		return fmt.Errorf("resolve route: %w", verbs.ErrInvalid)
	}
	i.post(message{kind: verbs.EventRouteResolved})
	i.ch.w.settle()
	return nil
}

func (i *id) CreateQP(pd verbs.PD, c verbs.QPConfig) (verbs.QP, error) {
	d, ok := pd.(*domain)
	if !ok || i.qp != nil || i.dev == nil || i.state == destroyed {
		return nil, fmt.Errorf("queue pair: %w", verbs.ErrInvalid)
	}
	q, err := newQueuePair(i, d, c)
	if err != nil {
		return nil, err
	}
	i.qp = q
	return q, nil
}

func (i *id) Connect(p verbs.ConnParam, private []byte) error {
	if i.state != routeResolved || i.qp == nil || len(private) > verbs.MaxPrivateREQ {
		return fmt.Errorf("connect: %w", verbs.ErrInvalid)
	}
	w := i.ch.w
	i.state, i.offered = connecting, p
	node := w.nodeAt(i.remote.Addr())
	switch l := node.listener(i.remote); {
	case node == nil:
		i.post(message{kind: verbs.EventUnreachable, status: -int(syscall.ETIMEDOUT)})
	case l == nil:
		i.post(message{kind: verbs.EventRejected, status: RejectInvalidService})
	case w.chance(w.Faults.LostRequest, &w.Counts.LostRequest, "lost request", i.number):
		i.post(message{kind: verbs.EventUnreachable, status: -int(syscall.ETIMEDOUT)})
	default:
		c := l.ch.newID()
		c.parent, c.peer, c.state, c.dev = l, i, requested, node.at(i.remote.Addr())
		c.local, c.remote, c.tos, c.timeout = i.remote, i.local, l.tos, l.timeout
		i.peer = c
		p.ResponderResources, p.InitiatorDepth = p.InitiatorDepth, p.ResponderResources
		c.offered = p
		padded := make([]byte, verbs.MaxPrivateREQ)
		copy(padded, private)
		c.post(message{kind: verbs.EventConnectRequest, param: p, private: padded})
	}
	w.settle()
	return nil
}

// listener is who listens at addr, a specific address first.
func (n *Node) listener(addr netip.AddrPort) (best *id) {
	if n == nil {
		return nil
	}
	for _, i := range n.ids {
		if i.state == listening && i.local.Port() == addr.Port() && overlap(i.local.Addr(), addr.Addr()) &&
			(best == nil || best.local.Addr().IsUnspecified()) {
			best = i
		}
	}
	return best
}

func (i *id) Accept(p verbs.ConnParam, private []byte) error {
	switch {
	case i.state != requested || i.qp == nil || len(private) > verbs.MaxPrivateREP:
		return fmt.Errorf("accept: %w", verbs.ErrInvalid)
	case int(p.InitiatorDepth) > i.dev.info.MaxInitReadAtoms || int(p.ResponderResources) > i.dev.info.MaxReadAtoms:
		return fmt.Errorf("accept: more RDMA READs than the device has: %w", verbs.ErrInvalid)
	case i.dev.usable() != nil:
		return i.dev.usable()
	case i.peer.state != connecting || i.peer.qp == nil:
		return fmt.Errorf("accept: %w", syscall.ECONNRESET)
	}
	i.state, i.establishing = accepted, true
	i.qp.connect(i.peer.qp, int(p.InitiatorDepth), int(p.ResponderResources), i.offered.RNRRetry)
	if w := i.ch.w; w.chance(w.Faults.LostReply, &w.Counts.LostReply, "lost reply", i.number) {
		// The peer gives up, and says so.
		i.peer.post(message{kind: verbs.EventUnreachable, status: -int(syscall.ETIMEDOUT)})
		i.post(message{kind: verbs.EventRejected})
		w.settle()
		return nil
	}
	i.peer.post(message{kind: verbs.EventConnectResponse, param: p, private: append(make([]byte, 0, verbs.MaxPrivateREP), private...)[:verbs.MaxPrivateREP]})
	i.ch.w.settle()
	return nil
}

func (i *id) Reject(private []byte) error {
	if i.state != requested || len(private) > verbs.MaxPrivateREJ {
		return fmt.Errorf("reject: %w", verbs.ErrInvalid)
	}
	i.state = disconnected
	i.peer.post(message{kind: verbs.EventRejected, status: RejectConsumer, private: slices.Clone(private)})
	i.ch.w.settle()
	return nil
}

// Notify of AsyncCommEst stands for the peer's ready-to-use.
func (i *id) Notify(t verbs.AsyncType) error {
	if t != verbs.AsyncCommEst {
		return fmt.Errorf("notify: %w", verbs.ErrInvalid)
	}
	w := i.ch.w
	if i.establishing && len(i.inbox) > 0 && i.inbox[0].kind == verbs.EventEstablished && i.arrive.at > w.clock.T {
		w.unpost(&i.arrive)
		w.post(&i.arrive, 0)
		w.settle()
	}
	return nil
}

func (i *id) Disconnect() error {
	if i.state < connecting || i.state == destroyed {
		return fmt.Errorf("disconnect: %w", verbs.ErrInvalid)
	}
	if i.qp != nil {
		i.qp.fail()
	}
	i.part()
	i.ch.w.settle()
	return nil
}

// part says the farewell of both sides, once.
func (i *id) part() {
	if i.state != accepted && i.state != connected && i.state != connecting {
		return
	}
	i.state = disconnected
	i.farewell()
	if p := i.peer; p != nil && p.state != destroyed {
		p.farewell()
	}
}

// farewell has the owner told.
func (i *id) farewell() {
	if i.told || i.state == requested {
		return
	}
	i.told = true
	w := i.ch.w
	i.post(message{kind: verbs.EventDisconnected})
	if w.chance(w.Faults.DupEvent, &w.Counts.DupEvent, "event twice", i.number) {
		i.post(message{kind: verbs.EventDisconnected})
	}
	i.post(message{kind: verbs.EventTimewaitExit})
}

func (i *id) Destroy() error {
	if i.qp != nil {
		return fmt.Errorf("identifier: its queue pair exists: %w", verbs.ErrBusy)
	}
	if i.state != destroyed {
		i.vanish(true)
		i.ch.w.settle()
	}
	return nil
}

// vanish is the end of an identifier; tell lets the peer know.
func (i *id) vanish(tell bool) {
	w, n := i.ch.w, i.ch.node
	was := i.state
	if was == destroyed {
		return
	}
	i.state = destroyed
	w.unpost(&i.arrive)
	i.inbox = nil
	i.ch.events = slices.DeleteFunc(i.ch.events, func(e *verbs.Event) bool { return e.ID == verbs.ID(i) })
	n.ids = slices.DeleteFunc(n.ids, func(o *id) bool { return o == i })
	n.live.IDs--
	i.ch.users--
	for _, c := range slices.Clone(n.ids) { // requests that nobody took yet
		if c.parent == i && c.state == requested && !c.taken {
			c.vanish(tell)
		}
	}
	p := i.peer
	if !tell || p == nil || p.state == destroyed {
		return
	}
	switch {
	case was == requested && p.state == connecting:
		p.post(message{kind: verbs.EventRejected, status: RejectConsumer})
	case was == connecting && p.state == requested && p.taken:
		p.post(message{kind: verbs.EventRejected, status: RejectTimeout})
	case was == accepted || was == connected || was == connecting && p.state != requested:
		p.farewell()
	}
}

// post puts a message on its way; those of one identifier keep their order.
func (i *id) post(m message) {
	if i.state == destroyed {
		return
	}
	i.inbox = append(i.inbox, m)
	if len(i.inbox) == 1 {
		i.schedule()
	}
}

func (i *id) schedule() {
	w := i.ch.w
	d := w.upTo(w.cfg.CMLatency)
	switch m := &i.inbox[0]; {
	case m.kind == verbs.EventTimewaitExit:
		d = w.cfg.Timewait
	case m.kind == verbs.EventEstablished:
		if w.chance(w.Faults.EarlyReceive, &w.Counts.EarlyReceive, "early receive", i.number) {
			d = w.late(64 * w.cfg.CMLatency)
		}
	case w.chance(w.Faults.EventDelay, &w.Counts.EventDelay, "event delay", i.number):
		d = w.late(64 * w.cfg.CMLatency)
	}
	w.post(&i.arrive, d)
}

// manage takes the first message of the inbox.
func (i *id) manage() {
	m := i.inbox[0]
	i.inbox = i.inbox[1:]
	if len(i.inbox) > 0 {
		i.schedule()
	}
	switch m.kind {
	case verbs.EventAddrResolved:
		i.state = addrResolved
	case verbs.EventRouteResolved:
		i.state = routeResolved
	case verbs.EventConnectRequest:
		if i.peer.state != connecting || i.parent.state != listening {
			i.refuse()
			return
		}
	case verbs.EventConnectResponse:
		if !i.established(m.param) {
			return
		}
		m.kind = verbs.EventEstablished
		m.param.ResponderResources, m.param.InitiatorDepth = m.param.InitiatorDepth, m.param.ResponderResources
	case verbs.EventEstablished:
		i.establishing = false
		if i.state == accepted {
			i.state = connected
		}
	case verbs.EventRejected, verbs.EventUnreachable:
		i.state = disconnected
	}
	i.announce(&m)
}

// refuse drops a request that nobody waits for any more.
func (i *id) refuse() {
	p := i.peer
	i.vanish(false)
	if p.state == connecting {
		p.post(message{kind: verbs.EventRejected, status: RejectInvalidService})
	}
}

// established ends the initiator's side of the handshake; false when it has
// given up meanwhile.
func (i *id) established(p verbs.ConnParam) bool {
	if i.state != connecting || i.peer.state != accepted || i.qp == nil || i.peer.qp == nil {
		return false
	}
	i.state = connected
	depth := min(i.offered.InitiatorDepth, p.ResponderResources)
	i.qp.connect(i.peer.qp, int(depth), int(i.offered.ResponderResources), p.RNRRetry)
	i.peer.post(message{kind: verbs.EventEstablished, param: i.peer.offered})
	return true
}

// announce hands an event to the owner of the channel.
func (i *id) announce(m *message) {
	e := &verbs.Event{Type: m.kind, ID: i, Status: m.status, Param: m.param}
	if m.kind == verbs.EventConnectRequest {
		e.Listener = i.parent
	}
	if p := i.peer; p != nil && p.qp != nil {
		e.QPNum = p.qp.Num()
	}
	e.SetPrivate(m.private)
	i.ch.events = append(i.ch.events, e)
	i.ch.source.ready("manager")
}
