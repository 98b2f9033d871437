package verbs

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"spindle/reactor/mem"
)

func batch(t *testing.T, sends, recvs, sges int) (*Batch, mem.Ref) {
	t.Helper()
	r, err := mem.NewSpace().Map(1<<20, -1)
	if err != nil {
		t.Fatal(err)
	}
	m := r.Ref(0, BatchSize(sends, recvs, sges))
	return NewBatch(m, sends, recvs, sges), m
}

func TestBatchLiesInItsMemory(t *testing.T) {
	b, m := batch(t, 3, 2, 4)
	if !b.Empty() || !b.Room(3, 2, 4) || b.Room(4, 0, 0) || b.Room(0, 3, 0) || b.Room(0, 0, 5) {
		t.Fatalf("room of an empty batch: %d %d %d", cap(b.Sends), cap(b.Recvs), cap(b.SGEs))
	}
	b.Send(SendWR{ID: NewWRID(1, 2, 3), QP: 7, Op: OpRDMAWrite, RemoteAddr: 8, RKey: 9, Err: 5}, SGE{1, 2, 3}, SGE{4, 5, 6})
	b.Recv(7, NewWRID(4, 5, 6), SGE{7, 8, 9})
	b.Send(SendWR{QP: 8}, SGE{10, 11, 12})
	if b.Empty() || !b.Room(1, 1, 0) || b.Room(0, 0, 1) {
		t.Error("room of a full batch")
	}
	first, last := &b.Sends[0], &b.SGEs[3]
	end := uintptr(unsafe.Pointer(last)) + unsafe.Sizeof(*last)
	if uintptr(unsafe.Pointer(first)) != m.Addr || end != m.Addr+uintptr(m.Len) {
		t.Errorf("the batch is not in its memory: %p to %#x, memory at %#x, %d bytes", first, end, m.Addr, m.Len)
	}
	if first.First != 0 || first.NumSGE != 2 || first.Err != 0 || b.Sends[1].First != 3 || b.Recvs[0].First != 2 {
		t.Errorf("%+v %+v", b.Sends, b.Recvs)
	}
	if got := b.SGEsOf(first.First, first.NumSGE); len(got) != 2 || got[1] != (SGE{4, 5, 6}) {
		t.Errorf("%+v", got)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("an SGE beyond the room was taken")
			}
		}()
		b.Send(SendWR{}, SGE{})
	}()
	b.Reset()
	if !b.Empty() || !b.Room(3, 2, 4) {
		t.Error("not empty after Reset")
	}
}

func TestBatchAllocatesNothing(t *testing.T) {
	b, _ := batch(t, 8, 8, 16)
	if n := testing.AllocsPerRun(100, func() {
		b.Reset()
		for range 8 {
			b.Send(SendWR{QP: 1}, SGE{})
			b.Recv(1, 2, SGE{})
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestMemoryOfABatchIsChecked(t *testing.T) {
	_, m := batch(t, 8, 8, 8)
	for _, tc := range []struct {
		name string
		m    mem.Ref
	}{
		{"too small", m.Slice(0, CompletionsSize(4)-1)},
		{"not aligned", m.Slice(4, CompletionsSize(4))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("taken")
				}
			}()
			NewCompletions(tc.m, 4)
		})
	}
	if wcs := NewCompletions(m, 4); len(wcs) != 4 || uintptr(unsafe.Pointer(&wcs[0])) != m.Addr {
		t.Errorf("%d completions", len(wcs))
	}
}

func TestWRID(t *testing.T) {
	for _, tc := range []struct {
		name    string
		slot    uint32
		gen, op uint16
	}{
		{"zero", 0, 0, 0}, {"ones", 1<<32 - 1, 1<<16 - 1, 1<<16 - 1}, {"mixed", 0xdeadbeef, 0x1234, 0x5678},
	} {
		id := NewWRID(tc.slot, tc.gen, tc.op)
		if id.Slot() != tc.slot || id.Gen() != tc.gen || id.Op() != tc.op {
			t.Errorf("%s: %#x comes back as %#x, %#x, %#x", tc.name, id, id.Slot(), id.Gen(), id.Op())
		}
	}
}

func TestEventKeepsItsPrivateData(t *testing.T) {
	src := []byte(strings.Repeat("x", 300))
	var e Event
	e.SetPrivate(src[:56])
	src[0] = 'y'
	if got := e.Private(); len(got) != 56 || got[0] != 'x' {
		t.Errorf("%q", got)
	}
	e.SetPrivate(src)
	if len(e.Private()) != 255 {
		t.Errorf("%d bytes", len(e.Private()))
	}
	e.SetPrivate(nil)
	if len(e.Private()) != 0 {
		t.Errorf("%d bytes of nothing", len(e.Private()))
	}
}

// The numbers are the libraries'; their names must not slip by one.
func TestNames(t *testing.T) {
	for _, tc := range []struct {
		v    fmt.Stringer
		want string
	}{
		{StatusOK, "success"}, {StatusFlushed, "flushed"}, {StatusRemoteAccess, "remote access error"}, {StatusRNRRetryExceeded, "RNR retries exceeded"},
		{StatusGeneral, "general error"}, {Status(99), "status 99"},
		{EventConnectRequest, "CONNECT_REQUEST"}, {EventTimewaitExit, "TIMEWAIT_EXIT"}, {EventType(99), "event 99"},
		{AsyncCommEst, "communication established"}, {AsyncDeviceFatal, "device fatal"}, {AsyncLastWQE, "last WQE reached"}, {AsyncGIDChange, "GID change"},
		{OpSendInv, "SEND_WITH_INV"}, {WCRecv, "RECV"}, {QPReadyToSend, "RTS"}, {QPError, "ERR"}, {PortActive, "active"},
		{LinkEthernet, "Ethernet"}, {TransportIWARP, "iWARP"},
	} {
		if got := tc.v.String(); got != tc.want {
			t.Errorf("%T %[1]d is called %q, want %q", tc.v, got, tc.want)
		}
	}
	if got := GUIDString(0x0002c90300a1b2c3); got != "0002:c903:00a1:b2c3" {
		t.Error(got)
	}
}
