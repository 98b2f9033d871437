package iscsi_test

import (
	"bytes"
	"fmt"
	"testing"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor/ring/simring"
)

// liveBlocks is what the READs of these tests ask for: more than the socket takes.
const liveBlocks = 24

// living is a target whose sockets take little, an initiator and another, who has
// written data for it.
func living(t *testing.T, buffer int, o *iscsi.Options, kv ...string) (g *iscsitest.Target, c, other *iscsitest.Conn, data []byte) {
	t.Helper()
	g = iscsitest.New(t, iscsitest.Options{Engine: o, World: simring.Config{SocketBuffer: buffer}})
	c = g.Dial().Login(kv...)
	attention(t, c, atPowerOn)
	other = g.Dial()
	other.ISID[5]++
	other.Login()
	attention(t, other, atPowerOn)
	data = pattern(liveBlocks*512, 0x31)
	overwrite(t, other, data)
	return g, c, other, data
}

func overwrite(t *testing.T, c *iscsitest.Conn, data []byte) {
	t.Helper()
	good(t, c, sent(c, c.Command(1, pdu.FlagWrite, uint32(len(data)), iscsitest.Write10(7, liveBlocks)...)), data)
}

// TestLiveReadKeepsItsData: what a socket did not take of a READ is what it was,
// whatever is written meanwhile, and however its data is cut into PDUs and
// messages. Data that may be needed later than the turn is copied before.
func TestLiveReadKeepsItsData(t *testing.T) {
	plain := iscsi.Defaults()
	for _, tc := range []struct {
		name string
		o    *iscsi.Options
		kv   []string
		live bool
	}{
		{"one PDU", &plain, nil, true},
		{"PDUs of a block", &plain, []string{"MaxRecvDataSegmentLength=512"}, true},
		{"PDUs of odd lengths", &plain, []string{"MaxRecvDataSegmentLength=1021"}, true},
		{"header digest", &plain, []string{"HeaderDigest=CRC32C"}, true},
		{"data digest", &plain, []string{"DataDigest=CRC32C"}, false},
		{"recovery", level(1), []string{"ErrorRecoveryLevel=1"}, false},
	} {
		for _, buffer := range []int{700, 2048, 2048 + 512, 9000} {
			t.Run(fmt.Sprintf("%s/%d", tc.name, buffer), func(t *testing.T) {
				g, c, other, data := living(t, buffer, tc.o, tc.kv...)
				var itts []uint32
				for range 3 { // the last finds the socket full
					b := c.Command(1, pdu.FlagRead, liveBlocks*512, iscsitest.Read10(7, liveBlocks)...)
					itts = append(itts, sent(c, b))
				}
				g.Settle()
				overwrite(t, other, pattern(len(data), 0xa6))
				for i, itt := range itts {
					if r := good(t, c, itt, nil); !bytes.Equal(r.Data, data) {
						t.Fatalf("READ %d has changed", i)
					}
				}
				sends, copies := g.TCP.Stats.LiveSends.Load(), g.TCP.Stats.LiveCopies.Load()
				if tc.live != (sends > 0) || tc.live != (copies > 0) {
					t.Errorf("%d messages from the medium, %d with copies", sends, copies)
				}
				alive(t, c)
			})
		}
	}
}

// TestLiveReadIsWhole: what a socket takes at once needs no copy.
func TestLiveReadIsWhole(t *testing.T) {
	g, c, _, data := living(t, 64<<10, nil)
	r := c.Do(c.Command(1, pdu.FlagRead, uint32(len(data)), iscsitest.Read10(7, liveBlocks)...), nil, 0)
	if !bytes.Equal(r.Data, data) {
		t.Error("other data than was written")
	}
	if sends, copies := g.TCP.Stats.LiveSends.Load(), g.TCP.Stats.LiveCopies.Load(); sends == 0 || copies != 0 {
		t.Errorf("%d messages from the medium, %d with copies", sends, copies)
	}
}

// TestLiveReadOutlivesItsUnit: a unit goes, and its memory with it, although an
// initiator has not read what it asked for; it finds that all the same.
func TestLiveReadOutlivesItsUnit(t *testing.T) {
	g, c, _, data := living(t, 2048, nil)
	itt := sent(c, c.Command(1, pdu.FlagRead, uint32(len(data)), iscsitest.Read10(7, liveBlocks)...))
	g.Settle()
	if err := g.Engine.RemoveLUN(g, iscsitest.Node, 1); err != nil {
		t.Fatal(err)
	}
	if err := g.LUNs[1].Bdev.Close(); err != nil {
		t.Fatal(err)
	}
	if r := good(t, c, itt, nil); !bytes.Equal(r.Data, data) {
		t.Error("the READ has changed")
	}
}
