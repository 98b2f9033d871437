package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"spindle/bench/counters"
	"spindle/bench/load"
	"spindle/bench/peer"
	"spindle/internal/invariants"
	"spindle/internal/sys"
)

const (
	steppedTurns = 4
	stepLimit    = 600_000
	settleTime   = 20 * time.Millisecond  // for the initiator to answer a batch
	publishTime  = 250 * time.Millisecond // for its count to be seen
	stepAttempts = 6
)

// TestTargetInstructionsPerIO holds what the target executes for an I/O, outside
// of the kernel, to a number: a change that adds to the path of every command is
// seen here, whatever the machine is doing. Whoever makes the path shorter
// lowers the number, to some 100 above what it is: a processor's choice of copy
// loops and a patch of the Go release move it by ten or twenty.
func TestTargetInstructionsPerIO(t *testing.T) {
	if invariants.Enabled {
		t.Skip("the race detector adds instructions of its own")
	}
	target := start(t, "GODEBUG=asyncpreemptoff=1")
	tid := reactorThread(t, target.Control)
	for _, g := range []struct {
		name, lun, rw string
		size          uint32
		depth, most   int
	}{
		{"null read 4K", peer.Null, "randread", 4096, 32, 1900},
		{"memory write 4K", peer.RAM, "randwrite", 4096, 32, 2900},
	} {
		t.Run(g.name, func(t *testing.T) {
			o := options(t, target.URLs[g.lun], g.rw, g.size, g.depth)
			best := 1 << 30
			for range stepAttempts {
				n, err := perIO(t, o, target.PID, tid)
				if errors.Is(err, sys.ErrStuck) {
					t.Log(err)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				best = min(best, n)
				if best <= g.most {
					t.Logf("%d instructions per I/O, at most %d", best, g.most)
					return
				}
			}
			t.Errorf("%d instructions per I/O, at most %d", best, g.most)
		})
	}
}

// perIO loads the target and steps through some turns of its reactor.
func perIO(t *testing.T, o load.Options, pid, tid int) (int, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun, ended := make(chan struct{}), make(chan error, 1)
	o.Progress, o.Runtime, o.Ramp = &load.Progress{}, time.Minute, 0
	o.Window = func(begins bool) {
		if begins {
			close(begun)
		}
	}
	go func() {
		_, err := load.Run(ctx, o)
		ended <- err
	}()
	select {
	case <-begun:
	case err := <-ended:
		t.Fatal(err)
	}
	time.Sleep(publishTime)
	var ios [2]uint64
	n, err := counters.Instructions(pid, tid, sys.CallUringEnter, steppedTurns, stepLimit, func(turn int) {
		switch turn {
		case 0:
			ios[0] = settled(o.Progress)
		case steppedTurns:
			ios[1] = settled(o.Progress)
		default:
			time.Sleep(settleTime)
		}
	})
	if errors.Is(err, sys.ErrTrace) {
		cancel()
		<-ended
		t.Skip(err)
	}
	cancel()
	if err := errors.Join(err, <-ended); err != nil {
		return 0, err
	}
	if ios[1] == ios[0] {
		return 0, fmt.Errorf("no I/O in %d instructions", n)
	}
	t.Logf("%d instructions, %d I/Os, %d turns", n, ios[1]-ios[0], steppedTurns)
	return n / int(ios[1]-ios[0]), nil
}

// settled returns how many I/Os there have been, once no more come. The target
// stands still, but on a busy machine its last answers take a while to be counted.
func settled(p *load.Progress) uint64 {
	for last := uint64(0); ; {
		time.Sleep(publishTime)
		n, _ := p.Load()
		if n == last {
			return n
		}
		last = n
	}
}

// reactorThread asks the target for its first reactor's thread.
func reactorThread(t *testing.T, socket string) int {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, `{"jsonrpc":"2.0","method":"framework_get_reactors","id":1}`); err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Result struct{ Reactors []struct{ TID int } }
	}
	if err := json.NewDecoder(c).Decode(&answer); err != nil || len(answer.Result.Reactors) == 0 {
		t.Fatalf("%+v, %v", answer, err)
	}
	return answer.Result.Reactors[0].TID
}
