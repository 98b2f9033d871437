// Package control is the configuration of a running target as objects: bdevs,
// portal groups, initiator groups, target nodes and options. Each change is one
// transaction: it is checked, applied to the engine and the modules, and only
// then visible; one that fails leaves nothing behind. Each object can tell the
// RPC call that makes it again, which is how a configuration is saved.
//
// Everything may be changed while I/O runs elsewhere. Deleting what is in use
// drains it: a bdev leaves its LUNs, then the bdevs stacked on it go, then it.
//
// Threading: methods may be called from any goroutine that is allowed to block.
// One mutex lets one transaction run at a time; readers do not wait for it,
// because draining may take long, nor does what a file system may hold up: a bdev
// is built, looked at and closed outside it. What must happen on a reactor goes through
// the Caller that was handed in.
// Memory: objects are ordinary Go values; nothing here touches data buffers.
package control
