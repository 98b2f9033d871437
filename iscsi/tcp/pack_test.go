package tcp

import (
	"bytes"
	"testing"

	"spindle/internal/sys"
	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// stillRing takes nothing: what the sender prepared can be looked at.
type stillRing struct{ ring.Ring }

func (stillRing) Send(ring.Tag, ring.File, ring.Msg, int) bool { return true }

// sentCount counts the PDUs that have left.
type sentCount int

func (n *sentCount) OutSent(*iscsi.Out) { *n++ }

// newSender makes a connection with memory and nobody at the other end.
func newSender(t *testing.T) (*Conn, *mem.Arena) {
	t.Helper()
	arena, err := mem.NewSpace().NewArena(32<<20, -1)
	if err != nil {
		t.Fatal(err)
	}
	r := reactor.New(reactor.Config{Core: -1, Ring: stillRing{}, Clock: clock.NewMonotonic(), Arena: arena})
	c := &Conn{t: &Transport{}, r: r, stream: true, seq: &iscsi.Sequence{StatSN: 7, Window: &iscsi.Window{ExpCmdSN: 1, MaxCmdSN: 9}, MaxSendData: 64 << 10}}
	c.p.MaxBurst = 256 << 10
	c.flush.To, c.rx.again.To, c.rx.c, c.rx.armed = c, &c.rx, c, true
	c.block, _ = arena.Alloc(blockSize)
	c.tx.msg = ring.Msg{Ref: c.block.Slice(ownSlots*slotSize, blockSize-ownSlots*slotSize)}
	return c, arena
}

// queueReply queues the answer to a READ of n bytes; none is a response alone.
func queueReply(t *testing.T, c *Conn, itt, n uint32, done iscsi.Sent) {
	t.Helper()
	slot, ok := c.r.Arena.Alloc(iscsi.OutSlot)
	if !ok {
		t.Fatal("no memory")
	}
	p := &iscsi.Reply{ITT: itt}
	p.Out.Bind(slot)
	p.Out.Done = done
	if n > 0 {
		p.Data, _ = c.r.Arena.Alloc(n)
		for i, b := 0, p.Data.Bytes(); i < len(b); i++ {
			b[i] = byte(int(itt) + i)
		}
	}
	c.Respond(p)
}

// wire is what the message's vectors hold.
func wire(c *Conn) []byte {
	var b []byte
	for i := range c.tx.vecs {
		addr, n := c.tx.msg.Vec(i)
		b = append(b, sys.Bytes(addr, n)...)
	}
	return b
}

// TestPack: what is packed is what the vectors of each PDU alone would have been.
func TestPack(t *testing.T) {
	many := func(n int, size uint32) (sizes []uint32) {
		for range n {
			sizes = append(sizes, size)
		}
		return sizes
	}
	for _, tc := range []struct {
		name  string
		sizes []uint32
		vecs  int
	}{
		{"one PDU keeps its vectors", []uint32{512}, 2},
		{"a window of small reads", many(128, 512), 1},
		{"responses without data", many(64, 0), 1},
		{"small ones around a large one", []uint32{0, 512, 4096, 4, 0}, 4},
		{"just beyond the break", []uint32{CopyBreak + 4, CopyBreak + 4}, 4},
		{"not a multiple of four", []uint32{8, 511, 8}, 5},
		{"longer than one PDU", []uint32{4, 100 << 10, 4}, 6},
		{"more than the memory holds", many(300, 512), 1 + 2*(300-packSize/560)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var streams [2][]byte
			for i, packs := range []bool{true, false} {
				c, arena := newSender(t)
				var left sentCount
				for j, n := range tc.sizes {
					queueReply(t, c, uint32(j), n, &left)
				}
				before := arena.Stats().InUse
				if packs {
					c.Flush()
				} else {
					full := c.tx.head.Next
					c.tx.head.Next = nil // gather takes one at a time
					for c.tx.head != nil {
						o := full
						c.gather()
						streams[i] = append(streams[i], wire(c)...)
						if o == nil {
							break
						}
						full, o.Next = o.Next, nil
						c.tx.head, c.tx.tail = o, o
					}
					continue
				}
				streams[i] = wire(c)
				if c.tx.vecs != tc.vecs {
					t.Errorf("%d vectors, want %d", c.tx.vecs, tc.vecs)
				}
				if int(c.tx.left) != len(streams[i]) {
					t.Errorf("left says %d bytes, the vectors %d", c.tx.left, len(streams[i]))
				}
				c.sent(int32(c.tx.left))
				if got := arena.Stats().InUse; got != before {
					t.Errorf("%d bytes in use after the message, %d before", got, before)
				}
				if int(left) != len(tc.sizes) {
					t.Errorf("%d of %d PDUs have left", left, len(tc.sizes))
				}
			}
			if !bytes.Equal(streams[0], streams[1]) {
				t.Errorf("packed: %d bytes, alone: %d bytes, or other ones", len(streams[0]), len(streams[1]))
			}
		})
	}
}

