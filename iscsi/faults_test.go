package iscsi_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/reactor/ring/simring"
)

// seeds is how many runs of each kind a test makes.
func seeds() int {
	if testing.Short() {
		return 20
	}
	return 200
}

// TestLosslessFaults reads and writes under every fault that a correct program
// hides: cut and late delivery, short sends, full queues, lost multishots,
// interrupted and overflowing rings.
func TestLosslessFaults(t *testing.T) {
	shapes := [][]string{
		{"InitialR2T=Yes", "ImmediateData=No", "MaxBurstLength=8192"},
		{"InitialR2T=No", "FirstBurstLength=8192"},
		{"HeaderDigest=CRC32C", "DataDigest=CRC32C", "MaxOutstandingR2T=4", "MaxBurstLength=4096", "FirstBurstLength=4096"},
		{"MaxRecvDataSegmentLength=512"},
	}
	for seed := range seeds() {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{
				Seed: uint64(seed), Delayed: true, Reactors: 1 + seed%2, Memory: 12 << 20,
				World: simring.Config{Faults: simring.AllFaults().Lossless(), Stall: 10 * time.Millisecond},
			})
			c := g.Dial().Login(shapes[seed%len(shapes)]...)
			ready(t, c, 1)
			for round := range 3 {
				data := pattern(32768, byte(seed+round))
				b := c.Command(1, pdu.FlagWrite, 32768, iscsitest.Write10(uint32(round), 64)...)
				immediate := 4096
				if c.Answered["ImmediateData"] == "No" {
					immediate = 0
				}
				c.Send(b, nil, data[:immediate])
				good(t, c, b.ITT(), data)
				read := sent(c, c.Command(1, pdu.FlagRead, 32768, iscsitest.Read10(uint32(round), 64)...))
				if r := good(t, c, read, nil); !bytes.Equal(r.Data, data) {
					t.Fatal("data differs")
				}
				ping(t, c)
			}
			c.Send(c.Request(pdu.LogoutReq, pdu.FlagFinal), nil, nil)
			c.Expect(pdu.LogoutResp)
			c.ExpectClosed()
		})
		if !ok {
			return
		}
	}
}

// TestLossyFaults lets connections break anywhere; whatever was going on,
// nothing is left of it, and the next session works.
func TestLossyFaults(t *testing.T) {
	faults := simring.AllFaults()
	faults.Reset, faults.HalfClose = 0.01, 0.005
	for seed := range seeds() {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := iscsitest.New(t, iscsitest.Options{
				Seed: uint64(seed), Delayed: true, Reactors: 1 + seed%3, Memory: 12 << 20,
				World:  simring.Config{Faults: faults, Stall: 10 * time.Millisecond},
				Engine: options(func(o *iscsi.Options) { o.LoginTimeout, o.NopInInterval, o.NopTimeout = 2, 2, 2 }),
			})
			for range 3 {
				c := g.Dial()
				for w := dialogue(c); len(w) > 0 && c.Peer.Err() == nil && !c.Peer.WriteClosed(); {
					w = w[c.Peer.Write(w):]
					c.TryRecv()
					g.Turn()
				}
				for range 300 {
					c.TryRecv()
					g.Turn()
				}
				if seed%2 == 0 {
					c.Peer.Close()
				}
			}
			g.World.Faults = simring.Faults{}
			g.Advance(10 * time.Second)
			c := dialAs(g, 99).Login()
			ready(t, c, 1)
			alive(t, c)
		})
		if !ok {
			return
		}
	}
}
