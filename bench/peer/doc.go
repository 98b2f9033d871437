// Package peer starts iSCSI targets to be measured side by side, each with the
// same two logical units: one that answers at once and stores nothing, and one in
// memory, of the same size. It finds what is installed and says what is not, and
// how to get it.
//
// Threading: any goroutine; starting one blocks it. Memory: none held.
package peer
