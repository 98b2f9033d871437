// Package clients is tests only: a built target, from the outside, with the
// initiators that people use (libiscsi, QEMU) and with what else comes to an
// open port. `make clients` builds the target and runs them.
//
// Threading: each test has a target of its own. Memory: none; there is nothing
// here but tests.
package clients
