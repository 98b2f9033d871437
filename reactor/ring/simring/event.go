package simring

import (
	"fmt"
	"math/bits"

	"spindle/reactor/clock"
	"spindle/reactor/ring"
)

// Kind says what an Event is.
type Kind uint8

// Pending events are of the first five kinds; a trace has all of them.
const (
	Deliver  Kind = iota + 1 // bytes, FIN or RST of one direction of connection ID; N bytes moved
	Accept                   // connection ID becomes acceptable
	Socket                   // a send or shutdown on connection ID executes
	Storage                  // an operation on disk ID executes
	Control                  // a cancel executes or a poll fires for no reason
	Complete                 // ring ID got a completion: Tag, N is its result
	Dial                     // connection ID was made
	Wake                     // ring ID was woken
	Sleep                    // ring ID sleeps until time N
	Injected                 // a fault
	Kill                     // the process died
	Crash                    // disk ID lost power
)

var kindNames = [...]string{"", "deliver", "accept", "socket", "storage", "control",
	"complete", "dial", "wake", "sleep", "fault", "kill", "crash"}

func (k Kind) String() string { return kindNames[k] }

// Event is one step of the World, pending or done.
type Event struct {
	At    clock.Time
	Kind  Kind
	Op    string // operation, direction or fault
	ID    int    // connection, disk or ring, by Kind, in order of making
	Tag   ring.Tag
	N     int64
	Flags uint32
}

func (e Event) String() string {
	return fmt.Sprintf("%12d %-8s %-11s id=%d tag=%#x n=%d fl=%#x", e.At, e.Kind, e.Op, e.ID, uint64(e.Tag), e.N, e.Flags)
}

// event is a pending Event, embedded in its owner: an operation, a direction
// of a connection, or a connection in the backlog.
type event struct {
	at   clock.Time
	seq  uint64
	slot int // 1-based place in the heap; 0 is not pending
	kind Kind
	op   *op
	st   *stream
	c    *conn
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
	f.mix(uint64(e.Kind)<<56 ^ uint64(e.ID)<<24 ^ uint64(e.Flags))
	for i := range len(e.Op) {
		f.mix(uint64(e.Op[i]))
	}
	f.mix(uint64(e.Tag))
	f.mix(uint64(e.N))
}
