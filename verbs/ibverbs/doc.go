// Package ibverbs is verbs over the machine's RDMA libraries, libibverbs and
// librdmacm. They are loaded when Open is called, so that one binary starts on
// machines without them and Open says what is missing. Neither their headers
// nor they themselves are needed to build: abi.h declares the part of their
// binary interface that is used here, which has been the same since 2005, and a
// test compares it with the headers where those are installed. Without cgo the
// package is a stub whose Open returns verbs.ErrNotBuilt.
//
// Threading: as package verbs says. Control calls of one Provider are made one
// at a time. Post, Poll and Arm are one call into C each, which does not call
// back, and find their queues in a table of handles that control calls fill.
// Memory: what C allocates is freed by Close and Destroy; requests and
// completions stay in the caller's memory.
package ibverbs
