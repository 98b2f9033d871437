//go:build !simbugs

package plant

// Enabled tells whether bugs are compiled in.
const Enabled = false

// On tells whether bug b is planted: no.
func On(Bug) bool { return false }

// Set does nothing.
func Set(Bug) {}
