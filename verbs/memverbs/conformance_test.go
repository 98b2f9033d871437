package memverbs

import (
	"net/netip"
	"testing"
	"time"

	"spindle/verbs/verbstest"
)

var (
	targetAddr = netip.MustParseAddr("198.18.0.1")
	peerAddr   = netip.MustParseAddr("198.18.0.2")

	targetAddr6 = netip.MustParseAddr("2001:db8::1")
	peerAddr6   = netip.MustParseAddr("2001:db8::2")
)

func pair(c Config) (*World, *Node, *Node) {
	w := New(c)
	target, peer := w.NewNode(), w.NewNode()
	target.AddDevice("mem0", targetAddr, targetAddr6)
	peer.AddDevice("mem1", peerAddr, peerAddr6)
	return w, target, peer
}

func TestConformance(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config Config
		addr   netip.Addr
	}{
		{"stepped", Config{RNRTimer: 2 * time.Millisecond}, targetAddr},
		{"IPv6", Config{RNRTimer: 2 * time.Millisecond}, targetAddr6},
		{"immediate", Config{RNRTimer: 2 * time.Millisecond, Immediate: true}, targetAddr},
		{"faults that nobody may notice", Config{RNRTimer: 200 * time.Microsecond, Faults: Faults{Delay: 0.3, LateRead: 0.5, ShortPoll: 0.5, EventDelay: 0.3, EarlyReceive: 0.5}}, targetAddr},
	} {
		t.Run(tc.name, func(t *testing.T) {
			verbstest.Run(t, func(t *testing.T) *verbstest.Pair {
				w, target, peer := pair(tc.config)
				return &verbstest.Pair{
					Target: target, Peer: peer, Device: "mem0", Addr: tc.addr, Invalidates: true,
					Step: func() { w.Advance(100 * time.Microsecond) }, Patience: 1000,
					Remove:  func() { target.RemoveDevice("mem0") },
					Removed: func() bool { return target.Removing() == 0 },
					Add:     func() { target.AddDevice("mem0", targetAddr, targetAddr6) },
					Settled: func(t *testing.T) {
						if target.Live() != (Live{}) || peer.Live() != (Live{}) {
							t.Errorf("left over: target %+v, peer %+v", target.Live(), peer.Live())
						}
					},
				}
			})
		})
	}
}
