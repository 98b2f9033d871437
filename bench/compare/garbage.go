package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"spindle/bench/counters"
)

const (
	garbageRate   = 100e6 // bytes a second
	garbageCall   = `{"jsonrpc":"2.0","method":"rpc_get_methods","id":1}`
	garbageBatch  = 5 * time.Millisecond // how often calls are made up for
	calibration   = 10 * time.Second     // at most
	calibrateOver = 2                    // collections
	controlWait   = 5 * time.Second
)

// caller makes one RPC after another on one connection, allocating nothing:
// the answer is the same each time, so its length is enough to find its end.
type caller struct {
	conn net.Conn
	size int
	buf  []byte
}

func newCaller(socket string) (*caller, error) {
	if socket == "" {
		return nil, errors.New("it has no RPC socket to make garbage by")
	}
	conn, err := net.DialTimeout("unix", socket, controlWait)
	if err != nil {
		return nil, err
	}
	c := &caller{conn: conn, buf: make([]byte, 64<<10)}
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

func (c *caller) call() error {
	if _, err := io.WriteString(c.conn, garbageCall); err != nil {
		return err
	}
	for left := c.size; left > 0; {
		n, err := c.conn.Read(c.buf[:min(left, len(c.buf))])
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// makeGarbage has a target's control plane make garbageRate bytes of garbage a
// second, until stop is called. The target runs with counters.GCTrace.
func makeGarbage(c *contestant) (stop func(), err error) {
	c.run.Resume()
	k, err := newCaller(c.run.Control)
	if err == nil && c.perCall == 0 {
		c.perCall, err = calibrate(c, k)
	}
	if err != nil {
		c.run.Pause()
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	var ended sync.WaitGroup
	end := make(chan struct{})
	ended.Go(func() {
		tick := time.NewTicker(garbageBatch)
		defer tick.Stop()
		begin, made := time.Now(), 0.0
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			for due := time.Since(begin).Seconds() * garbageRate; made < due; made += c.perCall {
				if k.call() != nil {
					return // the run itself tells that the target has gone
				}
			}
		}
	})
	return func() {
		close(end)
		_ = k.conn.SetDeadline(time.Now().Add(controlWait))
		ended.Wait()
		k.conn.Close()
		c.run.Pause()
	}, nil
}

// calibrate tells how many bytes of garbage a call makes.
func calibrate(c *contestant, k *caller) (float64, error) {
	var from, calls int
	begin := time.Now()
	_, last := counters.Collections(c.run.Said(), 0)
	for start := last; time.Since(begin) < calibration; {
		for range 50 {
			if err := k.call(); err != nil {
				return 0, err
			}
			calls++
		}
		g, now := counters.Collections(c.run.Said(), last)
		switch {
		case now == start:
		case from == 0: // the first collection after the start: count from here
			from, last = calls, now
		case g.Cycles >= calibrateOver && g.Garbage > 0:
			return float64(g.Garbage) / float64(calls-from), nil
		}
	}
	return 0, fmt.Errorf("%d calls made too little garbage to tell how much", calls)
}
