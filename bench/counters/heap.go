package counters

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Heap is what a Go program has allocated and collected since it started, or
// between two readings.
type Heap struct {
	Objects     int64         `json:"objects"`
	Bytes       int64         `json:"bytes"`
	Collections int64         `json:"collections"`
	Pauses      time.Duration `json:"pauses_ns"` // of the world, altogether
}

// Sub is what came since before.
func (h Heap) Sub(before Heap) Heap {
	return Heap{h.Objects - before.Objects, h.Bytes - before.Bytes, h.Collections - before.Collections, h.Pauses - before.Pauses}
}

// errNoHeap: a target does not tell what it allocates.
var errNoHeap = errors.New("the target does not tell what it allocates")

const (
	heapCall = `{"jsonrpc":"2.0","method":"framework_get_heap","id":1}`
	heapAsks = 8 // with nothing between, to know what asking costs
	heapWait = 5 * time.Second
)

// HeapMeter asks a target for its heap, over its RPC socket. A nil one is of a
// target that does not tell.
type HeapMeter struct {
	conn net.Conn
	in   *json.Decoder
	cost Heap // of an answer
	last Heap
}

// OpenHeap begins to ask the target behind a socket. It is nil when there is no
// socket, or the target knows no such thing.
func OpenHeap(socket string) (*HeapMeter, error) {
	if socket == "" {
		return nil, nil
	}
	conn, err := net.DialTimeout("unix", socket, heapWait)
	if err != nil {
		return nil, err
	}
	m := &HeapMeter{conn: conn, in: json.NewDecoder(conn)}
	for i := range heapAsks {
		before := m.last
		if m.last, err = m.ask(); err != nil {
			conn.Close()
			if errors.Is(err, errNoHeap) {
				err = nil
			}
			return nil, err
		}
		d := m.last.Sub(before)
		// What the first answer warms up is no later one's cost.
		if i == 1 || i > 1 && d.Bytes < m.cost.Bytes {
			m.cost = Heap{Objects: d.Objects, Bytes: d.Bytes}
		}
	}
	return m, nil
}

// Read is what the target did since it was read before, less the asking.
func (m *HeapMeter) Read() (*Heap, error) {
	if m == nil {
		return nil, nil
	}
	now, err := m.ask()
	if err != nil {
		return nil, err
	}
	d := now.Sub(m.last).Sub(m.cost)
	m.last = now
	d.Objects, d.Bytes = max(0, d.Objects), max(0, d.Bytes)
	return &d, nil
}

// ask is what the target has done since it started.
func (m *HeapMeter) ask() (Heap, error) {
	if err := m.conn.SetDeadline(time.Now().Add(heapWait)); err != nil {
		return Heap{}, err
	}
	if _, err := io.WriteString(m.conn, heapCall); err != nil {
		return Heap{}, err
	}
	var answer struct {
		Error  json.RawMessage
		Result struct {
			TickRate                    float64 `json:"tick_rate"`
			Objects, Bytes, Collections int64
			Paused                      float64 // ticks
		}
	}
	if err := m.in.Decode(&answer); err != nil {
		return Heap{}, fmt.Errorf("framework_get_heap: %w", err)
	}
	r := answer.Result
	if answer.Error != nil || r.TickRate == 0 {
		return Heap{}, errNoHeap
	}
	return Heap{r.Objects, r.Bytes, r.Collections, time.Duration(r.Paused * 1e9 / r.TickRate)}, nil
}

// Close ends the asking.
func (m *HeapMeter) Close() {
	if m != nil {
		m.conn.Close()
	}
}
