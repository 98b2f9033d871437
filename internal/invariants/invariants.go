// Package invariants holds assertions that are compiled in by the build tag
// "invariants" or under the race detector, and cost nothing otherwise.
//
// Threading: stateless. Memory: Mangle writes to memory its caller still owns.
package invariants

// Check panics with msg when ok is false and invariants are compiled in.
// Cheap conditions only: the argument is evaluated in every build.
func Check(ok bool, msg string) {
	if Enabled && !ok {
		panic("invariant: " + msg)
	}
}

// Mangle fills b with 0xCC in invariant builds, so that a byte used after its
// buffer was returned is recognisable on the wire (trust class "buffer bleed").
// It is not race-instrumented: b is off-heap memory, which the detector does
// not follow, and blocks are large.
//
//go:norace
func Mangle(b []byte) {
	if !Enabled || len(b) == 0 {
		return
	}
	b[0] = 0xCC
	for n := 1; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}
