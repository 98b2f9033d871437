// Package reactor is the per-core poll loop: one locked thread that reaps
// completions, runs messages, timers and pollers, and flushes, with every
// kernel operation batched through its ring.
//
// In production, cmd makes for each core an arena on the core's NUMA node, then
// a Reactor with Config.NewRing, and calls Start: the thread is locked and
// pinned, the ring is made on it, and the loop runs until Stop; Wait returns
// when it has ended. The simulator gives Config.Ring and calls
// Turn(Until(work)) itself: the same loop on another ring.
//
// Threading: everything of a Reactor belongs to its own thread except Post,
// Stats and the fields documented otherwise. Reactors share nothing but
// messages.
// Memory: messages, timers, pollers and flush nodes are intrusive nodes
// embedded in their Go-heap owner; the loop allocates nothing.
package reactor
