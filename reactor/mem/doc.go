// Package mem is the memory of the data path: regions of huge pages outside
// the Go heap, arenas that carve them into power-of-two size classes, and Ref,
// the value by which everything else names a span of them.
//
// Threading: an Arena belongs to one reactor and only that reactor allocates
// from it or frees to it; a Space is safe from any thread.
// Memory: a Region is never unmapped while the process lives (a deleted one is
// emptied and made inaccessible), because a NIC, the kernel or a late
// completion may still hold an address in it.
package mem
