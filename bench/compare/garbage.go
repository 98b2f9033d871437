package compare

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"spindle/bench/counters"
)

const (
	garbageRate  = 100e6 // bytes a second
	enoughRate   = 0.8 * garbageRate
	garbageCall  = `{"jsonrpc":"2.0","method":"rpc_get_methods","id":1}`
	garbageBatch = 5 * time.Millisecond // how often calls are made up for
	pipelined    = 128                  // calls of a batch, at most
	calibration  = 30 * time.Second     // at most
	controlWait  = 5 * time.Second
)

// caller makes RPCs on one connection, allocating nothing: the answer is the
// same each time, so its length is enough to find its end. It asks for several
// at once, because a wake-up at either end costs more than an RPC.
type caller struct {
	conn     net.Conn
	size     int
	requests []byte // pipelined of them
	buf      []byte
}

func newCaller(socket string) (*caller, error) {
	if socket == "" {
		return nil, errors.New("it has no RPC socket to make garbage by")
	}
	conn, err := net.DialTimeout("unix", socket, controlWait)
	if err != nil {
		return nil, err
	}
	c := &caller{conn: conn, requests: bytes.Repeat([]byte(garbageCall), pipelined), buf: make([]byte, 64<<10)}
	if err := c.first(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("RPC: %w", err)
	}
	return c, nil
}

// first learns how long the answer is, with the line end behind it.
func (c *caller) first() error {
	if err := c.conn.SetDeadline(time.Now().Add(controlWait)); err != nil {
		return err
	}
	if _, err := c.conn.Write([]byte(garbageCall)); err != nil {
		return err
	}
	d := json.NewDecoder(c.conn)
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return err
	}
	rest, err := io.ReadAll(d.Buffered())
	if err != nil {
		return err
	}
	if c.size = len(raw) + len(rest); len(rest) == 0 {
		c.size++ // the line end is still to come
		if _, err := io.ReadFull(c.conn, c.buf[:1]); err != nil {
			return err
		}
	}
	return c.conn.SetDeadline(time.Time{})
}

// call makes n RPCs.
func (c *caller) call(n int) error {
	if _, err := c.conn.Write(c.requests[:n*len(garbageCall)]); err != nil {
		return err
	}
	for left := n * c.size; left > 0; {
		n, err := c.conn.Read(c.buf[:min(left, len(c.buf))])
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// litter is garbage in the making.
type litter struct {
	k       *caller
	perCall float64
	calls   atomic.Int64
	end     chan struct{}
	ended   sync.WaitGroup
}

// makeGarbage has a target's control plane make garbageRate bytes of garbage a
// second, until stop is called. The target runs with counters.GCTrace.
func makeGarbage(c *contestant) (l *litter, stop func(), err error) {
	c.run.Resume()
	k, err := newCaller(c.run.Control)
	if err == nil && c.perCall == 0 {
		c.perCall, err = calibrate(c.run.Said, k)
	}
	if err != nil {
		c.run.Pause()
		return nil, nil, fmt.Errorf("%s: %w", c.name, err)
	}
	l = &litter{k: k, perCall: c.perCall, end: make(chan struct{})}
	l.ended.Go(l.make)
	return l, func() { l.stop(); c.run.Pause() }, nil
}

// make calls as often as the rate wants it. What a stall has left undone is made
// up for bit by bit.
func (l *litter) make() {
	tick := time.NewTicker(garbageBatch)
	defer tick.Stop()
	for begin := time.Now(); ; {
		select {
		case <-l.end:
			return
		case <-tick.C:
		}
		n := min(pipelined, int((time.Since(begin).Seconds()*garbageRate-l.made())/l.perCall))
		if n <= 0 {
			continue
		}
		if l.k.call(n) != nil {
			return // the run itself tells that the target has gone
		}
		l.calls.Add(int64(n))
	}
}

// made is how many bytes of garbage there are by now.
func (l *litter) made() float64 { return float64(l.calls.Load()) * l.perCall }

func (l *litter) stop() {
	close(l.end)
	_ = l.k.conn.SetDeadline(time.Now().Add(controlWait))
	l.ended.Wait()
	l.k.conn.Close()
}

// calibrate tells how many bytes of garbage a call makes: as many as there are
// between two collections, over the calls between them. said is what the target
// has written.
func calibrate(said func() string, k *caller) (float64, error) {
	calls, from := 0, -1
	_, last := counters.Collections(said(), 0)
	for begin := time.Now(); time.Since(begin) < calibration; {
		if err := k.call(pipelined); err != nil {
			return 0, err
		}
		calls += pipelined
		g, now := counters.Collections(said(), last)
		switch {
		case g.Cycles == 0:
		case from < 0: // what was there before is collected: count from here
			from, last = calls, now
		case g.Garbage > 0:
			return float64(g.Garbage) / float64(calls-from), nil
		}
	}
	return 0, fmt.Errorf("%d calls made too little garbage to tell how much", calls)
}
