package reactor_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"spindle/internal/sys"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/uring"
)

// start runs a reactor on the real ring for the length of the test.
func start(t testing.TB, policy reactor.IdlePolicy) *reactor.Reactor {
	t.Helper()
	arena, err := mem.NewSpace().NewArena(mem.MaxBlock, -1)
	if err != nil {
		t.Fatal(err)
	}
	clk := clock.NewMonotonic()
	r := reactor.New(reactor.Config{Core: -1, Clock: clk, Arena: arena, Idle: policy,
		NewRing: func(a *mem.Arena) (ring.Ring, error) {
			return uring.New(uring.Config{Arena: a, Clock: clk, Files: 64})
		}})
	if err := r.Start(); errors.Is(err, sys.ErrUringRefused) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Stop()
		if err := r.Wait(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// within fails the test, with all stacks, when ch says nothing in time.
func within(t testing.TB, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing for 10 s", what)
	}
}

// Each post waits for the one before to have run, so the reactor goes to sleep,
// or is about to, again and again; one lost wake-up and the test hangs.
func TestNoWakeUpIsLost(t *testing.T) {
	for _, tc := range []struct {
		name   string
		policy reactor.IdlePolicy
	}{{"adaptive", reactor.Adaptive}, {"interrupt", reactor.Interrupt}} {
		t.Run(tc.name, func(t *testing.T) {
			r := start(t, tc.policy)
			ran := make(chan struct{}, 1)
			msg := &reactor.Msg{Run: func(*reactor.Reactor) { ran <- struct{}{} }}
			for i := range 5000 {
				r.Post(msg)
				within(t, ran, "message")
				for range i % 300 { // move the post over the reactor's way to sleep
					runtime.KeepAlive(msg)
				}
			}
			r.Stop()
			if err := r.Wait(); err != nil { // a turn is booked at its end
				t.Fatal(err)
			}
			if s := r.Stats(); s.Sleeps == 0 || s.Messages != 5000 {
				t.Errorf("the reactor never slept, or lost messages: %+v", s)
			}
		})
	}
}

// Two sleeping reactors play ball: the poster is itself on its way to sleep.
func TestReactorsWakeEachOther(t *testing.T) {
	a, b := start(t, reactor.Interrupt), start(t, reactor.Adaptive)
	const rounds = 3000
	ended := make(chan struct{})
	left := rounds
	var ping, pong reactor.Msg
	ping.Run = func(*reactor.Reactor) { a.Post(&pong) }
	pong.Run = func(*reactor.Reactor) {
		if left--; left == 0 {
			close(ended)
			return
		}
		b.Post(&ping)
	}
	a.Post(&pong)
	within(t, ended, "ball")
}

// Many producers; each one's messages run in its order, none twice, none lost.
func TestInboxUnderStress(t *testing.T) {
	r := start(t, reactor.Adaptive)
	const producers, each = 8, 4000
	var last [producers]int // the reactor's
	var total atomic.Int64
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for i := 1; i <= each; i++ {
				r.Post(&reactor.Msg{Run: func(*reactor.Reactor) {
					if last[p]++; last[p] != i {
						t.Errorf("producer %d: message %d ran as number %d", p, i, last[p])
					}
					if total.Add(1) == producers*each {
						close(ended)
					}
				}})
				if i%64 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
	within(t, ended, "messages")
}

func TestPostTwicePanics(t *testing.T) {
	r := reactor.New(reactor.Config{Clock: &clock.Manual{}})
	m := &reactor.Msg{Run: func(*reactor.Reactor) {}}
	r.Post(m)
	defer func() {
		if recover() == nil {
			t.Error("a queued message was posted again")
		}
	}()
	r.Post(m)
}

func TestStopWakesASleeper(t *testing.T) {
	for range 100 {
		r := start(t, reactor.Interrupt)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := r.Wait(); err != nil {
				t.Error(err)
			}
		}()
		r.Stop()
		within(t, ended, "stop")
	}
}

func TestStartReportsWhy(t *testing.T) {
	boom := errors.New("no ring today")
	for _, tc := range []struct {
		name string
		core int
		want error
	}{
		{"ring", -1, boom},
		{"core that is not there", 1000, nil},
		{"core beyond all masks", 1 << 20, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := reactor.New(reactor.Config{Core: tc.core, Clock: &clock.Manual{},
				NewRing: func(*mem.Arena) (ring.Ring, error) { return nil, boom }})
			err := r.Start()
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || tc.want == nil && errors.Is(err, boom) {
				t.Errorf("Start: %v", err)
			}
		})
	}
}

