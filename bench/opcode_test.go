package bench

import (
	"testing"
	"time"

	"spindle/bench/load"
	"spindle/bench/peer"
)

const (
	opcodeIOs  = 20_000 // of an opcode in which an allocation of 8 bytes each would start the collector
	opcodeRuns = 12
)

// TestOpcodesCostNothing sends every opcode of the data path over a real ring
// to a LUN in memory, 32 at a time: none may allocate, and each may make as few
// system calls as a read.
func TestOpcodesCostNothing(t *testing.T) {
	// The collector runs whenever the heap has grown by a fiftieth.
	target := start(t, "GODEBUG=gctrace=1", "GOGC=2", "GOMEMLIMIT=off")
	fillRAM(t, target.URLs[peer.RAM])
	for _, name := range load.Opcodes() {
		t.Run(name, func(t *testing.T) {
			o := options(t, target.URLs[peer.RAM], "read", 4096, 32)
			o.Opcode = name
			if name == "compare-and-write" {
				o.Sizes[0].Bytes = 512 // one block, which every disk takes
			}
			collected(t, target, o)
			o.Ramp, o.Runtime = 50*time.Millisecond, 150*time.Millisecond
			fewSyscalls(t, o, target.PID)
		})
	}
}

// collected fails when o cannot run opcodeIOs without the collector. What else
// the process does only adds, so one quiet run will do.
func collected(t *testing.T, target *peer.Running, o load.Options) {
	t.Helper()
	o.Ramp, o.Runtime = 50*time.Millisecond, 300*time.Millisecond
	least, most := 1<<30, uint64(0)
	for range opcodeRuns {
		before, ran := 0, 0
		o.Window = func(begins bool) {
			if begins {
				before = collections(target)
			} else {
				ran = collections(target) - before
			}
		}
		r, err := load.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, r.IOs())
		if r.IOs() < opcodeIOs {
			o.Runtime = min(2*o.Runtime, 4*time.Second)
			continue
		}
		if least = min(least, ran); least == 0 {
			return
		}
	}
	if most < opcodeIOs {
		t.Fatalf("only %d I/Os in a run", most)
	}
	t.Fatalf("the collector ran at least %d times in every run of %d I/Os", least, most)
}

// fillRAM writes a LUN through once.
func fillRAM(t *testing.T, url string) {
	t.Helper()
	o := options(t, url, "write", 256<<10, 4)
	o.Once, o.Ramp, o.Runtime = true, 0, time.Minute
	if _, err := load.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}
