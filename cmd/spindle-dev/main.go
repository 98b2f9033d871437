// Command spindle-dev is the developer's side of the Makefile: it runs the
// stages of the tests, counts what they say, and ends with one line of totals.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: spindle-dev COMMAND
  test [STAGE...]                  run the stages named, or all of them
  fuzz [-time D] [PATTERN]         run each fuzz target whose name matches
  conformance [-form NAME] [-url URL] [-write]
                                   iscsi-test-cu against forms of our LUNs, or another's
  rig [-target spindle|tgt] JOB    a job of scripts/rig in the QEMU guest
  bench-rig [-into PAGE] [-flags FLAGS]
                                   targets side by side over TCP and iSER, in that guest
  oracle stgt|lio                  the dialogues against STGT, or against LIO in that guest
  sim [ARG...]                     the simulator
  abuse [-time D]                  misuse a target for D, beside a verified stream
  cover [-profile FILE | -from FILE]
                                   coverage of iscsi and scsi, and what is missing
  docs                             check the documents' links
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "spindle-dev:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Print(usage)
		return nil
	}
	commands := map[string]func(context.Context, []string) error{
		"test": runTest, "fuzz": runFuzz, "conformance": runConformance, "rig": runRig, "bench-rig": runBenchRig, "sim": runSim, "docs": runDocs, "cover": runCover, "abuse": runAbuse, "oracle": runOracle,
	}
	cmd, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("no command %q\n%s", args[0], usage)
	}
	return cmd(ctx, args[1:])
}
