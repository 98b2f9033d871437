// Package uring is the real ring.Ring: io_uring, driven by raw system calls,
// and the real ring.Kernel.
//
// Threading: a Ring is made, used and closed on one locked thread, its
// reactor's (the kernel enforces it: SINGLE_ISSUER); only Wake may be called
// from any thread. Kernel may be called from any thread.
// Memory: provided buffers come from the reactor's arena and go back to it when
// the ring is closed; every address the kernel holds is arena memory or the
// ring's own mapping, never Go's heap or stack.
//
// # Polling and sleeping
//
// With DEFER_TASKRUN nothing of the ring runs behind its thread's back: work
// that is due raises a flag in shared memory. Polling is therefore one load of
// that flag and one of the completion queue's tail, whatever the number of
// connections; the kernel is entered only when there is something to submit or
// to run. The polling entry is a raw system call, which keeps the scheduler
// out; the sleeping one is announced to the scheduler, because a thread that
// blocks with its P would stall every stop-the-world.
//
// # Waking
//
// A read of an event counter is always in flight, or will be with the next
// submission. Wake adds to the counter, which completes the read, which ends
// the sleep; the read's completion stays inside the ring. A Wake between the
// completion and the next read is kept by the counter, so the next read
// completes at once: a wake-up is never lost, only merged with others.
package uring
