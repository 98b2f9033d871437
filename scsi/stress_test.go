package scsi

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/malloc"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

// TestThreads runs a unit on three reactors that are three threads: sessions on
// each add to one counter with COMPARE AND WRITE, while others reserve, change
// modes, reset and come and go. No increment is lost, and the race detector
// has something to look at.
func TestThreads(t *testing.T) {
	const threads, rounds = 3, 64
	space := mem.NewSpace()
	var rs []*reactor.Reactor
	var clocks []*clock.Manual
	for i := range threads {
		arena, err := space.NewArena(8<<20, -1)
		if err != nil {
			t.Fatal(err)
		}
		clk := &clock.Manual{}
		clocks = append(clocks, clk)
		rs = append(rs, reactor.New(reactor.Config{ID: i, Core: -1, Ring: bdevtest.NoRing{}, Clock: clk, Arena: arena}))
	}
	disk, err := malloc.New(malloc.Config{BlockSize: 512, Blocks: 256, Space: space, Node: -1})
	if err != nil {
		t.Fatal(err)
	}
	dev := NewDevice("iqn.2026-01.test:threads", rs)
	if _, err := dev.AddLUN(directCaller{}, 0, bdev.New("m", bdev.UUID{}, disk), LUNOptions{}); err != nil {
		t.Fatal(err)
	}
	var unsure atomic.Int64
	var finished atomic.Int32
	var wg sync.WaitGroup
	for i, r := range rs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p := &player{t: t, dev: dev, r: r, clk: clocks[i], id: i}
			p.open()
			for k := range rounds {
				p.add(&unsure)
				switch (k + i) % 16 {
				case 3:
					p.run(cdb("2a 00 00 00 00 10 00 00 04"), fill(byte(k), 2048), 0)
				case 5:
					list := append(fill(0, 4), 0x0a, 0x0a, byte(k&1)<<2, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0)
					p.run(cdb("15 10 00 00 10"), list, 0)
				case 7:
					p.run(cdb("5f 06 00 00 00 00 00 00 18"), prOutList(0, uint64(i+1), 0), 0)
				case 9:
					p.run(cdb("42 00 00 00 00 00 00 00 18"), unmapList(200, 8), 0)
				case 11:
					p.reset()
				case 13:
					p.close()
					p.open()
				}
			}
			p.close()
			finished.Add(1)
			for finished.Load() != threads {
				p.turn()
			}
		}()
	}
	wg.Wait()
	count := int64(binary.BigEndian.Uint64(disk.Region().Ref(64*512, 512).Bytes()))
	if low := int64(threads * rounds); count < low || count > low+unsure.Load() {
		t.Errorf("the counter is %d after %d increments and %d that may be", count, low, unsure.Load())
	}
}

// directCaller runs control work in place: before the reactors run.
type directCaller struct{}

func (directCaller) Await(_ *reactor.Reactor, start func(done func())) { start(func() {}) }
func (directCaller) Block(work func())                                 { work() }

// player is a session with a thread of its own.
type player struct {
	t   *testing.T
	dev *Device
	r   *reactor.Reactor
	clk *clock.Manual
	id  int
	n   *Nexus
}

func (p *player) turn() {
	p.clk.Advance(10 * time.Microsecond)
	if p.r.Turn(0) == 0 {
		runtime.Gosched() // three threads may share a core
	}
}

func (p *player) open() {
	p.n = p.dev.NewNexus(p.r, NexusID{InitiatorName: string(rune('a' + p.id)), TargetName: "t"}, nil)
}

func (p *player) close() {
	closed := false
	p.n.Close(func() { closed = true })
	for !closed {
		p.turn()
	}
}

func (p *player) reset() {
	done := false
	p.n.Manage(&Management{Fn: FnLUNReset, Done: func(uint8) { done = true }})
	for !done {
		p.turn()
	}
}

// threadRequest is a request whose buffer comes from the reactor's own arena.
type threadRequest struct {
	Task
	done bool
}

func (q *threadRequest) TaskDone(*Task)  { q.done = true }
func (q *threadRequest) TaskAbort(*Task) {} // it has its status and is about to end

// run executes a command and returns its status and data.
func (p *player) run(c, out []byte, edtl uint32) (Status, []byte) {
	q := &threadRequest{}
	copy(q.CDB[:], c)
	q.CDBLen, q.EDTL, q.Owner = 16, max(edtl, uint32(len(out))), q
	p.n.Begin(&q.Task, 0)
	if q.Prepare() == Ready {
		if n := q.Want + q.Scratch; n != 0 {
			b, ok := p.r.Arena.Alloc(n)
			if !ok {
				panic("no memory")
			}
			defer p.r.Arena.Free(b)
			q.Data = b
			copy(b.Bytes(), out)
		}
		if q.Execute() == Waiting {
			for !q.done {
				p.turn()
			}
		}
	}
	var got []byte
	if q.DataLen != 0 {
		got = append(got, q.Data.Bytes()[:q.DataLen]...)
	}
	aborted := q.Aborted()
	status := q.Status
	q.End()
	p.turn()
	if aborted {
		status = TaskAborted
	}
	return status, got
}

// add increments the counter in block 64 once. An increment that another
// nexus's reset aborted may or may not have reached the medium: it is counted
// as unsure and made again.
func (p *player) add(unsure *atomic.Int64) {
	for {
		s, old := p.run(cdb("28 00 00 00 00 40 00 00 01"), nil, 512)
		if s != Good {
			continue
		}
		next := append([]byte(nil), old...)
		binary.BigEndian.PutUint64(next, binary.BigEndian.Uint64(old)+1)
		switch s, _ := p.run(cdb("89 00 00 00 00 00 00 00 00 40 00 00 00 01"), append(old, next...), 0); s {
		case Good:
			return
		case TaskAborted:
			unsure.Add(1)
		}
	}
}
