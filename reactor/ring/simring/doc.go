// Package simring is the kernel edge of the simulator: a World plays the
// kernel (byte-stream network, disks, descriptors) and hands every reactor a
// Ring, all driven from one goroutine by a seed and a manual clock, with each
// fault that a real io_uring, network or disk shows switched on by probability.
//
// Nothing happens by itself. Operations, deliveries and failures are pending
// events; a scheduler runs them one at a time (Step, Run) or in order of time
// (Advance). With Config.Immediate they run as soon as they are made, which is
// the plain fast mode: no latency and, once warm, no heap allocation.
//
// A reactor's loop runs on a Thread, a coroutine that an Enter which sleeps
// suspends, so that a lost wake-up shows: the Thread never becomes Runnable.
// Simple tests may call Turn directly; then a sleeping Enter returns at once.
//
// Threading: a World and everything made from it belong to one goroutine. The
// same seed and the same calls give the same run, whose fingerprint is
// World.TraceHash.
// Memory: buffers and Msgs given to a Ring are read or written when the event
// of their operation runs, not when it was prepared, so that a buffer freed too
// early is seen on the wire. Provided buffers come from the reactor's arena and
// go back on Close.
package simring
