// Package testbed starts a built spindle on a free loopback port, as a process
// of its own, for the tools and tests that treat it as an initiator would.
//
// Threading: a Target is one goroutine's. Memory: a Target's files live in a
// folder of its own, which Stop removes.
package testbed
