package bdev

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"spindle/reactor"
)

var (
	// ErrClaimed is returned when someone's claim excludes what was asked.
	ErrClaimed = errors.New("bdev: claimed")
	// ErrGone is returned for opening a bdev that is being removed.
	ErrGone = errors.New("bdev: being removed")
	// ErrBusy is returned for closing a bdev that is open.
	ErrBusy = errors.New("bdev: channels are open")
	// ErrUnmetered is returned for asking a device that is no Meter.
	ErrUnmetered = errors.New("bdev: device does not tell how much it uses")
)

// Bits of Bdev.state: anything but 0 takes Submit off its short path.
const (
	stateGone uint32 = 1 << iota
	stateQoS
)

// Bdev is a named device as its users open it: a Device around a module's
// Device that adds identity, claims, statistics, histograms and QoS, and checks
// LBA ranges so that modules may trust them.
//
// All methods are safe from any thread but Open and what it returns.
type Bdev struct {
	name    string
	uuid    UUID
	dev     Device
	stop    func() // ends the subscription to dev
	changes Listeners

	blocks atomic.Uint64 // of Info, for the range check
	state  atomic.Uint32
	epoch  atomic.Uint32
	qos    qos
	units  units

	mu       sync.Mutex // guards what follows
	aliases  []string
	claim    string // who writes exclusively; "" is nobody
	shares   int
	channels []*channel
	closed   Stats // sums of the channels that are closed
	base     Stats // what was counted when the statistics were reset
	hist     *Histogram
	limits   Limits
	removal  Listeners
	drained  func()
}

// New names dev. A zero uuid is replaced by NameUUID(name).
func New(name string, uuid UUID, dev Device) *Bdev {
	if uuid.IsZero() {
		uuid = NameUUID(name)
	}
	b := &Bdev{name: name, uuid: uuid, dev: dev, closed: emptyStats()}
	b.blocks.Store(dev.Info().Blocks)
	if n, ok := dev.(Notifier); ok {
		b.stop = n.OnChange(b.changed)
	}
	return b
}

// changed follows a change of the module's Info.
func (b *Bdev) changed() {
	b.blocks.Store(b.dev.Info().Blocks)
	b.changes.Changed()
}

// Name is the name users know the bdev by.
func (b *Bdev) Name() string { return b.name }

// UUID is the bdev's identity over restarts.
func (b *Bdev) UUID() UUID { return b.uuid }

// Module is the device inside, for its module's own settings.
func (b *Bdev) Module() Device { return b.dev }

// Info is the module's snapshot.
func (b *Bdev) Info() *Info { return b.dev.Info() }

// Usage implements Meter.
func (b *Bdev) Usage() (Usage, error) { return usageOf(b.dev) }

// Aliases are other names of the bdev.
func (b *Bdev) Aliases() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.aliases)
}

// AddAlias gives the bdev another name.
func (b *Bdev) AddAlias(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.aliases, name) {
		b.aliases = append(b.aliases, name)
	}
}

// OnChange implements Notifier: fn is called after every resize or failure.
func (b *Bdev) OnChange(fn func()) (stop func()) { return b.changes.OnChange(fn) }

// OnRemove has fn called when the bdev is removed, on the thread that removes
// it, until stop is called. fn must not block.
func (b *Bdev) OnRemove(fn func()) (stop func()) { return b.removal.OnChange(fn) }

// Claim makes by the only writer: a stacked device claims its base. It fails
// while someone else has claimed the bdev or LUNs share it.
func (b *Bdev) Claim(by string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.claim != "":
		return fmt.Errorf("%w: %s by %s", ErrClaimed, b.name, b.claim)
	case b.shares > 0:
		return fmt.Errorf("%w: %s is shared by %d users", ErrClaimed, b.name, b.shares)
	}
	b.claim = by
	return nil
}

// Unclaim ends by's claim; it does nothing when by has none.
func (b *Bdev) Unclaim(by string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.claim == by {
		b.claim = ""
	}
}

// Share counts a user that writes beside others (a LUN). It fails while the
// bdev is claimed.
func (b *Bdev) Share() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.claim != "" {
		return fmt.Errorf("%w: %s by %s", ErrClaimed, b.name, b.claim)
	}
	b.shares++
	return nil
}

// Unshare takes back one Share.
func (b *Bdev) Unshare() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shares--
}

// Claimed tells who has claimed the bdev ("" is nobody) and how many share it.
func (b *Bdev) Claimed() (by string, shares int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.claim, b.shares
}

// Open makes a channel for r.
// Preconditions: runs on r.
func (b *Bdev) Open(r *reactor.Reactor) (Channel, error) {
	if b.Removed() {
		return nil, ErrGone
	}
	ch, err := b.dev.Open(r)
	if err != nil {
		return nil, fmt.Errorf("bdev %s: %w", b.name, err)
	}
	c := newChannel(b, r, ch)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hist != nil {
		c.hist.Store(newTally(b.hist.HistogramOptions))
	}
	b.channels = append(b.channels, c)
	b.number()
	return c, nil
}

// number gives every channel its place. Preconditions: mu is held.
func (b *Bdev) number() {
	for i, c := range b.channels {
		c.place.Store(int32(i))
	}
	b.qos.sharers.Store(int32(len(b.channels)))
	b.qos.served.Store(0)
}

// closing folds a channel's counts into the bdev's. The last channel of a
// removed bdev ends its drain.
func (b *Bdev) closing(c *channel) {
	b.mu.Lock()
	b.channels = slices.DeleteFunc(b.channels, func(o *channel) bool { return o == c })
	b.number()
	c.counters.addTo(&b.closed)
	if b.hist != nil {
		c.hist.Load().addTo(b.hist.Buckets)
	}
	drained := b.takeDrained()
	b.mu.Unlock()
	if drained != nil {
		drained()
	}
}

// takeDrained returns the drain callback once, when it is due.
// Preconditions: mu is held.
func (b *Bdev) takeDrained() func() {
	if len(b.channels) != 0 {
		return nil
	}
	fn := b.drained
	b.drained = nil
	return fn
}

// OpenChannels is the number of channels that are open.
func (b *Bdev) OpenChannels() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.channels)
}

// Remove starts the end of the bdev: new submissions end with Gone, what is in
// flight drains, and drained is called once no channel is open, on the thread
// that closed the last one (at once when there is none). Later calls do nothing.
func (b *Bdev) Remove(drained func()) {
	if b.state.Or(stateGone)&stateGone != 0 {
		return
	}
	b.mu.Lock()
	b.drained = drained
	due := b.takeDrained()
	b.mu.Unlock()
	b.removal.Changed()
	if due != nil {
		due()
	}
}

// Removed tells whether Remove was called.
func (b *Bdev) Removed() bool { return b.state.Load()&stateGone != 0 }

// Close frees the module's device.
// Preconditions: every channel is closed; may block.
func (b *Bdev) Close() error {
	if b.OpenChannels() != 0 {
		return fmt.Errorf("%w: %s", ErrBusy, b.name)
	}
	b.state.Or(stateGone)
	if b.stop != nil {
		b.stop()
	}
	return b.dev.Close()
}
