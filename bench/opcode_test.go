package bench

import (
	"testing"
	"time"

	"spindle/bench/load"
	"spindle/bench/peer"
)

// TestOpcodesCostNothing sends every opcode of the data path over a real ring
// to a LUN in memory, 32 at a time: none may allocate, and each may make as few
// system calls as a read.
func TestOpcodesCostNothing(t *testing.T) {
	target := start(t)
	fillRAM(t, target.URLs[peer.RAM])
	for _, name := range load.Opcodes() {
		t.Run(name, func(t *testing.T) {
			o := options(t, target.URLs[peer.RAM], "read", 4096, 32)
			o.Opcode = name
			if name == "compare-and-write" {
				o.Sizes[0].Bytes = 512 // one block, which every disk takes
			}
			o.Ramp, o.Runtime = 50*time.Millisecond, 150*time.Millisecond
			fewAllocations(t, o, target)
			fewSyscalls(t, o, target.PID)
		})
	}
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
