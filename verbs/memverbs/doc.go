// Package memverbs is RDMA verbs in process: nodes with devices on one fabric,
// whose queue pairs keep the ordering rules of the reliable connected service
// and use every freedom those rules leave. Everything that happens is an event
// of a World, driven by a seed and a manual clock like the simulated ring's, so
// that a run is (seed, code) and a simulator can drive both.
//
// What is kept (IBA 1.4 §9.7, §10.8.3): sends arrive in order; an RDMA WRITE is
// in the peer's memory before the send posted after it completes there; an RDMA
// READ takes the peer's memory whenever it likes, even after later sends have
// arrived; completions come in the order posted; a slot is free again only when
// a completion at or behind it was polled; RDMA READs beyond the depth agreed
// hold up what is behind them; a send without a receive is RNR; an error ends
// the queue pair and flushes everything.
//
// Threading: one goroutine for a World and all that is made of it. Wake
// functions (Source.OnReady) are called from inside its steps and must not call
// back into it.
// Memory: the caller's, at real addresses, checked against its registrations.
// Posting, delivery and polling allocate nothing once a queue pair is made.
package memverbs
