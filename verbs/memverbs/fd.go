package memverbs

import "spindle/verbs"

// Descriptors makes readiness descriptors, as eventfd(2) does: a simulated
// kernel whose rings poll them.
type Descriptors interface {
	NewEvent() int
	Signal(fd int) error
	Drain(fd int) bool
	CloseFD(fd int) error
}

// WithDescriptors is p with sources that are descriptors of k, as the real
// libraries have them, for rings to poll.
func WithDescriptors(p verbs.Provider, k Descriptors) verbs.Provider {
	return &fdProvider{Provider: p, k: k, devices: map[uint32]*fdDevice{}}
}

type fdProvider struct {
	verbs.Provider
	k       Descriptors
	devices map[uint32]*fdDevice
}

// descriptor is the readable side of an in-process source.
type descriptor struct {
	k  Descriptors
	fd int
}

func newDescriptor(k Descriptors, s verbs.Source) descriptor {
	d := descriptor{k, k.NewEvent()}
	s.OnReady(func() { _ = k.Signal(d.fd) })
	return d
}

func (d *descriptor) FD() int        { return d.fd }
func (d *descriptor) OnReady(func()) {}
func (d *descriptor) close()         { _ = d.k.CloseFD(d.fd) }
func (d *descriptor) empty()         { d.k.Drain(d.fd) }

func (p *fdProvider) Devices() ([]verbs.Device, error) {
	list, err := p.Provider.Devices()
	for i, v := range list {
		d := p.devices[v.Info().Index]
		if d == nil {
			d = &fdDevice{Device: v, descriptor: newDescriptor(p.k, v)}
			p.devices[v.Info().Index] = d
		}
		list[i] = d
	}
	return list, err
}

func (p *fdProvider) NewEventChannel() (verbs.EventChannel, error) {
	c, err := p.Provider.NewEventChannel()
	if err != nil {
		return nil, err
	}
	return &fdChannel{EventChannel: c, descriptor: newDescriptor(p.k, c)}, nil
}

type fdChannel struct {
	verbs.EventChannel
	descriptor
}

func (c *fdChannel) FD() int             { return c.descriptor.FD() }
func (c *fdChannel) OnReady(wake func()) {}

func (c *fdChannel) Next(ev *verbs.Event) (bool, error) {
	ok, err := c.EventChannel.Next(ev)
	if !ok {
		c.empty()
	}
	return ok, err
}

func (c *fdChannel) Close() error {
	c.close()
	return c.EventChannel.Close()
}

type fdDevice struct {
	verbs.Device
	descriptor
}

func (d *fdDevice) FD() int             { return d.descriptor.FD() }
func (d *fdDevice) OnReady(wake func()) {}

func (d *fdDevice) NextAsync(ev *verbs.AsyncEvent) bool {
	ok := d.Device.NextAsync(ev)
	if !ok {
		d.empty()
	}
	return ok
}

func (d *fdDevice) NewCompChannel() (verbs.CompChannel, error) {
	c, err := d.Device.NewCompChannel()
	if err != nil {
		return nil, err
	}
	return &fdCompChannel{CompChannel: c, descriptor: newDescriptor(d.k, c)}, nil
}

func (d *fdDevice) NewCQ(n int, ch verbs.CompChannel) (verbs.CQ, error) {
	if c, ok := ch.(*fdCompChannel); ok {
		ch = c.CompChannel
	}
	return d.Device.NewCQ(n, ch)
}

func (d *fdDevice) Close() error {
	d.close()
	return d.Device.Close()
}

type fdCompChannel struct {
	verbs.CompChannel
	descriptor
}

func (c *fdCompChannel) FD() int             { return c.descriptor.FD() }
func (c *fdCompChannel) OnReady(wake func()) {}

func (c *fdCompChannel) Drain() int {
	c.empty()
	return c.CompChannel.Drain()
}

func (c *fdCompChannel) Close() error {
	c.close()
	return c.CompChannel.Close()
}
