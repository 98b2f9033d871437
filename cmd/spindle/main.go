// Command spindle is the target: it serves disks, and is the client of its own
// RPC socket. "spindle help" says how.
//
// Threading: see internal/daemon. Memory: see internal/daemon.
package main

import (
	"os"

	"spindle/cmd/spindle/internal/cli"
)

func main() {
	os.Exit(cli.Run(os.Args[1:], os.Stdout, os.Stderr))
}
