// Package sys is the only room that talks to the kernel in its own words: raw
// syscalls, the io_uring ABI, huge pages, affinity and the views over off-heap
// memory that everything above it uses without unsafe.
//
// Threading: functions are safe from any thread unless they say otherwise.
// Memory: nothing here owns memory; callers map, callers unmap.
package sys
