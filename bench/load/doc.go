// Package load is an iSCSI initiator that exists to load a target: one polling
// thread, any number of connections, each a session of its own, and a fixed
// number of commands in flight on each. It checks every answer and can verify
// every byte, but recovers from nothing: what should not happen ends the run.
//
// What a session is and does (conn) is apart from how its PDUs travel (link): in a
// stream, over TCP by a ring, or over a queue pair (pair), whose data the target
// moves itself (RFC 7145). The networks below, tcp and fabric, take completions for
// all connections.
//
// Threading: Run locks the calling goroutine to its thread and works on it
// alone; Progress may be read from any thread. Memory: all of it is taken
// before the first I/O, the data path outside the Go heap; an I/O allocates
// nothing, so that what is measured is the target.
package load
