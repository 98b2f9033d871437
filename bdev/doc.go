// Package bdev is the block layer: the Device/Channel contract that modules
// implement (one folder a module), and the Bdev that users of a device open:
// identity, claims, statistics, histograms and QoS around any Device.
//
// A Bdev checks LBA ranges and ends empty I/O itself, so a module may trust
// what it is given. It adds one frame to an I/O and, per I/O, counts in plain
// memory; what it counted is published once a turn for other threads to read.
// Limits, a removal, or I/O that still waits take Submit off this short path.
//
// A stacked device is a Device over another (Stacked keeps its Info in step). It
// pushes itself on the I/O before it submits it to its base and pops itself
// when Submit returns a final status, or in IODone. It forwards Abort for what
// it does not hold itself, and Release always.
//
// Threading: a Device is shared by all reactors and immutable but for what its
// module says; a Channel belongs to the reactor it was opened on and is
// submitted to, and completes, only there.
// Memory: an IO and its Data belong to whoever submitted it again once it has
// a final status; until then the device owns them.
package bdev
