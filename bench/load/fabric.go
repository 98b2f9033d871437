package load

import (
	"fmt"
	"math/bits"
	"syscall"

	"spindle/bench/wire"
	"spindle/internal/sys"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/verbs"
)

// What is posted at a time, and what is polled.
const (
	batchSends = 256
	batchRecvs = 256
	batchSGEs  = 2*batchSends + batchRecvs
	pollBatch  = 256
)

// fabric is the network of queue pairs on an RDMA device. One memory region,
// open to the target, holds all the data.
type fabric struct {
	g    *generator
	loop *wire.Loop

	provider verbs.Provider
	events   verbs.EventChannel
	dev      verbs.Device
	pd       verbs.PD
	mr       verbs.MR
	channel  verbs.CompChannel
	cq       verbs.CQ
	cqs      [1]verbs.CQHandle

	batch *verbs.Batch
	wcs   []verbs.WC
	pairs []*pair

	lkey, rkey uint32 // of mr

	past    mem.Ref // where reads go that nobody looks at
	recvs   int     // of a queue pair
	sends   int     // likewise, a power of two
	err     error   // of a request that was refused
	yields  bool    // the device works on our CPU when we do not
	watched bool    // the ring waits for the channel
}

func newFabric(g *generator) *fabric {
	f := &fabric{g: g, recvs: loginRecvs + g.o.Depth + reserveRecvs}
	f.sends = 1 << bits.Len(uint(g.o.Depth+2*signalEvery-1))
	return f
}

// block is what an allocation of n bytes takes.
func block(n uint32) uint64 { return max(mem.MinBlock, uint64(1)<<bits.Len32(n-1)) }

func (f *fabric) memory() uint64 {
	pair := block(loginMemory) + block(uint32(f.recvs)*recvStride) + block(uint32(f.sends)*messageStride)
	return uint64(f.g.o.Connections)*pair + sharedSize + block(verbs.BatchSize(batchSends, batchRecvs, batchSGEs)) +
		block(verbs.CompletionsSize(pollBatch)) + 2*mem.MaxBlock
}

// most: a region that is open to the peer has 4 GiB at most.
func (f *fabric) most() uint64 { return 3 << 30 }

// open loads the libraries.
func (f *fabric) open(l *wire.Loop) error {
	f.loop = l
	var err error
	if f.past, err = l.Alloc(sharedSize); err != nil {
		return err
	}
	b, err := l.Alloc(verbs.BatchSize(batchSends, batchRecvs, batchSGEs))
	if err != nil {
		return err
	}
	c, err := l.Alloc(verbs.CompletionsSize(pollBatch))
	if err != nil {
		return err
	}
	f.batch, f.wcs = verbs.NewBatch(b, batchSends, batchRecvs, batchSGEs), verbs.NewCompletions(c, pollBatch)
	if f.provider, err = f.g.o.RDMA(); err != nil {
		return unusable(err)
	}
	events, err := f.provider.NewEventChannel()
	if err != nil {
		return unusable(err)
	}
	f.events = events
	return nil
}

// equip makes what all queue pairs share, on the device of the first.
func (f *fabric) equip(id verbs.ID) error {
	dev, err := id.Device()
	switch {
	case err != nil:
		return err
	case dev == nil:
		return fmt.Errorf("%w to %s", verbs.ErrNoDevice, f.g.o.Address.Host)
	case f.dev != nil && dev.Info().Index != f.dev.Info().Index:
		return fmt.Errorf("bench: device %s, after %s for the connections before", dev.Info().Name, f.dev.Info().Name)
	case f.dev != nil:
		return nil
	}
	f.dev, f.yields = dev, dev.Info().Software()
	info := dev.Info()
	entries := f.g.o.Connections * (f.recvs + f.sends/signalEvery + 1)
	if f.recvs > info.MaxQPWR || f.sends > info.MaxQPWR {
		return badOption("--iodepth %d: the queues of %s have %d entries", f.g.o.Depth, info.Name, info.MaxQPWR)
	}
	if entries > info.MaxCQE {
		return badOption("%d connections of depth %d: a completion queue of %s has %d entries", f.g.o.Connections, f.g.o.Depth, info.Name, info.MaxCQE)
	}
	pd, err := dev.NewPD()
	if err != nil {
		return err
	}
	f.pd = pd
	r := f.loop.Arena.Region()
	mr, err := pd.RegisterRemote(r.Ref(0, uint32(r.Len)), verbs.AccessRemoteRead|verbs.AccessRemoteWrite)
	if err != nil {
		return err
	}
	f.mr, f.lkey, f.rkey = mr, mr.LKey(), mr.RKey()
	channel, err := dev.NewCompChannel()
	if err != nil {
		return err
	}
	f.channel = channel
	cq, err := dev.NewCQ(entries, channel)
	if err != nil {
		return err
	}
	f.cq = cq
	f.cqs[0] = f.cq.Handle()
	return nil
}

