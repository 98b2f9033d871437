// Package rpc is the JSON-RPC 2.0 face of control: one table of methods, with
// SPDK's names, parameters and error codes, served over a Unix socket.
//
// The table (Methods) is the only description of a method. Decoding and
// checking of parameters, rpc_get_methods, the help of "spindle rpc",
// docs/rpc.md and the shell completion are all made from it.
//
// Framing, as SPDK's clients rely on it: a stream of JSON values with no
// delimiter between requests; a response is one line. A malformed value closes
// the connection without an answer, because a stream has no point to go on
// from. A batch is an array, answered by an array.
//
// Threading: one goroutine for each connection, one for the listener; requests
// of a connection run in order, except those marked Async. Handlers call
// control, which serialises changes.
// Memory: a connection holds at most MaxRequest bytes of a request.
package rpc

import "time"

// Limits, SPDK's.
const (
	MaxRequest     = 256 << 10 // bytes of one request, white space before it included
	MaxDepth       = 64        // nesting of arrays and objects
	MaxValues      = 8192      // values in one request, counting names and ends
	MaxConnections = 64
)

// Limits that SPDK has not, or not so.
const (
	MaxWaiting     = 64               // requests of a connection that wait for something
	MaxBatchAnswer = 32 << 20         // bytes of the answers of a batch; what goes beyond is an error
	SendTimeout    = 30 * time.Second // for a client to take an answer
)