func TestStartPins(t *testing.T) {
	all, err := sys.Affinity()
	if err != nil {
		t.Fatal(err)
	}
	core := sys.CPUs(all)[0]
	seen := make(chan []int, 1)
	r := reactor.New(reactor.Config{Core: core, Clock: &clock.Manual{},
		NewRing: func(*mem.Arena) (ring.Ring, error) {
			s, err := sys.Affinity()
			if err != nil {
				t.Error(err)
			}
			seen <- sys.CPUs(s)
			return nil, errors.New("enough")
		}})
	if r.Start() == nil {
		t.Error("Start passed without a ring")
	}
	if got := <-seen; len(got) != 1 || got[0] != core {
		t.Errorf("ring made on cores %v, want %d", got, core)
	}
}

// An idle reactor costs next to nothing: under 2 % of a core, with a timer that
// fires twenty times a second.
func TestIdleReactorCostsLittle(t *testing.T) {
	r := start(t, reactor.Adaptive)
	var before, after sys.Usage
	measured := make(chan struct{})
	usage := func(u *sys.Usage) {
		var err error
		if *u, err = sys.ThreadUsage(); err != nil {
			t.Error(err)
		}
	}
	fired := 0
	var tm reactor.Timer
	tm.Fire = func(now clock.Time) {
		if fired++; fired == 12 {
			usage(&after)
			close(measured)
			return
		}
		r.Arm(&tm, now.Add(50*time.Millisecond))
	}
	began := time.Now()
	r.Post(&reactor.Msg{Run: func(r *reactor.Reactor) { usage(&before); r.Arm(&tm, r.Now()) }})
	within(t, measured, "timers")
	took := time.Since(began)
	if cpu := after.User + after.System - before.User - before.System; cpu > took/50 {
		t.Errorf("an idle reactor used %v of %v", cpu, took)
	}
	if s := r.Stats(); s.IdleNS < uint64(took)*9/10 {
		t.Errorf("booked %v idle of %v", time.Duration(s.IdleNS), took)
	}
}

func TestPool(t *testing.T) {
	r := start(t, reactor.Interrupt)
	const limit, jobs = 3, 50
	p := reactor.NewPool(limit)
	var running, most atomic.Int32
	ended := make(chan struct{})
	left := jobs // the reactor's
	r.Post(&reactor.Msg{Run: func(r *reactor.Reactor) {
		for range jobs {
			p.Go(func() {
				n := running.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(time.Millisecond)
				running.Add(-1)
			}, r, &reactor.Msg{Run: func(*reactor.Reactor) {
				if left--; left == 0 {
					close(ended)
				}
			}})
		}
	}})
	within(t, ended, "jobs")
	if m := most.Load(); m < 2 || m > limit {
		t.Errorf("%d jobs at a time, limit %d", m, limit)
	}
}

func TestBlockingAwait(t *testing.T) {
	a, b := start(t, reactor.Interrupt), start(t, reactor.Interrupt)
	var c reactor.Caller = reactor.Blocking{}
	order := ""
	c.Await(a, func(done func()) {
		order += "a"
		b.Post(&reactor.Msg{Run: func(*reactor.Reactor) { order += "b"; done() }})
	})
	c.Block(func() { order += "c" })
	if order != "abc" {
		t.Errorf("order %q", order)
	}
}

func BenchmarkIdleTurn(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	arena, err := mem.NewSpace().NewArena(mem.MaxBlock, -1)
	if err != nil {
		b.Fatal(err)
	}
	clk := clock.NewMonotonic()
	u, err := uring.New(uring.Config{Arena: arena, Clock: clk, Files: 64})
	if err != nil {
		b.Fatal(err)
	}
	defer u.Close()
	r := reactor.New(reactor.Config{Core: -1, Ring: u, Clock: clk, Arena: arena, Idle: reactor.Poll})
	b.ReportAllocs()
	for b.Loop() {
		r.Turn(0)
	}
}

