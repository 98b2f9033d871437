// Package wire is what both ends of a measurement share below the protocol: a
// ring of their own with its memory, and a sender that batches.
//
// Threading: everything belongs to the one locked thread that made it.
// Memory: an arena outside the Go heap, as large as was asked for at the start;
// nothing is allocated afterwards.
package wire