// The operations of a WRID. The generation of a send is how many were posted
// with it, that of a receive is its buffer.
const (
	opSend uint16 = iota
	opRecv
)

//spindle:hot
func (f *fabric) turn(until clock.Time) error {
	n, err := f.pump()
	if err == nil && n == 0 {
		switch {
		case until != 0:
			n, err = f.rest(until)
		case f.yields:
			sys.Yield()
		}
	}
	f.g.worked = n > 0
	return err
}

// pump posts what was gathered and takes what has completed.
//
//spindle:hot
func (f *fabric) pump() (int, error) {
	if err := f.post(); err != nil {
		return 0, err
	}
	n, bad := f.provider.Poll(f.cqs[:], f.wcs)
	f.g.now = f.loop.Clock.Now()
	if bad >= 0 {
		return n, errQueue
	}
	for i := range f.wcs[:n] {
		if err := f.completed(&f.wcs[i]); err != nil {
			return n, err
		}
	}
	return n, nil
}

var errQueue = fmt.Errorf("bench: the completion queue failed: %w", syscall.EIO)

//spindle:hot
func (f *fabric) post() error {
	if !f.batch.Empty() {
		if f.provider.Post(f.batch) > 0 {
			f.refused()
		}
		f.batch.Reset()
	}
	return f.err
}

// place makes sure that a request fits the batch.
//
//spindle:hot
func (f *fabric) place(sends, recvs, sges int) {
	if !f.batch.Room(sends, recvs, sges) {
		_ = f.post() // the next pump tells
	}
}

// refused notes the first request that was not taken.
//
//go:noinline
func (f *fabric) refused() {
	for _, w := range f.batch.Recvs {
		if w.Err != 0 && f.err == nil {
			f.err = fmt.Errorf("connection %d: posting a receive: %w", w.ID.Slot(), syscall.Errno(w.Err))
		}
	}
	for _, w := range f.batch.Sends {
		if w.Err != 0 && f.err == nil {
			f.err = fmt.Errorf("connection %d: posting a send: %w", w.ID.Slot(), syscall.Errno(w.Err))
		}
	}
}

//spindle:hot
func (f *fabric) completed(w *verbs.WC) error {
	p := f.pairs[w.ID.Slot()]
	if w.Status != verbs.StatusOK {
		return p.broken(w)
	}
	if p.c != nil {
		f.g.mark(p.c)
	}
	if w.ID.Op() == opSend {
		p.reaped += uint32(w.ID.Gen() - uint16(p.reaped))
		return nil
	}
	b := p.buffer(int(w.ID.Gen()))
	if err := p.receive(b.Slice(0, min(w.ByteLen, b.Len)).Bytes()); err != nil {
		return err
	}
	p.listen(int(w.ID.Gen()))
	return nil
}

// watchTag is the ring's wait for the completion channel.
const watchTag = ring.Tag(1)

// rest sleeps in the ring until something completes or it is time.
func (f *fabric) rest(until clock.Time) (int, error) {
	if fd := f.channel.FD(); fd >= 0 && !f.watched {
		f.watched = f.loop.Ring.PollFD(watchTag, fd)
	}
	if !f.provider.Arm(f.cqs[:]) {
		return 0, errQueue
	}
	if n, err := f.pump(); n > 0 || err != nil { // what came before it was armed
		return n, err
	}
	cqes, err := f.loop.Turn(until)
	if err != nil {
		return 0, err
	}
	for range cqes {
		f.channel.Drain()
		f.watched = false
	}
	return f.pump()
}

// leave ends the connections from this side too.
func (f *fabric) leave() error {
	for _, p := range f.pairs {
		_ = p.id.Disconnect() // the target may have done so already
	}
	return nil
}

func (f *fabric) close() {
	if f.watched {
		f.loop.Ring.Cancel(tagNone, watchTag)
		_, _ = f.loop.Turn(0)
	}
	for _, p := range f.pairs {
		p.close()
	}
	// What cannot be closed goes with the process.
	if f.cq != nil {
		_ = f.cq.Close()
	}
	if f.channel != nil {
		_ = f.channel.Close()
	}
	if f.mr != nil {
		_ = f.mr.Close()
	}
	if f.pd != nil {
		_ = f.pd.Close()
	}
	if f.events != nil {
		_ = f.events.Close()
	}
	if f.dev != nil {
		_ = f.dev.Close()
	}
	if f.loop != nil {
		f.loop.Close()
	}
}
