// Package counters tells what a target costs while it is loaded: context
// switches, CPU time, wake-ups and system calls of its threads, from eBPF
// programs at the scheduler's tracepoints, or from /proc where the system does
// not permit those. It looks from outside, so every target is counted alike.
//
// Threading: a Meter may be read from any goroutine, one at a time. Memory: the
// programs count in a per-CPU map of one entry.
package counters
