package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"spindle/bdev"
)

// MaxNameLen bounds a bdev's name, in bytes.
const MaxNameLen = 255

// Bdevs lists the bdevs in the order they were made.
func (c *Control) Bdevs() []*Bdev {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.bdevs)
}

// Bdev finds a bdev by its name, an alias or its UUID; no two answer to the same.
func (c *Control) Bdev(name string) (*Bdev, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.find(name)
}

// AwaitBdev is Bdev for one that may not exist yet: it waits until ctx ends.
func (c *Control) AwaitBdev(ctx context.Context, name string) (*Bdev, error) {
	for {
		c.mu.RLock()
		b, err := c.find(name)
		added := c.added
		c.mu.RUnlock()
		if err == nil {
			return b, nil
		}
		select {
		case <-added:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// find is Bdev. Preconditions: mu is held.
func (c *Control) find(name string) (*Bdev, error) {
	for _, b := range c.bdevs {
		if b.Name() == name || b.UUID().String() == name || slices.Contains(b.Aliases(), name) {
			return b, nil
		}
	}
	return nil, refuse(syscall.ENODEV, "there is no bdev %q; bdev_get_bdevs lists those there are", name)
}

// Driver is what bdev_get_bdevs tells about the module behind a bdev.
func (c *Control) Driver(b *Bdev) Obj {
	c.mu.RLock()
	p := b.call.Params
	c.mu.RUnlock()
	pick := func(names ...string) Obj {
		var o Obj
		for _, n := range names {
			o = append(o, Member{n, p.Get(n)})
		}
		return o
	}
	failure := Obj{}
	if f := b.Info().Failure; f != "" {
		failure = Obj{{"failure", f}}
	}
	switch b.kind {
	case kindAIO:
		return Obj{{"aio", slices.Concat(Obj{
			{"filename", p.Get("filename")},
			{"block_size_override", p.Get("block_size") != nil},
		}, pick("readonly", "fallocate"), failure)}}
	case kindUring:
		return Obj{{"uring", append(pick("filename"), failure...)}}
	case kindDelay:
		return Obj{{"delay", pick("name", "base_bdev_name", "avg_read_latency", "p99_read_latency", "avg_write_latency", "p99_write_latency")}}
	case kindPassthru:
		return Obj{{"passthru", pick("name", "base_bdev_name")}}
	case kindError:
		return Obj{{"error_disk", p.Get("base_name")}}
	}
	return Obj{}
}

// Users tells who keeps b from being changed: the bdev stacked on it, or how
// many LUNs it is.
func (c *Control) Users(b *Bdev) (claim string) {
	by, shares := b.Claimed()
	switch {
	case by != "":
		return "exclusive_write"
	case shares > 0:
		return "read_many_write_many"
	}
	return ""
}

// CreateNull makes a null bdev.
func (c *Control) CreateNull(s NullSpec) (string, error) {
	return c.make(kindNull, s.Name, "Null", s.UUID, "", func(name string, id bdev.UUID, _ *bdev.Bdev) (bdev.Device, Call, error) {
		d, err := c.Modules.Null(s)
		return d, Call{"bdev_null_create", geometryParams(name, id, s.Geometry)}, err
	})
}

// CreateMalloc makes a malloc bdev.
func (c *Control) CreateMalloc(s MallocSpec) (string, error) {
	return c.make(kindMalloc, s.Name, "Malloc", s.UUID, "", func(name string, id bdev.UUID, _ *bdev.Bdev) (d bdev.Device, call Call, err error) {
		// Mapping and clearing memory may take long, so it is done like any
		// other work that blocks. One at a time: what is available is what those
		// before it have left.
		c.Caller.Block(func() {
			c.memory.Lock()
			defer c.memory.Unlock()
			d, err = c.Modules.Malloc(s)
		})
		p := geometryParams(name, id, s.Geometry)
		if s.NUMA >= 0 {
			p = append(p, Member{"numa_id", s.NUMA})
		}
		return d, Call{"bdev_malloc_create", p}, err
	})
}

func geometryParams(name string, id bdev.UUID, g Geometry) Obj {
	p := Obj{{"name", name}, {"num_blocks", g.NumBlocks}, {"block_size", g.BlockSize}}
	if g.PhysicalBlockSize != 0 {
		p = append(p, Member{"physical_block_size", g.PhysicalBlockSize})
	}
	if g.Protected {
		p = append(p, Member{"md_size", bdev.TupleLen}, Member{"dif_type", 1})
	}
	return append(p, Member{"uuid", id.String()})
}

// CreateFile opens a file or block device as a bdev.
func (c *Control) CreateFile(s FileSpec) (string, error) {
	k, method := kindAIO, "bdev_aio_create"
	if s.Uring {
		k, method = kindUring, "bdev_uring_create"
	}
	return c.make(k, s.Name, "", s.UUID, "", func(name string, id bdev.UUID, _ *bdev.Bdev) (d bdev.Device, call Call, err error) {
		c.Caller.Block(func() { d, err = c.Modules.File(s) })
		p := Obj{{"name", name}, {"filename", s.Path}}
		if s.BlockSize != 0 {
			p = append(p, Member{"block_size", s.BlockSize})
		}
		if !s.Uring {
			p = append(p, Member{"readonly", s.ReadOnly}, Member{"fallocate", s.Fallocate})
		}
		return d, Call{method, append(p, Member{"uuid", id.String()})}, err
	})
}

// CreateDelay stacks a bdev that delays I/O.
func (c *Control) CreateDelay(name, base string, id bdev.UUID, l Latencies) (string, error) {
	if err := l.check(); err != nil {
		return "", err
	}
	return c.stack(kindDelay, name, id, base, func(name string, id bdev.UUID, on *bdev.Bdev) (bdev.Device, Call, error) {
		d, err := c.Modules.Delay(on, l)
		return d, Call{"bdev_delay_create", Obj{{"name", name}, {"base_bdev_name", on.Name()},
			{"avg_read_latency", l.AvgRead.Microseconds()}, {"p99_read_latency", l.P99Read.Microseconds()},
			{"avg_write_latency", l.AvgWrite.Microseconds()}, {"p99_write_latency", l.P99Write.Microseconds()},
			{"uuid", id.String()}}}, err
	})
}

func (l Latencies) check() error {
	if l.AvgRead > l.P99Read || l.AvgWrite > l.P99Write {
		return refuse(syscall.EINVAL, "an average latency must not exceed its 99th percentile")
	}
	return nil
}

// CreateError stacks a bdev that makes faults on request. Its name is its
// base's with the prefix that SPDK gives it.
func (c *Control) CreateError(base string, id bdev.UUID) (string, error) {
	name := base
	if b, err := c.Bdev(base); err == nil { // by an alias or its UUID
		name = b.Name()
	}
	return c.stack(kindError, "EE_"+name, id, base, func(name string, id bdev.UUID, on *bdev.Bdev) (bdev.Device, Call, error) {
		d, err := c.Modules.Error(on)
		return d, Call{"bdev_error_create", Obj{{"base_name", on.Name()}, {"uuid", id.String()}}}, err
	})
}

// CreatePassthru stacks a bdev that does nothing.
func (c *Control) CreatePassthru(name, base string, id bdev.UUID) (string, error) {
	return c.stack(kindPassthru, name, id, base, func(name string, id bdev.UUID, on *bdev.Bdev) (bdev.Device, Call, error) {
		d, err := c.Modules.Passthru(on)
		return d, Call{"bdev_passthru_create", Obj{{"name", name}, {"base_bdev_name", on.Name()}, {"uuid", id.String()}}}, err
	})
}

// stack is make for a bdev that lies on another.
func (c *Control) stack(k kind, name string, id bdev.UUID, base string,
	build func(name string, id bdev.UUID, on *bdev.Bdev) (bdev.Device, Call, error)) (string, error) {
	if base == "" { // for make, that is none
		c.mu.RLock()
		defer c.mu.RUnlock()
		_, err := c.find(base)
		return "", err
	}
	return c.make(k, name, "", id, base, build)
}

// make is the transaction that all the Create methods share: it names the bdev,
// checks the name, claims the base, builds the device and publishes it. What stands
// on no other is built beside other changes, because a file system may take its time.
func (c *Control) make(k kind, name, auto string, id bdev.UUID, base string,
	build func(name string, id bdev.UUID, on *bdev.Bdev) (bdev.Device, Call, error)) (string, error) {
	c.change.Lock()
	defer c.change.Unlock()
	name, id, on, err := c.plan(name, auto, id, base)
	if err != nil {
		return "", err
	}
	var dev bdev.Device
	var call Call
	if on == nil {
		c.change.Unlock()
		dev, call, err = build(name, id, nil)
		c.change.Lock()
		c.planned(name)
	} else if err = on.Claim(name); err == nil {
		dev, call, err = build(name, id, on.Bdev)
		if err != nil {
			on.Unclaim(name)
		}
	}
	if err != nil {
		return "", err
	}
	if c.closed {
		c.Caller.Block(func() { err = dev.Close() })
		return "", errors.Join(errClosed, err)
	}
	b := &Bdev{Bdev: bdev.New(name, id, dev), kind: k, base: on, call: call}
	b.stop = b.OnChange(func() { c.changed(b) })
	c.mu.Lock()
	c.bdevs = append(c.bdevs, b)
	c.events.add("bdev_register", name)
	close(c.added)
	c.added = make(chan struct{})
	c.mu.Unlock()
	c.log.Info("bdev created", "name", name, "module", string(k), "blocks", dev.Info().Blocks, "block_size", dev.Info().BlockSize)
	return name, nil
}

var errClosed = &Error{syscall.ESHUTDOWN, "the target is ending"}

// plan is a bdev that is being made.
type plan struct {
	name string
	id   bdev.UUID
}

// planned ends the plan of a name.
func (c *Control) planned(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plans = slices.DeleteFunc(c.plans, func(p plan) bool { return p.name == name })
}

// taken tells who answers to a name or UUID, or will. Preconditions: mu is held.
func (c *Control) taken(name string) (by string, is bool) {
	if b, err := c.find(name); err == nil {
		return b.Name(), true
	}
	for _, p := range c.plans {
		if p.name == name || p.id.String() == name {
			return p.name, true
		}
	}
	return "", false
}

// plan names a new bdev, gives it its identity and finds its base. What has none
// keeps its name until planned.
func (c *Control) plan(name, auto string, id bdev.UUID, base string) (string, bdev.UUID, *Bdev, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return "", id, nil, errClosed
	}
	if name == "" && auto != "" {
		name = c.automatic(auto)
	}
	if name == "" || len(name) > MaxNameLen {
		return "", id, nil, refuse(syscall.EINVAL, "a bdev needs a name of 1 to %d bytes", MaxNameLen)
	}
	if by, is := c.taken(name); is {
		return "", id, nil, refuse(syscall.EEXIST, "bdev %q exists", by)
	}
	if id.IsZero() {
		// The identity follows the name, so that initiators find the same disk
		// again after a restart, saved configuration or not.
		id = bdev.NameUUID(name)
	}
	// Initiators take two LUNs of one identity for two paths to one disk.
	if by, is := c.taken(id.String()); is {
		return "", id, nil, refuse(syscall.EEXIST, "bdev %q has the UUID %s; give another as uuid", by, id)
	}
	if base == "" {
		c.plans = append(c.plans, plan{name, id})
		return name, id, nil, nil
	}
	on, err := c.find(base)
	if err != nil {
		return "", id, nil, err
	}
	if depth(on) >= bdev.MaxStack-reservedFrames {
		return "", id, nil, refuse(syscall.EINVAL, "%q is %d bdevs deep; no more fit on it", base, depth(on))
	}
	return name, id, on, nil
}

// automatic is the next name of a series that nobody has. Numbers only grow; those
// that a loaded configuration brought are passed over. Preconditions: mu is held.
func (c *Control) automatic(series string) string {
	for {
		name := fmt.Sprintf("%s%d", series, c.serial[series])
		c.serial[series]++
		if _, is := c.taken(name); !is {
			return name
		}
	}
}

// reservedFrames are the frames of an I/O that a bdev with nothing below it
// needs: the submitter's and the bdev's own.
const reservedFrames = 2

// depth counts the frames b's I/O takes beyond that: two for each stacked bdev.
func depth(b *Bdev) int {
	n := 0
	for ; b.base != nil; b = b.base {
		n += 2
	}
	return n
}

// changed tells operators what has become of b.
func (c *Control) changed(b *Bdev) {
	if failure := b.Info().Failure; failure != "" && !b.failed.Swap(true) {
		c.log.Error("bdev failed: it may have lost what was written and not flushed, and refuses writes; look at its disk, then delete it and create it anew", "name", b.Name(), "cause", failure)
		return
	}
	c.mu.Lock()
	c.events.add("bdev_resize", b.Name())
	c.mu.Unlock()
}

// DeleteBdev deletes a bdev made by the module named ("" is any). The bdevs
// stacked on it go first, and each leaves its LUNs before that; I/O in flight
// ends before the bdev does.
func (c *Control) DeleteBdev(name, module string) error {
	gone, err := c.unpublish(name, module)
	errs := []error{err}
	// Beside other changes: a file system may take its time.
	for _, b := range gone {
		c.Caller.Block(func() { errs = append(errs, b.Close()) })
		c.log.Info("bdev deleted", "name", b.Name())
	}
	return errors.Join(errs...)
}

// unpublish is DeleteBdev but for closing what nobody has any more.
func (c *Control) unpublish(name, module string) (gone []*Bdev, err error) {
	c.change.Lock()
	defer c.change.Unlock()
	b, err := c.Bdev(name)
	if err != nil {
		return nil, err
	}
	if module != "" && kind(module) != b.kind {
		return nil, refuse(syscall.ENODEV, "bdev %q is not of the %s module; delete it with bdev_%s_delete", name, module, b.kind)
	}
	err = c.remove(b, &gone)
	return gone, err
}

// remove takes out b and what stands on it, and adds them to gone in the order in
// which they are to be closed. Preconditions: change is held.
func (c *Control) remove(b *Bdev, gone *[]*Bdev) error {
	for _, s := range c.Bdevs() {
		if s.base == b {
			if err := c.remove(s, gone); err != nil {
				return err
			}
		}
	}
	if err := c.unmapLUNs(b); err != nil {
		return err
	}
	b.stop()
	c.mu.Lock()
	c.bdevs = slices.DeleteFunc(slices.Clone(c.bdevs), func(o *Bdev) bool { return o == b })
	c.events.add("bdev_unregister", b.Name())
	c.mu.Unlock()
	c.drain(b)
	if b.base != nil {
		b.base.Unclaim(b.Name())
	}
	*gone = append(*gone, b)
	return nil
}

// drain refuses new I/O and waits until every channel is closed. It needs no
// particular reactor: the last channel to close, wherever, ends the wait.
func (c *Control) drain(b *Bdev) {
	if len(c.Reactors) == 0 {
		b.Remove(nil)
		return
	}
	c.Caller.Await(c.Reactors[0], func(done func()) { b.Remove(done) })
}

// SetLimits sets QoS limits; only those given change.
func (c *Control) SetLimits(name string, change func(*bdev.Limits)) error {
	c.change.Lock()
	defer c.change.Unlock()
	b, err := c.Bdev(name)
	if err != nil {
		return err
	}
	l := b.Limits()
	change(&l)
	b.SetLimits(l)
	return nil
}

// Resize gives a bdev of the null module another size.
func (c *Control) Resize(name string, mib uint64) error {
	c.change.Lock()
	defer c.change.Unlock()
	b, err := c.Bdev(name)
	if err != nil {
		return err
	}
	r, ok := b.Module().(resizer)
	if !ok || b.kind != kindNull {
		return refuse(syscall.EINVAL, "bdev %q is of the %s module, which cannot be resized", name, b.kind)
	}
	bytes := mib << 20
	size := b.Info().BlockSize
	if mib == 0 || bytes>>20 != mib {
		return refuse(syscall.EINVAL, "%d MiB is no size for a disk", mib)
	}
	if err := r.Resize(bytes / uint64(size)); err != nil {
		return err
	}
	c.setParam(b, "num_blocks", bytes/uint64(size))
	return nil
}

func (c *Control) setParam(b *Bdev, name string, value any) {
	c.mu.Lock()
	b.call.Params = b.call.Params.set(name, value)
	c.mu.Unlock()
}

// Rescan looks at the size of the file behind a bdev. It is beside other changes,
// because a file system may take its time: a bdev that is closed meanwhile says so.
func (c *Control) Rescan(name, module string) error {
	b, err := c.Bdev(name)
	if err != nil {
		return err
	}
	r, ok := b.Module().(rescaner)
	if !ok || b.kind != kind(module) {
		return refuse(syscall.ENODEV, "bdev %q is of the %s module", name, b.kind)
	}
	c.Caller.Block(func() { err = r.Rescan() })
	return err
}

// SetLatency changes one latency of a delay bdev.
func (c *Control) SetLatency(name, which string, d time.Duration) error {
	c.change.Lock()
	defer c.change.Unlock()
	b, err := c.Bdev(name)
	if err != nil {
		return err
	}
	m, ok := b.Module().(delayer)
	if !ok || b.kind != kindDelay {
		return refuse(syscall.EINVAL, "bdev %q is of the %s module", name, b.kind)
	}
	c.mu.RLock()
	l := latencies(b.call.Params)
	c.mu.RUnlock()
	switch which {
	case "avg_read":
		l.AvgRead = d
	case "p99_read":
		l.P99Read = d
	case "avg_write":
		l.AvgWrite = d
	case "p99_write":
		l.P99Write = d
	default:
		return refuse(syscall.EINVAL, "%q is no latency", which)
	}
	m.SetLatencies(l)
	c.setParam(b, which+"_latency", d.Microseconds())
	return nil
}

func latencies(p Obj) Latencies {
	us := func(name string) time.Duration {
		n, _ := p.Get(name).(int64)
		return time.Duration(n) * time.Microsecond
	}
	return Latencies{us("avg_read_latency"), us("p99_read_latency"), us("avg_write_latency"), us("p99_write_latency")}
}

// Inject has an error bdev make faults.
func (c *Control) Inject(name string, i Injection) error {
	m, err := c.injector(name)
	if err != nil {
		return err
	}
	return m.Inject(i)
}

// ResumePending lets the I/Os go that an error bdev holds back.
func (c *Control) ResumePending(name string) error {
	m, err := c.injector(name)
	if err != nil {
		return err
	}
	return m.Resume()
}

func (c *Control) injector(name string) (injector, error) {
	b, err := c.Bdev(name)
	if err != nil {
		return nil, err
	}
	m, ok := b.Module().(injector)
	if !ok {
		return nil, refuse(syscall.ENODEV, "bdev %q is of the %s module, not of the error module", name, b.kind)
	}
	return m, nil
}
