package counters

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"spindle/internal/testbed"
)

// teller answers each request with what the next of its answers is, on one
// connection.
func teller(t *testing.T, answer func(n int) string) (socket string) {
	t.Helper()
	socket = testbed.Socket(t, func(conn net.Conn) {
		in := json.NewDecoder(conn)
		for n := 0; ; n++ {
			var request struct{ Method string }
			if in.Decode(&request) != nil || request.Method != "framework_get_heap" {
				return
			}
			if _, err := io.WriteString(conn, answer(n)+"\n"); err != nil {
				return
			}
		}
	})
	return socket
}

// TestHeap: an answer costs 10 objects of 100 bytes, the first 50; what is left
// is the target's.
func TestHeap(t *testing.T) {
	work := int64(0)
	m, err := OpenHeap(teller(t, func(n int) string {
		n += 10 // since the start
		if n > 10 {
			n += 4 // the first
		}
		return fmt.Sprintf(`{"result":{"tick_rate":1000000,"objects":%d,"bytes":%d,"collections":%d,"paused":%d},"id":1}`,
			int64(n)*10+work, (int64(n)*10+work)*100, 3+work, 7*work)
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, c := range []struct {
		name string
		work int64
		want Heap
	}{
		{"nothing", 0, Heap{}},
		{"work", 2, Heap{2, 200, 2, 14 * time.Microsecond}},
		{"nothing since", 2, Heap{}},
	} {
		work = c.work
		if got, err := m.Read(); err != nil || *got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

func TestNoHeap(t *testing.T) {
	for _, c := range []struct {
		name   string
		socket string
		fails  bool
	}{
		{"another's", teller(t, func(int) string { return `{"error":{"code":-32601,"message":"Method not found"},"id":1}` }), false},
		{"an empty answer", teller(t, func(int) string { return `{"result":{},"id":1}` }), false},
		{"no answer", teller(t, func(int) string { return "?" }), true},
		{"no socket", "", false},
		{"none there", "/nowhere/s", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := OpenHeap(c.socket)
			if m != nil || (err != nil) != c.fails {
				t.Fatalf("%v, %v", m, err)
			}
			if h, err := m.Read(); h != nil || err != nil {
				t.Errorf("%+v, %v", h, err)
			}
			m.Close()
		})
	}
}
