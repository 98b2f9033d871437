//go:build simbugs

package plant

import "os"

// Enabled tells whether bugs are compiled in.
const Enabled = true

// planted is the bug that the environment names, until one is set: of a whole
// target that a test runs as a process.
var planted = environment()

func environment() Bug {
	name := os.Getenv("SPINDLE_PLANT")
	b, ok := Find(name)
	if name != "" && !ok {
		panic("SPINDLE_PLANT: no bug " + name)
	}
	return b
}

// On tells whether bug b is planted.
func On(b Bug) bool { return b == planted }

// Set plants bug b in place of the one before it.
func Set(b Bug) { planted = b }