// TestPackShortSend: a send that ends anywhere in the packed bytes goes on there.
func TestPackShortSend(t *testing.T) {
	const pdus = 5
	whole := pdus * (pdu.HeaderLen + 512)
	for cut := 1; cut < whole; cut += 37 {
		c, _ := newSender(t)
		var left sentCount
		for i := range pdus {
			queueReply(t, c, uint32(i), 512, &left)
		}
		c.Flush()
		want := wire(c)
		c.sent(int32(cut))
		if left != 0 {
			t.Fatalf("cut at %d: %d PDUs are called sent", cut, left)
		}
		if !bytes.Equal(wire(c), want[cut:]) {
			t.Fatalf("cut at %d: the rest differs", cut)
		}
	}
}

// TestPackNoMemory: without memory to pack in, PDUs leave as their own vectors.
func TestPackNoMemory(t *testing.T) {
	c, arena := newSender(t)
	var left sentCount
	for i := range 4 {
		queueReply(t, c, uint32(i), 512, &left)
	}
	for {
		if _, ok := arena.Alloc(packSize); !ok {
			break
		}
	}
	c.Flush()
	if c.tx.vecs != 8 {
		t.Errorf("%d vectors, want 8", c.tx.vecs)
	}
}

// TestPackDigests: with digests a large PDU has two vectors as well, and what
// leaves is the same as without memory to pack in.
func TestPackDigests(t *testing.T) {
	const pdus = 5
	var streams [2][]byte
	for i, want := range []int{2*pdus + 1, 3 * pdus} {
		c, arena := newSender(t)
		c.p.HeaderDigest, c.p.DataDigest, c.careful = true, true, true
		var left sentCount
		for j := range pdus {
			queueReply(t, c, uint32(j), 4096-uint32(j), &left)
		}
		for i == 1 {
			if _, ok := arena.Alloc(packSize); !ok {
				break
			}
		}
		c.Flush()
		if c.tx.vecs != want {
			t.Errorf("%d vectors, want %d", c.tx.vecs, want)
		}
		streams[i] = wire(c)
	}
	if !bytes.Equal(streams[0], streams[1]) {
		t.Error("packed, other bytes leave")
	}
	for b := streams[0]; len(b) > 0; {
		h := pdu.BHS(b[:pdu.HeaderLen])
		n := pdu.HeaderLen + pdu.DigestLen + pdu.Padded(h.DataLen())
		if pdu.GetDigest(b[pdu.HeaderLen:]) != pdu.Digest(h) || pdu.GetDigest(b[n:]) != pdu.Digest(b[pdu.HeaderLen+pdu.DigestLen:n]) {
			t.Fatalf("PDU %d: a digest is wrong", h.ITT())
		}
		b = b[n+pdu.DigestLen:]
	}
}
