//go:build simbugs

package plant

// Enabled tells whether bugs are compiled in.
const Enabled = true

var planted Bug

// On tells whether bug b is planted.
func On(b Bug) bool { return b == planted }

// Set plants bug b in place of the one before it.
func Set(b Bug) { planted = b }
