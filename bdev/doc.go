// Package bdev is the block layer: the Device/Channel contract that modules
// implement (one folder a module), and the Bdev that users of a device open:
// identity, claims, statistics, histograms and QoS around any Device.
//
// Threading: a Device is shared by all reactors and immutable but for what its
// module says; a Channel belongs to the reactor it was opened on and is
// submitted to, and completes, only there.
// Memory: an IO and its Data belong to whoever submitted it again once it has
// a final status; until then the device owns them.
package bdev
