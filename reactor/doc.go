// Package reactor is the per-core poll loop: one locked thread that reaps
// completions, runs messages, timers and pollers, and flushes, with every
// kernel operation batched through its ring.
//
// Threading: everything of a Reactor belongs to its own thread except Post,
// Stats and the fields documented otherwise. Reactors share nothing but
// messages.
// Memory: messages, timers, pollers and flush nodes are intrusive nodes
// embedded in their Go-heap owner; the loop allocates nothing.
package reactor
