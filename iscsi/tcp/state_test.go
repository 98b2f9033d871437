package tcp_test

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iscsi/tcp"
	"spindle/reactor"
	"spindle/reactor/ring"
)

// stateBlocks are what one READ may have sent from the medium, and more than the
// sockets take while the peer does not read.
const stateBlocks = tcp.MaxLiveBytes / 512

// state is what every 8 bytes of a block hold that was written the nth time.
func state(n int) func(lba int) uint64 {
	return func(lba int) uint64 { return uint64(lba)<<32 | uint64(n) }
}

// TestReadIsOneState: a peer that does not read gets what the blocks held when its
// READ ran, although they are on the medium still when others write to it.
func TestReadIsOneState(t *testing.T) {
	plain := iscsitest.Write10(0, stateBlocks)
	atomic := make([]byte, 16) // WRITE ATOMIC (16)
	atomic[0] = 0x9c
	binary.BigEndian.PutUint16(atomic[12:], stateBlocks)
	for _, tc := range []struct {
		name     string
		reactors int
		write    []byte
		beside   bool // READ and write may run at a time
		unit     int  // blocks that are one state together
	}{
		{"written afterwards", 1, plain, false, stateBlocks},
		{"written afterwards by another reactor", 2, plain, false, stateBlocks},
		{"written meanwhile", 1, plain, true, 1},
		{"written meanwhile by another reactor, atomically", 2, atomic, true, stateBlocks},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, transport, addr := served(t, tc.reactors, tcp.Options{Listen: ring.ListenOptions{SendBuffer: 64 << 10}})
			reader, writer := dialSlow(t, addr, tcp.MaxRecvData), dialSlow(t, addr, tcp.MaxRecvData)
			turns := func() { // those that were begun are over
				l := e.Connections(reactor.Blocking{})
				if len(l) != 2 || (l[0].Reactor != l[1].Reactor) != (tc.reactors == 2) {
					t.Fatalf("%+v", l)
				}
			}
			turns()
			writer.write(plain, filled(0, stateBlocks, state(0)), nil)
			got := make([]byte, tcp.MaxLiveBytes)
			const rounds = 50
			for n := range rounds {
				next := filled(0, stateBlocks, state(n+1))
				read := func() {
					reader.command(3, pdu.FlagRead, len(got), nil, iscsitest.Read10(0, stateBlocks)...)
					for began := time.Now(); tc.beside && time.Since(began) < time.Duration(n%10)*20*time.Microsecond; { // they meet anywhere
					}
				}
				last := n
				var h pdu.BHS
				if tc.beside {
					writer.write(tc.write, next, read)
					h = reader.header()
					last++
				} else {
					read()
					h = reader.header()
					turns()
					writer.write(tc.write, next, nil)
				}
				for ; ; h = reader.header() {
					if h.Opcode() != pdu.DataIn {
						t.Fatalf("% x", []byte(h))
					}
					reader.data(h, got[h.Offset():])
					if h.Flags()&pdu.FlagStatus != 0 {
						break
					}
				}
				one(t, got, tc.unit, n, last)
			}
			if n := transport.Stats.LiveCopies.Load(); n < rounds/2 {
				t.Errorf("of %d READs %d were sent in part from the medium", rounds, n)
			}
		})
	}
}

// one fails unless every unit of blocks is one state, the first to the last.
func one(t *testing.T, got []byte, unit, first, last int) {
	t.Helper()
	n := 0
	for i := range len(got) / 512 {
		block := got[i*512:][:512]
		if i%unit == 0 {
			n = int(binary.LittleEndian.Uint32(block))
		}
		if w := binary.LittleEndian.Uint64(block); w != state(n)(i) || n < first || n > last {
			t.Fatalf("block %d is %#x, in a unit of state %d, in a READ of states %d to %d", i, w, n, first, last)
		}
		if !bytes.Equal(block[8:], block[:512-8]) {
			t.Fatalf("block %d is of several states: % x", i, block)
		}
	}
}
