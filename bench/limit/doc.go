// Package limit is a canned responder: it logs initiators in, answers reads from
// memory and takes writes, and does nothing else a target does. What it reaches
// is what the machine, the kernel's TCP and the initiator allow; real targets
// are measured against that.
//
// LUN 0 answers every read with the same bytes and forgets writes; LUN 1 has
// memory of its size. There are no digests, no errors but one, no task
// management: it is for measuring, never for data to keep.
//
// Threading: Serve works on the calling goroutine's thread alone, polls, and
// sleeps after a while without work. Memory: an arena for all connections, made
// at the start; an I/O allocates nothing.
package limit
