package tcp

import "testing"

// TestPays: system calls, the turn's and those for live data, stay one for each
// LiveCost bytes where turns bring that much; where they bring less, none is
// made for live data.
func TestPays(t *testing.T) {
	const turns = 1000
	for _, blocks := range []uint32{1, 11, 23, 24, 32, 512} {
		x := &sender{}
		calls, lent := uint32(turns), 0
		for range turns {
			x.live = blocks * 4096
			if x.pays(LiveCost) {
				calls++
				lent++
			}
		}
		switch {
		case blocks <= 12 && lent != 0, blocks >= 24 && lent != turns:
			t.Errorf("%d blocks a turn: %d of %d turns lend", blocks, lent, turns)
		case blocks == 23 && (lent < turns*8/10 || calls*LiveCost > turns*blocks*4096):
			t.Errorf("23 blocks a turn: %d of %d turns lend, %d calls", lent, turns, calls)
		}
		if x.pays(0); !x.pays(0) {
			t.Error("a call that costs nothing does not pay")
		}
	}
}
