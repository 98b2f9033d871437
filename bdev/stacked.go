package bdev

// Stacked is what devices on top of another share, for their modules to embed:
// an Info that follows the base's. The base belongs to whoever made it and is
// not closed with the device.
type Stacked struct {
	LiveInfo
	base Device
	stop func()
}

// Stack puts the device on base. adapt turns a copy of the base's Info into the
// device's own, now and after each change of the base.
func (s *Stacked) Stack(base Device, adapt func(*Info)) error {
	s.base = base
	follow := func(i *Info) {
		*i = *base.Info()
		adapt(i)
	}
	if n, ok := base.(Notifier); ok {
		// The base's Info was valid for it, and adapt changes no geometry.
		s.stop = n.OnChange(func() { _ = s.Update(follow) })
	}
	return s.Update(follow)
}

// Usage implements Meter: the base knows, where Info.Metered says that it answers.
func (s *Stacked) Usage() (Usage, error) { return usageOf(s.base) }

// usageOf asks a device how much it uses.
func usageOf(d Device) (Usage, error) {
	m, ok := d.(Meter)
	if !ok {
		return Usage{}, ErrUnmetered
	}
	return m.Usage()
}

// Base is the device below.
func (s *Stacked) Base() Device { return s.base }

// Close implements Device.
func (s *Stacked) Close() error {
	if s.stop != nil {
		s.stop()
	}
	return nil
}
