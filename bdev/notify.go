package bdev

import "sync"

// Notifier is a Device that tells when its Info changes while it is open: when
// it was resized, or failed for good. A Bdev is one, and listens to its module
// if that is one, so a change climbs a stack of devices.
type Notifier interface {
	// OnChange has fn called after each change of Info, on the thread that made
	// it and outside every lock, until stop is called. fn must not block.
	OnChange(fn func()) (stop func())
}

// Listeners is an ordered list of callbacks, for modules to embed as their
// Notifier. The zero value is ready. Safe from any thread.
type Listeners struct {
	mu  sync.Mutex
	fns []*func()
}

// OnChange implements Notifier.
func (l *Listeners) OnChange(fn func()) (stop func()) {
	p := &fn
	l.mu.Lock()
	l.fns = append(l.fns[:len(l.fns):len(l.fns)], p)
	l.mu.Unlock()
	return func() { l.remove(p) }
}

func (l *Listeners) remove(p *func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := make([]*func(), 0, len(l.fns))
	for _, q := range l.fns {
		if q != p {
			kept = append(kept, q)
		}
	}
	l.fns = kept
}

// Changed calls every callback, in the order they came. The list is never
// changed in place, so a callback may subscribe or stop.
func (l *Listeners) Changed() {
	l.mu.Lock()
	fns := l.fns
	l.mu.Unlock()
	for _, fn := range fns {
		(*fn)()
	}
}