func BenchmarkMessageHop(b *testing.B) {
	// Two spinning threads and the benchmark's own.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	x, y := start(b, reactor.Poll), start(b, reactor.Poll)
	ended := make(chan struct{})
	n := 0
	var there, back reactor.Msg
	there.Run = func(*reactor.Reactor) { x.Post(&back) }
	back.Run = func(*reactor.Reactor) {
		if n--; n <= 0 {
			ended <- struct{}{}
			return
		}
		y.Post(&there)
	}
	const hops = 1000
	b.ReportAllocs()
	for b.Loop() {
		n = hops / 2
		x.Post(&back)
		<-ended
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/hops, "ns/hop")
}

// echo sends back what it receives, out of the buffer it came in.
type echo struct {
	r     *reactor.Reactor
	src   reactor.Source
	node  reactor.FlushNode
	file  ring.File
	group ring.Group
	msg   ring.Msg
	id    uint16
	n     uint32
}

const (
	echoRecv = iota
	echoSend
)

func (e *echo) Complete(arg uint32, c ring.CQE) {
	switch {
	case arg == echoSend:
		e.r.Ring.Recycle(e.group, e.id)
	case c.Res > 0:
		e.r.NoteIO()
		e.id, e.n = c.BufferID(), uint32(c.Res)
		e.r.NeedFlush(&e.node)
	}
}

func (e *echo) Flush() {
	e.msg.SetVec(0, e.r.Ring.Buffer(e.group, e.id).Addr, e.n)
	if !e.r.Ring.Send(e.src.Tag(echoSend), e.file, e.msg, 1) {
		e.r.NeedFlush(&e.node)
	}
}

// The round trip of a queue depth 1 stream, and how often the reactor slept on it.
func BenchmarkEcho(b *testing.B) {
	for _, policy := range []reactor.IdlePolicy{reactor.Poll, reactor.Adaptive, reactor.Interrupt} {
		b.Run(policy.String(), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
			r := start(b, policy)
			fd, addr, err := uring.Kernel{}.Listen(netip.MustParseAddrPort("127.0.0.1:0"), ring.ListenOptions{Congestion: "cubic"})
			if err != nil {
				b.Fatal(err)
			}
			defer sys.Close(fd)
			peer, err := net.Dial("tcp", addr.String())
			if err != nil {
				b.Fatal(err)
			}
			defer peer.Close()
			end, _, err := syscall.Accept(fd)
			if err != nil {
				b.Fatal(err)
			}
			defer sys.Close(end)
			reactor.Blocking{}.Await(r, func(done func()) {
				defer done()
				e := &echo{r: r}
				e.node.To, e.src = e, r.Register(e)
				block, _ := r.Arena.Alloc(mem.MinBlock)
				e.msg = ring.Msg{Ref: block}
				if e.group, err = r.Ring.NewGroup(8, 4096); err == nil {
					e.file, err = r.Ring.Install(end)
				}
				r.Ring.Recv(e.src.Tag(echoRecv), e.file, e.group)
			})
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 48)
			slept, entered := r.Stats().Sleeps, r.Ring.Syscalls()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := peer.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(peer, buf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(r.Stats().Sleeps-slept)/float64(b.N), "sleeps/op")
			b.ReportMetric(float64(r.Ring.Syscalls()-entered)/float64(b.N), "syscalls/op")
		})
	}
}

// A reactor that is asked to makes way in turns that find nothing, as long as
// somebody wants it to.
func TestMakeWay(t *testing.T) {
	r := start(t, reactor.Poll)
	yields := func(change ...bool) uint64 {
		done := make(chan struct{})
		r.Post(&reactor.Msg{Run: func(r *reactor.Reactor) {
			for _, on := range change {
				r.MakeWay(on)
			}
			close(done)
		}})
		<-done
		before, turns := r.Stats().Yields, r.Stats().Turns
		for r.Stats().Turns < turns+1000 {
			runtime.Gosched()
		}
		return r.Stats().Yields - before
	}
	if n := yields(); n != 0 {
		t.Errorf("nobody wants it to, and it makes way %d times", n)
	}
	if yields(true, true) == 0 {
		t.Error("asked to make way it does not")
	}
	if yields(false) == 0 {
		t.Error("one of two still wants it to, and it does not make way")
	}
	yields(false)
	if n := yields(); n != 0 {
		t.Errorf("nobody wants it to any more, and it makes way %d times", n)
	}
}
