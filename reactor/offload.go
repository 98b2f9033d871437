package reactor

import "sync"

// Offload runs blocking work off the reactors: opens, memory registration,
// listens. It is an edge: the simulator runs the work as a step of its own.
type Offload interface {
	// Go runs work on a thread that may block, then posts done to r.
	Go(work func(), r *Reactor, done *Msg)
}

// Caller is how control code, written in blocking style, waits for a reactor.
// In production the caller's goroutine blocks; in the simulator it is a coroutine.
type Caller interface {
	// Await runs start on r and returns once done has been called, from any
	// reactor and exactly once.
	Await(r *Reactor, start func(done func()))
	// Block runs work that may block in the kernel, off every reactor, and
	// returns when it has ended.
	Block(work func())
}

// Pool is the Offload of production: goroutines that come with the work, up to
// a bound, and go with it. Work beyond the bound waits in order. Go never
// blocks longer than a mutex is held. All methods are safe from any thread.
type Pool struct {
	max int

	mu      sync.Mutex
	running int
	queue   []job
}

type job struct {
	work func()
	to   *Reactor
	done *Msg
}

// DefaultPoolSize bounds the blocking calls of a process at a time: enough that
// a path which hangs in the kernel does not hold up the others.
const DefaultPoolSize = 16

// NewPool makes a Pool of at most n goroutines.
func NewPool(n int) *Pool {
	if n < 1 {
		n = DefaultPoolSize
	}
	return &Pool{max: n}
}

// Go runs work, then posts done to r.
func (p *Pool) Go(work func(), r *Reactor, done *Msg) {
	j := job{work, r, done}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == p.max {
		p.queue = append(p.queue, j)
		return
	}
	p.running++
	go p.run(j) //spindle:edge blocking work leaves the reactor here
}

func (p *Pool) run(j job) {
	for more := true; more; {
		j.work()
		j.to.Post(j.done)
		j, more = p.next()
	}
}

// next takes waiting work, or ends the goroutine.
func (p *Pool) next() (job, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.running--
		p.queue = nil // a burst's backing array is not kept
		return job{}, false
	}
	j := p.queue[0]
	p.queue[0] = job{}
	p.queue = p.queue[1:]
	return j, true
}

// Blocking is the Caller of production: the calling goroutine waits. It must
// not be a reactor's.
type Blocking struct{}

// Await runs start on r and returns once done has been called.
// Preconditions: r runs, and is not stopped before that.
func (Blocking) Await(r *Reactor, start func(done func())) {
	ended := make(chan struct{})
	r.Post(&Msg{Run: func(*Reactor) { start(func() { close(ended) }) }})
	<-ended
}

// Block runs work here: the caller's goroutine may block.
func (Blocking) Block(work func()) { work() }
