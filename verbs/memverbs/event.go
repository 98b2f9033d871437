package memverbs

import (
	"fmt"
	"math/bits"

	"spindle/reactor/clock"
)

// Kind says what an Event is.
type Kind uint8

// Pending events are of the first five kinds; a trace has all of them.
const (
	Transmit Kind = iota + 1 // queue pair ID sends its next request
	Ack                      // queue pair ID hears what has arrived; N requests
	Read                     // an RDMA READ of queue pair ID takes place
	Flush                    // queue pair ID, in error, flushes its requests
	Manage                   // a message of the connection manager reaches identifier ID
	Complete                 // queue pair ID got a completion; N is its status
	Announce                 // a source of events became ready
	Async                    // an asynchronous event
	Injected                 // a fault
	Remove                   // a device went
	Die                      // a node went
)

var kindNames = [...]string{"", "transmit", "ack", "read", "flush", "manage", "complete", "announce", "async", "fault", "remove", "die"}

func (k Kind) String() string { return kindNames[k] }

// Event is one step of the World, pending or done.
type Event struct {
	At   clock.Time
	Kind Kind
	Op   string // operation, message or fault
	ID   int    // queue pair or identifier, by Kind, in order of making
	N    int64
}

func (e Event) String() string {
	return fmt.Sprintf("%12d %-8s %-14s id=%d n=%d", e.At, e.Kind, e.Op, e.ID, e.N)
}

// event is a pending Event, embedded in its owner.
type event struct {
	at   clock.Time
	seq  uint64
	slot int // 1-based place in the heap; 0 is not pending
	kind Kind
	qp   *queuePair
	send *send // of Read
	id   *id   // of Manage
}

func (e *event) before(f *event) bool {
	return e.at < f.at || e.at == f.at && e.seq < f.seq
}

// eventHeap is a binary heap by time, then order of making.
type eventHeap []*event

func (h *eventHeap) push(e *event) {
	*h = append(*h, e)
	e.slot = len(*h)
	h.up(e.slot - 1)
}

func (h *eventHeap) remove(e *event) {
	old := *h
	i, last := e.slot-1, len(old)-1
	if i != last {
		old[i] = old[last]
		old[i].slot = i + 1
	}
	old[last] = nil
	*h = old[:last]
	if i < last {
		h.up(h.down(i))
	}
	e.slot = 0
}

func (h eventHeap) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if !h[i].before(h[p]) {
			return
		}
		h.swap(i, p)
		i = p
	}
}

func (h eventHeap) down(i int) int {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return i
		}
		if c+1 < len(h) && h[c+1].before(h[c]) {
			c++
		}
		if !h[c].before(h[i]) {
			return i
		}
		h.swap(i, c)
		i = c
	}
}

func (h eventHeap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].slot, h[j].slot = i+1, j+1
}

// fingerprint folds a run into 64 bits.
type fingerprint uint64

func (f *fingerprint) mix(v uint64) {
	*f = fingerprint(bits.RotateLeft64((uint64(*f)^v)*0x9E3779B97F4A7C15, 29))
}

func (f *fingerprint) add(e *Event) {
	f.mix(uint64(e.At))
	f.mix(uint64(e.Kind)<<56 ^ uint64(e.ID))
	for i := range len(e.Op) {
		f.mix(uint64(e.Op[i]))
	}
	f.mix(uint64(e.N))
}
