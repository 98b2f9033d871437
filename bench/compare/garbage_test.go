package compare

import (
	"bytes"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"spindle/internal/testbed"
)

// chatter is a control plane that answers every request and collects its garbage
// after a number of them, as gctrace tells it.
type chatter struct {
	every int64
	calls atomic.Int64
}

func (c *chatter) said() string {
	text := ""
	for n := int64(1); c.every > 0 && n <= c.calls.Load()/c.every; n++ {
		text += fmt.Sprintf("gc %d @1.0s 0%%: 0.1+0.4+0.1 ms clock, 0.1+0.1/0.3/0.2+0.01 ms cpu, 201->201->1 MB, 233 MB goal, 0 MB stacks, 0 MB globals, 3 P\n", n)
	}
	return text
}

func (c *chatter) serve(t *testing.T) *caller {
	t.Helper()
	socket := testbed.Socket(t, func(conn net.Conn) {
		buf, open := make([]byte, 64<<10), 0
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			open += n
			whole := open / len(garbageCall)
			open -= whole * len(garbageCall)
			c.calls.Add(int64(whole))
			if _, err := conn.Write(bytes.Repeat([]byte("{\"result\":[\"rpc_get_methods\"],\"id\":1}\n"), whole)); err != nil {
				return
			}
		}
	})
	k, err := newCaller(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.conn.Close() })
	return k
}

// TestCalibrate: what a call makes is known at the second collection. A third
// would take longer than there is, where some thousand calls a second are answered.
func TestCalibrate(t *testing.T) {
	c := &chatter{every: 20 * pipelined}
	got, err := calibrate(c.said, c.serve(t))
	if want := float64(200<<20) / float64(c.every); err != nil || got < 0.9*want || got > 1.1*want {
		t.Errorf("%.0f bytes a call, %v; want %.0f", got, err, want)
	}
	if n := c.calls.Load(); n > 2*c.every+pipelined {
		t.Errorf("it took %d calls, with a collection after each %d", n, c.every)
	}
}

// TestGarbageComesAtItsRate: never more than was due, and what was made is counted.
func TestGarbageComesAtItsRate(t *testing.T) {
	c := &chatter{}
	l := &litter{k: c.serve(t), perCall: 10_000, end: make(chan struct{})}
	begin := time.Now()
	l.ended.Go(l.make)
	for l.made() < garbageRate/10 && time.Since(begin) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	l.stop()
	due := time.Since(begin).Seconds() * garbageRate
	if made := l.made(); made < garbageRate/10 || made > due {
		t.Errorf("%.0f bytes of garbage in %v, at most %.0f", made, time.Since(begin), due)
	}
	if asked := c.calls.Load(); asked != l.calls.Load()+1 { // the first told how long an answer is
		t.Errorf("%d calls counted, %d made", l.calls.Load(), asked)
	}
}
