package clients

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spindle/internal/testbed"
)

// Test128Connections: all log in to one node, all make progress together, and
// what they took is given back.
func Test128Connections(t *testing.T) {
	const hosts, reads = 128, 50
	target := start(t, testbed.Options{Args: []string{"--cores", "0x3"}})
	warm(t, target)
	before := measure(t, target.PID())

	conns := make([]*initiator, hosts)
	for i := range conns {
		c, err := dial(target.Addr(), i)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer c.conn.Close()
		conns[i] = c
	}
	var wg sync.WaitGroup
	var round [reads]atomic.Int64
	for _, c := range conns {
		wg.Go(func() {
			if err := c.settle(testbed.Malloc); err != nil {
				t.Error(err)
				return
			}
			for i := range reads {
				if _, err := c.read(testbed.Malloc, uint32(i*8), 8); err != nil {
					t.Errorf("%s: %v", c.name, err)
					return
				}
				round[i].Add(1)
			}
		})
	}
	wg.Wait()
	if n := round[reads-1].Load(); n != hosts {
		t.Errorf("%d of %d finished", n, hosts)
	}
	onReactors(t, target, hosts)
	during := measure(t, target.PID())
	if grown := during.rss - before.rss; grown > 256<<20 {
		t.Errorf("128 connections took %d MiB", grown>>20)
	}
	for _, c := range conns {
		if err := c.logout(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	waitFDs(t, target, before.fds)
}

// onReactors checks that the connections of one node are spread evenly over both reactors.
func onReactors(t *testing.T, target *testbed.Target, conns int) {
	t.Helper()
	out, err := target.RPC(t.Context(), "iscsi_get_connections")
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		Thread string `json:"thread_name"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, c := range list {
		count[c.Thread]++
	}
	if len(list) != conns || len(count) != 2 {
		t.Fatalf("%d connections on %v, want %d on two reactors", len(list), count, conns)
	}
	for name, n := range count {
		if n != conns/2 {
			t.Errorf("%s has %d of %d connections", name, n, conns)
		}
	}
}

// TestLoginChurn: ten thousand sessions come and go and leave nothing behind.
func TestLoginChurn(t *testing.T) {
	cycles := 10_000
	if testing.Short() {
		cycles = 500
	}
	// By itself the collector wakes at the memory limit alone; one that runs all
	// the time shows what is kept, and not what waits to be collected.
	target := start(t, testbed.Options{
		Env:   []string{"GOGC=50"},
		ISCSI: map[string]any{"max_logins_per_second": 1 << 20}, // all come from one address, as fast as they can
	})
	churn(t, target, cycles/5)
	before := measure(t, target.PID())
	began := time.Now()
	churn(t, target, cycles)
	t.Logf("%.0f logins a second", float64(cycles)/time.Since(began).Seconds())
	waitFDs(t, target, before.fds)
	after := measure(t, target.PID())
	if grown := after.rss - before.rss; grown > 16<<20 {
		t.Errorf("memory grew by %d KiB over %d logins", grown>>10, cycles)
	}
	if after.threads > before.threads+2 {
		t.Errorf("%d threads became %d", before.threads, after.threads)
	}
}

// churn logs in and out again, from four hosts at a time.
func churn(t *testing.T, target *testbed.Target, cycles int) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for host := range 4 {
		wg.Go(func() {
			for next.Add(1) <= int64(cycles) {
				c, err := dial(target.Addr(), host)
				if err == nil {
					err = c.logout()
				}
				if err != nil {
					t.Errorf("login %d: %v", next.Load(), err)
					next.Store(int64(cycles))
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestNoiseDisturbsNobody: a stream of reads goes on while strangers knock.
func TestNoiseDisturbsNobody(t *testing.T) {
	target := start(t, testbed.Options{})
	warm(t, target)
	for _, c := range []struct {
		name  string
		knock func(addr string) error
	}{
		{"port scanner", scan},
		{"web browser", browse},
		{"a MiB of noise", noise},
		{"half of a login", half},
		{"silence", silence},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := measure(t, target.PID())
			s := stream(t, target)
			s.wait(t, 50)
			if err := c.knock(target.Addr()); err != nil {
				t.Error(err)
			}
			s.wait(t, 50)
			s.stop(t)
			if c.name != "silence" { // the login timeout ends those later
				waitFDs(t, target, before.fds)
			}
		})
	}
}

// scan opens and closes connections, some by reset, and says nothing.
func scan(addr string) error {
	for i := range 500 {
		c, err := net.DialTimeout("tcp", addr, stall)
		if err != nil {
			return err
		}
		if i%2 == 0 {
			if err := c.(*net.TCPConn).SetLinger(0); err != nil {
				return err
			}
		}
		c.Close()
	}
	return nil
}

func browse(addr string) error {
	return speak(addr, []byte("GET / HTTP/1.1\r\nHost: spindle\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n"))
}

func noise(addr string) error {
	for range 8 {
		b := make([]byte, 1<<20)
		if _, err := rand.Read(b); err != nil {
			return err
		}
		if err := speak(addr, b); err != nil {
			return err
		}
	}
	return nil
}

// half sends a Login Request that promises more than it brings, and leaves.
func half(addr string) error {
	h := make([]byte, 48+100)
	h[0], h[1], h[6] = 0x43, 0x87, 200
	c, err := net.DialTimeout("tcp", addr, stall)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(h)
	return err
}

// silence leaves connections open that say nothing.
func silence(addr string) error {
	for range 32 {
		c, err := net.DialTimeout("tcp", addr, stall)
		if err != nil {
			return err
		}
		time.AfterFunc(3*time.Second, func() { c.Close() })
	}
	return nil
}

// speak writes b and reads until the target ends the connection, which it has
// to do; that it may do so before all is written is no error.
func speak(addr string, b []byte) error {
	c, err := net.DialTimeout("tcp", addr, stall)
	if err != nil {
		return err
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(b)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if err := c.SetReadDeadline(time.Now().Add(2 * stall)); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return fmt.Errorf("the target keeps a connection that speaks no iSCSI")
	}
	return nil
}

// reader is a stream of reads in the background.
type reader struct {
	done  atomic.Int64
	ended chan error
	quit  atomic.Bool
}

func stream(t *testing.T, target *testbed.Target) *reader {
	t.Helper()
	c, err := dial(target.Addr(), 999)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.settle(testbed.Malloc); err != nil {
		t.Fatal(err)
	}
	r := &reader{ended: make(chan error, 1)}
	go func() {
		for !r.quit.Load() {
			if _, err := c.read(testbed.Malloc, 0, 8); err != nil {
				c.conn.Close()
				r.ended <- err
				return
			}
			r.done.Add(1)
		}
		r.ended <- c.logout()
	}()
	return r
}

// wait until n more reads are done.
func (r *reader) wait(t *testing.T, n int64) {
	t.Helper()
	goal := r.done.Load() + n
	for end := time.Now().Add(stall); r.done.Load() < goal; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the stream stands still")
		}
		select {
		case err := <-r.ended:
			t.Fatalf("the stream broke: %v", err)
		default:
		}
	}
}

func (r *reader) stop(t *testing.T) {
	t.Helper()
	r.quit.Store(true)
	if err := <-r.ended; err != nil {
		t.Errorf("the stream: %v", err)
	}
}

// warm makes the target touch what it touches only once.
func warm(t *testing.T, target *testbed.Target) {
	t.Helper()
	s := stream(t, target)
	s.wait(t, 10)
	s.stop(t)
}

// waitFDs waits until the target's descriptors are back at n.
func waitFDs(t *testing.T, target *testbed.Target, n int) {
	t.Helper()
	for end := time.Now().Add(stall); ; time.Sleep(20 * time.Millisecond) {
		now := measure(t, target.PID()).fds
		if now <= n {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%d descriptors before, %d now", n, now)
			return
		}
	}
}
