// Package verbstest is the conformance suite of verbs.Provider: what every
// implementation has to do, in terms of the interface alone.
//
// Threading: a test runs on one goroutine, which is control thread and reactor.
// Memory: each test maps a region of its own.
package verbstest
