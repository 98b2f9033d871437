package limit

import (
	"context"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"spindle/bench/wire"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/uring"
)

// LUNs.
const (
	Null = 0
	RAM  = 1
)

const (
	// DefaultConnections is how many initiators there may be at a time.
	DefaultConnections = 64

	block      = 512
	canned     = mem.MaxBlock // bytes that LUN 0 answers with
	buffers    = 64
	bufferSize = 32 << 10
	backlog    = 1024 // a full one costs initiators a second
	vecs       = 508  // and their header fit a block of 8 KiB
	spin       = time.Millisecond

	tagAccept = ring.Tag(1<<32 - 1)
)

// Options of a responder.
type Options struct {
	Addr        string // host:port; port 0 chooses one
	CPU         int    // -1 leaves it
	Size        uint64 // of each LUN, in bytes
	RAM         bool   // serve LUN 1, which takes memory of that size
	Connections int
	Congestion  string
	Ready       func(netip.AddrPort) // called when it listens
}

type server struct {
	o       Options
	loop    *wire.Loop
	kernel  uring.Kernel
	listen  ring.File
	fd      int
	canned  mem.Ref
	ram     *mem.Region
	conns   []*conn // by tag
	free    []*conn
	dirty   []*conn // capacity: every connection
	headers uint32  // bytes of a connection's batch
	armed   bool    // the multishot accept is in flight
	stop    atomic.Bool
}

// Serve answers initiators until ctx ends.
func Serve(ctx context.Context, o Options) error {
	runtime.LockOSThread()
	defer wire.QuietCollector()()
	if o.Connections == 0 {
		o.Connections = DefaultConnections
	}
	s := &server{o: o, fd: -1}
	if err := s.start(); err != nil {
		return err
	}
	defer s.close()
	defer context.AfterFunc(ctx, func() { s.stop.Store(true); s.loop.Ring.Wake() })()
	return s.run()
}

func (s *server) start() error {
	addr, err := netip.ParseAddrPort(s.o.Addr)
	if err != nil {
		return err
	}
	s.headers = 128 << 10
	if s.o.Connections > DefaultConnections {
		s.headers = 32 << 10
	}
	need := uint64(s.o.Connections)*wire.SenderMemory(s.headers, vecs) + canned
	s.loop, err = wire.New(wire.Options{CPU: s.o.CPU, Memory: need, Files: s.o.Connections + 1, Buffers: buffers, Buffer: bufferSize})
	if err != nil {
		return err
	}
	if s.canned, err = s.loop.Alloc(canned); err != nil {
		return err
	}
	for i, b := 0, s.canned.Bytes(); i < len(b); i++ {
		b[i] = byte(uint32(i) * 2654435761 >> 24)
	}
	if s.o.RAM {
		if s.ram, err = mem.NewSpace().Map(s.o.Size, -1); err != nil {
			return err
		}
		if err := s.ram.Populate(); err != nil {
			return err
		}
	}
	fd, bound, err := s.kernel.Listen(addr, ring.ListenOptions{Backlog: backlog, Congestion: s.o.Congestion})
	if err != nil {
		return err
	}
	s.fd = fd
	if s.listen, err = s.loop.Ring.Install(fd); err != nil {
		return err
	}
	s.dirty = make([]*conn, 0, s.o.Connections)
	if s.o.Ready != nil {
		s.o.Ready(bound)
	}
	return nil
}

// close ends everything with the process or the test in view: the kernel closes
// what is left.
func (s *server) close() {
	for _, c := range s.conns {
		if c.fd >= 0 {
			_ = s.kernel.CloseFD(c.fd)
		}
	}
	s.loop.Close()
	_ = s.kernel.CloseFD(s.fd)
}

//spindle:hot
func (s *server) run() error {
	quiet := clock.Never
	for !s.stop.Load() {
		if !s.armed {
			s.armed = s.loop.Ring.Accept(tagAccept, s.listen)
		}
		until := clock.Time(0)
		if quiet != clock.Never && s.loop.Clock.Now() > quiet {
			until = clock.Never
		}
		cqes, err := s.loop.Turn(until)
		if err != nil {
			return err
		}
		if len(cqes) == 0 && len(s.dirty) == 0 {
			if quiet == clock.Never {
				quiet = s.loop.Clock.Now().Add(spin)
			}
			continue
		}
		quiet = clock.Never
		for _, q := range cqes {
			s.completed(q)
		}
		again := 0
		for _, c := range s.dirty {
			if c.dirty = c.work(); c.dirty {
				s.dirty[again] = c
				again++
			}
		}
		s.dirty = s.dirty[:again]
	}
	return nil
}

//spindle:hot
func (s *server) completed(q ring.CQE) {
	if q.Tag == tagAccept {
		s.armed = q.Flags&ring.FlagMore != 0
		if q.Res >= 0 {
			s.accepted(int(q.Res))
		}
		return
	}
	c := s.conns[q.Tag>>opBits]
	if !c.dirty {
		c.dirty = true
		s.dirty = append(s.dirty, c) // within capacity: once a connection
	}
	switch q.Tag & (1<<opBits - 1) {
	case opShutdown:
		c.ending = false
		return
	case opSend:
		if c.tx.Sent(q.Res) != nil {
			c.dead = true
		}
		return
	}
	c.armed = c.armed && q.Flags&ring.FlagMore != 0
	if q.Flags&ring.FlagBuffer == 0 {
		if q.Res <= 0 && !refillable(q.Res) {
			c.dead = true
		}
		return
	}
	if !c.dead && !c.receive(s.loop.Received(q)) {
		c.dead = true
	}
	s.loop.Ring.Recycle(s.loop.Group, q.BufferID())
}

// accepted makes a connection of a socket.
func (s *server) accepted(fd int) {
	var c *conn
	switch {
	case len(s.free) > 0:
		c = s.free[len(s.free)-1]
		s.free = s.free[:len(s.free)-1]
	case len(s.conns) < s.o.Connections:
		c = &conn{s: s, id: len(s.conns)}
		s.conns = append(s.conns, c)
	default:
		_ = s.kernel.CloseFD(fd) // as many as were asked for are there
		return
	}
	file, err := s.loop.Ring.Install(fd)
	if err == nil {
		err = c.start(fd, file)
	}
	if err != nil {
		_ = s.kernel.CloseFD(fd)
		s.free = append(s.free, c)
		return
	}
	c.dirty = true
	s.dirty = append(s.dirty, c)
}

// memory is the n bytes at a LUN's offset; LUN 0 has the same everywhere.
//
//spindle:hot
func (s *server) memory(lun uint8, off uint64, n uint32) (mem.Ref, bool) {
	switch {
	case off > s.o.Size || uint64(n) > s.o.Size-off:
	case lun == Null && n <= canned:
		return s.canned.Slice(0, n), true
	case lun == RAM && s.ram != nil:
		return s.ram.Ref(off, n), true
	}
	return mem.Ref{}, false
}
