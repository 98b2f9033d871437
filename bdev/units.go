package bdev

import (
	"fmt"
	"sync"
)

// units is what the LUNs that a Bdev is know of each other. Each keeps apart what
// its own initiators do, and nothing of what those of another do.
type units struct {
	mu       sync.Mutex
	served   int
	reserved bool // the only one has reservations
	alone    int  // commands under way that need there to be one
	quiet    []func()
	changes  Listeners
}

// Enter counts a LUN that is served; it comes with reservations if reserved. It
// fails where reservations of one LUN would not bind the initiators of another.
func (b *Bdev) Enter(reserved bool) error {
	u := &b.units
	u.mu.Lock()
	if u.reserved || reserved && u.served > 0 {
		u.mu.Unlock()
		return fmt.Errorf("%w: initiators have registered with or reserved a LUN of %s, now or before a restart (--state-dir keeps registrations), and another LUN would not heed that: "+
			"serve %[2]s as that LUN alone, and have an initiator clear the registrations before you add another", ErrClaimed, b.name)
	}
	u.served++
	u.reserved = reserved
	second := u.served == 2
	u.mu.Unlock()
	if second {
		u.changes.Changed()
	}
	return nil
}

// Leave takes back one Enter.
func (b *Bdev) Leave() {
	u := &b.units
	u.mu.Lock()
	u.served--
	u.reserved = false
	last := u.served == 1
	u.mu.Unlock()
	if last {
		u.changes.Changed()
	}
}

// OnAlone has fn called when what Alone tells may have changed, on the thread that
// changed it, until stop is called. fn must not block.
func (b *Bdev) OnAlone(fn func()) (stop func()) { return b.units.changes.OnChange(fn) }

// Reserve tells that a LUN has reservations, or none any more. False: it may not,
// because it is not the only one.
func (b *Bdev) Reserve(on bool) bool {
	u := &b.units
	u.mu.Lock()
	defer u.mu.Unlock()
	if on && u.served > 1 {
		return false
	}
	u.reserved = on
	return true
}

// Alone tells whether no more than one LUN is served.
func (b *Bdev) Alone() bool {
	u := &b.units
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.served <= 1
}

// BeginAlone begins a command that no other LUN may come between; EndAlone ends it.
// False: there is another.
func (b *Bdev) BeginAlone() bool {
	u := &b.units
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.served > 1 {
		return false
	}
	u.alone++
	return true
}

// EndAlone takes back one BeginAlone.
func (b *Bdev) EndAlone() {
	u := &b.units
	u.mu.Lock()
	u.alone--
	quiet := u.takeQuiet()
	u.mu.Unlock()
	for _, fn := range quiet {
		fn()
	}
}

// WhenQuiet has fn called once no command is between BeginAlone and EndAlone: at
// once, or on the thread that ends the last.
func (b *Bdev) WhenQuiet(fn func()) {
	u := &b.units
	u.mu.Lock()
	u.quiet = append(u.quiet, fn)
	quiet := u.takeQuiet()
	u.mu.Unlock()
	for _, fn := range quiet {
		fn()
	}
}

// takeQuiet returns the callbacks that are due. Preconditions: mu is held.
func (u *units) takeQuiet() []func() {
	if u.alone != 0 {
		return nil
	}
	due := u.quiet
	u.quiet = nil
	return due
}
